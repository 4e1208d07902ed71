"""Spectra to waves: the inverse short-time Fourier transform as the end of a network.

Vocos, 2023, 2306.00814. Two paddings: "center", where frame t stands at sample t * hop and T frames
give (T - 1) * hop samples, and "same", where T frames give T * hop samples (`torch.istft` has the
first one only). Works in float32 in any model. Left out on purpose: the MDCT heads of the paper.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

PADDINGS = ("same", "center")
MAX_MAGNITUDE = 100.0


def overlap_add(frames: torch.Tensor, hop: int) -> torch.Tensor:
    """Frames (B, n_fft, T), each `hop` samples after the one before, summed to (B, L)."""
    size, count = frames.shape[1:]
    length = (count - 1) * hop + size
    return F.fold(frames, (1, length), (1, size), stride=(1, hop))[:, 0, 0]  # (B, L)


def inverse_stft(spectrum: torch.Tensor, *, n_fft: int, hop: int, padding: str) -> torch.Tensor:
    """A complex spectrum (B, n_fft / 2 + 1, T) to waves (B, L), Hann window.

    The imaginary parts of the lowest and the highest bin count for nothing.

    Args:
        spectrum: complex64.
        n_fft, hop: window length and step in samples.
        padding: "same" (L = T * hop) or "center" (L = (T - 1) * hop).

    Raises:
        ValueError: another padding.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding {padding!r} must be one of {', '.join(PADDINGS)}")
    trim = n_fft // 2 if padding == "center" else (n_fft - hop) // 2
    window = torch.hann_window(n_fft, device=spectrum.device)
    frames = torch.fft.irfft(spectrum, n_fft, dim=1) * window[:, None]  # (B, n_fft, T)
    squares = window.square()[None, :, None].expand(1, -1, spectrum.shape[-1])
    wave, envelope = overlap_add(frames, hop), overlap_add(squares, hop)
    stop = wave.shape[-1] - trim
    return wave[:, trim:stop] / envelope[:, trim:stop]  # (B, L)


class InverseSTFTHead(nn.Module):
    """Hidden frames (B, T, D) to waves (B, L): a linear map to log-magnitudes and phases.

    Args:
        dim: D.
        n_fft, hop, padding: see `inverse_stft`.
    """

    def __init__(self, dim: int, *, n_fft: int, hop: int, padding: str = "same"):
        super().__init__()
        if padding not in PADDINGS:
            raise ValueError(f"padding {padding!r} must be one of {', '.join(PADDINGS)}")
        if n_fft % 2 or n_fft < hop:
            raise ValueError(f"n_fft {n_fft} must be even and at least the hop {hop}")
        self.n_fft, self.hop, self.padding = n_fft, hop, padding
        self.out = nn.Linear(dim, n_fft + 2)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    @property
    def reach(self) -> int:
        """Frames on each side of a sample that it depends on."""
        return -(-self.n_fft // (2 * self.hop))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, L), float32."""
        return self.wave(self.out(x))

    def wave(self, linear: torch.Tensor, *, padding: str | None = None) -> torch.Tensor:
        """Outputs of the linear map (B, T, n_fft + 2) to (B, L), with another padding if given."""
        logs, phase = linear.float().transpose(1, 2).chunk(2, dim=1)  # (B, n_fft / 2 + 1, T)
        magnitude = logs.clamp(max=math.log(MAX_MAGNITUDE)).exp()
        options = {"n_fft": self.n_fft, "hop": self.hop, "padding": padding or self.padding}
        with torch.autocast(linear.device.type, enabled=False):
            return inverse_stft(torch.polar(magnitude, phase), **options)
