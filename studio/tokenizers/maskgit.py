"""The MaskGIT-VQGAN tokenizer: a purely convolutional network and a plain codebook.

MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200. Its 1024 codes are what RAR and the
first MaskGIT generators speak, and what TiTok's first training stage learns to predict. Exact: it
holds the official weights. Left out on purpose: the adversarial training, which belongs to
`studio.training`.
"""

import torch
from diffusers.configuration_utils import register_to_config

from studio.layers.convolution import MaskGITDecoder, MaskGITEncoder
from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base import Tokenizer, check_image


class MaskGITTokenizer(Tokenizer):
    """Pictures to a grid of tokens in raster order, and back.

    The defaults are the released ImageNet model (`maskgit-vqgan-imagenet-f16-256.bin`).

    Args:
        image_size: side of the usual picture; other sizes work when they are multiples of the
            reduction.
        base_channels, channel_multipliers, num_res_blocks: widths of the levels, finest first, and
            blocks in each.
        codebook_size: V.
        codebook_dim: width of a code and of the latents.
        commitment: weight of the quantizer's commitment loss.
    """

    _no_split_modules = ["MaskGITLevel"]

    @register_to_config
    def __init__(
        self,
        *,
        image_size: int = 256,
        base_channels: int = 128,
        channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        codebook_size: int = 1024,
        codebook_dim: int = 256,
        commitment: float = 0.25,
    ):
        super().__init__()
        shape = (base_channels, tuple(channel_multipliers), num_res_blocks, codebook_dim)
        self.encoder = MaskGITEncoder(*shape)
        self.decoder = MaskGITDecoder(*shape)
        self.quantize = VectorQuantizer(
            codebook_size, codebook_dim, l2_norm=False, commitment=commitment
        )
        self.reduction = 2 ** (len(channel_multipliers) - 1)

    @property
    def layout(self) -> TokenLayout:
        side = self.config.image_size // self.reduction
        return TokenLayout.single((side, side), self.config.codebook_size)

    def latents(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents before quantization (B, D, H/f, W/f)."""
        check_image(images, self.reduction)
        return self.encoder((images.to(self.dtype) + 1) / 2)

    def pixels(self, quantized: torch.Tensor) -> torch.Tensor:
        """Quantized latents (B, D, h, w) to images (B, 3, H, W), about [-1, 1], not clamped."""
        return self.decoder(quantized) * 2 - 1

    def encode(self, media: torch.Tensor) -> TokenizerOutput:
        """Images (B, 3, H, W) in [-1, 1] to tokens (B, h*w); `latents` and `quantized` are (B, D,
        h, w).
        """
        latents = self.latents(media)
        out = self.quantize(latents.movedim(1, -1))
        layout = TokenLayout.single(latents.shape[-2:], self.config.codebook_size)
        quantized = out.quantized.movedim(-1, 1)  # (B, D, h, w)
        return TokenizerOutput(out.indices.flatten(1), latents, layout, quantized, out.loss)

    def decode(self, tokens, *, num_tokens=None, layout=None, generators=None) -> torch.Tensor:
        """Tokens (B, h*w) to images (B, 3, H, W). A grid has no decodable prefix: `num_tokens` must
        be all.
        """
        layout = layout or self.layout
        self.check_num_tokens(num_tokens, layout)
        grid = layout.split(tokens)["image"]  # (B, h, w)
        return self.pixels(self.quantize.lookup(grid).movedim(-1, 1).to(self.dtype))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: reconstruction (B, 3, H, W), gradient through the quantizer, and the
        encoding.
        """
        encoded = self.encode(images)
        assert encoded.quantized is not None  # encode keeps it
        return self.pixels(encoded.quantized), encoded
