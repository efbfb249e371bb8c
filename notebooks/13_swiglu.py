# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SwiGLU
#
# Between the two matrices of GPT-2's MLP stands a bend, GELU. Each hidden number goes through it alone. GPT-OSS computes *two* numbers in its place and multiplies them: one says how far a gate opens, the other what flows through. That is four lines of code, and four decisions that are easy to get wrong, because a wrong one raises no error: which numbers belong together, which side is clamped, what 1.702 is, and why there is a +1.
#
# **You will**
#
# - compare a gate with a bend at the same number of parameters, where it wins and where it loses;
# - find 1.702 yourself, and with it GELU inside GPT-OSS;
# - measure what the +1 does to a fresh model, and what the clamp does to an extreme one;
# - build the activation with its gradient by hand, and learn to tell apart the layouts in which its weights are stored.
#
# **Time:** 45 minutes. **Hardware:** any CPU; the chapter runs in about ten seconds.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# The MLP of [GPT-2](05_gpt2.ipynb) computes, for a token's vector $x$,
#
# $$ \mathrm{MLP}(x) = W_2\, \mathrm{GELU}(W_1 x) . $$
#
# Look at one hidden unit. It has one row of $W_1$: a pattern that it looks for. The bend turns "how much of the pattern is there" into a number, and that number is all the unit says. *Whether* to speak and *what* to say are the same thing.
#
# A **gated** unit has two rows. The first gives the *gate*, which is bent as before. The second gives the *up* value, which is not bent at all. The unit says their product:
#
# $$ \mathrm{GLU}(x) = W_\mathrm{down} \left( \phi(W_\mathrm{gate}\, x) \odot W_\mathrm{up}\, x \right) . $$
#
# In words: one part of the input decides how much of another part gets through. $\phi$ is some bend; the choice gives the unit its name. [Dauphin et al., 2016](https://arxiv.org/abs/1612.08083) used a sigmoid and called the unit GLU, a gated linear unit. With GELU it is GEGLU, with $x \cdot \sigma(x)$, which is called SiLU or Swish, it is SwiGLU ([Shazeer, 2020](https://arxiv.org/abs/2002.05202)).

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show

