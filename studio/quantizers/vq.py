"""Vector quantization against a codebook that is learned.

Neural Discrete Representation Learning, 2017, 1711.00937 (the straight-through estimator, both
losses, and the moving-average update of its appendix); l2-normalised codes as in Vector-quantized
Image Modeling with Improved VQGAN, 2021, 2110.04627; k-means start and revival of dead codes as in
SoundStream, 2021, 2107.03312. Left out on purpose: statistics gathered over several processes (each
one sees its own batch), and the entropy term that LlamaGen's code offers and its releases leave at
zero.
"""

import torch
from torch import nn
from torch.nn import functional as F

from studio.outputs import QuantizerOutput
from studio.quantizers.base import codebook_stats, straight_through

_DISTANCES_AT_A_TIME = 2**24


def nearest_code(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The index of the nearest row of `codes` (V, D) for every row of `z` (M, D), by squared
    distance.

    Rows go in portions, so that the table of distances stays small. Ties go to the lower index.
    """
    portion = max(1, _DISTANCES_AT_A_TIME // codes.shape[0])
    norms = codes.square().sum(1)
    found = [
        (part.square().sum(1, keepdim=True) + norms - 2 * part @ codes.T).argmin(1)
        for part in z.split(portion)
    ]
    return torch.cat(found)  # (M,)


def k_means(
    z: torch.Tensor, codes: torch.Tensor, *, iterations: int, generator: torch.Generator
) -> torch.Tensor:
    """Centres (V, D) of the vectors `z` (M, D), by Lloyd's iterations from random vectors among
    them.

    With fewer vectors than codes the codes left over keep their values, and so does an empty
    cluster.
    """
    picks = torch.randperm(z.shape[0], generator=generator)[: codes.shape[0]].to(z.device)
    centres = codes.clone()
    centres[: picks.numel()] = z[picks]
    for _ in range(iterations):
        counts, sums = _count_and_sum(z, nearest_code(z, centres), centres)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres


def _count_and_sum(
    z: torch.Tensor, indices: torch.Tensor, codes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many rows of `z` fell on each code (V,), and their sum (V, D)."""
    counts = torch.bincount(indices, minlength=codes.shape[0]).to(z.dtype)
    sums = torch.zeros_like(codes).index_add_(0, indices, z)
    return counts, sums


class VectorQuantizer(nn.Module):
    """A codebook `embedding` (V, D), learned by a loss or by moving averages. Computes in float32.

    Args:
        codebook_size: V.
        dim: D, the width of a code.
        l2_norm: compare and return vectors of length 1. The stored codebook is not normalised.
        commitment: weight of the loss that pulls the input to its code.
        codebook_weight: weight of the loss that pulls the code to its inputs; unused with
            `ema_decay`.
        ema_decay: when given, codes are moving averages of their inputs with this decay, not
            trained by the loss.
        kmeans_start: begin with k-means centres of the first batches seen in training.
        kmeans_batches: of how many batches; the centres are made anew after each of them.
        kmeans_iterations: Lloyd's iterations.
        revive_after: a code unused for this many training batches becomes a random vector of the
            batch; None = never.
        encodec_averages: repeat two slips of EnCodec's code, for training that follows WavTokenizer
            to the bit: the k-means start keeps sums that are not multiplied by their counts, so
            that the next step shrinks the codes, and a dead code that is replaced is overwritten by
            its old average in the same step, so that replacing does nothing and is left out
            (`revive_after` must be None).
        seed: of the draws made by k-means and revival, together with the number of batches seen.
    """

    # Buffers, there with the options that need them: uses of each code and sums of what fell on it
    # (moving averages), training batches since its last use, training batches seen.
    ema_count: torch.Tensor
    ema_sum: torch.Tensor
    idle: torch.Tensor
    batches: torch.Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        *,
        l2_norm: bool = True,
        commitment: float = 0.25,
        codebook_weight: float = 1.0,
        ema_decay: float | None = None,
        kmeans_start: bool = False,
        kmeans_batches: int = 1,
        kmeans_iterations: int = 10,
        revive_after: int | None = None,
        encodec_averages: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if encodec_averages and (ema_decay is None or revive_after is not None):
            raise ValueError("encodec_averages needs ema_decay, and revive_after to be None")
        self.encodec_averages = encodec_averages
        self.codebook_size, self.dim = codebook_size, dim
        self.l2_norm, self.ema_decay, self.revive_after = l2_norm, ema_decay, revive_after
        self.commitment, self.codebook_weight = commitment, codebook_weight
        self.kmeans_batches = kmeans_batches if kmeans_start else 0
        self.kmeans_iterations, self.seed = kmeans_iterations, seed
        start = torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        start = F.normalize(start, dim=-1) if l2_norm else start
        self.embedding = nn.Parameter(start, requires_grad=ema_decay is None)
        if ema_decay is not None:
            self.register_buffer("ema_count", torch.ones(codebook_size))
            self.register_buffer("ema_sum", start.clone())
        if revive_after is not None:
            self.register_buffer("idle", torch.zeros(codebook_size, dtype=torch.int64))
        if kmeans_start or revive_after is not None:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self._seen: list[torch.Tensor] = []  # vectors kept for the k-means start, while it lasts

    @property
    def codes(self) -> torch.Tensor:
        """The codebook as it is used, (V, D) float32: normalised where `l2_norm` is on."""
        codes = self.embedding.float()
        return F.normalize(codes, dim=-1) if self.l2_norm else codes

    def forward(self, z: torch.Tensor) -> QuantizerOutput:
        """Quantize `z` (..., D). `stats`: usage and perplexity of the batch, `revived` codes in
        training.
        """
        with torch.autocast(z.device.type, enabled=False):
            flat = z.float().reshape(-1, self.dim)  # (M, D)
            flat = F.normalize(flat, dim=-1) if self.l2_norm else flat
            revived = self._prepare(flat.detach()) if self.training else 0
            indices = nearest_code(flat.detach(), self.codes.detach())
            quantized = self.codes[indices]
            loss = self.commitment * F.mse_loss(flat, quantized.detach())
            if self.ema_decay is None:
                loss = loss + self.codebook_weight * F.mse_loss(quantized, flat.detach())
            if self.training:
                self._account(flat.detach(), indices)
            out = straight_through(flat, quantized)
        stats = codebook_stats(indices, self.codebook_size)
        stats["revived"] = torch.as_tensor(float(revived), device=z.device)
        shape = z.shape[:-1]
        return QuantizerOutput(
            out.to(z.dtype).reshape(z.shape), indices.reshape(shape), loss, stats
        )

    def lookup(self, indices: torch.Tensor) -> torch.Tensor:
        """The codes of `indices` (...) as vectors (..., D), in the codebook's dtype."""
        return self.codes[indices].to(self.embedding.dtype)

    @torch.no_grad()
    def _prepare(self, flat: torch.Tensor) -> int:
        """Before a training batch is assigned: the k-means start, or new life for codes idle too
        long.
        """
        if self.kmeans_batches == 0 and self.revive_after is None:
            return 0
        seen = int(self.batches)
        self.batches += 1
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + seen)
        if seen < self.kmeans_batches:
            self._seen.append(flat)
            pool = torch.cat(self._seen)
            options = {"iterations": self.kmeans_iterations, "generator": generator}
            centres = k_means(pool, self.embedding.float(), **options)
            self._replace(torch.arange(self.codebook_size, device=flat.device), centres)
            if self.encodec_averages:
                counts, _ = _count_and_sum(pool, nearest_code(pool, centres), centres)
                self.ema_count.copy_(counts)
            if seen + 1 == self.kmeans_batches:
                self._seen = []
            return 0
        return self._revive(flat, generator)

    def _revive(self, flat: torch.Tensor, generator: torch.Generator) -> int:
        """Codes idle too long become random vectors of this batch, so they are used at once."""
        if self.revive_after is None:
            return 0
        dead = (self.idle >= self.revive_after).nonzero().squeeze(1)[: flat.shape[0]]
        if dead.numel():
            picks = torch.randperm(flat.shape[0], generator=generator)[: dead.numel()]
            self._replace(dead, flat[picks.to(flat.device)])
            self.idle[dead] = 0
        return dead.numel()

    def _replace(self, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        self.embedding.data[rows] = vectors.to(self.embedding.dtype)
        if self.ema_decay is not None:
            self.ema_count[rows] = 1.0
            self.ema_sum[rows] = vectors.to(self.ema_sum.dtype)

    @torch.no_grad()
    def _account(self, flat: torch.Tensor, indices: torch.Tensor) -> None:
        """After a training batch: who was used, and the moving averages with Laplace smoothing."""
        if self.revive_after is None and self.ema_decay is None:
            return
        counts, sums = _count_and_sum(flat, indices, self.embedding.float())
        if self.revive_after is not None:
            self.idle.copy_(torch.where(counts > 0, torch.zeros_like(self.idle), self.idle + 1))
        if self.ema_decay is not None:
            self.ema_count.lerp_(counts.to(self.ema_count.dtype), 1 - self.ema_decay)
            self.ema_sum.lerp_(sums.to(self.ema_sum.dtype), 1 - self.ema_decay)
            total, eps = self.ema_count.sum(), 1e-5
            smooth = (self.ema_count + eps) / (total + self.codebook_size * eps) * total
            self.embedding.copy_(self.ema_sum / smooth[:, None])
