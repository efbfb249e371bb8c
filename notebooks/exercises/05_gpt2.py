# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: GPT-2
#
# Four exercises on [chapter 05](../05_gpt2.ipynb): look where attention looks, draw fresh weights, count what you built,
# and repair a model that is wrong in three places without ever failing. Each check names the mistake that it sees.

# %% tags=["setup"]

# %%
import math

import torch
from torch import nn

from gptoss_lib.checks import gpt2 as check
from gptoss_lib.gpt2 import GPT2, GPT2Config, causal_attention

# %% [markdown]
# ## 1. Who looks where
#
# `causal_attention` gives you the mixed values, but a fused kernel never shows the weights. Compute them. The T queries
# belong to the **last** T of the S tokens, as they do when earlier keys come from a cache, so with T = 2 and S = 5 the
# first query sees four keys and the second all five. Use tensor operations only: no loop over positions, no
# `scaled_dot_product_attention`.


# %% nbgrader={"grade": false, "grade_id": "attention-weights", "locked": false, "schema_version": 3, "solution": true, "task": false}
def attention_weights(query, key):
    """Return how much each query looks at each key.

    Args:
        query: [T, hd].
        key: [S, hd], with S ≥ T.

    Returns:
        Weights [T, S]; each row adds up to 1, and a key after the query's own token gets exactly 0.
    """
    ### BEGIN SOLUTION
    T, S, hd = len(query), *key.shape
    scores = query @ key.T / math.sqrt(hd)
    position = torch.arange(S - T, S)  # where each query stands in the text
    scores = scores.masked_fill(torch.arange(S) > position[:, None], -math.inf)
    return scores.softmax(dim=-1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "attention-weights-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.attention_weights(attention_weights)
### BEGIN HIDDEN TESTS
_generator = torch.Generator().manual_seed(5)
_q, _k, _v = (torch.randn(n, 6, generator=_generator) for n in (3, 8, 8))
torch.testing.assert_close(
    attention_weights(_q, _k) @ _v, causal_attention(_q[None, None], _k[None, None], _v[None, None])[0, 0]
)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Fresh weights
#
# Write GPT-2's initialisation as a function from a parameter's **name** and the config to what it should be filled with.
# You get names such as `wte.weight`, `h.3.attn.c_attn.bias`, `h.3.ln_1.weight`, `h.3.mlp.c_proj.weight`. Return the
# **mean** and the **standard deviation** of its fresh values. For a constant the standard deviation is 0.
#
# The published `transformers` had this wrong for a while: its rule never matched a name, and nothing failed.


# %% nbgrader={"grade": false, "grade_id": "fresh-weights", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fresh_weights(name, config):
    """Return (mean, standard deviation) of the fresh values of the parameter with this name."""
    ### BEGIN SOLUTION
    if name.endswith("bias"):
        return 0.0, 0.0
    if "ln_" in name:
        return 1.0, 0.0
    std = config.initializer_range
    if name.endswith("c_proj.weight"):
        return 0.0, std / math.sqrt(2 * config.n_layer)
    return 0.0, std
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "fresh-weights-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.fresh_weights(fresh_weights)
### BEGIN HIDDEN TESTS
_config = GPT2Config(n_layer=32, n_embd=48, n_head=4, initializer_range=0.04)
assert math.isclose(fresh_weights("h.31.attn.c_proj.weight", _config)[1], 0.04 / 8)
assert fresh_weights("ln_f.weight", _config) == (1.0, 0.0)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Count
#
# Write down the number of parameters of any `GPT2Config`, without building the model. Mind the MLP's own width
# (`n_inner`, where `None` means four times the width) and models whose output head is not tied.


# %% nbgrader={"grade": false, "grade_id": "number-of-parameters", "locked": false, "schema_version": 3, "solution": true, "task": false}
def number_of_parameters(config):
    """Return the number of parameters of GPT2(config), by arithmetic alone."""
    ### BEGIN SOLUTION
    D, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    attention = (D * 3 * D + 3 * D) + (D * D + D)
    mlp = (D * inner + inner) + (inner * D + D)
    norms = 2 * 2 * D
    total = (config.vocab_size + config.n_positions) * D + config.n_layer * (attention + mlp + norms) + 2 * D
    return total if config.tie_word_embeddings else total + config.vocab_size * D
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "number-of-parameters-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.number_of_parameters(number_of_parameters)
### BEGIN HIDDEN TESTS
assert number_of_parameters(GPT2Config()) == 124_439_808
assert number_of_parameters(GPT2Config(n_embd=1600, n_layer=48, n_head=25)) == 1_557_611_200
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Find the bugs
#
# Here is a forward pass for the weights of a `GPT2`. It runs, its loss goes down in training, and it is wrong in three
# places. Without a cache `input_ids` is the whole text. With one, it is what follows the `cache.length` tokens whose keys
# and values the cache already holds.


# %%
def broken_forward(model, input_ids, cache=None):
    B, T = input_ids.shape
    x = model.wte(input_ids) + model.wpe(torch.arange(T))
    for block in model.h:
        attn = block.attn
        heads = attn.c_attn(block.ln_1(x)).view(B, T, attn.n_head, 3 * attn.head_dim).transpose(1, 2)
        query, key, value = heads.split(attn.head_dim, dim=-1)
        if cache is not None:
            key, value = cache.update(attn.layer_idx, key, value)
        mixed = causal_attention(query, key, value).transpose(1, 2).reshape(B, T, -1)
        x = x + attn.c_proj(mixed)
        x = x + block.mlp(block.ln_2(x))
    return nn.functional.linear(x, model.wte.weight)


# %% [markdown]
# Write it correctly. Call the parts yourself as above: the point is to find the three places, not to call `model(…)`.


# %% nbgrader={"grade": false, "grade_id": "repaired-forward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def repaired_forward(model, input_ids, cache=None):
    """Return the logits [B, T, V] of a tied GPT2, as model(input_ids, cache) does."""
    ### BEGIN SOLUTION
    past = 0 if cache is None else cache.length
    B, T = input_ids.shape
    x = model.wte(input_ids) + model.wpe(torch.arange(past, past + T))
    for block in model.h:
        attn = block.attn
        query, key, value = (
            part.view(B, T, attn.n_head, attn.head_dim).transpose(1, 2)
            for part in attn.c_attn(block.ln_1(x)).chunk(3, dim=-1)
        )
        if cache is not None:
            key, value = cache.update(attn.layer_idx, key, value)
        mixed = causal_attention(query, key, value).transpose(1, 2).reshape(B, T, -1)
        x = x + attn.c_proj(mixed)
        x = x + block.mlp(block.ln_2(x))
    return nn.functional.linear(model.ln_f(x), model.wte.weight)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "repaired-forward-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.repaired_forward(repaired_forward)
### BEGIN HIDDEN TESTS
torch.manual_seed(3)
_model = GPT2(
    GPT2Config(vocab_size=41, n_positions=13, n_embd=30, n_layer=3, n_head=5, initializer_range=0.3)
)
_ids = torch.randint(41, (2, 13))
torch.testing.assert_close(repaired_forward(_model, _ids), _model(_ids))
### END HIDDEN TESTS
