# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: SwiGLU
#
# Three exercises to the chapter [SwiGLU](../13_swiglu.ipynb). The first is four lines long, and each of them can go wrong without an error. The second is what every converter of weights has to do. In the third you find out how good the number 1.702 really is.

# %% tags=["setup"]

# %%
import torch
import torch.nn.functional as F

from gptoss_lib.checks import swiglu as check

# %% [markdown]
# ## 1. The activation
#
# Write SwiGLU as gpt-oss computes it, for x with interleaved gates and ups: clamp, bend the gate, multiply by up plus one. Do not use `gptoss_lib.swiglu`. The check looks at single units at every combination of clamps, and it looks at the gradient too.


# %% nbgrader={"grade": false, "grade_id": "activation", "locked": false, "schema_version": 3, "solution": true, "task": false}
def activation(x, alpha=1.702, limit=7.0):
    """Map x [..., 2F] (gate, up, gate, up, …) to [..., F]."""
    ### BEGIN SOLUTION
    gate, up = x[..., 0::2], x[..., 1::2]
    gate = gate.clamp(max=limit)
    up = up.clamp(min=-limit, max=limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "activation-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.activation(activation)
### BEGIN HIDDEN TESTS
assert torch.allclose(
    activation(torch.tensor([[99.0, 99.0, -99.0, 3.0]])), torch.tensor([[56.0, 0.0]]), atol=1e-3
)
assert activation(torch.zeros(2, 3, 10)).shape == (2, 3, 5)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Change the layout
#
# Somebody gives you an expert in the common layout: a weight of shape `[D, 2F]` whose first F columns are gates and whose last F columns are ups, and a bias `[2F]` in the same order. Return both in gpt-oss's layout, interleaved. The function must work for the weight and for the bias alike, so think in terms of the last dimension.


# %% nbgrader={"grade": false, "grade_id": "to-interleaved", "locked": false, "schema_version": 3, "solution": true, "task": false}
def to_interleaved(x):
    """Reorder the last dimension of x [..., 2F] from g0 g1 … u0 u1 … to g0 u0 g1 u1 …"""
    ### BEGIN SOLUTION
    gate, up = x.chunk(2, dim=-1)
    return torch.stack((gate, up), dim=-1).flatten(-2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "to-interleaved-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.to_interleaved(to_interleaved)
### BEGIN HIDDEN TESTS
assert to_interleaved(torch.tensor([1, 2, 3, 10, 20, 30])).tolist() == [1, 10, 2, 20, 3, 30]
assert to_interleaved(torch.zeros(2, 3, 4, 6)).shape == (2, 3, 4, 6)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Find alpha
#
# 1.702 is where the *step* $\sigma(\alpha g)$ comes closest to GELU's step $\Phi(g)$. But the unit uses the step times $g$. Which alpha, to three digits after the point, makes the *bend* $g \cdot \sigma(\alpha g)$ come closest to GELU itself, measured by the largest difference over −8 to 8? Compute in 64 bits. The check tells you by how much 1.702 misses it.


# %% nbgrader={"grade": false, "grade_id": "best-alpha", "locked": false, "schema_version": 3, "solution": true, "task": false}
def best_alpha():
    """Return the alpha, a float with three digits, that minimizes max |g · sigmoid(alpha g) − GELU(g)|."""
    ### BEGIN SOLUTION
    g = torch.linspace(-8, 8, 8_001, dtype=torch.float64)
    gelu = F.gelu(g)
    alphas = [round(1.5 + 0.001 * i, 3) for i in range(501)]
    return min(alphas, key=lambda alpha: (g * torch.sigmoid(alpha * g) - gelu).abs().max().item())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "best-alpha-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.best_alpha(best_alpha)
### BEGIN HIDDEN TESTS
assert isinstance(best_alpha(), float)
### END HIDDEN TESTS
