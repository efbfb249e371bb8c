"""RMSNorm: divide each token's vector by its root mean square, then scale each number.

GPT-2's LayerNorm also subtracts the mean and adds a bias; neither is needed. The arithmetic is fp32
whatever the model's precision, and the result is rounded once, after the scale.

Built in chapter 08: edit ``notebooks/08_rmsnorm.py``, not this file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RMSNorm", "rms_norm_reference"]


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalize, scale, then cast: the slow, obvious version of :class:`RMSNorm`.

    Args:
        x: [..., D], any floating-point precision.
        weight: [D].
        eps: added to the mean square, so that a zero vector stays zero.

    Returns:
        [..., D], in the precision of x.
    """
    wide = x.float()
    mean_square = wide.pow(2).mean(-1, keepdim=True)  # [..., 1]
    normalized = wide * torch.rsqrt(mean_square + eps)
    return (normalized * weight.float()).to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm in fp32, scaled and then cast, as ``RMSNorm`` in OpenAI's ``gpt_oss/torch/model.py``.

    From "Root Mean Square Layer Normalization" (Zhang and Sennrich, 2019). OpenAI calls the
    parameter ``scale``, Hugging Face ``weight``.

    Args:
        num_features: D, the length of the vectors.
        eps: added to the mean square, under the root.
        device: where the weight lives.
        dtype: the precision of the weight.

    Raises:
        ValueError: if ``num_features`` is not positive or ``eps`` is negative.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}, but a vector needs at least 1 number.")
        if eps < 0:
            raise ValueError(f"eps is {eps}, but it must not be negative; gpt-oss uses 1e-5.")
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., D] to the normalized x, in the same shape and precision.

        Raises:
            ValueError: if the last dimension of x is not ``num_features``.
        """
        if x.shape[-1] != self.num_features:
            raise ValueError(f"x has {x.shape[-1]} features, but this norm was made for {self.num_features}.")
        y = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        """Show the settings when the module is printed."""
        return f"{self.num_features}, eps={self.eps}"
