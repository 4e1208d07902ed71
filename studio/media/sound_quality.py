"""How near one sound is to another, as numbers.

PESQ (ITU-T P.862.2, wide band) and STOI ("An Algorithm for Intelligibility Prediction of
Time-Frequency Weighted Noisy Speech", 2011) come from the packages `pesq` and `pystoi`, which are
an extra of their own: the former is built from source, and its reference code has terms of its own.
Leaves out on purpose: scores that need downloaded networks.
"""

import math

import torch

from studio.env import need, probe

WIDE_BAND = 16000  # samples a second that PESQ needs


def quality_packages() -> bool:
    """Whether `pesq` and `stoi` can be computed here."""
    return probe("pesq").ok and probe("pystoi").ok


def pesq(fake: torch.Tensor, real: torch.Tensor) -> float:
    """Wide-band PESQ, about 1 (bad) to 4.64, of waves (L,) at 16 kHz; NaN where no speech is found.

    Raises:
        ImportError: one line with what to install.
    """
    package = need("pesq", extra="speech")
    silent = package.PesqError.RETURN_VALUES
    one, other = (wave.detach().cpu().double().numpy() for wave in (real, fake))
    found = package.pesq(WIDE_BAND, one, other, "wb", on_error=silent)
    return math.nan if found is None or found < 0 else float(found)


def stoi(fake: torch.Tensor, real: torch.Tensor, sample_rate: int, *, extended=False) -> float:
    """STOI, or extended STOI, 0 to 1, of waves (L,).

    Raises:
        ImportError: one line with what to install.
    """
    package = need("pystoi", extra="speech")
    one, other = (wave.detach().cpu().double().numpy() for wave in (real, fake))
    return float(package.stoi(one, other, sample_rate, extended=extended))


def si_sdr(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal-to-distortion ratio in dB: waves (..., L) to (...).

    SDR - half-baked or well done?, 2018, 1811.02508.
    """
    fake = fake - fake.mean(-1, keepdim=True)
    real = real - real.mean(-1, keepdim=True)
    energy = real.square().sum(-1, keepdim=True).clamp(min=1e-12)
    target = (fake * real).sum(-1, keepdim=True) / energy * real
    power = target.square().sum(-1).clamp(min=1e-12)
    return 10 * (power / (fake - target).square().sum(-1).clamp(min=1e-12)).log10()
