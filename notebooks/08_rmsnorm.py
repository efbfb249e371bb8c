# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # RMSNorm
#
# This is the smallest part of GPT-OSS: one division and one product. It is also the part that runs most often and sits between all others, so a mistake of one rounding here touches every number in the model. You take GPT-2's LayerNorm, find out which half of it does the work, throw the other half away, and then get the last bit right.
#
# **You will**
#
# - split LayerNorm into re-centering and re-scaling, and train without the first;
# - turn a trained LayerNorm model into an RMSNorm model *exactly*, which shows why the mean can go;
# - build RMSNorm with 32-bit arithmetic inside, in the order that gpt-oss was trained with;
# - see when epsilon matters, what the gradient looks like, and what pre-norm does to the residual stream.
#
# **Time:** 40 minutes. **Hardware:** any CPU; the chapter runs in about half a minute.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# Before every attention and every MLP, [GPT-2](05_gpt2.ipynb) puts a LayerNorm. For a token's vector $x$ of D numbers with mean $\mu$ it computes
#
# $$ \mathrm{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\frac{1}{D}\sum_i (x_i - \mu)^2 + \epsilon}} \odot w + b . $$
#
# Four things happen: subtract the mean, divide by the standard deviation, multiply by a learned weight, add a learned bias. **Re-centering** (the mean) and **re-scaling** (the division) are two separate ideas. Do we need both? [Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467) guessed that only re-scaling matters and left out the rest:
#
# $$ \mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\frac{1}{D}\sum_i x_i^2 + \epsilon}} \odot w . $$
#
# In words: divide the vector by its root mean square, then scale each number. No mean, no bias, half of the parameters, and one statistic to collect instead of two.

# %%
import copy

import torch
import torch.nn.functional as F
from torch import nn

from gptoss_lib.figures import COLORS, new_figure, show
from gptoss_lib.gpt2 import GPT2, GPT2Config
from gptoss_lib.stories import StoryGrammar

D = 6
x = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0, 4.0])
for name, changed in (("x", x), ("10 · x", 10 * x), ("x + 5", x + 5)):
    layer, rms = F.layer_norm(changed, (D,)), F.rms_norm(changed, (D,), eps=1e-5)
    print(f"{name:7s} LayerNorm {layer.numpy().round(2)}   RMSNorm {rms.numpy().round(2)}")

# %% [markdown]
# Both ignore the scale of their input: $x$ and $10x$ come out the same. LayerNorm also ignores a constant that is added to all numbers; RMSNorm does not. So the two differ in one thing: what they do with the direction $(1, 1, \dots, 1)$.
#
# With two numbers you can draw it. RMSNorm moves every point along its ray to a circle. LayerNorm first drops it onto the line where the two numbers sum to zero, and there are only two points of the right length on that line.

# %% tags=["hide-input"]
fig, axes = new_figure(6.6, 3.2, ncols=2)
points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * 1.1 + torch.tensor([0.6, 0.3])
for ax, name, result in zip(
    axes,
    ("LayerNorm", "RMSNorm"),
    (F.layer_norm(points, (2,), eps=1e-12), F.rms_norm(points, (2,), eps=1e-12)),
    strict=True,
):
    color = COLORS["orange" if name == "LayerNorm" else "blue"]
    for start, end in zip(points.tolist(), result.tolist(), strict=True):
        ax.plot(*zip(start, end, strict=True), color=COLORS["grey"], linewidth=0.6, alpha=0.7)
    ax.scatter(*points.T, s=9, color=COLORS["grey"])
    ax.scatter(*result.T, s=26, color=color, zorder=3)
    ax.set(title=name, xlim=(-3.2, 3.6), ylim=(-2.6, 4.4), aspect="equal")
show(
    fig,
    alt="Sixty points in the plane and where the two norms send them. LayerNorm sends all of them to just two "
    "points, one up left, one down right. RMSNorm sends each along its own ray to a circle of radius square root of 2.",
)

# %% [markdown]
# In D dimensions the same happens with less drama: RMSNorm keeps the direction of a vector, all of it; LayerNorm loses one direction out of D, then keeps the rest. For D = 2 that is half of everything; for gpt-oss's 2,880 it is next to nothing. That works both ways: the mean is not worth much, and removing it costs little. So let us try.

