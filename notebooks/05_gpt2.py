# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # GPT-2
#
# You have token ids and batches of stories. Now you build the machine that reads them. It is GPT-2, the model that
# OpenAI published in 2019, complete and without shortcuts: the same formulas, the same rule for fresh weights, the same
# parameter names. You start from one question, *which earlier words matter?*, and end with a model whose **logits**, the
# scores that it gives to every possible next token, equal those of the published one.
#
# GPT-2 is also the yardstick of this course. Every part of GPT-OSS replaces a part of it, so you will need to know what
# was there before, and the baseline has to be as strong as it can honestly be.
#
# **You will**
#
# - compute attention by hand, then write it in five lines, then hand it to a fused kernel and show that nothing changed;
# - see why the scores are divided by a square root, why there is a mask, and why there are several heads;
# - build the block: LayerNorm, attention, MLP, and the stream that they write to;
# - learn how fresh weights are drawn, and what goes wrong when they are not;
# - count the 124,439,808 parameters of GPT-2 small, and load weights in the published layout.
#
# **Time:** about 90 minutes. **Hardware:** any CPU; the cells take well under a minute.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# A language model reads some tokens and gives a probability to every possible next one. The simplest model that you can
# think of looks at the last token only and counts what usually follows. Try it on this text:
#
# > Lily found a ball. She gave it to Tom. Tom was happy because now he had the ▁
#
# After *the*, anything can come. The word you want, *ball*, stands fourteen words back. Looking at the last two or three
# tokens does not help, and counting what follows the last fourteen does not either: no text repeats that often. So the
# model must look back over everything and **choose** what matters, and the choice must depend on the words themselves:
# for *it* the ball matters, for *she* it is Lily.
#
# Older networks read from left to right and squeezed everything they had seen into one vector of fixed size. A word
# from fourteen steps ago had to survive fourteen rewrites. The transformer of
# [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762) keeps every word and looks back at all of them at once. This
# is **attention**, and GPT-2 ([Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf))
# is a stack of it.

