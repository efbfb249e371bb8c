"""Checks for the exercises to chapter 13, SwiGLU."""

import torch
import torch.nn.functional as F

from gptoss_lib.checks import check, expect, unless

__all__ = ["activation", "best_alpha", "to_interleaved"]


def _unit(gate: torch.Tensor, up: torch.Tensor, alpha: float = 1.702, extra: float = 1.0) -> torch.Tensor:
    return gate * torch.sigmoid(alpha * gate) * (up + extra)


@check("SwiGLU as gpt-oss has it, on both sides of every clamp.")
def activation(answer) -> None:
    """Check the clamped SwiGLU: layout, alpha, the + 1, each clamp, and the gradient."""
    x = 1.5 * torch.randn(4, 5, 2 * 9, generator=torch.Generator().manual_seed(13))
    x = x.clamp(-6.5, 6.5)  # no clamp at work yet
    given = x.clone()
    result = answer(given)
    unless(not torch.equal(given, x), "This changes its input; work on new tensors.")
    expect(
        isinstance(result, torch.Tensor) and result.shape == (4, 5, 9),
        "For x [4, 5, 18] the result should have the shape [4, 5, 9]: one number for a gate and an up.",
    )
    gate, up = x[..., ::2], x[..., 1::2]

    def near(expected: torch.Tensor) -> bool:
        return torch.allclose(result, expected, rtol=1e-4, atol=1e-5)

    unless(
        near(_unit(*x.chunk(2, dim=-1))),
        "The halves are chunked here; in gpt-oss gates stand at even places and ups at odd ones.",
    )
    unless(near(_unit(up, gate)), "Gate and up are swapped: the gate comes first, at the even places.")
    unless(near(_unit(gate, up, alpha=1.0)), "Alpha is missing in the sigmoid: sigmoid(alpha · gate).")
    unless(near(_unit(gate, up, extra=0.0)), "The + 1 is missing: multiply by (up + 1).")
    unless(
        near(torch.sigmoid(1.702 * gate) * (up + 1)),
        "This multiplies with the sigmoid alone; the bend is gate · sigmoid(alpha · gate).",
    )
    expect(
        near(_unit(gate, up)), "Inside the clamps it differs from gate · sigmoid(alpha · gate) · (up + 1)."
    )
    _clamps(answer)
    _settings(answer)


def _clamps(answer) -> None:
    def at(gate: float, up: float) -> float:
        return answer(torch.tensor([[gate, up]], dtype=torch.float64)).item()

    def unit(gate: float, up: float) -> float:
        return _unit(*torch.tensor([gate, up], dtype=torch.float64)).item()

    def equal(first: float, second: float) -> bool:
        return abs(first - second) <= 1e-6 * abs(second) + 1e-12

    unless(
        equal(at(20, 20), unit(20, 20)),
        "Nothing is clamped; gate and up above 7 have to be cut before the product.",
    )
    unless(
        equal(at(7, 6), 7.0) or equal(at(6, 6), 7.0),
        "The product is clamped here; clamp gate and up, before the bend. The result may reach 56.",
    )
    unless(
        equal(at(2, 0.5), unit(2, 7)),
        "Every up becomes 7: the lower limit is −7, so write clamp(min=-limit, max=limit).",
    )
    unless(equal(at(20, 3), unit(20, 3)), "The gate is not clamped from above; cut it at 7.")
    unless(equal(at(2, 20), unit(2, 20)), "Up is not clamped from above; cut it at 7.")
    unless(equal(at(2, -20), unit(2, -20)), "Up is not clamped from below; it stays between −7 and 7.")
    unless(equal(at(2, -20), unit(2, 0)), "Negative ups are cut at 0; the lower limit is −7.")
    unless(
        equal(at(-20, 3), unit(-7, 3)),
        "The gate is clamped from below too; the reference clamps it from above only.",
    )
    for gate in (-30.0, -7.0, 0.0, 7.0, 30.0):
        for up in (-30.0, -7.0, 7.0, 30.0):
            right = unit(min(gate, 7.0), max(-7.0, min(up, 7.0)))
            expect(
                equal(at(gate, up), right),
                f"For gate {gate:g} and up {up:g} the result should be {right:.6g}.",
            )


