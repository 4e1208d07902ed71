"""What a stream of blocks remembers, in memory that does not grow: sinks that blend.

Reward Forcing: Efficient Streaming Video Generation with Rewarded Distribution Matching
Distillation, 2025, 2512.04678: keys and values of what leaves are blended into those of the sinks,
s <- alpha s + (1 - alpha) e. There a cache rolls on within one run (`EMASinkCache`); here every
block is a run of its own over a cache that begins with the sinks, which suits networks whose
positions start anew with every block: places of sinks never change, so turned keys blend as keys
before their rotary positions do.
"""

import torch

from studio.layers.cache import StaticCache


class SinkMemory:
    """Keys and values of M chosen tokens of the blocks so far; empty before the first.

    Args:
        places: which tokens of a block are remembered, int64 (M,); those at its end that are never
            fed, such as the last one, can't be.
        alpha: what stays of the sinks when a block leaves; 0.999 in the released code.

    Raises:
        ValueError: no places, or `alpha` outside 0 .. 1.
    """

    def __init__(self, places: torch.Tensor, *, alpha: float = 0.999):
        if not len(places) or not 0 <= alpha <= 1:
            raise ValueError(f"{len(places)} places and alpha {alpha}: at least 1, and 0 to 1")
        self.places, self.alpha = places, alpha
        self._slabs: list[torch.Tensor] = []  # keys, values: (L, B, H, M, D)

    def __len__(self) -> int:
        """Slots that a cache has to have in front."""
        return len(self.places) if self._slabs else 0

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(slab.nbytes for slab in self._slabs)

    def fill(self, cache: StaticCache) -> None:
        """Puts the sinks into the first slots of an empty cache.

        Raises:
            ValueError: the cache is of another batch or network.
        """
        if not self._slabs:
            return
        shape = (len(cache.keys), *cache.keys[0].shape[:2], cache.keys[0].shape[-1])
        held = self._slabs[0].shape
        if (*held[:3], held[-1]) != shape:
            raise ValueError(f"memory of shape {tuple(held)} is of another batch or network")
        for ours, theirs in zip(self._slabs, (cache.keys, cache.values), strict=True):
            for sinks, slab in zip(ours, theirs, strict=True):
                slab[:, :, : len(self)] = sinks
        cache.lengths = [len(self)] * len(cache.lengths)

    def blend(self, cache: StaticCache, rows: int) -> None:
        """Takes in what a cache holds of a block that is done.

        Args:
            rows: slots before the block's first token.

        Raises:
            ValueError: a token that is to be remembered was never fed.
        """
        slots = self.places.to(cache.rows.device) + rows
        if int(slots.max()) >= min(cache.lengths):
            raise ValueError(f"token {int(self.places.max())} was not fed and can't be remembered")
        for number, slabs in enumerate((cache.keys, cache.values)):
            leaving = torch.stack([slab[:, :, slots] for slab in slabs])  # (L, B, H, M, D)
            if len(self._slabs) <= number:
                self._slabs.append(leaving)
            else:
                self._slabs[number].mul_(self.alpha).add_(leaving, alpha=1 - self.alpha)
