# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sinks
#
# The weights of a softmax add up to one. So a head must always look at *something*, also when nothing that it sees is of any use. gpt-oss gives every head one learned number, a **sink**, that takes part in the softmax and has nothing to say. It is one of the smallest parts of the model, and a model that was trained with it breaks without it.
#
# **You will**
#
# - watch a head that has nothing to say, and what it does about it;
# - build attention with a sink, first in the obvious way, then on PyTorch's fused kernel, exact both forward and backward;
# - derive the gradient of a sink, which fits in one line;
# - cut windows into bands, so that a windowed layer costs what its window costs;
# - finish `Attention`, the block of gpt-oss: groups, window, sinks, rotary positions, cache and packed documents.
#
# **Time:** 75 minutes. **Hardware:** any CPU; the chapter runs in under a minute.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# Take a head with a simple job: it is asked for an item; if the item is in the text, return what it means; **if it is not, return nothing**, that is, zero. Real heads have jobs of this kind all the time. A head that looks for the opening bracket has nothing to do in a sentence without one, and must not disturb the stream that it adds to.
#
# Here is attention as the last chapter left it, $p_j = e^{s_j} / \sum_k e^{s_k}$. If all scores are low, the weights are not: only *differences* of scores matter. A head that finds nothing returns a mixture of whatever is there.

# %%
import math

import torch
from torch import nn

scores = torch.tensor([6.0, 0.0, 0.0, 0.0])
print("one key fits:     ", [round(w, 3) for w in scores.softmax(0).tolist()])
print("none fits:        ", [round(w, 3) for w in torch.zeros(4).softmax(0).tolist()])
print("none fits at all: ", [round(w, 3) for w in torch.full((4,), -50.0).softmax(0).tolist()])

# %% [markdown]
# The head *cannot* say "none of these". Now let one more score take part in the softmax, a number $z$ that belongs to the head and not to any token. It gets its share of the probability like everyone else. But there is no value behind it: its share is simply gone.
#
# $$ p_j = \frac{e^{s_j}}{e^{z} + \sum_k e^{s_k}}, \qquad p_\text{sink} = \frac{e^{z}}{e^{z} + \sum_k e^{s_k}}, \qquad o = \sum_j p_j v_j . $$
#
# In words: the weights of the tokens add up to *less* than one, and what is missing went into the sink. The sink sets the bar: scores well above $z$ win; scores well below $z$ lose to the sink, and then the head adds almost nothing.

# %%
SINK = torch.tensor([2.0])
for name, scores in (
    ("one key fits", [6.0, 0, 0, 0]),
    ("none fits", [0.0] * 4),
    ("none fits at all", [-50.0] * 4),
):
    *weights, spent = torch.cat((torch.tensor(scores), SINK)).softmax(0).tolist()
    print(f"{name + ':':18s}", [round(w, 3) for w in weights], f"-> the sink takes {spent:.3f}")

# %% [markdown]
# Move the sink and the best score. The blue bars are what the four tokens get, the grey one is what the sink takes.

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show
from gptoss_lib.widgets import explore


def share_svg(sink, best):
    given = [] if sink == "none" else [float(sink)]
    weights = torch.tensor([float(best), 0.5, 0.0, -0.5, *given]).softmax(0).tolist()
    names = [f"score {best}", "score 0.5", "score 0", "score −0.5", "sink"]
    bars = "".join(
        f'<rect x="90" y="{8 + 24 * i}" width="{240 * weight:.1f}" height="17" fill="{COLORS["grey" if i == 4 else "blue"]}"/>'
        f'<text x="84" y="{20 + 24 * i}" text-anchor="end">{names[i]}</text><text x="{96 + 240 * weight:.1f}" y="{20 + 24 * i}">{weight:.1%}</text>'
        for i, weight in enumerate(weights)
    )
    return (
        '<svg viewBox="0 0 390 128" width="480" font-size="10" fill="currentColor" font-family="sans-serif" '
        f'style="max-width:100%" role="img" aria-label="Weights of four tokens and the share of the sink">{bars}</svg>'
    )


explore(
    share_svg,
    {"sink": ("none", -4, -2, 0, 1, 2, 4, 8), "best score": (-4, 0, 1, 2, 3, 4, 6)},
    start={"sink": 2, "best score": 4},
)

# %% [markdown]
# ## The obvious version
#
# Concatenate a column, softmax, drop the column. This is what `transformers` does and what OpenAI's reference does, and it is what we will compare with. The sink is *not* divided by $\sqrt{\mathrm{hd}}$, no mask hides it, and it has no position. It is one number for each query head (not for each key head), the same for all queries of all texts.

# %%
#| export
"""Attention with sinks, grouped heads, windows, rotary positions and a cache: GPT-OSS's attention block.

Where GPT-2's heads must look at something, each head here has a learned score, its sink, that takes
probability and gives nothing. The slow version is the definition; the fast one runs PyTorch's fused
kernel and corrects what comes out, exactly, forward and backward.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.masks import attention_mask, grouped_mix, grouped_scores, hide, repeat_kv, sliding_mask
from gptoss_lib.products import Linear
from gptoss_lib.rope import apply_rotary


def _check(query: Tensor, key: Tensor, sinks: Tensor | None, window: int | None, mask: Tensor | None) -> None:
    """Raise a ValueError where the arguments of an attention do not fit each other."""
    H, T, KV, S = *query.shape[1:3], *key.shape[1:3]
    if H % KV:
        raise ValueError(
            f"{H} query heads cannot share {KV} key/value heads evenly; make H a multiple of KV."
        )
    if sinks is not None and sinks.shape != (H,):
        raise ValueError(
            f"sinks has shape {list(sinks.shape)}; there must be one for each of {H} query heads."
        )
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; a query sees at least itself, so make it 1 or more.")
    if mask is not None and window is not None:
        raise ValueError(f"window is {window}, but a mask is given too; put the window into the mask.")
    if mask is None and T > S:
        raise ValueError(
            f"There are {T} queries but only {S} keys; the queries are the last of the keys' tokens."
        )
    if mask is not None and mask.shape[-2:] != (T, S):
        raise ValueError(f"The mask is for {list(mask.shape[-2:])} queries and keys, but there are {[T, S]}.")


def _default_mask(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Return the mask of T queries that belong to the last T of S tokens in a row."""
    T, S = query.shape[-2], key.shape[-2]
    positions = torch.arange(S, device=query.device)
    return attention_mask(positions[S - T :], positions, window)


