"""The Cosmos video tokenizers, discrete (DV) and continuous (CV), causal in time.

Cosmos World Foundation Model Platform for Physical AI, 2025, 2501.03575. Exact: it holds the
official weights. A Haar transform folds 4 x 4 x 4 pixels, factorised causal convolutions halve
space and time, and finite scalar quantization gives the codes. Any size works; a clip has 1 + k *
time_factor frames. Left out on purpose: the variational form (the releases take the mean), and the
older rule of which level doubles time ("legacy mode").
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from studio.layers.causal import (
    Carry,
    CausalDownsample,
    CausalUpsample,
    FactorizedConv3d,
    FrameNorm,
)
from studio.layers.causal_blocks import CausalMiddle, CausalResidualBlock, SpaceTimeAttention
from studio.layers.haar import fold_clip, unfold_clip
from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.fsq import FiniteScalarQuantizer
from studio.tokenizers.base_video import VideoTokenizer, video_layout

FSQ_LEVELS = (8, 8, 8, 5, 5, 5)


def _size(space: int, time: int, **options) -> dict:
    return {"space_compression": space, "time_compression": time, **options}


def _continuous(space: int, time: int) -> dict:
    # The releases that keep time at 4 have one level less in their decoder.
    multipliers = {"decoder_multipliers": (2, 4)} if time == 4 else {}
    return _size(space, time, levels=None, latent_channels=16, **multipliers)


# Arguments of CosmosTokenizer for the official releases.
OFFICIAL_SIZES = {
    "cosmos-dv4x8x8": _size(8, 4),
    "cosmos-dv8x8x8": _size(8, 8),
    "cosmos-dv8x16x16": _size(16, 8),
    "cosmos-cv4x8x8": _continuous(8, 4),
    "cosmos-cv8x8x8": _continuous(8, 8),
    "cosmos-cv8x16x16": _continuous(16, 8),
}


class CosmosLevel(nn.Module):
    """The residual blocks of one resolution, each with attention where asked. What leads to the
    next resolution is set by the network that it is part of."""

    downsample: CausalDownsample
    upsample: CausalUpsample

    def __init__(self, in_channels: int, out_channels: int, blocks: int, *, attend: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(CausalResidualBlock(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(SpaceTimeAttention(out_channels) for _ in range(blocks * attend))

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C', T, H, W)."""
        for i, block in enumerate(self.block):
            x = block(x, carry)
            if self.attn:
                x = self.attn[i](x, carry)
        return x


