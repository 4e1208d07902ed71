"""The queue: one thread works at jobs that many visitors have put in.

Order: urgent jobs (a slider that someone is dragging) first, then the owner who was served longest
ago, then first come.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from studio.server.jobs import Job

logger = logging.getLogger(__name__)
MAX_QUEUED, MAX_OWNED = 200, 40
# Finished jobs that are remembered; those of them with their value, the urgent ones and the others.
_KEPT, _VALUES = 300, 16


class QueueFull(ValueError):
    """Too many jobs wait already."""


class JobQueue:
    """Takes jobs and does them one after another in a thread of its own.

    Args:
        first: called in the worker's thread before the first job, to load what takes long.
    """

    def __init__(self, *, first: Callable[[], Any] | None = None):
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._served: dict[str, float] = {}
        self._places: dict[str, int] | None = None  # how many come before each that waits
        self._changed = threading.Condition()
        self._closing = False
        self._first = first
        self._running: Job | None = None
        self._thread = threading.Thread(target=self._loop, name="studio-worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job:
        """Puts a job into the queue; it is found by its id from now on.

        Raises:
            QueueFull: too many wait, of all or of this owner.
        """
        with self._changed:
            if self._closing:
                raise QueueFull("the studio is closing down")
            owned = sum(1 for other in self._waiting if other.owner == job.owner and job.owner)
            if len(self._waiting) >= MAX_QUEUED or owned >= MAX_OWNED:
                count = len(self._waiting)
                raise QueueFull(f"{count} jobs wait already: try again when some are done")
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._places = None
            self._forget()
            self._changed.notify_all()
        return job

    def get(self, name: str) -> Job | None:
        """The job of an id; None where there is none."""
        with self._changed:
            return self._jobs.get(name)

    def jobs(self) -> list[Job]:
        """All jobs that are remembered, newest first."""
        with self._changed:
            return list(reversed(self._jobs.values()))

    def cancel(self, name: str) -> bool:
        """Ends a job: at once while it waits, within a step once it runs. False when there was
        nothing to end."""
        with self._changed:
            job = self._jobs.get(name)
            if job in self._waiting:
                self._waiting.remove(job)
                self._places = None
        return job is not None and job.cancel()

    def ahead(self, name: str) -> int:
        """How many jobs come before this one. Costs nothing while the queue does not change."""
        with self._changed:
            if self._places is None:
                first = int(self._running is not None)
                self._places = {job.id: i for i, job in enumerate(self._order(), first)}
            return self._places.get(name, 0)

    def close(self, *, timeout: float = 10.0) -> None:
        """Cancels everything and ends the thread."""
        with self._changed:
            self._closing = True
            left = [job.id for job in self._jobs.values() if not job.finished]
        for name in left:
            self.cancel(name)
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout)

    def _order(self) -> list[Job]:
        """The waiting jobs as they will be taken, if no other comes."""
        order, served = [], dict(self._served)

        def rank(job: Job) -> tuple[bool, float]:
            return not job.urgent, served.get(job.owner, 0.0) if job.owner else 0.0

        line = [(rank(job), i, job) for i, job in enumerate(self._waiting)]
        heapq.heapify(line)
        while line:
            at, i, job = heapq.heappop(line)
            if at != rank(job):  # its owner was served since
                heapq.heappush(line, (rank(job), i, job))
                continue
            served[job.owner] = time.monotonic() + len(order)
            order.append(job)
        return order

    def _loop(self) -> None:
        if self._first is not None:
            try:
                self._first()
            except Exception:  # what needs it fails with its own words
                logger.exception("the worker could not prepare itself")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                job = self._order()[0]
                self._waiting.remove(job)
                self._running, self._served[job.owner] = job, time.monotonic()
                self._places = None
            job.run()
            with self._changed:
                self._running, self._places = None, None

    def _forget(self) -> None:
        """Lets go of values that nobody looks at any more, then of jobs without one: urgent ones,
        which are small steps that somebody waited for, before others."""
        finished = [job for job in self._jobs.values() if job.finished]
        for job in finished:
            if job.urgent and job.read:
                job.let_go()
        for urgent in (True, False):
            holding = [job for job in finished if job.urgent == urgent and job.holds]
            for job in sorted(holding, key=lambda job: job.used)[:-_VALUES]:
                job.let_go()
        spare = sorted((job for job in finished if not job.holds), key=lambda job: not job.urgent)
        for job in spare[: max(0, len(finished) - _KEPT)]:
            del self._jobs[job.id]
        if len(self._served) > 4 * _KEPT:
            self._served.clear()
