"""The store: which jobs are claimed, done and failed, in plain files that many processes share.

Exactly once is a matter of two operations that every file system does whole, NFS too: creating a
file that must not exist (a claim), and a hard link to a name that must not exist (a result).
Nothing is locked, and no process is needed for another to go on:

    OUT/apple.png                 a result, linked when it is complete
    OUT/failed/KEY.json           a job that was given up, with its tracebacks
    OUT/.studio/done/4f/KEY.json  says that the result is there: its lease, linked after it
    OUT/.studio/leases/KEY.2      the second attempt, see `leases`
    OUT/.studio/tmp               files on the way

A worker that was only asleep and comes back after another has taken its job finds the link taken,
and nothing is doubled. Leaves out on purpose: object stores, whose conditional put would take the
place of the link.
"""

from __future__ import annotations

import filecmp
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.rendering.leases import (
    Attempts,
    Lease,
    Leases,
    listed,
    read_json,
    read_line,
    write_json,
)
from studio.rendering.media import recorded_request
from studio.rendering.owners import Heartbeat

ATTEMPTS = 3
LEASE_SECONDS = 30.0
HIDDEN = ".studio"
# Seconds after which a temporary file is nobody's, while somebody works and while nobody does.
_OLD, _OLD_WHEN_IDLE = 3600.0, 2.0


@dataclass(frozen=True)
class Counts:
    """How a batch stands."""

    total: int
    done: int
    failed: int
    running: int

    @property
    def finished(self) -> bool:
        return self.done + self.failed >= self.total


def last_change(folder: str | Path) -> int:
    """When a result was last recorded in an output folder, in nanoseconds; 0 for never. Looks at no
    result, so that it costs little in a folder of many."""
    try:
        shards = [entry.stat() for entry in os.scandir(Path(folder) / HIDDEN / "done")]
    except OSError:
        return 0
    return max((shard.st_mtime_ns for shard in shards), default=0)


