"""Checks for the exercises to chapter 17, the fair fight."""

import numpy as np

from gptoss_lib.checks import check, expect, unless

__all__ = ["gpt2_width", "paired_interval", "referee", "seeds_needed"]


@check("The width that matches, biases and norms counted.")
def gpt2_width(answer) -> None:
    """Check the solver for the MLP width of a matched GPT-2."""

    def fixed(D: int, layers: int) -> int:
        return layers * (4 * D + 4 * (D * D + D) + D) + 2 * D

    # A small model, where biases and norms weigh enough to be seen.
    D, layers, target = 24, 6, 120_000
    right = round((target - fixed(D, layers)) / (layers * (2 * D + 1)))
    got = answer(target, D, layers, 1)
    expect(isinstance(got, int | np.integer), f"A width is a whole number; this is {got!r}.")

    def is_width(parameters: float, per_unit: float) -> bool:
        return got == round(parameters / per_unit)

    body = target - fixed(D, layers)
    unless(
        is_width(target - fixed(D, 1), 2 * D + 1), "This is the width for one layer; the target has them all."
    )
    unless(
        is_width(body, layers * (3 * D + 2)) or is_width(body, layers * 3 * D),
        "This has three matrices in the MLP, as SwiGLU; GPT-2's has two.",
    )
    unless(
        got != right and is_width(target - layers * 4 * D * D, layers * 2 * D),
        "The biases and norms are missing.",
    )
    unless(
        got != right and is_width(body + 4 * D * layers + 2 * D, layers * (2 * D + 1)),
        "The norms are missing.",
    )
    unless(
        is_width(body + layers * D * D, layers * (2 * D + 1)), "Attention has four matrices: the output too."
    )
    expect(got == right, f"For target {target:,}, hidden_size {D}, {layers} layers, multiple 1: not {got}.")
    for multiple, goal in ((16, 202_096), (16, 650_608), (48, 202_096), (48, 220_000)):
        exact = (goal - fixed(64, 4)) / (4 * 129)
        got, nearest = answer(goal, 64, 4, multiple), multiple * round(exact / multiple)
        unless(got % multiple, f"{got} is not a multiple of {multiple}.")
        unless(
            got != nearest and got == multiple * int(exact // multiple),
            "This rounds down; the multiple above may be nearer.",
        )
        unless(
            got != nearest and got == multiple * -int(-exact // multiple),
            "This rounds up; the multiple below may be nearer.",
        )
        expect(got == nearest, f"For {goal:,} and multiples of {multiple}, {nearest} is nearest, not {got}.")
    expect(
        answer(60_000, 64, 4, 16) == 16, "Where the target cannot be reached, the smallest width is nearest."
    )


_OURS = {0: 1.50, 1: 1.90, 2: 1.20, 3: 1.72, 7: 9.0}
_THEIRS = {3: 1.70, 2: 1.21, 1: 1.93, 0: 1.54, 9: 0.1}


@check("Paired by seed: what a seed does to both arms is gone.")
def paired_interval(answer) -> None:
    """Check the bootstrap of differences that are paired by seed."""
    result = answer(dict(_OURS), dict(_THEIRS))
    expect(isinstance(result, tuple | list) and len(result) == 2, "Return two numbers, (low, high).")
    low, high = map(float, result)
    differences = np.array([_OURS[s] - _THEIRS[s] for s in range(4)])
    means = differences[np.indices((4,) * 4).reshape(4, -1).T].mean(axis=1)  # all 4^4 samples
    right = np.quantile(means, [0.025, 0.975])

    def near(bounds, tolerance: float = 0.002) -> bool:
        return bool(np.allclose((low, high), bounds, atol=tolerance))

    unless(low > high, "The lower end comes first.")
    unless(near((-right[1], -right[0])), "The sign is turned round: it is ours − theirs.")
    unless(high - low < 1e-6, "This interval has no width: draw with replacement, and as many as there are.")
    unless(
        high - low > 3 * (right[1] - right[0]),
        "Far too wide: either it is not paired by seed (the scores of a seed go up and down together), or a "
        "seed that only one arm has is counted.",
    )
    unless(near(np.quantile(means, [0.05, 0.95]), 5e-4), "This is the 90 % interval: cut 2.5 % at each end.")
    unless(
        near(np.quantile(differences, [0.025, 0.975]), 5e-4),
        "These are quantiles of the differences themselves; take those of the means of resamples.",
    )
    reach = 1.96 * differences.std(ddof=1) / 2
    unless(
        near((differences.mean() - reach, differences.mean() + reach), 5e-4),
        "This is the normal interval, mean ± 1.96 standard errors; the exercise asks for the bootstrap.",
    )
    expect(near(right), f"The interval should be near ({right[0]:+.4f}, {right[1]:+.4f}).")


_RUN = {
    "precision": "fp32",
    "tokens": 512_000,
    "tokenizer": "stories-2048",
    "unit": "bits per byte",
    "rates_tried": [0.004, 0.008, 0.016],
    "rate": 0.008,
    "seeds": [0, 1, 2],
    "active": 200_064,
    "experts": 1,
    "top_k": 1,
    "reported": "last",
}
_FAULTS = (
    ("precision", {"precision": "bf16"}, "one run in bf16 against one in fp32"),
    ("tokens", {"tokens": 600_000}, "one run saw more tokens"),
    ("reported", {"reported": "best"}, "the best evaluation of one against the last of the other"),
    ("unit", {"unit": "nats a token"}, "two units"),
    ("tuning", {"rates_tried": [0.008]}, "one of them was not tuned"),
    ("seeds", {"seeds": [0, 1, 5]}, "other seeds, which do not pair"),
    ("seeds", {"seeds": [0]}, "one seed against three"),
    ("size", {"active": 260_000}, "thirty percent more active parameters"),
    ("size", {"active": 150_000}, "a quarter fewer active parameters"),
    ("router", {"experts": 4, "top_k": 1}, "a router that picks one of four experts"),
)


@check("A referee whom nobody fools, and who lets fair play pass.")
def referee(answer) -> None:
    """Check the referee on runs with one fault each, with none, and with many."""
    fair = _RUN | {"experts": 8, "top_k": 2, "active": 202_096}
    verdict = answer(dict(_RUN), dict(fair))
    expect(isinstance(verdict, set), f"Return a set of names; this is a {type(verdict).__name__}.")
    unless("size" in verdict, "1 % is not unfair: sizes may differ by up to 3 %.")
    unless("router" in verdict, "A dense model has one expert and no choice, and two of eight is fine.")
    expect(verdict == set(), f"These two runs are fair, but you found {sorted(verdict)}.")
    own_rate = fair | {"rate": 0.016, "rates_tried": [0.008, 0.016, 0.032]}
    unless(
        "tuning" in answer(dict(_RUN), dict(own_rate)),
        "Each may have its own rates: only that one tried more of them than the other is unfair.",
    )
    shuffled = fair | {"seeds": [2, 0, 1]}
    unless("seeds" in answer(dict(_RUN), dict(shuffled)), "The order of the seeds does not matter.")
    other = fair | {"tokenizer": "o200k"}
    unless(
        "unit" in answer(dict(_RUN), dict(other)),
        "Bits per byte can be compared across tokenizers; that is their use.",
    )
    for name, change, story in _FAULTS:
        for pair in ((dict(_RUN), fair | change), (fair | change, dict(_RUN))):
            found = answer(*map(dict, pair))
            unless(name not in found, f"You missed it: {story}. That is {name!r}.")
            extra = sorted(set(found) - {name})
            expect(not extra, f"With {story}, only {name!r} is unfair, but you also found {extra}.")
    short = {"seeds": [0, 1]}
    expect(
        "seeds" in answer(_RUN | short, fair | short),
        "Two seeds are fewer than three, even if both have them.",
    )
    nats = {"unit": "nats a token"}
    expect(
        "unit" in answer(_RUN | nats, other | nats),
        "Nats a token of two tokenizers are two units, though they have one name.",
    )
    unless("unit" in answer(_RUN | nats, fair | nats), "Nats a token of the same tokenizer are one unit.")
    edge = {"active": 103}
    unless("size" in answer(_RUN | {"active": 100}, fair | edge), "Exactly 3 % is not more than 3 %.")
    many = fair | {"precision": "bf16", "seeds": [0], "rates_tried": [1.0], "top_k": 1}
    expect(
        answer(dict(_RUN), dict(many)) == {"precision", "seeds", "tuning", "router"},
        "A run with four faults should get all four names.",
    )


@check("Now you know what the experiment costs.")
def seeds_needed(answer) -> None:
    """Check how many seeds an effect needs, by Student's interval."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

    def needed(effect: float, spread: float, factor) -> int | None:
        found = (n for n in range(2, 11) if factor(n) * spread < abs(effect))
        return next(found, None)

    def student(n: int) -> float:
        return table[n - 1] / n**0.5

    known = (
        (lambda n: 1.96 / n**0.5, "This uses 1.96, which is right for many seeds; take t from the table."),
        (lambda n: table[min(n, 9)] / n**0.5, "t is off by one: n numbers have n − 1 degrees of freedom."),
        (lambda n: table[n - 1], "The standard error is spread / √n; the root is missing."),
        (lambda n: table[n - 1] / n, "The standard error is spread / √n, not spread / n."),
        (lambda n: student(n) * 2**0.5, "The spread is that of the differences already; no √2 for two arms."),
        (lambda n: 2 * student(n), "The half width has to be smaller than the effect, not the whole width."),
    )
    cases = [(effect, spread) for spread in (0.01, 1.0) for effect in np.arange(0.4, 10, 0.05) * spread]
    for effect, spread in ((-2.0, 1.0), (-0.8, 1.0)):
        got = answer(effect, spread)
        expect(got == answer(-effect, spread), "The sign of the effect does not matter.")
    answers = [answer(float(effect), spread) for effect, spread in cases]
    right = [needed(effect, spread, student) for effect, spread in cases]
    for factor, message in known:
        wrong = [needed(effect, spread, factor) for effect, spread in cases]
        unless(answers != right and answers == wrong, message)
    for (effect, spread), got, expected in zip(cases, answers, right, strict=True):
        expect(
            got == expected,
            f"For an effect of {effect:.4g} and a spread of {spread:g}: {expected}, not {got}.",
        )
    expect(answer(0.0, 1.0) is None, "No number of seeds shows an effect of zero: return None.")
