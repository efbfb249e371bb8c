"""RMSNorm: the formula in 64 bits, one rounding, gradients, errors."""

import pytest
import torch
import torch.nn.functional as F

from gptoss_lib.norm import RMSNorm, rms_norm_reference

B, T, D = 2, 3, 41


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x, weight, eps=1e-5):
    """The formula in 64 bits, without torch's mean or rsqrt."""
    x, weight = x.double(), weight.double()
    root = ((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps) ** 0.5
    return x / root * weight


def made(weight, **options):
    norm = RMSNorm(len(weight), **options)
    norm.weight.data = weight
    return norm


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 300.0, 1e6])
@pytest.mark.parametrize(
    "function", [rms_norm_reference, lambda x, w: made(w)(x)], ids=["reference", "module"]
)
def test_equals_the_formula(function, scale):
    x, weight = numbers(B, T, D, scale=scale) + scale, 1 + numbers(D, seed=1)
    torch.testing.assert_close(function(x, weight).double(), exact(x, weight), rtol=2e-6, atol=1e-6)


def test_by_hand():
    norm = made(torch.tensor([1.0, 10.0]), eps=0.0)
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 40.0]) / 12.5**0.5)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bfloat16_is_rounded_once(weight_dtype, scale):
    x = numbers(64, 2880, scale=scale).bfloat16()
    weight = (1 + 0.2 * numbers(2880, seed=1)).to(weight_dtype)
    nearest = exact(x, weight).bfloat16()
    for result in (made(weight)(x), rms_norm_reference(x, weight)):
        assert result.dtype == torch.bfloat16
        # fp32 arithmetic tips a number over the middle between two bfloat16 now and then, no more.
        assert (result != nearest).float().mean() < 1e-3
    normalized = exact(x, torch.ones(2880)).bfloat16()
    cast_before_scale = normalized * weight.bfloat16()
    assert (cast_before_scale != nearest).float().mean() > 0.1, "the test can tell the orders apart"


def test_float16_does_not_overflow():
    x = numbers(B, D, scale=5_000).half()
    result = RMSNorm(D)(x)
    assert result.dtype == torch.float16 and result.isfinite().all()
    torch.testing.assert_close(result.double(), exact(x, torch.ones(D)), rtol=1e-3, atol=1e-3)


def test_module_equals_the_reference_forward_and_backward():
    weight, upstream = 1 + numbers(D, seed=1), numbers(B, T, D, seed=2)
    grads = []
    for function in (
        rms_norm_reference,
        lambda x, w: torch.func.functional_call(RMSNorm(D), {"weight": w}, x),
    ):
        x, w = numbers(B, T, D).requires_grad_(), weight.clone().requires_grad_()
        y = function(x, w)
        y.backward(upstream)
        grads.append((y.detach(), x.grad, w.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_equal_the_formula():
    x, upstream = numbers(B, T, D).requires_grad_(), numbers(B, T, D, seed=2)
    norm = made(1 + numbers(D, seed=1))
    norm(x).backward(upstream)
    r = (x.detach().pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    normalized, g = x.detach() / r, upstream * norm.weight.detach()
    torch.testing.assert_close(
        x.grad, (g - normalized * (g * normalized).mean(-1, keepdim=True)) / r, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(norm.weight.grad, (upstream * normalized).sum((0, 1)), rtol=1e-4, atol=1e-5)


def test_gradient_arrives_in_bfloat16():
    norm = RMSNorm(D, dtype=torch.bfloat16)
    x = numbers(B, D).bfloat16().requires_grad_()
    norm(x).sum().backward()
    assert x.grad.dtype == norm.weight.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all() and norm.weight.grad.abs().sum() > 0


def test_scale_does_not_matter_but_the_mean_does():
    norm = RMSNorm(D, eps=0.0)
    x = numbers(B, T, D)
    torch.testing.assert_close(norm(1_000 * x), norm(x))
    assert (norm(x + 3) - norm(x)).abs().max() > 0.5
    centered = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(norm(centered), F.layer_norm(centered, (D,), eps=0.0), rtol=1e-4, atol=1e-5)


def test_zero_vectors_stay_zero():
    norm = RMSNorm(D)
    x = torch.zeros(B, D, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert not y.any() and x.grad.isfinite().all()


def test_epsilon_is_under_the_root_and_1e_5_by_default():
    x = torch.full((1, D), 1e-3)
    expected = 1e-3 / (1e-6 + 1e-5) ** 0.5
    for result in (RMSNorm(D)(x), rms_norm_reference(x, torch.ones(D))):
        torch.testing.assert_close(result, torch.full((1, D), expected))
    torch.testing.assert_close(RMSNorm(D, eps=1e-2)(x), torch.full((1, D), 1e-3 / (1e-6 + 1e-2) ** 0.5))


def test_tokens_do_not_mix():
    norm, x = RMSNorm(D), numbers(B, T, D)
    y = norm(x)
    x[0, 1] += 5
    changed = (norm(x) != y).any(-1)
    assert changed.nonzero().tolist() == [[0, 1]]


def test_autocast_changes_nothing():
    norm, x = made(1 + 0.2 * numbers(D, seed=1)), numbers(B, D).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = norm(x)
    assert result.dtype == torch.bfloat16 and torch.equal(result, norm(x))


def test_parameters():
    norm = RMSNorm(D)
    assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {"weight": (D,)}
    assert list(norm.state_dict()) == ["weight"]
    assert torch.equal(norm.weight, torch.ones(D)) and norm.weight.dtype == torch.float32
    assert RMSNorm(D, dtype=torch.bfloat16).weight.dtype == torch.bfloat16
    assert RMSNorm(D, device="meta").weight.is_meta
    assert repr(norm) == f"RMSNorm({D}, eps=1e-05)"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RMSNorm(D)(torch.ones(2, D + 1)), "42 features, but this norm was made for 41"),
        (lambda: RMSNorm(D)(torch.ones(2, 1)), "1 features"),
        (lambda: RMSNorm(0), "num_features is 0"),
        (lambda: RMSNorm(D, eps=-1e-5), "eps is -1e-05"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
