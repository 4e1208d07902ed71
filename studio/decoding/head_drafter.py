"""The drafter "head": a small block that reads what the target's own scores were read from.

EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty, 2024, 2401.15077 (the network
is `generators.drafter_head`). After every pass it reads the target's features of the tokens that
stand, and forgets its own predictions of them. Two ways to draft, both on top of "coupled" drafts:

- chain: EAGLE's; the next tokens are drawn one after the other, the rest is coupled.
- changes: ours. The last pass has said something of every place in the window, but of tokens some
  of which are others now. The head predicts all features of the window twice, from the tokens that
  were and from those that are, and the difference is added to the target's features: where nothing
  changed they stay as they are, and what the head gets wrong both times cancels. Two passes of the
  head for the whole window.

Left out on purpose: trees of drafts.
"""

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.acceptance import couple
from studio.decoding.drafting import DRAFTERS, CoupledDrafter, Draft

HEAD_USES = ("changes", "chain")


class HeadDrafter(CoupledDrafter):
    """Drafts with a drafter head and, where that has nothing to say, as `CoupledDrafter` does.

    Until a first pass was seen there are no features, and all drafts are coupled ones.

    Args:
        draft_run: a `generators.drafter_head.HeadRun` beside the target's run.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, stage, config, draft_run=None):
        super().__init__(stage, config)
        if draft_run is None:
            raise ValueError("drafter 'head' needs a trained drafter head, and there is none")
        self._run, self._depth = draft_run, config.head_depth
        self._chained = config.head_use == "chain"
        self._read = np.zeros(len(stage.line), dtype=np.int64)  # tokens read for good
        # Of passes that were not read yet: features, and how many of a row's stand.
        self._unread: list[tuple[torch.Tensor, np.ndarray]] = []
        # Of the last pass: features (B or 2B, n, D), and the position that the first ones scored.
        self._last: tuple[torch.Tensor, np.ndarray] | None = None
        # And the tokens (B, N) that it took for granted, and how many positions were a row's own.
        self._assumed = stage.line
        self._widths = self._read
        self._opened = False

    @property
    def passes(self) -> int:
        return self._run.passes

    def propose(self, count: int) -> Draft:
        draft = super().propose(count)
        if not self._opened:
            return draft
        if not self._chained:
            return self._changed(draft)
        depth = min(count, self._depth)
        tokens, probs = self._chain(depth)
        tokens = np.concatenate((tokens, draft.tokens[:, depth:]), axis=1)  # (B, m)
        if probs is None or draft.probs is None:
            return Draft(tokens)
        return Draft(tokens, torch.cat((probs, draft.probs[:, depth:]), dim=1))

    # --- a chain ---------------------------------------------------------------------------------

    def _chain(self, depth: int) -> tuple[np.ndarray, torch.Tensor | None]:
        """Drafts int64 (B, depth), and what they were drawn from."""
        stage, run, made, dists = self.stage, self._run, [], []
        self._put_off()
        features = self._catch_up()  # (2B, 1, D)
        positions = stage.positions(depth)
        for i in range(depth):
            logits = run.score(features, (stage.emitted + i).tolist())  # (B, 1, V)
            drawn, probs = stage.draw(logits, positions[:, i : i + 1])
            stage.write(i, drawn)
            made.append(drawn)
            dists.append(probs)
            if i + 1 < depth:
                features = run.extend(
                    features, self._tokens_at(stage.line, positions[:, i : i + 1])
                )
        return np.concatenate(made, axis=1), None if stage.faithful else torch.cat(dists, dim=1)

    def _catch_up(self) -> torch.Tensor:
        """Reads all features that were not read yet; what it predicts after them, (2B, 1, D)."""
        features, counts = self._gathered()  # (2B, n, D), (B,)
        places = self._read[:, None] + np.arange(features.shape[1])  # (B, n)
        self._run.rewind(self._read.tolist())
        predicted = self._run.extend(features, self._tokens_at(self.stage.line, places))
        self._read = self._read + counts
        self._run.rewind(self._read.tolist())
        return _columns(predicted, np.maximum(counts - 1, 0)[:, None])

    def _gathered(self) -> tuple[torch.Tensor, np.ndarray]:
        """The unread features that stand, side by side from the left, and how many they are."""
        (features, counts), *others = self._unread
        if others:
            stands = [np.arange(f.shape[1]) < c[:, None] for f, c in self._unread]
            stands = np.concatenate(stands, axis=1)  # (B, n)
            counts = stands.sum(axis=1)  # (B,)
            order = np.argsort(~stands, axis=1, kind="stable")[:, : counts.max()]
            features = _columns(torch.cat([f for f, _ in self._unread], dim=1), order)
        self._unread = []
        return features[:, : max(1, counts.max())], counts

    # --- changes ---------------------------------------------------------------------------------

    def _changed(self, draft: Draft) -> Draft:
        """Draws the drafts again, from what the target would have said of the tokens that are."""
        stage, run = self.stage, self._run
        if self._unread:
            self._catch_up()
        assert self._last is not None  # there was a pass since the last drafts
        (features, start), self._last = self._last, None
        size, count = features.shape[1], draft.tokens.shape[1]
        places = start[:, None] + np.arange(size)  # (B, n)
        before, after = (
            self._reread(features, self._tokens_at(line, places))
            for line in (self._assumed, stage.line)
        )
        self._read = self._read + stage.emitted - start
        run.rewind(self._read.tolist())
        told = features[:, 1:] + after[:, :-1] - before[:, :-1]
        told = torch.cat((told, after[:, -1:]), dim=1)  # of the n positions after `start`
        column = (stage.emitted - start - 1)[:, None] + np.arange(min(size, count))  # (B, k)
        known = (column >= 0) & (column < self._widths[:, None])
        # Of the place after a row's own window the target has said nothing.
        last = column == self._widths[:, None] - 1
        column = np.clip(column, 0, size - 1)
        told = torch.where(self._copied(last), _columns(after, column), _columns(told, column))
        logits = run.score(told, stage.emitted.tolist())  # (B, k, V)
        return self._drawn_again(draft, logits, known)

    def _reread(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        self._run.rewind(self._read.tolist())
        return self._run.extend(features, tokens)  # (2B, n, D)

    def _drawn_again(self, draft: Draft, logits: torch.Tensor, known: np.ndarray) -> Draft:
        """The draft with its first k tokens drawn from logits (B, k, V) where they are `known`."""
        stage, k = self.stage, known.shape[1]
        positions = stage.positions(k)
        scores = stage.scores(logits, positions)
        tokens, probs = draft.tokens.copy(), None
        if stage.faithful:
            drawn = stage.choices(scores, positions)  # (B, k)
        else:
            assert draft.probs is not None  # the pass that was seen left some
            told, old = scores.probs, draft.probs[:, :k]
            drawn = self._moved(told, old, torch.from_numpy(tokens[:, :k]).to(told.device))
            where = torch.from_numpy(known).to(told.device).unsqueeze(-1)
            probs = torch.cat((torch.where(where, told, old), draft.probs[:, k:]), dim=1)
        tokens[:, :k] = np.where(known, drawn.cpu().numpy(), tokens[:, :k])
        stage.write(0, tokens)
        return Draft(tokens, probs)

    def _moved(self, probs, old, tokens: torch.Tensor) -> torch.Tensor:
        """Draws (B, k) from `probs`, (B, k, V), close to `tokens` that were drawn from `old`."""
        stage = self.stage
        positions = stage.positions(tokens.shape[1])
        if self._coupling == "gumbel":
            shared = stage.shared_noise(positions, probs.shape[-1], noise.DRAFT)
            return (probs.log() + shared).argmax(dim=-1)
        # Numbers of their own: those of the test must know nothing of the draft.
        u = stage.uniforms(positions, noise.HEAD_KEEP)
        v = stage.uniforms(positions, noise.HEAD_REPLACE)
        return couple(probs, old, tokens, u, v)

    # --- passes ----------------------------------------------------------------------------------

    def look(self, seen):
        stage, raw = self.stage, self.stage.run.features
        assert seen.features is not None and raw is not None  # a `HeadRun` stands beside such a run
        self._put_off()  # the pass before, where nothing was drafted since
        if not self._opened and stage.emitted.any():
            # The first pass has also read tokens that were given, from the first one on.
            self._unread.append((raw.clone(), np.minimum(stage.emitted, raw.shape[1])))
        # A copy, as a compiled step will write over it.
        self._last = seen.features.clone(), stage.emitted.copy()
        self._widths, self._opened = seen.widths, True
        return super().look(seen)

    def learn(self, tokens, accepted, widths):
        super().learn(tokens, accepted, widths)
        self._assumed = self.stage.line.copy()

    def _put_off(self) -> None:
        """Puts what stands of the last pass among what is to be read for good."""
        if self._last is not None:
            features, start = self._last
            self._unread.append((features, self.stage.emitted - start))
            self._last = None

    def _copied(self, rows: np.ndarray) -> torch.Tensor:
        """A mask (B, k) for both halves of a guided batch, (2B, k, 1)."""
        mask = torch.from_numpy(rows).to(self.stage.device)
        return mask.repeat(self._run.copies, 1).unsqueeze(-1)

    def _tokens_at(self, line: np.ndarray, places: np.ndarray) -> torch.Tensor:
        """Tokens of a line (B, N) at places (B, n), on the device; the last one past the end."""
        places = np.minimum(places, line.shape[1] - 1)
        return torch.from_numpy(line[self.stage.rows, places]).to(self.stage.device)


def _columns(values: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """Columns int64 (B, m) of values (B or 2B, n, D), the copies alike."""
    places = torch.from_numpy(index).to(values.device)
    places = places.repeat(len(values) // len(places), 1)  # (2B, m)
    return values[torch.arange(len(values), device=values.device)[:, None], places]


# Entered here, as the drafter is built on one of that file.
DRAFTERS["head"] = HeadDrafter
