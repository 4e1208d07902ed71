"""Long clips in overlapping windows, joined by cross-fades, so that memory stays bounded.

Left out on purpose: finding quiet places to cut; where the network's reach is finite and the
overlap covers it, a cut can't be heard anywhere.
"""

from collections.abc import Callable, Iterator

import torch


def window_bounds(total: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Windows (start, stop) of `size` frames over `total`, each sharing at least `overlap` with the
    one before; the last one is moved back to be whole.

    Raises:
        ValueError: `size` is not more than `overlap`.
    """
    if size <= overlap:
        raise ValueError(f"window of {size} frames must be longer than the overlap of {overlap}")
    start = 0
    while start + size < total:
        yield start, start + size
        start = min(start + size - overlap, total - size)
    yield max(start, 0), total


def crossfaded(
    piece: Callable[[int, int], torch.Tensor],
    total: int,
    *,
    size: int,
    overlap: int,
    fade: int,
    hop: int,
) -> torch.Tensor:
    """The wave of `total` frames, made window by window.

    Args:
        piece: the wave (B, L) of the frames from start to stop; its first sample stands at
            start * hop.
        total: frames.
        size, overlap: of the windows, in frames.
        fade: frames of the cross-fade, in the middle of each overlap.
        hop: samples a frame.

    Returns:
        (B, L).
    """
    whole, done = torch.empty(0), 0
    for start, stop in window_bounds(total, size, overlap):
        wave = piece(start, stop)
        first = start * hop
        if start == 0:
            whole = wave.new_zeros(wave.shape[0], total * hop)
        end = first + wave.shape[-1]
        if start:
            length = min(fade * hop, done - first)
            cut = first + (done - first - length) // 2
            rise = torch.arange(1, length + 1, device=wave.device) / (length + 1)
            old = whole[:, cut : cut + length]
            whole[:, cut : cut + length] = old + (wave[:, cut - first :][:, :length] - old) * rise
            first, wave = cut + length, wave[:, cut + length - first :]
        whole[:, first:end] = wave
        done = end
    return whole[:, :done]