# %%
#| export
"""GPT-2, the baseline: every later chapter replaces one part of it.

Learned positions, LayerNorm before each sub-layer, multi-head causal attention, a GELU MLP, and an
output head that shares the embedding's weights. Names are Hugging Face's, so published checkpoints
load. There is no dropout: GPT-OSS has none either, and the course compares the two.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# %% tags=["hide-input"]
import numpy as np

from gptoss_lib.figures import COLORS, arrow, box, new_figure, show
from gptoss_lib.widgets import explore

# %% [markdown]
# ## Which earlier words matter?
#
# Let us work with words for a moment, and with numbers that we choose by hand. Take the text so far:
#
# > Lily found a ball . She gave it to Tom
#
# Describe each word by three numbers: how much it **offers** of *a person*, *a thing*, *a deed*. *Lily* offers a person,
# *ball* a thing, *found* a deed. Call this row of numbers the word's **key**. Each word also **asks** for something.
# *it* asks for a thing: some thing was mentioned before, which one? Call this the word's **query**.

# %%
words = ["Lily", "found", "a", "ball", ".", "She", "gave", "it", "to", "Tom"]
person, thing, deed, nothing = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]

offers = [person, deed, nothing, thing, nothing, nothing, deed, nothing, nothing, person]
asks = [nothing, person, deed, deed, deed, person, person, thing, deed, deed]

toy_key = torch.tensor(offers)  # [T, 3]
toy_query = 4 * torch.tensor(asks)  # [T, 3]; the 4 says how insistent a query is
toy_key.shape, toy_query.shape

# %% [markdown]
# How well does what a word offers fit what *it* asks for? Multiply the two rows number by number and add up: the **dot
# product**. It is large where both are large in the same places.

# %%
it = words.index("it")
scores = toy_key[: it + 1] @ toy_query[it]  # one score for every word up to "it"
for word, score in zip(words, scores.tolist(), strict=False):
    print(f"{word:>6} {score:.0f}")

# %% [markdown]
# Scores are good for comparing, but we want **weights**: positive numbers that add up to 1, so that we can take a mean.
# The softmax makes them: $\mathrm{softmax}(s)_j = e^{s_j} / \sum_k e^{s_k}$. In words: exponentiate every score, then
# divide by the total. By hand: $e^4 \approx 54.6$ for *ball* and $e^0 = 1$ for each of the seven others, so *ball* gets
# $54.6 / 61.6$.

# %%
weights = scores.softmax(dim=0)
print(
    "ball:", round(weights[words.index("ball")].item(), 3), "  each other word:", round(weights[0].item(), 3)
)
print("by hand:", round(math.exp(4) / (math.exp(4) + 7), 3))

# %% [markdown]
# Now collect. Each word also has a **value**: what it passes on to whoever looks at it. Here the value is the same three
# numbers as the key. In a real model it is a third row, since what makes a word worth finding and what it has to say
# are different things. *it* receives the weighted mean of the values.

# %%
toy_value = toy_key


def show_row(name, row):
    print(f"{name:14}", " ".join(f"{number:6.2f}" for number in row.tolist()))


print(" " * 14, "person  thing   deed")
show_row("plain mean", toy_value[: it + 1].mean(0))
show_row("weighted mean", weights @ toy_value[: it + 1])

# %% [markdown]
# A plain mean of all words is a blur. The weighted mean says: *I am a thing*. The word *it* has learned from its
# surroundings what it stands for. That is all attention does: **every word asks, every earlier word answers, and the
# answers are mixed by how well they fit.**
#
# Move the slider through the text and look at what each word looks at. (We chose these numbers so that the result makes
# sense. In the model nobody chooses them: query, key and value are three linear layers of the word's vector, and
# training finds the weights.)


# %% tags=["hide-input"]
def attention_bars(word: str) -> str:
    """One row a word: how much the word that the slider points at looks at it."""
    position = words.index(word)
    row = (toy_key[: position + 1] @ toy_query[position]).softmax(dim=0).tolist()
    lines = []
    for index, name in enumerate(words):
        share = row[index] if index <= position else 0.0
        color = COLORS["orange"] if index == position else COLORS["blue"]
        text = f"{share:.0%}" if index <= position else "not visible"
        lines.append(
            f'<div style="display:flex;align-items:center;gap:8px;opacity:{1 if index <= position else 0.4}">'
            f'<span style="width:3.5em;text-align:right;{"font-weight:bold" if index == position else ""}">{name}</span>'
            f'<span style="height:0.9em;width:{260 * share:.0f}px;background:{color}"></span><span>{text}</span></div>'
        )
    return "".join(lines)


explore(attention_bars, {"the word that asks": words}, start={"the word that asks": "it"})

# %% [markdown]
# ## All words at once, and no looking ahead
#
# While the model trains, every position is a question of its own: after *Lily*, what comes next? After *Lily found*?
# One text of $T$ tokens gives $T$ questions, and we want to answer all of them in a single pass. So compute all scores
# at once, a matrix of $T \times T$: row $i$ holds what word $i$ asks of every word.
#
# But then word 3 also sees word 4, which is the answer to its question. A model that may peek learns to copy the answer
# and nothing else. The **causal mask** forbids it: before the softmax, every score above the diagonal becomes
# $-\infty$. Since $e^{-\infty} = 0$, such a word gets the weight 0, exactly, and the rest still adds up to 1.

# %% tags=["hide-input"]
toy_scores = toy_query @ toy_key.T  # [T, T]
future = torch.ones(len(words), len(words), dtype=torch.bool).triu(1)
fig, axes = new_figure(7.5, 3.9, ncols=2, sharey=True)
for ax, table, title in [
    (axes[0], toy_scores.softmax(-1), "without a mask"),
    (axes[1], toy_scores.masked_fill(future, -math.inf).softmax(-1), "with the causal mask"),
]:
    ax.imshow(table.masked_fill(table == 0, math.nan), vmin=0, vmax=1)
    ax.set_xticks(range(len(words)), words, rotation=60)
    ax.set_title(title)
    ax.set_xlabel("is looked at (key)")
    ax.grid(False)
axes[0].set_yticks(range(len(words)), words)
axes[0].set_ylabel("looks (query)")
show(
    fig,
    alt="Two attention matrices over the ten words of the toy text. Without a mask every row spreads over all words, "
    "later ones included. With the causal mask the upper right triangle is empty: the first row sees only itself, "
    "and the row of 'it' has its bright cell at 'ball'.",
)

# %% [markdown]
# Is the mask tight? There is a test that needs no trust: change the last word and see whether anything changes for the
# words before it.

# %%
torch.manual_seed(0)
x = torch.randn(6, 8)  # six words, eight numbers each
changed = x.clone()
changed[-1] += 1


def attend(x, causal):
    scores = x @ x.T / 8
    if causal:
        scores = scores.masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -math.inf)
    return scores.softmax(-1) @ x


for causal in (False, True):
    moved = (attend(x, causal) - attend(changed, causal)).abs().amax(-1) > 1e-6
    print("causal" if causal else "no mask", "→ rows that changed:", moved.nonzero().flatten().tolist())

# %% [markdown]
# ## Why the scores are divided by √hd
#
# In the toy a query has three numbers. In GPT-2 it has $hd = 64$ (the **head dimension**). That changes something. If
# the numbers in $q$ and $k$ are independent with mean 0 and variance 1, then $q \cdot k$ is a sum of $hd$ terms of
# variance 1 each, so it has the variance $hd$: scores of $\pm 8$ are normal for $hd = 64$. A softmax over such scores
# gives nearly everything to the largest one. It is **saturated**: small changes of the scores change nothing, so hardly
# any gradient comes back, and the layer cannot learn where to look.
#
# The cure is to divide by the standard deviation, $\sqrt{hd}$.


# %%
def softmax_health(hd, scaled, samples=2000, keys=16):
    """Mean of the largest weight, and mean slope of a weight against its own score."""
    generator = torch.Generator().manual_seed(hd)
    query = torch.randn(samples, 1, hd, generator=generator)
    key = torch.randn(samples, keys, hd, generator=generator)
    scores = (query * key).sum(-1)
    weights = (scores / math.sqrt(hd) if scaled else scores).softmax(-1)
    slope = weights * (1 - weights)  # how fast a weight follows its own score
    return weights.amax(-1).mean().item(), slope.mean().item()


print("  hd   largest weight      slope of the softmax")
print("       plain  divided      plain  divided")
for hd in (4, 64, 1024):
    (plain, plain_slope), (scaled, scaled_slope) = softmax_health(hd, False), softmax_health(hd, True)
    print(f"{hd:>4}   {plain:5.2f}   {scaled:6.2f}     {plain_slope:6.3f}   {scaled_slope:6.3f}")

# %% tags=["hide-input"]
sizes = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
fig, axes = new_figure(7.5, 2.8, ncols=2)
for scaled, name in ((False, "q·k"), (True, "q·k / √hd")):
    largest, slope = zip(*[softmax_health(hd, scaled) for hd in sizes], strict=True)
    axes[0].plot(sizes, largest, label=name)
    axes[1].plot(sizes, slope, label=name)
for ax, title in zip(axes, ("largest weight among 16 keys", "slope of the softmax"), strict=True):
    ax.set_xscale("log", base=2)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("head dimension hd")
    ax.set_title(title)
axes[0].legend()
show(
    fig,
    alt="Two curves against the head dimension. Without scaling the largest softmax weight climbs from about 0.3 to "
    "nearly 1 and the slope of the softmax falls towards 0; with division by the square root of hd both stay flat.",
)

# %% [markdown]
# Put together, this is **scaled dot-product attention**, the one formula of the chapter:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{hd}} + M\right) V,
# \qquad M_{ij} = \begin{cases} 0 & j \le i \\ -\infty & j > i \end{cases}$$
#
# In words: score every query against every key, scale, hide the future, turn each row into weights, and take the
# weighted mean of the values.
#
# ## The slow, obvious version
#
# Write it down as it reads. The shape letters are those of the whole course ([notation](../book/notation.md)): B texts
# in a batch, H heads (soon), T queries, S keys, hd numbers each. Here T and S are the same. They will differ in the
# chapter on the KV cache, where the keys of earlier tokens are kept and only the newest tokens ask, so the mask counts
# from the **end**: the last query belongs to the last key. It costs nothing to get this right now.


# %%
#| export
def attention_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention, one line a step: the slow, obvious version.

    The T queries belong to the last T of the S tokens, so S = T in training and S > T with a cache.

    Args:
        query: [B, H, T, hd].
        key: [B, H, S, hd].
        value: [B, H, S, hd].

    Returns:
        For each query the weighted mean of the values, [B, H, T, hd].
    """
    T, S, hd = query.shape[-2], key.shape[-2], query.shape[-1]
    scores = query @ key.transpose(-2, -1) / math.sqrt(hd)  # [B, H, T, S]
    future = torch.ones(T, S, dtype=torch.bool, device=query.device).triu(S - T + 1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return weights @ value  # [B, H, T, hd]


# %% [markdown]
# The toy again, through the real function. The factor $\sqrt{3}$ undoes the scaling that our hand-made numbers did not
# ask for.

# %%
heads = [table[None, None] for table in (math.sqrt(3) * toy_query, toy_key, toy_value)]  # B = H = 1
out = attention_reference(*heads)[0, 0]
show_row("it", out[it])

# %% [markdown]
# ## The fast version
#
# The obvious version writes a T × T table for every head to memory, several times: scores, masked scores, weights. For
# 1,024 tokens and 12 heads this is 12 million numbers a layer and text. Fused kernels never write the table: they walk
# over the keys in blocks and keep a running softmax ([Dao et al., 2022](https://arxiv.org/abs/2205.14135)). PyTorch
# offers this as `F.scaled_dot_product_attention`.
#
# One trap: `is_causal=True` lines up the *first* query with the *first* key. With T = S that is the same thing. With a
# cache it is not, and the newest token would see only the oldest one. So we pass the mask ourselves there.


# %%
#| export
def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute what :func:`attention_reference` does with PyTorch's fused kernel.

    Args:
        query: [B, H, T, hd].
        key: [B, H, S, hd], with S ≥ T.
        value: [B, H, S, hd].

    Returns:
        For each query the weighted mean of the values, [B, H, T, hd].
    """
    T, S = query.shape[-2], key.shape[-2]
    if T == S:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    # is_causal would line up the first query with the first key; ours belong to the last keys.
    visible = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


# %%
torch.manual_seed(0)
for T, S in [(7, 7), (3, 7), (1, 7)]:
    query, key, value = torch.randn(2, 3, T, 8), torch.randn(2, 3, S, 8), torch.randn(2, 3, S, 8)
    same = torch.allclose(
        causal_attention(query, key, value), attention_reference(query, key, value), atol=1e-6
    )
    trap = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    trapped = torch.allclose(trap, attention_reference(query, key, value), atol=1e-6)
    print(f"T={T} S={S}: fast equals slow: {same!s:5}   is_causal=True alone would: {trapped}")

# %% [markdown]
# ## The sizes, in one place
#
# The real layers need sizes. They live in a config with Hugging Face's field names, so that a published `config.json`
# can be read as it is. The defaults are GPT-2 small. A GPT-2 has no choice of head dimension: the heads share the width
# D evenly, hd = D / H. (GPT-OSS breaks this rule: 64 heads of 64 numbers in a stream of 2,880.)

# %%
#| export
_FIXED_SETTINGS = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class GPT2Config:
    """The sizes of a GPT-2, with Hugging Face's field names; the defaults are GPT-2 small.

    Raises:
        ValueError: if a size is not positive or the heads do not divide the hidden size.
    """

    vocab_size: int = 50257  # V, tokens in the vocabulary
    n_positions: int = 1024  # the longest text that the model can read, in tokens
    n_embd: int = 768  # D, width of the residual stream
    n_layer: int = 12  # blocks
    n_head: int = 12  # H, attention heads a block
    n_inner: int | None = None  # F, width of the MLP; None means 4·D
    layer_norm_epsilon: float = 1e-5  # keeps LayerNorm from dividing by zero
    initializer_range: float = 0.02  # standard deviation of fresh weights
    tie_word_embeddings: bool = True  # the output head is the embedding table
    qkv_bias: bool = True  # biases of query, key and value; every published GPT-2 has them

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} is not a multiple of n_head={self.n_head}; choose sizes that divide."
            )

    @property
    def head_dim(self) -> int:
        """hd, the width of one head. GPT-2 leaves no choice here: hd = D / H."""
        return self.n_embd // self.n_head

    @classmethod
    def from_json(cls, path: str | Path) -> "GPT2Config":
        """Read a ``config.json`` in Hugging Face's format.

        Raises:
            ValueError: if the file asks for a variant that this model does not implement.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        for name, expected in _FIXED_SETTINGS.items():
            if values.get(name, expected) != expected:
                raise ValueError(
                    f"{path} has {name}={values[name]!r}, but this GPT-2 implements only {expected!r}."
                )
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def to_json(self, path: str | Path) -> None:
        """Write a ``config.json`` that :meth:`from_json` and ``transformers`` read."""
        text = json.dumps(_FIXED_SETTINGS | asdict(self), indent=2) + "\n"
        Path(path).write_text(text, encoding="utf-8")


# %%
small = GPT2Config()
print(small)
print("head_dim:", small.head_dim)

# %% [markdown]
# There is no dropout in this list. The published config has it (10%): it keeps a model from memorizing texts that it
# reads again and again. In the quick profile a model reads each token at most once, and GPT-OSS has no dropout either, so
# a fair comparison leaves it out on both sides.
#
# ## Several heads
#
# One attention gives every word one weighted mean. But *gave* needs to know who gives, what is given, **and** to whom.
# One softmax cannot point sharply at three places: its weights add up to 1. So GPT-2 runs H attentions side by side, each
# on its own hd numbers. Each **head** can look somewhere else. A last linear layer, `c_proj`, mixes what they found.
#
# The cost stays the same: twelve heads of 64 numbers need as many parameters and multiplications as one head of 768.

# %% tags=["hide-input"]
fig, ax = new_figure(7.5, 3.1)
ax.set_xlim(0, 10)
ax.set_ylim(0, 4)
ax.axis("off")
box(ax, 0.1, 1.6, 1.2, 0.8, "stream\n[B, T, D]", "grey")
box(ax, 1.9, 1.6, 1.2, 0.8, "c_attn\nD → 3·D", "orange")
arrow(ax, (1.3, 2.0), (1.9, 2.0))
for row, (name, color) in enumerate([("query", "blue"), ("key", "green"), ("value", "violet")]):
    y = 3.05 - 1.35 * row
    box(ax, 3.7, y, 1.35, 0.6, f"{name} [B, T, D]", color, fontsize=8.5)
    arrow(ax, (3.1, 2.0), (3.7, y + 0.3))
for head in range(3):
    y = 3.05 - 1.35 * head
    box(ax, 5.9, y, 1.55, 0.6, f"head {head if head < 2 else 'H−1'}: hd wide", "pink", fontsize=7.5)
    for row in range(3):
        arrow(ax, (5.05, 3.35 - 1.35 * row), (5.9, y + 0.3), linewidth=0.6, mutation_scale=6)
    arrow(ax, (7.45, y + 0.3), (8.1, 2.0))
ax.text(6.67, 1.33, "⋮", ha="center", va="center")
box(ax, 8.1, 1.6, 1.7, 0.8, "side by side,\nc_proj D → D", "orange")
show(
    fig,
    alt="Multi-head attention: c_attn maps the stream of width D to query, key and value; each is cut into H slices of "
    "width hd; every head attends on its own slice of the three; the results stand side by side and c_proj mixes them.",
)

# %% [markdown]
# In code, `c_attn` computes query, key and value of all heads in one product (three thin matrices glued together run
# faster than three calls), `split` takes them apart, and a `view` cuts each into heads. `cache` is a seam for later: an
# object that stores the keys and values of earlier tokens. Chapter 12 builds one; until then it is `None`.


# %%
#| export
class GPT2Attention(nn.Module):
    """Multi-head causal self-attention: H small attentions side by side, then one mixing layer."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.head_dim = config.head_dim
        self.layer_idx = layer_idx
        # Query, key and value in one product.
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache=None) -> Tensor:
        """Map the normalized stream x [B, T, D] to an update of the same shape."""
        B, T, D = x.shape
        query, key, value = (
            part.view(B, T, self.n_head, self.head_dim).transpose(1, 2)  # [B, H, T, hd]
            for part in self.c_attn(x).split(D, dim=-1)
        )
        if cache is not None:
            key, value = cache.update(self.layer_idx, key, value)  # [B, H, S, hd]
        mixed = causal_attention(query, key, value)  # [B, H, T, hd]
        return self.c_proj(mixed.transpose(1, 2).reshape(B, T, D))


# %%
for n_head in (1, 4, 12):
    layer = GPT2Attention(GPT2Config(n_head=n_head), layer_idx=0)
    parameters = sum(p.numel() for p in layer.parameters())
    print(
        f"{n_head:>2} heads of {layer.head_dim:>3}: {parameters:,} parameters,",
        "output",
        list(layer(torch.zeros(2, 5, 768)).shape),
    )

# %% [markdown]
# ## A stream that layers write to
#
# Stack twelve attentions, each eating the output of the last, and the signal dies: every layer replaces what was there,
# and on the way back every layer garbles the gradient. The residual connection of
# [He et al., 2016](https://arxiv.org/abs/1512.03385) turns *replace* into *add*: $x \leftarrow x + f(x)$. Each token owns
# a vector of D numbers, the **residual stream**, that runs straight from the bottom to the top. Layers read a copy,
# compute, and add what they found. The gradient flows back along the same straight line.
#
# What they read should not depend on how large the stream has grown. So each layer first normalizes its copy.
# **LayerNorm** ([Ba et al., 2016](https://arxiv.org/abs/1607.06450)) takes the D numbers of one token, subtracts their
# mean, divides by their standard deviation, and then lets two learned vectors stretch and shift the result:
#
# $$\mathrm{LayerNorm}(x) = \gamma \odot \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$
#
# In words: whatever size the stream has, the layer sees numbers of mean 0 and variance 1.


# %%
def layer_norm(x, weight, bias, eps=1e-5):
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.pow(2).mean(dim=-1, keepdim=True)  # divided by D, not by D − 1
    return weight * centred / torch.sqrt(variance + eps) + bias


torch.manual_seed(0)
norm = nn.LayerNorm(8)
stream = 50 + 30 * torch.randn(4, 8)
print(
    "equal to nn.LayerNorm:",
    torch.allclose(layer_norm(stream, norm.weight, norm.bias), norm(stream), atol=1e-5),
)
show_row("first token", stream[0])
show_row("normalized", norm(stream)[0])

# %% [markdown]
# The first transformer normalized *after* the addition, and so bent the straight line twice a block. GPT-2 moved the
# norm to the entrance of each layer (**pre-norm**), which is why deep stacks of it train without tricks
# ([Xiong et al., 2020](https://arxiv.org/abs/2002.04745)). After the last block one more LayerNorm, `ln_f`, prepares the
# stream for the output.
#
# ## The MLP
#
# Attention moves information between tokens, but on its way it computes only weighted means. The second layer of a
# block does the opposite: it looks at each token **alone** and computes something new from it. It widens D numbers to
# 4·D, applies a nonlinearity, and narrows them again. Two thirds of a block's weights are here.
#
# The nonlinearity is **GELU** ([Hendrycks & Gimpel, 2016](https://arxiv.org/abs/1606.08415)), $x \cdot \Phi(x)$: the
# input, times the probability that a standard normal number is smaller than it. It is a ReLU with a soft corner, so that
# small negative inputs still get a gradient. OpenAI computed it with an approximation by a tanh,
#
# $$\mathrm{GELU}(x) \approx \tfrac{1}{2}\, x \left(1 + \tanh\!\big(\sqrt{2/\pi}\,(x + 0.044715\,x^3)\big)\right),$$
#
# and the published weights were trained with it, so we keep it.


# %%
def gelu_by_formula(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


z = torch.linspace(-4, 4, 801)
print(
    "formula equals F.gelu(…, approximate='tanh'):",
    torch.allclose(gelu_by_formula(z), F.gelu(z, approximate="tanh"), atol=1e-6),
)
print(f"largest distance to the exact GELU: {(F.gelu(z) - F.gelu(z, approximate='tanh')).abs().max():.5f}")

# %% tags=["hide-input"]
fig, axes = new_figure(7.5, 2.6, ncols=2)
axes[0].plot(z, F.relu(z), color=COLORS["grey"], label="ReLU")
axes[0].plot(z, F.gelu(z, approximate="tanh"), color=COLORS["orange"], label="GELU")
axes[0].set_ylim(-0.5, 2)
axes[0].set_xlim(-3, 2)
axes[0].legend()
axes[0].set_title("GELU is a ReLU with a soft corner")
axes[1].plot(z, 1000 * (F.gelu(z, approximate="tanh") - F.gelu(z)), color=COLORS["violet"])
axes[1].set_title("tanh version minus exact, × 1000")
show(
    fig,
    alt="Left: ReLU with its kink at zero and GELU, which dips slightly below zero and bends smoothly. Right: the tanh "
    "approximation differs from the exact GELU by less than half a thousandth everywhere.",
)


# %%
#| export
class GPT2MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to every token alone."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(hidden_size, inner_size)
        self.c_proj = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map the normalized stream x [B, T, D] to an update of the same shape."""
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))  # [B, T, F] inside


