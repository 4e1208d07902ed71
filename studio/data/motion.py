"""Captioned clips made on the spot: emoji that move, grow, turn, bounce and pass each other.

Every clip is a pure function of its index. Sprites and held-out objects are those of
`studio.data.emoji`; besides, two motions and one object-and-motion pair in sixteen are kept out of
training, by rules that need no list. Leaves out on purpose: camera motion, shadows, depth.
"""

import functools
import math
import sys
import zlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from studio.data.colors import COLORS, TINTS, tint, without_color
from studio.data.emoji import heldout, load_sprites

DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
MOTIONS = (
    *(f"moving {word}" for word in DIRECTIONS),
    "growing",
    "shrinking",
    "turning",
    "bouncing",
    "standing still",
)
HELDOUT_MOTIONS = ("circling", "moving up and down")
PASSING = "passing"
TEXTURES = ("stripes", "checks", "dots", "noise")
SPLITS = ("train", "heldout", "motions", "pairs", "all", "captions")
_PAIRS = 16  # one object-and-motion pair in so many is held out


def is_heldout_pair(name: str, motion: str) -> bool:
    """Whether an object with this motion is kept out of the "train" split."""
    return zlib.crc32(f"{name}|{motion}".encode()) % _PAIRS == 0


@dataclass(frozen=True)
class Clip:
    """What one clip shows; `caption` is its words.

    Args:
        names: one sprite, or two that pass each other; the first lies in front.
        motion: of `MOTIONS`, `HELDOUT_MOTIONS`, or `PASSING` with two sprites.
        tint: a word of `TINTS`, or None for the sprite's own colours (first sprite only).
        background: a colour word, or two for a gradient from top to bottom or a texture.
        texture: of `TEXTURES` in both colours; None for plain and gradient.
        scale: side of the sprite as a share of the picture, at its largest.
        reach: how far from the middle of its path a sprite starts, as a share of the picture.
        middle: (right, down) of the path's middle.
        grain: seed of the noise texture, and phase of the others.
    """

    names: tuple[str, ...]
    motion: str
    tint: str | None = None
    background: tuple[str, ...] = ("white",)
    texture: str | None = None
    scale: float = 0.5
    reach: float = 0.25
    middle: tuple[float, float] = (0.5, 0.5)
    grain: int = 0

    @property
    def caption(self) -> str:
        first = f"{self.tint} {without_color(self.names[0])}" if self.tint else self.names[0]
        words = " ".join([first, self.motion, *self.names[1:]])
        if self.texture:
            return f"{words} on {' and '.join(self.background)} {self.texture}"
        if self.background == ("white",):
            return words
        return f"{words} on {' to '.join(self.background)}"

    def poses(self, num_frames: int, which: int = 0) -> torch.Tensor:
        """Where a sprite is in every frame: (T, 4) of right, down (shares of the picture), scale
        (share of the picture's side) and angle (radians, clockwise).
        """
        t = torch.linspace(0, 1, num_frames) if num_frames > 1 else torch.zeros(1)
        poses = torch.empty(num_frames, 4)
        poses[:, 0], poses[:, 1] = self.middle
        poses[:, 2], poses[:, 3] = self.scale, 0.0
        _MOVES[self.motion.split()[0]](self, poses, t, which)
        return poses


def _move(clip: Clip, poses: torch.Tensor, t: torch.Tensor, which: int) -> None:
    words = clip.motion.split()
    if len(words) > 2:  # up and down
        poses[:, 1] += clip.reach * torch.cos(2 * math.pi * t)
        return
    right, down = DIRECTIONS[words[1]]
    poses[:, 0] += right * clip.reach * (2 * t - 1)
    poses[:, 1] += down * clip.reach * (2 * t - 1)


def _grow(clip: Clip, poses: torch.Tensor, t: torch.Tensor, which: int) -> None:
    t = 1 - t if clip.motion == "shrinking" else t
    poses[:, 2] *= 0.4 + 0.6 * t


def _turn(clip: Clip, poses: torch.Tensor, t: torch.Tensor, which: int) -> None:
    poses[:, 3] = 1.5 * math.pi * t


def _bounce(clip: Clip, poses: torch.Tensor, t: torch.Tensor, which: int) -> None:
    poses[:, 1] += clip.reach * (1 - 2 * (2 * math.pi * t).sin().abs())


def _circle(clip: Clip, poses: torch.Tensor, t: torch.Tensor, which: int) -> None:
    poses[:, 0] += clip.reach * torch.cos(2 * math.pi * t)
    poses[:, 1] += clip.reach * torch.sin(2 * math.pi * t)


def _pass(clip: Clip, poses: torch.Tensor, t: torch.Tensor, which: int) -> None:
    way = 1 - 2 * which
    poses[:, 0] += way * clip.reach * (2 * t - 1)
    poses[:, 1] += 0.16 * way


