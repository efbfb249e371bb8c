# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # KV cache
#
# A model that writes reads its own text again at every step, although nothing in it has changed but the last token. A **KV cache** keeps what each layer computed for the earlier tokens, so that a step reads one token. In gpt-oss half of the layers see a window only, and for those the cache is a ring that never grows.
#
# **You will**
#
# - count what a model computes twice, and see why the cost of a text grows with the square of its length;
# - find out what exactly has to be kept, and why it is keys and values and nothing else;
# - build one cache for full and windowed layers, with a ring whose oldest token makes room for the newest;
# - read prompts in chunks, write token by token, and do both for batches of unequal prompts;
# - show that nothing changes: lengths around the window, every chunk size up to two windows, to 1e-5.
#
# **Time:** 60 minutes. **Hardware:** any CPU; the chapter runs in under a minute.

# %% tags=["setup"]

# %% [markdown]
# ## Why
#
# To write one token, GPT-2 reads the whole text. To write the next one it reads the whole text again, and one token more. A prompt of P tokens and N new ones cost
#
# $$ \underbrace{P + (P + 1) + \dots + (P + N - 1)}_{\text{tokens read}} = NP + \frac{N(N-1)}{2}. $$
#
# In words: twice as long a continuation is four times the work, once it is much longer than its prompt. Here is what that means for gpt-oss-20b, counted with `flops_per_token` from [the map](01_map.ipynb). The first column of costs reads everything at every step. The second reads the prompt once and then each token once.

# %%
from gptoss_lib.config import GPTOSSConfig, flops_per_token, kv_cache_bytes, weight_bytes

oss = GPTOSSConfig.preset("gpt-oss-20b")
PROMPT = 1000


def read_all(length):
    return length * flops_per_token(oss, length, mean=True).forward


print("new tokens   tokens read without a cache   with one   FLOPs without / with")
for new in (10, 100, 1000, 4000):
    without = sum(read_all(length) for length in range(PROMPT, PROMPT + new))
    # The last token that is written is never read, so both sums stop one before it.
    kept = read_all(PROMPT) + sum(flops_per_token(oss, n).forward for n in range(PROMPT + 1, PROMPT + new))
    tokens = new * PROMPT + new * (new - 1) // 2
    print(f"{new:10,}   {tokens:27,}   {PROMPT + new - 1:8,}   {without / kept:18,.0f} times")

# %% [markdown]
# ## What to keep
#
# Look at a layer when one token is added. Everything is causal: no earlier token sees the new one. So nothing of an earlier token changes, in any layer: not its place in the stream, not its key, not its value. The new token needs of the others exactly what its query meets in the attention, and that is their **keys** and **values**. All else in the model (norms, MLPs, experts, the head) works on one token alone.
#
# The earlier *queries* are not needed. Each was used once, when its token was read.

# %%
import torch

from gptoss_lib.attention import Attention
from gptoss_lib.rope import RotaryEmbedding

torch.set_grad_enabled(False)  # this chapter only reads
torch.manual_seed(0)
W = 6
small = GPTOSSConfig(
    hidden_size=40,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    num_hidden_layers=2,
    sliding_window=W,
    initializer_range=0.15,
    rope_scaling=None,
    rope_theta=10_000.0,
)
rope = RotaryEmbedding(small.head_dim, small.rope_theta)
layer = Attention(small, 0)
x = torch.randn(1, 9, small.hidden_size)
before, after = layer(x[:, :8], rope(torch.arange(8))), layer(x, rope(torch.arange(9)))
print(
    "outputs of the first 8 tokens, with and without a ninth: equal to 1e-5:",
    torch.allclose(before, after[:, :8], atol=1e-5),
)

# %% tags=["hide-input"]
from gptoss_lib.figures import COLORS, arrow, box, new_figure, show

fig, ax = new_figure(7.2, 2.9)
for i in range(6):
    newest = i == 5
    color = "blue" if newest else "grey"
    box(ax, 1.15 * i, 0, 0.95, 0.5, f"token {i}", color)
    box(ax, 1.15 * i, 1.2, 0.95, 0.5, f"k{i}, v{i}", "blue" if newest else "green")
    if newest:
        arrow(ax, (1.15 * i + 0.47, 0.5), (1.15 * i + 0.47, 1.2), "blue")
    arrow(ax, (1.15 * i + 0.47, 1.7), (5.75 + 0.3, 2.45), "blue" if newest else "green")
box(ax, 5.75, 2.45, 0.95, 0.5, "q5", "blue")
ax.text(-0.1, 2.6, "green: in the cache · grey: not read again · blue: computed now")
ax.set(xlim=(-0.2, 7), ylim=(-0.1, 3.05))
ax.axis("off")
show(
    fig,
    alt="One layer at the step that reads token 5. Keys and values of tokens 0 to 4 come from the cache, those tokens are not "
    "read again. Only token 5 is read; its query meets all six keys and values.",
)

