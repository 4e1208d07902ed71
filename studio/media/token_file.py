"""A medium as its tokens: a file of a few hundred bytes that anyone with the model opens again.

`STOK1`, a line of JSON (model, revision, vocabulary, shape), and the ids, packed to as many bits as
the vocabulary needs, most significant first. What is read is treated as hostile: sizes and ids are
checked, nothing else is in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch

MARK = b"STOK1\n"
MAX_BYTES = 2**20
MAX_TOKENS = 2**20
_KEYS = {"model", "revision", "vocab_size", "shape", "total"}


@dataclass(frozen=True)
class TokenFile:
    """What a token file holds.

    Args:
        model, revision: as in a request.
        tokens: int64 (1, N), or (1, K, N).
        vocab_size: of each token.
        total: tokens of the whole medium; more than there are when this is a prefix.
    """

    model: str
    revision: str | None
    tokens: torch.Tensor
    vocab_size: int
    total: int


def width_of(vocab_size: int) -> int:
    """Bits of one packed token."""
    return max(1, (vocab_size - 1).bit_length())


def write_tokens(file: TokenFile) -> bytes:
    """The bytes of a token file. Raises ValueError for tokens that can't be packed."""
    tokens = file.tokens
    if tokens.ndim not in (2, 3) or tokens.shape[0] != 1 or not 0 < tokens.numel() <= MAX_TOKENS:
        raise ValueError(f"tokens of shape {tuple(tokens.shape)} must be (1, N) or (1, K, N)")
    if int(tokens.min()) < 0 or int(tokens.max()) >= file.vocab_size:
        raise ValueError(f"tokens must lie between 0 and {file.vocab_size - 1}")
    head = {
        "model": file.model,
        "revision": file.revision,
        "vocab_size": file.vocab_size,
        "shape": list(tokens.shape[1:]),
        "total": file.total,
    }
    width = width_of(file.vocab_size)
    places = np.arange(width - 1, -1, -1)
    bits = tokens.reshape(-1, 1).cpu().numpy() >> places & 1  # (N, width)
    line = json.dumps(head, separators=(",", ":")).encode()
    return MARK + line + b"\n" + np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def read_tokens(data: bytes) -> TokenFile:
    """A token file from untrusted bytes. Raises ValueError in one line for what is none."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"token file of {len(data)} bytes is more than {MAX_BYTES}")
    if not data.startswith(MARK):
        raise ValueError("file is no token file (STOK1)")
    line, end, packed = data[len(MARK) :].partition(b"\n")
    head = _head(line) if end and len(line) < 1024 else None
    if head is None:
        raise ValueError("the head of the token file is broken")
    shape, size = tuple(head["shape"]), head["vocab_size"]
    width, count = width_of(size), int(np.prod(shape, dtype=np.int64))
    if len(packed) != -(-count * width // 8):
        raise ValueError(f"token file of {count} tokens is cut short or too long")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=count * width)
    weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
    ids = bits.reshape(count, width).astype(np.int64) @ weights  # (N,)
    if int(ids.max()) >= size:
        raise ValueError(f"token file holds an id above {size - 1}")
    tokens = torch.from_numpy(ids).reshape(1, *shape)
    return TokenFile(head["model"], head["revision"], tokens, size, head["total"])


def _head(line: bytes) -> dict | None:
    """A checked head; None for a broken one."""
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(head, dict) or set(head) != _KEYS or not isinstance(head["model"], str):
        return None
    shape, numbers = head["shape"], (head["vocab_size"], head["total"])
    sizes = [*shape, *numbers] if isinstance(shape, list) and len(shape) in (1, 2) else [0]
    if not all(type(n) is int and 1 <= n <= 2**31 for n in sizes):
        return None
    if int(np.prod([float(n) for n in shape])) > MAX_TOKENS or head["vocab_size"] < 2:
        return None
    revision = head["revision"]
    return head if revision is None or isinstance(revision, str) else None
