"""What the page on tokenizers measures: for each medium, how near a reconstruction is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One measure: its name, unit, digits to show, and whether lower is better."""

    name: str
    unit: str = ""
    digits: int = 2
    lower: bool = False

    def text(self, value: float) -> str:
        """Name, value and unit."""
        return f"{self.name} {value:.{self.digits}f} {self.unit}".rstrip()


PSNR = Measure("PSNR", "dB")
SSIM = Measure("SSIM", digits=3)
PESQ = Measure("PESQ")
STOI = Measure("STOI", digits=3)
MEL = Measure("mel distance", "nepers", lower=True)
_MOST = 99.0  # dB
# The first one that could be computed everywhere is what curves show.
MEASURES = {"image": (PSNR, SSIM), "video": (PSNR, SSIM), "audio": (PESQ, STOI, MEL)}


@dataclass(frozen=True)
class Point:
    """One quality at one cost.

    Args:
        tokens: 0 for codecs.
        bytes: of tokens, or of what a codec makes.
        scores: by the names of measures, without those that could not be computed.
        name: of the tokenizer or codec.
    """

    tokens: int
    bytes: float
    scores: dict[str, float]
    name: str

    def text(self, medium: str) -> list[str]:
        """Each score in words."""
        there = (m for m in MEASURES[medium] if m.name in self.scores)
        return [measure.text(self.scores[measure.name]) for measure in there]


def common(medium: str, points: Sequence[Point]) -> Measure | None:
    """The medium's first measure that all points have; None where there is none."""
    measures = (m for m in MEASURES[medium] if all(m.name in p.scores for p in points))
    return next(measures, None)


def scores(medium: str, made: Any, real: Any, rate: float) -> dict[str, float]:
    """How near something made is to what it was made from.

    Args:
        medium: "image", "audio" or "video".
        made, real: float (1, 3, H, W), (1, 1, L) or (1, 3, T, H, W) in [-1, 1], of one shape.
        rate: samples a second.
    """
    found = _sound(made, real, int(rate)) if medium == "audio" else _frames(made, real)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _frames(made: Any, real: Any) -> dict[str, float]:
    """Of pictures, and of clips the mean over frames."""
    from studio.media.quality import WINDOW, psnr, ssim

    if real.ndim == 5:
        made, real = (clip[0].transpose(0, 1) for clip in (made, real))  # (T, 3, H, W)
    # Equal ones would be infinitely good, which no axis shows.
    found = {PSNR.name: min(_MOST, float(psnr(made, real).mean()))}
    if min(real.shape[-2:]) >= WINDOW:
        found[SSIM.name] = float(ssim(made, real).mean())
    return found


def _sound(made: Any, real: Any, rate: int) -> dict[str, float]:
    """PESQ and STOI where their packages are installed and the sound is long enough."""
    from studio.evaluation.sound_judges import mel_distance
    from studio.media.resampling import resample
    from studio.media.sound_quality import WIDE_BAND, pesq, quality_packages, stoi

    length = min(made.shape[-1], real.shape[-1])
    made, real = made[..., :length], real[..., :length]
    found = {MEL.name: mel_distance(made[0], real[0], rate)}
    if quality_packages() and real.shape[-1] > rate / 2:
        one, other = (resample(wave[0, :1], rate, WIDE_BAND)[0] for wave in (made, real))
        found |= {PESQ.name: pesq(one, other), STOI.name: stoi(one, other, WIDE_BAND)}
    return found