class CosmosEncoder(nn.Module):
    """Clips to features (B, z, t, h, w).

    Args:
        base, multipliers, blocks: widths of the levels, finest first, and blocks in each.
        z_channels: z.
        patch: of the Haar transform.
        halvings: how many levels halve space, and how many time, besides the transform.
        attention_levels: levels with attention, besides the middle.
    """

    def __init__(
        self,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        z_channels: int,
        patch: int,
        halvings: tuple[int, int],
        attention_levels: Sequence[int],
    ):
        super().__init__()
        self.patch = patch
        widths = [base, *(base * m for m in multipliers)]
        self.conv_in = FactorizedConv3d(3 * patch**3, base)
        self.down = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise(widths)):
            level = CosmosLevel(before, width, blocks, attend=i in attention_levels)
            if i < len(multipliers) - 1:
                space, time = i < halvings[0], i < halvings[1]
                level.downsample = CausalDownsample(width, space=space, time=time)
            self.down.append(level)
        self.mid = CausalMiddle(widths[-1])
        self.norm_out = FrameNorm(widths[-1])
        self.conv_out = FactorizedConv3d(widths[-1], z_channels)

    def forward(self, video: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, 3, T, H, W) to (B, z, t, h, w)."""
        x = fold_clip(video, self.patch, first=carry.is_first(self))
        x = self.conv_in(x, carry)  # (B, C, t, h, w)
        for level in (cast(CosmosLevel, part) for part in self.down[:-1]):
            x = level.downsample(level(x, carry), carry)  # (B, C, t/2, h/2, w/2)
        x = self.mid(self.down[-1](x, carry), carry)
        return self.conv_out(F.silu(self.norm_out(x)), carry)


class CosmosDecoder(nn.Module):
    """Features (B, z, t, h, w) to clips; the arguments as for the encoder.

    `up[i]` stands at resolution i, so the last one runs first. Time is doubled one level later than
    space, and a level that doubles time doubles space too.
    """

    def __init__(
        self,
        base: int,
        multipliers: Sequence[int],
        blocks: int,
        z_channels: int,
        patch: int,
        doublings: tuple[int, int],
        attention_levels: Sequence[int],
    ):
        super().__init__()
        self.patch = patch
        widths = [base * m for m in multipliers]
        last = len(widths) - 1
        self.conv_in = FactorizedConv3d(z_channels, widths[-1])
        self.mid = CausalMiddle(widths[-1])
        self.up = nn.ModuleList()
        for i, (width, before) in enumerate(zip(widths, widths[1:] + widths[-1:], strict=True)):
            level = CosmosLevel(before, width, blocks + 1, attend=i in attention_levels)
            if i > 0:
                time = 0 < last - i <= doublings[1]
                space = time or (doublings[1] < doublings[0] and last - i < doublings[0])
                level.upsample = CausalUpsample(width, space=space, time=time)
            self.up.append(level)
        self.norm_out = FrameNorm(widths[0])
        self.conv_out = FactorizedConv3d(widths[0], 3 * patch**3)

    def forward(self, features: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, z, t, h, w) to (B, 3, T, H, W)."""
        x = self.mid(self.conv_in(features, carry), carry)
        for level in (cast(CosmosLevel, part) for part in reversed(self.up[1:])):
            x = level.upsample(level(x, carry), carry)  # (B, C, 2t, 2h, 2w)
        x = self.up[0](x, carry)
        x = self.conv_out(F.silu(self.norm_out(x)), carry)
        return unfold_clip(x, self.patch, first=carry.is_first(self))


