# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Many devices
#
# Four exercises to the chapter [Many devices](../18_many_devices.ipynb). You weigh losses so that the number of processes does not matter, send chunks around a ring, recompute the right layer, and find out how many devices a model needs. None of them needs a second process.

# %% tags=["setup"]

# %%
import functools

import torch
from torch.utils.checkpoint import checkpoint

from gptoss_lib.checks import distributed as check

# %% [markdown]
# ## 1. The mean over all tokens
#
# A process has the mean loss `mean_loss` of its `count` predicted tokens. All `world_size` processes together have `total` of them. DDP will *average* the gradients of the processes. What should each process call `backward()` on, so that the result is the gradient of the mean over all tokens? (A process with `count` 0 has a `mean_loss` of 0.)


# %% nbgrader={"grade": false, "grade_id": "scaled-loss", "locked": false, "schema_version": 3, "solution": true, "task": false}
def scaled_loss(mean_loss, count, total, world_size):
    """Return the number whose gradient DDP should average."""
    ### BEGIN SOLUTION
    return mean_loss * count / total * world_size
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "scaled-loss-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.scaled_loss(scaled_loss)
### BEGIN HIDDEN TESTS
assert abs(scaled_loss(3.0, 5, 20, 4) - 3.0) < 1e-9
assert abs(scaled_loss(3.0, 5, 10, 4) - 6.0) < 1e-9
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Half a ring
#
# In the chapter's ring, process $r$ sends chunk $(r - s) \bmod n$ in step $s$ to process $r + 1$, which adds it to its own. After the $n - 1$ steps of the reduce-scatter, process $r$ holds the finished chunk $r + 1$. FSDP2 wants it otherwise: process $r$ owns slice $r$. Which chunk must process `rank` send in `step`, so that after $n - 1$ steps every process holds its own chunk, finished?


# %% nbgrader={"grade": false, "grade_id": "chunk-to-send", "locked": false, "schema_version": 3, "solution": true, "task": false}
def chunk_to_send(rank, step, world_size):
    """Return the number of the chunk, 0 to world_size − 1."""
    ### BEGIN SOLUTION
    return (rank - step - 1) % world_size
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "chunk-to-send-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.chunk_to_send(chunk_to_send)
### BEGIN HIDDEN TESTS
assert [chunk_to_send(0, step, 3) for step in range(2)] == [2, 1]
assert chunk_to_send(4, 0, 7) == 3
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The wrong layer
#
# This function recomputes the last block in place of every other. Write it so that each block is checkpointed *by itself* and recomputed as itself. Blocks take and return one tensor.
#
# ```python
# def run_checkpointed(blocks, x):
#     for block in blocks:
#         x = checkpoint(lambda x: block(x), x, use_reentrant=False)
#     return x
# ```


# %% nbgrader={"grade": false, "grade_id": "run-checkpointed", "locked": false, "schema_version": 3, "solution": true, "task": false}
def run_checkpointed(blocks, x):
    """Run all blocks on x, keeping only their inputs for the backward pass."""
    ### BEGIN SOLUTION
    for block in blocks:
        x = checkpoint(functools.partial(block), x, use_reentrant=False)
    return x
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "run-checkpointed-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.run_checkpointed(run_checkpointed)
### BEGIN HIDDEN TESTS
scale = torch.nn.Parameter(torch.tensor(3.0))
blocks = [lambda x: scale * x.square(), lambda x: x + scale]
run_checkpointed(blocks, torch.tensor(2.0, requires_grad=True)).backward()
assert float(scale.grad) == 5.0
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Will it fit?
#
# A device has `device_bytes` for the training state (activations are set aside already). A model has `parameters`; mixed-precision Adam keeps 2 bytes of weights, 2 of gradients, 4 of master weights and 8 of moments for each. ZeRO shards masters and moments from stage 1 on, gradients from stage 2, weights at stage 3. Devices come in powers of two, 1 to 65,536. Return the smallest number that is enough, or None where none is.


# %% nbgrader={"grade": false, "grade_id": "smallest-group", "locked": false, "schema_version": 3, "solution": true, "task": false}
def smallest_group(parameters, stage, device_bytes):
    """Return how many devices it takes at ZeRO stage 0, 1, 2 or 3, or None."""
    ### BEGIN SOLUTION
    for power in range(17):
        n = 2**power
        need = 0
        for size, first_stage in ((2, 3), (2, 2), (12, 1)):
            need += parameters * size / (n if stage >= first_stage else 1)
        if need <= device_bytes:
            return n
    return None
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "smallest-group-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.smallest_group(smallest_group)
### BEGIN HIDDEN TESTS
assert smallest_group(1_000, 3, 16_000) == 1
assert smallest_group(1_000, 3, 15_999) == 2
assert smallest_group(1_000, 1, 4_000) is None
### END HIDDEN TESTS