# %% [markdown]
# ## Train without the mean
#
# We train the same small GPT-2 twice on stories from [the small world](03_small_world.ipynb), as bytes, with the same seeds and batches: once as it is, once with every LayerNorm replaced by the RMSNorm below (a sketch; the careful version comes later). The model is so narrow that its fresh weights are larger than GPT-2's, and it keeps embedding and head apart, as gpt-oss does.


# %%
class SimpleRMSNorm(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def swap_norms(model, make):
    """Replace every LayerNorm in the model by ``make(old)``."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, make(child))
    return model


stories = "\n".join(story.text for story in StoryGrammar().stories(seed=0, count=600))
corpus = torch.tensor(list(stories.encode()))
config = GPT2Config(
    vocab_size=256,
    n_positions=32,
    n_embd=48,
    n_layer=3,
    n_head=4,
    initializer_range=0.1,
    tie_word_embeddings=False,
)
print(f"{len(corpus):,} bytes of stories, {sum(p.numel() for p in GPT2(config).parameters()):,} parameters")


# %%
def train(seed, rms, steps=150, length=32):
    torch.manual_seed(seed)
    model = GPT2(config)
    if rms:
        swap_norms(model, lambda old: SimpleRMSNorm(config.n_embd))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 20) * (1 - step / steps)
        starts = torch.randint(len(corpus) - length - 1, (16, 1), generator=generator)
        text = corpus[starts + torch.arange(length + 1)]  # [16, T + 1]
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


# %% tags=["nbval-ignore-output"]
runs = {(seed, rms): train(seed, rms) for seed in (0, 1, 2) for rms in (False, True)}
final = {key: sum(losses[-30:]) / 30 for key, (_, losses) in runs.items()}
for seed in (0, 1, 2):
    print(f"seed {seed}: LayerNorm {final[seed, False]:.3f}, RMSNorm {final[seed, True]:.3f} nats a byte")
means = [sum(final[seed, rms] for seed in (0, 1, 2)) / 3 for rms in (False, True)]
between_norms = max(abs(final[seed, False] - final[seed, True]) for seed in (0, 1, 2))
between_seeds = max(final.values()) - min(final.values())
print(f"mean  : LayerNorm {means[0]:.3f}, RMSNorm {means[1]:.3f}")
print(f"the largest difference between the norms: {between_norms:.3f}, of all runs: {between_seeds:.3f}")

# %% tags=["hide-input"]
fig, ax = new_figure(6.5, 2.8)
for (seed, rms), (_, losses) in runs.items():
    smooth = torch.tensor(losses).unfold(0, 15, 1).mean(-1)
    label = ("RMSNorm" if rms else "LayerNorm") if seed == 0 else None
    ax.plot(
        range(20, len(smooth)),
        smooth[20:],
        color=COLORS["blue" if rms else "orange"],
        linewidth=1.2,
        label=label,
    )
ax.set(xlabel="step", ylabel="loss (nats a byte)")
ax.legend()
show(
    fig,
    alt="Training loss of six runs, three with LayerNorm and three with RMSNorm. The two curves of a "
    "seed lie on top of each other; the seeds differ more than the norms.",
)

# %%
assert between_norms < between_seeds, "the seed matters more than the norm"
assert abs(means[0] - means[1]) < 0.05, "no difference to speak of"

# %% [markdown]
# The norms differ less than the seeds do. Three short runs of a toy are no proof for a large model; the paper has larger comparisons, and Llama ([Touvron et al., 2023](https://arxiv.org/abs/2302.13971)), whose design most open-weight models have followed, uses RMSNorm.
#
# ## Why the mean can go
#
# There is a better argument than a training run, and it is exact. Who writes into the residual stream? The embeddings, and the last linear layer of every attention and MLP. Suppose that all of them wrote vectors of mean zero. Sums of such vectors have mean zero, so LayerNorm would subtract nothing, and what is left of it *is* RMSNorm.
#
# Making them do so is easy. Subtracting the mean is a linear map, so it can be merged into the weights of the linear layer that writes: subtract from every column of its weight the column's mean. The model's output does not change, because each LayerNorm would have removed that part anyway. [Jiang et al., 2023](https://arxiv.org/abs/2305.14858) turned trained models into RMSNorm models this way. Let us do it to ours, which was trained with LayerNorm, weights, biases and all:


# %%
class Shift(nn.Module):
    """Add a bias: the part of LayerNorm that RMSNorm does not have."""

    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, x):
        return x + self.bias


def to_rms(old):
    norm = SimpleRMSNorm(config.n_embd)
    norm.weight = old.weight
    return nn.Sequential(norm, Shift(old.bias))


@torch.no_grad()
def without_means(model):
    model = copy.deepcopy(model)
    for table in (model.wte.weight, model.wpe.weight):
        table -= table.mean(dim=1, keepdim=True)  # a row is what is written
    for block in model.h:
        for layer in (block.attn.c_proj, block.mlp.c_proj):
            layer.weight -= layer.weight.mean(dim=0, keepdim=True)  # a column is what one input writes
            layer.bias -= layer.bias.mean()
    return swap_norms(model, to_rms)


trained = runs[0, False][0]
converted = without_means(trained)
text = corpus[:192].view(6, 32)
with torch.no_grad():
    before, after, careless = trained(text), converted(text), swap_norms(copy.deepcopy(trained), to_rms)(text)
print("logits equal after the conversion:", torch.allclose(before, after, atol=1e-4))
print("logits equal without centering   :", torch.allclose(before, careless, atol=1e-4))

# %% [markdown]
# The same function, without a single mean taken at run time. So LayerNorm can express nothing that RMSNorm cannot: re-centering is a habit of the weights, and training can pick it up if it is useful. The bias can go for a similar reason: the linear layer that follows has a bias of its own. (Only gpt-oss's head has none; there the final norm's bias would add to each logit a constant, the same for every text.) And the weight? You will fold both away in the exercises. The weight stays in the model because it helps training.
#
# How much mean is there at all? Look at what the norms of the trained model read, and measure which part of a vector's squared length lies along $(1, \dots, 1)$. A random vector has $1/D$ of its squared length there, as along any other direction.


# %%
@torch.no_grad()
def stream_before_norms(model, text):
    """Return what each norm of the model reads, in the order of the layers."""
    seen = {}
    kinds = (nn.LayerNorm, SimpleRMSNorm)
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, inputs[0]))
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    model(text)
    for hook in hooks:
        hook.remove()
    return seen


def mean_share(x):
    return (x.mean(-1) ** 2 / x.pow(2).mean(-1)).mean().item()


streams = {rms: stream_before_norms(runs[0, rms][0], text) for rms in (False, True)}

# %% tags=["nbval-ignore-output"]
print(f"a random direction: {1 / config.n_embd:.1%} of the squared length")
for name in streams[False]:
    print(
        f"{name:8s} LayerNorm model {mean_share(streams[False][name]):.1%}, RMSNorm model {mean_share(streams[True][name]):.1%}"
    )

# %%
assert all(mean_share(x) < 0.2 for stream in streams.values() for x in stream.values())

# %% [markdown]
# In the RMSNorm model the mean holds about what chance puts there: nobody uses that direction for anything special. In the LayerNorm model it holds even less. Every norm throws that direction away, so no gradient ever points along it: it stays as small as it was drawn, while the rest of the stream grows.

# %% [markdown]
# ## Thirty-two bits inside
#
# Now to the arithmetic. Large models keep their activations in 16 bits: `bfloat16`, which has the range of fp32 but only 8 significant bits, so about two decimal digits. A norm sums thousands of squares and then takes a root. Done in 16 bits, each step rounds. And in `float16` the square of anything beyond 255 overflows.
#
# So the norm converts its input to fp32, works there, and converts back once. One question remains, and it is worth a number of bug reports: is the *weight* applied before or after the conversion back?
#
# - Llama: normalize in fp32, **cast, then scale**. Two roundings.
# - gpt-oss: normalize in fp32, **scale, then cast**. One rounding.
#
# It looks like a matter of taste. It is not: a quarter of all outputs differ.


# %%
def norm_in(x, weight, eps, inside, scale_first):
    """RMSNorm with the arithmetic in precision ``inside``; the result has the precision of x."""
    wide = x.to(inside)
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if scale_first:
        return (normalized * weight.to(inside)).to(x.dtype)
    return normalized.to(x.dtype) * weight.to(x.dtype)


generator = torch.Generator().manual_seed(0)
weight = (1 + 0.2 * torch.randn(2880, generator=generator)).bfloat16()
x = torch.randn(100, 2880, generator=generator).bfloat16()
ways = {
    "all in bfloat16": (torch.bfloat16, True),
    "fp32, cast, then scale (Llama)": (torch.float32, False),
    "fp32, scale, then cast (gpt-oss)": (torch.float32, True),
}
exact = norm_in(x.double(), weight.double(), 1e-5, torch.float64, True)
for name, way in ways.items():
    result = norm_in(x, weight, 1e-5, *way)
    off = (result != exact.bfloat16()).double().mean().item()
    error = ((result.double() - exact).norm() / exact.norm()).item()
    print(f"{name:33s} {off:4.0%} of the outputs not the nearest bfloat16, error {error:.2%}")

# %% [markdown]
# The last line is the best that a 16-bit output can be: every number is the exact result, rounded once. The others are not *wrong*; they are other functions, and a model should be run with the function that it was trained with. Here is the error over the scale of the input, with `float16` arithmetic for comparison:

# %% tags=["hide-input"]
fig, ax = new_figure(6.6, 3.1)
scales = torch.logspace(-3.5, 4, 31)
ways_drawn = {"all in float16": (torch.float16, True)} | ways
for (name, way), color in zip(ways_drawn.items(), ("red", "violet", "orange", "blue"), strict=True):
    errors = []
    for scale in scales:
        y = (x[:20].float() * scale).bfloat16()
        exact = norm_in(y.double(), weight.double(), 1e-5, torch.float64, True)
        errors.append(((norm_in(y, weight, 1e-5, *way).double() - exact).norm() / exact.norm()).item())
    ax.plot(scales, errors, label=name, color=COLORS[color])
ax.set(
    xscale="log",
    yscale="log",
    xlabel="root mean square of the input",
    ylabel="relative error",
    ylim=(8e-4, 2),
)
ax.legend(loc="upper left")
show(
    fig,
    alt="Relative error of RMSNorm against the scale of its input for four ways to compute it. float16 fails "
    "completely for inputs above about 100. All-bfloat16 is about twice as wrong as fp32 inside; "
    "scaling before the cast is the lowest line at every scale.",
)

# %% [markdown]
# ## The finished code
#
# First the obvious version, one line a step. It is the definition that the other is tested against.

# %%
#| export
"""RMSNorm: divide each token's vector by its root mean square, then scale each number.

GPT-2's LayerNorm also subtracts the mean and adds a bias; neither is needed. The arithmetic is fp32
whatever the model's precision, and the result is rounded once, after the scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize, scale, then cast: the slow, obvious version of :class:`RMSNorm`.

    Args:
        x: [..., D], any floating-point precision.
        weight: [D].
        eps: added to the mean square, so that a zero vector stays zero.

    Returns:
        [..., D], in the precision of x.
    """
    wide = x.float()
    mean_square = wide.pow(2).mean(-1, keepdim=True)  # [..., 1]
    normalized = wide * torch.rsqrt(mean_square + eps)
    return (normalized * weight.float()).to(x.dtype)


# %% [markdown]
# The module calls PyTorch's `rms_norm`, which recent versions run as one fused kernel on a GPU (one program that reads and writes the data once). It hands over fp32 and casts the result itself: where the cast happens is then our decision on every version and device, whatever the types of input and weight. Epsilon is always given (its default in PyTorch is another one; see the pitfalls).


# %%
#| export
class RMSNorm(nn.Module):
    """RMSNorm in fp32, scaled and then cast, as ``RMSNorm`` in OpenAI's ``gpt_oss/torch/model.py``.

    From "Root Mean Square Layer Normalization" (Zhang and Sennrich, 2019). OpenAI calls the
    parameter ``scale``, Hugging Face ``weight``.

    Args:
        num_features: D, the length of the vectors.
        eps: added to the mean square, under the root.
        device: where the weight lives.
        dtype: the precision of the weight.

    Raises:
        ValueError: if ``num_features`` is not positive or ``eps`` is negative.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}, but a vector needs at least 1 number.")
        if eps < 0:
            raise ValueError(f"eps is {eps}, but it must not be negative; gpt-oss uses 1e-5.")
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., D] to the normalized x, in the same shape and precision.

        Raises:
            ValueError: if the last dimension of x is not ``num_features``.
        """
        if x.shape[-1] != self.num_features:
            raise ValueError(f"x has {x.shape[-1]} features, but this norm was made for {self.num_features}.")
        y = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        """Show the settings when the module is printed."""
        return f"{self.num_features}, eps={self.eps}"


# %%
norm = RMSNorm(2880)
print(norm, f"{norm.weight.numel():,} parameters")
norm.weight.data = weight.float()
for dtype in (torch.float32, torch.bfloat16):
    y = x.to(dtype)
    same = torch.allclose(
        norm(y).float(),
        rms_norm_reference(y, norm.weight).float(),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-6,
    )
    print(f"{dtype}: out comes {norm(y).dtype}, equal to the reference: {same}")

# %% [markdown]
# ## Where epsilon matters
#
# Epsilon keeps a zero vector from being divided by zero. For an input of root mean square $r$ the output has $r / \sqrt{r^2 + \epsilon}$, which is 1 as long as $r^2$ is much larger than $\epsilon$. Is it? At the start of training it is closer than you think: fresh embeddings are drawn with a standard deviation of 0.02.

# %%
for r in (1.0, 0.1, 0.02, 0.003):
    outputs = [r / (r * r + eps) ** 0.5 for eps in (1e-5, 1e-6, 1.1920929e-07)]
    print(
        f"input {r:5.3f}: output " + ", ".join(f"{out:.4f}" for out in outputs) + "  (eps 1e-5, 1e-6, 1.2e-7)"
    )

# %% [markdown]
# At 0.02 an epsilon of $10^{-5}$ takes 1.2 % off everything the first layer sees, and $10^{-6}$ a tenth of that. In a test that compares a small random model with another implementation, this is the difference between passing and failing. In a trained model the stream is large and epsilon is invisible, until some position has a tiny vector.
#
# The gradient feels epsilon even more. To see how, we need its formula.
#
# ## The gradient
#
# Write $\hat{x} = x / r$ with $r = \sqrt{\mathrm{mean}(x^2) + \epsilon}$, and let $g$ be the gradient that arrives, already multiplied by the weight. Then
#
# $$ \frac{\partial L}{\partial x} = \frac{1}{r} \Big( g - \hat{x} \cdot \mathrm{mean}(g \odot \hat{x}) \Big), \qquad \frac{\partial L}{\partial w} = \sum_\text{tokens} \frac{\partial L}{\partial y} \odot \hat{x} . $$
#
# In words: remove from $g$ the part that points along $x$, then divide by the scale of $x$. Both halves make sense. The output does not change when $x$ gets longer, so there is nothing to gain along $x$. And a vector that is ten times longer needs a step ten times longer to turn by the same angle, so its gradient is ten times smaller.


# %%
def rms_norm_gradient(x, weight, eps, upstream):
    r = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    normalized, g = x / r, upstream * weight
    return (g - normalized * (g * normalized).mean(-1, keepdim=True)) / r


generator = torch.Generator().manual_seed(1)
x = torch.randn(5, 2880, generator=generator, requires_grad=True)
upstream = torch.randn(5, 2880, generator=generator)
norm(x).backward(upstream)
by_hand = rms_norm_gradient(x.detach(), norm.weight.detach(), norm.eps, upstream)
print("formula equals autograd:", torch.allclose(by_hand, x.grad, atol=1e-5))
along = (x.grad * x).sum(-1).abs() / (x.grad.norm(dim=-1) * x.norm(dim=-1))
print("gradient stands at a right angle to x:", bool((along < 1e-3).all()))
longer = (10 * x.detach()).requires_grad_()
norm(longer).backward(upstream)
print(f"x ten times longer, gradient {(x.grad.norm() / longer.grad.norm()):.2f} times shorter")

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.9, ncols=2)
r = torch.logspace(-5, 1, 120)
for eps, color in ((1e-5, "blue"), (1e-6, "green"), (0.0, "grey")):
    label = f"eps = {eps:.0e}" if eps else "eps = 0"
    axes[0].plot(r, r / (r**2 + eps).sqrt(), color=COLORS[color])
    axes[1].plot(r, 1 / (r**2 + eps).sqrt(), color=COLORS[color], label=label)
axes[0].axvline(0.02, color=COLORS["grey"], linestyle=":", linewidth=1)
axes[0].set(xscale="log", xlabel="root mean square of the input", title="root mean square of the output")
axes[1].set(xscale="log", yscale="log", xlabel="root mean square of the input", title="gain of the gradient")
axes[1].legend(loc="lower left")
show(
    fig,
    alt="Left: output against input scale. Without epsilon it is always 1; with 1e-5 it falls off below about 0.02 "
    "(dotted line: fresh embeddings), with 1e-6 below about 0.005. Right: the gradient's gain grows as one over the "
    "input and is capped by epsilon, at about 300 for 1e-5 and 1,000 for 1e-6.",
)

# %% [markdown]
# Without epsilon, the gradient of a tiny vector would grow without bound. With $10^{-5}$ the gain stops at $1/\sqrt{10^{-5}} \approx 316$.

# %% [markdown]
# ## What pre-norm does to the stream
#
# GPT-2 and GPT-OSS normalize what a layer *reads*, never the stream itself. This is called *pre-norm*. Every layer adds to the stream and nothing shrinks it, so it grows with depth, while each layer still reads vectors of size one. Here are both, in the RMSNorm model that we trained:

# %%
rms_stream = streams[True]
sizes = {name: x.pow(2).mean(-1).sqrt().mean().item() for name, x in rms_stream.items()}
read = {}
for name, x in rms_stream.items():
    read[name] = F.rms_norm(x, (config.n_embd,), eps=1e-5).pow(2).mean().sqrt().item()
print("what the layers read, before the weight:", {round(size, 2) for size in read.values()})

# %% tags=["hide-input"]
fig, ax = new_figure(6.2, 2.8)
ax.plot(list(sizes), list(sizes.values()), "o-", color=COLORS["blue"], label="the stream")
ax.plot(list(read), list(read.values()), "s--", color=COLORS["green"], label="what the layer reads")
ax.set(ylabel="root mean square", ylim=(0, None))
ax.legend()
show(
    fig,
    alt="Root mean square of the residual stream before each norm, from the first block to the final norm: it grows "
    "with depth. What the layers read after normalization stays at 1.",
)

# %%
assert sizes["ln_f"] > 2 * sizes["h.0.ln_1"], "the stream grows"

# %% [markdown]
# Two consequences. A late layer that adds a vector of the same size changes the *direction* of a longer stream less, so late layers have a quieter voice. And by the $1/r$ in the formula above, a longer stream receives a smaller gradient through the norm. [Xiong et al., 2020](https://arxiv.org/abs/2002.04745) show why this order trains without a warm-up's help where the original transformer's did not.
#
# At the end of the stack, one last norm brings the stream back to size one before the logits are computed. Forget it, and the logits grow with depth.

# %% [markdown]
# ## Reality check
#
# PyTorch has had a LayerNorm for years and an `nn.RMSNorm` since 2.4. Ours must equal the latter with the same epsilon, and a LayerNorm without bias on vectors whose mean was removed:

# %%
generator = torch.Generator().manual_seed(2)
x = torch.randn(4, 7, 2880, generator=generator) * 3 + 1
theirs = nn.RMSNorm(2880, eps=1e-5)
theirs.weight.data = norm.weight.data
print("equal to nn.RMSNorm:", torch.allclose(norm(x), theirs(x), atol=1e-6))
centered = x - x.mean(-1, keepdim=True)
print(
    "equal to LayerNorm on centered vectors:",
    torch.allclose(norm(centered), F.layer_norm(centered, (2880,), norm.weight), atol=1e-5),
)

# %% [markdown]
# Against `transformers`' `GptOssRMSNorm` the project's tests (`tests/parity/test_norm_transformers.py`) compare fp32 outputs and gradients, and bfloat16 outputs **bit for bit**, over six orders of magnitude of input. The wrong order of cast and scale fails that test in a quarter of the numbers.
#
# Is it faster? The paper reports 7 % to 64 % less time for a model, but that was 2019. Measure it here:

# %% tags=["nbval-ignore-output"]
import time


def milliseconds(function, repeats=20):
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return 1_000 * best


x = torch.randn(512, 2880)
timings = {
    "LayerNorm": milliseconds(lambda: F.layer_norm(x, (2880,), norm.weight, norm.weight)),
    "RMSNorm": milliseconds(lambda: F.rms_norm(x, (2880,), norm.weight, 1e-5)),
}
for name, spent in timings.items():
    print(f"{name:9s} {spent:.2f} ms for 512 tokens of 2,880 numbers")

# %%
assert all(0 < spent < 1_000 for spent in timings.values())

# %% [markdown]
# Do not be surprised if RMSNorm *loses* on your CPU: there PyTorch has one fused kernel for LayerNorm, but computes RMSNorm in several steps. On a GPU both are fused in recent versions, and both wait for memory. The gain today is simplicity and half of the parameters, not time.

# %% [markdown]
# ## What gpt-oss-20b uses

# %%
layers, width = 24, 2880
norms = 2 * layers + 1
print(f"{norms} norms (before attention, before the experts, and at the end) of {width:,} weights")
print(f"{norms * width:,} parameters in all; LayerNorm would have {2 * norms * width:,}")
print("epsilon 1e-5, fp32 inside, scale then cast, no bias, no norm on queries and keys")

# %% [markdown]
# OpenAI's checkpoint calls them `attn.norm.scale`, `mlp.norm.scale` and `norm.scale`; Hugging Face's `input_layernorm.weight`, `post_attention_layernorm.weight` and `norm.weight`. They are not LayerNorms, whatever the name says.

# %% [markdown]
# ## Pitfalls
#
# - **Cast before scale.** Copy a Llama norm into gpt-oss and a quarter of all outputs move by one bit. The reverse happened too: [TransformerEngine](https://github.com/NVIDIA/TransformerEngine/issues/1132) scales first, and did not match Llama.
# - **Mixed types.** With cast before scale, a bfloat16 input times an fp32 weight is an fp32 *output*, and the next linear layer stops with a type error: [reported](https://github.com/huggingface/transformers/issues/30236) [several times](https://github.com/huggingface/transformers/pull/25421).
# - **Another epsilon.** `nn.RMSNorm(D)` without an epsilon uses that of a data type, not $10^{-5}$; [which type](https://github.com/pytorch/pytorch/pull/173039) changed between versions. In `transformers`, Llama's default is $10^{-6}$. Read it from the configuration.
# - **Epsilon outside the root.** $\sqrt{\mathrm{mean}(x^2)} + \epsilon$ is another function for small inputs, and its gradient at zero is not finite.
# - **Sixteen bits inside.** [Lightning Thunder](https://github.com/Lightning-AI/lightning-thunder/issues/1713) once forgot the conversion to fp32.
# - **A weight that starts at zero.** Some models (Gemma) store $w - 1$ and multiply by $1 + w$. Loaded into an ordinary RMSNorm, such weights erase the stream.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/08_rmsnorm.ipynb):
#
# 1. **RMSNorm, to the bit.** Write it so that bfloat16 results equal gpt-oss's, bit for bit.
# 2. **Fold the norm.** Move a LayerNorm's weight and bias into the linear layer behind it, without changing the model.
# 3. **Remove the mean.** Change a linear layer so that LayerNorm behind it becomes RMSNorm.
# 4. **Backward by hand.** Return both gradients without autograd.

# %% [markdown]
# ## Summary
#
# - LayerNorm re-centers and re-scales; only re-scaling does the work. A model with LayerNorm can be rewritten exactly as one with RMSNorm, because removing the mean is linear and can move into the weights.
# - RMSNorm keeps the direction of a vector and sets its root mean square to one, then scales each number by a learned weight.
# - Inside it is fp32. gpt-oss scales, then casts: one rounding.
# - Epsilon stands under the root; it matters for vectors as small as fresh embeddings, and it caps the gradient.
# - The gradient is perpendicular to the input and inversely proportional to its length.
# - Pre-norm lets the stream grow while every layer reads vectors of size one.
#
# Next: [RoPE and YaRN](09_rope_yarn.ipynb), which replaces the table of positions.

# %% [markdown]
# ## Further reading
#
# - [Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467): RMSNorm.
# - [Ba et al., 2016](https://arxiv.org/abs/1607.06450): LayerNorm.
# - [Jiang et al., 2023](https://arxiv.org/abs/2305.14858): LayerNorm models as RMSNorm models, exactly.
# - [Xiong et al., 2020](https://arxiv.org/abs/2002.04745): why the norm stands before the layer.
# - [`gpt_oss/torch/model.py`](https://github.com/openai/gpt-oss): the reference, with `RMSNorm` near the top of the file.
