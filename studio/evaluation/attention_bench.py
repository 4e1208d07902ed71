"""How long attention takes: grids, windows and back ends against each other in the same run.

Every contender of a grid runs once a round, in turn, so that a machine that is busy with something
else slows all of them; what is reported is the median of each round's ratio. "full" is attention of
all tokens to all. Left out on purpose: whole networks, which `bench decoding` races.
"""

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from studio.env import need
from studio.evaluation.report import hardware, hardware_line
from studio.layers.attention import BACKENDS, attention, trouble
from studio.layers.neighborhood import (
    NEIGHBORHOOD_BACKENDS,
    Neighborhood,
    neighborhood_attention,
    refusal,
)
from studio.media.files import atomic_path

GRIDS = ["16x16", "32x32", "64x64", "4x16x16"]
GPU_GRIDS = [*GRIDS, "128x128", "16x32x32"]
MAX_SCORES = 2**31  # bytes of a whole matrix of scores, beyond which it is not made
# On a CPU it is not compiled and serves tests; it runs where it is named.
_ONLY_WHEN_NAMED = {"cpu": ("flex", "natten", "xformers")}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        grids: (H, W) or (T, H, W) or (N,) each.
        kernels: of the windows, one number for all axes or one for each.
        stride: of every window.
        backends: names; all that work when empty.
        batch, heads, head_dim: of the tensors.
        dtype, device: where and how they are held.
        rounds: how often each contender runs, after one run that is not timed.
        backward: measure the gradients along.
    """

    grids: list[tuple[int, ...]]
    kernels: list[tuple[int, ...]]
    stride: int = 1
    backends: tuple[str, ...] = ()
    batch: int = 1
    heads: int = 4
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    rounds: int = 5
    backward: bool = False

    def __post_init__(self):
        known = {*BACKENDS, *NEIGHBORHOOD_BACKENDS}
        for name in self.backends:
            if name not in known:
                raise ValueError(f"backend {name!r} must be one of {', '.join(sorted(known))}")
        for name in ("batch", "heads", "head_dim", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" or another type of device."""
        return torch.device(self.device).type

    def wants(self, name: str) -> bool:
        """Whether a backend takes part."""
        hidden = _ONLY_WHEN_NAMED.get(self.kind, ())
        return name in self.backends if self.backends else name not in hidden


@dataclass(frozen=True)
class Contender:
    """One way to attend: `run` makes it, or `note` says why there is none."""

    kernel: tuple[int, ...] | None
    backend: str
    run: Callable[[], Any] | None
    note: str = ""


def measure_attention(settings: Settings) -> dict[str, Any]:
    """Race all back ends over all grids and windows.

    Returns:
        `settings`, `gpu` (the name, or "not measured"), `hardware`, `clock`, and `rows`, one for
        each grid, window and backend: milliseconds, how many times faster than full attention ("x
        full", torch's fused kernel) and than the same window as a mask ("x mask"), the most memory
        in MiB beyond the inputs, and a note where there is no figure.
    """
    rows = []
    for grid in settings.grids:
        logger.info("grid %s", size_text(grid))
        rows += _race(settings, grid, list(_contenders(settings, grid)))
    gpu = torch.cuda.get_device_name(settings.device) if settings.kind == "cuda" else None
    return {
        "settings": vars(settings) | {"dtype": str(settings.dtype)},
        "gpu": gpu or "not measured",
        "hardware": hardware(),
        "clock": "processor" if _one_thread(settings.device) else "wall",
        "rows": rows,
    }


def size_text(sizes: tuple[int, ...] | None) -> str:
    """(64, 64) as "64x64", None as "all"."""
    return "all" if sizes is None else "x".join(map(str, sizes))


