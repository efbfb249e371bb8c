# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: RoPE and YaRN
#
# Four exercises to the chapter [RoPE and YaRN](../09_rope_yarn.ipynb). Most bugs in this area do not crash and do not show on short texts. So you convert weights between the two layouts, write a test that catches broken rotations, and learn to recognise a wrong YaRN by its frequencies.

# %% tags=["setup"]

# %%
import math

import torch

from gptoss_lib.checks import rope as check
from gptoss_lib.config import RopeScaling
from gptoss_lib.rope import rope_inv_freq, yarn_inv_freq

# %% [markdown]
# ## 1. Two layouts
#
# A model was trained with **interleaved** pairs: numbers $2i$ and $2i+1$ of a head turn together. Our `apply_rotary` works on **halves**: numbers $i$ and $i + \mathrm{hd}/2$. You need not touch the rotation. A query is `weight @ x`, so the order of its numbers is the order of the weight's rows. Put the rows of the query projection (and, the same way, those of the key projection) into an order in which our halves turn together what was trained together.
#
# Why does attention not notice the new order? (Think of the dot product of a query and a key.) Why must the value projection stay as it is?


# %% nbgrader={"grade": false, "grade_id": "interleaved-to-halves", "locked": false, "schema_version": 3, "solution": true, "task": false}
def interleaved_to_halves(weight, head_dim):
    """Reorder the rows of a query or key projection [H·hd, D], head by head; return a new tensor.

    Row 2i of a head becomes its row i, row 2i + 1 becomes row i + hd/2.
    """
    ### BEGIN SOLUTION
    rows, width = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, width)  # [H, pair, which of the two, D]
    return pairs.transpose(1, 2).reshape(rows, width)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "interleaved-to-halves-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.interleaved_to_halves(interleaved_to_halves)
### BEGIN HIDDEN TESTS
rows = torch.arange(12.0)[:, None]
assert interleaved_to_halves(rows, 6)[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Write the test
#
# Write a function that judges a rotation it has never seen. `rotate(x, position)` takes one head `x` of 16 numbers (fp32) and a position (an `int` from 0 to 4,095) and returns 16 numbers. Return `True` if both hold, and `False` otherwise:
#
# - when query and key move together, their score stays the same, up to rounding;
# - when the distance between them changes, the score changes.
#
# Some of the rotations that the check will hand you are right in unusual ways, and some are wrong only in places where nobody looks.


# %% nbgrader={"grade": false, "grade_id": "is-relative", "locked": false, "schema_version": 3, "solution": true, "task": false}
def is_relative(rotate):
    """Tell whether scores under ``rotate`` depend on the distance, and on nothing else but content."""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 16, generator=generator)

    def score(m, n):
        return float(rotate(query, m) @ rotate(key, n))

    distances = (0, 1, 7, 130)
    shifts = (1, 2, 3, 64, 255, 1_001, 3_900)
    same = all(
        abs(score(distance + shift, shift) - score(distance, 0)) < 1e-2
        for distance in distances
        for shift in shifts
    )
    different = abs(score(7, 0) - score(1, 0)) > 1e-2
    return same and different
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "is-relative-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.is_relative(is_relative)
### BEGIN HIDDEN TESTS
assert not is_relative(lambda x, position: x * (1 + position / 4096))
assert not is_relative(lambda x, position: x.roll(1) if position == 0 else x)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The ramp
#
# Pair $i$ has the frequency $\theta^{-2i/\mathrm{hd}}$ radians a token. Which pair, as a fractional index, makes exactly `beta_fast` turns within the original context, and which makes `beta_slow`? Solve for $i$; do not round.


# %% nbgrader={"grade": false, "grade_id": "ramp-bounds", "locked": false, "schema_version": 3, "solution": true, "task": false}
def ramp_bounds(head_dim, theta, context, beta_fast, beta_slow):
    """Return (low, high): the pairs at which YaRN starts to slow down and has slowed down in full."""

    ### BEGIN SOLUTION
    def pair_that_turns(times):
        tokens_per_radian = context / (2 * math.pi * times)
        return head_dim / 2 * math.log(tokens_per_radian) / math.log(theta)

    return pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "ramp-bounds-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.ramp_bounds(ramp_bounds)
### BEGIN HIDDEN TESTS
assert all(
    math.isclose(a, b, abs_tol=1e-6)
    for a, b in zip(ramp_bounds(48, 1_000, 32, 4, 1), (0.839281, 5.655761), strict=True)
)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Spot the impostor
#
# You get the 32 frequencies of a model that claims to be gpt-oss (theta 150,000, head_dim 64, original context 4,096, factor 32). Say what they are:
#
# - `"plain"`: RoPE without any stretching;
# - `"interpolated"`: all frequencies divided by the factor;
# - `"yarn"`: what gpt-oss uses;
# - `"truncated"`: YaRN with its ramp rounded to whole pairs;
# - `"unknown"`: none of these.
#
# The frequencies were computed elsewhere, so the last bit may differ. A tolerance too loose, and the impostor passes; mind that the frequencies span five orders of magnitude.


# %% nbgrader={"grade": false, "grade_id": "diagnose", "locked": false, "schema_version": 3, "solution": true, "task": false}
def diagnose(inv_freq):
    """Name the kind of frequencies in ``inv_freq`` [32], radians a token."""
    ### BEGIN SOLUTION
    plain = rope_inv_freq(64, 150_000)
    kinds = {
        "plain": plain,
        "interpolated": plain / 32,
        "yarn": yarn_inv_freq(64, 150_000, RopeScaling()),
        "truncated": yarn_inv_freq(64, 150_000, RopeScaling(truncate=True)),
    }
    for name, expected in kinds.items():
        if torch.allclose(inv_freq, expected, rtol=1e-5, atol=0):
            return name
    return "unknown"
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "diagnose-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.diagnose(diagnose)
### BEGIN HIDDEN TESTS
assert diagnose(yarn_inv_freq(64, 150_000, RopeScaling(factor=16.0))) == "unknown"
### END HIDDEN TESTS
