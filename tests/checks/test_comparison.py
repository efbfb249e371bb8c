"""Every check of chapter 17 accepts the solution and rejects plausible mistakes, by name."""

import math

import numpy as np

from tests.checks.catalogue import Catalogue

WIDTH = Catalogue("comparison", "gpt2_width")
PAIRED = Catalogue("comparison", "paired_interval")
REFEREE = Catalogue("comparison", "referee")
SEEDS = Catalogue("comparison", "seeds_needed")


def width(target, fixed, per_unit, multiple, rounding=round):
    return multiple * max(1, rounding((target - fixed) / per_unit / multiple))


def fixed_part(D, layers):
    return layers * (4 * D + 4 * (D * D + D) + D) + 2 * D


@WIDTH.wrong("one layer")
def for_one_layer(target, D, layers, multiple=16):
    return width(target, fixed_part(D, 1), 2 * D + 1, multiple)


@WIDTH.wrong("three matrices")
def as_swiglu(target, D, layers, multiple=16):
    return width(target, fixed_part(D, layers), layers * (3 * D + 2), multiple)


@WIDTH.wrong("biases")
def matrices_only(target, D, layers, multiple=16):
    return width(target, layers * 4 * D * D, layers * 2 * D, multiple)


@WIDTH.wrong("norms")
def without_norms(target, D, layers, multiple=16):
    return width(target, fixed_part(D, layers) - layers * 4 * D - 2 * D, layers * (2 * D + 1), multiple)


@WIDTH.wrong("four matrices")
def three_attention_matrices(target, D, layers, multiple=16):
    return width(target, fixed_part(D, layers) - layers * D * D, layers * (2 * D + 1), multiple)


@WIDTH.wrong("rounds down")
def floor(target, D, layers, multiple=16):
    return width(
        target, fixed_part(D, layers), layers * (2 * D + 1), multiple, round if multiple == 1 else math.floor
    )


@WIDTH.wrong("rounds up")
def ceiling(target, D, layers, multiple=16):
    return width(
        target, fixed_part(D, layers), layers * (2 * D + 1), multiple, round if multiple == 1 else math.ceil
    )


@WIDTH.wrong("multiple")
def not_a_multiple(target, D, layers, multiple=16):
    return width(target, fixed_part(D, layers), layers * (2 * D + 1), 1)


@WIDTH.wrong("smallest")
def zero_or_less(target, D, layers, multiple=16):
    return multiple * round((target - fixed_part(D, layers)) / (layers * (2 * D + 1)) / multiple)


@WIDTH.wrong("whole number")
def a_fraction(target, D, layers, multiple=16):
    return (target - fixed_part(D, layers)) / (layers * (2 * D + 1))


def resample(differences, quantiles=(0.025, 0.975), replace=True, resamples=4000, seed=0):
    generator = np.random.default_rng(seed)
    values = np.asarray(differences)
    means = [generator.choice(values, len(values), replace=replace).mean() for _ in range(resamples)]
    return tuple(np.quantile(means, quantiles))


def pair(ours, theirs):
    return [ours[s] - theirs[s] for s in sorted(ours.keys() & theirs.keys())]


@PAIRED.wrong("sign")
def theirs_minus_ours(ours, theirs, resamples=4000, seed=0):
    return resample(pair(theirs, ours))


@PAIRED.wrong("paired by seed")
def unpaired(ours, theirs, resamples=4000, seed=0):
    shared = sorted(ours.keys() & theirs.keys())
    one, two = (
        np.array(
            [
                np.random.default_rng(k).choice([d[s] for s in shared], len(shared)).mean()
                for k in range(n, n + 4000)
            ]
        )
        for d, n in ((ours, 0), (theirs, 5000))
    )
    return tuple(np.quantile(one - two, [0.025, 0.975]))


@PAIRED.wrong("paired by seed")
def in_order_of_the_dict(ours, theirs, resamples=4000, seed=0):
    return resample([a - b for a, b in zip(ours.values(), theirs.values(), strict=True)])


@PAIRED.wrong("no width")
def without_replacement(ours, theirs, resamples=4000, seed=0):
    return resample(pair(ours, theirs), replace=False)


@PAIRED.wrong("90 %")
def cut_five_percent(ours, theirs, resamples=4000, seed=0):
    return resample(pair(ours, theirs), (0.05, 0.95))


@PAIRED.wrong("differences themselves")
def quantiles_of_differences(ours, theirs, resamples=4000, seed=0):
    return tuple(np.quantile(pair(ours, theirs), [0.025, 0.975]))


