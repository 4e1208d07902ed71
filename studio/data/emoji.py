"""Captioned pictures made on the spot from Noto Color Emoji.

The sprites come from Debian's `fonts-noto-color-emoji` (or any path to that font), their words from
the CLDR short names in the `emoji` package: one sprite a name, without skin tones and flags. Every
picture is a pure function of its index, so a data set is described by a few numbers and never
stored. Which sprites no tokenizer sees in training, and which colour-and-object pairs no generator
sees, is fixed in `heldout.json`. Leaves out on purpose: ligatures that the font draws as two
glyphs.
"""

import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features

from studio.data.colors import COLORS, TINTS, tint, without_color
from studio.env import emoji_font
from studio.media.files import atomic_path

FONT_SIZE = 109  # the only size the font's bitmaps have
SPRITE = 128
SPLITS = ("train", "heldout", "all")
_FULLY_QUALIFIED = 2


def find_font(path: str | None = None) -> str:
    """The path of Noto Color Emoji. Raises FileNotFoundError with what to install."""
    found = path if path and os.path.exists(path) else None if path else emoji_font()
    if found:
        return str(found)
    missing = path or "NotoColorEmoji.ttf"
    raise FileNotFoundError(
        f"font {missing} not found: install fonts-noto-color-emoji or give font_path"
    )


def emoji_names() -> dict[str, str]:
    """Name -> character for every emoji without skin tone or flag, sorted by name."""
    import emoji

    names = {}
    for character, data in emoji.EMOJI_DATA.items():
        if data["status"] != _FULLY_QUALIFIED or "_flag" in data["en"] or "flag_" in data["en"]:
            continue
        if any(0x1F3FB <= ord(c) <= 0x1F3FF for c in character) or _is_flag(character):
            continue
        name = data["en"].strip(":").replace("_", " ").lower()
        names.setdefault(name, character)
    return dict(sorted(names.items()))


def _is_flag(character: str) -> bool:
    return 0x1F1E6 <= ord(character[0]) <= 0x1F1FF or "\U000e007f" in character


