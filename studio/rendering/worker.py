"""A worker: takes jobs from the store, loads their models, makes them in batches, publishes.

Workers know nothing of each other but what the store says, and any number of them, on any machines
that see the output folder, work at one plan. Each begins with another group of jobs, so that few
models are loaded twice. What a job's seed decides does not depend on the worker nor on the batch.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from studio import hub
from studio.registry import find_class
from studio.rendering.batching import LARGEST, BatchSize, Memory, is_out_of_memory, parts
from studio.rendering.leases import Lease
from studio.rendering.media import made_of, write_media
from studio.rendering.owners import Heartbeat
from studio.rendering.plan import Job, Plan
from studio.rendering.store import ATTEMPTS, LEASE_SECONDS, Store

logger = logging.getLogger(__name__)

_MAX_WAIT = 1.0
_PASSING = (OSError, MemoryError, RuntimeError)  # of loading a model, that may be over soon
# A worker looks what the others did so often, and when it found so many jobs taken.
_LOOK_SECONDS, _LOST = 2.0, 16
# Errors of the disk that every other job would meet as well.
_OF_DISK = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EACCES", "EPERM", "ESTALE", "ENODEV")
    if hasattr(errno, name)
}


@dataclass(frozen=True)
class Options:
    """How a worker works; plain values, to be sent to another process.

    Args:
        folder: the output folder.
        plan: the plan's file.
        index, workers: which of how many on its machine.
        device: "auto", or what torch knows; "auto" and "cuda" deal GPUs out in turn.
        batch: jobs at a time at most.
        attempts, lease_seconds: see `Store`.
    """

    folder: str
    plan: str
    index: int = 0
    workers: int = 1
    device: str = "auto"
    batch: int = LARGEST
    attempts: int = ATTEMPTS
    lease_seconds: float = LEASE_SECONDS


class DiskError(OSError):
    """The output folder can't be written to: no job can be finished. One line."""


@contextmanager
def disk_errors(folder: str | Path, name: str = "") -> Iterator[None]:
    """Makes errors of the disk that are no single job's a `DiskError`, in which `name` below the
    output folder stands."""
    try:
        yield
    except OSError as error:
        number = _number(error)
        if isinstance(error, DiskError) or number not in _OF_DISK:
            raise
        place = str(Path(folder) / name)
        raise DiskError(f"cannot write {place!r}: {os.strerror(number or 0)}") from error


def store_of(plan: Plan, options: Options, heartbeat: Heartbeat | None = None) -> Store:
    """The store of a plan's jobs."""
    jobs = {
        job.key: {"output": job.output, "place": job.place, "request": job.request.to_dict()}
        for job in plan.jobs
    }
    return Store(
        options.folder,
        jobs,
        attempts=options.attempts,
        lease_seconds=options.lease_seconds,
        heartbeat=heartbeat,
    )


def work(options: Options, *, on_beat: Callable[[], None] | None = None) -> int:
    """Works until every job of the plan is done or has failed. Returns how many were made here.

    Args:
        options: see there.
        on_beat: called now and then from a thread.

    Raises:
        DiskError: the disk is full, or the like.
    """
    plan = Plan.read(options.plan)
    beat = Heartbeat(min(options.lease_seconds / 6, 1.0), on_beat)
    beat.start()
    store = store_of(plan, options, beat)
    worker = Worker(plan, store, options)
    try:
        with disk_errors(options.folder):
            worker.run()
    finally:
        worker.release()
        store.close()
    return worker.count


