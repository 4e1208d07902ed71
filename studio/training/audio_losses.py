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

from studio.layers.spectrogram import LogMel, magnitudes


class MelLoss(nn.Module):
    """Mean absolute error of log-mel bands; with the defaults, WavTokenizer's."""

    def __init__(self, sample_rate: int = 24000, n_fft: int = 1024, hop: int = 256, n_mels=100):
        super().__init__()
        self.features = LogMel(sample_rate, n_fft, hop, n_mels)

    def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) twice to a scalar."""
        return F.l1_loss(self.features(fake.flatten(0, 1)), self.features(real.flatten(0, 1)))


class MultiMelLoss(nn.Module):
    """Log-mel errors at several resolutions, averaged.

    Args:
        sample_rate: in Hz.
        windows: lengths of the windows; hops are a quarter of them.
        bands: mel bands of each.
        clip: band values below this count as silence.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        windows: tuple[int, ...] = (128, 256, 512, 1024),
        bands: tuple[int, ...] = (20, 40, 64, 96),
        clip: float = 1e-4,
    ):
        super().__init__()
        self.parts = nn.ModuleList(
            LogMel(sample_rate, n, n // 4, m, clip=clip)
            for n, m in zip(windows, bands, strict=True)
        )

    def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) twice to a scalar."""
        fake, real = fake.flatten(0, 1), real.flatten(0, 1)  # (B, L)
        errors = [F.l1_loss(part(fake), part(real)) for part in self.parts]
        return torch.stack(errors).mean()


class SpectralLoss(nn.Module):
    """Spectral convergence plus the error of log magnitudes, averaged over resolutions."""

    def __init__(self, windows: tuple[int, ...] = (512, 1024, 240), floor: float = 1e-6):
        super().__init__()
        self.windows, self.floor = windows, floor
        for n in windows:
            self.register_buffer(f"window{n}", torch.hann_window(n), persistent=False)

    def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) twice to a scalar."""
        total = fake.new_zeros(())
        for n in self.windows:
            options = {"window": getattr(self, f"window{n}"), "floor": self.floor}
            one = magnitudes(fake.flatten(0, 1), n, n // 4, **options)  # (B, F, T)
            other = magnitudes(real.flatten(0, 1), n, n // 4, **options)
            convergence = (one - other).norm() / other.norm()
            total = total + convergence + F.l1_loss(one.log(), other.log())
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
