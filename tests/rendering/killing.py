"""Processes of a running `studio render`, found through /proc, to be killed."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def _stat(pid):
    """Name, state and parent of a process; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    state, parent = text[text.rindex(")") + 2 :].split()[:2]
    return name, state, int(parent)


def below(pid):
    """All processes that descend from one: (pid, name)."""
    known = {int(p.name): s for p in Path("/proc").glob("[0-9]*") if (s := _stat(p.name))}
    found, wanted = [], [pid]
    while wanted:
        parent = wanted.pop()
        for child, (name, state, of) in known.items():
            if of == parent and state not in "ZX":
                found.append((child, name))
                wanted.append(child)
    return found


def workers_of(pid):
    """The workers of a command."""
    return [child for child, name in below(pid) if name == "studio-worker"]


def kill(*pids):
    """kill -9, also of what is gone already."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_all(pid):
    """kill -9 of a command with everything that it started."""
    kill(pid, *(child for child, _ in below(pid)))


def is_alive(pid):
    """Whether a process is there and runs."""
    return (stat := _stat(pid)) is not None and stat[1] not in "ZX"
