"""Tokens of a data set, kept on disk once they were made.

Encoding a picture costs about as much as a training step on it, so a generator meets each encoding
several times. The cache fills as training asks for items, survives being killed at any moment, and
is found again by a key over the tokenizer's weights and the data set's description.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch


class TokenCache:
    """The tokens of items 0 to `size` - 1 of a data set, in a memory-mapped file.

    Args:
        folder: where caches live; one sub-folder a key.
        tokenizer: the frozen tokenizer.
        dataset: items as a function of their index, with `caption(i)`.
        size: how many items are kept; item i stands for all i + k * size.
    """

    def __init__(self, folder: Path, tokenizer: Any, dataset: Any, size: int):
        self.tokenizer, self.dataset, self.size = tokenizer, dataset, size
        self.num_tokens = tokenizer.layout.num_tokens
        folder = folder / cache_key(tokenizer, dataset)
        folder.mkdir(parents=True, exist_ok=True)
        # one row more than tokens: the last column turns 1 after the tokens were written
        self.rows = open_rows(folder / f"tokens-{size}.i32", (size, self.num_tokens + 1), np.int32)

    @torch.no_grad()
    def batch(self, start: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """Tokens int64 (count, N) and captions of `count` consecutive indices."""
        places = [i % self.size for i in range(start, start + count)]
        missing = sorted({i for i in places if not self.rows[i, -1]})
        if missing:
            images = torch.stack([self.dataset[i][0] for i in missing])  # (n, 3, H, W)
            device = next(self.tokenizer.parameters()).device
            tokens = self.tokenizer.encode(images.to(device)).tokens.cpu().numpy()
            self.rows[missing, :-1] = tokens
            self.rows[missing, -1] = 1
        found = torch.from_numpy(self.rows[places, :-1].astype(np.int64))  # (B, N)
        return found, [self.dataset.caption(i) for i in places]


def open_rows(path: Path, shape: tuple[int, ...], dtype) -> np.memmap:
    """A memory-mapped array on disk, zeros where nothing was written yet."""
    if not path.exists():
        np.memmap(path, dtype, "w+", shape=shape).flush()
    return np.memmap(path, dtype, "r+", shape=shape)


def cache_key(tokenizer: Any, dataset: Any) -> str:
    """16 hex digits that stand for a tokenizer's weights and the description of a data set."""
    digest = hashlib.sha256(repr(dataset).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
