"""Products of 32-bit matrices on a CPU, by whichever of PyTorch's two libraries is faster there.

PyTorch computes them with Intel's MKL, which uses the widest vectors of Intel's processors only: on an
AMD processor with AVX-512 it reaches less than half of what oneDNN does, the other library that PyTorch
brings along. Everywhere else, and for other numbers, these functions are PyTorch's own and no more.
``GPTOSS_ONEDNN=0`` switches oneDNN off, for comparisons with models that do not use it.
"""

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptoss_lib.settings import onednn

__all__ = ["ONEDNN_IS_FASTER", "Linear", "linear", "product"]


def _onednn_is_faster() -> bool:
    info = Path("/proc/cpuinfo")
    processor = info.read_text(encoding="utf-8") if info.exists() else platform.processor()
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return (
        onednn() and "AuthenticAMD" in processor and wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


ONEDNN_IS_FASTER = _onednn_is_faster()  # for 32-bit products, on this processor


def _onednn_product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


# The same for torch.compile, which cannot look into oneDNN's operator where weights are not constant.
_opaque_product = torch.library.custom_op("gptoss_lib::product", _onednn_product, mutates_args=())
_opaque_product.register_fake(lambda a, b, bias: a.new_empty(a.shape[0], b.shape[1]))


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return a @ b + bias, without a gradient.

    Args:
        a: [M, K].
        b: [K, N].
        bias: [N], or None for none.
        out: [M, N], where the result goes, in any precision; None for a new tensor.
    """
    fits = a.dtype == torch.float32 and a.device.type == "cpu" and a.numel() > 0  # oneDNN takes no empty ones
    if ONEDNN_IS_FASTER and fits:
        run = _opaque_product if torch.compiler.is_compiling() else _onednn_product
        result = run(a, b, bias)
        return result if out is None else out.copy_(result)
    if out is not None and out.dtype != a.dtype:
        return out.copy_(product(a, b, bias))
    return torch.mm(a, b, out=out) if bias is None else torch.addmm(bias, a, b, out=out)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return product(x, weight.t(), bias)


_PIECES = 32  # into which a weight is cut for a single row


def _of_one_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``F.linear`` of a single row: every core reads some pieces of the weight, as fast as it can."""
    # Not as a column of its own, for which MKL has a kernel that is three times as slow.
    row = x.reshape(1, 1, -1).expand(_PIECES, -1, -1)
    result = torch.bmm(weight.reshape(_PIECES, -1, x.shape[-1]), row.mT).view(*x.shape[:-1], -1)
    return result if bias is None else result + bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            product(grad, weight) if wanted[0] else None,
            product(grad.t(), x) if wanted[1] else None,
            grad.sum(0) if wanted[2] else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear``.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N], or None for none.
    """
    on_cpu = x.device.type == "cpu"
    one_row = x.numel() == x.shape[-1] and not torch.is_grad_enabled()
    if on_cpu and one_row and torch.compiler.is_compiling():
        # The compiler turns this into one pass over the weights, as fast as they can be read.
        result = (weight * x.flatten()).sum(-1)  # [N]
        return (result if bias is None else result + bias).view(*x.shape[:-1], -1)
    wide = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if (
        ONEDNN_IS_FASTER and on_cpu and wide and x.numel() > 0 and weight.shape[0] >= 64
    ):  # few are not worth it
        if one_row and weight.shape[0] % _PIECES == 0:
            return _of_one_row(x, weight, bias)
        multiply = _Linear.apply if torch.is_grad_enabled() else _linear
        return multiply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear``, computed by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., K] to [..., N]."""
        return linear(x, self.weight, self.bias)
