"""From what a visitor set to requests: blanks left out, variations spelled out, grids laid out,
presets kept, the settings inside a dropped file brought back.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from studio.decoding.modes import EXACT, FAITHFUL, LOSSY, MODES, PLAIN
from studio.hub import fingerprint
from studio.pipelines.request import MAX_SEED, MAX_TEXT, Request
from studio.registry import CLASSES
from studio.rendering.jobs import OPTION, read_grid
from studio.server.keeper import Entry
from studio.server.making import MAX_SAMPLES
from studio.server.media import read_request
from studio.server.workspace import Workspace

PRESETS = "presets.json"
MAX_PRESETS = 100
_FIELDS = [f.name for f in fields(Request)]
_CHOICE = re.compile(r"\{([^{}]*)\}")
# What a preset and a grid may change.
SAMPLING = (
    "guidance_scale", "temperature", "top_k", "top_p", "num_tokens", "num_inference_steps",
    "decoding", "decoding_options",
)  # fmt: skip
AXES = {
    "seed": "Seed",
    "prompt": "Prompt",
    "class_label": "Class",
    "guidance_scale": "Guidance",
    "temperature": "Temperature",
    "top_k": "Top k",
    "top_p": "Top p",
    "num_tokens": "Tokens",
    "num_inference_steps": "Steps",
    "decoding": "Decoding",
    "generator": "Generator",
    "model": "Model",
    "strength": "Strength",
    "num_frames": "Frames",
    "voice": "Voice",
    "speed": "Speed",
    "pitch": "Pitch",
}
BUILT_IN: dict[str, dict[str, Any]] = {
    "The model's own": {},
    "Best guess": {"temperature": 0.0},
    "More daring": {"temperature": 1.2, "top_p": 1.0},
    "Closer to the words": {"guidance_scale": 6.0},
    "First 16 tokens": {"num_tokens": 16},
}


def request_of(values: Mapping[str, Any]) -> Request:
    """The request of some settings; None and blanks are what was not set.

    Raises:
        ValueError: one line that names the field.
    """
    given = {k: v for k, v in values.items() if v not in (None, "", {}) and k in _FIELDS}
    return Request.from_dict(given)


def random_seed() -> int:
    """A seed that is short enough to be read out."""
    return secrets.randbelow(2**31)


def seed_of(text: str) -> int:
    """A seed as it is typed. Raises ValueError unless it is a whole number in range."""
    if not re.fullmatch(r"\d{1,19}", text.strip()) or int(text) > MAX_SEED:
        raise ValueError(f"seed {ascii(text)[:40]} must be a whole number from 0 to {MAX_SEED}")
    return int(text)


def options_of(text: str) -> dict[str, Any]:
    """Options of a strategy from `min_p=0.1, guidance_interval=[0, 4], tree=greedy`: JSON values,
    or else words up to the next comma. Raises ValueError for what is none."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"options of {len(text)} characters are more than {MAX_TEXT}")
    found: dict[str, Any] = {}
    while text:
        part, _, rest = text.partition(",")
        if not part.strip():
            text = rest
            continue
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or "," in name:
            raise ValueError(f"option {ascii(part.strip())[:40]} must look like name=value")
        found[name.strip()], text = _first_value(value)
    return found


def _first_value(text: str) -> tuple[Any, str]:
    """The value that a text begins with, and what follows the comma after it."""
    start = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        value, end = None, 0
    rest = start[end:].lstrip()
    if end and rest[:1] in ("", ","):
        return value, rest[1:]
    word, _, rest = text.partition(",")
    return word.strip(), rest


def options_text(options: Mapping[str, Any]) -> str:
    """The way back of `options_of`: words stand in quotes where they would read as something
    else."""
    parts = []
    for name, value in options.items():
        bare = isinstance(value, str) and _first_value(value) == (value, "")
        parts.append(f"{name}={value if bare else json.dumps(value, ensure_ascii=False)}")
    return ", ".join(parts)


# --- variations and grids ------------------------------------------------------------------------


def variations(prompt: str) -> list[str]:
    """All sentences of a prompt with choices: "{red|blue} apple" gives two.

    Raises:
        ValueError: there are more than one job holds.
    """
    parts = _CHOICE.split(prompt)
    choices = [
        list(dict.fromkeys(c.strip() for c in part.split("|"))) if i % 2 else [part]
        for i, part in enumerate(parts)
    ]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_SAMPLES:
        raise ValueError(f"prompt has {count} variations; {MAX_SAMPLES} fit into one job")
    found = (" ".join("".join(words).split()) for words in itertools.product(*choices))
    return list(dict.fromkeys(found))


def spelled_out(request: Request) -> list[Request]:
    """A request with choices in its prompt, as one a sentence."""
    if request.prompt is None or "{" not in request.prompt:
        return [request]
    return [replace(request, prompt=text) for text in variations(request.prompt)]


@dataclass(frozen=True)
class Grid:
    """Two parameters against each other.

    Args:
        x, y: names of the parameters, see `AXES`; y may be "".
        columns, rows: what each column and row is called.
        requests: row by row.
    """

    x: str
    y: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    requests: tuple[Request, ...]


def axis(name: str, text: str) -> list[Any]:
    """The values of an axis: `1, 2, 3`, `0..9`, or words between commas.

    Args:
        name: among `AXES`, or `option.NAME` for an option of decoding.

    Raises:
        ValueError: one line that names the axis.
    """
    if name not in AXES and not name.startswith(OPTION):
        known = ", ".join([*AXES, f"{OPTION}NAME"])
        raise ValueError(f"axis {ascii(name)[:40]} must be one of {known}")
    if not text.strip():
        raise ValueError(f"axis {name} has no values: write 1, 2, 3 or 0..9")
    if name == "strength":  # a batch knows none
        return [float(v) for v in _numbers(text)]
    try:
        made = [w.request for w in read_grid([f"{name}={text}"], limit=MAX_SAMPLES)]
    except ValueError as error:
        line = re.sub(r"^--grid (cell \d+: )?", "", str(error))
        raise ValueError(line if line.startswith(name) else f"axis {name}: {line}") from None
    if name.startswith(OPTION):
        return [request.decoding_options[name.removeprefix(OPTION)] for request in made]
    return [getattr(request, name) for request in made]


