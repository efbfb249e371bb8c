"""From the loss of one batch to a trained model, in a run that survives being killed.

GPT-2's recipe, kept current: AdamW with decay groups, warm-up and cosine, clipping by the global norm,
accumulation as a mean over tokens, bf16 autocast over fp32 weights, and checkpoints that are never pickled.

Built in chapter 06: edit ``notebooks/06_training.py``, not this file.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, is_dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gptoss_lib.data import Batches, TokenData, bits_per_byte, story_data, validation_batches
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.settings import home, profile

__all__ = [
    "IGNORED",
    "MAY_CHANGE",
    "LivePlot",
    "Logger",
    "RunState",
    "Trainer",
    "TrainingConfig",
    "adamw",
    "evaluate",
    "learning_rate_at",
    "load_checkpoint",
    "load_weights",
    "next_token_loss",
    "parameter_groups",
    "read_log",
    "save_checkpoint",
    "story_gpt2",
    "tensorboard_logger",
    "wandb_logger",
]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the trainable parameters into those that AdamW decays and those that it leaves alone.

    Weight matrices decay. Norms, biases, sinks and embeddings do not. The number of dimensions alone
    cannot decide: the biases of an expert layer are stacked to [E, F], and an embedding is a table.

    Args:
        model: any module; a tied weight appears once.
        weight_decay: λ for the matrices.

    Returns:
        Two parameter groups for ``torch.optim.AdamW``: decayed, not decayed.
    """
    tables = {
        parameter for m in model.modules() if isinstance(m, nn.Embedding) for parameter in m.parameters()
    }
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith("bias") and parameter not in tables
            (decayed if is_matrix else spared).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a run goes, but for the model and the data.

    Raises:
        ValueError: if a value makes no sense.
    """

    steps: int = 1000  # optimizer updates in the whole run
    batch_size: int = 16  # B, sequences in a micro-batch
    seq_len: int = 256  # T, tokens in a sequence
    grad_accumulation_steps: int = 1  # micro-batches in an update
    learning_rate: float = 1e-3  # at its peak, right after the warm-up
    min_lr_ratio: float = 0.1  # the last update's rate as a share of the peak
    warmup_steps: int = 50  # updates over which the rate rises to the peak
    weight_decay: float = 0.1  # share of a matrix removed at an update, times the rate
    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.95  # memory of the gradient's mean square
    eps: float = 1e-8  # keeps Adam from dividing by zero
    grad_clip: float = 1.0  # largest norm of the whole gradient; 0 never clips
    precision: str = "fp32"  # "fp32", or "bf16": autocast over fp32 weights
    log_every: int = 10  # updates between two lines of the log
    eval_every: int = 250  # updates between two evaluations; 0 evaluates at the end only
    checkpoint_every: int = 250  # updates between two checkpoints; 0 saves at the end only
    seed: int = 0  # order of the batches, and dropout where a model has any
    device: str = "cpu"  # "cpu", "cuda", "cuda:1", …
    compile: bool = False  # run the model through torch.compile

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seq_len", "grad_accumulation_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; choose 0 to steps={self.steps}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, but it must be positive.")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; choose 'fp32' or 'bf16'.")


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of update ``step``, counted from 0.

    It rises on a straight line, reaches the peak at update ``warmup_steps - 1``, and falls on half a
    cosine to ``min_lr_ratio`` of the peak at the last update. No update has the rate 0.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step + 1 - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))  # from 1 to 0
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


IGNORED = -100  # the label of a position that is not predicted: cross_entropy's default


def next_token_loss(model: nn.Module, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
    """Return the mean cross-entropy of the next token, in nats, and no further metrics.

    Any function with this signature can be a :class:`Trainer`'s ``loss_fn``: it returns a mean over
    the predicted tokens, and a dict of numbers that should go to the log.

    Args:
        model: maps input_ids [B, T] to logits [B, T, V].
        input_ids: [B, T].
        labels: the token that follows each position, [B, T]; ``IGNORED`` where there is none.
    """
    logits = model(input_ids).float()  # under autocast they come in bf16; the sum over V needs more
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED), {}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: np.ndarray,
    batch_size: int = 32,
    seq_len: int = 128,
    precision: str = "fp32",
    stride: int | None = None,
) -> tuple[float, int]:
    """Score every token of ``tokens`` once.

    Args:
        model: maps input_ids [B, T] to logits [B, T, V].
        tokens: the stream, as ``TokenData.val``.
        batch_size: B, rows that go through the model together.
        seq_len: T, tokens in a row.
        precision: "fp32" or "bf16", as in :class:`TrainingConfig`.
        stride: see :func:`gptoss_lib.data.validation_batches`; a smaller one gives each token more context.

    Returns:
        The total cross-entropy in nats, and the number of predicted tokens. Divide one by the other
        for the loss; give the total to :func:`gptoss_lib.data.bits_per_byte` to compare tokenizers.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats, count = 0.0, 0
    for input_ids, labels in validation_batches(tokens, batch_size, seq_len, stride):
        with _autocast(device, precision):
            logits = model(input_ids.to(device)).float()
        labels = labels.to(device).flatten()
        losses = F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORED, reduction="none")
        nats += losses.double().sum().item()
        count += int((labels != IGNORED).sum())
    model.train(was_training)
    return nats, count


