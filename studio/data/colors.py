"""The colour words of the captions, and tinting a sprite in one of them."""

import numpy as np

# Soft enough that a sprite stays visible on its own colour.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 61, 57),
    "orange": (240, 145, 50),
    "yellow": (247, 214, 72),
    "green": (88, 170, 84),
    "teal": (62, 170, 168),
    "blue": (70, 120, 214),
    "purple": (140, 92, 196),
    "pink": (242, 152, 186),
    "brown": (141, 96, 66),
    "black": (36, 36, 40),
    "gray": (150, 154, 160),
    "white": (255, 255, 255),
}
TINTS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown")


def without_color(name: str) -> str:
    """A name without its leading colour word: "red apple" -> "apple"; other names as they are."""
    first, _, rest = name.partition(" ")
    return rest if rest and first in COLORS else name


def tint(rgba: np.ndarray, color: str) -> np.ndarray:
    """A sprite in shades of one colour.

    Dark parts stay dark and light parts stay light, so that the drawing is still readable.

    Args:
        rgba: float (H, W, 4), straight alpha, 0 to 1.
        color: a word of `TINTS`.
    """
    target = np.asarray(COLORS[color], np.float32) / 255
    luma = rgba[..., :3] @ np.asarray([0.299, 0.587, 0.114], np.float32)  # (H, W)
    luma = luma[..., None]
    dark = target * np.minimum(luma * 1.8, 1)
    shaded = dark + (1 - target) * np.clip(luma * 2.2 - 1.2, 0, 1)
    return np.concatenate([shaded, rgba[..., 3:]], axis=-1)
