"""Checks for the exercises to chapter 09, RoPE and YaRN."""

import math

import torch

from gptoss_lib.checks import check, expect, unless

__all__ = ["diagnose", "interleaved_to_halves", "is_relative", "ramp_bounds"]


@check("Every head's pairs now stand half a head apart, and all scores are what they were.")
def interleaved_to_halves(answer) -> None:
    """Check the reordering of a query or key projection from interleaved pairs to halves."""
    heads, head_dim, width = 3, 8, 10
    weight = torch.randn(heads * head_dim, width, generator=torch.Generator().manual_seed(9))
    given = weight.clone()
    result = answer(given, head_dim)
    expect(
        isinstance(result, torch.Tensor), f"A tensor should come back, but it is a {type(result).__name__}."
    )
    unless(not torch.equal(given, weight), "This changes the weight it was given; return a new tensor.")
    expect(
        result.shape == weight.shape,
        f"The shape should stay {list(weight.shape)}, but it is {list(result.shape)}.",
    )
    one_head = torch.cat((torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)))
    per_head = torch.arange(heads)[:, None] * head_dim
    right = weight[(per_head + one_head).flatten()]
    backwards = weight[(per_head + one_head.argsort()).flatten()]
    odd_first = weight[(per_head + one_head.roll(head_dim // 2)).flatten()]
    across = weight[torch.cat((torch.arange(0, len(weight), 2), torch.arange(1, len(weight), 2)))]
    unless(
        torch.equal(result, weight),
        "The rows stand where they stood; row 2i of a head must become its row i.",
    )
    unless(
        torch.equal(result, backwards),
        "This is the way back, from halves to interleaved; invert the permutation.",
    )
    unless(
        torch.equal(result, across), "This sorts the rows of all heads together; each head has its own pairs."
    )
    unless(
        torch.equal(result, odd_first),
        "Odd rows come first here; then every pair turns the other way round. Even rows belong first.",
    )
    unless(
        torch.equal(result, weight[:, torch.arange(width).view(-1, 2).T.flatten()]),
        "This reorders the columns, which are the inputs; the numbers of a query are the rows.",
    )
    expect(
        torch.equal(result, right),
        "The rows are not in the right order: row 2i becomes row i, 2i + 1 becomes i + hd/2.",
    )


def _turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2)
    return torch.cat(
        (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
    )


def _suspects() -> list[tuple[str, bool, object]]:
    frequencies = 1_000.0 ** (-torch.arange(8) / 8)
    table = torch.randn(4_096, 16, generator=torch.Generator().manual_seed(4))
    interleave = torch.arange(16).view(2, 8).T.flatten()

    def mirrored(x, position):
        (first, second), angles = x.chunk(2), position * frequencies
        return torch.cat(
            (first * angles.cos() - second * angles.sin(), second * angles.cos() - first * angles.sin())
        )

    return [
        ("RoPE in halves", True, lambda x, p: _turn(x, p * frequencies)),
        (
            "RoPE with interleaved pairs",
            True,
            lambda x, p: _turn(x[interleave.argsort()], p * frequencies)[interleave],
        ),
        ("RoPE with YaRN's concentration", True, lambda x, p: 1.35 * _turn(x, p * frequencies)),
        ("RoPE that turns the other way", True, lambda x, p: _turn(x, -p * frequencies)),
        ("RoPE with all positions one too high", True, lambda x, p: _turn(x, (p + 1) * frequencies)),
        ("no rotation at all: scores do not see the distance", False, lambda x, p: x.clone()),
        ("a learned table that is added, as in GPT-2", False, lambda x, p: x + table[p]),
        ("a rotation with a wrong sign in the second half", False, mirrored),
        (
            "angles that grow with the square of the position",
            False,
            lambda x, p: _turn(x, p**2 * frequencies),
        ),
        (
            "vectors that grow with the position",
            False,
            lambda x, p: (1 + p / 500) * _turn(x, p * frequencies),
        ),
        (
            "positions rounded to bfloat16, which are exact up to 256",
            False,
            lambda x, p: _turn(x, float(torch.tensor(float(p)).bfloat16()) * frequencies),
        ),
        (
            "a table that ends at 1,024 and repeats its last row",
            False,
            lambda x, p: _turn(x, min(p, 1_023) * frequencies),
        ),
    ]


@check("Your test knows good rotations from bad ones, even those that are bad only far from the start.")
def is_relative(answer) -> None:
    """Check a test for the relative-position property against good and broken rotations."""
    for name, relative, rotate in _suspects():
        verdict = answer(rotate)
        expect(isinstance(verdict, bool), f"Return True or False; this returned {verdict!r}.")
        if relative:
            expect(verdict, f"Your test rejects {name}, whose scores depend on the distance alone.")
        else:
            unless(verdict, f"Your test lets this pass: {name}.")


@check("Right: at gpt-oss's settings the ramp runs from 8.09 to 17.40.")
def ramp_bounds(answer) -> None:
    """Check the bounds of YaRN's ramp."""
    for head_dim, theta, context, fast, slow in ((64, 150_000, 4_096, 32, 1), (48, 10_000, 1_500, 16, 2)):
        result = answer(head_dim, theta, context, fast, slow)
        expect(
            isinstance(result, tuple | list) and len(result) == 2,
            f"Return two numbers, low and high; this returned {result!r}.",
        )
        low, high = (
            head_dim / 2 * math.log(context / (2 * math.pi * turns)) / math.log(theta)
            for turns in (fast, slow)
        )

        def near(first: float, second: float, given=tuple(result)) -> bool:
            return math.isclose(given[0], first, abs_tol=1e-4) and math.isclose(
                given[1], second, abs_tol=1e-4
            )

        unless(
            near(math.floor(low), math.ceil(high)),
            "This is truncated: the bounds are rounded to whole pairs, and gpt-oss does not do that.",
        )
        unless(
            near(high, low),
            "The bounds are swapped: fast pairs have low indices, so beta_fast gives the lower one.",
        )
        unless(
            near(2 * low, 2 * high), "This counts single numbers; a head has hd/2 pairs, so take half of it."
        )
        without_pi = [head_dim / 2 * math.log(context / turns) / math.log(theta) for turns in (fast, slow)]
        unless(near(*without_pi), "This takes a turn for one radian; a turn has 2π of them.")
        unless(
            near(head_dim / 2 - low, head_dim / 2 - high),
            "This counts pairs from the slow end; pair 0 is the fastest.",
        )
        expect(
            near(low, high),
            f"For head_dim={head_dim}, theta={theta}, context={context}, betas {fast}, {slow} the ramp runs "
            f"from {low:.4f} to {high:.4f}, not from {result[0]:.4f} to {result[1]:.4f}.",
        )


@check("All seven models recognised, the impostor too.")
def diagnose(answer) -> None:
    """Check the recognition of RoPE frequencies on right, wrong and foreign ones."""
    pairs = torch.arange(32, dtype=torch.float64)
    plain = 150_000.0 ** (-pairs / 32)

    def yarn(low: float, high: float, factor: float = 32.0) -> torch.Tensor:
        slow = ((pairs - low) / (high - low)).clamp(0, 1)
        return plain * (1 - slow) + plain / factor * slow

    low, high = (32 * math.log(4_096 / (2 * math.pi * turns)) / math.log(150_000) for turns in (32, 1))
    models = [
        ("yarn", yarn(low, high)),
        ("truncated", yarn(math.floor(low), math.ceil(high))),
        ("plain", plain),
        ("interpolated", plain / 32),
        ("unknown", 10_000.0 ** (-pairs / 32)),
        ("unknown", plain / 8),
        ("unknown", torch.cat((plain[:31], plain[31:] / 32))),
    ]
    for expected, frequencies in models:
        verdict = answer(frequencies.float())
        expect(isinstance(verdict, str), f"Return one of the five names; this returned {verdict!r}.")
        if expected == verdict:
            continue
        unless(
            (expected, verdict) == ("truncated", "yarn"),
            "The truncated ramp passes for the real one: the tolerance is too loose (they differ by 2e-4).",
        )
        unless(
            expected != "unknown" and verdict == "unknown",
            f"Frequencies of the kind {expected!r} are not recognised: they are off by a last bit; "
            "compare with a relative tolerance near 1e-5.",
        )
        unless(
            expected == "unknown",
            f"Frequencies that are none of the four kinds pass as {verdict!r}: compare all pairs, the slow "
            "ones relative to their size.",
        )
        expect(False, f"These are {expected!r}, and the answer is {verdict!r}.")
