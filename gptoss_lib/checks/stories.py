"""Checks for chapter 03, A small world."""

import math
import re

from gptoss_lib.checks import check, expect, unless
from gptoss_lib.stories import StoryGrammar

_TREE = {
    "The cat": (
        0.5,
        {"sleeps": (0.75, None), "purrs": (0.25, {"softly": (0.5, None), "loudly": (0.5, None)})},
    ),
    "The dog": (0.3, {"barks": (1.0, None)}),
    "It": (0.2, {"rains": (0.9, None), "snows": (0.1, None)}),
}
_PETS = re.compile(
    r"(\w+) has an? (\w+) and an? (\w+)\. The (\w+) is asleep, so (\w+) plays with the (\w+)\."
)


def _close(answer: float, truth: float) -> bool:
    return math.isclose(answer, truth, rel_tol=1e-9, abs_tol=1e-9)


def _own(node: dict) -> float:
    return -sum(p * math.log(p) for p, _ in node.values())


@check("Right: each choice costs its own entropy, times the probability of getting to it.")
def tree_entropy(answer) -> None:
    """Check the entropy of a choice tree against the list of its sentences."""
    cat, softly, rain = _TREE["The cat"][1], _TREE["The cat"][1]["purrs"][1], _TREE["It"][1]
    truth = _own(_TREE) + 0.5 * (_own(cat) + 0.25 * _own(softly)) + 0.2 * _own(rain)
    given = answer(_TREE)
    expect(isinstance(given, float | int), f"Return a number; this is {given!r}.")
    unless(_close(given, truth / math.log(2)), "This is in bits; the exercise asks for nats (use math.log).")
    unless(_close(given, -truth), "This is the right size with the wrong sign: surprise is −log p.")
    unless(_close(given, _own(_TREE)), "This is the entropy of the first choice alone; add what follows it.")
    unless(
        _close(given, _own(_TREE) + _own(cat) + _own(softly) + _own(rain)),
        "This adds all choices with equal weight; a choice counts only as often as the story gets to it.",
    )
    unless(
        _close(given, _own(_TREE) + 0.5 * _own(cat) + 0.25 * _own(softly) + 0.2 * _own(rain)),
        "This weights a choice by the last step alone; all probabilities on the way to it multiply.",
    )
    unless(
        _close(given, math.log(6)),
        "This is the logarithm of the number of sentences; they do not have the same probability.",
    )
    expect(
        _close(given, truth),
        f"The tree of the chapter, made larger, has {truth:.4f} nats; this gives {given:.4f}.",
    )


@check(
    "Right: 160 stories, all alike in probability, each with one derivation, and the names are remembered."
)
def pet_rules(answer) -> None:
    """Check a grammar with a child and two pets that have to be remembered."""
    grammar = StoryGrammar(answer())
    asleep_first = set()
    for story in grammar.stories(seed=1, count=400):
        parts = _PETS.fullmatch(story.text)
        expect(parts, f"This story does not read like the examples: {story.text!r}.")
        child, one, two, asleep, player, awake = parts.groups()
        unless(
            child != player,
            f"{child} turned into {player}: draw the child once, with [child:…], and show it twice.",
        )
        unless(
            one == two,
            f"Somebody has two pets of one kind ({one}); draw both from the same list and they differ.",
        )
        unless(
            {asleep, awake} != {one, two},
            f"The pets were {one} and {two}, but then {asleep} and {awake}: show what was drawn.",
        )
        asleep_first.add(asleep == one)
    unless(
        len(asleep_first) == 1,
        "It is always the same one of the two pets that is asleep; choose between both.",
    )
    texts = {f"{child} has a cat and a dog. The dog is asleep, so {child} plays with the cat." for child in
             ("Mia", "Tom", "Zoe", "Ben")}  # fmt: skip
    for text in sorted(texts):
        expect(not _fails(grammar, text), f"Your grammar cannot tell {text!r}: {_fails(grammar, text)}")
    truth = math.log(4 * 5 * 4 * 2)
    given = grammar.entropy()
    expect(
        _close(given, truth),
        f"The entropy must be log(4 · 5 · 4 · 2) = {truth:.4f} nats; yours is {given:.4f}. "
        "Is every choice uniform, and are the lists complete?",
    )
    grammar.prove_unambiguous()


