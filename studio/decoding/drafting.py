"""Who drafts: the exchangeable part of speculative decoding that guesses the next tokens.

- jacobi: the target's own draws of the last pass, 2410.01699 (see `filling.py`); no draft model.
- coupled: the same, but a draft is kept as far as the new distribution allows, by maximal coupling
  or by noise that a position keeps (Gumbel sharing): speculative coupled decoding, 2026. A kept
  draft always carries the new distribution.
- prior: the generator's scores of all tokens from the caption alone.
- model: another, smaller ordered run, 2211.17192.
- recycling: what was likely after the same token last time (Token Recycling, 2024, 2408.08696), a
  row's own table, which begins empty, so that a result does not depend on what was made before.
- head: a small block on the target's features (EAGLE), see `head_drafter.py`.

In seed-faithful decoding every drafter takes argmax(log q + g) with plain decoding's noise g, which
makes "jacobi" and "coupled" the same. Left out on purpose: networks, which drafters are given.
"""

from dataclasses import dataclass

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.acceptance import couple, one_hot
from studio.decoding.feeding import Feeder
from studio.decoding.filling import INITIALISERS, has_prior
from studio.decoding.sampling import pick, pick_where
from studio.decoding.stage import Scores, Stage

COUPLINGS = ("maximal", "gumbel")
RECYCLED = 8  # next tokens kept for every token
UNLIKELY = 30.0  # minus the logit of all but one token where nothing was seen


@dataclass(frozen=True)
class Draft:
    """Guesses for the next m tokens of every row.

    Args:
        tokens: int64 (B, m).
        probs: (B, m, V), what they were drawn from; None for point masses, and in seed-faithful
            decoding.
    """

    tokens: np.ndarray
    probs: torch.Tensor | None = None


@dataclass(frozen=True)
class Seen:
    """What a pass showed, for the n positions from the first one after the emitted tokens on.

    Args:
        positions: int64 (B, n).
        scores: the target's, (B, n, V).
        probs: the target's (B, n, V); None in seed-faithful decoding.
        choices: what plain decoding takes, int64 (B, n); only in seed-faithful decoding.
        draft_tokens: int64 (B, n - 1) that were verified, on the device.
        draft_probs: (B, n - 1, V); None in seed-faithful decoding.
        widths: int64 (B,), how many of the positions are in a row's own window; 0 when it is done.
        limits: int64 (B,), drafts that a row might accept, `widths` - 1, on the device.
        features: what the scores were read from, (B or 2B, n, D); None where the run has none.
    """

    positions: np.ndarray
    scores: Scores
    probs: torch.Tensor | None
    choices: torch.Tensor | None
    draft_tokens: torch.Tensor
    draft_probs: torch.Tensor | None
    widths: np.ndarray
    limits: torch.Tensor
    features: torch.Tensor | None = None


class Drafter:
    """Base of all drafters; one lives as long as a stream.

    Args:
        stage: what all parts share.
        config: the strategy's.
        draft_run: a fresh run of a draft model, where there is one.
    """

    passes = 0  # of a draft model

    def __init__(self, stage: Stage, config, draft_run=None):
        self.stage = stage

    def propose(self, count: int) -> Draft:
        """Guesses for the next `count` > 0 tokens of every row. Guesses for kept positions are
        not read."""
        raise NotImplementedError

    def look(self, seen: Seen) -> torch.Tensor | None:
        """Reads a pass before anything of it is emitted. Tokens int64 (B, n) that it returns come
        back on the CPU in `learn`, together with the loop's own, so that a pass waits for the
        device once."""
        return None

    def learn(self, tokens: np.ndarray | None, accepted: np.ndarray, widths: np.ndarray) -> None:
        """What became of the pass, still before anything is emitted: the tokens of `look`, drafts
        accepted int64 (B,), and the row's windows int64 (B,)."""


