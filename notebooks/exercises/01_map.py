# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: The map
#
# Four small tools for judging models that you have not run: what fits a machine, what is in a file, whether a
# published table can be true, and what you can buy with a budget. They use nothing but the chapter
# [The map](../01_map.ipynb). Replace the line that raises `NotImplementedError`, run the cell, then run the check
# below it.

# %% tags=["setup"]
# (this cell is filled in by the course's tools)

# %%
import math

from gptoss_lib.checks import config as check
from gptoss_lib.config import GPTOSSConfig, count_parameters, kv_cache_bytes, parameter_shapes, weight_bytes

# %% [markdown]
# ## 1. What fits
#
# "Does it run on my machine?" has two parts: the weights must fit, and what is left must hold the KV caches of the texts
# that you work on at once. Write the function that answers with a number: how many tokens each text may have.
#
# The cache is in bf16 and keeps only the window in sliding layers. No text may be longer than the model's
# `max_position_embeddings`. If not even one token fits beside the weights, the answer is 0. Leave out what the
# program itself needs while it computes. (The cache grows unevenly, so do not divide: search.)


# %% nbgrader={"grade": false, "grade_id": "longest-text", "locked": false, "schema_version": 3, "solution": true, "task": false}
def longest_text(config, memory_bytes, precision="mxfp4", batch_size=1):
    """Return how many tokens each of ``batch_size`` texts may have beside the weights in ``memory_bytes``."""
    ### BEGIN SOLUTION
    room = memory_bytes - weight_bytes(config, precision)
    fits, too_long = 0, config.max_position_embeddings + 1
    while too_long - fits > 1:
        length = (fits + too_long) // 2
        if kv_cache_bytes(config, length, batch_size) <= room:
            fits = length
        else:
            too_long = length
    return fits
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "longest-text-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.longest_text(longest_text)
### BEGIN HIDDEN TESTS
assert longest_text(GPTOSSConfig.preset("gpt-oss-20b"), 16 * 10**9) == 90_966
assert longest_text(GPTOSSConfig.preset("gpt-oss-120b"), 80 * 10**9, batch_size=7) == 57_036
assert longest_text(GPTOSSConfig.preset("mini"), 10**8, "bf16") == 0
### END HIDDEN TESTS

# %% [markdown]
# Your function, on machines that people have:

# %%
for machine, memory in {"16 GB laptop": 16, "24 GB GPU": 24, "80 GB GPU": 80}.items():
    for name in ("gpt-oss-20b", "gpt-oss-120b"):
        lengths = [
            longest_text(GPTOSSConfig.preset(name), memory * 10**9, batch_size=texts) for texts in (1, 16)
        ]
        print(f"{machine:<13} {name:<13} 1 text of {lengths[0]:>7,} tokens, or 16 of {lengths[1]:>7,}")

# %% [markdown]
# ## 2. Count from a file
#
# Somebody gives you a checkpoint and no config. A checkpoint is a list of names and shapes, as `parameter_shapes`
# returns them. Find the total and the active parameters from the names and shapes alone (and how many experts work on a
# token, which no shape tells).
#
# The embedding is only looked up, so it is not active. The head is. A tied model has no `lm_head.weight`: its head is the
# embedding again. The first dimension of every tensor below `.experts.` is the number of experts. Do not import the
# answer with `count_parameters`: you have no config.


# %% nbgrader={"grade": false, "grade_id": "count-file", "locked": false, "schema_version": 3, "solution": true, "task": false}
def count_file(shapes, experts_per_token):
    """Return ``(total, active)`` for a dict that maps parameter names to shapes."""
    ### BEGIN SOLUTION
    total = active = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        total += size
        if ".experts." in name:
            active += size // shape[0] * experts_per_token
        elif not name.endswith("embed_tokens.weight") or "lm_head.weight" not in shapes:
            active += size
    return total, active
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "count-file-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.count_file(count_file)
### BEGIN HIDDEN TESTS
assert count_file(parameter_shapes(GPTOSSConfig.preset("gpt-oss-20b")), 4) == (20_914_757_184, 3_608_307_264)
assert count_file(parameter_shapes(GPTOSSConfig.preset("s")), 2)[1] == 698_544 + 4096 * 128
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Audit a published table
#
# A comparison of a small GPT-OSS with a GPT-2
# ([nano-gpt-oss](https://github.com/VizuaraAI/nano-gpt-oss)) prints this:
#
# | | GPT-OSS | GPT-2 |
# |---|---|---|
# | parameters | 588M | 564M |
# | disk size (FP16) | 2.19 GB | 2.46 GB |
#
# and concludes that GPT-OSS needs 11 % less disk although it has 4 % more parameters. Can that be? From the chapter
# you know the exact counts: 588,490,284 and 564,241,560.
#
# Write a function that finds every explanation of a published size. Candidates are the two units, GB ($10^9$ bytes) and
# GiB ($2^{30}$ bytes), and 4, 2 or 1 bytes a parameter. An explanation holds if it gives the published size after
# rounding to the digits that were published.


