"""Vocos: mel bands or codec tokens to sound.

Vocos: Closing the gap between time-domain and Fourier-based neural vocoders, 2023, 2306.00814. The
mel form is a tokenizer without tokens: `encode` gives log-mel bands as `latents`, `decode` takes
them. The codec form holds EnCodec's codebooks and decodes its tokens; the encoder that makes them
is EnCodec's (2210.13438) and no part of the published files. Left out on purpose: that encoder.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from studio.layers.istft import InverseSTFTHead
from studio.layers.spectrogram import LogMel
from studio.layers.vocos import VocosBackbone
from studio.media.resampling import resample
from studio.outputs import TokenizerOutput, TokenLayout, TokenSegment
from studio.tokenizers.base import Tokenizer
from studio.tokenizers.base_audio import check_audio

FEATURES = ("mel", "codes")

# The releases.
OFFICIAL_SIZES = {
    "vocos-mel-24khz": {},
    "vocos-encodec-24khz": {
        "features": "codes",
        "in_channels": 128,
        "dim": 384,
        "hidden_dim": 1152,
        "num_conditions": 4,
        "n_fft": 1280,
        "hop": 320,
        "padding": "same",
    },
}


class Vocos(Tokenizer):
    """Features to sound.

    Args:
        features: "mel" or "codes".
        sample_rate: samples a second.
        in_channels: mel bands, or the width of a code.
        mel_n_fft, mel_hop, mel_padding: of the mel bands.
        num_codebooks, codebook_size: of the codes.
        condition_codebooks: with so many codebooks in use the adaptive norms take their id 0, 1,
            ...; another number takes the nearest one below.
        dim, hidden_dim, num_layers, num_conditions: of the backbone.
        n_fft, hop, padding: of the inverse STFT.
        clip_seconds: the clip that `layout` is about.
    """

    _no_split_modules = ["ConvNeXtBlock"]

    @register_to_config
    def __init__(
        self,
        *,
        features: str = "mel",
        sample_rate: int = 24000,
        in_channels: int = 100,
        mel_n_fft: int = 1024,
        mel_hop: int = 256,
        mel_padding: str = "center",
        num_codebooks: int = 16,
        codebook_size: int = 1024,
        condition_codebooks: Sequence[int] = (2, 4, 8, 16),
        dim: int = 512,
        hidden_dim: int = 1536,
        num_layers: int = 8,
        num_conditions: int = 0,
        n_fft: int = 1024,
        hop: int = 256,
        padding: str = "center",
        clip_seconds: float = 3.0,
    ):
        super().__init__()
        if features not in FEATURES:
            raise ValueError(f"features {features!r} must be one of {', '.join(FEATURES)}")
        self.mel = self.codes = None
        if features == "mel":
            sizes = (sample_rate, mel_n_fft, mel_hop, in_channels)
            self.mel = LogMel(*sizes, center=mel_padding == "center")
        else:
            table = torch.randn(num_codebooks * codebook_size, in_channels)
            self.codes = nn.Parameter(table)  # (K * V, C)
        self.backbone = VocosBackbone(
            in_channels, dim, hidden_dim, num_layers, num_conditions=num_conditions
        )
        self.head = InverseSTFTHead(dim, n_fft=n_fft, hop=hop, padding=padding)

    @property
    def layout(self) -> TokenLayout:
        """The layout of `clip_seconds` of codes. Raises ValueError for the mel form."""
        self._need_codes()
        config = self.config
        return self.layout_of(round(config.clip_seconds * config.sample_rate / config.hop))

    def layout_of(self, frames: int, *, codebooks: int | None = None) -> TokenLayout:
        """The layout of so many frames of codes, of all codebooks when None."""
        books = codebooks or self.config.num_codebooks
        return TokenLayout((TokenSegment("audio", (frames,), self.config.codebook_size, books),))

    def encode(self, media: torch.Tensor, *, sample_rate: int | None = None) -> TokenizerOutput:
        """Audio (B, 1, L) to log-mel bands, `latents` (B, C, T); there are no tokens.

        Raises:
            ValueError: this is the codec form, whose encoder is EnCodec's; more channels than one,
                no samples, or values that are not finite.
        """
        if self.mel is None:
            raise ValueError("this Vocos decodes EnCodec's tokens; EnCodec itself makes them")
        check_audio(media)
        if media.shape[1] != 1:
            raise ValueError(f"audio has {media.shape[1]} channels; Vocos takes 1")
        wave = resample(media, sample_rate or self.config.sample_rate, self.config.sample_rate)
        wave, least = wave[:, 0].float(), self.config.mel_n_fft // 2 + 1
        if wave.shape[-1] < least:
            wave = F.pad(wave, (0, least - wave.shape[-1]))
        if self.config.mel_padding == "same":
            sides = (self.config.mel_n_fft - self.config.mel_hop) // 2
            wave = F.pad(wave, (sides, sides), mode="reflect")
        bands = self.mel(wave)  # (B, C, T)
        layout = TokenLayout((TokenSegment("bands", (bands.shape[-1],), 2),))
        return TokenizerOutput(None, bands.to(self.dtype), layout)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, K, T) to features (B, C, T): the sum of a row of each codebook.

        Raises:
            ValueError: mel form, more codebooks than there are, or codes outside of them.
        """
        table = self._need_codes()
        size, books = self.config.codebook_size, codes.shape[1]
        if books > self.config.num_codebooks:
            raise ValueError(f"codes have {books} rows; there are {self.config.num_codebooks}")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise ValueError(f"token {low if low < 0 else high} must lie between 0 and {size - 1}")
        rows = codes + size * torch.arange(books, device=codes.device)[:, None]
        return table[rows].sum(1).transpose(1, 2)  # (B, C, T)

    def synthesize(
        self, features: torch.Tensor, *, condition: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features (B, C, T) to waves (B, L), about [-1, 1], not clamped.

        Args:
            features: log-mel bands or what `lookup` gives.
            condition: ids of the adaptive norms, one or (B,); 0 when None.
        """
        return self.head(self.backbone(features, condition))

    def decode(
        self, tokens, *, num_tokens=None, layout=None, generators=None, condition=None
    ) -> torch.Tensor:
        """Tokens (B, K, T), or flat with a `layout`, or mel bands (B, C, T), to audio (B, 1, L).

        Args:
            tokens: int64 codes (fewer codebooks give a coarser sound), or float bands.
            num_tokens: all, or None.
            layout: of flat tokens.
            generators: not used: no noise is drawn.
            condition: of the adaptive norms; by the number of codebooks when None.
        """
        if self.mel is not None:
            return self.synthesize(tokens)[:, None]  # (B, 1, L)
        codes = layout.split(tokens)["audio"] if tokens.ndim == 2 and layout else tokens
        if codes.ndim != 3 or not codes.shape[-1]:
            raise ValueError(f"tokens of shape {tuple(codes.shape)} must be (B, K, T)")
        self.check_num_tokens(num_tokens, self.layout_of(codes.shape[-1], codebooks=codes.shape[1]))
        if condition is None and self.config.num_conditions:
            condition = self._condition(codes.shape[1])
        return self.synthesize(self.lookup(codes), condition=condition)[:, None]

    def reconstruct(
        self, media: torch.Tensor, *, num_tokens: int | None = None, sample_rate: int | None = None
    ) -> torch.Tensor:
        """Audio (B, 1, L) through mel bands and back, as long as it was; the last frame that a
        centred transform lacks is silence.
        """
        own = self.config.sample_rate
        bands = self.encode(media, sample_rate=sample_rate).latents
        made = resample(self.decode(bands), own, sample_rate or own)
        return F.pad(made, (0, max(0, media.shape[-1] - made.shape[-1])))[..., : media.shape[-1]]

    def _condition(self, codebooks: int) -> int:
        below = [i for i, n in enumerate(self.config.condition_codebooks) if n <= codebooks]
        return min(max(below, default=0), self.config.num_conditions - 1)

    def _need_codes(self) -> nn.Parameter:
        if self.codes is None:
            raise ValueError("this Vocos works on mel bands; it has no codes")
        return self.codes
