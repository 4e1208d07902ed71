"""Looking into tokens: what each one changes, which codes are used, and swapping them.

Everything here is for tokenizers of pictures with one sequence of tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.media.token_file import TokenFile, read_tokens, write_tokens
from studio.server.jobs import Job, Picture
from studio.server.keeper import Opened
from studio.server.media import picture, png_bytes

_SIDE = 32  # of the maps of influence
_BATCH = 8


@dataclass
class Anatomy:
    """A picture's tokens, opened up.

    Args:
        name: of the model.
        tokens: int64 (N,).
        grid: (h, w) where tokens are places of a grid; None for 1D tokens.
        influence: float (N, side, side): how much each part of the picture changes with a token.
        strength: float (N,): the mean of it.
        vocab_size: how many codes there are.
        seen, decoded: what the tokenizer saw and gives back.
        note: a line about where the tokens come from; mostly "".
    """

    name: str
    tokens: np.ndarray
    grid: tuple[int, int] | None
    influence: np.ndarray
    strength: np.ndarray
    vocab_size: int
    seen: Picture
    decoded: Any
    note: str = ""

    def overlay(self, index: int) -> Picture:
        """The picture with what token `index` changes lit up, and the rest dimmed."""
        from PIL import Image

        side = self.decoded.width
        part = self.influence[index] / max(float(self.influence[index].max()), 1e-9)
        light = Image.fromarray((part * 255).astype(np.uint8)).resize(
            (side, side), Image.Resampling.BILINEAR
        )
        gray = Image.eval(self.decoded.convert("L"), lambda v: v // 3).convert("RGB")
        lit = Image.composite(self.decoded, gray, light)
        text = f"what token {index} of {len(self.tokens)} changes"
        return picture(lit, text)

    def map(self) -> Picture:
        """For every place of the picture the token that changes it most, as a colour."""
        from PIL import Image

        winner = self.influence.argmax(0)  # (side, side)
        hue = (winner * 255 // max(1, len(self.tokens) - 1)).astype(np.uint8)
        value = np.full_like(hue, 235)
        value[self.influence.max(0) < 1e-4] = 60
        layers = np.stack([hue, np.full_like(hue, 150), value], -1)
        side = max(self.decoded.width, 256)
        image = Image.fromarray(layers, "HSV").convert("RGB")
        text = "for each place the token that changes it most, first ones red, last ones violet"
        return picture(image.resize((side, side), Image.Resampling.NEAREST), text)


def anatomy(job: Job, opened: Opened, tokens: Any, seen: Picture) -> Anatomy:
    """What every token of a picture changes: each is replaced by another code, and the picture
    decoded again.

    Args:
        tokens: int64 (1, N).
        seen: the picture that they stand for.
    """
    import torch

    from studio.media.image import to_pil

    tokenizer = opened.pipe.tokenizer
    layout, total = tokenizer.layout, tokens.shape[1]
    whole = total == layout.num_tokens
    with torch.no_grad():
        base = _decode(tokenizer, tokens, total, whole)
        parts = []
        for start in range(0, total, _BATCH):
            job.report(start / total, f"token {start + 1} of {total}")
            rows = tokens.repeat(min(_BATCH, total - start), 1)  # (n, N)
            for row in range(len(rows)):
                old = int(rows[row, start + row])
                rows[row, start + row] = (old + layout.vocab_size // 2) % layout.vocab_size
            made = _decode(tokenizer, rows, total, whole)
            change = (made - base).abs().mean(1, keepdim=True)  # (n, 1, H, W)
            side = min(_SIDE, change.shape[-1])
            small = torch.nn.functional.adaptive_avg_pool2d(change, side)
            parts.append(small[:, 0].cpu())  # (n, side, side)
    influence = torch.cat(parts).numpy()
    return Anatomy(
        name=opened.entry.name,
        tokens=tokens[0].cpu().numpy(),
        grid=grid if len(grid := shape_of(opened, tokens)) == 2 else None,
        influence=influence,
        strength=influence.mean((1, 2)),
        vocab_size=layout.vocab_size,
        seen=seen,
        decoded=to_pil(base.cpu()),
    )


def _decode(tokenizer: Any, tokens: Any, count: int, whole: bool) -> Any:
    options: dict[str, Any] = {} if whole else {"num_tokens": count}
    if not whole:
        tokens = _filled(tokenizer, tokens)
    made = [tokenizer.decode(row, **options) for row in tokens.split(1)]
    import torch

    return torch.cat(made).float().clamp(-1, 1)


def _filled(tokenizer: Any, tokens: Any) -> Any:
    """A prefix as a whole sequence; what follows is not decoded."""
    import torch

    missing = tokenizer.layout.num_tokens - tokens.shape[1]
    return torch.nn.functional.pad(tokens, (0, missing))


def decoded(opened: Opened, tokens: Any, alt: str) -> Picture:
    """Tokens int64 (1, n), all or a prefix, as a picture.

    Raises:
        ValueError: more than there are, ids outside the codebook, or a prefix that can't be
            decoded.
    """
    import torch

    from studio.media.image import to_pil

    tokenizer = opened.pipe.tokenizer
    layout, count = tokenizer.layout, tokens.shape[-1]
    if tokens.ndim != 2 or len(layout.segments) != 1 or count > layout.num_tokens:
        raise ValueError(
            f"tokens of shape {tuple(tokens.shape)} don't fit {opened.entry.name!r}, which has "
            f"{layout.num_tokens}"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= layout.vocab_size:
        raise ValueError(f"tokens must lie between 0 and {layout.vocab_size - 1}")
    tokenizer.check_num_tokens(count, layout)
    with torch.no_grad():
        made = _decode(tokenizer, tokens.to(tokenizer.device), count, count == layout.num_tokens)
    return picture(to_pil(made.cpu()), alt)


def swapped(ours: Any, theirs: Any, places: list[int]) -> Any:
    """Tokens (1, N) with those at some places taken from others. Raises ValueError where lengths
    differ or a place is not there."""
    if ours.shape != theirs.shape:
        raise ValueError(f"tokens: {ours.shape[1]} and {theirs.shape[1]} can't be swapped")
    outside = [place for place in places if not 0 <= place < ours.shape[1]]
    if outside:
        raise ValueError(f"place {outside[0]} must lie between 0 and {ours.shape[1] - 1}")
    mixed = ours.clone()
    mixed[:, places] = theirs[:, places]
    return mixed


def shape_of(opened: Opened, tokens: Any) -> tuple[int, ...]:
    """How tokens (1, n) lie: (h, w) in a grid, or (n,)."""
    layout = opened.pipe.tokenizer.layout
    shape = layout.segments[0].shape
    whole = tokens.shape[1] == layout.num_tokens
    return tuple(shape) if len(shape) == 2 and whole else (tokens.shape[1],)


def cells(grid: tuple[int, ...], top: int, left: int, bottom: int, right: int) -> list[int]:
    """The places of a rectangle of a grid, both ends included."""
    rows, columns = range(max(0, top), bottom + 1), range(max(0, left), right + 1)
    return [y * grid[1] + x for y in rows for x in columns if y < grid[0] and x < grid[1]]


@dataclass(frozen=True)
class Usage:
    """How codes are used: how many tokens, distinct codes, entropy and its most in bits, and the
    most frequent codes with their counts."""

    tokens: int
    distinct: int
    entropy: float
    most: float
    top: list[tuple[int, int]]


def usage(tokens: np.ndarray, vocab_size: int) -> Usage:
    """The use of codes in int64 (n,)."""
    counts = Counter(int(code) for code in tokens)
    total = sum(counts.values())
    entropy = -sum(n / total * math.log2(n / total) for n in counts.values())
    return Usage(total, len(counts), entropy, math.log2(vocab_size), counts.most_common(24))


def to_file(opened: Opened, tokens: Any) -> bytes:
    """Tokens (1, n) as a token file."""
    layout = opened.pipe.tokenizer.layout
    who = opened.identity
    return write_tokens(
        TokenFile(who["model"], who["revision"], tokens, layout.vocab_size, layout.num_tokens)
    )


def from_file(opened: Opened, data: bytes) -> tuple[Any, str]:
    """The tokens (1, n) of a token file, and a line to be shown when another revision of the model
    made them, else "". Raises ValueError when it is another model's."""
    file, layout = read_tokens(data), opened.pipe.tokenizer.layout
    here: str | None = opened.identity["revision"]
    same = file.revision is not None and file.revision == here  # be it under another name
    fits = file.vocab_size == layout.vocab_size and file.total == layout.num_tokens
    if not fits or not (same or file.model == opened.identity["model"]):
        raise ValueError(
            f"token file of model {file.model[:60]!r} ({file.total} tokens of {file.vocab_size}) "
            f"is not for {opened.entry.name!r}"
        )
    if same or file.revision is None or here is None:
        return file.tokens, ""
    note = f"Revision {file.revision[:40]} of {file.model[:60]} made these tokens, and here is "
    return file.tokens, f"{note}{here[:40]}: the picture may be another one."


def code_picture(tokens: np.ndarray, grid: tuple[int, int] | None, vocab_size: int) -> Picture:
    """The codes themselves as coloured cells."""
    from PIL import Image

    height, width = grid or _nearly_square(len(tokens))
    padded = np.zeros(height * width, np.int64)
    padded[: len(tokens)] = tokens
    hue = (padded * 2654435761 % 256).astype(np.uint8).reshape(height, width)
    layers = np.stack([hue, np.full_like(hue, 120), np.full_like(hue, 225)], -1)
    image = Image.fromarray(layers, "HSV").convert("RGB")
    image = image.resize((width * 16, height * 16), Image.Resampling.NEAREST)
    return Picture("image/png", png_bytes(image), f"{len(tokens)} tokens, a colour a code")


def _nearly_square(count: int) -> tuple[int, int]:
    width = 2 ** math.ceil(math.log2(math.sqrt(count)))
    return -(-count // width), width