_MOVES = {
    "moving": _move,
    "growing": _grow,
    "shrinking": _grow,
    "turning": _turn,
    "bouncing": _bounce,
    "standing": lambda clip, poses, t, which: None,
    "circling": _circle,
    PASSING: _pass,
}


def draw_clip(
    clip: Clip, size: int, num_frames: int, *, font_path: str | None = None
) -> torch.Tensor:
    """A clip as float (3, T, size, size) in [-1, 1]."""
    sprites = load_sprites(font_path)[1]
    places = _places(font_path)
    frames = _background(clip, size).expand(num_frames, -1, -1, -1)  # (T, 3, H, W)
    for which in reversed(range(len(clip.names))):
        poses = clip.poses(num_frames, which)
        side = max(4, round(1.2 * size * float(poses[:, 2].mean())))
        color = clip.tint if which == 0 else None
        sprite = _premultiplied(sprites[places[clip.names[which]]], side, color)
        layer = _placed(sprite, poses, size)  # (T, 4, H, W)
        frames = frames * (1 - layer[:, 3:]) + layer[:, :3]
    return frames.transpose(0, 1).mul(2).sub(1).clamp(-1, 1).contiguous()  # (3, T, H, W)


def _premultiplied(sprite: np.ndarray, side: int, color: str | None) -> torch.Tensor:
    """A sprite (128, 128, 4) as float (4, side, side), colours times alpha."""
    small = Image.fromarray(sprite).convert("RGBa").resize((side, side), Image.Resampling.LANCZOS)
    rgba = np.asarray(small.convert("RGBA"), np.float32) / 255
    if color:
        rgba = tint(rgba, color)
    alpha = rgba[..., 3:]
    return torch.from_numpy(np.concatenate([rgba[..., :3] * alpha, alpha], -1)).permute(2, 0, 1)


def _placed(sprite: torch.Tensor, poses: torch.Tensor, size: int) -> torch.Tensor:
    """A sprite (4, s, s) in its poses (T, 4) on frames (T, 4, size, size), between pixels too."""
    centre, scale, angle = 2 * poses[:, :2] - 1, poses[:, 2], poses[:, 3]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack((torch.stack((cos, sin), -1), torch.stack((-sin, cos), -1)), 1)  # (T, 2, 2)
    shift = -(turn @ centre[:, :, None])  # (T, 2, 1)
    shape = (len(poses), 4, size, size)
    grid = F.affine_grid(torch.cat((turn, shift), -1), list(shape), align_corners=False)
    layers = sprite.expand(len(poses), -1, -1, -1)
    return F.grid_sample(layers, grid, mode="bilinear", align_corners=False)


def _background(clip: Clip, size: int) -> torch.Tensor:
    """One still picture (3, H, W), 0 to 1."""
    stops = torch.tensor([COLORS[c] for c in clip.background]).float().div(255)[..., None, None]
    if clip.texture is None:
        mix = torch.linspace(0, 1, size)[None, :, None]
        return (stops[0] * (1 - mix) + stops[-1] * mix).expand(-1, -1, size)
    # Textures stay near the first colour, so that the object still stands out.
    return stops[0] + 0.35 * _texture(clip, size) * (stops[-1] - stops[0])


def _texture(clip: Clip, size: int) -> torch.Tensor:
    """Shares of the second colour, (H, W) from 0 to 1."""
    line = (torch.arange(size) * 16 / size + clip.grain % 4).floor()
    if clip.texture == "stripes":
        return (line[:, None].expand(-1, size) / 2).floor() % 2
    if clip.texture == "checks":
        return ((line[:, None] / 2).floor() + (line / 2).floor()) % 2
    if clip.texture == "dots":
        place = torch.arange(size) * 8 / size % 1 - 0.5
        return (place[:, None].square() + place.square() < 0.09).float()
    noise = torch.rand(16, 16, generator=torch.Generator().manual_seed(clip.grain))
    return F.interpolate(noise[None, None], size=(size, size), mode="bilinear")[0, 0]


@functools.lru_cache(maxsize=2)
def _places(font_path: str | None) -> dict[str, int]:
    return {name: i for i, name in enumerate(load_sprites(font_path)[0])}


