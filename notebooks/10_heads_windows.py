# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Heads and windows
#
# A language model reads its own past again for every token that it writes. In GPT-2 every head keeps a copy of that past, and every token looks at all of it. Both are luxuries. This chapter takes both away: several query heads share one set of keys and values, and every other layer looks back over 128 tokens only.
#
# **You will**
#
# - see what keys and values cost, and which two knobs turn that cost down;
# - let query heads share keys, without ever copying a key;
# - build masks from *positions*, so that the same line works for a whole text, with a cache, with padding, and for documents that share a row;
# - get the window right: 128 keys, your own included, neither 127 nor 129;
# - find out how far a stack of windows can see, and how much of that it really uses.
#
# **Time:** 45 minutes. **Hardware:** any CPU; the chapter runs in a few seconds.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# To write the next token, [attention](05_gpt2.ipynb) needs the keys and values of all tokens before it. Our [`generate`](07_generation.ipynb) has computed them anew each time, which is wasteful. In practice they are stored: that is the KV cache of [the map](01_map.ipynb), and you build it in [its own chapter](12_kv_cache.ipynb). Every layer stores, for every token, one key and one value a head.
#
# Let us count for a model of gpt-oss-20b's size that does it the way GPT-2 does: 64 heads, each with its own keys and values, and every layer sees everything.

# %%
from dataclasses import replace

import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle

from gptoss_lib.config import GPTOSSConfig, kv_cache_bytes, weight_bytes
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show
from gptoss_lib.widgets import explore

oss = GPTOSSConfig.preset("gpt-oss-20b")
LONG = oss.max_position_embeddings
variants = {
    f"{kv} key/value heads, {'windows' if windows else 'no windows'}": kv_cache_bytes(
        replace(oss, num_key_value_heads=kv), LONG, sliding=windows
    )
    for kv in (64, 8)
    for windows in (False, True)
}
for name, size in variants.items():
    print(f"{name:34s} {size / 2**30:5.1f} GiB for {LONG:,} tokens")
print(f"{'all weights, as published':34s} {weight_bytes(oss, 'mxfp4') / 2**30:5.1f} GiB")

# %% [markdown]
# The first line is what one conversation at full length would take in memory. It is several times what all the weights of the model take, and it has to be read again for every token. The fourth line is gpt-oss. Two ideas make the difference: **fewer key/value heads** and **windows**. We take them one after the other.

# %% tags=["hide-input"]
fig, ax = new_figure(6.8, 2.4)
groups = (64, 32, 16, 8, 4, 2, 1)
for windows, color, shift in ((False, "orange", -0.19), (True, "blue", 0.19)):
    sizes = [
        kv_cache_bytes(replace(oss, num_key_value_heads=kv), LONG, sliding=windows) / 2**30 for kv in groups
    ]
    label = "every other layer has a window" if windows else "every layer sees everything"
    ax.bar([i + shift for i in range(len(groups))], sizes, width=0.36, color=COLORS[color], label=label)
ax.set_xticks(range(len(groups)), [str(kv) for kv in groups])
ax.set(xlabel="key/value heads (64 query heads)", ylabel="GiB at 131,072 tokens")
ax.legend()
show(
    fig,
    alt="Memory for keys and values at 131,072 tokens against the number of key/value heads, 64 down to 1. Each "
    "halving of the heads halves the bar; windows in every other layer halve it once more. gpt-oss has 8 heads and "
    "windows.",
)

# %% [markdown]
# ## Queries share keys
#
# Why have many heads at all? Because one head can look at one kind of thing at a time, and a token wants to look at several. It is the *queries* that have to differ for that. Do the keys have to? A key says what a token offers. Several questions can be put to the same offer.
#
# The radical version gives all query heads one key head: *multi-query attention* ([Shazeer, 2019](https://arxiv.org/abs/1911.02150)). It saves the most and costs some quality. The compromise is *grouped-query attention* ([Ainslie et al., 2023](https://arxiv.org/abs/2305.13245)): query heads come in groups of G, and each group shares one key head and one value head. gpt-oss has H = 64 query heads, KV = 8 key/value heads, and so G = 8.

