"""The checks to chapter 08 accept the solutions and name the mistakes in wrong answers."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.checks.catalogue import Catalogue

NORM = Catalogue("norm", "rms_norm")


@NORM.wrong("as in LayerNorm")
def layer_norm(x, weight, eps):
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), eps=eps).to(x.dtype)


@NORM.wrong("as in LayerNorm")
def divides_by_the_standard_deviation(x, weight, eps):
    return (x.float() * torch.rsqrt(x.float().var(-1, keepdim=True, unbiased=False) + eps) * weight).to(
        x.dtype
    )


@NORM.wrong("not of their sum")
def unit_length(x, weight, eps):
    return (x.float() * torch.rsqrt(x.float().pow(2).sum(-1, keepdim=True) + eps) * weight).to(x.dtype)


@NORM.wrong("weight is not applied")
def without_weight(x, weight, eps):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@NORM.wrong("several tokens")
def over_everything(x, weight, eps):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean() + eps) * weight).to(x.dtype)


@NORM.wrong("outside the root")
def epsilon_outside(x, weight, eps):
    return (x.float() / (x.float().pow(2).mean(-1, keepdim=True).sqrt() + eps) * weight).to(x.dtype)


@NORM.wrong("outside the root")
def without_epsilon(x, weight, eps):
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True)) * weight).to(x.dtype)


@NORM.wrong("casts before it scales")
def llama(x, weight, eps):
    wide = x.float()
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (weight.to(x.dtype) * normalized.to(x.dtype)).to(x.dtype)


@NORM.wrong("precision of x")
def llama_with_an_fp32_weight(x, weight, eps):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@NORM.wrong("convert x to fp32 first")
def sixteen_bits_inside(x, weight, eps):
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


@NORM.wrong("precision of x")
def stays_fp32(x, weight, eps):
    return x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps) * weight


@NORM.wrong("changes its input")
def in_place(x, weight, eps):
    return x.mul_(torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)) * weight


test_rms_norm = NORM.test

FOLD = Catalogue("norm", "fold_norm")


def _layer(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


@FOLD.wrong("unchanged")
def only_the_bias_folded(weight, bias, linear):
    return _layer(linear.weight, linear(bias))


@FOLD.wrong("divides")
def divided(weight, bias, linear):
    return _layer(linear.weight / weight, linear(bias))


@FOLD.wrong("norm's bias is lost")
def only_the_weight_folded(weight, bias, linear):
    return _layer(linear.weight * weight, linear.bias)


@FOLD.wrong("take the old weight")
def bias_through_the_new_weight(weight, bias, linear):
    return _layer(linear.weight * weight, linear(bias * weight))


@FOLD.wrong("own bias is lost")
def bias_replaced(weight, bias, linear):
    return _layer(linear.weight * weight, linear.weight @ bias)


@FOLD.wrong("bias is gone")
def bias_dropped(weight, bias, linear):
    return _layer(linear.weight * weight, None)


@FOLD.wrong("return a new one")
def changed_in_place(weight, bias, linear):
    linear.bias.data += linear.weight.data @ bias
    linear.weight.data *= weight
    return linear


@FOLD.wrong("stopped with RuntimeError")
def rows(weight, bias, linear):
    return _layer(linear.weight * weight[:, None], linear(bias))


@FOLD.wrong("times weight[i]")
def scaled_twice(weight, bias, linear):
    return _layer(linear.weight * weight**2, linear(bias))


@FOLD.wrong("for the norm's bias alone")
def bias_subtracted(weight, bias, linear):
    return _layer(linear.weight * weight, linear(-bias))


test_fold_norm = FOLD.test

CENTER = Catalogue("norm", "center_outputs")


@CENTER.wrong("unchanged")
def only_the_bias(linear):
    return _layer(linear.weight, linear.bias - linear.bias.mean())


@CENTER.wrong("center the columns")
def rows_centered(linear):
    return _layer(linear.weight - linear.weight.mean(1, keepdim=True), linear.bias - linear.bias.mean())


@CENTER.wrong("every column has its own")
def one_mean(linear):
    return _layer(linear.weight - linear.weight.mean(), linear.bias - linear.bias.mean())


@CENTER.wrong("bias still has a mean")
def bias_forgotten(linear):
    return _layer(linear.weight - linear.weight.mean(0, keepdim=True), linear.bias)


@CENTER.wrong("bias was set to zero")
def bias_zeroed(linear):
    return _layer(linear.weight - linear.weight.mean(0, keepdim=True), torch.zeros_like(linear.bias))


@CENTER.wrong("return a new one")
def centered_in_place(linear):
    linear.weight.data -= linear.weight.data.mean(0, keepdim=True)
    return linear


@CENTER.wrong("minus its mean")
def standardized(linear):
    weight = linear.weight - linear.weight.mean(0, keepdim=True)
    return _layer(weight / weight.std(0, keepdim=True), linear.bias - linear.bias.mean())


test_center_outputs = CENTER.test

BACKWARD = Catalogue("norm", "rms_norm_backward")


def _gradients(x, weight, eps, upstream, project=torch.mean):
    r = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    normalized, g = x / r, upstream * weight
    along = project(g * normalized, dim=-1, keepdim=True)
    return (g - normalized * along) / r, (upstream * normalized).sum((0, 1)), r, normalized


@BACKWARD.wrong("for a constant")
def constant_scale(x, weight, eps, upstream):
    _, grad_weight, r, _ = _gradients(x, weight, eps, upstream)
    return upstream * weight / r, grad_weight


@BACKWARD.wrong("D times too large")
def summed_projection(x, weight, eps, upstream):
    return _gradients(x, weight, eps, upstream, project=torch.sum)[:2]


@BACKWARD.wrong("weight is missing")
def weight_forgotten(x, weight, eps, upstream):
    grad_x, grad_weight, _, _ = _gradients(x, torch.ones_like(weight), eps, upstream)
    return grad_x, grad_weight


@BACKWARD.wrong("division by the root")
def not_divided(x, weight, eps, upstream):
    grad_x, grad_weight, r, _ = _gradients(x, weight, eps, upstream)
    return grad_x * r, grad_weight


@BACKWARD.wrong("sum over all tokens")
def per_token(x, weight, eps, upstream):
    grad_x, _, _, normalized = _gradients(x, weight, eps, upstream)
    return grad_x, upstream * normalized


@BACKWARD.wrong("not x itself")
def raw_input(x, weight, eps, upstream):
    return _gradients(x, weight, eps, upstream)[0], (upstream * x).sum((0, 1))


@BACKWARD.wrong("contains the weight")
def weight_in_its_own_gradient(x, weight, eps, upstream):
    grad_x, grad_weight, _, _ = _gradients(x, weight, eps, upstream)
    return grad_x, grad_weight * weight


@BACKWARD.wrong("mean over the tokens")
def averaged(x, weight, eps, upstream):
    grad_x, grad_weight, _, _ = _gradients(x, weight, eps, upstream)
    return grad_x, grad_weight / 6


@BACKWARD.wrong("differs from autograd")
def without_epsilon_in_the_gradient(x, weight, eps, upstream):
    return _gradients(x, weight, 0.0, upstream)[:2]


test_rms_norm_backward = BACKWARD.test
