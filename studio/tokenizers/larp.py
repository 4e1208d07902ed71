"""LARP: a clip as a row of tokens without a grid, learned beside a prior that likes to predict it.

LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior, 2024, 2410.21264. Exact: it
holds the official weights. Learned queries gather the patches of the whole clip, so nothing here is
causal and only one size works; long videos go in windows. Left out on purpose: the scheduled
sampling and the rounds of the prior's training, which belong to `studio.training`.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.layers.positions import sine_table, video_table
from studio.layers.vit import TransformerBlock
from studio.outputs import TokenizerOutput, TokenLayout
from studio.quantizers.vq import VectorQuantizer
from studio.tokenizers.base_video import VideoTokenizer


class LARPTransformer(nn.Module):
    """Blocks over given rows and, after them, queries, whose outputs are kept."""

    def __init__(self, dim: int, heads: int, layers: int, eps: float):
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads, qkv_bias=False, eps=eps) for _ in range(layers)
        )

    def forward(self, rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """(B, S, D) and (B or 1, N, D) to (B, N, D)."""
        x = torch.cat((rows, queries.expand(rows.shape[0], -1, -1)), dim=1)  # (B, S + N, D)
        for block in self.blocks:
            x = block(x)
        return x[:, rows.shape[1] :]


class LARPPrior(nn.Module):
    """A small causal transformer over code vectors; it is there for training the tokenizer.

    Args:
        codes_dim: width of a code.
        dim, heads, layers: of the transformer.
        length: how many positions it has.
    """

    def __init__(self, codes_dim: int, dim: int, heads: int, layers: int, length: int):
        super().__init__()
        self.embed = nn.Linear(codes_dim, dim)
        self.positions = nn.Parameter(torch.zeros(1, length, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, codes_dim)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Code vectors (B, N, D) of length 1 to what each is expected to be from those before it,
        of length 1; the first is given back.
        """
        x = self.embed(codes[:, :-1]) + self.positions[:, : codes.shape[1] - 1]
        for block in self.blocks:
            x = block(x, causal=True)
        expected = F.normalize(self.head(self.norm(x)), dim=-1)  # (B, N - 1, D)
        return torch.cat((codes[:, :1], expected), dim=1)