# %% [markdown]
# The keys go into the cache *after* rotation: a token's angle depends on its own position only (that was the point of [rotary positions](09_rope_yarn.ipynb)), so it is never rotated again. And they go in once for each group: several query heads [share one key head](10_heads_windows.ipynb), so the cache holds KV heads, not H.

# %% [markdown]
# ## A ring for a window
#
# A full layer needs a row for every token. A windowed layer needs the last W only: the newest token sees itself and the W − 1 before it. So give it W **slots**, and write token $t$ into slot
#
# $$ \text{slot}(t) = t \bmod W. $$
#
# In words: fill the slots from left to right; at the end, start again at the left, over what is oldest. Token $t$ lands where token $t - W$ was, and that one has just left the window of everybody who is still to come.
#
# Now the other way round: which token is in slot $s$, if $n$ tokens have come? It is the *last* one that fits the slot. The newest token is $n - 1$. Go back from it as many steps as slot $s$ is behind:
#
# $$ \text{token}(s) = (n - 1) - \big((n - 1 - s) \bmod W\big). $$

# %%
#| export
"""Keys and values of earlier tokens: whole texts for full layers, rings for layers with a window.

GPT-2 keeps every token in every layer. Here a layer with a window keeps its last W tokens in W slots,
which are written over and over, so that its memory never grows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptoss_lib.config import GPTOSSConfig


def ring_tokens(length: int, slots: int, device: torch.device | str | None = None) -> Tensor:
    """Return which token each slot of a ring holds, where token t was written into slot t mod ``slots``.

    Args:
        length: how many tokens were written so far.
        slots: W, the size of the ring.
        device: where the result is made.

    Returns:
        [slots], int64: a token's index from 0, negative where the slot is still empty.
    """
    newest = length - 1
    return newest - (newest - torch.arange(slots, device=device)) % slots


# %%
for length in (0, 1, 4, 6, 7, 8, 13):
    print(f"after {length:2} tokens:", ring_tokens(length, slots=6).tolist())

# %% [markdown]
# Empty slots come out negative, which is what our masks understand as "no key". Below, time runs down: each row is the ring after one more token. The blue slot was written just now. In every row, the ring holds the window of its newest token, no more and no less; only the *order* is turned.

# %% tags=["hide-input"]
from matplotlib.patches import Rectangle

fig, ax = new_figure(6.4, 3.9)
for step in range(1, 14):
    for slot, token in enumerate(ring_tokens(step, W).tolist()):
        kind = "grey" if token < 0 else "blue" if token == step - 1 else "green"
        alpha = {"grey": 0.12, "green": 0.28, "blue": 0.6}[kind]
        ax.add_patch(
            Rectangle((slot, step - 1), 0.94, 0.88, facecolor=COLORS[kind], alpha=alpha, edgecolor="none")
        )
        ax.text(
            slot + 0.47, step - 0.56, "" if token < 0 else str(token), ha="center", va="center", fontsize=8
        )
ax.set(xlim=(0, W), ylim=(13, 0), xlabel="slot", ylabel="tokens so far")
ax.set_xticks([slot + 0.47 for slot in range(W)], range(W))
ax.set_yticks([step - 0.56 for step in range(1, 14)], range(1, 14), fontsize=8)
ax.grid(False)
show(
    fig,
    alt="A ring of six slots over thirteen steps. Tokens 0 to 5 fill slots 0 to 5; token 6 overwrites token 0 in slot 0, token 7 "
    "overwrites token 1 in slot 1, and so on. Every row holds the last six tokens.",
)

# %% [markdown]
# Move the slider, and pick the size of the ring. Above is the text; the tokens in the ring are green, the newest is blue. Below is the ring; the dashed slot is written next.

# %% tags=["hide-input"]
from gptoss_lib.widgets import explore


def ring_svg(step, slots):
    holds = ring_tokens(step, slots).tolist()

    def cell(x, y, text, color, alpha, dashed=False):
        edge = f' stroke="{COLORS["orange"]}" stroke-width="2" stroke-dasharray="4 3"' if dashed else ""
        return (
            f'<rect x="{x}" y="{y}" width="26" height="24" rx="4" fill="{COLORS[color]}" fill-opacity="{alpha}"{edge}/>'
            f'<text x="{x + 13}" y="{y + 16}" text-anchor="middle">{text}</text>'
        )

    text = "".join(
        cell(
            62 + 30 * t,
            6,
            t,
            "blue" if t == step - 1 else "green" if t in holds else "grey",
            0.45 if t in holds else 0.15,
        )
        for t in range(step)
    )
    ring = "".join(
        cell(
            62 + 30 * s,
            62,
            "" if t < 0 else t,
            "grey" if t < 0 else "blue" if t == step - 1 else "green",
            0.15 if t < 0 else 0.45,
            s == step % slots,
        )
        + f'<text x="{75 + 30 * s}" y="100" text-anchor="middle" opacity="0.7">{s}</text>'
        for s, t in enumerate(holds)
    )
    return (
        '<svg viewBox="0 0 550 108" width="560" font-size="11" fill="currentColor" font-family="sans-serif" style="max-width:100%" '
        f'role="img" aria-label="After {step} tokens a ring of {slots} slots holds tokens {sorted(t for t in holds if t >= 0)}; slot {step % slots} is written next.">'
        f'<text x="0" y="22">text</text><text x="0" y="78">ring</text><text x="0" y="100" opacity="0.7">slot</text>{text}{ring}</svg>'
    )


explore(
    ring_svg,
    {"tokens so far": tuple(range(1, 17)), "slots": (4, 6, 8)},
    start={"tokens so far": 9, "slots": 6},
)

# %% [markdown]
# ## More than one token at a time
#
# One new token is easy: write it into its slot, look at all slots. A **chunk** of T new tokens is not. Take W = 6 slots that hold tokens 4 to 9, and a chunk of tokens 10 to 13. Written into the ring, they push out 4 to 7. But token 10 must still see token 5. Its window is 5 … 10, the window of token 13 is 8 … 13, and together that is W − 1 + T tokens, which no ring of W slots can hold.
#
# So look first and write afterwards:
#
# 1. put the last W − 1 tokens of the ring in their order, and the chunk behind them: this is what attention sees;
# 2. then write the last W tokens of the chunk into the ring (earlier ones would be overwritten anyway).
#
# Attention gets tokens *in a row*, so the mask that it makes by itself is right. And the first chunk has nothing before it, so that [the fast bands](11_sinks.ipynb) still apply.

# %%
held = ring_tokens(10, W)
print("the ring, by slots:        ", held.tolist())
print("written first, it holds:   ", sorted(ring_tokens(14, W).tolist()), "<- token 10 cannot see 5, 6 and 7")
print("looked at first, T + W - 1:", [*range(10 - (W - 1), 10), *range(10, 14)])

# %% [markdown]
# This is one layer's share of the cache. A full layer is the same ring with so many slots that it never wraps, which leaves three cases:
#
# - **nothing wrapped yet**: the tokens stand in a row from slot 0; return a view, copy nothing;
# - **one token, wrapped**: all slots are in its window, in whatever order they are. A softmax does not care about order, so return the ring as it is;
# - **a chunk, wrapped**: look first, write afterwards.


# %%
#| export
class LayerCache:
    """One layer's keys and values: the last ``slots`` tokens, in tensors that are never replaced.

    Args:
        batch_size: B.
        slots: how many tokens are kept.
        num_key_value_heads: KV.
        head_dim: hd.
        device: where the tensors are.
        dtype: of keys and values.
    """

    def __init__(
        self,
        batch_size: int,
        slots: int,
        num_key_value_heads: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (batch_size, num_key_value_heads, slots, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.slots = slots
        self.length = 0  # tokens that were ever stored
        self._first = 0  # the earliest token that the last update returned
        self._turned = False  # whether it returned them in the order of their slots

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new tokens and return all keys and values that they may look at.

        Args:
            key: [B, KV, T, hd].
            value: [B, KV, T, hd].

        Returns:
            Keys and values [B, KV, S, hd]: the new tokens and those before them that fall into the
            first one's window. Where that needs no copy they are views: use them before the next update.
        """
        key, value = key.detach(), value.detach()
        past, end = self.length, self.length + key.shape[-2]
        # The first new token sees slots - 1 earlier ones.
        self._first = max(0, past - (self.slots - 1))
        self._turned = end == past + 1 and end > self.slots
        if end <= self.slots or self._turned:
            self._write(key, value, past, end)
            kept = min(end, self.slots)
            return self.keys[:, :, :kept], self.values[:, :, :kept]
        # A chunk overwrites tokens that its own first queries see, so look before writing.
        at = torch.arange(self._first, past, device=self.keys.device) % self.slots
        seen = tuple(
            torch.cat((ring.index_select(2, at), new), dim=2)
            for ring, new in ((self.keys, key), (self.values, value))
        )
        self._write(key, value, past, end)
        return seen

    def tokens(self) -> Tensor:
        """Return which tokens the last update returned, as indices from 0 in the same order, [S]."""
        if self._turned:
            return ring_tokens(self.length, self.slots, self.keys.device)
        return torch.arange(self._first, self.length, device=self.keys.device)

    def _write(self, key: Tensor, value: Tensor, past: int, end: int) -> None:
        """Put the last of the tokens from ``past`` to ``end`` into their slots."""
        first = max(past, end - self.slots)
        slot = first % self.slots
        if slot + end - first <= self.slots:  # slots in a row
            at = slice(slot, slot + end - first)
        else:
            at = torch.arange(first, end, device=self.keys.device) % self.slots
        self.keys[:, :, at] = key[:, :, first - past :]
        self.values[:, :, at] = value[:, :, first - past :]
        self.length = end


