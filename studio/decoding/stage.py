"""What the parts of a speculative decoding share: the tokens so far, the noise, the distributions.

A `Stage` lives as long as one stream. Bookkeeping is numpy on the CPU; what has the width of the
vocabulary stays on the run's device. Every random number depends on a sample's key, a position, the
number of passes so far and a purpose, so that a row never depends on the batch.
"""

from dataclasses import dataclass

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.acceptance import one_hot
from studio.decoding.base import outside_vocabulary
from studio.decoding.sampling import Sampling, choose, pick
from studio.outputs import TokenLayout


@dataclass(frozen=True)
class Scores:
    """Filtered logits (B, n, V) and the temperature they are read at: one number or (B, n, 1)."""

    logits: torch.Tensor
    temperature: float | torch.Tensor

    @property
    def probs(self) -> torch.Tensor:
        """The distribution, float32 (B, n, V); a point mass at temperature 0."""
        if not isinstance(self.temperature, torch.Tensor) and self.temperature <= 0:
            return one_hot(self.logits.argmax(dim=-1), self.logits)
        return (self.logits / self.temperature).softmax(dim=-1)


class PositionNoise:
    """Gumbel vectors that depend on a sample and a position alone, made once while they are in the
    window.

    Args:
        keys: uint64 (B,).
        slots: positions kept a row; at least as many as are asked for in a row.
        purpose: see `noise`.
    """

    def __init__(self, keys: np.ndarray, slots: int, purpose: int, device: torch.device):
        self._keys, self._slots, self._purpose, self._device = keys, slots, purpose, device
        self._held = np.full((len(keys), slots), -1, dtype=np.int64)
        self._values: torch.Tensor | None = None

    def at(self, positions: np.ndarray, width: int) -> torch.Tensor:
        """Noise (B, n, V) at positions int64 (B, n) that follow each other."""
        values = self._values
        if values is None:
            values = self._values = torch.zeros(*self._held.shape, width, device=self._device)
        rows = np.arange(len(positions))[:, None]
        slots = positions % self._slots  # (B, n)
        new = self._held[rows, slots] != positions
        if new.any():
            row, _ = new.nonzero()
            states = noise.stream_states(self._keys[row], positions[new], 0, self._purpose)
            made = noise.gumbel(states, width, device=self._device)  # (R, V)
            values[torch.from_numpy(row), torch.from_numpy(slots[new])] = made
            self._held[row, slots[new]] = positions[new]
        first, last = int(slots[0, 0]), int(slots[0, -1])
        if last - first == slots.shape[1] - 1 and (slots == slots[0]).all():
            return values[:, first : last + 1]
        return values[torch.from_numpy(rows), torch.from_numpy(slots)]  # (B, n, V)