# %%
#| export
def sink_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None = None,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention with sinks, one line a step: the slow, obvious version.

    Without a mask, the T queries belong to the last T of the S tokens, so S = T in training and
    S > T with a cache. As ``sdpa`` in OpenAI's ``gpt_oss/torch/model.py``, with the softmax in fp32.

    Args:
        query: [B, H, T, hd].
        key: [B, KV, S, hd].
        value: [B, KV, S, hd].
        sinks: one score a query head, [H], or None for heads without a sink.
        window: W, how many tokens a query sees, its own included; None for all of the past.
        mask: [T, S] or [B, T, S], True where the query may look, in place of the window.

    Returns:
        [B, H, T, hd]; zeros, where a query sees nothing and its head has a sink.

    Raises:
        ValueError: if shapes do not fit, or both a window and a mask are given.
    """
    _check(query, key, sinks, window, mask)
    if mask is None:
        mask = _default_mask(query, key, window)
    scores = hide(grouped_scores(query, key), mask)  # [B, H, T, S]
    if sinks is not None:
        column = sinks.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, column), dim=-1)  # [B, H, T, S + 1]
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    weights = weights[..., : key.shape[-2]].to(value.dtype)  # the sink's share is gone
    return grouped_mix(weights, value)


# %%
torch.manual_seed(0)
B, H, KV, T, hd = 2, 6, 2, 40, 8
query, key, value = torch.randn(B, H, T, hd), torch.randn(B, KV, T, hd), torch.randn(B, KV, T, hd)
ones = torch.ones_like(value)  # with values of one, the output is the sum of the weights
for sink in (-math.inf, -2.0, 0.0, 2.0, 20.0):
    total = sink_attention_reference(query, key, ones, torch.full((H,), sink))[0, 0, :, 0]
    print(
        f"sink {sink:5.1f}: the first token keeps {total[0]:.3f} of its weight, the last one {total[-1]:.3f}"
    )

# %% [markdown]
# At $-\infty$ there is no sink. A large sink silences the head. In between, a query with many keys keeps more than one with few, since many small $e^{s}$ add up.

# %% [markdown]
# ## A head with nothing to say
#
# Now the head from the beginning, trained. The text has four of twelve items; the head is asked for one, which is there half of the time. The meanings have a mean square of about 1, so that is the error of a head that answers zero where the item is there. Three heads get the same training: plain softmax; plain softmax with a *first token* that is the same in every text; and a sink.

# %%
ITEMS, WIDTH, FIRST = 12, 24, 12
meaning = torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(3))


class Lookup(nn.Module):
    """One head that is asked for an item and looks for it among the items of a text."""

    def __init__(self, sink):
        super().__init__()
        self.embed = nn.Embedding(ITEMS + 1, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.sinks = nn.Parameter(torch.zeros(1)) if sink else None

    def forward(self, asked, text, values=None):
        query = self.q(self.embed(asked))[:, None, None]  # [B, 1, 1, WIDTH]
        key, value = (part(self.embed(text))[:, None] for part in (self.k, self.v))
        value = value if values is None else values.expand(len(text), 1, -1, -1)
        return sink_attention_reference(query, key, value, self.sinks)[:, 0, 0]


def texts(count, generator, first):
    order = torch.rand(count, ITEMS, generator=generator).argsort(-1)
    present = torch.arange(count) % 2 == 0
    asked = torch.where(present, order[:, 0], order[:, 4])  # the text is order[:, :4]
    text = order[:, :4] if not first else torch.cat((torch.full((count, 1), FIRST), order[:, :4]), dim=1)
    return asked, text, meaning[asked] * present[:, None], present


# %%
def train_lookup(sink, first, steps=500):
    torch.manual_seed(0)
    head, generator = Lookup(sink), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.06, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        asked, text, answer, _ = texts(128, generator, first)
        loss = (head(asked, text) - answer).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head


@torch.no_grad()
def lookup_errors(head, first, cut=False):
    asked, text, answer, present = texts(512, torch.Generator().manual_seed(2), first)
    error = (head(asked, text[:, 1:] if cut else text) - answer).pow(2).mean(-1)
    return error[present].mean().item(), error[~present].mean().item()


# %% tags=["nbval-ignore-output"]
plain, with_first, with_sink = (
    train_lookup(False, False),
    train_lookup(False, True),
    train_lookup(True, False),
)
outcome = {
    "softmax": lookup_errors(plain, False),
    "softmax and a first token": lookup_errors(with_first, True),
    "the same, first token cut off": lookup_errors(with_first, True, cut=True),
    "sink": lookup_errors(with_sink, False),
}
for name, (found, missing) in outcome.items():
    print(f"{name:30s} squared error {found:.3f} where the item is there, {missing:.3f} where it is not")

# %%
assert outcome["softmax"][1] > 0.06 and outcome["sink"][1] < 0.03, "plain softmax cannot keep silent"
assert outcome["softmax and a first token"][1] < 0.04, "a first token is a dump"
assert outcome["the same, first token cut off"][1] > 0.12, "and without it the head is lost"

# %% [markdown]
# Three things happened. Plain softmax cannot keep silent. With a first token, the head *discovers* that it can dump its attention there, and learns a value of almost nothing for it. And when that token is cut off, the head does far worse than plain softmax where the item is missing: it has never learned to live without its dump.
#
# This is what large models do. [Xiao et al., 2023](https://arxiv.org/abs/2309.17453) found that they put a large share of their attention on the first few tokens, whatever those say, and named them **attention sinks**. They also found what it costs: let a window slide past the first tokens, and the model collapses. In a model in which every other layer has a window, that is not an option. A sink gives every head a dump of its own, which no window can slide past.


# %% tags=["hide-input"]
@torch.no_grad()
def attention_row(head, asked, text):
    values = torch.eye(len(text))  # each token's value is "me", so the output is the weights
    return head(torch.tensor([asked]), torch.tensor([text]), values[None, None])[0]


fig, axes = new_figure(7.2, 2.4, ncols=3, sharey=True)
for ax, title, head, text in (
    (axes[0], "softmax", plain, [0, 1, 2, 3]),
    (axes[1], "softmax, a first token", with_first, [FIRST, 0, 1, 2, 3]),
    (axes[2], "sink", with_sink, [0, 1, 2, 3]),
):
    for asked, color, shift in ((2, "blue", -0.2), (7, "orange", 0.2)):
        weights = attention_row(head, asked, text)
        names = ["first" if item == FIRST else str(item) for item in text]
        if head.sinks is not None:
            weights, names = torch.cat((weights, 1 - weights.sum(0, keepdim=True))), [*names, "sink"]
        where = torch.arange(len(names)) + shift
        ax.bar(where, weights, width=0.4, color=COLORS[color], label=f"asked for {asked}")
    ax.set_xticks(range(len(names)), names)
    ax.set(title=title, ylim=(0, 1.12))
axes[0].set_ylabel("weight")
axes[0].legend(fontsize=8, loc="upper left")
show(
    fig,
    alt="Attention over a text of items 0 to 3, asked for item 2, which is there, and item 7, which is not. All three "
    "heads find item 2. Asked for item 7, plain softmax gives all its weight to items that do not fit; with a first token, nearly all weight "
    "goes to it; with a sink, nearly all weight goes to the sink.",
)

# %% [markdown]
# A note on history. That softmax lacks a way to say "nothing" was pointed out in [a blog post by Evan Miller](https://www.evanmiller.org/attention-is-off-by-one.html) in 2023, which proposed to add a 1 to the denominator. That is our formula with $z = 0$, because $e^0 = 1$: "softmax off by one". gpt-oss's sink is the same with a bar that every head learns for itself. The [model card](https://arxiv.org/abs/2508.10925) mentions both ancestors.

# %% [markdown]
# ## The gradient of a sink
#
# How does a sink learn? The output is $o = \sum_j p_j v_j$. Raise $z$ a little, and every weight shrinks in the same proportion: $\partial p_j / \partial z = -p_j\, p_\text{sink}$. So
#
# $$ \frac{\partial o}{\partial z} = -p_\text{sink}\, o, \qquad \frac{\partial L}{\partial z} = -\sum_t p_{\text{sink},t} \; \big(\mathrm{d}o_t \cdot o_t\big), $$
#
# where $\mathrm{d}o_t$ is the gradient that arrives at the output of query $t$, and the sum runs over all queries of all texts. In words: raising the sink shortens every output. If the loss wants the output longer in its own direction ($\mathrm{d}o \cdot o < 0$), the sink goes down; if it wants it shorter, the sink goes up. And it hears only from queries that use it: where $p_\text{sink}$ is zero, nothing is learned.
#
# Check it against autograd:

# %%
sinks = torch.randn(H).requires_grad_()
out = sink_attention_reference(query, key, value, sinks)
upstream = torch.randn_like(out)
(out * upstream).sum().backward()

spent = 1 - sink_attention_reference(query, key, ones, sinks.detach())[..., 0]  # p_sink, [B, H, T]
by_hand = -(spent * (upstream * out).sum(-1)).sum((0, 2))
print("the same gradient:", torch.allclose(sinks.grad, by_hand.detach(), atol=1e-5))

# %% [markdown]
# ## Fast, and still exact
#
# The obvious version writes the table of scores, T × S for every head, to memory, several times over. Fused kernels ([Dao et al., 2022](https://arxiv.org/abs/2205.14135)) never do: they work through it in tiles that fit into the processor's cache. But PyTorch's kernel knows nothing of sinks. Do we have to write our own?
#
# No. The kernel returns, beside the output, one number for every query: the **log-sum-exp** of its scores, $\ell = \ln \sum_k e^{s_k}$, the logarithm of the softmax's denominator. It needs that itself for the backward pass. Now compare the denominators. With a sink it is $e^\ell + e^z$, so its logarithm is
#
# $$ \ell' = \ln (e^{\ell} + e^{z}) = \mathrm{logaddexp}(\ell, z), \qquad o' = \sum_j \frac{e^{s_j}}{e^{\ell'}} v_j = e^{\ell - \ell'} \, o . $$
#
# In words: run the kernel as if there were no sink, then shorten every output by one factor. It is between 0 and 1, so nothing can overflow.
#
# The **backward** pass is even nicer. The kernel recomputes each weight from what it saved, $p_j = e^{s_j - \ell}$, and then takes $\mathrm{d}s_j = p_j (\mathrm{d}o \cdot v_j - \mathrm{d}o \cdot o)$. Hand it $\ell'$ and $o'$ in place of $\ell$ and $o$. Then the weights that it recomputes *are* those with a sink, and so is everything that follows, because the formula for $\mathrm{d}s_j$ is the same: the sink is only one more entry of the same softmax, whose value is zero. The stock kernel computes the gradients of an attention that it has never heard of.

# %%
#| export
# Since 2.9, PyTorch's kernel lets query heads share keys; before, each of them needs its own copy.
_KERNEL_SHARES_KEYS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)


def _fused_kernel(query, key, value, sinks, bias, is_causal) -> tuple[Tensor, Tensor]:
    """Run PyTorch's fused attention for CPUs and correct what comes out for the sinks."""
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=bias
    )  # [B, H, T, hd] and [B, H, T]
    if sinks is not None:
        without, log_sum = log_sum, torch.logaddexp(log_sum, sinks.to(log_sum.dtype)[:, None])
        out.mul_(torch.exp(without - log_sum).unsqueeze(-1))
    return out, log_sum


