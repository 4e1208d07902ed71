"""Words to speech: letters are given times, the generator makes tokens, the codec makes sound.

A long text is spoken in parts (`speech_parts.py`) that follow each other as tokens, so that the
sound has no seam. Leaves out on purpose: other languages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils import BaseOutput

from studio.decoding.base import DecodingStrategy, check_name, check_number
from studio.generators.base import Generator
from studio.outputs import DecodeStats
from studio.pipelines import steps
from studio.pipelines.generation import GenerationPipeline, StepCallback, speed_of
from studio.pipelines.speech_parts import Manner, Part, speech_condition, split_text
from studio.tokenizers.base_audio import AudioTokenizer

OUTPUT_TYPES = ("pt", "np", "tokens")
SPEED = (0.5, 2.0)
_FRESH = 4  # tokens at a time that a stream gives to the codec


@dataclass
class AudioOutput(BaseOutput):
    """What sound pipelines return.

    Args:
        audios: one float32 tensor (C, L) a sample ("np": an array) in [-1, 1]; None for
            `output_type="tokens"`.
        sampling_rate: samples a second.
        tokens: one int64 tensor (T,) a sample, on the CPU.
        stats: what decoding cost; None where nothing was decoded.
    """

    audios: Any = None
    sampling_rate: int = 0
    tokens: list[torch.Tensor] | None = None
    stats: DecodeStats | None = None


@dataclass
class AudioChunk:
    """The next stretch of sound of a stream.

    Args:
        audio: float32 (1, L); the chunks joined are the whole sound.
        sampling_rate: samples a second.
        made, total: tokens made so far, and of the whole.
    """

    audio: torch.Tensor
    sampling_rate: int
    made: int
    total: int


@dataclass(frozen=True)
class SpeechJob:
    """One checked call.

    Args:
        samples: the parts of every sample.
        manner: how they are said.
        generators: one a sample.
        strategy: with all overrides of the call.
        output_type: see `AudioOutput`.
        callback, callback_inputs: diffusers' `callback_on_step_end` and the names of what it gets.
    """

    samples: list[list[Part]]
    manner: Manner
    generators: list[torch.Generator]
    strategy: DecodingStrategy
    output_type: str = "pt"
    callback: StepCallback | None = None
    callback_inputs: Sequence[str] = ()

    @property
    def total(self) -> int:
        """Tokens of the longest sample, pauses included."""
        return max(sum(part.count + part.pause for part in parts) for parts in self.samples)


@dataclass
class _Tally:
    """What decoding has cost so far."""

    tokens: int = 0
    steps: int = 0
    passes: int = 0
    proposed: int = 0
    accepted: int = 0
    speed: dict[str, Any] = field(default_factory=dict)


class TextToSpeechPipeline(GenerationPipeline):
    """Speaks.

    Args:
        tokenizer: sound to tokens and back, of one codebook.
        generator: the network over tokens, conditioned on speech.
        decoding: how tokens are drawn; for ordered generators.
    """

    medium = "audio"
    _optional_components = []
    part_types = {
        "tokenizer": AudioTokenizer,
        "generator": Generator,
        "decoding": DecodingStrategy,
    }

    def __init__(self, tokenizer: AudioTokenizer, generator: Generator, decoding: DecodingStrategy):
        super().__init__()
        self.register_parts(tokenizer=tokenizer, generator=generator, decoding=decoding)
        self.check_parts(decoding)

    @property
    def voices(self) -> list[str]:
        """Who can speak."""
        return list(self.generator.config.voices)

    @property
    def sampling_rate(self) -> int:
        """Samples a second."""
        return self.tokenizer.sample_rate

    def check_parts(self, strategy: DecodingStrategy) -> None:
        """Raises ValueError unless tokenizer, generator and strategy fit each other."""
        config, codec = self.generator.config, self.tokenizer
        if config.get("condition") != "speech":
            raise ValueError(f"generator must be conditioned on speech, not {config.condition}")
        if codec.num_codebooks != 1 or codec.codebook_size != self.generator.layout.vocab_size:
            raise ValueError(
                f"generator makes tokens of {self.generator.layout.vocab_size}, but the tokenizer "
                f"reads {codec.num_codebooks} codebooks of {codec.codebook_size}"
            )
        if not isinstance(strategy, DecodingStrategy) or strategy.kind != self.generator.kind:
            raise ValueError(
                f"decoding {type(strategy).__name__} must be a strategy for {self.generator.kind} "
                "generators"
            )

    @torch.no_grad()
    def __call__(self, prompt: str | Sequence[str], *, return_dict: bool = True, **options):
        """Speaks texts.

        Args:
            prompt: one, or a list; 1 to 1000 characters each.
            return_dict: an `AudioOutput`, or its fields as a tuple.
            options: as in `prepare`.

        Returns:
            `AudioOutput`: all sounds of the first prompt, then of the second, ...

        Raises:
            ValueError: one line that names the argument.
        """
        output = self.finish(self.prepare(prompt, **options))
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def stream(self, prompt: str, **options) -> Iterator[AudioChunk | AudioOutput]:
        """Speaks one text: yields an `AudioChunk` as soon as its tokens are there, and the
        `AudioOutput` at last. To stop reading is to cancel.

        Args:
            options: as in `prepare`, with one sample.
        """
        job = self.prepare(prompt, **options)
        if len(job.samples) != 1:
            raise ValueError(f"stream speaks one text at a time, not {len(job.samples)}")
        return self._stream(job)

    def prepare(
        self,
        prompt: str | Sequence[str],
        *,
        voice: str | None = None,
        speed: float | None = None,
        pitch: float | None = None,
        num_audios_per_prompt: int = 1,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        decoding: DecodingStrategy | str | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pt",
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
    ) -> SpeechJob:
        """The checked job of a call.

        Args:
            voice: one of `voices`; the first when None.
            speed: 0.5 to 2, 1 for an ordinary one.
            pitch: -1 to 1, lower to higher.
            num_audios_per_prompt: 1 to 1024.
            temperature, top_k, top_p: override the strategy's options for this call.
            decoding: a strategy for this call, or the name of a mode (`decoding.modes.MODES`). When
                None the tokens of the pipeline's own are made in fewer passes.
            generator: one a sample, or one for all; a sample's result depends on its own alone.
            output_type: "pt", "np" or "tokens".
            callback_on_step_end: called as `(pipe, step, step, tensors)` after every step; may set
                `pipe._interrupt = True`.
            callback_on_step_end_tensor_inputs: among "tokens" and "known".
        """
        prompts = steps.check_prompts(prompt)
        steps.check_whole("num_audios_per_prompt", num_audios_per_prompt, 1, 1024)
        for name in callback_on_step_end_tensor_inputs:
            allowed = self._callback_tensor_inputs
            check_name("callback_on_step_end_tensor_inputs", name, allowed)
        check_name("output_type", output_type, OUTPUT_TYPES)
        voices = self.voices
        if voice is not None:
            check_name("voice", voice, voices)
        speed, pitch = 1.0 if speed is None else speed, 0.0 if pitch is None else pitch
        check_number("speed", speed, *SPEED)
        check_number("pitch", pitch, -1, 1)
        strategy = self.make_strategy(decoding, temperature=temperature, top_k=top_k, top_p=top_p)
        self.check_parts(strategy)
        manner = Manner(0 if voice is None else voices.index(voice), float(pitch), float(speed))
        spoken = [self.parts(text, manner) for text in prompts]
        samples = [parts for parts in spoken for _ in range(num_audios_per_prompt)]
        return SpeechJob(
            samples=samples,
            manner=manner,
            generators=steps.make_generators(generator, len(samples)),
            strategy=strategy,
            output_type=output_type,
            callback=callback_on_step_end,
            callback_inputs=tuple(callback_on_step_end_tensor_inputs),
        )

    def parts(self, text: str, manner: Manner) -> list[Part]:
        """A text as parts, see `speech_parts.split_text`."""
        return split_text(
            text,
            self.wake(self.generator),
            manner,
            frame_rate=self.tokenizer.frame_rate,
            device=self._execution_device,
        )

    # --- tokens ----------------------------------------------------------------------------------

    def _say(self, job: SpeechJob, rows: list[int], index: int, tally: _Tally) -> Iterator[Any]:
        """Decodes part `index` of some samples at once: the states, as they come."""
        parts = [job.samples[row][index] for row in rows]
        options = {} if self.cache == "static" else {"cache": self.cache}
        network, strategy = self.wake(self.generator), job.strategy
        texts, ends = [part.text for part in parts], [part.ends for part in parts]
        condition = speech_condition(texts, ends, network, job.manner)
        condition = condition.to(self._execution_device)
        run = network.start(condition, guidance=strategy.guidance, **options)
        generators = [job.generators[row] for row in rows]
        count = max(part.count for part in parts)
        before = _Tally(**{**tally.__dict__})
        states = strategy.stream(run, network.layout, generators, num_tokens=count)
        for state in states:
            tally.proposed += int(state.proposed.sum())
            tally.accepted += int(state.accepted.sum())
            tally.steps, tally.passes = before.steps + state.step, before.passes + state.passes
            tally.tokens = before.tokens + int(state.known[:, :count].sum(1).min())
            tally.speed = speed_of(state)
            if job.callback is not None:
                tensors = {name: getattr(state, name) for name in job.callback_inputs}
                job.callback(self, tally.steps - 1, tally.steps - 1, tensors)
            yield state
            if self._interrupt:
                return

    def _silence(self, count: int) -> torch.Tensor:
        """Tokens of silence, int64 (count,)."""
        codec = self.wake(self.tokenizer)
        silence = torch.zeros(1, 1, (count + 2) * codec.hop)
        tokens = codec.encode(silence.to(self._execution_device, codec.dtype)).tokens
        return tokens[0, 1 : count + 1].cpu()

    def _speaker(self, job: SpeechJob) -> dict[str, int]:
        """What is told to a codec whose tokens say words alone and which has speakers of its own;
        its first one speaks for voices that it does not know."""
        names = getattr(self.tokenizer, "speakers", None)
        if names is None:
            return {}
        voice = self.voices[job.manner.voice]
        return {"condition": names.index(voice) if voice in names else 0}

    def _bar(self, job: SpeechJob):
        longest = max(len(parts) for parts in job.samples)
        most = [max(p[i].count for p in job.samples if i < len(p)) for i in range(longest)]
        bar: Any = self.progress_bar
        return bar(total=sum(most))

    @torch.no_grad()
    def finish(self, job: SpeechJob, return_dict: bool = True) -> AudioOutput:
        """Does a job."""
        self._interrupt = False
        started, tally = time.perf_counter(), _Tally()
        tokens: list[list[torch.Tensor]] = [[] for _ in job.samples]
        with self._bar(job) as bar:
            for index in range(max(len(parts) for parts in job.samples)):
                rows = [row for row, parts in enumerate(job.samples) if index < len(parts)]
                state, first = None, tally.steps
                for now in self._say(job, rows, index, tally):
                    bar.update(tally.steps - first)
                    state, first = now, tally.steps
                assert state is not None  # a part has at least one token
                for place, row in enumerate(rows):
                    part = job.samples[row][index]
                    known = int(state.known[place, : part.count].sum())
                    tokens[row].append(state.tokens[place, :known].cpu().clone())
                    if part.pause and not self._interrupt:
                        tokens[row].append(self._silence(part.pause))
                if self._interrupt:
                    break
        joined = [torch.cat(pieces) for pieces in tokens]
        return self._output(job, joined, tally, started)

    @torch.no_grad()
    def _stream(self, job: SpeechJob) -> Iterator[AudioChunk | AudioOutput]:
        self._interrupt = False
        started, tally, made = time.perf_counter(), _Tally(), []
        codec = self.wake(self.tokenizer)
        total, waves = job.total, []
        fresh, told = self._fresh(job, tally, made), self._speaker(job)
        for wave in codec.wave_stream(fresh, **told):
            wave = wave.float().cpu()
            waves.append(wave)
            yield AudioChunk(wave, self.sampling_rate, sum(map(len, made)), total)
        yield self._output(job, [torch.cat(made)], tally, started, torch.cat(waves, -1))

    @torch.no_grad()
    def _fresh(self, job: SpeechJob, tally: _Tally, made: list) -> Iterator[torch.Tensor]:
        """New tokens (1, 1, t) of the one sample, a few at a time; `made` collects them."""
        for index, part in enumerate(job.samples[0]):
            given, state = 0, None
            for state in self._say(job, [0], index, tally):
                known = int(state.known[0, : part.count].sum())
                if known - given >= _FRESH or known == part.count:
                    made.append(state.tokens[0, given:known].cpu().clone())
                    given = known
                    yield made[-1][None, None].to(self._execution_device)
            if self._interrupt:
                return
            if part.pause:
                made.append(self._silence(part.pause))
                yield made[-1][None, None].to(self._execution_device)

    def _output(
        self,
        job: SpeechJob,
        tokens: list[torch.Tensor],
        tally: _Tally,
        started: float,
        wave: torch.Tensor | None = None,
    ) -> AudioOutput:
        audios: Any = None
        if job.output_type != "tokens":
            codec = self.wake(self.tokenizer)
            place, told = self._execution_device, self._speaker(job)
            if wave is not None:
                audios = [wave]
            else:
                made = (codec.decode(row[None].to(place), **told) for row in tokens)
                audios = [audio[0].float().cpu() for audio in made]
            audios = [audio.clamp(-1, 1) for audio in audios]
        if job.output_type == "np":
            audios = [audio.numpy() for audio in audios]
        self.maybe_free_model_hooks()
        stats = DecodeStats(
            tally.steps,
            tally.passes,
            tally.tokens,
            time.perf_counter() - started,
            tally.proposed,
            tally.accepted,
            **tally.speed,
        )
        return AudioOutput(audios, self.sampling_rate, tokens, stats)
