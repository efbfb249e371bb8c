# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: KV cache
#
# Three exercises to the chapter [KV cache](../12_kv_cache.ipynb). You say what is in a ring without having watched it, then you write the update that several real caches got wrong, and at last you turn the memory formula around: so many bytes, how many tokens?

# %% tags=["setup"]

# %%
import torch

from gptoss_lib.checks import cache as check
from gptoss_lib.config import GPTOSSConfig, kv_cache_bytes

# %% [markdown]
# ## 1. Which token is where
#
# Token $t$ was written into slot $t \bmod \text{slots}$, and `length` tokens have come, counted from 0. Return for each slot the token that it holds, and −1 where it holds none yet. Do not replay the writing: a text may have a million tokens.


# %% nbgrader={"grade": false, "grade_id": "ring-contents", "locked": false, "schema_version": 3, "solution": true, "task": false}
def ring_contents(length, slots):
    """Return a list with the token in each slot after ``length`` tokens, -1 where there is none."""
    ### BEGIN SOLUTION
    newest = length - 1
    return [max(-1, newest - (newest - slot) % slots) for slot in range(slots)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ring-contents-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.ring_contents(ring_contents)
### BEGIN HIDDEN TESTS
assert list(ring_contents(9, 2)) == [8, 7]
assert list(ring_contents(2, 3)) == [0, 1, -1]
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Append a chunk
#
# A rolling buffer without slots: `kept` holds the keys of the last tokens, oldest first, at most `window` of them. Now a chunk of T new keys arrives. Return two tensors:
#
# - `seen`: the keys that attention must get, oldest first: the new ones, and all earlier ones that the *first* new query still sees, and no more;
# - `kept`: what the buffer holds afterwards, the last `window` tokens (fewer while the text is short).
#
# The chunk may be longer than the window, and `kept` may be empty.


# %% nbgrader={"grade": false, "grade_id": "append", "locked": false, "schema_version": 3, "solution": true, "task": false}
def append(kept, new, window):
    """Return (seen, kept) from kept [B, KV, P, hd], P ≤ window, and new [B, KV, T, hd]."""
    ### BEGIN SOLUTION
    everything = torch.cat((kept, new), dim=2)
    seen = everything[:, :, max(0, kept.shape[2] - (window - 1)) :]
    return seen, everything[:, :, -window:]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "append-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.append(append)
### BEGIN HIDDEN TESTS
line = torch.arange(9.0).view(1, 1, 9, 1)
seen, kept = append(line[:, :, :3], line[:, :, 3:], 3)
assert seen.flatten().tolist() == list(range(1, 9)) and kept.flatten().tolist() == [6, 7, 8]
seen, kept = append(line[:, :, :1], line[:, :, 1:2], 1)
assert seen.flatten().tolist() == kept.flatten().tolist() == [1]
### END HIDDEN TESTS

# %% [markdown]
# ## 3. How long a context fits
#
# A machine has `budget` bytes left for caches, and is to hold `batch_size` texts of equal length, with 2 bytes a value and rings for the sliding layers. Return the longest context that fits, at most the model's `max_position_embeddings`, and 0 where not even one token does. `kv_cache_bytes(config, context_length, batch_size)` grows with the context, but it has a bend at the window.


# %% nbgrader={"grade": false, "grade_id": "longest-context", "locked": false, "schema_version": 3, "solution": true, "task": false}
def longest_context(config, budget, batch_size):
    """Return the largest context_length whose caches for batch_size texts fit into budget bytes."""
    ### BEGIN SOLUTION
    fits, too_long = 0, config.max_position_embeddings + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if kv_cache_bytes(config, middle, batch_size) <= budget:
            fits = middle
        else:
            too_long = middle
    return fits
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "longest-context-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.longest_context(longest_context)
### BEGIN HIDDEN TESTS
oss = GPTOSSConfig.preset("gpt-oss-20b")
assert longest_context(oss, kv_cache_bytes(oss, 5000, 4), 4) == 5000
assert longest_context(oss, kv_cache_bytes(oss, 5000, 4) - 1, 4) == 4999
### END HIDDEN TESTS
