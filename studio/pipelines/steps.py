"""The small steps that pipelines share, as plain functions: checks, seeds, pictures in, pictures
out."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from studio.decoding.noise import KEEP, place_noise, sample_keys
from studio.generators.captions import CaptionTokenizer
from studio.generators.conditioning import TextCondition
from studio.media.image import fit_square, to_pil_list, to_rgb, to_tensor
from studio.outputs import TokenLayout
from studio.pipelines.request import check_prompt

OUTPUT_TYPES = ("pil", "np", "pt", "tokens")


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` itself. Raises ValueError unless it is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} {value!r} must be a whole number from {low} to {high}")
    return value


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """One prompt or several as a list of checked ones."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not prompts:
        raise ValueError("prompt must be text or a list of at least one text")
    return [check_prompt(text) for text in prompts]


def encode_captions(text_tokenizer: CaptionTokenizer, prompts: list[str]) -> TextCondition:
    """Prompts as ids (B, S), S always the tokenizer's longest, so that a row never depends on the
    others."""
    ids, mask = text_tokenizer.encode(prompts)
    missing = text_tokenizer.max_length - ids.shape[1]
    return TextCondition(F.pad(ids, (0, missing)), F.pad(mask, (0, missing)))  # (B, S)


def check_output_type(output_type: str) -> str:
    """`output_type` itself. Raises ValueError when it is unknown."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type {output_type!r} must be one of {', '.join(OUTPUT_TYPES)}")
    return output_type


def make_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, batch: int
) -> list[torch.Generator]:
    """One generator a sample.

    Args:
        generator: a list with one a sample; one generator that all samples draw from in turn; None
            for fresh ones that nobody can repeat.
    """
    if generator is None:
        return [torch.Generator().manual_seed(secrets.randbits(63)) for _ in range(batch)]
    if isinstance(generator, torch.Generator):
        return [generator] * batch
    generators = list(generator) if isinstance(generator, Sequence) else []
    if len(generators) != batch or not all(isinstance(g, torch.Generator) for g in generators):
        raise ValueError(
            f"generator must be one torch.Generator or a list of {batch}, one a sample"
        )
    return generators


def prepare_image(image: Any, size: int) -> torch.Tensor:
    """A picture as (1, 3, size, size) float32 in [-1, 1].

    Args:
        image: a PIL image, of which the middle square is taken and resized; or a tensor (3, H, W)
            or (1, 3, H, W) in [-1, 1] that has the size already.
    """
    if isinstance(image, Image.Image):
        return to_tensor(fit_square(to_rgb(image), size))[None]  # (1, 3, H, W)
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"image must be a PIL image or a tensor, not {type(image).__name__}")
    image = image[None] if image.ndim == 3 else image
    if tuple(image.shape) != (1, 3, size, size):
        raise ValueError(f"image of shape {tuple(image.shape)} must be (1, 3, {size}, {size})")
    if not bool(image.isfinite().all()) or float(image.abs().max()) > 1.001:
        raise ValueError("image tensor must hold finite values from -1 to 1")
    return image.float()


def prepare_images(image: Any, size: int, batch: int) -> torch.Tensor:
    """One picture for all samples, or a list or tensor with one a sample, as (B, 3, size, size)."""
    several = isinstance(image, list | tuple) or (
        isinstance(image, torch.Tensor) and image.ndim == 4
    )
    images = [prepare_image(one, size) for one in (image if several else [image])]
    if len(images) not in (1, batch):
        raise ValueError(f"image: {len(images)} pictures for {batch} samples")
    return torch.cat(images).expand(batch, -1, -1, -1)  # (B, 3, H, W)


def mask_cells(mask: Any, size: int, grid: tuple[int, int]) -> torch.Tensor:
    """The cells to make anew, bool (N,): those in which any pixel of the mask is white.

    Args:
        mask: a PIL image, white (above middle gray) = make anew; or a tensor (H, W) or (1, H, W), >
            0.5.
        size: side of the picture in pixels.
        grid: (h, w) of the token grid.
    """
    if isinstance(mask, Image.Image):
        gray = fit_square(to_rgb(mask), size).convert("L")
        mask = torch.from_numpy(np.array(gray, dtype=np.float32)) / 255.0  # (H, W)
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"mask_image must be a PIL image or a tensor, not {type(mask).__name__}")
    mask = mask.squeeze()
    if tuple(mask.shape) != (size, size):
        raise ValueError(f"mask_image of shape {tuple(mask.shape)} must be ({size}, {size})")
    cells = torch.nn.functional.adaptive_max_pool2d(mask[None].float(), grid)  # (1, h, w)
    cells = cells.flatten() > 0.5  # (N,)
    if not bool(cells.any()):
        raise ValueError("mask_image has no white pixel: nothing would be made anew")
    return cells


def kept_by_strength(
    strength: float, layout: TokenLayout, generators: list[torch.Generator]
) -> torch.Tensor:
    """Which tokens a variation keeps, bool (B, N): the first ones where prefixes mean something,
    else some at random.

    Args:
        strength: share of tokens to make anew, 0 < strength <= 1; at least one is.
    """
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not 0 < strength <= 1:
        raise ValueError(f"strength {strength!r} must be a number above 0 and at most 1")
    total = layout.num_tokens
    count = min(round(total * (1 - strength)), total - 1)
    if layout.prefix:
        return (torch.arange(total) < count).expand(len(generators), -1)  # (B, N)
    noise = place_noise(sample_keys(generators), total, step=0, purpose=KEEP)  # (B, N)
    order = noise.argsort(dim=1, descending=True, stable=True)
    keep = torch.zeros_like(noise, dtype=torch.bool)
    return keep.scatter(1, order[:, :count], True)


def fill_unknown(tokens: torch.Tensor, known: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Tokens int64 (B, N) in which unknown places take the token of the nearest known one, for
    previews."""
    if len(layout.segments) != 1 or bool(known.all()) or not bool(known.any(dim=1).all()):
        return tokens
    shape = layout.segments[0].shape
    axes = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    places = torch.stack(axes, dim=-1).flatten(0, -2).float()  # (N, axes)
    distance = torch.cdist(places, places).to(tokens.device)  # (N, N)
    rows = distance[None].masked_fill(~known[:, None, :], torch.inf)  # (B, N, N)
    return tokens.gather(1, rows.argmin(dim=-1))  # (B, N)


def to_output(images: torch.Tensor, output_type: str) -> Any:
    """Images (B, 3, H, W) in [-1, 1] as PIL images, or in [0, 1] as numpy (B, H, W, 3) or a
    tensor."""
    if output_type == "pil":
        return to_pil_list(images)
    images = images.float().clamp(-1, 1) / 2 + 0.5
    return images.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else images
