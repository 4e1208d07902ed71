"""OmniTokenizer: one network for images and video, with a codebook or with continuous latents.

OmniTokenizer: A Joint Image-Video Tokenizer for Visual Generation, 2024, 2406.09399. Exact: it
holds the official weights. The first frame and the later ones, several at a time, have patch layers
of their own; a transformer within each frame and one over time follow. Frames are square. It is
not causal (see `layers.omni`): long videos go in windows of `num_frames`. Left out on purpose: the
convolutional patch layer and the discriminators.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.layers.omni import OmniTransformer
from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base_video import VideoTokenizer, video_layout


class OmniPatches(nn.Module):
    """Patches of `frames` x `side` x `side` pixels to vectors."""

    def __init__(self, frames: int, side: int, dim: int):
        super().__init__()
        self.frames, self.side = frames, side
        numbers = 3 * frames * side * side
        self.norm_in = nn.LayerNorm(numbers)
        self.linear = nn.Linear(numbers, dim)
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) to (B, t, h, w, D)."""
        batch, channels, frames, height, width = video.shape
        n, s = self.frames, self.side
        grid = video.reshape(batch, channels, frames // n, n, height // s, s, width // s, s)
        patches = grid.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # (B, t, h, w, 3*n*s*s)
        return self.norm_out(self.linear(self.norm_in(patches)))


class OmniPixels(nn.Linear):
    """The way back of `OmniPatches`, one linear map: (B, t, h, w, D) to (B, 3, T, H, W)."""

    def __init__(self, frames: int, side: int, dim: int):
        super().__init__(dim, 3 * frames * side * side)
        self.frames, self.side = frames, side

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, t, h, w, D) to (B, 3, t * frames, h * side, w * side)."""
        batch, frames, height, width, _ = input.shape
        n, s = self.frames, self.side
        patches = super().forward(input).unflatten(-1, (3, n, s, s))  # (B, t, h, w, 3, n, s, s)
        video = patches.permute(0, 4, 1, 5, 2, 6, 3, 7)  # (B, 3, t, n, h, s, w, s)
        return video.reshape(batch, 3, frames * n, height * s, width * s)


class OmniTrunk(nn.Module):
    """The transformer within each frame and the one over time, in the order asked."""

    def __init__(self, spatial: OmniTransformer, temporal: OmniTransformer, *, space_first: bool):
        super().__init__()
        self.spatial, self.temporal, self.space_first = spatial, temporal, space_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, t, h, w, D) to the same."""
        if self.space_first:
            return self._over_time(self._within_frames(x))
        return self._within_frames(self._over_time(x))

    def _within_frames(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(2, 3).flatten(0, 1)  # (B*t, h*w, D)
        return self.spatial(rows, x.shape[:4]).reshape(x.shape)

    def _over_time(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.permute(0, 2, 3, 1, 4)  # (B, h, w, t, D)
        out = self.temporal(rows.flatten(0, 2), x.shape[:4])  # (B*h*w, t, D)
        return out.reshape(rows.shape).permute(0, 3, 1, 2, 4)


class OmniTokenizer(VideoTokenizer):
    """Clips of square frames to a grid of tokens (t, h, w), or to continuous latents, and back.

    The defaults are the published setting. A clip has 1 + k * temporal_patch_size frames.

    Args:
        num_frames, image_size: the usual clip, and the window of a long one; others work too.
        patch_size, temporal_patch_size: pixels and frames of a patch.
        dim, heads, head_dim, hidden_dim: widths of the transformers; hidden_dim is of the
            feed-forward, about 8 / 3 of dim.
        encoder_layers, decoder_layers: one letter a layer within frames: "t" full attention, "w"
            windows.
        temporal_layers: layers over time, on each side.
        window_size: patches a side of a window.
        rotary: turn queries and keys of full attention within frames.
        codebook_size, codebook_dim: V and the width of a code, or of a latent.
        normalized: latents have length 1 before the codebook is asked.
        continuous: no codebook; latents are a normal distribution, whose mean is taken.
        commitment: weight of the quantizer's commitment loss.
    """

    _no_split_modules = ["OmniLayer"]
    _encoder_modules = ("first_patches", "later_patches", "encoder", "pre_quant")

    @register_to_config
    def __init__(
        self,
        *,
        num_frames: int = 17,
        image_size: int = 256,
        patch_size: int = 8,
        temporal_patch_size: int = 4,
        dim: int = 512,
        heads: int = 8,
        head_dim: int = 64,
        hidden_dim: int = 1365,
        encoder_layers: str = "ttww",
        decoder_layers: str = "tttt",
        temporal_layers: int = 4,
        window_size: int = 8,
        rotary: bool = True,
        codebook_size: int = 8192,
        codebook_dim: int = 8,
        normalized: bool = True,
        continuous: bool = False,
        commitment: float = 0.25,
    ):
        super().__init__()
        self.space_factor, self.time_factor = patch_size, temporal_patch_size
        widths = (dim, heads, head_dim, hidden_dim)

        def trunk(kinds: str, *, space_first: bool) -> OmniTrunk:
            spatial = OmniTransformer(kinds, *widths, window=window_size, rotary=rotary)
            temporal = OmniTransformer("t" * temporal_layers, *widths, causal=True)
            return OmniTrunk(spatial, temporal, space_first=space_first)

        self.first_patches = OmniPatches(1, patch_size, dim)
        self.later_patches = OmniPatches(temporal_patch_size, patch_size, dim)
        self.encoder = trunk(encoder_layers, space_first=True)
        self.pre_quant = nn.Linear(dim, codebook_dim * (2 if continuous else 1))
        if not continuous:
            self.quantize = VectorQuantizer(
                codebook_size, codebook_dim, l2_norm=False, commitment=commitment
            )
        self.post_quant = nn.Linear(codebook_dim, dim)
        self.decoder = trunk(decoder_layers, space_first=False)
        self.first_pixels = OmniPixels(1, patch_size, dim)
        self.later_pixels = OmniPixels(temporal_patch_size, patch_size, dim)

    def layout_of(self, num_frames: int, height: int, width: int) -> TokenLayout:
        """t x h x w cells: codes, or vectors of `codebook_dim` numbers."""
        side, frames = self.space_factor, self.time_factor
        return self._layout((1 + (num_frames - 1) // frames, height // side, width // side))

    def _layout(self, shape: tuple[int, int, int]) -> TokenLayout:
        if self.config.continuous:
            return video_layout(shape, dim=self.config.codebook_dim)
        return video_layout(shape, vocab_size=self.config.codebook_size)

    def features(self, video: torch.Tensor) -> torch.Tensor:
        """A clip (B, 3, T, S, S) in [-1, 1] to the encoder's output (B, t, h, w, dim)."""
        self.check_video(video)
        height, width = video.shape[-2:]
        if height != width:
            raise ValueError(f"video size {height}x{width}: this tokenizer takes square frames")
        video = video.to(self.dtype) / 2
        patches = [self.first_patches(video[:, :, :1])]  # (B, 1, h, w, D)
        if video.shape[2] > 1:
            patches.append(self.later_patches(video[:, :, 1:]))  # (B, t - 1, h, w, D)
        return self.encoder(torch.cat(patches, dim=1))

    def latents(self, video: torch.Tensor) -> torch.Tensor:
        """A clip to latents before quantization (B, D, t, h, w), of length 1 where `normalized`;
        continuous: means, then logarithms of variances, (B, 2D, t, h, w).
        """
        latents = self.pre_quant(self.features(video)).movedim(-1, 1)
        if self.config.normalized and not self.config.continuous:
            latents = F.normalize(latents, dim=1)
        return latents

    def pixels(self, quantized: torch.Tensor) -> torch.Tensor:
        """Latents (B, D, t, h, w) to a clip (B, 3, T, S, S), about [-1, 1], not clamped."""
        x = self.decoder(self.post_quant(quantized.movedim(1, -1)))  # (B, t, h, w, dim)
        parts = [self.first_pixels(x[:, :1])]  # (B, 3, 1, S, S)
        if x.shape[1] > 1:
            parts.append(self.later_pixels(x[:, 1:]))  # (B, 3, T - 1, S, S)
        return torch.cat(parts, dim=2) * 2

    def encode(
        self, media: torch.Tensor, *, generators: list[torch.Generator] | None = None
    ) -> TokenizerOutput:
        """A clip (B, 3, T, S, S) in [-1, 1] to tokens (B, t*h*w), with `latents` and `quantized`
        (B, D, t, h, w).

        Continuous: no tokens, `latents` (B, t*h*w, D) are the means, or with `generators`, one a
        sample, drawn around them.
        """
        latents = self.latents(media)
        frames, height, width = latents.shape[-3:]
        layout = self._layout((frames, height, width))
        if self.config.continuous:
            mean, log_variance = latents.flatten(2).transpose(1, 2).chunk(2, dim=-1)  # (B, N, D)
            if generators is not None:
                noise = [
                    torch.randn(mean.shape[1:], generator=g, device=g.device) for g in generators
                ]
                deviation = (0.5 * log_variance.clamp(-30, 20)).exp()
                mean = mean + deviation * torch.stack(noise).to(mean)
            return TokenizerOutput(None, mean, layout, mean)
        out = self.quantize(latents.movedim(1, -1))
        quantized = out.quantized.movedim(-1, 1)  # (B, D, t, h, w)
        return TokenizerOutput(out.indices.flatten(1), latents, layout, quantized, out.loss)

    def decode(
        self, tokens, *, num_tokens=None, layout=None, generators=None, carry=None
    ) -> torch.Tensor:
        """Tokens (B, t*h*w), or continuous latents (B, t*h*w, D), to a clip (B, 3, T, S, S)."""
        layout = self.check_tokens(tokens, num_tokens, layout)
        if not self.config.continuous:
            tokens = self.quantize.lookup(tokens)  # (B, N, D)
        shape = layout.segments[0].shape
        return self.pixels(tokens.to(self.dtype).unflatten(1, shape).movedim(-1, 1))

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: reconstruction (B, 3, T, S, S), gradient through the quantizer, and
        the encoding.
        """
        encoded = self.encode(video)
        return self.pixels(self.grid_of(encoded)), encoded
