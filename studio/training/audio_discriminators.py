"""Discriminators of sound: by period, by resolution, by bands of the complex spectrum.

Sources: HiFi-GAN (2020, 2010.05646) for periods; UnivNet (2021, 2106.07889) for resolutions, both
with Vocos's conditioning by projection (2023, 2306.00814); DAC (2023, 2306.06546) for bands.
Defaults are WavTokenizer's widths. Every discriminator maps a wave (B, 1, L) to a `Verdict`. Leaves
out on purpose: the multi-scale waveform discriminators of MelGAN.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from studio.layers.spectrogram import magnitudes
from studio.training import audio_losses as losses

SLOPE = 0.1
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


class Verdict(NamedTuple):
    """`score` (B, N), large for real sound, and the feature `maps` of the layers."""

    score: torch.Tensor
    maps: list[torch.Tensor]


def _conv(inputs, outputs, kernel, stride=(1, 1)) -> nn.Module:
    padding = tuple(k // 2 for k in kernel)
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding))


class _Judge(nn.Module):
    """A stack of convolutions, a last one to the score, and a projection on a learned condition.

    Args:
        convs: the stack.
        width: channels of its output.
        conditions: rows of the condition's table; 0 = none.
        skip: first layers whose maps are not kept.
        kernel: of the last convolution.
    """

    def __init__(self, convs: list[nn.Module], width: int, *, conditions: int, skip=0, kernel):
        super().__init__()
        self.convs, self.skip = nn.ModuleList(convs), skip
        self.last = _conv(width, 1, kernel)
        self.table = nn.Embedding(conditions, width) if conditions else None
        if self.table is not None:
            nn.init.zeros_(self.table.weight)

    def judge(self, x: torch.Tensor, condition: int) -> Verdict:
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            maps.append(x)
        score = self.last(x)  # (B, 1, H, W)
        if self.table is not None:
            score = score + (self.table.weight[condition][:, None, None] * x).sum(1, keepdim=True)
        # the projection is part of the last map as well, as in the trainers it comes from
        return Verdict(score.flatten(1), [*maps[self.skip :], score])


class PeriodDiscriminator(_Judge):
    """Folds the wave into columns of `period` samples.

    Args:
        period: in samples.
        widths: channels of the five convolutions.
        conditions: rows of the condition's table; 0 = none.
        whole_pad: always pad, by a whole period when the length already fits (DAC).
        skip: first layers whose maps are not kept.
    """

    def __init__(
        self,
        period: int,
        widths: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        *,
        conditions: int = 0,
        whole_pad: bool = False,
        skip: int = 1,
    ):
        strides = [(3, 1)] * (len(widths) - 1) + [(1, 1)]
        pairs = zip((1, *widths), widths, strides, strict=False)
        convs: list[nn.Module] = [_conv(i, o, (5, 1), s) for i, o, s in pairs]
        super().__init__(convs, widths[-1], conditions=conditions, skip=skip, kernel=(3, 1))
        self.period, self.whole_pad = period, whole_pad

    def forward(self, wave: torch.Tensor, condition: int = 0) -> Verdict:
        left = wave.shape[-1] % self.period
        if left or self.whole_pad:
            wave = F.pad(wave, (0, self.period - left), mode="reflect")
        return self.judge(wave.unflatten(-1, (-1, self.period)), condition)  # (B, 1, L / P, P)


class ResolutionDiscriminator(_Judge):
    """Looks at the magnitude spectrogram with a rectangular window."""

    def __init__(self, n_fft: int, hop: int, width: int = 64, *, conditions: int = 0):
        shapes = [((7, 5), (2, 2)), ((5, 3), (2, 1)), ((5, 3), (2, 2)), ((3, 3), (2, 1))]
        shapes.append(((3, 3), (2, 2)))
        convs: list[nn.Module] = [
            _conv(width if i else 1, width, kernel, stride)
            for i, (kernel, stride) in enumerate(shapes)
        ]
        super().__init__(convs, width, conditions=conditions, kernel=(3, 3))
        self.n_fft, self.hop = n_fft, hop

    def forward(self, wave: torch.Tensor, condition: int = 0) -> Verdict:
        spectrum = magnitudes(wave[:, 0], self.n_fft, self.hop, floor=1e-12)  # (B, F, T)
        return self.judge(spectrum[:, None], condition)


class BandDiscriminator(nn.Module):
    """Looks at bands of the complex spectrogram with a rectangular window, each through its own
    convolutions."""

    def __init__(self, n_fft: int, width: int = 32):
        super().__init__()
        self.n_fft = n_fft
        bins = n_fft // 2 + 1
        self.limits = [int(share * bins) for share in BANDS]
        self.bands = nn.ModuleList(self._stack(width) for _ in BANDS[1:])
        self.last = _conv(width, 1, (3, 3))

    @staticmethod
    def _stack(width: int) -> nn.ModuleList:
        middle = [_conv(width, width, (3, 9), (1, 2)) for _ in range(3)]
        return nn.ModuleList([_conv(2, width, (3, 9)), *middle, _conv(width, width, (3, 3))])

    def split(self, wave: torch.Tensor) -> list[torch.Tensor]:
        """The bands, real and imaginary parts as channels: (B, 1, L) to (B, 2, T, F) each."""
        window = torch.ones(self.n_fft, device=wave.device, dtype=wave.dtype)
        spectrum = torch.stft(
            wave[:, 0], self.n_fft, self.n_fft // 4, window=window, return_complex=True
        )
        parts = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (B, 2, T, F)
        pairs = zip(self.limits, self.limits[1:], strict=False)
        return [parts[..., start:end] for start, end in pairs]

    def forward(self, wave: torch.Tensor) -> Verdict:
        maps, ends = [], []
        for x, stack in zip(self.split(wave), self.bands, strict=True):
            for conv in stack:  # pyright: ignore[reportGeneralTypeIssues]
                x = F.leaky_relu(conv(x), SLOPE)
                maps.append(x)
            ends.append(x)
        score = self.last(torch.cat(ends, -1))  # (B, 1, T, F')
        return Verdict(score.flatten(1), [*maps, score])


class AudioDiscriminators(nn.Module):
    """All of WavTokenizer's discriminators together, with the losses of both sides.

    Args:
        period_widths: channels of the period discriminators; () leaves them out.
        periods: in samples.
        resolution_width: channels of the resolution discriminators; 0 leaves them out.
        resolutions: (n_fft, hop) of each.
        band_width: channels of the band discriminators; 0 leaves them out.
        band_windows: n_fft of each.
        band_period_widths: channels of DAC's own period discriminators, judged by least squares
            with the band discriminators; () leaves them out.
        conditions: rows of the table of conditions; 0 = none.
    """

    def __init__(
        self,
        *,
        period_widths: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        resolution_width: int = 64,
        resolutions: tuple[tuple[int, int], ...] = ((1024, 256), (2048, 512), (512, 128)),
        band_width: int = 32,
        band_windows: tuple[int, ...] = (2048, 1024, 512),
        band_period_widths: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        conditions: int = 0,
    ):
        super().__init__()
        self.periods = nn.ModuleList(
            PeriodDiscriminator(p, tuple(period_widths), conditions=conditions)
            for p in (periods if period_widths else ())
        )
        self.resolutions = nn.ModuleList(
            ResolutionDiscriminator(n, hop, resolution_width, conditions=conditions)
            for n, hop in (resolutions if resolution_width else ())
        )
        own = [
            PeriodDiscriminator(p, tuple(band_period_widths), whole_pad=True, skip=0)
            for p in (periods if band_period_widths else ())
        ]
        bands = [BandDiscriminator(n, band_width) for n in (band_windows if band_width else ())]
        self.bands = nn.ModuleList([*own, *bands])

    def _verdicts(self, wave: torch.Tensor, condition: int) -> dict[str, list[Verdict]]:
        level = losses.peak_normalised(wave)
        found = {
            "periods": [d(wave, condition) for d in self.periods],
            "resolutions": [d(wave, condition) for d in self.resolutions],
            "bands": [d(level) for d in self.bands],
        }
        return {name: verdicts for name, verdicts in found.items() if verdicts}

    def discriminator_loss(
        self, real: torch.Tensor, fake: torch.Tensor, condition: int = 0
    ) -> torch.Tensor:
        """What the discriminators minimise: waves (B, 1, L) twice to a scalar."""
        ones, others = self._verdicts(real, condition), self._verdicts(fake.detach(), condition)
        total = real.new_zeros(())
        for name, verdicts in ones.items():
            form = losses.squares_discriminator if name == "bands" else losses.hinge_discriminator
            total = total + form([v.score for v in verdicts], [v.score for v in others[name]])
        return total

    def generator_losses(
        self, real: torch.Tensor, fake: torch.Tensor, condition: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the codec minimises: (adversarial, feature matching), scalars."""
        with torch.no_grad():
            ones = self._verdicts(real, condition)
        others = self._verdicts(fake, condition)
        adversarial, matching = fake.new_zeros(()), fake.new_zeros(())
        for name, verdicts in others.items():
            bands = name == "bands"
            form = losses.squares_generator if bands else losses.hinge_generator
            adversarial = adversarial + form([v.score for v in verdicts])
            # DAC matches no scores, only what comes before them
            cut = -1 if bands else None
            real_maps = [v.maps[:cut] for v in ones[name]]
            fake_maps = [v.maps[:cut] for v in verdicts]
            matching = matching + losses.feature_matching(real_maps, fake_maps, average=not bands)
        return adversarial, matching