class _FlashAttention(torch.autograd.Function):
    """The same with a gradient."""

    @staticmethod
    def forward(ctx, query, key, value, sinks, bias, is_causal):
        out, log_sum = _fused_kernel(query, key, value, sinks, bias, is_causal)
        ctx.save_for_backward(query, key, value, sinks, bias, out, log_sum)
        ctx.is_causal = is_causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        query, key, value, sinks, bias, out, log_sum = ctx.saved_tensors
        grad_sinks = None
        if sinks is not None:
            spent = torch.exp(sinks.to(log_sum.dtype)[:, None] - log_sum)  # the sink's share, [B, H, T]
            # Not (grad_out * out).sum(-1), which would store one more tensor of the output's size.
            dots = torch.einsum("bhtd,bhtd->bht", grad_out, out)
            grad_sinks = -(spent * dots).sum((0, 2)).to(sinks.dtype)
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out, query, key, value, out, log_sum, 0.0, ctx.is_causal, attn_mask=bias
        )
        return *grads, grad_sinks, None, None


def _flash(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, mask: Tensor | None) -> Tensor:
    """Run the fused kernel with a mask, or without one: causally where T = S, a single query on all keys."""
    if not _KERNEL_SHARES_KEYS:
        key, value = (repeat_kv(x, query.shape[1] // key.shape[1]) for x in (key, value))
    # The kernel steps through rows as if each were one piece of memory, and adds its mask to the scores.
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    dtype, T = query.dtype, query.shape[-2]
    if T > 1:  # on many queries it is faster in 32 bits than in 16, and more exact
        query, key, value = (x.to(torch.promote_types(dtype, torch.float32)) for x in (query, key, value))
    bias = None
    if mask is not None:
        bias = hide(query.new_zeros(()), mask if mask.dim() == 3 else mask.unsqueeze(0))  # [B or 1, 1, T, S]
    arguments = (query, key, value, sinks, bias, mask is None and T > 1)
    out = _FlashAttention.apply(*arguments) if torch.is_grad_enabled() else _fused_kernel(*arguments)[0]
    return out.to(dtype)


# %%
def compare(fast, slow, *tensors):
    """The largest difference of two attentions' outputs, and of all their gradients."""
    results = []
    for attention in (fast, slow):
        leaves = [x.detach().clone().requires_grad_() for x in tensors]
        out = attention(*leaves)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    return max((a - b).abs().max().item() for a, b in zip(*results, strict=True))


for sink in (-math.inf, -3.0, 0.0, 3.0, 50.0):
    worst = compare(
        lambda *qkvs: _flash(*qkvs, None), sink_attention_reference, query, key, value, torch.full((H,), sink)
    )
    print(
        f"sink {sink:5.1f}: output and the gradients of q, k, v and the sinks agree to 1e-5: {worst < 1e-5}"
    )

# %% [markdown]
# ## Windows in bands
#
# A window makes most of the table of scores unnecessary. But a mask does not make it *cheaper*: the kernel computes the scores, and the mask throws them away. To save the work, do not ask for those scores.
#
# Cut the queries into blocks of W. The queries of block $i$ look back less than W tokens, so every key that they see lies in block $i$ or in block $i - 1$. That is a small attention of W queries against 2W keys, and its mask is the same for all blocks. Put the blocks into the batch dimension, and one call of the kernel computes them all. The first block has nobody before it and is plain causal attention.

# %% tags=["hide-input"]
from matplotlib.patches import Rectangle

from gptoss_lib.masks import sliding_mask

fig, axes = new_figure(7.2, 2.7, ncols=3)
table = sliding_mask(torch.arange(20), torch.arange(20), 4)
for ax, title in zip(axes, ("causal table, then a mask", "bands", "one band"), strict=True):
    first, last = (8, 12) if title == "one band" else (0, 20)
    left = 4 if title == "one band" else 0
    if title != "bands":
        for q in range(first, last):
            end = 12 if title == "one band" else q + 1
            ax.add_patch(
                Rectangle((left, q), end - left, 1, facecolor=COLORS["grey"], alpha=0.3, edgecolor="none")
            )
    else:
        for i in range(5):
            start = max(0, 4 * i - 4)
            ax.add_patch(
                Rectangle(
                    (start, 4 * i),
                    4 * i + 4 - start,
                    4,
                    facecolor=COLORS["grey"],
                    alpha=0.3,
                    edgecolor="none",
                )
            )
            ax.plot(
                [start, 4 * i + 4, 4 * i + 4, start, start],
                [4 * i, 4 * i, 4 * i + 4, 4 * i + 4, 4 * i],
                color=COLORS["orange"],
                linewidth=1,
            )
    for q, k in table.nonzero().tolist():
        if first <= q < last:
            ax.add_patch(Rectangle((k, q), 1, 1, facecolor=COLORS["blue"], alpha=0.8, edgecolor="none"))
    ax.set(
        xlim=(left, left + (8 if title == "one band" else 20)),
        ylim=(last, first),
        aspect="equal",
        xticks=[],
        yticks=[],
        xlabel="key",
    )
    ax.set_title(title, fontsize=10)
    ax.grid(False)
axes[0].set_ylabel("query")
show(
    fig,
    alt="Twenty queries against twenty keys, window of four. Left: the kernel computes the grey triangle, of which only "
    "a thin blue band is used. Middle: five boxes along the diagonal, each four queries high and eight keys wide, cover "
    "the band with little grey left. Right: one box, four queries against eight keys; each row uses four of them.",
)


# %%
#| export
def _banded(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, window: int) -> Tensor:
    """Attention with a window over T = S tokens: blocks of W queries, each against 2W keys."""
    T, W = query.shape[-2], window
    blocks = -(-T // W)

    def cut(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, blocks * W - T))  # keys after the last query: the mask hides them
        return x.unflatten(2, (blocks, W)).transpose(1, 2)  # [B, blocks, heads, W, hd]

    def with_previous(x: Tensor) -> Tensor:
        x = cut(x)
        return torch.cat((x[:, :-1], x[:, 1:]), dim=3).flatten(0, 1)  # [B·(blocks - 1), KV, 2W, hd]

    first = _flash(query[:, :, :W], key[:, :, :W], value[:, :, :W], sinks, mask=None)
    positions = torch.arange(2 * W, device=query.device)
    mask = sliding_mask(positions[W:], positions, W)
    rest = _flash(cut(query)[:, 1:].flatten(0, 1), with_previous(key), with_previous(value), sinks, mask)
    rest = rest.unflatten(0, (-1, blocks - 1)).transpose(1, 2).flatten(2, 3)  # [B, H, (blocks - 1)·W, hd]
    return torch.cat((first, rest[:, :, : T - W]), dim=2)


# %% [markdown]
# A band computes 2W scores for each query, where the causal table has T/2 on average. With T = 4W the two are equal, so bands begin there.
#
# Two remarks on the kernel. Many queries in 16 bits it takes in 32: there it is faster on most processors, and nothing is rounded on the way. And a single query, the case of writing text token by token, is a case of its own where `torch.compile` is at work, as it will be in [The model](15_model.ipynb): a kernel is a stone in the way of a compiler, which cannot look inside. Plain sums and products it melts into the loops before and after. The softmax is written out there, with the sink as one more term of the sum:


# %%
#| export
def _one_query(
    query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Attention of a single query in sums and products, which the compiler fuses into very few loops."""
    B, KV, S, hd = key.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    query = query.view(B, KV, -1, 1, hd).to(wide)  # [B, KV, G, 1, hd], the queries of a group
    scores = (query * key.unsqueeze(2)).sum(-1) / math.sqrt(hd)  # [B, KV, G, S]
    if mask is not None:
        scores = hide(scores.view(B, -1, 1, S), mask).view_as(scores)
    highest = scores.amax(-1, keepdim=True)
    if sinks is not None:
        sinks = sinks.view(KV, -1, 1)
        highest = torch.maximum(highest, sinks)
    weights = torch.exp(scores - highest)
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + torch.exp(sinks - highest)
    mixed = (weights.unsqueeze(-1) * value.unsqueeze(2)).sum(-2) / total  # [B, KV, G, hd]
    return mixed.view(B, -1, 1, hd).to(value.dtype)


# %% [markdown]
# Now the function that chooses:


# %%
#| export
def sink_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None = None,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute what :func:`sink_attention_reference` does, with PyTorch's fused kernel where it can.

    On a CPU, the scores are never stored; windows are computed in bands where T ≥ 4W. Elsewhere it is
    the reference.

    Args:
        query: [B, H, T, hd].
        key: [B, KV, S, hd].
        value: [B, KV, S, hd].
        sinks: one score a query head, [H], or None for heads without a sink.
        window: W, how many tokens a query sees, its own included; None for all of the past.
        mask: [T, S] or [B, T, S], True where the query may look, in place of the window. Without
            a mask, the T queries belong to the last T of the S tokens.

    Returns:
        [B, H, T, hd].

    Raises:
        ValueError: if shapes do not fit, or both a window and a mask are given.
    """
    _check(query, key, sinks, window, mask)
    T, S = query.shape[-2], key.shape[-2]
    if query.device.type != "cpu":
        return sink_attention_reference(query, key, value, sinks, window, mask)
    if mask is None and T == S and window is not None and 4 * window <= T:
        return _banded(query, key, value, sinks, window)
    sees_all = window is None or window >= S
    if mask is None and not (sees_all and T in (1, S)):
        mask = _default_mask(query, key, window)
    run = _one_query if T == 1 and torch.compiler.is_compiling() else _flash
    return run(query, key, value, sinks, mask)


# %%
shapes = ((40, 40, None), (40, 40, 9), (41, 41, 10), (43, 43, 4), (3, 40, None), (7, 40, 5))
for T, S, window in shapes:
    q, k, v = torch.randn(B, H, T, hd), torch.randn(B, KV, S, hd), torch.randn(B, KV, S, hd)
    worst = compare(
        lambda *qkvs, w=window: sink_attention(*qkvs, window=w),
        lambda *qkvs, w=window: sink_attention_reference(*qkvs, window=w),
        q,
        k,
        v,
        torch.randn(H),
    )
    print(f"{T:2d} queries, {S} keys, window {window}: equal to 1e-5, gradients too: {worst < 1e-5}")

# %% [markdown]
# Was it worth it? Count what has to be computed and stored, then measure. Timings differ between machines, so read the ratio.

# %% tags=["nbval-ignore-output"]
from time import perf_counter

LONG, WINDOW = 1_536, 128
q, k, v = torch.randn(1, 8, LONG, 32), torch.randn(1, 2, LONG, 32), torch.randn(1, 2, LONG, 32)


def seconds(attention, window):
    best = math.inf
    for _ in range(3):
        start = perf_counter()
        attention(q, k, v, torch.zeros(8), window=window)
        best = min(best, perf_counter() - start)
    return best


ratios = {}
for window, scores in ((None, LONG * LONG), (WINDOW, 2 * WINDOW * LONG)):
    ratios[window] = seconds(sink_attention_reference, window) / seconds(sink_attention, window)
    print(
        f"window {window}: {scores:9,} scores a head (of {LONG * LONG:,}), {ratios[window]:.1f} times faster than the reference"
    )

# %%
assert ratios[WINDOW] > 1.5, "bands compute a sixth of the scores and store none"

# %% [markdown]
# ## The block
#
# Everything is there. Four projections, rotary positions, and `sink_attention`. The names are those of Hugging Face, so that published weights load: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `sinks`. Some points deserve a thought:
#
# - **q_proj is not square.** In gpt-oss 64 heads of 64 numbers make 4,096, and the stream has 2,880. `head_dim` is a number of its own.
# - **Biases** are a choice of the configuration: gpt-oss has them in all four projections; other models have them in none, or in the first three only, which is why the config has two fields, `attention_bias` and `attention_out_bias`. They are a classic thing to forget: a fresh bias is zero, so a model without them trains fine and only breaks on loaded weights.
# - **The window** is decided by the layer's type, once.
# - **Fresh sinks** are drawn around zero. Uninitialised memory would be a gamble: one NaN in one sink is a NaN in every token.
# - **The cache** may hold keys in any order and with empty slots. It says where each key stands, and the mask follows from that.

# %% tags=["hide-input"]
fig, ax = new_figure(7.2, 3.1)
for x, y, w, text, color in (
    (0.1, 1.5, 0.9, "x\n[B, T, D]", "grey"),
    (1.7, 2.6, 1.2, "q_proj", "blue"),
    (1.7, 1.5, 1.2, "k_proj", "green"),
    (1.7, 0.4, 1.2, "v_proj", "violet"),
    (3.3, 2.6, 0.9, "RoPE", "blue"),
    (3.3, 1.5, 0.9, "RoPE", "green"),
    (4.6, 0.4, 1.0, "cache", "grey"),
    (4.6, 1.5, 1.0, "cache", "grey"),
    (6.1, 1.0, 1.7, "sink_attention\ngroups, window", "pink"),
    (6.35, 2.75, 1.2, "sinks [H]", "red"),
    (8.3, 1.4, 1.1, "o_proj", "orange"),
):
    box(
        ax,
        x,
        y,
        w,
        0.85 if text.count("\n") == 0 else 1.2 if color == "pink" else 0.95,
        text,
        color,
        fontsize=9,
    )
for start, end, color in (
    ((1.0, 2.0), (1.7, 3.0), "blue"),
    ((1.0, 1.95), (1.7, 1.95), "green"),
    ((1.0, 1.9), (1.7, 0.85), "violet"),
    ((2.9, 3.0), (3.3, 3.0), "blue"),
    ((2.9, 1.95), (3.3, 1.95), "green"),
    ((2.9, 0.8), (4.6, 0.8), "violet"),
    ((4.2, 3.0), (6.1, 2.0), "blue"),
    ((4.2, 1.95), (4.6, 1.95), "green"),
    ((5.6, 1.9), (6.1, 1.7), "green"),
    ((5.6, 0.9), (6.1, 1.3), "violet"),
    ((6.95, 2.75), (6.95, 2.2), "red"),
    ((7.8, 1.7), (8.3, 1.8), "pink"),
    ((9.4, 1.8), (10.0, 1.8), "orange"),
):
    arrow(ax, start, end, color)
ax.text(10.05, 1.8, "to the\nstream", va="center", fontsize=9)
ax.set(xlim=(0, 10.9), ylim=(0.2, 3.7), xticks=[], yticks=[])
ax.grid(False)
ax.spines[:].set_visible(False)
show(
    fig,
    alt="The attention block: x goes through q_proj, k_proj and v_proj; queries and keys are turned by RoPE; keys and "
    "values pass through the cache; sink_attention with groups and a window takes all three and the sinks; o_proj writes "
    "to the stream.",
)


# %%
#| export
class Attention(nn.Module):
    """GPT-OSS's attention: grouped heads, a sink each, and a window where the layer's type says so.

    Parameters have Hugging Face's names. Which biases there are, and whether there are sinks, the
    config says.

    Args:
        config: the architecture.
        layer_idx: which layer this is, from 0; decides about the window, and tells the cache.

    Raises:
        ValueError: if the architecture has no such layer.
    """

    def __init__(self, config: GPTOSSConfig, layer_idx: int) -> None:
        super().__init__()
        c = config
        if not 0 <= layer_idx < c.num_hidden_layers:
            raise ValueError(f"layer_idx is {layer_idx}, but there are {c.num_hidden_layers} layers, from 0.")
        self.layer_idx = layer_idx
        self.head_dim = c.head_dim
        self.window = c.sliding_window if c.layer_types[layer_idx] == "sliding_attention" else None
        self.initializer_range = c.initializer_range
        q_width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = Linear(c.hidden_size, q_width, bias=c.attention_bias)
        self.k_proj = Linear(c.hidden_size, kv_width, bias=c.attention_bias)
        self.v_proj = Linear(c.hidden_size, kv_width, bias=c.attention_bias)
        self.o_proj = Linear(q_width, c.hidden_size, bias=c.attention_out_bias)
        self.sinks = nn.Parameter(torch.empty(c.num_attention_heads)) if c.attention_sinks else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights and sinks; biases start at zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=self.initializer_range)

    def forward(
        self,
        x: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
        cache=None,
    ) -> Tensor:
        """Map the normalized stream to an update of the same shape.

        Args:
            x: [B, T, D].
            position_embeddings: cos and sin of the tokens' positions, from
                :class:`gptoss_lib.rope.RotaryEmbedding`, [T, hd/2] or [B, T, hd/2].
            position_ids: [T] or [B, T], where the tokens stand; negative for padding, which nobody
                sees. None for tokens in a row, which is faster.
            documents: [B, T], which document each token belongs to, in packed texts; nobody sees
                another document. None for one document.
            cache: keys and values of earlier tokens (chapter 12). ``cache.update(layer_idx, key,
                value)`` adds [B, KV, T, hd] each and returns those that the tokens may look at,
                [B, KV, S, hd]; ``cache.key_positions(layer_idx)`` then tells where these keys stand,
                [S] or [B, S] in any order, negative for empty slots, or None where they are all
                tokens so far, in a row.

        Returns:
            [B, T, D].

        Raises:
            ValueError: if there are both documents and a cache, or the cache gives positions and
                ``position_ids`` is missing.
        """
        query, key, value = (
            proj(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # [B, H or KV, T, hd]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary(query, *position_embeddings), apply_rotary(key, *position_embeddings)
        key_positions = position_ids
        if cache is not None:
            key, value = cache.update(self.layer_idx, key, value)  # [B, KV, S, hd]
            key_positions = cache.key_positions(self.layer_idx)
        mask = self._mask(position_ids, key_positions, documents, cache)
        window = self.window if mask is None else None
        mixed = sink_attention(query, key, value, self.sinks, window, mask)  # [B, H, T, hd]
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _mask(self, position_ids, key_positions, documents, cache) -> Tensor | None:
        """Return the mask, or None where all tokens stand in a row."""
        if documents is not None and cache is not None:
            raise ValueError(
                "Packed documents and a cache do not go together; give each text a row of its own."
            )
        if documents is None and key_positions is None:
            return None
        if documents is not None and position_ids is None:
            position_ids = key_positions = torch.arange(documents.shape[-1], device=documents.device)
        if position_ids is None:
            raise ValueError(
                "The cache tells where its keys stand; pass position_ids for the new tokens too."
            )
        return attention_mask(position_ids, key_positions, self.window, documents, documents)


# %% [markdown]
# A small one, on a text longer than its window:

# %%
from gptoss_lib.config import GPTOSSConfig
from gptoss_lib.rope import RotaryEmbedding

small = GPTOSSConfig(
    vocab_size=50,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=5,
    rope_scaling=None,
    initializer_range=0.3,
)
torch.manual_seed(0)
sliding, full = Attention(small, 0), Attention(small, 1)
print("windows:", sliding.window, "and", full.window)
print({name: list(parameter.shape) for name, parameter in sliding.named_parameters()})

rope = RotaryEmbedding(small.head_dim, small.rope_theta)
x, positions = torch.randn(2, 23, small.hidden_size), torch.arange(23)
changed = x.clone()
changed[:, 10] += 1.0
for name, block in (("sliding", sliding), ("full", full)):
    moved = (block(x, rope(positions)) - block(changed, rope(positions))).abs().amax((0, 2)) > 1e-6
    print(
        f"{name:8s}: changing token 10 changes what tokens {moved.nonzero().min()} to {moved.nonzero().max()} hear"
    )

# %% [markdown]
# Five tokens hear it in the sliding layer: token 10 and the four after it. Now the two other ways to call it. With a cache, text may come in pieces of any size; packed documents do not hear each other:


# %%
class ListCache:
    """The simplest cache: all keys and values so far, in a row. Chapter 12 builds a better one."""

    def __init__(self):
        self.stored = {}

    def update(self, layer_idx, key, value):
        if layer_idx in self.stored:
            key, value = (
                torch.cat(pair, dim=2) for pair in zip(self.stored[layer_idx], (key, value), strict=True)
            )
        self.stored[layer_idx] = key, value
        return key, value

    def key_positions(self, layer_idx):
        return None


for name, block in (("sliding", sliding), ("full", full)):
    at_once, cache, start, pieces = block(x, rope(positions)), ListCache(), 0, []
    for length in (9, 1, 1, 12):
        part = slice(start, start + length)
        pieces.append(block(x[:, part], rope(positions[part]), cache=cache))
        start += length
    print(f"{name:8s}: in pieces as at once:", torch.allclose(torch.cat(pieces, 1), at_once, atol=1e-5))

documents = (positions >= 8).long().expand(2, -1)
packed = sliding(x, rope(positions), documents=documents)
alone = sliding(x[:, 8:], rope(positions[:15]))
print("packed as alone:", torch.allclose(packed[:, 8:], alone, atol=1e-5))

# %% [markdown]
# The last line compares a document at positions 8 to 22 with the same one at positions 0 to 14, and they agree. You know why: with [rotary positions](09_rope_yarn.ipynb) only distances count.

# %% [markdown]
# ## Reality check
#
# Two independent computations. The first is plain Python in NumPy's 64 bits, loop by loop, straight from the formula at the top of this chapter. The second is a trick that lets PyTorch's own function do it: a sink is a key whose score is $z$ and whose value is zero, so append a column of zeros to the keys and values and put $z$ into the mask.

# %%
import numpy as np
import torch.nn.functional as F


def by_loops(q, k, v, sinks, window):
    out = np.zeros_like(q)
    for b, h, t in np.ndindex(q.shape[:3]):
        group = h * k.shape[1] // q.shape[1]
        seen = range(max(0, t - window + 1), t + 1)
        e = [math.exp(q[b, h, t] @ k[b, group, s] / math.sqrt(q.shape[-1])) for s in seen]
        total = sum(e) + math.exp(sinks[h])
        out[b, h, t] = sum(weight / total * v[b, group, s] for weight, s in zip(e, seen, strict=True))
    return out


def by_an_extra_key(q, k, v, sinks, window):
    seen = sliding_mask(torch.arange(q.shape[2]), torch.arange(q.shape[2]), window)
    bias = torch.zeros(seen.shape).masked_fill(~seen, -math.inf).expand(len(sinks), -1, -1)
    bias = torch.cat((bias, sinks.view(-1, 1, 1).expand(-1, len(seen), 1)), dim=-1)  # [H, T, S + 1]
    k, v = (F.pad(x, (0, 0, 0, 1)).repeat_interleave(3, dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])


q, k, v, sinks = torch.randn(2, 6, 70, 8), torch.randn(2, 2, 70, 8), torch.randn(2, 2, 70, 8), torch.randn(6)
ours = sink_attention(q, k, v, sinks, window=13)
loops = torch.from_numpy(by_loops(*(x.double().numpy() for x in (q, k, v, sinks)), window=13)).float()
print("loops in 64 bits:", torch.allclose(ours, loops, atol=1e-5))
print("an extra key:    ", torch.allclose(ours, by_an_extra_key(q, k, v, sinks, 13), atol=1e-5))

# %% [markdown]
# Against `transformers`, the project's tests (`tests/parity/test_attention_transformers.py`) load the same weights into `GptOssAttention` and into ours and compare full outputs and the gradient of every parameter in fp32, for both layer types, beyond the window, with a cache, with padding and with packed documents.

# %% [markdown]
# ## What gpt-oss-20b uses

# %%
oss = GPTOSSConfig.preset("gpt-oss-20b")
with torch.device("meta"):  # shapes without memory
    block = Attention(oss, 0)
for name, parameter in block.named_parameters():
    print(f"{name:14s} {list(parameter.shape)!s:14s} {parameter.numel():11,}")
per_layer = sum(parameter.numel() for parameter in block.parameters())
print(f"{per_layer:,} a layer; sinks in the whole model: {oss.num_attention_heads * oss.num_hidden_layers:,}")

# %% [markdown]
# A model of twenty billion parameters, and so few of them are sinks. They stay in 16 bits in the published weights, like everything outside the experts; the softmax in which they compete is computed in 32 bits here.

# %% [markdown]
# ## Pitfalls
#
# - **No sinks at all.** Support for sinks sat in [one engine's kernel](https://github.com/vllm-project/vllm-metal/pull/550), behind a flag that was never true, and two of its three code paths turned out to be wrong once they ran.
# - **Right alone, wrong together.** [SGLang's](https://github.com/sgl-project/sglang/pull/11634) unified kernel handled windows and sinks wrongly; the pull request shows gpt-oss-20b at 0% on grade-school mathematics before, because of it.
# - **Uninitialised sinks.** `torch.empty` is not zero. Building the `transformers` layer directly, as [this test did](https://github.com/tenstorrent/tt-xla/pull/5912), skips its initialisation, and the result was NaN on some days. The same happens to [biases](https://github.com/NVIDIA-NeMo/Automodel/issues/3920).
# - **Scaling the sink.** The scores are divided by $\sqrt{\mathrm{hd}}$, the sink is not. Appending a *key* and letting the kernel scale it gives another model.
# - **One sink a key head.** There is one for each *query* head. Shapes broadcast, and nobody complains.
# - **A backward pass of the wrong attention.** Scaling the output by $e^{\ell - \ell'}$ outside of autograd's sight, or letting autograd treat $\ell$ as a constant, gives the right output and wrong gradients for queries and keys. Compare gradients, not outputs alone.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/11_sinks.ipynb):
#
# 1. **The sink by hand.** Weights with a sink, without overflow.
# 2. **Its gradient.** From the saved output alone.
# 3. **Softmax plus one.** Miller's formula, and how to turn any sink into it.
# 4. **After the fact.** Put a sink into a result that was computed without one.

# %% [markdown]
# ## Summary
#
# - Softmax weights add up to one, so a head cannot keep silent. Models learn to dump attention on their first tokens, and a window takes those away.
# - A sink is one learned score a query head that takes part in the softmax and has no value.
# - Its gradient is $-\sum_t p_{\text{sink},t}\,(\mathrm{d}o_t \cdot o_t)$.
# - On a stock kernel: $\ell' = \mathrm{logaddexp}(\ell, z)$, scale the output by $e^{\ell - \ell'}$, and give the kernel's backward the scaled output and $\ell'$. Nothing is approximate.
# - Windows are computed in bands: W queries against 2W keys.
# - `Attention` is the block of gpt-oss, with Hugging Face's names, for training, packed texts and caches.
#
# Next: [the KV cache](12_kv_cache.ipynb) itself, and why a windowed layer never needs more than a window of it.

# %% [markdown]
# ## Further reading
#
# - [Xiao et al., 2023](https://arxiv.org/abs/2309.17453): attention sinks, found in trained models.
# - [Miller, 2023](https://www.evanmiller.org/attention-is-off-by-one.html): softmax is off by one.
# - [OpenAI, 2025](https://arxiv.org/abs/2508.10925): the model card of gpt-oss.
# - [Dao et al., 2022](https://arxiv.org/abs/2205.14135): FlashAttention, where the log-sum-exp and the backward formula come from.
