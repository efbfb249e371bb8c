"""Attention with sinks, grouped heads, windows, rotary positions and a cache: GPT-OSS's attention block.

Where GPT-2's heads must look at something, each head here has a learned score, its sink, that takes
probability and gives nothing. The slow version is the definition; the fast one runs PyTorch's fused
kernel and corrects what comes out, exactly, forward and backward.

Built in chapter 11: edit ``notebooks/11_sinks.py``, not this file.
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

__all__ = ["Attention", "sink_attention", "sink_attention_reference"]


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
