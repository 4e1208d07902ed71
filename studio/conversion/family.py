"""What one family of official checkpoints is, as data: `Family`, and the registry of them.

A family is one file in this folder that calls `register(Family(...))`. It holds all that is known
of the official files: how their keys are called, how their config reads, and how a recorded fixture
of the official implementation is compared (`checks`). Nothing outside this package knows an
official key.
"""

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

State = dict[str, torch.Tensor]

# Files of this folder that hold the machinery.
_NO_FAMILIES = ("family", "convert", "tensors_only", "torchscript")


_families: dict[str, "Family"] = {}


@dataclass(frozen=True)
class Rule:
    """One line of a key table.

    `{i}` (a single letter) stands for a number and `{name}` for one or more parts of a key; both
    sides use the same ones. Several official tensors that are one of ours have a rule each, with
    their place `part`; they are stacked along the first axis.
    """

    official: str
    ours: str
    part: int = 0

    def rename(self, key: str) -> str | None:
        """Our name of an official key, or None where the rule does not apply."""
        return _rename(self.official, self.ours, key)

    def original(self, key: str) -> str | None:
        """The official name of one of our keys, or None where the rule does not apply."""
        return _rename(self.ours, self.official, key)


@dataclass(frozen=True)
class Source:
    """What a checkpoint brings along: the official `config` (None when there is none), the `state`
    under official keys, and the `name` of the file, which sometimes is all that tells two releases
    apart.
    """

    config: dict[str, Any] | None
    state: State
    name: str

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of an official tensor. Raises ValueError when it is missing."""
        if key not in self.state:
            raise ValueError(f"the checkpoint {self.name} has no tensor {key!r}")
        return tuple(self.state[key].shape)

    def count(self, pattern: str) -> int:
        """How many numbers `{i}` there are such that some key starts with `pattern`: one more than
        the largest.
        """
        form = _compile(pattern + "{rest}")
        found = [int(m["i"]) for m in map(form.fullmatch, self.state) if m]
        return max(found, default=-1) + 1

    def widths(self, pattern: str) -> list[int]:
        """The first sizes of the tensors called `pattern`, for `{i}` from 0 on."""
        keys = [pattern.replace("{i}", str(i)) for i in range(len(self.state))]
        return [self.state[key].shape[0] for key in keys if key in self.state]


class Fixture(Protocol):
    """What `Family.checks` works with: the recorded tensors of the official implementation, and
    where to report.
    """

    config: dict[str, Any]

    def __contains__(self, name: str) -> bool: ...

    def names(self) -> list[str]:
        """The names of all recorded tensors."""
        ...

    def input(self, name: str) -> torch.Tensor:
        """A recorded tensor, to be used as an input."""
        ...

    def expect(self, name: str, value: torch.Tensor, tolerance: float = 0.0) -> None:
        """Compare our `value` with the recorded tensor `name`: shapes, then values (whole numbers
        exactly).
        """
        ...

    def decode(self, model: Any, condition: Any, strategy: str, **options: Any) -> "Decoded":
        """Run the decoding strategy of that name with these options, on one generator."""
        ...


@dataclass(frozen=True)
class Decoded:
    """A decoding run: `tokens` (B, N); `logits`, one guided (B, n, V) a network call; `inputs`, one
    (B, N) a step with -1 where a token was not known (unordered generators only).
    """

    tokens: torch.Tensor
    logits: list[torch.Tensor]
    inputs: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Family:
    """One official family.

    Args:
        name: as in `studio convert --family NAME`.
        kind: "tokenizer", "generator" or "algorithm" (recorded vectors without weights).
        model: the name of our class in the registry; empty for an algorithm.
        rules: official keys to ours; the first that applies counts.
        config: the arguments of our class, read from a `Source`. Raises ValueError for what it does
            not know.
        checks: compares a fixture with the converted model (None for an algorithm).
        ignored: official keys that play no part, with `{i}` and `{name}` as in rules.
        prepare: changes the official state before renaming, for what one tensor of ours makes of
            several.
        trainer_objects: pickles of this family carry objects of their trainer beside the weights;
            they are passed over, never made.
        about: one line for listings.
    """

    name: str
    kind: str
    model: str
    rules: Sequence[Rule]
    config: Callable[[Source], dict[str, Any]]
    checks: Callable[[Any, Fixture], None]
    ignored: Sequence[str] = ()
    prepare: Callable[[State], State] | None = None
    trainer_objects: bool = False
    about: str = ""

    def rename(self, key: str) -> tuple[str, Rule] | None:
        """Our name of an official key and the rule that gave it, or None when no rule knows it."""
        for rule in self.rules:
            name = rule.rename(key)
            if name is not None:
                return name, rule
        return None

    def origins(self, key: str) -> dict[int, str]:
        """The official names that one of our keys is made of, by their place (our own where no rule
        leads back).

        Where two official names lead to one place, the first rule's counts.
        """
        found: dict[int, str] = {}
        for rule in self.rules:
            if name := rule.original(key):
                found.setdefault(rule.part, name)
        return found or {0: key}

    def ignores(self, key: str) -> bool:
        return any(_compile(pattern).fullmatch(key) for pattern in self.ignored)


def cases(fixture: Fixture, name: str = "input") -> list[str]:
    """The cases of a fixture that records `name.CASE` for each."""
    return [key.removeprefix(name + ".") for key in fixture.names() if key.startswith(name + ".")]


def register(*families: Family) -> None:
    """Make families known by name."""
    for family in families:
        _families[family.name] = family


def families() -> dict[str, Family]:
    """All families by name: every other file of this folder is asked for its own."""
    package = importlib.import_module("studio.conversion")
    for file in pkgutil.iter_modules(package.__path__):
        if file.name not in _NO_FAMILIES:
            importlib.import_module(f"studio.conversion.{file.name}")
    return dict(_families)


def find_family(name: str) -> Family:
    """The family called `name`. Raises ValueError with the known names when there is none."""
    known = families()
    if name not in known:
        raise ValueError(f"family {name!r} is not known; known: {', '.join(known)}")
    return known[name]


_MISSING = object()


def setting(config: dict[str, Any], path: str, default: Any = _MISSING) -> Any:
    """The entry `a.b.c` of nested dicts. Raises ValueError when it is missing and there is no
    default.
    """
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            if default is _MISSING:
                raise ValueError(f"the official config lacks {path!r}")
            return default
        value = value[part]
    return value


def _placeholders(pattern: str) -> Iterator[tuple[str, str]]:
    """The pattern in pieces: (text, name of the placeholder after it, "" at the end)."""
    position = 0
    for match in re.finditer(r"\{(\w+)\}", pattern):
        yield pattern[position : match.start()], match[1]
        position = match.end()
    yield pattern[position:], ""


@functools.cache
def _compile(pattern: str) -> re.Pattern[str]:
    form = ""
    for text, name in _placeholders(pattern):
        form += re.escape(text)
        if name:
            form += rf"(?P<{name}>\d+)" if len(name) == 1 else rf"(?P<{name}>.+)"
    return re.compile(form)


def _rename(source: str, target: str, key: str) -> str | None:
    match = _compile(source).fullmatch(key)
    return target.format(**match.groupdict()) if match else None