def render_sprite(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """One emoji as uint8 (128, 128, 4), centred, or None when the font draws nothing or several
    glyphs.
    """
    canvas = Image.new("RGBA", (320, 200))
    ImageDraw.Draw(canvas).text((20, 20), character, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None or box[2] - box[0] > 150:
        return None
    glyph = canvas.crop(box)
    scale = SPRITE / max(glyph.size)
    width, height = glyph.size
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    glyph = _resize(glyph, size)
    sprite = Image.new("RGBA", (SPRITE, SPRITE))
    sprite.paste(glyph, ((SPRITE - size[0]) // 2, (SPRITE - size[1]) // 2))
    return np.asarray(sprite)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """RGBA resizing without dark fringes: colours are averaged weighted by alpha."""
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


@functools.lru_cache(maxsize=2)
def load_sprites(font_path: str | None = None) -> tuple[list[str], np.ndarray]:
    """All names and their sprites, uint8 (n, 128, 128, 4). Rendered once, then read from the user's
    cache folder.
    """
    path = find_font(font_path)
    if not features.check("raqm"):
        raise RuntimeError("Pillow lacks raqm, which joins emoji sequences: install libraqm0")
    stamp = f"{os.path.getsize(path)}-{SPRITE}-2"
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "studio" / "emoji"
    cached = folder / f"sprites-{stamp}.npz"
    if cached.exists():
        with np.load(cached) as data:
            return data["names"].tolist(), data["sprites"]
    font = ImageFont.truetype(path, FONT_SIZE)
    sprites, seen = {}, set()
    for name, character in emoji_names().items():
        sprite = render_sprite(character, font)
        if sprite is not None and sprite.tobytes() not in seen:
            seen.add(sprite.tobytes())
            sprites[name] = sprite
    names, pixels = list(sprites), np.stack(list(sprites.values()))
    with atomic_path(cached) as temporary:
        np.savez(temporary, names=np.array(names), sprites=pixels)
    return names, pixels


@functools.lru_cache(maxsize=1)
def heldout() -> dict[str, list]:
    """What training never sees: `pictures` (names whose sprites no tokenizer is trained on) and
    `combinations` ([colour, object, background] whose colour-and-object pair no generator is
    trained on)."""
    return json.loads((Path(__file__).parent / "heldout.json").read_text())


@dataclass(frozen=True)
class Scene:
    """What one picture shows; `caption` is its words.

    Args:
        names: one or two sprites.
        tint: a word of `TINTS`, or None for the sprite's own colours (first sprite only).
        background: a colour word, or two for a gradient from top to bottom.
        scale: side of the sprite as a share of the picture.
        shift: (right, down) of the centre as a share of the picture.
        small: True when the caption says "small".
    """

    names: tuple[str, ...]
    tint: str | None = None
    background: tuple[str, ...] = ("white",)
    scale: float = 0.86
    shift: tuple[float, float] = (0.0, 0.0)
    small: bool = False
    flip: bool = False

    @property
    def caption(self) -> str:
        first = f"{self.tint} {without_color(self.names[0])}" if self.tint else self.names[0]
        words = " and ".join([first, *self.names[1:]])
        if self.small:
            words = f"small {words}"
        if self.background == ("white",):
            return words
        return f"{words} on {' to '.join(self.background)}"


def draw(scene: Scene, size: int, *, font_path: str | None = None) -> torch.Tensor:
    """A scene as float (3, size, size) in [-1, 1]."""
    sprites = load_sprites(font_path)[1]
    index = _index(font_path)
    picture = _background(scene.background, size)  # (H, W, 3), 0 to 1
    count = len(scene.names)
    for place, name in enumerate(scene.names):
        sprite = sprites[index[name]]
        offset = (place - (count - 1) / 2) * 0.5
        scale = scene.scale if count == 1 else scene.scale * 0.55
        centre = (0.5 + scene.shift[0] + offset, 0.5 + scene.shift[1])
        _paste(picture, sprite, scale, centre, scene.tint if place == 0 else None, scene.flip)
    return torch.from_numpy(picture).permute(2, 0, 1).mul(2).sub(1).contiguous()  # (3, H, W)


@functools.lru_cache(maxsize=2)
def _index(font_path: str | None) -> dict[str, int]:
    return {name: i for i, name in enumerate(load_sprites(font_path)[0])}


def _background(colors: tuple[str, ...], size: int) -> np.ndarray:
    stops = np.asarray([COLORS[c] for c in colors], np.float32) / 255
    if len(stops) == 1:
        return np.broadcast_to(stops[0], (size, size, 3)).copy()
    mix = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return np.broadcast_to(stops[0] * (1 - mix) + stops[1] * mix, (size, size, 3)).copy()


def _paste(picture, sprite, scale, centre, color, flip) -> None:
    size = picture.shape[0]
    side = max(4, round(scale * size))
    glyph = Image.fromarray(sprite)
    if flip:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rgba = np.asarray(_resize(glyph, (side, side)), np.float32) / 255
    if color:
        rgba = tint(rgba, color)
    left, top = (round(c * size - side / 2) for c in centre)
    y0, y1, x0, x1 = max(top, 0), min(top + side, size), max(left, 0), min(left + side, size)
    if y0 >= y1 or x0 >= x1:
        return
    part = rgba[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = part[..., 3:]
    picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha) + part[..., :3] * alpha


@dataclass(frozen=True)
class EmojiImages:
    """An endless captioned data set; item i is a pure function of i.

    Args:
        size: side of the pictures in pixels.
        split: "train" (without the pictures kept from tokenizers), "heldout" (those alone), or
            "all" (every name).
        wide: share of pictures with a wide variation of scale and shift, mirrored half the time.
        seed: another seed gives other pictures.
        plain: share of pictures on white, whose captions name no background.
        gradients, tints, pairs, smalls: shares of pictures with a gradient, a tint, two sprites, a
            small sprite.
        jitter: 1 is the usual variation of scale and shift of the caption style, 0 none.
        font_path: of Noto Color Emoji when it is not where Debian puts it.
    """

    size: int = 64
    split: str = "all"
    wide: float = 0.0
    seed: int = 0
    plain: float = 0.25
    gradients: float = 0.1
    tints: float = 0.2
    pairs: float = 0.05
    smalls: float = 0.05
    jitter: float = 1.0
    font_path: str | None = None

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} must be one of {', '.join(SPLITS)}")

    def names(self) -> list[str]:
        """The names that may appear."""
        return _split_names(self.split, self.font_path)

    def scene(self, index: int) -> Scene:
        """What picture `index` shows."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        names = self.names()
        wide = rng.random() < self.wide
        count = 2 if rng.random() < self.pairs else 1
        chosen = tuple(names[int(i)] for i in rng.integers(len(names), size=count))
        color = TINTS[rng.integers(len(TINTS))] if rng.random() < self.tints else None
        if color and (color, without_color(chosen[0])) in _heldout_pairs():
            color = None
        small = not wide and count == 1 and rng.random() < self.smalls
        middle, spread = (0.7, 0.25) if wide else (0.45, 0.02) if small else (0.86, 0.04)
        reach = 0.12 if wide else 0.015
        noise = rng.uniform(-1, 1, size=3) * (1.0 if wide else self.jitter)
        return Scene(
            names=chosen,
            tint=color,
            background=self._pick_background(rng),
            scale=float(middle + spread * noise[0]),
            shift=(float(reach * noise[1]), float(reach * noise[2])),
            small=small,
            flip=bool(wide and rng.random() < 0.5),
        )

    def _pick_background(self, rng) -> tuple[str, ...]:
        words = list(COLORS)
        if rng.random() < self.plain:
            return ("white",)
        first, second = (words[int(i)] for i in rng.choice(len(words), 2, replace=False))
        return (first, second) if rng.random() < self.gradients else (first,)

    def __len__(self) -> int:
        """Pictures an epoch; the data set has no end, so this is as large as it gets."""
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """Picture float (3, size, size) in [-1, 1], and its caption."""
        scene = self.scene(index)
        return draw(scene, self.size, font_path=self.font_path), scene.caption

    def caption(self, index: int) -> str:
        """The caption of an item, without drawing it."""
        return self.scene(index).caption

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """Pictures (count, 3, size, size) and captions of `count` consecutive indices."""
        items = [self[i] for i in range(start, start + count)]
        return torch.stack([image for image, _ in items]), [
            caption for _, caption in items
        ]  # (B, 3, H, W)


@functools.lru_cache(maxsize=8)
def _split_names(split: str, font_path: str | None) -> list[str]:
    names = load_sprites(font_path)[0]
    kept = set(heldout()["pictures"])
    return [n for n in names if split == "all" or (n in kept) == (split == "heldout")]


@functools.lru_cache(maxsize=1)
def _heldout_pairs() -> set[tuple[str, str]]:
    return {(color, noun) for color, noun, _ in heldout()["combinations"]}
