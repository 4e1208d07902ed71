"""What stands at places of the window that nothing was said about yet.

Token initialisers of Accelerating Auto-regressive Text-to-Image Generation with Training-free
Speculative Jacobi Decoding, 2024, 2410.01699: "random", "left" (the left neighbour on the grid) and
"above" (the row above); ours: "prior", a draw from the generator's prior over all tokens
(`generators/prior.py`). Any of them is exact, so they change the speed only. Left out on purpose:
drawing from a neighbour's distribution, which the released code reduces to its best token.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from studio.decoding import noise
from studio.decoding.stage import Stage
from studio.outputs import TokenLayout

# Fills tokens int64 (B, m) in place where `missing` (B, m), the positions being the next m of
# every row. Returns what the filled ones were drawn from, (B, m, V); None for point masses.
Filler = Callable[[np.ndarray, np.ndarray], torch.Tensor | None]


def neighbour_sources(layout: TokenLayout, name: str) -> np.ndarray:
    """The position that each position copies, int64 (N,), -1 where it has none.

    Args:
        name: "left": the one before it in its row, none in the first column; "above": the one
            above it, in the first row the left one. Cells of another codebook or segment are no
            neighbours.
    """
    sources, start = [], 0
    for segment in layout.segments:
        cells, width = math.prod(segment.shape), segment.shape[-1]
        index = np.arange(cells)
        left = np.where(index % width > 0, index - 1, -1)
        if name == "above" and len(segment.shape) > 1:
            row = index // width % segment.shape[-2]
            left = np.where(row > 0, index - width, left)
        for book in range(segment.codebooks):
            sources.append(np.where(left >= 0, left + start + book * cells, -1))
        start += segment.num_tokens
    return np.concatenate(sources)


def _random_tokens(stage: Stage) -> Callable[[np.ndarray], np.ndarray]:
    sizes = np.array([s.vocab_size for s in stage.layout.segments for _ in range(s.num_tokens)])

    def draw(positions: np.ndarray) -> np.ndarray:
        u = stage.uniforms(positions, noise.FILL).cpu().numpy()
        return (u * sizes[positions]).astype(np.int64)  # (B, m)

    return draw


def random_filler(stage: Stage) -> Filler:
    """Uniform over the codes of a position."""
    draw = _random_tokens(stage)

    def fill(tokens: np.ndarray, missing: np.ndarray) -> None:
        drawn = draw(stage.positions(tokens.shape[1]))
        tokens[missing] = drawn[missing]
        stage.write(0, tokens)

    return fill


def copying_filler(stage: Stage, name: str) -> Filler:
    """Copies of a neighbour, which may be a draft itself; random where there is none."""
    sources, draw = neighbour_sources(stage.layout, name), _random_tokens(stage)

    def fill(tokens: np.ndarray, missing: np.ndarray) -> None:
        positions = stage.positions(tokens.shape[1])
        stage.write(0, tokens)
        source = sources[positions]  # (B, m)
        alone = missing & (source < 0)
        if alone.any():
            tokens[alone] = draw(positions)[alone]
        rows = np.arange(len(tokens))
        for i in range(tokens.shape[1]):
            if missing[:, i].any():
                copied = missing[:, i] & ~alone[:, i]
                tokens[copied, i] = stage.line[rows[copied], source[copied, i]]
                stage.write(i, tokens[:, i : i + 1])

    return fill


def has_prior(run) -> bool:
    """Whether a run has scores of tokens before it has seen any."""
    return getattr(run, "has_prior", hasattr(run, "prior_logits"))


def prior_filler(stage: Stage) -> Filler:
    """Draws from what the generator says before it has seen any token.

    Raises:
        ValueError: the run has no prior.
    """
    if not has_prior(stage.run):
        raise ValueError("initialiser 'prior' needs a generator with a prior")

    def fill(tokens: np.ndarray, missing: np.ndarray) -> torch.Tensor | None:
        first = int(missing.any(axis=0).argmax())
        positions = stage.positions(tokens.shape[1])[:, first:]
        logits = stage.run.prior_logits(positions[:, 0].tolist(), positions.shape[1])
        drawn, probs = stage.draw(logits, positions)
        where = missing[:, first:]
        tokens[:, first:][where] = drawn[where]
        stage.write(0, tokens)
        if probs is None:
            return None
        return torch.nn.functional.pad(probs, (0, 0, first, 0))  # (B, m, V)

    return fill


def best_filler(stage: Stage) -> Filler:
    """ "prior" where the generator has one, else "above"."""
    if has_prior(stage.run):
        return prior_filler(stage)
    return copying_filler(stage, "above")


# name -> how the filler of a stream is made; a new one is one line here.
INITIALISERS: dict[str, Callable[[Stage], Filler]] = {
    "random": random_filler,
    "left": lambda stage: copying_filler(stage, "left"),
    "above": lambda stage: copying_filler(stage, "above"),
    "prior": prior_filler,
    "auto": best_filler,
}
