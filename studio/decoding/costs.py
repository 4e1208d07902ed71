"""What a pass over n tokens costs on this machine, measured once for every model.

Speculation pays where a pass over many tokens takes little longer than one over a single token,
which is a matter of the machine. The curve is kept in memory for the model and as JSON in the
user's cache folder, under a key of machine and model. Left out on purpose: how the cost grows with
the tokens already seen; passes are measured in the middle of a sequence.
"""

import hashlib
import itertools
import json
import logging
import math
import os
import platform
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from studio.generators.conditioning import (
    ClassCondition,
    Condition,
    FeatureCondition,
    SpeechCondition,
    TextCondition,
)
from studio.generators.guidance import Guidance

logger = logging.getLogger(__name__)

SIZES = (1, 4, 8, 16, 32, 64)
SLOW = 0.5  # seconds of a pass of every size from which on fewer are measured
_memory: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> {key: costs}


def measure_costs(
    make_run: Callable[[], object],
    *,
    sizes: Sequence[int] = SIZES,
    repeats: int = 9,
    clock: Callable[[], float] | None = None,
) -> dict[int, float]:
    """Seconds of a pass over n tokens, the least of some, in the middle of a sequence.

    Args:
        make_run: gives a fresh `OrderedRun`.
        sizes: the n to measure; those longer than half a sequence are left out.
        repeats: passes measured for each size, after one that is not; a third where they are slow.
        clock: gives seconds; `clock_of` the run's device when None.

    Returns:
        n to seconds; never falling with n, as what falls is noise of the clock.
    """
    run = make_run()
    clock = clock or clock_of(run.device)
    half = run.num_tokens // 2
    rows = run.batch_size
    run.extend(torch.zeros(rows, half, dtype=torch.int64, device=run.device))
    lines = {
        n: torch.zeros(rows, n, dtype=torch.int64, device=run.device)
        for n in sizes
        if n == 1 or n <= run.num_tokens - half
    }
    first = sum(_timed(run, tokens, half, clock) for tokens in lines.values())
    least = dict.fromkeys(lines, math.inf)
    for _ in range(repeats if first < SLOW else -(-repeats // 3)):
        for n, tokens in lines.items():  # in turn, so that a busy moment slows all of them
            least[n] = min(least[n], _timed(run, tokens, half, clock))
    return dict(zip(least, itertools.accumulate(least.values(), max), strict=True))


def _timed(run, tokens: torch.Tensor, held: int, clock: Callable[[], float]) -> float:
    started = clock()
    run.extend(tokens)
    seconds = clock() - started
    run.rewind(torch.full((len(tokens),), held))
    return seconds


def clock_name(device: torch.device) -> str:
    """ "processor" for one thread of a CPU, whose own time others lengthen less, else "wall"."""
    return "processor" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"


def clock_of(device: torch.device) -> Callable[[], float]:
    """Gives seconds on the clock of `clock_name`, after the device has done what it was told."""
    if clock_name(device) == "processor":
        return time.thread_time
    if device.type == "cpu":
        return time.perf_counter

    def wait_and_look() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return wait_and_look


def model_costs(
    model,
    *,
    batch_size: int = 1,
    guidance: Guidance | None = None,
    folder: str | Path | None = None,
) -> dict[int, float]:
    """The curve of a generator: from memory, from disk, or measured now and kept.

    Args:
        model: an ordered `Generator`.
        batch_size: B of the passes.
        guidance: as decoding will use it; a guided pass is twice as wide.
        folder: where curves are kept; the user's cache folder when None.
    """
    guided = guidance is not None and guidance.active
    key = curve_key(model, batch_size, guided)
    held = _memory.setdefault(model, {})
    if key not in held:
        path = (_cache_folder() if folder is None else Path(folder)) / f"{key}.json"
        costs = _read(path)
        if costs is None:
            condition = blank_condition(model.config, batch_size, model.device)
            with torch.no_grad():
                costs = measure_costs(lambda: model.start(condition, guidance=guidance))
            _write(path, costs)
        held[key] = costs
    return held[key]


def head_costs(
    head, model, batch_size: int, guidance: Guidance | None, sizes: tuple[int, ...]
) -> dict[int, float]:
    """Seconds of a drafter head's pass over n tokens with their scores, the least of some; kept in
    memory.

    Args:
        head: a `DrafterHead`.
        model: the ordered `Generator` that it drafts for.
        batch_size, guidance: as in `model_costs`.
        sizes: the n.
    """
    guided = guidance is not None and guidance.active
    key = f"{curve_key(model, batch_size, guided)} {sizes}"
    held = _memory.setdefault(head, {})
    if key in held:
        return held[key]
    condition = blank_condition(model.config, batch_size, model.device)
    run = model.start(condition, guidance=guidance)
    run.extend(torch.zeros(batch_size, 0, dtype=torch.int64, device=run.device))
    drafts, clock = head.start(run), clock_of(run.device)
    held[key] = dict.fromkeys(sizes, math.inf)
    half = [run.num_tokens // 2] * batch_size
    for n in (half[0], *sizes * 5):
        tokens = torch.zeros(batch_size, n, dtype=torch.int64, device=run.device)
        features = run.features.expand(-1, n, -1)
        started = clock()
        drafts.score(drafts.extend(features, tokens), half)
        if drafts.lengths != half:
            held[key][n] = min(held[key][n], clock() - started)
        drafts.rewind(half)
    return held[key]


def blank_condition(config, batch_size: int, device: torch.device) -> Condition:
    """Some condition that a generator of this config takes, `batch_size` rows."""
    if config.condition == "class":
        labels = torch.zeros(batch_size, dtype=torch.int64, device=device)  # (B,)
        return ClassCondition(labels)
    length = config.num_condition_tokens
    mask = torch.ones(batch_size, length, dtype=torch.bool, device=device)  # (B, S)
    if config.condition == "text":
        return TextCondition(torch.zeros_like(mask, dtype=torch.int64), mask)
    if config.condition == "speech":
        zeros = torch.zeros(batch_size, device=device)
        ids, voices = torch.ones_like(mask, dtype=torch.int64), zeros.long()
        ends = torch.linspace(0, 1000, length, device=device).expand(batch_size, -1)  # (B, S)
        return SpeechCondition(ids, mask, ends, voices, zeros, zeros)
    features = torch.zeros(batch_size, length, config.caption_dim, device=device)  # (B, S, C)
    return FeatureCondition(features, mask)


def curve_key(model, batch_size: int, guided: bool) -> str:
    """What names a curve: 20 hex digits of the machine and everything a pass's cost depends on."""
    device = model.device
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    parts = [
        type(model).__name__,
        config,
        str(model.dtype),
        on,
        device.type,
        os.cpu_count(),
        torch.get_num_threads(),
        torch.__version__,
        batch_size,
        guided,
        model.compiled_step is not None,
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return " ".join([platform.machine(), *sorted(names)])


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "studio" / "costs"


def _read(path: Path) -> dict[int, float] | None:
    try:
        costs = {int(n): float(s) for n, s in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return costs if 1 in costs and min(costs.values()) > 0 else None


def _write(path: Path, costs: dict[int, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({str(n): s for n, s in costs.items()}, file)
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("the costs of passes could not be kept: %s", error)