# %% tags=["hide-input"]
fig, axes = new_figure(7, 2.3, ncols=3)
for ax, (title, kv) in zip(
    axes, (("every head its own", 6), ("groups of three", 2), ("one for all", 1)), strict=True
):
    for head in range(6):
        shared = head * kv // 6
        color = ("blue", "green", "violet", "pink", "orange", "red")[shared]
        box(ax, head + 0.08, 2, 0.84, 0.7, f"q{head}", color)
        arrow(ax, (head + 0.5, 1.98), ((shared + 0.5) * 6 / kv, 1.0), color)
        if head * kv % 6 == 0:  # the first query of its group draws the key
            box(ax, (shared + 0.5) * 6 / kv - 0.42, 0.25, 0.84, 0.7, f"k{shared}", color)
    ax.set(xlim=(-0.1, 6.1), ylim=(0, 2.9), xticks=[], yticks=[], title=title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
show(
    fig,
    alt="Six query heads and their key heads. Left: six keys, one for each query. Middle: queries 0 to 2 share key 0, "
    "queries 3 to 5 share key 1. Right: all six share key 0.",
)

# %% [markdown]
# Which queries share? Neighbours do: query heads 0 … G−1 go with key head 0, the next G with key head 1. This is a convention, but one that trained weights depend on. The simplest way to compute with it is to copy every key head G times, so that both have H heads again:

# %%
#| export
"""Who may look at whom: grouped query heads, and masks for causality, windows, documents and padding.

GPT-2 has a key and a value for every query head, and every token sees all tokens before it. Here
several query heads share one key and one value, some layers look back over a window only, and all
masks are made from positions, so that they hold with a cache and in batches of unequal texts too.
"""

import math

import torch
from torch import Tensor


def repeat_kv(x: Tensor, groups: int) -> Tensor:
    """Copy every key or value head for each query head that shares it: the slow, obvious way.

    Args:
        x: [B, KV, S, hd].
        groups: G, the query heads that share one key/value head.

    Returns:
        [B, H, S, hd]; heads 0 … G-1 are copies of head 0, the next G of head 1, and so on.
    """
    return x.repeat_interleave(groups, dim=1)


# %% [markdown]
# PyTorch has two functions that sound alike. Only one of them is right here, and the other one never fails:

# %%
heads = torch.arange(2).view(1, 2, 1, 1)
print("repeat_interleave:", repeat_kv(heads, 3).flatten().tolist())
print("repeat:           ", heads.repeat(1, 3, 1, 1).flatten().tolist(), " <- wrong: neighbours do not share")

# %% [markdown]
# But copying is what we wanted to get rid of: it writes G times the keys back into memory, for every layer and every token. Look at what a group computes: G sets of queries times the *same* matrix of keys. Then stack the G sets on top of each other and it is **one** product, with more rows:
#
# $$ \begin{pmatrix} Q_0 \\ Q_1 \\ Q_2 \end{pmatrix} K^\top = \begin{pmatrix} Q_0 K^\top \\ Q_1 K^\top \\ Q_2 K^\top \end{pmatrix} . $$
#
# In words: three heads of T queries are one head of 3T queries. Since neighbours share, their rows already lie one after the other in memory, so stacking is only another way to read the shape: `[B, H, T, hd]` as `[B, KV, G·T, hd]`. No key is copied. (At most the queries are, where a transpose has left them in another order in memory; when a model writes, that is one token's worth.) And one large matrix product is usually faster than three small ones.


# %%
#| export
def grouped_scores(query: Tensor, key: Tensor) -> Tensor:
    """Compare every query with the keys of its group, without a copy of any key.

    Args:
        query: [B, H, T, hd].
        key: [B, KV, S, hd]; H must be a multiple of KV, and G = H / KV neighbours share a key head.

    Returns:
        Scores, scaled by the square root of hd, [B, H, T, S].

    Raises:
        ValueError: if H is not a multiple of KV.
    """
    (B, H, T, hd), (KV, S) = query.shape, key.shape[1:3]
    if H % KV:
        raise ValueError(
            f"{H} query heads cannot share {KV} key/value heads evenly; make H a multiple of KV."
        )
    stacked = query.reshape(B, KV, H // KV * T, hd)  # the queries of a group, on top of each other
    scores = stacked @ key.transpose(-2, -1) / math.sqrt(hd)  # [B, KV, G·T, S]
    return scores.view(B, H, T, S)


# %%
#| export
def grouped_mix(weights: Tensor, value: Tensor) -> Tensor:
    """Take the weighted sums of the values of each group, without a copy of any value.

    Args:
        weights: [B, H, T, S].
        value: [B, KV, S, hd].

    Returns:
        [B, H, T, hd].
    """
    (B, H, T, S), (KV, hd) = weights.shape, value.shape[1::2]
    return (weights.reshape(B, KV, H // KV * T, S) @ value).view(B, H, T, hd)


# %%
torch.manual_seed(0)
query, key = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 7, 8)  # H = 6 query heads, KV = 2
value = torch.randn_like(key)
repeated = query @ repeat_kv(key, 3).transpose(-2, -1) / 8**0.5
print("the same scores: ", torch.allclose(grouped_scores(query, key), repeated, atol=1e-6))
weights = repeated.softmax(-1)
print(
    "the same mixture:", torch.allclose(grouped_mix(weights, value), weights @ repeat_kv(value, 3), atol=1e-6)
)
print(f"numbers in the keys: {key.numel()}, in their copies: {repeat_kv(key, 3).numel()}")

# %% [markdown]
# ## Who may look at whom
#
# A mask is a table of yes and no: may this query look at that key? In GPT-2 we built it from *indices*: query number $i$ sees keys $0 \dots i$. That was enough because all texts began at the same place. It stops being enough very soon. With a cache the first query may be token 5,000. In a batch of unequal prompts, the same column is token 3 of one text and token 9 of another. In a cache that is reused like a ring ([KV cache](12_kv_cache.ipynb)) the keys are not even in order.
#
# So tell the mask where every token *stands*, and let it compare positions. Three conventions make everything else easy:
#
# - `True` means *may look*;
# - positions are `[T]` or `[B, T]`, so masks are `[T, S]` or `[B, T, S]`;
# - a key at a **negative position is not there**: padding, or an empty slot of a cache.


# %%
#| export
def causal_mask(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """Let every query see the keys that are not after it.

    Args:
        query_positions: [T] or [B, T], int64.
        key_positions: [S] or [B, S], int64, in any order; a negative one says that there is no key.

    Returns:
        [T, S] or [B, T, S], True where the query may look.
    """
    query_positions, key_positions = query_positions.unsqueeze(-1), key_positions.unsqueeze(-2)
    return (key_positions <= query_positions) & (key_positions >= 0)


# %%
def paint(mask):
    for row in mask.tolist():
        print("  ", " ".join("■" if visible else "·" for visible in row))


positions = torch.arange(6)
print("a text of six tokens:")
paint(causal_mask(positions, positions))
print("its last two tokens, the other four are in a cache:")
paint(causal_mask(positions[4:], positions))
print("the same, and the cache has its keys in another order and an empty slot:")
paint(causal_mask(positions[4:], torch.tensor([3, 4, 5, -1, 0, 1, 2])))

# %% [markdown]
# The second picture is where `is_causal=True` goes wrong, as you saw in [GPT-2](05_gpt2.ipynb): it lines up the first query with the first key. With positions there is nothing to line up.

# %% [markdown]
# ## A window
#
# Most of what a token needs is close: the word it belongs to, the sentence around it. So let some layers look back over a fixed **window** of W keys only. The idea is old ([Child et al., 2019](https://arxiv.org/abs/1904.10509); [Beltagy et al., 2020](https://arxiv.org/abs/2004.05150)). What it saves is large: the work for a token no longer grows with the text, and the layer never needs to store more than W keys and values.
#
# One question decides whether your model is right: does a window of 128 mean 128 keys, or 128 keys *and yourself*? In gpt-oss and in `transformers` it means **128 keys in all, your own included**. The oldest one that you see is 127 tokens back:
#
# $$ 0 \le m - n < W $$
#
# for a query at $m$ and a key at $n$. In words: the distance is at least zero (not the future) and less than the window.


# %%
#| export
def sliding_mask(query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """Let every query see the last ``window`` positions, its own included.

    Args:
        query_positions: [T] or [B, T], int64.
        key_positions: [S] or [B, S], int64, in any order; a negative one says that there is no key.
        window: W, how many positions a query sees: its own and the W - 1 before it.

    Returns:
        [T, S] or [B, T, S], True where the query may look.

    Raises:
        ValueError: if ``window`` is less than 1: a query that sees nothing, not even itself.
    """
    if window < 1:
        raise ValueError(f"window is {window}; a query sees at least itself, so make it 1 or more.")
    near = query_positions.unsqueeze(-1) - key_positions.unsqueeze(-2) < window
    return causal_mask(query_positions, key_positions) & near


# %%
paint(sliding_mask(torch.arange(8), torch.arange(8), window=3))
seen = sliding_mask(torch.arange(1_000), torch.arange(1_000), window=128)[999]
print(f"a window of 128: {seen.sum()} keys, from {seen.nonzero().min()} to {seen.nonzero().max()}")

# %% [markdown]
# Count the squares in each full row: three, on a window of three. The half-open inequality is worth memorising, because different libraries count differently. FlashAttention, a library of fast attention kernels ([Dao et al., 2022](https://arxiv.org/abs/2205.14135)), has an argument `window_size=(left, 0)` that says how many keys *before yourself*, so there gpt-oss's 128 becomes 127. Three of the bug reports at the end of this chapter are about that one key.

# %% [markdown]
# ## Documents and padding
#
# Two more reasons not to look. In a [packed batch](04_data.ipynb) one row holds the end of one story, a whole second one and the start of a third. Should the second story see the first? GPT-3 was trained that way and left it to the end-of-text token to say that what came before does not matter ([Brown et al., 2020](https://arxiv.org/abs/2005.14165)). If you want it clean, give every token the number of its document and demand that the numbers agree. The end-of-text token belongs to the document that it ends.


# %%
#| export
def document_ids(input_ids: Tensor, eot_id: int) -> Tensor:
    """Number the documents that are packed into each row.

    Args:
        input_ids: [B, T].
        eot_id: the end-of-text token; it belongs to the document that it ends.

    Returns:
        [B, T], int64, counted from 0 in each row.
    """
    ends = (input_ids == eot_id).long()
    return ends.cumsum(-1) - ends


# %%
#| export
def document_mask(query_documents: Tensor, key_documents: Tensor) -> Tensor:
    """Let every query see the keys of its own document, before and after it.

    Args:
        query_documents: [T] or [B, T].
        key_documents: [S] or [B, S].

    Returns:
        [T, S] or [B, T, S], True where the query may look.
    """
    return query_documents.unsqueeze(-1) == key_documents.unsqueeze(-2)


# %%
row = torch.tensor([[5, 7, 0, 9, 4, 8, 0, 6]])  # 0 ends a document
documents = document_ids(row, eot_id=0)
print("documents:", documents[0].tolist())
paint((causal_mask(torch.arange(8), torch.arange(8)) & document_mask(documents, documents))[0])

# %% [markdown]
# **Padding** needs no mask of its own. To generate for several prompts at once, short ones are filled up on the left, so that all of them end in the last column. A padded column is not there, so its position is negative; and the first real token of *every* prompt stands at position 0, which [RoPE](09_rope_yarn.ipynb) wants to know as well.


# %%
#| export
def padded_positions(is_token: Tensor) -> Tensor:
    """Number the real tokens of each row from 0, and give padding the position -1.

    Args:
        is_token: [B, T], True (or 1) for tokens, False (or 0) for padding, on either side.

    Returns:
        [B, T], int64.
    """
    is_token = is_token.bool()
    return torch.where(is_token, is_token.long().cumsum(-1) - 1, -1)


# %%
is_token = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
padded = padded_positions(is_token)
print(padded.tolist())
for mask in causal_mask(padded, padded):
    paint(mask)
    print()

# %% [markdown]
# The second prompt's real tokens see each other and nothing else. The two rows of padding see nothing at all. Keep that in mind: a softmax over nothing is $0/0$, which is NaN ("not a number"). In the next layer the padding's value is then NaN too, and a weight of zero times NaN is NaN again: from there it spreads to the real tokens. Now one function that puts it all together:


# %%
#| export
def attention_mask(
    query_positions: Tensor,
    key_positions: Tensor,
    window: int | None = None,
    query_documents: Tensor | None = None,
    key_documents: Tensor | None = None,
) -> Tensor:
    """Combine causality, a window, documents and padding into one mask.

    Args:
        query_positions: [T] or [B, T], int64.
        key_positions: [S] or [B, S], int64, in any order; a negative one says that there is no key.
        window: W, how many positions a query sees, or None for all that are not after it.
        query_documents: [T] or [B, T], which document each query belongs to, or None for one document.
        key_documents: [S] or [B, S]; the same for the keys, and given exactly where the queries' are.

    Returns:
        [T, S] or [B, T, S], True where the query may look.

    Raises:
        ValueError: if ``window`` is less than 1, or only one side has documents.
    """
    if (query_documents is None) != (key_documents is None):
        raise ValueError("Only one of query_documents and key_documents is given; pass both or neither.")
    if window is None:
        mask = causal_mask(query_positions, key_positions)
    else:
        mask = sliding_mask(query_positions, key_positions, window)
    if query_documents is not None:
        mask = mask & document_mask(query_documents, key_documents)
    return mask


# %% tags=["hide-input"]
fig, axes = new_figure(7.2, 2.2, ncols=4)
line = torch.arange(12)
two = (line >= 5).long()
pictures = {
    "causal": attention_mask(line, line),
    "window of 4": attention_mask(line, line, 4),
    "two documents": attention_mask(line, line, None, two, two),
    "padding on the left": attention_mask(*[torch.where(line < 3, -1, line - 3)] * 2),
}
for ax, (title, mask) in zip(axes, pictures.items(), strict=True):
    for q, k in mask.nonzero().tolist():
        ax.add_patch(Rectangle((k, q), 1, 1, facecolor=COLORS["blue"], edgecolor="none", alpha=0.75))
    ax.set(xlim=(0, 12), ylim=(12, 0), aspect="equal", xticks=[], yticks=[], xlabel="key")
    ax.set_title(title, fontsize=9)
    ax.grid(False)
    ax.spines[:].set_visible(True)
axes[0].set_ylabel("query")
show(
    fig,
    alt="Four masks of twelve queries against twelve keys. Causal: a lower triangle. Window of four: a band four wide "
    "along the diagonal. Two documents: two separate triangles. Padding on the left: a triangle that starts at the "
    "fourth row and column, nothing elsewhere.",
)

# %% [markdown]
# **Paint the mask.** Choose a window and a situation. Rows are queries, columns are keys. In the last situation the keys lie in a cache of sixteen slots that is written like a ring: tokens 16 to 21 have taken the places of 0 to 5, and the four newest ask.


# %% tags=["hide-input"]
def mask_svg(situation, window):
    line = torch.arange(16)
    both = {
        "one text": line,
        "two documents": line,
        "padding on the left": torch.where(line < 5, -1, line - 5),
    }
    if situation in both:
        queries = keys = both[situation]
    else:
        queries, keys = torch.arange(18, 22), torch.arange(16) + torch.where(torch.arange(16) < 6, 16, 0)
    groups = (line >= 7).long() if situation == "two documents" else None
    mask = attention_mask(queries, keys, None if window == "none" else window, groups, groups)
    cells = "".join(f"M{30 + 14 * k} {24 + 14 * q}h13v13h-13z" for q, k in mask.nonzero().tolist())
    ys = "".join(
        f'<text x="26" y="{34 + 14 * q}" text-anchor="end">{p}</text>' for q, p in enumerate(queries.tolist())
    )
    xs = "".join(
        f'<text x="{36 + 14 * k}" y="19" text-anchor="middle">{p}</text>' for k, p in enumerate(keys.tolist())
    )
    counts = mask.sum(-1)
    return (
        '<svg viewBox="0 0 270 268" width="400" font-size="8" fill="currentColor" font-family="sans-serif" '
        'style="max-width:100%" role="img" aria-label="A mask: queries in rows, keys in columns, with their positions">'
        f'<rect x="30" y="24" width="224" height="{14 * len(queries)}" fill="{COLORS["grey"]}" fill-opacity=".15"/>'
        f'<path d="{cells}" fill="{COLORS["blue"]}" fill-opacity=".8"/>{xs}{ys}'
        f'<text x="30" y="8">position of the key; each query sees {counts.min()} to {counts.max()} keys</text></svg>'
    )


explore(
    mask_svg,
    {
        "situation": ("one text", "two documents", "padding on the left", "a ring cache"),
        "window": (1, 2, 3, 4, 6, 8, 12, "none"),
    },
    start={"window": 4},
)

# %% [markdown]
# ## The finished attention, almost
#
# Groups and masks together make an attention that is GPT-OSS's but for one part, which is the subject of the next chapter. One detail: hidden scores become the *lowest finite* number, not $-\infty$. In every row where something is visible the result is the same to the last bit, because $e^{\text{lowest}}$ is exactly zero. In a row of padding, which sees nothing, the result is a harmless mean instead of NaN.


# %%
#| export
def hide(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the lowest finite score to the keys that a query may not see.

    Finite, so that a query that sees nothing (padding) gets a mean that nobody reads, and not NaN.

    Args:
        scores: [B, H, T, S].
        mask: [T, S] or [B, T, S], True where the query may look.
    """
    return scores.masked_fill(~mask.unsqueeze(-3), torch.finfo(scores.dtype).min)


# %%
#| export
def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention with grouped heads and any mask, one line a step.

    Args:
        query: [B, H, T, hd].
        key: [B, KV, S, hd].
        value: [B, KV, S, hd].
        mask: [T, S] or [B, T, S], True where the query may look.

    Returns:
        For each query the weighted mean of the values that it sees, [B, H, T, hd].

    Raises:
        ValueError: if H is not a multiple of KV.
    """
    scores = hide(grouped_scores(query, key), mask)  # [B, H, T, S]
    return grouped_mix(scores.softmax(dim=-1), value)  # [B, H, T, hd]


# %%
query, key, value = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
out = grouped_attention(query, key, value, causal_mask(padded, padded))
print("shape:", list(out.shape), " all finite:", out.isfinite().all().item())
changed = key.clone()
changed[1, :, :2] = 100.0  # padding of the second prompt
again = grouped_attention(query, changed, value, causal_mask(padded, padded))
print("padding changes no real token:", torch.equal(out[1, :, 2:], again[1, :, 2:]))

# %% [markdown]
# ## How far does a stack of windows see?
#
# If every layer sees 128 tokens, does the model forget everything before them? No. Layer 1 brings token 0's content to token 127. Layer 2 can pick it up there and carry it to token 254. Each layer adds W − 1 tokens of reach. In a stack of L windowed layers the last vector can depend on
#
# $$ L\,(W - 1) + 1 $$
#
# tokens. In words: W − 1 further back for each layer, plus the token itself. One full layer anywhere in the stack, and the reach is the whole text. That is gpt-oss: sliding and full layers take turns.
#
# Do not take the formula on faith. A mask is a matrix of zeros and ones, and what two layers reach is the product of their masks:


# %%
def reach(layer_types, window, length):
    """How many tokens the last one's vector can depend on after each layer."""
    line = torch.arange(length)
    reached, counts = torch.eye(length), []
    for kind in layer_types:
        mask = attention_mask(line, line, window if kind == "sliding_attention" else None)
        reached = (mask.float() @ reached > 0).float()
        counts.append(int(reached[-1].sum()))
    return counts


sliding, full = "sliding_attention", "full_attention"
only_windows = reach([sliding] * 6, window=9, length=60)
print("windows only:      ", only_windows)
print("by the formula:    ", [min(60, layer * 8 + 1) for layer in range(1, 7)])
print("taking turns:      ", reach([sliding, full] * 3, window=9, length=60))

# %% [markdown]
# So why have full layers at all, if 24 windows of 128 reach three thousand tokens? Because *can depend* is not *does depend*. To come from far away, information must be handed on by every layer, and each time it is mixed with everything else. Take a deliberately simple model: all weights are equal, so that every layer passes on the plain mean of its window, and there is no residual stream (which would keep the weight closer to home). Then what arrives after L layers is a mean of means of means, and the weight of each token follows a bell curve: the far end of the reach carries next to nothing.

# %%
LAYERS, WINDOW, LENGTH = 12, 128, 12 * 127 + 1
line = torch.arange(LENGTH)
mean_of_window = sliding_mask(line, line, WINDOW).double()
mean_of_window /= mean_of_window.sum(-1, keepdim=True)
share = torch.zeros(LENGTH, dtype=torch.float64)
share[-1] = 1  # start at the last token and walk down through the layers
for _ in range(LAYERS):
    share = share @ mean_of_window
back = share.flip(0)  # back[d]: the weight of the token d places back
inside = back.cumsum(0)
print(f"reach of {LAYERS} layers: {LENGTH:,} tokens")
print(
    f"half of the weight lies within {(inside < 0.5).sum() + 1} tokens, 99% within {(inside < 0.99).sum() + 1}"
)

# %% tags=["hide-input"]
fig, axes = new_figure(7.2, 2.7, ncols=2)
for layers, color in ((1, "grey"), (2, "violet"), (4, "green"), (12, "blue")):
    walk = torch.zeros(LENGTH, dtype=torch.float64)
    walk[-1] = 1
    for _ in range(layers):
        walk = walk @ mean_of_window
    axes[0].plot(
        range(LENGTH), walk.flip(0) * 1000, color=COLORS[color], label=f"{layers} layer{'s' * (layers > 1)}"
    )
axes[0].set(xlabel="tokens back", ylabel="weight (thousandths)", title="what arrives", ylim=(0, 9))
axes[0].legend()
depth = range(1, 13)
axes[1].plot(
    depth, [min(4_096, n * 127 + 1) for n in depth], "o-", color=COLORS["orange"], label="windows only"
)
axes[1].plot(
    depth,
    [128 if n == 1 else 4_096 for n in depth],
    "o-",
    color=COLORS["blue"],
    label="taking turns (gpt-oss)",
)
axes[1].set(xlabel="layers", ylabel="tokens", title="what can be reached in 4,096", yscale="log")
axes[1].legend()
show(
    fig,
    alt="Left: the weight of a token against its distance when every layer averages its window. One layer: a box of "
    "128 tokens. Two: a triangle. Twelve: a bell curve around 760 tokens with nothing left near the end of the reach. "
    "Right: reach against depth. Windows alone grow by 127 tokens a layer; with full layers in turns the whole text of "
    "4,096 tokens is reached from the second layer on.",
)

# %% [markdown]
# Real weights are not equal, and a trained head can hand something on with little loss. But the message stands: windows alone make a long reach that is hard to use. A full layer brings anything to anywhere in one step. Taking turns gives you that for little more than half of the memory that full layers alone would take at long contexts.

# %% [markdown]
# ## Reality check
#
# PyTorch's own attention takes groups and masks too. And OpenAI's reference (`gpt_oss/torch/model.py`) builds the window in another way, from two triangles of $-\infty$; written in our terms:

# %%
T, W = 300, 128
query, key, value = torch.randn(2, 6, T, 16), torch.randn(2, 2, T, 16), torch.randn(2, 2, T, 16)
hidden = torch.ones(T, T).triu(diagonal=1) + torch.ones(T, T).tril(
    diagonal=-W
)  # the future, and the far past
ours = sliding_mask(torch.arange(T), torch.arange(T), W)
print("OpenAI's mask:", torch.equal(ours, hidden == 0))
theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=ours, enable_gqa=True)
print("PyTorch's attention:", torch.allclose(grouped_attention(query, key, value, ours), theirs, atol=1e-5))

# %% [markdown]
# Against the masks of `transformers` themselves, with caches, padding and packed documents, the project's tests compare every cell (`tests/parity/test_attention_transformers.py`).

# %% [markdown]
# ## What gpt-oss-20b uses
#
# From the published [configuration](https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json):

# %%
print(
    f"{oss.num_attention_heads} query heads, {oss.num_key_value_heads} key/value heads: groups of"
    f" {oss.num_attention_heads // oss.num_key_value_heads}"
)
print(
    f"layers: {oss.layer_types.count(sliding)} sliding (window {oss.sliding_window}), {oss.layer_types.count(full)} full;"
    f" the first one is {oss.layer_types[0].split('_')[0]}"
)
per_token = 2 * oss.num_key_value_heads * oss.head_dim * 2
print(
    f"a token's key and value: {per_token:,} bytes a layer in bf16; with 64 key/value heads {per_token * 8:,}"
)
for length in (128, 4_096, LONG):
    all_layers, as_it_is = (kv_cache_bytes(oss, length, sliding=windows) for windows in (False, True))
    print(
        f"{length:7,} tokens: {as_it_is / 2**20:7,.0f} MiB, {all_layers / as_it_is:.2f} times less than without windows"
    )

# %% [markdown]
# Windows never save more than half, since half of the layers are full. Groups save a factor of eight. Together they make the sixteenth that you saw at the start.

# %% [markdown]
# ## Pitfalls
#
# - **129 keys.** FlashAttention counts the keys before the query, Hugging Face counts all. `transformers` itself passed one for the other [until 2025](https://github.com/huggingface/transformers/issues/39408). [NVIDIA's converter](https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/2656) did so for gpt-oss, and [mlx-lm](https://github.com/ml-explore/mlx-lm/pull/390) had to look up what gpt-oss means before it could fix its mask. No output looks broken; the model is a little worse.
# - **A test that is too short.** With texts shorter than the window, a sliding layer and a full layer are the same. Every test of a window must use more tokens than it has.
# - **`is_causal` with a cache.** It lines up the first query with the first key. Position-based masks cannot make this mistake.
# - **The window that never arrives.** On one code path of [a fine-tuning library](https://github.com/unslothai/unsloth/pull/8253) nothing carried it to the kernel, so every layer was a full one, in training only.
# - **Positions that restart without a mask.** Numbering each packed document from 0 does not separate them: [a report with numbers](https://github.com/huggingface/nanoVLM/pull/204). Positions say where, documents say with whom.
# - **`repeat` for `repeat_interleave`.** Shapes fit, the groups are wrong.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/10_heads_windows.ipynb):
#
# 1. **The window.** Build the sliding mask from positions, with a cache, in any order of the keys.
# 2. **Groups without copies.** Compute grouped scores; the check watches whether you copy a key.
# 3. **Reach.** How many tokens can the last vector depend on, for any stack of layers?

# %% [markdown]
# ## Summary
#
# - Keys and values are stored for every token and every layer, and read for every token written. Sharing them among G query heads divides that by G; windows cap it.
# - Neighbouring query heads share. Stacked on top of each other they need one matrix product and no copy.
# - Masks come from positions. A key at a negative position is not there. Documents must agree.
# - A window of W is W keys, the query's own included: $0 \le m - n < W$.
# - Windows stacked L deep reach L(W − 1) + 1 tokens, but what arrives from far away is thin. gpt-oss alternates windows with full layers.
#
# Next: [Sinks](11_sinks.ipynb). What does a head do when nothing that it sees is worth looking at?

# %% [markdown]
# ## Further reading
#
# - [Shazeer, 2019](https://arxiv.org/abs/1911.02150): one key head for all, and why decoding is about memory.
# - [Ainslie et al., 2023](https://arxiv.org/abs/2305.13245): groups, and how to convert a trained model to them.
# - [Child et al., 2019](https://arxiv.org/abs/1904.10509): sparse attention in alternating patterns, which GPT-3 took up.
# - [Beltagy et al., 2020](https://arxiv.org/abs/2004.05150): Longformer, windows plus a few global tokens.
