"""SwiGLU as gpt-oss has it: a gate and an up value, clamped, and multiplied.

GPT-2's MLP bends each hidden number with GELU. Here there are two numbers a unit: the gate is bent by
``g · sigmoid(1.702 g)``, which is GELU's quick approximation, and scales ``up + 1``. The two are
interleaved in one tensor: gates at even places, ups at odd ones.

Built in chapter 13: edit ``notebooks/13_swiglu.py``, not this file.
"""

import torch
from torch import Tensor

__all__ = ["join_gate_up", "split_gate_up", "swiglu", "swiglu_backward", "swiglu_parts"]


def swiglu(x: Tensor, alpha: float = 1.702, limit: float = 7.0) -> Tensor:
    """Return min(g, limit) · sigmoid(alpha · min(g, limit)) · (clamp(u, ±limit) + 1).

    As ``swiglu`` in OpenAI's ``gpt_oss/torch/model.py``. The gate is clamped from above only.

    Args:
        x: [..., 2F], gates at even places and ups at odd ones.
        alpha: steepness of the gate; 1.702 makes it GELU's approximation, 1 is SiLU.
        limit: where gates and ups are clamped.

    Returns:
        [..., F], in the precision of x.

    Raises:
        ValueError: if the last dimension is odd.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"x has {x.shape[-1]} columns; every unit needs a gate and an up, so make it even.")
    gate = x[..., ::2].clamp(max=limit)
    up = x[..., 1::2].clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (up + 1)


def split_gate_up(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split interleaved x [..., 2F] into (gate, up), each [..., F] and contiguous."""
    gate, up = x.unflatten(-1, (-1, 2)).unbind(-1)
    return gate.contiguous(), up.contiguous()


def join_gate_up(gate: Tensor, up: Tensor) -> Tensor:
    """Interleave gate and up, each [..., F], into [..., 2F]: the inverse of :func:`split_gate_up`."""
    return torch.stack((gate, up), dim=-1).flatten(-2)


def swiglu_parts(gate: Tensor, up: Tensor, alpha: float = 1.702, limit: float = 7.0) -> Tensor:
    """Compute :func:`swiglu` of gate and up [..., F] that are already apart; writes to neither."""
    gate = gate.clamp(max=limit)
    glu = torch.sigmoid(alpha * gate).mul_(gate)
    return torch.addcmul(glu, glu, up.clamp(-limit, limit))


def swiglu_backward(
    grad: Tensor, gate: Tensor, up: Tensor, alpha: float = 1.702, limit: float = 7.0
) -> tuple[Tensor, Tensor]:
    """Return the gradients of gate and up, without autograd.

    Args:
        grad: [..., F], the gradient of what :func:`swiglu_parts` returned.
        gate: [..., F], as given to it.
        up: [..., F], as given to it.
        alpha: as given to it.
        limit: as given to it.

    Returns:
        Two tensors [..., F]; zero for a gate above ``limit`` and an up beyond ``±limit``.
    """
    held = gate.clamp(max=limit)
    opening = (alpha * held).sigmoid_()
    bend = held.mul_(opening)
    slope = torch.addcmul(opening, bend, 1 - opening, value=alpha)
    slope.mul_(up.clamp(-limit, limit).add_(1))
    unless_held = torch.ops.aten.hardtanh_backward
    beyond = torch.nextafter(gate.new_tensor(limit), gate.new_tensor(torch.inf)).item()
    grad_gate = unless_held(slope.mul_(grad), gate, -torch.inf, beyond)
    return grad_gate, unless_held(bend.mul_(grad), up, -beyond, beyond)
