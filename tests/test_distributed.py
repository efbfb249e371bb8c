"""Two processes are one: same losses, same weights, for DDP and FSDP2, saved and resumed on other numbers.

Starting processes takes seconds, so one run of two processes does everything that needs them and writes
its results down; the tests compare them with what this process computes alone.
"""

import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from gptoss_lib import distributed
from gptoss_lib.distributed import (
    DistributedTrainer,
    World,
    consolidate,
    global_balance_loss,
    latest_checkpoint,
    load_sharded,
    parallelize,
    prepare_blocks,
    process_group,
    rank_batches,
    row_range,
    save_sharded,
    synchronized,
    training_memory,
)
from gptoss_lib.model import GPTOSS
from gptoss_lib.moe import load_balancing_loss
from gptoss_lib.pretraining import gptoss_loss, load_run
from gptoss_lib.training import IGNORED, Trainer, TrainingConfig, load_checkpoint
from tests.odd_config import ODD

CONFIG = dataclasses.replace(
    ODD,
    rope_scaling=None,
    num_hidden_layers=3,
    layer_types=("full_attention", "sliding_attention", "full_attention"),
    initializer_range=0.2,
)
RUN = TrainingConfig(
    steps=6,
    batch_size=6,
    seq_len=24,
    grad_accumulation_steps=2,
    learning_rate=3e-3,
    warmup_steps=2,
    grad_clip=0.7,  # clips at each update
    log_every=1,
    checkpoint_every=0,
)
BALANCE, Z = 0.05, 0.002
CPU = torch.device("cpu")


def make_model(config=CONFIG) -> GPTOSS:
    torch.manual_seed(5)
    return GPTOSS(config)


def make_data() -> SimpleNamespace:
    draw = np.random.default_rng(3)
    return SimpleNamespace(
        train=draw.integers(0, 331, 3000).astype(np.uint16),
        val=draw.integers(0, 331, 24 * 7 + 5).astype(np.uint16),  # 8 rows: 3 batches of 3 for 2 processes
        val_bytes=500,
    )


def make_trainer(run_dir: Path, world: World, strategy: str, **options) -> DistributedTrainer:
    settings = dict(balance_coef=BALANCE, z_coef=Z) | options
    return DistributedTrainer(make_model(), make_data(), RUN, run_dir, world, strategy, **settings)


def uneven_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two global micro-batches of 6 rows; the second half of the second one has no label at all."""
    draw = torch.Generator().manual_seed(8)
    batches = []
    for index in range(2):
        ids = torch.randint(331, (6, 25), generator=draw)
        labels = ids[:, 1:].clone()
        labels[torch.rand(labels.shape, generator=draw) < 0.3] = IGNORED
        labels[0, :20] = IGNORED
        if index == 1:
            labels[3:] = IGNORED
        batches.append((ids[:, :-1], labels))
    return batches


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights and moments of a checkpoint, whole."""
    path = latest_checkpoint(folder)
    shapes = json.loads((path / "index.json").read_text())["shapes"]
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    load_sharded(path, tensors, World(0, 1, CPU))
    return tensors


# What the two processes do


def count_collectives(world: World, strategy: str) -> dict[str, int]:
    """Count the collectives that carry gradients, in three micro-batches, with and without waiting."""
    model = make_model()
    wrapped = parallelize(model, world, strategy)
    calls = []
    if strategy == "ddp":

        def hook(_, bucket):
            calls.append(bucket.index())
            work = dist.all_reduce(bucket.buffer() / world.size, async_op=True)
            return work.get_future().then(lambda future: future.value()[0])

        wrapped.register_comm_hook(None, hook)
        original = name = None
    else:
        name = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
        original = getattr(dist, name)
        setattr(dist, name, lambda *args, **options: calls.append(name) or original(*args, **options))
    input_ids, labels = uneven_batches()[0]
    counts = {}
    for kind in ("first round", "every", "last"):
        calls.clear()
        for index in range(3):
            with synchronized(wrapped, last=kind != "last" or index == 2):
                wrapped(input_ids, labels=labels)[0].backward()
        counts[kind] = len(calls)
    if original is not None:
        setattr(dist, name, original)
    return counts


