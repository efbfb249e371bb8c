"""Rotary position embedding (RoPE), stretched to longer contexts by YaRN.

GPT-2 adds a learned vector for every position and stops where its table ends. Here nothing is added
and nothing is learned: each attention layer turns its queries and keys by angles that grow with the
position, so that their dot product knows how far apart two tokens are. Values are not turned.

Built in chapter 09: edit ``notebooks/09_rope_yarn.py``, not this file.
"""

import math

import torch
from torch import Tensor, nn

from gptoss_lib.config import RopeScaling

__all__ = [
    "RotaryEmbedding",
    "apply_rotary",
    "rope_inv_freq",
    "yarn_concentration",
    "yarn_inv_freq",
    "yarn_ramp",
]


def _require_pairs(head_dim: int, theta: float) -> None:
    if head_dim < 2 or head_dim % 2:
        raise ValueError(
            f"head_dim is {head_dim}, but RoPE turns pairs of numbers; use a positive even number."
        )
    if theta <= 1:
        raise ValueError(
            f"theta is {theta}, but later pairs must be slower than the first; make it more than 1."
        )


def _tokens_per_radian(head_dim: int, theta: float) -> Tensor:
    """Return how many tokens each pair takes to turn by one radian, [hd/2]."""
    _require_pairs(head_dim, theta)
    # Always on the CPU: powers differ in the last bit between devices, and positions multiply the difference.
    return theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)


def rope_inv_freq(head_dim: int, theta: float) -> Tensor:
    """Return the frequencies of plain RoPE, in radians a token, [hd/2].

    From "RoFormer" (Su et al., 2021), section 3.2.2.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base; the slowest pair takes almost 2π·theta tokens for a turn.

    Raises:
        ValueError: if ``head_dim`` is not a positive even number or ``theta`` is not above 1.
    """
    return 1.0 / _tokens_per_radian(head_dim, theta)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys: number i of a head makes a pair with number i + hd/2.

    As ``_apply_rotary_emb`` in OpenAI's ``gpt_oss/torch/model.py``: the table is cast to the
    precision of x, and the products are taken there.

    Args:
        x: [B, H, T, hd]; queries and keys may have different H, so turn them one by one.
        cos: [T, hd/2], or [B, T, hd/2] where the texts of a batch stand at different positions.
        sin: like ``cos``; both come from :class:`RotaryEmbedding`.

    Returns:
        The turned x, in the shape and precision of x.

    Raises:
        ValueError: if the table was made for another head_dim.
    """
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(
            f"x has head_dim {x.shape[-1]}, but the table turns {cos.shape[-1]} pairs; make them fit."
        )
    cos, sin = cos.unsqueeze(-3).to(x.dtype), sin.unsqueeze(-3).to(x.dtype)  # one table for all heads
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def yarn_ramp(head_dim: int, theta: float, scaling: RopeScaling) -> tuple[float, float]:
    """Return the pairs, as fractional indices, at which the slowing starts and is complete.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base of RoPE.
        scaling: the settings of YaRN.

    Raises:
        ValueError: if the ramp does not lie within the hd/2 pairs, as the reference demands, and where
            :func:`rope_inv_freq` does.
    """
    _require_pairs(head_dim, theta)
    context = scaling.original_max_position_embeddings

    def pair_that_turns(times: float) -> float:
        return head_dim * math.log(context / (times * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    last = head_dim // 2 - 1
    if not 0 < low < high < last:
        shortest = math.floor(2 * math.pi * scaling.beta_fast) + 1
        raise ValueError(
            f"YaRN's ramp would run from pair {low:.2f} to {high:.2f}, but must lie between 0 and {last}: "
            f"original_max_position_embeddings={context} does not fit theta={theta:g}, head_dim={head_dim}; "
            f"use {shortest} tokens or more and a large enough theta, or no YaRN."
        )
    return (math.floor(low), math.ceil(high)) if scaling.truncate else (low, high)


def yarn_inv_freq(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Return the frequencies of RoPE with YaRN, in radians a token, [hd/2].

    Up to the start of the ramp they are those of :func:`rope_inv_freq`, from its end on they are
    ``scaling.factor`` times smaller.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base of RoPE.
        scaling: the settings of YaRN.

    Raises:
        ValueError: where :func:`yarn_ramp` does.
    """
    low, high = yarn_ramp(head_dim, theta, scaling)
    tokens = _tokens_per_radian(head_dim, theta)
    kept, slowed = 1.0 / tokens, 1.0 / (scaling.factor * tokens)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    keep = 1 - ((pairs - low) / (high - low)).clamp(0, 1)
    # In the references' order of operations, so that the frequencies are equal to the last bit.
    return slowed * (1 - keep) + kept * keep


