"""The checks to chapter 09 accept the solutions and name the mistakes in wrong answers."""

import math

import torch

from gptoss_lib.config import RopeScaling
from gptoss_lib.rope import rope_inv_freq, yarn_inv_freq
from tests.checks.catalogue import Catalogue

LAYOUT = Catalogue("rope", "interleaved_to_halves")


@LAYOUT.wrong("stand where they stood")
def unchanged(weight, head_dim):
    return weight.clone()


@LAYOUT.wrong("way back")
def inverted(weight, head_dim):
    rows, width = weight.shape
    return weight.reshape(rows // head_dim, 2, head_dim // 2, width).transpose(1, 2).reshape(rows, width)


@LAYOUT.wrong("each head has its own")
def across_heads(weight, head_dim):
    return torch.cat((weight[::2], weight[1::2]))


@LAYOUT.wrong("odd rows come first")
def odd_first(weight, head_dim):
    heads = weight.reshape(-1, head_dim, weight.shape[1])
    return torch.cat((heads[:, 1::2], heads[:, ::2]), dim=1).reshape(weight.shape)


@LAYOUT.wrong("columns")
def columns(weight, head_dim):
    return torch.cat((weight[:, ::2], weight[:, 1::2]), dim=1)


@LAYOUT.wrong("shape")
def unflattened(weight, head_dim):
    heads = weight.reshape(-1, head_dim, weight.shape[1])
    return torch.cat((heads[:, ::2], heads[:, 1::2]), dim=1)


@LAYOUT.wrong("changes the weight it was given")
def in_place(weight, head_dim):
    rows, width = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, width).transpose(1, 2).reshape(rows, width)
    return weight.copy_(pairs)


test_interleaved_to_halves = LAYOUT.test

RELATIVE = Catalogue("rope", "is_relative")
QUERY, KEY = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))


def _same(rotate, pairs, tolerance=1e-2):
    scores = [float(rotate(QUERY, m) @ rotate(KEY, n)) for m, n in pairs]
    return max(scores) - min(scores) < tolerance


def _differs(rotate):
    return abs(float(rotate(QUERY, 9) @ rotate(KEY, 2)) - float(rotate(QUERY, 3) @ rotate(KEY, 2))) > 1e-2


@RELATIVE.wrong("lets this pass")
def always(rotate):
    return True


@RELATIVE.wrong("rejects")
def never(rotate):
    return False


@RELATIVE.wrong("bfloat16")
def near_the_start(rotate):
    return _same(rotate, [(3, 0), (4, 1), (60, 57), (200, 197)]) and _differs(rotate)


@RELATIVE.wrong("do not see the distance")
def without_the_second_condition(rotate):
    return _same(rotate, [(7, 0), (8, 1), (300, 293), (3_001, 2_994), (4_090, 4_083)])


@RELATIVE.wrong("rejects")
def exactly_equal(rotate):
    return _same(rotate, [(7, 0), (8, 1), (300, 293), (3_001, 2_994)], tolerance=1e-12) and _differs(rotate)


@RELATIVE.wrong("lets this pass")
def lengths_only(rotate):
    return all(
        torch.allclose(rotate(QUERY, m).norm(), rotate(QUERY, 0).norm(), rtol=1e-3) for m in (1, 99, 2_000)
    )


@RELATIVE.wrong("concentration")
def insists_on_length(rotate):
    kept = torch.allclose(rotate(QUERY, 0).norm(), QUERY.norm(), rtol=1e-3)
    return kept and _same(rotate, [(7, 0), (8, 1), (300, 293), (3_001, 2_994)]) and _differs(rotate)


@RELATIVE.wrong("True or False")
def returns_a_number(rotate):
    return float(rotate(QUERY, 3) @ rotate(KEY, 0))


test_is_relative = RELATIVE.test

RAMP = Catalogue("rope", "ramp_bounds")


def _pair(head_dim, theta, context, turns):
    return head_dim / 2 * math.log(context / (2 * math.pi * turns)) / math.log(theta)


@RAMP.wrong("truncated")
def rounded_outwards(head_dim, theta, context, fast, slow):
    return math.floor(_pair(head_dim, theta, context, fast)), math.ceil(_pair(head_dim, theta, context, slow))


@RAMP.wrong("swapped")
def swapped(head_dim, theta, context, fast, slow):
    return _pair(head_dim, theta, context, slow), _pair(head_dim, theta, context, fast)


@RAMP.wrong("hd/2 pairs")
def whole_head(head_dim, theta, context, fast, slow):
    return _pair(2 * head_dim, theta, context, fast), _pair(2 * head_dim, theta, context, slow)


@RAMP.wrong("2π")
def radians(head_dim, theta, context, fast, slow):
    return _pair(head_dim, theta, context * 2 * math.pi, fast), _pair(
        head_dim, theta, context * 2 * math.pi, slow
    )


@RAMP.wrong("slow end")
def from_the_slow_end(head_dim, theta, context, fast, slow):
    return head_dim / 2 - _pair(head_dim, theta, context, fast), head_dim / 2 - _pair(
        head_dim, theta, context, slow
    )


@RAMP.wrong("not from")
def stretched_context(head_dim, theta, context, fast, slow):
    return _pair(head_dim, theta, 32 * context, fast), _pair(head_dim, theta, 32 * context, slow)


@RAMP.wrong("two numbers")
def one_number(head_dim, theta, context, fast, slow):
    return _pair(head_dim, theta, context, fast)


test_ramp_bounds = RAMP.test

DIAGNOSE = Catalogue("rope", "diagnose")
PLAIN = rope_inv_freq(64, 150_000)
KINDS = {
    "plain": PLAIN,
    "interpolated": PLAIN / 32,
    "yarn": yarn_inv_freq(64, 150_000, RopeScaling()),
    "truncated": yarn_inv_freq(64, 150_000, RopeScaling(truncate=True)),
}


def _first(inv_freq, matches):
    return next((name for name, expected in KINDS.items() if matches(inv_freq, expected)), "unknown")


@DIAGNOSE.wrong("too loose")
def loose(inv_freq):
    return _first(inv_freq, lambda a, b: torch.allclose(a, b, rtol=0, atol=1e-3))


@DIAGNOSE.wrong("last bit")
def bitwise(inv_freq):
    return _first(inv_freq, torch.equal)


@DIAGNOSE.wrong("relative to their size")
def absolute(inv_freq):
    return _first(inv_freq, lambda a, b: torch.allclose(a, b, rtol=0, atol=2e-5))


@DIAGNOSE.wrong("none of the four kinds")
def no_unknown(inv_freq):
    return min(KINDS, key=lambda name: (inv_freq / KINDS[name]).log().abs().max())


@DIAGNOSE.wrong("These are 'yarn'")
def always_plain(inv_freq):
    return "plain"


@DIAGNOSE.wrong("five names")
def returns_a_flag(inv_freq):
    return torch.allclose(inv_freq, KINDS["yarn"])


test_diagnose = DIAGNOSE.test
