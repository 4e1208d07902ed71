"""What the page on models shows and does: cards, licences, memory, conversion of checkpoints."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Any

from studio.hub import bundled_names
from studio.media import front_matter
from studio.server.keeper import Keeper
from studio.server.workspace import Workspace

MAX_CARD = 256 * 1024
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".jit")
_IMAGE = re.compile(r"!\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])?", re.DOTALL)
_HTML = re.compile(r"<[^>]{0,2000}>")


def card_parts(folder: Path) -> tuple[str, str]:
    """The front matter and the text of a model's card; empty where there is none that reads."""
    try:
        with open(folder / "README.md", encoding="utf-8") as file:
            text = file.read(MAX_CARD)
    except (OSError, ValueError):
        return "", ""
    return front_matter.split(text)


def card_values(folder: Path) -> dict[str, Any]:
    """The short values in the front matter of a model's card, see `front_matter.read`."""
    return front_matter.read(card_parts(folder)[0])


def licence(folder: Path) -> str:
    """What a model's card names as its licence; "" when it names none."""
    found = card_values(folder).get("license", "")
    return ", ".join(found) if isinstance(found, list) else str(found)


def card_text(folder: Path) -> str:
    """The text of a model's card: words alone, neither pictures, which would be fetched, nor
    markup."""
    text = _HTML.sub("", _IMAGE.sub(r"*\1*", card_parts(folder)[1]))
    return text.replace("![", "[").strip()


def voices(folder: Path) -> list[str]:
    """Who can speak, by the config of a model's generator; none for models of other media."""
    from studio.hub import read_json

    try:
        found = read_json(folder / "generator" / "config.json").get("voices")
    except ValueError:
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def memory_used() -> int:
    """Bytes of memory that this process holds now, or at most held where that can't be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def checkpoints(workspace: Workspace) -> list[str]:
    """Names of the weight files in the workspace's `checkpoints`."""
    folder = workspace.folder / "checkpoints"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in found if p.suffix in _SUFFIXES and p.is_file())


def families() -> list[str]:
    """Families of official checkpoints that hold weights."""
    from studio.conversion.family import families as known

    return sorted(name for name, family in known().items() if family.model)


def convert(workspace: Workspace, keeper: Keeper, file: str, family: str, name: str) -> str:
    """Converts a checkpoint of the workspace into one of its models; its name.

    Raises:
        ValueError: one line: a name that is taken, a file or family that is not there, weights that
            don't fit.
    """
    from studio.conversion.convert import convert as run

    if file not in checkpoints(workspace):
        raise ValueError(f"file {ascii(file)[:60]} is not in checkpoints")
    if name in [*bundled_names(), *(entry.name for entry in keeper.entries())]:
        raise ValueError(f"name {name!r} is taken already")
    out = workspace.place("models", name)
    run(workspace.place("checkpoints", file), family=family, out=out)
    return name