def two_processes(folder: Path) -> None:
    report: dict = {"collectives": {}}
    with process_group(timeout=60) as world:
        for strategy in ("ddp", "fsdp"):
            straight = folder / f"{strategy}-straight"
            trainer = make_trainer(straight, world, strategy, checkpointing=strategy == "fsdp")
            trainer.train()
            if world.rank == 0:
                local = sum(
                    (p.to_local() if strategy == "fsdp" else p).numel() for p in trainer.model.parameters()
                )
                report[f"{strategy} parameters"] = local
            make_trainer(folder / f"{strategy}-resumed", world, strategy).train(until=3)
            if world.rank == 0:
                shutil.copytree(folder / f"{strategy}-resumed", folder / f"{strategy}-half")
            dist.barrier()
            # FSDP2 was straight with recomputed activations; resumed without, it must give the same bits.
            make_trainer(folder / f"{strategy}-resumed", world, strategy).train()
            trainer = make_trainer(folder / f"{strategy}-uneven", world, strategy)
            rows = slice(3 * world.rank, 3 * world.rank + 3)
            record = trainer.update([(ids[rows], labels[rows]) for ids, labels in uneven_batches()])
            trainer.save()
            report[f"{strategy} uneven"] = record
            report["collectives"][strategy] = count_collectives(world, strategy)
        make_trainer(folder / "from-one", world, "fsdp").train()
    if world.rank == 0:
        (folder / "report.json").write_text(json.dumps(report))


def torchrun(*arguments, timeout: int = 120) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The folder that the two processes filled, with a run of one process to go on from."""
    folder = tmp_path_factory.mktemp("distributed")
    with process_group() as world:
        make_trainer(folder / "from-one", world, "ddp").train(until=3)
    done = torchrun(__file__, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of chapter 06's trainer, which knows nothing of other processes."""
    folder = tmp_path_factory.mktemp("alone")

    model = make_model()
    records = Trainer(model, make_data(), RUN, folder, gptoss_loss(BALANCE, Z)).train()
    return [record["loss"] for record in records], dict(model.named_parameters())


# fp32 rounds every sum of two halves by up to 6e-8 of its size, and Adam's division by small second moments
# amplifies that by orders of magnitude in six updates; the mistakes that matter here are beyond 1e-3.
CLOSE = dict(rtol=0, atol=2e-5)


