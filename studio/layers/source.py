"""Pitch, and the sound of a pulse train and of noise: what a voice begins as.

Source and filter: a network that is given pulses of the right pitch need only say how they are
filtered, and not invent their phase. Neural source-filter models, 2019, 1904.12088, and iSTFTNet
(2022, 2203.02395) with the source of CosyVoice's vocoder (2024, 2407.05407) give it to
convolutions; here it is filtered in the spectrum. The pitch is read by autocorrelation after
Boersma, "Accurate short-term analysis of the fundamental frequency" (1993). Leaves out on purpose:
tracks of several voices, smoothing over time.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from studio.layers.istft import inverse_stft
from studio.layers.spectrogram import hann

LOWEST, HIGHEST = 55.0, 500.0  # Hz
_WINDOW = 0.04  # seconds
_LONGER_COSTS = 0.05  # per octave of the period, against octave errors
_QUIET = 1e-3
_SMOOTH = 1200.0  # Hz
_NOISE = 2**16
_LOUDEST = 3.0


def pitch(wave: torch.Tensor, sample_rate: int, hop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pitch and how periodic the sound is, frame by frame.

    Args:
        wave: float (B, L), L a multiple of `hop`; frame t is centred at (t + 1/2) * hop.
        sample_rate: in Hz.
        hop: samples a frame.

    Returns:
        Hz (B, T), between `LOWEST` and `HIGHEST` also where nothing is periodic, and the height of
        the peak (B, T), 0 to 1, 0 in silence.
    """
    size = round(_WINDOW * sample_rate / 2) * 2
    n_fft = 1 << (size * 3 // 2).bit_length()
    left = size // 2 - hop // 2
    frames = F.pad(wave, (left, size)).unfold(-1, size, hop)[:, : wave.shape[-1] // hop]
    window, own = _window(size, n_fft)
    window, own = window.to(wave.device), own.to(wave.device)
    frames = (frames - frames.mean(-1, keepdim=True)) * window  # (B, T, size)
    power = torch.view_as_real(torch.fft.rfft(frames, n_fft)).square().sum(-1)
    low = power * _low_pass(n_fft, sample_rate).to(wave.device)
    # hiss has little power down there, and what it has looks periodic
    tonal = (4 * low.sum(-1) / power.sum(-1).clamp(min=1e-12)).clamp(max=1)
    correlation = torch.fft.irfft(low, n_fft)  # (B, T, n_fft)
    first, last = int(sample_rate / HIGHEST), int(sample_rate / LOWEST) + 1
    energy = correlation[..., :1]
    height = correlation[..., first - 1 : last + 2] / own[first - 1 : last + 2]
    height = height / energy.clamp(min=1e-12)  # (B, T, lags + 2)
    lags = torch.arange(first, last + 1, device=wave.device, dtype=wave.dtype)
    cost = height[..., 1:-1] - _LONGER_COSTS * (lags / first).log2()
    best = cost.argmax(-1, keepdim=True)  # (B, T, 1)
    before, peak, after = (height.gather(-1, best + i).squeeze(-1) for i in range(3))
    curve = (2 * peak - before - after).clamp(min=1e-6)
    shift = ((after - before) / (2 * curve)).clamp(-0.5, 0.5)
    hertz = sample_rate / (first + best.squeeze(-1) + shift)
    loud = energy.squeeze(-1) > _QUIET**2 * size / 4
    return hertz.clamp(LOWEST, HIGHEST), peak.clamp(0, 1) * tonal * loud


@functools.lru_cache(maxsize=4)
def _window(size: int, n_fft: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A Hann window and its own normalised autocorrelation."""
    window = torch.hann_window(size)
    power = torch.fft.rfft(window, n_fft).abs().square()
    own = torch.fft.irfft(power, n_fft)
    return window, (own / own[0]).clamp(min=1e-3)


@functools.lru_cache(maxsize=4)
def _low_pass(n_fft: int, sample_rate: int) -> torch.Tensor:
    """Weights of the bins' powers: sharp peaks of the correlation would fall between its lags."""
    hertz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    return 1 / (1 + (hertz / _SMOOTH) ** 4)


def cycles(hertz: torch.Tensor, sample_rate: int, hop: int) -> torch.Tensor:
    """Cycles passed since the start at every sample: (B, T) to float64 (B, T * hop).

    Pitch is interpolated between the frames' middles, (t + 1/2) * hop.
    """
    fine = F.interpolate(hertz[:, None].double(), scale_factor=hop, mode="linear")[:, 0]
    return (fine / sample_rate).cumsum(-1)  # (B, L)


def pulses(cycles: torch.Tensor, hertz: torch.Tensor, sample_rate: int, hop: int) -> torch.Tensor:
    """A pulse train without aliases: the sum of all cosines below half the sample rate, each of
    amplitude 2 * sqrt(pitch / sample_rate), so that its power is 1 at every pitch.

    Args:
        cycles: float64 (B, L), L = T * hop.
        hertz: (B, T).
        sample_rate, hop: as in `cycles`.
    """
    fine = F.interpolate(hertz[:, None], scale_factor=hop, mode="linear")[:, 0]  # (B, L)
    count = (sample_rate / 2 / fine).floor()
    half = ((cycles - cycles.round()) * torch.pi).to(fine.dtype)  # (B, L), within half a turn
    below = half.sin()
    near = below.abs() < 1e-4
    above = ((2 * count + 1) * half).sin()
    ratio = torch.where(near, 2 * count + 1, above / torch.where(near, 1.0, below))
    return (ratio - 1) / 2 * 2 * (fine / sample_rate).sqrt()


def noise(length: int, device: torch.device, *, start: int = 0) -> torch.Tensor:
    """Fixed white noise (L,) of variance 1; sample i is always the same."""
    places = (torch.arange(length) + start) % _NOISE
    return _noise()[places].to(device)


@functools.lru_cache(maxsize=1)
def _noise() -> torch.Tensor:
    return torch.randn(_NOISE, generator=torch.Generator().manual_seed(5))


class SourceFilter(nn.Module):
    """Hidden frames (B, F, D) to waves (B, L): pulses and noise, each filtered in the spectrum.

    Args:
        dim: D.
        n_fft, hop: of the spectra; hop samples a frame.
        sample_rate: in Hz.
    """

    def __init__(self, dim: int, *, n_fft: int, hop: int, sample_rate: int):
        super().__init__()
        self.n_fft, self.hop, self.sample_rate = n_fft, hop, sample_rate
        self.out = nn.Linear(dim, 3 * (n_fft // 2 + 1))
        nn.init.trunc_normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    @property
    def reach(self) -> int:
        """Frames on each side of a sample that it depends on."""
        return -(-self.n_fft // (2 * self.hop))

    def forward(
        self,
        hidden: torch.Tensor,
        levels: torch.Tensor,
        hertz: torch.Tensor,
        turns: torch.Tensor,
        *,
        start: int = 0,
    ) -> torch.Tensor:
        """Waves (B, L), float32.

        Args:
            hidden: (B, F, D).
            levels: log magnitudes (B, F, n_fft / 2 + 1) that the filters start from.
            hertz, turns: pitch (B, F), and cycles passed at every sample (B, L).
            start: place of the first sample in its clip, which picks the noise.
        """
        out = self.out(hidden).float().transpose(1, 2)  # (B, 3 * bins, F)
        loud, phase, air = out.chunk(3, dim=1)
        base = levels.float().transpose(1, 2)  # (B, bins, F)
        with torch.autocast(hidden.device.type, enabled=False):
            with torch.no_grad():
                voice = self._spectrum(pulses(turns, hertz, self.sample_rate, self.hop))
                breath = self._spectrum(noise(turns.shape[-1], hidden.device, start=start)[None])
            voiced = torch.polar((base + loud).clamp(max=_LOUDEST).exp(), phase) * voice
            total = voiced + (base + air - 1).clamp(max=_LOUDEST).exp() * breath
            return inverse_stft(total, n_fft=self.n_fft, hop=self.hop, padding="same")

    def _spectrum(self, wave: torch.Tensor) -> torch.Tensor:
        """(B, L) to complex (B, bins, F), framed as `inverse_stft` with padding "same" does."""
        side = (self.n_fft - self.hop) // 2
        padded = F.pad(wave, (side, self.n_fft - self.hop - side))
        options = {"window": hann(self.n_fft, wave.device), "center": False, "return_complex": True}
        return torch.stft(padded, self.n_fft, self.hop, **options)
