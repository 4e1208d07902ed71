"""What a batch shall make, read from a jobs file or a grid: JSONL, CSV, `prompt=a,b seed=0..9`.

A line is a `Request` (its fields by name) and, if wished, `output`, the name of the file. What is
wrong is said in one line with file, line and field. Leaves out on purpose: jobs that change a
picture (`input`, `strength`), since a line can't hold one.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from studio.pipelines.request import MAX_TEXT, Request

MAX_JOBS = 1_000_000
OUTPUT = "output"
OPTION = "option."  # before the name of a decoding option, in columns and axes
_TYPES = {field.name: str(field.type) for field in fields(Request)}
_NAMES = [name for name in _TYPES if name not in ("schema", "input", "strength")]
_RANGE = re.compile(r"(-?\d{1,19})\.\.(-?\d{1,19})")
_PART = re.compile(r"[\w(][\w .,()+=-]{0,119}")


@dataclass(frozen=True)
class Wanted:
    """One line of a jobs file, or one cell of a grid.

    Args:
        request: what to make; its seed counts only if `seeded`.
        place: where it stands, for errors: "jobs.jsonl line 3".
        output: the file's name below the output folder, with or without a suffix; None for one
            that is made from the prompt.
        seeded: whether the line named a seed.
        modelled: whether the line named a model.
    """

    request: Request
    place: str
    output: str | None = None
    seeded: bool = True
    modelled: bool = True


def read_jobs(path: str | Path) -> list[Wanted]:
    """The jobs of a file.

    Args:
        path: `.jsonl` or `.ndjson`, one JSON object a line; or `.csv` with field names in its
            first row, where an empty cell means that the field is absent. UTF-8; empty lines are
            skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one line: the first that is wrong, with its number, and how many more there are.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"jobs file {str(path)!r} must end in one of {', '.join(readers)}")
    if not path.exists():
        raise FileNotFoundError(f"jobs file {str(path)!r} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"jobs file {str(path)!r} is a folder")
    found = _checked(f"{path.name} line", readers[path.suffix.lower()](path))
    if not found:
        raise ValueError(f"jobs file {str(path)!r} holds no job")
    return found


def _checked(name: str, lines: Iterable[tuple[int, Callable[[], dict]]]) -> list[Wanted]:
    """Every line as a `Wanted`; raises for the first wrong one after all were looked at. A place is
    called by `name` and its number."""
    found: list[Wanted] = []
    wrong: list[str] = []
    for number, parse in lines:
        place = f"{name} {number}"
        try:
            found.append(_wanted(parse(), place))
        except ValueError as error:
            wrong.append(f"{place}: {error}")
        if len(found) + len(wrong) > MAX_JOBS:
            raise ValueError(f"{place}: at most {MAX_JOBS:,} are allowed")
    if wrong:
        more = f" ({len(wrong) - 1} more are wrong)" if len(wrong) > 1 else ""
        raise ValueError(wrong[0] + more)
    return found


def _wanted(values: dict[str, Any], place: str) -> Wanted:
    """A line's values, checked. Raises ValueError with the field's name."""
    values = dict(values)
    output = values.pop(OUTPUT, None)
    for name in [key for key in values if key.startswith(OPTION)]:
        options = values.setdefault("decoding_options", {})
        if not isinstance(options, dict):
            raise ValueError("decoding_options must be a JSON object")
        options[name.removeprefix(OPTION)] = values.pop(name)
    for name in ("input", "strength"):
        if name in values:
            raise ValueError(f"{name}: a batch can't change pictures; use studio generate --image")
    for name in values:
        if name not in _TYPES:
            known = ", ".join([OUTPUT, *_NAMES])
            raise ValueError(f"field {ascii(name)[:60]} is unknown; known: {known}")
    return Wanted(
        request=Request.from_dict(values),
        place=place,
        output=None if output is None else check_output(output),
        seeded="seed" in values,
        modelled="model" in values,
    )


def check_output(name: Any) -> str:
    """`name` itself: a file's name, or `folder/name`. Raises ValueError for one that could leave
    the output folder or that some file system can't hold."""
    if not isinstance(name, str) or not 1 <= len(name) <= 200:
        raise ValueError(f"output {ascii(name)[:60]} must be a name of 1 to 200 characters")
    parts = name.split("/")
    fits = all(_PART.fullmatch(part) and part[-1] not in " ." for part in parts)
    if not fits or len(parts) > 8 or max(len(part.encode()) for part in parts) > 200:
        raise ValueError(
            f"output {ascii(name)[:60]} must be a name like 'apple' or 'fruit/apple.png': letters, "
            "digits, blanks and _ - . , ( ) + ="
        )
    if parts[0].casefold() == "failed" and len(parts) > 1:
        raise ValueError(f"output {name!r}: the folder 'failed' is for jobs that failed")
    return name


# --- JSONL ---------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Iterator[tuple[int, Callable[[], dict]]]:
    with open(path, "rb") as file:
        for number in itertools.count(1):
            line = file.readline(MAX_TEXT + 1)
            if not line:
                return
            if len(line) > MAX_TEXT:
                raise ValueError(f"{path.name} line {number}: longer than {MAX_TEXT} bytes")
            if line.strip() and line != b"\xef\xbb\xbf\n":
                yield number, lambda line=line: _parse_json(line)


def _parse_json(line: bytes) -> dict:
    try:
        values = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=float)
    except UnicodeDecodeError:
        raise ValueError("is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"must be a JSON object, not {type(values).__name__}")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"field {ascii(twice)[:60]} stands twice")
    return values


# --- CSV -----------------------------------------------------------------------------------------


def _csv_rows(path: Path) -> Iterator[tuple[int, Callable[[], dict]]]:
    head: list[str] | None = None
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                if head is None:
                    head = _check_head([cell.strip() for cell in row], f"{path.name} line 1")
                else:
                    yield rows.line_num, lambda row=row, head=head: _parse_row(row, head)
        except csv.Error as error:
            raise ValueError(f"{path.name} line {rows.line_num}: is no CSV: {error}") from None
        except UnicodeDecodeError:
            place = f"{path.name} line {rows.line_num + 1}"
            raise ValueError(f"{place}: is no UTF-8 text") from None


def _check_head(head: list[str], place: str) -> list[str]:
    for name in head:
        if head.count(name) > 1:
            raise ValueError(f"{place}: column {ascii(name)[:60]} stands twice")
        if name not in (*_NAMES, OUTPUT) and not name.startswith(OPTION):
            known = ", ".join([OUTPUT, *_NAMES, f"{OPTION}NAME"])
            raise ValueError(f"{place}: column {ascii(name)[:60]} is unknown; known: {known}")
    return head


def _parse_row(row: list[str], head: list[str]) -> dict[str, Any]:
    if len(row) > len(head):
        raise ValueError(f"has {len(row)} cells, but there are {len(head)} columns")
    return {n: typed(n, cell.strip()) for n, cell in zip(head, row, strict=False) if cell.strip()}


def typed(name: str, text: str) -> Any:
    """Text as the value of a field; what does not fit stays text, which `Request` refuses."""
    kind = "json" if name.startswith(OPTION) else _TYPES.get(name, "str")
    try:
        if kind.startswith(("json", "dict")):
            return json.loads(text)
        if kind.startswith(("int", "float")):
            return int(text) if kind.startswith("int") else float(text)
    except (ValueError, RecursionError):
        return text
    return text


# --- grids ---------------------------------------------------------------------------------------


def read_grid(axes: Sequence[str], *, limit: int = MAX_JOBS) -> list[Wanted]:
    """Every combination of some values, the last axis fastest.

    Args:
        axes: such as "prompt=red apple,rocket", "seed=0..9" (both ends included),
            "guidance_scale=1,2", "option.min_p=0,0.1". A value that holds a comma stands in double
            quotes.
        limit: more combinations are refused, before any is made.

    Raises:
        ValueError: one line that names the axis.
    """
    found: dict[str, list[Any]] = {}
    for axis in axes:
        name, sign, text = axis.partition("=")
        name = name.strip()
        if not sign or (name not in _NAMES and not name.startswith(OPTION)):
            known = ", ".join([*_NAMES, f"{OPTION}NAME"])
            raise ValueError(f"--grid {axis[:60]!r} must be NAME=VALUES with NAME one of {known}")
        if name in found:
            raise ValueError(f"--grid {name} is given twice")
        found[name] = _axis_values(name, text)
    total = 1
    for values in found.values():
        total *= len(values)
    if total > limit:
        raise ValueError(f"--grid has {total:,} cells; {limit:,} are allowed")
    cells = [dict(zip(found, cell, strict=True)) for cell in itertools.product(*found.values())]
    return _checked("--grid cell", ((i, lambda cell=cell: cell) for i, cell in enumerate(cells, 1)))


def _axis_values(name: str, text: str) -> list[Any]:
    match = _RANGE.fullmatch(text.strip())
    if match and _TYPES.get(name, "").startswith("int"):
        low, high = int(match[1]), int(match[2])
        if not 0 <= high - low < MAX_JOBS:
            raise ValueError(f"--grid {name}={text.strip()} must rise, by less than {MAX_JOBS:,}")
        return list(range(low, high + 1))
    try:
        (cells,) = csv.reader([text], strict=True, skipinitialspace=True)
    except (csv.Error, ValueError):
        raise ValueError(f"--grid {name}={text[:60]!r} must be values between commas") from None
    values = [typed(name, cell.strip()) for cell in cells]
    if "" in values:
        raise ValueError(f"--grid {name}={text[:60]!r} has an empty value")
    return values
