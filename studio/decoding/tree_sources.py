"""Where the distributions come from that trees are drawn from, and what a drawn tree holds.

"prior", the generator's scores from the caption alone; "jacobi", the target's own of the last pass
(2410.01699), along a branch of its tree; "model", a smaller run (2211.17192), depth by depth. The
first two say the same at all nodes of a depth. Left out on purpose: drafters whose distributions
depend on the path in other ways.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from studio.decoding.drafting import ModelDrafter
from studio.decoding.feeding import TreeFeeder
from studio.decoding.filling import has_prior
from studio.decoding.stage import Scores, Stage
from studio.decoding.tree_growth import links
from studio.layers.tree_mask import depths


@dataclass(frozen=True)
class Drafts:
    """One tree a row, and what its nodes were drawn from.

    Args:
        tokens, parents: int64 (B, M); -1 for children of the root. What follows a row's `count`
            (B,) is no node.
        depths, children: see `tree_growth.links`, (B, M) and (B, M + 1, b).
        levels: for every depth the distributions (B, k, V) of its parents, k 1 where all parents
            share one; empty in seed-faithful decoding.
    """

    tokens: np.ndarray
    parents: np.ndarray
    count: np.ndarray
    depths: np.ndarray
    children: np.ndarray
    levels: list[torch.Tensor]

    @classmethod
    def of(cls, tokens: np.ndarray, shapes: list[tuple[int, ...]], levels=()) -> Self:
        """Of tokens (B, M) and the parents in every row, or once, those of all rows."""
        size = tokens.shape[1]
        found = [links(shape) for shape in shapes]
        widest = max(table.shape[1] for _, table in found)
        parents = np.full((len(shapes), size), -1, dtype=np.int64)
        deep, children = np.ones_like(parents), np.full((len(shapes), size + 1, widest), -1)
        for row, (shape, (depth, table)) in enumerate(zip(shapes, found, strict=True)):
            parents[row, : len(shape)], deep[row, : len(shape)] = shape, depth
            children[row, : len(table), : table.shape[1]] = table
        rows = len(tokens)
        return cls(
            tokens,
            np.broadcast_to(parents, (rows, size)),
            np.broadcast_to(np.array([len(shape) for shape in shapes]), (rows,)),
            np.broadcast_to(deep, (rows, size)),
            np.broadcast_to(children, (rows, *children.shape[1:])),
            list(levels),
        )

    def spine(self, start: np.ndarray) -> np.ndarray:
        """From node `start` (B,), -1 for the root, down along first children: int64 (B, D), -1
        past the end."""
        paths = []
        for below, node in zip(self.children[:, :, 0].tolist(), start.tolist(), strict=True):
            paths.append([])
            while (node := below[node + 1]) >= 0:
                paths[-1].append(node)
        longest = max(map(len, paths))
        padded = [path + [-1] * (longest - len(path)) for path in paths]
        return np.array(padded, dtype=np.int64).reshape(len(paths), longest)


class Prior:
    """The generator's scores from the caption alone: the same at all nodes of a depth.

    Raises:
        ValueError: the run has no prior.
    """

    passes = 0  # of a draft model
    spine = 0.0  # share of a greedy tree that goes to the chain of its likeliest drafts

    def __init__(self, stage: Stage, config, draft_run=None):
        if not has_prior(stage.run):
            raise ValueError("drafter 'prior' needs a generator with a prior")
        self.stage = stage

    def scores(self, count: int) -> Scores:
        """Of the next `count` tokens, (B, count, V)."""
        positions = self.stage.positions(count)
        logits = self.stage.run.prior_logits(positions[:, 0].tolist(), count)
        return self.stage.scores(logits, positions)

    def learn(self, scores: Scores, drafts: Drafts, path: np.ndarray) -> None:
        """Takes note of a pass: the target's scores (B, 1 + M, V) after the root and all nodes, and
        the nodes that stand, int64 (B, D), -1 past the end."""


class Jacobi(Prior):
    """The target's own scores of the last pass, at the nodes of the branch that begins where its
    drafts stopped to stand; the prior's, or even ones, where there were none."""

    def __init__(self, stage: Stage, config, draft_run=None):
        self.stage = stage
        # What it says of later tokens gets better pass by pass. Shares measured on `emoji-grid`.
        self.spine = 0.9 if stage.faithful else 0.75
        self._seen: torch.Tensor | None = None  # (B, 1 + M, V)
        self._nodes = np.zeros((len(stage.line), 0), dtype=np.int64)  # from the next position on

    def scores(self, count: int) -> Scores:
        stage, positions = self.stage, self.stage.positions(count)
        nodes = _wider(self._nodes[:, :count], count)
        known = nodes >= 0  # (B, count)
        if self._seen is None or not known.any():
            return self._other(positions)
        device = self._seen.device
        rows, index = torch.from_numpy(stage.rows), torch.from_numpy(nodes + 1)
        logits = self._seen[rows.to(device), index.to(device)]  # (B, count, V)
        if not known.all():
            first = int((~known).any(axis=0).argmax())
            rest = self._other(positions[:, first:]).logits
            kept = torch.from_numpy(known[:, first:]).to(device).unsqueeze(-1)
            rest = torch.where(kept, logits[:, first:], rest)
            logits = torch.cat((logits[:, :first], rest), dim=1)
        return Scores(logits, stage.sampling.temperature_at(positions / stage.total, device))

    def _other(self, positions: np.ndarray) -> Scores:
        stage, (rows, count) = self.stage, positions.shape
        if has_prior(stage.run):
            logits = stage.run.prior_logits(positions[:, 0].tolist(), count)
        else:
            logits = torch.zeros(rows, count, stage.layout.vocab_size, device=stage.device)
        return stage.scores(logits, positions)

    def learn(self, scores, drafts, path):
        self._seen, rows = scores.logits, np.arange(len(path))
        accepted = (path >= 0).sum(axis=1)
        last = _wider(path[:, ::-1], path.shape[1] + 1)[:, ::-1][rows, accepted]  # -1: the root
        below, main = drafts.spine(last), drafts.spine(np.full_like(last, -1))
        # The branch of the likeliest drafts is often the longer one.
        size = max(below.shape[1], main.shape[1])
        index = accepted[:, None] + np.arange(size)
        main = _wider(main, path.shape[1] + size)[rows[:, None], index]
        below = _wider(below, size)
        self._nodes = np.where(below >= 0, below, main)


