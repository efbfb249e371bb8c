"""The checks of chapter 07 accept the solution and reject plausible mistakes, by name."""

import math

import torch

from tests.checks.catalogue import Catalogue

TOP_P = Catalogue("generation", "top_p")


def _nucleus(probabilities, rule, place=True, renormalize=True):
    ordered, index = probabilities.sort(descending=True)
    kept = torch.where(rule(ordered), ordered, 0.0)
    kept = kept / kept.sum() if renormalize else kept
    return torch.zeros_like(probabilities).scatter(0, index, kept) if place else kept


@TOP_P.wrong("crosses the line")
def drops_the_last(probabilities, p):
    return _nucleus(probabilities, lambda q: (q.cumsum(0) <= p) | (torch.arange(len(q)) == 0))


@TOP_P.wrong("best token must always stay")
def may_be_empty(probabilities, p):
    return _nucleus(probabilities, lambda q: q.cumsum(0) <= p)


@TOP_P.wrong("one token too many")
def keeps_one_more(probabilities, p):
    return _nucleus(probabilities, lambda q: q.cumsum(0) - q <= p)


@TOP_P.wrong("add up to 1")
def not_renormalized(probabilities, p):
    return _nucleus(probabilities, lambda q: q.cumsum(0) - q < p, renormalize=False)


@TOP_P.wrong("sorted")
def stays_sorted(probabilities, p):
    return _nucleus(probabilities, lambda q: q.cumsum(0) - q < p, place=False)


@TOP_P.wrong("each probability with p")
def compares_with_p(probabilities, p):
    return _nucleus(probabilities, lambda q: q >= p)


@TOP_P.wrong("probabilities")
def softmax_of_probabilities(probabilities, p):
    kept = _nucleus(probabilities, lambda q: q.cumsum(0) - q < p)
    return torch.where(kept > 0, probabilities, -math.inf).softmax(0)


test_top_p = TOP_P.test

MIN_P = Catalogue("generation", "min_p")


def _keep(logits, stay):
    return logits.masked_fill(~stay, -math.inf)


@MIN_P.wrong("whole batch")
def one_best_for_all(logits, p):
    return _keep(logits, logits >= logits.max() + math.log(p))


@MIN_P.wrong("p itself")
def compares_with_the_share(logits, p):
    return _keep(logits, logits.softmax(-1) >= p)


@MIN_P.wrong("add log p")
def factor_on_logits(logits, p):
    return _keep(logits, logits >= p * logits.amax(-1, keepdim=True))


@MIN_P.wrong("log p")
def subtracts_p(logits, p):
    return _keep(logits, logits >= logits.amax(-1, keepdim=True) - p)


@MIN_P.wrong("row is empty")
def wrong_sign(logits, p):
    return _keep(logits, logits >= logits.amax(-1, keepdim=True) - math.log(p))


@MIN_P.wrong(">=")
def strict(logits, p):
    return _keep(logits, logits > logits.amax(-1, keepdim=True) + math.log(p))


@MIN_P.wrong("should not change")
def returns_log_probabilities(logits, p):
    probabilities = logits.softmax(-1)
    return _keep(logits.log_softmax(-1), probabilities >= p * probabilities.amax(-1, keepdim=True))


@MIN_P.wrong("kept tokens are")
def base_ten(logits, p):
    return _keep(logits, logits >= logits.amax(-1, keepdim=True) + math.log10(p))


test_min_p = MIN_P.test

PENALIZE = Catalogue("generation", "penalize")


@PENALIZE.wrong("more likely")
def divides_all(logits, previous, penalty):
    result = logits.clone()
    for token in set(previous):
        result[token] = logits[token] / penalty
    return result


@PENALIZE.wrong("penalized once")
def counts(logits, previous, penalty):
    result = logits.clone()
    for token in previous:
        result[token] = result[token] * penalty if result[token] < 0 else result[token] / penalty
    return result


@PENALIZE.wrong("clone")
def in_place(logits, previous, penalty):
    for token in set(previous):
        logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    return logits


@PENALIZE.wrong("subtract")
def subtracts(logits, previous, penalty):
    result = logits.clone()
    for token in set(previous):
        result[token] -= penalty
    return result


@PENALIZE.wrong("did not occur")
def everything(logits, previous, penalty):
    return torch.where(logits < 0, logits * penalty, logits / penalty)


@PENALIZE.wrong("grew")
def rewards(logits, previous, penalty):
    result = logits.clone()
    for token in set(previous):
        result[token] = logits[token] * penalty
    return result


@PENALIZE.wrong("penalty that you are given")
def always_two(logits, previous, penalty):
    result = logits.clone()
    for token in set(previous):
        result[token] = logits[token] * 2 if logits[token] < 0 else logits[token] / 2
    return result


test_penalize = PENALIZE.test

STOP = Catalogue("generation", "until_stop")


@STOP.wrong("not seen")
def piece_by_piece(pieces, stop):
    for piece in pieces:
        if stop in piece:
            yield piece[: piece.index(stop)]
            return
        yield piece


@STOP.wrong("beginning of the stop string got out")
def too_late(pieces, stop):
    text = ""
    for piece in pieces:
        start, text = len(text), text + piece
        if stop in text:
            yield text[start : max(start, text.index(stop))]
            return
        yield piece


@STOP.wrong("itself got out")
def includes_the_stop(pieces, stop):
    text = "".join(pieces)
    yield text[: text.index(stop) + len(stop)] if stop in text else text


@STOP.wrong("at once")
def waits_for_everything(pieces, stop):
    text = ""
    for piece in pieces:
        text += piece
        if stop in text:
            break
    yield text.split(stop)[0]


@STOP.wrong("lost")
def forgets_what_it_holds(pieces, stop):
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        keep = next((n for n in range(len(stop) - 1, 0, -1) if held.endswith(stop[:n])), 0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]


@STOP.wrong("go on reading")
def never_returns(pieces, stop):
    held, over = "", False
    for piece in pieces:
        held += piece
        if stop in held and not over:
            yield held[: held.index(stop)]
            over = True
        if not over:
            keep = next((n for n in range(len(stop) - 1, 0, -1) if held.endswith(stop[:n])), 0)
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if not over:
        yield held


@STOP.wrong("begins twice")
def matches_characters_without_going_back(pieces, stop):
    matched = 0
    for piece in pieces:
        for character in piece:
            if character == stop[matched]:
                matched += 1
                if matched == len(stop):
                    return
            else:
                yield stop[:matched] + character
                matched = 0
    yield stop[:matched]


@STOP.wrong("at once")
def always_holds_the_length_of_the_stop(pieces, stop):
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        keep = min(len(stop) - 1, len(held))
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


test_until_stop = STOP.test
