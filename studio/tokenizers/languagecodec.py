"""Language-Codec: sound as eight rows of tokens, 75 frames a second.

Language-Codec: Bridging Discrete Codec Representations and Speech Language Models, 2024,
2402.12208: the encoder and decoder of WavTokenizer without attention; the first three codebooks
share the channels between them and so the content (MCRVQ), the others refine. With the defaults
this is the official network, exactly. Left out on purpose: the ordinary residual search that the
official code offers as well, which gives other codes than the network was trained with.
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
from studio.quantizers.residual import ResidualQuantizer
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base_audio import WaveTokenizer


class LanguageCodec(WaveTokenizer):
    """Sound to K rows of tokens, and back; the first k rows decode to a coarser sound.

    Args:
        sample_rate: samples a second.
        strides: of the encoder, in the order in which they run; their product is the hop.
        encoder_width, lstm_layers: of the encoder.
        dim: D, the width of the features and of the codes.
        num_codebooks: K.
        codebook_size: V of each.
        parallel_codebooks: how many of the first ones see a share of the channels each.
        ema_decay, commitment, kmeans_iterations: of the codebooks.
        encodec_averages: follow the official code's averages to the bit; else unused codes are
            revived after `revive_after` training batches.
        revive_after: see there.
        backbone_dim, backbone_hidden_dim, backbone_layers, num_conditions: of the decoder.
        n_fft, padding: of the inverse STFT; 4 hops when None.
        clip_seconds: the clip that `layout` is about.
        window_seconds: longer clips go in windows of so many seconds, which join exactly.
    """

    @register_to_config
    def __init__(
        self,
        *,
        sample_rate: int = 24000,
        strides: Sequence[int] = (2, 4, 5, 8),
        encoder_width: int = 32,
        lstm_layers: int = 2,
        dim: int = 128,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        parallel_codebooks: int = 3,
        ema_decay: float = 0.99,
        commitment: float = 1.0,
        kmeans_iterations: int = 200,
        encodec_averages: bool = False,
        revive_after: int = 100,
        backbone_dim: int = 384,
        backbone_hidden_dim: int = 1152,
        backbone_layers: int = 12,
        num_conditions: int = 4,
        n_fft: int | None = None,
        padding: str = "same",
        clip_seconds: float = 3.0,
        window_seconds: float = 12.0,
    ):
        super().__init__()
        self.encoder = SEANetEncoder(encoder_width, strides, dim, lstm_layers=lstm_layers)
        books = [
            VectorQuantizer(
                codebook_size,
                dim,
                l2_norm=False,
                commitment=commitment,
                ema_decay=ema_decay,
                kmeans_start=True,
                kmeans_iterations=kmeans_iterations,
                revive_after=None if encodec_averages else revive_after,
                encodec_averages=encodec_averages,
                seed=number,
            )
            for number in range(num_codebooks)
        ]
        self.codebooks = ResidualQuantizer(books, parallel=parallel_codebooks)
        self.project_in, self.project_out = nn.Identity(), nn.Identity()
        sizes = (dim, backbone_dim, backbone_hidden_dim, backbone_layers)
        self.backbone = VocosBackbone(*sizes, num_conditions=num_conditions)
        self.hop = math.prod(strides)
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        options = {"n_fft": n_fft or 4 * self.hop, "hop": self.hop, "padding": padding}
        self.head = InverseSTFTHead(backbone_dim, **options)

    def quantize(
        self, features: torch.Tensor, *, num_codebooks: int | None = None
    ) -> QuantizerOutput:
        """Features (B, D, T) to `quantized` (B, D, T) and `indices` (B, K, T), with the first
        `num_codebooks` books alone where given (training draws 3 to 8).
        """
        out = self.codebooks(features.transpose(1, 2), num_levels=num_codebooks)
        quantized = out.quantized.transpose(1, 2)  # (B, D, T)
        return QuantizerOutput(quantized, out.indices.movedim(-1, 1), out.loss, out.stats)

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, k, T), k <= K, to vectors (B, D, T)."""
        vectors = self.codebooks.lookup(codes.movedim(1, -1))  # (B, T, D)
        return vectors.transpose(1, 2).to(self.dtype)
