"""Pictures through tokens and back: what a tokenizer keeps."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from studio.hub import INDEX, component_class, read_json
from studio.pipelines import steps
from studio.pipelines.base import ImageOutput, StudioPipeline
from studio.pipelines.loading import load_component
from studio.tokenizers.base import Tokenizer


class ReconstructionPipeline(StudioPipeline):
    """Encodes pictures and decodes them again. Loads from any pipeline folder that has a tokenizer,
    or from a tokenizer's own folder.

    Args:
        tokenizer: pictures to tokens and back.
    """

    part_types = {"tokenizer": Tokenizer}
    model_cpu_offload_seq = "tokenizer"

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.register_parts(tokenizer=tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options):
        """As the base says; a tokenizer's own folder, such as training writes, will do."""
        folder = Path(pretrained_model_name_or_path)
        if (folder / INDEX).is_file() or not (folder / "config.json").is_file():
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        part = component_class("studio", read_json(folder / "config.json")["_class_name"], "model")
        if not issubclass(part, Tokenizer):
            raise ValueError(f"model {str(folder)!r} is a {part.__name__}, no tokenizer")
        dtype = options.get("dtype") or options.get("torch_dtype")
        return cls(load_component(part, folder, dtype=dtype, variant=options.get("variant")))

    @torch.no_grad()
    def __call__(
        self,
        image,
        *,
        num_tokens: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """Reconstructs pictures.

        Args:
            image: a PIL image (its middle square is taken and resized), a tensor (3, H, W) or (B,
                3, H, W) in [-1, 1] of the tokenizer's size, or a list of either.
            num_tokens: decode only so many leading tokens, where prefixes can be decoded.
            output_type: "pil", "np", "pt" or "tokens".
            return_dict: an `ImageOutput`, or its fields as a tuple.

        Raises:
            ValueError: one line that names the argument.
        """
        steps.check_output_type(output_type)
        size = self.tokenizer.config.image_size
        several = isinstance(image, list | tuple) or (
            isinstance(image, torch.Tensor) and image.ndim == 4
        )
        if several and len(image) == 0:
            raise ValueError("image must be a picture or a list of at least one")
        images = steps.prepare_images(image, size, len(image) if several else 1)  # (B, 3, H, W)
        layout = self.tokenizer.layout
        if num_tokens is not None:
            steps.check_whole("num_tokens", num_tokens, 1, layout.num_tokens)
        count = self.tokenizer.check_num_tokens(num_tokens, layout)
        tokenizer = self.wake(self.tokenizer)
        tokens, decoded = [], []
        for one in images.to(self._execution_device, self.tokenizer.dtype).split(1):
            encoded = tokenizer.encode(one).tokens  # (1, N)
            tokens.append(encoded[:, :count])
            if output_type != "tokens":
                decoded.append(tokenizer.decode(encoded, num_tokens=num_tokens))
        output = ImageOutput(
            images=steps.to_output(torch.cat(decoded), output_type) if decoded else None,
            tokens=torch.cat(tokens).cpu(),
        )
        return output if return_dict else output.to_tuple()
