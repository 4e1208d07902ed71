"""A small text encoder that is trained together with a generator.

Byte-pair ids and learned positions through one or two bidirectional pre-norm Llama blocks. Left out
on purpose: pretrained language models, whose features enter as a `FeatureCondition`.
"""

import torch
from torch import nn

from studio.layers.attention import mask_bias
from studio.layers.blocks import LlamaBlock, swiglu_width
from studio.layers.norms import RMSNorm


class TextEncoder(nn.Module):
    """Caption ids to one vector a token.

    Args:
        vocab_size: number of ids.
        dim: D.
        num_layers, num_heads: of the blocks.
        max_length: the longest caption in tokens.
    """

    def __init__(
        self, vocab_size: int, dim: int, *, num_layers: int, num_heads: int, max_length: int
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(max_length, dim)
        self.layers = nn.ModuleList(
            LlamaBlock(dim, num_heads, hidden_dim=swiglu_width(dim, 32)) for _ in range(num_layers)
        )
        self.norm = RMSNorm(dim)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Ids int64 (B, S) and mask bool (B, S), True = real, to (B, S, D)."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]  # (B, S, D)
        # Padding sees itself, so that a row without any text has no empty softmax.
        itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        bias = mask_bias(mask[:, None, None, :] | itself, x.dtype)  # (B, 1, S, S)
        for layer in self.layers:
            x = layer(x, mask=bias)
        return self.norm(x)