# %% [markdown]
# ## The block
#
# One block: read, attend, add; read, think, add. GPT-2 small stacks twelve of them.


# %%
#| export
class GPT2Block(nn.Module):
    """Attention, then the MLP; each reads a normalized copy of the stream and adds to the stream."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config.n_embd, config.n_inner or 4 * config.n_embd)

    def forward(self, x: Tensor, cache=None) -> Tensor:
        """Map the stream x [B, T, D] to the stream after this block."""
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


# %%
block = GPT2Block(small, layer_idx=0)
for name, part in block.named_children():
    print(f"{name:5} {sum(p.numel() for p in part.parameters()):>9,} parameters")

# %% [markdown]
# ## Where a word stands
#
# Something is missing. Look at attention again: a weighted mean does not care about the order of what it averages. To
# the last word, *the dog bit Tom* and *Tom bit the dog* are the same set of words.

# %%
torch.manual_seed(0)
layer = GPT2Attention(GPT2Config(n_embd=24, n_head=3), layer_idx=0)
text = torch.randn(1, 5, 24)
shuffled = text[:, [2, 0, 3, 1, 4]]  # the last word stays the last
print(
    "last word's output unchanged by shuffling the others:",
    torch.allclose(layer(text)[:, -1], layer(shuffled)[:, -1], atol=1e-6),
)

position = 0.5 * torch.randn(5, 24)
print(
    "… with a vector for each position added to the words:",
    torch.allclose(layer(text + position)[:, -1], layer(shuffled + position)[:, -1], atol=1e-6),
)

# %% [markdown]
# GPT-2's remedy is blunt: a second embedding table, `wpe`, with one learned vector for each **position**. The stream
# starts as *what the token is* plus *where it stands*. It works, and it has two weaknesses that [chapter 09](09_rope_yarn.ipynb) will remove:
# there is no vector for position 1,024, so a longer text cannot be read at all; and the model has to learn separately
# what "three words back" means at every place in the text.
#
# ## From the stream back to tokens
#
# At the top, each token's vector has to become V scores, the logits. Compare it with the vector of every token in the vocabulary:
# again dot products. GPT-2 uses the embedding table itself for this (**weight tying**,
# [Press & Wolf, 2017](https://arxiv.org/abs/1608.05859)): the vector that *means* a token is also the one that
# *predicts* it. That saves V · D parameters, nearly a third of GPT-2 small.

# %% tags=["hide-input"]
fig, ax = new_figure(7.5, 4.8)
ax.set_xlim(0, 10)
ax.set_ylim(0, 8.2)
ax.axis("off")
box(ax, 0.3, 0.2, 2.0, 0.7, "token ids [B, T]", "grey")
box(ax, 0.3, 1.5, 2.0, 0.7, "wte  V × D", "orange")
box(ax, 3.2, 1.5, 2.4, 0.7, "wpe  n_positions × D", "orange", fontsize=9)
arrow(ax, (1.3, 0.9), (1.3, 1.5))
arrow(ax, (1.3, 2.2), (1.3, 2.75))
ax.text(1.3, 2.95, "⊕", ha="center", va="center", fontsize=13)
arrow(ax, (4.4, 2.2), (1.55, 2.95))
box(ax, 0.75, 3.3, 6.3, 3.35, "", "grey")
ax.text(6.9, 4.98, "one block, h.0\n(n_layer of them\nin a row)", ha="right", va="center", fontsize=9)
arrow(ax, (1.3, 3.15), (1.3, 7.2))
ax.text(0.4, 4.98, "residual stream [B, T, D]", rotation=90, ha="center", va="center", fontsize=9)
for bottom, first, second, color in ((3.5, "ln_1", "attn", "blue"), (5.0, "ln_2", "mlp", "green")):
    box(ax, 2.2, bottom, 1.1, 0.6, first, "grey")
    box(ax, 3.8, bottom, 1.3, 0.6, second, color)
    arrow(ax, (1.3, bottom + 0.3), (2.2, bottom + 0.3))
    arrow(ax, (3.3, bottom + 0.3), (3.8, bottom + 0.3))
    arrow(ax, (4.45, bottom + 0.6), (1.55, bottom + 1.2))
    ax.text(1.3, bottom + 1.2, "⊕", ha="center", va="center", fontsize=13)
box(ax, 0.3, 7.2, 2.0, 0.7, "ln_f", "grey")
box(ax, 3.2, 7.2, 2.4, 0.7, "× wteᵀ (tied)", "orange")
arrow(ax, (2.3, 7.55), (3.2, 7.55))
box(ax, 6.6, 7.2, 2.4, 0.7, "logits [B, T, V]", "grey")
arrow(ax, (5.6, 7.55), (6.6, 7.55))
show(
    fig,
    alt="GPT-2 as a diagram: token ids go through the token embedding wte, the position embedding wpe is added, and the "
    "residual stream runs upwards. Each block adds the result of attention on a LayerNorm of the stream, then the result "
    "of the MLP on another. After the last block ln_f and the product with the embedding table give the logits.",
)

# %% [markdown]
# ## Fresh weights
#
# Before training the weights are random, but how large? Two things are wanted. The first prediction should be *I have no
# idea*, all V tokens about equally likely; anything else is a wrong opinion that training must first undo. And the
# stream should not explode on its way up.
#
# GPT-2 draws all weights from a normal distribution with standard deviation 0.02, sets biases to 0, and adds one rule:
# layers that **write to the stream** (both `c_proj`) start smaller by $1/\sqrt{2 \cdot n_{\text{layer}}}$. There are
# 2 · n_layer of these additions, roughly independent at the start, so their variances add up. The factor makes the sum
# as large as a single write would be, for any depth. (The rule is the paper's, section 2.3. The code that OpenAI
# [released](https://github.com/openai/gpt-2) has no such factor, and draws `wpe` with 0.01. Like Hugging Face and nanoGPT, we
# follow the paper, with 0.02 for both tables.)
#
# Now the whole model fits in one cell.


# %%
#| export
class GPT2(nn.Module):
    """GPT-2: token ids in, a score for every possible next token out.

    From "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019).
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(GPT2Block(config, layer_idx) for layer_idx in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights; the layers that write to the stream start smaller by √(2·n_layer)."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" in name:
                nn.init.ones_(parameter)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * self.config.n_layer))
            else:
                nn.init.normal_(parameter, std=std)

    def forward(self, input_ids: Tensor, cache=None) -> Tensor:
        """Score the next token after every prefix.

        Args:
            input_ids: [B, T], int64.
            cache: keys and values of earlier tokens (chapter 12): ``cache.length`` tokens are
                already stored, and ``cache.update(layer_idx, key, value)`` adds [B, H, T, hd] each
                and returns those of all tokens so far.

        Returns:
            Logits, [B, T, V].

        Raises:
            ValueError: if the text is longer than ``n_positions`` tokens.
        """
        past = 0 if cache is None else cache.length
        end = past + input_ids.shape[1]
        if end > self.config.n_positions:
            raise ValueError(
                f"The text has {end} tokens, but this model has n_positions={self.config.n_positions}; "
                "shorten the text."
            )
        positions = torch.arange(past, end, device=input_ids.device)  # [T]
        x = self.wte(input_ids) + self.wpe(positions)  # [B, T, D]
        for block in self.h:
            x = block(x, cache)
        head = self.wte if self.lm_head is None else self.lm_head
        return F.linear(self.ln_f(x), head.weight)  # [B, T, V]


