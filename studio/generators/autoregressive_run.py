"""The run of the autoregressive transformer: a cache, and a doubled batch when guided.

Classifier-Free Diffusion Guidance, 2022, 2207.12598, as token models use it: both halves in one
pass. Left out on purpose: any choice of a token, which is decoding's; trees of drafts are in
`tree_run.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F

from studio.generators.base import Generator
from studio.generators.conditioning import Condition
from studio.generators.guidance import Guidance
from studio.generators.lean_step import LeanStep, fits
from studio.generators.run_masks import RunMasks
from studio.layers.cache import Cache, StaticCache, to_device
from studio.layers.caches import CacheOption, find_cache, is_rolling
from studio.layers.rope import rope_table
from studio.layers.sink_memory import SinkMemory


class AutoregressiveRun:
    """An `OrderedRun` over an `AutoregressiveTransformer`: cached, and doubled when guided.

    Row b + B of the doubled batch is row b with its condition dropped; it keeps the padding of its
    twin.
    """

    def __init__(
        self,
        model: Generator,
        condition: Condition,
        guidance: Guidance | None,
        cache: CacheOption = "static",
        memory: SinkMemory | None = None,
    ):
        self.model = model
        self.batch_size = condition.batch_size
        self.num_tokens = model.num_tokens
        self.passes = 0
        self.guidance = guidance if guidance is not None and guidance.active else None
        self.device = model.device
        self._condition = condition.joined(condition.null()) if self.guidance else condition
        self.features: torch.Tensor | None = None  # (2B, n, D) that the last logits were read from
        self._rows = 0  # before the tokens, once the condition was fed; then there is a cache
        self._prefix = 0  # S of them are the condition's, the others, in front, the memory's
        self._memory = memory
        self._room = 0  # slots past those of all tokens, see `tree_run.py`
        self._embedded: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._embeddings, self._head = model.embeddings, model.token_head
        self._told: torch.Tensor | None = None  # (2B, N, D), where every token is told something
        self._placed = (
            model.embeddings.needs_positions
            or model.prior is not None
            or hasattr(model.conditioner, "told")
        )
        # One more than there are: the row after the last token scores nothing, and borrows its.
        self._index = torch.arange(self.num_tokens + 1, device=self.device)
        self._index[-1] -= 1
        self._lean: LeanStep | None = None
        self._make_cache = find_cache(cache)
        self._compiled = model.compiled_step if cache == "static" else None
        if model.window is not None and is_rolling(self._make_cache):
            raise ValueError(
                f"cache {cache!r} drops tokens by age, which a generator with a neighborhood can't "
                'use; take "static"'
            )
        if memory is not None and self._make_cache is not StaticCache:
            raise ValueError(f'cache {cache!r} takes no memory; take "static"')
        self._cache: Cache

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
        if not first and self._compiled is not None and self._compiled.takes(tokens.shape[1]):
            return self._extend_compiled(self._compiled, tokens, held)
        x = self._embeddings(tokens, self._places(held, tokens.shape[1]))  # (B, n, D)
        if self.guidance:
            x = torch.cat((x, x))  # (2B, n, D)
        if first:
            x = torch.cat((self._open(), x), dim=1)  # (2B, S + n, D)
        scored = [n + (not first) for n in held]
        count = tokens.shape[1] + first
        places = self._places(scored, count, copies=x.shape[0])
        x = self._with_told(x, places)
        if not first and self._lean is not None:
            self._cache.reserve(x.shape[1])
            self.features = self._lean(x)
            self.passes += 1
        else:
            x = self._pass(x)
            if first:
                x = x[:, self._prefix - 1 :]  # (2B, n + 1, D)
            self.features = self.model.last_norm(x)
        logits = self._head(self.features, places, self._prior_rows(scored, count, places))
        return self._guided(logits, [range(n, n + count) for n in scored])

    @torch.no_grad()
    def score(self, features: torch.Tensor, starts: list[int]) -> torch.Tensor:
        """What the head, the prior and the guidance make of features (2B, n, D), such as a drafter
        predicts: guided logits (B, n, V) of the tokens from `starts[b]` on."""
        count = features.shape[1]
        places = self._places(starts, count, copies=features.shape[0])
        logits = self._head(features, places, self._prior_rows(starts, count, places))
        return self._guided(logits, [range(n, n + count) for n in starts])

    def _with_told(self, x: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        """Rows (2B, m, D), the last of which, those that score the tokens at places (n,) or (2B,
        n), are told what there is to tell about them."""
        if self._told is None or places is None:
            return x
        rows = torch.arange(len(x), device=self.device).unsqueeze(1)  # (2B, 1)
        told = self._told[rows, places]  # (2B, n, D)
        return x + F.pad(told, (0, 0, x.shape[1] - told.shape[1], 0))

    def _prior_rows(self, starts: list[int], count: int, places) -> torch.Tensor | None:
        """What the prior says of `count` tokens from `starts[b]` on, (2B, count, E); the last
        token's, past the end."""
        if self._prior is None or self._ahead is None or places is None:
            return None
        if places.ndim == 1:
            return self._ahead[:, starts[0] : starts[0] + count]
        return self._prior[torch.arange(len(self._prior), device=self.device)[:, None], places]

    def _extend_compiled(
        self, step: Callable, tokens: torch.Tensor, held: list[int]
    ) -> torch.Tensor:
        """`extend` past the first time, by the compiled step."""
        cache, n = self._cache, tokens.shape[1]
        cache.reserve(n)
        starts = cache.starts
        if isinstance(starts, int):
            starts = torch.full((len(cache.lengths),), starts, device=self.device)
        if self.guidance:
            tokens = tokens.repeat(2, 1)  # (2B, n)
        self.features, logits = step(
            tokens, starts, self._rows, cache, self._rope, self._columns, self._prior, self._told
        )
        self.passes += 1
        return self._guided(logits, [range(m + 1, m + 1 + n) for m in held])

    def _guided(self, logits: torch.Tensor, places: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (2B, n, V) of tokens at places (B, n), to guided ones (B, n, V)."""
        if not self.guidance:
            return logits
        cond, uncond = logits.chunk(2)
        scale = self.guidance.scales(places, self.num_tokens, logits.device)
        return self.guidance.combine(cond, uncond, scale)

    @property
    def has_prior(self) -> bool:
        """Whether `prior_logits` has something to say."""
        return self.model.prior is not None

    @torch.no_grad()
    def prior_logits(self, starts: list[int], count: int) -> torch.Tensor:
        """What the prior alone says, without a pass: guided logits (B, count, V) of the tokens
        `starts[b]` .. `starts[b] + count - 1` of every row; the last token's, past the end.

        Raises:
            ValueError: this network has no prior.
        """
        if self.model.prior is None:
            raise ValueError("prior_dim 0: this generator has no prior that could draft")
        self._embed()
        prior = self._prior
        assert prior is not None  # the network has one
        steps = torch.arange(count, device=self.device)
        rows = torch.arange(len(prior), device=self.device).unsqueeze(1)  # (2B, 1)
        first = torch.tensor(starts, device=self.device).repeat(len(rows) // len(starts))
        places = (first.unsqueeze(1) + steps).clamp(max=self.num_tokens - 1)  # (2B, count)
        logits = self.model.token_head.expand(prior[rows, places])  # (2B, count, V)
        return self._guided(logits, [range(n, n + count) for n in starts])

    def _embed(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The condition's rows (2B, S, D) and which of them are real; the prior comes with them."""
        if self._embedded is None:
            prefix, columns = self.model.conditioner(self._condition)
            model = self.model
            self._prior = self._ahead = None
            self._told = model.told(self._condition, self.num_tokens)
            if model.prior is not None:
                self._prior = model.score_prior(prefix, columns, self._told)  # (2B, N, E)
                self._ahead = torch.cat((self._prior, self._prior[:, -1:]), 1)  # (2B, N + 1, E)
            self._embedded = prefix, columns
        return self._embedded

    def _places(self, starts: list[int], count: int, copies: int = 0) -> torch.Tensor | None:
        """Positions from `starts[b]` on, (count,) or (B, count); None where no table needs them."""
        if not self._placed:
            return None
        if min(starts) == max(starts):
            return self._index[starts[0] : starts[0] + count]
        repeats = max(1, copies // self.batch_size)
        first = to_device(starts * repeats, self.device).unsqueeze(1)
        places = first + torch.arange(count, device=self.device)
        return places.clamp(max=self.num_tokens - 1)

    def _open(self) -> torch.Tensor:
        """Embeds the condition and takes the cache's memory; (2B, S, D)."""
        model = self.model
        prefix, columns = self._embed()
        front = 0 if self._memory is None else len(self._memory)
        self._prefix = prefix.shape[1]
        self._rows = front + self._prefix
        self._rope = F.pad(model.rotary(self._prefix, prefix.device), (0, 0, front, 0))
        self._cache = self._new_cache(prefix)
        if self._memory is not None:
            self._memory.fill(cast(StaticCache, self._cache))
        self._columns: torch.Tensor | None = None
        if columns is not None and not bool(columns.all()):
            tail = columns.new_ones(columns.shape[0], self.num_tokens + self._room)
            known = (F.pad(columns, (front, 0), value=True), tail)
            self._columns = torch.cat(known, dim=1)  # (2B, rows + N + room)
        if self._compiled is None and fits(model, self._cache, self._columns):
            static = cast(StaticCache, self._cache)
            self._lean = LeanStep(model, static, self._rope, self._columns)
        self._masks = RunMasks(
            self._cache,
            self._rope,
            self._columns,
            rows=self._rows,
            window=model.window,
            dtype=prefix.dtype,
        )
        return prefix

    def remember(self) -> None:
        """Blends the tokens of this run into its memory. Raises ValueError where it has none, or
        tokens that are remembered were not fed."""
        if self._memory is None or not self._rows:
            raise ValueError("a run without a memory, or before its first pass, remembers nothing")
        self._memory.blend(cast(StaticCache, self._cache), self._rows)

    def _new_cache(self, prefix: torch.Tensor) -> Cache:
        """The cache that was asked for, for rows (2B, S, D) and all tokens."""
        config, make = self.model.config, self._make_cache
        sizes: dict[str, Any] = dict(
            num_layers=len(self.model.layers),
            batch_size=prefix.shape[0],
            num_heads=config.num_kv_heads or config.num_heads,
            max_length=self._rows + self.num_tokens + self._room,
            head_dim=config.dim // config.num_heads,
            dtype=prefix.dtype,
            device=prefix.device,
        )
        if self._compiled is not None:
            sizes["slabs"] = self._compiled.take_slabs(self, sizes)
        if is_rolling(make):
            given = {"window": max(1, self.num_tokens // 2), "sink": 4, "slack": 64}
            given |= getattr(make, "keywords", {})
            sizes |= given | {"sink": self._rows + given["sink"], "prefix": self._rows}
            if config.rope == "1d":  # on a grid, slots would be in other columns
                sizes["rope"] = rope_table(
                    (given["sink"] + given["window"] + given["slack"],),
                    sizes["head_dim"],
                    base=config.rope_base,
                    num_condition=self._rows,
                    condition_rope=config.condition_rope,
                    device=prefix.device,
                )
        return make(**sizes)

    def _pass(self, x: torch.Tensor) -> torch.Tensor:
        """New rows (2B, n, D) through all blocks, (2B, n, D), in pieces as the cache takes them."""
        most = self._cache.max_tokens
        if x.shape[1] > most:
            return torch.cat([self._pass(piece) for piece in x.split(most, dim=1)], dim=1)
        cache, n = self._cache, x.shape[1]
        cache.reserve(n)
        rope, mask, causal = self._masks.chain(n)
        for layer, block in enumerate(self.model.layers):
            x = block(x, rope=rope, mask=mask, causal=causal, cache=cache, layer=layer)
        self.passes += 1
        return x

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
