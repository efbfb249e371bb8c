"""A training run that one small file describes, from raw text to a model in a folder of its own.

GPT-2's loss is the cross-entropy alone. Here every layer's router adds a balancing term, and the log
says how evenly the experts work. Everything that decides a run stands in its :class:`RunConfig`.

Built in chapter 16: edit ``notebooks/16_pretraining.py``, not this file.
"""

import dataclasses
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gptoss_lib.config import GPTOSSConfig, RopeScaling, flops_per_token
from gptoss_lib.data import (
    FileSource,
    GrammarSource,
    TinyStoriesSource,
    TokenData,
    prepare,
    story_data,
    train_tokenizer,
)
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.model import GPTOSS
from gptoss_lib.moe import expert_load, load_balancing_loss, router_z_loss
from gptoss_lib.products import product
from gptoss_lib.settings import home
from gptoss_lib.stories import StoryGrammar
from gptoss_lib.tokenizer import BPETokenizer, get_tokenizer
from gptoss_lib.training import MAY_CHANGE, Logger, Trainer, TrainingConfig, load_weights, next_token_loss

__all__ = [
    "DataConfig",
    "RunConfig",
    "build_model",
    "gptoss_loss",
    "load_run",
    "matmul_rate",
    "model_config",
    "peak_memory",
    "prepare_data",
    "pretrain",
    "processor_name",
    "record_run",
    "recorded_runs",
    "run_speed",
    "training_flops",
]


