"""Checks for the exercises to chapter 08, RMSNorm."""

import torch
from torch import nn

from gptoss_lib.checks import check, expect, unless

__all__ = ["center_outputs", "fold_norm", "rms_norm", "rms_norm_backward"]


def _random(*shape: int, seed: int = 8) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@check("RMSNorm as gpt-oss computes it, with a single rounding.")
def rms_norm(answer) -> None:
    """Check RMSNorm: the formula in fp32, then precision, order of cast and scale, and epsilon."""
    x, weight, eps = 3 * _random(5, 7, 768) + 1, 1 + 0.3 * _random(768, seed=9), 1e-5
    given = x.clone()
    result = answer(given, weight, eps)
    unless(not torch.equal(given, x), "This changes its input; work on a copy.")
    expect(
        isinstance(result, torch.Tensor) and result.shape == x.shape,
        f"The result should have the shape {list(x.shape)} of x.",
    )

    def near(expected: torch.Tensor) -> bool:
        return torch.allclose(result, expected, rtol=1e-4, atol=1e-4)

    mean_square = x.pow(2).mean(-1, keepdim=True)
    normalized = x * torch.rsqrt(mean_square + eps)
    centered = x - x.mean(-1, keepdim=True)
    unless(
        near(centered * torch.rsqrt(centered.pow(2).mean(-1, keepdim=True) + eps) * weight)
        or near(x * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + eps) * weight),
        "The mean is subtracted here, as in LayerNorm; RMSNorm takes the plain mean square.",
    )
    unless(
        near(x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps) * weight),
        "This divides by the length: take the root of the mean of the squares, not of their sum.",
    )
    unless(near(normalized), "The weight is not applied.")
    unless(
        near(x * torch.rsqrt(x.pow(2).mean() + eps) * weight)
        or near(x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + eps) * weight),
        "The mean runs over several tokens; normalize each vector on its own, over dimension -1.",
    )
    expect(near(normalized * weight), "In fp32 the values differ from x / sqrt(mean(x²) + eps) · weight.")

    tiny = 1e-3 * _random(4, 768)
    root = tiny.pow(2).mean(-1, keepdim=True).sqrt()
    result = answer(tiny, weight, eps)
    unless(
        torch.allclose(result, tiny / (root + eps) * weight, rtol=1e-3)
        or torch.allclose(result, tiny / root * weight, rtol=1e-3),
        "On small inputs epsilon is missing or outside the root: use sqrt(mean(x²) + eps).",
    )
    expect(
        torch.allclose(result, tiny / (root**2 + eps).sqrt() * weight, rtol=1e-3),
        "On small inputs the values are off: epsilon belongs under the root.",
    )

    x, weight = x.bfloat16(), weight.bfloat16()
    for scale in (weight.float(), weight):
        result = answer(x, scale, eps)
        expect(
            result.dtype == torch.bfloat16,
            f"For a bfloat16 x and a {scale.dtype} weight it returns {result.dtype}; use the precision of x.",
        )
    wide = x.float()
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)

    def differing(expected: torch.Tensor) -> float:
        return (result != expected).float().mean().item()

    unless(
        differing(normalized.bfloat16() * weight) < 0.01,
        "This casts before it scales (Llama's order) and rounds twice; gpt-oss scales, then casts.",
    )
    expect(
        differing((normalized * weight.float()).bfloat16()) < 0.01,
        "In bfloat16 many results are off by a rounding: convert x to fp32 first, and back last.",
    )


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(_random(outputs, inputs, seed=1))
        layer.bias.copy_(1 + _random(outputs, seed=2))
    return layer


def _new_layer(answer, layer: nn.Linear, *before: torch.Tensor) -> nn.Linear:
    """Call the answer, and see that it returned another layer and left the given one alone."""
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    result = answer(*before, layer)
    unless(
        not torch.equal(layer.weight, weight) or not torch.equal(layer.bias, bias),
        "This changes the layer it was given; return a new one.",
    )
    expect(
        isinstance(result, nn.Linear), f"An nn.Linear should come back, but it is a {type(result).__name__}."
    )
    expect(
        result.weight.shape == weight.shape,
        f"The new weight should have the shape {list(weight.shape)}, but it has {list(result.weight.shape)}.",
    )
    return result