# %%
layer = LayerCache(1, W, num_key_value_heads=1, head_dim=1)
start = 0
for count in (4, 1, 3, 1, 1, 9):
    new = torch.arange(start, start + count).view(1, 1, count, 1).float()  # each key is its token's number
    seen, _ = layer.update(new, new)
    print(
        f"{count} new: sees {seen.flatten().int().tolist()}; the ring holds {layer.keys.flatten().int().tolist()}"
    )
    start += count

# %% [markdown]
# Check a line by hand. When 3 tokens come after 5, the first of them is token 5, and it sees 0 to 5. When the last 9 come, the ring keeps 6 of them, and the rest was seen and forgotten. (A key of 0 in the first lines is an empty slot; it is never returned.)

# %% [markdown]
# ## The whole cache
#
# What is left is bookkeeping, and that is where caches go wrong. Four decisions:
#
# - **When does a token count?** The layers of a model are updated one after the other. If `length` grew with the first of them, the second would think that the new tokens are old. So `length` is the number of tokens that *all* layers have stored. It jumps when the last layer is done.
# - **What if a step breaks off in between?** Then some layers have the token and some do not. The next step notices that and says so. A full cache raises its error before anything is written.
# - **Where do tokens stand?** `positions(T)` gives the positions of the next T tokens. Rotary positions must be counted from the cache's `length`, not from 0.
# - **What about padding?** In a batch of unequal prompts, the shorter ones are filled up on the left. The cache is told once how much, and from then on knows where every key stands.


