"""Keys and values of earlier tokens: whole texts for full layers, rings for layers with a window.

GPT-2 keeps every token in every layer. Here a layer with a window keeps its last W tokens in W slots,
which are written over and over, so that its memory never grows.

Built in chapter 12: edit ``notebooks/12_kv_cache.py``, not this file.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptoss_lib.config import GPTOSSConfig

__all__ = ["KVCache", "LayerCache", "ring_tokens"]


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
