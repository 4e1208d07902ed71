"""WavTokenizer: speech, music or sound as one row of tokens, 40 or 75 a second.

WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling, 2024,
2408.16532: a SEANet encoder, one large codebook of moving averages, a Vocos backbone with
attention, an inverse STFT. With the defaults this is the official network of 75 tokens a second,
exactly; other options make small ones that train quickly (a narrow code space, finite scalar codes,
no attention, so that sound can be streamed). Left out on purpose: the second decoder that official
files carry and never run; discriminators and losses, which belong to training.
"""

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.layers.istft import InverseSTFTHead
from studio.layers.seanet import SEANetEncoder
from studio.layers.vocos import VocosBackbone
from studio.outputs import QuantizerOutput
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base_audio import WaveTokenizer

QUANTIZERS = ("ema", "fsq")
DEAD_CODES = ("revive", "encodec", "keep")

# The releases; the names say tokens a second.
OFFICIAL_SIZES = {
    "wavtokenizer-75": {},
    "wavtokenizer-40": {"strides": (4, 5, 5, 6), "n_fft": 2400},
}


class WavTokenizer(WaveTokenizer):
    """Sound to one row of tokens, and back.

    Args:
        sample_rate: samples a second.
        strides: of the encoder, in the order in which they run; their product is the hop.
        encoder_width: channels at the full rate, doubled by every stride.
        lstm_layers: 0 leaves the LSTM out.
        dim: D, the width of the features.
        codebook_size: V, for the quantizer "ema".
        codebook_dim: width of the codes, reached by linear maps on both sides; D, without maps,
            when None.
        codebook_l2_norm: compare codes by their direction.
        quantizer: "ema" (a codebook of moving averages, k-means start) or "fsq".
        levels: of finite scalar codes, which need `codebook_dim` to be None.
        ema_decay, commitment, kmeans_iterations: of the codebook.
        dead_codes: what becomes of codes that are not used: "revive" (a random feature of the
            batch, after `revive_after` batches), "encodec" (what the official code does: nothing,
            see `VectorQuantizer`) or "keep".
        revive_after: training batches.
        backbone_dim, backbone_hidden_dim, backbone_layers: of the decoder.
        num_conditions: ids of its adaptive norms, 0 for ordinary norms. Official: 4, of which 0 is
            meant for use.
        use_attention: residual blocks and attention over the whole clip before the backbone. Sound
            then depends on the clip's length; without it, windows join exactly.
        dropout: inside those blocks.
        n_fft, padding: of the inverse STFT; 4 hops when None.
        clip_seconds: the clip that `layout` is about.
        window_seconds: longer clips are decoded in windows of so many seconds.
    """

    @register_to_config
    def __init__(
        self,
        *,
        sample_rate: int = 24000,
        strides: Sequence[int] = (2, 4, 5, 8),
        encoder_width: int = 32,
        lstm_layers: int = 2,
        dim: int = 512,
        codebook_size: int = 4096,
        codebook_dim: int | None = None,
        codebook_l2_norm: bool = False,
        quantizer: str = "ema",
        levels: Sequence[int] = (8, 8, 8, 8),
        ema_decay: float = 0.99,
        commitment: float = 1.0,
        kmeans_iterations: int = 200,
        dead_codes: str = "revive",
        revive_after: int = 100,
        backbone_dim: int = 768,
        backbone_hidden_dim: int = 2304,
        backbone_layers: int = 12,
        num_conditions: int = 4,
        use_attention: bool = True,
        dropout: float = 0.1,
        n_fft: int | None = None,
        padding: str = "same",
        clip_seconds: float = 3.0,
        window_seconds: float = 12.0,
    ):
        super().__init__()
        for name, value, allowed in (
            ("quantizer", quantizer, QUANTIZERS),
            ("dead_codes", dead_codes, DEAD_CODES),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value!r} must be one of {', '.join(allowed)}")
        self.encoder = SEANetEncoder(encoder_width, strides, dim, lstm_layers=lstm_layers)
        if quantizer == "fsq":
            self.codebook = FiniteScalarQuantizer(tuple(levels))
        else:
            self.codebook = VectorQuantizer(
                codebook_size,
                codebook_dim or dim,
                l2_norm=codebook_l2_norm,
                commitment=commitment,
                ema_decay=ema_decay,
                kmeans_start=True,
                kmeans_iterations=kmeans_iterations,
                revive_after=revive_after if dead_codes == "revive" else None,
                encodec_averages=dead_codes == "encodec",
            )
        width = self.codebook.dim
        self.project_in = nn.Conv1d(dim, width, 1) if width != dim else nn.Identity()
        self.project_out = nn.Conv1d(width, dim, 1) if width != dim else nn.Identity()
        self.backbone = VocosBackbone(
            dim,
            backbone_dim,
            backbone_hidden_dim,
            backbone_layers,
            num_conditions=num_conditions,
            use_attention=use_attention,
            dropout=dropout,
        )
        self.hop, self.num_codebooks = math.prod(strides), 1
        self.codebook_size = self.codebook.codebook_size
        self.head = InverseSTFTHead(
            backbone_dim, n_fft=n_fft or 4 * self.hop, hop=self.hop, padding=padding
        )

    def quantize(self, features: torch.Tensor) -> QuantizerOutput:
        """Features (B, D, T) to `quantized` (B, D, T) and `indices` (B, 1, T)."""
        out = self.codebook(features.transpose(1, 2))
        quantized = out.quantized.transpose(1, 2)  # (B, D, T)
        return QuantizerOutput(quantized, out.indices[:, None], out.loss, out.stats)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, 1, T) to vectors (B, D, T)."""
        return self.codebook.lookup(codes[:, 0]).transpose(1, 2).to(self.dtype)  # (B, D, T)