# %%
#| export
class KVCache:
    """The keys and values that a model keeps while it reads and writes; inference only.

    A layer with a window keeps its last W tokens, the others all. No gradients flow through a cache.

    Args:
        batch_size: B, texts side by side.
        max_length: tokens a text can have, padding included; memory is taken for all of them at once.
        num_layers: layers of the model.
        num_key_value_heads: KV.
        head_dim: hd.
        windows: one window a layer, None in it for a full layer; None where all layers are full.
        device: where the tensors are.
        dtype: of keys and values.
        padding: [B], how many tokens of padding each text begins with; None for none.

    Raises:
        ValueError: if a size or a window is not a whole number above zero, or their numbers do not fit.
    """

    def __init__(
        self,
        batch_size: int,
        max_length: int,
        num_layers: int,
        num_key_value_heads: int,
        head_dim: int,
        windows: Sequence[int | None] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        padding: Tensor | None = None,
    ) -> None:
        windows = [None] * num_layers if windows is None else list(windows)
        if len(windows) != num_layers:
            raise ValueError(f"There are {len(windows)} windows for {num_layers} layers; give one a layer.")
        sizes = {
            "batch_size": batch_size,
            "max_length": max_length,
            "num_layers": num_layers,
            "num_key_value_heads": num_key_value_heads,
            "head_dim": head_dim,
        }
        for name, value in [
            *sizes.items(),
            *(("a window", window) for window in windows if window is not None),
        ]:
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number above zero.")
        self.batch_size, self.max_length = batch_size, max_length
        self.layers = [
            LayerCache(
                batch_size,
                min(window or max_length, max_length),
                num_key_value_heads,
                head_dim,
                device,
                dtype,
            )
            for window in windows
        ]
        self.reset(padding)

    @classmethod
    def from_config(
        cls,
        config: GPTOSSConfig,
        batch_size: int,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        padding: Tensor | None = None,
    ) -> "KVCache":
        """Return a cache for this architecture: rings for sliding layers, whole texts for full ones."""
        c = config
        windows = [c.sliding_window if kind == "sliding_attention" else None for kind in c.layer_types]
        shape = (c.num_hidden_layers, c.num_key_value_heads, c.head_dim)
        return cls(batch_size, max_length, *shape, windows, device, dtype, padding)

    @property
    def length(self) -> int:
        """How many tokens a text has so far, padding included: those that every layer has stored."""
        return min(layer.length for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, as :func:`gptoss_lib.config.kv_cache_bytes` counts them."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def reset(self, padding: Tensor | None = None) -> None:
        """Forget all tokens and keep the memory; ``padding`` [B] is that of the next texts.

        Raises:
            ValueError: if ``padding`` is not one whole number a text, 0 or more.
        """
        if padding is not None and (
            padding.shape != (self.batch_size,) or padding.is_floating_point() or bool((padding < 0).any())
        ):
            raise ValueError(
                f"padding is {padding.tolist()}; give one whole number, 0 or more, for each of "
                f"{self.batch_size} texts."
            )
        for layer in self.layers:
            layer.length = 0
        device = self.layers[0].keys.device
        self._padding = None if padding is None else padding.to(device, torch.int64).unsqueeze(-1)  # [B, 1]

    def positions(self, count: int) -> Tensor:
        """Return where the next ``count`` tokens stand.

        Returns:
            [T], or [B, T] with padding, which stands at negative positions; clamp those to 0 for
            :class:`gptoss_lib.rope.RotaryEmbedding`.
        """
        tokens = torch.arange(self.length, self.length + count, device=self.layers[0].keys.device)
        return tokens if self._padding is None else tokens - self._padding

    def check_room(self, count: int) -> None:
        """Raise a ValueError unless ``count`` more tokens fit."""
        if self.length + count > self.max_length:
            raise ValueError(
                f"The cache holds {self.length} tokens and {count} more do not fit into "
                f"max_length={self.max_length}; shorten the text or build a longer cache."
            )

    def update(self, layer_idx: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new tokens of one layer and return all that they may look at.

        Args:
            layer_idx: the layer, from 0.
            key: [B, KV, T, hd], rotated already.
            value: [B, KV, T, hd].

        Returns:
            Keys and values [B, KV, S, hd]; views of the cache where that is possible, so use them
            before the next update.

        Raises:
            ValueError: if the context is full (nothing is stored then), the tensors do not fit, or an
                earlier step stopped half-way.
        """
        self._check(layer_idx, key, value)
        return self.layers[layer_idx].update(key, value)

    def key_positions(self, layer_idx: int) -> Tensor | None:
        """Return where the keys stand that the layer's last update returned.

        Returns:
            [B, S], negative for padding. None without padding: the keys are then tokens in a row that
            end with the new ones, or, for a single new token, exactly those that it sees.
        """
        return None if self._padding is None else self.layers[layer_idx].tokens() - self._padding

    def _check(self, layer_idx: int, key: Tensor, value: Tensor) -> None:
        """Raise a ValueError where an update is not possible."""
        if not 0 <= layer_idx < len(self.layers):
            raise ValueError(
                f"layer_idx is {layer_idx}, but this cache has {len(self.layers)} layers, from 0; "
                "build it for this model."
            )
        stored, new = self.layers[layer_idx], key.shape[-2]
        B, KV, _, hd = stored.keys.shape
        if key.shape != (B, KV, new, hd) or value.shape != key.shape:
            raise ValueError(
                f"key and value have shapes {list(key.shape)} and {list(value.shape)}, but this cache is for "
                f"{[B, KV, new, hd]}; build it for this model and batch."
            )
        if key.dtype != stored.keys.dtype or value.dtype != stored.keys.dtype:
            raise ValueError(
                f"key and value are {key.dtype} and {value.dtype}, but this cache holds {stored.keys.dtype}; "
                "build it with the dtype of the model."
            )
        if stored.length != self.length:
            raise ValueError(
                f"Layer {layer_idx} holds {stored.length} tokens, but another layer only {self.length}: "
                "a step stopped half-way, so call reset() and read the text again."
            )
        self.check_room(new)


# %%
cache = KVCache.from_config(small, batch_size=1, max_length=20)
print("slots by layer:", [layer.slots for layer in cache.layers])
key = value = torch.randn(1, 2, 18, 8)
for layer_idx in (0, 1):
    print(f"before layer {layer_idx} is updated: length {cache.length}")
    cache.update(layer_idx, key, value)
print("after both:               length", cache.length, "and the next positions", cache.positions(2).tolist())
try:
    cache.update(0, key[:, :, :3], value[:, :, :3])
except ValueError as error:
    print(error)

# %% [markdown]
# The error comes before anything is written, so the cache is still good. And memory is taken once, when the cache is built. A cache that grows by `torch.cat` copies all of itself for every token, and for a moment needs twice its size.

# %% [markdown]
# ## Prefill, then decode
#
# Reading a prompt is called **prefill**, writing is called **decoding**. They are the same function on different shapes, and they are limited by different things. Prefill reads many tokens with each weight that it loads from memory. Decoding loads every weight that it needs for *one* token.

# %%
from gptoss_lib.config import count_parameters

counts = count_parameters(oss)
print("                      FLOPs     bytes moved   FLOPs a byte")
for name, tokens, read in (
    ("decode one token", 1, 2 * counts.active),
    ("prefill 4,096", 4096, weight_bytes(oss, "bf16")),
):
    context = 4096
    flops = flops_per_token(oss, context).forward if tokens == 1 else read_all(tokens)
    read += kv_cache_bytes(oss, context)
    print(f"{name:16s} {flops:10.1e}      {read:10.1e}   {flops / read:12,.1f}")

# %% [markdown]
# (Weights in bf16; one token reads the experts that it is sent to, a long prompt reads them all.) A processor does tens to hundreds of operations in the time that one byte takes to arrive. So prefill keeps it busy, and decoding mostly waits for memory. That is why people who serve models decode many texts at once ([Pope et al., 2022](https://arxiv.org/abs/2211.05102)): the weights are loaded once for all of them. The caches are not shared, and soon it is they that fill the memory.
#
# A long prompt need not be read at once. In chunks of T tokens, the largest tensors in between have T rows. Let us build two layers and see that nothing changes.

# %%
from torch import nn


class Stack(nn.Module):
    """Two layers of attention with what they need around them: a small stand-in for the model of chapter 15."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(Attention(config, i) for i in range(config.num_hidden_layers))
        self.rope = RotaryEmbedding(config.head_dim, config.rope_theta)

    def forward(self, x, position_ids=None, cache=None):
        if cache is not None:
            position_ids = cache.positions(x.shape[1])
        angles = torch.arange(x.shape[1]) if position_ids is None else position_ids.clamp(min=0)
        for layer in self.layers:
            x = x + layer(x, self.rope(angles), position_ids=position_ids, cache=cache)
        return x


def in_pieces(model, x, sizes, cache):
    return torch.cat([model(piece, cache=cache) for piece in x.split(sizes, dim=1)], dim=1)


# %%
stack = Stack(small)
x = torch.randn(3, 3 * W + 2, small.hidden_size)
at_once = stack(x)
for sizes in ([20], [1] * 20, [7, 13], [W] * 3 + [2], [15, 1, 1, 1, 1, 1], [3, 1, 9, 1, 6]):
    cache = KVCache.from_config(small, batch_size=3, max_length=20)
    same = torch.allclose(in_pieces(stack, x, sizes, cache), at_once, atol=1e-5)
    print(f"{str(sizes)[:34]:34s} as at once: {same}")

# %% [markdown]
# ## Unequal prompts
#
# Three prompts of 9, 5 and 2 tokens go into one batch. Fill up the shorter ones **on the left**: then all prompts end in the same column, and the next token of every row goes into the next one. Now a column is no longer a position. Row 2 begins with seven columns of padding, and its first real token stands at position 0.
#
# $$ \text{position}(b, \text{column}) = \text{column} - \text{padding}_b $$
#
# In words: count from the first real token. Padding comes out negative, and nobody looks at negative positions. That one subtraction is all that the cache needs to know; both the rotary angles and the mask are made from it.

# %%
padding = torch.tensor([0, 4, 7])
cache = KVCache.from_config(small, batch_size=3, max_length=20, padding=padding)
print("positions of the prompt's columns:")
print(cache.positions(9))
together = [stack(x[:, :9], cache=cache)]
together += [stack(x[:, t : t + 1], cache=cache) for t in range(9, 20)]
together = torch.cat(together, dim=1)
print("the sliding layer's slots hold positions:")
print(cache.key_positions(0))
for row, first in enumerate(padding.tolist()):
    alone = stack(x[row : row + 1, first:])
    print(
        f"row {row}, alone and in the batch: equal to 1e-5:",
        torch.allclose(together[row, first:], alone[0], atol=1e-5),
    )

# %% [markdown]
# Without padding, `key_positions` is `None`: the tokens stand in a row, and attention may take its fast paths.

# %% [markdown]
# ## `generate` uses it
#
# The loop from [Generation](07_generation.ipynb) has had a seam for this all along: it reads from `cache.length` on. GPT-2's layers are all full, with a key head for every query head. Same model, same prompt, same tokens; count what is read.

# %%
from gptoss_lib.generation import generate
from gptoss_lib.gpt2 import GPT2, GPT2Config

torch.manual_seed(0)
config = GPT2Config(vocab_size=300, n_positions=300, n_embd=128, n_layer=4, n_head=4, initializer_range=0.2)
gpt2 = GPT2(config).eval()
prompt = torch.randint(300, (2, 16))
read = []
gpt2.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[1]))


