"""TiTok and One-D-Piece: a picture as a short row of tokens.

An Image is Worth 32 Tokens for Reconstruction and Generation (TiTok), 2024, 2406.07550, in its
first, two-stage form ("legacy": L32, B64, S128), and One-D-Piece: Image Tokenizer Meets
Quality-Controllable Compression, 2025, 2501.10064, which is the same network trained so that any
first tokens can be decoded. Exact: it holds the official weights. Left out on purpose: the later
single-stage variants (a larger codebook, a continuous latent, text), and training.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.layers.convolution import MaskGITDecoder
from studio.layers.vit import LatentTransformer
from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base import Tokenizer, check_image

# width, layers, heads
VIT_SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}


def _size(vit: str, num_tokens: int, *, prefix: bool) -> dict:
    sizes = list(VIT_SIZES[vit])
    return {
        "encoder_size": sizes,
        "decoder_size": sizes,
        "num_tokens": num_tokens,
        "prefix": prefix,
    }


# Arguments of TiTokTokenizer for the official releases (all at 256 pixels, patch 16, 4096 codes).
OFFICIAL_SIZES = {
    "titok-l32": _size("large", 32, prefix=False),
    "titok-b64": _size("base", 64, prefix=False),
    "titok-s128": _size("small", 128, prefix=False),
    "one-d-piece-s-256": _size("small", 256, prefix=True),
    "one-d-piece-b-256": _size("base", 256, prefix=True),
    "one-d-piece-l-256": _size("large", 256, prefix=True),
}


class TiTokEncoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1] and latent queries (N, W) to latents (B, N, D)."""

    def __init__(self, size: Sequence[int], grid: int, patch: int, num_tokens: int, dim: int):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, size[0], patch, stride=patch)
        self.trunk = LatentTransformer(size, grid, num_tokens)
        self.conv_out = nn.Conv2d(size[0], dim, 1)

    def forward(self, images: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, g*g, W)
        _, latents = self.trunk(patches, queries.expand(images.shape[0], -1, -1))  # (B, N, W)
        # The releases read each sample's (N, W) block again as (W, N), without a transpose:
        # tokens and channels mix, and the weights were trained with it.
        mixed = latents.reshape(-1, latents.shape[2], 1, latents.shape[1])  # (B, W, 1, N)
        return self.conv_out(mixed).squeeze(2).transpose(1, 2)  # (B, N, D)


class TiTokDecoder(nn.Module):
    """The first n quantized latents (B, n, D) to logits over proxy codes (B, V', g, g)."""

    def __init__(self, size: Sequence[int], grid: int, num_tokens: int, dim: int, proxy_codes: int):
        super().__init__()
        width, self.grid = size[0], grid
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(width**-0.5 * torch.randn(1, 1, width))
        self.trunk = LatentTransformer(size, grid, num_tokens)
        self.head = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, proxy_codes, 1)
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        slots = self.mask_token.expand(vectors.shape[0], self.grid**2, -1)
        patches, _ = self.trunk(slots, self.embed(vectors))  # (B, g*g, W)
        return self.head(patches.transpose(1, 2).unflatten(2, (self.grid, self.grid)))


