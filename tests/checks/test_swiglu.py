"""The checks to chapter 13 accept the solutions and name the mistakes in wrong answers."""

import torch

from tests.checks.catalogue import Catalogue

ACTIVATION = Catalogue("swiglu", "activation")


def unit(gate, up, alpha=1.702):
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


@ACTIVATION.wrong("chunked")
def chunked(x, alpha=1.702, limit=7.0):
    gate, up = x.chunk(2, dim=-1)
    return unit(gate.clamp(max=limit), up.clamp(-limit, limit), alpha)


@ACTIVATION.wrong("swapped")
def swapped(x, alpha=1.702, limit=7.0):
    return unit(x[..., 1::2].clamp(max=limit), x[..., ::2].clamp(-limit, limit), alpha)


@ACTIVATION.wrong("alpha is missing")
def silu(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit), 1.0)


@ACTIVATION.wrong("+ 1 is missing")
def without_one(x, alpha=1.702, limit=7.0):
    gate = x[..., ::2].clamp(max=limit)
    return gate * torch.sigmoid(alpha * gate) * x[..., 1::2].clamp(-limit, limit)


@ACTIVATION.wrong("sigmoid alone")
def glu(x, alpha=1.702, limit=7.0):
    return torch.sigmoid(alpha * x[..., ::2].clamp(max=limit)) * (x[..., 1::2].clamp(-limit, limit) + 1)


@ACTIVATION.wrong("nothing is clamped")
def no_clamp(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2], x[..., 1::2], alpha)


@ACTIVATION.wrong("product is clamped")
def clamps_the_product(x, alpha=1.702, limit=7.0):
    gate, up = x[..., ::2], x[..., 1::2]
    result = unit(gate, up, alpha)
    beyond = (gate.abs() > 6.9) | (up.abs() > 6.9)
    return torch.where(beyond, result.clamp(-limit, limit), result)


@ACTIVATION.wrong("not clamped from above")
def wrong_side(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp(min=-limit), x[..., 1::2].clamp(-limit, limit), alpha)


@ACTIVATION.wrong("from below too")
def both_sides(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp(-limit, limit), x[..., 1::2].clamp(-limit, limit), alpha)


@ACTIVATION.wrong("up is not clamped from below")
def up_from_above_only(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(max=limit), alpha)


@ACTIVATION.wrong("differs")
def lost_minus_sign(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(limit, limit), alpha)


@ACTIVATION.wrong("alpha and limit")
def constants(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp(max=7.0), x[..., 1::2].clamp(-7.0, 7.0))


@ACTIVATION.wrong("through the clamp")
def straight_through(x, alpha=1.702, limit=7.0):
    gate, up = x[..., ::2], x[..., 1::2]
    gate = gate + (gate.clamp(max=limit) - gate).detach()
    up = up + (up.clamp(-limit, limit) - up).detach()
    return unit(gate, up, alpha)


@ACTIVATION.wrong("changes its input")
def in_place(x, alpha=1.702, limit=7.0):
    return unit(x[..., ::2].clamp_(max=limit), x[..., 1::2].clamp_(-limit, limit).mul_(0.5), alpha)


LAYOUT = Catalogue("swiglu", "to_interleaved")


@LAYOUT.wrong("nothing moved")
def unchanged(x):
    return x.clone()


@LAYOUT.wrong("way back")
def way_back(x):
    return torch.cat((x[..., ::2], x[..., 1::2]), dim=-1)


@LAYOUT.wrong("ups come first")
def ups_first(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.stack((up, gate), dim=-1).flatten(-2)


@LAYOUT.wrong("changed places")
def swapped_halves(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.cat((up, gate), dim=-1)


@LAYOUT.wrong("IndexError")
def matrices_only(x):
    gate, up = x[:, : x.shape[-1] // 2], x[:, x.shape[-1] // 2 :]
    return torch.stack((gate, up), dim=-1).flatten(-2)


@LAYOUT.wrong("not for a bias")
def leaves_vectors_alone(x):
    if x.dim() == 1:
        return x
    gate, up = x.chunk(2, dim=-1)
    return torch.stack((gate, up), dim=-1).flatten(-2)


@LAYOUT.wrong("[E, D, 2F]")
def two_dimensions_at_most(x):
    if x.dim() == 3:
        return x
    gate, up = x.chunk(2, dim=-1)
    return torch.stack((gate, up), dim=-1).flatten(-2)


ALPHA = Catalogue("swiglu", "best_alpha")


@ALPHA.wrong("best for the step")
def from_the_chapter():
    return 1.702


@ALPHA.wrong("is possible")
def root():
    return (8 / torch.pi) ** 0.5


@ALPHA.wrong("is possible")
def silu_alpha():
    return 1.9


@ALPHA.wrong("return a number")
def a_tensor():
    return torch.tensor(1.7)


@ALPHA.wrong("far away")
def far():
    return 17.02


test_activation = ACTIVATION.test
test_to_interleaved = LAYOUT.test
test_best_alpha = ALPHA.test