def _wider(nodes: np.ndarray, size: int) -> np.ndarray:
    """Paths (B, m) as (B, size), -1 past their end."""
    more = ((0, 0), (0, size - nodes.shape[1]))
    return np.pad(nodes, more, constant_values=-1)


class Model:
    """A smaller network's run, which scores a tree depth by depth.

    Raises:
        ValueError: no draft run, or one of another batch or length.
    """

    def __init__(self, stage: Stage, config, draft_run=None):
        ModelDrafter(stage, config, draft_run)  # its checks
        self.stage = stage
        self._feeder = TreeFeeder(draft_run, 2 * config.window)

    @property
    def passes(self) -> int:
        return self._feeder.run.passes

    def level(self, tokens: np.ndarray, parents: np.ndarray, nodes: list[int]) -> Scores:
        """After the nodes of one depth, (B, k, V), of trees (B, m) that end with them; -1 for the
        root."""
        stage = self.stage
        logits = self._feeder.score(stage.line, stage.emitted, tokens, parents)
        self._feeder.keep(tokens[:, :0])
        depth = depths(parents[0].tolist())[-1] if parents.shape[1] else 0
        positions = stage.positions(depth + 1)[:, -1:]  # (B, 1)
        picked = logits[:, [node + 1 for node in nodes]]  # (B, k, V)
        return stage.scores(picked, np.broadcast_to(positions, picked.shape[:2]))

    def learn(self, scores: Scores, drafts: Drafts, path: np.ndarray) -> None:
        """Nothing: the next tree begins with what was emitted."""


SOURCES = {"prior": Prior, "jacobi": Jacobi, "model": Model}
