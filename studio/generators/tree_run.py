"""Trees of drafts through the run of the autoregressive transformer, each in one pass.

SpecInfer: Accelerating Generative LLM Serving with Tree-based Speculative Inference, 2023,
2305.09781: a node attends to what was there before the tree, to its ancestors and to itself, and
has the position of its depth; of the nodes one path stays and is moved together. A tree of one
branch is `extend`, and every path of a tree is scored as if it had been fed alone. Left out on
purpose: compiled steps and caches other than the static one.
"""

import numpy as np
import torch

from studio.generators.autoregressive_run import AutoregressiveRun
from studio.layers.cache import StaticCache
from studio.layers.tree_mask import check_parents, depths


class TreeRun(AutoregressiveRun):
    """An `AutoregressiveRun` that also scores trees. What follows the first pass over a tree is
    `keep_path`."""

    _base: list[int] = []  # tokens that every row of the cache held before the last tree

    def make_room(self, count: int) -> None:
        """Before the first pass: memory for `count` nodes of trees past the last token.

        Raises:
            ValueError: a pass was made already.
        """
        if self._rows:
            raise ValueError(f"room for {count} more tokens must be made before the first pass")
        self._room = count

    @torch.no_grad()
    def extend_tree(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Appends and scores the nodes of one tree a row.

        Args:
            tokens: int64 (B, n).
            parents: int64 (B, n), the node above each one, a smaller number; -1 for nodes that
                follow the tokens before the tree.

        Returns:
            as `extend`: float32 logits (B, n, V), row i scoring the token that follows node i; the
            first call has one row more in front, scoring token 0.

        Raises:
            ValueError: a wrong shape or parent, no room (`make_room`), or a cache that is not
                "static".
        """
        above = self._checked(tokens, parents)
        first, held = not self._rows, self._lengths()
        levels = [depths(row) for row in above.tolist()] * (self.batch_size // len(above))
        scored = [[start + d for d in row] for start, row in zip(held, levels, strict=True)]
        x = self._embeddings(tokens, self._spread([[n - 1 for n in row] for row in scored]))
        if self.guidance:
            x = torch.cat((x, x))  # (2B, n, D)
        if first:
            x = torch.cat((self._open(), x), dim=1)  # (2B, S + n, D)
            rows = self._prefix
            front = np.broadcast_to(np.arange(-1, rows - 1), (len(above), rows))
            above = np.where(above < 0, rows - 1, above + rows)
            above = np.concatenate((front, above), axis=1)  # (B, S + n)
            scored = [[0, *row] for row in scored]
        places = self._spread(scored, copies=len(x))
        x = self._with_told(x, places)
        if not isinstance(self._cache, StaticCache):
            raise ValueError('trees need cache "static", whose tokens can be moved together')
        self._base = [length + self._prefix * first for length in self._cache.lengths]
        self._cache.reserve(x.shape[1])
        features = self._blocks(x, above)[:, -len(scored[0]) :]  # (2B, n or n + 1, D)
        self.features = features
        prior = None if self._prior is None else self._prior[self._cache.rows, places]
        return self._guided(self._head(features, places, prior), scored)

    def _checked(self, tokens: torch.Tensor, parents: torch.Tensor) -> np.ndarray:
        """The parents (B, n), or (1, n) where all rows have the same."""
        if tokens.shape != parents.shape or tokens.shape[0] != self.batch_size:
            raise ValueError(
                f"tokens {tuple(tokens.shape)} and parents {tuple(parents.shape)} must both be "
                f"({self.batch_size}, n)"
            )
        above = parents.cpu().numpy()
        check_parents(above)
        return above[:1] if (above == above[:1]).all() else above

    def _blocks(self, x: torch.Tensor, parents: np.ndarray) -> torch.Tensor:
        """New rows (2B, n, D), their slots reserved, to features (2B, n, D)."""
        rope, mask = self._masks.tree(parents)
        self.passes += 1
        if self._lean is not None:
            return self._lean(x, rope, mask)
        for layer, block in enumerate(self.model.layers):
            x = block(x, rope=rope, mask=mask, cache=self._cache, layer=layer)
        return self.model.last_norm(x)

    def _spread(self, places: list[list[int]], copies: int = 0) -> torch.Tensor | None:
        """Positions (B, n) on the device, (2B, n) for so many copies; None where no table needs
        them."""
        if not self._placed:
            return None
        repeats = max(1, copies // self.batch_size)
        return torch.tensor(places * repeats, device=self.device).clamp(max=self.num_tokens - 1)

    def keep_path(self, paths: torch.Tensor) -> None:
        """Keeps of the last tree of every row the nodes of one path, as if they alone had been fed.

        Args:
            paths: int64 (B, m), nodes from the top down, -1 past the end of a path.

        Raises:
            ValueError: a node that the tree did not have, or nodes that do not ascend.
        """
        cache = self._cache
        assert isinstance(cache, StaticCache)  # `extend_tree` saw to it
        kept = paths.cpu().numpy()
        cache.keep(self._base, np.concatenate((kept, kept)) if self.guidance else kept)