# %% nbgrader={"grade": false, "grade_id": "explain-size", "locked": false, "schema_version": 3, "solution": true, "task": false}
def explain_size(parameters, published, other_bytes=0):
    """Return every ``(unit, bytes per parameter)`` that explains a published size.

    ``published`` is the number as printed, such as ``"2.19"``. ``other_bytes`` is what the file holds besides the
    parameters. Order: GB before GiB, and 4, 2, 1 bytes in each.
    """
    ### BEGIN SOLUTION
    decimals = len(published.partition(".")[2])
    explanations = []
    for unit, size in (("GB", 10**9), ("GiB", 2**30)):
        for width in (4, 2, 1):
            if f"{(parameters * width + other_bytes) / size:.{decimals}f}" == published:
                explanations.append((unit, width))
    return explanations
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "explain-size-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.explain_size(explain_size)
### BEGIN HIDDEN TESTS
assert explain_size(124_439_808, "0.50") == [("GB", 4)]
assert explain_size(124_439_808, "0.2") == [("GB", 2), ("GiB", 2)]
assert explain_size(20_914_757_184, "12.8") == []
### END HIDDEN TESTS

# %% [markdown]
# Now audit. The GPT-2 of that repository stores a mask of 4,000 × 4,000 numbers in each of its 12 layers, along with the
# weights. Two bytes for each of those numbers is one possibility; try it.

# %%
masks = 12 * 4_000 * 4_000 * 2
print("GPT-OSS:          ", explain_size(588_490_284, "2.19"))
print("GPT-2:            ", explain_size(564_241_560, "2.46"))
print("GPT-2 with masks: ", explain_size(564_241_560, "2.46", masks))
print(f"both in FP16, weights only: {588_490_284 * 2 / 1e9:.2f} GB and {564_241_560 * 2 / 1e9:.2f} GB")

# %% [markdown]
# So the unit is GiB and the precision is 4 bytes, not FP16's 2. The GPT-2's size has no explanation by weights alone;
# with stored masks it has one. A mask is not learned and need not be stored. Without it, the model with fewer
# parameters takes less disk, as it must.

# %% [markdown]
# ## 4. Design a model
#
# You have a budget, and what you want is capacity. Find a config with a vocabulary of 4,096 that has
#
# - at least 6 layers, and at least 2,000,000 parameters in its body (everything but embedding and head),
# - experts, of which at least 2 work on a token (with one, the router would learn nothing: chapter 14),
# - at most 3,000,000 parameters in total and at most 1,300,000 active ones,
# - a KV cache of at most 128 KiB (131,072 bytes, bf16) at 256 tokens, its longest context.
#
# Start from any preset, look at what it costs, and change what costs most. There are many solutions.

# %% nbgrader={"grade": false, "grade_id": "small-model", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
small_model = GPTOSSConfig(
    vocab_size=4096,
    hidden_size=128,
    intermediate_size=104,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    num_local_experts=8,
    num_experts_per_tok=2,
    sliding_window=64,
    max_position_embeddings=256,
    rope_theta=10_000.0,
    rope_scaling=None,
    tie_word_embeddings=True,
)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "small-model-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.small_model(small_model)
### BEGIN HIDDEN TESTS
assert count_parameters(small_model).body >= 2_000_000
assert kv_cache_bytes(small_model, 256) <= 128 * 1024
### END HIDDEN TESTS