# %% [markdown]
# ### The first loss
#
# A model without an opinion gives each of V tokens the probability 1/V, so its loss is $\ln V$: 10.82 for GPT-2's
# vocabulary. Check a fresh GPT-2 small. The last line shows what happens with PyTorch's default for embeddings (standard
# deviation 1): since the table is also the output head, the fresh model is wildly sure of itself.


# %%
@torch.no_grad()
def first_loss(model, batch=8, length=64):
    """Loss on random tokens, and how far the logits scatter."""
    ids = torch.randint(
        model.config.vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(0)
    )
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item(), logits.std(-1).mean().item()


torch.manual_seed(0)
model = GPT2(small)
print(f"ln V                 {math.log(small.vocab_size):6.2f}")
loss, spread = first_loss(model)
print(
    f"GPT-2's rule         {loss:6.1f}   logits scatter by {spread:.2f}, so expect ln V + {spread**2 / 2:.2f}"
)
nn.init.normal_(model.wte.weight)
loss, spread = first_loss(model)
print(f"embeddings at std 1  {loss:6.0f}   logits scatter by {spread:.0f}")

# %% [markdown]
# The fresh model is close to $\ln V$ but not on it. Its logits are not all equal: they scatter by about
# $\sigma = 0.02 \sqrt{D} \approx 0.55$, since each is a dot product of a normalized stream with a row of small random
# numbers. A normal scatter costs $\sigma^2 / 2$ nats, which is the gap. When you build a model, compute this number first.
# A fresh model that starts far above it has a bug in its initialisation.
#
# ### The stream does not explode
#
# Now the second wish. Follow the size of the stream (its root mean square) through a deep stack, with the rule and
# without.


