"""The request: everything that decides a result, as one frozen dataclass.

The command line, the app, a line of a jobs file, a REST body and the metadata inside every written
file are this one schema. Read back it gives the same picture again, bit for bit on the same
machine. What is read is treated as hostile: known keys only, types and ranges checked, sizes
bounded. Never in it: a file path or a user's name; a model that is a folder is named by the
folder's last part.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from studio.decoding.modes import MODES, find_mode
from studio.hub import DEFAULT_MODEL, KINDS
from studio.registry import CLASSES, find_class

SCHEMA = 1
MAX_SEED = 2**63 - 1
MAX_COUNT = 1024
MAX_PROMPT = 1000
MAX_TEXT = 64 * 1024

_MODEL = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}")
_VOICE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,39}")
# name -> (type, smallest, largest)
_RANGES: dict[str, tuple[type, float, float]] = {
    "class_label": (int, 0, 10**6),
    "seed": (int, 0, MAX_SEED),
    "count": (int, 1, MAX_COUNT),
    "guidance_scale": (float, 0, 1000),
    "temperature": (float, 0, 100),
    "top_k": (int, 0, 10**7),
    "top_p": (float, 0, 1),
    "num_tokens": (int, 1, 10**6),
    "num_inference_steps": (int, 1, 10_000),
    "strength": (float, 0, 1),
    "num_frames": (int, 1, 1 << 16),
    "speed": (float, 0.5, 2),
    "pitch": (float, -1, 1),
}
# What a pipeline's call takes under the same name.
_CALL = ("guidance_scale", "temperature", "top_k", "top_p", "num_tokens", "num_inference_steps")
_CALL += ("strength", "num_frames", "voice", "speed", "pitch")
# What calls of a medium name the number of samples.
_COUNTS = {
    "image": "num_images_per_prompt",
    "audio": "num_audios_per_prompt",
    "video": "num_videos_per_prompt",
}


@dataclass(frozen=True)
class Request:
    """What to make. None means the model's own default.

    Args:
        model: a bundled name, a Hub id, or the last part of a folder's name.
        revision: of a Hub id, or the fingerprint of a folder.
        generator: "autoregressive" or "masked".
        prompt: 1 to 1000 characters; blanks around it are dropped.
        class_label: for class-conditional models.
        input: SHA-256 of the picture that was changed, 64 hex digits.
        seed: 0 to 2**63 - 1; sample i has seed + i.
        count: samples, 1 to 1024.
        guidance_scale, temperature, top_k, top_p, num_tokens, num_inference_steps, strength: as in
            the pipelines.
        num_frames: of clips; as many as the tokenizer's have when None.
        voice, speed, pitch: of speech, see `TextToSpeechPipeline`.
        decoding, decoding_options: a strategy's class name or a mode's (`decoding.modes.MODES`),
            and options of it beside those above.
        schema: version of this schema.

    Raises:
        ValueError: one line that names the field, its value and what is allowed.
    """

    model: str = DEFAULT_MODEL
    revision: str | None = None
    generator: str | None = None
    prompt: str | None = None
    class_label: int | None = None
    input: str | None = None
    seed: int = 0
    count: int = 1
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_tokens: int | None = None
    num_inference_steps: int | None = None
    strength: float | None = None
    num_frames: int | None = None
    voice: str | None = None
    speed: float | None = None
    pitch: float | None = None
    decoding: str | None = None
    decoding_options: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self):
        if self.schema != SCHEMA or isinstance(self.schema, bool):
            raise ValueError(f"schema {_shown(self.schema)} must be {SCHEMA}")
        _check_pattern("model", self.model, _MODEL, "a name or a Hub id (owner/name)")
        _check_pattern("revision", self.revision, _REVISION, "a branch, tag or commit", none=True)
        _check_pattern("input", self.input, re.compile("[0-9a-f]{64}"), "64 hex digits", none=True)
        _check_pattern("voice", self.voice, _VOICE, "a name of letters, digits, - and _", none=True)
        _check_choice("generator", self.generator, list(KINDS))
        strategies = [n for n, module in CLASSES.items() if module.startswith("studio.decoding.")]
        _check_choice("decoding", self.decoding, [*strategies, *MODES])
        if self.prompt is not None:
            object.__setattr__(self, "prompt", check_prompt(self.prompt))
        if self.prompt is not None and self.class_label is not None:
            raise ValueError("prompt and class_label exclude each other")
        for name, (kind, low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name in ("seed", "count"):
                object.__setattr__(self, name, _checked_number(name, value, kind, low, high))
        object.__setattr__(self, "decoding_options", _checked_options(self.decoding_options))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what is None or empty."""
        return {k: v for k, v in asdict(self).items() if v is not None and v != {}}

    def to_json(self) -> str:
        """One line of JSON with sorted keys; read back by `from_json`."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Any) -> Request:
        """A request from untrusted values. Raises ValueError for a key or value that is not
        allowed."""
        if not isinstance(data, dict):
            raise ValueError(f"request must be a JSON object, not {type(data).__name__}")
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise ValueError(
                    f"request has the unknown key {_shown(key)}; known: {', '.join(known)}"
                )
        return cls(**data)

    @classmethod
    def from_json(cls, text: str | bytes) -> Request:
        """A request from untrusted JSON of at most 64 KiB."""
        if not isinstance(text, str | bytes) or len(text) > MAX_TEXT:
            raise ValueError(f"request must be JSON text of at most {MAX_TEXT} bytes")
        try:
            data = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise ValueError("request is not valid JSON") from None
        return cls.from_dict(data)

    def seeds(self) -> list[int]:
        """One seed a sample: seed, seed + 1, ..., beginning again at 0 after the largest."""
        return [(self.seed + i) % (MAX_SEED + 1) for i in range(self.count)]

    def generators(self) -> list:
        """One `torch.Generator` a sample."""
        import torch

        return [torch.Generator().manual_seed(seed) for seed in self.seeds()]

    def arguments(self, pipe) -> dict[str, Any]:
        """Keyword arguments for a call of `pipe` (or its `stream`) that does this request.

        Raises:
            ValueError: the pipeline wants a prompt and there is none, or the like; an option that
                the strategy does not know.
        """
        words = pipe.medium != "image" or "text_tokenizer" in pipe.part_names()
        wanted = "prompt" if words else "class_label"
        value = getattr(self, wanted)
        if value is None:
            raise ValueError(f"{wanted} is missing: model {self.model!r} needs one")
        call = {name: getattr(self, name) for name in _CALL if getattr(self, name) is not None}
        call["prompt" if wanted == "prompt" else "class_labels"] = value
        call |= {_COUNTS[pipe.medium]: self.count, "generator": self.generators()}
        if self.decoding is not None or self.decoding_options:
            call["decoding"] = self._strategy(pipe)
        known = inspect.signature(getattr(pipe, "prepare", pipe.__call__)).parameters
        for name in _CALL:
            if name in call and name not in known:
                value, made = _shown(call[name]), pipe.medium
                raise ValueError(f"{name} {value} is no option of model {self.model!r} ({made})")
        return call

    def _strategy(self, pipe):
        config, options = pipe.decoding.config, self.decoding_options
        if self.decoding is None:
            return pipe.sped_up(type(pipe.decoding).from_config(config, **options))
        if self.decoding in MODES:
            return find_mode(self.decoding, config, **options)
        return find_class(self.decoding).from_config(config, **options)


def number_fields() -> dict[str, tuple[type, float, float]]:
    """The fields that are numbers: type, smallest and largest value; for descriptions."""
    return dict(_RANGES)


def _shown(value: Any) -> str:
    """A value for an error line, cut to a bearable length."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_prompt(value: Any) -> str:
    """A prompt without blanks around it. Raises ValueError unless it is text of 1 to 1000
    characters."""
    if not isinstance(value, str):
        raise ValueError(f"prompt {_shown(value)} must be text")
    text = value.strip()
    if not 1 <= len(text) <= MAX_PROMPT:
        raise ValueError(f"prompt of {len(text)} characters must have 1 to {MAX_PROMPT}")
    if any(ch == "\x00" or "\ud800" <= ch <= "\udfff" for ch in text):
        raise ValueError("prompt holds a character that is no text (NUL or half of a pair)")
    return text


