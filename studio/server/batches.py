"""Batches: jobs tables in the workspace, rendered by processes beside the queue, resumed at will.

A batch is a folder with its jobs file and the output folder of `studio render`, whose store makes
sure that nothing is lost or made twice; the same batch may be finished by the command line. One
batch runs at a time, in a thread that watches the workers.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from studio.hub import DEFAULT_MODEL
from studio.media.files import atomic_write
from studio.rendering.engines import LocalEngine
from studio.rendering.jobs import OPTION, Wanted, read_jobs, typed
from studio.rendering.plan import Plan, make_plan
from studio.rendering.render import Progress, render
from studio.rendering.sheet import write_sheet
from studio.rendering.store import HIDDEN
from studio.rendering.worker import Options, store_of
from studio.server.adoption import Adoption, made
from studio.server.gallery import Gallery
from studio.server.jobs import one_line
from studio.server.keeper import Keeper
from studio.server.workspace import Workspace

logger = logging.getLogger(__name__)
MAX_ROWS = 10_000
MAX_TABLE = 8 * 2**20
SUFFIXES = (".jsonl", ".csv")
_STATE = "state.json"


@dataclass(frozen=True)
class Standing:
    """How a batch stands.

    Args:
        name: of the batch.
        total, done, failed: results.
        running: whether it is being worked at now.
        left: seconds until it is finished; None while that can't be told.
        error: one line, when it ended badly.
        updated: seconds since the epoch.
    """

    name: str
    total: int = 0
    done: int = 0
    failed: int = 0
    running: bool = False
    left: float | None = None
    error: str | None = None
    updated: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether every result is there or has failed."""
        return 0 < self.total <= self.done + self.failed


class _Stopped(Exception):
    """Somebody stopped the batch."""