def _contenders(settings: Settings, grid: tuple[int, ...]) -> Iterator[Contender]:
    draw = torch.Generator().manual_seed(0)
    shape = (settings.batch, settings.heads, math.prod(grid), settings.head_dim)
    q, k, v = (
        torch.randn(shape, generator=draw)
        .to(settings.device, settings.dtype)
        .requires_grad_(settings.backward)
        for _ in range(3)
    )
    scores = 4 * math.prod(shape[:3]) * shape[2]
    large = f"{scores / 2**30:.0f} GiB of scores" if scores > MAX_SCORES else ""

    def step(function, *more, **options):
        if not settings.backward:
            return lambda: function(q, k, v, *more, **options)
        return lambda: torch.autograd.grad(
            function(q, k, v, *more, **options).float().square().sum(), (q, k, v)
        )

    for name in filter(settings.wants, BACKENDS):
        note = large if name == "plain" else ""
        if name in ("flex", "xformers"):
            note = trouble(name, q.device, q.dtype, q.shape[-1])
        yield Contender(None, name, None if note else step(attention, backend=name), note)
    for kernel in settings.kernels:
        try:
            sizes = kernel * len(grid) if len(kernel) == 1 else kernel
            window = Neighborhood(grid, sizes, settings.stride)
        except ValueError as error:
            yield Contender(kernel, "-", None, str(error))
            continue
        for name in filter(settings.wants, NEIGHBORHOOD_BACKENDS):
            note = large if name == "dense" else refusal(name, q, k, v)
            run = None if note else step(neighborhood_attention, window, backend=name)
            yield Contender(sizes, name, run, note)


def _race(settings: Settings, grid: tuple[int, ...], field: list[Contender]) -> list[dict]:
    """Rows of one grid."""
    notes = {one: one.note for one in field}
    runs = {one: one.run for one in field if one.run is not None}
    peaks: dict[Contender, float | None] = {}
    with torch.set_grad_enabled(settings.backward):
        for one, run in runs.items():
            try:
                run()  # compiles, fills caches
                peaks[one] = peak_bytes(run, settings.device) / 2**20
            except (RuntimeError, NotImplementedError) as error:
                notes[one] = (str(error).strip().splitlines() or ["failed"])[0][:200]
        times: dict[Contender, list[float]] = {one: [] for one in peaks}
        for _, one in itertools.product(range(settings.rounds), peaks):
            times[one].append(_seconds(runs[one], settings.device))
    whole = next((times[o] for o in times if o.kernel is None and o.backend == "sdpa"), None)
    rows = []
    for one in field:
        masked = next(
            (times[o] for o in times if o.kernel == one.kernel and o.backend == "sdpa"), None
        )
        taken = times.get(one)
        rows.append(
            {
                "grid": size_text(grid),
                "window": size_text(one.kernel),
                "backend": one.backend,
                "ms": statistics.median(taken) * 1e3 if taken else None,
                "x full": _ratio(whole, taken),
                "x mask": _ratio(masked, taken) if one.kernel else None,
                "MiB": peaks.get(one),
                "note": notes[one],
            }
        )
    return rows


def _ratio(base: list[float] | None, taken: list[float] | None) -> float | None:
    if not base or not taken:
        return None
    return statistics.median(a / b for a, b in zip(base, taken, strict=True))


def _one_thread(device: str) -> bool:
    return device == "cpu" and torch.get_num_threads() == 1


def _seconds(run: Callable, device: str) -> float:
    """By the clock; for one thread of a CPU the processor's time, which others do not lengthen."""
    clock = time.thread_time if _one_thread(device) else time.perf_counter
    if device != "cpu":
        torch.accelerator.synchronize(device)
    start = clock()
    run()
    if device != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - start


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The most memory that `run` holds at once beyond what was there before.

    Args:
        run: what is watched, called once.
        device: a CUDA GPU, whose allocator keeps the book, or a CPU, where torch's profiler does.
    """
    if device != "cpu":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as log:
        run()
    profiler = log.profiler
    assert profiler is not None and profiler.kineto_results is not None  # it has run
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held, default=0)


def plot_attention(path: str | Path, figures: dict[str, Any]) -> Path:
    """Tokens against milliseconds of every backend and window, as PNG.

    Raises:
        ImportError: matplotlib is missing; the message has the line that installs it.
    """
    need("matplotlib", extra="eval")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in figures["rows"]:
        if row["ms"] is not None:
            tokens = math.prod(map(int, row["grid"].split("x")))
            name = f"{row['backend']}, window {row['window']}"
            lines.setdefault(name, []).append((tokens, row["ms"]))
    for number, (name, points) in enumerate(lines.items()):
        style = ":" if name.endswith("all") else "-"
        axes.plot(
            *zip(*sorted(points), strict=True), f"C{number % 10}{style}", marker="o", label=name
        )
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="milliseconds a call")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(hardware_line(figures["hardware"]), fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)
