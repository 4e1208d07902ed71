"""Who is alive: processes that say who they are, and a heartbeat that renews their files.

On its own machine a dead process is known at once: a process names the boot, its namespace of
process numbers, its number and its time of start, so that a number that is given again does not
pass for its predecessor. Elsewhere a heartbeat that stops tells. Known at once on Linux only.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _machine() -> str | None:
    """This boot of this machine and the process numbers in force; None where that can't be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process was started, in ticks; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    words = text.rpartition(")")[2].split()
    return None if words[0] in "ZX" else words[19]


def this_owner() -> dict[str, Any]:
    """This process, as plain JSON values."""
    pid = os.getpid()
    owner = {"host": socket.gethostname(), "pid": pid}
    machine = _machine()
    return owner if machine is None else {**owner, "machine": machine, "start": _started(pid)}


def is_gone(owner: Any) -> bool:
    """True when the process that gave `owner` is known to have ended: it ran on this machine."""
    if not isinstance(owner, dict) or owner.get("machine") is None:
        return False
    pid = owner.get("pid")
    if owner["machine"] != _machine() or not isinstance(pid, int):
        return False
    return _started(pid) != owner.get("start")


class Heartbeat:
    """A thread that sets the times of open files to now, again and again.

    Args:
        seconds: between beats.
        on_beat: called after each.
    """

    def __init__(self, seconds: float, on_beat: Callable[[], None] | None = None):
        self._seconds, self._on_beat = seconds, on_beat
        self._handles: set[int] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, handle: int) -> None:
        """Renew this file too; the first one starts the thread."""
        with self._lock:
            self._handles.add(handle)
        if self._thread is None:
            self.start()

    def drop(self, handle: int) -> None:
        """Renew it no more, and close it. Does nothing for one that was dropped."""
        with self._lock:
            if handle in self._handles:
                self._handles.remove(handle)
                os.close(handle)

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            with self._lock:
                for handle in self._handles:
                    with suppress(OSError):
                        os.utime(handle)
            if self._on_beat is not None:
                self._on_beat()
