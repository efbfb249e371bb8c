"""Checks for the exercises of chapter 04, Data."""

import math
import random
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from gptoss_lib.checks import check, expect, unless

__all__ = [
    "inputs_and_labels",
    "leak_share",
    "repaired_blocks",
    "report_bits_per_byte",
    "split_documents",
    "unseen_positions",
]


@check("Right: T + 1 tokens a row give T predictions, and each label is the token that follows its input.")
def inputs_and_labels(answer) -> None:
    """Check ``inputs_and_labels(tokens, seq_len) -> (input_ids, labels)``."""
    T = 5
    inputs, labels = _pair(answer(torch.arange(100, 124), T))
    unless(
        inputs.shape[-1] == T - 1,
        f"Your rows have {T - 1} columns for seq_len={T}: the shift ate one token of every block. "
        "Take T + 1 tokens a row.",
    )
    expect(
        inputs.ndim == 2 and inputs.shape == labels.shape and inputs.shape[1] == T,
        f"Both results should have the shape [n, {T}], but they have {list(inputs.shape)} and "
        f"{list(labels.shape)}.",
    )
    unless(
        labels.equal(inputs),
        "The labels are the inputs themselves: a model could just copy. Shift them by one.",
    )
    unless(labels.equal(inputs - 1), "The labels come before their inputs: you shifted the wrong way.")
    unless(labels.equal(inputs + 2), "The labels are two tokens ahead: you shifted twice.")
    unless(
        labels[:, :-1].equal(inputs[:, 1:]) and labels[:, -1].equal(inputs[:, 0]),
        "The last label of each row is the row's own first token: a roll inside the row wraps around. "
        "It should be the first token of the next block.",
    )
    unless(
        len(inputs) > 1 and inputs[1, 0] == inputs[0, 0] + T + 1,
        "The second row starts T + 1 tokens after the first, so one token a row is never an input: "
        "start it T later.",
    )
    expect(labels.equal(inputs + 1), "Each label should be the token right after its input; yours are not.")
    expect(
        inputs.shape[0] == 4 and inputs.flatten().equal(torch.arange(100, 120)),
        f"24 tokens hold 4 blocks of {T} inputs with their labels, one after the other from the start; "
        f"yours are {inputs.tolist()}.",
    )
    expect(
        inputs.dtype == labels.dtype == torch.int64, "Models look ids up in a table: both should be int64."
    )
    inputs, labels = _pair(answer(torch.arange(20), T))
    expect(
        inputs.shape == labels.shape == (3, T),
        f"20 tokens hold 3 blocks of {T}, because the last input of a fourth has no token after it; "
        f"you returned the shapes {list(inputs.shape)} and {list(labels.shape)}.",
    )


@check("Right: copies stay together in any order, nothing is lost, and about the asked share is held out.")
def split_documents(answer) -> None:
    """Check ``split_documents(documents, fraction) -> (train, val)``."""
    rng = random.Random(1)
    words = [f"word{number}" for number in range(60)]
    originals = [" ".join(rng.choices(words, k=12)) for _ in range(1_500)]
    spaced = [text.replace(" ", "\n ", 3) + " " for text in originals[300:600]]
    documents = originals + originals[:300] + spaced
    rng.shuffle(documents)

    train, val = (list(side) for side in answer(list(documents), 0.2))
    expect(
        sorted(train + val) == sorted(documents),
        f"You were given {len(documents)} documents and returned {len(train)} + {len(val)}, or changed them: "
        "every document, copies included, should come back unchanged on one side.",
    )
    again = [list(side) for side in answer(list(documents), 0.2)]
    unless(
        [train, val] != again,
        "Two calls with the same documents split them differently: chance must not decide.",
    )
    shared = set(train) & set(val)
    unless(
        shared,
        f"{len(shared)} documents stand on both sides: let a document's content decide, not its place.",
    )
    shared = {_plain(text) for text in train} & {_plain(text) for text in val}
    unless(
        shared,
        f"{len(shared)} documents stand on both sides with other white space: normalise it first.",
    )
    share = len(val) / len(documents)
    unless(share > 0.7, f"You held out {share:.0%} for fraction=0.2: the two sides are swapped.")
    expect(
        0.14 < share < 0.26,
        f"You held out {share:.0%} of the documents for fraction=0.2; that is too far off.",
    )
    backwards = [sorted(side) for side in answer(documents[::-1], 0.2)]
    unless(
        backwards != [sorted(train), sorted(val)],
        "The same documents in another order are split differently: a document's side should depend on "
        "its content alone.",
    )
    with patch("builtins.hash", side_effect=hash) as builtin:
        answer(documents[:5], 0.2)
    unless(
        builtin.called,
        "Python's hash() of a string is different in every process, so tomorrow's split is another one: "
        "use hashlib.",
    )


