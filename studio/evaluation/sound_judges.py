"""Everything that is measured on a sound beside its original, in one place.

Following the protocol of "Discrete Audio Tokens: More Than a Survey!" (2025, 2506.10274) as far as
nothing is downloaded: PESQ, STOI and ESTOI (from packages), SI-SDR, distances of mel bands and of
spectra at several resolutions, and errors of pitch and voicing. Scores that need networks (UTMOS,
DNSMOS, speaker similarity, word errors) come in where the user has their files
(`sound_networks.py`). Leaves out on purpose: ViSQOL, and measures of music.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from studio.env import mend, probe
from studio.evaluation.parts import Record
from studio.evaluation.report import Column
from studio.evaluation.sound_networks import SoundNetwork
from studio.layers.source import pitch
from studio.layers.spectrogram import LogMel, hann, magnitudes
from studio.media.resampling import resample
from studio.media.sound_quality import WIDE_BAND, pesq, si_sdr, stoi

RESOLUTIONS = (512, 1024, 2048)
_FLOOR = 1e-3  # magnitudes below count as silence
_VOICED = 0.55  # height of the pitch's peak from which a frame counts as voiced
_HOP = 0.01  # seconds between frames of pitch
PESQ = Column("pesq", "PESQ", "", "higher", "wide band (P.862.2), at 16 kHz", digits=2)
STOI = Column("stoi", "STOI", "", "higher", "intelligibility, 0 to 1")
ESTOI = Column("estoi", "ESTOI", "", "higher", "extended STOI, 0 to 1")
SI_SDR = Column(
    "si_sdr",
    "SI-SDR",
    "dB",
    "higher",
    "compares waves sample by sample: a decoder that makes its own phase scores low however it "
    "sounds",
    digits=1,
)
MEL = Column(
    "mel", "mel distance", "nepers", "lower", "mean absolute difference of 80 log-mel bands"
)
STFT = Column(
    "stft",
    "STFT distance",
    "",
    "lower",
    "spectral convergence and log magnitude, mean over windows of 512, 1024 and 2048",
)
F0 = Column(
    "f0",
    "pitch error",
    "cents",
    "lower",
    "mean absolute, by autocorrelation, over frames that are voiced in both",
    digits=1,
)
VOICING = Column(
    "voicing", "voicing error", "share", "lower", "frames that are voiced in one of the two only"
)


@dataclass
class SoundJudges:
    """What sounds are measured with; `networks` are the user's own."""

    networks: Sequence[SoundNetwork] = ()

    @property
    def identity(self) -> list[str]:
        """What stands for all that is in use, for the names of parts."""
        there = [name for name in ("pesq", "pystoi") if probe(name).ok]
        return [*there, *(network.identity for network in self.networks)]

    def metrics(self) -> list[Column]:
        """What `observe` gives."""
        found = [PESQ] if probe("pesq").ok else []
        found += [STOI, ESTOI] if probe("pystoi").ok else []
        return [*found, SI_SDR, MEL, STFT, F0, VOICING, *(n.column for n in self.networks)]

    def missing(self) -> list[str]:
        """What is left out here and why, a line each."""
        packages = {"pesq": "PESQ", "pystoi": "STOI and ESTOI"}
        return [
            f"No {what}: package {name} does not work here; run: {mend('speech')}"
            for name, what in packages.items()
            if not probe(name).ok
        ]

    @torch.no_grad()
    def observe(self, fake: torch.Tensor, real: torch.Tensor, sample_rate: int) -> dict[str, float]:
        """The measures of a sound beside its original; NaN where one is not defined, as PESQ of
        silence.

        Args:
            fake, real: float (1, L), the same L.
            sample_rate: of both.
        """
        fake, real = fake.float().cpu().clamp(-1, 1), real.float().cpu()
        found: dict[str, float] = {}
        if probe("pesq").ok:
            wide = [resample(wave, sample_rate, WIDE_BAND)[0] for wave in (fake, real)]
            found["pesq"] = pesq(*wide) if all(wave.any() for wave in wide) else math.nan
        if probe("pystoi").ok:
            for name, extended in (("stoi", False), ("estoi", True)):
                found[name] = _stoi(fake[0], real[0], sample_rate, extended=extended)
        found["si_sdr"] = si_sdr(fake, real).item() if bool(real.any()) else math.nan
        found["mel"] = mel_distance(fake, real, sample_rate)
        found["stft"] = stft_distance(fake, real)
        found["f0"], found["voicing"] = pitch_errors(fake, real, sample_rate)
        for network in self.networks:
            found[network.column.key] = network.score(fake, real, sample_rate)
        return found


def _stoi(fake, real, sample_rate: int, *, extended: bool) -> float:
    """STOI, or NaN where less than about 0.4 s of sound is loud enough to be measured."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = stoi(fake, real, sample_rate, extended=extended)
        except (RuntimeWarning, ValueError, IndexError):
            return math.nan
    return value


def summarize(rows: Record, names: Sequence[str]) -> dict[str, float]:
    """Means over the sounds on which a measure is defined; NaN where it is on none."""
    found = {}
    for name in names:
        if name in rows:
            there = rows[name][rows[name].isfinite()].double()
            found[name] = there.mean().item() if len(there) else math.nan
    return found


def mel_distance(fake: torch.Tensor, real: torch.Tensor, sample_rate: int) -> float:
    """Mean absolute difference of log-mel bands of (1, L), in nepers."""
    bands = [_mel(sample_rate)(_long(wave, 1024)) for wave in (fake, real)]
    return (bands[0] - bands[1]).abs().mean().item()


@functools.lru_cache(maxsize=4)
def _mel(sample_rate: int) -> LogMel:
    return LogMel(sample_rate, 1024, 256, 80, clip=_FLOOR)


def stft_distance(fake: torch.Tensor, real: torch.Tensor) -> float:
    """Spectral convergence and distance of log magnitudes, both of weight one, mean over
    `RESOLUTIONS`. Parallel WaveGAN, 2020, 1910.11480."""
    total = 0.0
    for size in RESOLUTIONS:
        window = hann(size, real.device)
        one, other = (
            magnitudes(_long(wave, size), size, size // 4, window=window) for wave in (fake, real)
        )
        convergence = (one - other).norm() / other.norm().clamp(min=_FLOOR)
        logs = one.clamp(min=_FLOOR).log() - other.clamp(min=_FLOOR).log()
        total += (convergence + logs.abs().mean()).item()
    return total / len(RESOLUTIONS)


def pitch_errors(fake: torch.Tensor, real: torch.Tensor, sample_rate: int) -> tuple[float, float]:
    """Mean absolute error of the pitch in cents over frames voiced in both (NaN where there are
    none), and the share of frames whose voicing differs."""
    hop = round(_HOP * sample_rate)
    tracks = [
        pitch(F.pad(wave, (0, -wave.shape[-1] % hop)), sample_rate, hop) for wave in (fake, real)
    ]
    (one, height), (other, original) = tracks
    voiced, spoken = height > _VOICED, original > _VOICED
    both = voiced & spoken
    cents = 1200 * (one / other).log2().abs()
    error = cents[both].mean().item() if bool(both.any()) else math.nan
    return error, (voiced != spoken).float().mean().item()


def _long(wave: torch.Tensor, size: int) -> torch.Tensor:
    """A wave (1, L) with silence after it, so that half a window can be mirrored."""
    return F.pad(wave, (0, max(0, size - wave.shape[-1])))
