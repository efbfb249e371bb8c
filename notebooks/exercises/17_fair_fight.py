# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: The fair fight
#
# Four exercises to the chapter [The fair fight](../17_fair_fight.ipynb). You match two models by hand, put an interval around a difference, referee a table that somebody wants to publish, and find out what an experiment will cost before you pay for it.

# %% tags=["setup"]

# %%
import math

import numpy as np

from gptoss_lib.checks import comparison as check

# %% [markdown]
# ## 1. The matched width
#
# A GPT-2 with `num_layers` layers of width `hidden_size` should have `target` parameters in its body. The body is everything but word table, position table and head: in each layer two LayerNorms, the attention (query, key, value and output, each square, with biases) and the MLP (two matrices, with biases); after the last layer one more LayerNorm. Return the width of the MLP, a positive multiple of `multiple`, that comes nearest. Build no model; solve it.


# %% nbgrader={"grade": false, "grade_id": "gpt2-width", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gpt2_width(target, hidden_size, num_layers, multiple=16):
    """Return the MLP width at which a GPT-2's body has about `target` parameters."""
    ### BEGIN SOLUTION
    D = hidden_size
    norm = 2 * D
    attention = 4 * (D * D + D)
    fixed = num_layers * (2 * norm + attention + D) + norm  # with the bias of the MLP's second matrix
    per_unit = num_layers * (2 * D + 1)
    return multiple * max(1, round((target - fixed) / per_unit / multiple))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "gpt2-width-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.gpt2_width(gpt2_width)
### BEGIN HIDDEN TESTS
assert gpt2_width(698_544, 128, 4) == 416
assert gpt2_width(71_473_792, 512, 8) == 7_696
### END HIDDEN TESTS

# %% [markdown]
# ## 2. A paired interval
#
# Two arms were run with several seeds. `ours` and `theirs` map a seed to bits per byte; a seed that only one of them has does not count. Return the 95 % bootstrap interval `(low, high)` for the mean of *ours − theirs*: resample the differences, not the scores. Draw with `np.random.default_rng(seed)`.


# %% nbgrader={"grade": false, "grade_id": "paired-interval", "locked": false, "schema_version": 3, "solution": true, "task": false}
def paired_interval(ours, theirs, resamples=4_000, seed=0):
    """Return (low, high) of the mean difference ours − theirs, paired by seed."""
    ### BEGIN SOLUTION
    differences = np.array([ours[s] - theirs[s] for s in sorted(ours.keys() & theirs.keys())])
    picks = np.random.default_rng(seed).integers(len(differences), size=(resamples, len(differences)))
    low, high = np.quantile(differences[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "paired-interval-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.paired_interval(paired_interval)
### BEGIN HIDDEN TESTS
low, high = paired_interval({0: 1.0, 1: 2.0, 2: 3.0}, {2: 2.9, 1: 1.9, 0: 0.9})
assert abs(low - 0.1) < 1e-9 and abs(high - 0.1) < 1e-9
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The referee
#
# Somebody sends you two runs and wants to publish who won. Each is a dict:
#
# | key | what it holds |
# |---|---|
# | `precision` | `"fp32"` or `"bf16"` |
# | `tokens` | how many tokens it was trained on |
# | `tokenizer`, `unit` | a name; `"nats a token"` or `"bits per byte"` |
# | `rates_tried` | the list of learning rates that were tried |
# | `rate` | the one that was used, the best of them |
# | `seeds` | the list of seeds that were run |
# | `active` | active parameters of the body |
# | `experts`, `top_k` | experts in a layer, and how many work on a token (1 and 1 in a dense model) |
# | `reported` | `"last"` or `"best"` evaluation |
#
# Return the set of everything that is unfair, by these names:
#
# - `"precision"`, `"tokens"`, `"reported"`: the two differ;
# - `"unit"`: the units differ, or they are nats a token of different tokenizers;
# - `"tuning"`: one of them tried more rates than the other;
# - `"seeds"`: not the same seeds, or fewer than three;
# - `"size"`: active parameters differ by more than 3 % of the smaller;
# - `"router"`: a model of several experts with one at work, which gives its router no gradient.
#
# What is *not* unfair must not be in it: each model may have its own best rate, and sizes cannot match to the last parameter.


# %% nbgrader={"grade": false, "grade_id": "referee", "locked": false, "schema_version": 3, "solution": true, "task": false}
def referee(a, b):
    """Return the set of what is unfair in comparing the runs a and b."""
    ### BEGIN SOLUTION
    small, large = sorted((a["active"], b["active"]))
    tokens_differ = "nats a token" in (a["unit"], b["unit"]) and a["tokenizer"] != b["tokenizer"]
    found = {
        "precision": a["precision"] != b["precision"],
        "tokens": a["tokens"] != b["tokens"],
        "reported": a["reported"] != b["reported"],
        "unit": a["unit"] != b["unit"] or tokens_differ,
        "tuning": len(set(a["rates_tried"])) != len(set(b["rates_tried"])),
        "seeds": set(a["seeds"]) != set(b["seeds"]) or len(set(a["seeds"])) < 3,
        "size": large - small > 0.03 * small,
        "router": any(run["top_k"] == 1 < run["experts"] for run in (a, b)),
    }
    return {name for name, unfair in found.items() if unfair}
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "referee-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.referee(referee)
### BEGIN HIDDEN TESTS
run = {
    "precision": "fp32",
    "tokens": 9,
    "tokenizer": "a",
    "unit": "nats a token",
    "rates_tried": [1, 2],
    "rate": 2,
    "seeds": [4, 5, 6],
    "active": 1000,
    "experts": 1,
    "top_k": 1,
    "reported": "last",
}
assert referee(run, run) == set()
assert referee(run, run | {"tokenizer": "b", "experts": 9, "precision": "bf16"}) == {
    "unit",
    "router",
    "precision",
}
### END HIDDEN TESTS

# %% [markdown]
# ## 4. How many seeds?
#
# You expect a difference of `effect` between two arms, and know from earlier runs that differences, seed by seed, have a standard deviation of `spread`. The half width of Student's interval is $t_{n-1} \cdot \text{spread} / \sqrt{n}$, with $t$ from the table. Return the smallest number of seeds $n$, from 2 to 10, at which it is *smaller* than the effect, whatever the effect's sign; `None` if ten are not enough.

# %%
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


# %% nbgrader={"grade": false, "grade_id": "seeds-needed", "locked": false, "schema_version": 3, "solution": true, "task": false}
def seeds_needed(effect, spread):
    """Return the smallest n whose interval would leave out zero, or None beyond 10."""
    ### BEGIN SOLUTION
    for n in range(2, 11):
        if STUDENT[n - 1] * spread / math.sqrt(n) < abs(effect):
            return n
    return None
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "seeds-needed-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.seeds_needed(seeds_needed)
### BEGIN HIDDEN TESTS
assert seeds_needed(1, 0.05) == 2
assert seeds_needed(0.01, 1) is None
### END HIDDEN TESTS

# %% [markdown]
# Look at what it costs: an effect of the size of the spread needs seven seeds *of both arms*. Halve the effect, and ten are not enough.

# %%
for ratio in (4, 2, 1, 0.8, 0.5):
    print(f"effect {ratio:3} times the spread: {seeds_needed(ratio, 1)} seeds")