def gpt2_cache(batch_size):
    return KVCache(batch_size, config.n_positions, config.n_layer, config.n_head, config.head_dim)


texts = {}
for name, cache in (("without", None), ("with", gpt2_cache(2))):
    read.clear()
    texts[name] = generate(gpt2, prompt, 120, temperature=0, cache=cache)
    print(f"{name:>7} a cache: {sum(read):6,} tokens read a row, in {len(read)} steps")
print(
    "same tokens:",
    torch.equal(texts["without"], texts["with"]),
    "· different tokens in a text:",
    len(set(texts["with"][0].tolist())) > 20,
)

# %% [markdown]
# The count is the formula at the top: $120 \cdot 16 + 120 \cdot 119 / 2$ tokens against $16 + 119$. The time saved is less, because a small step has costs that do not depend on its number of tokens. How much less depends on your machine:

# %% tags=["nbval-ignore-output"]
import time


def seconds(with_cache):
    """The better of two runs: whatever else the machine does can only make a run slower."""
    times = []
    for _ in range(2):
        cache = gpt2_cache(2) if with_cache else None
        start = time.perf_counter()
        generate(gpt2, prompt, 120, temperature=0, cache=cache)
        times.append(time.perf_counter() - start)
    return min(times)


threads = torch.get_num_threads()
torch.set_num_threads(1)  # steps as small as these gain nothing from more
faster = seconds(False) / seconds(True)
torch.set_num_threads(threads)
print(f"120 tokens with a cache are {faster:.1f} times as fast")