@check("Right: that is the share of the validation set that a model could know by heart.")
def leak_share(answer) -> None:
    """Check ``leak_share(train, val) -> float``."""
    train = ["a cat", "a dog", "a dog", "a bird sang", "the end", "more", "and more"]
    val = ["a  cat", "a dog", "a dog", "new", "a bird"]
    found = float(answer(list(train), list(val)))
    mistakes = [
        (3 / 7, "You divided by the training documents; the question is what share of the validation set."),
        (2 / 5, "Copies with other white space, or copies within the validation set, were not all found."),
        (2 / 4, "Copies within the validation set count one by one: each of them is scored."),
        (4 / 5, "A document counts if the whole of it stands in training, not if it is part of another one."),
        (
            5 / 5,
            "You count pairs of copies; a validation document counts once, however many copies there are.",
        ),
        (60.0, "Return a share between 0 and 1, not per cent."),
        (3.0, "That is the number of leaked documents; divide by the size of the validation set."),
    ]
    for value, message in mistakes:
        unless(math.isclose(found, value), message)
    expect(
        math.isclose(found, 3 / 5),
        f"3 of these 5 validation documents were trained on, so 0.6; you found {found}.",
    )
    expect(float(answer(["x"], ["y", "z"])) == 0.0, "Nothing is shared here, so the share is 0.")


@check("Right: total nats over bytes, in bits. This number can be compared across tokenizers.")
def report_bits_per_byte(answer) -> None:
    """Check ``report_bits_per_byte(loss, tokens, text) -> float``."""
    text = "Zoë drank a café au lait, naïve as ever. " * 7
    loss, tokens, size = 2.3, 90, len(text.encode())
    total = loss * tokens
    right = total / (math.log(2) * size)
    found = float(answer(loss, tokens, text))
    for value, message in {
        total
        / (math.log(2) * len(text)): "You divided by characters: ë, é and ï take two bytes each in UTF-8.",
        total / size: "That is nats per byte; one bit is ln 2 nats, so divide by ln 2.",
        total
        * math.log(2)
        / size: "You multiplied by ln 2; a nat is more than a bit, so the number must grow: divide.",
        loss
        / math.log(
            2
        ): "That is bits per token, which depends on the tokenizer: use the whole text's nats and bytes.",
        loss
        / (
            math.log(2) * size
        ): "You divided the loss of one token by all bytes: multiply by the tokens first.",
        loss
        / math.log(2)
        * size
        / tokens: "You multiplied by bytes per token; it should be tokens per byte.",
        math.exp(loss): "That is the perplexity, which depends on the tokenizer.",
    }.items():
        unless(math.isclose(found, value, rel_tol=1e-9), message)
    expect(
        math.isclose(found, right, rel_tol=1e-9),
        f"For this text it should be {right:.4f}, but you found {found:.4f}.",
    )
    expect(
        math.isclose(float(answer(math.log(256), 10, "ten bytes!")), 8.0),
        "A model that knows nothing about bytes has 8 bits per byte; yours has another number there.",
    )


