"""Classes to pictures, and a class with a picture to another picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from studio.decoding.base import DecodingStrategy
from studio.generators.base import Generator
from studio.generators.conditioning import ClassCondition
from studio.generators.drafter_head import DrafterHead
from studio.pipelines import steps
from studio.pipelines.base import ImageOutput, Preview
from studio.pipelines.generation import GenerationPipeline, Job
from studio.tokenizers.base import Tokenizer


class ClassToImagePipeline(GenerationPipeline):
    """Makes pictures from class labels.

    Args:
        tokenizer: pictures to tokens and back.
        generator: the network over tokens, conditioned on classes.
        decoding: how tokens are drawn; its kind must be the generator's.
        drafter: drafts for the generator in modes such as "seed-head"; None for none.
    """

    part_types = {
        "tokenizer": Tokenizer,
        "generator": Generator,
        "decoding": DecodingStrategy,
        "drafter": DrafterHead,
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        generator: Generator,
        decoding: DecodingStrategy,
        drafter: DrafterHead | None = None,
    ):
        super().__init__()
        self.register_parts(
            tokenizer=tokenizer, generator=generator, decoding=decoding, drafter=drafter
        )
        self.check_parts(decoding)

    @torch.no_grad()
    def __call__(self, class_labels: int | Sequence[int], *, return_dict: bool = True, **options):
        """Makes pictures.

        Args:
            class_labels: one, or a list.
            return_dict: an `ImageOutput`, or its fields as a tuple.
            options: `num_images_per_prompt` (1 to 1024) and all others of
                `TextToImagePipeline.prepare`.

        Raises:
            ValueError: one line that names the argument.
        """
        return self.finish(self.prepare(class_labels, **options), return_dict)

    @torch.no_grad()
    def stream(
        self, class_labels: int | Sequence[int], *, preview_interval: int = 8, **options
    ) -> Iterator[Preview | ImageOutput]:
        """As `__call__`, but yields a `Preview` every `preview_interval` steps and the
        `ImageOutput` at last."""
        steps.check_whole("preview_interval", preview_interval, 0, 10**6)
        return self.run(self.prepare(class_labels, **options), preview_interval=preview_interval)

    def prepare(
        self, class_labels: int | Sequence[int], *, num_images_per_prompt: int = 1, **options
    ) -> Job:
        """The checked job of a call; `options` as in `TextToImagePipeline.prepare`."""
        labels = [class_labels] if isinstance(class_labels, int) else list(class_labels)
        if not labels:
            raise ValueError("class_labels must be a class or a list of at least one")
        last = self.generator.config.num_classes - 1
        for label in labels:
            steps.check_whole("class_labels", label, 0, last)
        steps.check_whole("num_images_per_prompt", num_images_per_prompt, 1, 1024)
        condition = ClassCondition(torch.tensor(labels)).repeat(num_images_per_prompt)
        return self.make_job(condition, **options)
