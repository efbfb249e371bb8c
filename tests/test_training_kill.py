"""A run that is killed 20 times ends with the same bits as one that was left alone.

A process that has imported everything forks the runs, so that a kill costs milliseconds and not the
seconds that importing PyTorch takes. It is a fresh process: forking pytest's own, with its threads, is
not safe.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

KILLS = 20
STEPS = 600
EVERY = 5  # updates between two checkpoints; an evaluation comes at update 8
# What is left by a kill at the n-th disk operation of the first ten updates: a checkpoint syncs its
# file, renames it and syncs the folder; all but the first and the best sync the log before that.
SEAMS = [None, None, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 10]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def make_trainer(run_dir: Path):
    import numpy as np
    import torch

    from gptoss_lib.gpt2 import GPT2, GPT2Config
    from gptoss_lib.training import Trainer, TrainingConfig

    class Noisy(torch.nn.Module):
        """A GPT-2 whose logits are thinned out at random: a resumed run must draw the same numbers."""

        def __init__(self, config: GPT2Config) -> None:
            super().__init__()
            self.config, self.inner, self.dropout = config, GPT2(config), torch.nn.Dropout(0.1)

        def forward(self, input_ids):
            return self.dropout(self.inner(input_ids))

    generator = np.random.default_rng(3)
    data = SimpleNamespace(
        train=generator.integers(0, 29, 1500).astype(np.uint16),
        val=generator.integers(0, 29, 150).astype(np.uint16),
        val_bytes=400,
    )
    torch.manual_seed(1)
    model = Noisy(GPT2Config(vocab_size=29, n_positions=12, n_embd=16, n_layer=1, n_head=2))
    config = TrainingConfig(
        steps=STEPS,
        batch_size=3,
        seq_len=12,
        grad_accumulation_steps=2,
        warmup_steps=7,
        log_every=1,
        eval_every=8,
        checkpoint_every=EVERY,
    )
    return Trainer(model, data, config, run_dir)


def in_a_child(work) -> int:
    """Run ``work`` in a forked process and return its id; it leaves with 0 only if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def lines(run_dir: Path) -> list[dict]:
    """The log's complete lines without their timings: a killed process may leave a piece of one."""
    path = run_dir / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    records = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def checkpoint_step(run_dir: Path) -> int | None:
    from gptoss_lib.training import load_checkpoint

    path = run_dir / "latest.safetensors"
    return load_checkpoint(path)[1]["step"] if path.exists() else None


def saved_at(run_dir: Path) -> int:
    path = run_dir / "latest.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_again_and_again(folder: Path) -> list[dict]:
    """Kill one run at random moments until ``KILLS`` have hit, and report what each kill left."""
    chance, killed, report = random.Random(6), folder / "killed", []
    while len(report) < KILLS:
        before, deadline = saved_at(killed), time.monotonic() + 10
        pid = in_a_child(lambda: make_trainer(killed).train())
        if chance.random() < 0.8:  # the others may hit a run that is still starting
            while saved_at(killed) == before and time.monotonic() < deadline:
                time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the run was over before it had been killed often enough"
        logged = max((record["step"] for record in lines(killed)), default=0)
        report.append({"logged": logged, "kept": checkpoint_step(killed)})
    return report


def kill_at_every_seam(folder: Path) -> list[int | None]:
    """Let fresh runs kill themselves at their n-th disk operation, for every n, then finish them.

    Returns the step that each could go on from.
    """

    def work(run_dir: Path, operations: int) -> None:
        def armed(function):
            def call(*args):
                nonlocal operations
                operations -= 1
                if operations == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args)

            return call

        os.fsync, os.replace = armed(os.fsync), armed(os.replace)
        make_trainer(run_dir).train(until=2 * EVERY)

    kept = []
    for operations in range(1, len(SEAMS) + 1):
        run_dir = folder / f"seam-{operations}"
        pid = in_a_child(lambda run_dir=run_dir, operations=operations: work(run_dir, operations))
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), f"there are fewer than {operations} disk operations"
        kept.append(checkpoint_step(run_dir))
        pid = in_a_child(lambda run_dir=run_dir: make_trainer(run_dir).train(until=2 * EVERY))
        assert os.waitpid(pid, 0)[1] == 0, f"no way to go on from a kill at disk operation {operations}"
    return kept


def nursery(folder: Path) -> None:
    """The fresh process: make a straight run and killed ones, and write down how they went."""
    import torch

    torch.set_num_threads(1)
    make_trainer(folder / "unused")  # imports everything before the first fork
    kills, seams = kill_again_and_again(folder), kill_at_every_seam(folder)
    for name, until in (("killed", None), ("straight", None), ("short", 2 * EVERY)):
        pid = in_a_child(lambda name=name, until=until: make_trainer(folder / name).train(until))
        assert os.waitpid(pid, 0)[1] == 0, f"the {name} run failed"
    (folder / "report.json").write_text(json.dumps({"kills": kills, "seams": seams}))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "report.json").read_text())


def assert_same_bits(run: Path, straight: Path, name: str = "latest.safetensors") -> None:
    import torch

    from gptoss_lib.training import load_checkpoint

    (tensors, state), (expected, expected_state) = (
        load_checkpoint(run / name),
        load_checkpoint(straight / name),
    )
    assert tensors.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(tensors[key], expected[key])] == []
    for values in (state, expected_state):
        del values["seconds"], values["log_bytes"]  # a timing may have a digit more
    assert state == expected_state


def test_no_kill_costs_more_than_the_steps_since_the_last_checkpoint(outcome):
    kills = outcome[1]["kills"]
    assert len(kills) == KILLS
    assert len({kill["kept"] for kill in kills}) > KILLS // 4, "the kills hit hardly any progress"
    for kill in kills:
        if kill["logged"]:
            assert kill["kept"] >= (kill["logged"] - 1) // EVERY * EVERY, kill


def test_the_killed_run_ends_with_the_same_bits(outcome):
    folder, _ = outcome
    assert_same_bits(folder / "killed", folder / "straight")
    assert_same_bits(folder / "killed", folder / "straight", "best.safetensors")


def test_the_killed_run_has_no_line_twice_and_none_lost(outcome):
    folder, _ = outcome
    straight = lines(folder / "straight")
    assert [record["step"] for record in straight if record["kind"] == "train"] == list(range(1, STEPS + 1))
    assert lines(folder / "killed") == straight


def test_a_kill_at_any_disk_operation_leaves_the_checkpoint_before_or_after_it(outcome):
    folder, report = outcome
    assert report["seams"] == SEAMS
    for operations in range(1, len(SEAMS) + 1):
        assert_same_bits(folder / f"seam-{operations}", folder / "short")
        assert lines(folder / f"seam-{operations}") == lines(folder / "short")


if __name__ == "__main__":
    nursery(Path(sys.argv[1]))
