"""The masked transformer: scores all positions of a partly known sequence at once.

MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200, in the form used with TiTok (An
Image is Worth 32 Tokens for Reconstruction and Generation, 2024, 2406.07550): a post-norm BERT over
the condition and the tokens. Beyond it: pre-norm Llama blocks (which train better from scratch at
small size, and need no exact GELU), rotary positions, text prefixes, codes read and scored by their
digits.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.generators.base import Generator
from studio.generators.conditioning import KINDS, Condition, build_embedder
from studio.generators.guidance import Guidance
from studio.generators.prior import build_prior
from studio.layers.attention import mask_bias
from studio.layers.blocks import (
    BertBlock,
    LlamaBlock,
    dropped,
    init_transformer,
    swiglu_width,
)
from studio.layers.norms import RMSNorm
from studio.layers.rope import layered_rope_table
from studio.layers.token_embedding import TokenEmbedding, TokenHead
from studio.outputs import TokenLayout


class MaskedTransformer(Generator):
    """Predicts masked tokens from the condition and all known tokens.

    Ids: 0 .. V - 1 codes, V the mask; with a class condition V + 1 + label the classes and V + 1 +
    num_classes the null class, all in one table.

    Args:
        layout: `TokenLayout.to_dict()` of the tokens.
        dim, num_layers, num_heads: D, blocks, heads.
        hidden_dim: of the feed-forward; 4 `dim` for "post" and 8 / 3 `dim` (rounded up to 32) for
            "pre" when None.
        norm: "post", BERT blocks (official weights); "pre", Llama blocks and a last norm.
        norm_eps: of all norms; 1e-12 for "post" and 1e-5 for "pre" when None.
        rope: "1d", "2d" (the layout's grid) or "3d" (all grids of layers of video tokens, as in
            `AutoregressiveTransformer`) rotary positions on top of the learned ones, or None.
        condition: "class", "text" or "features", see `AutoregressiveTransformer`.
        num_classes, num_condition_tokens, caption_dim, text_vocab_size, text_layers: their sizes.
        token_levels: levels of each digit of a code; None for one row a code.
        head, head_rank: see `layers.token_embedding.TokenHead`.
        prior_dim: width of a perceptron that scores all tokens from the caption alone, see
            `generators.prior`; 0 for none, as in all official networks.
        prior_refined: how many leading tokens are followed by one that refines them.
        prior_gates, prior_look: how many ways (motions) there are for what the prior knows of a
            look, and the look's width; 0 for none.
        position_tables: digit tables and digit maps of their own for every position (1D tokens).
        dropout, attention_dropout: while training.
        neighborhood: `{"kernel": 7, "stride": 1, "dilation": 1, "causal": false}`, each one value
            or one for each axis of the layout's grid: tokens attend within these windows and to the
            condition, see `layers.neighborhood`; None for attention to all tokens.
    """

    kind = "unordered"

    @register_to_config
    def __init__(
        self,
        *,
        layout: dict,
        dim: int = 768,
        num_layers: int = 24,
        num_heads: int = 16,
        hidden_dim: int | None = None,
        norm: str = "post",
        norm_eps: float | None = None,
        rope: str | None = None,
        rope_base: float = 10000.0,
        token_levels: list[int] | None = None,
        head: str = "full",
        head_rank: int = 64,
        position_tables: bool = False,
        prior_dim: int = 0,
        prior_refined: int = 0,
        prior_gates: int = 0,
        prior_look: int = 0,
        condition: str = "class",
        num_classes: int = 1000,
        num_condition_tokens: int = 32,
        caption_dim: int = 2048,
        text_vocab_size: int = 2048,
        text_layers: int = 2,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        neighborhood: dict | None = None,
    ):
        super().__init__()
        if norm not in ("post", "pre"):
            raise ValueError(f"norm {norm!r} must be post or pre")
        if rope not in (None, "1d", "2d", "3d"):
            raise ValueError(f"rope {rope!r} must be 1d, 2d, 3d or null")
        if condition not in KINDS:
            raise ValueError(f"condition {condition!r} must be one of {tuple(KINDS)}")
        tokens = TokenLayout.from_dict(layout)
        self.num_tokens = tokens.num_tokens
        self.mask_id = tokens.vocab_size
        self.window = self.find_window()
        if rope == "3d" and any(s.codebooks > 1 or len(s.shape) != 3 for s in tokens.segments):
            raise ValueError("rope '3d' needs grids of (t, h, w) with one codebook; take '1d'")
        grids = tuple(s.shape for s in tokens.segments)
        self._rope_shapes = {"2d": grids[:1], "3d": grids}.get(rope or "", ((self.num_tokens,),))
        classes = num_classes + 1 if condition == "class" else 0
        positions = self.num_tokens if position_tables else 0
        self.embeddings = TokenEmbedding(
            tokens.vocab_size,
            dim,
            levels=token_levels,
            num_special=1 + classes,
            num_positions=positions,
        )
        # Classes are ids of the token table and take the first position; captions bring their own.
        self.conditioner = None if condition == "class" else build_embedder(self.config)
        self.positions = nn.Embedding(self.num_tokens + (condition == "class"), dim)
        self.embedding_norm = (
            nn.LayerNorm(dim, norm_eps or 1e-12) if norm == "post" else nn.Identity()
        )
        self.layers = nn.ModuleList(self._block() for _ in range(num_layers))
        self.last_norm = RMSNorm(dim, norm_eps or 1e-5) if norm == "pre" else nn.Identity()
        self.token_head = TokenHead(
            dim,
            tokens.vocab_size,
            kind=head,
            levels=token_levels,
            rank=head_rank,
            bias=True,
            num_positions=positions,
        )
        self.prior = build_prior(self.config, self.num_tokens)
        self.gradient_checkpointing = False
        init_transformer(self, num_layers)
        self.token_head.zero_correction()
        if self.prior is not None:
            self.prior.reset()

    def _block(self) -> nn.Module:
        config = self.config
        if config.norm == "post":
            return BertBlock(
                config.dim,
                config.num_heads,
                hidden_dim=config.hidden_dim or 4 * config.dim,
                eps=config.norm_eps or 1e-12,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
            )
        return LlamaBlock(
            config.dim,
            config.num_heads,
            hidden_dim=config.hidden_dim or swiglu_width(config.dim, 32),
            eps=config.norm_eps or 1e-5,
            attention_dropout=config.attention_dropout,
            residual_dropout=config.dropout,
            ffn_dropout=config.dropout,
        )

    def forward(
        self,
        tokens: torch.Tensor,
        condition: Condition,
        *,
        output: str = "logits",
        targets: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Scores every position.

        Args:
            tokens: int64 (B, N), `mask_id` (= V) where masked.
            condition: B rows.
            output: "logits"; "digits", the logits of each digit, where the head has them; "losses",
                the cross-entropy of every position in nats, computed the cheapest way.
            targets: the whole sequence int64 (B, N), for "losses".
            label_smoothing: of "losses".

        Returns:
            float32 (B, N, V), (B, N, sum(token_levels)) or (B, N).
        """
        prefix, real = self.embed_condition(condition)
        prior = None if self.prior is None else self.prior(prefix, real)  # (B, N, E)
        if output == "prior" and prior is not None:
            return prior
        if output == "prior_losses" and prior is not None and targets is not None:
            return self.token_head.digit_entropy(prior, targets)
        x = self._features(tokens, prefix, real, self.rotary(prefix.shape[1], prefix.device))
        return self._read_out(x, output, targets, label_smoothing, prior)

    def embed_condition(self, condition: Condition) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows in front of the tokens (B, S, D), and which are real, bool (B, S) or None."""
        if self.conditioner is not None:
            return self.conditioner(condition)
        labels = condition.labels.masked_fill(condition.dropped, self.config.num_classes)
        x = self.embeddings((self.mask_id + 1 + labels).unsqueeze(1))  # (B, 1, D)
        return x + self.positions.weight[0], None

    def rotary(self, num_condition: int, device: torch.device) -> torch.Tensor | None:
        """The rotary table of a prefix of S = `num_condition` rows and N tokens, (S + N, D / 2)."""
        if self.config.rope is None:
            return None
        return layered_rope_table(
            self._rope_shapes,
            self.config.dim // self.config.num_heads,
            base=self.config.rope_base,
            num_condition=num_condition,
            device=device,
        )

    def score(
        self,
        tokens: torch.Tensor,
        prefix: torch.Tensor,
        real: torch.Tensor | None,
        prior: torch.Tensor | None,
        rope: torch.Tensor | None,
    ) -> torch.Tensor:
        """A step: logits (B, N, V) of tokens (B, N) behind an embedded condition (B, S, D).

        Args:
            real: which rows of the condition count, bool (B, S), or None for all.
            prior: digit logits (B, N, E), or None.
            rope: what `rotary` gives, as it is or as `torch.view_as_real` of it.
        """
        return self.token_head(self._features(tokens, prefix, real, rope), prior=prior)

    def _features(
        self,
        tokens: torch.Tensor,
        prefix: torch.Tensor,
        real: torch.Tensor | None,
        rope: torch.Tensor | None,
    ) -> torch.Tensor:
        """Tokens (B, N) behind the prefix (B, S, D) to features (B, N, D)."""
        length = prefix.shape[1]
        x = self.embeddings(tokens) + self.positions.weight[-self.num_tokens :]  # (B, N, D)
        x = torch.cat((prefix, x), dim=1)  # (B, S + N, D)
        x = dropped(self.embedding_norm(x), self.config.dropout, self.training)
        mask = None
        if real is not None:
            seen = F.pad(real, (0, self.num_tokens), value=True)  # (B, S + N)
            mask = mask_bias(seen, x.dtype)[:, None, None]  # (B, 1, 1, S + N)
        x = self._run_blocks(self.layers, x, rope=rope, mask=mask, neighborhood=self.window)
        return self.last_norm(x[:, length:])  # (B, N, D)

    def start(self, condition: Condition, *, guidance: Guidance | None = None) -> "MaskedRun":
        """Begins to make tokens; see `generators.run.UnorderedRun`.

        Raises:
            ValueError: the condition is not of this network's kind or sizes.
        """
        self.check_condition(condition)
        return MaskedRun(self, condition, guidance)


class MaskedRun:
    """An `UnorderedRun` over a `MaskedTransformer`.

    The condition, doubled when guided, is embedded once.
    """

    def __init__(self, model: MaskedTransformer, condition: Condition, guidance: Guidance | None):
        self.model = model
        self.batch_size = condition.batch_size
        self.num_tokens = model.num_tokens
        self.passes = 0
        self.guidance = guidance if guidance is not None and guidance.active else None
        self.device = model.device
        both = condition.joined(condition.null()) if self.guidance else condition
        with torch.no_grad():
            self._prefix, self._real = model.embed_condition(both)  # (2B, S, D)
            self._prior = None
            if model.prior is not None:
                self._prior = model.prior(self._prefix, self._real)  # (2B, N, E)

    @torch.no_grad()  # nothing of a run is ever trained
    def fill(
        self, tokens: torch.Tensor, known: torch.Tensor, *, step: int = 0, num_steps: int = 1
    ) -> torch.Tensor:
        """See `UnorderedRun.fill`. A step with a neutral scale costs no unconditional half."""
        if tokens.shape != (self.batch_size, self.num_tokens):
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)} must be "
                f"({self.batch_size}, {self.num_tokens})"
            )
        ids = torch.where(known, tokens, self.model.mask_id)
        self.passes += 1
        guidance = self.guidance
        scale = guidance.scale_at(step, num_steps) if guidance else 0.0
        if guidance is None or scale == guidance.neutral:
            return self._logits(ids, slice(0, self.batch_size))
        logits = self._logits(torch.cat((ids, ids)), slice(None))  # (2B, N, V)
        cond, uncond = logits.chunk(2)
        return guidance.combine(cond, uncond, scale)  # (B, N, V)

    def _logits(self, ids: torch.Tensor, rows: slice) -> torch.Tensor:
        real = None if self._real is None else self._real[rows]
        prior = None if self._prior is None else self._prior[rows]
        prefix, model = self._prefix[rows], self.model
        rope = model.rotary(prefix.shape[1], prefix.device)
        if model.compiled_step is None:
            return model.score(ids, prefix, real, prior, rope)
        rope = None if rope is None else torch.view_as_real(rope)
        return model.compiled_step(ids, prefix, real, prior, rope).clone()  # a graph's own memory