# %%
assert faster > 1.2, "a cache should pay"

# %% [markdown]
# ## Reality check
#
# The check that counts is *cached equals uncached*, and it must look where caches break: just before the ring wraps, when it wraps, just after, and many rounds later. Here are lengths around one window and around two, and a longer one, each with every chunk size up to just past two windows, and full outputs. The ground truth is our [`Attention`](11_sinks.ipynb) without a cache, which the project's tests compare with `transformers`.

# %%
worst, cases = 0.0, 0
for length in (1, W - 1, W, W + 1, 2 * W - 1, 2 * W, 2 * W + 1, 5 * W + 2):
    x = torch.randn(2, length, small.hidden_size)
    at_once = stack(x)
    for chunk in range(1, 2 * W + 2):
        cache = KVCache.from_config(small, batch_size=2, max_length=length)
        got = in_pieces(stack, x, chunk, cache)
        worst, cases = max(worst, (got - at_once).abs().max().item()), cases + 1
print(f"{cases} cases; the largest difference is below 1e-5: {worst < 1e-5}")

# %% [markdown]
# A check that cannot fail is worth nothing. So break the cache in the three classic ways, and see whether the check would notice, and from which length on.


# %%
def ring_of(slots):
    cache = KVCache.from_config(small, batch_size=2, max_length=20)
    cache.layers[0] = LayerCache(2, slots, small.num_key_value_heads, small.head_dim)
    return cache


