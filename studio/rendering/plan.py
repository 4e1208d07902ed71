"""From what is wanted to what is to be done: every result with a seed, a key and a file name.

A key is a hash of everything that decides a result (request, revision of the weights, schema) and
of where it goes, so that the same line gives the same key on every machine and in every run. Equal
lines are kept apart by their number among equals. A plan is a file beside the store, which is all
that a worker needs to know.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from studio.hub import bundled_names, find_folder, identity, read_index
from studio.media.files import atomic_write
from studio.pipelines.request import Request
from studio.rendering.jobs import MAX_JOBS, Wanted
from studio.rendering.media import FORMATS, IMAGE, Medium, file_name, medium_of

_OWN = ("prompt", "class_label", "seed", "count")  # what jobs of one batch may differ in
_PER_MODEL = ("model", "revision", "generator")


@dataclass(frozen=True)
class Job:
    """One result.

    Args:
        key: 32 hex digits.
        request: of count 1, with the revision of the model as it is.
        output: the file below the output folder.
        place: the line or cell that wants it.
    """

    key: str
    request: Request
    output: str
    place: str

    @cached_property
    def model(self) -> tuple:
        """What has to be loaded for it."""
        return tuple(getattr(self.request, name) for name in _PER_MODEL)

    @cached_property
    def group(self) -> str:
        """Equal for jobs that can be made in one call."""
        values = {k: v for k, v in self.request.to_dict().items() if k not in _OWN}
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class Plan:
    """All jobs of a batch, and the folders of their models ("model@revision" to folder)."""

    jobs: tuple[Job, ...]
    folders: Mapping[str, str]

    def folder(self, job: Job) -> str:
        """Where the model of a job is: a bundled one is found on every machine, wherever the
        package is installed there."""
        folder, name = self.folders[_label(job.request)], job.request.model
        if not Path(folder).is_dir() and name in bundled_names():
            return str(find_folder(name))
        return folder

    def to_text(self) -> str:
        """JSON lines: the folders, then the jobs."""
        lines: list[Any] = [{"folders": dict(self.folders)}]
        for job in self.jobs:
            lines.append([job.key, job.output, job.place, job.request.to_dict()])
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """A plan from its file. Raises ValueError when it is none."""
        try:
            with open(path, encoding="utf-8") as file:
                folders = json.loads(next(file))["folders"]
                rows = [json.loads(line) for line in file]
            jobs = tuple(Job(k, Request.from_dict(r), out, place) for k, out, place, r in rows)
        except (StopIteration, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is no plan of a batch") from error
        return cls(jobs, folders)

    def write(self, folder: str | Path) -> Path:
        """Writes the plan into `folder` under a name of its content. Returns the path."""
        text = self.to_text()
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = Path(folder) / f"{name}.jsonl"
        return path if path.exists() else atomic_write(path, text)


def make_plan(
    wanted: Iterable[Wanted], *, models: Iterable[str] = (), suffix: str | None = None
) -> Plan:
    """The plan of a batch; every model is found and every name is free of clashes.

    Args:
        wanted: lines or cells.
        models: names, folders or Hub ids given beside the jobs; the first is for jobs that name
            none, and a job names a folder by its last part.
        suffix: of outputs that name none, one of `FORMATS` that all models can make; the usual one
            of each model's medium when None.

    Raises:
        ValueError: one line that begins with the place of the first job that can't be planned.
    """
    if suffix is not None and suffix not in FORMATS:
        raise ValueError(f"--format {suffix!r} must be one of {', '.join(FORMATS)}")
    finder = _Models(list(models))
    seeds: Counter[str] = Counter()
    copies: Counter[str] = Counter()
    jobs: list[Job] = []
    for line in wanted:
        try:
            request = finder.identified(line)
            if not line.seeded:
                request = dataclasses.replace(request, seed=_seed(request, seeds))
            jobs += _jobs(request, line, finder.medium(request), suffix, copies)
        except ValueError as error:
            raise ValueError(f"{line.place}: {error}") from None
        if len(jobs) > MAX_JOBS:
            raise ValueError(f"{line.place}: more than {MAX_JOBS:,} results")
    _check_names(jobs)
    return Plan(tuple(jobs), finder.folders)


def _label(request: Request) -> str:
    return f"{request.model}@{request.revision}"


class _Models:
    """Finds the model of each line, once."""

    def __init__(self, given: list[str]):
        self.folders: dict[str, str] = {}
        self._given: dict[str, dict] = {}
        self._known: dict[tuple, dict] = {}
        self._indexes: dict[str, dict] = {}
        for name in given:
            folder = find_folder(name)
            who = identity(name, folder)
            if who["model"] in self._given:
                raise ValueError(
                    f"--model {name!r}: another model is called {who['model']} as well"
                )
            self._given[who["model"]] = who
            self._enter(who, folder)

    def _enter(self, who: dict, folder: Path) -> None:
        self.folders[f"{who['model']}@{who['revision']}"] = str(folder.resolve())

    def identified(self, line: Wanted) -> Request:
        """The line's request with its model as it really is."""
        request = line.request
        if not line.modelled and self._given:
            request = dataclasses.replace(request, model=next(iter(self._given)))
        asked = (request.model, request.revision)
        if asked not in self._known:
            self._known[asked] = self._find(*asked)
        request = dataclasses.replace(request, **self._known[asked])
        self._check_wanted(request)
        return request

    def _find(self, model: str, revision: str | None) -> dict:
        if model in self._given:
            who = self._given[model]
        else:
            local = model in bundled_names()
            folder = find_folder(model, revision=None if local else revision)
            who = identity(model, folder, revision)
            self._enter(who, folder)
        if revision not in (None, who["revision"]):
            raise ValueError(
                f"revision {revision!r}: the model {model!r} here is {who['revision']!r}"
            )
        return who

    def medium(self, request: Request) -> Medium:
        """What the model of an identified request makes."""
        return medium_of(self._indexes[_label(request)]["_class_name"])

    def _check_wanted(self, request: Request) -> None:
        label = _label(request)
        if label not in self._indexes:
            self._indexes[label] = read_index(Path(self.folders[label]))
        index = self._indexes[label]
        if "generator" not in index:
            raise ValueError(f"model {request.model!r} generates nothing")
        words = "text_tokenizer" in index or medium_of(index["_class_name"]) is not IMAGE
        wanted = "prompt" if words else "class_label"
        if getattr(request, wanted) is None:
            raise ValueError(f"{wanted} is missing: model {request.model!r} needs one")