class Batches:
    """The batches of a workspace.

    Args:
        workspace, keeper: of the studio.
        gallery: gets what is made; none when None.
        device: as for `studio render`.
    """

    def __init__(
        self,
        workspace: Workspace,
        keeper: Keeper,
        *,
        gallery: Gallery | None = None,
        device: str = "auto",
    ):
        self._workspace, self._keeper, self._device = workspace, keeper, device
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._now: Standing | None = None
        self._adoption = None if gallery is None else Adoption(gallery, keeper)
        if self._adoption is not None:
            self._adoption.soon(*(workspace.folder / "batches" / name for name in self.names()))

    def names(self) -> list[str]:
        """Batches, the newest first."""
        folders = [p for p in (self._workspace.folder / "batches").iterdir() if p.is_dir()]
        folders = [p for p in folders if self._table(p) is not None]
        return [p.name for p in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)]

    def free_name(self) -> str:
        """The first of `batch-1`, `batch-2`, ... that is not taken."""
        taken = {name.lower() for name in self.names()}
        return next(n for n in (f"batch-{i}" for i in itertools.count(1)) if n not in taken)

    def save(self, name: str, text: str, *, suffix: str = ".jsonl", replace: bool = False) -> int:
        """Keeps a jobs table under a name. Returns how many rows.

        Args:
            replace: take the place of a table of that name.

        Raises:
            ValueError: one line: a name that can't be or is taken, a row that is wrong, a batch
                that runs.
        """
        folder = self._workspace.place("batches", name)
        if suffix not in SUFFIXES:
            raise ValueError(f"table {suffix!r} must be one of {', '.join(SUFFIXES)}")
        if len(text.encode()) > MAX_TABLE:
            raise ValueError(f"table of {len(text.encode())} bytes is more than {MAX_TABLE}")
        with self._workspace.uploaded(f"jobs{suffix}", text.encode() or b"\n") as path:
            wanted = read_jobs(path)
        self._check(wanted)
        with self._lock:
            if not replace and self._table(folder) is not None:
                raise ValueError(f"batch {name!r} is here already: choose another name")
            if self.running() == name:
                raise ValueError(f"batch {name!r} is running: stop it first")
            for other in SUFFIXES:
                (folder / f"jobs{other}").unlink(missing_ok=True)
            atomic_write(folder / f"jobs{suffix}", text)
            (folder / _STATE).unlink(missing_ok=True)
            if self._now is not None and self._now.name == name:
                self._now = None
        return len(wanted)

    def text(self, name: str) -> tuple[str, str]:
        """A batch's table and its suffix. Raises ValueError when there is none."""
        path = self._table(self._workspace.place("batches", name))
        if path is None:
            raise ValueError(f"batch {ascii(name)[:60]} is not here")
        return path.read_text(encoding="utf-8-sig"), path.suffix

    def standing(self, name: str) -> Standing:
        """How a batch stands: as it runs, or as it was left."""
        now = self._now
        if now is not None and now.running and self.running() == name:
            return now
        try:
            folder = self._workspace.place("batches", name)
            if self._adoption is not None:
                self._adoption.soon(folder)
            if now is not None and now.name == name:
                return replace(now, running=False, left=None)
            values = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            return Standing(**{**values, "name": name, "running": False, "left": None})
        except (OSError, ValueError, TypeError):
            return Standing(name)

    def start(self, name: str, *, retry_failed: bool = False) -> None:
        """Works at a batch in a thread of its own; what is there already is not made again.

        Raises:
            ValueError: one line: another one runs, or the table can't be planned.
        """
        folder = self._workspace.place("batches", name)
        table = self._table(folder)
        if table is None:
            raise ValueError(f"batch {ascii(name)[:60]} is not here")
        with self._lock:
            if self.running() is not None:
                raise ValueError(f"batch {self.running()!r} is running: one at a time")
            plan = self._plan(table)
            self._stop.clear()
            known = replace(self.standing(name), total=len(plan.jobs), error=None)
            self._now = replace(known, running=True, updated=time.time())
            arguments = (name, folder, plan, retry_failed)
            self._thread = threading.Thread(target=self._run, args=arguments, daemon=True)
            self._thread.start()

    def stop(self, *, timeout: float = 0.0) -> None:
        """Ends the running batch; jobs in hand are given back, and starting it again goes on."""
        self._stop.set()
        if timeout and self._thread is not None:
            self._thread.join(timeout)

    def close(self, *, timeout: float = 0.0) -> None:
        """Ends the running batch, and whatever else goes on here."""
        self.stop(timeout=timeout)
        if self._adoption is not None:
            self._adoption.close(timeout=timeout)

    def running(self) -> str | None:
        """The name of the batch that is worked at."""
        alive = self._thread is not None and self._thread.is_alive()
        return self._now.name if alive and self._now is not None else None

    def results(self, name: str, *, last: int = 48) -> list[Path]:
        """The newest files that a batch has made."""
        out = self._workspace.place("batches", name) / "out"
        return made(out)[:last]

    def sheet(self, name: str) -> Path | None:
        """The contact sheet, once there is one."""
        path = self._workspace.place("batches", name) / "out" / "index.html"
        return path if path.is_file() else None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A batch's table as plain rows, options of decoding as `option.NAME`, to be edited.

        Raises:
            ValueError: there is none.
        """
        text, suffix = self.text(name)
        if suffix == ".csv":
            lines = csv.DictReader(io.StringIO(text))
            cells = [{k.strip(): (v or "").strip() for k, v in line.items()} for line in lines]
            found = [{k: typed(k, v) for k, v in line.items() if v} for line in cells]
        else:
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        for row in found:
            options = row.pop("decoding_options", None) or {}
            row |= {f"{OPTION}{k}": v for k, v in options.items()}
        return found

    def failures(self, name: str) -> list[dict[str, Any]]:
        """What is known of jobs that failed: place and error."""
        folder = self._workspace.place("batches", name) / "out" / "failed"
        found = []
        for path in sorted(folder.glob("*.json"))[:50]:
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                found.append({"place": values.get("place"), "error": values.get("error")})
            except (OSError, ValueError, AttributeError):
                continue
        return found

    # --- the work --------------------------------------------------------------------------------

    def _table(self, folder: Path) -> Path | None:
        paths = [folder / f"jobs{suffix}" for suffix in SUFFIXES]
        return next((path for path in paths if path.is_file()), None)

    def _check(self, wanted: list[Wanted]) -> None:
        """Every row's model is on the list: a name is never a path."""
        rows = sum(line.request.count for line in wanted)
        if rows > MAX_ROWS:
            raise ValueError(f"table wants {rows} results; {MAX_ROWS} are allowed here")
        known = {entry.name for entry in self._keeper.entries()}
        for line in wanted:
            if line.modelled and line.request.model not in known:
                try:
                    self._keeper.find(line.request.model)
                except ValueError as error:
                    raise ValueError(f"{line.place}: {error}") from None

    def _plan(self, table: Path) -> Plan:
        wanted = read_jobs(table)
        self._check(wanted)
        entries = {entry.name: entry for entry in self._keeper.entries()}
        names = {line.request.model for line in wanted if line.modelled}
        # The first is for rows that name no model.
        first = DEFAULT_MODEL if DEFAULT_MODEL in entries else next(iter(entries))
        kept = [first, *sorted(names - {first})]
        folders = [
            str(entries[name].folder) if entries[name].origin in ("workspace", "folder") else name
            for name in kept
        ]
        return make_plan(wanted, models=folders)

    def _run(self, name: str, folder: Path, plan: Plan, retry_failed: bool) -> None:
        """The thread of a batch; whatever goes wrong is told where the batch is shown."""
        error = None
        try:
            self._render(name, folder, plan, retry_failed)
        except _Stopped:
            pass
        except Exception as problem:
            logger.exception("batch %s ended badly", name)
            error = one_line(problem)
        try:
            if self._adoption is not None:
                self._adoption.now(folder)
        except Exception as problem:
            logger.exception("results of batch %s are not in the gallery", name)
            error = error or one_line(problem)
        known = self._now or Standing(name)
        self._now = replace(known, running=False, left=None, error=error, updated=time.time())
        try:
            self._write(folder, self._now)
        except OSError as problem:  # the page is told by this process all the same
            logger.warning("batch %s: how it stands can't be kept: %s", name, problem)

    def _render(self, name: str, folder: Path, plan: Plan, retry_failed: bool) -> None:
        out = folder / "out"
        store = store_of(plan, Options(folder=str(out), plan="", device=self._device))
        try:
            store.open()
            store.prepare(retry_failed=retry_failed)
            path = plan.write(out / HIDDEN / "plans")
            options = Options(folder=str(out), plan=str(path), device=self._device)
            on_progress = functools.partial(self._told, name, folder)
            try:
                render(plan, store, LocalEngine(options, 1), on_progress=on_progress)
                write_sheet(plan, store)
            finally:
                counts = store.counts()
                self._now = Standing(name, counts.total, counts.done, counts.failed, running=True)
        finally:
            store.close()

    def _told(self, name: str, folder: Path, progress: Progress) -> None:
        counts = progress.counts
        self._now = Standing(
            name, counts.total, counts.done, counts.failed, True, progress.left, None, time.time()
        )
        self._write(folder, self._now)
        if self._stop.is_set() and not counts.finished:
            raise _Stopped

    def _write(self, folder: Path, standing: Standing) -> None:
        atomic_write(folder / _STATE, json.dumps(asdict(standing)))
