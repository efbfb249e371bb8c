"""Checks for the exercises of chapter 07: top-p, min-p, the repetition penalty, stop strings."""

import math
from itertools import chain, count

import torch

from gptoss_lib.checks import check, expect, unless

__all__ = ["min_p", "penalize", "top_p", "until_stop"]


def _close(left, right) -> bool:
    return left.shape == right.shape and torch.allclose(left.float(), right.float(), atol=1e-5)


@check("The smallest set that reaches p, renormalized and in its place.")
def top_p(answer) -> None:
    """Try distributions whose sums are exact in binary, so that every boundary is sharp."""
    for row, p, kept in (
        ([0.125, 0.0625, 0.75, 0.0625], 0.25, {2}),
        ([0.0625, 0.5, 0.125, 0.25, 0.0625], 0.8, {1, 2, 3}),
        ([0.0625, 0.5, 0.125, 0.25, 0.0625], 0.75, {1, 3}),
        ([0.25, 0.0625, 0.5, 0.1875], 1.0, {0, 1, 2, 3}),
    ):
        probabilities = torch.tensor(row)
        got = answer(probabilities.clone(), p)
        expect(
            isinstance(got, torch.Tensor) and got.shape == (len(row),),
            f"Return a tensor of {len(row)} numbers.",
        )
        right = torch.tensor([q if i in kept else 0.0 for i, q in enumerate(row)])
        normal = right / right.sum()
        stay = set((got > 0).nonzero().flatten().tolist())
        case = f"With {row} and p={p}"
        if _close(got, normal):
            continue
        unless(_close(got, right), f"{case}: what stays must add up to 1 again.")
        unless(
            _close(got, normal.sort(descending=True).values),
            f"{case}: the numbers are sorted; put them back where they came from.",
        )
        unless(
            stay != kept and stay == {i for i, q in enumerate(row) if q >= p},
            f"{case} you compare each probability with p; add them up from the largest on.",
        )
        expect(stay, f"{case} nothing is left: the best token must always stay.")
        unless(kept - stay, f"{case} the token that crosses the line is missing: the sum stays below p.")
        unless(stay - kept, f"{case} there is one token too many: the ones before it reach p already.")
        expect(False, f"{case} the right tokens stay, but not with the right probabilities.")


