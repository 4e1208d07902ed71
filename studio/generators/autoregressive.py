"""The autoregressive transformer: a prefix for the condition, then tokens from first to last.

Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (LlamaGen), 2024,
2406.06525: a Llama over image tokens with rotary positions on the grid and a class or a text
prefix. Beyond it: 1D and 3D layouts, a text encoder trained along, codes read and scored by their
digits. Left out on purpose: drop-path.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from studio.generators.base import Generator
from studio.generators.conditioning import Condition, build_embedder
from studio.generators.guidance import Guidance
from studio.generators.prior import build_prior
from studio.generators.tree_run import TreeRun
from studio.layers.attention import causal_mask, mask_bias
from studio.layers.blocks import LlamaBlock, dropped, init_transformer, swiglu_width
from studio.layers.caches import CacheOption
from studio.layers.neighborhood import raster_windows
from studio.layers.norms import RMSNorm
from studio.layers.rope import CONDITION_ROPES, layered_rope_table
from studio.layers.sink_memory import SinkMemory
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
        rope: "2d", rotary angles from the layout's grid (of one, two or three axes); "3d", from all
            its segments, layers of video tokens, in coordinates that they share; "1d", from the
            index.
        rope_base: see `layers.rope.rope_table`.
        condition_rope: "identity", or "zeros" as official LlamaGen weights need.
        condition: "class", "text" (ids, encoded here), "features" (encoded elsewhere) or "speech"
            (letters with their times, see `generators.letter_encoder`: besides a prefix of one row
            every token is told what is spoken there).
        num_classes: of "class".
        num_condition_tokens: the longest caption, of "text", "features" and "speech".
        caption_dim: C of "features".
        text_vocab_size, text_layers: of the encoder of "text" and of "speech".
        voices, alphabet, frame_layers: of "speech": the names of who can speak, the letters that
            ids from 1 on stand for, and blocks over tokens.
        token_levels: levels of each digit of a code (`FiniteScalarQuantizer(levels)`); None for one
            row a code.
        head, head_rank: see `layers.token_embedding.TokenHead`.
        prior_dim: width of a perceptron that scores all tokens from the caption alone, see
            `generators.prior`; 0 for none, as in all official networks. Of "speech" any other
            number means that what each token is told scores it.
        prior_refined: how many leading tokens are followed by one that refines them.
        prior_gates, prior_look: how many ways (motions) there are for what the prior knows of a
            look, and the look's width; 0 for none.
        position_tables: digit tables and digit maps of their own for every position (1D tokens).
        place_embedding: add a learned vector of its own to every token's (several layers, which the
            rotary angles don't tell apart).
        token_dropout, attention_dropout, residual_dropout, ffn_dropout: while training.
        neighborhood: `{"kernel": 7, "stride": 1, "dilation": 1, "causal": false}`, each one value
            or one for each axis of the layout's grid: a token is predicted from the condition and
            those before it that lie in its window, see `layers.neighborhood_window.raster_windows`;
            None for all before it. A mask: it changes what is seen, not what it costs.
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
        voices: list[str] | None = None,
        alphabet: str = "",
        frame_layers: int = 2,
        token_levels: list[int] | None = None,
        head: str = "full",
        head_rank: int = 64,
        position_tables: bool = False,
        prior_dim: int = 0,
        prior_refined: int = 0,
        prior_gates: int = 0,
        prior_look: int = 0,
        place_embedding: bool = False,
        token_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        ffn_dropout: float = 0.0,
        neighborhood: dict | None = None,
    ):
        super().__init__()
        tokens = TokenLayout.from_dict(layout)
        _check_ropes(rope, condition_rope, tokens)
        self.num_tokens = tokens.num_tokens
        self.window = self.find_window()
        shapes = {"1d": ((self.num_tokens,),), "2d": (tokens.segments[0].shape,)}
        self._rope_shapes = shapes.get(rope, tuple(s.shape for s in tokens.segments))
        positions = self.num_tokens if position_tables else 0
        places = self.num_tokens if place_embedding else 0
        self.embeddings = TokenEmbedding(
            tokens.vocab_size, dim, levels=token_levels, num_positions=positions, num_places=places
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
        for part in (self.conditioner, self.prior):
            getattr(part, "reset", lambda: None)()

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
                "features", what the scores are read from; "prior", the digit logits of the prior
                alone; "prior_losses", its cross-entropy.
                For "speech" also "both_losses", the losses and those of the prior, and "lengths",
                the predicted log(1 + tokens) of every letter (B, S), where `tokens` are not read.
            targets: what "losses" compares with; `tokens` when None.
            label_smoothing: of "losses".
            condition_rows: also return what stands at the condition's rows (all S; the last, which
                scores token 0, always comes). Not with "losses".

        Returns:
            float32 (B, n, V), (B, n, sum(token_levels)), (B, n) or, features, (B, n, D); row i is
            about token i. With
            `condition_rows` S - 1 rows more in front.
        """
        if output == "lengths":
            return cast(Any, self.conditioner).lengths(condition)
        prefix, columns = self.conditioner(condition)  # (B, S, D)
        targets = tokens if targets is None else targets
        told = self.told(condition, tokens.shape[1])  # (B, n, D)
        prior = None
        if self.prior is not None:
            prior = self.score_prior(prefix, columns, told)[:, : tokens.shape[1]]  # (B, n, E)
            if output == "prior":
                return prior
            if output == "prior_losses":
                return self.token_head.digit_entropy(prior, targets)
        rows = prefix.shape[1] - 1
        x = torch.cat((prefix, self.embeddings(tokens[:, :-1])), dim=1)  # (B, S + n - 1, D)
        if told is not None:
            x = x + F.pad(told, (0, 0, rows, 0))
        length = x.shape[1]
        mask = None
        if columns is not None or self.window is not None:
            if columns is not None:
                columns = F.pad(columns, (0, length - columns.shape[1]), value=True)
            seen = causal_mask(length, length, columns=columns, device=x.device)
            if self.window is not None:
                seen = seen & raster_windows(self.window, rows + 1, x.device)[:length, :length]
            mask = mask_bias(seen, x.dtype)
        rope = self.rotary(rows + 1, x.device)[:length]
        x = dropped(x, self.config.token_dropout, self.training)
        x = self._run_blocks(self.layers, x, rope=rope, mask=mask, causal=mask is None)
        x = self.last_norm(x if condition_rows else x[:, rows:])  # (B, n, D)
        if output == "both_losses" and prior is not None:
            alone = self.token_head.digit_entropy(prior, targets)
            both = self._read_out(x, "losses", targets, label_smoothing, prior)
            return torch.stack((both, alone), -1)  # (B, n, 2)
        return self._read_out(x, output, targets, label_smoothing, prior)

    def told(self, condition: Condition, count: int) -> torch.Tensor | None:
        """What each of the first `count` tokens is told, (B, count, D), where the condition says
        something about each of them; it is added to the row that scores the token."""
        tell = getattr(self.conditioner, "told", None)
        return None if tell is None else tell(condition, count)

    def score_prior(self, prefix, columns, told: torch.Tensor | None) -> torch.Tensor:
        """What the prior says of all tokens (of those told about), (B, N, E)."""
        prior: Any = self.prior
        return prior(prefix, columns) if told is None else prior(told)

    def rotary(self, num_condition: int, device: torch.device) -> torch.Tensor:
        """The rotary table of a prefix of S = `num_condition` rows and N tokens, (S + N, D / 2)."""
        return layered_rope_table(
            self._rope_shapes,
            self.config.dim // self.config.num_heads,
            base=self.config.rope_base,
            num_condition=num_condition,
            condition_rope=self.config.condition_rope,
            device=device,
        )

    def start(
        self,
        condition: Condition,
        *,
        guidance: Guidance | None = None,
        cache: CacheOption = "static",
        memory: SinkMemory | None = None,
    ) -> TreeRun:
        """Begins to make tokens; see `generators.run.OrderedRun`.

        Args:
            cache: a name in `layers.caches.CACHES`, or what makes a cache, see `find_cache`. A
                rolling one always keeps the condition; its window is half of the tokens unless
                given, and its positions count slots where `rope` is "1d".
            memory: of the blocks before, which all rows then see; `run.remember()` adds this one.

        Raises:
            ValueError: the condition is not of this network's kind or sizes, an unknown cache, a
                rolling one while the config has a `neighborhood`, or a `memory` of another batch.
        """
        self.check_condition(condition)
        return TreeRun(self, condition, guidance, cache, memory)


def _check_ropes(rope: str, condition_rope: str, layout: TokenLayout) -> None:
    """Raises ValueError for an unknown kind of rotary positions or one that is not for a layout."""
    if rope not in ("1d", "2d", "3d"):
        raise ValueError(f"rope {rope!r} must be 1d, 2d or 3d")
    if condition_rope not in CONDITION_ROPES:
        raise ValueError(f"condition_rope {condition_rope!r} must be one of {CONDITION_ROPES}")
    first, *others = layout.segments
    if rope == "2d" and (others or first.codebooks > 1):
        raise ValueError("rope '2d' needs a layout of one segment with one codebook; take '1d'")
    if rope == "3d" and any(s.codebooks > 1 or len(s.shape) != 3 for s in layout.segments):
        raise ValueError("rope '3d' needs grids of (t, h, w) with one codebook; take '1d'")
