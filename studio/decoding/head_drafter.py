"""The drafter "head": a small block that reads what the target's own scores were read from.

EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty, 2024, 2401.15077 (the network
is `generators.drafter_head`). After every pass it reads the target's features of the tokens that
stand, forgets its own predictions of them, and draws a chain of drafts one after the other. What
lies further ahead than its chain is drafted as by "coupled", which costs nothing. Left out on
purpose: trees of drafts.
"""

import numpy as np
import torch

from studio.decoding.drafting import DRAFTERS, CoupledDrafter, Draft


class HeadDrafter(CoupledDrafter):
    """Draws the next tokens from a drafter head, and those after them as `CoupledDrafter` does.

    Until a first pass was seen there are no features, and all is drafted as by `CoupledDrafter`.

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
        self._read = np.zeros(len(stage.line), dtype=np.int64)  # tokens read with true features
        # Of every pass that was not read yet: features, and how many of a row's stand.
        self._unread: list[tuple[torch.Tensor, np.ndarray]] = []
        self._latest: torch.Tensor | None = None
        self._opened = False

    @property
    def passes(self) -> int:
        return self._run.passes

    def propose(self, count: int) -> Draft:
        draft = super().propose(count)
        if not self._unread:
            return draft
        depth = min(count, self._depth)
        tokens, probs = self._chain(depth)
        tokens = np.concatenate((tokens, draft.tokens[:, depth:]), axis=1)  # (B, m)
        if probs is None or draft.probs is None:
            return Draft(tokens)
        return Draft(tokens, torch.cat((probs, draft.probs[:, depth:]), dim=1))

    def _chain(self, depth: int) -> tuple[np.ndarray, torch.Tensor | None]:
        """Drafts int64 (B, depth), and what they were drawn from."""
        stage, run, made, dists = self.stage, self._run, [], []
        features = self._catch_up()  # (2B, 1, D)
        positions = stage.positions(depth)
        for i in range(depth):
            logits = run.score(features, (stage.emitted + i).tolist())  # (B, 1, V)
            drawn, probs = stage.draw(logits, positions[:, i : i + 1])
            stage.write(i, drawn)
            made.append(drawn)
            dists.append(probs)
            if i + 1 < depth:
                tokens = stage.line[stage.rows, positions[:, i : i + 1]]  # (B, 1)
                features = run.extend(features, torch.from_numpy(tokens).to(stage.device))
        return np.concatenate(made, axis=1), None if stage.faithful else torch.cat(dists, dim=1)

    def _catch_up(self) -> torch.Tensor:
        """Reads all features that were not read yet; what it predicts after them, (2B, 1, D)."""
        stage, run = self.stage, self._run
        features, counts = self._gathered()  # (2B, n, D), (B,)
        places = self._read[:, None] + np.arange(features.shape[1])  # (B, n)
        tokens = stage.line[stage.rows, np.minimum(places, stage.line.shape[1] - 1)]
        run.rewind(self._read.tolist())
        predicted = run.extend(features, torch.from_numpy(tokens).to(stage.device))
        self._read = self._read + counts
        run.rewind(self._read.tolist())
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
        return features[:, : counts.max()], counts

    def look(self, seen):
        # The first pass has also read tokens that were given, from the first one on.
        features = seen.features if self._opened else self.stage.run.features
        assert features is not None  # a run that a `HeadRun` stands beside has some
        self._latest = features.clone()  # a compiled step will write over it
        return super().look(seen)

    def learn(self, tokens, accepted, widths):
        super().learn(tokens, accepted, widths)
        before = 0 if self._opened else self.stage.emitted
        counts = np.where(widths > 0, before + accepted + 1, 0)
        assert self._latest is not None  # `look` has seen the same pass
        self._unread.append((self._latest, counts))
        self._opened = True


def _columns(values: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """Columns int64 (B, m) of values (B or 2B, n, D), the copies alike."""
    places = torch.from_numpy(index).to(values.device)
    places = places.repeat(len(values) // len(places), 1)  # (2B, m)
    return values[torch.arange(len(values), device=values.device)[:, None], places]


# Entered here, as the drafter is built on one of that file.
DRAFTERS["head"] = HeadDrafter
