"""The checks of chapter 04 accept its solutions and name the mistakes of wrong answers."""

import hashlib
import math
import random

import torch

from tests.checks.catalogue import Catalogue

SHIFT = Catalogue("data", "inputs_and_labels")


def _rows(tokens, T):
    return (len(tokens) - 1) // T


@SHIFT.wrong("themselves")
def no_shift(tokens, T):
    rows = tokens[: _rows(tokens, T) * T].view(-1, T)
    return rows, rows.clone()


@SHIFT.wrong("wrong way")
def backwards(tokens, T):
    used = _rows(tokens, T) * T
    return tokens[1 : used + 1].view(-1, T), tokens[:used].view(-1, T)


@SHIFT.wrong("twice")
def shifted_twice(tokens, T):
    used = (len(tokens) - 2) // T * T
    return tokens[:used].view(-1, T), tokens[2 : used + 2].view(-1, T)


@SHIFT.wrong("roll")
def rolled_in_the_row(tokens, T):
    rows = tokens[: _rows(tokens, T) * T].view(-1, T)
    return rows, rows.roll(-1, dims=1)


@SHIFT.wrong("T + 1 tokens a row")
def shift_inside_the_block(tokens, T):
    rows = tokens[: len(tokens) // T * T].view(-1, T)
    return rows[:, :-1], rows[:, 1:]


@SHIFT.wrong("never an input")
def blocks_that_share_nothing(tokens, T):
    rows = tokens[: len(tokens) // (T + 1) * (T + 1)].view(-1, T + 1)
    return rows[:, :-1], rows[:, 1:]


@SHIFT.wrong("has no token after it")
def wraps_to_the_start(tokens, T):
    used = len(tokens) // T * T
    return tokens[:used].view(-1, T), torch.cat([tokens, tokens[:1]])[1 : used + 1].view(-1, T)


@SHIFT.wrong("int64")
def floats(tokens, T):
    used = _rows(tokens, T) * T
    return tokens[:used].view(-1, T).float(), tokens[1 : used + 1].view(-1, T).float()


@SHIFT.wrong("two things")
def one_tensor(tokens, T):
    return tokens.unfold(0, T + 1, T)


test_inputs_and_labels = SHIFT.test


SPLIT = Catalogue("data", "split_documents")


def _by(documents, held_out):
    sides = ([], [])
    for index, document in enumerate(documents):
        sides[bool(held_out(index, document))].append(document)
    return sides


def _number(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@SPLIT.wrong("both sides")
def the_last_fifth(documents, fraction):
    return _by(documents, lambda index, _: index >= (1 - fraction) * len(documents))


@SPLIT.wrong("chance")
def at_random(documents, fraction):
    return _by(documents, lambda index, _: random.random() < fraction)


@SPLIT.wrong("both sides")
def at_random_with_a_seed(documents, fraction):
    rng = random.Random(0)
    return _by(documents, lambda index, _: rng.random() < fraction)


@SPLIT.wrong("white space")
def exact_content(documents, fraction):
    return _by(documents, lambda _, text: _number(text) < fraction)


@SPLIT.wrong("hashlib")
def hash_of_the_process(documents, fraction):
    return _by(documents, lambda _, text: hash(" ".join(text.split())) % 1_000 < 1_000 * fraction)


@SPLIT.wrong("swapped")
def sides_swapped(documents, fraction):
    return _by(documents, lambda _, text: _number(" ".join(text.split())) >= fraction)


@SPLIT.wrong("every document")
def copies_dropped(documents, fraction):
    return _by(dict.fromkeys(documents), lambda _, text: _number(" ".join(text.split())) < fraction)


@SPLIT.wrong("changed")
def white_space_changed(documents, fraction):
    return _by([" ".join(text.split()) for text in documents], lambda _, text: _number(text) < fraction)


@SPLIT.wrong("too far off")
def fraction_ignored(documents, fraction):
    return _by(documents, lambda _, text: _number(" ".join(text.split())) < 0.5)


@SPLIT.wrong("another order")
def first_copies_by_place(documents, fraction):
    first = {}
    for index, text in enumerate(documents):
        first.setdefault(" ".join(text.split()), index)
    return _by(documents, lambda _, text: first[" ".join(text.split())] % 5 == 0)


test_split_documents = SPLIT.test


LEAK = Catalogue("data", "leak_share")


def _plain(texts):
    return [" ".join(text.split()) for text in texts]


@LEAK.wrong("divided by the training documents")
def share_of_training(train, val):
    return sum(text in _plain(train) for text in _plain(val)) / len(train)


@LEAK.wrong("white space")
def exact_text(train, val):
    return sum(text in train for text in val) / len(val)


@LEAK.wrong("one by one")
def sets_only(train, val):
    known, held_out = set(_plain(train)), set(_plain(val))
    return len(known & held_out) / len(held_out)


@LEAK.wrong("part of another one")
def substrings(train, val):
    return sum(any(text in other for other in _plain(train)) for text in _plain(val)) / len(val)


@LEAK.wrong("pairs")
def pairs(train, val):
    return sum(text == other for text in _plain(val) for other in _plain(train)) / len(val)


@LEAK.wrong("per cent")
def per_cent(train, val):
    return 100 * sum(text in _plain(train) for text in _plain(val)) / len(val)


@LEAK.wrong("number of leaked")
def how_many(train, val):
    return sum(text in _plain(train) for text in _plain(val))


test_leak_share = LEAK.test


BITS = Catalogue("data", "report_bits_per_byte")


@BITS.wrong("characters")
def by_characters(loss, tokens, text):
    return loss * tokens / math.log(2) / len(text)


@BITS.wrong("nats per byte")
def nats(loss, tokens, text):
    return loss * tokens / len(text.encode())


@BITS.wrong("multiplied by ln 2")
def wrong_direction(loss, tokens, text):
    return loss * tokens * math.log(2) / len(text.encode())


@BITS.wrong("bits per token")
def a_token(loss, tokens, text):
    return loss / math.log(2)


@BITS.wrong("multiply by the tokens")
def mean_over_bytes(loss, tokens, text):
    return loss / math.log(2) / len(text.encode())


@BITS.wrong("tokens per byte")
def upside_down(loss, tokens, text):
    return loss / math.log(2) * len(text.encode()) / tokens


@BITS.wrong("perplexity")
def perplexity(loss, tokens, text):
    return math.exp(loss)


@BITS.wrong("should be")
def base_ten(loss, tokens, text):
    return loss * tokens / math.log(10) / len(text.encode())


test_report_bits_per_byte = BITS.test


UNSEEN = Catalogue("data", "unseen_positions")


def _labels(make_blocks, length, T):
    return set(make_blocks(torch.arange(length), T)[1].flatten().tolist())


@UNSEEN.wrong("never an input")
def inputs_instead(make_blocks, length, T):
    return sorted(set(range(length)) - set(make_blocks(torch.arange(length), T)[0].flatten().tolist()))


@UNSEEN.wrong("how many")
def count_only(make_blocks, length, T):
    return len(set(range(length)) - _labels(make_blocks, length, T))


@UNSEEN.wrong("position 0")
def forgets_the_first(make_blocks, length, T):
    return sorted(set(range(1, length)) - _labels(make_blocks, length, T))


@UNSEEN.wrong("−100")
def padding_is_a_position(make_blocks, length, T):
    return sorted(set(range(length)) ^ _labels(make_blocks, length, T))


@UNSEEN.wrong("all different")
def stream_repeats(make_blocks, length, T):
    labels = make_blocks(torch.arange(length) % 256, T)[1].flatten().tolist()
    return [position for position in range(length) if position % 256 not in labels]


@UNSEEN.wrong("you found")
def the_other_ones(make_blocks, length, T):
    return sorted(_labels(make_blocks, length, T))


test_unseen_positions = UNSEEN.test


REPAIR = Catalogue("data", "repaired_blocks")


def _padded(tokens, T, fill_labels=-100):
    rows = math.ceil((len(tokens) - 1) / T)
    inputs, labels = torch.zeros(rows * T, dtype=torch.int64), torch.full((rows * T,), fill_labels)
    inputs[: len(tokens) - 1], labels[: len(tokens) - 1] = tokens[:-1], tokens[1:]
    return inputs.view(rows, T), labels.view(rows, T)


@REPAIR.wrong("one token is lost in every block")
def blocks_that_share_nothing_padded(tokens, T):
    padding = torch.full((-len(tokens) % (T + 1),), -100)
    rows = torch.cat([tokens, padding]).view(-1, T + 1)
    return rows[:, :-1], rows[:, 1:]


@REPAIR.wrong("shape")
def unchanged(tokens, T):
    rows = tokens[: len(tokens) // T * T].view(-1, T)
    return rows[:, :-1], rows[:, 1:]


@REPAIR.wrong("shorter row")
def tail_dropped(tokens, T):
    used = (len(tokens) - 1) // T * T
    return tokens[:used].view(-1, T), tokens[1 : used + 1].view(-1, T)


@REPAIR.wrong("−100")
def filled_with_zeros(tokens, T):
    return _padded(tokens, T, fill_labels=0)


@REPAIR.wrong("twice")
def last_row_overlaps(tokens, T):
    starts = [*range(0, len(tokens) - 1 - T, T), max(len(tokens) - 1 - T, 0)]
    rows = [tokens[start : start + T + 1] for start in starts]
    if len(rows[0]) < T + 1:
        return _padded(tokens, T)
    return torch.stack([row[:-1] for row in rows]), torch.stack([row[1:] for row in rows])


@REPAIR.wrong("right after its input")
def rolled(tokens, T):
    inputs, labels = _padded(tokens, T)
    return inputs.roll(1), labels


@REPAIR.wrong("position 0")
def first_token_predicted_too(tokens, T):
    rows = math.ceil(len(tokens) / T)
    padding = torch.full((rows * T - len(tokens),), -100)
    labels = torch.cat([tokens, padding]).view(rows, T)
    return (torch.cat([tokens[:1] - 1, tokens[:-1], padding])).view(rows, T), labels


test_repaired_blocks = REPAIR.test