# %%
@torch.no_grad()
def stream_sizes(n_layer, scaled):
    """Root mean square of the residual stream before the first block and after each one."""
    torch.manual_seed(1)
    model = GPT2(GPT2Config(vocab_size=500, n_positions=32, n_embd=192, n_head=3, n_layer=n_layer))
    for name, parameter in model.named_parameters():
        if not scaled and name.endswith("c_proj.weight"):
            parameter.mul_(math.sqrt(2 * n_layer))  # undo the rule
    x = model.wte(torch.randint(500, (4, 32))) + model.wpe(torch.arange(32))
    sizes = [x]
    for block in model.h:
        sizes.append(block(sizes[-1]))
    return [x.pow(2).mean().sqrt().item() for x in sizes]


growth = {(n, scaled): stream_sizes(n, scaled) for n in (6, 12, 24, 48) for scaled in (True, False)}
print("layers   scaled   unscaled      (size at the top, as a multiple of the size at the bottom)")
for n in (6, 12, 24, 48):
    print(
        f"{n:>6}  {growth[n, True][-1] / growth[n, True][0]:7.1f}  {growth[n, False][-1] / growth[n, False][0]:9.1f}"
    )

# %% tags=["hide-input"]
fig, ax = new_figure(7, 3)
for n, color in zip((6, 12, 24, 48), ("grey", "green", "blue", "violet"), strict=True):
    ax.plot(growth[n, True], color=COLORS[color], label=f"{n} layers")
    ax.plot(growth[n, False], color=COLORS[color], linestyle=":")