@dataclass(frozen=True)
class DataConfig:
    """Which text a run learns from, and how it becomes tokens.

    Raises:
        ValueError: if a value makes no sense.
    """

    source: str = "stories"  # "stories" (the grammar), "tinystories" or "files"
    paths: tuple[str, ...] = ()  # txt, jsonl or parquet files, folders or patterns; TinyStories on disk
    field: str = "text"  # the field of a JSON line, or the Parquet column, that holds the text
    documents: int | None = None  # only the first so many; None for all, or 6,000 stories of the grammar
    val_fraction: float = 0.05  # share of the documents that is held out
    tokenizer: str | None = None  # "o200k_harmony", "gpt2", … or a saved file; None trains one
    vocab_size: int = 2048  # V of the tokenizer that is trained
    tokenizer_documents: int = 2000  # how many documents it learns from
    seed: int = 0  # of the grammar's stories

    def __post_init__(self) -> None:
        paths = (self.paths,) if isinstance(self.paths, (str, Path)) else self.paths
        object.__setattr__(self, "paths", tuple(map(str, paths)))
        if self.source not in ("stories", "tinystories", "files"):
            raise ValueError(f"data.source is {self.source!r}; choose 'stories', 'tinystories' or 'files'.")
        few, many, wanted = {
            "stories": (0, 0, "takes none"),
            "tinystories": (0, 1, "takes at most one"),
            "files": (1, math.inf, "needs one or more"),
        }[self.source]
        if not few <= len(self.paths) <= many:
            raise ValueError(
                f"data.paths names {len(self.paths)} places, but the source {self.source!r} {wanted}."
            )
        if self.documents is not None and self.documents < 1:
            raise ValueError(f"data.documents is {self.documents}; choose at least 1, or null for all.")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; the same config on the same machine gives the same model.

    ``model`` is the name of a preset, or a dict with fields of ``GPTOSSConfig`` or ``GPT2Config``; the
    key ``preset`` in it fills in the rest from a preset. Its vocabulary is always the tokenizer's.

    Raises:
        ValueError: if a value makes no sense.
    """

    model: str | dict = "xs"  # the architecture
    data: DataConfig = field(default_factory=DataConfig)  # the text
    training: TrainingConfig = field(default_factory=TrainingConfig)  # batches, schedule, precision, device
    balance_coef: float = 0.01  # weight of the load-balancing loss (GPT-OSS only)
    z_coef: float = 0.0  # weight of the router z-loss (GPT-OSS only)
    jitter: float = 0.0  # noise on the routers' inputs (GPT-OSS only)
    allow_frozen_router: bool = False  # train although one expert a token teaches its router nothing
    init_std: float | None = None  # standard deviation of fresh weights; None for the model's own
    seed: int = 0  # of the weights and of the batches

    def __post_init__(self) -> None:
        object.__setattr__(self, "training", dataclasses.replace(self.training, seed=self.seed))
        for name in ("balance_coef", "z_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; the weight of a loss must be 0 or more.")
        context = _context_length(model_config(self))
        if self.training.seq_len > context:
            raise ValueError(
                f"training.seq_len is {self.training.seq_len}, but the model reads at most {context} tokens; "
                "shorten it, or raise max_position_embeddings (n_positions in GPT-2)."
            )

    @classmethod
    def from_json(cls, path: str | Path) -> "RunConfig":
        """Read a run's file, or the ``run.json`` in the folder ``path``.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not JSON, has an unknown key, or a value makes no sense.
        """
        path = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}).") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """Build a run's config from what :meth:`to_dict` returns, or from a part of it.

        Raises:
            ValueError: if a key is unknown or a value makes no sense.
        """
        values = dict(_known(values, cls, "a run"))
        for name, part in (("data", DataConfig), ("training", TrainingConfig)):
            settings = _known(values.get(name, {}), part, name)
            if name == "training" and "seed" in settings:
                raise ValueError("A run has one seed: write it beside training, not inside.")
            values[name] = part(**settings)
        return cls(**values)

    def to_dict(self) -> dict:
        """Return the config as JSON has it."""
        values = json.loads(json.dumps(asdict(self)))
        del values["training"]["seed"]
        return values

    def to_json(self, path: str | Path) -> None:
        """Write the file that :meth:`from_json` reads, to a file or into an existing folder."""
        path = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def _known(values: object, kind: type, where: str) -> dict:
    """Return ``values`` if they are fields of the dataclass ``kind``, or say what does not fit."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r}; it must be an object with settings.")
    known = {each.name: each.type for each in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{where} has no setting {name!r}; it has {', '.join(known)}.")
        if not _fits(value, known[name]):
            wanted = getattr(known[name], "__name__", known[name])
            raise ValueError(f"{where}: {name} is {value!r}; expected {wanted}.")
    return values


def _fits(value: object, kind: type) -> bool:
    """Say whether a JSON value can stand for a field of this type."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    kinds = [get_origin(each) or each for each in kinds]  # tuple for tuple[str, ...]
    if isinstance(value, bool):
        return bool in kinds
    # JSON has whole numbers for 1.0, lists for tuples, and objects for dataclasses.
    stands_for = {float: (float, int), tuple: (tuple, list, str)}
    return any(
        isinstance(value, (each, dict) if is_dataclass(each) else stands_for.get(each, each))
        for each in kinds
    )


def model_config(run: RunConfig, vocab_size: int | None = None) -> GPTOSSConfig | GPT2Config:
    """Return the architecture of a run, with the tokenizer's vocabulary where ``vocab_size`` is given.

    Raises:
        ValueError: if the preset or a field does not exist, or a value makes no sense.
    """
    values = {"preset": run.model} if isinstance(run.model, str) else dict(run.model)
    preset = values.pop("preset", None)
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    if run.init_std is not None:
        values["initializer_range"] = run.init_std
    if "n_embd" in values and preset is None:
        return GPT2Config(**_known(values, GPT2Config, "a GPT-2"))
    _known(values, GPTOSSConfig, "a GPT-OSS")
    if isinstance(values.get("rope_scaling"), dict):
        values["rope_scaling"] = RopeScaling(**_known(values["rope_scaling"], RopeScaling, "rope_scaling"))
    base = GPTOSSConfig() if preset is None else GPTOSSConfig.preset(preset)
    if values.get("num_hidden_layers", base.num_hidden_layers) != base.num_hidden_layers:
        values.setdefault("layer_types", None)  # the pattern goes on for another number of layers
    return dataclasses.replace(base, **values)


def _context_length(config: GPTOSSConfig | GPT2Config) -> int:
    return config.n_positions if isinstance(config, GPT2Config) else config.max_position_embeddings


def build_model(run: RunConfig, vocab_size: int) -> nn.Module:
    """Return the fresh model of a run; the run's seed decides its weights.

    A GPT-2's position table starts ten times smaller than its word table (chapter 06).

    Args:
        run: its model, init_std, jitter, allow_frozen_router and seed are used.
        vocab_size: V, the tokenizer's.
    """
    config = model_config(run, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        if isinstance(config, GPTOSSConfig):
            return GPTOSS(config, run.jitter, run.allow_frozen_router)
        model = GPT2(config)
    with torch.no_grad():
        model.wpe.weight.mul_(0.1)
    return model


class _FirstDocuments:
    """The first ``count`` documents of a source."""

    def __init__(self, source: FileSource | TinyStoriesSource, count: int) -> None:
        self.source, self.count = source, count

    def __iter__(self) -> Iterator[str]:
        return islice(self.source, self.count)

    def fingerprint(self) -> dict:
        return self.source.fingerprint() | {"documents": self.count}


def prepare_data(config: DataConfig) -> TokenData:
    """Return the tokens that a run learns from, prepared once under :func:`gptoss_lib.settings.home`.

    Raises:
        FileNotFoundError: if a file or a published tokenizer is not there.
        ConnectionError: if TinyStories is not at hand and cannot be reached.
        ValueError: if a document cannot be read.
    """
    if config.source == "stories" and config.tokenizer is None:
        return story_data(config.documents or 6_000, config.vocab_size, config.seed, config.val_fraction)
    if config.source == "stories":
        source = GrammarSource(StoryGrammar(), config.seed, config.documents or 6_000)
    else:
        if config.source == "files":
            source = FileSource(config.paths, config.field)
        else:
            streaming = config.documents is not None  # no need to download what is not read
            source = TinyStoriesSource(streaming=streaming, path=next(iter(config.paths), None))
        if config.documents is not None:
            source = _FirstDocuments(source, config.documents)
    own = (config.tokenizer, config.vocab_size, config.tokenizer_documents)
    recipe = json.dumps([source.fingerprint(), own, config.val_fraction])
    name = f"{config.source}-{sha256(recipe.encode()).hexdigest()[:12]}"
    directory = home() / "data" / name
    if config.tokenizer is not None:
        tokenizer = get_tokenizer(config.tokenizer)
    else:
        path = directory.with_name(f"{name}.tokenizer.json")
        tokenizer = train_tokenizer(
            source, config.vocab_size, path, config.val_fraction, config.tokenizer_documents
        )
    return prepare(source, tokenizer, directory, config.val_fraction)


def gptoss_loss(balance_coef: float = 0.01, z_coef: float = 0.0) -> Callable:
    """Return a ``loss_fn`` for :class:`gptoss_lib.training.Trainer` that also looks after the routers.

    What is optimized is cross-entropy + ``balance_coef`` · balance + ``z_coef`` · z, where balance and z
    are the means over layers of :func:`gptoss_lib.moe.load_balancing_loss` and
    :func:`gptoss_lib.moe.router_z_loss`. The metrics are

    - ``nats``: the cross-entropy alone;
    - ``balance``, ``z``: the two terms before they are weighed;
    - ``max_load``: tokens of the busiest expert of any layer, as a multiple of an even share, 1 to E / K;
    - ``router_entropy``: mean over tokens and layers, in nats; ln E where a router is undecided.

    Args:
        balance_coef: 0 leaves the load to itself.
        z_coef: 0 lets the routers' logits grow.
    """

    def loss_fn(model: nn.Module, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
        nats, router_logits = model(input_ids, labels=labels)
        top_k = getattr(model, "module", model).config.num_experts_per_tok  # DDP wraps the model
        balance = torch.stack([load_balancing_loss(logits, top_k) for logits in router_logits]).mean()
        z = torch.stack([router_z_loss(logits) for logits in router_logits]).mean()
        metrics = {"nats": nats, "balance": balance, "z": z} | _router_metrics(router_logits, top_k)
        loss = nats + balance_coef * balance + z_coef * z
        return loss, {name: value.detach() for name, value in metrics.items()}

    return loss_fn


@torch.no_grad()
def _router_metrics(router_logits: list[Tensor], top_k: int) -> dict[str, Tensor]:
    """Measure how unevenly the experts are used, and how undecided the routers are."""
    num_experts = router_logits[0].shape[1]
    busiest = torch.stack([expert_load(logits, top_k).max() for logits in router_logits]).max()
    log_p = torch.stack(router_logits).float().log_softmax(-1)  # [L, N, E]
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    return {"max_load": busiest * num_experts / top_k, "router_entropy": entropy}


def pretrain(
    run: RunConfig, run_dir: str | Path, loggers: Iterable[Logger] = ()
) -> tuple[nn.Module, TokenData, list[dict]]:
    """Carry out a run, or the rest of it, in a folder that holds everything about it.

    The folder gets ``run.json``, ``config.json`` (the architecture), ``tokenizer.json``, ``log.jsonl``,
    ``latest.safetensors`` and ``best.safetensors``. A run that was stopped goes on where its last
    checkpoint left it; a finished one is loaded. A second process waits for the first.

    Args:
        run: what to do.
        run_dir: the folder, made where it is missing.
        loggers: see every record that goes to the log.

    Returns:
        The trained model in eval mode, the data, and the records of the log.

    Raises:
        ValueError: if the folder holds another run, or something is wrong with the data.
        FloatingPointError: if the loss is not finite.
    """
    run_dir = Path(run_dir)
    _require_device(run.training.device)
    run_dir.mkdir(parents=True, exist_ok=True)
    with _alone_in(run_dir):
        _refuse_another_run(run, run_dir)
        data = prepare_data(run.data)
        model = build_model(run, data.tokenizer.vocab_size)
        _describe(run, model, data, run_dir)
        routed = isinstance(model, GPTOSS)
        loss_fn = gptoss_loss(run.balance_coef, run.z_coef) if routed else next_token_loss
        history = Trainer(model, data, run.training, run_dir, loss_fn, loggers).train()
    return model.eval(), data, history


def _require_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"training.device is {device!r}, but PyTorch finds no GPU here; set it to 'cpu', or use "
            "a machine that has one."
        )


@contextmanager
def _alone_in(run_dir: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder."""
    lock = FileLock(run_dir / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process trains in {run_dir}; waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_another_run(run: RunConfig, run_dir: Path) -> None:
    """Raise a ValueError where the folder belongs to a run with another config."""
    if not (run_dir / "run.json").exists():
        return
    theirs, ours = _flat(RunConfig.from_json(run_dir).to_dict()), _flat(run.to_dict())
    for name in sorted(theirs.keys() | ours.keys()):
        old, new = theirs.get(name), ours.get(name)
        if old != new and name.removeprefix("training.") not in MAY_CHANGE:
            raise ValueError(
                f"{run_dir} holds a run with {name}={old!r}, but this one has {new!r}; "
                "choose another folder, or go on with the old value."
            )


def _flat(values: dict, prefix: str = "") -> dict:
    """Turn nested dicts into one with dotted names."""
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _describe(run: RunConfig, model: nn.Module, data: TokenData, run_dir: Path) -> None:
    """Write the run's three small files."""
    tokenizer_path = run_dir / "tokenizer.json"
    if tokenizer_path.exists():
        if tokenizer_path.read_bytes() != (data.directory / "tokenizer.json").read_bytes():
            raise ValueError(
                f"{tokenizer_path} is not the tokenizer of this run's data; restore one of them."
            )
    else:
        data.tokenizer.save(tokenizer_path)
    model.config.to_json(run_dir / "config.json")
    run.to_json(run_dir / "run.json")


def record_run(path: str | Path, run: RunConfig, history: list[dict]) -> None:
    """Append a run to a JSON Lines file: what it was and where it ran, then its log.

    Numbers are rounded to five digits. The machine is described by its processor alone.

    Args:
        path: the file, made where it is missing.
        run: what was done.
        history: the records of the log.
    """
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    head = {"kind": "run", "config": run.to_dict(), "versions": versions, "machine": processor_name()}
    lines = [head, *({name: _short(value) for name, value in each.items()} for each in history)]
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def processor_name() -> str:
    """Return the name of the processor that this process runs on."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def recorded_runs(path: str | Path) -> list[tuple[RunConfig, list[dict]]]:
    """Read what :func:`record_run` wrote: each run's config and log.

    Args:
        path: the file, or the name of one that comes with the library, such as ``"16_stories"``.
    """
    packaged = files("gptoss_lib") / "runs" / f"{path}.jsonl"
    text = (packaged if packaged.is_file() else Path(path)).read_text(encoding="utf-8")
    runs: list[tuple[RunConfig, list[dict]]] = []
    for record in map(json.loads, text.splitlines()):
        if record["kind"] == "run":
            runs.append((RunConfig.from_dict(record["config"]), []))
        else:
            runs[-1][1].append(record)
    return runs


def load_run(
    run_dir: str | Path, checkpoint: str = "best", device: str = "cpu"
) -> tuple[nn.Module, BPETokenizer, RunConfig]:
    """Load the model of a run from its folder alone.

    Args:
        run_dir: what :func:`pretrain` filled.
        checkpoint: ``"best"``, the weights with the lowest validation loss (``"latest"`` where there was no
            validation yet), or ``"latest"``.
        device: where the model goes.

    Returns:
        The model in eval mode, its tokenizer, and the run's config.

    Raises:
        FileNotFoundError: if there is no run in the folder.
        ValueError: if a file in it is damaged.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "run.json").is_file():
        raise FileNotFoundError(f"There is no run in {str(run_dir)!r}; a run's folder holds a run.json.")
    if checkpoint not in ("best", "latest"):
        raise ValueError(f"checkpoint is {checkpoint!r}; choose 'best' or 'latest'.")
    _require_device(device)
    run, tokenizer = RunConfig.from_json(run_dir), BPETokenizer.load(run_dir / "tokenizer.json")
    model = build_model(run, tokenizer.vocab_size)
    path = run_dir / f"{checkpoint}.safetensors"
    load_weights(model, path if path.exists() else run_dir / "latest.safetensors")
    return model.to(device).eval(), tokenizer, run


def training_flops(config: GPTOSSConfig | GPT2Config, seq_len: int) -> float:
    """Return the FLOPs of training on one token: forward and backward, matrix products only.

    As :func:`gptoss_lib.config.flops_per_token` counts them, averaged over a sequence.
    """
    if isinstance(config, GPTOSSConfig):
        return flops_per_token(config, seq_len, mean=True).training
    D, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    layer = 2 * (4 * D * D + 2 * D * inner) + 4 * D * (seq_len + 1) / 2  # a token sees half the sequence
    return 3 * (config.n_layer * layer + 2 * D * config.vocab_size)


def matmul_rate(device: str = "cpu", precision: str = "fp32", size: int | None = None) -> float:
    """Measure how many FLOPs a second this machine reaches in one large square matrix product.

    The product is :func:`gptoss_lib.products.product`, the fastest that the model itself can use.

    Args:
        device: where to measure; on a CPU with as many threads as PyTorch uses now.
        precision: "fp32" or "bf16".
        size: rows and columns; None for 1,024, or 8,192 on a GPU.

    Returns:
        The best of several tries: other programs can only slow a product down.
    """
    size = size or (8192 if device.startswith("cuda") else 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(8):
        _wait_for(device)
        started = time.perf_counter()
        product(a, b)
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(device: str = "cpu") -> int | None:
    """Return the most bytes that this process has used so far; None where the system does not say.

    On a GPU, what PyTorch's tensors took there; otherwise main memory, Python and PyTorch included.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_speed(run: RunConfig, config: GPTOSSConfig | GPT2Config, history: list[dict]) -> dict[str, float]:
    """Return how fast a run was, and how close to what the machine can do.

    Args:
        run: the run; its device, precision and seq_len are used.
        config: the model's architecture, ``model.config``.
        history: the records of the log.

    Returns:
        ``tokens_per_second`` of the whole run, validation and checkpoints included; ``flops_per_second``
        that the model needs at that speed; ``matmul_rate``, measured now; and ``utilization``, the one
        divided by the other.
    """
    tokens = max(record["tokens"] for record in history if record["kind"] == "train")
    speed = tokens / max(record["seconds"] for record in history)
    flops = speed * training_flops(config, run.training.seq_len)
    rate = matmul_rate(run.training.device, run.training.precision)
    return {
        "tokens_per_second": speed,
        "flops_per_second": flops,
        "matmul_rate": rate,
        "utilization": flops / rate,
    }
