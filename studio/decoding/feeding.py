"""Rows of different lengths through one ordered run, in as few passes as there are steps.

A run scores as many new tokens in every row. Here each row asks for a stretch of its own: where it
needs fewer, it is taken back further and fed tokens again that it knows already, which costs
nothing as the pass is as wide as its widest row; so a row that is done stays in the batch and
changes no other one. `TreeFeeder` does the same for trees of drafts. Left out on purpose: leaving
rows that are done out of a pass.
"""

import numpy as np
import torch


class Feeder:
    """Scores positions of a run row by row.

    Args:
        run: a fresh `OrderedRun`.
    """

    def __init__(self, run):
        self.run = run
        self.held = np.zeros(run.batch_size, dtype=np.int64)  # tokens in the run
        self.valid = self.held.copy()  # of them, those that still hold
        self._rows = np.arange(run.batch_size)[:, None]
        self._opened = False
        self._index: torch.Tensor | None = None

    def keep(self, lengths: np.ndarray) -> None:
        """Says that tokens past the first `lengths[b]` of row b are other ones now."""
        self.valid = np.minimum(self.valid, lengths)

    def score(self, line: np.ndarray, first: np.ndarray, count: np.ndarray) -> torch.Tensor:
        """Logits (B, n, V), n the largest count: row i scores position `first[b] + i` and means
        something for i < `count[b]`.

        Args:
            line: int64 (B, N), the tokens, known and drafted; read up to position
                `first[b] + count[b] - 2`.
            first, count: int64 (B,).
        """
        width = int(count.max())
        if not self._opened:
            self._opened = True
            length = int((first + np.maximum(count, 1)).max()) - 1
            starts, offset = np.zeros_like(first), first
        else:
            wanted = np.where(count > 0, np.minimum(first - 1, self.valid), self.valid)
            length = int(np.where(count > 0, first + count - 1 - wanted, 1).max())
            starts = np.minimum(wanted, self.run.num_tokens - length)
            if (starts != self.held).any():
                self.run.rewind(torch.from_numpy(starts))
            offset = first - 1 - starts
        tokens = line[self._rows, starts[:, None] + np.arange(length)]  # (B, length)
        logits = self.run.extend(torch.from_numpy(tokens).to(self.run.device))
        self.held = starts + length
        self.valid = self.held.copy()
        return self._aligned(logits, offset, width)

    def _aligned(self, logits: torch.Tensor, offset: np.ndarray, width: int) -> torch.Tensor:
        """The `width` rows of logits from `offset[b]` on."""
        rows, same = logits.shape[1], bool((offset == offset[0]).all())
        if same and offset[0] >= 0 and offset[0] + width <= rows:
            self._index = None
            self._slice = slice(int(offset[0]), int(offset[0]) + width)
            return logits[:, self._slice]  # (B, n, V)
        places = np.clip(offset[:, None] + np.arange(width), 0, rows - 1)  # (B, n)
        self._index = torch.from_numpy(places).to(logits.device)
        return self._taken(logits)

    def _taken(self, values: torch.Tensor) -> torch.Tensor:
        if self._index is None:
            return values[:, self._slice]
        index = self._index.repeat(len(values) // len(self._index), 1)
        return values[torch.arange(len(values), device=values.device)[:, None], index]

    @property
    def features(self) -> torch.Tensor | None:
        """What the last logits were read from, aligned as they are: (B or 2B, n, D), the guided
        copies below; None where the run does not say."""
        features = getattr(self.run, "features", None)
        return None if features is None else self._taken(features)


class TreeFeeder:
    """Scores what may follow the known tokens of every row: a tree of drafts.

    Args:
        run: a fresh `OrderedRun` with `extend_tree`, `keep_path` and `make_room`.
        room: nodes that a pass may have past the last token.

    Raises:
        ValueError: a run that can't score trees.
    """

    def __init__(self, run, room: int):
        if not hasattr(run, "extend_tree"):
            raise ValueError(f"trees need a run that scores them, not {type(run).__name__}")
        run.make_room(room)
        self.run = run
        self.held = np.zeros(run.batch_size, dtype=np.int64)  # tokens in the run
        self._rows = np.arange(run.batch_size)[:, None]
        self._chain = self.held  # known tokens in front of the last tree, (B,)
        self._opened = False

    def score(
        self, line: np.ndarray, known: np.ndarray, tokens: np.ndarray, parents: np.ndarray
    ) -> torch.Tensor:
        """Logits (B, 1 + m, V): row 0 scores the token after the known ones, row 1 + i the one
        after node i. `keep` comes next.

        Args:
            line: int64 (B, N), of which the first `known` (B,) are read.
            tokens, parents: int64 (B, m), the nodes below the last known token and what stands
                above each; -1 for that token.
        """
        count, chain = tokens.shape[1], known - self.held  # (B,)
        place = np.broadcast_to(np.arange(chain.max() + count), (len(line), chain.max() + count))
        fed = line[self._rows, np.minimum(self.held[:, None] + place, line.shape[1] - 1)]  # (B, n)
        above = np.where(place < chain[:, None], place - 1, -1)
        if count:
            node = place - chain[:, None]
            inside = (node >= 0) & (node < count)
            node = node.clip(0, count - 1)
            up = parents[self._rows, node] + chain[:, None]  # -1 is the last one of the chain
            fed = np.where(inside, tokens[self._rows, node], fed)
            above = np.where(inside, up, above)
        device = self.run.device
        logits = self.run.extend_tree(
            torch.from_numpy(fed).to(device), torch.from_numpy(above).to(device)
        )
        offset = chain - self._opened  # of the last known token's row
        self._opened, self._chain = True, chain
        first, rows = int(offset[0]), 1 + count
        if (offset == first).all() and first >= 0:
            return logits[:, first : first + rows]  # (B, 1 + m, V)
        index = np.clip(offset[:, None] + np.arange(rows), 0, logits.shape[1] - 1)
        return logits[torch.from_numpy(self._rows).to(device), torch.from_numpy(index).to(device)]

    def keep(self, paths: np.ndarray) -> None:
        """Keeps the known tokens of the last pass and of every row's tree one path of nodes, int64
        (B, m), -1 past its end."""
        chain, count = self._chain[:, None], paths.shape[1]  # (B, 1)
        place = np.arange(int(chain.max()) + count) - chain  # (B, C + m), from the tree on
        node = np.where(place < count, place, -1)
        if count:
            found = paths[self._rows, node.clip(0)]
            node = np.where((node >= 0) & (found >= 0), found, -1)
        kept = np.where(place < 0, place + chain, np.where(node >= 0, node + chain, -1))
        self.run.keep_path(torch.from_numpy(kept))
        self.held = self.held + (kept >= 0).sum(axis=1)