def _check_pattern(name: str, value: Any, pattern: re.Pattern, allowed: str, *, none=False) -> None:
    if none and value is None:
        return
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} {_shown(value)} must be {allowed}")


def _check_choice(name: str, value: Any, allowed: list[str]) -> None:
    if value is not None and (not isinstance(value, str) or value not in allowed):
        raise ValueError(f"{name} {_shown(value)} must be one of {', '.join(allowed)}")


def _checked_number(name: str, value: Any, kind: type, low: float, high: float) -> float:
    fits = isinstance(value, int) or (kind is float and isinstance(value, float))
    if isinstance(value, bool) or not fits or not low <= value <= high:
        word = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} {_shown(value)} must be {word} from {low} to {high}")
    return kind(value)


def _checked_options(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 32:
        raise ValueError(
            f"decoding_options {_shown(value)} must be an object of at most 32 options"
        )
    for key, option in value.items():
        if not isinstance(key, str) or not _OPTION.fullmatch(key):
            raise ValueError(f"decoding_options has the key {_shown(key)}, which is no option")
        items = option if isinstance(option, list) and len(option) <= 64 else [option]
        if not all(_is_plain(item) for item in items):
            raise ValueError(f"decoding_options {key} {_shown(option)} must be a plain value")
    return dict(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 64 and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return (
        value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
    )


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