class Store:
    """The store in an output folder, for the jobs of one plan.

    Args:
        folder: the output folder.
        jobs: key to what the job is; `output` is its file below the folder, `request` its request.
            Jobs of other plans in the same folder are left alone.
        attempts: after so many that count a job is given up.
        lease_seconds: a lease that was not renewed for so long is of a dead process.
        heartbeat: renews the leases that are claimed here; one of its own when None.
    """

    def __init__(
        self,
        folder: str | Path,
        jobs: Mapping[str, Mapping[str, Any]],
        *,
        attempts: int = ATTEMPTS,
        lease_seconds: float = LEASE_SECONDS,
        heartbeat: Heartbeat | None = None,
    ):
        self.folder, self.jobs, self.attempts = Path(folder), jobs, attempts
        self.failures = self.folder / "failed"
        self._hidden = self.folder / HIDDEN
        self._done, self._tmp = self._hidden / "done", self._hidden / "tmp"
        self.leases = Leases(
            self._hidden / "leases",
            seconds=lease_seconds,
            heartbeat=heartbeat or Heartbeat(lease_seconds / 6),
        )
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self._tried: dict[str, Attempts] = {}
        self._idle = True  # no process works for any plan
        self._shards: set[str] = set()

    # --- opening ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Makes the folders. Raises OSError, one line, where that or a hard link can't be made."""
        probe, link = (self._hidden / f"probe-{secrets.token_hex(6)}" for _ in range(2))
        try:
            for path in (self._done, self.leases.folder, self._tmp):
                path.mkdir(parents=True, exist_ok=True)
            probe.touch()
        except OSError as error:
            reason = error.strerror or str(error)
            raise type(error)(f"cannot write into {str(self.folder)!r}: {reason}") from error
        try:
            os.link(probe, link)
        except OSError as error:
            raise OSError(
                f"{str(self.folder)!r} is on a file system without hard links "
                f"({error.strerror}); choose another --out"
            ) from error
        finally:
            probe.unlink(missing_ok=True)
            link.unlink(missing_ok=True)

    def prepare(self, *, retry_failed: bool = False) -> None:
        """What a run does first: results that were deleted are wanted again, crashes of earlier
        runs count no more, and what the dead left behind is removed.

        Args:
            retry_failed: give jobs that failed another round of attempts.

        Raises:
            ValueError: a file that some job wants to write is there and is not that job's.
        """
        self._look()
        for key in list(self.done):
            if not (self.folder / self.jobs[key]["output"]).exists():
                self._record(key).unlink(missing_ok=True)
                self.done.discard(key)
        if retry_failed:
            for key in list(self.failed):
                self._failure(key).unlink(missing_ok=True)
                self.failed.discard(key)
        for key, tried in self._tried.items():
            while not tried.live and tried.numbers and tried.last not in tried.errors:
                self.leases.path(key, tried.last).unlink(missing_ok=True)
                tried.numbers.remove(tried.last)
        self._check_outputs()
        self.sweep()

    def _check_outputs(self) -> None:
        for key, job in self.jobs.items():
            path = self.folder / job["output"]
            if key in self.done or not os.path.lexists(path):
                continue
            if path.is_dir() or recorded_request(path) != job.get("request"):
                raise ValueError(
                    f"output {job['output']!r} is in {str(self.folder)!r} already and was not made "
                    "by this job; name it otherwise, or choose another --out"
                )

    def sweep(self) -> None:
        """Removes files on the way that dead processes left, and leases of jobs that are done."""
        self._look()
        before = self.leases.now() - (_OLD_WHEN_IDLE if self._idle else _OLD)
        for path in listed(self._tmp):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
        for key, tried in self._tried.items():
            if key in self.done and not tried.live:
                self.leases.remove(key, tried.last)

    def close(self) -> None:
        """Ends the heartbeat and removes what only this process needed."""
        self.leases.heartbeat.stop()
        self.leases.close()

    # --- looking ---------------------------------------------------------------------------------

    def refresh(self) -> Counts:
        """Reads the folders anew; gives up jobs that have used up their attempts."""
        self._look()
        for key, tried in self._tried.items():
            if key not in self.done and not tried.live and self._used_up(key, tried):
                self._give_up(key, tried.last)
        return self.counts()

    def _look(self) -> None:
        # Leases first: whoever ends one has linked its result before.
        tried = self.leases.read()
        keys = (path.stem for shard in listed(self._done) for path in listed(shard))
        self.done = {key for key in keys if key in self.jobs}
        failed = {path.stem for path in listed(self.failures)}
        self.failed = {key for key in failed if key in self.jobs} - self.done
        self._idle = not any(attempts.live for attempts in tried.values())
        self._tried = {key: attempts for key, attempts in tried.items() if key in self.jobs}

    def counts(self) -> Counts:
        """How the batch stood at the last `refresh`, with what was done here since."""
        settled = self.done | self.failed
        running = sum(v.live for k, v in self._tried.items() if k not in settled)
        return Counts(len(self.jobs), len(self.done), len(self.failed), running)

    def is_open(self, key: str) -> bool:
        """True when nobody has tried the job yet, as far as was seen."""
        return key not in self.done and key not in self.failed and key not in self._tried

    def is_retry(self, key: str) -> bool:
        """True when the job was tried in vain and nobody is at it, as far as was seen."""
        tried = self._tried.get(key)
        return tried is not None and not tried.live and key not in (self.done | self.failed)

    def record(self, key: str) -> dict[str, Any]:
        """What was recorded of a job that is done; {} when it can't be read."""
        return read_line(self._record(key), -1)

    def failure(self, key: str) -> dict[str, Any]:
        """What was recorded of a job that failed: `error`, `traceback`, all `attempts`; {} when it
        can't be read."""
        return read_json(self._failure(key))

    # --- working ---------------------------------------------------------------------------------

    def claim(self, key: str, *, alone: bool = True) -> Lease | None:
        """Takes a job; None when somebody else has it, or it is settled.

        Args:
            key: of a job.
            alone: False when it will be made in one batch with others, which only jobs are that
                were not tried before.
        """
        tried = self._tried.get(key)
        if key in self.done or key in self.failed or (tried and (tried.live or not alone)):
            return None
        number = tried.last + 1 if tried else 1
        lease = self.leases.claim(key, number, alone=alone)
        if lease is None:
            self._tried[key] = Attempts([number], live=True)
            return None
        # Leases are removed after the result is linked: whoever takes one anew sees the result.
        if self._is_settled(key):
            self.release(lease)
            return None
        return lease

    def _is_settled(self, key: str) -> bool:
        if self._record(key).exists():
            self.done.add(key)
        elif self._failure(key).exists():
            self.failed.add(key)
        return key in self.done or key in self.failed

    def release(self, lease: Lease) -> None:
        """Gives a job back as if it had not been taken."""
        self.leases.release(lease)

    def temporary(self, key: str, suffix: str) -> Path:
        """A path for a file on the way, on the file system of the output folder."""
        return self._tmp / f"{key[:12]}-{secrets.token_hex(6)}{suffix}"

    def publish(self, lease: Lease, temporary: Path, record: Mapping[str, Any]) -> bool:
        """Puts a complete file in its place, unless somebody has done so before.

        Args:
            lease: of its job.
            temporary: the file; it is gone afterwards.
            record: plain JSON values to keep with the result.

        Returns:
            whether this result is the one that counts.

        Raises:
            FileExistsError: another file has the name.
            OSError: the disk's.
        """
        key = lease.key
        try:
            self._link_result(key, temporary)
            shard = self._record(key).parent
            if shard.name not in self._shards:
                shard.mkdir(exist_ok=True)
                self._shards.add(shard.name)
        finally:
            temporary.unlink(missing_ok=True)
        first = self.leases.finish(lease, record, self._record(key))
        self.done.add(key)
        self._failure(key).unlink(missing_ok=True)  # another gave it up while we slept
        self.failed.discard(key)
        self.leases.remove(key, lease.number - 1)
        self._tried.pop(key, None)
        return first

    def _link_result(self, key: str, temporary: Path) -> None:
        job = self.jobs[key]
        path = self.folder / job["output"]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(temporary, path)
        except FileExistsError:
            same = path.is_file() and filecmp.cmp(temporary, path, shallow=False)
            if not same and recorded_request(path) != job.get("request"):
                raise FileExistsError(f"output {job['output']!r} is another file's") from None

    def fail(self, lease: Lease, error: str, traceback: str) -> bool:
        """Ends an attempt with an error. Returns whether the job is given up now."""
        self.leases.fail(lease, error, traceback)
        tried = self._tried.setdefault(lease.key, Attempts())
        tried.numbers = sorted({*tried.numbers, lease.number})
        tried.errors.add(lease.number)
        tried.live = False
        if self._used_up(lease.key, tried):
            self._give_up(lease.key, tried.last)
        return lease.key in self.failed

    def _used_up(self, key: str, tried: Attempts) -> bool:
        enough = len(tried.numbers) >= self.attempts
        return enough and self.leases.counted(key, tried) >= self.attempts

    def _give_up(self, key: str, last: int) -> None:
        """Moves a job to `failed`, with what is known of its attempts."""
        if not self._record(key).exists():
            attempts = self.leases.histories(key, last)
            final = attempts[-1] if attempts else {"error": "unknown", "traceback": ""}
            told = {"error": final["error"], "traceback": final["traceback"].splitlines()}
            self.failures.mkdir(exist_ok=True)
            self._put(self._failure(key), {**self.jobs[key], **told, "attempts": attempts})
            self.failed.add(key)
        self.leases.remove(key, last)

    # --- files -----------------------------------------------------------------------------------

    def _record(self, key: str) -> Path:
        return self._done / key[:2] / f"{key}.json"

    def _failure(self, key: str) -> Path:
        return self.failures / f"{key}.json"

    def _put(self, path: Path, values: Mapping[str, Any]) -> bool:
        """Writes JSON under a name that must be free; False when it is not."""
        temporary = self.temporary(path.stem, ".tmp")
        try:
            write_json(temporary, values)
            os.link(temporary, path)
            return True
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
