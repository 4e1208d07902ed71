"""Root mean square normalisation.

Root Mean Square Layer Normalization, 2019, 1910.07467. Statistics are taken in float32 and the
result is cast back to the activations' dtype BEFORE the weight is applied, as the Llama family
does. Layer normalisation comes from torch.
"""

import torch
from torch import nn


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last axis.

    Args:
        dim: D, size of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D)."""
        weight = self.weight
        if x.dtype == weight.dtype == torch.float32:
            return torch.rms_norm(x, weight.shape, weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * weight
