"""A small recogniser of the synthetic voices, which scores what a text-to-speech pipeline says.

Letters by connectionist temporal classification (Graves et al., 2006) over ConvNeXt blocks that
read log-mel bands. It knows the voices and the words of `data/speech.py` and little else, so its
own error on real speech of the same sentences belongs beside every score it gives. Leaves out on
purpose: a language model and beam search, which would repair what was said badly.
"""

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from studio.data.spelling import ALPHABET
from studio.layers.ctc import best_path
from studio.layers.spectrogram import LogMel
from studio.layers.vocos import ConvNeXtBlock
from studio.media.resampling import resample

_FLOOR = 1e-2


class Recogniser(ModelMixin, ConfigMixin):
    """Sound to letters.

    Args:
        sample_rate: samples a second.
        hop: samples a frame; two frames make a step of the output.
        window, n_mels: of the log-mel bands.
        dim, hidden_dim, num_layers: of the ConvNeXt blocks.
        alphabet: the letters, numbered from 1; 0 is the blank.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        hop: int = 160,
        window: int = 512,
        n_mels: int = 64,
        dim: int = 96,
        hidden_dim: int = 288,
        num_layers: int = 8,
        alphabet: str = ALPHABET,
    ):
        super().__init__()
        self.mel = LogMel(sample_rate, window, hop, n_mels, clip=_FLOOR)
        self.read = nn.Conv1d(n_mels, dim, 5, stride=2, padding=2)
        scale = 1 / math.sqrt(num_layers)
        blocks = (ConvNeXtBlock(dim, hidden_dim, scale=scale) for _ in range(num_layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, len(alphabet) + 1)

    def steps(self, samples: torch.Tensor) -> torch.Tensor:
        """Output steps of clips of so many samples."""
        frames = samples // self.mel.hop + 1
        return (frames + 1) // 2

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, 1, L) to log-probabilities (B, T, 1 + letters), float32, `steps(L)` of them."""
        short = max(0, self.mel.n_fft // 2 + 1 - waves.shape[-1])
        bands = self.mel(F.pad(waves[:, 0], (0, short)))  # (B, M, F)
        bands = bands[..., : waves.shape[-1] // self.mel.hop + 1]
        bands = (bands - math.log(_FLOOR)) / 2 - 1
        h = self.blocks(self.read(bands.to(self.dtype)))  # (B, D, T)
        return self.out(self.norm(h.transpose(1, 2))).float().log_softmax(-1)  # (B, T, V)

    @torch.no_grad()
    def transcribe(
        self, waves: Sequence[torch.Tensor], *, sample_rate: int | None = None
    ) -> list[str]:
        """What is said in waves (1, L) of any lengths, each heard alone.

        Args:
            waves: floats in [-1, 1].
            sample_rate: of the waves; the model's own when None.
        """
        own = self.config.sample_rate
        said = []
        for wave in waves:
            if wave.ndim != 2 or wave.shape[0] != 1 or not wave.shape[1]:
                raise ValueError(f"wave of shape {tuple(wave.shape)} must be (1, L), L >= 1")
            heard = resample(wave[None].to(self.device).float(), sample_rate or own, own)
            said.append(self.letters(self(heard)[0]))
        return said

    def letters(self, scores: torch.Tensor) -> str:
        """The best path of log-probabilities (T, V): repeats joined, blanks dropped."""
        return best_path(scores, self.config.alphabet)
