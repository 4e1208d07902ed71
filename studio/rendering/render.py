"""A batch from beginning to end: an engine works, the store is watched, the summary is made."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from studio.rendering.engines import Engine
from studio.rendering.plan import Plan
from studio.rendering.store import Counts, Store
from studio.rendering.worker import disk_errors

LOOK_SECONDS = 0.5
_WINDOW = 60.0  # seconds back over which the speed is measured


@dataclass(frozen=True)
class Progress:
    """How a batch stands, now.

    Args:
        counts: of jobs, whoever made them.
        workers: of this engine.
        seconds: since this run began.
        left: seconds until the end; None while that can't be told.
    """

    counts: Counts
    workers: int
    seconds: float
    left: float | None


@dataclass(frozen=True)
class Summary:
    """How a batch ended.

    Args:
        counts: of jobs.
        made: results that were not there when this run began.
        seconds: that this run took.
        failures: what the store tells of each job that failed, in the plan's order.
    """

    counts: Counts
    made: int
    seconds: float
    failures: list[dict[str, Any]] = field(default_factory=list)


class Speed:
    """Seconds left, from how fast jobs were settled lately."""

    def __init__(self):
        self._seen: deque[tuple[float, int]] = deque()

    def left(self, now: float, settled: int, total: int) -> float | None:
        """Notes how many are settled at `now`; the seconds that the rest will take, or None."""
        self._seen.append((now, settled))
        while len(self._seen) > 2 and self._seen[1][0] < now - _WINDOW:
            self._seen.popleft()
        (then, before), gained = self._seen[0], settled - self._seen[0][1]
        if settled >= total:
            return 0.0
        return (now - then) / gained * (total - before - gained) if gained else None


def render(
    plan: Plan,
    store: Store,
    engine: Engine,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    look_seconds: float = LOOK_SECONDS,
) -> Summary:
    """Works at a plan until every job is done or has failed.

    Args:
        plan: what to do; written where the engine's workers find it.
        store: opened and prepared.
        engine: starts the workers.
        on_progress: told how it stands, every `look_seconds`.
        look_seconds: between two looks at the store.

    Raises:
        DiskError, EngineError: see `Engine.tend`; what was made stays.
    """
    started = time.monotonic()
    before, speed = store.refresh(), Speed()
    counts = before
    if not counts.finished:
        try:
            engine.start()
            while True:
                with disk_errors(store.folder):
                    counts = store.refresh()
                settled, seconds = counts.done + counts.failed, time.monotonic() - started
                left = speed.left(seconds, settled, counts.total)
                workers = engine.tend(settled) if not counts.finished else 0
                if on_progress is not None:
                    on_progress(Progress(counts, workers, seconds, left))
                if counts.finished:
                    break
                time.sleep(look_seconds)
        finally:
            engine.stop()
    store.sweep()
    failures = [{**store.failure(j.key), "key": j.key} for j in plan.jobs if j.key in store.failed]
    seconds = time.monotonic() - started
    return Summary(counts, counts.done - before.done, seconds, failures)
