"""Lookup-free quantization: every dimension becomes one bit, and the bits are the index.

Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (MAGVIT-v2), 2023, 2310.05737.
Bit order and constants follow Open-MAGVIT2 (2409.04410): the FIRST dimension is the LEAST
significant bit, and zero maps to -1. Left out on purpose: the entropy of a codebook too large to
list; it is summed over groups of bits instead.
"""

import torch
from torch import nn
from torch.nn import functional as F

from studio.outputs import QuantizerOutput
from studio.quantizers.base import codebook_stats, straight_through


def to_bits(indices: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (...) to their `count` bits (..., count) as int64 0 or 1, the least significant
    first.
    """
    return (indices[..., None] >> torch.arange(count, device=indices.device)) & 1


def from_bits(bits: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_bits`: (..., D) of 0 and 1 to int64 (...)."""
    return (bits.long() << torch.arange(bits.shape[-1], device=bits.device)).sum(-1)


def bit_entropy(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean entropy of the soft choice softmax(2 <z, code> / temperature) over all codes, of `z` (M,
    D).

    The bits of that choice are independent, so it is the sum of D binary entropies: exact at any
    codebook size.
    """
    logit = 4 * z / temperature  # of the bit being +1: the two codes differ by 2 in one place
    entropy = F.softplus(logit) - logit * torch.sigmoid(logit)
    return entropy.sum(-1).mean()


def code_entropy(z: torch.Tensor, temperature: float, group: int) -> torch.Tensor:
    """Entropy of the soft choice averaged over the rows of `z` (M, D), in groups of at most `group`
    bits.

    With D <= `group` it is the entropy of the whole codebook, otherwise an upper bound of it.
    """
    total = z.new_zeros(())
    for part in z.split(group, dim=-1):
        codes = 2.0 * to_bits(torch.arange(2 ** part.shape[1], device=z.device), part.shape[1]) - 1
        share = (2 * part @ codes.T / temperature).softmax(-1).mean(0)  # (2^g,)
        total = total - (share * (share + 1e-5).log()).sum()
    return total


class LookupFreeQuantizer(nn.Module):
    """Signs of D dimensions as a D-bit index. It has no weights.

    Args:
        bits: D; the codebook has 2^D codes of +1 and -1.
        commitment: weight of the loss that pulls the input to its signs.
        entropy_weight: weight of (entropy of one choice) - `diversity` * (entropy of the mean
            choice).
        diversity: see there; more of it spreads the codes more evenly.
        temperature: of the soft choice behind the entropies.
        entropy_group: bits in one listed codebook of the second entropy.
    """

    def __init__(
        self,
        bits: int,
        *,
        commitment: float = 0.25,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        entropy_group: int = 10,
    ):
        super().__init__()
        if not 1 <= bits <= 62:
            raise ValueError(f"bits {bits} must lie between 1 and 62")
        self.dim, self.codebook_size = bits, 2**bits
        self.commitment, self.entropy_weight = commitment, entropy_weight
        self.diversity, self.temperature = diversity, temperature
        self.entropy_group = entropy_group

    def forward(self, z: torch.Tensor) -> QuantizerOutput:
        """Quantize `z` (..., D). `stats`: sample_entropy, code_entropy, commitment, in nats."""
        with torch.autocast(z.device.type, enabled=False):
            flat = z.float().reshape(-1, self.dim)  # (M, D)
            bits = flat.detach() > 0
            quantized = 2.0 * bits.float() - 1
            sample = bit_entropy(flat, self.temperature)
            mean = code_entropy(flat, self.temperature, self.entropy_group)
            commitment = F.mse_loss(flat, quantized)
            entropy = self.entropy_weight * (sample - self.diversity * mean)
            loss = entropy + self.commitment * commitment
            out = straight_through(flat, quantized)
        stats = {"sample_entropy": sample, "code_entropy": mean, "commitment": commitment}
        stats = {name: value.detach() for name, value in stats.items()}
        indices = from_bits(bits)
        if self.dim <= 20:
            stats |= codebook_stats(indices, self.codebook_size)
        indices = indices.reshape(z.shape[:-1])
        return QuantizerOutput(out.to(z.dtype).reshape(z.shape), indices, loss, stats)

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """The codes of `indices` (...) as float32 vectors (..., D) of +1 and -1."""
        return 2.0 * to_bits(indices, self.dim).float() - 1

    def factorize(self, indices: torch.Tensor, sizes: tuple[int, ...]) -> list[torch.Tensor]:
        """Indices (...) as sub-tokens of `sizes` bits each, lowest bits first, each int64 (...).

        Open-MAGVIT2 predicts a large vocabulary this way. Raises ValueError unless the sizes sum to
        D.
        """
        if sum(sizes) != self.dim:
            raise ValueError(f"sizes {tuple(sizes)} must sum to the {self.dim} bits of a code")
        return [from_bits(part) for part in to_bits(indices, self.dim).split(list(sizes), dim=-1)]