class JacobiDrafter(Drafter):
    """Drafts with the target's draws of the last pass; independent ones."""

    def __init__(self, stage, config, draft_run=None):
        super().__init__(stage, config)
        self._fill = INITIALISERS[config.initialiser](stage)
        self._tokens = np.zeros((len(stage.line), 1), dtype=np.int64)  # (B, n)
        self._probs: torch.Tensor | None = None
        self._first = np.zeros(len(stage.line), dtype=np.int64)  # position of column 0
        self._known = np.zeros(len(stage.line), dtype=np.int64)  # columns that mean something

    def propose(self, count: int) -> Draft:
        stage = self.stage
        column = (stage.emitted - self._first)[:, None] + np.arange(count)  # (B, m)
        have = column < self._known[:, None]
        column = np.minimum(column, self._tokens.shape[1] - 1)
        tokens = np.where(have, self._tokens[stage.rows, column], 0)
        drawn = None
        if have.all():
            stage.write(0, tokens)
        else:
            drawn = self._fill(tokens, ~have)
        if stage.faithful or self._probs is None:
            return Draft(tokens, drawn)
        return Draft(tokens, self._drawn_from(self._probs, tokens, column, have, drawn))

    def _drawn_from(self, probs, tokens, column, have, drawn) -> torch.Tensor:
        """What every draft was drawn from: the last pass, the filler, or a point mass."""
        device = probs.device
        rows, column = torch.from_numpy(self.stage.rows), torch.from_numpy(column)
        seen = probs[rows.to(device), column.to(device)]  # (B, m, V)
        if have.all():
            return seen
        places = tuple(torch.from_numpy(i).to(device) for i in np.nonzero(~have))
        if drawn is not None:
            seen[places] = drawn[places]
        else:
            filled = torch.from_numpy(tokens[~have]).to(device)
            seen[places] = one_hot(filled, probs)
        return seen

    def look(self, seen: Seen) -> torch.Tensor | None:
        self._probs = seen.probs
        return seen.choices if seen.probs is None else self.redraw(seen, seen.probs)

    def redraw(self, seen: Seen, probs: torch.Tensor) -> torch.Tensor:
        """New drafts int64 (B, n) from the target's new distributions (B, n, V)."""
        return pick(probs, self.stage.uniforms(seen.positions, noise.DRAFT))

    def learn(self, tokens, accepted, widths):
        assert tokens is not None  # `look` always gives some
        self._tokens, self._first = tokens, self.stage.emitted.copy()
        self._known = widths


class CoupledDrafter(JacobiDrafter):
    """Keeps a draft where its old and its new distribution allow it."""

    def __init__(self, stage, config, draft_run=None):
        super().__init__(stage, config)
        self._coupling = config.coupling

    def redraw(self, seen, probs):
        stage, count = self.stage, seen.draft_tokens.shape[1]
        if self._coupling == "gumbel":
            shared = stage.shared_noise(seen.positions, probs.shape[-1], noise.DRAFT)
            return (probs.log() + shared).argmax(dim=-1)  # (B, n)
        drawn = seen.draft_tokens.new_zeros(probs.shape[:2])  # (B, n)
        tested = torch.zeros_like(drawn, dtype=torch.bool)
        if count and seen.draft_probs is not None:
            places, q = seen.positions[:, :count], seen.draft_probs
            # The test's own numbers: those past the first rejection were looked at by nobody.
            u = stage.uniforms(places, noise.ACCEPT)
            v = stage.uniforms(places, noise.REPLACE)
            drawn[:, :count] = couple(probs[:, :count], q, seen.draft_tokens, u, v)
            tested = torch.arange(count + 1, device=probs.device) < seen.limits.unsqueeze(1)
        fresh = pick_where(probs, stage.uniforms(seen.positions, noise.DRAFT), ~tested)
        return torch.where(tested, drawn, fresh)


class PriorDrafter(Drafter):
    """Draws from the generator's prior.

    Raises:
        ValueError: the run has no prior.
    """

    def __init__(self, stage, config, draft_run=None):
        super().__init__(stage, config)
        if not has_prior(stage.run):
            raise ValueError("drafter 'prior' needs a generator with a prior")

    def propose(self, count):
        positions = self.stage.positions(count)
        logits = self.stage.run.prior_logits(positions[:, 0].tolist(), count)  # (B, m, V)
        tokens, probs = self.stage.draw(logits, positions)
        self.stage.write(0, tokens)
        return Draft(tokens, probs)


