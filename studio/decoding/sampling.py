"""From logits to a token, as pure functions over the last axis.

Temperature, then top-k, then top-p, then min-p (Turning Up the Heat: Min-p Sampling, 2024,
2407.01082), the order and the edge rules of LlamaGen's sampler: ties with the k-th best stay, and
so does the first token that crosses p. A token is argmax(log p + g) with Gumbel noise g, which is a
draw from p; written as argmax(logits + temperature * g) it needs no special case at temperature 0.
All in float32.
"""

import math

import torch


def filter_logits(
    logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """Logits (..., V) in float32 with the tokens that must not be drawn at -inf; the others
    unchanged.

    Args:
        temperature: > 0 for top-p and min-p to mean anything; at 0 nothing is filtered, since
            argmax is what follows.
        top_k: keep the k best; 0 for all.
        top_p: keep the best tokens that together reach this probability; 1 for all.
        min_p: keep tokens at least this share as likely as the best; 0 for all.
    """
    logits = logits.float()
    if temperature <= 0:
        return logits
    if 0 < top_k < logits.shape[-1]:
        bound = logits.topk(top_k, dim=-1).values[..., -1:]  # (..., 1)
        logits = logits.masked_fill(logits < bound, -torch.inf)
    if top_p < 1.0:
        probs = (logits / temperature).softmax(dim=-1)
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        outside = ordered.cumsum(dim=-1) - ordered > top_p
        outside[..., 0] = False
        outside = torch.zeros_like(outside).scatter(-1, order, outside)
        logits = logits.masked_fill(outside, -torch.inf)
    if min_p > 0.0:
        scaled = logits / temperature
        bound = scaled.max(dim=-1, keepdim=True).values + math.log(min_p)  # (..., 1)
        logits = logits.masked_fill(scaled < bound, -torch.inf)
    return logits


def log_probs(logits: torch.Tensor, *, temperature: float = 1.0, **filters) -> torch.Tensor:
    """log p (..., V) of what `choose` draws from; at temperature 0 all mass is on the best token.

    Args:
        filters: `top_k`, `top_p`, `min_p` as in `filter_logits`.
    """
    if temperature <= 0:
        best = logits.argmax(dim=-1, keepdim=True)  # (..., 1)
        return torch.full_like(logits.float(), -torch.inf).scatter(-1, best, 0.0)
    filtered = filter_logits(logits, temperature=temperature, **filters)
    return (filtered / temperature).log_softmax(dim=-1)


def choose(
    logits: torch.Tensor, noise: torch.Tensor | float, *, temperature: float = 1.0
) -> torch.Tensor:
    """Tokens int64 (...) drawn from softmax(logits / temperature), given Gumbel noise (..., V).

    Args:
        logits: (..., V), as `filter_logits` returns them.
    """
    if temperature <= 0:
        return logits.argmax(dim=-1)
    return (logits + temperature * noise).argmax(dim=-1)
