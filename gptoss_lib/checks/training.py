"""Checks for the exercises of chapter 06, Training."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptoss_lib.checks import check, expect, unless

__all__ = ["accumulate", "plateau_rate", "replace_file", "split_for_decay"]


class _Reader(nn.Module):
    """A language model small enough to compare gradients exactly: it looks at one token."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(13, 13, generator=generator))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids]


def _gradient(weight_of: Callable[[Tensor], float], micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    model = _Reader()
    for input_ids, labels in micro_batches:
        logits = model(input_ids).flatten(0, 1)
        total = F.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum")
        (total * weight_of(labels)).backward()
    return model.table.grad


def _micro_batches(rows: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Make a micro-batch of two rows a number: how many tokens of its second row are predicted."""
    generator, batches = torch.Generator().manual_seed(1), []
    for predicted in rows:
        input_ids, labels = torch.randint(13, (2, 2, 7), generator=generator)
        labels[1, predicted:] = -100
        batches.append((input_ids, labels))
    return batches


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-7)


@check("Any split gives the gradient of the big batch, and the loss is the mean over all predicted tokens.")
def accumulate(answer: Callable) -> None:
    """Check ``accumulate(model, micro_batches)``: the gradient of the mean over all predicted tokens."""
    micro_batches = _micro_batches([0, 7, 2])
    counts = [int((labels != -100).sum()) for _, labels in micro_batches]
    total = sum(counts)
    model = _Reader()
    loss = answer(model, micro_batches)
    gradient = model.table.grad
    expect(gradient is not None, "After the call, .grad is still None: call backward() for each micro-batch.")

    right = _gradient(lambda labels: 1 / total, micro_batches)
    means = _gradient(lambda labels: 1 / int((labels != -100).sum()) / 3, micro_batches)
    unless(
        _same(gradient, means),
        "This is the mean of the micro-batches' means: "
        "tokens in a micro-batch with few predicted tokens count more.",
    )
    unless(
        _same(gradient, 3 * means),
        "The means are added up and never divided: the gradient grows with the number of parts.",
    )
    unless(
        _same(gradient, total * right),
        "This is the sum over tokens: divide by the number of predicted tokens of all parts.",
    )
    positions = _gradient(lambda labels: 1 / (3 * labels.numel()), micro_batches)
    unless(
        _same(gradient, positions),
        "You divide by all positions; those labelled -100 are not predicted and do not count.",
    )
    weights = (1 / total, 1 / counts[-1], 1 / 3 / counts[-1])
    last = [_gradient(lambda labels, weight=weight: weight, micro_batches[-1:]) for weight in weights]
    unless(
        any(_same(gradient, one) for one in last),
        "Only the last micro-batch counts: zero_grad belongs before the loop, not into it.",
    )
    expect(_same(gradient, right), "The gradient is not that of the mean over all predicted tokens.")

    accumulated = answer(model, micro_batches)
    unless(
        _same(model.table.grad, 2 * right),
        "A second call gives twice the gradient: what was in .grad before has to be cleared first.",
    )
    expected = F.cross_entropy(
        torch.cat([_Reader()(ids) for ids, _ in micro_batches]).flatten(0, 1),
        torch.cat([labels for _, labels in micro_batches]).flatten(),
    ).item()
    for value in (loss, accumulated):
        expect(
            abs(float(value) - expected) < 1e-5,
            f"The gradient is right, but the loss is {float(value):.4f}; "
            f"the mean over all predicted tokens is {expected:.4f}.",
        )


@check("The rate rises, stays and falls on straight lines, and no update is wasted on the rate 0.")
def plateau_rate(answer: Callable) -> None:
    """Check ``plateau_rate(step, steps, warmup, decay, peak)``."""
    steps, warmup, decay, peak = 20, 4, 5, 0.8
    rates = [answer(step, steps, warmup, decay, peak) for step in range(steps)]
    unless(
        rates[0] == 0,
        "The first update has the rate 0 and learns nothing: updates are counted from 0, so add 1.",
    )
    unless(
        abs(rates[3] - peak * 4 / 5) < 1e-9,
        "The peak comes one update late: the last update of the warm-up, warmup - 1, has the peak rate.",
    )
    unless(
        rates[-1] == 0,
        "The last update has the rate 0 and learns nothing; it should have the peak's share 1 / decay.",
    )
    unless(abs(rates[-1] - peak) < 1e-9, "The rate never falls, but the last updates should decay.")
    unless(
        abs(rates[steps - decay] - peak * (decay - 1) / decay) < 1e-9,
        "The decay starts one update early: update steps - decay still has the peak rate.",
    )
    for step in range(steps):
        share = min(1.0, (step + 1) / warmup, (steps - step) / decay)
        expect(
            abs(rates[step] - peak * share) < 1e-9,
            f"Update {step} of {steps} has the rate {rates[step]:.4f}; "
            f"on straight lines it is {peak * share:.4f}.",
        )
    expect(abs(answer(0, 5, 0, 2, 1.0) - 1.0) < 1e-9, "With warmup=0 the first update has the peak rate.")
    expect(abs(answer(4, 5, 2, 0, 1.0) - 1.0) < 1e-9, "With decay=0 the last update has the peak rate.")


class _Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(4, 6, 10))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(4, 10))
        self.down_proj = nn.Parameter(torch.zeros(4, 5, 6))
        self.down_proj_bias = nn.Parameter(torch.zeros(4, 6))


class _Mixture(nn.Module):
    """All that makes the question hard: stacked biases, sinks, tables tied or oddly named, frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.places = nn.Embedding(9, 6), nn.Embedding(8, 6)
        self.norm, self.experts = nn.LayerNorm(6), _Experts()
        self.q_proj = nn.Linear(6, 12)
        self.sinks = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.lm_head = nn.Linear(6, 9, bias=False)
        self.lm_head.weight = self.wte.weight


@check("Matrices decay; norms, biases, sinks and tables do not; each trainable weight is in one list.")
def split_for_decay(answer: Callable) -> None:
    """Check ``split_for_decay(model)``: the names that decay and the names that do not."""
    decayed, spared = (list(names) for names in answer(_Mixture()))
    both = decayed + spared
    unless(
        "lm_head.weight" in both,
        "lm_head.weight is wte.weight under a second name: named_parameters() lists a tied weight once.",
    )
    unless(
        any(name.startswith("frozen") for name in both),
        "A frozen weight (requires_grad is False) is not trained: leave it out.",
    )
    unless(len(both) != len(set(both)), "A weight is in both lists, so it would be updated twice.")
    unless(
        any(name.endswith("_bias") for name in decayed),
        "gate_up_proj_bias has two dimensions because the experts' biases are stacked; it is still a bias.",
    )
    unless(
        "places.weight" in decayed and "wte.weight" not in decayed,
        "A table is known by its module, nn.Embedding, not by its name.",
    )
    unless("wte.weight" in decayed, "wte.weight is a table that tokens are looked up in: it does not decay.")
    unless("norm.weight" in decayed, "norm.weight rests at 1; decay would pull it to 0.")
    unless("sinks" in decayed, "sinks is a vector of one number a head, no matrix: it should not decay.")
    matrices = {"experts.gate_up_proj", "experts.down_proj", "q_proj.weight"}
    missing = matrices - set(decayed)
    expect(not missing, f"{', '.join(sorted(missing))} should decay: a matrix, or a stack of them.")
    expected = {name for name, parameter in _Mixture().named_parameters() if parameter.requires_grad}
    lost = ", ".join(sorted(expected - set(both)))
    expect(set(both) == expected, f"These trainable weights are in neither list: {lost}.")


class _Disk:
    """Watches what happens to one file while an answer replaces it."""

    def __init__(self, path: Path) -> None:
        self.path, self.events = path, []
        self._fsync, self._replace = os.fsync, os.replace

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.events.append(("fsync", status.st_ino, status.st_size))
        self._fsync(descriptor)

    def replace(self, source: str | Path, target: str | Path, **options) -> None:
        old = self.path.read_bytes() if self.path.exists() else None
        status = os.stat(source)
        self.events.append(("replace", status.st_ino, status.st_size, Path(source), old))
        self._replace(source, target, **options)


@check("Whenever the process dies, the old bytes or the new ones are there, complete.")
def replace_file(answer: Callable) -> None:
    """Check ``replace_file(path, data)``: no moment at which the file is neither old nor new."""
    with tempfile.TemporaryDirectory() as folder:
        path, old, new = (
            Path(folder) / "latest.bin",
            b"the good old state",
            b"new" * 300,
        )  # short enough to wait in a buffer
        path.write_bytes(old)
        disk = _Disk(path)
        rename = mock.Mock(side_effect=os.rename)
        with mock.patch.multiple(os, fsync=disk.fsync, replace=disk.replace, rename=rename):
            answer(path, new)
        left = sorted(entry.name for entry in Path(folder).iterdir())
        content = path.read_bytes() if path.exists() else b""

    unless(rename.called, "os.rename fails on Windows where the target exists; os.replace works everywhere.")
    replaced = [event for event in disk.events if event[0] == "replace"]
    expect(
        replaced,
        "os.replace was never called: while the target itself is being written, a death leaves half a file.",
    )
    _, inode, size, source, before = replaced[-1]
    unless(
        before is None,
        "The old file goes before the new one has its name: a death in between leaves nothing.",
    )
    unless(before != old, "The target is written before it is replaced: write to another name first.")
    expect(
        source.parent == path.parent,
        f"The temporary file is in another folder than {path.name}: that may be another disk, "
        "and os.replace cannot move a file across disks.",
    )
    earlier = disk.events[: disk.events.index(replaced[-1])]
    synced = [event for event in earlier if event[:2] == ("fsync", inode)]
    expect(
        synced or not any(event[:2] == ("fsync", inode) for event in disk.events),
        "fsync comes after the rename: the new name may reach the disk before the bytes do.",
    )
    expect(
        synced, "The file is renamed without fsync: after a power cut the name may stand for an empty file."
    )
    unless(
        size != len(new),
        "When the file got its name, not all bytes had left Python: close or flush it first.",
    )
    unless(synced[-1][2] != len(new), "fsync ran before all bytes had left Python's buffer: flush first.")
    expect(content == new, "Afterwards the file does not hold the new bytes.")
    expect(left == [path.name], f"Something is left over in the folder: {', '.join(left)}.")