ax.set_xlabel("after block")
ax.set_ylabel("size of the stream (RMS)")
ax.set_title("solid: c_proj scaled by 1/√(2·n_layer); dotted: not")
ax.legend()
show(
    fig,
    alt="The size of the residual stream against depth for models of 6, 12, 24 and 48 layers. With the scaled "
    "initialisation all four end at nearly the same small size; without it the stream keeps growing like the square root "
    "of the depth.",
)

# %% [markdown]
# With the rule every depth ends at about the same size. Without it the stream grows with the square root of the depth,
# and the first layers are drowned by the last ones.
#
# ## Count the parameters
#
# You know every tensor now, so you can count them on paper. With the shape letters: embeddings $VD + PD$ (P positions),
# and per block attention $4D^2 + 4D$ (three D × D matrices for query, key and value, one for `c_proj`, and their biases),
# MLP $8D^2 + 5D$, and two norms, $4D$.


# %%
def count_by_hand(V, P, D, layers):
    return {
        "wte": V * D,
        "wpe": P * D,
        "attention": layers * (4 * D**2 + 4 * D),
        "MLP": layers * (8 * D**2 + 5 * D),
        "norms": layers * 4 * D + 2 * D,
    }


parts = count_by_hand(small.vocab_size, small.n_positions, small.n_embd, small.n_layer)
for name, number in parts.items():
    print(f"{name:>10} {number:>12,}  {number / sum(parts.values()):6.1%}")
print(f"{'total':>10} {sum(parts.values()):>12,}")

# %% [markdown]
# And the model says the same, for all four published sizes. On the **meta** device tensors have shapes but no numbers,
# so even the largest takes no memory.

# %%
published = {
    "gpt2": (768, 12, 12),
    "gpt2-medium": (1024, 24, 16),
    "gpt2-large": (1280, 36, 20),
    "gpt2-xl": (1600, 48, 25),
}
for name, (width, layers, n_head) in published.items():
    with torch.device("meta"):
        model = GPT2(GPT2Config(n_embd=width, n_layer=layers, n_head=n_head))
    built = sum(p.numel() for p in model.parameters())
    agrees = built == sum(count_by_hand(50257, 1024, width, layers).values())
    print(f"{name:12} {built:>13,}  by hand the same: {agrees}")

# %% [markdown]
# ## Does it learn to look?
#
# Two experiments before we trust it with a training run. The first one is the cheapest test of any model: **one batch,
# over and over**. Random tokens cannot be predicted, but 64 of them can be learned by heart. A model that cannot bring
# this loss to zero has a bug, and you have found it in two seconds and not after a night.

