"""The loop of speculative decoding: draft, score in one pass, verify, emit, again.

Fast Inference from Transformers via Speculative Decoding, 2022, 2211.17192. Each row keeps what it
accepted itself, never cut to the batch's least, and a row that is done waits without a part in what
follows. A pass waits for the device once, where the drafter allows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.acceptance import Rule, leading_matches, one_hot, verify_chain
from studio.decoding.drafting import Draft, Drafter, Seen
from studio.decoding.feeding import Feeder
from studio.decoding.stage import Stage
from studio.decoding.windows import FixedWindow
from studio.outputs import DecodeState


@dataclass
class Speculation(DecodeState):
    """A `DecodeState` of a pass that verified drafts; `proposed` counts the drafts in the row's
    window, `accepted` those that stand (the token that follows them is no draft).

    Args:
        window: tokens that the pass scored in every row at most; 1 is plain decoding.
        speculating: False where speculation has switched itself off.
        draft_passes: passes of the draft model so far.
    """

    window: int = 1
    speculating: bool = True
    draft_passes: int = 0


class SpeculativeLoop:
    """The one loop of draft and verify.

    Args:
        stage: what all parts share.
        drafter, window: who drafts, and how much.
        rule: the probability of accepting; None for seed-faithful decoding.
    """

    def __init__(self, stage: Stage, drafter: Drafter, window: FixedWindow, rule: Rule | None):
        self.stage, self.drafter, self.window, self.rule = stage, drafter, window, rule
        self.feeder = Feeder(stage.run)

    def states(self) -> Iterator[Speculation]:
        """One state a pass; one without a pass where every token is given."""
        stage = self.stage
        nothing = np.zeros_like(stage.emitted)
        if (stage.emitted >= stage.count).all():
            yield self._state(nothing, nothing, 1)
        while (stage.emitted < stage.count).any():
            widths = self.window.sizes(stage.count - stage.emitted)  # (B,)
            yield self._pass(widths)

    def _pass(self, widths: np.ndarray) -> Speculation:
        """Drafts, verifies, emits."""
        stage, size = self.stage, int(widths.max())
        draft = self.drafter.propose(size - 1) if size > 1 else Draft(widths[:, None][:, :0])
        positions = stage.positions(size)  # (B, n)
        logits = self.feeder.score(stage.line, stage.emitted, widths)  # (B, n, V)
        seen = self._see(draft, logits, positions, widths)
        accepted, token = self._verify(seen)
        looked = self.drafter.look(seen)
        parts = [accepted.unsqueeze(1), token.unsqueeze(1)] + ([] if looked is None else [looked])
        result = torch.cat(parts, dim=1).cpu().numpy()  # (B, 2 or 2 + n)
        accepted = result[:, 0]
        self.drafter.learn(None if looked is None else result[:, 2:], accepted, widths)
        proposed, stood = self._counts(positions, widths, accepted)
        self.window.learn(stood + (accepted < widths - 1), stood)
        going = widths > 0
        stage.line[going, (stage.emitted + accepted)[going]] = result[going, 1]
        stage.emitted = stage.emitted + np.where(going, accepted + 1, 0)
        stage.step += 1
        self.feeder.keep(stage.emitted - 1)
        return self._state(proposed, stood, size)

    def _see(self, draft: Draft, logits, positions: np.ndarray, widths: np.ndarray) -> Seen:
        stage = self.stage
        device = logits.device
        scores = stage.scores(logits, positions)
        places = positions[:, :-1]
        drafted = stage.line[stage.rows, places]  # (B, m), with kept tokens where they belong
        tokens = torch.from_numpy(drafted).to(device)
        probs = choices = q = None
        if self.rule is None:
            choices = stage.choices(scores, positions)  # (B, n)
        else:
            probs = scores.probs  # (B, n, V)
            q = one_hot(tokens, probs) if draft.probs is None else draft.probs
            kept = stage.kept[stage.rows, places]
            if draft.probs is not None and kept.any():
                kept = torch.from_numpy(kept).to(device)
                q = torch.where(kept.unsqueeze(-1), one_hot(tokens, probs), q)
        return Seen(
            positions=positions,
            scores=scores,
            probs=probs,
            choices=choices,
            draft_tokens=tokens,
            draft_probs=q,
            widths=widths,
            limits=torch.from_numpy(widths - 1).to(device),
            features=self.feeder.features,
        )

    def _verify(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """How many drafts of every row stand, and the token after them, int64 (B,) both."""
        if self.rule is None:
            choices = seen.choices  # (B, n)
            assert choices is not None  # `_see` made them
            accepted = leading_matches(choices[:, :-1], seen.draft_tokens, seen.limits)
            return accepted, choices.gather(1, accepted.unsqueeze(1)).squeeze(1)
        u = self.stage.uniforms(seen.positions[:, :-1], noise.ACCEPT)
        v = self.stage.uniforms(seen.positions, noise.REPLACE)
        p, q = seen.probs, seen.draft_probs
        assert p is not None and q is not None  # `_see` made them
        return verify_chain(p, q, seen.draft_tokens, u, v, seen.limits, self.rule)

    def _counts(self, positions, widths, accepted) -> tuple[np.ndarray, np.ndarray]:
        """Drafts in the windows and those that stand, kept tokens not counted, int64 (B,)."""
        places = positions[:, :-1]
        free = ~self.stage.kept[self.stage.rows, places]  # (B, m)
        column = np.arange(places.shape[1])
        drafts = (free & (column < widths[:, None] - 1)).sum(axis=1)
        return drafts, (free & (column < accepted[:, None])).sum(axis=1)

    def _state(self, proposed: np.ndarray, accepted: np.ndarray, size: int) -> Speculation:
        stage, device = self.stage, self.stage.device
        known = np.arange(stage.line.shape[1]) < stage.emitted[:, None]  # (B, N)
        mask = torch.from_numpy(known).to(device)
        return Speculation(
            tokens=torch.from_numpy(np.where(known, stage.line, 0)).to(device),
            known=mask,
            final=mask,
            step=int(stage.emitted.min()),
            num_steps=stage.count,
            passes=stage.run.passes,
            proposed=torch.from_numpy(proposed).to(device),
            accepted=torch.from_numpy(accepted).to(device),
            window=size,
            speculating=self.window.speculating,
            draft_passes=self.drafter.passes,
        )
