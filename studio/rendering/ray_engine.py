"""Workers on a Ray cluster: one of this machine's, or a remote one that sees the output folder.

Ray only starts workers, as tasks that are never retried by it: what a dead one held is the store's
to give again, and media never pass through Ray. Extra `ray`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

from studio.env import need
from studio.rendering.engines import Deaths, answer_of, default_workers, raise_answer
from studio.rendering.worker import Options


class RayEngine:
    """Tasks on a Ray cluster.

    Args:
        options: of the workers; `index` and `workers` are filled in.
        workers: how many; one a GPU, or as the cluster has processors when None.
        address: "auto" or an address of a cluster; None starts one on this machine.

    Raises:
        ImportError: ray is not installed; one line with what installs it.
    """

    def __init__(self, options: Options, workers: int | None, *, address: str | None = None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray: Any = need("ray", extra="ray")
        self._options, self._wanted, self._address = options, workers, address
        self._workers = workers or 1
        self._running: dict[Any, int] = {}
        self._deaths = Deaths(self._workers)
        self._ours = False

    def start(self) -> None:
        """See `Engine`."""
        if not self._ray.is_initialized():
            self._connect()
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        processors = int(self._ray.cluster_resources().get("CPU", 1))
        if self._options.device == "cpu":
            gpus = 0
        self._workers = self._wanted or gpus or max(1, processors // 2)
        self._deaths = Deaths(self._workers)
        share = {"num_gpus": min(1.0, gpus / self._workers)} if gpus else {}
        task = self._ray.remote(max_retries=0, num_cpus=min(1, processors / self._workers), **share)
        self._task = task(_run)
        for index in range(self._workers):
            self._start(index)

    def _connect(self) -> None:
        local = {"num_cpus": self._wanted or default_workers("cpu"), "include_dashboard": False}
        options = {"address": self._address} if self._address else local
        try:
            self._ray.init(log_to_driver=False, logging_level="error", **options)
        except Exception as error:  # ray raises its own errors and gRPC's
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConnectionError(f"ray can't be reached at {self._address!r}: {reason}") from error
        self._ours = True

    def _start(self, index: int) -> None:
        options = replace(self._options, index=index, workers=self._workers)
        self._running[self._task.remote(options)] = index

    def tend(self, settled: int) -> int:
        """See `Engine`."""
        ended, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for task in ended:
            index = self._running.pop(task)
            try:
                raise_answer(self._ray.get(task))
            except self._ray.exceptions.RayError as error:
                self._deaths.died(settled, str(error).strip().splitlines()[0])
                self._start(index)
        if not self._running:
            for index in range(self._workers):
                self._start(index)
        return len(self._running)

    def stop(self) -> None:
        """See `Engine`."""
        for task in self._running:
            with suppress(Exception):  # whatever a cluster that is gone answers
                self._ray.cancel(task)
        with suppress(Exception):
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=5.0)
        self._running.clear()
        if self._ours:
            self._ray.shutdown()


def _run(options: Options) -> tuple[str, str]:
    """A worker, in a process of the cluster."""
    from studio.rendering.worker import work

    return answer_of(lambda: work(options))
