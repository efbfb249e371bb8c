# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Mixture of experts
#
# gpt-oss-20b stores twenty-one billion parameters and uses less than four billion for any one token. The trick is in this chapter: in place of one MLP a layer has thirty-two of them, and a small router sends each token to four. It is easy to write down and hard to get right: the obvious code is slow, the fast code needs a gradient by hand, and left alone the router plays favourites.
#
# **You will**
#
# - build the router, and see why "top-k, then softmax" is not "softmax, then top-k";
# - write the loop over tokens that defines the layer, and the version that sorts tokens by expert, and prove them equal, gradients included;
# - watch experts specialize, watch a few of them take over, and stop it with a balancing loss;
# - find out why a router that picks one expert learns nothing, and what to do about it.
#
# **Time:** 90 minutes. **Hardware:** any CPU; the chapter runs in about half a minute.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# In [GPT-2](05_gpt2.ipynb) every token is multiplied by every parameter of every MLP. If you want a model to know more, you make its MLPs wider, and then every token pays for it: the comma as much as the chemical formula.
#
# Knowing and computing need not grow together. Keep many MLPs, the **experts**, and let each token use a few. What is stored grows with the number of experts E; what is computed grows with the number K that work on one token. A layer with E = 32 and K = 4 stores eight times what it uses.
#
# The idea goes back a long way; in its modern form it is [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538), and the Switch Transformer of [Fedus et al., 2021](https://arxiv.org/abs/2101.03961) made it simpler. [The map](01_map.ipynb) counted parameters; here are the stored and the active ones side by side:

# %%
from gptoss_lib.config import GPTOSSConfig, count_parameters

for name in ("gpt-oss-20b", "gpt-oss-120b", "compact", "s"):
    config = GPTOSSConfig.preset(name)
    count = count_parameters(config)
    print(
        f"{name:12s} {config.num_local_experts:3d} experts, {config.num_experts_per_tok} at work: "
        f"{count.total / 1e6:9,.0f} M stored, {count.active / 1e6:6,.0f} M active ({count.active / count.total:.0%})"
    )

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show

fig, axes = new_figure(7, 2.5, ncols=2)
for ax, name in zip(axes, ("gpt-oss-20b", "gpt-oss-120b"), strict=True):
    count = count_parameters(GPTOSSConfig.preset(name))
    rest = count.active - count.active_experts
    for row, (label, experts) in enumerate((("active", count.active_experts), ("stored", count.experts))):
        others = rest if label == "active" else count.total - count.experts
        ax.barh(row, others / 1e9, color=COLORS["grey"], label="everything else" if row else None)
        ax.barh(row, experts / 1e9, left=others / 1e9, color=COLORS["blue"], label="experts" if row else None)
    ax.set(yticks=(0, 1), yticklabels=("active", "stored"), xlabel="billion parameters", title=name)
axes[0].legend(loc="lower right", fontsize=8)
show(
    fig,
    alt="Two bar charts of stored and active parameters. In gpt-oss-20b 21 billion are stored, nearly all of them in "
    "experts, and under 4 billion are active. In gpt-oss-120b 117 billion are stored and about 5 billion are active.",
)

# %% [markdown]
# The two models differ in their experts above all: four times as many in a layer, and the same four at work. The larger one, which also has half as many layers again, stores 5.6 times as much and uses 1.4 times as much.

# %% [markdown]
# ## The router
#
# A router is one small linear layer: for a token's vector $x$ it gives E scores, $z = W x + b$. Two steps follow.
#
# 1. Take the K experts with the largest scores.
# 2. Softmax over *those K scores* gives the weights of their answers.
#
# The answer of the layer is $\sum_{e \in \text{chosen}} p_e \cdot \mathrm{Expert}_e(x)$. In words: ask the K experts that suit the token best, and average what they say, weighted by how well they suit.

# %%
import torch
import torch.nn.functional as F
from torch import nn

z = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.1, 0.0, -0.1, 0.05]])
chosen, indices = z.topk(2, dim=-1)
scores = chosen.softmax(-1)
for token in range(2):
    print(f"token {token}: experts {indices[token].tolist()} with weights {scores[token].numpy().round(3)}")

# %% [markdown]
# Many models do it the other way round: softmax over all E scores, then take the K largest probabilities. What is the difference?

# %%
kept = z.softmax(-1).gather(1, indices)
print("softmax, then top-k:", *(f"{row.numpy().round(3)} sum {row.sum():.3f}" for row in kept))
print("renormalized to one:", *(row.numpy().round(3) for row in kept / kept.sum(-1, keepdim=True)))

# %% [markdown]
# The same experts, but the weights no longer sum to one: the second token, whose scores are all alike, gets about half an answer. Divide by the sum and you are back at top-k, then softmax: the denominator over all experts cancels. So there are two families, and a model must be run as it was trained. gpt-oss: **top-k, then softmax**, weights that sum to one.
#
# One more ingredient, **jitter**. During training, the Switch Transformer multiplies the router's input by random numbers between $1 - \epsilon$ and $1 + \epsilon$, so that close decisions fall now this way, now that, and more experts get a try. gpt-oss's code has none, so it is off by default.

# %%
#| export
"""A mixture of experts: many MLPs, of which a router sends each token to a few.

GPT-2 multiplies every token by every weight of its MLP. Here a layer holds E experts with a SwiGLU
inside; a linear router scores them, the K best work on the token, and the softmax of their K scores
weighs their answers. Tokens are sorted by expert, so that each expert makes one matrix product.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.products import ONEDNN_IS_FASTER, linear, product
from gptoss_lib.swiglu import join_gate_up, swiglu, swiglu_backward, swiglu_parts


class Router(nn.Module):
    """Score the experts, choose K of them for each token, and weigh those with a softmax.

    As ``MLPBlock.gate`` in OpenAI's ``gpt_oss/torch/model.py`` and ``GptOssTopKRouter`` in transformers.

    Args:
        config: the sizes, and whether the router has a bias.
        jitter: during training, inputs are multiplied by random numbers in [1 − jitter, 1 + jitter]
            (Switch Transformer, section 2.4); gpt-oss has none.

    Raises:
        ValueError: if ``jitter`` is not in [0, 1).
    """

    def __init__(self, config: GPTOSSConfig, jitter: float = 0.0) -> None:
        super().__init__()
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter is {jitter}; it must be at least 0 and below 1, for example 0.01.")
        self.top_k = config.num_experts_per_tok
        self.jitter = jitter
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.num_local_experts)) if config.router_bias else None
        nn.init.normal_(self.weight, std=config.initializer_range)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route x [N, D].

        Returns:
            The logits of all experts [N, E], the weights of the chosen [N, K], which sum to one, and
            their numbers [N, K], best first.
        """
        if self.training and self.jitter:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        router_logits = linear(x, self.weight, self.bias)  # [N, E]
        chosen, indices = router_logits.topk(self.top_k, dim=-1)  # [N, K]
        return router_logits, chosen.softmax(dim=-1), indices


# %%
toy = GPTOSSConfig(
    vocab_size=50,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    num_local_experts=5,
    num_experts_per_tok=2,
    initializer_range=0.3,
)
torch.manual_seed(0)
router = Router(toy)
logits, scores, indices = router(torch.randn(6, 12))
print(
    "logits",
    list(logits.shape),
    "weights",
    list(scores.shape),
    "sums",
    scores.sum(-1).detach().numpy().round(3),
)
print("chosen experts, token by token:", indices.tolist())

