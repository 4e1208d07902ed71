"""Everything that was made: files on disk, one record beside each, an index in memory.

A result is `results/DAY/ID.suffix` with its request inside, and `ID.json` with what the request
does not say (when, how long, starred). The files are the truth: the index is read anew at every
start, and a file that lost its record gets one from the request inside it; one that is broken is
left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from studio.media.files import atomic_write
from studio.pipelines.request import Request
from studio.server.jobs import one_line
from studio.server.media import (
    KINDS,
    MIMES,
    kind_of_file,
    read_request,
    suffix_written,
    write_result,
)
from studio.server.workspace import Workspace

logger = logging.getLogger(__name__)
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_FILES = tuple(suffix for suffix in MIMES if suffix != ".tokens")
MAX_SEARCH = 200


@dataclass(frozen=True)
class Item:
    """One result.

    Args:
        id: also the file's name without its suffix.
        suffix: of the file.
        medium: "image", "audio" or "video".
        request: plain values.
        created: seconds since the epoch.
        starred: kept in sight by someone.
        stats: what making it cost: seconds, passes, tokens, ...
    """

    id: str
    suffix: str
    medium: str
    request: dict[str, Any]
    created: float = 0.0
    starred: bool = False
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is of, for people."""
        return title_of(self.request)

    @property
    def text(self) -> str:
        """All that a search looks at, in lower case."""
        values = [f"{k} {v}" for k, v in self.request.items() if k not in ("schema", "input")]
        return " ".join([self.title, self.medium, KINDS[self.medium].noun, *values]).lower()

    @property
    def mime(self) -> str:
        """The type of its file."""
        return MIMES[self.suffix]


def title_of(request: dict[str, Any]) -> str:
    """What a request is of: its prompt, its class, or that it was made from a file."""
    if request.get("prompt"):
        return str(request["prompt"])
    if request.get("class_label") is not None:
        return f"class {request['class_label']}"
    return "a reconstruction" if request.get("input") else "untitled"


def adopted_id(path: Path) -> str:
    """The id in the gallery of a file that was made elsewhere: of its place and time alone."""
    made = path.stat()
    day = time.strftime("%Y%m%d-%H%M%S", time.localtime(made.st_mtime))
    return f"{day}-{hashlib.sha256(f'{path}|{made.st_mtime_ns}'.encode()).hexdigest()[:8]}"


class Gallery:
    """The results of a workspace.

    Args:
        workspace: whose `results` they are.
    """

    def __init__(self, workspace: Workspace):
        self.folder = workspace.folder / "results"
        self._lock = threading.Lock()
        self._items: dict[str, Item] = {}
        self._texts: dict[str, str] = {}
        for path in sorted(self.folder.glob("*/*")):
            if path.suffix in _FILES and _ID.fullmatch(path.stem) and not path.is_symlink():
                try:
                    self._enter(self._found(path))
                except Exception as error:  # readers of media raise what they like
                    logger.warning("%s is not in the gallery: %s", path.name, one_line(error))

    def __len__(self) -> int:
        return len(self._items)

    def get(self, name: str) -> Item | None:
        """The item of an id; None where there is none."""
        with self._lock:
            return self._items.get(name)

    def path(self, item: Item, suffix: str | None = None) -> Path:
        """Where its file is, or one beside it that ends in `suffix`."""
        return self.folder / item.id[:8] / f"{item.id}{suffix or item.suffix}"

    def read(self, item: Item) -> bytes:
        """The bytes of its file. Raises ValueError when it is gone."""
        try:
            return self.path(item).read_bytes()
        except OSError:
            raise ValueError(f"the file of {item.title!r} is gone") from None

    def add(
        self, media: Any, request: Request, output: Any, *, medium: str, stats: dict[str, Any]
    ) -> Item:
        """Writes one sample and its record; it is in the gallery when both are whole.

        Args:
            media, output: see `media.write_result`.
            request: of this sample alone.
            medium: "image", "audio" or "video".
            stats: what it cost.
        """
        now = time.time()
        name = time.strftime("%Y%m%d-%H%M%S", time.localtime(now)) + f"-{secrets.token_hex(4)}"
        suffix = suffix_written(KINDS[medium])
        item = Item(name, suffix, medium, request.to_dict(), now, stats=stats)
        write_result(self.path(item), media, item.request, output)
        self._save(item)
        return item

    def adopt(self, path: Path, *, medium: str) -> Item | None:
        """Puts a file that was made elsewhere here into the gallery too, by a link where that can
        be; None when it is there already.

        Raises:
            ValueError, OSError: it can't be read, or holds no request.
        """
        item = Item(adopted_id(path), path.suffix.lower(), medium, {}, path.stat().st_mtime)
        if self.get(item.id) is not None or self.path(item).exists():
            return None
        item = replace(item, request=Request.from_dict(read_request(path)).to_dict())
        self.path(item).parent.mkdir(exist_ok=True)
        try:
            os.link(path, self.path(item))
        except OSError:  # another file system, or one without links
            atomic_write(self.path(item), path.read_bytes())
        self._save(item)
        return item

    def search(
        self, words: str = "", *, medium: str | None = None, starred: bool = False
    ) -> list[Item]:
        """The items in which all words occur, newest first.

        Args:
            words: between blanks, in any case.
            medium: only this one.
            starred: only starred ones.
        """
        wanted = words[:MAX_SEARCH].lower().split()
        with self._lock:
            items = sorted(self._items.values(), key=lambda i: (i.created, i.id), reverse=True)
            return [
                item
                for item in items
                if (medium is None or item.medium == medium)
                and (item.starred or not starred)
                and all(word in self._texts[item.id] for word in wanted)
            ]

    def star(self, name: str, starred: bool) -> None:
        """Marks an item, or takes the mark away."""
        item = self.get(name)
        if item is not None and item.starred != starred:
            self._save(replace(item, starred=starred))

    def delete(self, name: str) -> bool:
        """Removes an item and its files for good. False when there was none."""
        with self._lock:
            item = self._items.pop(name, None)
            self._texts.pop(name, None)
        if item is None:
            return False
        for suffix in (item.suffix, ".json", ".tokens", f"{item.suffix}.json"):
            self.path(item, suffix).unlink(missing_ok=True)
        return True

    def _save(self, item: Item) -> None:
        record = {k: v for k, v in asdict(item).items() if k not in ("id", "suffix")}
        atomic_write(self.path(item, ".json"), json.dumps(record, ensure_ascii=False))
        with self._lock:
            self._enter(item)

    def _enter(self, item: Item) -> None:
        self._items[item.id], self._texts[item.id] = item, item.text

    def _found(self, path: Path) -> Item:
        """The item of a file: from its record, or else from the request inside."""
        try:
            values = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            request = Request.from_dict(values["request"]).to_dict()
            return Item(
                path.stem,
                path.suffix,
                str(KINDS[values["medium"]].name),
                request,
                float(values["created"]),
                values.get("starred") is True,
                dict(values.get("stats") or {}),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            request = Request.from_dict(read_request(path)).to_dict()
            medium = kind_of_file(path.name).name
            return Item(path.stem, path.suffix, medium, request, path.stat().st_mtime)
