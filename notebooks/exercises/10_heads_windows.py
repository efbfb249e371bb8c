# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Heads and windows
#
# Three exercises to the chapter [Heads and windows](../10_heads_windows.ipynb). You build the two parts that are easiest to get almost right, the window and the groups, and then you predict how far a stack of layers can see.

# %% tags=["setup"]

# %%
import torch

from gptoss_lib.checks import masks as check

# %% [markdown]
# ## 1. The window
#
# Build the mask of a sliding layer from positions, without calling the library's masks. A query sees `window` keys at most, its own included. Keys come in any order, as in a cache that is written like a ring, and a key at a negative position is an empty slot.


# %% nbgrader={"grade": false, "grade_id": "sliding-mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sliding_mask(query_positions, key_positions, window):
    """Return [T, S] booleans from positions [T] and [S]: True where the query may look at the key."""
    ### BEGIN SOLUTION
    distance = query_positions[:, None] - key_positions[None, :]  # [T, S], tokens back
    return (distance >= 0) & (distance < window) & (key_positions >= 0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "sliding-mask-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.sliding_mask(sliding_mask)
### BEGIN HIDDEN TESTS
assert sliding_mask(torch.tensor([300]), torch.arange(301), 128).sum() == 128
assert sliding_mask(torch.arange(4), torch.arange(4), 1).equal(torch.eye(4).bool())
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Groups without copies
#
# Compute the scores of grouped heads. Neighbouring query heads share a key head: with H = 6 and KV = 2, heads 0, 1 and 2 use key head 0. Scores are divided by the square root of hd. The check watches every piece of memory that your code asks for, so do not copy the keys, neither with `repeat_interleave` nor in secret (a matrix product of tensors that have to be *broadcast* copies them first).


# %% nbgrader={"grade": false, "grade_id": "grouped-scores", "locked": false, "schema_version": 3, "solution": true, "task": false}
def grouped_scores(query, key):
    """Return the scaled scores [B, H, T, S] of query [B, H, T, hd] and key [B, KV, S, hd]."""
    ### BEGIN SOLUTION
    B, H, T, hd = query.shape
    KV, S = key.shape[1:3]
    stacked = query.reshape(B, KV, H // KV * T, hd)  # the heads of a group are neighbours in memory
    return (stacked @ key.transpose(-2, -1)).view(B, H, T, S) / hd**0.5
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "grouped-scores-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.grouped_scores(grouped_scores)
### BEGIN HIDDEN TESTS
query, key = torch.randn(3, 8, 5, 4), torch.randn(3, 8, 6, 4)
assert torch.allclose(grouped_scores(query, key), query @ key.mT / 2, atol=1e-5)
query, key = torch.randn(1, 8, 5, 16), torch.randn(1, 1, 6, 16)
assert torch.allclose(grouped_scores(query, key), query @ key.mT / 4, atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Reach
#
# How many tokens of a text of `length` tokens, the last one included, can the *last* token's final vector depend on? `layer_types` names the layers from bottom to top, each `"sliding_attention"` or `"full_attention"`. Find the formula; no loop over tokens is needed.


# %% nbgrader={"grade": false, "grade_id": "receptive-field", "locked": false, "schema_version": 3, "solution": true, "task": false}
def receptive_field(layer_types, window, length):
    """Return the number of tokens, at most ``length``."""
    ### BEGIN SOLUTION
    if "full_attention" in layer_types:
        return length
    return min(length, len(layer_types) * (window - 1) + 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "receptive-field-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.receptive_field(receptive_field)
### BEGIN HIDDEN TESTS
assert receptive_field(["sliding_attention"] * 24, 128, 131_072) == 3_049
assert receptive_field(["sliding_attention", "full_attention"] * 12, 128, 131_072) == 131_072
### END HIDDEN TESTS
