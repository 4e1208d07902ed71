"""Words to pictures, and words with a picture to another picture.

Inpainting and variation as in MaskGIT (2022, 2202.04200): given tokens stay, the rest is made anew.
There is no negative prompt: the networks know one learned null, not a second text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from studio.decoding.base import DecodingStrategy
from studio.generators.base import Generator
from studio.generators.captions import CaptionTokenizer
from studio.generators.conditioning import TextCondition
from studio.generators.drafter_head import DrafterHead
from studio.pipelines import steps
from studio.pipelines.base import ImageOutput, Preview
from studio.pipelines.generation import GenerationPipeline, Job
from studio.tokenizers.base import Tokenizer


class TextToImagePipeline(GenerationPipeline):
    """Makes pictures from prompts.

    Args:
        tokenizer: pictures to tokens and back.
        generator: the network over tokens, conditioned on text.
        text_tokenizer: prompts to ids.
        decoding: how tokens are drawn; its kind must be the generator's.
        drafter: drafts for the generator in modes such as "seed-head"; None for none.
    """

    part_types = {
        "tokenizer": Tokenizer,
        "generator": Generator,
        "text_tokenizer": CaptionTokenizer,
        "decoding": DecodingStrategy,
        "drafter": DrafterHead,
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        generator: Generator,
        text_tokenizer: CaptionTokenizer,
        decoding: DecodingStrategy,
        drafter: DrafterHead | None = None,
    ):
        super().__init__()
        self.register_parts(
            tokenizer=tokenizer,
            generator=generator,
            text_tokenizer=text_tokenizer,
            decoding=decoding,
            drafter=drafter,
        )
        self.check_parts(decoding)

    @torch.no_grad()
    def __call__(self, prompt: str | Sequence[str], *, return_dict: bool = True, **options):
        """Makes pictures.

        Args:
            prompt: one, or a list; 1 to 1000 characters each.
            return_dict: an `ImageOutput`, or its fields as a tuple.
            options: as in `stream`, without `preview_interval`.

        Returns:
            `ImageOutput`: all pictures of the first prompt, then of the second, ...

        Raises:
            ValueError: one line that names the argument.
        """
        return self.finish(self.prepare(prompt, **options), return_dict)

    @torch.no_grad()
    def stream(
        self, prompt: str | Sequence[str], *, preview_interval: int = 8, **options
    ) -> Iterator[Preview | ImageOutput]:
        """As `__call__`, but yields a `Preview` every `preview_interval` steps and the
        `ImageOutput` at last.

        To stop reading is to cancel.

        Args:
            preview_interval: steps between previews; 0 for none.
            options: as in `prepare`.
        """
        steps.check_whole("preview_interval", preview_interval, 0, 10**6)
        return self.run(self.prepare(prompt, **options), preview_interval=preview_interval)

    def prepare(
        self,
        prompt: str | Sequence[str],
        *,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_inference_steps: int | None = None,
        num_tokens: int | None = None,
        decoding: DecodingStrategy | str | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        image=None,
        mask_image=None,
        strength: float | None = None,
        output_type: str = "pil",
        callback_on_step_end=None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
    ) -> Job:
        """The checked job of a call.

        Args:
            num_images_per_prompt: 1 to 1024.
            guidance_scale, temperature, top_k, top_p, num_inference_steps: override the strategy's
                options for this call; None leaves them. Steps are for masked generators.
            num_tokens: make and decode only so many leading tokens, where prefixes can be decoded.
            decoding: a strategy for this call, or the name of a mode (`decoding.modes.MODES`), such
                as "exact" or "plain". When None an ordered generator makes the tokens of its
                `Autoregressive` in fewer passes, where that is faster here.
            generator: one a sample, or one for all; a sample's result depends on its own alone.
            image: a picture to change: a PIL image or a tensor in [-1, 1], one or one a sample.
            mask_image: white where it is made anew (grid tokens and a masked generator).
            strength: share of tokens made anew, 0 to 1, when there is no mask; with tokens of
                decodable prefixes the first ones stay, otherwise some at random. 0.6 when None.
            output_type: "pil", "np", "pt" or "tokens".
            callback_on_step_end: called as `(pipe, step, step, tensors)` after every step; may set
                `pipe._interrupt = True`.
            callback_on_step_end_tensor_inputs: among "tokens" and "known".
        """
        prompts = steps.check_prompts(prompt)
        steps.check_whole("num_images_per_prompt", num_images_per_prompt, 1, 1024)
        condition = self.encode_prompt(prompts).repeat(num_images_per_prompt)
        return self.make_job(
            condition,
            generator=generator,
            decoding=decoding,
            image=image,
            mask_image=mask_image,
            strength=strength,
            num_tokens=num_tokens,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            num_inference_steps=num_inference_steps,
        )

    def encode_prompt(self, prompts: list[str]) -> TextCondition:
        """Prompts as ids (B, S), see `steps.encode_captions`."""
        return steps.encode_captions(self.text_tokenizer, prompts)
