"""What pipelines share that make pictures from a condition: the loop over decoding states.

A subclass turns its call into a `Job`; the rest - callbacks, previews, cancelling, decoding,
statistics - is here. On a CPU pictures are decoded one by one, so that their bytes never depend on
the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.base import DecodingStrategy
from studio.decoding.loop import Speculation
from studio.decoding.modes import find_mode
from studio.decoding.neighbours import NEIGHBOURS, Neighbours
from studio.decoding.speculative import Speculative
from studio.generators.base import Generator
from studio.hub import KINDS
from studio.outputs import DecodeState, DecodeStats
from studio.pipelines import steps
from studio.pipelines.base import ImageOutput, Preview, StudioPipeline
from studio.tokenizers.base import Tokenizer

StepCallback = Callable[[StudioPipeline, int, int, dict], Any]
DEFAULT_STRENGTH = 0.6


@dataclass(frozen=True)
class Job:
    """One checked call.

    Args:
        condition: B rows, on the pipeline's device.
        generators: one a sample.
        strategy: with all overrides of the call.
        output_type: see `ImageOutput`.
        num_tokens: leading tokens to make and decode; all when None.
        given, keep: tokens int64 (B, N) and which of them stay, bool (B, N); both None for none.
        callback, callback_inputs: diffusers' `callback_on_step_end` and the names of what it gets.
    """

    condition: Any
    generators: list[torch.Generator]
    strategy: DecodingStrategy
    output_type: str = "pil"
    num_tokens: int | None = None
    given: torch.Tensor | None = None
    keep: torch.Tensor | None = None
    callback: StepCallback | None = None
    callback_inputs: Sequence[str] = ()


def speed_of(state: DecodeState) -> dict[str, Any]:
    """What a speculative decoding adds to the statistics."""
    if not isinstance(state, Speculation):
        return {}
    return {"draft_passes": state.draft_passes, "speculating": state.speculating}


def codebook(tokenizer) -> torch.Tensor | None:
    """The vectors (V, D) of all codes; None where a tokenizer has no single codebook."""
    size = tokenizer.layout.vocab_size
    for part in tokenizer.modules():
        if hasattr(part, "lookup") and getattr(part, "codebook_size", None) == size:
            device = next(tokenizer.parameters()).device
            return part.lookup(torch.arange(size, device=device)).detach().float()  # (V, D)
    return None


class GenerationPipeline(StudioPipeline):
    """Base of pipelines with a tokenizer, a generator and a decoding strategy, and maybe a
    `DrafterHead`."""

    model_cpu_offload_seq = "generator->tokenizer"
    _optional_components = ["drafter"]
    _exclude_from_cpu_offload = ["drafter"]  # it works within a run of the generator

    def check_parts(self, strategy: DecodingStrategy) -> None:
        """Raises ValueError unless tokenizer, generator and strategy fit each other."""
        for name, cls in (("tokenizer", Tokenizer), ("generator", Generator)):
            part = getattr(self, name)
            if not isinstance(getattr(part, "_orig_mod", part), cls):
                raise ValueError(f"{name} must be a {cls.__name__}, but is a {type(part).__name__}")
        if not isinstance(strategy, DecodingStrategy):
            raise ValueError(
                f"decoding must be a DecodingStrategy, but is a {type(strategy).__name__}"
            )
        made, read = self.generator.layout, self.tokenizer.layout
        if [(s.shape, s.vocab_size) for s in made.segments] != [
            (s.shape, s.vocab_size) for s in read.segments
        ]:
            raise ValueError(
                f"generator makes {made.num_tokens} tokens of {made.vocab_size}, but the tokenizer "
                f"reads {read.num_tokens} of {read.vocab_size}, or in another shape"
            )
        if strategy.kind != self.generator.kind:
            wanted = next(name for name, kind in KINDS.items() if kind == strategy.kind)
            raise ValueError(
                f"decoding {type(strategy).__name__} is for {strategy.kind} generators, but "
                f"{type(self.generator).__name__} is {self.generator.kind}"
                f'; load the model with generator="{wanted}"'
            )

    def make_job(
        self,
        condition,
        *,
        generator=None,
        decoding=None,
        image=None,
        mask_image=None,
        strength=None,
        num_tokens=None,
        output_type="pil",
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs=("tokens",),
        **overrides,
    ) -> Job:
        """Checks everything that calls have in common. `condition` has a row a sample."""
        unknown = [
            n for n in callback_on_step_end_tensor_inputs if n not in self._callback_tensor_inputs
        ]
        if unknown:
            allowed = ", ".join(self._callback_tensor_inputs)
            raise ValueError(
                f"callback_on_step_end_tensor_inputs {unknown[0]!r} must be one of {allowed}"
            )
        strategy = self.make_strategy(decoding, **overrides)
        self.check_parts(strategy)
        if num_tokens is not None:
            steps.check_whole("num_tokens", num_tokens, 1, self.tokenizer.layout.num_tokens)
            self.tokenizer.check_num_tokens(num_tokens, self.tokenizer.layout)
        job = Job(
            condition=condition.to(self._execution_device),
            generators=steps.make_generators(generator, condition.batch_size),
            strategy=strategy,
            output_type=steps.check_output_type(output_type),
            num_tokens=num_tokens,
            callback=callback_on_step_end,
            callback_inputs=tuple(callback_on_step_end_tensor_inputs),
        )
        if image is None and (mask_image is not None or strength is not None):
            raise ValueError("mask_image and strength need an image")
        return job if image is None else self._with_image(job, image, mask_image, strength)

    def make_strategy(self, decoding=None, *, num_inference_steps=None, **overrides):
        """The pipeline's strategy, or `decoding` (one, or the name of a mode), with what a call
        overrides; None overrides nothing. The pipeline's own `Autoregressive` is sped up."""
        strategy = self.decoding if decoding is None else decoding
        if isinstance(decoding, str):
            strategy = find_mode(decoding, self.decoding.config)
        if not isinstance(strategy, DecodingStrategy):
            raise ValueError(
                f"decoding must be a DecodingStrategy, but is a {type(strategy).__name__}"
            )
        if num_inference_steps is not None and strategy.kind == "ordered":
            raise ValueError(
                f"num_inference_steps {num_inference_steps!r}: {type(strategy).__name__} makes a "
                "token a step; use num_tokens, or a masked generator"
            )
        strategy = strategy.with_options(num_steps=num_inference_steps, **overrides)
        if decoding is None:
            strategy = self.sped_up(strategy)
        return self._with_neighbours(self._with_head(strategy))

    def sped_up(self, strategy: DecodingStrategy) -> DecodingStrategy:
        """Seed-faithful speculation in place of plain decoding: the same tokens in fewer passes.
        Only where a pass over many tokens rounds as one over one does."""
        network = getattr(self.generator, "_orig_mod", self.generator)
        exact = network.dtype == torch.float32 and getattr(network, "precision", None) is None
        if type(strategy) is not Autoregressive or not exact or self.cache != "static":
            return strategy
        if strategy.config.repetition_window:  # what is drawn again depends on what was drawn
            return strategy
        return find_mode("seed", strategy.config)

    def _with_head(self, strategy: DecodingStrategy) -> DecodingStrategy:
        """The model's drafter head, for strategies that draft with one and have none."""
        if not isinstance(strategy, Speculative) or strategy.config.drafter != "head":
            return strategy
        if strategy.head is None:
            drafter = getattr(self, "drafter", None)
            if drafter is None:
                raise ValueError(
                    "decoding: drafter 'head' needs a model folder with a trained drafter head "
                    "(drafter/), which this model has not; take seed or exact"
                )
            strategy = strategy.with_options()
            strategy.head = drafter
        assert strategy.head is not None  # set above
        strategy.head.check_target(getattr(self.generator, "_orig_mod", self.generator))
        return strategy

    def _with_neighbours(self, strategy: DecodingStrategy) -> DecodingStrategy:
        """The table of neighbours, found once, for strategies that want one and have none."""
        if not isinstance(strategy, Speculative) or not strategy.neighbours_wanted:
            return strategy
        wanted = strategy.neighbours_wanted
        if codebook(self.tokenizer) is None and strategy.config.acceptance == "grouped":
            return strategy  # groups by probability alone
        strategy = strategy.with_options()
        strategy.neighbours = self.find_neighbours(wanted)
        return strategy

    def find_neighbours(self, count: int) -> Neighbours:
        """The table of at least `count` neighbours of every code: the one that came with the model,
        or one that is built now; `save_pretrained` writes it.

        Raises:
            ValueError: the tokenizer has no codebook.
        """
        vectors = codebook(self.tokenizer)
        if vectors is None:
            raise ValueError(
                f"decoding: {type(self.tokenizer).__name__} has no codebook whose neighbours "
                "could stand for each other"
            )
        held, saved = self.__dict__.get("_neighbours"), Path(self.folder or "", "tokenizer")
        if held is None and self.folder is not None and (saved / NEIGHBOURS).is_file():
            held = Neighbours.load(saved)
            if not torch.equal(held.codebook, vectors.cpu().to(held.codebook.dtype)):
                held = None  # another tokenizer was put in its place
        if held is None or held.nearest.shape[1] < min(count, len(held.codebook) - 1):
            held = Neighbours.build(vectors, count)
        self.__dict__["_neighbours"] = held
        return held

    def _save_more(self, folder):
        held = self.__dict__.get("_neighbours")
        if held is not None:
            held.save(folder / "tokenizer")

    def _with_image(self, job: Job, image, mask_image, strength) -> Job:
        """The job of an inpainting (`mask_image`) or a variation (`strength`) of a picture."""
        if mask_image is not None and strength is not None:
            raise ValueError("strength can't go with mask_image: all of the mask is made anew")
        layout, size = self.tokenizer.layout, self.tokenizer.config.image_size
        batch = len(job.generators)
        if job.strategy.kind == "ordered" and (mask_image is not None or not layout.prefix):
            raise ValueError(
                'image: this edit needs a masked generator; load the model with generator="masked"'
            )
        if mask_image is not None and len(layout.segments[0].shape) != 2:
            raise ValueError(
                "mask_image: the tokens of this model are not places in the picture; use strength"
            )
        images = steps.prepare_images(image, size, batch)  # (B, 3, H, W)
        if mask_image is not None:
            cells = steps.mask_cells(mask_image, size, layout.segments[0].shape)
            keep = ~cells[None].expand(batch, -1)  # (B, N)
        else:
            strength = DEFAULT_STRENGTH if strength is None else strength
            keep = steps.kept_by_strength(strength, layout, job.generators)
        device, dtype = self._execution_device, self.tokenizer.dtype
        encode = self.wake(self.tokenizer).encode
        given = [encode(one.to(device, dtype)).tokens for one in images.split(1)]
        return replace(job, given=torch.cat(given), keep=keep.to(device))

    @torch.no_grad()
    def run(self, job: Job, *, preview_interval: int = 0) -> Iterator[Any]:
        """Does a job: yields a `Preview` every so many steps (none at 0), and the `ImageOutput` at
        last (of clips, their kinds of both).

        Setting `pipe._interrupt = True` ends it after the current step with what is there; closing
        the iterator ends it with nothing.
        """
        self._interrupt = False
        started = time.perf_counter()
        layout, strategy = self.tokenizer.layout, job.strategy
        count = job.num_tokens or layout.num_tokens
        run = self.wake(self.generator).start(
            job.condition, guidance=strategy.guidance, **self._run_options(job)
        )
        states = strategy.stream(
            run,
            layout,
            job.generators,
            given=job.given,
            keep=job.keep,
            num_tokens=job.num_tokens,
        )
        proposed = accepted = step = 0
        with self.progress_bar(total=strategy.max_steps(count)) as bar:
            for state in states:
                proposed = proposed + state.proposed.sum()
                accepted = accepted + state.accepted.sum()
                bar.update(state.step - step)
                self._call_back(job, state)
                due = preview_interval and self._due(state, step, preview_interval)
                step = state.step
                if due:
                    yield self._preview(job, state)
                if self._interrupt:
                    break
        self._ended(job, run, state.tokens[:, :count])
        media = self._shown(job, state, job.generators)
        seconds = time.perf_counter() - started
        made = int(state.known[:, :count].sum(dim=1).min())
        stats = DecodeStats(
            state.step, state.passes, made, seconds, int(proposed), int(accepted), **speed_of(state)
        )
        self.maybe_free_model_hooks()
        yield self._output(job, media, state.tokens[:, :count].clone().cpu(), stats)

    def _run_options(self, job: Job) -> dict[str, Any]:
        """What a job's run is started with besides condition and guidance."""
        return {} if self.cache == "static" else {"cache": self.cache}

    def _ended(self, job: Job, run: Any, tokens: torch.Tensor) -> None:
        """Called when a run has made its tokens (B, n), or was interrupted; nothing here."""

    def finish(self, job: Job, return_dict: bool) -> Any:
        """Does a job without previews."""
        (output,) = self.run(job)
        return output if return_dict else output.to_tuple()

    def _output(self, job: Job, media: Any, tokens: torch.Tensor, stats: DecodeStats) -> Any:
        """What a call returns."""
        return ImageOutput(images=media, tokens=tokens, stats=stats)

    def _due(self, state: DecodeState, before: int, interval: int) -> bool:
        """Whether a preview is due after a state; `before` is the step of the one before it."""
        return state.step // interval > before // interval

    def _shown(self, job: Job, state: DecodeState, generators) -> Any:
        """What a state looks like, as the job wants it; None where it wants tokens alone."""
        if job.output_type == "tokens":
            return None
        return steps.to_output(self._decode(job, state, generators), job.output_type)

    def _call_back(self, job: Job, state: DecodeState) -> None:
        """diffusers' contract; tensors are views, and what the callback returns is not read: a
        cached run has seen the tokens already."""
        if job.callback is not None:
            tensors = {name: getattr(state, name) for name in job.callback_inputs}
            job.callback(self, state.step - 1, state.step - 1, tensors)

    def _preview(self, job: Job, state: DecodeState) -> Preview:
        # A preview must not change the result, so it draws from copies.
        images = self._shown(job, state, [g.clone_state() for g in job.generators])
        return Preview(
            images=images,
            tokens=state.tokens.clone().cpu(),
            known=state.known.clone().cpu(),
            step=state.step,
            num_steps=state.num_steps,
            passes=state.passes,
        )

    def _decode(self, job: Job, state: DecodeState, generators) -> torch.Tensor:
        """The pictures (B, 3, H, W) of a state; what is not known yet is left out or made up."""
        tokens, layout, count = state.tokens, self.tokenizer.layout, job.num_tokens
        made = int(state.known.sum(dim=1).min())
        if not bool(state.known[:, : count or layout.num_tokens].all()):
            proposal = getattr(state, "proposal", None)
            if proposal is not None:
                tokens = proposal
            elif layout.prefix:
                count = made
            else:
                tokens = steps.fill_unknown(tokens, state.known, layout)
        size = 1 if tokens.device.type == "cpu" else len(tokens)
        decode = self.wake(self.tokenizer).decode
        pictures = [
            decode(rows, num_tokens=count, generators=generators[i * size :][:size])
            for i, rows in enumerate(tokens.split(size))
        ]
        return torch.cat(pictures)  # (B, 3, H, W)
