"""A drafter head: one small block that guesses what an ordered generator will say next.

EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty, 2024, 2401.15077, and EAGLE-3,
2025, 2503.01840 (trained on its own predictions): the feature that the target read a token's scores
from, joined with the embedding of that token, gives the next feature, which the target's own head
scores. As in LANTERN, 2024, 2410.03355, both halves of a guided batch are drafted and combined as
the target's are. Embeddings and head are the target's, so they are in no file of the drafter. Left
out on purpose: features of the condition's rows, and of the target's lower layers.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.layers.attention import causal_mask
from studio.layers.blocks import LlamaBlock, init_transformer, swiglu_width
from studio.layers.cache import StaticCache
from studio.layers.norms import RMSNorm
from studio.layers.rope import rope_table
from studio.outputs import TokenLayout


class DrafterHead(ModelMixin, ConfigMixin):
    """Predicts a target's next feature from its last one and the token that was drawn from it.

    Args:
        layout: of the target, `TokenLayout.to_dict()`.
        feature_dim: D, the target's width.
        dim, num_heads, hidden_dim: of the block; 8 / 3 of `dim` rounded up to `multiple_of` when
            `hidden_dim` is None.
        norm_eps: of all norms.
        rope, rope_base: as in `AutoregressiveTransformer`.
    """

    config_name = "config.json"
    _no_split_modules = ["LlamaBlock"]

    @register_to_config
    def __init__(
        self,
        *,
        layout: dict,
        feature_dim: int = 768,
        dim: int = 256,
        num_heads: int = 4,
        hidden_dim: int | None = None,
        multiple_of: int = 32,
        norm_eps: float = 1e-5,
        rope: str = "2d",
        rope_base: float = 10000.0,
    ):
        super().__init__()
        if rope not in ("1d", "2d"):
            raise ValueError(f"rope {rope!r} must be 1d or 2d")
        tokens = TokenLayout.from_dict(layout)
        self.num_tokens = tokens.num_tokens
        first, *others = tokens.segments
        self._rope_shape = first.shape if rope == "2d" else (self.num_tokens,)
        if rope == "2d" and (others or first.codebooks > 1):
            raise ValueError("rope '2d' needs a layout of one segment with one codebook; take '1d'")
        self.feature_norm = RMSNorm(feature_dim, norm_eps)
        self.token_norm = RMSNorm(feature_dim, norm_eps)
        self.join = nn.Linear(2 * feature_dim, dim, bias=False)
        hidden_dim = hidden_dim or swiglu_width(dim, multiple_of)
        self.block = LlamaBlock(dim, num_heads, hidden_dim=hidden_dim, eps=norm_eps)
        self.last_norm = RMSNorm(dim, norm_eps)
        self.out = nn.Linear(dim, feature_dim)
        init_transformer(self, 1)

    def forward(self, features: torch.Tensor, embedded: torch.Tensor, **options) -> torch.Tensor:
        """Features and embeddings (B, n, D) to the next features (B, n, D).

        Args:
            features: row i is what token i was scored from, the target's or a prediction of it.
            embedded: the target's embedding of token i.
            options: `rope`, `mask`, `causal`, `cache`, as for `layers.blocks.SelfAttention`.
        """
        x = torch.cat((self.feature_norm(features), self.token_norm(embedded)), dim=-1)
        x = self.block(self.join(x), **options)  # (B, n, W)
        return self.out(self.last_norm(x))  # (B, n, D)

    def rotary(self, device: torch.device | str) -> torch.Tensor:
        """The rotary table of all tokens, (N, W / heads / 2)."""
        width = self.config.dim // self.config.num_heads
        base = self.config.rope_base
        return rope_table(self._rope_shape, width, base=base, device=device)

    def check_target(self, target) -> None:
        """Raises ValueError unless this head can draft for the network `target`."""
        ours = TokenLayout.from_dict(self.config.layout)
        width = getattr(target.config, "dim", None)
        if target.kind != "ordered" or target.layout != ours or width != self.config.feature_dim:
            raise ValueError(
                f"drafter: a head for features of {self.config.feature_dim} and {ours.num_tokens} "
                f"tokens can't draft for a {type(target).__name__} of {width} and "
                f"{target.layout.num_tokens}"
            )

    def start(self, target) -> "HeadRun":
        """Begins to draft for `target`, a fresh `AutoregressiveRun`."""
        self.check_target(target.model)
        return HeadRun(self, target)


class HeadRun:
    """The head's own cache beside a target's run; slot i holds token i.

    Args:
        head: the network.
        target: the run that it drafts for; its embeddings, head and guidance are used.
    """

    def __init__(self, head: DrafterHead, target):
        self.model, self.target = head, target
        self.batch_size, self.num_tokens = target.batch_size, target.num_tokens
        self.device = target.device
        self.passes = 0
        self.copies = 2 if target.guidance else 1
        self._rope = head.rotary(head.device)
        block = head.block.attention
        # Rows are fed as many tokens as the one that has most, also past their end.
        self._cache = StaticCache(
            num_layers=1,
            batch_size=self.copies * self.batch_size,
            num_heads=block.heads[1],
            max_length=2 * self.num_tokens,
            head_dim=block.head_dim,
            dtype=head.dtype,
            device=head.device,
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens held by every row."""
        return self._cache.lengths[: self.batch_size]

    def rewind(self, lengths: list[int]) -> None:
        """Keeps the first `lengths[b]` tokens of row b."""
        self._cache.rewind(list(lengths) * self.copies)

    @torch.no_grad()  # writes into the cache
    def extend(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Takes more tokens and predicts what follows them.

        Args:
            features: (B or 2B, n, D) that the tokens were scored from, the guided copies below.
            tokens: int64 (B, n).

        Returns:
            features (B or 2B, n, D) of the tokens after these.
        """
        count, last = tokens.shape[1], self.num_tokens - 1
        starts = self._cache.reserve(count)
        steps = torch.arange(count, device=self.device)
        ragged = isinstance(starts, torch.Tensor)
        places = ((starts.unsqueeze(1) if ragged else starts) + steps).clamp(max=last)  # (B, n)
        mask = None
        if ragged:
            mask = causal_mask(count, self._cache.total, starts=starts)
        embed, half = self.target.model.embeddings, places[: self.batch_size] if ragged else places
        embedded = embed(tokens, half).repeat(self.copies, 1, 1)  # (2B, n, D)
        dtype = self.model.dtype
        self.passes += 1
        return self.model(
            features.to(dtype),
            embedded.to(dtype),
            rope=self._rope[places],
            mask=mask,
            causal=mask is None and count > 1,
            cache=self._cache,
        )

    @torch.no_grad()
    def score(self, features: torch.Tensor, starts: list[int]) -> torch.Tensor:
        """Guided logits (B, n, V) of the target's head for features (B or 2B, n, D), of which the
        first ones in row b score token `starts[b]`."""
        last = self.num_tokens - 1
        wide = features.to(self.target.model.dtype)
        return self.target.score(wide, [min(n, last) for n in starts])
