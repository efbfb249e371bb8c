# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Pretraining
#
# Four exercises to the chapter [Pretraining](../16_pretraining.ipynb). You mix the losses of a mixture, judge the speed of a
# run without flattering it, resume a run that was stopped, and plan one before you start it.

# %% tags=["setup"]

# %%
import math

import torch

from gptoss_lib.checks import pretraining as check
from gptoss_lib.config import GPTOSSConfig, flops_per_token
from gptoss_lib.moe import load_balancing_loss, router_z_loss

# %% [markdown]
# ## 1. Three losses in one
#
# `router_logits` is a list with one tensor `[N, E]` a layer. Return what is minimized: `nats`, plus `balance_coef` times the
# balancing loss, plus `z_coef` times the z-loss. Both are means over the layers. The two functions that you need are imported
# above; the order in which you apply them matters.


# %% nbgrader={"grade": false, "grade_id": "mix", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mix(nats, router_logits, top_k, balance_coef, z_coef):
    """Return the loss of one batch, a tensor with one number."""
    ### BEGIN SOLUTION
    balance = torch.stack([load_balancing_loss(logits, top_k) for logits in router_logits]).mean()
    z = torch.stack([router_z_loss(logits) for logits in router_logits]).mean()
    return nats + balance_coef * balance + z_coef * z
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "mix-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.mix(mix)
### BEGIN HIDDEN TESTS
even = torch.eye(4)
assert abs(float(mix(torch.tensor(1.0), [even, even], 1, 0.5, 0.0)) - 1.5) < 1e-5
assert abs(float(mix(torch.tensor(1.0), [torch.zeros(3, 4)], 2, 0.0, 1.0)) - 1 - math.log(4) ** 2) < 1e-5
### END HIDDEN TESTS

# %% [markdown]
# ## 2. How busy is the machine?
#
# A run trains a model of this `config` on sequences of `seq_len` tokens, at `tokens_per_second`. In one large matrix
# product the machine reaches `machine_flops` a second. Return the model-FLOPs utilization, a number between 0 and 1.
# `flops_per_token` knows how to count; ask yourself which of its answers is the cost of *training* on a token of a
# *sequence*.


# %% nbgrader={"grade": false, "grade_id": "utilization", "locked": false, "schema_version": 3, "solution": true, "task": false}
def utilization(config, seq_len, tokens_per_second, machine_flops):
    """Return the share of the machine's arithmetic that is the model's own."""
    ### BEGIN SOLUTION
    per_token = flops_per_token(config, seq_len, mean=True).training
    return tokens_per_second * per_token / machine_flops
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "utilization-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.utilization(utilization)
### BEGIN HIDDEN TESTS
xs = GPTOSSConfig.preset("xs")
expected = 1e4 * flops_per_token(xs, 128, mean=True).training / 1e11
assert abs(utilization(xs, 128, 1e4, 1e11) / expected - 1) < 1e-6
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Go on where it stopped
#
# A toy run has one weight. Update number `s`, counted from 0, does three things:
#
# 1. `momentum = 0.9 * momentum + gradient(weight, s)`, where `gradient(weight, s)` is the gradient on batch number `s`;
# 2. `rate = peak * (s + 1) / warmup` during the first `warmup` updates, and `peak` after them;
# 3. `weight = weight - rate * momentum`.
#
# The run was killed. `checkpoint` holds the number of updates that were made (`"step"`), the `"weight"` and the `"momentum"`.
# Make the updates that are left, until there are `steps` in all, and return the weight. It must be the one that a run without
# interruption would have reached. Leave the checkpoint as it is.


# %% nbgrader={"grade": false, "grade_id": "finish", "locked": false, "schema_version": 3, "solution": true, "task": false}
def finish(checkpoint, steps, warmup, peak, gradient):
    """Return the weight after ``steps`` updates in all."""
    ### BEGIN SOLUTION
    weight, momentum = checkpoint["weight"], checkpoint["momentum"]
    for step in range(checkpoint["step"], steps):
        momentum = 0.9 * momentum + gradient(weight, step)
        rate = peak * min(1.0, (step + 1) / warmup)
        weight = weight - rate * momentum
    return weight
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "finish-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.finish(finish)
### BEGIN HIDDEN TESTS
start = {"step": 0, "weight": 2.0, "momentum": 0.0}
half = {"step": 1, "weight": 2.0 - 0.05 * 2.0, "momentum": 2.0}
assert abs(finish(start, 6, 2, 0.1, lambda w, s: w) - finish(half, 6, 2, 0.1, lambda w, s: w)) < 1e-9
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Plan a run
#
# You may spend `flops` floating-point operations on training. A token costs about 6 for each active parameter (2 forward, 4
# backward; attention is left out), and you want `tokens_per_parameter` tokens for each active parameter. How many
# active parameters N, and how many tokens D? [Hoffmann et al., 2022](https://arxiv.org/abs/2203.15556) found about 20 tokens a parameter to
# be the best use of a training budget; a model that will be used a great deal gets many more.


# %% nbgrader={"grade": false, "grade_id": "plan", "locked": false, "schema_version": 3, "solution": true, "task": false}
def plan(flops, tokens_per_parameter=20):
    """Return (active parameters, tokens)."""
    ### BEGIN SOLUTION
    parameters = math.sqrt(flops / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "plan-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.plan(plan)
### BEGIN HIDDEN TESTS
parameters, tokens = plan(6e18)
assert abs(tokens / parameters - 20) < 1e-6 and abs(parameters * tokens / 1e18 - 1) < 1e-6
### END HIDDEN TESTS

# %% [markdown]
# One minute of a core at 30 GFLOP/s is a budget of 1.8e12 FLOPs. What does your plan say about the chapter's run?

# %%
parameters, tokens = plan(1.8e12)
print(f"{parameters:,.0f} active parameters, {tokens:,.0f} tokens")
