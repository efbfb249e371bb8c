"""The command line: train, generate, eval and info.

``python -m gptoss_lib train stories-quick`` carries out what a config file describes; the other commands
need only the folder that it fills. ``python -m gptoss_lib --help`` says more.
"""

import argparse
import json
import math
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path

from gptoss_lib.settings import keep_memory

__all__ = ["ProgressLine", "find_config", "main", "read_config"]

CONFIGS = files("gptoss_lib") / "configs"


class ProgressLine:
    """A logger that keeps one line up to date on a terminal, and writes plain lines anywhere else.

    Args:
        steps: updates in the whole run.
        stream: where to write; standard error by default.
        seconds: the shortest time between two plain lines; validations are always written.
    """

    def __init__(self, steps: int, stream=None, seconds: float = 10.0) -> None:
        self.steps, self.stream, self.seconds = steps, stream or sys.stderr, seconds
        self.live = self.stream.isatty()
        self._first: dict | None = None  # the first record seen, to tell how fast the run is now
        self._val = ""
        self._written = -seconds

    def __call__(self, record: dict) -> None:
        if record["kind"] == "val":
            self._val = f" · val {record['loss']:.3f} ({record['bits_per_byte']:.3f} bits/byte)"
            if not self.live:
                self._line(f"update {record['step']}/{self.steps}{self._val}\n")
            return
        text = f"update {record['step']}/{self.steps} · loss {record.get('nats', record['loss']):.3f}"
        if "max_load" in record:
            text += f" · busiest expert {record['max_load']:.1f}×"
        text += self._pace(record)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self._line("\r" + (text + self._val)[:width].ljust(width))
        elif time.monotonic() - self._written >= self.seconds or record["step"] == self.steps:
            self._line(text + "\n")
            self._written = time.monotonic()

    def close(self) -> None:
        """Leave the live line, so that what follows begins on a line of its own."""
        if self.live and self._first is not None:
            self._line("\n")

    def _pace(self, record: dict) -> str:
        """Return the speed since the first record, and the time that is left at that speed."""
        first, self._first = self._first, self._first or record
        if first is None or record["seconds"] <= first["seconds"]:
            return ""
        seconds = record["seconds"] - first["seconds"]
        speed = (record["tokens"] - first["tokens"]) / seconds
        left = (self.steps - record["step"]) * seconds / (record["step"] - first["step"])
        return f" · {speed:,.0f} tokens/s · {_duration(left)} left"

    def _line(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes}:{seconds:02}"


def packaged_configs() -> list[str]:
    """Return the names of the configs that come with the library."""
    return sorted(
        path.name.removesuffix(".json") for path in CONFIGS.iterdir() if path.name.endswith(".json")
    )


def find_config(name: str) -> Path:
    """Return the file that ``name`` means: a path, or the name of a config that comes with the library.

    Raises:
        FileNotFoundError: if it is neither.
    """
    if Path(name).is_file():
        return Path(name)
    if name in packaged_configs():
        return Path(str(CONFIGS / f"{name}.json"))
    raise FileNotFoundError(
        f"{name!r} is neither a file nor one of the library's configs, {', '.join(packaged_configs())}."
    )


def read_config(name: str, changes: list[str] = ()):
    """Read a run's config and change settings in it.

    Args:
        name: see :func:`find_config`.
        changes: ``"training.steps=100"`` and the like; what follows = is JSON, or else a string.

    Raises:
        FileNotFoundError: if there is no such config.
        ValueError: if the file is not JSON, a change has no =, or a setting does not exist.
    """
    from gptoss_lib.pretraining import RunConfig

    path = find_config(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); correct it.") from error
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change!r} has no '='; write it like training.steps=100.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *parents, last = key.split(".")
        if parents == ["model"] and isinstance(values.get("model", "xs"), str):
            values["model"] = {"preset": values.get("model", "xs")}
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {change!r} reaches into {parent!r}, which is {place!r}.")
        place[last] = value
    return RunConfig.from_dict(values)


def train(arguments: argparse.Namespace) -> None:
    """Carry out a run, or what is left of it, and say how it went."""
    from gptoss_lib.pretraining import peak_memory, pretrain, record_run, run_speed

    run = read_config(arguments.config, arguments.set)
    run_dir = Path(arguments.out or Path("runs") / find_config(arguments.config).stem)
    progress = ProgressLine(run.training.steps)
    print(f"Run folder {run_dir}", file=sys.stderr)
    try:
        model, data, history = pretrain(run, run_dir, [progress])
    except KeyboardInterrupt:
        progress.close()
        raise KeyboardInterrupt(_what_is_safe(run_dir)) from None
    progress.close()
    if arguments.record:
        record_run(arguments.record, run, history)
    memory = peak_memory(run.training.device)  # before the rate is measured, which takes some itself
    speed = run_speed(run, model.config, history)
    tokens = max(record["tokens"] for record in history if record["kind"] == "train")
    _table(
        ("trained", f"{run.training.steps:,} updates, {tokens:,} tokens"),
        *_scores(history[-1]["loss"], history[-1]["bits_per_byte"], data),
        ("speed", f"{speed['tokens_per_second']:,.0f} tokens a second, validation and checkpoints included"),
        (
            "model FLOPs",
            f"{_rate(speed['flops_per_second'])} of the {_rate(speed['matmul_rate'])} of a matrix "
            f"product here: utilization {speed['utilization']:.0%}",
        ),
        ("peak memory", "unknown" if memory is None else f"{memory / 1e6:,.0f} MB"),
    )


