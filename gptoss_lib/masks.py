"""Who may look at whom: grouped query heads, and masks for causality, windows, documents and padding.

GPT-2 has a key and a value for every query head, and every token sees all tokens before it. Here
several query heads share one key and one value, some layers look back over a window only, and all
masks are made from positions, so that they hold with a cache and in batches of unequal texts too.

Built in chapter 10: edit ``notebooks/10_heads_windows.py``, not this file.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "attention_mask",
    "causal_mask",
    "document_ids",
    "document_mask",
    "grouped_attention",
    "grouped_mix",
    "grouped_scores",
    "hide",
    "padded_positions",
    "repeat_kv",
    "sliding_mask",
]


def repeat_kv(x: Tensor, groups: int) -> Tensor:
    """Copy every key or value head for each query head that shares it: the slow, obvious way.

    Args:
        x: [B, KV, S, hd].
        groups: G, the query heads that share one key/value head.

    Returns:
        [B, H, S, hd]; heads 0 … G-1 are copies of head 0, the next G of head 1, and so on.
    """
    return x.repeat_interleave(groups, dim=1)


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


def document_mask(query_documents: Tensor, key_documents: Tensor) -> Tensor:
    """Let every query see the keys of its own document, before and after it.

    Args:
        query_documents: [T] or [B, T].
        key_documents: [S] or [B, S].

    Returns:
        [T, S] or [B, T, S], True where the query may look.
    """
    return query_documents.unsqueeze(-1) == key_documents.unsqueeze(-2)


def padded_positions(is_token: Tensor) -> Tensor:
    """Number the real tokens of each row from 0, and give padding the position -1.

    Args:
        is_token: [B, T], True (or 1) for tokens, False (or 0) for padding, on either side.

    Returns:
        [B, T], int64.
    """
    is_token = is_token.bool()
    return torch.where(is_token, is_token.long().cumsum(-1) - 1, -1)


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


def hide(scores: Tensor, mask: Tensor) -> Tensor:
    """Give the lowest finite score to the keys that a query may not see.

    Finite, so that a query that sees nothing (padding) gets a mean that nobody reads, and not NaN.

    Args:
        scores: [B, H, T, S].
        mask: [T, S] or [B, T, S], True where the query may look.
    """
    return scores.masked_fill(~mask.unsqueeze(-3), torch.finfo(scores.dtype).min)


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