class CosmosTokenizer(VideoTokenizer):
    """Clips to a grid of tokens (t, h, w) in raster order, or to continuous latents, and back.

    The defaults are Cosmos-0.1-Tokenizer-DV8x16x16; see `OFFICIAL_SIZES`.

    Args:
        num_frames, image_size: the usual clip; every other size works too.
        base_channels, channel_multipliers, num_res_blocks: widths of the levels, finest first, and
            blocks in each (the decoder has one more).
        decoder_multipliers: of the decoder where they differ.
        z_channels: width between the networks and the quantizer's projections.
        patch_size: of the Haar transform, a power of 2.
        space_compression, time_compression: pixels and frames a cell stands for, powers of 2, at
            least `patch_size`.
        levels: of the finite scalar quantizer; None for continuous latents.
        latent_channels: width of continuous latents.
        attention_levels, decoder_attention_levels: levels with attention besides the middle.
    """

    causal = True
    _no_split_modules = ["CosmosLevel", "CausalMiddle"]
    _encoder_modules = ("encoder", "quant_conv")

    @register_to_config
    def __init__(
        self,
        *,
        num_frames: int = 17,
        image_size: int = 256,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (2, 4, 4),
        decoder_multipliers: Sequence[int] | None = None,
        num_res_blocks: int = 2,
        z_channels: int = 16,
        patch_size: int = 4,
        space_compression: int = 16,
        time_compression: int = 8,
        levels: Sequence[int] | None = FSQ_LEVELS,
        latent_channels: int = 16,
        attention_levels: Sequence[int] = (),
        decoder_attention_levels: Sequence[int] = (),
    ):
        super().__init__()
        rounds = [
            math.log2(n) - math.log2(patch_size) for n in (space_compression, time_compression)
        ]
        if any(n < 0 or n != int(n) for n in rounds) or math.log2(patch_size) % 1:
            raise ValueError(
                f"space_compression {space_compression} and time_compression {time_compression} "
                f"must be powers of 2, at least patch_size {patch_size}"
            )
        self.space_factor, self.time_factor = space_compression, time_compression
        self.quantize = FiniteScalarQuantizer(tuple(levels)) if levels else None
        dim = self.quantize.dim if self.quantize else latent_channels
        halvings = (int(rounds[0]), int(rounds[1]))
        shape = (num_res_blocks, z_channels, patch_size, halvings)
        self.encoder = CosmosEncoder(base_channels, channel_multipliers, *shape, attention_levels)
        self.quant_conv = nn.Conv3d(z_channels, dim, 1)
        self.post_quant_conv = nn.Conv3d(dim, z_channels, 1)
        self.decoder = CosmosDecoder(
            base_channels,
            decoder_multipliers or channel_multipliers,
            *shape,
            decoder_attention_levels,
        )

    def layout_of(self, num_frames: int, height: int, width: int) -> TokenLayout:
        """t x h x w cells: codes, or vectors of `latent_channels` numbers."""
        space, time = self.space_factor, self.time_factor
        return self._layout((1 + (num_frames - 1) // time, height // space, width // space))

    def _layout(self, shape: tuple[int, int, int]) -> TokenLayout:
        if self.quantize is None:
            return video_layout(shape, dim=self.config.latent_channels)
        return video_layout(shape, vocab_size=self.quantize.codebook_size)

    def latents(self, video: torch.Tensor, carry: Carry | None = None) -> torch.Tensor:
        """A clip (B, 3, T, H, W) in [-1, 1], or its next chunk, to latents (B, D, t, h, w)."""
        carry = carry or Carry()
        self.check_video(video, first=carry.is_first(self))
        return self.quant_conv(self.encoder(video.to(self.dtype), carry))

    def pixels(self, quantized: torch.Tensor, carry: Carry | None = None) -> torch.Tensor:
        """Latents (B, D, t, h, w) to a clip (B, 3, T, H, W), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(quantized), carry or Carry())

    def encode(self, media: torch.Tensor, *, carry: Carry | None = None) -> TokenizerOutput:
        """A clip (B, 3, T, H, W) in [-1, 1], or with `carry` its next chunk, to tokens (B, t*h*w),
        with `latents` and `quantized` (B, D, t, h, w); continuous: no tokens and `latents` (B,
        t*h*w, D).
        """
        latents = self.latents(media, carry)
        frames, height, width = latents.shape[-3:]
        layout = self._layout((frames, height, width))
        if self.quantize is None:
            flat = latents.flatten(2).transpose(1, 2)  # (B, N, D)
            return TokenizerOutput(None, flat, layout, flat)
        out = self.quantize(latents.movedim(1, -1))
        quantized = out.quantized.movedim(-1, 1)  # (B, D, t, h, w)
        return TokenizerOutput(out.indices.flatten(1), latents, layout, quantized, out.loss)

    def decode(
        self, tokens, *, num_tokens=None, layout=None, generators=None, carry=None
    ) -> torch.Tensor:
        """Tokens (B, t*h*w), or continuous latents (B, t*h*w, D), to a clip (B, 3, T, H, W)."""
        shape = self.check_tokens(tokens, num_tokens, layout).segments[0].shape
        if self.quantize is not None:
            tokens = self.quantize.lookup(tokens)  # (B, N, D)
        grid = tokens.to(self.dtype).unflatten(1, shape).movedim(-1, 1)  # (B, D, t, h, w)
        return self.pixels(grid, carry)

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: reconstruction (B, 3, T, H, W), gradient through the quantizer, and
        the encoding.
        """
        encoded = self.encode(video)
        return self.pixels(self.grid_of(encoded)), encoded