@check("Right: a stream that counts tells where every label came from.")
def unseen_positions(answer) -> None:
    """Check ``unseen_positions(make_blocks, length, seq_len) -> list of positions``."""
    found = answer(_side_by_side, 23, 4)
    unless(isinstance(found, (int, np.integer)), "Return the positions themselves, not how many there are.")
    found = sorted(int(position) for position in found)
    unless(
        found
        == sorted(
            {int(i) for i in range(23)} - set(_side_by_side(torch.arange(23), 4)[0].flatten().tolist())
        ),
        "These positions are never an input. Look at the labels: they are what is predicted.",
    )
    unless(
        found == [4, 8, 12, 16, 20, 21, 22],
        "Position 0 is never predicted here either; report it too.",
    )
    expect(
        found == [0, 4, 8, 12, 16, 20, 21, 22],
        f"This batcher never predicts the positions [0, 4, 8, 12, 16, 20, 21, 22]; you found {found}.",
    )
    found = sorted(int(position) for position in answer(_padded, 11, 4))
    unless(-100 in found, "−100 is not a position but a label that is ignored.")
    expect(found == [0], f"This batcher predicts everything but position 0; you found {found}.")
    found = sorted(int(position) for position in answer(lambda tokens, T: _padded(tokens[2:], T), 300, 7))
    expect(
        found == [0, 1, 2],
        f"A batcher that starts at token 2 never predicts 0, 1 and 2 of 300; you found {found[:9]}. "
        "Is your stream long enough, and are its tokens all different?",
    )


@check("Right: every token but the first is predicted exactly once, and no label is made up.")
def repaired_blocks(answer) -> None:
    """Check ``repaired_blocks(tokens, seq_len) -> (input_ids, labels)``."""
    for length, T in [(23, 4), (21, 4), (20, 4), (9, 8), (5, 8)]:
        tokens = torch.arange(1_000, 1_000 + length)
        inputs, labels = _pair(answer(tokens.clone(), T))
        expect(
            inputs.ndim == 2 and inputs.shape == labels.shape and inputs.shape[1] == T,
            f"Both results should have the shape [n, {T}] for seq_len={T}, but they have "
            f"{list(inputs.shape)} and {list(labels.shape)}.",
        )
        scored = labels != -100
        made_up = set(labels[scored].tolist()) - set(tokens.tolist())
        unless(
            made_up,
            f"The labels {sorted(made_up)[:3]} are no tokens of the stream: fill the last row's labels with "
            "−100, which the loss ignores.",
        )
        predicted = (labels[scored] - 1_000).tolist()
        missing = sorted(set(range(1, length)) - set(predicted))
        unless(
            missing and any(all(position % size == 0 for position in missing) for size in (T, T + 1)),
            f"The positions {missing[:4]}… are still never predicted: one token is lost in every block.",
        )
        unless(
            missing and missing[-1] == length - 1,
            f"The positions {missing} at the end are never predicted: keep the last, shorter row.",
        )
        expect(not missing, f"The positions {missing[:6]} are never predicted.")
        unless(
            len(predicted) > len(set(predicted)),
            "Some tokens are predicted twice, so they count twice in the loss: start each row T after the "
            "one before.",
        )
        expect(
            bool((labels[scored] == inputs[scored] + 1).all()),
            "Each label should be the token right after its input; yours are not.",
        )
        expect(
            sorted(predicted) == list(range(1, length)),
            "Position 0 has no input before it: it cannot be a label.",
        )


def _pair(result: object) -> tuple[Tensor, Tensor]:
    expect(
        isinstance(result, (tuple, list)) and len(result) == 2,
        f"Return two things, input_ids and labels; you returned {type(result).__name__}.",
    )
    inputs, labels = (torch.as_tensor(part) for part in result)
    return inputs, labels


def _plain(text: str) -> str:
    return " ".join(text.split())


def _side_by_side(tokens: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """The batcher of the exercise, which loses a token a block."""
    blocks = tokens[: len(tokens) // T * T].view(-1, T)
    return blocks[:, :-1], blocks[:, 1:]


def _padded(tokens: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """A batcher that loses nothing."""
    rows = math.ceil((len(tokens) - 1) / T)
    padding = torch.full((rows * T + 1 - len(tokens),), -100)
    padded = torch.cat([tokens, padding])
    return padded[:-1].view(rows, T), padded[1:].view(rows, T)
