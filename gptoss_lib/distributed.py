"""Train one GPT-OSS on many devices, so that their number changes the time and the memory, and nothing else.

Every process reads its own rows of the same global batch, and gradients are means over all tokens of
all processes. DDP keeps a whole model on each device, FSDP2 a slice. Checkpoints are slices too, in
safetensors files that any other number of processes can read.

Built in chapter 18: edit ``notebooks/18_many_devices.py``, not this file.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.data import Batches, TokenData, bits_per_byte, validation_batches
from gptoss_lib.model import GPTOSS
from gptoss_lib.moe import expert_load, router_z_loss
from gptoss_lib.pretraining import RunConfig, build_model, model_config, prepare_data
from gptoss_lib.settings import keep_memory
from gptoss_lib.training import (
    IGNORED,
    MAY_CHANGE,
    Logger,
    TrainingConfig,
    adamw,
    learning_rate_at,
    read_log,
    save_checkpoint,
)

__all__ = [
    "DistributedTrainer",
    "TrainingMemory",
    "World",
    "consolidate",
    "global_balance_loss",
    "global_shares",
    "latest_checkpoint",
    "load_sharded",
    "main",
    "parallelize",
    "prepare_blocks",
    "process_group",
    "rank_batches",
    "row_range",
    "save_sharded",
    "synchronized",
    "training_memory",
]


class World(NamedTuple):
    """This process among all that train together."""

    rank: int  # its number, from 0
    size: int  # how many there are
    device: torch.device  # where its tensors live


_groups: list[dist.ProcessGroup] = []


@contextmanager
def process_group(device: str = "cpu", timeout: float = 600.0) -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, be a world of one.

    Args:
        device: "cpu" (processes talk through gloo) or "cuda" (through NCCL, one GPU a process).
        timeout: seconds after which waiting for the others becomes an error.
    """
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(place)
    options = {"backend": "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"}
    if "RANK" not in os.environ:
        options |= {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group(timeout=timedelta(seconds=timeout), **options)
    # A model that DDP wraps holds the group too. Were it the last to let go, it would wait for the group's
    # threads without giving up Python's lock, which those threads may need: neither could go on.
    _groups.append(dist.group.WORLD)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()


def rank_batches(batches: Batches, world: World, first: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's rows of ``count`` global micro-batches, the first one being number ``first``.

    Process r of n reads every n-th small batch, so n processes together read the rows that one process
    with batches n times as large would read.

    Args:
        batches: of B/n rows each.
        world: this process.
        first: how many global micro-batches the run has had.
        count: how many to read.
    """
    for number in range(first, first + count):
        batches.step = number * world.size + world.rank
        yield next(batches)


def global_shares(counts: Tensor, world: World) -> tuple[Tensor, Tensor, int]:
    """Return what a process's means weigh in the means over everything in an update.

    Args:
        counts: [A], the predicted tokens of this process's micro-batches.
        world: this process.

    Returns:
        For each micro-batch [A] the weight of this process's mean over predicted tokens, and that of its
        mean over all tokens (every process has as many); and the predicted tokens of the whole update.
    """
    totals = counts.double()
    dist.all_reduce(totals)
    tokens = totals.sum()
    return counts / tokens, totals / tokens / world.size, int(tokens)


def global_balance_loss(router_logits: list[Tensor], num_experts_per_tok: int) -> Tensor:
    """Return the balancing loss, its mean over layers, with the load that all processes have together.

    :func:`gptoss_lib.moe.load_balancing_loss` of the whole batch is the mean of the results over processes,
    and so are its gradients, because the loss is linear in the probabilities.

    Args:
        router_logits: one [N, E] a layer, the same N on every process.
        num_experts_per_tok: K.
    """
    loads = torch.stack([expert_load(logits, num_experts_per_tok) for logits in router_logits])  # [L, E]
    dist.all_reduce(loads)
    loads /= dist.get_world_size()
    probabilities = torch.stack([logits.float().softmax(-1).mean(0) for logits in router_logits])  # [L, E]
    return loads.shape[1] * (loads * probabilities).sum(-1).mean()


def synchronized(model: nn.Module, last: bool) -> AbstractContextManager:
    """Return a context in which gradients travel between processes only if ``last``.

    The forward and the backward pass of a micro-batch both belong inside.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    return nullcontext() if last else model.no_sync()


class TrainingMemory(NamedTuple):
    """Bytes on each device for everything whose size does not depend on the batch."""

    weights: float  # bf16, 2 bytes a parameter
    gradients: float  # bf16, 2 bytes
    masters: float  # exact copies of the weights, fp32, 4 bytes
    moments: float  # Adam's two, fp32, 8 bytes


def training_memory(parameters: int, world_size: int = 1, stage: int = 0) -> TrainingMemory:
    """Return what mixed-precision Adam keeps on each device.

    From "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (Rajbhandari et al.,
    2019), section 3.1 and figure 1.

    Args:
        parameters: of the whole model.
        world_size: devices.
        stage: 0: every device has everything (DDP). 1: masters and moments are sharded. 2: gradients
            too. 3: weights too (FSDP).

    Raises:
        ValueError: if there is no such stage.
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"stage is {stage!r}; ZeRO has the stages 0 to 3.")
    bytes_and_stage = ((2, 3), (2, 2), (4, 1), (8, 1))  # from which stage on a part is sharded
    sizes = [size * parameters / (world_size if stage >= first else 1) for size, first in bytes_and_stage]
    return TrainingMemory(*sizes)


def parallelize(model: GPTOSS, world: World, strategy: str, precision: str = "fp32") -> nn.Module:
    """Spread a model over all processes and return the module to call.

    Args:
        model: the same weights on every process, fp32.
        world: this process.
        strategy: "ddp": a whole copy each, gradients are averaged. "fsdp": a slice each; a block's
            weights are gathered just before it runs and its gradients scattered right after.
        precision: with "bf16", FSDP2 gathers bf16 copies of its fp32 slices; DDP leaves it to autocast.

    Raises:
        ValueError: if there is no such strategy.
    """
    if strategy == "ddp":
        devices = [world.device] if world.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)
    if strategy != "fsdp":
        raise ValueError(f"strategy is {strategy!r}; choose 'ddp' or 'fsdp'.")
    mesh = dist.init_device_mesh(world.device.type, (world.size,))
    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The root takes what is left: embedding, final norm and head, so that tied weights stay together.
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def prepare_blocks(model: GPTOSS, checkpointing: bool = False, compile: bool = False) -> None:
    """Let every block recompute its activations in the backward pass, run compiled, or both.

    Args:
        model: changed in place; parameter names stay as they are.
        checkpointing: keep a block's inputs only, and run it once more when its gradients are due.
        compile: run each block through ``torch.compile``.
    """
    for block in model.model.layers:
        forward = torch.compile(block.forward) if compile else block.forward
        if checkpointing:
            # partial() takes hold of this block now; a lambda would look up the loop's last one later.
            forward = partial(checkpoint, forward, use_reentrant=False)
        block.forward = forward


def row_range(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first row of a process and the one after its last, cut as FSDP2 and ``torch.chunk`` do."""
    size = -(-rows // world_size)
    return min(rank * size, rows), min((rank + 1) * size, rows)


def _shard_name(rank: int, world_size: int) -> str:
    return f"shard-{rank:05d}-of-{world_size:05d}.safetensors"


def save_sharded(path: str | Path, tensors: dict[str, Tensor], state: dict, world: World) -> None:
    """Write a checkpoint that is complete or not there, each process its own rows of every tensor.

    Call it on all processes. They write into a folder with another name; when all are done, process 0
    adds ``index.json`` and renames the folder.

    Args:
        path: the checkpoint's folder, which does not exist yet.
        tensors: the same names on every process; sliced by FSDP2 or whole, with at least one dimension.
        state: anything JSON can hold.
        world: this process.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    if world.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)  # what a process that died left behind
        temporary.mkdir(parents=True)
    dist.barrier()
    mine = {}
    for name, tensor in tensors.items():
        start, stop = row_range(len(tensor), world.rank, world.size)
        mine[name] = tensor.to_local() if isinstance(tensor, DTensor) else tensor[start:stop]
    save_checkpoint(temporary / _shard_name(world.rank, world.size), mine, {})
    dist.barrier()
    if world.rank == 0:
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        index = {"world_size": world.size, "shapes": shapes, "state": state}
        with open(temporary / "index.json", "w", encoding="utf-8") as file:
            json.dump(index, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    dist.barrier()


def _open_shards(path: Path, world_size: int, stack: ExitStack) -> list:
    try:
        names = [path / _shard_name(rank, world_size) for rank in range(world_size)]
        return [stack.enter_context(safe_open(name, framework="pt")) for name in names]
    except SafetensorError as error:
        raise ValueError(f"A file in {path} is cut off ({error}); delete that folder to go on.") from error


@torch.no_grad()
def load_sharded(path: str | Path, tensors: dict[str, Tensor], world: World, prefix: str = "") -> dict:
    """Fill ``tensors`` from a checkpoint of any number of processes, and return its state.

    Each process reads the rows that it needs and no others.

    Args:
        path: the folder that :func:`save_sharded` wrote.
        tensors: what to fill; sliced by FSDP2 or whole.
        world: this process.
        prefix: leave alone what the checkpoint holds under names that begin otherwise.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it belongs to another model, or a file is cut off.
    """
    path = Path(path)
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    shapes = {name: shape for name, shape in index["shapes"].items() if name.startswith(prefix)}
    for name in sorted(shapes.keys() | tensors.keys()):
        theirs = shapes.get(name, "absent")
        ours = list(tensors[name].shape) if name in tensors else "absent"
        if theirs != ours:
            raise ValueError(
                f"{path} belongs to another model: {name} is {theirs} in the checkpoint and {ours} in "
                "this model; build the model from the checkpoint's own config."
            )
    with ExitStack() as stack:
        files = _open_shards(path, index["world_size"], stack)
        for name, tensor in tensors.items():
            sliced = isinstance(tensor, DTensor)
            start, stop = row_range(len(tensor), world.rank, world.size) if sliced else (0, len(tensor))
            target = tensor.to_local() if sliced else tensor
            for rank, file in enumerate(files):
                first, end = row_range(len(tensor), rank, len(files))
                low, high = max(first, start), min(end, stop)
                if low < high:
                    piece = file.get_slice(name)[low - first : high - first]
                    target[low - start : high - start] = piece.to(target.device)
    return index["state"]


def latest_checkpoint(run_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint in a run's folder, or None."""
    return max(Path(run_dir).glob("checkpoint-" + "[0-9]" * 8), default=None)


def consolidate(checkpoint_dir: str | Path, path: str | Path) -> None:
    """Write the weights of a sharded checkpoint to one file, which chapter 06's ``load_weights`` reads.

    Needs no other process, and memory for the weights alone.

    Args:
        checkpoint_dir: the folder that :func:`save_sharded` wrote.
        path: the file to write.
    """
    index = json.loads((Path(checkpoint_dir) / "index.json").read_text(encoding="utf-8"))
    tensors = {name: torch.empty(s) for name, s in index["shapes"].items() if name.startswith("model.")}
    state = load_sharded(checkpoint_dir, tensors, World(0, 1, torch.device("cpu")), prefix="model.")
    save_checkpoint(path, tensors, state)


class DistributedTrainer:
    """Trains a GPT-OSS on all processes, and goes on from the last checkpoint in the run's folder.

    ``batch_size`` is that of all processes together, so the losses are those of one process, whatever
    the number of processes. The folder holds ``log.jsonl`` and one ``checkpoint-<step>`` folder.

    Args:
        model: fp32, and the same weights on every process.
        data: the tokens to train on and to validate on.
        config: how; its ``batch_size`` is divided among the processes.
        run_dir: the run's folder, one that all processes see.
        world: this process.
        strategy: "ddp" or "fsdp", see :func:`parallelize`.
        balance_coef: weight of the balancing loss.
        z_coef: weight of the routers' z-loss.
        checkpointing: recompute activations, see :func:`prepare_blocks`.
        loggers: see each record that process 0 logs.

    Raises:
        ValueError: if the batch cannot be divided, or there is no such strategy.
    """

    _counters = ("step", "tokens", "seconds", "log_bytes")

    def __init__(
        self,
        model: GPTOSS,
        data: TokenData,
        config: TrainingConfig,
        run_dir: str | Path,
        world: World,
        strategy: str = "fsdp",
        balance_coef: float = 0.01,
        z_coef: float = 0.0,
        checkpointing: bool = False,
        loggers: Iterable[Logger] = (),
    ) -> None:
        rows, rest = divmod(config.batch_size, world.size)
        if rest or not rows:
            raise ValueError(
                f"batch_size is {config.batch_size}, which {world.size} processes cannot share evenly; "
                f"choose a multiple of {world.size}."
            )
        self.data, self.config, self.world, self.loggers = data, config, world, list(loggers)
        self.balance_coef, self.z_coef = balance_coef, z_coef
        self.run_dir, self.log_path = Path(run_dir), Path(run_dir) / "log.jsonl"
        self.model = model.to(world.device)
        self.top_k = model.config.num_experts_per_tok
        prepare_blocks(model, checkpointing, config.compile)
        self.forward = parallelize(model, world, strategy, config.precision)
        half = config.precision == "bf16" and strategy == "ddp"
        self.autocast = partial(torch.autocast, world.device.type, torch.bfloat16, enabled=half)
        self.optimizer = adamw(model, config)
        for p in model.parameters():  # as AdamW itself does at its first step; now a checkpoint can fill them
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = {"step": torch.zeros((), device=world.device)} | moments
        self.batches = Batches(data.train, rows, config.seq_len, config.seed)
        self.step = self.tokens = self.log_bytes = 0
        self.seconds = 0.0  # spent on updates and validation, as in chapter 06

    def train(self, until: int | None = None) -> list[dict]:
        """Run to the end, or to update ``until``, and return the records of the log.

        Raises:
            ValueError: if the run folder holds another run.
            FloatingPointError: if the loss or the gradient is not finite.
        """
        config, A = self.config, self.config.grad_accumulation_steps
        last = min(until or config.steps, config.steps)
        cuda = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # the caller's random numbers stay untouched
            self._begin()
            while self.step < last:
                started = time.perf_counter() - self.seconds
                record = self.update(list(rank_batches(self.batches, self.world, self.step * A, A)))
                self.seconds = time.perf_counter() - started
                if self._due(config.log_every) or self.step in (1, config.steps):
                    self._write(record)
                if self._due(config.eval_every) or self.step == config.steps:
                    record = self.validate()
                    self.seconds = time.perf_counter() - started
                    self._write(record)
                if self._due(config.checkpoint_every) or self.step == last:
                    self.save()
        return read_log(self.log_path)

    def update(self, micro_batches: list[tuple[Tensor, Tensor]]) -> dict:
        """Make one update and return its record.

        Args:
            micro_batches: (input_ids, labels) of this process; as many, and as large, on all of them.
                Their numbers of labels that are not ``IGNORED`` may differ.

        Raises:
            FloatingPointError: if the loss or the gradient is not finite.
        """
        config, world = self.config, self.world
        draw = np.random.default_rng([config.seed, self.step, world.rank])
        torch.manual_seed(int(draw.integers(2**63)))
        self.forward.train()
        self.optimizer.zero_grad()
        counts = torch.tensor([int((labels != IGNORED).sum()) for _, labels in micro_batches])
        shares, router_shares, tokens = global_shares(counts, world)
        sums = torch.zeros(3, device=world.device)
        for index, (batch, share, router_share) in enumerate(
            zip(micro_batches, shares.tolist(), router_shares.tolist(), strict=True)
        ):
            with synchronized(self.forward, last=index == len(micro_batches) - 1):
                sums += self._backward(*batch, share, router_share)
        dist.all_reduce(sums)
        loss, nats, balance = sums.tolist()
        norm = self._clip(loss)
        rate = learning_rate_at(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        numbers = {"loss": loss, "nats": nats, "balance": balance, "grad_norm": norm}
        return {"kind": "train", "step": self.step, "tokens": self.tokens, "learning_rate": rate, **numbers}

    def _backward(self, input_ids: Tensor, labels: Tensor, share: float, router_share: float) -> Tensor:
        """Add one micro-batch's gradients; return its part of the loss, of the nats and of the balance."""
        device = self.world.device
        if share == 0:  # there is nothing to predict, but the other processes wait for this one
            labels = torch.zeros_like(labels)
        with self.autocast():
            nats, router_logits = self.forward(input_ids.to(device), labels=labels.to(device))
            balance = global_balance_loss(router_logits, self.top_k)
            z = torch.stack([router_z_loss(logits) for logits in router_logits]).mean()
        nats, balance, z = share * nats, router_share * balance, router_share * z
        loss = nats + self.balance_coef * balance + self.z_coef * z
        # DDP and FSDP2 divide the sum over processes by their number; our shares have done that.
        (self.world.size * loss).backward()
        return torch.stack([loss, nats, balance]).detach()

    def _clip(self, loss: float) -> float:
        """Clip by the norm of the whole gradient, wherever its pieces are, and return that norm."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"Update {self.step + 1}: loss {loss}, gradient norm {float(norm)}; lower learning_rate."
            )
        nn.utils.clip_grads_with_norm_(parameters, self.config.grad_clip or math.inf, norm)
        return float(norm)

    @torch.no_grad()
    def validate(self) -> dict:
        """Score the validation set together and return the record."""
        config, world = self.config, self.world
        self.forward.eval()
        sums = torch.zeros(2, dtype=torch.float64)  # nats, tokens
        batches = validation_batches(self.data.val, config.batch_size // world.size, config.seq_len)
        while group := [batch for _, batch in zip(range(world.size), batches, strict=False)]:
            # FSDP2 gathers weights at every call, so all processes have to make equally many.
            input_ids, labels = group[min(world.rank, len(group) - 1)]
            with self.autocast():
                nats, _ = self.forward(input_ids.to(world.device), labels=labels.to(world.device))
            if world.rank < len(group):
                count = (labels != IGNORED).sum()
                sums += torch.stack([nats.double().cpu() * count, count])
        if isinstance(self.forward, FSDPModule):
            self.forward.reshard()  # its root stays gathered for a backward pass, and there is none
        dist.all_reduce(sums)
        nats, tokens = sums.tolist()
        bits = bits_per_byte(nats, self.data.val_bytes)
        return {"kind": "val", "step": self.step, "loss": nats / tokens, "bits_per_byte": bits, "nats": nats}

    def save(self) -> None:
        """Write ``checkpoint-<step>`` and delete the ones before it."""
        counters = {name: getattr(self, name) for name in self._counters}
        path = self.run_dir / f"checkpoint-{self.step:08d}"
        save_sharded(path, self._tensors(), counters | self._identity(), self.world)
        if self.world.rank == 0:
            for old in self.run_dir.glob("checkpoint-*"):
                if old != path:
                    shutil.rmtree(old)

    def _begin(self) -> None:
        """Go on from the newest checkpoint, or start a log."""
        found = latest_checkpoint(self.run_dir)
        if found is not None:
            state = load_sharded(found, self._tensors(), self.world)
            for name, ours in self._identity().items():
                if state[name] != ours:
                    raise ValueError(
                        f"{found} comes from a run with the {name} {state[name]}, but this one has {ours}; "
                        "use the same to go on, or another folder for a new run."
                    )
            for name in self._counters:
                setattr(self, name, state[name])
            for moments in self.optimizer.state.values():
                moments["step"].fill_(self.step)
        if self.world.rank == 0:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with open(self.log_path, "ab") as log:
                log.truncate(self.log_bytes)  # what came after the checkpoint is done again
        dist.barrier()

    def _tensors(self) -> dict[str, Tensor]:
        """Return weights and moments by name, sliced or whole as they are."""
        tensors = {}
        for name, p in self.model.named_parameters():
            tensors[f"model.{name}"] = p.detach()
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"optimizer.{name}.{key}"] = self.optimizer.state[p][key]
        return tensors

    def _identity(self) -> dict:
        """Return what a checkpoint and this run must agree on, as it looks after JSON."""
        config = {name: value for name, value in asdict(self.config).items() if name not in MAY_CHANGE}
        config |= {"balance_coef": self.balance_coef, "z_coef": self.z_coef}
        parts = {"config": config, "model": asdict(self.model.config), "tokens in": len(self.data.train)}
        return json.loads(json.dumps(parts))

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _write(self, record: dict) -> None:
        if self.world.rank > 0:
            return
        with open(self.log_path, "ab") as log:
            record = record | {"seconds": round(self.seconds, 3)}
            log.write((json.dumps(record) + "\n").encode())
            self.log_bytes = log.tell()
        for logger in self.loggers:
            logger(record)


def _lost_the_others(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="torchrun --nproc-per-node N -m gptoss_lib.distributed",
        description="Train a GPT-OSS on N processes, or go on where the run's last checkpoint left it.",
    )
    parser.add_argument("config", help="the run's JSON file, as for python -m gptoss_lib train")
    parser.add_argument("--run-dir", required=True, help="the run's folder, one that all processes see")
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="fsdp", help="default: fsdp")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--until", type=int, help="stop after this update")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for another process")
    return parser.parse_args(arguments)


def _run(run: RunConfig, data: TokenData, options: argparse.Namespace, run_dir: Path) -> None:
    """Train; then process 0 leaves the folder as chapter 16's ``load_run`` wants it."""
    with process_group(run.training.device, options.timeout) as world:
        trainer = DistributedTrainer(
            build_model(run, data.tokenizer.vocab_size),
            data,
            run.training,
            run_dir,
            world,
            options.strategy,
            run.balance_coef,
            run.z_coef,
            options.checkpointing,
        )
        trainer.train(options.until)
        if world.rank == 0:
            run.to_json(run_dir / "run.json")
            trainer.model.config.to_json(run_dir / "config.json")
            data.tokenizer.save(run_dir / "tokenizer.json")
            consolidate(latest_checkpoint(run_dir), run_dir / "best.safetensors")


@record
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that torchrun starts; ``--help`` describes it."""
    options = _parse(arguments)
    rank, run_dir = os.environ.get("RANK", "0"), Path(options.run_dir)

    def leave(reason: str) -> None:
        found = latest_checkpoint(run_dir)
        where = found.name if found else "the beginning"
        sys.exit(f"Process {rank} stops: {reason}. The same command goes on from {where}.")

    signal.signal(signal.SIGTERM, lambda *_: leave("torchrun ends the run because another process ended"))
    try:
        run = RunConfig.from_json(options.config)
        if not isinstance(model_config(run), GPTOSSConfig):
            raise ValueError("This command trains GPT-OSS models; a GPT-2 trains with python -m gptoss_lib.")
        data = prepare_data(run.data)  # before the processes meet: it may take longer than the timeout
        _run(run, data, options, run_dir)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error) if rank == "0" else 1)
    except RuntimeError as error:
        if not _lost_the_others(error):
            raise
        late = "timed out" in str(error).lower()
        leave("it waited too long for another one" if late else "another one closed the connection")


if __name__ == "__main__" and __spec__ is not None:  # started with -m: a notebook is __main__ too
    keep_memory()
    main()
