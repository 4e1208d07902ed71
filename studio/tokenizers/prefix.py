"""A small 1D tokenizer whose every prefix is a picture.

In the TiTok / One-D-Piece family: latent queries gather the picture into an ordered row of tokens
("An Image is Worth 32 Tokens", 2024, arXiv 2406.07550), and dropping the tail of the row in
training makes every prefix decodable ("One-D-Piece", 2025, arXiv 2501.10064). What differs, so that
it trains in an hour on a CPU: both networks start from principal components. The latent queries
correct a linear analysis of the pixels, and the decoder corrects the linear synthesis, so the very
first step already reconstructs, coarse to fine. Tokens are finite scalar codes. Leaves out on
purpose: the two-stage training against a teacher's codes that the official models need.
"""

import math
from typing import cast

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.tokenizers.base import Tokenizer, check_image

SHRINK = 0.93


class Mixer(nn.Module):
    """A pre-norm transformer block with full attention and SiLU, which a CPU computes fast."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 3 * dim)
        self.fc2 = nn.Linear(3 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v)
        )  # (B, h, S, d)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).flatten(2))  # (B, S, D)
        return x + self.fc2(F.silu(self.fc1(self.norm2(x))))


class PatchTransformer(nn.Module):
    """Transformer over the patches of a picture and, after them, latents."""

    def __init__(self, dim, heads, layers, patch_size, patches, latents, latent_dim):
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = nn.Linear(3 * patch_size**2, dim)
        self.patch_positions = nn.Parameter(torch.randn(patches, dim) * 0.02)
        self.latent_embed = nn.Linear(latent_dim, dim)
        self.latent_positions = nn.Parameter(torch.randn(latents, dim) * 0.02)
        self.blocks = nn.ModuleList(Mixer(dim, heads) for _ in range(layers))

    def forward(self, images, latents) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) and latents (B, n, d) to their features (B, patches, D) and (B, n,
        D).
        """
        patches = F.pixel_unshuffle(images, self.patch_size).flatten(2).transpose(1, 2)
        patches = self.patch_embed(patches) + self.patch_positions  # (B, patches, D)
        queries = self.latent_embed(latents) + self.latent_positions[: latents.shape[1]]
        x = torch.cat([patches, queries], dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, : patches.shape[1]], x[:, patches.shape[1] :]


class Refiner(nn.Module):
    """Residual convolutions on pixels folded by four, beside the picture that they correct."""

    def __init__(self, channels: int, blocks: int, hints: int):
        super().__init__()
        self.conv_in = nn.Conv2d(48 + 1 + hints, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.GroupNorm(8, channels),
                    nn.Conv2d(channels, channels, 3, padding=1),
                    nn.Conv2d(channels, channels, 3, padding=1),
                ]
            )
            for _ in range(blocks)
        )
        self.conv_out = nn.Conv2d(channels, 48, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, base: torch.Tensor, share: float, hints: list[torch.Tensor]) -> torch.Tensor:
        """Corrects `base` (B, 3, H, W), made from `share` of all tokens on a logarithmic scale from
        0 to 1.
        """
        folded = F.pixel_unshuffle(base, 4)  # (B, 48, H/4, W/4)
        known = torch.full_like(folded[:, :1], share)
        x = self.conv_in(torch.cat([folded, known, *hints], dim=1))  # (B, C, H/4, W/4)
        for block in self.blocks:
            norm, first, second = cast(nn.ModuleList, block)
            x = x + second(F.silu(first(F.silu(norm(x)))))
        return base + F.pixel_shuffle(self.conv_out(F.silu(x)), 4)  # (B, 3, H, W)


