"""The autoregressive transformer: a prefix for the condition, then tokens from first to last.

Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (LlamaGen), 2024,
2406.06525: a Llama over image tokens with rotary positions on the grid and a class or a text
prefix. Beyond it: 1D and 3D layouts, a text encoder trained along, codes read and scored by their
digits. Left out on purpose: drop-path.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.generators.base import Generator
from studio.generators.conditioning import Condition, build_embedder
from studio.generators.guidance import Guidance
from studio.generators.prior import build_prior
from studio.layers.attention import causal_mask, mask_bias
from studio.layers.blocks import LlamaBlock, dropped, init_transformer, swiglu_width
from studio.layers.cache import StaticCache
from studio.layers.norms import RMSNorm
from studio.layers.rope import CONDITION_ROPES, rope_table
from studio.layers.token_embedding import TokenEmbedding, TokenHead
from studio.outputs import TokenLayout

# The sizes that were published (LlamaGen).
SIZES = {
    "B": dict(num_layers=12, num_heads=12, dim=768),
    "L": dict(num_layers=24, num_heads=16, dim=1024),
    "XL": dict(num_layers=36, num_heads=20, dim=1280),
    "XXL": dict(num_layers=48, num_heads=24, dim=1536),
    "3B": dict(num_layers=24, num_heads=32, dim=3200),
}


class AutoregressiveTransformer(Generator):
    """Predicts every token from the condition and all tokens before it.

    Args:
        layout: `TokenLayout.to_dict()` of the tokens, of one segment.
        dim, num_layers, num_heads, num_kv_heads: D, blocks, query heads, key heads (as many when
            None).
        hidden_dim: of the feed-forward; 8 / 3 of `dim` rounded up to `multiple_of` when None.
        norm_eps: of all norms.
        rope: "2d", rotary angles from the layout's grid (of one, two or three axes); "1d", from the
            index.
        rope_base: see `layers.rope.rope_table`.
        condition_rope: "identity", or "zeros" as official LlamaGen weights need.
        condition: "class", "text" (ids, encoded here) or "features" (encoded elsewhere).
        num_classes: of "class".
        num_condition_tokens: the longest caption, of "text" and "features".
        caption_dim: C of "features".
        text_vocab_size, text_layers: of the encoder of "text".
        token_levels: levels of each digit of a code (`FiniteScalarQuantizer(levels)`); None for one
            row a code.
        head, head_rank: see `layers.token_embedding.TokenHead`.
        prior_dim: width of a perceptron that scores all tokens from the caption alone, see
            `generators.prior`; 0 for none, as in all official networks.
        position_tables: digit tables and digit maps of their own for every position (1D tokens).
        token_dropout, attention_dropout, residual_dropout, ffn_dropout: while training.
    """

    kind = "ordered"

    @register_to_config
    def __init__(
        self,
        *,
        layout: dict,
        dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        num_kv_heads: int | None = None,
        hidden_dim: int | None = None,
        multiple_of: int = 256,
        norm_eps: float = 1e-5,
        rope: str = "2d",
        rope_base: float = 10000.0,
        condition_rope: str = "identity",
        condition: str = "class",
        num_classes: int = 1000,
        num_condition_tokens: int = 32,
        caption_dim: int = 2048,
        text_vocab_size: int = 2048,
        text_layers: int = 2,
        token_levels: list[int] | None = None,
        head: str = "full",
        head_rank: int = 64,
        position_tables: bool = False,
        prior_dim: int = 0,
        token_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        ffn_dropout: float = 0.0,
    ):
        super().__init__()
        tokens = TokenLayout.from_dict(layout)
        if rope not in ("1d", "2d"):
            raise ValueError(f"rope {rope!r} must be 1d or 2d")
        if condition_rope not in CONDITION_ROPES:
            raise ValueError(f"condition_rope {condition_rope!r} must be one of {CONDITION_ROPES}")
        first, *others = tokens.segments
        if rope == "2d" and (others or first.codebooks > 1):
            raise ValueError("rope '2d' needs a layout of one segment with one codebook; take '1d'")
        self.num_tokens = tokens.num_tokens
        self._rope_shape = first.shape if rope == "2d" else (self.num_tokens,)
        positions = self.num_tokens if position_tables else 0
        self.embeddings = TokenEmbedding(
            tokens.vocab_size, dim, levels=token_levels, num_positions=positions
        )
        self.conditioner = build_embedder(self.config)
        self.layers = nn.ModuleList(
            LlamaBlock(
                dim,
                num_heads,
                num_kv_heads=num_kv_heads,
                hidden_dim=hidden_dim or swiglu_width(dim, multiple_of),
                eps=norm_eps,
                attention_dropout=attention_dropout,
                residual_dropout=residual_dropout,
                ffn_dropout=ffn_dropout,
            )
            for _ in range(num_layers)
        )
        self.last_norm = RMSNorm(dim, norm_eps)
        self.token_head = TokenHead(
            dim,
            tokens.vocab_size,
            kind=head,
            levels=token_levels,
            rank=head_rank,
            num_positions=positions,
        )
        self.prior = build_prior(self.config, self.num_tokens)
        self.gradient_checkpointing = False
        init_transformer(self, num_layers)
        self.token_head.zero_correction()
        if self.prior is not None:
            self.prior.reset()

    def forward(
        self,
        tokens: torch.Tensor,
        condition: Condition,
        *,
        output: str = "logits",
        targets: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        condition_rows: bool = False,
    ) -> torch.Tensor:
        """All tokens at once, each scored from those before it (teacher forcing).

        Args:
            tokens: int64 (B, n), the first n of N; the last one is only a target.
            condition: B rows.
            output: "logits"; "digits", the logits of each digit, where the head has them; "losses",
                the cross-entropy of every token in nats, computed the cheapest way;
                "prior_losses", that of the prior alone.
            targets: what "losses" compares with; `tokens` when None.
            label_smoothing: of "losses".
            condition_rows: also return what stands at the condition's rows (all S; the last, which
                scores token 0, always comes). Not with "losses".

        Returns:
            float32 (B, n, V), (B, n, sum(token_levels)) or (B, n); row i is about token i. With
            `condition_rows` S - 1 rows more in front.
        """
        prefix, columns = self.conditioner(condition)  # (B, S, D)
        targets = tokens if targets is None else targets
        prior = None
        if self.prior is not None:
            prior = self.prior(prefix, columns)[:, : tokens.shape[1]]  # (B, n, E)
            if output == "prior_losses":
                return self.token_head.digit_entropy(prior, targets)
        rows = prefix.shape[1] - 1
        x = torch.cat((prefix, self.embeddings(tokens[:, :-1])), dim=1)  # (B, S + n - 1, D)
        length = x.shape[1]
        mask = None
        if columns is not None:
            columns = F.pad(columns, (0, length - columns.shape[1]), value=True)
            mask = mask_bias(causal_mask(length, length, columns=columns), x.dtype)
        rope = self.rotary(rows + 1, x.device)[:length]
        x = dropped(x, self.config.token_dropout, self.training)
        x = self._run_blocks(self.layers, x, rope=rope, mask=mask, causal=mask is None)
        x = self.last_norm(x if condition_rows else x[:, rows:])  # (B, n, D)
        return self._read_out(x, output, targets, label_smoothing, prior)

    def rotary(self, num_condition: int, device: torch.device) -> torch.Tensor:
        """The rotary table of a prefix of S = `num_condition` rows and N tokens, (S + N, D / 2)."""
        return rope_table(
            self._rope_shape,
            self.config.dim // self.config.num_heads,
            base=self.config.rope_base,
            num_condition=num_condition,
            condition_rope=self.config.condition_rope,
            device=device,
        )

    def start(
        self, condition: Condition, *, guidance: Guidance | None = None
    ) -> "AutoregressiveRun":
        """Begins to make tokens; see `generators.run.OrderedRun`.

        Raises:
            ValueError: the condition is not of this network's kind or sizes.
        """
        self.check_condition(condition)
        return AutoregressiveRun(self, condition, guidance)


class AutoregressiveRun:
    """An `OrderedRun` over an `AutoregressiveTransformer`: cached, and doubled when guided.

    Row b + B of the doubled batch is row b with its condition dropped; it keeps the padding of its
    twin.
    """

    def __init__(
        self,
        model: AutoregressiveTransformer,
        condition: Condition,
        guidance: Guidance | None,
    ):
        self.model = model
        self.batch_size = condition.batch_size
        self.num_tokens = model.num_tokens
        self.passes = 0
        self.guidance = guidance if guidance is not None and guidance.active else None
        self.device = model.device
        self._condition = condition.joined(condition.null()) if self.guidance else condition
        self._rows = 0  # S, once the condition was fed; then there is a cache
        self._cache: StaticCache

    @property
    def lengths(self) -> torch.Tensor:
        """Image tokens held by every row, int64 (B,)."""
        return torch.tensor(self._lengths(), device=self.device)

    def _lengths(self) -> list[int]:
        if not self._rows:
            return [0] * self.batch_size
        return [n - self._rows for n in self._cache.lengths[: self.batch_size]]

    @torch.no_grad()  # writes into the cache; nothing of a run is ever trained
    def extend(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `OrderedRun.extend`. Raises ValueError past the last token or for a wrong batch."""
        if tokens.shape[0] != self.batch_size:
            raise ValueError(f"tokens have {tokens.shape[0]} rows; the run has {self.batch_size}")
        first = not self._rows
        held = self._lengths()
        if max(held) + tokens.shape[1] > self.num_tokens:
            raise ValueError(
                f"{tokens.shape[1]} tokens after {max(held)} exceed the {self.num_tokens} there are"
            )
        x = self.model.embeddings(tokens, self._places(held, tokens.shape[1]))  # (B, n, D)
        if self.guidance:
            x = torch.cat((x, x))  # (2B, n, D)
        if first:
            x = torch.cat((self._open(), x), dim=1)  # (2B, S + n, D)
        x = self._pass(x)
        if first:
            x = x[:, self._rows - 1 :]  # (2B, n + 1, D)
        scored = self._places([n + (not first) for n in held], x.shape[1], copies=x.shape[0])
        prior = None
        if self._prior is not None and scored is not None:
            rows = torch.arange(x.shape[0], device=self.device).unsqueeze(1)
            prior = self._prior[:, scored] if scored.ndim == 1 else self._prior[rows, scored]
        logits = self.model.token_head(self.model.last_norm(x), scored, prior)  # (2B, n, V)
        if self.guidance:
            starts = [n + (not first) for n in held]
            scale = self._scale(self.guidance, starts, logits)
            cond, uncond = logits.chunk(2)
            logits = self.guidance.combine(cond, uncond, scale)  # (B, n, V)
        return logits

    def _places(self, starts: list[int], count: int, copies: int = 0) -> torch.Tensor | None:
        """Positions from `starts[b]` on, (count,) or (B, count); None where no table needs them."""
        if not self.model.embeddings.num_positions and self.model.prior is None:
            return None
        steps = torch.arange(count, device=self.device)
        if min(starts) == max(starts):
            places = steps + starts[0]
        else:
            repeats = max(1, copies // self.batch_size)
            places = torch.tensor(starts * repeats, device=self.device).unsqueeze(1) + steps
        return places.clamp(max=self.num_tokens - 1)

    def _open(self) -> torch.Tensor:
        """Embeds the condition and takes the cache's memory; (2B, S, D)."""
        model = self.model
        prefix, columns = model.conditioner(self._condition)
        self._prior = None if model.prior is None else model.prior(prefix, columns)  # (2B, N, E)
        self._rows = prefix.shape[1]
        total = self._rows + self.num_tokens
        config = model.config
        self._cache = StaticCache(
            num_layers=len(model.layers),
            batch_size=prefix.shape[0],
            num_heads=config.num_kv_heads or config.num_heads,
            max_length=total,
            head_dim=config.dim // config.num_heads,
            dtype=prefix.dtype,
            device=prefix.device,
        )
        self._rope = model.rotary(self._rows, prefix.device)
        self._columns: torch.Tensor | None = None
        if columns is not None and not bool(columns.all()):
            tail = columns.new_ones(columns.shape[0], self.num_tokens)
            self._columns = torch.cat((columns, tail), dim=1)  # (2B, S + N)
            self._column_bias = mask_bias(self._columns, prefix.dtype)[:, None, None]
        return prefix

    def _pass(self, x: torch.Tensor) -> torch.Tensor:
        """New rows (2B, n, D) through all blocks, (2B, n, D)."""
        cache, n = self._cache, x.shape[1]
        starts = cache.reserve(n)
        mask, causal = None, False
        if not isinstance(starts, int):
            mask = causal_mask(n, cache.total, starts=starts, columns=self._columns)
            rope = self._rope[starts.unsqueeze(1) + torch.arange(n, device=starts.device)]
        else:
            rope = self._rope[starts : starts + n]
            columns = self._columns
            if columns is None:
                causal = n > 1
            elif n == 1:
                mask = self._column_bias[..., : cache.total]
            else:
                mask = causal_mask(n, cache.total, columns=columns)
        for layer, block in enumerate(self.model.layers):
            x = block(x, rope=rope, mask=mask, causal=causal, cache=cache, layer=layer)
        self.passes += 1
        return x

    def _scale(
        self, guidance: Guidance, starts: list[int], logits: torch.Tensor
    ) -> float | torch.Tensor:
        """The guidance scale of every scored token, rows beginning at index `starts[b]`."""
        total = self.num_tokens
        if guidance.constant:
            return guidance.scale
        count = logits.shape[1]
        if count == 1 and min(starts) == max(starts):
            return guidance.scale_at(min(starts[0], total - 1), total)
        # The row after the last token scores nothing; it borrows that token's scale.
        scales = [
            [guidance.scale_at(min(start + i, total - 1), total) for i in range(count)]
            for start in starts
        ]
        return torch.tensor(scales, device=logits.device).unsqueeze(-1)  # (B, n, 1)

    def rewind(self, lengths: torch.Tensor) -> None:
        """See `OrderedRun.rewind`. Raises ValueError for a row that is shorter already."""
        kept = [int(n) for n in lengths.tolist()]
        if not self._rows:
            if any(kept):
                raise ValueError(f"lengths {kept} must be 0 before the first extend")
            return
        if len(kept) != self.batch_size or min(kept) < 0:
            raise ValueError(f"lengths {kept} must be {self.batch_size} numbers >= 0")
        kept = [n + self._rows for n in kept]
        self._cache.rewind(kept * 2 if self.guidance else kept)
