# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Generation
#
# Four exercises on [chapter 07](../07_generation.ipynb). Each one is a few lines, and most of them went wrong in
# well-known projects. The checks know how.

# %% tags=["setup"]

# %%
import math

import torch

from gptoss_lib.checks import generation as check

# %% [markdown]
# ## 1. The nucleus
#
# Write top-p from its definition, on probabilities of one row: the **smallest** set of most probable tokens whose
# probabilities add up to **at least** p, renormalized, each at its own place. You may assume that no two tokens tie at
# the border.


# %% nbgrader={"grade": false, "grade_id": "top-p", "locked": false, "schema_version": 3, "solution": true, "task": false}
def top_p(probabilities, p):
    """Return the probabilities [V] of nucleus sampling.

    Args:
        probabilities: [V], adding up to 1, in any order.
        p: above 0, at most 1.

    Returns:
        Probabilities [V], 0 outside the nucleus, adding up to 1.
    """
    ### BEGIN SOLUTION
    ordered, index = probabilities.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.where(before < p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(0, index, kept / kept.sum())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "top-p-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.top_p(top_p)
### BEGIN HIDDEN TESTS
_row = torch.tensor([0.1, 0.2, 0.3, 0.4])
torch.testing.assert_close(top_p(_row, 0.65), torch.tensor([0.0, 0.0, 3 / 7, 4 / 7]))
### END HIDDEN TESTS

# %% [markdown]
# ## 2. In the same league
#
# Min-p keeps tokens that are at least p times as probable as the best of their row. Write it on logits **without a
# softmax**. What does a factor p on probabilities become on logits?


# %% nbgrader={"grade": false, "grade_id": "min-p", "locked": false, "schema_version": 3, "solution": true, "task": false}
def min_p(logits, p):
    """Return the logits [B, V], −inf where a token is cut.

    Args:
        logits: [B, V].
        p: above 0, at most 1.
    """
    ### BEGIN SOLUTION
    line = logits.amax(dim=-1, keepdim=True) + math.log(p)
    return logits.masked_fill(logits < line, -math.inf)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "min-p-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.min_p(min_p)
### BEGIN HIDDEN TESTS
_logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
_p = _logits.softmax(-1)
assert torch.equal(torch.isfinite(min_p(_logits, 0.07)), _p >= 0.07 * _p.amax(-1, keepdim=True))
### END HIDDEN TESTS

# %% [markdown]
# ## 3. No more dogs
#
# Make every token that occurred in the text less likely by a factor on its **logit**. Remember that logits have signs,
# that a token may have occurred often, and that the caller still needs its logits.


# %% nbgrader={"grade": false, "grade_id": "penalize", "locked": false, "schema_version": 3, "solution": true, "task": false}
def penalize(logits, previous, penalty):
    """Return the logits [V] with every token in previous made less likely.

    Args:
        logits: [V].
        previous: the token ids of the text so far, a list, with repetitions.
        penalty: above 1.
    """
    ### BEGIN SOLUTION
    result = logits.clone()
    for token in set(previous):
        result[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    return result
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "penalize-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
check.penalize(penalize)
### BEGIN HIDDEN TESTS
torch.testing.assert_close(
    penalize(torch.tensor([-0.5, 4.0, 1.0]), [1, 0, 1], 4.0), torch.tensor([-2.0, 1.0, 1.0])
)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. Stop
#
# A model's text arrives in pieces. Pass the pieces on, but end the text before a stop string, which may be spread over
# several pieces. Never let any part of it out. Hold text back only as long as it could still become the stop string, and
# lose nothing: if the stream ends while you hold something, it was text after all.


# %% nbgrader={"grade": false, "grade_id": "until-stop", "locked": false, "schema_version": 3, "solution": true, "task": false}
def until_stop(pieces, stop):
    """Yield the text of pieces up to the stop string.

    Args:
        pieces: an iterable of strings, which may be endless.
        stop: the string that ends the text.

    Yields:
        Strings that join to the text before the stop string.
    """
    ### BEGIN SOLUTION
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        keep = next((n for n in range(len(stop) - 1, 0, -1) if held.endswith(stop[:n])), 0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "until-stop-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
check.until_stop(until_stop)
### BEGIN HIDDEN TESTS
assert "".join(until_stop(["ababa", "b", "ac!"], "abac")) == "abab"
assert "".join(until_stop(list("no end here\n"), "\n\n")) == "no end here\n"
### END HIDDEN TESTS
