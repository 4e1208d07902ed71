"""A race of ways to decode: the same sentence and seed, every step watched.

For each way: passes of the network, seconds, which pass made each token and whether a draft stood
there, the picture, and whether the tokens are those of plain decoding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studio.decoding.modes import FAITHFUL, PLAIN
from studio.pipelines.request import Request
from studio.server.jobs import Job, Picture
from studio.server.keeper import Keeper
from studio.server.media import picture, png_bytes

MASKED = "masked"
MAX_LANES = 8
DEFAULT = (PLAIN, "seed", "exact", "grouped")


@dataclass
class Lane:
    """One way in a race.

    Args:
        mode: a mode's name, or "masked".
        error: one line, when it can't run with this model.
        passes, seconds: what it cost.
        made: int (N,): the pass that made each token, from 1.
        drafted: bool (N,): whether it was made as a draft that stood.
        grid: (h, w) of the tokens; a row for 1D ones.
        proposed, accepted: drafts.
        same: whether the tokens are plain decoding's; None where nothing says they should be.
        shown: the picture.
    """

    mode: str
    error: str | None = None
    passes: int = 0
    seconds: float = 0.0
    made: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    drafted: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    grid: tuple[int, int] = (1, 1)
    proposed: int = 0
    accepted: int = 0
    same: bool | None = None
    tokens: Any = None
    shown: Picture | None = None

    def heat(self) -> Picture:
        """The grid of tokens: drafts that stood in green, tokens drawn by a pass in grey; what came
        early is dark."""
        from PIL import Image

        height, width = self.grid
        count = height * width
        early = np.zeros(count)
        early[: len(self.made)] = self.made / max(1, self.made.max(initial=1))
        stood = np.zeros(count, bool)
        stood[: len(self.drafted)] = self.drafted
        hue = np.where(stood, 105, 18)
        colour = np.where(stood, 150, 40)
        value = 70 + 170 * early
        layers = np.stack([hue, colour, value], -1).astype(np.uint8).reshape(height, width, 3)
        image = Image.fromarray(layers, "HSV").convert("RGB")
        times = max(4, 192 // max(width, height))
        image = image.resize((width * times, height * times), Image.Resampling.NEAREST)
        text = f"{self.mode}: {int(self.drafted.sum())} of {len(self.made)} tokens were drafts"
        return Picture("image/png", png_bytes(image), text)


def race(job: Job, keeper: Keeper, request: Request, modes: list[str]) -> list[Lane]:
    """Runs some ways one after the other; plain decoding is always among them, as the measure.

    Raises:
        ValueError: one line: too many ways, or a request that the model can't do.
    """
    if not 1 <= len(modes) <= MAX_LANES:
        raise ValueError(f"modes: {len(modes)} are chosen, 1 to {MAX_LANES} can be")
    ordered = [mode for mode in modes if mode != MASKED]
    lanes: list[Lane] = []
    if ordered:
        ordered = [PLAIN, *(mode for mode in ordered if mode != PLAIN)]
        lanes += _with_network(job, keeper, request, "autoregressive", ordered, len(modes))
    if MASKED in modes:
        lanes += _with_network(job, keeper, request, MASKED, [MASKED], len(modes))
    plain = next((lane for lane in lanes if lane.mode == PLAIN and lane.tokens is not None), None)
    for lane in lanes:
        if plain is not None and lane.mode in FAITHFUL and lane.tokens is not None:
            lane.same = bool((lane.tokens == plain.tokens).all())
    return lanes


def _with_network(job, keeper, request, kind, modes, total) -> list[Lane]:
    job.say(f"loading {request.model}")
    opened = keeper.open(
        request.model, kind if kind in keeper.find(request.model).generators else None
    )
    if opened.pipe.medium != "image":
        raise ValueError(f"model {request.model!r} makes no pictures: the race is for those")
    warm = opened.pipe.stream(**_call(opened.pipe, request, PLAIN if kind != MASKED else None))
    next(iter(warm), None) if len(modes) > 1 else None
    lanes = []
    for number, mode in enumerate(modes):
        job.report(number / max(total, len(modes)), f"{mode} is running")
        try:
            lanes.append(_run(job, opened.pipe, request, mode))
        except ValueError as error:
            lanes.append(Lane(mode, error=" ".join(str(error).split())[:200]))
    return lanes


def _call(pipe: Any, request: Request, mode: str | None) -> dict[str, Any]:
    call = request.arguments(pipe)
    call.pop("decoding", None)
    if mode is not None and mode != MASKED:
        call["decoding"] = mode
    return call | {"preview_interval": 0}


def _run(job: Job, pipe: Any, request: Request, mode: str) -> Lane:
    """One way, watched."""
    layout = pipe.tokenizer.layout
    count = request.num_tokens or layout.num_tokens
    made, drafted = np.zeros(count, np.int64), np.zeros(count, bool)
    passes = 0

    def watch(pipe: Any, step: int, time: int, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal passes
        job.check()
        passes += 1
        known = tensors["known"][0, :count].cpu().numpy()
        fresh = np.flatnonzero(known & (made == 0))
        made[fresh] = passes
        if mode not in (PLAIN, MASKED):
            drafted[fresh[:-1]] = True  # the last one is what the pass itself drew
        return {}

    call = _call(pipe, request, mode)
    call |= {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": ["known"]}
    (output,) = pipe.stream(**call)
    stats, shape = output.stats, layout.segments[0].shape
    grid = shape if len(shape) == 2 else _row(count)
    return Lane(
        mode=mode,
        passes=stats.passes,
        seconds=stats.seconds,  # without tables that are built once
        made=made,
        drafted=drafted,
        grid=grid,
        proposed=stats.proposed if mode not in (PLAIN, MASKED) else 0,
        accepted=stats.accepted if mode not in (PLAIN, MASKED) else 0,
        tokens=output.tokens,
        shown=picture(output.images[0], f"{request.prompt} by {mode}"),
    )


def _row(count: int) -> tuple[int, int]:
    width = 2 ** math.ceil(math.log2(math.sqrt(count)))
    return -(-count // width), width