class Worker:
    """One worker; `run` does everything."""

    def __init__(self, plan: Plan, store: Store, options: Options):
        self.plan, self.store, self.options = plan, store, options
        self.count = 0
        self._held: dict[str, Lease] = {}
        self._models = Models(options)
        self._sizes: dict[str, BatchSize] = {}
        self._groups: dict[str, list[Job]] = {}
        for job in plan.jobs:
            self._groups.setdefault(job.group, []).append(job)

    def run(self) -> None:
        """Works until all jobs are settled, by whomever."""
        wait = 0.02
        while not self.store.refresh().finished:
            before = len(self.store.done) + len(self.store.failed)
            for group in self._order():
                self._do_group(group)
            settled = len(self.store.done) + len(self.store.failed)
            wait = 0.02 if settled > before else min(2 * wait, _MAX_WAIT)
            if settled < len(self.plan.jobs):
                time.sleep(wait)

    def release(self) -> None:
        """Gives back what was taken and not finished."""
        for lease in list(self._held.values()):
            with suppress(OSError):
                self.store.release(lease)
        self._held.clear()

    def _order(self) -> list[str]:
        """Groups, those of the loaded model first, else beginning with another one in each
        worker."""
        groups = list(self._groups)
        start = self.options.index * len(groups) // max(1, self.options.workers)
        groups = groups[start % len(groups) :] + groups[: start % len(groups)]
        return sorted(groups, key=lambda g: self._groups[g][0].model != self._models.loaded)

    def _do_group(self, group: str) -> None:
        """All jobs of a group that nobody else has."""
        jobs = self._groups[group]
        sharers = self._models.sharers
        size = self._sizes.setdefault(group, BatchSize(self.options.batch, sharers=sharers))
        fresh = [job for job in jobs if self.store.is_open(job.key)]
        retries = [job for job in jobs if self.store.is_retry(job.key)]
        if not fresh and not retries:
            return
        # Before any job is taken: loading is slow, and not a job's fault.
        self._models.try_load(jobs[0], self.plan.folder(jobs[0]))
        # Workers that begin in different places seldom want the same job.
        start = self.options.index * len(fresh) // max(1, self.options.workers)
        fresh = fresh[start:] + fresh[:start]
        looked = time.monotonic()
        while fresh:
            # The last jobs are spread over the workers.
            fair = max(1, len(fresh) // max(1, self.options.workers))
            wanted = parts(min(size.size, fair))[0]
            batch: list[tuple[Job, Lease]] = []
            lost = 0
            while fresh and len(batch) < wanted and lost < _LOST:
                lost += not self._take(fresh.pop(0), batch, alone=wanted == 1)
            self._do_batch(batch, size)
            if lost == _LOST or time.monotonic() - looked > _LOOK_SECONDS:
                self.store.refresh()
                fresh = [job for job in fresh if self.store.is_open(job.key)]
                looked = time.monotonic()
        for job in retries:
            batch = []
            self._take(job, batch, alone=True)
            self._do_batch(batch, size)

    def _take(self, job: Job, batch: list[tuple[Job, Lease]], *, alone: bool) -> bool:
        """Adds a job to a batch if nobody else has it; says whether it did."""
        with disk_errors(self.options.folder, job.output):
            lease = self.store.claim(job.key, alone=alone)
        if lease is None:
            return False
        self._held[job.key] = lease
        batch.append((job, lease))
        return True

    def _do_batch(self, batch: Sequence[tuple[Job, Lease]], size: BatchSize) -> None:
        start = 0
        for count in parts(len(batch)):
            self._do_part(batch[start : start + count], size)
            start += count

    def _do_part(self, part: Sequence[tuple[Job, Lease]], size: BatchSize) -> None:
        """One call; halved when memory does not suffice, one by one when it fails otherwise."""
        jobs = [job for job, _ in part]
        failure = None
        try:
            started = time.perf_counter()
            free = self._models.memory.start()
            made = self._models.make(jobs)
            seconds = time.perf_counter() - started
            size.made(len(jobs), seconds, self._models.memory.peak(), free)
        except Exception as error:
            failure = error
        if failure is None:
            for (job, lease), media in zip(part, made, strict=True):
                self._publish(job, lease, media, seconds / len(part))
        elif len(part) == 1:
            self._fail(*part[0], failure)
        elif is_out_of_memory(failure):
            failure = None  # its traceback holds the tensors
            size.out_of_memory(len(part))
            self._models.empty_cache()
            half = len(part) // 2
            self._do_part(part[:half], size)
            self._do_part(part[half:], size)
        else:
            for one in part:
                self._do_part([one], size)

    def _publish(self, job: Job, lease: Lease, media: Any, seconds: float) -> None:
        temporary = self.store.temporary(job.key, Path(job.output).suffix)
        record = {"output": job.output, "seconds": round(seconds, 4)}
        try:
            with disk_errors(self.options.folder, job.output):
                write_media(temporary, media, job.request.to_dict())
                self.count += self.store.publish(lease, temporary, record)
        except DiskError:
            raise
        except (OSError, ValueError) as error:
            self._fail(job, lease, error)
        else:
            self._held.pop(job.key, None)
        finally:
            temporary.unlink(missing_ok=True)

    def _fail(self, job: Job, lease: Lease, error: BaseException) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        told = "".join(traceback.format_exception(error))[-20_000:]
        with disk_errors(self.options.folder, job.output):
            self.store.fail(lease, text, told)
        self._held.pop(job.key, None)


def _number(error: BaseException | None) -> int | None:
    """The number of a disk's error, also of one that stands behind a message of ours."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None


class Models:
    """The one pipeline that a worker holds.

    Args:
        options: of the worker.
    """

    def __init__(self, options: Options):
        hub.import_diffusers()
        import torch

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(options.device.split(":")[0], True):
            raise ValueError(f"--device {options.device!r}: torch finds no such device here")
        gpus = torch.cuda.device_count() if options.device in ("auto", "cuda") else 0
        if gpus:
            name = f"cuda:{options.index % gpus}"
        else:
            name = "cpu" if options.device == "auto" else options.device
        self.device = torch.device(name)
        self.sharers = -(-options.workers // max(1, gpus))
        self.memory = Memory(self.device)
        self.loaded: tuple | None = None
        self._pipe: Any = None
        self._error: Exception | None = None
        self._trace: TracebackType | None = None

    def try_load(self, job: Job, folder: str) -> None:
        """Loads the model of a job, in place of another; an error is kept for `make`. What may pass
        (a share that is away, no memory) is tried anew for the next job."""
        if job.model == self.loaded and not isinstance(self._error, _PASSING):
            return
        if self._pipe is not None:
            self._pipe = None
            self.empty_cache()
        self._error, self.loaded = None, job.model
        try:
            self._pipe = self._load(job, Path(folder))
        except Exception as error:
            self._error, self._trace = error, error.__traceback__

    def _load(self, job: Job, folder: Path) -> Any:
        model, revision, generator = job.model
        if "/" not in model and hub.fingerprint(folder) != revision:
            raise ValueError(f"model {model!r} is not {revision} any more, it was changed")
        pipe = find_class("Pipeline").from_pretrained(str(folder), generator=generator)
        pipe = pipe.to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def make(self, jobs: Sequence[Job]) -> list[Any]:
        """What the jobs of one group ask for, in one call. Raises what loading or the call
        raises."""
        if self._error is not None:
            raise self._error.with_traceback(self._trace)
        first = dataclasses.replace(jobs[0].request, count=1)
        call = first.arguments(self._pipe)
        several = "prompt" if "prompt" in call else "class_labels"
        field = "prompt" if several == "prompt" else "class_label"
        call[several] = [getattr(job.request, field) for job in jobs]
        call["generator"] = [g for job in jobs for g in job.request.generators()]
        return made_of(self._pipe, self._pipe(**call))

    def empty_cache(self) -> None:
        """Gives memory that nobody uses back to the device."""
        import gc

        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
