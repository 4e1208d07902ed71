"""What a codec is trained by: spectral errors, adversarial losses, commitment.

Sources: WavTokenizer (2024, 2408.16532) and Vocos (2023, 2306.00814) for the mel error, hinge and
feature matching; Improved RVQGAN, "DAC" (2023, 2306.06546) for least squares and errors at several
resolutions; Parallel WaveGAN (2019, 1910.11480) for the multi-resolution spectral error. All waves
are float (B, 1, L). Leaves out on purpose: errors of the waveform itself, which punish a shifted
phase that nobody hears.
"""

import torch
from torch import nn
from torch.nn import functional as F

from studio.layers.spectrogram import LogMel, hann, magnitudes, mel_bank


class MelLoss(nn.Module):
    """Mean absolute error of log-mel bands; with the defaults, WavTokenizer's."""

    def __init__(self, sample_rate: int = 24000, n_fft: int = 1024, hop: int = 256, n_mels=100):
        super().__init__()
        self.features = LogMel(sample_rate, n_fft, hop, n_mels)

    def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) twice to a scalar."""
        return F.l1_loss(self.features(fake.flatten(0, 1)), self.features(real.flatten(0, 1)))


class SpectralLoss(nn.Module):
    """Errors of spectra at several resolutions, averaged over them; hops are a quarter window.

    Of each: `mel` times the error of log-mel bands, the spectral convergence (the norm of the
    difference over the norm of the real one), and the error of log magnitudes.

    Args:
        sample_rate: in Hz.
        windows: their lengths.
        bands: mel bands of each.
        mel: weight of the bands.
        floor: magnitudes under a window of 512 below which sound counts as silence; other windows
            in proportion.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        windows: tuple[int, ...] = (1024, 512, 256),
        bands: tuple[int, ...] = (96, 64, 40),
        mel: float = 3.0,
        floor: float = 1e-2,
    ):
        super().__init__()
        self.sample_rate, self.windows, self.bands = sample_rate, windows, bands
        self.mel, self.floor = mel, floor

    def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) twice to a scalar."""
        total = fake.new_zeros(())
        for n, count in zip(self.windows, self.bands, strict=True):
            floor = self.floor * n / 512
            options = {"window": hann(n, real.device), "floor": floor**2}
            one = magnitudes(fake.flatten(0, 1).float(), n, n // 4, **options)  # (B, F, T)
            other = magnitudes(real.flatten(0, 1).float(), n, n // 4, **options)
            convergence = (one - other).norm() / other.norm()
            bank = mel_bank(self.sample_rate, n, count, real.device).T  # (M, F)
            bands = F.l1_loss((bank @ one + floor).log(), (bank @ other + floor).log())
            total = total + convergence + F.l1_loss(one.log(), other.log()) + self.mel * bands
        return total / len(self.windows)


def hinge_generator(scores: list[torch.Tensor]) -> torch.Tensor:
    """Mean over discriminators of mean(max(0, 1 - score of the fake))."""
    return torch.stack([(1 - s).clamp(min=0).mean() for s in scores]).mean()


def hinge_discriminator(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """Mean over discriminators of mean(max(0, 1 - real)) + mean(max(0, 1 + fake))."""
    parts = [
        (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(parts).mean()


def squares_generator(scores: list[torch.Tensor]) -> torch.Tensor:
    """Sum over discriminators of mean((1 - score of the fake) ** 2)."""
    return torch.stack([(1 - s).square().mean() for s in scores]).sum()


def squares_discriminator(real: list[torch.Tensor], fake: list[torch.Tensor]) -> torch.Tensor:
    """Sum over discriminators of mean(fake ** 2) + mean((1 - real) ** 2)."""
    parts = [f.square().mean() + (1 - r).square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(parts).sum()


def feature_matching(
    real: list[list[torch.Tensor]], fake: list[list[torch.Tensor]], *, average: bool = True
) -> torch.Tensor:
    """Sum over layers of mean |real - fake|, averaged over discriminators or (DAC) summed. Only the
    fake side gets a gradient."""
    parts = [
        F.l1_loss(f, r.detach())
        for one, other in zip(real, fake, strict=True)
        for r, f in zip(one, other, strict=True)
    ]
    return torch.stack(parts).sum() / (len(real) if average else 1)


def commitment(latents: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the encoder's output from its code, which stays where it is."""
    return F.mse_loss(latents, quantized.detach())


def peak_normalised(wave: torch.Tensor) -> torch.Tensor:
    """Without mean, and scaled to a peak of 0.8: what the band discriminators look at."""
    wave = wave - wave.mean(-1, keepdim=True)
    return 0.8 * wave / (wave.abs().amax(-1, keepdim=True) + 1e-9)