@PAIRED.wrong("standard errors")
def normal(ours, theirs, resamples=4000, seed=0):
    d = np.array(pair(ours, theirs))
    reach = 1.96 * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean() - reach, d.mean() + reach


@PAIRED.wrong("lower end")
def upside_down(ours, theirs, resamples=4000, seed=0):
    return resample(pair(ours, theirs))[::-1]


def referee_with(**replaced):
    """Return the right referee with some of its rules replaced."""

    def answer(a, b):
        small, large = sorted((a["active"], b["active"]))
        tokens = "nats a token" in (a["unit"], b["unit"]) and a["tokenizer"] != b["tokenizer"]
        rules = {
            "precision": lambda a, b: a["precision"] != b["precision"],
            "tokens": lambda a, b: a["tokens"] != b["tokens"],
            "reported": lambda a, b: a["reported"] != b["reported"],
            "unit": lambda a, b: a["unit"] != b["unit"] or tokens,
            "tuning": lambda a, b: len(a["rates_tried"]) != len(b["rates_tried"]),
            "seeds": lambda a, b: set(a["seeds"]) != set(b["seeds"]) or len(a["seeds"]) < 3,
            "size": lambda a, b: large - small > 0.03 * small,
            "router": lambda a, b: any(r["top_k"] == 1 < r["experts"] for r in (a, b)),
        } | replaced
        return {name for name, rule in rules.items() if rule(a, b)}

    return answer


@REFEREE.wrong("up to 3 %", build=True)
def exact_size():
    return referee_with(size=lambda a, b: a["active"] != b["active"])


@REFEREE.wrong("dense model", build=True)
def suspects_dense_models():
    return referee_with(router=lambda a, b: 1 in (a["top_k"], b["top_k"]))


@REFEREE.wrong("own rates", build=True)
def same_rates_for_all():
    return referee_with(tuning=lambda a, b: a["rates_tried"] != b["rates_tried"])


@REFEREE.wrong("order of the seeds", build=True)
def seeds_in_order():
    return referee_with(seeds=lambda a, b: a["seeds"] != b["seeds"] or len(a["seeds"]) < 3)


@REFEREE.wrong("across tokenizers", build=True)
def one_tokenizer_only():
    return referee_with(unit=lambda a, b: a["unit"] != b["unit"] or a["tokenizer"] != b["tokenizer"])


@REFEREE.wrong("two units", build=True)
def blind_to_tokenizers():
    return referee_with(unit=lambda a, b: a["unit"] != b["unit"])


@REFEREE.wrong("fewer than three", build=True)
def any_number_of_seeds():
    return referee_with(seeds=lambda a, b: set(a["seeds"]) != set(b["seeds"]))


@REFEREE.wrong("missed it", build=True)
def only_the_second_router():
    return referee_with(router=lambda a, b: b["top_k"] == 1 < b["experts"])


@REFEREE.wrong("missed it", build=True)
def only_larger_models():
    return referee_with(size=lambda a, b: b["active"] > 1.03 * a["active"])


@REFEREE.wrong("set of names")
def a_verdict(a, b):
    return "unfair"


TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def first(condition, numbers=range(2, 11)):
    return next((n for n in numbers if condition(n)), None)


@SEEDS.wrong("1.96")
def normal_quantile(effect, spread):
    return first(lambda n: 1.96 * spread / math.sqrt(n) < abs(effect))


@SEEDS.wrong("off by one")
def degrees_of_freedom(effect, spread):
    return first(lambda n: TABLE[min(n, 9)] * spread / math.sqrt(n) < abs(effect))


@SEEDS.wrong("root")
def no_root(effect, spread):
    return first(lambda n: TABLE[n - 1] * spread < abs(effect))


@SEEDS.wrong("spread / n")
def divided_by_n(effect, spread):
    return first(lambda n: TABLE[n - 1] * spread / n < abs(effect))


@SEEDS.wrong("√2")
def two_arms(effect, spread):
    return first(lambda n: TABLE[n - 1] * spread * math.sqrt(2 / n) < abs(effect))


@SEEDS.wrong("whole width")
def whole_width(effect, spread):
    return first(lambda n: 2 * TABLE[n - 1] * spread / math.sqrt(n) < abs(effect))


@SEEDS.wrong("sign")
def signed(effect, spread):
    return first(lambda n: TABLE[n - 1] * spread / math.sqrt(n) < effect)


@SEEDS.wrong("")
def ten_at_most(effect, spread):
    return first(lambda n: TABLE[n - 1] * spread / math.sqrt(n) < abs(effect)) or 10


test_gpt2_width = WIDTH.test
test_paired_interval = PAIRED.test
test_referee = REFEREE.test
test_seeds_needed = SEEDS.test
