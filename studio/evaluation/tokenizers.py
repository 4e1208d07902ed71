"""What a tokenizer keeps: PSNR, SSIM, feature distance and codebook use, for every prefix length.

Features are our own (features.py), not Inception's.
"""

import torch

from studio.evaluation.features import NOTE, ImageTextFeatures
from studio.evaluation.metrics import frechet_distance
from studio.media.quality import psnr, ssim
from studio.tokenizers.base import Tokenizer


def prefix_counts(tokenizer: Tokenizer) -> list[int]:
    """Powers of two up to the number of tokens, and that number; it alone where prefixes can't be
    decoded."""
    total = tokenizer.layout.num_tokens
    if not tokenizer.layout.prefix:
        return [total]
    return sorted({2**i for i in range(total.bit_length()) if 2**i <= total} | {total})


@torch.no_grad()
def encode_all(tokenizer: Tokenizer, images: torch.Tensor, *, batch_size: int = 16) -> torch.Tensor:
    """Tokens int64 (n, N) of pictures (n, 3, H, W), made in batches; on the CPU.

    Raises:
        ValueError: the tokenizer gives continuous latents only.
    """
    parts = []
    for part in images.split(batch_size):
        tokens = tokenizer.encode(part.to(tokenizer.device, tokenizer.dtype)).tokens
        if tokens is None:
            raise ValueError(f"tokenizer {type(tokenizer).__name__} gives no discrete tokens")
        parts.append(tokens.cpu())
    return torch.cat(parts)  # (n, N)


@torch.no_grad()
def decode_all(
    tokenizer: Tokenizer,
    tokens: torch.Tensor,
    *,
    num_tokens: int | None = None,
    batch_size: int = 16,
) -> torch.Tensor:
    """Pictures float32 (n, 3, H, W) in [-1, 1] of tokens (n, N), made in batches; on the CPU."""
    parts = []
    for part in tokens.split(batch_size):
        decoded = tokenizer.decode(part.to(tokenizer.device), num_tokens=num_tokens)
        parts.append(decoded.float().clamp(-1, 1).cpu())
    return torch.cat(parts)  # (n, 3, H, W)


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: Tokenizer,
    images: torch.Tensor,
    *,
    features: ImageTextFeatures,
    counts: list[int] | None = None,
    batch_size: int = 16,
) -> dict:
    """Encodes pictures, decodes them from prefixes, and compares.

    Args:
        tokenizer: any image tokenizer.
        images: float (n, 3, H, W) in [-1, 1], at least 2.
        features: what distances are measured on.
        counts: prefix lengths; those of `prefix_counts` when None.
        batch_size: pictures at a time.

    Returns:
        Plain JSON values: `codes_used` (share of the codebook that these pictures use), and for
        every prefix length `tokens`, `bytes` of a picture, `psnr` in dB, `ssim`, and `fd`.
    """
    tokenizer.eval()
    tokens = encode_all(tokenizer, images, batch_size=batch_size)
    reference = features.encode_images(images.to(features.device))
    lengths = []
    for count in counts or prefix_counts(tokenizer):
        decoded = decode_all(tokenizer, tokens, num_tokens=count, batch_size=batch_size)
        found = features.encode_images(decoded.to(features.device))
        lengths.append(
            {
                "tokens": count,
                "bytes": tokenizer.rate(count).bits / 8,
                "psnr": psnr(decoded, images).mean().item(),
                "ssim": ssim(decoded, images).mean().item(),
                "fd": frechet_distance(found, reference),
            }
        )
    return {
        "note": NOTE,
        "pictures": len(images),
        "size": images.shape[-1],
        "vocabulary": tokenizer.layout.vocab_size,
        "codes_used": tokens.unique().numel() / tokenizer.layout.vocab_size,
        "lengths": lengths,
    }