@check("A league of its own for every row, and no softmax needed.")
def min_p(answer) -> None:
    """Two rows with different maxima, several shares, and the largest one, 1."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -4.0, 2.0], [-1.0, -1.5, -9.0, -3.0, -2.0]])
    best = logits.amax(dim=-1, keepdim=True)
    probabilities = logits.softmax(-1)
    for p in (0.05, 0.2, 0.5, 1.0):
        got = answer(logits.clone(), p)
        expect(
            isinstance(got, torch.Tensor) and got.shape == logits.shape, "Return logits of the same shape."
        )
        stay = torch.isfinite(got)
        right = probabilities >= p * probabilities.amax(-1, keepdim=True) - 1e-7
        mistakes = {
            "A token exactly on the line stays: compare with >=.": logits > best + math.log(p),
            "You compare with the best token of the whole batch; each row has its own.": logits
            >= logits.max() + math.log(p) - 1e-6,
            "You compare probabilities with p itself; the line is p times the best one's.": probabilities
            >= p,
            "You multiply the best logit by p. A factor on probabilities becomes a sum: add log p.": logits
            >= p * best,
            "You subtract p from the best logit; what a factor p becomes on logits is log p.": logits
            >= best - p,
        }
        for message, mistake in mistakes.items():
            unless(not torch.equal(stay, right) and torch.equal(stay, mistake), message)
        expect(stay.any(-1).all(), f"With p={p} a row is empty: the best token is always in its own league.")
        expect(
            torch.equal(stay, right), f"With p={p} the kept tokens are {stay.tolist()}, not {right.tolist()}."
        )
        expect(torch.equal(got[stay], logits[stay]), "The logits that stay should not change.")


@check("Seen tokens lose, whatever their sign, and only once.")
def penalize(answer) -> None:
    """Positive and negative logits, repeated tokens, and the input left alone."""
    logits = torch.tensor([3.0, -2.0, 1.5, -1.0, 0.0])
    previous, penalty = [0, 1, 0, 0], 2.0
    given = logits.clone()
    got = answer(given, list(previous), penalty)
    expect(isinstance(got, torch.Tensor) and got.shape == logits.shape, "Return logits of the same shape.")
    unless(
        not torch.equal(given, logits),
        "You changed the logits that you were given; the caller still needs them. Work on a clone.",
    )
    unless(
        got[1] > logits[1],
        f"The logit {logits[1]} became {got[1]:.2f}: dividing a negative number makes the token more likely.",
    )
    unless(got[0] > logits[0], "A positive logit grew: the penalty should make the token less likely.")
    unless(
        torch.isclose(got[0], torch.tensor(3.0 / 2**3)), "You count occurrences; a token is penalized once."
    )
    unless(torch.isclose(got[0], torch.tensor(1.0)), "You subtract the penalty; it divides (or multiplies).")
    unless(not torch.equal(got[2:], logits[2:]), "Tokens that did not occur should keep their logits.")
    expect(
        torch.allclose(got[:2], torch.tensor([1.5, -4.0])), "Divide positive logits, multiply negative ones."
    )
    expect(
        torch.equal(answer(logits.clone(), [], 2.0), logits), "With no earlier tokens nothing should change."
    )
    expect(
        torch.allclose(answer(logits.clone(), [4, 3], 1.25), torch.tensor([3.0, -2.0, 1.5, -1.25, 0.0])),
        "Use the penalty that you are given, also for other tokens and other numbers.",
    )


@check("Nothing of the stop string gets out, and nothing else is kept in.")
def until_stop(answer) -> None:
    """Stop strings inside a piece, across pieces, begun and not finished, and endless streams."""
    cases = [
        (["one two", " three"], "STOP", "one two three", ""),
        (["one ST", "OP two"], "STOP", "one ", "across two pieces"),
        (["a", "S", "T", "O", "P", "b"], "STOP", "a", "across five pieces"),
        (["one STOP two STOP"], "STOP", "one ", "inside one piece"),
        (["a S", "T and ST", "O"], "STOP", "a ST and STO", "begun but never finished"),
        (["aab aa", "ab"], "aaab", "aab ", "begins twice"),
        (["SSTO", "P!"], "STOP", "S", "begins twice"),
    ]
    for pieces, stop, right, where in cases:
        got = "".join(answer(iter(pieces), stop))
        case = f"For {pieces} and stop={stop!r} ({where or 'no stop'})"
        unless(got == right + stop, f"{case} the stop string itself got out.")
        unless(
            len(got) < len(right) and right.startswith(got),
            f"{case} text is lost: what was held back must come out when it cannot become the stop string, "
            "or at the end.",
        )
        unless(
            got.startswith(right) and 0 < len(got) - len(right) < len(stop),
            f"{case} the beginning of the stop string got out: hold it back until you know.",
        )
        unless(
            got != right and got == "".join(pieces),
            f"{case} the stop was not seen: look at the text so far, not at each piece by itself.",
        )
        expect(got == right, f"{case} the text should be {right!r}, but you gave {got!r}.")

    seen = []
    source = (seen.append(piece) or piece for piece in chain(["one", " two", " ST"], ["OP"], _endless(seen)))
    stream = iter(answer(source, "STOP"))
    first = next((piece for piece in stream if piece), "")
    unless(len(seen) > 1, "You wait although 'one' cannot be the beginning of 'STOP': give text out at once.")
    expect(first == "one", f"The first piece should come out as it is, 'one', not {first!r}.")
    rest = "".join(stream)
    expect(rest == " two ", f"After 'one' there should come ' two ', not {rest!r}.")


def _endless(seen: list):
    """Pieces after the stop; asking for many of them means that the answer does not end."""
    for number in count():
        expect(
            number < 3, "After the stop string you go on reading; return, since the stream may be endless."
        )
        yield "more"
