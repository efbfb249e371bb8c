"""SwiGLU: OpenAI's definition beyond every clamp, forward and backward, and the interleaved layout."""

import math

import pytest
import torch
import torch.nn.functional as F

from gptoss_lib.swiglu import join_gate_up, split_gate_up, swiglu, swiglu_backward, swiglu_parts

B, T, WIDTH = 2, 3, 53
GATES = (-30.0, -7.5, -7.0, -6.9, -0.8, 0.0, 2.5, 6.9, 7.0, 7.1, 30.0)
UPS = (-30.0, -7.1, -7.0, -6.9, -1.0, 0.0, 0.4, 6.9, 7.0, 7.1, 30.0)


def numbers(*shape, seed=0, scale=6.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(gate, up, alpha=1.702, limit=7.0):
    """One unit, in plain Python."""
    gate, up = min(gate, limit), max(-limit, min(up, limit))
    return gate / (1 + math.exp(-alpha * gate)) * (up + 1)


@pytest.mark.parametrize("alpha, limit", [(1.702, 7.0), (1.0, 2.0)])
def test_every_combination_of_clamps(alpha, limit):
    pairs = torch.tensor([(gate, up) for gate in GATES for up in UPS], dtype=torch.float64)
    expected = torch.tensor([unit(*pair, alpha, limit) for pair in pairs.tolist()], dtype=torch.float64)
    # Relative: a gate that is also clamped from below differs by 5e-5 in absolute numbers only.
    torch.testing.assert_close(swiglu(pairs, alpha, limit)[:, 0], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(swiglu_parts(*pairs.unbind(-1), alpha, limit), expected, rtol=1e-12, atol=0)


def test_gates_stand_at_even_places():
    x = numbers(B, T, 2 * WIDTH)
    result = swiglu(x)
    assert result.shape == (B, T, WIDTH)
    for place in (0, 1, WIDTH - 1):
        expected = unit(x[1, 2, 2 * place].item(), x[1, 2, 2 * place + 1].item())
        assert result[1, 2, place].item() == pytest.approx(expected, rel=1e-12)


def test_split_and_join_are_inverse():
    x = torch.arange(2 * 10).view(2, 10)
    gate, up = split_gate_up(x)
    assert gate.tolist() == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]]
    assert up.tolist() == [[1, 3, 5, 7, 9], [11, 13, 15, 17, 19]]
    assert gate.is_contiguous() and up.is_contiguous()
    assert torch.equal(join_gate_up(gate, up), x)


@pytest.mark.parametrize("alpha, limit", [(1.702, 7.0), (1.0, 2.0)])
def test_the_gradient_by_hand_equals_autograd(alpha, limit):
    x = numbers(B, T, 2 * WIDTH, scale=8).requires_grad_()
    upstream = numbers(B, T, WIDTH, seed=1)
    swiglu(x, alpha, limit).backward(upstream)
    gate, up = split_gate_up(x.detach())
    originals = [tensor.clone() for tensor in (upstream, gate, up)]
    result = join_gate_up(*swiglu_backward(upstream, gate, up, alpha, limit))
    torch.testing.assert_close(result, x.grad, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(*pair) for pair in zip((upstream, gate, up), originals, strict=True)), (
        "inputs stay"
    )


def test_the_gradient_is_zero_exactly_beyond_the_clamps():
    pairs = torch.tensor([(gate, up) for gate in GATES for up in UPS], dtype=torch.float64)
    gate, up = pairs.unbind(-1)
    grad_gate, grad_up = swiglu_backward(torch.ones_like(gate), gate, up)
    moved = pairs.clone().requires_grad_()
    swiglu(moved).sum().backward()
    for result, expected in ((grad_gate, moved.grad[:, 0]), (grad_up, moved.grad[:, 1])):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=0)
    assert (grad_gate[gate > 7] == 0).all()
    assert (grad_up[up.abs() > 7] == 0).all()
    inside = (gate < -7) & (up != -1)
    assert (grad_gate[inside] != 0).all(), "the gate is not clamped from below"
    assert (grad_up[(up.abs() <= 7) & (gate != 0)] != 0).all()


def test_gradcheck_of_the_formula():
    gate, up = numbers(7, scale=3, seed=2), numbers(7, scale=3, seed=3)
    step = 1e-6
    upstream = numbers(7, seed=4, scale=1)
    grad_gate, grad_up = swiglu_backward(upstream, gate, up)
    for result, shift in ((grad_gate, (step, 0)), (grad_up, (0, step))):
        higher = swiglu_parts(gate + shift[0], up + shift[1])
        lower = swiglu_parts(gate - shift[0], up - shift[1])
        torch.testing.assert_close(result, upstream * (higher - lower) / (2 * step), rtol=1e-5, atol=1e-6)


def test_relatives():
    gate = numbers(200, scale=2)
    zero = torch.zeros_like(gate)
    assert (swiglu_parts(gate, zero) - F.gelu(gate)).abs().max() < 0.021
    assert (swiglu_parts(gate, zero, limit=1.0)[gate > 1]).unique().numel() == 1
    torch.testing.assert_close(swiglu_parts(gate, zero, alpha=1.0, limit=1e9), F.silu(gate))
    assert (swiglu_parts(gate, zero - 1) == 0).all(), "up = −1 silences the unit"


def test_the_output_has_bounds():
    x = numbers(400, 2 * WIDTH, scale=1e4)
    assert -42.01 < swiglu(x).min() < -41.9 and 55.9 < swiglu(x).max() < 56.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_precision_stays(dtype):
    x = numbers(B, T, 2 * WIDTH, scale=1e3).to(dtype)
    gate, up = split_gate_up(x)
    assert swiglu(x).dtype == swiglu_parts(gate, up).dtype == dtype
    assert swiglu(x).isfinite().all()
    assert {grad.dtype for grad in swiglu_backward(gate, gate, up)} == {dtype}


def test_not_a_number_stays_visible():
    x = torch.tensor([float("nan"), 1.0, 1.0, float("nan"), 1.0, 1.0])
    assert swiglu(x).isnan().tolist() == [True, True, False]


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="7 columns"):
        swiglu(torch.ones(2, 7))