def _fails(grammar: StoryGrammar, text: str) -> str:
    try:
        grammar.parse(text)
    except ValueError as error:
        return str(error)
    return ""


@check("Right: merge the derivations of a text first; what the merging loses is the lie.")
def overstated(answer) -> None:
    """Check the gap between the entropy of derivations and that of texts."""
    twins = [(0.25, "red hot dog"), (0.125, "red dog"), (0.125, "red hot dog"), (0.5, "dog")]
    derivations = -sum(p * math.log(p) for p, _ in twins)
    texts = -sum(p * math.log(p) for p in (0.375, 0.125, 0.5))
    given, truth = answer(twins), derivations - texts
    expect(isinstance(given, float | int), f"Return a number; this is {given!r}.")
    unless(_close(given, derivations), "This is the entropy of the derivations; subtract that of the texts.")
    unless(_close(given, texts), "This is the entropy of the texts; the question is how much less it is.")
    unless(_close(given, -truth), "The sign is the wrong way round: derivations have the larger entropy.")
    unless(_close(given, truth / math.log(2)), "This is in bits; the exercise asks for nats.")
    unless(
        _close(given, derivations - math.log(3)),
        "This takes the three texts to be equally likely; add the probabilities of the derivations of each.",
    )
    kept_one = -sum(p * math.log(p) for p in (0.125, 0.125, 0.5))
    unless(
        _close(given, derivations - kept_one),
        "This keeps one derivation of a text and drops the other; add their probabilities.",
    )
    unless(_close(given, 0), "This is zero, but 'red hot dog' has two derivations.")
    expect(
        _close(given, truth),
        f"Four derivations of three texts overstate by {truth:.4f} nats; this gives {given:.4f}.",
    )
    honest = [(0.5, "a"), (0.5, "b")]
    expect(_close(answer(honest), 0), "Where no text has two derivations, nothing is overstated.")


@check("Right: all bits by all bytes.")
def bits_per_byte(answer) -> None:
    """Check bits per byte on texts of different lengths with letters of two bytes."""
    texts, nats = (
        ["Zoë ran home.", "Åse", "The café was closed, so they went to the beach."],
        [20.0, 9.0, 31.0],
    )
    sizes = [len(text.encode()) for text in texts]
    letters = [len(text) for text in texts]
    given, truth = answer(texts, nats), sum(nats) / math.log(2) / sum(sizes)
    expect(isinstance(given, float | int), f"Return a number; this is {given!r}.")
    unless(_close(given, sum(nats) / sum(sizes)), "This is nats per byte; one nat is 1/ln 2 bits.")
    unless(
        _close(given, sum(nats) * math.log(2) / sum(sizes)), "Divide by ln 2: a bit is smaller than a nat."
    )
    unless(
        _close(given, sum(nats) / math.log(2) / sum(letters)),
        "This counts characters; 'é' is two bytes in UTF-8.",
    )
    ratios = [cost / math.log(2) / size for cost, size in zip(nats, sizes, strict=True)]
    unless(
        _close(given, sum(ratios) / len(ratios)),
        "This averages the ratios, so that a short text counts as much as a long one; divide the sums.",
    )
    unless(_close(given, 1 / truth), "This is bytes per bit, upside down.")
    unless(
        _close(given, truth * sum(sizes) / len(texts)),
        "This is bits per text; divide by the bytes, not the texts.",
    )
    unless(
        _close(given, truth * sum(sizes) / sum(len(text.split()) for text in texts)),
        "This is bits per word; divide by the bytes.",
    )
    expect(_close(given, truth), f"The three texts cost {truth:.4f} bits a byte; this gives {given:.4f}.")
