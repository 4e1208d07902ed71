"""Long clips under the check of motion: do late parts still show what the caption says, and does
memory stay where it was?

A part is judged by the frames that it does not share with the one before (motion.py has the check).
Captions and seeds are those of the short check. Leaves out on purpose: how smooth the seams look.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from studio.evaluation.features import NOTE, ImageTextFeatures
from studio.evaluation.motion import direction_clips, score_clips

Progress = Callable[[int, int], None]


def resident_mib() -> float:
    """Memory that this process holds, in MiB; 0 where that can't be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_growth(held: list[float]) -> float:
    """What a run came to hold, in MiB: the median of its last third less that of its second one
    (of one part, nothing). The first third fills what is kept."""
    third = max(1, len(held) // 3)
    return median(held[-third:]) - median(held[-2 * third : -third] or held[-third:])


@torch.no_grad()
def evaluate_long_motion(
    pipeline: Any,
    *,
    features: ImageTextFeatures,
    count: int = 8,
    num_frames: int = 512,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Long clips of held-out captions, one at a time.

    Args:
        pipeline: a text-to-video pipeline. features: the bundled ones.
        count: captions; clip i has seed i.
        num_frames: of each.
        options: of the call, for example `temperature=0.5`.

    Returns:
        Plain JSON values: `first`, `middle` and `last`, figures of `score_clips` of those parts;
        `memory_mib`, held after each part of the last clip, and its `memory_growth` as
        `memory_growth_mib`; `frames_per_second`, `parts`, `num_frames`, `count`, `note`.
    """
    config = pipeline.tokenizer.config
    data = direction_clips(size=config.image_size, num_frames=config.num_frames)
    pipeline.set_progress_bar_config(disable=True)
    parts = pipeline.num_parts(num_frames)
    places = {"first": 0, "middle": parts // 2, "last": parts - 1}
    shown: dict[str, list[torch.Tensor]] = {name: [] for name in places}
    memory: list[float] = []
    started = time.perf_counter()
    for number in range(count):
        memory = []
        stream = pipeline.stream_blocks(
            data.caption(number),
            num_frames=num_frames,
            generator=torch.Generator().manual_seed(number),
            output_type="pt",
            **options,
        )
        for part, output in enumerate(stream):
            memory.append(resident_mib())
            for name, place in places.items():
                if part == place:
                    shown[name].append(_own_frames(pipeline, output.tokens, first=part == 0))
            if progress:
                progress(number * parts + part + 1, count * parts)
    seconds = time.perf_counter() - started
    return {
        "note": NOTE,
        "count": count,
        "num_frames": num_frames,
        "parts": parts,
        **{name: score_clips(clips, data, features) for name, clips in shown.items()},
        "memory_mib": memory,
        "memory_growth_mib": memory_growth(memory),
        "frames_per_second": count * num_frames / seconds,
    }


def _own_frames(pipeline: Any, tokens: torch.Tensor, *, first: bool) -> torch.Tensor:
    """The frames (3, T, H, W) of a part's tokens (1, N), without those of the part before."""
    clip = pipeline.tokenizer.decode(tokens.to(pipeline.tokenizer.device))[0]
    return clip[:, 0 if first else pipeline.shared_frames :].float().cpu().clamp(-1, 1)
