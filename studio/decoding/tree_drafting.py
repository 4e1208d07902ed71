"""Who drafts trees: distributions at every depth, and what is drawn from them.

- recursive: siblings without replacement in an even tree, Recursive Speculative Decoding, 2024,
  2402.14160.
- greedy: the same in a tree that grows where drafts are likeliest to stand, DySpec, 2024,
  2410.11744.
- kseq: chains that know nothing of each other, SpecTr, 2023, 2310.15141.

In seed-faithful decoding siblings are the best tokens of log q + g with plain decoding's noise g:
the more there are, the likelier the target's own choice argmax(log p + g) is among them. Where
distributions come from is in `tree_sources.py`. Left out on purpose: coupled drafts, whose siblings
would not be draws without replacement.
"""

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.base import check_name, check_number, shortened
from studio.decoding.sampling import pick
from studio.decoding.stage import Scores, Stage
from studio.decoding.tree_growth import TREES, chain_shape, even_shape, grow_levels, grow_ranks
from studio.decoding.tree_sources import SOURCES, Drafts, Model
from studio.decoding.trees import draw_without
from studio.layers.tree_mask import depths

RANKS = 8  # siblings that a greedy tree may have in seed-faithful decoding
TRUST = 0.9  # how often one of them is the target's choice, as it seems to a greedy tree


def check_tree(
    tree: str, branches: int | list[int], *, acceptance: str, drafter: str, window: int | str
) -> None:
    """Raises ValueError unless these options of a strategy go together."""
    check_name("tree", tree, TREES)
    for count in branches if isinstance(branches, list | tuple) else [branches]:
        check_number("branches", count, 1, whole=True)
    if not branches or (tree != "recursive" and not isinstance(branches, int)):
        raise ValueError(
            f"branches {shortened(branches)} must be one number; tree 'recursive' takes a list"
        )
    for name, value, allowed in (
        ("drafter", drafter, tuple(SOURCES) if tree != "greedy" else ("prior", "jacobi")),
        ("acceptance", acceptance, ("exact",) if tree == "kseq" else ("seed", "exact", "relaxed")),
    ):
        if value not in allowed:
            raise ValueError(f"tree {tree!r} needs {name} {' or '.join(allowed)}, not {value!r}")
    if not isinstance(window, int):
        raise ValueError("window 'auto' is for chains: a tree needs a number of nodes")
    if tree == "kseq" and isinstance(branches, int) and branches > max(1, window - 1):
        raise ValueError(
            f"branches {branches} must be fewer than window {window}: tree 'kseq' has a node for "
            "each of them"
        )


