"""How a tokenizer uses its codebook over a whole set: share of codes seen, entropy, perplexity.

For any medium. A single codebook is assumed: where several of one size stand beside each other
(residual sound), give the tokens of one at a time, or take the figures as those of the mixture.
"""

import torch


def count_codes(tokens: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """How often each code stands in `tokens` (int64, any shape): int64 (vocab_size,).

    Raises:
        ValueError: a token outside the vocabulary.
    """
    flat = tokens.reshape(-1).cpu()  # (M,)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < vocab_size:
        raise ValueError(
            f"tokens from {int(flat.min())} to {int(flat.max())} must lie between 0 and "
            f"{vocab_size - 1}"
        )
    return torch.bincount(flat, minlength=vocab_size)


def codebook_use(counts: torch.Tensor) -> dict[str, float]:
    """What the counts of codes (V,) say.

    Returns:
        `codes_used`: share of the codebook that was seen; at most tokens / V. `entropy`: bits a
        token, of the codes' frequencies over all positions; what is missing to log2(V) could be
        saved by an entropy coder. `perplexity`: 2 to the entropy. Zeros where nothing was counted.
    """
    total = int(counts.sum())
    if total == 0:
        return {"codes_used": 0.0, "entropy": 0.0, "perplexity": 0.0}
    share = counts[counts > 0].double() / total
    entropy = max(0.0, float(-(share * share.log2()).sum()))
    used = float((counts > 0).double().mean())
    return {"codes_used": used, "entropy": entropy, "perplexity": 2.0**entropy}
