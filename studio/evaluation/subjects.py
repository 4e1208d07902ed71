"""What is evaluated, found by name: tokenizers, alone or inside a pipeline, and generators.

A bundled name, a pipeline folder, a bare tokenizer folder, the folder of a training run (its
`final/`), a part of a pipeline folder, or a Hub id.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.hub import (
    ENDINGS,
    INDEX,
    find_folder,
    fingerprint,
    generator_kind,
    read_index,
    read_json,
)
from studio.pipelines.loading import load_model
from studio.registry import CLASSES, find_class
from studio.tokenizers.base import Tokenizer
from studio.tokenizers.base_video import VideoTokenizer

PARTS = ("final", "tokenizer", "generator")  # folder names that say nothing without the one above


@dataclass(frozen=True)
class Subject:
    """One model of an evaluation.

    Args:
        name: for the report; never a path.
        model: what was loaded.
        fingerprint: of its very weights and config.
    """

    name: str
    model: Any
    fingerprint: str


def medium_of(tokenizer: Tokenizer) -> str:
    """ "image", "video" or "sound"."""
    if isinstance(tokenizer, VideoTokenizer):
        return "video"
    return "sound" if getattr(tokenizer.config, "image_size", None) is None else "image"


def open_tokenizers(names: list[str], *, medium: str = "image") -> list[Subject]:
    """The tokenizers of some models, in evaluation mode, on the CPU.

    Args:
        names: see the module. medium: that all of them must be for.

    Raises:
        ValueError: one line: nothing is found, it can't be loaded, it is no tokenizer, or it is for
            another medium.
    """
    found: list[Subject] = []
    for name in names:
        folder = _tokenizer_folder(name)
        config = read_json(folder / "config.json")
        cls = _tokenizer_class(config.get("_class_name"), name)
        tokenizer = load_model(cls, folder)
        if medium_of(tokenizer) != medium:
            raise ValueError(
                f"model {name!r} is a tokenizer for {medium_of(tokenizer)}, not for {medium}"
            )
        shown = _unused(display_name(name), [subject.name for subject in found])
        found.append(Subject(shown, tokenizer, fingerprint(folder)))
    return found


def _tokenizer_folder(name: str) -> Path:
    folder = find_folder(name)
    if (folder / INDEX).is_file():
        entry = read_index(folder).get("tokenizer")
        if not isinstance(entry, list) or not (folder / "tokenizer").is_dir():
            raise ValueError(f"model {name!r} has no tokenizer")
        return folder / "tokenizer"
    for place in (folder, folder / "final"):
        if (place / "config.json").is_file():
            return place
    raise ValueError(f"model {name!r} holds neither {INDEX} nor config.json")


def _tokenizer_class(class_name: Any, name: str) -> type:
    cls = find_class(class_name) if isinstance(class_name, str) and class_name in CLASSES else None
    if cls is None or not issubclass(cls, Tokenizer):
        raise ValueError(f"model {name!r} is a {class_name}, not a tokenizer")
    return cls


def open_generators(names: list[str], kinds: str | None = None) -> list[Subject]:
    """Pipelines with a generator, one for each generator asked for, in evaluation mode.

    Args:
        names: bundled names, pipeline folders or Hub ids.
        kinds: "autoregressive", "masked", "all", or None for each folder's default.

    Raises:
        ValueError: one line, as `open_tokenizers`, and for pipelines without such a generator.
    """
    from studio.pipelines.auto import Pipeline

    found: list[Subject] = []
    for name in names:
        folder = find_folder(name)
        if not (folder / INDEX).is_file():
            raise ValueError(f"model {name!r} is no pipeline folder: {INDEX} is missing")
        index = read_index(folder)
        if not isinstance(index.get("generator"), list):
            raise ValueError(f"model {name!r} has no generator")
        there = [generator_kind(folder, f"generator{ending}") for ending in ENDINGS]
        wanted = [k for k in dict.fromkeys(there) if k] if kinds == "all" else [kinds]
        for kind in wanted:
            pipe = Pipeline.from_pretrained(str(folder), generator=kind)
            shown = display_name(name) + (f" {kind}" if kind else "")
            shown = _unused(shown, [subject.name for subject in found])
            found.append(Subject(shown, pipe, fingerprint(folder)))
    return found


def display_name(name: str) -> str:
    """A model's name in a report: as given, and for a folder its own name, with the one above it
    where that says more."""
    path = Path(name)
    if not path.is_dir():
        return name
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.name in PARTS else path.name


def _unused(name: str, taken: list[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found