def _autocast(device: torch.device | str, precision: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


def save_checkpoint(path: str | Path, tensors: dict[str, Tensor], state: dict) -> None:
    """Write tensors and a JSON state to one safetensors file that is complete or not there.

    The file is written under another name, forced to the disk, and renamed. A process that dies at
    any moment leaves the old file or the new one, never a piece of either.

    Args:
        path: the file to replace.
        tensors: name → tensor.
        state: anything JSON can hold; it goes into the file's header.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"format": "pt", "training_state": json.dumps(state)})
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # the new name is an entry of the folder, which has to reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read what :func:`save_checkpoint` wrote.

    Returns:
        The tensors by name, on the CPU, and the state.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is cut off, is not a safetensors file, or was written by something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut off or not a safetensors file ({error}); delete it or restore it from a copy."
        ) from error
    if "training_state" not in metadata:
        raise ValueError(
            f"{path} holds {len(tensors)} tensors but no training state; it is not a checkpoint of ours."
        )
    return tensors, json.loads(metadata["training_state"])


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Fill ``model`` with the weights of a checkpoint and return the checkpoint's state.

    Raises:
        ValueError: if the checkpoint cannot be read or belongs to another model.
    """
    tensors, state = load_checkpoint(path)
    _restore_model(model, tensors, path)
    return state


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict under ``model.``, each tensor once: safetensors refuses tied weights twice."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {f"model.{name}": t for name, t in state.items() if first.setdefault(id(t), name) == name}


def _restore_model(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    ours = _model_tensors(model)
    theirs = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    for name in sorted(ours.keys() | theirs.keys()):
        found = [list(side[name].shape) if name in side else "absent" for side in (theirs, ours)]
        if found[0] != found[1]:
            raise ValueError(
                f"{path} belongs to another model: {name.removeprefix('model.')} is {found[0]} in the "
                f"checkpoint and {found[1]} in this model; build the model from the checkpoint's own config."
            )
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])


Logger = Callable[[dict], None]  # takes each record of a run: "kind" ("train" or "val"), "step", and numbers


