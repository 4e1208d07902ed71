"""What all quantizers share: the straight-through estimator and the numbers for the logs.

A quantizer is a module with `forward(z (..., D)) -> QuantizerOutput` (channels last),
`lookup(indices) -> vectors (..., D)`, `.codebook_size` and `.dim`.
"""

import torch


def straight_through(z: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """`quantized` to the bit in the forward pass, the identity to `z` in the backward pass.

    Estimating or Propagating Gradients Through Stochastic Neurons, 2013, 1308.3432.
    """
    return quantized.detach() + (z - z.detach())


def codebook_stats(indices: torch.Tensor, codebook_size: int) -> dict[str, torch.Tensor]:
    """`usage` (share of the codes seen in this batch) and `perplexity` (e to the entropy)."""
    counts = torch.bincount(indices.reshape(-1), minlength=codebook_size).float()  # (V,)
    shares = counts / counts.sum().clamp(min=1)
    entropy = -(shares * shares.clamp(min=1e-10).log()).sum()
    return {"usage": (counts > 0).float().mean(), "perplexity": entropy.exp()}
