"""Checks for the exercises to chapter 10, Heads and windows."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptoss_lib.checks import check, expect, unless

__all__ = ["grouped_scores", "receptive_field", "sliding_mask"]


def _same_kind(result, right: torch.Tensor) -> None:
    """Fail unless the result is a tensor of the right shape."""
    expect(
        isinstance(result, torch.Tensor), f"A tensor should come back, but it is a {type(result).__name__}."
    )
    expect(
        result.shape == right.shape,
        f"The shape should be {list(right.shape)}, but it is {list(result.shape)}.",
    )


@check("Exactly as many keys as the window says, with a cache and in any order.")
def sliding_mask(answer) -> None:
    """Check the mask of a sliding layer, built from positions."""
    line = torch.arange(12)
    ring = torch.tensor([8, 9, 10, 11, 4, 5, 6, 7, -1, -1])
    young = torch.tensor([0, 1, 2, -1, -1])
    for queries, keys in (
        (line, line),
        (line[9:], line),
        (line[10:], ring),
        (line[2:3], young),
        (line, line + 3),
    ):
        for window in (4, 1, 6):
            result = answer(queries.clone(), keys.clone(), window)
            distance = queries[:, None] - keys
            there = keys >= 0
            right = (distance >= 0) & (distance < window) & there
            _same_kind(result, right)
            expect(result.dtype == torch.bool, f"The mask should hold booleans, not {result.dtype}.")
            by_index = torch.arange(len(queries))[:, None] - torch.arange(len(keys))
            mistakes = (
                (~right, "This is upside down: True should mean that the query may look."),
                (
                    (distance >= 0) & (distance <= window) & there,
                    f"A window of {window} shows the query {window + 1} keys here; its own key counts too.",
                ),
                (
                    (distance >= 0) & (distance < window - 1) & there,
                    f"A window of {window} shows the query {window - 1} keys here; its own key counts, once.",
                ),
                ((distance > 0) & (distance <= window) & there, "The query does not see its own key."),
                ((distance < window) & there, "The query sees the future: nothing may be after it."),
                ((distance.abs() < window) & there, "The query sees the future: nothing may be after it."),
                ((distance >= 0) & there, "There is no window: old keys stay visible for ever."),
                (
                    (distance >= 0) & (distance < window),
                    "Keys at negative positions are visible, but those are empty slots.",
                ),
                (
                    (by_index >= 0) & (by_index < window),
                    "This compares indices, not positions: with a cache, query 0 is not token 0.",
                ),
            )
            for mistake, message in mistakes:
                unless(torch.equal(result, mistake) and not torch.equal(mistake, right), message)
            expect(
                torch.equal(result, right),
                f"The mask is wrong for queries {queries.tolist()}, keys {keys.tolist()}, window {window}.",
            )


class _LargestNewTensor(TorchDispatchMode):
    """Remembers how many bytes the largest new piece of memory has."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@check("The right groups, scaled, and no key was copied.")
def grouped_scores(answer) -> None:
    """Check grouped scores, and that keys are not copied for them."""
    generator = torch.Generator().manual_seed(10)
    query, key = torch.randn(2, 6, 3, 48, generator=generator), torch.randn(2, 2, 50, 48, generator=generator)
    right = query @ key.repeat_interleave(3, 1).mT / 48**0.5
    tiled = query @ key.repeat(1, 3, 1, 1).mT / 48**0.5
    with _LargestNewTensor() as memory:
        result = answer(query, key)
    _same_kind(result, right)

    def is_like(scores: torch.Tensor) -> bool:
        return torch.allclose(result, scores, atol=1e-4)

    unless(is_like(right * 48**0.5), "The scores are not scaled; divide by the square root of hd.")
    unless(is_like(right / 48**0.5), "The scores are divided by hd; take its square root.")
    unless(is_like(tiled), "Heads 0, 2 and 4 share a key head here; neighbours should: 0, 1 and 2.")
    expect(is_like(right), "The scores are not those of each query head with its group's key head.")
    unless(
        memory.bytes > 1.5 * key.nbytes,
        f"This copies the keys: they have {key.nbytes:,} bytes, and a new tensor has {memory.bytes:,}. "
        "Stack the queries of a group instead.",
    )
    for scores, wanted in (
        (answer(query[:, :, :1], key), right[:, :, :1]),
        (answer(query[:1], key[:1]), right[:1]),
    ):
        expect(torch.allclose(scores, wanted, atol=1e-4), "The scores are wrong for other T or B.")


@check("You know how far a stack can see.")
def receptive_field(answer) -> None:
    """Check the number of tokens that the last one's vector can depend on."""
    S, full = "sliding_attention", "full_attention"
    cases = (
        ([S] * 3, 5, 1_000),
        ([S], 8, 1_000),
        ([S] * 6, 9, 40),
        ([S, full] * 2, 5, 1_000),
        ([full, S], 4, 77),
        ([S, S, full], 4, 90),
        ([S] * 4, 1, 50),
    )
    for kinds, window, length in cases:
        result = answer(list(kinds), window, length)
        expect(isinstance(result, int), f"Return a whole number; this returned {result!r}.")
        layers = len(kinds)
        here = f"{layers} layers {kinds}, window {window}, {length} tokens"
        right = length if full in kinds else min(length, layers * (window - 1) + 1)
        if result == right:
            continue
        unless(result > length, f"The text has only {length} tokens, and you say {result} ({here}).")
        unless(
            full not in kinds and result == min(length, layers * window),
            f"Each layer adds window - 1 tokens: its window includes the token where it starts ({here}).",
        )
        unless(
            full not in kinds and result == min(length, layers * (window - 1)),
            f"The last token itself is missing: add one ({here}).",
        )
        unless(
            full not in kinds and result == min(length, window**layers),
            f"Reach adds up from layer to layer, it does not multiply ({here}).",
        )
        unless(
            full not in kinds and result == min(length, window),
            f"This is the reach of one layer; a stack hands on what the layer below has collected ({here}).",
        )
        unless(
            full in kinds and result < right,
            f"A full layer reaches every token, wherever in the stack it is ({here}).",
        )
        expect(False, f"The answer is {right}, not {result} ({here}).")
