"""The studio behind the app and the API: workspace, gallery, models and queue, held together.

A process has one, which `open_studio` makes and `current` finds: the pages of the app and the
routes of the API share it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from studio.pipelines.request import Request
from studio.server import making
from studio.server.batches import Batches
from studio.server.gallery import Gallery
from studio.server.job_queue import JobQueue
from studio.server.jobs import Job
from studio.server.keeper import Keeper
from studio.server.workspace import Workspace

DEFAULT_FOLDER = "studio-workspace"


class Studio:
    """Everything that visitors share.

    Args:
        folder: of the workspace.
        keep: models that stay loaded.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: of generators' weights in the app, see `Keeper`; batches use float32.
        models: more folders of models.

    Raises:
        ValueError, OSError: the workspace can't be made, or another process works in it.
    """

    def __init__(
        self,
        folder: str | Path = DEFAULT_FOLDER,
        *,
        keep: int = 1,
        device: str = "auto",
        dtype: str = "float32",
        models: Iterable[str | Path] = (),
    ):
        self.workspace = Workspace(folder)
        self.workspace.lock()
        self.gallery = Gallery(self.workspace)
        self.keeper = Keeper(self.workspace, keep=keep, device=device, dtype=dtype, folders=models)
        self.queue = JobQueue(first=self.keeper.prepare)
        self.batches = Batches(self.workspace, self.keeper, gallery=self.gallery, device=device)

    def generate(self, requests: Sequence[Request], *, owner: str = "", about: Any = None) -> Job:
        """Puts the making of some requests into the queue, as one job.

        Args:
            requests: one at least.
            owner, about: see `Job`.

        Raises:
            ValueError: one line: a request that can't be made here, or the queue is full.
        """
        samples = making.check(requests, self.keeper, self.workspace)
        work = making.generation(
            samples, keeper=self.keeper, gallery=self.gallery, workspace=self.workspace
        )
        title = making.title(samples)
        job = Job(work, kind="generate", title=title, owner=owner, about=about)
        return self.queue.submit(job)

    def run(
        self,
        work: Callable[[Job], Any],
        *,
        kind: str,
        title: str,
        owner: str = "",
        urgent: bool = False,
    ) -> Job:
        """Puts any other work into the queue; see `Job`."""
        return self.queue.submit(Job(work, kind=kind, title=title, owner=owner, urgent=urgent))

    def close(self) -> None:
        """Ends the queue and a running batch, and lets others into the workspace."""
        self.batches.close(timeout=20)
        self.queue.close()
        self.keeper.free()
        self.workspace.unlock()


_current: Studio | None = None
_lock = threading.Lock()


def open_studio(folder: str | Path = DEFAULT_FOLDER, **options) -> Studio:
    """The process's studio, made now; see `Studio`. Raises ValueError when there is one already."""
    global _current
    with _lock:
        if _current is not None:
            raise ValueError("this process has a studio already")
        _current = Studio(folder, **options)
        return _current


def current() -> Studio:
    """The process's studio, made in the default folder when there is none yet."""
    global _current
    with _lock:
        if _current is None:
            _current = Studio()
        return _current


def close_studio() -> None:
    """Closes the process's studio, where there is one."""
    global _current
    with _lock:
        if _current is not None:
            _current.close()
        _current = None
