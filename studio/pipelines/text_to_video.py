"""Words to clips, and words with a first picture to a clip that begins with it.

Tokens come coarse to fine (HiTVideo, 2025, 2503.11513): once a layer is whole it can be decoded, so
previews are whole clips that get sharper. A picture is coded as a clip that stands still, and the
tokens of its first frames are kept. Clips longer than the tokenizer's are made in parts, see
`long_video.py`. Leaves out on purpose: sound, several captions, masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from studio.decoding.base import DecodingStrategy
from studio.generators.base import Generator
from studio.generators.captions import CaptionTokenizer
from studio.generators.conditioning import TextCondition
from studio.outputs import DecodeState, DecodeStats
from studio.pipelines import steps
from studio.pipelines.generation import Job
from studio.pipelines.long_video import LongVideoPipeline
from studio.pipelines.video_parts import VideoJob, VideoOutput, VideoPreview, to_frames
from studio.tokenizers.hitvideo import HiTVideoTokenizer

MAX_FRAMES = 1 << 16


class TextToVideoPipeline(LongVideoPipeline):
    """Makes clips from prompts.

    Args:
        tokenizer: clips to layers of tokens and back.
        generator: the network over tokens, conditioned on text.
        text_tokenizer: prompts to ids.
        decoding: how tokens are drawn; its kind must be the generator's.
    """

    medium = "video"
    _optional_components = []
    part_types = {
        "tokenizer": HiTVideoTokenizer,
        "generator": Generator,
        "text_tokenizer": CaptionTokenizer,
        "decoding": DecodingStrategy,
    }

    def __init__(
        self,
        tokenizer: HiTVideoTokenizer,
        generator: Generator,
        text_tokenizer: CaptionTokenizer,
        decoding: DecodingStrategy,
    ):
        super().__init__()
        self.register_parts(
            tokenizer=tokenizer,
            generator=generator,
            text_tokenizer=text_tokenizer,
            decoding=decoding,
        )
        self.check_parts(decoding)

    @torch.no_grad()
    def __call__(self, prompt: str | Sequence[str], *, return_dict: bool = True, **options):
        """Makes clips.

        Args:
            prompt: one, or a list; 1 to 1000 characters each.
            return_dict: a `VideoOutput`, or its fields as a tuple.
            options: as in `prepare`.

        Returns:
            `VideoOutput`: all clips of the first prompt, then of the second, ...

        Raises:
            ValueError: one line that names the argument.
        """
        return self.finish(self.prepare(prompt, **options), return_dict)

    @torch.no_grad()
    def stream(
        self, prompt: str | Sequence[str], *, preview_interval: int = 64, **options
    ) -> Iterator[VideoPreview | VideoOutput]:
        """As `__call__`, but yields a `VideoPreview` whenever a layer is whole and every
        `preview_interval` steps, and the `VideoOutput` at last. To stop reading is to cancel.

        Args:
            preview_interval: steps between previews; 0 for none at all.
            options: as in `prepare`.
        """
        steps.check_whole("preview_interval", preview_interval, 0, 10**6)
        return self.run(self.prepare(prompt, **options), preview_interval=preview_interval)

    @torch.no_grad()
    def stream_blocks(
        self, prompt: str | Sequence[str], *, preview_interval: int = 0, **options
    ) -> Iterator[VideoPreview | VideoOutput]:
        """As `stream`, but a `VideoOutput` for every part of a long clip, with the frames that
        follow those before: memory does not grow with `num_frames`.

        Args:
            preview_interval, options: as in `stream`.
        """
        steps.check_whole("preview_interval", preview_interval, 0, 10**6)
        return self.blocks(self.prepare(prompt, **options), preview_interval=preview_interval)

    def prepare(
        self,
        prompt: str | Sequence[str],
        *,
        num_videos_per_prompt: int = 1,
        num_frames: int | None = None,
        num_layers: int | None = None,
        plan: bool = False,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_inference_steps: int | None = None,
        num_tokens: int | None = None,
        decoding: DecodingStrategy | str | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        image=None,
        output_type: str = "pil",
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
    ) -> VideoJob:
        """The checked job of a call.

        Args:
            num_videos_per_prompt: 1 to 1024.
            num_frames: as many as the tokenizer's clips have when None; more are made in parts.
            num_layers: make and decode only so many layers, coarse first; all when None.
            plan: of a clip in parts, make the coarse tokens of all first; the result is the same
                with an autoregressive generator.
            guidance_scale, temperature, top_k, top_p, num_inference_steps: override the strategy's
                options for this call; None leaves them. Steps are for masked generators.
            num_tokens: the same as `num_layers`, in tokens: whole layers.
            decoding: a strategy for this call, or the name of a mode (`decoding.modes.MODES`).
            generator: one a sample, or one for all; a sample's result depends on its own alone.
            image: the first frame: a PIL image or a tensor in [-1, 1], one or one a sample.
            output_type: "pil", "np", "pt" or "tokens".
            callback_on_step_end, callback_on_step_end_tensor_inputs: as in `TextToImagePipeline`.
        """
        prompts = steps.check_prompts(prompt)
        steps.check_whole("num_videos_per_prompt", num_videos_per_prompt, 1, 1024)
        if num_frames is not None:
            steps.check_whole("num_frames", num_frames, 1, MAX_FRAMES)
        if num_layers is not None:
            if num_tokens is not None:
                raise ValueError("num_layers and num_tokens exclude each other")
            steps.check_whole("num_layers", num_layers, 1, len(self.tokenizer.codes))
            num_tokens = self.tokenizer.num_tokens_of(num_layers)
        job = self.make_job(
            self.encode_prompt(prompts).repeat(num_videos_per_prompt),
            generator=generator,
            image=image,
            num_tokens=num_tokens,
            decoding=decoding,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            num_inference_steps=num_inference_steps,
        )
        count = num_frames or self.tokenizer.config.num_frames
        return VideoJob(**vars(job), num_frames=count, plan=plan)

    def encode_prompt(self, prompts: list[str]) -> TextCondition:
        """Prompts as ids (B, S), see `steps.encode_captions`."""
        return steps.encode_captions(self.text_tokenizer, prompts)

    # --- what the loop asks for ------------------------------------------------------------------

    def _with_image(self, job: Job, image, mask_image, strength) -> Job:
        """The job of a clip that begins with a picture."""
        size, batch = self.tokenizer.config.image_size, len(job.generators)
        images = steps.prepare_images(image, size, batch)  # (B, 3, H, W)
        frames = self.tokenizer.time_factor
        device, dtype = self._execution_device, self.tokenizer.dtype
        encode, given = self.wake(self.tokenizer).encode, []
        for one in images.split(1):
            still = one[:, :, None].expand(-1, -1, frames, -1, -1)  # (1, 3, T, H, W)
            encoded = encode(still.to(device, dtype))
            given.append(self._placed(encoded.layout.split(encoded.tokens)))
        keep = self.edge_cells().expand(batch, -1)
        return replace(job, given=torch.cat(given), keep=keep.to(device))

    def _placed(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        """Tokens (1, N) of a whole clip that begins with the layers (1, t, h, w) of a shorter
        one."""
        rows = []
        for segment in self.tokenizer.layout.segments:
            part = parts[segment.name][:, : segment.shape[0]]
            missing = segment.shape[0] - part.shape[1]
            rows.append(F.pad(part, (0, 0, 0, 0, 0, missing)).flatten(1))
        return torch.cat(rows, 1)

    def _whole_layers(self, known: torch.Tensor) -> int:
        """How many leading layers of `known` (B, N) are there in every row."""
        there, layers = known.all(0).cumprod(0).sum(), 0
        while layers < len(self.tokenizer.codes):
            if self.tokenizer.num_tokens_of(layers + 1) > there:
                break
            layers += 1
        return layers

    def _due(self, state: DecodeState, before: int, interval: int) -> bool:
        ends = [self.tokenizer.num_tokens_of(i + 1) for i in range(len(self.tokenizer.codes))]
        return super()._due(state, before, interval) or any(before < n <= state.step for n in ends)

    def _preview(self, job: Job, state: DecodeState) -> Any:
        return VideoPreview(
            frames=self._shown(job, state, job.generators),
            layers=self._whole_layers(state.known),
            tokens=state.tokens.clone().cpu(),
            known=state.known.clone().cpu(),
            step=state.step,
            num_steps=state.num_steps,
            passes=state.passes,
        )

    def _shown(self, job: Job, state: DecodeState, generators) -> Any:
        layers = self._whole_layers(state.known)
        if job.output_type == "tokens" or not layers:
            return None
        count = self.tokenizer.num_tokens_of(layers)
        decode = self.wake(self.tokenizer).decode
        size = 1 if state.tokens.device.type == "cpu" else len(state.tokens)
        clips = [decode(rows[:, :count]) for rows in state.tokens.split(size)]
        return to_frames(torch.cat(clips).transpose(1, 2), job.output_type)

    def _output(self, job: Job, media: Any, tokens: torch.Tensor, stats: DecodeStats) -> Any:
        return VideoOutput(frames=media, tokens=tokens, stats=stats)
