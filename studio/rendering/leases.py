"""Lease files: who tries which job, for the how-manieth time, and how earlier attempts ended.

`KEY.2` is attempt 2, made by the process that it names; only one process can create it.
`KEY.2.error` beside it says that the attempt ended in an error. Attempt 3 may begin when attempt 2
has an error or its owner is dead. An attempt counts against its job when it ended in an error, or
when it was made alone and its owner died: a crash of a whole batch is nobody's in particular.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.rendering.owners import Heartbeat, is_gone, this_owner


@dataclass(frozen=True)
class Lease:
    """A claim on one job.

    Args:
        key: of the job.
        number: 1 for the first attempt at it, and so on.
        path: of the lease file.
        handle: the open file, which is what the heartbeat touches: whatever takes the path later
            is not kept alive by us.
    """

    key: str
    number: int
    path: Path
    handle: int = field(compare=False)


@dataclass
class Attempts:
    """The attempts at one job.

    Args:
        numbers: of those with a lease file.
        errors: of those that ended in an error.
        live: whether the last one is being made now.
    """

    numbers: list[int] = field(default_factory=list)
    errors: set[int] = field(default_factory=set)
    live: bool = False

    @property
    def last(self) -> int:
        return max([*self.numbers, *self.errors], default=0)


class Leases:
    """The folder of the lease files.

    Args:
        folder: where they are.
        seconds: a lease that was not renewed for so long is of a dead process.
        heartbeat: renews the leases that are claimed here.
    """

    def __init__(self, folder: Path, *, seconds: float, heartbeat: Heartbeat):
        self.folder, self.seconds, self.heartbeat = folder, seconds, heartbeat
        self._owner = this_owner()
        self._clock = folder / f"clock-{os.getpid()}-{secrets.token_hex(4)}"

    def now(self) -> float:
        """The time of the file system, which is what leases are stamped with."""
        try:
            os.utime(self._clock)
        except FileNotFoundError:
            self._clock.write_text(json.dumps({"owner": self._owner}))
        return self._clock.stat().st_mtime

    def close(self) -> None:
        """Removes what this process needs for itself."""
        with suppress(OSError):
            self._clock.unlink(missing_ok=True)

    def read(self) -> dict[str, Attempts]:
        """Key to attempts, for all jobs that are being tried or were tried in vain."""
        found: dict[str, Attempts] = {}
        now = self.now()
        for path in listed(self.folder):
            key, _, rest = path.name.partition(".")
            number, _, mark = rest.partition(".")
            if number.isdecimal():
                attempts = found.setdefault(key, Attempts())
                if mark:
                    attempts.errors.add(int(number))
                else:
                    attempts.numbers.append(int(number))
            elif path != self._clock:
                self._remove_dead(path, now)
        for key, attempts in found.items():
            if attempts.last not in attempts.errors:
                attempts.live = self._is_live(self.path(key, attempts.last), now)
        return found

    def _remove_dead(self, path: Path, now: float) -> None:
        """Removes what is no lease and whose process has ended: clocks, errors never renamed."""
        with suppress(OSError):
            if now - path.stat().st_mtime > 10 * self.seconds or is_gone(self._owner_in(path)):
                path.unlink()

    def _owner_in(self, path: Path) -> Any:
        return self._says(path).get("owner") or read_json(path).get("owner")

    def _is_live(self, path: Path, now: float) -> bool:
        try:
            if now - path.stat().st_mtime > self.seconds:
                return False
        except FileNotFoundError:
            return True  # it ended this moment; the next look tells how
        return not is_gone(self._says(path).get("owner"))

    def claim(self, key: str, number: int, *, alone: bool) -> Lease | None:
        """Creates the file of an attempt; None when it is there. Raises OSError of the disk."""
        path = self.path(key, number)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        lease = Lease(key, number, path, handle)
        self.heartbeat.add(handle)
        try:
            _write_line(handle, {"owner": self._owner, "alone": alone})
        except OSError:
            self.release(lease)
            raise
        return lease

    def release(self, lease: Lease) -> None:
        """Ends an attempt as if it had not been made."""
        self.heartbeat.drop(lease.handle)
        lease.path.unlink(missing_ok=True)

    def finish(self, lease: Lease, record: Mapping[str, Any], path: Path) -> bool:
        """Ends an attempt that succeeded: the lease file itself, with `record` as its last line,
        becomes `path`. Returns False when that is there already."""
        os.lseek(lease.handle, 0, os.SEEK_END)
        _write_line(lease.handle, {**record, "owner": self._owner, "attempt": lease.number})
        try:
            os.link(lease.path, path)
            return True
        except FileExistsError:
            return False
        except FileNotFoundError:  # a later run took this process for dead
            return _write_new(path, record)
        finally:
            self.release(lease)

    def fail(self, lease: Lease, error: str, traceback: str) -> None:
        """Ends an attempt with an error."""
        path = Path(f"{lease.path}.error")
        temporary = path.with_name(f"new-{secrets.token_hex(6)}")
        try:
            write_json(temporary, {"error": error, "traceback": traceback, "owner": self._owner})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self.heartbeat.drop(lease.handle)

    def counted(self, key: str, attempts: Attempts) -> int:
        """How many ended attempts count against the job."""
        alone = [self._says(self.path(key, n)).get("alone", True) for n in attempts.numbers]
        return sum(
            number in attempts.errors or said
            for number, said in zip(attempts.numbers, alone, strict=True)
        )

    def histories(self, key: str, last: int) -> list[dict[str, Any]]:
        """How each attempt at a job ended: `error`, `traceback` and `owner`."""
        found = []
        for number in range(1, last + 1):
            path = self.path(key, number)
            if told := read_json(Path(f"{path}.error")):
                found.append(told)
            elif path.exists():
                owner = self._says(path).get("owner")
                found.append({"error": "the worker died", "traceback": "", "owner": owner})
        return found

    def remove(self, key: str, last: int) -> None:
        """Removes all attempts at a job, up to number `last`."""
        for number in range(1, last + 1):
            path = self.path(key, number)
            path.unlink(missing_ok=True)
            Path(f"{path}.error").unlink(missing_ok=True)

    def path(self, key: str, number: int) -> Path:
        """The lease file of an attempt."""
        return self.folder / f"{key}.{number}"

    def _says(self, path: Path) -> dict[str, Any]:
        """What a lease file says; {} when it is gone, or not yet written."""
        return read_line(path, 0)


def listed(folder: Path) -> Iterator[Path]:
    """What a folder holds; nothing when it is not there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder):
            yield folder / name


def _write_line(handle: int, values: Mapping[str, Any]) -> None:
    """One line, whole or not at all. Raises OSError of the disk."""
    start = os.lseek(handle, 0, os.SEEK_CUR)
    left = memoryview((json.dumps(values, ensure_ascii=False) + "\n").encode())
    try:
        while left:  # a disk that is nearly full takes a part
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, start)
        raise


def _write_new(path: Path, values: Mapping[str, Any]) -> bool:
    """One line in a file that must not be there; False when it is."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        _write_line(handle, values)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def read_line(path: Path, number: int) -> dict[str, Any]:
    """Line `number` of a file of JSON objects (-1: the last); {} when it can't be read."""
    try:
        values = json.loads(path.read_bytes().splitlines()[number])
    except (OSError, ValueError, IndexError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON object for people to read too."""
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} when there is none to be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
