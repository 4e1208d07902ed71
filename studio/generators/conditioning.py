"""What a generator is asked for, and how it becomes the embeddings in front of the tokens.

Four kinds of conditions: a class, a caption as byte-pair ids, a caption as features of a foreign
text encoder, letters to be spoken with their times. Each knows its own null for classifier-free
guidance (2022, 2207.12598): `dropped` rows make the network use its null embedding. Left out for
now: media prefixes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from studio.generators.letter_encoder import LetterEncoder
from studio.generators.text_encoder import TextEncoder


@dataclass(frozen=True)
class Condition:
    """Base of the four: tensors whose first axis is the batch, with `dropped` bool (B,)."""

    def __post_init__(self):
        if self.dropped is None:
            rows = getattr(self, dataclasses.fields(self)[0].name)
            dropped = torch.zeros(rows.shape[0], dtype=torch.bool, device=rows.device)
            object.__setattr__(self, "dropped", dropped)

    def _map(self, function):
        return type(self)(
            **{f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)}
        )

    @property
    def batch_size(self) -> int:
        return self.dropped.shape[0]

    def null(self) -> Condition:
        """The same with all rows dropped."""
        return dataclasses.replace(self, dropped=torch.ones_like(self.dropped))

    def drop(self, rows: torch.Tensor) -> Condition:
        """The same with `rows`, bool (B,), dropped as well."""
        return dataclasses.replace(self, dropped=self.dropped | rows.to(self.dropped.device))

    def repeat(self, n: int) -> Condition:
        """Each row n times, next to each other: B to n B rows."""
        return self._map(lambda t: t.repeat_interleave(n, dim=0))

    def to(self, device: torch.device | str) -> Condition:
        """All tensors on `device`."""
        return self._map(lambda t: t.to(device))

    def __getitem__(self, rows) -> Condition:
        """The condition of some rows: a slice or an index tensor."""
        return self._map(lambda t: t[rows])

    def joined(self, other: Condition) -> Condition:
        """The rows of both, the shorter sequences padded at their end."""
        if type(self) is not type(other):
            raise ValueError(f"{type(self).__name__} can't be joined with {type(other).__name__}")
        pairs = {
            f.name: _pad_alike(getattr(self, f.name), getattr(other, f.name))
            for f in dataclasses.fields(self)
        }
        return type(self)(**{name: torch.cat(pair) for name, pair in pairs.items()})


def _pad_alike(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros at the end of axis 1 until both are equally long."""
    if a.ndim < 2 or a.shape[1] == b.shape[1]:
        return a, b
    length = max(a.shape[1], b.shape[1])
    a, b = (F.pad(t, (0, 0) * (t.ndim - 2) + (0, length - t.shape[1])) for t in (a, b))
    return a, b


@dataclass(frozen=True)
class ClassCondition(Condition):
    """A class a row.

    Args:
        labels: int64 (B,), 0 .. num_classes - 1.
        dropped: bool (B,); nothing is dropped when None.
    """

    labels: torch.Tensor
    dropped: torch.Tensor = None  # pyright: ignore


@dataclass(frozen=True)
class TextCondition(Condition):
    """A caption a row.

    Args:
        ids: int64 (B, S), byte-pair ids, right padded.
        mask: bool (B, S), True = real.
        dropped: bool (B,); nothing is dropped when None.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    dropped: torch.Tensor = None  # pyright: ignore


@dataclass(frozen=True)
class FeatureCondition(Condition):
    """A caption a row, as features of a text encoder outside of the network.

    Args:
        features: float (B, S, C), zeros where padded; LlamaGen's are LEFT padded.
        mask: bool (B, S), True = real.
        dropped: bool (B,); nothing is dropped when None.
    """

    features: torch.Tensor
    mask: torch.Tensor
    dropped: torch.Tensor = None  # pyright: ignore


@dataclass(frozen=True)
class SpeechCondition(Condition):
    """Words to say, how, and when.

    Args:
        ids: int64 (B, S), letters from 1 on, a blank before and after the text; right padded by 0.
        mask: bool (B, S), True = real.
        ends: float (B, S), when each letter ends, in tokens from the start; never falling.
        voices: int64 (B,), 0 .. voices - 1.
        pitches, speeds: float (B,), lower and slower below 0, 0 is the voice's own.
        dropped: bool (B,); nothing is dropped when None.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    ends: torch.Tensor
    voices: torch.Tensor
    pitches: torch.Tensor
    speeds: torch.Tensor
    dropped: torch.Tensor = None  # pyright: ignore