# %% [markdown]
# ## The obvious version
#
# An expert is the MLP of [the last chapter](13_swiglu.ipynb): up to 2F interleaved gates and ups, SwiGLU, down to D. All experts of a layer are stored together, as one tensor with E in front.
#
# The definition is a loop. It takes the tokens one by one, asks each token's experts one by one, and adds up. Nobody would run it, and everybody can read it; everything below is tested against it.


# %%
#| export
def moe_reference(moe: "MoE", x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a :class:`MoE` token by token and expert by expert: the slow, obvious version.

    Args:
        moe: the layer whose weights are used (without jitter).
        x: [B, T, D].

    Returns:
        The output [B, T, D] and the router logits [B·T, E].
    """
    experts, router = moe.experts, moe.router
    outputs, all_logits = [], []
    for token in x.flatten(0, 1):  # [D]
        logits = router.weight @ token
        if router.bias is not None:
            logits = logits + router.bias
        chosen = sorted(range(len(logits)), key=lambda e: -logits[e].item())[: router.top_k]
        shares = torch.softmax(logits[chosen], dim=0)
        output = torch.zeros_like(token)
        for share, expert in zip(shares, chosen, strict=True):
            hidden = token @ experts.gate_up_proj[expert]  # [2F]
            if experts.gate_up_proj_bias is not None:
                hidden = hidden + experts.gate_up_proj_bias[expert]
            answer = swiglu(hidden, experts.alpha, experts.limit) @ experts.down_proj[expert]  # [D]
            if experts.down_proj_bias is not None:
                answer = answer + experts.down_proj_bias[expert]
            output = output + share * answer
        outputs.append(output)
        all_logits.append(logits)
    return torch.stack(outputs).view_as(x), torch.stack(all_logits)


# %% [markdown]
# What is wrong with it? A product of one vector and a matrix reads the whole matrix to use each number once. Processors multiply far faster than they read, so they wait.
#
# A tempting way out is to gather: pick the K matrices of every token with one index, `gate_up_proj[indices]`, and multiply all at once. Look at the size of what that builds, for one layer of gpt-oss-20b and 4,096 tokens in 16 bits:

# %%
config = GPTOSSConfig.preset("gpt-oss-20b")
D, width, K, tokens = config.hidden_size, config.intermediate_size, config.num_experts_per_tok, 4_096
gathered = tokens * K * D * 2 * width * 2
stored = config.num_local_experts * D * 2 * width * 2
print(f"gathered weights: {gathered / 1e9:,.0f} GB; the weights themselves: {stored / 1e9:.2f} GB")

# %% [markdown]
# The same few matrices, copied thousands of times. For a single token it is fine; for a text it is out of the question.

# %% [markdown]
# ## Sort tokens by expert
#
# Turn the question around. Not "which experts does this token need?" but "which tokens does this expert have?" If all rows that go to expert 0 stand together, then all for expert 1, and so on, each expert makes **one** product of its matrix with its block of rows, and reads its weights once.

# %% tags=["hide-input"]
fig, ax = new_figure(7, 3.0)
choices = [(1, 0), (0, 2), (1, 2), (2, 1)]
colors = ("blue", "orange", "green")
ordered = sorted(
    (expert, token, slot) for token, pair in enumerate(choices) for slot, expert in enumerate(pair)
)
for token, pair in enumerate(choices):
    for slot, expert in enumerate(pair):
        box(ax, 2 * token + 0.8 * slot + 0.05, 2.3, 0.75, 0.6, f"t{token}", colors[expert])
        row = ordered.index((expert, token, slot))
        arrow(ax, (2 * token + 0.8 * slot + 0.42, 2.3), (row + 0.45, 1.4), colors[expert], linewidth=1.0)
for row, (expert, token, _) in enumerate(ordered):
    box(ax, row + 0.08, 0.8, 0.75, 0.6, f"t{token}", colors[expert])
start = 0
for expert in range(3):
    size = sum(expert == other for other, _, _ in ordered)
    box(ax, start + 0.08, 0.0, size - 0.17, 0.55, f"expert {expert}: one product", colors[expert], fontsize=8)
    start += size
ax.text(-0.15, 2.6, "choices", ha="right", va="center")
ax.text(-0.15, 1.1, "sorted", ha="right", va="center")
ax.set(xlim=(-1.5, 8.1), ylim=(-0.1, 3.0), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="Four tokens with two choices each, coloured by expert. Arrows lead to a second row in which the eight choices "
    "are sorted: first the two for expert 0, then three for expert 1, then three for expert 2. Below each group stands "
    "one box: one product.",
)

# %% [markdown]
# The sort needs three things: for each sorted row the token that it belongs to; for each choice of each token the row where it ended up, to find the way back; and where each expert's segment begins and ends. An expert that nobody chose has an empty segment.
#
# There is an option to lengthen every segment to a multiple of some number. The rows that this adds belong to nobody and get weight zero. It sounds wasteful, but matrix libraries prepare code for every new size they meet, and segments change their size at every step: with 16-bit numbers on a CPU the preparation costs more than the extra rows.


# %%
#| export
class Dispatch(NamedTuple):
    """Where each choice of each token stands once they are sorted by expert."""

    token: Tensor  # [R], the token of every row; 0 in rows that only pad
    row: Tensor  # [N, K], the row of every choice
    segments: list[tuple[int, int]]  # for each expert its first row, and the row after its last


def sort_by_expert(indices: Tensor, num_experts: int, multiple: int = 1) -> Dispatch:
    """Group the choices of N tokens by expert, in the order of the tokens.

    Args:
        indices: [N, K], the experts that each token goes to.
        num_experts: E; experts without tokens get an empty segment.
        multiple: pad every segment to a multiple of this many rows.
    """
    choices = indices.flatten()  # [N·K]
    order = choices.argsort(stable=True)
    counts = torch.bincount(choices, minlength=num_experts).tolist()
    segments, shifts, start, end = [], [], 0, 0
    for count in counts:
        shifts.append(end - start)  # how many rows of padding stand before this expert
        start += count
        segments.append((end, end + -(-count // multiple) * multiple))
        end = segments[-1][1]
    rows = torch.arange(len(order), device=indices.device)
    rows = rows + torch.tensor(shifts, device=indices.device)[choices[order]]
    row = torch.empty_like(rows)
    row[order] = rows
    token = rows.new_zeros(end)
    token[rows] = order // indices.shape[1]
    return Dispatch(token, row.view_as(indices), segments)


# %%
dispatch = sort_by_expert(torch.tensor(choices), num_experts=3)
print("token of each row:", dispatch.token.tolist())
print("row of each choice:", dispatch.row.tolist())
print("segments:", dispatch.segments)
print("segments, padded to 4:", sort_by_expert(torch.tensor(choices), 3, multiple=4).segments)

# %% [markdown]
# ## One product an expert
#
# Forward is now short: gather the rows, two products and a SwiGLU for each segment, then for every token add up its K rows with their weights. For that last step PyTorch has one function, `embedding_bag`: it looks up rows, multiplies each with a weight and sums them, without building anything in between.
#
# Autograd could do the backward pass. But it would build the weight gradient of *each expert* as a tensor of the size of *all experts*, mostly zeros, and add up E of them. By hand, every expert's product is written straight to its place in one tensor.
#
# Let $g$ be the gradient that arrives at a token, $h$ the hidden vector of one of its experts and $p$ that expert's weight, so that the token receives $p\,(h W + b)$. Then
#
# $$ \frac{\partial L}{\partial h} = p\, (g\, W^\top), \qquad \frac{\partial L}{\partial W} = \sum_{\text{rows}} h^\top (p\, g), \qquad \frac{\partial L}{\partial p} = g \cdot (hW + b) = (g\,W^\top) \cdot h + g \cdot b . $$
#
# In words: the first two are a linear layer's gradients, scaled by the weight. The last one compares the expert's answer with the direction in which the loss rises: where it is negative, the answer helps, and a step against the gradient gives that expert more weight. It is what trains the router. Written as on the far right it needs no answer of the expert, only $gW^\top$, which we compute anyway. So forward need not keep the answers.
#
# A last detail costs more than one would think. Gradients are as large as the weights, and after every step they are let go. The operating system takes such large pieces of memory back and clears them before it hands them out again: writing to fresh memory can take several times as long as writing to memory that is in use. So we remember the memory of each weight's last gradient, and use it again if nobody else holds it any more.


# %%
#| export
def _num_rows(indices: Tensor, num_experts: int, multiple: int) -> int:
    """Return how many rows padded segments can need at most, whatever the router chooses."""
    return indices.numel() + num_experts * (multiple - 1)


def _of_expert(
    x: Tensor, weight: Tensor, bias: Tensor | None, expert: int, out: Tensor | None = None
) -> Tensor:
    """Return x @ weight + bias of one expert, whose numbers are cast to the precision of x."""
    return product(x, weight[expert].to(x.dtype), None if bias is None else bias[expert].to(x.dtype), out)


@torch.library.custom_op("gptoss_lib::experts", mutates_args=())
def _run_experts(
    x: Tensor,
    scores: Tensor,
    indices: Tensor,
    alpha: float,
    limit: float,
    multiple: int,
    gate_up_proj: Tensor,
    gate_up_bias: Tensor | None,
    down_proj: Tensor,
    down_bias: Tensor | None,
) -> list[Tensor]:
    """Make one product an expert; return the answer [N, D] and what the way back needs."""
    num_experts = len(down_proj)
    token, row, segments = sort_by_expert(indices, num_experts, multiple)
    token = F.pad(token, (0, _num_rows(indices, num_experts, multiple) - len(token)))
    rows = x[token]  # [R, D]
    gate, up, hidden = (x.new_empty(len(token), down_proj.shape[1]) for _ in range(3))
    answers = torch.empty_like(rows)
    for expert, (start, end) in enumerate(segments):
        if start == end:
            continue
        inner = _of_expert(rows[start:end], gate_up_proj, gate_up_bias, expert)  # [n, 2F]
        g, u = inner.unflatten(-1, (-1, 2)).unbind(-1)
        g, u = gate[start:end].copy_(g), up[start:end].copy_(u)
        hidden[start:end] = swiglu_parts(g, u, alpha, limit)
        _of_expert(hidden[start:end], down_proj, down_bias, expert, out=answers[start:end])
    out = F.embedding_bag(row, answers, mode="sum", per_sample_weights=scores)  # [N, D]
    ends = torch.tensor([end for _, end in segments])
    return [out, rows, gate, up, hidden, token, row, ends]


_GRADIENT_MEMORY = WeakTensorKeyDictionary()  # of every weight, the memory in which its last gradient was
_count_holders = getattr(torch._C, "_storage_Use_Count", None)  # not in every build of older versions


def _empty_gradient(weight: Tensor) -> Tensor:
    """Return an empty tensor like ``weight``, in the memory of its last gradient if nobody holds that."""
    if _count_holders is None or not weight.is_cpu:
        return torch.empty_like(weight)
    memory = _GRADIENT_MEMORY.get(weight)
    if memory is None or _count_holders(memory._cdata) > 1:  # the dictionary is one of the holders
        memory = _GRADIENT_MEMORY[weight] = torch.empty_like(weight).untyped_storage()
    return weight.new_empty(0).set_(memory, 0, weight.shape)


@torch.library.custom_op("gptoss_lib::experts_backward", mutates_args=())
def _experts_backward(
    grad_out: Tensor,
    scores: Tensor,
    saved: list[Tensor],
    alpha: float,
    limit: float,
    weights: list[Tensor | None],
    needed: list[bool],
) -> list[Tensor]:
    """Return the gradients of x, the scores, and those weights and biases that are needed."""
    rows, gate, up, hidden, token, row, ends = saved
    gate_up_proj, _, down_proj, down_bias = weights
    grads = [
        _empty_gradient(weight) if wanted else None for weight, wanted in zip(weights, needed, strict=True)
    ]
    share = scores.new_zeros(len(token), 1)  # a row that only pads has no share in anything
    share[row] = scores.unsqueeze(-1)
    grad_share, grad_rows = torch.empty_like(share), torch.empty_like(rows)
    start = 0
    for expert, end in enumerate(ends.tolist()):
        grad = grad_out[token[start:end]]  # [n, D]
        grad_hidden = product(grad, down_proj[expert].to(grad.dtype).t())  # [n, F]
        grad_share[start:end] = (grad_hidden * hidden[start:end]).sum(-1, keepdim=True)
        if down_bias is not None:
            grad_share[start:end] += (grad @ down_bias[expert].to(grad.dtype)).unsqueeze(-1)
        _put_gradients(hidden[start:end], grad.mul_(share[start:end]), expert, *grads[2:])
        grad_hidden.mul_(share[start:end])
        parts = swiglu_backward(grad_hidden, gate[start:end], up[start:end], alpha, limit)
        grad_inner = join_gate_up(*parts)  # [n, 2F]
        _put_gradients(rows[start:end], grad_inner, expert, *grads[:2])
        product(grad_inner, gate_up_proj[expert].to(grad.dtype).t(), out=grad_rows[start:end])
        start = end
    of_weights = [grad for grad in grads if grad is not None]
    return [F.embedding_bag(row, grad_rows, mode="sum"), grad_share.squeeze(-1)[row], *of_weights]


def _put_gradients(x: Tensor, grad: Tensor, expert: int, weight: Tensor | None, bias: Tensor | None) -> None:
    """Write one expert's gradients into ``weight`` [E, in, out] and ``bias`` [E, out], where needed."""
    if weight is not None:
        product(x.t(), grad, out=weight[expert])
    if bias is not None:
        torch.sum(grad, 0, out=bias[expert])


# %% [markdown]
# To PyTorch these two functions are operators of their own, like `torch.mm`: opaque, so that `torch.compile` need not understand a loop whose bounds are data. What it has to be told is the shapes that come out, and which operator is the other's gradient.


# %%
#| export
@_run_experts.register_fake
def _(x, scores, indices, alpha, limit, multiple, gate_up_proj, gate_up_bias, down_proj, down_bias):
    E, width = down_proj.shape[:2]
    rows = _num_rows(indices, E, multiple)
    inner = [x.new_empty(rows, width) for _ in range(3)]
    places = [indices.new_empty(shape) for shape in (rows, indices.shape, E)]
    return [torch.empty_like(x), x.new_empty(rows, x.shape[1]), *inner, *places]


@_experts_backward.register_fake
def _(grad_out, scores, saved, alpha, limit, weights, needed):
    chosen = [weight for weight, wanted in zip(weights, needed, strict=True) if wanted]
    return [torch.empty_like(x) for x in (grad_out, scores, *chosen)]


def _keep_for_backward(ctx, inputs, output):
    _, scores, _, ctx.alpha, ctx.limit, _, *weights = inputs
    ctx.save_for_backward(scores, *weights, *output[1:])


def _call_backward(ctx, grads):
    scores, *kept = ctx.saved_tensors
    weights, saved, needed = kept[:4], kept[4:], list(ctx.needs_input_grad[6:])
    results = _experts_backward(grads[0], scores, saved, ctx.alpha, ctx.limit, weights, needed)
    given = iter(results[2:])
    of_weights = [next(given) if wanted else None for wanted in needed]
    return *results[:2], None, None, None, None, *of_weights


_run_experts.register_autograd(_call_backward, setup_context=_keep_for_backward)


# %% [markdown]
# What is kept for the backward pass has one row for each *choice*: N · K rows of D or F numbers. No tensor has tokens × D × F entries, and no weight is copied.
#
# On a GPU the loop over experts has another problem: the host has to wait for the segment sizes, and then launches E small kernels. Recent versions of PyTorch have `grouped_mm`, which does all segments in one kernel and reads their ends on the device. Where it is available, we use it and leave the gradient to autograd:


# %%
#| export
def _grouped_experts(x, scores, indices, alpha, limit, *weights):
    """Run all experts in two grouped products, without waiting for the device."""
    gate_up_proj, gate_up_bias, down_proj, down_bias = (w if w is None else w.to(x.dtype) for w in weights)
    expert, order = indices.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, torch.arange(len(down_proj), device=x.device), right=True).int()
    inner = F.grouped_mm(x[order // indices.shape[1]], gate_up_proj, offs=ends)  # [N·K, 2F]
    if gate_up_bias is not None:
        inner = inner + gate_up_bias[expert]
    answers = F.grouped_mm(swiglu(inner, alpha, limit), down_proj, offs=ends)  # [N·K, D]
    if down_bias is not None:
        answers = answers + down_bias[expert]
    row = torch.empty_like(order)
    row[order] = torch.arange(len(order), device=x.device)
    return (answers[row].view(*indices.shape, -1) * scores.unsqueeze(-1)).sum(dim=1)  # [N, D]


def _can_group(x: Tensor, weight: Tensor) -> bool:
    # The kernel wants bfloat16 and rows of whole 16-byte pieces.
    aligned = weight.shape[1] % 8 == 0 and weight.shape[2] % 8 == 0
    return x.is_cuda and x.dtype == torch.bfloat16 and aligned and hasattr(F, "grouped_mm")


# %% [markdown]
# A single token, the case of writing text, needs no sorting. Its K experts multiply one vector by a matrix each, and $xW$ is a sum of the rows of $W$, weighted by the numbers in $x$: `embedding_bag` once more. Choose the rows of K matrices, and one call does it for all experts, reading each chosen weight once, in the order in which it lies in memory.
#
# The module holds the weights in Hugging Face's layout and chooses the way. The master weights stay in 32 bits under autocast; each expert's are cast when its turn comes, so that the copy is small enough to stay in the processor's caches, and its gradient is widened on the way to its place.


# %%
#| export
def _sorted_experts(x, scores, indices, alpha, limit, *weights):
    num_experts = len(weights[-2])
    # On a CPU oneDNN prepares every new size of a product, which small segments are not worth.
    multiple = 32 if x.dtype != torch.float32 else 16 if ONEDNN_IS_FASTER else 1
    if x.device.type != "cpu" or indices.numel() < multiple * num_experts:
        multiple = 1
    return _run_experts(x, scores, indices, alpha, limit, multiple, *weights)[0]


def _chosen_products(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Multiply x [K, in] by the weights of K experts out of [E, in, out]: sums of their rows, [K, out]."""
    K, width = len(chosen), weight.shape[1]
    pieces = math.gcd(width, 8)  # of a sum, so that many cores can share the work
    rows = chosen.unsqueeze(-1) * width + torch.arange(width, device=x.device)  # [K, in]
    rows, shares = (each.reshape(K * pieces, -1) for each in (rows, x))
    sums = F.embedding_bag(rows, weight.flatten(0, 1), mode="sum", per_sample_weights=shares)
    return sums.view(K, pieces, -1).sum(1)


def _experts_of_one_token(x, scores, indices, alpha, limit, gate_up_proj, gate_up_bias, down_proj, down_bias):
    dtype, chosen = x.dtype, indices[0]  # [K]
    x, scores = x.to(down_proj.dtype), scores.to(down_proj.dtype)
    inner = _chosen_products(x.expand(len(chosen), -1), gate_up_proj, chosen)  # [K, 2F]
    if gate_up_bias is not None:
        inner = inner + gate_up_bias[chosen]
    answers = _chosen_products(swiglu(inner, alpha, limit), down_proj, chosen)  # [K, D]
    if down_bias is not None:
        answers = answers + down_bias[chosen]
    return (scores @ answers).to(dtype)


class Experts(nn.Module):
    """E MLPs with SwiGLU, each applied to the tokens that chose it.

    Parameters have Hugging Face's names and layout, inputs before outputs: ``gate_up_proj`` [E, D, 2F]
    with gates and ups interleaved, and ``down_proj`` [E, F, D]. On a CPU, the memory of their gradients
    stays with them, for the next ones.

    Args:
        config: the sizes, SwiGLU's alpha and limit, and whether there are biases.
    """

    def __init__(self, config: GPTOSSConfig) -> None:
        super().__init__()
        E, D, width = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.alpha, self.limit = config.swiglu_alpha, config.swiglu_limit
        self.gate_up_proj = nn.Parameter(torch.empty(E, D, 2 * width))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(E, 2 * width)) if config.expert_bias else None
        self.down_proj = nn.Parameter(torch.empty(E, width, D))
        self.down_proj_bias = nn.Parameter(torch.zeros(E, D)) if config.expert_bias else None
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(self, x: Tensor, indices: Tensor, scores: Tensor) -> Tensor:
        """Send each token to its experts and add up their answers.

        Args:
            x: [N, D].
            indices: [N, K], the experts of each token, all different.
            scores: [N, K], the weights of their answers.

        Returns:
            [N, D].
        """
        weights = (self.gate_up_proj, self.gate_up_proj_bias, self.down_proj, self.down_proj_bias)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, scores = x.to(dtype), scores.to(dtype)
        if len(x) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled():
            run = _experts_of_one_token
        else:
            run = _grouped_experts if _can_group(x, self.gate_up_proj) else _sorted_experts
        with torch.autocast(kind, enabled=False):
            return run(x, scores, indices, self.alpha, self.limit, *weights)


# %% [markdown]
# And the layer itself. It returns the router's logits too, because the losses below need them. The check at its beginning is explained in "One expert is no choice".


# %%
#| export
class MoE(nn.Module):
    """A router and its experts, in the place of GPT-2's MLP.

    Args:
        config: the architecture.
        jitter: noise on the router's input during training, see :class:`Router`.
        allow_frozen_router: train although only one expert works on a token, which leaves the router
            without any gradient from the output.

    Raises:
        ValueError: if ``jitter`` is not in [0, 1).
    """

    def __init__(self, config: GPTOSSConfig, jitter: float = 0.0, allow_frozen_router: bool = False) -> None:
        super().__init__()
        self.router = Router(config, jitter)
        self.experts = Experts(config)
        self.allow_frozen_router = allow_frozen_router

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map the normalized stream x [B, T, D] to an update [B, T, D] and the router logits [B·T, E].

        Raises:
            ValueError: if x has another width than the layer, or if the layer is trained with one
                expert a token without ``allow_frozen_router``.
        """
        num_experts, width = self.router.weight.shape
        if x.shape[-1] != width:
            raise ValueError(f"x has {x.shape[-1]} features, but this layer was made for {width}.")
        frozen = self.router.top_k == 1 < num_experts and not self.allow_frozen_router
        if frozen and self.training and torch.is_grad_enabled():
            raise ValueError(
                "num_experts_per_tok is 1: the softmax over one score is always 1, so the router gets no "
                "gradient from the output; use 2 or more, or pass allow_frozen_router=True."
            )
        tokens = x.flatten(0, -2)  # [B·T, D]
        router_logits, scores, indices = self.router(tokens)
        return self.experts(tokens, indices, scores).view_as(x), router_logits


# %% [markdown]
# Is it equal to the loop? Forward and backward, with inputs large enough to go beyond SwiGLU's clamp:

# %%
torch.manual_seed(0)
moe = MoE(toy)
with torch.no_grad():
    for name, parameter in moe.named_parameters():
        parameter.normal_(std=0.3 if name == "router.weight" else 1.0)
x, upstream = torch.randn(2, 9, 12), torch.randn(2, 9, 12)
gradients = {}
for name, run in (("reference", lambda y: moe_reference(moe, y)), ("sorted", moe)):
    y = x.clone().requires_grad_()
    moe.zero_grad()
    output, logits = run(y)
    (output * upstream).sum().backward()
    gradients[name] = {"output": output.detach(), "x": y.grad} | {
        key: p.grad.clone() for key, p in moe.named_parameters()
    }
for key, expected in gradients["reference"].items():
    close = torch.allclose(
        gradients["sorted"][key], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )
    print(f"{key:26s} {list(expected.shape)!s:12s} equal: {close}")

# %% [markdown]
# And what did the sorting buy? One training step of the "s" size's layer, 512 tokens, against the loop:

# %% tags=["nbval-ignore-output"]
import time

small = GPTOSSConfig.preset("s")
torch.manual_seed(0)
layer, x = MoE(small), torch.randn(1, 512, small.hidden_size)
seconds = {}
for name, run in (("token by token", lambda y: moe_reference(layer, y)), ("sorted by expert", layer)):
    best = float("inf")
    for _ in range(1 if "token" in name[:5] else 3):
        begin = time.perf_counter()
        run(x)[0].sum().backward()
        best = min(best, time.perf_counter() - begin)
    seconds[name] = best
    print(f"{name:17s} {1_000 * best:8.1f} ms")

# %%
assert seconds["sorted by expert"] < seconds["token by token"] / 5

# %% [markdown]
# The ratio depends on your machine. Both do the same multiplications; the second does them in few large pieces.

# %% [markdown]
# ## Do experts specialize?
#
# Nobody tells the experts who is responsible for what. Let us see whether they divide the work. The toy world: tokens come from eight clusters, and each cluster has its own linear map that the layer must learn. One expert with 16 units cannot learn eight maps. Eight experts can, if the router sends each cluster to its own.

# %%
import dataclasses

CLUSTERS, WIDTH = 8, 16
generator = torch.Generator().manual_seed(0)
centers = 3 * F.normalize(torch.randn(CLUSTERS, WIDTH, generator=generator), dim=-1)
maps = torch.randn(CLUSTERS, WIDTH, WIDTH, generator=generator) / WIDTH**0.5
world = GPTOSSConfig(
    vocab_size=50,
    hidden_size=WIDTH,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    num_local_experts=8,
    num_experts_per_tok=2,
    initializer_range=0.1,
)


def draw(count, generator):
    """Return the cluster, the input and the wanted output of ``count`` tokens."""
    cluster = torch.randint(CLUSTERS, (count,), generator=generator)
    x = centers[cluster] + 0.5 * torch.randn(count, WIDTH, generator=generator)
    return cluster, x, torch.einsum("nd,nde->ne", x, maps[cluster])


# %% [markdown]
# Two more settings of the experiment, which we need in a moment: a weight for a balancing loss, and a head start that two experts get through the router's bias.


# %%
def train_moe(balance=0.0, head_start=0.0, top_k=2, steps=300):
    torch.manual_seed(7)
    moe = MoE(dataclasses.replace(world, num_experts_per_tok=top_k), allow_frozen_router=True)
    with torch.no_grad():
        moe.router.bias[:2] += head_start
    optimizer = torch.optim.AdamW(moe.parameters(), lr=1e-2, weight_decay=0)
    generator, loads, routers = torch.Generator().manual_seed(1), [], []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        routers.append((moe.router.weight.detach().clone(), moe.router.bias.detach().clone()))
        _, x, y = draw(256, generator)
        output, logits = moe(x[None])
        loss = F.mse_loss(output[0], y) + balance * load_balancing_loss(logits, top_k)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loads.append(expert_load(logits, top_k) / top_k)
    cluster, x, y = draw(2_000, generator)
    with torch.no_grad():
        output, logits = moe(x[None])
    error = (F.mse_loss(output[0], y) / y.var()).item()
    return {
        "moe": moe,
        "error": error,
        "loads": torch.stack(loads),
        "routers": routers,
        "cluster": cluster,
        "logits": logits,
    }


# %% [markdown]
# The two functions that it calls measure and judge the load. The **load** of an expert is the share of tokens that chose it. The loss is explained below; in the first run its weight is zero.


# %%
#| export
def expert_load(router_logits: Tensor, num_experts_per_tok: int, mask: Tensor | None = None) -> Tensor:
    """Return the share of tokens that choose each expert, [E]; the shares sum to K.

    Args:
        router_logits: [N, E].
        num_experts_per_tok: K.
        mask: [N], zero where a token is padding and does not count.

    Raises:
        ValueError: if ``router_logits`` is not [N, E] with E of at least K.
    """
    if router_logits.dim() != 2 or not 1 <= num_experts_per_tok <= router_logits.shape[1]:
        raise ValueError(
            f"router_logits has shape {list(router_logits.shape)}, but {num_experts_per_tok} experts a token "
            "need [tokens, experts] with at least that many experts."
        )
    count = torch.ones_like(router_logits[:, 0], dtype=torch.float32) if mask is None else mask.float()
    indices = router_logits.detach().topk(num_experts_per_tok, dim=-1).indices  # [N, K]
    load = count.new_zeros(router_logits.shape[1])
    load.index_add_(0, indices.flatten(), count.repeat_interleave(num_experts_per_tok))
    return load / count.sum()


def load_balancing_loss(
    router_logits: Tensor, num_experts_per_tok: int, mask: Tensor | None = None
) -> Tensor:
    """Return E · Σ load · probability of one layer: K where the load is even, up to E where it is not.

    Switch Transformer, equations 4 to 6, for any K, as ``load_balancing_loss_func`` in transformers.
    Call it for every layer and average: logits of several layers put together hide that each of
    them has its own favourites. (transformers puts them together: concatenate them for its number.)

    Args:
        router_logits: [N, E]; the gradient flows through their softmax.
        num_experts_per_tok: K.
        mask: [N], zero where a token is padding and does not count.

    Raises:
        ValueError: where :func:`expert_load` does.
    """
    load = expert_load(router_logits, num_experts_per_tok, mask)
    probabilities = router_logits.float().softmax(dim=-1)  # [N, E]
    if mask is None:
        mean = probabilities.mean(dim=0)  # [E]
    else:
        mean = (probabilities * mask.unsqueeze(-1)).sum(dim=0) / mask.sum()
    return router_logits.shape[1] * (load * mean).sum()


# %% tags=["nbval-ignore-output"]
runs = {"even start": train_moe()}
shares = runs["even start"]["loads"]
for name, row in (("first step", shares[0]), ("last 50 steps", shares[-50:].mean(0))):
    print(f"{name:13s} share of the choices, expert by expert: {(100 * row).round().int().tolist()} %")
print(f"error: {runs['even start']['error']:.1%} of the variance")


# %% tags=["hide-input"]
def who_goes_where(run, routed):
    """Return the share of each cluster's choices that go to each expert, [clusters, experts]."""
    table = torch.zeros(CLUSTERS, 8)
    for cluster, experts in zip(run["cluster"].tolist(), routed.topk(2).indices.tolist(), strict=True):
        table[cluster, experts] += 1
    return table / table.sum(1, keepdim=True)


run = runs["even start"]
fresh_weight, fresh_bias = run["routers"][0]
points = draw(2_000, torch.Generator().manual_seed(5))
before_run = {"cluster": points[0]}
fig, axes = new_figure(6.6, 3.0, ncols=2, sharey=True)
for ax, table, title in (
    (axes[0], who_goes_where(before_run, F.linear(points[1], fresh_weight, fresh_bias)), "before training"),
    (axes[1], who_goes_where(run, run["logits"]), "after"),
):
    image = ax.imshow(table, vmin=0, vmax=0.5, cmap="viridis")
    ax.grid(False)
    ax.set(xlabel="expert", title=title)
axes[0].set_ylabel("cluster")
fig.colorbar(image, ax=axes, label="share of choices")
show(
    fig,
    alt="Two tables of eight clusters by eight experts, coloured by the share of the cluster's choices. Before training "
    "most clusters lean on a few experts at random; after training nearly every row has one expert that almost all its tokens choose, and one or two that share the second choice.",
)

# %%
assert runs["even start"]["error"] < 0.08 and shares[-50:].mean(0).min() > 0.02

# %% [markdown]
# They do specialize: the table has become sharper, and nearly every cluster now has an expert that almost all of its tokens choose. The specialties are not meanings that anybody chose. In language models they are often hard to name, too; do not expect an expert for chemistry.
#
# It also turned out fairly balanced. Nothing in the loss asked for that.

# %% [markdown]
# ## Favourites
#
# An expert that is chosen gets gradients and becomes better. A better expert is worth choosing. An expert that is never chosen gets no gradient at all: it stays as it was drawn, useless, and is never chosen. The rich get richer. Let us give two experts a head start, by adding 2 to their entries in the router's bias, and train again, once without and once with a balancing loss:

# %% tags=["nbval-ignore-output"]
runs["head start"] = train_moe(head_start=2.0)
runs["head start, balanced"] = train_moe(head_start=2.0, balance=0.05)
for name, run in runs.items():
    load = run["loads"][-50:].mean(0)
    print(f"{name:21s} {(100 * load).round().int().tolist()} % error {run['error']:.1%}")

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.6, ncols=3, sharey=True)
palette = [COLORS[name] for name in ("red", "orange", "blue", "green", "violet", "pink", "grey", "blue")]
for ax, (name, run) in zip(axes, runs.items(), strict=True):
    smooth = run["loads"].unfold(0, 10, 1).mean(-1)
    for expert in range(8):
        ax.plot(
            100 * smooth[:, expert],
            color=palette[expert],
            linewidth=1.3,
            linestyle="--" if expert == 7 else "-",
        )
    ax.axhline(12.5, color=COLORS["grey"], linestyle=":", linewidth=1)
    ax.set(title=name, xlabel="step")
axes[0].set_ylabel("share of choices (%)")
show(
    fig,
    alt="The share of choices of each of eight experts over training in three runs. With an even start all stay near "
    "one eighth. With a head start two experts keep more than twice their share to the end, and one or more stay near "
    "zero. With the balancing loss the lead melts, and all end near one eighth.",
)

# %%
assert runs["head start"]["loads"][-50:].mean(0)[:2].sum() > 0.4, "the favourites stay favourites"
assert runs["head start, balanced"]["loads"][-50:].mean(0)[:2].sum() < 0.38
assert runs["head start"]["error"] > runs["head start, balanced"]["error"]

# %% [markdown]
# Without help the two favourites keep their lead to the end, and others hardly ever work: parameters that are stored and not used. With the balancing loss the lead melts, nobody is idle, and the error is smaller. It does not get down to that of the even start: a bad start costs something even where it is repaired.
#
# Balance matters for speed as well. If experts live on different GPUs, everyone waits for the busiest.
#
# ### The balancing loss
#
# We would like to punish uneven loads. But a load is a count, and counts have no gradient. [Fedus et al., 2021](https://arxiv.org/abs/2101.03961) multiply it by something that has one:
#
# $$ L_\mathrm{balance} = E \sum_{e=1}^{E} f_e\, P_e , $$
#
# where $f_e$ is the load of expert $e$ and $P_e$ its mean probability in the softmax over *all* experts. In words: make the experts that are busy now less probable. The gradient flows through $P_e$ only, and $f_e$ says how hard to push. With all loads even, $f_e = K/E$ and the loss is K. That is its value at balance; it is not zero, so subtract K in your head when you read a log.

# %%
even = torch.eye(8).repeat(4, 1) + 0.5 * torch.eye(8).roll(1, 1).repeat(
    4, 1
)  # every expert is chosen equally often
one_sided = torch.zeros(32, 8) + torch.tensor([9.0, 8.0] + [0.0] * 6)
print(
    f"even load: {load_balancing_loss(even, 2):.3f}   two experts do it all: {load_balancing_loss(one_sided, 2):.3f}   (K = 2, E = 8)"
)

# %% [markdown]
# Its weight is a compromise. Too little, and favourites stay. Too much, and the router balances in place of routing: every token counts the same for the loss, whoever could serve it best. Try `train_moe(head_start=2.0, balance=0.5)`.
#
# One detail is easily lost. A loss for each layer is not the same as one loss over the logits of all layers together. Here are two layers with two experts, of which the first sends everything to expert 0 and the second everything to expert 1:

# %%
first, second = torch.tensor([[5.0, -5.0]]).expand(10, 2), torch.tensor([[-5.0, 5.0]]).expand(10, 2)
apart = (load_balancing_loss(first, 1) + load_balancing_loss(second, 1)) / 2
together = load_balancing_loss(torch.cat((first, second)), 1)
print(
    f"layer by layer: {apart:.3f} (the worst there is: 2)   all layers together: {together:.3f} (perfect balance: 1)"
)

# %% [markdown]
# Put together, two completely collapsed layers look perfectly balanced. `transformers` puts them together. We compute the loss layer by layer and average.
#
# ### Two more losses
#
# Before the Switch Transformer, [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538) balanced the **importance** of the experts: the sum of the weights that they get from all tokens of the batch. Their loss is the squared coefficient of variation, the variance of the importances over their squared mean. It is zero at balance. It sees the weights of the chosen only, so an expert that nobody chose gets no gradient from it.
#
# The **z-loss** of [Zoph et al., 2022](https://arxiv.org/abs/2202.08906) is about something else. A softmax does not change when the same number is added to all logits, so nothing keeps them from drifting to large values, where 16-bit numbers are coarse: near 100, neighbouring `bfloat16` numbers are a half apart, and two experts whose scores differ by less can look the same. The z-loss is the mean of $(\log \sum_e e^{z_e})^2$; it pulls the logits towards zero as a group.


# %%
#| export
def importance_loss(router_logits: Tensor, num_experts_per_tok: int) -> Tensor:
    """Return the squared coefficient of variation of what the experts weigh in a batch; 0 is balanced.

    From "Outrageously Large Neural Networks" (Shazeer et al., 2017), equations 6 and 7. With one
    expert a token all weights are 1, and there is no gradient.

    Args:
        router_logits: [N, E]; the gradient flows through the softmax of the chosen.
        num_experts_per_tok: K.
    """
    chosen, indices = router_logits.float().topk(num_experts_per_tok, dim=-1)  # [N, K]
    importance = chosen.new_zeros(router_logits.shape[1])
    importance = importance.index_add(0, indices.flatten(), chosen.softmax(dim=-1).flatten())  # [E]
    return importance.var(unbiased=False) / importance.mean().square()


def router_z_loss(router_logits: Tensor) -> Tensor:
    """Return the mean squared logsumexp of router logits [N, E], which keeps them small.

    From "ST-MoE" (Zoph et al., 2022), equation 5.
    """
    return router_logits.float().logsumexp(dim=-1).square().mean()


# %%
for name, logits in (("even", even), ("one-sided", one_sided), ("one-sided + 100", one_sided + 100)):
    print(
        f"{name:15s} balance {load_balancing_loss(logits, 2):6.3f}   importance {importance_loss(logits, 2):5.2f}   z {router_z_loss(logits):9.1f}"
    )

# %% [markdown]
# Adding 100 to all logits changes no decision and neither of the balances; only the z-loss sees it.
#
# Watch the tokens. Two tokens of each cluster stand on the left, in its colour; a line leads to each of their two experts, thicker where the weight is larger. Move through the training steps with the balancing loss off and on. Both runs begin with the head start.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore

STEPS = (0, 5, 10, 20, 40, 80, 150, 299)
watched, seen, _ = draw(400, torch.Generator().manual_seed(9))
picked = torch.cat([(watched == cluster).nonzero()[:2, 0] for cluster in range(CLUSTERS)])
hues = [COLORS[name] for name in ("blue", "orange", "green", "pink", "violet", "red", "grey", "blue")]


def flow_svg(loss, step):
    weight, bias = runs["head start, balanced" if loss == "on" else "head start"]["routers"][step]
    logits = F.linear(seen, weight, bias)
    load = (100 * expert_load(logits, 2) / 2).tolist()
    chosen, experts = logits[picked].topk(2)
    parts = []
    for slot, (cluster, pair, shares) in enumerate(
        zip(watched[picked].tolist(), experts.tolist(), chosen.softmax(-1).tolist(), strict=True)
    ):
        y, dash = 16 + 17 * slot, ' stroke-dasharray="5 3"' if cluster == 7 else ""
        for expert, share in zip(pair, shares, strict=True):
            parts.append(
                f'<line x1="62" y1="{y}" x2="258" y2="{24 + 34 * expert}" stroke="{hues[cluster]}" stroke-width="{0.4 + 3 * share:.1f}" stroke-opacity=".75"{dash}/>'
            )
        parts.append(f'<circle cx="56" cy="{y}" r="6" fill="{hues[cluster]}"/>')
        if slot % 2 == 0:
            parts.append(f'<text x="42" y="{y + 12}" text-anchor="end">{cluster}</text>')
    for expert, share in enumerate(load):
        y = 24 + 34 * expert
        parts.append(
            f'<rect x="260" y="{y - 10}" width="{2 + 3.2 * share:.0f}" height="20" fill="{COLORS["grey"]}" fill-opacity=".55"/>'
        )
        parts.append(f'<text x="{268 + 3.2 * share:.0f}" y="{y + 4}">expert {expert}: {share:.0f} %</text>')
    return (
        '<svg viewBox="0 0 520 290" width="520" font-size="11" fill="currentColor" font-family="sans-serif" style="max-width:100%" '
        f'role="img" aria-label="Tokens of eight clusters and their experts at step {step}, balancing loss {loss}">{"".join(parts)}</svg>'
    )


explore(
    flow_svg,
    {"balancing loss": ("off", "on"), "training step": STEPS},
    start={"balancing loss": "off", "training step": 299},
)

# %% [markdown]
# ## One expert is no choice
#
# What if only one expert works on a token? It is the cheapest mixture, and the Switch Transformer made it famous. But look at gpt-oss's router with K = 1: a softmax over a *single* score is always exactly 1. The router's output does not depend on its logits any more, except through *which* expert is chosen, and that is a jump, without a gradient.

# %%
single = dataclasses.replace(world, num_experts_per_tok=1)
torch.manual_seed(0)
for top_k in (2, 1):
    moe = MoE(dataclasses.replace(world, num_experts_per_tok=top_k), allow_frozen_router=True)
    moe(torch.randn(1, 64, WIDTH))[0].square().sum().backward()
    largest = moe.router.weight.grad.abs().max().item()
    print(f"K = {top_k}: largest gradient of the router's weight {largest:.2f}, exactly zero: {largest == 0}")

# %% [markdown]
# Not small: zero. Nothing but weight decay ever changes this router, and no loss curve tells you. So the layer refuses to be trained like that unless you ask for it:

# %%
try:
    MoE(single)(torch.randn(1, 4, WIDTH))
except ValueError as error:
    print(error)
MoE(single).eval()(torch.randn(1, 4, WIDTH))
print("running it without training is fine")

# %% [markdown]
# A balancing loss does not help. It gives the router a gradient, but one that knows nothing of the task. Watch what that does:

# %% tags=["nbval-ignore-output"]
frozen, pushed = train_moe(top_k=1), train_moe(top_k=1, balance=0.1)
for name, run in (("K = 1, router frozen", frozen), ("K = 1, balancing loss only", pushed)):
    load = run["loads"][-50:].mean(0)
    print(f"{name:26s} {(100 * load).round().int().tolist()} % error {run['error']:.1%}")

# %%
assert pushed["error"] > 1.3 * frozen["error"], "balance is not the same as knowing where to send a token"
assert (frozen["moe"].router.weight == frozen["routers"][0][0]).all()

# %% [markdown]
# The balance of the second run is excellent, and its error is clearly worse. The frozen router draws its borders at random, but at least it leaves them where they are and its experts can adapt; the pushed one moves them to even out the numbers, wherever that cuts. Beautiful load curves are no sign of a healthy router.
#
# The Switch Transformer does not have this problem because its weight is the probability in the softmax over *all* experts: it is below 1, and it has a gradient at K = 1. In the exercises you repair the router this way. The course's preset `nano`, which describes a small relative that others have published, [nano-gpt-oss](https://github.com/VizuaraAI/nano-gpt-oss), has K = 1:

# %%
nano = GPTOSSConfig.preset("nano")
print(f"nano: {nano.num_local_experts} experts, {nano.num_experts_per_tok} at work")

# %% [markdown]
# With gpt-oss's router, such a model sends every token to one of four experts, and predicting text never teaches it which.

# %% [markdown]
# ## Reality check
#
# A third, independent computation: let *all* experts answer *every* token, and multiply with a table of weights that is zero where an expert was not chosen. Wasteful, but without a sort, a loop over tokens or a hand-written gradient. The edge cases come along: experts without tokens, a single token, and all experts at work.


# %%
def all_experts(moe, x):
    flat, experts = x.flatten(0, 1), moe.experts
    logits, scores, indices = moe.router(flat)
    table = torch.zeros_like(logits).scatter(1, indices, scores)  # [N, E]
    inner = torch.einsum("nd,edf->nef", flat, experts.gate_up_proj) + experts.gate_up_proj_bias
    gate, up = inner[..., ::2].clamp(max=7), inner[..., 1::2].clamp(-7, 7)
    answers = torch.einsum("nef,efd->ned", gate * torch.sigmoid(1.702 * gate) * (up + 1), experts.down_proj)
    return ((answers + experts.down_proj_bias) * table[..., None]).sum(1).view_as(x)


torch.manual_seed(3)
for name, top_k, shape in (
    ("ordinary", 2, (3, 50, 12)),
    ("one token", 2, (1, 1, 12)),
    ("all experts at work", 5, (2, 7, 12)),
):
    moe = MoE(dataclasses.replace(toy, num_experts_per_tok=top_k))
    for parameter in moe.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(shape)
    output, logits = moe(x)
    unused = int((expert_load(logits, top_k) == 0).sum())
    print(
        f"{name:19s} {unused} experts without tokens, equal: {torch.allclose(output, all_experts(moe, x), rtol=1e-4, atol=1e-3)}"
    )

# %% [markdown]
# Against `transformers` the project's tests (`tests/parity/test_moe_transformers.py`) compare the output, the router logits, the balancing loss and the gradient of every parameter in fp32, to $10^{-5}$, with activations beyond the clamp.

# %% [markdown]
# ## What gpt-oss-20b uses

# %%
from gptoss_lib.config import weight_bytes

config = GPTOSSConfig.preset("gpt-oss-20b")
count = count_parameters(config)
E, K = config.num_local_experts, config.num_experts_per_tok
print(
    f"{E} experts in each of {config.num_hidden_layers} layers, {K} at work; top-k, then softmax; biases everywhere"
)
print(
    f"experts: {count.experts / 1e9:.2f} of {count.total / 1e9:.2f} billion parameters ({count.experts / count.total:.0%}); routers: {count.router / 1e6:.1f} million"
)
print(
    f"in 16 bits {weight_bytes(config) / 1e9:.1f} GB; with the experts in MXFP4 {weight_bytes(config, 'mxfp4') / 1e9:.1f} GB"
)
for tokens in (1, 4, 16, 64):
    print(
        f"{tokens:2d} tokens at once touch about {E * (1 - (1 - K / E) ** tokens):4.1f} experts of a layer, if they choose at random"
    )

# %% [markdown]
# The last lines are why a mixture is such a good deal for one user and less so for many. A single token reads an eighth of the experts. A batch of 64 reads practically all of them; then it is the arithmetic that is saved, no longer the memory traffic. And the memory has to hold everything in any case. OpenAI published the experts, and only them, in four bits, so that the 20b model fits into 16 GB ([OpenAI, 2025](https://arxiv.org/abs/2508.10925)).
#
# How OpenAI balanced its experts is not published. The configuration says `router_aux_loss_coef` 0.9, which `transformers` uses as the weight of the balancing loss when you ask it for router logits during training. That is a lot: Switch used 0.01, and the default of `GptOssConfig` in transformers 5 is 0.001. Treat it as a field, not as advice.

# %% [markdown]
# ## Pitfalls
#
# - **Softmax, then top-k.** [torchtitan's gpt-oss](https://github.com/pytorch/torchtitan/issues/2258) took the softmax over all experts and did not renormalize, and had no router bias; [the fix](https://github.com/pytorch/torchtitan/pull/2319) changed both. Shapes were right all along.
# - **A softmax of a softmax.** Several routers in `transformers` returned probabilities under the name of logits, and the balancing loss [took the softmax again](https://github.com/huggingface/transformers/pull/45111), which flattens everything and leaves hardly any gradient.
# - **K = 1 with normalized weights.** The router [gets no gradient](https://github.com/jingyaogong/minimind/issues/858); the report found perfectly balanced experts that had not specialized at all, and a mixture that lost to a dense model a third of its size.
# - **A balancing loss from the chosen only.** $P_e$ is the mean of the softmax over all experts and all tokens. Computed over the chosen [it is another loss](https://github.com/huggingface/transformers/issues/28021).
# - **A loss that is never added.** `transformers` adds it only where you set `output_router_logits=True`; by default, fine-tuning runs [without any balancing](https://github.com/huggingface/transformers/pull/44284).
# - **Padding tokens vote.** Without the mask they count in the load, all with the same choice.
# - **Logits in 16 bits.** Two experts with nearly equal scores may swap places between two precisions, so outputs jump. Compare models in fp32, and expect single tokens to differ in bfloat16.
# - **Square weights.** In the 20b model D = F, so a transposed `down_proj` fits. Test with sizes that all differ.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/14_mixture_of_experts.ipynb):
#
# 1. **The router.** Top-k, then softmax, with a check that knows the other orders.
# 2. **The balancing loss.** With a gradient where it should have one.
# 3. **A router that learns with one expert.** Repair K = 1.
# 4. **Dispatch.** Send sorted tokens through the experts and bring the answers back.

# %% [markdown]
# ## Summary
#
# - A mixture stores E experts and uses K: what a model knows and what a token costs are separate numbers.
# - The router takes the K largest scores and the softmax over those. Softmax first, without renormalizing, is another model.
# - Sorting tokens by expert turns N · K products of a vector and a matrix into at most E products of two matrices. The backward pass is written by hand, straight into one gradient tensor; the router learns from how well each chosen expert's answer agrees with what the loss wants.
# - In our toy world experts specialize without being told, and favourites stay favourites without being better. The balancing loss makes busy experts less probable; judge it layer by layer.
# - With K = 1, softmax over the chosen has no gradient. A balancing loss then moves the router without knowing what for.
#
# Next: [The model](15_model.ipynb), which puts the parts together.

# %% [markdown]
# ## Further reading
#
# - [Shazeer et al., 2017](https://arxiv.org/abs/1701.06538): the sparsely gated mixture, noise and importance.
# - [Fedus et al., 2021](https://arxiv.org/abs/2101.03961): Switch Transformer, one expert a token, the balancing loss.
# - [Zoph et al., 2022](https://arxiv.org/abs/2202.08906): ST-MoE, what makes mixtures stable, the z-loss.
# - [Lepikhin et al., 2020](https://arxiv.org/abs/2006.16668): GShard, experts spread over many devices.
# - [OpenAI, 2025](https://arxiv.org/abs/2508.10925): gpt-oss's model card.