def _settings(answer) -> None:
    pair = torch.tensor([[5.0, 5.0]], dtype=torch.float64)
    two = torch.tensor(2.0, dtype=torch.float64)
    expect(
        torch.allclose(answer(pair, 1.0, 2.0), _unit(two, two, alpha=1.0)),
        "The arguments alpha and limit are not used everywhere; with alpha 1 and limit 2 the result is off.",
    )
    leaf = torch.tensor([[9.0, 1.0, 1.0, 9.0, -9.0, 1.0]], dtype=torch.float64, requires_grad=True)
    answer(leaf).sum().backward()
    expect(leaf.grad is not None, "No gradient comes back; stay with torch's own functions.")
    unless(
        bool((leaf.grad[0, [0, 3]] != 0).any()),
        "The values are right, but a gradient flows through the clamp; beyond it the gradient is zero.",
    )
    expect(leaf.grad[0, 4] != 0, "A closed gate, at −9, should still have a gradient.")


@check("Gates and ups stand in pairs, in weights and biases alike.")
def to_interleaved(answer) -> None:
    """Check the reordering of chunked columns into interleaved ones."""
    x = torch.arange(2 * 10).view(2, 10)
    given = x.clone()
    result = answer(given)
    unless(not torch.equal(given, x), "This changes its input; return a new tensor.")
    expect(
        isinstance(result, torch.Tensor) and result.shape == x.shape,
        f"The result should have the shape {list(x.shape)} of x.",
    )
    right = torch.stack((x[:, :5], x[:, 5:]), dim=-1).flatten(-2)
    unless(torch.equal(result, x), "Nothing moved.")
    unless(
        torch.equal(result, torch.cat((x[:, ::2], x[:, 1::2]), dim=-1)),
        "This is the way back, from interleaved to chunked.",
    )
    unless(
        torch.equal(result, torch.stack((x[:, 5:], x[:, :5]), dim=-1).flatten(-2)),
        "The ups come first here; the gate stands at the even place.",
    )
    unless(torch.equal(result, torch.cat((x[:, 5:], x[:, :5]), dim=-1)), "The halves only changed places.")
    expect(torch.equal(result, right), "Column 2i should be gate i, and column 2i + 1 up i.")
    bias, cube = torch.arange(6), torch.arange(48).view(2, 4, 6)
    expect(
        answer(bias).tolist() == [0, 3, 1, 4, 2, 5],
        "It works for a matrix but not for a bias [2F]; address the last dimension only.",
    )
    expect(
        torch.equal(answer(cube), torch.stack((cube[..., :3], cube[..., 3:]), dim=-1).flatten(-2)),
        "It works for a matrix but not for [E, D, 2F]; address the last dimension only.",
    )


def _distance(alpha: float) -> float:
    g = torch.linspace(-8, 8, 8_001, dtype=torch.float64)
    return (g * torch.sigmoid(alpha * g) - F.gelu(g)).abs().max().item()


@check("That alpha brings the bend closer to GELU than 1.702 does, though not by much.")
def best_alpha(answer) -> None:
    """Check the alpha that brings g · sigmoid(alpha g) closest to GELU."""
    alpha = answer()
    expect(isinstance(alpha, float | int), f"Return a number; this is a {type(alpha).__name__}.")
    expect(0 < alpha < 10, f"{alpha} is far away; look between 1 and 2.")
    mine = _distance(alpha)
    unless(
        abs(alpha - 1.702) < 5e-4,
        f"1.702 is best for the step, not for the bend: it misses by {mine:.4f}; less is possible.",
    )
    # Other things that one might minimize.
    g = torch.linspace(-8, 8, 8_001, dtype=torch.float64)
    tried = [1.5 + 0.001 * i for i in range(501)]
    mean = min(tried, key=lambda a: (g * torch.sigmoid(a * g) - F.gelu(g)).square().mean().item())
    best = min(tried, key=_distance)
    unless(
        abs(alpha - mean) < 5e-4 and abs(mean - best) > 2e-3,
        "This minimizes the mean squared difference; the exercise asks for the largest one.",
    )
    unless(alpha == 1 or alpha == 2, "That is a guess; compute it.")
    expect(
        abs(alpha - best) < 1.5e-3,
        f"With {alpha} the largest difference is {mine:.4f}; {_distance(best):.4f} is possible.",
    )
