"""The checks of chapter 06 accept the solutions and name the mistakes in wrong answers."""

import math
import os
import shutil
import tempfile
from pathlib import Path

import torch.nn.functional as F
from torch import nn

from tests.checks.catalogue import Catalogue

# Fair shares

ACCUMULATE = Catalogue("training", "accumulate")


def total_of(micro_batches):
    return sum((labels != -100).sum() for _, labels in micro_batches)


def loss_of(model, input_ids, labels, reduction="mean"):
    return F.cross_entropy(model(input_ids).flatten(0, 1), labels.flatten(), reduction=reduction)


@ACCUMULATE.wrong("mean of the micro-batches' means")
def mean_of_means(model, micro_batches):
    model.zero_grad()
    losses = []
    for input_ids, labels in micro_batches:
        loss = loss_of(model, input_ids, labels) / len(micro_batches)
        loss.backward()
        losses.append(loss.item())
    return sum(losses)


@ACCUMULATE.wrong("never divided")
def sum_of_means(model, micro_batches):
    model.zero_grad()
    for input_ids, labels in micro_batches:
        loss_of(model, input_ids, labels).backward()
    return 0.0


@ACCUMULATE.wrong("sum over tokens")
def sum_over_tokens(model, micro_batches):
    model.zero_grad()
    for input_ids, labels in micro_batches:
        loss_of(model, input_ids, labels, "sum").backward()
    return 0.0


@ACCUMULATE.wrong("all positions")
def over_all_positions(model, micro_batches):
    model.zero_grad()
    total = sum(labels.numel() for _, labels in micro_batches)
    for input_ids, labels in micro_batches:
        (loss_of(model, input_ids, labels, "sum") / total).backward()
    return 0.0


@ACCUMULATE.wrong("only the last micro-batch")
def zero_grad_in_the_loop(model, micro_batches):
    for input_ids, labels in micro_batches:
        model.zero_grad()
        (loss_of(model, input_ids, labels, "sum") / total_of(micro_batches)).backward()
    return 0.0


@ACCUMULATE.wrong("twice the gradient")
def never_zeroed(model, micro_batches):
    for input_ids, labels in micro_batches:
        (loss_of(model, input_ids, labels, "sum") / total_of(micro_batches)).backward()
    return 0.0


@ACCUMULATE.wrong("the loss is")
def returns_the_last_loss(model, micro_batches):
    model.zero_grad()
    for input_ids, labels in micro_batches:
        loss = loss_of(model, input_ids, labels, "sum") / total_of(micro_batches)
        loss.backward()
    return loss.item()


@ACCUMULATE.wrong("still None")
def never_backward(model, micro_batches):
    return sum(loss_of(model, *batch, "sum").item() for batch in micro_batches) / total_of(micro_batches)


test_accumulate = ACCUMULATE.test

# A plateau schedule

PLATEAU = Catalogue("training", "plateau_rate")


@PLATEAU.wrong("first update has the rate 0")
def counts_from_zero(step, steps, warmup, decay, peak):
    return peak * min(1.0, step / warmup if warmup else 1.0, (steps - step) / decay if decay else 1.0)


@PLATEAU.wrong("one update late")
def peak_one_late(step, steps, warmup, decay, peak):
    return peak * min(1.0, (step + 1) / (warmup + 1), (steps - step) / decay if decay else 1.0)


@PLATEAU.wrong("last update has the rate 0")
def ends_at_zero(step, steps, warmup, decay, peak):
    falling = (steps - 1 - step) / decay if decay else 1.0
    return peak * min(1.0, (step + 1) / warmup if warmup else 1.0, falling)


@PLATEAU.wrong("starts one update early")
def falls_one_early(step, steps, warmup, decay, peak):
    falling = max((steps - 1 - step) / decay, 1 / (2 * decay)) if decay else 1.0
    return peak * min(1.0, (step + 1) / warmup if warmup else 1.0, falling)


@PLATEAU.wrong("never falls")
def never_falls(step, steps, warmup, decay, peak):
    return peak * min(1.0, (step + 1) / warmup if warmup else 1.0)