@check("Weight and bias of the norm are in the linear layer now, and nothing has changed.")
def fold_norm(answer) -> None:
    """Check the folding of a LayerNorm's weight and bias into the linear layer behind it."""
    layer, scale, shift = _linear(6, 9), 1 + 0.5 * _random(6, seed=3), _random(6, seed=5)
    result = _new_layer(answer, layer, scale.clone(), shift.clone())
    expect(result.bias is not None, "The bias is gone; the layer's own bias stays, and the norm's joins it.")
    right, got = layer.weight * scale, result.weight

    def near(first: torch.Tensor, second: torch.Tensor) -> bool:
        return torch.allclose(first, second, atol=1e-5)

    unless(near(got, layer.weight), "The weight is unchanged; its columns have to be scaled.")
    unless(
        near(got, layer.weight / scale),
        "This divides by the scale. The new layer no longer gets scaled inputs, so it must multiply itself.",
    )
    weight_is_right = near(got, right)
    unless(
        weight_is_right and near(result.bias, layer.bias),
        "The weight is right, but the norm's bias is lost: the old layer would have multiplied it too.",
    )
    unless(
        weight_is_right and near(result.bias, right @ shift + layer.bias),
        "The norm's bias went through the scaled weight; it comes after the scale, so take the old weight.",
    )
    unless(
        weight_is_right and near(result.bias, layer.weight @ shift),
        "The layer's own bias is lost; it is added to what the norm's bias becomes.",
    )
    x = _random(4, 6, seed=4)
    expect(
        near(result(x), layer(x * scale + shift)),
        "The new layer computes something else: entry [o, i] of its weight is the old one times weight[i], "
        "and its bias is what the old layer gives for the norm's bias alone.",
    )


@check("All outputs have mean zero, so LayerNorm behind this layer is RMSNorm.")
def center_outputs(answer) -> None:
    """Check the centering of a linear layer's outputs."""
    layer, x = _linear(6, 9), _random(4, 6, seed=4)
    result = _new_layer(answer, layer)
    expect(result.bias is not None, "The bias is gone; it writes into the stream too, so center it.")
    old, got = layer.weight, result.weight

    def near(first: torch.Tensor, second: torch.Tensor) -> bool:
        return torch.allclose(first, second, atol=1e-5)

    unless(near(got, old), "The weight is unchanged, so the outputs still have a mean.")
    unless(
        near(got, old - old.mean(1, keepdim=True)),
        "This centers the rows. One input adds one column of the weight to the output: center the columns.",
    )
    unless(
        near(got, old - old.mean()),
        "This subtracts one mean from the whole weight; every column has its own.",
    )
    right_weight = near(got, old - old.mean(0, keepdim=True))
    unless(
        right_weight and near(result.bias, layer.bias),
        "The weight is right, but the bias still has a mean; center it as well.",
    )
    unless(
        right_weight and near(result.bias, torch.zeros(9)),
        "The bias was set to zero; subtract its mean and keep the rest.",
    )
    outputs = layer(x)
    expect(
        near(result(x), outputs - outputs.mean(-1, keepdim=True)),
        "For a random input the output is not the old output minus its mean.",
    )


@check("Both gradients equal autograd's.")
def rms_norm_backward(answer) -> None:
    """Check the hand-written gradients of RMSNorm against autograd."""
    eps = 1e-2  # large, so that a formula which forgets it is seen
    x, weight, upstream = 0.5 * _random(2, 3, 11), 1 + 0.4 * _random(11, seed=5), _random(2, 3, 11, seed=6)
    leaf, scale = x.clone().requires_grad_(), weight.clone().requires_grad_()
    r = (leaf.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    (leaf / r * scale).backward(upstream)
    result = answer(x, weight, eps, upstream)
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        "Return two tensors: the gradient of x and that of the weight.",
    )
    grad_x, grad_weight = result
    expect(grad_x.shape == x.shape, f"The gradient of x has the shape {list(grad_x.shape)}, not that of x.")

    def near(first: torch.Tensor, second: torch.Tensor) -> bool:
        return first.shape == second.shape and torch.allclose(first, second, atol=1e-4, rtol=1e-3)

    r, normalized, g = r.detach(), (leaf / r).detach(), upstream * weight
    unless(
        near(grad_x, g / r),
        "This takes the root mean square for a constant; it depends on x, and removes the part along x.",
    )
    unless(
        near(grad_x, (g - normalized * (g * normalized).sum(-1, keepdim=True)) / r),
        "The projection is D times too large: take the mean of g · x̂, not the sum.",
    )
    unless(
        near(grad_x, (upstream - normalized * (upstream * normalized).mean(-1, keepdim=True)) / r),
        "The weight is missing in the gradient of x: start from upstream · weight.",
    )
    unless(
        near(grad_x, g - normalized * (g * normalized).mean(-1, keepdim=True)),
        "The division by the root mean square is missing in the gradient of x.",
    )
    expect(near(grad_x, leaf.grad), "The gradient of x differs from autograd's.")
    expect(
        grad_weight.shape == weight.shape,
        f"The gradient of the weight has the shape {list(grad_weight.shape)}: sum over all tokens.",
    )
    unless(
        near(grad_weight, (upstream * x).sum((0, 1))), "The weight multiplies the normalized x, not x itself."
    )
    unless(
        near(grad_weight, (g * normalized).sum((0, 1))),
        "The gradient of the weight contains the weight; it is upstream · x̂, summed over the tokens.",
    )
    unless(
        near(grad_weight, (upstream * normalized).mean((0, 1))),
        "This is the mean over the tokens; every token uses the same weight, so their gradients are summed.",
    )
    expect(near(grad_weight, scale.grad), "The gradient of the weight differs from autograd's.")
