"""The loop of speculative decoding with trees: draft, score all branches in one pass, walk, emit.

Recursive Speculative Decoding, 2024, 2402.14160, DySpec, 2024, 2410.11744, and SpecTr, 2023,
2310.15141, by what `tree_drafting.py` draws. The walk goes down from the root for as long as a
child stands; the rules at a node are those of `trees.py`, or in seed-faithful decoding: go to the
child that is the target's choice. Each row keeps the path that it found itself. Left out on
purpose: windows that adapt.
"""

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.acceptance import Rule
from studio.decoding.feeding import TreeFeeder
from studio.decoding.loop import Speculation, SpeculativeLoop
from studio.decoding.sampling import choose, pick
from studio.decoding.stage import Scores, Stage
from studio.decoding.tree_drafting import TreeDrafter
from studio.decoding.tree_sources import Drafts
from studio.decoding.trees import kseq_rho, verify_independent, verify_siblings
from studio.decoding.windows import FixedWindow

ROUNDS = 24  # of the bisection for K-SEQ; where it ends is valid at any time


class TreeLoop(SpeculativeLoop):
    """`SpeculativeLoop` over trees.

    Args:
        stage, window, rule: as there.
        drafter: who draws the trees.
    """

    def __init__(self, stage: Stage, drafter: TreeDrafter, window: FixedWindow, rule: Rule | None):
        self.stage, self.window, self.rule = stage, window, rule
        self.drafter = drafter
        self.feeder = TreeFeeder(stage.run, 2 * window.largest)

    def _pass(self, widths: np.ndarray) -> Speculation:
        stage = self.stage
        left = stage.count - stage.emitted
        limits = np.where(widths > 1, left - 1, 0)  # (B,), drafts that may stand
        drafts = self.drafter.propose(limits)
        logits = self.feeder.score(stage.line, stage.emitted, drafts.tokens, drafts.parents)
        depth = np.pad(drafts.depths, ((0, 0), (1, 0)))  # (B, 1 + M)
        positions = np.minimum(stage.emitted[:, None] + depth, stage.total - 1)
        scores = stage.scores(logits, positions)  # of (B, 1 + M, V)
        walk = self._follow if self.rule is None else self._walk
        path, token = walk(drafts, scores, depth, limits)  # (B, D), (B,)
        self.drafter.source.learn(scores, drafts, path)
        self.feeder.keep(path)
        proposed, stood = self._counted(drafts, positions, limits, path)
        self._emit(drafts, path, token, widths > 0)
        return self._state(proposed, stood, int(widths.max()))

    def _emit(self, drafts: Drafts, path: np.ndarray, token: np.ndarray, going: np.ndarray) -> None:
        stage = self.stage
        row, step = (path >= 0).nonzero()
        stage.line[row, stage.emitted[row] + step] = drafts.tokens[row, path[row, step]]
        after = stage.emitted + (path >= 0).sum(axis=1)  # (B,)
        stage.line[going, after[going]] = token[going]
        stage.emitted = np.where(going, after + 1, stage.emitted)
        stage.step += 1

    def _counted(self, drafts: Drafts, positions, limits, path) -> tuple[np.ndarray, np.ndarray]:
        """Drafts in the trees and those that stand, kept tokens not counted, int64 (B,)."""
        stage, nodes = self.stage, drafts.tokens.shape[1]
        if not nodes:
            return np.zeros_like(limits), np.zeros_like(limits)
        # Node i is a guess at the position that its parent scores.
        places = positions[stage.rows, drafts.parents + 1]  # (B, M)
        free = ~stage.kept[stage.rows, places]
        there = np.arange(nodes) < drafts.count[:, None]
        inside = drafts.depths <= limits[:, None]
        stood = free[stage.rows, path.clip(0)] & (path >= 0)
        return (free & there & inside).sum(axis=1), stood.sum(axis=1)

    # --- walks -----------------------------------------------------------------------------------

    def _follow(
        self, drafts: Drafts, scores: Scores, depth: np.ndarray, limits: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Seed-faithful: down to the child that is the target's choice. Nodes int64 (B, D), -1
        past the end, and the token that follows, int64 (B,)."""
        stage = self.stage
        deepest, children = int(depth.max()), drafts.children
        choices = self._choices(scores, depth).cpu().numpy()  # (B, 1 + M)
        rows, at = stage.rows[:, 0], np.zeros(len(limits), dtype=np.int64)
        path = np.full((len(limits), deepest), -1, dtype=np.int64)
        going = np.ones(len(limits), dtype=bool)
        for step in range(deepest):
            kids = children[rows, at]  # (B, b)
            same = drafts.tokens[stage.rows, kids] == choices[rows, at][:, None]
            same &= (kids >= 0) & (going & (step < limits))[:, None]
            going = same.any(axis=1)
            if not going.any():
                break
            path[:, step] = np.where(going, kids[rows, same.argmax(axis=1)], -1)
            at = np.where(going, path[:, step] + 1, at)
        return path, choices[rows, at]

    def _choices(self, scores: Scores, depth: np.ndarray) -> torch.Tensor:
        """What plain decoding takes after every node, int64 (B, 1 + M)."""
        stage = self.stage
        if not isinstance(scores.temperature, torch.Tensor) and scores.temperature <= 0:
            return choose(scores.logits, 0.0, temperature=0.0)
        positions = stage.positions(int(depth.max()) + 1)
        shared = stage.shared_noise(positions, scores.logits.shape[-1])  # (B, D + 1, V)
        rows = torch.from_numpy(stage.rows).to(shared.device)
        shared = shared[rows, torch.from_numpy(depth).to(shared.device)]  # (B, 1 + M, V)
        return choose(scores.logits, shared, temperature=scores.temperature)

    def _walk(
        self, drafts: Drafts, scores: Scores, depth: np.ndarray, limits: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By probabilities; as `_follow`."""
        stage, device = self.stage, scores.logits.device
        deepest, chains = int(depth.max()), self.drafter.replaced
        table = torch.from_numpy(drafts.children.copy()).to(device)  # (B, 1 + M, b)
        tokens = torch.from_numpy(drafts.tokens).to(device)
        bound = torch.from_numpy(limits).to(device)
        rows = torch.arange(len(table), device=device)
        places, wide = stage.positions(deepest + 1), table.shape[2]
        u = stage.uniforms(places[:, :-1], noise.ACCEPT, wide)  # (B, D, b)
        at, going = torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        among = torch.ones(len(rows), wide, dtype=torch.bool, device=device)
        path = torch.full((len(rows), deepest), -1, device=device)
        last = self._probs(scores, at)  # (B, V)
        for step in range(deepest):
            p = self._probs(scores, at) if step else last
            kids = step * wide + torch.arange(wide, device=device) if chains else table[rows, at]
            kids = kids.expand(len(rows), -1)  # (B, b)
            own = tokens.gather(1, kids.clamp(min=0))  # (B, b)
            there = (kids >= 0) & (going & (step < bound)).unsqueeze(1)
            q = _drawn_from(drafts, step, at)  # (B, V)
            if chains:
                there = there & among
                taken, rest = self._independent(p, q, own, u[:, step], there)
                chosen = own.gather(1, taken.clamp(min=0).unsqueeze(1))
                among = there & (own == chosen)
            else:
                assert self.rule is not None  # else `_follow` is the walk
                taken, rest = verify_siblings(p, q, own, u[:, step], there=there, rule=self.rule)
            last = torch.where(going.unsqueeze(1), rest, last)
            going = going & (taken >= 0)
            node = kids.gather(1, taken.clamp(min=0).unsqueeze(1)).squeeze(1)
            path[:, step] = torch.where(going, node, -1)
            at = torch.where(going, node + 1, at)
            if device.type == "cpu" and not going.any():  # a GPU would wait for it
                break
        else:
            last = torch.where(going.unsqueeze(1), self._probs(scores, at), last)
        v = stage.uniforms(places, noise.REPLACE).gather(1, (path >= 0).sum(1, keepdim=True))
        token = pick(last, v.squeeze(1))
        found = torch.cat((path, token.unsqueeze(1)), dim=1).cpu().numpy()
        return found[:, :-1], found[:, -1]

    def _independent(self, p, q, tokens, u, there) -> tuple[torch.Tensor, torch.Tensor]:
        """K-SEQ for the rows that have any of its drafts."""
        some = there.any(dim=1)
        full = there | ~some.unsqueeze(1)
        rho = kseq_rho(p, q, full.sum(dim=1), rounds=ROUNDS)
        taken, rest = verify_independent(p, q, tokens, u, rho, there=full)
        return torch.where(some, taken, -1), torch.where(some.unsqueeze(1), rest, p)

    def _probs(self, scores: Scores, at: torch.Tensor) -> torch.Tensor:
        """The target's distribution (B, V) after node `at` - 1 of every row; 0 for the root."""
        rows = torch.arange(len(at), device=at.device)
        temperature = scores.temperature
        if isinstance(temperature, torch.Tensor):
            temperature = temperature.expand(*scores.logits.shape[:2], 1)[rows, at]  # (B, 1)
        return Scores(scores.logits[rows, at], temperature).probs


def _drawn_from(drafts: Drafts, step: int, at: torch.Tensor) -> torch.Tensor:
    """What the children of node `at` - 1 of every row, `step` deep, were drawn from, (B, V)."""
    q = drafts.levels[step]  # (B, k, V)
    if q.shape[1] == 1:
        return q[:, 0]
    first = int((drafts.depths[0] < step).sum())  # node of this depth
    rows = torch.arange(len(at), device=at.device)
    return q[rows, (at - 1 - first).clamp(0, q.shape[1] - 1)]