# %%
torch.manual_seed(0)
tiny = GPT2(GPT2Config(vocab_size=97, n_positions=16, n_embd=48, n_layer=2, n_head=3))
ids = torch.randint(97, (4, 17))
optimizer = torch.optim.AdamW(tiny.parameters(), lr=3e-3)
overfit = []
for _ in range(120):
    loss = F.cross_entropy(tiny(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    overfit.append(loss.item())
print(f"first loss {overfit[0]:.1f}, ln V = {math.log(97):.1f}")

# %% tags=["nbval-ignore-output"]
print(f"loss after {len(overfit)} steps: {overfit[-1]:.4f}")

# %%
assert overfit[-1] < 0.05, "a healthy model learns one batch by heart"
print("learned by heart")

# %% [markdown]
# The second experiment asks for attention itself. The texts are random, but each repeats with a period of 8: the next
# token is the one seven places *before* the current one. Knowing the last token does not help. The model has to look at
# the right place, and the right place is a matter of position. We train one layer twice: as it is, and with its position
# table held at zero.


# %%
def copy_batch(generator, batch=32, length=32, period=8, vocabulary=29):
    start = torch.randint(vocabulary, (batch, period), generator=generator)
    return start.repeat(1, length // period + 1)[:, : length + 1]


def learn_to_copy(positions, steps=250):
    torch.manual_seed(0)
    model = GPT2(GPT2Config(vocab_size=29, n_positions=32, n_embd=64, n_layer=1, n_head=4))
    if not positions:
        model.wpe.weight.requires_grad_(False).zero_()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        ids = copy_batch(generator)
        logits = model(ids[:, :-1])[:, 7:]  # the first period is a surprise for anyone
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 8:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


copier, with_positions = learn_to_copy(positions=True)
_, without_positions = learn_to_copy(positions=False)

# %% tags=["nbval-ignore-output"]
print(
    f"after 250 steps: with positions {with_positions[-1]:.3f}, without {without_positions[-1]:.2f}, ln 8 = {math.log(8):.2f}"
)

# %%
assert with_positions[-1] < 0.1 and without_positions[-1] > math.log(8) - 0.1
print("with positions: solved; without: no better than a guess among the tokens it saw")

# %% [markdown]
# And here is what it learned. To draw the weights, we compute them once more from the trained layer's own queries and
# keys (a fused kernel never shows them).

# %% tags=["hide-input"]
with torch.no_grad():
    ids = copy_batch(torch.Generator().manual_seed(2), batch=1)[:, :32]
    attn = copier.h[0].attn
    x = copier.h[0].ln_1(copier.wte(ids) + copier.wpe(torch.arange(32)))
    query, key, _ = (part.view(32, 4, 16).transpose(0, 1) for part in attn.c_attn(x)[0].split(64, dim=-1))
    hidden = torch.ones(32, 32, dtype=torch.bool).triu(1)
    learned = (query @ key.transpose(-2, -1) / 4).masked_fill(hidden, -math.inf).softmax(-1).mean(0)
fig, axes = new_figure(7.5, 3.3, ncols=2)
axes[0].plot(with_positions, color=COLORS["orange"], label="with positions")
axes[0].plot(without_positions, color=COLORS["grey"], label="without")
axes[0].axhline(math.log(8), color=COLORS["grey"], linestyle=":", label="ln 8, a guess")
axes[0].set_xlabel("step")
axes[0].set_title("loss of the copying task")
axes[0].legend(loc="center right", bbox_to_anchor=(1, 0.45))
axes[1].imshow(learned.masked_fill(hidden, math.nan))
axes[1].grid(False)
axes[1].set_xlabel("key position")
axes[1].set_ylabel("query position")
axes[1].set_title("learned weights, mean of the heads")
show(
    fig,
    alt="Left: with position embeddings the loss of the copying task falls to zero within a hundred steps; without them "
    "it stays above the dotted line at ln 8. Right: the learned attention matrix has bright diagonal stripes seven, "
    "fifteen and twenty-three places below the main diagonal, where the answer stands.",
)

# %% [markdown]
# The bright diagonals are seven, fifteen and twenty-three places back: wherever the answer stands. Nobody told the layer
# where to look.
#
# ## The published weights
#
# OpenAI's checkpoint, as Hugging Face distributes it, has the very names you used, with three differences that go back
# to the TensorFlow original:
#
# - linear layers are stored as [in, out] (a class named `Conv1D`); `nn.Linear` wants [out, in], so four matrices a block
#   are transposed. We keep `nn.Linear`, which everybody knows, and transpose at the door;
# - names may carry the prefix `transformer.`, and `lm_head.weight` may be there although it is the embedding;
# - old files contain the causal mask as a *buffer* named `attn.bias`. It is no bias and no weight. We drop it.
#
# A loader that skips what it does not know is how models end up half random. So this one fails on every name that is
# missing or unknown, and on every shape that does not fit.

# %%
#| export
_CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_OLD_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def from_huggingface(state_dict: Mapping[str, Tensor], config: GPT2Config) -> dict[str, Tensor]:
    """Translate Hugging Face's GPT-2 weights into the names and layout of :class:`GPT2`.

    Takes the state dict of ``GPT2LMHeadModel`` (names start with ``transformer.``) as well as the
    published ``gpt2`` files (names do not, and the causal mask is stored as ``attn.bias``).

    Args:
        state_dict: the weights as published; linear layers are stored as [in, out].
        config: the sizes of the model that the weights belong to.

    Returns:
        A state dict for ``GPT2(config).load_state_dict``; linear layers are [out, in].

    Raises:
        ValueError: if a name is missing or unknown, or a tensor has another shape.
    """
    weights = {}
    for name, tensor in state_dict.items():
        name = name.removeprefix("transformer.")
        if not _OLD_BUFFERS.fullmatch(name):
            weights[name] = tensor.t().contiguous() if name.endswith(_CONV1D) else tensor
    if config.tie_word_embeddings and "lm_head.weight" in weights:
        head = weights.pop("lm_head.weight")
        if not torch.equal(head, weights.get("wte.weight", head)):
            raise ValueError("lm_head.weight is not wte.weight; set tie_word_embeddings=False in the config.")

    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in GPT2(config).state_dict().items()}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"Missing weights: {missing}; unknown: {unknown}. Check that the config fits them.")
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}; the config wants {list(expected[name])}."
            )
    return weights


# %%
#| export
def to_huggingface(model: GPT2) -> dict[str, Tensor]:
    """Return the model's weights as a state dict for Hugging Face's ``GPT2LMHeadModel``."""
    weights = {
        f"transformer.{name}": tensor.t().contiguous() if name.endswith(_CONV1D) else tensor
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    head = model.wte if model.lm_head is None else model.lm_head
    return weights | {"lm_head.weight": head.weight.detach()}


# %% [markdown]
# Make a file in the old layout from a small model of ours, buffers included, and read it back. Then damage it.

# %%
torch.manual_seed(0)
config = GPT2Config(vocab_size=53, n_positions=19, n_embd=24, n_layer=2, n_head=3, n_inner=40)
model = GPT2(config)
old_file = {name.removeprefix("transformer."): tensor for name, tensor in to_huggingface(model).items()}
old_file["h.0.attn.bias"] = torch.ones(1, 1, 19, 19).tril()

again = GPT2(config)
print(again.load_state_dict(from_huggingface(old_file, config)))
ids = torch.randint(53, (2, 19))
print("same logits:", torch.equal(model(ids), again(ids)))

del old_file["ln_f.bias"]
old_file["h.7.ln_1.bias"] = torch.zeros(24)
try:
    from_huggingface(old_file, config)
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## Reality check
#
# The published counts above already agree: 124,439,808 for GPT-2 small, and the larger three. For the computation
# itself, here is a second opinion that shares nothing with ours: GPT-2 in NumPy, in double precision, one text and one
# head at a time, straight from the published layout (note `x @ w`, not `x @ w.T`).


# %%
def numpy_gpt2(w, ids, n_head, eps=1e-5):
    w = {name.removeprefix("transformer."): tensor.double().numpy() for name, tensor in w.items()}

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * w[name + ".weight"] + w[name + ".bias"]

    def attend(q, k, v):
        scores = np.where(np.tri(len(q)) > 0, q @ k.T / np.sqrt(q.shape[1]), -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) @ v

    x = w["wte.weight"][ids] + w["wpe.weight"][: len(ids)]
    for i in range(sum(name.endswith("ln_1.weight") for name in w)):
        q, k, v = (
            np.split(m, n_head, -1)
            for m in np.split(linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, -1)
        )
        heads = [attend(*qkv) for qkv in zip(q, k, v, strict=True)]
        x = x + linear(np.concatenate(heads, -1), f"h.{i}.attn.c_proj")
        a = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        x = x + linear(
            0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3))), f"h.{i}.mlp.c_proj"
        )
    return norm(x, "ln_f") @ w["wte.weight"].T


