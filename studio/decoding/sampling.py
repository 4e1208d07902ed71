"""From logits to a token, as pure functions over the last axis.

Temperature, then top-k, then top-p, then min-p (Turning Up the Heat: Min-p Sampling, 2024,
2407.01082), the order and the edge rules of LlamaGen's sampler: ties with the k-th best stay, and
so does the first token that crosses p. A token is argmax(log p + g) with Gumbel noise g, which is a
draw from p; written as argmax(logits + temperature * g) it needs no special case at temperature 0.
All in float32. Speculative decoding draws by the inverse of the cumulative distribution where it
needs no Gumbel noise: one uniform a token instead of V.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from studio.decoding.schedules import ramped


def filter_logits(
    logits: torch.Tensor,
    *,
    temperature: float | torch.Tensor = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """Logits (..., V) in float32 with the tokens that must not be drawn at -inf; the others
    unchanged.

    Args:
        temperature: > 0 for top-p and min-p to mean anything; at 0 nothing is filtered, since
            argmax is what follows. A tensor (..., 1), > 0 everywhere, for one a row.
        top_k: keep the k best; 0 for all.
        top_p: keep the best tokens that together reach this probability; 1 for all.
        min_p: keep tokens at least this share as likely as the best; 0 for all.
    """
    logits = logits.float()
    if _is_zero(temperature):
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


def log_probs(
    logits: torch.Tensor, *, temperature: float | torch.Tensor = 1.0, **filters
) -> torch.Tensor:
    """log p (..., V) of what `choose` draws from; at temperature 0 all mass is on the best token.

    Args:
        filters: `top_k`, `top_p`, `min_p` as in `filter_logits`.
    """
    if _is_zero(temperature):
        best = logits.argmax(dim=-1, keepdim=True)  # (..., 1)
        return torch.full_like(logits.float(), -torch.inf).scatter(-1, best, 0.0)
    filtered = filter_logits(logits, temperature=temperature, **filters)
    return (filtered / temperature).log_softmax(dim=-1)


def choose(
    logits: torch.Tensor,
    noise: torch.Tensor | float,
    *,
    temperature: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """Tokens int64 (...) drawn from softmax(logits / temperature), given Gumbel noise (..., V).

    Args:
        logits: (..., V), as `filter_logits` returns them.
        temperature: one number, or (..., 1).
    """
    if _is_zero(temperature):
        return logits.argmax(dim=-1)
    return (logits + temperature * noise).argmax(dim=-1)


def pick(probs: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Tokens int64 (...) where the cumulative distribution passes u: a draw for u uniform.

    Args:
        probs: (..., V), not necessarily of sum 1.
        u: (...), strictly between 0 and 1. A token of probability 0 is never picked.
    """
    total = probs.double().cumsum(dim=-1)  # (..., V)
    bound = u.double().unsqueeze(-1) * total[..., -1:]  # (..., 1)
    place = torch.searchsorted(total, bound, right=True).squeeze(-1)  # (...)
    return place.clamp(max=probs.shape[-1] - 1)


def pick_where(probs: torch.Tensor, u: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """`pick` where bool (...) says so, anything elsewhere: on a CPU only there; on a GPU, which
    would wait for how many they are, everywhere."""
    if probs.device.type != "cpu":
        return pick(probs, u)
    tokens = torch.zeros(u.shape, dtype=torch.int64)
    tokens[where] = pick(probs[where], u[where])
    return tokens


def _is_zero(temperature: float | torch.Tensor) -> bool:
    return not isinstance(temperature, torch.Tensor) and temperature <= 0


@dataclass(frozen=True)
class Sampling:
    """What turns logits into the distribution that tokens are drawn from, as one value that every
    ordered strategy shares: temperature with its ramp, top-k, top-p, min-p."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    schedule: str = "constant"

    @classmethod
    def from_config(cls, config) -> "Sampling":
        """The part of a strategy's config that is about sampling."""
        return cls(
            config.temperature,
            config.top_k,
            config.top_p,
            config.min_p,
            config.temperature_schedule,
        )

    def temperature_at(
        self, progress: float | np.ndarray, device: torch.device | None = None
    ) -> float | torch.Tensor:
        """The temperature at progress in [0, 1): one number where it can be, else (..., 1)."""
        if not isinstance(progress, np.ndarray):
            return ramped(self.temperature, self.schedule, progress)
        if self.schedule == "constant" or self.temperature <= 0:
            return float(self.temperature)
        values = [ramped(self.temperature, self.schedule, p) for p in progress.ravel().tolist()]
        return torch.tensor(values, device=device).view(*progress.shape, 1)

    def filtered(self, logits: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
        """`filter_logits` (..., V) at a temperature from `temperature_at`."""
        return filter_logits(
            logits,
            temperature=temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
        )