def _changed(request: Request, name: str, value: Any) -> Request:
    """A request with one parameter set."""
    if not name.startswith(OPTION):
        return replace(request, **{name: value})
    options = {**request.decoding_options, name.removeprefix(OPTION): value}
    return replace(request, decoding_options=options)


def _numbers(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d*\.?\d+", part) for part in parts):
        raise ValueError("axis strength must be numbers between commas")
    return parts


def grid(base: Request, x: tuple[str, str], y: tuple[str, str] | None = None) -> Grid:
    """Every combination of two parameters, with all else as in `base`.

    Args:
        base: made once a cell; choices in its prompt are the rows when there is no `y`.
        x, y: name and values as they are typed, see `axis`.

    Raises:
        ValueError: one line: values that don't fit, or more cells than one job holds.
    """
    if y is not None and x[0] == y[0]:
        raise ValueError(f"axis {x[0]} is on both sides")
    columns = axis(*x)
    down = y[0] if y else ""
    rows: list[Any] = [None] if y is None else axis(*y)
    choices = [] if "prompt" in (x[0], down) or not base.prompt else variations(base.prompt)
    if len(choices) > 1:
        if down:
            raise ValueError("prompt has choices, which are one side of a grid: leave Y out")
        down, rows = "prompt", choices
    if len(columns) * len(rows) > MAX_SAMPLES:
        raise ValueError(f"grid of {len(columns) * len(rows)} cells; {MAX_SAMPLES} are allowed")
    base, made = replace(base, count=1), []
    for row in rows:
        for column in columns:
            cell = _changed(base, x[0], column)
            made.append(_changed(cell, down, row) if down else cell)
    names = tuple("" if row is None else str(row) for row in rows)
    return Grid(x[0], down, tuple(map(str, columns)), names, tuple(made))


# --- presets -------------------------------------------------------------------------------------


def presets(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Settings of sampling by their names: those that come along, then those that were kept."""
    kept = workspace.read_json(PRESETS, {})
    found = dict(BUILT_IN)
    for name, values in kept.items() if isinstance(kept, dict) else ():
        try:
            found[str(name)[:60]] = _sampling(request_of(values))
        except (ValueError, AttributeError):
            continue
    return found


def keep_preset(workspace: Workspace, name: str, request: Request) -> None:
    """Keeps how a request samples under a name. Raises ValueError for a name that can't be."""
    name = name.strip()
    if not 1 <= len(name) <= 60 or not name.isprintable() or name in BUILT_IN:
        raise ValueError(
            f"preset {ascii(name)[:70]} must be a name of 1 to 60 characters, a new one"
        )
    kept = workspace.read_json(PRESETS, {})
    kept = kept if isinstance(kept, dict) else {}
    if len(kept) >= MAX_PRESETS and name not in kept:
        raise ValueError(f"preset {name!r}: {MAX_PRESETS} are kept already")
    workspace.write_json(PRESETS, {**kept, name: _sampling(request)})


def drop_preset(workspace: Workspace, name: str) -> None:
    """Forgets a preset that was kept."""
    kept = workspace.read_json(PRESETS, {})
    if isinstance(kept, dict) and kept.pop(name, None) is not None:
        workspace.write_json(PRESETS, kept)


def _sampling(request: Request) -> dict[str, Any]:
    return {k: v for k, v in request.to_dict().items() if k in SAMPLING}


# --- files that were made here -------------------------------------------------------------------


def settings_of_file(workspace: Workspace, name: str, data: bytes) -> Request:
    """The request inside an uploaded file; the file is treated as hostile.

    Raises:
        ValueError: one line: no file of ours, or a request that is not allowed.
    """
    with workspace.uploaded(name, data) as path:
        return Request.from_dict(read_request(path))


def other_revision(entry: Entry, revision: str | None) -> str | None:
    """The revision of a model that is here, when a file names another one; else None."""
    if revision is None:
        return None
    here = entry.folder.name if entry.origin == "hub" else fingerprint(entry.folder)
    return None if here == revision else here


# --- ways to decode ------------------------------------------------------------------------------


def modes_text() -> dict[str, str]:
    """Every mode of decoding, and what it gives."""
    texts = {PLAIN: "one token after another"}
    texts |= dict.fromkeys(FAITHFUL, "the same tokens in fewer passes")
    texts |= dict.fromkeys(EXACT, "another draw from the same distribution")
    texts |= dict.fromkeys(LOSSY, "draws from a similar distribution")
    return {name: texts[name] for name in MODES}


def strategies(kind: str) -> list[str]:
    """Classes of decoding for a kind of generator, which files may name in a mode's place."""
    names = [n for n, module in CLASSES.items() if module.startswith("studio.decoding.")]
    return [name for name in names if (name == "Masked") == (kind == "masked")]


def described(request: Mapping[str, Any], *, without: Sequence[str] = ()) -> str:
    """A request's settings in one line, without what stands elsewhere."""
    hidden = {"schema", "count", "revision", "prompt", "class_label", *without}
    parts = []
    for name, value in request.items():
        if name in hidden:
            continue
        value = options_text(value) if isinstance(value, dict) else value
        value = str(value)[:12] if name == "input" else value
        parts.append(f"{name.replace('_', ' ')} {value}")
    return " · ".join(parts)
