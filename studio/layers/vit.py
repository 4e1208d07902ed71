"""The vision transformer of the TiTok family: image patches and latent tokens in one sequence.

An Image is Worth 32 Tokens for Reconstruction and Generation (TiTok), 2024, 2406.07550. Full
attention, learned positions, a class token that nothing reads. Left out on purpose: text tokens
after the latents (TA-TiTok).
"""

from collections.abc import Sequence

import torch
from torch import nn

from studio.layers.blocks import GELUFeedForward, SelfAttention


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a perceptron with the exact GELU, (B, S, W) to the same."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = SelfAttention(width, heads, bias=qkv_bias, out_bias=True)
        self.norm2 = nn.LayerNorm(width, eps)
        self.feed_forward = GELUFeedForward(width, mlp_ratio * width)

    def forward(self, x: torch.Tensor, **options) -> torch.Tensor:
        """(B, S, W) to the same; options as for `SelfAttention`."""
        x = x + self.attention(self.norm1(x), **options)
        return x + self.feed_forward(self.norm2(x))


class LatentTransformer(nn.Module):
    """Blocks over the sequence class token, patches, latent tokens.

    Args:
        size: width W, layers and heads.
        grid: g, the side of the patch grid.
        num_latents: N, the most latent tokens a sequence can have.
    """

    def __init__(self, size: Sequence[int], grid: int, num_latents: int):
        super().__init__()
        width, layers, heads = size
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(1, width))
        self.positions = nn.Parameter(scale * torch.randn(grid * grid + 1, width))
        self.latent_positions = nn.Parameter(scale * torch.randn(num_latents, width))
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))
        self.norm_post = nn.LayerNorm(width)

    def forward(
        self, patches: torch.Tensor, latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (B, g*g, W) and the first n latents (B, n, W) to the same two, normalised."""
        batch, count = patches.shape[:2]
        first = self.class_embedding.expand(batch, 1, -1)
        image = torch.cat([first, patches], dim=1) + self.positions  # (B, 1 + g*g, W)
        latents = latents + self.latent_positions[: latents.shape[1]]
        x = self.norm_pre(torch.cat([image, latents], dim=1))  # (B, 1 + g*g + n, W)
        for block in self.blocks:
            x = block(x)
        x = self.norm_post(x)
        return x[:, 1 : count + 1], x[:, count + 1 :]