class PositionsOneOff(KVCache):
    def positions(self, count):
        return super().positions(count) + (self.length > 0)


LENGTHS = {"2": 2, "W-1": W - 1, "W": W, "W+1": W + 1, "W+2": W + 2}
print(f"{'text of':22}", *(f"{name:>6}" for name in LENGTHS))
for name, build in (
    ("nothing broken", lambda: ring_of(W)),
    ("one slot too few", lambda: ring_of(W - 1)),
    ("one slot too many", lambda: ring_of(W + 1)),
    ("positions one off", lambda: PositionsOneOff.from_config(small, batch_size=2, max_length=20)),
):
    outcome = []
    for length in LENGTHS.values():
        x = torch.randn(2, length, small.hidden_size)
        outcome.append(
            "right" if torch.allclose(in_pieces(stack, x, 1, build()), stack(x), atol=1e-5) else "WRONG"
        )
    print(f"{name:22}", *(f"{word:>6}" for word in outcome))

# %% [markdown]
# A wrong position shows at once. A wrong number of slots does not: every short text is right, and the model fails in the middle of its first long answer. (Why does one slot too *many* hurt? The mask counts back from the newest token in a row, and in a ring that has turned, that hides the wrong token.)

# %% [markdown]
# ## What gpt-oss-20b uses
#
# Each token has 8 keys and 8 values of 64 numbers in each of 24 layers. Twelve layers keep 128 tokens of them. The formula is that of [the map](01_map.ipynb); a cache on PyTorch's `meta` device, which has shapes and no memory, agrees with it to the byte.

# %%
print(f"{'context':>8} {'all layers full':>17} {'with rings':>14} {'rings alone':>12}")
for context in (128, 1024, 8192, 32_768, 131_072):
    cache = KVCache.from_config(oss, batch_size=1, max_length=context, device="meta", dtype=torch.bfloat16)
    full, rings = kv_cache_bytes(oss, context, sliding=False), kv_cache_bytes(oss, context)
    assert cache.nbytes == rings
    alone = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers[::2])
    print(f"{context:8,} {full / 2**20:13,.1f} MiB {rings / 2**20:10,.1f} MiB {alone / 2**20:8,.1f} MiB")

