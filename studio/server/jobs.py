"""Jobs: work for one thread, on which any number of visitors look.

A job is a function that is called with itself in the worker's thread: it reports, shows previews,
looks whether it was cancelled. Readers take snapshots and may wait for the next one. Leaves out on
purpose: jobs that survive the process; results do.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
FINISHED = (DONE, FAILED, CANCELLED)
# What a visitor can mend; anything else is a fault of ours and goes to the log as well.
_USER_ERRORS = (ValueError, OSError, ImportError)


class Cancelled(Exception):
    """Raised in a job's work once it was cancelled."""


@dataclass(frozen=True)
class Picture:
    """A preview or a shown result: bytes of a file of type `mime`, and words for those who don't
    see it."""

    mime: str
    data: bytes
    alt: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    Args:
        id, kind, title, owner: of the job.
        state: one of `STATES`.
        share: of the work that is done, 0 to 1.
        note: what it does now.
        left: seconds until it is done; None while that can't be told.
        seconds: since it was started; 0 before.
        previews: what is there so far.
        results: ids of what it made, in order; "" for one that is not there yet when a later one
            is.
        error: one line, when it failed.
        version: rises with every change.
        created: seconds since the epoch.
    """

    id: str
    kind: str
    title: str
    owner: str
    state: str
    share: float
    note: str
    left: float | None
    seconds: float
    previews: tuple[Picture, ...]
    results: tuple[str, ...]
    error: str | None
    version: int
    created: float

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINISHED

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without previews and owner."""
        left = None if self.left is None else round(self.left, 2)
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "state": self.state,
            "progress": round(self.share, 4),
            "note": self.note,
            "seconds_left": left,
            "seconds": round(self.seconds, 3),
            "results": [name for name in self.results if name],
            "error": self.error,
            "created": round(self.created, 3),
        }


@dataclass
class _Changing:
    state: str = QUEUED
    share: float = 0.0
    note: str = ""
    previews: tuple[Picture, ...] = ()
    results: list[str] = field(default_factory=list)
    error: str | None = None
    version: int = 0