@PLATEAU.wrong("straight lines")
def falls_on_a_cosine(step, steps, warmup, decay, peak):
    share = min(1.0, (steps - step) / decay if decay else 1.0)
    return peak * min((step + 1) / warmup if warmup else 1.0, 0.5 - 0.5 * math.cos(math.pi * share))


@PLATEAU.wrong("ZeroDivisionError")
def divides_by_zero(step, steps, warmup, decay, peak):
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / decay)


test_plateau_rate = PLATEAU.test

# Who decays?

DECAY = Catalogue("training", "split_for_decay")


def split(model, decays, frozen=False, repeat=False):
    decayed, spared = [], []
    for name, parameter in model.named_parameters(remove_duplicate=not repeat):
        if parameter.requires_grad or frozen:
            (decayed if decays(name, parameter) else spared).append(name)
    return decayed, spared


def right(model):
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return lambda name, p: p.ndim >= 2 and not name.endswith("bias") and id(p) not in tables


@DECAY.wrong("stacked")
def by_dimensions_alone(model):
    return split(model, lambda name, p: p.ndim >= 2)


@DECAY.wrong("table")
def tables_decay(model):
    return split(model, lambda name, p: p.ndim >= 2 and not name.endswith("bias"))


@DECAY.wrong("nn.Embedding")
def tables_by_name(model):
    return split(model, lambda name, p: p.ndim >= 2 and not name.endswith("bias") and "wte" not in name)


@DECAY.wrong("rests at 1")
def norms_decay(model):
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return split(model, lambda name, p: not name.endswith("bias") and id(p) not in tables)


@DECAY.wrong("sinks")
def sinks_decay(model):
    return split(model, lambda name, p: right(model)(name, p) or name == "sinks")


@DECAY.wrong("frozen")
def frozen_too(model):
    return split(model, right(model), frozen=True)


@DECAY.wrong("second name")
def tied_twice(model):
    return split(model, right(model), repeat=True)


@DECAY.wrong("should decay")
def linear_layers_only(model):
    return split(model, lambda name, p: right(model)(name, p) and name.endswith("weight"))


@DECAY.wrong("neither list")
def forgets_the_rest(model):
    decayed, spared = split(model, right(model))
    return decayed, [name for name in spared if "norm" not in name]


@DECAY.wrong("both lists")
def everything_twice(model):
    decayed, spared = split(model, right(model))
    return decayed, spared + decayed


test_split_for_decay = DECAY.test

# All or nothing

REPLACE = Catalogue("training", "replace_file")


def written(path, data, sync=True, flush=True):
    with open(path, "wb") as file:
        file.write(data)
        if flush:
            file.flush()
        if sync:
            os.fsync(file.fileno())
    return path


@REPLACE.wrong("half a file")
def in_place(path, data):
    written(path, data)


@REPLACE.wrong("half a file")
def by_copying(path, data):
    shutil.copyfile(written(path.with_suffix(".tmp"), data), path)
    path.with_suffix(".tmp").unlink()


@REPLACE.wrong("leaves nothing")
def deletes_first(path, data):
    temporary = written(path.with_suffix(".tmp"), data)
    path.unlink()
    os.replace(temporary, path)


@REPLACE.wrong("without fsync")
def without_fsync(path, data):
    os.replace(written(path.with_suffix(".tmp"), data, sync=False), path)


@REPLACE.wrong("buffer")
def without_flush(path, data):
    os.replace(written(path.with_suffix(".tmp"), data, flush=False), path)


@REPLACE.wrong("after the rename")
def fsync_too_late(path, data):
    os.replace(written(path.with_suffix(".tmp"), data, sync=False), path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@REPLACE.wrong("another folder")
def in_another_folder(path, data):
    with tempfile.TemporaryDirectory() as folder:
        os.replace(written(Path(folder) / "new", data), path)


@REPLACE.wrong("left Python")
def renamed_while_open(path, data):
    with open(path.with_suffix(".tmp"), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
        os.replace(path.with_suffix(".tmp"), path)


@REPLACE.wrong("Windows")
def with_rename(path, data):
    os.rename(written(path.with_suffix(".tmp"), data), path)


@REPLACE.wrong("left over")
def leaves_the_backup(path, data):
    shutil.copyfile(path, path.with_suffix(".old"))
    os.replace(written(path.with_suffix(".tmp"), data), path)


test_replace_file = REPLACE.test