class TiTokTokenizer(Tokenizer):
    """Pictures to N tokens without a grid, and back. The defaults are TiTok-L-32; see
    `OFFICIAL_SIZES`.

    Args:
        image_size: side of a picture; only this size works, since positions are learned.
        patch_size: pixels a side of a patch in the encoder.
        decoder_patch_size: pixels a side that one cell of the decoder stands for; as `patch_size`
            when None.
        encoder_size, decoder_size: width, layers and heads of each transformer (`VIT_SIZES`).
        num_tokens: N.
        prefix: any first k tokens can be decoded (One-D-Piece).
        codebook_size, codebook_dim, codebook_l2_norm, commitment: of the vector quantizer.
        proxy_codes: V', the codes of MaskGIT-VQGAN that the transformer decoder predicts.
        has_pixel_decoder: False for a checkpoint of the first stage, which stops at those
            predictions.
        pixel_channels, pixel_multipliers, pixel_res_blocks, pixel_dim: of the convolutional pixel
            decoder.
    """

    _no_split_modules = ["TransformerBlock", "MaskGITLevel"]

    @register_to_config
    def __init__(
        self,
        *,
        image_size: int = 256,
        patch_size: int = 16,
        decoder_patch_size: int | None = None,
        encoder_size: Sequence[int] = VIT_SIZES["large"],
        decoder_size: Sequence[int] = VIT_SIZES["large"],
        num_tokens: int = 32,
        prefix: bool = False,
        codebook_size: int = 4096,
        codebook_dim: int = 12,
        codebook_l2_norm: bool = True,
        commitment: float = 0.25,
        proxy_codes: int = 1024,
        has_pixel_decoder: bool = True,
        pixel_channels: int = 128,
        pixel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        pixel_res_blocks: int = 2,
        pixel_dim: int = 256,
    ):
        super().__init__()
        decoder_patch_size = decoder_patch_size or patch_size
        for name, patch in (("patch_size", patch_size), ("decoder_patch_size", decoder_patch_size)):
            if image_size % patch:
                raise ValueError(f"{name} {patch} must divide image_size {image_size}")
        grid, cells = image_size // patch_size, image_size // decoder_patch_size
        self.latent_tokens = nn.Parameter(
            encoder_size[0] ** -0.5 * torch.randn(num_tokens, encoder_size[0])
        )
        self.encoder = TiTokEncoder(encoder_size, grid, patch_size, num_tokens, codebook_dim)
        self.quantize = VectorQuantizer(
            codebook_size, codebook_dim, l2_norm=codebook_l2_norm, commitment=commitment
        )
        self.decoder = TiTokDecoder(decoder_size, cells, num_tokens, codebook_dim, proxy_codes)
        if has_pixel_decoder:
            shape = (pixel_channels, tuple(pixel_multipliers), pixel_res_blocks, pixel_dim)
            self.pixel_codebook = nn.Parameter(torch.randn(proxy_codes, pixel_dim))
            self.pixel_decoder = MaskGITDecoder(*shape)

    @property
    def layout(self) -> TokenLayout:
        config = self.config
        return TokenLayout.single((config.num_tokens,), config.codebook_size, prefix=config.prefix)

    def latents(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S) in [-1, 1] to latents before quantization (B, N, D)."""
        size = self.config.image_size
        check_image(images, size)
        if tuple(images.shape[-2:]) != (size, size):
            height, width = images.shape[-2:]
            raise ValueError(
                f"image size {height}x{width}: this tokenizer takes {size}x{size} only"
            )
        return self.encoder((images.to(self.dtype) + 1) / 2, self.latent_tokens)

    def logits(self, quantized: torch.Tensor) -> torch.Tensor:
        """The first n quantized latents (B, n, D) to logits over the proxy codes (B, V', g, g)."""
        return self.decoder(quantized)

    def pixels(self, quantized: torch.Tensor) -> torch.Tensor:
        """The first n quantized latents (B, n, D) to images (B, 3, S, S), about [-1, 1], not
        clamped.

        The pixel decoder sees the expectation of the proxy codes under the logits, not the best
        code. Raises ValueError for a checkpoint of the first stage, which has no pixel decoder.
        """
        if not self.config.has_pixel_decoder:
            raise ValueError(
                "has_pixel_decoder is off: this checkpoint gives logits only (decode_logits)"
            )
        shares = self.logits(quantized).float().softmax(1)  # (B, V', g, g)
        soft = torch.einsum("bvhw,vc->bchw", shares, self.pixel_codebook.float())
        return self.pixel_decoder(soft.to(self.dtype)) * 2 - 1

    def encode(self, media: torch.Tensor) -> TokenizerOutput:
        """Images (B, 3, S, S) in [-1, 1] to tokens (B, N), `latents` and `quantized` (B, N, D)."""
        latents = self.latents(media)
        out = self.quantize(latents)
        return TokenizerOutput(out.indices, latents, self.layout, out.quantized, out.loss)

    def decode(self, tokens, *, num_tokens=None, layout=None, generators=None) -> torch.Tensor:
        """Tokens (B, N), or the first k of them (B, k) where `prefix` is on, to images (B, 3, S,
        S).
        """
        return self.pixels(self._vectors(tokens, num_tokens))

    def decode_logits(self, tokens: torch.Tensor, *, num_tokens: int | None = None) -> torch.Tensor:
        """As `decode`, but to logits over the proxy codes (B, V', g, g): all that the first stage
        has.
        """
        return self.logits(self._vectors(tokens, num_tokens))

    def forward(
        self, images: torch.Tensor, *, num_tokens: int | None = None
    ) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: the reconstruction from the first `num_tokens` tokens, and the
        encoding.

        In the first stage the reconstruction is the logits (B, V', g, g) instead of an image (B, 3,
        S, S).
        """
        encoded = self.encode(images)
        assert encoded.quantized is not None  # encode keeps it
        kept = encoded.quantized[:, :num_tokens]  # (B, n, D)
        return (self.pixels if self.config.has_pixel_decoder else self.logits)(kept), encoded

    def _vectors(self, tokens: torch.Tensor, num_tokens: int | None) -> torch.Tensor:
        given = tokens.shape[1]
        count = self.check_num_tokens(given if num_tokens is None else num_tokens, self.layout)
        if given < count:
            raise ValueError(f"num_tokens {count} is more than the {given} tokens given")
        return self.quantize.lookup(tokens[:, :count]).to(self.dtype)  # (B, n, D)