def _what_is_safe(run_dir: Path) -> str:
    """Say from where a run that was interrupted goes on."""
    from safetensors import safe_open

    latest = run_dir / "latest.safetensors"
    step = 0
    if latest.exists():
        with safe_open(latest, framework="pt") as file:
            step = json.loads(file.metadata()["training_state"])["step"]
    return f"Stopped. The run is safe up to update {step}; the same command goes on from there."


def generate(arguments: argparse.Namespace) -> None:
    """Print continuations of a prompt."""
    from gptoss_lib.comparison import empty_cache
    from gptoss_lib.generation import stream_text
    from gptoss_lib.model import GPTOSS
    from gptoss_lib.pretraining import load_run

    model, tokenizer, _ = load_run(arguments.run, arguments.checkpoint, arguments.device)
    config = model.config
    context = config.max_position_embeddings if isinstance(model, GPTOSS) else config.n_positions
    room = context - 1 - len(tokenizer.encode(arguments.prompt))  # one for the end-of-text token before it
    if room < 1:
        raise ValueError(f"The prompt fills the context of {context} tokens; shorten it.")
    count = min(arguments.max_tokens, room)
    for number in range(arguments.samples):
        if number:
            print("\n---")
        cache = empty_cache(model, 1, context)
        print(arguments.prompt, end="", flush=True)
        for piece in stream_text(
            model,
            tokenizer,
            arguments.prompt,
            count,
            cache=cache,
            seed=arguments.seed + number,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
        ):
            print(piece, end="", flush=True)
        print()


def evaluate(arguments: argparse.Namespace) -> None:
    """Score the whole validation set."""
    from gptoss_lib.data import bits_per_byte
    from gptoss_lib.pretraining import load_run, prepare_data
    from gptoss_lib.training import evaluate

    model, tokenizer, run = load_run(arguments.run, arguments.checkpoint, arguments.device)
    data = prepare_data(run.data)
    if data.tokenizer.encode_batch([_SAMPLE]) != tokenizer.encode_batch([_SAMPLE]):
        raise ValueError(
            f"The data of {arguments.run} has another tokenizer now; restore the files it was made of."
        )
    nats, tokens = evaluate(
        model, data.val, run.training.batch_size, run.training.seq_len, run.training.precision
    )
    _table(
        ("scored", f"{tokens:,} tokens, {data.val_documents:,} documents"),
        *_scores(nats / tokens, bits_per_byte(nats, data.val_bytes), data),
    )


_SAMPLE = "Once upon a time, 3 children's kites flew over the sea."


def _scores(loss: float, bits: float, data) -> list[tuple[str, str]]:
    rows = [("validation", f"{loss:.4f} nats a token, {bits:.4f} bits a byte")]
    if data.val_floor_nats is not None:
        floor = data.val_floor_nats / len(data.val)
        rows.append(("floor", f"{floor:.4f} nats a token: the grammar itself, {loss - floor:.4f} below"))
    return rows


def info(arguments: argparse.Namespace) -> None:
    """Print what an architecture is and what it costs."""
    from gptoss_lib.config import (
        GPTOSSConfig,
        count_parameters,
        flops_per_token,
        gpt2_parameters,
        kv_cache_bytes,
        weight_bytes,
    )
    from gptoss_lib.pretraining import training_flops

    config, length = _architecture(arguments.name, arguments.set)
    length = arguments.length or length
    if isinstance(config, GPTOSSConfig):
        count = count_parameters(config)
        total, active = count.total, count.active
        attention = f"{config.num_attention_heads} heads over {config.num_key_value_heads} keys, "
        rows = [
            ("layers", f"{config.num_hidden_layers}, width {config.hidden_size}"),
            ("attention", f"{attention}window {config.sliding_window} in {_windows(config)} layers"),
            (
                "experts",
                f"{config.num_local_experts} a layer, {config.num_experts_per_tok} at work, "
                f"width {config.intermediate_size}",
            ),
        ]
        cache = kv_cache_bytes(config, length)
        forward, bf16 = flops_per_token(config, length, mean=True).forward, weight_bytes(config, "bf16")
    else:
        total = gpt2_parameters(
            config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_inner
        )
        active = total - config.n_positions * config.n_embd
        rows = [("layers", f"{config.n_layer}, width {config.n_embd}, {config.n_head} heads")]
        cache, bf16 = 4 * config.n_layer * config.n_embd * length, 2 * total
        forward = training_flops(config, length) / 3
    _table(
        *rows,
        ("vocabulary", f"{config.vocab_size:,}"),
        ("parameters", f"{total:,}, of which {active:,} ({active / total:.0%}) work on a token"),
        ("FLOPs a token", f"{forward:.3g} forward, {3 * forward:.3g} to train, in sequences of {length:,}"),
        ("weights", f"{_bytes(4 * total)} in fp32, {_bytes(bf16)} in bf16"),
        ("to train", f"{_bytes(16 * total)} for weights, gradients and AdamW's moments, without activations"),
        ("KV cache", f"{_bytes(cache)} for {length:,} tokens in bf16"),
    )


