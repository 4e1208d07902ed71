"""Clips longer than the tokenizer's, part after part at a memory that does not grow.

Three things tie the parts together. A part begins with the tokens that the one before ended with,
and the frames that both show are blended. Every token sees the coarse tokens of the parts before,
blended into sinks as they leave (Reward Forcing, 2025, 2512.04678; `layers.sink_memory`). And
`plan` makes the coarse tokens of the whole clip before any detail, after TokensGen: Harnessing
Condensed Tokens for Long Video Generation, 2025, 2507.15728, whose condensed tokens are a network's
of their own; here the coarse layer is them, and as no coarse token reads a finer one of its part or
of those before, a plan changes when details come and not what they are. Leaves out on purpose:
several captions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from studio.layers.sink_memory import SinkMemory
from studio.pipelines.generation import GenerationPipeline, Job
from studio.pipelines.video_parts import (
    RAW,
    VideoJob,
    VideoOutput,
    VideoPreview,
    blended,
    joined,
    to_frames,
)
from studio.tokenizers.hitvideo import HiTVideoTokenizer

ALPHA = 0.9  # of the sinks; a part is two seconds, where Reward Forcing's blocks are a fifth of one


class LongVideoPipeline(GenerationPipeline):
    """Base of video pipelines: a checked `VideoJob` into clips of any length."""

    tokenizer: HiTVideoTokenizer

    @property
    def step_frames(self) -> int:
        """Frames of a part that follow those it shares with the part before."""
        return self.tokenizer.config.num_frames - self.shared_frames

    @property
    def shared_frames(self) -> int:
        """Frames that one token of the shortest layer stands for."""
        return min(layer.stride[0] for layer in self.tokenizer.code_layers)

    def num_parts(self, num_frames: int) -> int:
        """How many parts a clip of so many frames is made in."""
        more = max(0, num_frames - self.tokenizer.config.num_frames)
        return 1 + -(-more // self.step_frames)

    def edge_cells(self, *, last: bool = False) -> torch.Tensor:
        """Which tokens say what the first (`last`) shared frames show and nothing else, bool
        (N,)."""
        masks = []
        layout = self.tokenizer.layout
        for segment, layer in zip(layout.segments, self.tokenizer.code_layers, strict=True):
            mask = torch.zeros(segment.shape, dtype=torch.bool)
            if layer.stride[0] == self.shared_frames:
                mask[-1 if last else 0] = True
            masks.append(mask.flatten())
        return torch.cat(masks)  # (N,)

    @torch.no_grad()
    def run(self, job: Job, *, preview_interval: int = 0) -> Iterator[Any]:
        """Does a job: `VideoPreview`s, and the `VideoOutput` at last; see `GenerationPipeline`."""
        outputs: list[VideoOutput] = []
        started = time.perf_counter()
        for item in self.blocks(job, preview_interval=preview_interval):
            if isinstance(item, VideoOutput):
                outputs.append(item)
            else:
                yield item
        yield joined(outputs, time.perf_counter() - started)

    @torch.no_grad()
    def blocks(
        self, job: Job, *, preview_interval: int = 0
    ) -> Iterator[VideoPreview | VideoOutput]:
        """Does a job part by part, holding one at a time: `VideoPreview`s, and for every part a
        `VideoOutput` with the frames that follow those of the part before."""
        assert isinstance(job, VideoJob)  # `prepare` made it
        parts, wanted = self.num_parts(job.num_frames), job.output_type
        inner = replace(job, output_type=wanted if wanted == "tokens" else RAW)
        plan: list[torch.Tensor] = []
        item: Any = None
        if job.plan and parts > 1:
            for item in self._planned(inner, parts, preview_interval):
                if isinstance(item, VideoPreview):
                    yield replace(item, frames=to_frames(item.frames, wanted))
                elif item.tokens is not None:
                    plan.append(item.tokens)
            if self._interrupt:
                yield replace(item, frames=to_frames(item.frames, wanted))
                return
        tail, left = None, job.num_frames
        for part, item in self._chained(inner, parts, preview_interval, plan):
            if isinstance(item, VideoPreview):
                yield replace(item, frames=to_frames(item.frames, wanted))
                continue
            frames = item.frames
            if frames is not None:
                frames, tail = self._placed_after(tail, frames, last=part + 1 == parts)
                frames = frames[:, :left]
                left -= frames.shape[1]
            yield replace(item, frames=to_frames(frames, wanted))

    def _chained(
        self, job: VideoJob, parts: int, preview_interval: int, plan: list[torch.Tensor]
    ) -> Iterator[tuple[int, VideoPreview | VideoOutput]]:
        """What each part gives, with the part's number; a part begins as the one before ended."""
        job = replace(job, memory=self._new_memory(job) if parts > 1 else None)
        output = None
        for part in range(parts):
            current = job if output is None else self._continued(job, output)
            if plan:
                current = _under(plan[part], current, len(self.edge_cells()))
            output = None
            for item in super().run(current, preview_interval=preview_interval):
                if isinstance(item, VideoPreview):
                    item = replace(item, part=part, num_parts=parts)
                else:
                    output = item
                yield part, item
            if self._interrupt:
                break

    def _planned(
        self, job: VideoJob, parts: int, preview_interval: int
    ) -> Iterator[VideoPreview | VideoOutput]:
        """The coarse layer of every part, and previews of it."""
        copies = {id(g): g.clone_state() for g in job.generators}
        coarse = replace(
            job,
            num_tokens=self.tokenizer.num_tokens_of(1),
            generators=[copies[id(g)] for g in job.generators],
        )
        for _, item in self._chained(coarse, parts, preview_interval, []):
            yield item

    def _placed_after(self, tail, frames: torch.Tensor, *, last: bool):
        """The frames (B, T, 3, H, W) that a part adds to those before, and those that wait for the
        part after it."""
        shared = self.shared_frames
        if tail is not None:
            again = blended(tail, frames[:, :shared])
            frames = torch.cat((again, frames[:, shared:]), 1)
        if last or self._interrupt:
            return frames, None
        return frames[:, :-shared], frames[:, -shared:].clone()

    def _continued(self, job: VideoJob, output: VideoOutput) -> VideoJob:
        """The job of the next part: it begins with what the part before ended with."""
        tokens = output.tokens
        assert tokens is not None  # every output has tokens
        device, first = self._execution_device, self.edge_cells()
        given = torch.zeros(len(tokens), len(first), dtype=torch.int64)
        count = tokens.shape[1]  # of the layers that are made
        given[:, first] = F.pad(tokens, (0, len(first) - count))[:, self.edge_cells(last=True)]
        keep = first & (torch.arange(len(first)) < count)
        keep = keep.expand(len(tokens), -1)
        return replace(job, given=given.to(device), keep=keep.to(device))

    # --- memory ----------------------------------------------------------------------------------

    def _new_memory(self, job: VideoJob) -> SinkMemory | None:
        """A memory of the coarse tokens, where the generator keeps a cache that it fits into."""
        if job.strategy.kind != "ordered" or self.cache != "static":
            return None
        return SinkMemory(torch.arange(self.tokenizer.num_tokens_of(1)), alpha=ALPHA)

    def _run_options(self, job: Job) -> dict[str, Any]:
        options = super()._run_options(job)
        memory = job.memory if isinstance(job, VideoJob) else None
        return options if memory is None else {**options, "memory": memory}

    def _ended(self, job: Job, run, tokens: torch.Tensor) -> None:
        """Adds a part that is whole to the memory."""
        memory = job.memory if isinstance(job, VideoJob) else None
        if memory is None or self._interrupt:
            return
        count = len(memory.places)
        if tokens.shape[1] <= count:  # the last ones were not fed, or only as drafts
            run.rewind(torch.zeros(len(tokens), dtype=torch.int64))
            run.extend(tokens)
        run.remember()


def _under(coarse: torch.Tensor, job: VideoJob, total: int) -> VideoJob:
    """A part's job of `total` tokens with its coarse ones (B, n) given."""
    batch, count = coarse.shape
    given, keep = job.given, job.keep
    if given is None or keep is None:
        given = coarse.new_zeros(batch, total)
        keep = torch.zeros(batch, total, dtype=torch.bool)
    given, keep = given.clone(), keep.clone()
    given[:, :count], keep[:, :count] = coarse.to(given.device), True
    return replace(job, given=given, keep=keep)
