"""The work of a job that makes things: loads the model, reads its stream, writes results.

A list of requests is one job: the samples of a prompt, the cells of a grid, the variations of a
sentence. Each becomes one sample with a file of its own. What differs in words and seeds alone is
made together, a few at a time, and what one model makes comes in a row, so that each is loaded
once; results never depend on that, and stand in the order in which they were asked for. Cancelling
takes effect within a decoding step, and what was finished stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from studio.pipelines.request import Request
from studio.server.gallery import Gallery, title_of
from studio.server.jobs import Job
from studio.server.keeper import Keeper, Opened
from studio.server.media import KINDS, previews, sound
from studio.server.workspace import Workspace

MAX_SAMPLES = 100  # in one job
_PREVIEWS = 12  # of a sample, about
_OWN = ("prompt", "class_label", "seed", "count")


def singles(requests: Sequence[Request]) -> list[Request]:
    """The requests as samples, one seed each.

    Raises:
        ValueError: there is none, or more than `MAX_SAMPLES`.
    """
    count = sum(request.count for request in requests)
    if not 1 <= count <= MAX_SAMPLES:
        raise ValueError(f"count {count} must lie between 1 and {MAX_SAMPLES} in one job")
    return [replace(r, seed=seed, count=1) for r in requests for seed in r.seeds()]


def check(requests: Sequence[Request], keeper: Keeper, workspace: Workspace) -> list[Request]:
    """The samples of requests that can be made here, for all that can be told without a model.

    Raises:
        ValueError: one line that names the field.
    """
    samples = singles(requests)
    for name in {request.model for request in samples}:
        entry = keeper.find(name)
        for request in (r for r in samples if r.model == name):
            if not entry.generates:
                raise ValueError(f"model {name!r} generates nothing")
            if request.generator and request.generator not in entry.generators:
                there = ", ".join(entry.generators)
                raise ValueError(
                    f"generator {request.generator!r} is not in model {name!r}: {there}"
                )
            wanted = "prompt" if entry.words else "class_label"
            if getattr(request, wanted) is None:
                raise ValueError(f"{wanted} is missing: model {name!r} needs one")
            if request.input is not None:
                workspace.input_path(request.input)
            elif request.strength is not None:
                raise ValueError(f"strength {request.strength} needs an input")
    return samples


def generation(
    samples: list[Request], *, keeper: Keeper, gallery: Gallery, workspace: Workspace
) -> Callable[[Job], None]:
    """The work of making samples, see `check`."""

    def work(job: Job) -> None:
        done = 0
        for batch in _batches(samples, keeper):
            make(job, batch, done / len(samples))
            done += len(batch)
            job.report(done / len(samples))

    # A function of its own: nothing here holds a model while the next one is loaded.
    def make(job: Job, places: list[int], start: float) -> None:
        batch = [samples[place] for place in places]
        first = batch[0]
        job.say(f"loading {first.model}")
        opened = keeper.open(first.model, first.generator)
        maker = _Maker(job, opened, batch, start, len(batch) / len(samples))
        made = maker.make(workspace)
        for place, (request, media, output, stats) in zip(places, made, strict=True):
            medium = opened.pipe.medium
            item = gallery.add(media, request, output, medium=medium, stats=stats)
            job.add_result(item.id, place=place)

    return work


def _batches(samples: list[Request], keeper: Keeper) -> Iterator[list[int]]:
    """Places of samples that can be made in one call, a few at a time; all of one network come in
    a row, networks and groups in the order in which they are first asked for."""
    entries = {name: keeper.find(name) for name in {request.model for request in samples}}
    networks: dict[tuple, dict[str, list[int]]] = {}
    for place, request in enumerate(samples):
        kind = request.generator or entries[request.model].generators[0]
        groups = networks.setdefault((request.model, kind), {})
        groups.setdefault(_group(request), []).append(place)
    for (model, _), groups in networks.items():
        size = KINDS[entries[model].medium].batch
        for places in groups.values():
            for start in range(0, len(places), size):
                yield places[start : start + size]


def _group(request: Request) -> str:
    values = {k: v for k, v in request.to_dict().items() if k not in _OWN}
    return json.dumps(values, sort_keys=True)


class _Maker:
    """Makes one batch: `start` and `part` are its place in the whole job."""

    def __init__(self, job: Job, opened: Opened, batch: list[Request], start: float, part: float):
        self.job, self.opened, self.batch = job, opened, batch
        self.start, self.part = start, part
        self.titles = [title_of(request.to_dict()) for request in batch]
        self._parts, self._whole, self._last = 1, 0, 0.0  # of a long clip
        self._waves: list[Any] = []

    def make(self, workspace: Workspace) -> Iterator[tuple[Request, Any, Any, dict[str, Any]]]:
        """Each sample with its request, the output it stands in, and what it cost."""
        call = self._call(workspace)
        output = None
        for item in self.opened.pipe.stream(**call):
            output = item
            self._show(item)
        kind = KINDS[self.opened.pipe.medium]
        made = getattr(output, kind.results)
        stats = _stats(output, len(self.batch))
        for request, media in zip(self.batch, made, strict=True):
            yield replace(request, **self.opened.identity), media, output, stats

    def _call(self, workspace: Workspace) -> dict[str, Any]:
        from studio.media.image import open_picture

        pipe, first = self.opened.pipe, self.batch[0]
        call = first.arguments(pipe)
        word = "prompt" if "prompt" in call else "class_labels"
        field = "prompt" if word == "prompt" else "class_label"
        values = [getattr(request, field) for request in self.batch]
        call[word] = values[0] if pipe.medium == "audio" else values
        call["generator"] = [g for request in self.batch for g in request.generators()]
        if first.input is not None:
            call["image"] = open_picture(workspace.input_path(first.input))
        tokens = first.num_tokens or pipe.tokenizer.layout.num_tokens
        if pipe.medium != "audio":
            call["preview_interval"] = max(1, -(-tokens // _PREVIEWS))
        if pipe.medium == "video":
            frames = first.num_frames or pipe.tokenizer.config.num_frames
            self._parts = pipe.num_parts(frames) if hasattr(pipe, "num_parts") else 1
        self.job.report(self.start, f"making {_several(self.titles)}")
        call["callback_on_step_end"] = self._step
        call["callback_on_step_end_tensor_inputs"] = ["known"]
        return call

    def _step(self, pipe: Any, step: int, time: int, tensors: dict[str, Any]) -> dict[str, Any]:
        """Within every decoding step: ends it when the job was cancelled, and counts."""
        self.job.check()
        if pipe.medium != "audio":
            share = float(tensors["known"].float().mean())
            if share < self._last - 0.5:  # the next part of a long clip
                self._whole += 1
            self._last = share
            self.job.report(self.start + self.part * min(1.0, (self._whole + share) / self._parts))
        return {}

    def _show(self, item: Any) -> None:
        if hasattr(item, "total"):  # a stretch of sound
            self._waves.append(item.audio[None])
            self.job.show([sound(self._waves, item.sampling_rate, self.titles[0])])
            self.job.report(self.start + self.part * item.made / max(1, item.total))
        elif hasattr(item, "known"):
            shown = previews(item, self.titles)
            if shown:
                self.job.show(shown)


def _stats(output: Any, count: int) -> dict[str, Any]:
    found = {k: v for k, v in asdict(output.stats).items() if v is not None}
    return {**found, "seconds": round(output.stats.seconds / count, 4), "batch": count}


def _several(titles: list[str]) -> str:
    count, names = len(titles), list(dict.fromkeys(titles))
    if len(names) > 1:
        return f"{names[0][:80]} and {len(names) - 1} more"
    return f"{names[0][:80]} × {count}" if count > 1 else names[0][:80]


def title(samples: Sequence[Request]) -> str:
    """What a job makes, for people."""
    return _several([title_of(request.to_dict()) for request in samples])
