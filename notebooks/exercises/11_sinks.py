# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Sinks
#
# Four exercises to the chapter [Sinks](../11_sinks.ipynb). You compute weights with a sink by hand, then the sink's gradient; you make another library's softmax do the work; and you put a sink into a result that was computed without one. Inference engines do the last one when they add sinks to a kernel that has none.

# %% tags=["setup"]

# %%
import torch

from gptoss_lib.checks import attention as check

# %% [markdown]
# ## 1. The sink by hand
#
# Given the scores of H heads (already scaled and masked), return the weights of the keys when each head has a sink. Do not overflow: scores may be 1,000, and so may sinks.


# %% nbgrader={"grade": false, "grade_id": "sink-weights", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sink_weights(scores, sinks):
    """Return the weights [H, T, S] for scores [H, T, S] and sinks [H]; they add up to less than one."""
    ### BEGIN SOLUTION
    column = sinks[:, None, None].expand(-1, scores.shape[1], 1)  # [H, T, 1]
    return torch.cat((scores, column), dim=-1).softmax(dim=-1)[..., :-1]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "sink-weights-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.sink_weights(sink_weights)
### BEGIN HIDDEN TESTS
assert torch.allclose(sink_weights(torch.zeros(2, 1, 3), torch.zeros(2)), torch.full((2, 1, 3), 0.25))
no_sink = sink_weights(torch.zeros(1, 1, 2), torch.tensor([-torch.inf]))
assert torch.allclose(no_sink, torch.full((1, 1, 2), 0.5))
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Its gradient
#
# The backward pass of an attention kernel has saved two things for each query: the output `out` (computed with the sink) and `log_sum`, the logarithm of the softmax's denominator (the sink included). It receives a third, the gradient `grad_out`. Return the gradient of each head's sink. No scores, no autograd.


# %% nbgrader={"grade": false, "grade_id": "sink-gradient", "locked": false, "schema_version": 3, "solution": true, "task": false}
def sink_gradient(out, grad_out, log_sum, sinks):
    """Return the gradient [H] of sinks [H] from out and grad_out [B, H, T, hd] and log_sum [B, H, T]."""
    ### BEGIN SOLUTION
    spent = torch.exp(sinks[:, None] - log_sum)  # the sink's share, [B, H, T]
    return -(spent * (grad_out * out).sum(-1)).sum((0, 2))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "sink-gradient-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.sink_gradient(sink_gradient)
### BEGIN HIDDEN TESTS
ones = torch.ones(1, 1, 1, 2)
gradient = sink_gradient(ones, ones, torch.zeros(1, 1, 1), torch.tensor([0.5]).log())
assert torch.allclose(gradient, torch.tensor([-1.0]))
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Softmax plus one
#
# A library offers Miller's softmax, $e^{s_j} / (1 + \sum_k e^{s_k})$, as a fast function `plus_one(scores)`, and has no argument for a sink. Use it to compute the weights with any sinks. (What happens to a fraction when you divide both its parts by $e^z$?)


# %% nbgrader={"grade": false, "grade_id": "with-plus-one", "locked": false, "schema_version": 3, "solution": true, "task": false}
def with_plus_one(scores, sinks, plus_one):
    """Return the weights [H, T, S] for scores [H, T, S] and sinks [H], through ``plus_one(scores)``."""
    ### BEGIN SOLUTION
    return plus_one(scores - sinks[:, None, None])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "with-plus-one-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.with_plus_one(with_plus_one)
### BEGIN HIDDEN TESTS
shifted = with_plus_one(torch.ones(2, 3, 4), torch.tensor([1.0, 3.0]), lambda scores: scores)
assert torch.equal(shifted[:, 0, 0], torch.tensor([0.0, -2.0]))
### END HIDDEN TESTS

# %% [markdown]
# ## 4. After the fact
#
# A fused kernel computed attention *without* sinks, and returned its output and the log-sum-exp of the scores. Return what they would have been with sinks. Both numbers may be far too large for `exp`.


# %% nbgrader={"grade": false, "grade_id": "add-sink", "locked": false, "schema_version": 3, "solution": true, "task": false}
def add_sink(out, log_sum, sinks):
    """Return (out, log_sum) with sinks [H], from out [B, H, T, hd] and log_sum [B, H, T] without."""
    ### BEGIN SOLUTION
    total = torch.logaddexp(log_sum, sinks[:, None])
    return out * torch.exp(log_sum - total).unsqueeze(-1), total
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "add-sink-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.add_sink(add_sink)
### BEGIN HIDDEN TESTS
halved, total = add_sink(torch.ones(1, 1, 1, 2), torch.tensor([[[3.0]]]), torch.tensor([3.0]))
assert torch.allclose(halved, torch.full((1, 1, 1, 2), 0.5))
assert torch.allclose(total, 3 + torch.tensor(2.0).log())
### END HIDDEN TESTS