def tensorboard_logger(folder: str | Path) -> Logger:
    """Return a logger that writes every number to TensorBoard as ``kind/name``.

    Raises:
        ImportError: if the ``tensorboard`` package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard_logger needs the package tensorboard: pip install tensorboard"
        ) from error
    writer = SummaryWriter(str(folder))

    def log(record: dict) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(name, value, record["step"])
        writer.flush()

    return log


def wandb_logger(project: str, folder: str | Path, mode: str = "offline", **options) -> Logger:
    """Return a logger that gives every number to Weights & Biases as ``kind/name``.

    ``mode="offline"`` writes to ``folder`` and sends nothing; ``wandb sync`` uploads it when you
    want to. ``options`` go to ``wandb.init``.

    Raises:
        ImportError: if the ``wandb`` package is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError("wandb_logger needs the package wandb: pip install wandb") from error
    run = wandb.init(project=project, dir=str(folder), mode=mode, **options)
    return lambda record: run.log(_numbers(record), step=record["step"])


def _numbers(record: dict) -> dict[str, float]:
    return {f"{record['kind']}/{name}": v for name, v in record.items() if name not in ("kind", "step")}


class LivePlot:
    """A logger that draws the loss while it falls, in a notebook; anywhere else it does nothing.

    Args:
        floor: a loss that cannot be beaten, drawn as a dashed line.
        seconds: the shortest time between two drawings.
    """

    def __init__(self, floor: float | None = None, seconds: float = 1.0) -> None:
        self.floor, self.seconds = floor, seconds
        self.curves: dict[str, list[tuple[int, float]]] = {"train": [], "val": []}
        self._drawn, self._display = -math.inf, None
        self._shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None

    def __call__(self, record: dict) -> None:
        self.curves[record["kind"]].append((record["step"], record["loss"]))
        due = record["kind"] == "val" or time.monotonic() - self._drawn > self.seconds
        if hasattr(self._shell, "kernel") and due:
            from IPython.display import HTML, display

            if self._display is None:
                self._display = display(HTML(""), display_id=True)
            self._display.update(HTML(self.svg()))
            self._drawn = time.monotonic()

    def svg(self) -> str:
        """Return the curves as an SVG drawing in the page's own ink."""
        points = self.curves["train"] + self.curves["val"]
        last, losses = max(step for step, _ in points), [loss for _, loss in points]
        low, high = min([*losses, self.floor or math.inf]), max(losses) + 1e-9

        def line(points: list[tuple[int, float]], style: str) -> str:
            places = (
                f"{600 * step / last:.1f},{170 - 140 * (loss - low) / (high - low):.1f}"
                for step, loss in points
            )
            return f'<polyline points="{" ".join(places)}" fill="none" {style}/>'

        caption = [f"step {last}"] + [
            f"{kind} {curve[-1][1]:.3f}" for kind, curve in self.curves.items() if curve
        ]
        drawn = line(self.curves["train"], 'stroke="#858d98"')
        drawn += line(self.curves["val"], 'stroke="#3a84d8" stroke-width="2.5"')
        if self.floor is not None:
            caption.append(f"floor {self.floor:.3f}")
            drawn += line([(0, self.floor), (last, self.floor)], 'stroke="#2a9d74" stroke-dasharray="5 4"')
        return (
            '<svg viewBox="0 0 600 175" style="max-width:600px" role="img" aria-label="Loss so far, by step">'
            f'{drawn}<text y="15" fill="currentColor" font-family="sans-serif" font-size="13">'
            f"{' · '.join(caption)} nats a token</text></svg>"
        )


# Fields of the config that a resumed run may change: where and how safely it is made.
MAY_CHANGE = ("device", "compile", "checkpoint_every")


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return the optimizer of a run: AdamW on :func:`parameter_groups`, in fused kernels."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