class TreeDrafter:
    """Draws trees for all rows; one lives as long as a stream.

    Args:
        stage: what all parts share.
        config: the strategy's.
        draft_run: a fresh run of a draft model, for drafter "model".
    """

    def __init__(self, stage: Stage, config, draft_run=None):
        self.stage, self.budget = stage, config.window - 1
        self.kind, branches = config.tree, config.branches
        self.branches = branches if isinstance(branches, int) else tuple(branches)
        self.source = SOURCES[config.drafter](stage, config, draft_run)

    @property
    def passes(self) -> int:
        return self.source.passes

    @property
    def replaced(self) -> bool:
        """Whether siblings are drawn independently."""
        return self.kind == "kseq"

    def propose(self, limits: np.ndarray) -> Drafts:
        """Trees for rows of which `limits` (B,) tokens may be drafted one after the other."""
        deepest = min(int(limits.max(initial=0)), self.budget)
        if deepest < 1:
            return Drafts.of(np.zeros((len(limits), 0), dtype=np.int64), [()])
        if self.kind == "greedy":
            return self._greedy(limits, deepest)
        parents = self._shape(deepest)
        if isinstance(self.source, Model):
            return self._by_level(parents, self.source)
        return self._at_once(parents)

    def _shape(self, deepest: int) -> tuple[int, ...]:
        if self.kind == "kseq":
            assert isinstance(self.branches, int)  # the strategy saw to it
            return chain_shape(self.branches, self.budget, deepest)
        return even_shape(self.branches, self.budget, deepest)

    def _at_once(self, parents: tuple[int, ...]) -> Drafts:
        """From distributions that depend on the depth alone."""
        level = np.array(depths(parents)) - 1  # (M,)
        chains = self.branches if self.replaced and isinstance(self.branches, int) else 0
        rank = _ranks(parents, chains=chains)
        counts = [int(rank[level == d].max()) + 1 for d in range(int(level.max()) + 1)]
        scores = self.source.scores(len(counts))
        drawn, probs = self._drawn(scores, self.stage.positions(len(counts)), counts)
        tokens = drawn[:, level, np.minimum(rank, drawn.shape[2] - 1)]  # (B, M)
        levels = [] if probs is None else list(probs.split(1, dim=1))
        return Drafts.of(tokens, [parents], levels)

    def _by_level(self, parents: tuple[int, ...], source: Model) -> Drafts:
        """Depth by depth, every node having a distribution of its own."""
        above = np.broadcast_to(np.array(parents), (len(self.stage.line), len(parents)))
        tokens = np.zeros_like(above)
        level, rank = np.array(depths(parents)), _ranks(parents)
        levels, nodes = [], [-1]
        for depth in range(1, int(level.max()) + 1):
            before = int((level < depth).sum())
            scores = source.level(tokens[:, :before], above[:, :before], nodes)  # (B, k, V)
            place = self.stage.positions(depth)[:, -1:].repeat(len(nodes), axis=1)  # (B, k)
            new = (level == depth).nonzero()[0]
            chains = self.replaced and depth > 1  # every one with a number of its own
            most = len(nodes) if chains else int(rank[new].max()) + 1
            drawn, probs = self._drawn(scores, place, [most] * len(nodes), chains=chains)
            column = above[0, new] - nodes[0]
            number = np.minimum(column if chains else rank[new], drawn.shape[2] - 1)
            tokens[:, new] = drawn[:, column, number]
            levels += [] if probs is None else [probs]
            nodes = new.tolist()
        return Drafts.of(tokens, [parents], levels)

    def _drawn(
        self, scores: Scores, positions: np.ndarray, counts: list[int], *, chains: bool = False
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """So many tokens from each of the distributions (B, k, V), int64 (B, k, b), and these;
        None in seed-faithful decoding. Distributions at the same position share their numbers: no
        more than one of them is on the way that is taken."""
        stage, most = self.stage, max(counts)
        if stage.faithful:
            best, _ = self._best(scores, positions, most)
            return best.cpu().numpy(), None
        probs = scores.probs
        u = stage.uniforms(positions, noise.DRAFT, most)  # (B, k, b)
        if self.replaced:
            drawn = pick(probs.unsqueeze(2).expand(-1, -1, most, -1), u)
        else:
            drawn = draw_without(probs, u, counts)
        return drawn.cpu().numpy(), probs

    def _best(
        self, scores: Scores, positions: np.ndarray, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best tokens of log q + g, int64 (B, k, count), and how good they are."""
        logits, temperature = scores.logits, scores.temperature
        count = min(count, logits.shape[-1])
        if isinstance(temperature, torch.Tensor) or temperature > 0:
            shared = self._noise(positions, logits.shape[-1])
            logits = torch.add(logits / temperature, shared)
        best = logits.topk(count, dim=-1)
        return best.indices, best.values

    def _noise(self, positions: np.ndarray, width: int) -> torch.Tensor:
        """Plain decoding's noise (B, k, V), or (B, 1, V) where all positions are the same."""
        if positions.shape[1] > 1 and (positions == positions[:, :1]).all():
            positions = positions[:, :1]
        return self.stage.shared_noise(positions, width)

    def _greedy(self, limits: np.ndarray, deepest: int) -> Drafts:
        stage, rows = self.stage, len(limits)
        positions, scores = stage.positions(deepest), self.source.scores(deepest)
        spine = int(self.source.spine * self.budget)
        grown, probs = [], None
        if stage.faithful:
            best, values = self._best(scores, positions, RANKS)
            ids, chances = best.cpu().numpy(), (TRUST * values.softmax(dim=-1)).cpu().numpy()
            for row, limit in enumerate(limits.tolist()):
                ranks, parents = grow_ranks(chances[row, :limit], self.budget, spine=spine)
                level = np.array(depths(parents), dtype=np.int64) - 1
                grown.append((ids[row, level, np.array(ranks, dtype=np.int64)], parents))
        else:
            probs = scores.probs
            cumulative = probs.double().cumsum(dim=-1).cpu().numpy()
            u = stage.uniforms(positions[:, :1], noise.DRAFT, self.budget)[:, 0].cpu().numpy()
            for row, limit in enumerate(limits.tolist()):
                table = cumulative[row, :limit]
                grown.append(grow_levels(table, self.budget, u[row], spine=spine))
        tokens = np.zeros((rows, max(len(parents) for _, parents in grown)), dtype=np.int64)
        for row, (drawn, _) in enumerate(grown):
            tokens[row, : len(drawn)] = drawn
        levels = [] if probs is None else probs.split(1, dim=1)
        return Drafts.of(tokens, [tuple(parents) for _, parents in grown], levels)


def _ranks(parents: tuple[int, ...], *, chains: int = 0) -> np.ndarray:
    """Which child of its parent every node is, int64 (M,); of `chains`, which chain it is in."""
    if chains:
        return np.arange(len(parents)) % chains
    seen: dict[int, int] = {}
    ranks = []
    for parent in parents:
        ranks.append(seen.get(parent, 0))
        seen[parent] = ranks[-1] + 1
    return np.array(ranks, dtype=np.int64)
