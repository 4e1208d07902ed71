"""How many jobs at a time: grown while memory was measured to suffice and it pays, halved when not.

Sizes are powers of two, so that few of them are ever met: a strategy measures the cost of its
passes for each. What a batch of n took at its peak tells what one of 2n will take; the sizes
that are safe are found from below. On a CPU the peak is that of the process, on a GPU of its
allocator.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LARGEST = 64
SHARE = 0.8  # of the free memory that a batch may take
_PAYS = 0.95  # a larger batch must take less than this of the time a job
_WORDS = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch, CUDA libraries and Python raise when memory does not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


def parts(count: int) -> list[int]:
    """`count` as powers of two, the largest first."""
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]


class BatchSize:
    """The batch size for jobs of one group.

    Args:
        largest: never more.
        sharers: processes that share the memory.
    """

    def __init__(self, largest: int = LARGEST, *, sharers: int = 1):
        self.size, self._largest, self._sharers = 1, 1 << (largest.bit_length() - 1), sharers
        self._seconds = float("inf")  # a job, at half the size

    def made(self, count: int, seconds: float, peak: int | None, free: int | None) -> None:
        """A batch succeeded.

        Args:
            count: jobs in it.
            seconds: it took.
            peak: bytes above what was in use before; None where unknown.
            free: bytes that were free before; None where unknown.
        """
        if count != self.size or self.size >= self._largest:
            return
        pays = seconds / count < _PAYS * self._seconds
        fits = peak is None or free is None or 2 * peak <= SHARE * free / self._sharers
        if fits and pays:
            self.size *= 2
            self._seconds = seconds / count
        else:
            self._largest = self.size

    def out_of_memory(self, count: int) -> None:
        """A batch of so many did not fit: half as many from now on."""
        self._largest = max(1, min(self._largest, count // 2))
        self.size = min(self.size, self._largest)


class Memory:
    """Measures what a batch takes.

    Args:
        device: a torch device; memory of other kinds than cpu and cuda stays unknown.
    """

    def __init__(self, device):
        self.device = device
        self._before = 0

    def start(self) -> int | None:
        """Begins to measure. Returns the bytes that are free, None where unknown."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            held = torch.cuda.memory_reserved(self.device) - self._before
            return torch.cuda.mem_get_info(self.device)[0] + held
        if self.device.type != "cpu":
            return None
        try:
            # Linux forgets the peak of this process.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        self._before = _status("VmRSS")
        return free_bytes()

    def peak(self) -> int | None:
        """Bytes above those at `start` that were in use since, at most; None where unknown."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device) - self._before
        if self.device.type != "cpu" or not self._before:
            return None
        return max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    """A size in bytes of this process from /proc; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def free_bytes() -> int | None:
    """Bytes that a process can still take: of the machine, or of the control group that it is in;
    None where that can't be told."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        return None
    free = int(match[1]) * 1024
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, free)


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
