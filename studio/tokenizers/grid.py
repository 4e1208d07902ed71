"""A convolutional grid tokenizer in the LlamaGen VQ family.

Source: "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation" (2024), arXiv
2406.06525, after VQGAN (arXiv 2012.09841). With `patch_size=1` and `quantizer="vq"` this is the
official network, exactly. A larger patch folds pixels into channels first, which makes small models
several times faster; `quantizer="fsq"` trains well in a short time. Leaves out on purpose: the
discriminator and the losses, which belong to training.
"""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base import Tokenizer, check_image


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, C, H, W)
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """One head of attention over all cells of the map."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = (q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5  # (B, N, N)
        h = (scores.softmax(-1) @ v).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C, H, W)
        return x + self.proj(h)


class Downsample(nn.Module):
    """Halves the map with a strided convolution, padded at the right and bottom only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)


class Upsample(nn.Module):
    """Doubles the map by repeating cells, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # (B, C, 2H, 2W)


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention where asked, and a change
    of size.
    """

    def __init__(self, in_channels, out_channels, blocks, *, attention, resize, dropout):
        super().__init__()
        self.res = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else out_channels, out_channels, dropout)
            for i in range(blocks)
        )
        self.attn = nn.ModuleList(
            SelfAttention(out_channels) for _ in range(blocks if attention else 0)
        )
        self.resize = resize(out_channels) if resize else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.resize(x)


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) to latents (B, z, H/f, W/f)."""

    def __init__(self, in_channels, base, multipliers, blocks, z_channels, dropout):
        super().__init__()
        widths = [base * m for m in multipliers]
        self.conv_in = nn.Conv2d(in_channels, base, 3, padding=1)
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            Level(
                base if i == 0 else widths[i - 1],
                width,
                blocks,
                attention=i == last,
                resize=Downsample if i < last else None,
                dropout=dropout,
            )
            for i, width in enumerate(widths)
        )
        self.mid = _middle(widths[-1], dropout)
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (B, z, H/f, W/f) to pixels (B, 3, H, W); `levels` begin with the deepest."""

    def __init__(self, out_channels, base, multipliers, blocks, z_channels, dropout):
        super().__init__()
        widths = [base * m for m in reversed(multipliers)]
        self.conv_in = nn.Conv2d(z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], dropout)
        last = len(widths) - 1
        self.levels = nn.ModuleList(
            Level(
                widths[max(i - 1, 0)],
                width,
                blocks + 1,
                attention=i == 0,
                resize=Upsample if i < last else None,
                dropout=dropout,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class GridTokenizer(Tokenizer):
    """Pictures to a grid of tokens in raster order, and back.

    Args:
        image_size: side of the usual picture; other sizes work when they are multiples of the
            reduction.
        base_channels, channel_multipliers, num_res_blocks: the widths of the levels (official
            VQ-16: 128, (1, 1, 2, 2, 4), 2; VQ-8: 128, (1, 2, 2, 4), 2).
        z_channels: width between networks and quantizer (256 officially).
        codebook_size, codebook_dim, codebook_l2_norm, commitment: of the vector quantizer.
        quantizer: "vq" or "fsq".
        levels: levels of the finite scalar quantizer.
        patch_size: pixels folded into channels on each side before the first convolution; 1 is the
            official network.
        dropout: inside residual blocks.
    """

    _no_split_modules = ["Level"]
    _encoder_modules = ("encoder", "quant_conv")

    @register_to_config
    def __init__(
        self,
        *,
        image_size: int = 256,
        base_channels: int = 128,
        channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int = 256,
        quantizer: str = "vq",
        codebook_size: int = 16384,
        codebook_dim: int = 8,
        codebook_l2_norm: bool = True,
        commitment: float = 0.25,
        levels: tuple[int, ...] = (8, 8, 8, 8),
        patch_size: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        if quantizer not in ("vq", "fsq"):
            raise ValueError(f"quantizer {quantizer!r} must be 'vq' or 'fsq'")
        shape = (base_channels, tuple(channel_multipliers), num_res_blocks, z_channels, dropout)
        pixels = 3 * patch_size**2
        self.encoder = Encoder(pixels, *shape)
        self.decoder = Decoder(pixels, *shape)
        if quantizer == "fsq":
            self.quantize = FiniteScalarQuantizer(levels)
        else:
            self.quantize = VectorQuantizer(
                codebook_size, codebook_dim, l2_norm=codebook_l2_norm, commitment=commitment
            )
        self.quant_conv = nn.Conv2d(z_channels, self.quantize.dim, 1)
        self.post_quant_conv = nn.Conv2d(self.quantize.dim, z_channels, 1)
        self.reduction = patch_size * 2 ** (len(channel_multipliers) - 1)

    @property
    def layout(self) -> TokenLayout:
        side = self.config.image_size // self.reduction
        return self._layout((side, side))

    def _layout(self, grid: tuple[int, int]) -> TokenLayout:
        return TokenLayout.single(grid, self.quantize.codebook_size)

    def latents(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents before quantization (B, D, H/f, W/f)."""
        check_image(images, self.reduction)
        if self.config.patch_size > 1:
            images = F.pixel_unshuffle(images, self.config.patch_size)
        return self.quant_conv(self.encoder(images))

    def pixels(self, quantized: torch.Tensor) -> torch.Tensor:
        """Quantized latents (B, D, h, w) to images (B, 3, H, W), about [-1, 1], not clamped."""
        images = self.decoder(self.post_quant_conv(quantized))
        if self.config.patch_size > 1:
            images = F.pixel_shuffle(images, self.config.patch_size)  # (B, 3, H, W)
        return images

    def encode(self, media: torch.Tensor) -> TokenizerOutput:
        """Images (B, 3, H, W) in [-1, 1] to tokens (B, h*w); `latents` and `quantized` are (B, D,
        h, w).
        """
        latents = self.latents(media)
        out = self.quantize(latents.movedim(1, -1))
        quantized = out.quantized.movedim(-1, 1)  # (B, D, h, w)
        height, width = latents.shape[-2:]
        layout = self._layout((height, width))
        return TokenizerOutput(out.indices.flatten(1), latents, layout, quantized, out.loss)

    def decode(self, tokens, *, num_tokens=None, layout=None, generators=None) -> torch.Tensor:
        """Tokens (B, h*w) to images (B, 3, H, W). A grid has no decodable prefix: `num_tokens` must
        be all.
        """
        layout = layout or self.layout
        self.check_num_tokens(num_tokens, layout)
        grid = layout.split(tokens)["image"]  # (B, h, w)
        vectors = self.quantize.lookup(grid).movedim(-1, 1)
        return self.pixels(vectors.to(self.dtype))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: reconstruction (B, 3, H, W), gradient through the quantizer, and the
        encoding.
        """
        encoded = self.encode(images)
        assert encoded.quantized is not None  # encode keeps it
        return self.pixels(encoded.quantized), encoded


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _middle(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(channels, channels, dropout),
        SelfAttention(channels),
        ResidualBlock(channels, channels, dropout),
    )
