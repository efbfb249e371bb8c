# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Data
#
# Four exercises with the things that go wrong silently: the shift, the split, the unit, and a batcher that loses tokens.
# They belong to the chapter [Data](../04_data.ipynb). Each is followed by a check that says what is right, or names the likely
# mistake.

# %% tags=["setup"]
# The tool fills the install snippet in.

# %%
import hashlib
import math

import torch

from gptoss_lib.checks import data as check

# %% [markdown]
# ## 1. Shift the labels
#
# Write the function that turns a stream into training rows. From the start of the stream, cut as many blocks as fit, one after
# the other. Row *n* of `input_ids` holds `seq_len` tokens; row *n* of `labels` holds, for each of them, the token that follows it in the
# stream. A last block that is not complete, label included, is left out.
#
# Before you write: how many rows do 24 tokens give for `seq_len=5`? And 20 tokens?


# %% nbgrader={"grade": false, "grade_id": "inputs-and-labels", "locked": false, "schema_version": 3, "solution": true, "task": false}
def inputs_and_labels(tokens, seq_len):
    """Return ``(input_ids, labels)``, both int64 of shape [n, T], from a stream of shape [N]."""
    ### BEGIN SOLUTION
    rows = (len(tokens) - 1) // seq_len
    used = rows * seq_len
    return tokens[:used].view(rows, seq_len), tokens[1 : used + 1].view(rows, seq_len)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "inputs-and-labels-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.inputs_and_labels(inputs_and_labels)
### BEGIN HIDDEN TESTS
_inputs, _labels = inputs_and_labels(torch.arange(7, 40), 8)
assert _inputs.shape == (4, 8) and _labels.equal(_inputs + 1)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Find the leak
#
# First write a split that cannot leak. Each document goes to training or validation; about `fraction` of them to validation. Copies
# of a document must end up on the same side, also if they differ in white space; it must not matter in which order the documents
# come, how often you call the function, or in which process.
#
# Then write the detector: which share of a validation set, document by document, also stands in the training set?


# %% nbgrader={"grade": false, "grade_id": "split-documents", "locked": false, "schema_version": 3, "solution": true, "task": false}
def split_documents(documents, fraction):
    """Return ``(train, val)``, two lists that together hold every given document once."""
    ### BEGIN SOLUTION
    sides = ([], [])
    for document in documents:
        digest = hashlib.sha256(" ".join(document.split()).encode()).digest()
        held_out = int.from_bytes(digest[:8], "big") < fraction * 2**64
        sides[held_out].append(document)
    return sides
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "split-documents-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.split_documents(split_documents)
### BEGIN HIDDEN TESTS
_train, _val = split_documents([f"document {number}" for number in range(1_000)], 0.5)
assert len(_train) + len(_val) == 1_000 and 400 < len(_val) < 600
### END HIDDEN TESTS


# %% nbgrader={"grade": false, "grade_id": "leak-share", "locked": false, "schema_version": 3, "solution": true, "task": false}
def leak_share(train, val):
    """Return the share of the documents in ``val`` that are, but for white space, also in ``train``."""
    ### BEGIN SOLUTION
    known = {" ".join(document.split()) for document in train}
    return sum(" ".join(document.split()) in known for document in val) / len(val)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "leak-share-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
check.leak_share(leak_share)
### BEGIN HIDDEN TESTS
assert leak_share(["a", "b"], ["a", "b\n", "c", "d"]) == 0.5
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Bits per byte
#
# Two reports about the same text. Model A: a loss of 1.02 nats a token with a tokenizer that makes 3,000 tokens of it. Model B:
# 1.31 nats a token, 2,200 tokens. Which model knows more about the text?
#
# Write the function that answers such questions. `loss` is the mean over the tokens, in nats; `text` is the text itself, in any
# language.


# %% nbgrader={"grade": false, "grade_id": "report-bits-per-byte", "locked": false, "schema_version": 3, "solution": true, "task": false}
def report_bits_per_byte(loss, tokens, text):
    """Return the bits per byte of a model with mean loss ``loss`` on the ``tokens`` tokens of ``text``."""
    ### BEGIN SOLUTION
    total_nats = loss * tokens
    return total_nats / (math.log(2) * len(text.encode("utf-8")))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "report-bits-per-byte-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.report_bits_per_byte(report_bits_per_byte)
### BEGIN HIDDEN TESTS
assert math.isclose(report_bits_per_byte(math.log(2), 30, "日本語"), 30 / 9)
### END HIDDEN TESTS

# %% [markdown]
# With the function, the two reports take one line each. The losses said A; what do the bits say?

# %% nbgrader={"grade": false, "grade_id": "two-reports", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
report = "x" * 10_000  # any text of the right length: only its bytes count
print(f"A {report_bits_per_byte(1.02, 3_000, report):.3f} bits per byte")
print(f"B {report_bits_per_byte(1.31, 2_200, report):.3f} bits per byte")
### END SOLUTION

# %% [markdown]
# ## 4. The missing token
#
# This batcher has trained models and nobody noticed. Its shapes are right, its labels are the inputs shifted by one, its loss falls.


# %%
def suspicious_blocks(tokens, seq_len):
    """Return ``(input_ids, labels)``; something is lost here."""
    blocks = tokens[: len(tokens) // seq_len * seq_len].view(-1, seq_len)
    return blocks[:, :-1], blocks[:, 1:]


suspicious_blocks(torch.arange(23), 4)

# %% [markdown]
# First write a detector that finds such bugs in *any* batcher: the positions of the stream that are never a label. You choose the
# stream that the batcher gets, and that is the trick: which stream tells you, of each label, where it came from? A label of −100 is
# padding and predicts nothing. Position 0 is reported too if it is never a label.


# %% nbgrader={"grade": false, "grade_id": "unseen-positions", "locked": false, "schema_version": 3, "solution": true, "task": false}
def unseen_positions(make_blocks, length, seq_len):
    """Return the sorted positions of a stream of ``length`` tokens that ``make_blocks`` never uses as labels."""
    ### BEGIN SOLUTION
    _, labels = make_blocks(torch.arange(length), seq_len)
    return sorted(set(range(length)) - set(labels.flatten().tolist()))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "unseen-positions-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.unseen_positions(unseen_positions)
### BEGIN HIDDEN TESTS
assert unseen_positions(suspicious_blocks, 12, 3) == [0, 3, 6, 9]
### END HIDDEN TESTS

# %% [markdown]
# Now repair the batcher. Every token but the very first should be a label exactly once, the end of the stream included. Rows have
# `seq_len` inputs and `seq_len` labels; what is missing in the last row is filled up, with −100 where it is a label.


# %% nbgrader={"grade": false, "grade_id": "repaired-blocks", "locked": false, "schema_version": 3, "solution": true, "task": false}
def repaired_blocks(tokens, seq_len):
    """Return ``(input_ids, labels)``, both [n, T], in which every token but the first is a label once."""
    ### BEGIN SOLUTION
    rows = math.ceil((len(tokens) - 1) / seq_len)
    input_ids = torch.zeros(rows * seq_len, dtype=torch.int64)
    labels = torch.full((rows * seq_len,), -100)
    input_ids[: len(tokens) - 1] = tokens[:-1]
    labels[: len(tokens) - 1] = tokens[1:]
    return input_ids.view(rows, seq_len), labels.view(rows, seq_len)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "repaired-blocks-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.repaired_blocks(repaired_blocks)
### BEGIN HIDDEN TESTS
assert unseen_positions(repaired_blocks, 50, 7) == [0]
### END HIDDEN TESTS