class ModelDrafter(Drafter):
    """Draws token after token from a smaller network.

    Raises:
        ValueError: no draft run, or one of another batch or length.
    """

    def __init__(self, stage, config, draft_run=None):
        super().__init__(stage, config)
        if draft_run is None:
            raise ValueError("drafter 'model' needs draft_run, a run of the draft model")
        want = (stage.run.batch_size, stage.run.num_tokens)
        if (draft_run.batch_size, draft_run.num_tokens) != want:
            raise ValueError(
                f"draft_run of {draft_run.batch_size} rows and {draft_run.num_tokens} tokens must "
                f"have {want[0]} and {want[1]}"
            )
        self._feeder = Feeder(draft_run)

    @property
    def passes(self) -> int:
        return self._feeder.run.passes

    def propose(self, count):
        stage, tokens, probs = self.stage, [], []
        positions = stage.positions(count)
        for i in range(count):
            first = stage.emitted + i
            inside = (first < stage.run.num_tokens).astype(np.int64)
            logits = self._feeder.score(stage.line, first, inside)  # (B, 1, V)
            drawn, dist = stage.draw(logits, positions[:, i : i + 1])
            stage.write(i, drawn)
            tokens.append(drawn)
            probs.append(dist)
        tokens = np.concatenate(tokens, axis=1)  # (B, m)
        return Draft(tokens, None if stage.faithful else torch.cat(probs, dim=1))

    def learn(self, tokens, accepted, widths):
        self._feeder.keep(self.stage.emitted + accepted)


class RecyclingDrafter(Drafter):
    """Draws from the tokens that were likeliest after the same token before."""

    def __init__(self, stage, config, draft_run=None):
        super().__init__(stage, config)
        self._fill = INITIALISERS["left"](stage)
        # Ids and logits (B, V, k), the latter -inf where nothing was seen.
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None

    def propose(self, count):
        stage = self.stage
        tokens = np.zeros((len(stage.line), count), dtype=np.int64)
        if self._table is None:
            self._fill(tokens, np.ones_like(tokens, dtype=bool))
            return Draft(tokens)
        ids, values = self._table
        positions, probs = stage.positions(count), []
        rows = torch.arange(len(tokens), device=stage.device)
        for i in range(count):
            last = stage.line[stage.rows[:, 0], np.maximum(positions[:, i] - 1, 0)]  # (B,)
            at = torch.from_numpy(last).to(stage.device)
            logits = values.new_full(ids.shape[:2], -torch.inf)  # (B, V)
            logits.scatter_(1, ids[rows, at], values[rows, at])
            place = positions[:, i : i + 1]
            unseen = stage.allowed(logits.unsqueeze(1), place).isneginf().all(dim=-1)  # (B, 1)
            logits = logits.masked_fill(unseen, -UNLIKELY)
            logits[rows, at] = torch.where(unseen[:, 0], 0.0, logits[rows, at])  # the same again
            drawn, dist = stage.draw(logits.unsqueeze(1), place)
            stage.write(i, drawn)
            tokens[:, i] = drawn[:, 0]
            probs.append(dist)
        return Draft(tokens, None if stage.faithful else torch.cat(probs, dim=1))

    def look(self, seen):
        logits = seen.scores.logits
        best = logits.topk(min(RECYCLED, logits.shape[-1]), dim=-1)  # (B, n, k)
        if self._table is None:
            shape = (len(logits), logits.shape[-1], best.values.shape[-1])
            ids = torch.arange(shape[-1], device=logits.device).repeat(*shape[:2], 1)
            self._table = ids, logits.new_full(shape, -torch.inf)
        ids, values = self._table
        stage, rows = self.stage, torch.arange(len(logits), device=logits.device)
        for i in range(logits.shape[1]):  # one after the other: a token may come twice
            places = seen.positions[:, i]
            good = (places > 0) & (i < seen.widths)
            last = stage.line[stage.rows[:, 0], np.maximum(places - 1, 0)]
            on = torch.from_numpy(good).to(logits.device)
            at = torch.from_numpy(last).to(logits.device)[on]
            ids[rows[on], at] = best.indices[on, i]
            values[rows[on], at] = best.values[on, i]
        return None


# name -> class; a new drafter is one line here, or in a file of its own that adds it.
DRAFTERS: dict[str, type[Drafter]] = {
    "jacobi": JacobiDrafter,
    "coupled": CoupledDrafter,
    "prior": PriorDrafter,
    "model": ModelDrafter,
    "recycling": RecyclingDrafter,
}
