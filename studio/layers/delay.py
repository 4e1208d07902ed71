"""The delay pattern: K codebooks of a frame told one step after another, as pure functions.

Simple and Controllable Music Generation (MusicGen), 2023, 2306.05284: at step s codebook k says its
token of frame s - k, so that K codebooks take T + K - 1 steps, and each knows the coarser ones of
its own frame. Either as a grid with a filler, for networks that make K tokens a step; or flat, as
an order of all K T tokens, for those that make one. Left out on purpose: other patterns.
"""

import torch


def delay(codes: torch.Tensor, filler: int) -> torch.Tensor:
    """Codes (B, K, T) to (B, K, T + K - 1), row k moved k steps to the right, `filler` around."""
    books, frames = codes.shape[1:]
    grid = codes.new_full((codes.shape[0], books, frames + books - 1), filler)
    for book in range(books):
        grid[:, book, book : book + frames] = codes[:, book]
    return grid


def undelay(grid: torch.Tensor) -> torch.Tensor:
    """The inverse of `delay`: (B, K, T + K - 1) to (B, K, T).

    Raises:
        ValueError: fewer steps than codebooks.
    """
    books, steps = grid.shape[1:]
    frames = steps - books + 1
    if frames < 1:
        raise ValueError(f"grid of {steps} steps must have at least {books}, as many as codebooks")
    return torch.stack([grid[:, book, book : book + frames] for book in range(books)], 1)


def delayed_order(books: int, frames: int) -> torch.Tensor:
    """Where the i-th token to be made stands in codes (K, T) flattened: int64 (K T,). Step by step,
    and in a step from the coarsest codebook on."""
    steps = torch.arange(frames + books - 1)[:, None]  # (S, 1)
    book = torch.arange(books)  # (K,)
    frame = steps - book  # (S, K)
    inside = (frame >= 0) & (frame < frames)
    return (book * frames + frame)[inside]


def to_delayed(codes: torch.Tensor) -> torch.Tensor:
    """Codes (B, K, T) to the flat sequence (B, K T) in which they are made."""
    return codes.flatten(1)[:, delayed_order(*codes.shape[1:]).to(codes.device)]


def from_delayed(tokens: torch.Tensor, books: int) -> torch.Tensor:
    """The inverse of `to_delayed`: (B, K T) to (B, K, T).

    Raises:
        ValueError: a length that is no multiple of K.
    """
    if not tokens.shape[1] or tokens.shape[1] % books:
        raise ValueError(f"{tokens.shape[1]} tokens must be a multiple of {books} codebooks")
    order = delayed_order(books, tokens.shape[1] // books).to(tokens.device)
    return (
        torch.empty_like(tokens)
        .scatter(1, order.expand_as(tokens), tokens)
        .unflatten(1, (books, -1))
    )  # (B, K, T)


def whole_frames(count: int, books: int, frames: int) -> int:
    """How many leading frames are complete after `count` tokens of the flat sequence: what a stream
    can decode."""
    made = torch.zeros(books * frames, dtype=torch.bool)
    made[delayed_order(books, frames)[:count]] = True
    return int(made.view(books, frames).all(0).long().cumprod(0).sum())
