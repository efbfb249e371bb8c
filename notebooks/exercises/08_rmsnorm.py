# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: RMSNorm
#
# Four exercises to the chapter [RMSNorm](../08_rmsnorm.ipynb). The first gets the last bit right. The next two move parts of a norm into its neighbours without changing what the model computes; inference engines do this to save work. In the last one you take the place of autograd. Write each from its definition, without looking at the chapter's code.

# %% tags=["setup"]

# %%
import torch
from torch import nn

from gptoss_lib.checks import norm as check

# %% [markdown]
# ## 1. RMSNorm, to the bit
#
# Write RMSNorm as gpt-oss computes it: fp32 inside, scale, then cast back to the precision of the input. Do not use `torch.nn.functional.rms_norm`. The check compares bfloat16 results, and it can tell in which order you cast and scaled.


# %% nbgrader={"grade": false, "grade_id": "rms-norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rms_norm(x, weight, eps):
    """Normalize x [..., D] and scale it by weight [D]; the result has the shape and precision of x."""
    ### BEGIN SOLUTION
    wide = x.float()
    mean_square = wide.pow(2).mean(dim=-1, keepdim=True)
    return (wide * torch.rsqrt(mean_square + eps) * weight.float()).to(x.dtype)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "rms-norm-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.rms_norm(rms_norm)
### BEGIN HIDDEN TESTS
assert rms_norm(torch.zeros(2, 3, dtype=torch.bfloat16), torch.ones(3), 1e-5).abs().sum() == 0
assert torch.allclose(
    rms_norm(torch.tensor([[3.0, 4.0]]), torch.ones(2), 0.0), torch.tensor([[3.0, 4.0]]) / 12.5**0.5
)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Fold the norm
#
# Behind every norm stands a linear layer. Take a LayerNorm with weight $w$ and bias $b$: the linear layer computes $W (\hat{x} \odot w + b) + c$, where $\hat{x}$ is the normalized vector. Return a new linear layer that gives the same for $\hat{x}$ itself, so that the norm needs neither weight nor bias any more. (For an RMSNorm, $b$ is zero.)


# %% nbgrader={"grade": false, "grade_id": "fold-norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fold_norm(weight, bias, linear):
    """Return an nn.Linear that gives for x̂ what ``linear`` gives for x̂ · weight + bias; leave ``linear`` as it is."""
    ### BEGIN SOLUTION
    folded = nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        folded.weight.copy_(linear.weight * weight)  # [out, in] · [in]: one factor a column
        folded.bias.copy_(linear.weight @ bias + linear.bias)  # the norm's bias goes through the old weight
    return folded
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "fold-norm-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.fold_norm(fold_norm)
### BEGIN HIDDEN TESTS
layer, scale, shift, x = nn.Linear(3, 5), torch.tensor([2.0, -1.0, 0.5]), torch.randn(3), torch.randn(4, 3)
assert torch.allclose(fold_norm(scale, shift, layer)(x), layer(x * scale + shift), atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Remove the mean
#
# A linear layer writes into the stream, and a LayerNorm reads from it. Change the linear layer so that the mean of everything it writes is zero, and is otherwise what it was: for every input, the new output is the old one minus the old one's mean. Then the norm behind it need not subtract anything.


# %% nbgrader={"grade": false, "grade_id": "center-outputs", "locked": false, "schema_version": 3, "solution": true, "task": false}
def center_outputs(linear):
    """Return an nn.Linear whose outputs are those of ``linear`` minus their mean; leave ``linear`` as it is."""
    ### BEGIN SOLUTION
    centered = nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        # Each column is what one input writes.
        centered.weight.copy_(linear.weight - linear.weight.mean(dim=0, keepdim=True))
        centered.bias.copy_(linear.bias - linear.bias.mean())
    return centered
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "center-outputs-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.center_outputs(center_outputs)
### BEGIN HIDDEN TESTS
layer, x = nn.Linear(3, 5), torch.randn(4, 3)
assert torch.allclose(center_outputs(layer)(x), layer(x) - layer(x).mean(-1, keepdim=True), atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Backward by hand
#
# The gradient of the loss arrives as `upstream`, in the shape of the output. Return the gradients of x and of the weight, without autograd. Two checks that you can do yourself: the gradient of x is perpendicular to x (almost, because of epsilon), and the gradient of the weight has the shape of the weight.


# %% nbgrader={"grade": false, "grade_id": "rms-norm-backward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rms_norm_backward(x, weight, eps, upstream):
    """Return (gradient of x [B, T, D], gradient of weight [D]) for fp32 x and upstream [B, T, D]."""
    ### BEGIN SOLUTION
    r = torch.sqrt(x.pow(2).mean(dim=-1, keepdim=True) + eps)  # [B, T, 1]
    normalized = x / r
    g = upstream * weight
    grad_x = (g - normalized * (g * normalized).mean(dim=-1, keepdim=True)) / r
    return grad_x, (upstream * normalized).sum(dim=(0, 1))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "rms-norm-backward-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.rms_norm_backward(rms_norm_backward)
### BEGIN HIDDEN TESTS
x = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(3)) / 100
weight = torch.ones(9, requires_grad=True)
leaf = x.clone().requires_grad_()
torch.nn.functional.rms_norm(leaf, (9,), weight, 1e-5).pow(2).sum().backward()
out = torch.nn.functional.rms_norm(x, (9,), torch.ones(9), 1e-5)
assert torch.allclose(rms_norm_backward(x, torch.ones(9), 1e-5, 2 * out)[0], leaf.grad, rtol=1e-3, atol=1e-3)
### END HIDDEN TESTS