class LARPTokenizer(VideoTokenizer):
    """Clips of one size to N tokens in a learned order, and back. The defaults are
    LARP-L-long-tokenizer.

    Args:
        num_frames, image_size: the clip; no other size works, since positions are fixed.
        patch_size, temporal_patch_size: pixels and frames of a patch of the encoder.
        decoder_patch_size, decoder_temporal_patch_size: the same of the decoder.
        num_tokens: N.
        encoder_size, decoder_size: width, layers and heads of each transformer.
        codebook_size, codebook_dim: V and the width of a code.
        commitment, codebook_weight: weights of the quantizer's losses.
        temperature: of the draw of codes from their cosines, see `encode`.
        block_eps: of the norms in the blocks.
        prior_size: width, layers, heads and positions of the prior; None for none.
    """

    _no_split_modules = ["TransformerBlock"]
    _encoder_modules = ("patch_embed", "encoder", "queries", "to_codes")
    lone_first = False
    encoder_positions: torch.Tensor
    code_positions: torch.Tensor
    decoder_queries: torch.Tensor

    @register_to_config
    def __init__(
        self,
        *,
        num_frames: int = 16,
        image_size: int = 128,
        patch_size: int = 8,
        temporal_patch_size: int = 4,
        decoder_patch_size: int = 8,
        decoder_temporal_patch_size: int = 4,
        num_tokens: int = 1024,
        encoder_size: tuple[int, int, int] = (768, 12, 12),
        decoder_size: tuple[int, int, int] = (768, 12, 12),
        codebook_size: int = 8192,
        codebook_dim: int = 16,
        commitment: float = 0.25,
        codebook_weight: float = 1.0,
        temperature: float = 0.03,
        block_eps: float = 1e-5,
        prior_size: tuple[int, int, int, int] | None = (384, 12, 6, 1024),
    ):
        super().__init__()
        self.space_factor, self.time_factor = image_size, num_frames
        patch = (temporal_patch_size, patch_size, patch_size)
        output = (decoder_temporal_patch_size, decoder_patch_size, decoder_patch_size)
        clip = (num_frames, image_size, image_size)
        self.grid = _cells(clip, output)
        (dim, layers, heads), (width, depth, decoder_heads) = encoder_size, decoder_size
        self.patch_embed = nn.Conv3d(3, dim, patch, stride=patch)
        self.register_buffer("encoder_positions", video_table(*_cells(clip, patch), dim)[None])
        self.queries = nn.Parameter(0.02 * torch.randn(num_tokens, dim))
        self.encoder = LARPTransformer(dim, heads, layers, block_eps)
        self.to_codes = nn.Linear(dim, codebook_dim)
        self.quantize = VectorQuantizer(
            codebook_size, codebook_dim, commitment=commitment, codebook_weight=codebook_weight
        )
        self.from_codes = nn.Linear(codebook_dim, width)
        self.register_buffer("code_positions", sine_table(num_tokens, width)[None])
        self.register_buffer("decoder_queries", video_table(*self.grid, width)[None])
        self.decoder_query_type = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.decoder = LARPTransformer(width, decoder_heads, depth, block_eps)
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.to_pixels = nn.Linear(width, 3 * output[0] * output[1] * output[2])
        self.prior = None
        if prior_size:
            prior_dim, prior_layers, prior_heads, length = prior_size
            self.prior = LARPPrior(codebook_dim, prior_dim, prior_heads, prior_layers, length)

    def layout_of(self, num_frames: int, height: int, width: int) -> TokenLayout:
        """N tokens for every window of the configured size, each of one clip."""
        return TokenLayout.single(
            (self.config.num_tokens,), self.config.codebook_size, name="video"
        )

    def check_video(self, video: torch.Tensor, *, first: bool = True) -> None:
        """Raises ValueError unless `video` is (B, 3, T, S, S) of the configured size."""
        super().check_video(video, first=first)
        size = self.config.image_size
        wanted = (self.config.num_frames, size, size)
        if tuple(video.shape[-3:]) != wanted:
            given, only = ("x".join(map(str, s)) for s in (video.shape[-3:], wanted))
            raise ValueError(f"video of {given}: this tokenizer takes {only} only")

    def patches(self, video: torch.Tensor) -> torch.Tensor:
        """A clip (B, 3, T, S, S) in [-1, 1] to patch vectors (B, t*h*w, D), without positions."""
        self.check_video(video)
        return self.patch_embed((video.to(self.dtype) + 1) / 2).flatten(2).transpose(1, 2)

    def latents(self, video: torch.Tensor) -> torch.Tensor:
        """A clip to latents before quantization (B, N, D)."""
        patches = self.patches(video) + self.encoder_positions
        return self.to_codes(self.encoder(patches, self.queries[None]))

    def pixels(self, quantized: torch.Tensor) -> torch.Tensor:
        """Quantized latents (B, N, D) to a clip (B, 3, T, S, S), about [-1, 1], not clamped."""
        rows = self.from_codes(quantized) + self.code_positions  # (B, N, W)
        queries = self.decoder_queries + self.decoder_query_type
        x = self.to_pixels(self.norm_out(self.decoder(rows, queries)))  # (B, t*h*w, n*p*p*3)
        frames, side = self.config.decoder_temporal_patch_size, self.config.decoder_patch_size
        x = x.unflatten(1, self.grid).unflatten(-1, (frames, side, side, 3))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)  # (B, 3, t, n, h, p, w, p)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3) * 2 - 1  # (B, 3, T, S, S)

    def encode(
        self, media: torch.Tensor, *, generators: list[torch.Generator] | None = None
    ) -> TokenizerOutput:
        """A clip (B, 3, T, S, S) in [-1, 1] to tokens (B, N), `latents` and `quantized` (B, N, D).

        Codes are the nearest ones; with `generators`, one a sample, they are drawn from softmax(cos
        / temperature), as the official network does, in training and after it.
        """
        latents = self.latents(media)
        out = self.quantize(latents)
        tokens, quantized = out.indices, out.quantized
        if generators is not None:
            tokens = self._drawn(latents, generators)
            quantized = self.quantize.lookup(tokens).to(latents)
        return TokenizerOutput(tokens, latents, self.layout, quantized, out.loss)

    def _drawn(self, latents: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        cosines = F.normalize(latents.float(), dim=-1) @ self.quantize.codes.T  # (B, N, V)
        shares = (cosines / self.config.temperature).softmax(-1)
        rows = [
            torch.multinomial(row.to(g.device), 1, generator=g).squeeze(1).to(row.device)
            for row, g in zip(shares, generators, strict=True)
        ]
        return torch.stack(rows)  # (B, N)

    def decode(
        self, tokens, *, num_tokens=None, layout=None, generators=None, carry=None
    ) -> torch.Tensor:
        """Tokens (B, N) to a clip (B, 3, T, S, S)."""
        self.check_tokens(tokens, num_tokens, self.layout)
        return self.pixels(self.quantize.lookup(tokens).to(self.dtype))

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, TokenizerOutput]:
        """What training needs: reconstruction (B, 3, T, S, S), gradient through the quantizer, and
        the encoding.
        """
        encoded = self.encode(video)
        assert encoded.quantized is not None  # encode keeps it
        return self.pixels(encoded.quantized), encoded


def _cells(clip: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many patches a clip has along time, height and width."""
    if any(n % p for n, p in zip(clip, patch, strict=True)):
        raise ValueError(f"a clip of {clip} must be a multiple of patches of {patch}")
    frames, height, width = (n // p for n, p in zip(clip, patch, strict=True))
    return frames, height, width
