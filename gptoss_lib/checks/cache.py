"""Checks for the exercises to chapter 12, KV cache."""

import torch

from gptoss_lib.checks import check, expect, unless
from gptoss_lib.config import GPTOSSConfig, kv_cache_bytes

__all__ = ["append", "longest_context", "ring_contents"]


def _contents(length: int, slots: int) -> list[int]:
    """Replay the writing of a ring."""
    holds = [-1] * slots
    for token in range(length):
        holds[token % slots] = token
    return holds


@check("You can read a ring that you did not fill.")
def ring_contents(answer) -> None:
    """Check which token each slot of a ring holds."""
    for length, slots in ((7, 6), (13, 6), (6, 6), (4, 6), (0, 3), (1, 3), (23, 1), (20, 7)):
        given = answer(length, slots)
        expect(
            hasattr(given, "__len__") and len(given) == slots,
            f"With length={length} and slots={slots} there should be one number a slot, {slots} in all.",
        )
        result, right = [int(token) for token in given], _contents(length, slots)
        case = f"After {length} tokens, a ring of {slots} slots"
        unless(
            result != right and result == _contents(length + 1, slots),
            f"{case} has not seen token {length} yet: tokens count from 0, so the newest is length - 1.",
        )
        unless(
            result != right and sorted(result) == sorted(right),
            f"{case} holds these tokens, but in other slots: token t stands in slot t mod {slots}.",
        )
        unless(
            result != right and [max(-1, token) for token in result] == right,
            f"{case} has empty slots: they hold -1, not another negative number.",
        )
        unless(
            result != right and max(result, default=0) < slots <= length - 1,
            f"{case} was overwritten: no slot holds its first token any more.",
        )
        expect(result == right, f"{case} holds {right}, but your answer is {result}.")
    expect(
        [int(token) for token in answer(10**12 + 1, 2)] == [10**12, 10**12 - 1],
        "After a trillion tokens and one, two slots should hold the last two.",
    )


def _line(first: int, last: int) -> torch.Tensor:
    """Return keys [2, 3, T, 5] that tell token, text, head and dimension apart."""
    shape = (2, 3, last - first, 5)
    tokens = torch.arange(first, last, dtype=torch.float64).view(1, 1, -1, 1).expand(shape)
    marks = torch.arange(2 * 3 * 5, dtype=torch.float64).view(2, 3, 1, 5) / 100
    return tokens + marks


@check("Nothing is forgotten too early, and nothing is kept too long.")
def append(answer) -> None:
    """Check the update of a rolling buffer by a chunk."""
    for past, new, window in (
        (10, 4, 6),
        (10, 1, 6),
        (3, 2, 6),
        (0, 9, 6),
        (5, 3, 6),
        (6, 1, 6),
        (9, 20, 6),
        (4, 3, 1),
    ):
        held = _line(max(0, past - window), past)
        result = answer(held.clone(), _line(past, past + new), window)
        expect(
            isinstance(result, tuple | list)
            and len(result) == 2
            and all(isinstance(part, torch.Tensor) and part.dim() == 4 for part in result),
            "Return two tensors, seen and kept, each [B, KV, tokens, hd].",
        )
        seen, kept = ([round(t) for t in part[0, 0, :, 0].tolist()] for part in result)
        first = max(0, past - (window - 1))
        case = f"With window={window}, {past} tokens before and {new} new ones,"
        unless(
            seen == list(range(max(0, past + new - window), past + new)) and seen[0] > first,
            f"{case} the first new query must see token {first}, but it was thrown away: look first, "
            "cut afterwards.",
        )
        unless(
            past > 0 and window > 1 and seen == list(range(past, past + new)),
            f"{case} the earlier tokens are not seen at all.",
        )
        unless(
            window > 1 and seen and seen[0] == first + 1,
            f"{case} token {first} is missing: a query sees itself and the {window - 1} before it.",
        )
        unless(
            seen and seen[0] < first,
            f"{case} token {seen[0] if seen else 0} is in no window any more: a query counts itself too.",
        )
        expect(
            seen == list(range(first, past + new)),
            f"{case} seen should hold tokens {first} to {past + new - 1} in order, but holds {seen}.",
        )
        last = list(range(max(0, past + new - window), past + new))
        unless(len(kept) > window, f"{case} kept has {len(kept)} tokens: the buffer grows beyond the window.")
        unless(
            window > 1 and kept == last[1:] and len(last) == window,
            f"{case} kept has {len(kept)} tokens; the buffer holds {window}.",
        )
        expect(kept == last, f"{case} kept should hold tokens {last}, but holds {kept}.")
        for part, tokens in zip(result, ((first, past + new), (last[0], past + new)), strict=True):
            expect(
                torch.equal(part, _line(*tokens)),
                "The right tokens, but texts, heads or dimensions are mixed up.",
            )


@check("That is what fits, to the token.")
def longest_context(answer) -> None:
    """Check the longest context whose caches fit into a budget."""
    config = GPTOSSConfig(
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=1000,
        rope_scaling=None,
    )
    per_token = 2 * 2 * 8 * 2
    for length, batch_size in ((300, 1), (300, 3), (17, 2), (16, 2), (9, 5), (1000, 2)):
        budget = kv_cache_bytes(config, length, batch_size)
        result = answer(config, budget, batch_size)
        case = f"With {budget:,} bytes for {batch_size} texts,"
        expect(result is not None, "Return a number of tokens.")
        unless(
            result != length and result == min(1000, budget // (3 * per_token * batch_size)),
            f"{case} this counts every layer as full; sliding layers stop growing at their window.",
        )
        unless(
            batch_size > 1 and result != length and result >= min(1000, length * batch_size),
            f"{case} the budget is spent on one text; there are {batch_size}.",
        )
        unless(
            result == length - 1, f"{case} one more token fits: a cache may fill the budget to the last byte."
        )
        unless(result == length + 1, f"{case} {length + 1} tokens do not fit any more.")
        expect(result == length, f"{case} {length} tokens fit, but your answer is {result}.")
        expect(
            answer(config, budget - 1, batch_size) == length - 1,
            f"With one byte less than {length} tokens need, only {length - 1} fit.",
        )
    unless(
        answer(config, 10**9, 1) > 1000, "The model reads max_position_embeddings tokens at most: stop there."
    )
    expect(answer(config, 10**9, 1) == 1000, "With memory to spare, the answer is max_position_embeddings.")
    expect(answer(config, 3 * per_token - 1, 1) == 0, "Where not even one token fits, the answer is 0.")
