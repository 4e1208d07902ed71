"""Whether clips show what their captions say: which way the object moves, which object it is.

No network is needed for the first: what differs from the background is the object, its centroid is
followed through the frames, and a line is laid through its path. For the second the object is cut
out of a few frames, brought to the size that pictures of emoji have, and looked up with the same
features as pictures (features.py). Real clips, and real ones through the tokenizer, are the
ceiling. Leaves out on purpose: several objects, textured backgrounds, turning and growing.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from studio.data.motion import DIRECTIONS, MotionClips
from studio.evaluation.colours import DIFFERENT, background_word, oklab
from studio.evaluation.features import NOTE, ImageTextFeatures
from studio.media.quality import psnr, ssim

LEAST = 0.1  # share of the picture that counts as a movement
STRAIGHT = 0.75  # share of the variance of its places that a steady movement explains
CROPS = 4  # frames that an object is cut out of
USUAL = 0.86  # share of a picture that its object fills, in renders of emoji
SIZE = 64  # of the crops
Progress = Callable[[int, int], None]


def direction_clips(*, seed: int = 64, size: int = 64, num_frames: int = 16) -> MotionClips:
    """Captions that no generator was trained on, of one object that moves in one direction: half on
    white, half on a colour."""
    return MotionClips(
        size=size,
        num_frames=num_frames,
        split="pairs",
        seed=seed,
        plain=0.5,
        gradients=0.0,
        textures=0.0,
        tints=0.0,
        pairs=0.0,
        motions=tuple(f"moving {word}" for word in DIRECTIONS),
        jitter=0.0,
    )


# --- the object ----------------------------------------------------------------------------------


def object_masks(clip: torch.Tensor) -> torch.Tensor:
    """Where the object is: a clip (3, T, H, W) in [-1, 1] to bool (T, H, W).

    The background of a row is what its ends show most of the time, so gradients from top to bottom
    are no object.
    """
    ends = torch.cat((clip[..., :2], clip[..., -2:]), -1).float()  # (3, T, H, 4)
    ground = ends.permute(0, 2, 1, 3).flatten(2).median(-1).values  # (3, H)
    pixels = oklab((clip.float().permute(1, 2, 3, 0) + 1) / 2)  # (T, H, W, 3)
    row = oklab((ground.T + 1) / 2)[:, None]  # (H, 1, 3)
    return (pixels - row).norm(dim=-1) > DIFFERENT


def track(clip: torch.Tensor) -> torch.Tensor:
    """Centroid of the object in every frame, (T, 2) of right and down as shares of the picture; NaN
    where there is none."""
    masks = object_masks(clip).float()
    height, width = masks.shape[1:]
    weight = masks.sum((1, 2))  # (T,)
    right = (masks.sum(1) * (torch.arange(width) + 0.5)).sum(1) / (weight * width)
    down = (masks.sum(2) * (torch.arange(height) + 0.5)).sum(1) / (weight * height)
    return torch.stack((right, down), 1)  # (T, 2)


def direction(clip: torch.Tensor) -> str:
    """The word of `DIRECTIONS` for the way that the object goes; "" when it stays or is not
    there."""
    path = track(clip)
    seen = ~path.isnan().any(1)
    if int(seen.sum()) < 3:
        return ""
    times = torch.linspace(-0.5, 0.5, len(path))[seen]
    times = times - times.mean()
    moved = (times[:, None] * path[seen]).sum(0) / times.square().sum()  # (2,) over the whole clip
    axis = int(moved.abs().argmax())
    places = path[seen][:, axis] - path[seen][:, axis].mean()
    explained = (times * moved[axis]).square().sum() / places.square().sum()
    if float(moved.abs()[axis]) < LEAST or float(explained) < STRAIGHT:
        return ""
    way = (float(moved[0].sign()), 0.0) if axis == 0 else (0.0, float(moved[1].sign()))
    return next(word for word, vector in DIRECTIONS.items() if vector == way)


def crop_object(clip: torch.Tensor, *, count: int = CROPS) -> torch.Tensor:
    """The object as pictures (count, 3, SIZE, SIZE): cut out of frames of the clip's middle, at
    the size it has in renders. A frame without an object is given whole."""
    masks, frames = object_masks(clip), clip.shape[1]
    middle = torch.linspace(0.25, 0.7, count) * frames
    crops = []
    for index in middle.long().tolist():
        frame, mask = clip[:, index].float(), masks[index]
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if not len(rows):
            crops.append(F.interpolate(frame[None], (SIZE, SIZE), mode="bilinear"))
            continue
        crops.append(_cut(frame, rows, columns))
    return torch.cat(crops).clamp(-1, 1)


def _cut(frame: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The square around rows and columns of a frame (3, H, W), (1, 3, SIZE, SIZE); what lies beyond
    the frame has the colour of its corners."""
    height, width = frame.shape[1:]
    spans = [(float(x[0]), float(x[-1]) + 1) for x in (columns, rows)]
    side = max(b - a for a, b in spans) / USUAL
    (left, right), (top, bottom) = spans
    theta = torch.tensor(
        [
            [side / width, 0, (left + right) / width - 1],
            [0, side / height, (top + bottom) / height - 1],
        ]
    )
    corners = frame[:, [0, 0, -1, -1], [0, -1, 0, -1]].median(1).values[:, None, None]
    grid = F.affine_grid(theta[None], [1, 3, SIZE, SIZE], align_corners=False)
    inside = F.grid_sample((frame - corners)[None], grid, mode="bilinear", align_corners=False)
    return inside + corners


