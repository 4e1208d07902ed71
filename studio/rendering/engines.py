"""Engines start workers and replace those that die; everything else is the store's.

So engines may be mixed, on one machine or on several that share the output folder. `local` forks
workers from a process that has loaded torch and done nothing else, so that a new one begins within
milliseconds; where there is no fork it starts interpreters. `ray` is in `ray_engine`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from studio.rendering.batching import cores
from studio.rendering.worker import DiskError, Options, work

_NAME = "studio-worker"  # what `ps` and `pgrep` show
_LATE = 5.0  # seconds that a worker has to give its jobs back


class EngineError(ChildProcessError):
    """Workers can't be kept alive. One line."""


class Engine(Protocol):
    """What `render` asks of an engine."""

    def start(self) -> None:
        """Starts the workers."""
        ...

    def tend(self, settled: int) -> int:
        """Replaces dead workers, `settled` jobs being done or failed by now. Returns how many run.

        Raises:
            DiskError: the output folder can't be written to.
            EngineError: workers die and die, and no job is settled in between.
        """
        ...

    def stop(self) -> None:
        """Ends the workers; what they hold goes back to the store."""
        ...


class Deaths:
    """Counts workers that died since a job was last settled.

    Args:
        workers: how many there are; each may die some times.
    """

    def __init__(self, workers: int):
        self._allowed, self._since, self._settled = 30 * workers + 30, 0, 0

    def died(self, settled: int, how: str) -> None:
        """Notes a death. Raises EngineError when there were too many."""
        if settled > self._settled:
            self._since, self._settled = 0, settled
        self._since += 1
        if self._since > self._allowed:
            raise EngineError(f"{self._since} workers in a row died before a job was done: {how}")


@dataclass
class _Process:
    process: Any
    answers: Connection


class LocalEngine:
    """Processes on this machine.

    Args:
        options: of the workers; `index` and `workers` are filled in.
        workers: how many.
    """

    def __init__(self, options: Options, workers: int):
        self._options, self._workers = options, workers
        self._running: dict[int, _Process] = {}
        self._deaths = Deaths(workers)
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(["studio.rendering.preload"])

    def start(self) -> None:
        """See `Engine`."""
        for index in range(self._workers):
            self._start(index)

    def _start(self, index: int) -> None:
        options = replace(self._options, index=index, workers=self._workers)
        answers, here = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_run, args=(options, here), daemon=True)
        with _no_main():
            process.start()
        here.close()
        self._running[index] = _Process(process, answers)

    def tend(self, settled: int) -> int:
        """See `Engine`."""
        for index, one in list(self._running.items()):
            if one.process.is_alive():
                continue
            answer = _answer(one.answers)
            one.answers.close()
            del self._running[index]
            raise_answer(answer)
            if answer is None:
                self._deaths.died(settled, f"exit code {one.process.exitcode}")
                self._start(index)
        if not self._running:  # they saw the end, yet it is none: a result was removed
            self.start()
        return len(self._running)

    @property
    def pids(self) -> list[int]:
        """The workers' process numbers."""
        return [one.process.pid for one in self._running.values()]

    def stop(self) -> None:
        """See `Engine`."""
        for one in self._running.values():
            one.process.terminate()
        for one in self._running.values():
            one.process.join(_LATE)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
            one.answers.close()
        self._running.clear()


@contextmanager
def _no_main() -> Iterator[None]:
    """Keeps a new process from importing this one's main module, which it does not need: that is
    the whole command line, or a script of the user's that would begin anew."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _answer(answers: Connection) -> tuple[str, str] | None:
    """What a worker said at its end; None when it could not."""
    with suppress(EOFError, OSError):
        if answers.poll():
            return answers.recv()
    return None


def raise_answer(answer: tuple[str, str] | None) -> None:
    """Raises what a worker says that it ended with, if it was an error."""
    kind, text = answer or ("", "")
    if kind == "disk":
        raise DiskError(text)
    if kind == "usage":
        raise ValueError(text)
    if kind == "fault":
        raise EngineError(f"a worker stopped: {text}")


def answer_of(run: Callable[[], Any]) -> tuple[str, str]:
    """Runs a worker; how it ended, for `raise_answer` in another process."""
    try:
        run()
    except DiskError as error:
        return "disk", str(error)
    except ValueError as error:
        return "usage", str(error)
    except Exception as error:
        if os.environ.get("STUDIO_TRACEBACK"):
            traceback.print_exc()
        return "fault", " ".join("".join(traceback.format_exception_only(error)).split())
    return "done", ""


def _run(options: Options, answers: Connection) -> None:
    """A worker's process: named, deaf to the terminal's interrupt, gone with its parent."""
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write(_NAME)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _share_cores(options)
    answer = answer_of(lambda: work(options, on_beat=_leave_with_command()))
    with suppress(OSError):
        answers.send(answer)


def _leave(*_: Any) -> None:
    raise SystemExit(0)  # leases are given back on the way out


def _leave_with_command() -> Callable[[], None]:
    """Ends this process when the command is no more, or the process that it was forked from, which
    itself lives as long as any worker does."""
    command, parent = multiprocessing.parent_process(), os.getppid()

    def look() -> None:
        if os.getppid() != parent or (command is not None and not command.is_alive()):
            os._exit(1)

    return look


def _share_cores(options: Options) -> None:
    """Threads of this process: its share of the cores, if the user has not said otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // options.workers))


def default_workers(device: str) -> int:
    """Workers for this machine: one a GPU, or one for two processor cores. Imports no torch."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if device in ("auto", "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus and visible is not None:
        gpus = min(gpus, len([part for part in visible.split(",") if part.strip()]))
    return gpus or max(1, cores() // 2)
