"""Which colour words a picture shows, by mean colour: no network, nothing learned.

The background is what the border shows; the object is what differs from it. Both means are compared
with the captions' colours in Oklab ("A perceptual color space for image processing", B. Ottosson,
2020), a tinted object with all shades that its tint can take, since tinting leaves light parts
light and dark parts dark.
Leaves out on purpose: gradients, several objects.
"""

import functools

import numpy as np
import torch

from studio.data.colors import COLORS, TINTS, tint

DIFFERENT = 0.10  # distance in Oklab from which a pixel is no longer background
LIGHTNESS = 0.3  # weight of lightness beside the two chroma axes
_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def oklab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB (..., 3), 0 to 1, to Oklab (..., 3): lightness 0 to 1 and two chroma axes."""
    rgb = rgb.double().clamp(0, 1)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lms = linear @ torch.tensor(_TO_LMS, dtype=torch.float64).T  # (..., 3)
    return lms.clamp(min=0).pow(1 / 3) @ torch.tensor(_TO_LAB, dtype=torch.float64).T


def background_colour(image: torch.Tensor) -> torch.Tensor:
    """The border's colour: (3, H, W) in [-1, 1] to (3,), 0 to 1. The median over the border, since
    an object may touch it."""
    pixels = (image.float().cpu() + 1) / 2
    width = max(1, image.shape[-1] // 32)
    edges = [pixels[:, :width], pixels[:, -width:], pixels[:, :, :width], pixels[:, :, -width:]]
    return torch.cat([e.flatten(1) for e in edges], 1).median(1).values  # (3,)


def background_word(image: torch.Tensor) -> str:
    """The colour word nearest to the border of a picture (3, H, W) in [-1, 1]."""
    words = list(COLORS)
    palette = oklab(torch.tensor([COLORS[w] for w in words]) / 255)  # (12, 3)
    distance = (palette - oklab(background_colour(image))).square().sum(-1)
    return words[int(distance.argmin())]


def object_colour(image: torch.Tensor) -> torch.Tensor | None:
    """Mean Oklab colour (3,) of what differs from the background, or None when nothing does."""
    pixels = oklab(((image.float().cpu() + 1) / 2).permute(1, 2, 0))  # (H, W, 3)
    ground = oklab(background_colour(image))
    apart = (pixels - ground).norm(dim=-1) > DIFFERENT  # (H, W)
    return pixels[apart].mean(0) if bool(apart.any()) else None


def tint_word(image: torch.Tensor) -> str:
    """The tint whose shades come nearest to the object of a picture (3, H, W); "" when there is no
    object."""
    mean = object_colour(image)
    if mean is None:
        return ""
    weight = torch.tensor([LIGHTNESS, 1.0, 1.0], dtype=torch.float64)
    distances = [((_shades(word) - mean) * weight).norm(dim=-1).min() for word in TINTS]
    return TINTS[int(torch.stack(distances).argmin())]


@functools.cache
def _shades(word: str) -> torch.Tensor:
    """What `studio.data.colors.tint` makes of grays, the middle ones, in Oklab: (n, 3)."""
    grays = np.linspace(0.35, 0.75, 9, dtype=np.float32)
    rgba = np.stack([grays, grays, grays, np.ones_like(grays)], -1)[None]  # (1, n, 4)
    return oklab(torch.from_numpy(tint(rgba, word)[0, :, :3]))  # (n, 3)
