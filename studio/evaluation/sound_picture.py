"""A sound as a picture: its wave above its spectrogram. Drawn by hand, so that pages need no other
package."""

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from studio.layers.spectrogram import LogMel

WIDTH, WAVE, BANDS = 288, 40, 80
_PAPER, _INK, _AXIS = (246, 245, 242), (76, 120, 168), (214, 211, 204)
_QUIET, _LOUD = 1e-3, 12.0
# From silence to loud: dark violet, red, orange, pale yellow.
_COLOURS = np.array(
    [(10, 7, 30), (66, 20, 96), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 200)],
    dtype=np.float64,
)


def sound_picture(wave: torch.Tensor, sample_rate: int) -> Image.Image:
    """A wave (1, L) in [-1, 1] as a picture of `WIDTH` x (`WAVE` + `BANDS`) pixels: time from left
    to right, the wave on a fixed scale, and log-mel bands, low ones below."""
    wave = wave.detach().float().cpu()
    return Image.fromarray(np.concatenate([_wave(wave[0]), _bands(wave, sample_rate)]))


def _wave(wave: torch.Tensor) -> np.ndarray:
    """From the lowest to the highest sample of every column: uint8 (WAVE, WIDTH, 3)."""
    picture = np.full((WAVE, WIDTH, 3), _PAPER, np.uint8)
    picture[WAVE // 2] = _AXIS
    edges = np.linspace(0, len(wave), WIDTH + 1).astype(int)
    values = wave.numpy().clip(-1, 1)
    for column in range(WIDTH):
        part = values[edges[column] : max(edges[column + 1], edges[column] + 1)]
        if len(part):
            top, bottom = ((1 - v) / 2 * (WAVE - 1) for v in (part.max(), part.min()))
            picture[round(top) : round(bottom) + 1, column] = _INK
    return picture


def _bands(wave: torch.Tensor, sample_rate: int) -> np.ndarray:
    """Log-mel bands in colour: uint8 (BANDS, WIDTH, 3)."""
    hop = max(64, wave.shape[-1] // WIDTH)
    padded = F.pad(wave, (0, max(0, 1024 - wave.shape[-1])))
    bands = LogMel(sample_rate, 1024, hop, BANDS, clip=_QUIET)(padded)  # (1, M, T)
    bands = F.interpolate(bands, WIDTH, mode="linear")[0].flip(0)  # (M, WIDTH)
    shares = ((bands - np.log(_QUIET)) / _LOUD).clamp(0, 1).numpy()
    places = shares * (len(_COLOURS) - 1)
    lower = np.minimum(places.astype(int), len(_COLOURS) - 2)
    rest = (places - lower)[..., None]
    colours = _COLOURS[lower] * (1 - rest) + _COLOURS[lower + 1] * rest
    return colours.round().astype(np.uint8)