@dataclass(frozen=True)
class MotionClips:
    """An endless captioned set of clips; item i is a pure function of i.

    Args:
        size, num_frames: of a clip.
        split: "train"; "heldout" (objects that no tokenizer is trained on); "motions" (trained
            objects in `HELDOUT_MOTIONS`); "pairs" (trained objects in motions held out for them);
            "all"; "captions" (all objects, in motions that are not held out for them: generators
            are trained on these).
        seed: another seed gives other clips.
        plain, gradients, textures: shares of clips on white, on a gradient, on a texture; the rest
            is on one colour.
        tints, pairs: shares of clips with a tint, and with two sprites that pass each other.
        motions: the motions there are, some more than once if they shall come more often; those of
            the split when None.
        jitter: how much scale, reach and place of the path vary; 1 as usual, 0 not at all, so that
            a caption and a texture's grain say everything.
        font_path: of Noto Color Emoji when it is not where Debian puts it.
    """

    size: int = 64
    num_frames: int = 16
    split: str = "all"
    seed: int = 0
    plain: float = 0.15
    gradients: float = 0.15
    textures: float = 0.1
    tints: float = 0.2
    pairs: float = 0.1
    motions: tuple[str, ...] | None = None
    font_path: str | None = None
    jitter: float = 1.0

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} must be one of {', '.join(SPLITS)}")
        if self.motions is not None:  # a list, where it comes from a file
            object.__setattr__(self, "motions", tuple(self.motions))
        known = (*MOTIONS, *HELDOUT_MOTIONS)
        for motion in self.motions or ():
            if motion not in known:
                raise ValueError(f"motion {motion!r} must be one of {', '.join(known)}")
        if self.num_frames < 1:
            raise ValueError(f"num_frames {self.num_frames} must be at least 1")

    def names(self) -> list[str]:
        """The objects that may appear."""
        names, kept = load_sprites(self.font_path)[0], set(heldout()["pictures"])
        if self.split in ("all", "captions"):
            return list(names)
        return [name for name in names if (name in kept) == (self.split == "heldout")]

    def clip(self, index: int) -> Clip:
        """What clip `index` shows."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        names = _names(self)
        pair = self.motions is None and rng.random() < self.pairs and self.split != "motions"
        chosen = [names[int(i)] for i in rng.integers(len(names), size=2)]
        motion = self._pick_motion(rng, chosen[0])
        if pair and self.split != "pairs":
            motion = PASSING
        kept = chosen if motion == PASSING else chosen[:1]
        color = TINTS[rng.integers(len(TINTS))] if rng.random() < self.tints else None
        if color and [color, without_color(kept[0])] in [p[:2] for p in heldout()["combinations"]]:
            color = None
        background, texture = self._pick_background(rng)
        noise = self.jitter * rng.uniform(-1, 1, size=4)
        roams = motion not in ("growing", "shrinking", "turning", "standing still")
        scale = (0.42 if motion == PASSING else 0.5) if roams else 0.72
        return Clip(
            names=tuple(kept),
            motion=motion,
            tint=color,
            background=background,
            texture=texture,
            scale=float(scale * (1 + 0.12 * noise[0])),
            reach=float(0.26 + 0.05 * noise[1]),
            middle=(float(0.5 + 0.05 * noise[2]), float(0.5 + 0.05 * noise[3])),
            grain=int(rng.integers(2**31)),
        )

    def _pick_motion(self, rng: np.random.Generator, name: str) -> str:
        motions = self.motions or (HELDOUT_MOTIONS if self.split == "motions" else MOTIONS)
        order = [motions[int(i)] for i in rng.permutation(len(motions))]
        if self.split not in ("train", "pairs", "captions"):
            return order[0]
        wanted = self.split == "pairs"
        fitting = [m for m in order if is_heldout_pair(name, m) == wanted]
        return fitting[0] if fitting else order[0]

    def _pick_background(self, rng: np.random.Generator) -> tuple[tuple[str, ...], str | None]:
        words, draw = list(COLORS), rng.random()
        first, second = (words[int(i)] for i in rng.choice(len(words), 2, replace=False))
        texture = TEXTURES[rng.integers(len(TEXTURES))]
        if draw < self.plain:
            return ("white",), None
        if draw < self.plain + self.gradients:
            return (first, second), None
        if draw < self.plain + self.gradients + self.textures:
            return (first, second), texture
        return (first,), None

    def __len__(self) -> int:
        """Clips an epoch; the set has no end, so this is as large as it gets."""
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """Clip float (3, T, size, size) in [-1, 1], and its caption."""
        clip = self.clip(index)
        video = draw_clip(clip, self.size, self.num_frames, font_path=self.font_path)
        return video, clip.caption

    def caption(self, index: int) -> str:
        """The caption of an item, without drawing it."""
        return self.clip(index).caption

    def still_caption(self, index: int) -> str:
        """The caption of an item without its motion: what a picture of it would be called."""
        clip = self.clip(index)
        return clip.caption.replace(f" {clip.motion}", "", 1)

    def motion(self, index: int) -> int:
        """The place of an item's motion in `MOTIONS`, whose end `PASSING` is."""
        motion = self.clip(index).motion
        return MOTIONS.index(motion) if motion in MOTIONS else len(MOTIONS)

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, list[str]]:
        """Clips (count, 3, T, size, size) and captions of `count` consecutive indices."""
        items = [self[i] for i in range(start, start + count)]
        return torch.stack([video for video, _ in items]), [caption for _, caption in items]


@functools.lru_cache(maxsize=16)
def _names(clips: MotionClips) -> list[str]:
    """The names of a split; for "pairs" those that have a motion held out."""
    names = clips.names()
    if clips.split != "pairs":
        return names
    motions = clips.motions or MOTIONS
    return [name for name in names if any(is_heldout_pair(name, m) for m in motions)]