class RunState:
    """Everything a run has to remember to go on as if nothing had happened.

    The weights, the optimizer's moments, the place in the data, the random numbers, and five counters.

    Args:
        model: its weights are fp32; moved to ``config.device``.
        data: what it is trained on.
        config: how.

    Raises:
        ValueError: if the weights are not fp32.
    """

    _counters = ("step", "tokens", "seconds", "best_nats", "log_bytes")

    def __init__(self, model: nn.Module, data: TokenData, config: TrainingConfig) -> None:
        for name, parameter in model.named_parameters():
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"{name} is {parameter.dtype}; keep the weights in fp32 and set precision='bf16'."
                )
        self.config, self.train_tokens = config, len(data.train)
        self.model = model.to(config.device)
        self.optimizer = adamw(model, config)
        self.batches = Batches(data.train, config.batch_size, config.seq_len, config.seed)
        self.step = 0  # updates made
        self.tokens = 0  # tokens predicted in them
        self.seconds = 0.0  # spent on them and on validation
        self.best_nats: float | None = None  # the lowest total on the validation set
        self.log_bytes = 0  # length of the log when the last checkpoint was written

    def rng_tensors(self) -> dict[str, Tensor]:
        """Return the state of PyTorch's random number generators."""
        states = {"rng.cpu": torch.get_rng_state()}
        if self.config.device.startswith("cuda"):
            states["rng.cuda"] = torch.cuda.get_rng_state(self.config.device)
        return states

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, moments and random numbers by name, as a checkpoint holds them."""
        moments = {
            f"optimizer.{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return _model_tensors(self.model) | moments | self.rng_tensors()

    def values(self) -> dict:
        """Return the rest: counters, place in the data, and what the run is."""
        counters = {name: getattr(self, name) for name in self._counters}
        return counters | {"batches": self.batches.state_dict()} | self._identity()

    def _identity(self) -> dict[str, dict]:
        """Return what a checkpoint and this run must agree on, as it looks after JSON."""
        model = getattr(self.model, "config", None)
        parts = {"config": asdict(self.config), "data": {"train_tokens": self.train_tokens}}
        parts |= {"model": asdict(model)} if is_dataclass(model) else {}
        return json.loads(json.dumps(parts))

    def load(self, path: str | Path) -> None:
        """Become the state that a checkpoint holds.

        Raises:
            ValueError: if the checkpoint cannot be read or belongs to another run.
        """
        tensors, values = load_checkpoint(path)
        for part, ours in self._identity().items():
            theirs = values.get(part, {})
            for name in sorted(ours.keys() | theirs.keys()):
                if name not in MAY_CHANGE and theirs.get(name) != ours.get(name):
                    raise ValueError(
                        f"{path} comes from a run with {part}.{name}={theirs.get(name)!r}, but this one has "
                        f"{ours.get(name)!r}; use the same value to go on, or another folder for a new run."
                    )
        _restore_model(self.model, tensors, path)
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            moments = {
                key: tensors.get(f"optimizer.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")
            }
            if moments["step"] is not None:  # there are none before the first update
                moments = {key: tensor.to(parameter.device, copy=True) for key, tensor in moments.items()}
                self.optimizer.state[parameter] = moments
        self.batches.load_state_dict(values["batches"])
        for name in self._counters:
            setattr(self, name, values[name])
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors and self.config.device.startswith("cuda"):
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.config.device)


class Trainer:
    """Trains a model in a run folder, and goes on from the last checkpoint that it finds there.

    The folder holds ``log.jsonl``, ``latest.safetensors`` (all that the run needs to go on) and
    ``best.safetensors`` (the weights with the lowest validation loss). On a CPU, a run that was
    killed and resumed ends with the same bits as one that was not.

    Args:
        model: maps input_ids [B, T] to logits [B, T, V]; its weights are fp32.
        data: the tokens to train on and to validate on.
        config: everything else that decides how the run goes.
        run_dir: the run's folder, made where it is missing.
        loss_fn: ``(model, input_ids, labels) -> (loss, metrics)``, like :func:`next_token_loss`.
        loggers: see each record that goes to the log.

    Raises:
        ValueError: if the weights are not fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TokenData,
        config: TrainingConfig,
        run_dir: str | Path,
        loss_fn: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, dict]] = next_token_loss,
        loggers: Iterable[Logger] = (),
    ) -> None:
        self.state = RunState(model, data, config)
        self.forward = torch.compile(model) if config.compile else model
        self.data, self.config, self.loss_fn, self.loggers = data, config, loss_fn, list(loggers)
        self.run_dir = Path(run_dir)
        self.latest, self.best = self.run_dir / "latest.safetensors", self.run_dir / "best.safetensors"
        self.log_path = self.run_dir / "log.jsonl"

    def train(self, until: int | None = None) -> list[dict]:
        """Run to the end, or to update ``until``, and return the records of the log.

        Raises:
            ValueError: if the run folder holds another run, or its checkpoint cannot be read.
            FloatingPointError: if the loss or the gradient is not finite; the batch is kept.
        """
        last = min(until or self.config.steps, self.config.steps)
        cuda = [self.config.device] if self.config.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):  # the caller's random numbers stay untouched
            self._begin()
            with open(self.log_path, "ab") as self._log:
                self._log.truncate(self.state.log_bytes)  # what came after the checkpoint is done again
                while self.state.step < last:
                    self._advance(last)
        return read_log(self.log_path)

    def _begin(self) -> None:
        """Take up the run where its last checkpoint left it, or write the first checkpoint."""
        logged = self.log_path.stat().st_size if self.log_path.exists() else 0
        if self.latest.exists():
            self.state.load(self.latest)
            if logged < self.state.log_bytes:
                raise ValueError(
                    f"{self.log_path} has lost lines that {self.latest.name} counts on; restore it."
                )
        elif logged:
            raise ValueError(
                f"{self.run_dir} has a log but no checkpoint; choose another folder or delete it."
            )
        else:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(self.config.seed)
            save_checkpoint(self.latest, self.state.tensors(), self.state.values())

    def _advance(self, last: int) -> None:
        """Make one update, then log, validate and save as far as they are due."""
        state, config = self.state, self.config

        def due(every: int) -> bool:
            return every > 0 and state.step % every == 0

        started = time.perf_counter() - state.seconds
        record = self._update()
        state.seconds = time.perf_counter() - started
        if state.step in (1, config.steps) or due(config.log_every):
            self._write(record)
        if state.step == config.steps or due(config.eval_every):
            record = self._validate()
            state.seconds = time.perf_counter() - started
            self._write(record)
        if state.step == last or due(config.checkpoint_every):
            os.fsync(self._log.fileno())  # the checkpoint counts on these lines
            state.log_bytes = self._log.tell()
            save_checkpoint(self.latest, state.tensors(), state.values())

    def _update(self) -> dict:
        """Make one update on the next micro-batches and return its record."""
        state, config = self.state, self.config
        rng = state.rng_tensors()
        micro_batches = [next(state.batches) for _ in range(config.grad_accumulation_steps)]
        counts = [int((labels != IGNORED).sum()) for _, labels in micro_batches]
        state.model.train()
        state.optimizer.zero_grad()
        totals: dict[str, Tensor | float] = {}
        for (input_ids, labels), count in zip(micro_batches, counts, strict=True):
            share = count / sum(counts)  # of the update's tokens: the mean runs over all of them
            with _autocast(config.device, config.precision):
                loss, metrics = self.loss_fn(
                    self.forward, input_ids.to(config.device), labels.to(config.device)
                )
            (share * loss).backward()
            for name, value in {"loss": loss.detach(), **metrics}.items():
                totals[name] = totals.get(name, 0.0) + share * value
        totals["grad_norm"] = nn.utils.clip_grad_norm_(state.model.parameters(), config.grad_clip or math.inf)
        numbers = {name: float(value) for name, value in totals.items()}
        if not (math.isfinite(numbers["loss"]) and math.isfinite(numbers["grad_norm"])):
            self._stop(numbers, micro_batches, rng)
        rate = learning_rate_at(state.step, config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()
        state.step, state.tokens = state.step + 1, state.tokens + sum(counts)
        return {"kind": "train", "step": state.step, "tokens": state.tokens, "learning_rate": rate, **numbers}

    def _validate(self) -> dict:
        """Score the validation set, keep the weights if they are the best so far, and return the record."""
        state, config = self.state, self.config
        nats, tokens = evaluate(
            self.forward, self.data.val, config.batch_size, config.seq_len, config.precision
        )
        if state.best_nats is None or nats < state.best_nats:
            state.best_nats = nats
            save_checkpoint(self.best, _model_tensors(state.model), state.values())
        bits = bits_per_byte(nats, self.data.val_bytes)
        return {"kind": "val", "step": state.step, "loss": nats / tokens, "bits_per_byte": bits, "nats": nats}

    def _write(self, record: dict) -> None:
        record = record | {"seconds": round(self.state.seconds, 3)}
        self._log.write((json.dumps(record) + "\n").encode())
        self._log.flush()
        for logger in self.loggers:
            logger(record)

    def _stop(self, totals: dict, micro_batches: list[tuple[Tensor, Tensor]], rng: dict[str, Tensor]) -> None:
        """Keep what led to a loss or a gradient that is not finite, and raise."""
        tensors = self.state.tensors() | rng  # the random numbers as they were before the update
        for index, (input_ids, labels) in enumerate(micro_batches):
            tensors |= {f"batch.{index}.input_ids": input_ids, f"batch.{index}.labels": labels}
        path = self.run_dir / "failure.safetensors"
        save_checkpoint(path, tensors, self.state.values())
        raise FloatingPointError(
            f"Update {self.state.step + 1}: loss {totals['loss']}, gradient norm {totals['grad_norm']}; "
            f"its batch and the state before it are in {path}: look at the batch, or lower learning_rate."
        )


def read_log(path: str | Path) -> list[dict]:
    """Return the records of a run's ``log.jsonl``."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


_STORY_RUNS = {  # a profile's corpus, model and training
    "quick": (
        {},
        {"n_positions": 128, "n_embd": 128, "n_layer": 2, "n_head": 4, "initializer_range": 0.06},
        {
            "steps": 660,
            "batch_size": 8,
            "seq_len": 128,
            "learning_rate": 8e-3,
            "min_lr_ratio": 0.02,
            "warmup_steps": 20,
            "beta2": 0.99,
            "eval_every": 220,
            "checkpoint_every": 110,
        },
    ),
    "full": (
        {"stories": 200_000},  # about as many tokens as the run reads, so that it reads each once
        {"n_positions": 512, "n_embd": 512, "n_layer": 8, "n_head": 8},
        {"steps": 1400, "batch_size": 64, "seq_len": 512, "precision": "bf16", "compile": True},
    ),
}


def story_gpt2(
    run_dir: str | Path | None = None, loggers: Iterable[Logger] = ()
) -> tuple[GPT2, TokenData, list[dict]]:
    """Train the course's GPT-2 on the story grammar, or load it where that was done before.

    Args:
        run_dir: the run's folder; by default one under :func:`gptoss_lib.settings.home`.
        loggers: see the records of the part of the run that is still to do.

    Returns:
        The trained model, the data, and the records of the log.
    """
    corpus, sizes, settings = _STORY_RUNS[profile()]
    data = story_data(**corpus)
    device = "cuda" if torch.cuda.is_available() and profile() == "full" else "cpu"
    model_config = GPT2Config(vocab_size=data.tokenizer.vocab_size, **sizes)
    config = TrainingConfig(device=device, **settings)
    if run_dir is None:
        recipe = json.dumps([asdict(model_config), settings, len(data.train)])
        run_dir = home() / "runs" / f"story-gpt2-{sha256(recipe.encode()).hexdigest()[:8]}"
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(run_dir) / "lock"):  # a second process waits and finds the run finished
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = GPT2(model_config)
        with torch.no_grad():
            model.wpe.weight.mul_(0.1)  # positions that start as large as words drown them
        history = Trainer(model, data, config, run_dir, loggers=loggers).train()
    return model.eval(), data, history