class Job:
    """One piece of work.

    Args:
        work: called with the job in the worker's thread; what it returns is `value`.
        kind: what it is, one word.
        title: what it is, for people.
        owner: whose it is; "" for nobody's.
        urgent: goes before others.
        about: what else those who look at it want to know, such as how results are laid out.
    """

    def __init__(
        self,
        work: Callable[[Job], Any],
        *,
        kind: str,
        title: str,
        owner: str = "",
        urgent: bool = False,
        about: Any = None,
    ):
        self.id = secrets.token_hex(8)
        self.kind, self.title, self.owner, self.urgent = kind, title, owner, urgent
        self.about = about
        self.created = time.time()
        self._work = work
        self._value: Any = None
        self._read, self._used = False, 0.0
        self._now = _Changing()
        self._changed = threading.Condition()
        self._asked = threading.Event()
        self._started: float | None = None
        self._ended: float | None = None
        self._working: float | None = None  # since the first report: loading does not count

    # --- for the work itself ---------------------------------------------------------------------

    def check(self) -> None:
        """Raises `Cancelled` once somebody wants the job to end; called within every step."""
        if self._asked.is_set():
            raise Cancelled

    def report(self, share: float, note: str | None = None) -> None:
        """Says how much is done, 0 to 1, and perhaps what is being done."""
        self.check()
        with self._changed:
            self._working = self._working or time.monotonic()
            self._now.share = max(0.0, min(1.0, share))
            if note is not None:
                self._now.note = note
            self._touch()

    def say(self, note: str) -> None:
        """Says what is being done, before anything can be counted."""
        self.check()
        with self._changed:
            self._now.note = note
            self._touch()

    def show(self, previews: list[Picture]) -> None:
        """Shows what is there so far, in place of what was shown before."""
        with self._changed:
            self._now.previews = tuple(previews)
            self._touch()

    def add_result(self, name: str, *, place: int | None = None) -> None:
        """Notes the id of something that was made, at its place among all results or else as the
        next one."""
        with self._changed:
            results = self._now.results
            place = len(results) if place is None else place
            results += [""] * (place + 1 - len(results))
            results[place] = name
            self._touch()

    # --- for those who look on -------------------------------------------------------------------

    @property
    def state(self) -> str:
        """One of `STATES`."""
        return self._now.state

    @property
    def finished(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._now.state in FINISHED

    @property
    def value(self) -> Any:
        """What the work gave; None before the end, and once the queue has let go of it."""
        self._read, self._used = True, time.monotonic()
        return self._value

    def snapshot(self) -> Snapshot:
        """The job as it is now."""
        with self._changed:
            return self._snapshot()

    def wait(self, version: int = -1, timeout: float | None = None) -> Snapshot:
        """The first snapshot newer than `version`, or after `timeout` seconds whatever is there;
        with a version below 0, the last one."""
        with self._changed:
            if version < 0:
                self._changed.wait_for(lambda: self._now.state in FINISHED, timeout)
            else:
                self._changed.wait_for(lambda: self._now.version > version, timeout)
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        now, at = self._now, self._ended or time.monotonic()
        left = None
        if now.state == RUNNING and self._working is not None and now.share > 0.04:
            left = max(0.0, (at - self._working) * (1 - now.share) / now.share)
        return Snapshot(
            id=self.id,
            kind=self.kind,
            title=self.title,
            owner=self.owner,
            state=now.state,
            share=now.share,
            note=now.note,
            left=left,
            seconds=0.0 if self._started is None else at - self._started,
            previews=now.previews,
            results=tuple(now.results),
            error=now.error,
            version=now.version,
            created=self.created,
        )

    # --- for the queue ---------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether it is over and still has its value."""
        return self.finished and self._value is not None

    @property
    def read(self) -> bool:
        """Whether somebody asked for the value since it is there."""
        return self._read

    @property
    def used(self) -> float:
        """When it ended, or somebody last asked for its value; on the clock `time.monotonic`."""
        return self._used

    def let_go(self) -> None:
        """Forgets the value."""
        self._value = None

    def _touch(self) -> None:
        self._now.version += 1
        self._changed.notify_all()

    def _end(self, state: str, error: str | None = None) -> None:
        with self._changed:
            self._now.state, self._now.error = state, error
            self._now.previews = () if state == DONE else self._now.previews
            self._now.share = 1.0 if state == DONE else self._now.share
            self._now.note = ""
            self._ended = self._used = time.monotonic()
            self._touch()

    def run(self) -> None:
        """Does the work, in the thread that calls; never raises."""
        with self._changed:
            if self._asked.is_set():
                return
            self._now.state, self._started = RUNNING, time.monotonic()
            self._touch()
        try:
            self._value, self._read = self._work(self), False
            state, error = DONE, None
        except Cancelled:
            state, error = CANCELLED, None
        except _USER_ERRORS as problem:
            state, error = FAILED, one_line(problem)
        except Exception as problem:
            logger.exception("job %s (%s) failed", self.id, self.kind)
            memory = "memory" in str(problem).lower() or isinstance(problem, MemoryError)
            text = "there is not enough memory" if memory else "something went wrong here"
            state, error = FAILED, f"{text} ({type(problem).__name__}); the log says more"
        self._work = _nothing  # it may hold pictures
        self._end(state, error)

    def cancel(self) -> bool:
        """Asks for the end. False when it is over already."""
        with self._changed:
            if self._now.state in FINISHED:
                return False
            self._asked.set()
            waiting = self._now.state == QUEUED
            if not waiting:
                self._now.note = "stopping"
                self._touch()
        if waiting:
            self._work = _nothing
            self._end(CANCELLED)
        return True


def _nothing(job: Job) -> None:
    return None


def one_line(error: BaseException) -> str:
    """An error's message on one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else f"{text[:600]} ..."