with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))  # larger weights, and biases that are not zero
    difference = np.abs(
        model(ids)[0].numpy() - numpy_gpt2(to_huggingface(model), ids[0].numpy(), n_head=3)
    ).max()
print("NumPy and ours agree to 1e-5:", difference < 1e-5, f"  (logits up to {model(ids).abs().max():.0f})")

# %% [markdown]
# The course's tests go further: with the same weights, logits **and the gradient of every parameter** equal those of
# Hugging Face's `GPT2LMHeadModel` to 1e-5 in single precision, for odd sizes that are all different and texts as long as
# the position table.

# %% [markdown]
# ## What gpt-oss-20b uses
#
# In numbers, from the two configs:

# %%
from gptoss_lib.config import GPTOSSConfig

oss = GPTOSSConfig.preset("gpt-oss-20b")
windowed = oss.layer_types.count("sliding_attention")
rows = [
    ("width D", small.n_embd, oss.hidden_size),
    ("blocks", small.n_layer, oss.num_hidden_layers),
    ("query heads", f"{small.n_head} of {small.head_dim}", f"{oss.num_attention_heads} of {oss.head_dim}"),
    ("key/value heads", small.n_head, oss.num_key_value_heads),
    ("blocks that see only a window", 0, f"{windowed}, of {oss.sliding_window} tokens"),
    ("longest text", small.n_positions, oss.max_position_embeddings),
    ("vocabulary V", small.vocab_size, oss.vocab_size),
    ("MLPs a block", 1, f"{oss.num_local_experts}, {oss.num_experts_per_tok} a token"),
    ("output head tied", small.tie_word_embeddings, oss.tie_word_embeddings),
]
print(f"{'':30} {'GPT-2 small':>12} {'gpt-oss-20b':>20}")
for name, old, new in rows:
    old, new = (f"{x:,}" if type(x) is int else str(x) for x in (old, new))
    print(f"{name:30} {old:>12} {new:>20}")

# %% [markdown]
# And in parts:
#
# | GPT-2 | gpt-oss | why it changed |
# |---|---|---|
# | LayerNorm, before each layer | RMSNorm, before each layer | fewer operations ([chapter 08](08_rmsnorm.ipynb)) |
# | learned position vectors | rotations, stretched by YaRN | lengths never trained on ([chapter 09](09_rope_yarn.ipynb)) |
# | as many key/value heads as query heads | shared key/value heads, every other block windowed | a smaller cache ([chapter 10](10_heads_windows.ipynb)) |
# | weights that must add up to 1 | a learned sink in each head | a head may look at nothing ([chapter 11](11_sinks.ipynb)) |
# | GELU MLP | clamped SwiGLU | better at the same cost (chapter 13) |
# | one MLP for all tokens | a few of many experts for each token | more weights, same work (chapter 14) |
#
# What stayed: the residual stream, norms at the entrance, the causal softmax with its $1/\sqrt{hd}$, biases in the
# attention's linear layers, and a stack of identical blocks. Six years changed the parts and kept the machine.
# [`gptoss_lib.config`](../book/reference/config.md) holds these numbers.

# %% [markdown]
# ## Pitfalls
#
# - **A scaled initialisation that never runs.** For some time in 2026 `transformers` looked for a parameter named exactly
#   `c_proj.weight`, but the names it compared were full paths. Nothing matched, nothing failed, and every GPT-2 trained
#   from scratch with it started without the scaling
#   ([transformers #47459](https://github.com/huggingface/transformers/pull/47459)). llama2.c asks for `w3` where its
#   stream is written by `w2` ([llama2.c #579](https://github.com/karpathy/llama2.c/issues/579)). Print the standard
#   deviations of your fresh weights once; the exercise does.
# - **`is_causal=True` with a cache.** The mask is aligned to the first key, so a single new token sees one key: the
#   oldest ([pytorch #103082](https://github.com/pytorch/pytorch/issues/103082),
#   [#108108](https://github.com/pytorch/pytorch/issues/108108)).
# - **A transpose that fits anyway.** `attn.c_proj` is square. Forget to transpose it and the file loads, the shapes fit,
#   and the model is broken. People have been asking about `Conv1D` since 2019
#   ([transformers #311](https://github.com/huggingface/transformers/issues/311)). That is why our tests use sizes of
#   which no two are equal wherever a model allows it, and compare logits where it does not.
# - **The wrong GELU.** Exact and tanh differ by half a thousandth, so nothing looks wrong. One released speech model ran
#   with the exact version after training with the other
#   ([pocket-tts #278](https://github.com/kyutai-labs/pocket-tts/pull/278), with measurements);
#   nanoGPT's switch to the built-in one is discussed in [nanoGPT #274](https://github.com/karpathy/nanoGPT/pull/274).
# - **Buffers mistaken for weights.** The stored masks broke loaders when the library stopped saving them
#   ([minGPT #122](https://github.com/karpathy/minGPT/pull/122)).
# - **Softmax over the wrong axis.** `softmax(dim=-2)` makes the *columns* add up to 1. It runs, it even trains a little,
#   and it leaks the future, because a column's total contains later queries. The test of changing the last word catches
#   it.

# %% [markdown]
# ## Exercises
#
# In [exercises/05_gpt2.ipynb](exercises/05_gpt2.ipynb), each with a check that names the mistake it sees:
#
# 1. **Who looks where.** Compute the attention weights yourself, cache or no cache.
# 2. **Fresh weights.** Initialise a GPT-2 by the rule, given its parameters by name.
# 3. **Count.** Every parameter of a GPT-2 from its config, untied heads included.
# 4. **Find the bugs.** A forward pass that runs, trains, and is wrong in three places.
#
# ## Summary
#
# - Attention is a weighted mean of values; the weights are a softmax of how well keys fit a query, divided by √hd so that
#   the softmax stays soft, and masked so that nothing sees its own answer.
# - Heads are attentions side by side; the MLP computes what a mean cannot; both add to a stream that runs straight
#   through, and both read a normalized copy.
# - Positions have to be told. GPT-2 learns one vector for each.
# - Fresh weights: 0.02 everywhere, smaller where the stream is written, so the first loss is near ln V and depth does no
#   harm.
# - 124,439,808 parameters, every one accounted for.
#
# Next: [Training](06_training.ipynb) makes it learn from the stories.
#
# ## Further reading
#
# - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), *Attention Is All You Need*: where it began.
# - [Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf):
#   GPT-2. Section 2.3 is the whole description of the model; the rest of this chapter is what it takes for granted.
# - [Elhage et al., 2021](https://transformer-circuits.pub/2021/framework/index.html), *A Mathematical Framework for
#   Transformer Circuits*: the residual stream as the place where everything happens.
# - [nanoGPT](https://github.com/karpathy/nanoGPT): a GPT-2 in one file that reproduces the published losses.