# %% tags=["hide-input"]
contexts = [2**n for n in range(7, 18)]
fig, ax = new_figure(6.8, 3.1)
no_groups = [
    kv_cache_bytes(oss, n, sliding=False) * oss.num_attention_heads / oss.num_key_value_heads / 2**30
    for n in contexts
]
ax.plot(
    contexts,
    no_groups,
    color=COLORS["orange"],
    marker="o",
    label="a key for every query head, no windows (as GPT-2)",
)
ax.plot(
    contexts,
    [kv_cache_bytes(oss, n, sliding=False) / 2**30 for n in contexts],
    color=COLORS["grey"],
    marker="o",
    label="grouped heads, no windows",
)
ax.plot(
    contexts,
    [kv_cache_bytes(oss, n) / 2**30 for n in contexts],
    color=COLORS["blue"],
    marker="o",
    label="grouped heads and windows (gpt-oss-20b)",
)
ax.axhline(
    weight_bytes(oss, "mxfp4") / 2**30,
    color=COLORS["green"],
    linestyle="--",
    label="the weights, as published",
)
ax.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel="GiB, one text, bf16")
ax.set_xticks([128, 1024, 8192, 131_072], ["128", "1,024", "8,192", "131,072"])
ax.legend(fontsize=8)
show(
    fig,
    alt="Memory of the KV cache of gpt-oss-20b against the context on logarithmic axes. With a key for every query head the cache is eight times "
    "as large as with grouped heads and passes the size of the weights before 131,072 tokens. Windows halve it again at long contexts.",
)

# %% [markdown]
# Two things keep a full context at about a sixteenth of the orange line, and well below the weights: eight query heads share a key head ([Ainslie et al., 2023](https://arxiv.org/abs/2305.13245)), and half of the layers have a window. The rings of all twelve sliding layers together stay as small as in the first row. At long contexts, only the full layers count.

# %% [markdown]
# ## Pitfalls
#
# - **One row of positions for all rows.** With padding on the left, each text has its own. [Unsloth](https://github.com/unslothai/unsloth/issues/3699) used one row for the whole batch, and all but the longest prompt gave garbage.
# - **Right until the window is full.** [`transformers`](https://github.com/huggingface/transformers/issues/37574) had a ring that was updated wrongly just when the text reached the window. [mistral.rs](https://github.com/EricLBuehler/mistral.rs/issues/246) did not cut the cache to the window, which shows on long texts only.
# - **A cache that still remembers.** A pointer that was not set back between two texts was a bug in [a well-known book's code](https://github.com/rasbt/LLMs-from-scratch/pull/925). Reset is a method here, and it is tested.
# - **A ring that returns only itself.** After a chunk, the ring lacks what the chunk's first queries must see. [A pull request](https://github.com/huggingface/transformers/pull/40893) in `transformers` has the same remark in its code.
# - **Windows in the mask, not in the memory.** The output is right and the memory is not: before [this change](https://github.com/microsoft/onnxruntime/pull/29904), ONNX Runtime kept every token in every layer of gpt-oss.
# - **Learned positions and padding.** GPT-2 looks up a position by column, and a padded row would start in the middle. Give it prompts of equal length (`generate_text` groups them).
# - **Keys that are rotated twice**, or not at all: rotate once, before the cache.

# %% [markdown]
# ## Exercises
#
# In [the exercise notebook](exercises/12_kv_cache.ipynb):
#
# 1. **Which token is where.** The slots of a ring, without having seen it being filled.
# 2. **Append a chunk.** A rolling buffer that must not forget too early.
# 3. **How long a context fits.** From bytes to tokens.

# %% [markdown]
# ## Summary
#
# - Without a cache, the work for a text grows with the square of its length in tokens read; with one, each token is read once.
# - Only keys (after rotation) and values are kept. Earlier tokens never change, since nothing looks ahead.
# - A windowed layer has W slots; token $t$ goes into slot $t \bmod W$. For one token, return the ring as it is. For a chunk, look first and write afterwards.
# - `length` counts a token when every layer has stored it. Positions of new tokens start there.
# - Padding stands on the left, and position is column minus padding.
# - Test lengths around the window, and several windows further. Short tests pass with a broken ring.
#
# Next: [SwiGLU](13_swiglu.ipynb), the activation inside the experts.

# %% [markdown]
# ## Further reading
#
# - [Shazeer, 2019](https://arxiv.org/abs/1911.02150): why decoding waits for memory, and key heads that are shared.
# - [Pope et al., 2022](https://arxiv.org/abs/2211.05102): the costs of prefill and decoding, worked out.
# - [Kwon et al., 2023](https://arxiv.org/abs/2309.06180): caches in pages, for servers with many texts (vLLM).
# - [Jiang et al., 2023](https://arxiv.org/abs/2310.06825): Mistral 7B, whose rolling buffer is the ring of this chapter.