fig, axes = new_figure(7, 2.7, ncols=2)
for ax, title in zip(axes, ("GPT-2", "GPT-OSS"), strict=True):
    ax.set(xlim=(0, 6), ylim=(-0.1, 3.4), xticks=[], yticks=[], title=title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    box(ax, 0.1, 1.2, 0.9, 0.7, "x")
    box(ax, 5.0, 1.2, 0.9, 0.7, "out")
box(axes[0], 1.5, 1.2, 0.9, 0.7, "$W_1$", "orange")
box(axes[0], 2.7, 1.2, 0.9, 0.7, "GELU", "orange")
box(axes[0], 3.9, 1.2, 0.8, 0.7, "$W_2$", "orange")
for start, end in ((1.0, 1.5), (2.4, 2.7), (3.6, 3.9), (4.7, 5.0)):
    arrow(axes[0], (start, 1.55), (end, 1.55))
for y, name in ((2.2, "$W_{gate}$"), (0.2, "$W_{up}$")):
    box(axes[1], 1.3, y, 0.95, 0.7, name, "blue")
    arrow(axes[1], (1.0, 1.55), (1.3, y + 0.35))
box(axes[1], 2.5, 2.2, 0.7, 0.7, "$\\phi$", "blue")
box(axes[1], 2.5, 0.2, 0.7, 0.7, "+ 1", "blue")
box(axes[1], 3.4, 1.2, 0.5, 0.7, "×", "blue")
box(axes[1], 4.1, 1.2, 0.7, 0.7, "$W_{down}$", "blue", fontsize=8)
for start, end in (
    ((2.25, 2.55), (2.5, 2.55)),
    ((2.25, 0.55), (2.5, 0.55)),
    ((3.2, 2.55), (3.6, 1.9)),
    ((3.2, 0.55), (3.6, 1.2)),
    ((3.9, 1.55), (4.1, 1.55)),
    ((4.8, 1.55), (5.0, 1.55)),
):
    arrow(axes[1], start, end)
show(
    fig,
    alt="Left: GPT-2's MLP, a chain: x, first matrix, GELU, second matrix, out. Right: GPT-OSS. x goes through two "
    "matrices, gate and up. The gate is bent, the up value gets plus one, both are multiplied, and the down matrix follows.",
)

# %% [markdown]
# What can a product do that a bend cannot? Let us give both the same three tasks on eight random numbers: to multiply each with its neighbour, to let the sign of each decide whether its neighbour is kept or negated, and to take the sine of each. The gated MLP has three matrices where the other has two, so it gets two thirds of the width, and the parameters come out equal.

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

INPUTS, WIDE, NARROW = 8, 48, 32


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(INPUTS, WIDE, bias=False), nn.Linear(WIDE, INPUTS, bias=False)

    def forward(self, x):
        return self.outer(F.gelu(self.inner(x)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(INPUTS, NARROW, bias=False), nn.Linear(INPUTS, NARROW, bias=False)
        self.outer = nn.Linear(NARROW, INPUTS, bias=False)

    def forward(self, x):
        return self.outer(F.silu(self.gate(x)) * self.up(x))


for kind in (Plain, Gated):
    print(f"{kind.__name__:5s} {sum(p.numel() for p in kind().parameters())} parameters")


# %%
def multiply(x):
    return x * x.roll(1, dims=-1)


def switch(x):
    return x.sign() * x.roll(1, dims=-1)


def wave(x):
    return torch.sin(2 * x)


def fit(kind, target, seed, steps=400):
    torch.manual_seed(seed)
    model, generator = kind(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        x = torch.randn(256, INPUTS, generator=generator)
        loss = F.mse_loss(model(x), target(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(4_000, INPUTS, generator=generator)
    return (F.mse_loss(model(x), target(x)) / target(x).var()).item()


# %% tags=["nbval-ignore-output"]
left = {}
for target in (multiply, switch, wave):
    for kind in (Plain, Gated):
        left[target, kind] = [fit(kind, target, seed) for seed in (0, 1)]
        errors = " and ".join(f"{error:.1%}" for error in left[target, kind])
        print(f"{target.__name__:8s} {kind.__name__:5s} leaves {errors} of the variance (two seeds)")

# %%
assert max(left[multiply, Gated]) < min(left[multiply, Plain]) / 2, "a product is what the gate is made of"
assert max(left[switch, Plain]) < min(left[switch, Gated]), "but it is not a switch"

# %% [markdown]
# The gated MLP multiplies far better, which is no surprise: a product is what it is made of, and GELU has to imitate it. The second task is a lesson in honesty. It *sounds* like the job of a gate, and the plain MLP wins: SiLU is no switch between 0 and 1, it grows with its input, and bends are better at making edges. On the waves, where nothing needs multiplying, the gate is ahead again, though neither of the two does well: both leave most of the variance.
#
# So which of these is language like? Nobody derived it. [Shazeer, 2020](https://arxiv.org/abs/2002.05202) compared the variants at equal parameters and equal work, the gated ones won, and the paper closes by attributing this to "divine benevolence". Whether it holds at our size is a question for *The fair fight*, later in this course. Most open-weight models since Llama ([Touvron et al., 2023](https://arxiv.org/abs/2302.13971)) are gated.

# %% [markdown]
# ## Where 1.702 comes from
#
# GPT-OSS uses the bend $\phi(g) = g \cdot \sigma(\alpha g)$ with $\alpha = 1.702$. It is called SwiGLU, but Swish has $\alpha = 1$. What is 1.702?
#
# Recall that GELU is $g \cdot \Phi(g)$, where $\Phi(g)$ is the probability that a standard normal number is below $g$. $\Phi$ and the logistic function $\sigma$ are both smooth steps from 0 to 1. Stretch $\sigma$ until it lies on $\Phi$ as well as it can:

# %%
g = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
normal = 0.5 * (1 + torch.erf(g / math.sqrt(2)))
alphas = torch.arange(1.60, 1.80, 0.001, dtype=torch.float64)
gaps = torch.stack([(torch.sigmoid(alpha * g) - normal).abs().max() for alpha in alphas])
print(f"the best alpha is {alphas[gaps.argmin()]:.3f}; the two steps then differ by at most {gaps.min():.4f}")

# %% [markdown]
# There it is. $g \cdot \sigma(1.702\, g)$ is the quick approximation of GELU that the GELU paper itself gives ([Hendrycks and Gimpel, 2016](https://arxiv.org/abs/1606.08415)). So what GPT-OSS calls SwiGLU stands closer to GEGLU: the bend is nearly GPT-2's, and the gate around it is new. Two more differences, a + 1 and a clamp, follow.

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.8, ncols=2)
near = g[(g > -4) & (g < 3)].float()
curves = (
    ("GELU", F.gelu(near), "orange", "-"),
    ("alpha 1.702", near * torch.sigmoid(1.702 * near), "blue", "--"),
    ("alpha 1 (SiLU)", F.silu(near), "grey", "-"),
)
for name, values, color, line in curves:
    axes[0].plot(near, values, color=COLORS[color], label=name, linestyle=line)
    if name != "GELU":
        axes[1].plot(near, values - F.gelu(near), color=COLORS[color])
axes[0].set(xlabel="gate", title="the bend")
axes[1].set(xlabel="gate", title="difference to GELU")
axes[0].legend()
show(
    fig,
    alt="Left: GELU, the approximation with alpha 1.702, which covers it, and SiLU, which dips deeper. Right: the "
    "difference to GELU, at most about 0.02 for alpha 1.702 and about 0.2 for SiLU.",
)

# %% [markdown]
# ## Why + 1
#
# GPT-OSS multiplies the bent gate not by $u$ but by $u + 1$. The model card ([OpenAI, 2025](https://arxiv.org/abs/2508.10925)) spends a footnote on it: the implementation is "unconventional, including clamping and a residual connection". The residual connection is this one: $\phi(g) \cdot u$ plus $\phi(g)$ itself. The card gives no reason. But we can look at what it changes. A fresh model draws its weights small, so gate and up both start near zero, and a product of two small numbers is tiny:

# %%
torch.manual_seed(0)
x = F.rms_norm(torch.randn(512, 256), (256,))
for name, offset in (("gate · u", 0), ("gate · (u + 1)", 1)):
    gate_weight = (0.02 * torch.randn(256, 256)).requires_grad_()
    up_weight = (0.02 * torch.randn(256, 256)).requires_grad_()
    gate, up = x @ gate_weight, x @ up_weight
    out = gate * torch.sigmoid(1.702 * gate) * (up + offset)
    out.backward(torch.randn(512, 256))
    print(
        f"{name:14s} output {out.std():.3f}, gradient of gate weight {gate_weight.grad.std():.2f}, of up weight {up_weight.grad.std():.2f}"
    )

# %% [markdown]
# Without the one, the gate's gradient is proportional to $u$, which is small and has a random sign: for every token that says "open", another says "close". With it, a fresh unit is close to GPT-2's unit: $\mathrm{GELU}(g)$, plus a smaller correction. The gate's gradient is about three times as large, and $u$ only has to say where to deviate from 1. The up weight's gradient is about the same either way: it depends on the gate, which did not change.

# %% [markdown]
# ## Why a clamp
#
# A bend grows in proportion to its input. A product of two grows with the *square*: once inputs are large, ten times larger ones give an output about a hundred times larger. That hurts wherever numbers have few bits, and gpt-oss lives there: the published weights of its experts have four bits, its activations sixteen, and some engines go lower. Where a block of numbers shares one scale, a single outlier decides it for all. OpenAI does not give its reason for the clamp; this is what it helps against.
#
# So gate and up are clamped before anything else, at 7:
#
# $$ \hat g = \min(g, 7), \qquad \hat u = \min(\max(u, -7), 7), \qquad \mathrm{out} = \hat g \cdot \sigma(1.702\, \hat g) \cdot (\hat u + 1) . $$
#
# In words: up is held between −7 and 7; the gate is held from above only. Why not from below? Because the bend already does it: $g\,\sigma(1.702\, g)$ goes to zero for very negative $g$. A closed gate needs no floor.


# %%
def unclamped(gate, up):
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


def clamped(gate, up):
    return unclamped(gate.clamp(max=7), up.clamp(-7, 7))


torch.manual_seed(1)
gate, up = torch.randn(2, 10_000)
for scale in (1, 3, 10, 100):
    largest = [activation(scale * gate, scale * up).abs().max() for activation in (unclamped, clamped)]
    print(
        f"inputs of size {scale:3d}: largest output {largest[0]:10,.1f} without a clamp, {largest[1]:5.1f} with it"
    )
bend = (g * torch.sigmoid(1.702 * g)).min()
top = 7 * torch.sigmoid(torch.tensor(1.702 * 7))
print(f"the bend's lowest value is {bend:.3f}; out lies between {-6 * top:.2f} and {8 * top:.2f}")

# %% [markdown]
# For ordinary inputs nothing changes; for extreme ones the output stops at 56. Here is the whole function. Inside the dashed lines it is smooth. Beyond one of them it is constant in that direction, so the gradient that flows back in that direction is exactly zero.

# %% tags=["hide-input"]
fig, axes = new_figure(7, 3.1, ncols=2)
grid = torch.linspace(-12, 12, 97)
ups, gates = torch.meshgrid(grid, grid, indexing="ij")
surface = axes[0].contourf(gates, ups, clamped(gates, ups), levels=14, cmap="viridis")
fig.colorbar(surface, ax=axes[0])
axes[0].set(xlabel="gate", ylabel="up", title="out")
axes[0].plot([7, 7], [-12, 12], color=COLORS["red"], linestyle="--", linewidth=1.4)
for side in (-7, 7):
    axes[0].plot([-12, 12], [side, side], color=COLORS["red"], linestyle="--", linewidth=1.4)
axes[1].set(xlim=(-12, 12), ylim=(-12, 12), xlabel="gate", ylabel="up", title="who gets a gradient")
axes[1].grid(False)
for (left_edge, right), (low, high), label, color in (
    ((-12, 7), (-7, 7), "both", "green"),
    ((7, 12), (-7, 7), "up", "violet"),
    ((-12, 7), (7, 12), "gate", "blue"),
    ((-12, 7), (-12, -7), "gate", "blue"),
    ((7, 12), (7, 12), "none", "grey"),
    ((7, 12), (-12, -7), "none", "grey"),
):
    box(axes[1], left_edge, low, right - left_edge, high - low, label, color)
show(
    fig,
    alt="Left: the output over gate and up as filled contours, with dashed lines at gate 7 and up plus and minus 7; "
    "it is near zero for negative gates, rises to 56 in the upper right and falls to minus 42 in the lower right, and is "
    "flat beyond the lines. Right: the regions. Inside, both inputs get a gradient; for gate above 7 only up; for up "
    "outside plus or minus 7 only the gate; in the two corners on the right, neither.",
)

# %% [markdown]
# The widget shows the same as a curve over the gate. Move *up* and *limit*; the thin line is the unclamped unit.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore

LIMITS = (1.0, 3.0, 7.0, 12.0)


def unit_svg(up_value, limit):
    xs = torch.linspace(-12, 12, 49)

    def line(values, color, width):
        points = " ".join(
            f"{225 + 16 * a:.0f},{max(-40, min(290, 125 - 1.55 * b)):.1f}"
            for a, b in zip(xs.tolist(), values.tolist(), strict=True)
        )
        return f'<polyline points="{points}" fill="none" stroke="{COLORS[color]}" stroke-width="{width}"/>'

    fixed = torch.full_like(xs, up_value)
    held = unclamped(xs.clamp(max=limit), fixed.clamp(-limit, limit))
    ticks = "".join(
        f'<text x="{225 + 16 * a}" y="243" text-anchor="middle">{a}</text>' for a in (-12, -6, 0, 6, 12)
    )
    marks = "".join(
        f'<text x="28" y="{129 - 1.55 * b:.0f}" text-anchor="end">{b}</text>' for b in (-56, 0, 56)
    )
    edge = 225 + 16 * limit
    return (
        '<svg viewBox="0 0 440 250" width="440" font-size="10" fill="currentColor" font-family="sans-serif" '
        f'style="max-width:100%;overflow:hidden" role="img" aria-label="SwiGLU over the gate for up {up_value}, limit {limit}">'
        f'<line x1="33" x2="417" y1="125" y2="125" stroke="{COLORS["grey"]}" stroke-width=".8"/>'
        f'<line x1="{edge:.0f}" x2="{edge:.0f}" y1="15" y2="230" stroke="{COLORS["red"]}" stroke-dasharray="4 3"/>'
        f"{line(unclamped(xs, fixed), 'grey', 1.2)}{line(held, 'blue', 2.4)}{ticks}{marks}"
        f'<text x="40" y="14">largest output {held.max():.2f}, smallest {held.min():.2f} (across: gate)</text></svg>'
    )


explore(unit_svg, {"up": (-9, -5, -2, -1, 0, 1, 2, 5, 9), "limit": LIMITS}, start={"up": 2, "limit": 7.0})

# %% [markdown]
# At *up* = −1 the unit is silent whatever the gate says. At *up* = 0 it is GELU. Beyond ±limit, moving *up* changes nothing more.

# %% [markdown]
# ## Interleaved
#
# One matrix product is faster than two, so gate and up are computed by one matrix with 2F columns. In which order do the results come out? Most models put all gates first and then all ups: *chunked*. GPT-OSS *interleaves*: gate, up, gate, up, …

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.0, nrows=2)
layouts = {
    "interleaved": ["g0", "u0", "g1", "u1", "g2", "u2", "g3", "u3"],
    "chunked": ["g0", "g1", "g2", "g3", "u0", "u1", "u2", "u3"],
}
for ax, (name, cells) in zip(axes, layouts.items(), strict=True):
    for slot, cell in enumerate(cells):
        box(ax, slot + 0.06, 0, 0.88, 0.8, cell, "blue" if cell[0] == "g" else "violet")
    ax.set(xlim=(-2.4, 8.1), ylim=(-0.1, 0.95), xticks=[], yticks=[])
    ax.text(-2.3, 0.4, name, va="center", weight="bold")
    ax.grid(False)
    ax.spines[:].set_visible(False)
show(
    fig,
    alt="Two rows of eight boxes. Interleaved: g0 u0 g1 u1 g2 u2 g3 u3. Chunked: g0 g1 g2 g3 u0 u1 u2 u3.",
)

# %% [markdown]
# OpenAI does not say why. One consequence is easy to see: a unit's gate and up stand next to each other, so every slice from an even column to an even column holds whole units, and the matrix can be cut between any two of them to be spread over several GPUs.
#
# Both layouts have the same shape, so a mix-up raises no error. And it is no small mistake. Here is the second of four units, both ways:

# %%
torch.manual_seed(2)
x = 3 * torch.randn(2_000, 8)
right = clamped(x[:, ::2], x[:, 1::2])
wrong = clamped(*x.chunk(2, dim=-1))
print("same shape:", right.shape == wrong.shape)
print(f"correlation of right and wrong: {torch.corrcoef(torch.stack((right[:, 1], wrong[:, 1])))[0, 1]:.2f}")

# %% [markdown]
# Nothing in common: this unit got a gate and an up that belong to others. (The first and the last unit keep one number of their two.) A model with this mistake computes something else in every unit, but a *test* with random weights that only looks at shapes and finite values passes.

# %% [markdown]
# ## The finished code
#
# First the definition, on one tensor with interleaved columns. It is the reference for everything that follows.

# %%
#| export
"""SwiGLU as gpt-oss has it: a gate and an up value, clamped, and multiplied.

GPT-2's MLP bends each hidden number with GELU. Here there are two numbers a unit: the gate is bent by
``g · sigmoid(1.702 g)``, which is GELU's quick approximation, and scales ``up + 1``. The two are
interleaved in one tensor: gates at even places, ups at odd ones.
"""

import torch
from torch import Tensor


def swiglu(x: Tensor, alpha: float = 1.702, limit: float = 7.0) -> Tensor:
    """Return min(g, limit) · sigmoid(alpha · min(g, limit)) · (clamp(u, ±limit) + 1).

    As ``swiglu`` in OpenAI's ``gpt_oss/torch/model.py``. The gate is clamped from above only.

    Args:
        x: [..., 2F], gates at even places and ups at odd ones.
        alpha: steepness of the gate; 1.702 makes it GELU's approximation, 1 is SiLU.
        limit: where gates and ups are clamped.

    Returns:
        [..., F], in the precision of x.

    Raises:
        ValueError: if the last dimension is odd.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"x has {x.shape[-1]} columns; every unit needs a gate and an up, so make it even.")
    gate = x[..., ::2].clamp(max=limit)
    up = x[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


# %%
print(swiglu(torch.tensor([1.0, 0.0, 20.0, 20.0, -20.0, 5.0])).numpy().round(4) + 0.0)

# %% [markdown]
# Three units. The first has gate 1 and up 0: GELU of 1, nearly. The second is beyond both clamps: 56. The third has a gate of −20: closed.
#
# Two small helpers convert between the layouts. They work on activations, weights and biases alike, because in Hugging Face's layout of gpt-oss's experts, which we use, the columns are always the last dimension:


# %%
#| export
def split_gate_up(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split interleaved x [..., 2F] into (gate, up), each [..., F] and contiguous."""
    gate, up = x.unflatten(-1, (-1, 2)).unbind(-1)
    return gate.contiguous(), up.contiguous()


def join_gate_up(gate: Tensor, up: Tensor) -> Tensor:
    """Interleave gate and up, each [..., F], into [..., 2F]: the inverse of :func:`split_gate_up`."""
    return torch.stack((gate, up), dim=-1).flatten(-2)


# %%
gates, ups = split_gate_up(torch.arange(8))
print("gates", gates.tolist(), "ups", ups.tolist(), "joined", join_gate_up(gates, ups).tolist())

# %% [markdown]
# ## The gradient
#
# The next chapter computes thousands of these units in one go and writes its backward pass by hand. So let us derive it. With $s = \sigma(\alpha \hat g)$ and $s' = \alpha s (1 - s)$,
#
# $$ \frac{\partial\, \mathrm{out}}{\partial g} = (s + \hat g s')(\hat u + 1) = s\,\big(1 + \alpha \hat g (1 - s)\big)(\hat u + 1) \ \text{ where } g \le 7, \qquad \frac{\partial\, \mathrm{out}}{\partial u} = \hat g\, s \ \text{ where } |u| \le 7, $$
#
# and zero elsewhere. In words: the gate's gradient is the slope of the bend times what flows through; the up value's gradient is how far the gate stands open. A clamp passes the gradient inside its limits, the limits included, and stops it outside.
#
# Autograd would keep an intermediate tensor for nearly every step of this chain. By hand we keep two, gate and up, and compute the rest again. Gate and up come separately here, as contiguous tensors: reading every second number wastes half of each memory access. The functions whose names end in an underscore overwrite their first operand; every one of those is a tensor that was made here, never an input.
#
# Where a clamp is at work, the gradient must become zero. The obvious way, `masked_fill_` with a table of true and false, took longer than all the rest together when we measured it. PyTorch has the gradient of a clamp as one operation, under the name of an old activation function, *hardtanh*. It differs in one point: at exactly the limit it gives zero already. So it gets the next larger number as its limit.


# %%
#| export
def swiglu_parts(gate: Tensor, up: Tensor, alpha: float = 1.702, limit: float = 7.0) -> Tensor:
    """Compute :func:`swiglu` of gate and up [..., F] that are already apart; writes to neither."""
    gate = gate.clamp(max=limit)
    glu = torch.sigmoid(alpha * gate).mul_(gate)
    return torch.addcmul(glu, glu, up.clamp(-limit, limit))


def swiglu_backward(
    grad: Tensor, gate: Tensor, up: Tensor, alpha: float = 1.702, limit: float = 7.0
) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and up, without autograd.

    Args:
        grad: [..., F], the gradient of what :func:`swiglu_parts` returned.
        gate: [..., F], as given to it.
        up: [..., F], as given to it.
        alpha: as given to it.
        limit: as given to it.

    Returns:
        Two tensors [..., F]; zero for a gate above ``limit`` and an up beyond ``±limit``.
    """
    held = gate.clamp(max=limit)
    opening = (alpha * held).sigmoid_()
    bend = held.mul_(opening)
    slope = torch.addcmul(opening, bend, 1 - opening, value=alpha)
    slope.mul_(up.clamp(-limit, limit).add_(1))
    unless_held = torch.ops.aten.hardtanh_backward
    beyond = torch.nextafter(gate.new_tensor(limit), gate.new_tensor(torch.inf)).item()
    grad_gate = unless_held(slope.mul_(grad), gate, -torch.inf, beyond)
    return grad_gate, unless_held(bend.mul_(grad), up, -beyond, beyond)


# %%
torch.manual_seed(3)
gate, up, upstream = (
    (6 * torch.randn(5, 400)).requires_grad_(),
    (6 * torch.randn(5, 400)).requires_grad_(),
    torch.randn(5, 400),
)
swiglu(join_gate_up(gate, up)).backward(upstream)
by_hand = swiglu_backward(upstream, gate.detach(), up.detach())
print(
    "gradients equal autograd's:",
    all(
        torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(by_hand, (gate.grad, up.grad), strict=True)
    ),
)
beyond = torch.cat((gate.grad[gate > 7], up.grad[up.abs() > 7]))
print(f"{len(beyond)} inputs beyond a clamp, {int((beyond != 0).sum())} of them with a gradient")
print(f"gates below −7 with a gradient: {int((gate.grad[gate < -7] != 0).sum())} of {int((gate < -7).sum())}")

# %% [markdown]
# The last line is the asymmetry: a gate below −7 still has a gradient, if a tiny one. Had the gate been clamped on both sides, these inputs could do nothing to open it again.

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.7, ncols=2, sharey=True)
line = torch.linspace(-10, 10, 401)
for up_value, color in ((-3.0, "pink"), (0.0, "orange"), (1.0, "blue"), (3.0, "violet")):
    fixed = torch.full_like(line, up_value)
    slope_gate, slope_up = swiglu_backward(torch.ones_like(line), line, fixed)
    axes[0].plot(line, slope_gate, color=COLORS[color], label=f"up = {up_value:g}")
axes[1].plot(line, slope_up, color=COLORS["green"])
axes[0].set(xlabel="gate", title="gradient of the gate")
axes[1].set(xlabel="gate", title="gradient of up")
axes[0].legend(loc="upper left", fontsize=8)
show(
    fig,
    alt="Left: the gradient of the gate against the gate for four values of up: zero for closed gates, about up plus "
    "one for open ones, and a sudden drop to zero at 7. Right: the gradient of up is the bend itself, which rises to 7 "
    "and stays there.",
)

# %% [markdown]
# ## Reality check
#
# OpenAI's definition, worked out number by number with nothing but Python's `math`, at points inside and outside every clamp:


# %%
def one_unit(g, u):
    g, u = min(g, 7.0), max(-7.0, min(u, 7.0))
    return g / (1 + math.exp(-1.702 * g)) * (u + 1)


points = [
    (g, u) for g in (-30.0, -7.5, -0.8, 0.0, 2.5, 6.9, 7.1, 30.0) for u in (-30.0, -6.9, -1.0, 0.4, 7.2)
]
inputs = torch.tensor(points, dtype=torch.float64)
ours = swiglu(inputs)[:, 0]
expected = torch.tensor([one_unit(g, u) for g, u in points], dtype=torch.float64)
print(f"{len(points)} points, equal: {torch.allclose(ours, expected, rtol=1e-12, atol=0)}")
halves = swiglu_parts(*inputs.unbind(-1))
print("the version on separate parts too:", torch.allclose(halves, expected, rtol=1e-12, atol=0))
plain = torch.linspace(-6, 6, 1_000)
with_zero_up = swiglu(join_gate_up(plain, torch.zeros(1_000)))
print(f"with up = 0 it is GELU, to within {(with_zero_up - F.gelu(plain)).abs().max():.3f}")

# %% [markdown]
# Against `transformers`' `GptOssExperts` the project's tests (`tests/parity/test_moe_transformers.py`) compare outputs and gradients with activations far beyond the clamp. That matters: on inputs of size one, a version without any clamp passes every test there is.

# %% [markdown]
# ## What gpt-oss-20b uses

# %%
from gptoss_lib.config import GPTOSSConfig

config = GPTOSSConfig.preset("gpt-oss-20b")
D, width = config.hidden_size, config.intermediate_size
print(f"alpha {config.swiglu_alpha}, limit {config.swiglu_limit}")
print(f"one expert: {D:,} → {width:,} gates and {width:,} ups → {width:,} → {D:,}")
print(f"{3 * D * width + 2 * width + D:,} parameters an expert; gate and up hold two thirds of them")
gated_units = config.num_hidden_layers * config.num_experts_per_tok * width
print(
    f"every token goes through {gated_units:,} gated units: {config.num_experts_per_tok} experts in each of {config.num_hidden_layers} layers"
)
print(
    f"GPT-2's MLP is 4 times as wide as its stream; one expert is {width / D:g} times as wide, four of them {4 * width / D:g} times"
)

# %% [markdown]
# Hugging Face stores both matrices of gate and up as `gate_up_proj`, interleaved, `[E, D, 2F]`. OpenAI's checkpoint calls them `mlp1_weight`, with the columns as rows, and the down matrix `mlp2_weight`.

# %% [markdown]
# ## Pitfalls
#
# - **Chunked instead of interleaved.** The habit is so strong that, when vLLM added this activation, an automatic reviewer marked the interleaved reads as a [critical mistake](https://github.com/vllm-project/vllm/pull/22951) and proposed the usual layout. It would have broken the model.
# - **The + 1 "corrected" away.** Another [automatic review](https://github.com/vllm-project/vllm/pull/42578) called `s · up + s` wrong, since SwiGLU has no such term. In general it has not; in gpt-oss it has. Compare with the reference, not with the name.
# - **A name for several functions.** Kernels that took "SwiGLU" to mean SiLU without the + 1 gave [wrong outputs in silence](https://github.com/deepseek-ai/DeepGEMM/pull/445) for models with gpt-oss's variant.
# - **A limit of zero.** A default of 0, where "no limit" was meant, [clamps everything to zero](https://github.com/microsoft/onnxruntime/pull/27221). Our function has gpt-oss's 7 as its default, and the config refuses anything that is not above zero.
# - **The gate clamped on both sides.** Forward, this changes results by less than a thousandth, so a loose tolerance does not see it. Backward, closed gates lose their last bit of gradient. Test with tight tolerances, and test gradients.
# - **A lost minus sign.** Write `up.clamp(min=limit, max=limit)`, and every up becomes 7; the unit computes $8\,\phi(g)$, and everything still runs.
# - **Clamping the product.** `out.clamp(-7, 7)` is another function: the output may reach 56.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/13_swiglu.ipynb):
#
# 1. **The activation.** Write it so that the check, which knows more than a dozen ways to get it wrong, has nothing to object to.
# 2. **Change the layout.** Turn a chunked weight into an interleaved one and back.
# 3. **Find alpha.** Which alpha brings the bend closest to GELU itself? It is not 1.702.

# %% [markdown]
# ## Summary
#
# - A gated unit multiplies a bent gate and an unbent up value: one part of the input decides how much of another gets through. At equal parameters it gets two thirds of the width.
# - gpt-oss's bend, $g\,\sigma(1.702\, g)$, is GELU's quick approximation: 1.702 is where the logistic function comes closest to the normal distribution.
# - $u + 1$ makes a fresh unit behave much like GPT-2's, and gives its gate about three times the gradient.
# - The clamp keeps the product of two large numbers from growing without bound. The gate is clamped from above only, up on both sides, and beyond a clamp the gradient is zero.
# - Gates stand at even columns, ups at odd ones. A mix-up raises no error.
#
# Next: [Mixture of experts](14_mixture_of_experts.ipynb), where thirty-two of these MLPs share the work.

# %% [markdown]
# ## Further reading
#
# - [Shazeer, 2020](https://arxiv.org/abs/2002.05202): the variants compared, in four pages.
# - [Dauphin et al., 2016](https://arxiv.org/abs/1612.08083): gated linear units.
# - [Hendrycks and Gimpel, 2016](https://arxiv.org/abs/1606.08415): GELU, and its approximation with 1.702.
# - [OpenAI, 2025](https://arxiv.org/abs/2508.10925): the model card of gpt-oss.
# - [`gpt_oss/torch/model.py`](https://github.com/openai/gpt-oss): `swiglu`, the reference.