class PrefixTokenizer(Tokenizer):
    """Square pictures to an ordered row of tokens; the first k of them decode to a coarser picture.

    Args:
        image_size: side of the picture in pixels, a multiple of `patch_size`.
        num_tokens: N, the length of the row.
        levels: levels of the finite scalar quantizer; N * len(levels) principal components are
            kept.
        dim, heads: width of the transformers, and their heads.
        encoder_layers, decoder_layers: transformer blocks; 0 leaves the linear analysis, or the
            convolutions, alone.
        patch_size: side of the patches that the transformers see, a multiple of 4.
        refiner_channels, refiner_blocks: of the convolutions at the end.
        refined: how many leading tokens are followed by a token that codes what rounding them left
            over; the strongest components (background, mass) need more levels than one token has.
        spread, fine_spread: what a deviation of 1 becomes before the quantizer's bound, and the
            same for leftovers.
    """

    _no_split_modules = ["Mixer"]
    _encoder_modules = ("encoder", "to_latents")

    @register_to_config
    def __init__(
        self,
        *,
        image_size: int = 64,
        num_tokens: int = 64,
        levels: tuple[int, ...] = (8, 8, 8, 8),
        dim: int = 192,
        heads: int = 3,
        encoder_layers: int = 2,
        decoder_layers: int = 3,
        patch_size: int = 8,
        refiner_channels: int = 96,
        refiner_blocks: int = 6,
        refined: int = 4,
        spread: float = 0.7,
        fine_spread: float = 3.5,
    ):
        super().__init__()
        self.quantize = FiniteScalarQuantizer(levels)
        per_token = self.quantize.dim
        pixels, patches = 3 * image_size**2, (image_size // patch_size) ** 2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(num_tokens * per_token, pixels))
        self.register_buffer("deviations", torch.ones(num_tokens * per_token))
        spreads = torch.full((num_tokens,), float(spread))
        spreads[1 : 2 * refined : 2] = fine_spread
        self.register_buffer("_spreads", spreads[:, None], persistent=False)  # (N, 1)

        self.encoder = self.decoder = None
        if encoder_layers:
            self.encoder = PatchTransformer(
                dim, heads, encoder_layers, patch_size, patches, num_tokens, per_token
            )
            self.to_latents = nn.Linear(dim, per_token)
            nn.init.zeros_(self.to_latents.weight)
            nn.init.zeros_(self.to_latents.bias)
        hints = 0
        if decoder_layers:
            self.decoder = PatchTransformer(
                dim, heads, decoder_layers, patch_size, patches, num_tokens, per_token
            )
            hints = refiner_channels
            self.to_hints = nn.Linear(dim, hints * (patch_size // 4) ** 2)
        self.refiner = Refiner(refiner_channels, refiner_blocks, hints)

    @property
    def layout(self) -> TokenLayout:
        return self._layout(self.config.num_tokens)

    def _layout(self, count: int) -> TokenLayout:
        return TokenLayout.single((count,), self.quantize.codebook_size, prefix=True)

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Sets the principal components from images (n, 3, H, W) in [-1, 1], n well above N *
        len(levels).

        Raises:
            ValueError: no more images than components.
        """
        order = self._component_order()
        count = int(order.max()) + 1
        if len(images) <= count:
            raise ValueError(
                f"{len(images)} pictures are too few to start a tokenizer of {count} components: "
                f"more than {count} are needed, and some thousands are better"
            )
        flat = images.flatten(1).float()
        self.mean.copy_(flat.mean(0))
        centred = flat - self.mean
        basis = torch.linalg.qr(centred[: 2 * count].T)[0]  # a start that needs no random numbers
        for _ in range(3):
            basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]  # (pixels, 2 * count)
        _, values, vectors = torch.linalg.svd(centred @ basis, full_matrices=False)
        self.components.copy_((basis @ vectors.T).T[order])
        self.deviations.copy_(values[order] / len(flat) ** 0.5)

    def _component_order(self) -> torch.Tensor:
        """Which component every token dimension codes (N * D,); refined ones stand twice, one token
        apart.
        """
        tokens, place = [], 0
        while len(tokens) < self.config.num_tokens:
            tokens += [place, place] if place < self.config.refined else [place]
            place += 1
        dims = torch.arange(self.quantize.dim)
        return (
            torch.tensor(tokens[: self.config.num_tokens])[:, None] * len(dims) + dims
        ).flatten()

    def latents(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents before quantization (B, N, D)."""
        check_image(images, self.config.image_size)
        if images.shape[-1] != images.shape[-2] or images.shape[-1] != self.config.image_size:
            side = self.config.image_size
            raise ValueError(f"image size {tuple(images.shape[-2:])} must be {side}x{side}")
        analysis = (images.flatten(1) - self.mean) @ self.components.T / self.deviations
        linear = self._split_fine(analysis.unflatten(1, (self.config.num_tokens, -1)))  # (B, N, D)
        if self.encoder is None:
            return linear
        return linear + self.to_latents(self.encoder(images, linear)[1])

    def _split_fine(self, analysis: torch.Tensor) -> torch.Tensor:
        """Deviations (B, N, D) to latents (B, N, D): refining tokens get what the token before them
        leaves over.
        """
        end = 2 * self.config.refined
        coarse, fine = slice(0, end, 2), slice(1, end, 2)
        coded = self._unbound(self.quantize(analysis[:, coarse] * self.config.spread).quantized)
        left = analysis.clone()
        left[:, fine] = analysis[:, fine] - coded / self.config.spread
        return left * self._spreads

    def pixels(self, quantized: torch.Tensor) -> torch.Tensor:
        """Quantized latents (B, n, D) of the first n tokens to images (B, 3, H, W), about [-1, 1],
        not clamped.
        """
        base, hints = self.synthesis(quantized), []
        if self.decoder is not None:
            grid = self.config.image_size // self.config.patch_size
            marks = self.to_hints(self.decoder(base, quantized)[0])  # (B, patches, C * (p/4)^2)
            marks = marks.transpose(1, 2).unflatten(2, (grid, grid))
            hints = [F.pixel_shuffle(marks, self.config.patch_size // 4)]
        share = math.log2(quantized.shape[1]) / max(1.0, math.log2(self.config.num_tokens))
        return self.refiner(base, share, hints)

    def synthesis(self, quantized: torch.Tensor) -> torch.Tensor:
        """The linear picture (B, 3, H, W) of the first n quantized latents (B, n, D), which the
        networks correct.
        """
        scaled = (self._unbound(quantized) / self._spreads[: quantized.shape[1]]).flatten(1)
        scaled = scaled * self.deviations[: scaled.shape[1]]
        flat = self.mean + scaled @ self.components[: scaled.shape[1]]
        return flat.unflatten(
            1, (3, self.config.image_size, self.config.image_size)
        )  # (B, 3, H, W)

    def _unbound(self, quantized: torch.Tensor) -> torch.Tensor:
        """Undoes the quantizer's bound; the outermost levels, open to infinity, are put at their
        likely mean.
        """
        levels = self.quantize._levels.to(quantized)
        half, offset = (levels - 1) / 2, 0.5 * (1 - levels % 2)
        inner = (quantized * (levels // 2) + offset) / half  # (B, n, D) in [-1, 1]
        return torch.atanh(inner * SHRINK) - torch.atanh(offset / half * SHRINK)

    def encode(self, media: torch.Tensor) -> TokenizerOutput:
        """Images (B, 3, H, W) in [-1, 1] to tokens (B, N); `latents`, `quantized` are (B, N, D)."""
        latents = self.latents(media)
        out = self.quantize(latents)
        return TokenizerOutput(out.indices, latents, self.layout, out.quantized, out.loss)

    def decode(self, tokens, *, num_tokens=None, layout=None, generators=None) -> torch.Tensor:
        """Tokens (B, n) to images (B, 3, H, W); `num_tokens` decodes that many leading ones, from 1
        on.
        """
        count = self.check_num_tokens(num_tokens, self._layout(tokens.shape[1]))
        self.check_num_tokens(count, self.layout)
        return self.pixels(self.quantize.lookup(tokens[:, :count]).to(self.dtype))

    def forward(
        self, images: torch.Tensor, num_tokens: int | None = None
    ) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: the reconstruction from the first `num_tokens` tokens, and the
        encoding.
        """
        encoded = self.encode(images)
        quantized = cast(torch.Tensor, encoded.quantized)  # (B, N, D)
        return self.pixels(quantized[:, :num_tokens]), encoded