class ClassEmbedder(nn.Module):
    """One vector a class; the table's last row is the null."""

    def __init__(self, config):
        super().__init__()
        self.num_classes = config.num_classes
        self.table = nn.Embedding(config.num_classes + 1, config.dim)

    def forward(self, condition: ClassCondition):
        labels = condition.labels.masked_fill(condition.dropped, self.num_classes)
        return self.table(labels).unsqueeze(1), None  # (B, 1, D)


class TextEmbedder(nn.Module):
    """Encoded captions and one closing vector, which is always there: the last row of a prefix must
    be real however short the caption is, since the first token is read from it."""

    def __init__(self, config):
        super().__init__()
        self.encoder = TextEncoder(
            config.text_vocab_size,
            config.dim,
            num_layers=config.text_layers,
            num_heads=config.num_heads,
            max_length=config.num_condition_tokens,
        )
        self.null = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.start = nn.Parameter(torch.randn(config.dim) * 0.02)

    def forward(self, condition: TextCondition):
        x = self.encoder(condition.ids, condition.mask)  # (B, S, D)
        dropped = condition.dropped[:, None]  # (B, 1)
        first = torch.arange(x.shape[1], device=x.device) == 0  # (S,)
        x = torch.where(dropped.unsqueeze(-1), self.null.to(x.dtype), x)
        mask = torch.where(dropped, first, condition.mask)  # (B, S)
        start = self.start.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat((x, start), dim=1)  # (B, S + 1, D)
        return x, torch.cat((mask, torch.ones_like(dropped)), dim=1)


class FeatureEmbedder(nn.Module):
    """Foreign features through a small perceptron (GELU, tanh form). The null features are stored
    noise that no training touches (LlamaGen, 2024, 2406.06525); dropped rows keep their padding
    mask."""

    def __init__(self, config):
        super().__init__()
        length, width = config.num_condition_tokens, config.caption_dim
        self.null: torch.Tensor
        self.register_buffer("null", torch.randn(length, width) / math.sqrt(width))
        self.fc1 = nn.Linear(width, config.dim, bias=False)
        self.fc2 = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, condition: FeatureCondition):
        x = condition.features.to(self.fc1.weight.dtype)
        null = self.null[: x.shape[1]].to(x.dtype)  # (S, C)
        x = torch.where(condition.dropped[:, None, None], null, x)
        x = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # (B, S, D)
        return x, condition.mask.bool()


# kind -> its condition, and what embeds it: (B, S, D) and a mask bool (B, S), None if all is real.
KINDS: dict[str, tuple[type[Condition], type[nn.Module]]] = {
    "class": (ClassCondition, ClassEmbedder),
    "text": (TextCondition, TextEmbedder),
    "features": (FeatureCondition, FeatureEmbedder),
    "speech": (SpeechCondition, LetterEncoder),
}


def build_embedder(config) -> nn.Module:
    """The embedder of a generator's config, which holds `condition` and that kind's sizes."""
    if config.condition not in KINDS or (config.condition == "speech" and "voices" not in config):
        raise ValueError(f"condition {config.condition!r} must be one of {tuple(KINDS)}")
    return KINDS[config.condition][1](config)


def check_condition(condition: Condition, config) -> None:
    """Raises ValueError when a generator of this config can't be conditioned on `condition`."""
    expected = KINDS[config.condition][0]
    if not isinstance(condition, expected):
        raise ValueError(
            f"condition {type(condition).__name__} must be a {expected.__name__} for this generator"
        )
    if condition.batch_size < 1:
        raise ValueError("condition has no rows; at least 1 is needed")
    if isinstance(condition, ClassCondition):
        _check_range("label", condition.labels, config.num_classes)
        return
    length = condition.mask.shape[1]
    if not 1 <= length <= config.num_condition_tokens:
        raise ValueError(
            f"condition of {length} tokens must have between 1 and {config.num_condition_tokens}"
        )
    if isinstance(condition, TextCondition):
        _check_range("caption id", condition.ids, config.text_vocab_size)
    elif isinstance(condition, SpeechCondition):
        _check_range("letter", condition.ids, config.text_vocab_size)
        _check_range("voice", condition.voices, len(config.voices))
    elif condition.features.shape[-1] != config.caption_dim:
        raise ValueError(
            f"features of width {condition.features.shape[-1]} must have width {config.caption_dim}"
        )


def _check_range(name: str, values: torch.Tensor, stop: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= stop:
        wrong = low if low < 0 else high
        raise ValueError(f"{name} {wrong} must lie between 0 and {stop - 1}")
