# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Training
#
# Four places where training goes wrong in silence: a mean over the wrong things, an update that is lost, weights that
# decay and should not, a file that is half written. You write each so that it cannot. Back to the chapter:
# [Training](../06_training.ipynb).

# %% tags=["setup"]

# %%
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from gptoss_lib.checks import training as check

# %% [markdown]
# ## 1. Fair shares
#
# A batch came in parts, because it did not fit into memory. Fill `.grad` of every parameter with the gradient of **the
# mean loss over all predicted tokens of all parts**, and return that mean as a float. The label −100 marks a position
# that is not predicted. Whatever was in `.grad` before must not count.
#
# Only one part may be in memory at a time, so call `backward()` part by part.


# %% nbgrader={"grade": false, "grade_id": "accumulate", "locked": false, "schema_version": 3, "solution": true, "task": false}
def accumulate(model, micro_batches):
    """Leave the gradient of the mean over all predicted tokens in ``.grad`` and return that mean.

    Args:
        model: maps input_ids [B, T] to logits [B, T, V].
        micro_batches: a list of (input_ids [B, T], labels [B, T]).
    """
    ### BEGIN SOLUTION
    total = sum((labels != -100).sum() for _, labels in micro_batches)
    model.zero_grad()
    mean = 0.0
    for input_ids, labels in micro_batches:
        logits = model(input_ids).flatten(0, 1)
        loss = F.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum") / total
        loss.backward()
        mean += loss.item()
    return mean
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "accumulate-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.accumulate(accumulate)
### BEGIN HIDDEN TESTS
hidden_model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11))
hidden_ids, hidden_labels = torch.randint(11, (2, 6, 5), generator=torch.Generator().manual_seed(3))
hidden_labels[1, 1:], hidden_labels[4, 3:] = -100, -100
hidden_whole = accumulate(hidden_model, [(hidden_ids, hidden_labels)])
hidden_gradients = [parameter.grad.clone() for parameter in hidden_model.parameters()]
hidden_parts = accumulate(hidden_model, list(zip(hidden_ids.split(1), hidden_labels.split(1), strict=True)))
assert abs(hidden_whole - hidden_parts) < 1e-5
assert all(
    torch.allclose(p.grad, g, atol=1e-6)
    for p, g in zip(hidden_model.parameters(), hidden_gradients, strict=True)
)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. A plateau schedule
#
# A cosine has to know its end from the start. Many recent models therefore use **warm-up, stable, decay**
# ([Hu et al., 2024](https://arxiv.org/abs/2404.06395)): rise to the peak, stay there as long as you like, and fall only
# at the very end. Write it for update `step`, counted from 0:
#
# - over the first `warmup` updates the rate rises on a straight line; update 0 has `peak / warmup`, update
#   `warmup - 1` has `peak`;
# - the last `decay` updates mirror it: update `steps - decay` has `peak`, the last one `peak / decay`;
# - everything in between has `peak`. Either part may be 0 updates long.


# %% nbgrader={"grade": false, "grade_id": "plateau-rate", "locked": false, "schema_version": 3, "solution": true, "task": false}
def plateau_rate(step, steps, warmup, decay, peak):
    """Return the learning rate of update ``step`` (from 0) in a run of ``steps`` updates."""
    ### BEGIN SOLUTION
    rising = (step + 1) / warmup if warmup else 1.0
    falling = (steps - step) / decay if decay else 1.0
    return peak * min(1.0, rising, falling)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "plateau-rate-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.plateau_rate(plateau_rate)
### BEGIN HIDDEN TESTS
hidden_rates = [plateau_rate(step, 9, 3, 3, 6.0) for step in range(9)]
assert all(abs(a - b) < 1e-9 for a, b in zip(hidden_rates, [2, 4, 6, 6, 6, 6, 6, 4, 2], strict=True))
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Who decays?
#
# Chapter 14 will build a mixture of experts. Its biases are stacked, one row an expert, so they have two dimensions. Its
# output head may be the embedding table itself. Some weights may be frozen. Sort the parameters of such a model by name:
# first the names of those that decay, then the names of the trainable rest. Each trainable weight is in one list, once.
#
# Weight matrices decay, stacks of them too. Norms, biases, sinks and embedding tables do not. A stacked bias can be
# recognised by the end of its name, a table by the module that owns it.


# %% nbgrader={"grade": false, "grade_id": "split-for-decay", "locked": false, "schema_version": 3, "solution": true, "task": false}
def split_for_decay(model):
    """Return two lists of parameter names: those that decay, and the other trainable ones."""
    ### BEGIN SOLUTION
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith("bias") and id(parameter) not in tables
            (decayed if is_matrix else spared).append(name)
    return decayed, spared
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "split-for-decay-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.split_for_decay(split_for_decay)
### BEGIN HIDDEN TESTS
hidden_model = nn.ModuleDict(
    {"vocabulary": nn.Embedding(5, 3), "up": nn.Linear(3, 4), "norm": nn.LayerNorm(4)}
)
hidden_split = split_for_decay(hidden_model)
assert [sorted(names) for names in hidden_split] == [
    ["up.weight"],
    ["norm.bias", "norm.weight", "up.bias", "vocabulary.weight"],
]
### END HIDDEN TESTS

# %% [markdown]
# ## 4. All or nothing
#
# Write `data` to `path`, where an older file may be, so that whenever the process dies or the power fails, the old bytes
# or the new ones are there, complete. You need `os.fsync(file.fileno())`, which returns when the bytes are on the disk,
# and `os.replace(source, target)`, which is a single operation. Mind Python's own buffer: what you `write` may still be
# in it. (The chapter also syncs the folder. Here you may leave that out.)


# %% nbgrader={"grade": false, "grade_id": "replace-file", "locked": false, "schema_version": 3, "solution": true, "task": false}
def replace_file(path, data):
    """Replace the file at ``path`` (a pathlib.Path) by the bytes ``data``, completely or not at all."""
    ### BEGIN SOLUTION
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "replace-file-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.replace_file(replace_file)
### BEGIN HIDDEN TESTS
import tempfile

with tempfile.TemporaryDirectory() as hidden_folder:
    hidden_path = Path(hidden_folder) / "new.bin"  # there was no file before
    replace_file(hidden_path, b"")
    replace_file(hidden_path, b"\x00" * 70_000)
    assert hidden_path.read_bytes() == b"\x00" * 70_000
    assert [entry.name for entry in Path(hidden_folder).iterdir()] == ["new.bin"]
### END HIDDEN TESTS