class Stage:
    """The state of one stream.

    Args:
        run: the target's run.
        layout: of the tokens.
        sampling: what makes a distribution of logits.
        keys: one a sample.
        tokens, keep: given tokens (B, N) and which of them stay, bool (B, N).
        count: tokens to make, the kept ones included.
        slots: the largest window.
        faithful: draw by the noise of plain decoding.
    """

    def __init__(
        self,
        run,
        layout: TokenLayout,
        sampling: Sampling,
        keys: list[int],
        tokens: torch.Tensor,
        keep: torch.Tensor,
        *,
        count: int,
        slots: int,
        faithful: bool,
    ):
        self.run, self.layout, self.sampling = run, layout, sampling
        self.device, self.faithful, self.count = run.device, faithful, count
        self.keys = np.array(keys, dtype=np.uint64)
        self.line = tokens.cpu().numpy().copy()  # (B, N), emitted, kept and drafted tokens
        self.kept = keep.cpu().numpy()  # (B, N)
        self.given = self.line.copy()
        self.emitted = self.kept[:, :count].astype(np.int64).cumprod(axis=1).sum(axis=1)  # (B,)
        self.step = 0  # passes so far; the same for every row that is not done
        self.rows = np.arange(len(self.line))[:, None]
        self.total = layout.num_tokens
        self._outside: torch.Tensor | None = None
        self._shared = {
            purpose: PositionNoise(self.keys, min(slots, self.total), purpose, self.device)
            for purpose in (noise.TOKEN, noise.DRAFT)
        }

    def positions(self, count: int) -> np.ndarray:
        """The next `count` positions of every row, int64 (B, count); the last one past the end."""
        return np.minimum(self.emitted[:, None] + np.arange(count), self.total - 1)

    def write(self, offset: int, tokens: np.ndarray) -> None:
        """Puts drafts int64 (B, n) on the line, from `offset` after the last emitted tokens on;
        kept tokens stay."""
        places = self.emitted[:, None] + offset + np.arange(tokens.shape[1])  # (B, n)
        inside = places < self.total
        places = np.minimum(places, self.total - 1)
        rows = np.broadcast_to(self.rows, places.shape)
        inside &= ~self.kept[rows, places]
        self.line[rows[inside], places[inside]] = tokens[inside]

    def allowed(self, logits: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """Logits (B, n, V) with the ids that positions (B, n) do not have at -inf."""
        outside = self._outside
        if outside is None:
            outside = outside_vocabulary(self.layout, logits.shape[-1], logits.device)
            outside = logits.new_zeros(0) if outside is None else outside
            self._outside = outside
        if not len(outside):
            return logits
        places = torch.from_numpy(positions).to(logits.device)
        return logits.masked_fill(outside[places], -torch.inf)

    def scores(self, logits: torch.Tensor, positions: np.ndarray) -> Scores:
        """Filtered logits (B, n, V) at positions (B, n): what plain decoding draws from. At a kept
        position all mass is on the kept token."""
        logits = self.allowed(logits, positions)
        progress = positions / self.total
        temperature = self.sampling.temperature_at(progress, logits.device)
        logits = self.sampling.filtered(logits, temperature)
        kept = self.kept[self.rows, positions]
        if kept.any():
            given = torch.from_numpy(self.given[self.rows, positions]).to(logits.device)
            only = torch.full_like(logits, -torch.inf).scatter(-1, given.unsqueeze(-1), 0.0)
            logits = torch.where(torch.from_numpy(kept).to(logits.device)[..., None], only, logits)
        return Scores(logits, temperature)

    def choices(self, scores: Scores, positions: np.ndarray) -> torch.Tensor:
        """What plain decoding takes with this seed, int64 (B, n)."""
        if not isinstance(scores.temperature, torch.Tensor) and scores.temperature <= 0:
            return choose(scores.logits, 0.0, temperature=0.0)
        shared = self.shared_noise(positions, scores.logits.shape[-1])
        return choose(scores.logits, shared, temperature=scores.temperature)

    def shared_noise(
        self, positions: np.ndarray, width: int, purpose: int = noise.TOKEN
    ) -> torch.Tensor:
        """Gumbel noise (B, n, V) of positions alone; with the purpose `noise.TOKEN` it is that of
        plain decoding."""
        return self._shared[purpose].at(positions, width)

    def uniforms(
        self, positions: np.ndarray, purpose: int, count: int | None = None
    ) -> torch.Tensor:
        """One float64 uniform (B, n) a position, of this pass; (B, n, count), the first of which
        is that one, where many are asked for."""
        states = noise.stream_states(self.keys[:, None], positions, self.step, purpose)  # (B, n)
        shape = positions.shape if count is None else (*positions.shape, count)
        values = noise.uniform(states.ravel(), 1 if count is None else count).reshape(shape)
        return torch.from_numpy(values).to(self.device)

    def draw(
        self, logits: torch.Tensor, positions: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """Drafts int64 (B, n) from a drafter's logits (B, n, V), and what they were drawn from;
        None where nobody asks."""
        scores = self.scores(logits, positions)
        if self.faithful:
            return self.choices(scores, positions).cpu().numpy(), None
        probs = scores.probs
        drawn = pick(probs, self.uniforms(positions, noise.DRAFT))
        return drawn.cpu().numpy(), probs