@torch.no_grad()
def find_objects(clips: list[torch.Tensor], features: ImageTextFeatures, k: int = 5):
    """The k names that come nearest to the object of each clip (3, T, H, W), best first: int64 (n,
    k) of places in `features.names`."""
    vectors = []
    for clip in clips:
        found = features.encode_images(crop_object(clip).to(features.device)).mean(0)
        vectors.append(F.normalize(found, dim=0))
    return features.retrieve(torch.stack(vectors), k)


# --- figures -------------------------------------------------------------------------------------


def score_clips(
    clips: list[torch.Tensor], data: MotionClips, features: ImageTextFeatures
) -> dict[str, float]:
    """How well clips (3, T, H, W) show what items 0, 1, ... of `data` are captioned with.

    Returns:
        shares: `direction`, `top1` and `top5` (the object among all names), `background`.
    """
    shown = [data.clip(i) for i in range(len(clips))]
    near = find_objects(clips, features)
    names = [[features.names[i] for i in row] for row in near.tolist()]
    rows = [
        [
            direction(clip) == truth.motion.split()[-1],
            found[0] == truth.names[0],
            truth.names[0] in found,
            background_word(clip[:, clip.shape[1] // 2]) == truth.background[0],
        ]
        for clip, truth, found in zip(clips, shown, names, strict=True)
    ]
    shares = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return dict(zip(("direction", "top1", "top5", "background"), shares, strict=True))


@torch.no_grad()
def evaluate_motion(
    pipeline: Any,
    *,
    features: ImageTextFeatures,
    count: int = 64,
    batch_size: int = 8,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Generated clips of held-out captions, beside real ones and real ones through the tokenizer.

    Args:
        pipeline: a text-to-video pipeline. features: the bundled ones, or others with a gallery.
        count: captions; clip i has seed i.
        options: of the call, for example `temperature=0.5`.

    Returns:
        Plain JSON values: `generated`, `coded` and `real` figures of `score_clips`, and `note`.
    """
    config = pipeline.tokenizer.config
    data = direction_clips(size=config.image_size, num_frames=config.num_frames)
    pipeline.set_progress_bar_config(disable=True)
    made: list[torch.Tensor] = []
    for start in range(0, count, batch_size):
        places = range(start, min(count, start + batch_size))
        output = pipeline(
            [data.caption(i) for i in places],
            generator=[torch.Generator().manual_seed(i) for i in places],
            output_type="pt",
            **options,
        )
        made += list(output.frames.float().cpu().transpose(1, 2) * 2 - 1)  # (3, T, H, W) each
        if progress:
            progress(len(made), count)
    real = list(data.batch(0, count)[0])
    coded = [c[0] for part in real for c in [through(pipeline.tokenizer, part[None])]]
    return {
        "note": NOTE,
        "count": count,
        "generated": score_clips(made, data, features),
        "coded": score_clips(coded, data, features),
        "real": score_clips(real, data, features),
    }


def through(tokenizer: Any, clips: torch.Tensor, layers: int | None = None) -> torch.Tensor:
    """Clips (B, 3, T, H, W) through tokens and back, from the first layers alone if asked."""
    count = None if layers is None else tokenizer.num_tokens_of(layers)
    made = tokenizer.reconstruct(clips.to(tokenizer.device), num_tokens=count)
    return made.float().cpu().clamp(-1, 1)


@torch.no_grad()
def layer_quality(
    tokenizer: Any,
    *,
    count: int = 100,
    batch_size: int = 4,
    features: ImageTextFeatures | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """What each number of layers keeps of held-out clips on plain and gradient backgrounds.

    Returns:
        a line a number of layers: `tokens`, `bits_per_pixel`, `psnr` and `ssim` (means over frames,
        then clips) and, with `features`, `direction` and `top5` of clips of `direction_clips`.
    """
    config = tokenizer.config
    sizes = {"size": config.image_size, "num_frames": config.num_frames}
    data = MotionClips(split="heldout", textures=0.0, **sizes)
    moving = direction_clips(**sizes)
    lines = []
    for layers in range(1, len(tokenizer.codes) + 1):
        rate = tokenizer.rate(tokenizer.num_tokens_of(layers))
        scores, shown = [], []
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            clips = data.batch(start, size)[0]
            pair = (through(tokenizer, clips, layers), clips)
            flat = [t.transpose(1, 2).flatten(0, 1) for t in pair]  # (B * T, 3, H, W)
            scores.append((psnr(*flat).mean() * size, ssim(*flat).mean() * size))
            if features is not None:
                shown += list(through(tokenizer, moving.batch(start, size)[0], layers))
            if progress:
                progress((layers - 1) * count + start + size, len(tokenizer.codes) * count)
        totals = torch.tensor(scores).sum(0) / count
        line = {"tokens": rate.tokens, "bits_per_pixel": rate.bits_per_unit}
        line |= {"psnr": float(totals[0]), "ssim": float(totals[1])}
        if features is not None:
            found = score_clips(shown, moving, features)
            line |= {"direction": found["direction"], "top5": found["top5"]}
        lines.append(line)
    return lines