@pytest.mark.parametrize("run", ["ddp-straight", "fsdp-straight", "from-one"])
def test_two_processes_have_the_losses_and_weights_of_one(outcome, alone, run):
    expected_losses, expected = alone
    np.testing.assert_allclose(losses(outcome[0] / run), expected_losses, **CLOSE)
    found = weights(outcome[0] / run)
    for name, parameter in expected.items():
        torch.testing.assert_close(found[f"model.{name}"], parameter.detach(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resumed_run_has_the_same_bits(outcome, strategy):
    straight, resumed = (weights(outcome[0] / f"{strategy}-{kind}") for kind in ("straight", "resumed"))
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
    assert losses(outcome[0] / f"{strategy}-straight") == losses(outcome[0] / f"{strategy}-resumed")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_two_processes_goes_on_with_one(outcome, alone, strategy, tmp_path):
    shutil.copytree(outcome[0] / f"{strategy}-half", tmp_path / "run")
    with process_group() as world:
        other = "fsdp" if strategy == "ddp" else "ddp"
        make_trainer(tmp_path / "run", world, other).train()
    np.testing.assert_allclose(losses(tmp_path / "run"), alone[0], **CLOSE)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_mean_runs_over_all_tokens_of_all_processes(outcome, strategy):
    folder, report = outcome
    model = make_model()
    batches = uneven_batches()
    counts = [int((labels != IGNORED).sum()) for _, labels in batches]
    loss = 0.0
    for (input_ids, labels), count in zip(batches, counts, strict=True):
        part, _ = gptoss_loss(BALANCE, Z)(model, input_ids, labels)
        loss = loss + count / sum(counts) * part
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert norm > 1.1 * RUN.grad_clip, "it must clip, or a process that clips by its own norm is not seen"
    record = report[f"{strategy} uneven"]
    assert record["tokens"] == sum(counts)
    assert record["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    found = weights(folder / f"{strategy}-uneven")
    scale = min(1.0, RUN.grad_clip / norm.item())
    for name, parameter in model.named_parameters():
        expected = 0.1 * scale * parameter.grad  # Adam's mean after one update
        torch.testing.assert_close(found[f"optimizer.{name}.exp_avg"], expected, rtol=1e-4, atol=1e-7)


def test_gradients_travel_once_an_update(outcome):
    counts = outcome[1]["collectives"]
    for strategy in ("ddp", "fsdp"):
        assert counts[strategy]["last"] > 0
        assert counts[strategy]["every"] == 3 * counts[strategy]["last"], counts
    assert counts["fsdp"]["last"] == CONFIG.num_hidden_layers + 1  # one a block, one for the root


def test_fsdp_holds_half_of_the_rows(outcome):
    parameters = list(make_model().parameters())
    assert outcome[1]["ddp parameters"] == sum(p.numel() for p in parameters)
    half = sum(-(-len(p) // 2) * p[0].numel() for p in parameters)  # rounded up on process 0
    assert outcome[1]["fsdp parameters"] == half


# One process


def layer_gradients(model: GPTOSS) -> dict[str, torch.Tensor]:
    model.zero_grad()
    input_ids, labels = uneven_batches()[0]
    loss, router_logits = model(input_ids, labels=labels)
    (loss + sum(load_balancing_loss(logits, 3) for logits in router_logits)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_checkpointing_changes_no_gradient_of_any_layer():
    model = make_model()
    expected = layer_gradients(model)
    runs = []
    prepare_blocks(model, checkpointing=True)
    for index, block in enumerate(model.model.layers):
        block.mlp.register_forward_pre_hook(lambda *_, index=index: runs.append(index))
    found = layer_gradients(model)
    assert runs == [0, 1, 2, 2, 1, 0], "each block runs once more, when its turn comes"
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_this_comparison_sees_the_wrong_layer():
    config = dataclasses.replace(CONFIG, layer_types=("full_attention",) * 3)
    model = make_model(config)
    expected = layer_gradients(model)
    last = model.model.layers[-1].forward
    for block in model.model.layers:
        own, first = block.forward, []

        def wrong(*x, own=own, first=first):
            forward = last if first else own
            first.append(True)
            return forward(*x)

        block.forward = partial(checkpoint, wrong, use_reentrant=False)
    found = layer_gradients(model)
    for layer in range(3):
        same = [torch.equal(found[n], expected[n]) for n in expected if f".layers.{layer}." in n]
        assert all(same) == (layer == 2)


def test_checkpointing_keeps_jitter_and_state_dict_names():
    torch.manual_seed(5)
    plain = GPTOSS(CONFIG, jitter=0.2)
    model = copy.deepcopy(plain)
    prepare_blocks(model, checkpointing=True)
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.manual_seed(1)
    expected = layer_gradients(plain)
    torch.manual_seed(1)
    found = layer_gradients(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_processes_read_what_one_would(size):
    tokens = np.arange(600)
    whole = list(rank_batches(distributed.Batches(tokens, 6, 7, seed=2), World(0, 1, CPU), 30, 4))
    parts = [
        list(rank_batches(distributed.Batches(tokens, 6 // size, 7, seed=2), World(rank, size, CPU), 30, 4))
        for rank in range(size)
    ]
    for index, (input_ids, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[index][0] for part in parts]), input_ids)
        assert torch.equal(torch.cat([part[index][1] for part in parts]), labels)


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_rows_are_cut_as_torch_chunk_cuts(rows, size):
    chunks = [len(chunk) for chunk in torch.arange(rows).chunk(size)]
    ranges = [row_range(rows, rank, size) for rank in range(size)]
    assert [stop - start for start, stop in ranges] == chunks + [0] * (size - len(chunks))
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))


LAST_HOLDER = """
import sys, torch
import torch.distributed as dist
from gptoss_lib.distributed import process_group
sys.setswitchinterval(100)  # threads get Python's lock only where this one lets go of it
for _ in range(300):
    with process_group():
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        model(torch.ones(1, 2)).sum().backward()
        for _ in range(3):
            dist.all_reduce(torch.ones(3))
    del model
"""


def test_a_model_may_outlive_its_process_group():
    # Without a reference of process_group's own this hangs where threads have to wait for a processor.
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        subprocess.run([sys.executable, "-c", LAST_HOLDER], check=True, timeout=90)
    finally:
        for process in busy:
            process.kill()


def test_one_process_balances_as_chapter_14_does():
    logits = [torch.randn(11, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with process_group():
        found = global_balance_loss(logits, 3)
    expected = torch.stack([load_balancing_loss(each, 3) for each in logits]).mean()
    torch.testing.assert_close(found, expected)


def test_memory_of_the_zero_paper():
    # Figure 1 there: 7.5 billion parameters on 64 devices take 120, 31.4, 16.6 and 1.9 GB.
    sizes = [sum(training_memory(7_500_000_000, 64, stage)) / 1e9 for stage in range(4)]
    assert sizes == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)
    with pytest.raises(ValueError, match="stage is 4"):
        training_memory(1, 1, 4)


def test_bf16_is_close_to_fp32(tmp_path):
    config = dataclasses.replace(RUN, steps=2, precision="bf16")
    with process_group() as world:
        found = {}
        for strategy in ("ddp", "fsdp"):
            trainer = DistributedTrainer(
                make_model(), make_data(), config, tmp_path / strategy, world, strategy, BALANCE
            )
            found[strategy] = trainer.train()[0]["loss"]
            assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
        exact = make_trainer(tmp_path / "fp32", world, "ddp", z_coef=0.0).train(until=1)[0]["loss"]
    for loss in found.values():
        assert 0 < abs(loss - exact) < 0.03


def test_errors_say_what_to_do(tmp_path):
    with process_group() as world:
        with pytest.raises(ValueError, match="choose 'ddp' or 'fsdp'"):
            parallelize(make_model(), world, "zero")
        with pytest.raises(ValueError, match=r"batch_size is 6.*multiple of 4"):
            make_trainer(tmp_path, World(0, 4, CPU), "ddp")
        save_sharded(tmp_path / "c", {"w": torch.ones(3, 2)}, {}, world)
        with pytest.raises(ValueError, match=r"w is \[3, 2\] in the checkpoint and \[2, 2\]"):
            load_sharded(tmp_path / "c", {"w": torch.ones(2, 2)}, world)
        with pytest.raises(ValueError, match="v is absent in the checkpoint"):
            load_sharded(tmp_path / "c", {"w": torch.ones(3, 2), "v": torch.ones(1)}, world)
        shard = tmp_path / "c" / "shard-00000-of-00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-5])
        with pytest.raises(ValueError, match="cut off"):
            load_sharded(tmp_path / "c", {"w": torch.ones(3, 2)}, world)
        make_trainer(tmp_path / "run", world, "ddp").train(until=1)
        with pytest.raises(ValueError, match="comes from a run with the config"):
            make_trainer(tmp_path / "run", world, "ddp", balance_coef=0.5).train()
        with pytest.raises(FloatingPointError, match="lower learning_rate"):
            trainer = make_trainer(tmp_path / "nan", world, "ddp")
            with torch.no_grad():
                trainer.model.lm_head.weight.fill_(float("nan"))
            trainer.train()


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    with process_group() as world:
        make_trainer(tmp_path, world, "ddp").train(until=2)
        (tmp_path / "checkpoint-00000009.tmp").mkdir()
        assert latest_checkpoint(tmp_path).name == "checkpoint-00000002"
        consolidate(latest_checkpoint(tmp_path), tmp_path / "whole.safetensors")
    tensors, state = load_checkpoint(tmp_path / "whole.safetensors")
    assert state["step"] == 2
    assert tensors.keys() == {f"model.{name}" for name, _ in make_model().named_parameters()}


def test_a_killed_process_ends_the_run_with_a_sentence_and_it_goes_on(tmp_path, monkeypatch):
    settings = {
        "model": {"preset": "xs", "num_hidden_layers": 2},
        "data": {"documents": 60, "vocab_size": 300},
        "training": {"steps": 5, "batch_size": 4, "seq_len": 16, "warmup_steps": 1, "checkpoint_every": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings | {"balance_coef": 0.02}))
    arguments = [str(tmp_path / "config.json"), "--run-dir", str(tmp_path / "run"), "--timeout", "60"]
    start = time.monotonic()
    broken = torchrun(__file__, "--die", *arguments)
    assert broken.returncode != 0 and time.monotonic() - start < 100
    assert "SIGKILL" in broken.stderr, "torchrun's report names the signal"
    assert "Process 0 stops" in broken.stderr
    assert "The same command goes on from checkpoint-00000002" in broken.stderr
    handler = signal.getsignal(signal.SIGTERM)
    distributed.main([*arguments, "--strategy", "ddp"])
    signal.signal(signal.SIGTERM, handler)
    assert latest_checkpoint(tmp_path / "run").name == "checkpoint-00000005"
    model, _, run = load_run(tmp_path / "run")
    assert run.balance_coef == 0.02 and model.config.num_hidden_layers == 2


def die_in_update_four() -> None:
    """Be the command, but as process 1 die in update 4."""
    update = DistributedTrainer.update

    def fragile(self, micro_batches):
        if self.step == 3 and self.world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, micro_batches)

    DistributedTrainer.update = fragile
    distributed.main()


if __name__ == "__main__":
    if sys.argv[1] == "--die":
        del sys.argv[1]
        die_in_update_four()
    else:
        two_processes(Path(sys.argv[1]))
