"""Pictures: files, PIL images and float tensors in [-1, 1].

Reading takes what people have: any common format, CMYK, 16-bit, palettes, alpha (over a
background), EXIF orientation, the first frame of an animation. What can't be read is refused in one
line, and a picture that is too large before its pixels are decoded. Leaves out on purpose: colour
profiles, high dynamic range.
"""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from studio.media.files import atomic_write
from studio.media.header import BROKEN, open_header
from studio.media.metadata import exif_bytes, png_text

logger = logging.getLogger(__name__)

WRITE_SUFFIXES = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
WHITE = (255, 255, 255)


def open_picture(path: str | Path, *, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """A picture file as an upright RGB image; alpha is laid over `background`.

    Raises:
        FileNotFoundError, ValueError: as `open_header`, and when the pixels are cut short or
        broken.
    """
    with open_header(path) as picture:
        try:
            if getattr(picture, "n_frames", 1) > 1:
                logger.warning(
                    "picture %r has %d frames: the first is used", str(path), picture.n_frames
                )
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return to_rgb(upright, background=background)
        except BROKEN as error:
            raise ValueError(f"picture {str(path)!r} is broken or cut short: {error}") from error


def to_rgb(picture: Image.Image, *, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Any PIL image as RGB of 8 bits; alpha is laid over `background`, 16 bits are scaled to 8."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        return _from_deep_gray(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (*background, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_deep_gray(picture: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits, or floats, to RGB."""
    values = np.asarray(picture).astype(np.float64)  # (H, W)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    top = 65535.0
    if picture.mode == "F" and values.max() <= 1.0:
        top = 1.0
    elif not picture.mode.startswith("I;16") and values.max() <= 255:
        top = 255.0
    gray = np.clip(values / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")


def read_image(path: str | Path, *, background: tuple[int, int, int] = WHITE) -> torch.Tensor:
    """A picture file as a tensor (1, 3, H, W), float32 in [-1, 1]. Raises as `open_picture`."""
    return to_tensor(open_picture(path, background=background))[None]  # (1, 3, H, W)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """A PIL image as (3, H, W), float32 in [-1, 1]."""
    values = np.array(to_rgb(picture), dtype=np.uint8)  # (H, W, 3)
    return torch.from_numpy(values).permute(2, 0, 1).float() / 127.5 - 1.0  # (3, H, W)


def to_pil(image: torch.Tensor) -> Image.Image:
    """One image tensor (3, H, W) or (1, 3, H, W), floats in [-1, 1] (clipped), as PIL RGB."""
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]  # (3, H, W)
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image of shape {tuple(image.shape)} must be (3, H, W) or (1, 3, H, W)")
    values = (image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    pixels = values.round().to(torch.uint8).permute(1, 2, 0).contiguous()  # (H, W, 3)
    return Image.fromarray(pixels.numpy())


def to_pil_list(images: torch.Tensor) -> list[Image.Image]:
    """Image tensors (B, 3, H, W), floats in [-1, 1], as PIL images."""
    return [to_pil(image) for image in images]


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, resized to `size` x `size` pixels (Lanczos)."""
    return ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)


def check_suffix(path: str | Path) -> str:
    """The Pillow format for a file name. Raises ValueError for a suffix that we do not write."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        known = ", ".join(WRITE_SUFFIXES)
        raise ValueError(f"output {str(path)!r} must end in one of {known}")
    return WRITE_SUFFIXES[suffix]


def write_image(
    path: str | Path, image: torch.Tensor | Image.Image, request: dict[str, Any] | None = None
) -> Path:
    """Write a picture, whole or not at all, with the request that made it inside.

    The same picture and request give the same bytes. PNG and WebP are lossless, JPEG has quality
    95.

    Args:
        path: ends in .png, .webp, .jpg or .jpeg; missing folders are made.
        image: (3, H, W) or (1, 3, H, W) floats in [-1, 1], or a PIL image.
        request: plain JSON values.

    Raises:
        ValueError: the suffix is unknown, or the request is too long for the format.
        OSError: one line, when the file can't be written; nothing is left behind.
    """
    kind = check_suffix(path)
    picture = to_pil(image) if isinstance(image, torch.Tensor) else to_rgb(image).copy()
    picture.info = {}  # nothing of an earlier file travels along
    options: dict[str, Any] = {}
    if request is not None:
        options = {"pnginfo": png_text(request)} if kind == "PNG" else {"exif": exif_bytes(request)}
    if kind == "WEBP":
        options |= {"lossless": True, "method": 4}
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return atomic_write(path, file.getvalue())