def _seed(request: Request, seen: Counter[str]) -> int:
    """A seed for a line that names none: the same in every run, another for every equal line."""
    text = dataclasses.replace(request, seed=0, revision=None).to_json()
    seen[text] += 1
    return int.from_bytes(hashlib.sha256(f"{seen[text]}{text}".encode()).digest()[:4])


def _jobs(
    request: Request, line: Wanted, medium: Medium, suffix: str | None, copies: Counter[str]
) -> list[Job]:
    """A line's results, one a sample."""
    suffix = suffix or medium.suffixes[0]
    if suffix not in medium.suffixes:
        known = ", ".join(medium.suffixes)
        raise ValueError(
            f"--format {suffix!r} must be one of {known}: {request.model!r} makes {medium.plural}"
        )
    name = None if line.output is None else file_name(line.output, suffix, medium)
    made = []
    for i, seed in enumerate(request.seeds()):
        single = dataclasses.replace(request, seed=seed, count=1)
        number = f"-{i}" if request.count > 1 else ""
        own = None if name is None else _with_ending(name, number)
        text = f"{single.to_json()}\n{own or suffix}"
        copies[text] += 1
        key = hashlib.sha256(f"{text}\n{copies[text]}".encode()).hexdigest()[:32]
        if own is None:
            own = f"{_slug(single)}-{seed}-{key[:12]}{suffix}"
        elif copies[text] > 1:
            own = _with_ending(own, f"-copy{copies[text]}")
        made.append(Job(key, single, own, line.place))
    return made


def _with_ending(name: str, ending: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{ending}{dot}{suffix}"


def _slug(request: Request) -> str:
    text = request.prompt if request.prompt is not None else f"class-{request.class_label}"
    text = unicodedata.normalize("NFC", text.lower())
    return re.sub(r"[\W_]+", "-", text)[:40].strip("-") or "job"


def _check_names(jobs: list[Job]) -> None:
    """Raises ValueError when two jobs want one file, also on file systems that don't tell case, or
    one wants a file where another wants a folder."""
    taken: dict[str, Job] = {}
    for job in jobs:
        name = unicodedata.normalize("NFC", job.output).casefold()
        if name in taken:
            raise ValueError(
                f"{job.place}: output {job.output!r} is that of {taken[name].place} already"
            )
        taken[name] = job
    for name, job in taken.items():
        for parent in list(Path(name).parents)[:-1]:
            if parent.as_posix() in taken:
                raise ValueError(
                    f"{job.place}: output {job.output!r} needs a folder where "
                    f"{taken[parent.as_posix()].place} wants a file"
                )