def _windows(config) -> str:
    sliding = config.layer_types.count("sliding_attention")
    return f"{sliding} of {config.num_hidden_layers}"


def _architecture(name: str, changes: list[str]):
    """Return the architecture that a run's folder, a preset or a run's config describes, and a length."""
    from gptoss_lib.config import PRESETS, GPTOSSConfig
    from gptoss_lib.pretraining import RunConfig, model_config
    from gptoss_lib.tokenizer import BPETokenizer

    if (Path(name) / "run.json").is_file():
        run = RunConfig.from_json(name)
        vocab_size = BPETokenizer.load(Path(name) / "tokenizer.json").vocab_size
        return model_config(run, vocab_size), run.training.seq_len
    if name in packaged_configs() or Path(name).is_file():
        run = read_config(name, changes)
        vocab_size = run.data.vocab_size if run.data.tokenizer is None else None
        return model_config(run, vocab_size), run.training.seq_len
    if name not in PRESETS:
        raise FileNotFoundError(
            f"{name!r} is neither a run's folder, nor a preset ({', '.join(PRESETS)}), nor a config "
            f"({', '.join(packaged_configs())})."
        )
    config = GPTOSSConfig.preset(name)
    return config, min(config.max_position_embeddings, 4096)


def _scaled(value: float, units: str) -> str:
    """Return a number with the largest unit that keeps it at least 1, as ``1.2 G``."""
    power = 0 if value < 1000 else min(len(units) - 1, int(math.log10(value) // 3))
    return f"{value / 1000**power:.3g} {units[power]}".rstrip()


def _bytes(count: float) -> str:
    return _scaled(count, " kMGT") + "B" if count >= 1000 else f"{count:.0f} B"


def _rate(flops: float) -> str:
    return _scaled(flops, " kMGTP") + "FLOP/s"


def _table(*rows: tuple[str, str]) -> None:
    width = max(len(name) for name, _ in rows) + 2
    for name, text in rows:
        print(f"{name:{width}}{text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gptoss_lib",
        description="Train small GPT-OSS and GPT-2 models, and use them.",
        epilog=f"Configs that come with the library: {', '.join(packaged_configs())}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run_command=run)
        return command

    def add_set(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="change a setting, as training.steps=100 or model.hidden_size=32; may be repeated",
        )

    def add_run(command: argparse.ArgumentParser) -> None:
        command.add_argument("run", metavar="RUN", help="the folder of a run")
        command.add_argument("--checkpoint", choices=("best", "latest"), default="best", help="default: best")
        command.add_argument("--device", default="cpu", help="cpu (the default), cuda, cuda:1, …")

    command = add("train", train, "Carry out a run, or go on with one that was stopped.")
    command.add_argument("config", metavar="CONFIG", help="a JSON file, or the name of one of the library's")
    add_set(command)
    command.add_argument(
        "--out", metavar="DIR", help="the run's folder; default: runs/ and the config's name"
    )
    command.add_argument(
        "--record", metavar="FILE", help="append config, versions, machine and log to a file"
    )

    command = add("generate", generate, "Continue a prompt with the model of a run.")
    add_run(command)
    command.add_argument("--prompt", default="", help="the beginning of the text; default: none")
    command.add_argument("--samples", type=_positive, default=1, help="how many texts; default: 1")
    command.add_argument("--max-tokens", type=_positive, default=400, help="of each text; default: 400")
    command.add_argument("--temperature", type=float, default=1.0, help="0 takes the best token; default: 1")
    command.add_argument("--top-k", type=_positive, help="draw from the k best tokens only")
    command.add_argument(
        "--top-p", type=float, help="draw from the best tokens with this share of probability"
    )
    command.add_argument("--seed", type=int, default=0, help="of the first text; default: 0")

    add_run(add("eval", evaluate, "Score the whole validation set of a run's data."))

    command = add("info", info, "Say how large a model is, and what it costs to run and to train.")
    command.add_argument(
        "name", metavar="RUN|PRESET|CONFIG", help="a run's folder, gpt-oss-20b, stories-quick, …"
    )
    add_set(command)
    command.add_argument(
        "--length", type=_positive, help="tokens in a sequence; default: the run's, or 4,096"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above zero")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 after an error, 130 after Ctrl-C."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run_command(parsed)
    except KeyboardInterrupt as stop:
        print(stop.args[0] if stop.args else "Stopped.", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: Exception) -> str:
    """Return an error's message without the system's number in front."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    keep_memory(large_pages=sys.argv[1:2] == ["generate"])
    sys.exit(main())
