"""Spectrograms and mel bands in plain torch, so that codecs and their losses need no torchaudio.

Windows, centring and the filter bank follow torchaudio's `MelSpectrogram` with its defaults (HTK
scale, no norm). Leaves out on purpose: the Slaney scale, and the inverse (see `istft.py`).
"""

import functools
import math

import torch
from torch import nn


@functools.lru_cache(maxsize=32)
def mel_filterbank(
    sample_rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None
) -> torch.Tensor:
    """Triangles of equal width on the HTK mel scale, float32 (n_fft // 2 + 1, n_mels).

    Args:
        sample_rate: in Hz.
        n_fft: of the spectrogram.
        n_mels: bands.
        f_min, f_max: where the first triangle begins and the last ends, in Hz; half the sample rate
            when None.
    """
    f_max = sample_rate / 2 if f_max is None else f_max
    # on the CPU also where shapes alone are wanted (the meta device): the result is kept for others
    bins = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1, device="cpu")  # (F,)
    low, high = (2595 * math.log10(1 + f / 700) for f in (f_min, f_max))
    mels = torch.linspace(low, high, n_mels + 2, device="cpu")
    corners = 700 * (10 ** (mels / 2595) - 1)  # (n_mels + 2,)
    widths = corners.diff()
    slopes = corners[None] - bins[:, None]  # (F, n_mels + 2)
    down = -slopes[:, :-2] / widths[:-1]
    up = slopes[:, 2:] / widths[1:]
    return torch.minimum(down, up).clamp(min=0)  # (F, n_mels)


def magnitudes(
    wave: torch.Tensor,
    n_fft: int,
    hop: int,
    *,
    window: torch.Tensor | None = None,
    center: bool = True,
    floor: float = 0.0,
) -> torch.Tensor:
    """The magnitude spectrogram of (B, L): float (B, n_fft // 2 + 1, T).

    Args:
        wave: float (B, L).
        n_fft, hop: in samples.
        window: (n_fft,); rectangular when None.
        center: reflect half a window at both ends.
        floor: added to the squared magnitude, which keeps the gradient finite in silence.
    """
    window = torch.ones(n_fft, device=wave.device, dtype=wave.dtype) if window is None else window
    spectrum = torch.stft(wave, n_fft, hop, window=window, center=center, return_complex=True)
    if floor:
        return (torch.view_as_real(spectrum).square().sum(-1) + floor).sqrt()
    return spectrum.abs()  # (B, F, T)


@functools.lru_cache(maxsize=32)
def hann(size: int, device: torch.device) -> torch.Tensor:
    """A periodic Hann window (size,). No buffer, which half precision would round."""
    return torch.hann_window(size, device=device)


@functools.lru_cache(maxsize=32)
def mel_bank(sample_rate: int, n_fft: int, n_mels: int, device: torch.device) -> torch.Tensor:
    """`mel_filterbank` on a device."""
    return mel_filterbank(sample_rate, n_fft, n_mels).to(device)


class LogMel(nn.Module):
    """Logarithm of the mel bands of a magnitude spectrogram with a periodic Hann window.

    Args:
        sample_rate: in Hz.
        n_fft, hop: in samples.
        n_mels: bands.
        clip: smaller band values count as this.
        center: reflect half a window at both ends.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        n_fft: int = 1024,
        hop: int = 256,
        n_mels: int = 100,
        *,
        clip: float = 1e-7,
        center: bool = True,
    ):
        super().__init__()
        self.sample_rate, self.n_mels = sample_rate, n_mels
        self.n_fft, self.hop, self.clip, self.center = n_fft, hop, clip, center

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        """(B, L) to float32 (B, n_mels, T)."""
        window = hann(self.n_fft, wave.device)
        options = {"window": window, "center": self.center, "floor": 1e-16}
        spectrum = magnitudes(wave.float(), self.n_fft, self.hop, **options)  # (B, F, T)
        bank = mel_bank(self.sample_rate, self.n_fft, self.n_mels, wave.device)  # (F, M)
        return (bank.T @ spectrum).clamp(min=self.clip).log()