def yarn_concentration(factor: float) -> float:
    """Return what YaRN multiplies cos and sin by, so that scores grow by its square.

    Args:
        factor: how many times longer the context became, 1 or more.
    """
    return 0.1 * math.log(factor) + 1.0


class RotaryEmbedding(nn.Module):
    """The cosines and sines of RoPE for any positions, in fp32, from tables that grow on demand.

    The tables are no parameters and not in the state dict. They stay fp32 whatever the model is cast
    to, and are computed anew where it is moved: rounded angles would be wrong at large positions.

    Args:
        head_dim: hd, the width of one attention head.
        theta: the base of RoPE.
        scaling: the settings of YaRN, or None for plain RoPE.
        device: where the tables live.

    Raises:
        ValueError: where :func:`yarn_ramp` does.
    """

    inv_freq: Tensor  # [hd/2], radians a token
    cos: Tensor  # [N, hd/2], the table of the first N positions
    sin: Tensor  # [N, hd/2]

    def __init__(
        self,
        head_dim: int,
        theta: float,
        scaling: RopeScaling | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta
        self.scaling = scaling
        self.attention_scaling = 1.0 if scaling is None else yarn_concentration(scaling.factor)
        self._build(0, torch.get_default_device() if device is None else device)

    def grow(self, length: int) -> None:
        """Make the tables reach ``length`` positions (as ``forward`` does by itself)."""
        if length > len(self.cos):
            self._build(1 << (length - 1).bit_length(), self.cos.device)

    def forward(self, position_ids: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Look up the angles of these positions.

        Args:
            position_ids: [T] or [B, T], int64, from 0.
            length: a number that all positions are below, if you know one: finding it in the tensor
                makes a GPU wait for its answer.

        Returns:
            cos and sin for :func:`apply_rotary`, [T, hd/2] or [B, T, hd/2], fp32, both times the
            concentration.

        Raises:
            ValueError: if a position is negative (looked for where ``length`` is not given).
        """
        if length is None:
            lowest, highest = (int(bound) for bound in position_ids.aminmax())
            if lowest < 0:
                raise ValueError(f"position_ids holds {lowest}, but positions start at 0.")
            length = highest + 1
        self.grow(length)
        return self.cos[position_ids], self.sin[position_ids]

    def extra_repr(self) -> str:
        """Show the settings when the module is printed."""
        return f"head_dim={self.head_dim}, theta={self.theta:g}, scaling={self.scaling}"

    def _build(self, length: int, device: torch.device | str) -> None:
        if self.scaling is None:
            inv_freq = rope_inv_freq(self.head_dim, self.theta)
        else:
            inv_freq = yarn_inv_freq(self.head_dim, self.theta, self.scaling)
        inv_freq = inv_freq.to(device)
        angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * inv_freq  # [N, hd/2]
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("cos", angles.cos() * self.attention_scaling, persistent=False)
        self.register_buffer("sin", angles.sin() * self.attention_scaling, persistent=False)

    def _apply(self, fn, recurse: bool = True):
        # Behind .to(), .bfloat16() and .to_empty(), which would move, round and not fill the tables.
        super()._apply(fn, recurse)
        self._build(len(self.cos), self.cos.device)
        return self
