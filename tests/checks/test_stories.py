"""Every check of chapter 03 accepts the solution and names the mistake in wrong answers."""

import math
from collections import Counter

from tests.checks.catalogue import Catalogue

TREE = Catalogue("stories", "tree_entropy")


def own(tree):
    return -sum(p * math.log(p) for p, _ in tree.values())


@TREE.wrong("equal weight")
def adds_children_unweighted(tree):
    return own(tree) + sum(adds_children_unweighted(child) for _, child in tree.values() if child)


@TREE.wrong("first choice alone")
def stops_at_the_first_choice(tree):
    return own(tree)


@TREE.wrong("bits")
def in_bits(tree):
    return sum(p * ((in_bits(child) if child else 0) - math.log2(p)) for p, child in tree.values())


@TREE.wrong("sign")
def wrong_sign(tree):
    return sum(p * ((wrong_sign(child) if child else 0) + math.log(p)) for p, child in tree.values())


@TREE.wrong("multiply")
def weights_by_the_last_step(tree, weight=1.0):
    return weight * own(tree) + sum(weights_by_the_last_step(child, p) for p, child in tree.values() if child)


@TREE.wrong("number of sentences")
def counts_sentences(tree):
    def leaves(node):
        return sum(leaves(child) if child else 1 for _, child in node.values())

    return math.log(leaves(tree))


@TREE.wrong("number")
def returns_nothing(tree):
    own(tree)


@TREE.wrong("nats")
def averages_children(tree):
    children = [averages_children(child) for _, child in tree.values() if child]
    return own(tree) + (sum(children) / len(children) if children else 0.0)


test_tree_entropy = TREE.test

PETS = Catalogue("stories", "pet_rules")
LISTS = {"child": ["Mia", "Tom", "Zoe", "Ben"], "pet": ["cat", "dog", "parrot", "hamster", "pony"]}
DRAWS = "[child:child][one:pet][two:pet]"
FIRST = "The {one} is asleep, so {child} plays with the {two}."
SECOND = "The {two} is asleep, so {child} plays with the {one}."


@PETS.wrong("turned into")
def forgets_the_child():
    tail = FIRST.replace("{child}", "<child>")
    return LISTS | {"story": ["[one:pet][two:pet]<child> has {one.a} and {two.a}. " + tail]}


@PETS.wrong("of one kind")
def draws_from_two_lists():
    rules = LISTS | {"story": ["[child:child][one:pet][two:animal]{child} has {one.a} and {two.a}. <awake>"]}
    return rules | {"animal": LISTS["pet"], "awake": [FIRST, SECOND]}


@PETS.wrong("")
def forgets_the_pets():
    tail = FIRST.replace("{one}", "<pet>").replace("{two}", "<pet>")
    return LISTS | {"story": ["[child:child]{child} has a <pet> and a <pet>. " + tail]}


@PETS.wrong("show what was drawn")
def lets_a_third_pet_in():
    tail = "The {three} is asleep, so {child} plays with the {two}."
    return LISTS | {"story": [DRAWS + "[three:pet]{child} has {one.a} and {two.a}. " + tail]}


@PETS.wrong("always the same")
def always_the_first_sleeps():
    return LISTS | {"story": [DRAWS + "{child} has {one.a} and {two.a}. " + FIRST]}


@PETS.wrong("uniform")
def prefers_the_first():
    awake = [(3, FIRST), (1, SECOND)]
    return LISTS | {"story": [DRAWS + "{child} has {one.a} and {two.a}. <awake>"], "awake": awake}


@PETS.wrong("complete")
def leaves_one_pet_out():
    rules = LISTS | {"story": [DRAWS + "{child} has {one.a} and {two.a}. <awake>"], "awake": [FIRST, SECOND]}
    return rules | {"pet": ["cat", "dog", "parrot", "hamster"]}


@PETS.wrong("read like the examples")
def forgets_the_article():
    return LISTS | {"story": [DRAWS + "{child} has {one} and {two}. <awake>"], "awake": [FIRST, SECOND]}


@PETS.wrong("cannot tell")
def leaves_a_child_out():
    rules = LISTS | {"story": [DRAWS + "{child} has {one.a} and {two.a}. <awake>"], "awake": [FIRST, SECOND]}
    return rules | {"child": ["Mia", "Tom", "Zoe"]}


@PETS.wrong("ambiguous")
def tells_everything_twice():
    awake = [FIRST, SECOND, FIRST, SECOND]
    rules = LISTS | {"story": [DRAWS + "{child} has {one.a} and {two.a}. <awake>"], "awake": awake}
    return rules


test_pet_rules = PETS.test

LIE = Catalogue("stories", "overstated")


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities)


def merged(derivations):
    texts = Counter()
    for p, text in derivations:
        texts[text] += p
    return texts.values()


@LIE.wrong("subtract")
def only_derivations(derivations):
    return entropy(p for p, _ in derivations)


@LIE.wrong("how much less")
def only_texts(derivations):
    return entropy(merged(derivations))


@LIE.wrong("wrong way round")
def texts_minus_derivations(derivations):
    return only_texts(derivations) - only_derivations(derivations)


@LIE.wrong("bits")
def lie_in_bits(derivations):
    return (only_derivations(derivations) - only_texts(derivations)) / math.log(2)


@LIE.wrong("equally likely")
def counts_texts(derivations):
    return only_derivations(derivations) - math.log(len({text for _, text in derivations}))


@LIE.wrong("drops the other")
def last_derivation_wins(derivations):
    return only_derivations(derivations) - entropy({text: p for p, text in derivations}.values())


@LIE.wrong("zero")
def no_lie(derivations):
    return 0.0


test_overstated = LIE.test

BYTES = Catalogue("stories", "bits_per_byte")


@BYTES.wrong("nats per byte")
def in_nats(texts, nats):
    return sum(nats) / sum(len(text.encode()) for text in texts)


@BYTES.wrong("divide by ln 2")
def multiplies_by_ln_2(texts, nats):
    return in_nats(texts, nats) * math.log(2)


@BYTES.wrong("characters")
def counts_characters(texts, nats):
    return sum(nats) / math.log(2) / sum(map(len, texts))


@BYTES.wrong("averages the ratios")
def mean_of_ratios(texts, nats):
    ratios = [cost / math.log(2) / len(text.encode()) for text, cost in zip(texts, nats, strict=True)]
    return sum(ratios) / len(ratios)


@BYTES.wrong("upside down")
def bytes_per_bit(texts, nats):
    return math.log(2) / in_nats(texts, nats)


@BYTES.wrong("bits per text")
def per_text(texts, nats):
    return sum(nats) / math.log(2) / len(texts)


@BYTES.wrong("bits per word")
def per_word(texts, nats):
    return sum(nats) / math.log(2) / sum(len(text.split()) for text in texts)


test_bits_per_byte = BYTES.test
