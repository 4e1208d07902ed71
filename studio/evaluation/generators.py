"""Whether generated pictures show what the words say: retrieval, distance, diversity, colours.

Every figure stands beside the same figure of real renders under the same augmentation, which is the
ceiling. Features are our own (features.py), not Inception's. `sweep` picks sampling defaults on
prompts of its own.
Leaves out on purpose: human judgement; look at the contact sheets.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from studio.data.colors import COLORS, TINTS, without_color
from studio.data.emoji import EmojiImages, Scene, draw, heldout, load_sprites
from studio.evaluation.colours import background_word, tint_word
from studio.evaluation.features import NOTE, ImageTextFeatures
from studio.evaluation.metrics import diversity, frechet_distance, precision_recall, retrieval

NAMES_SEED = 300  # which names are drawn for `evaluate_names`
SHEET_SEED = 64  # which captions the contact sheet shows
SWEEP_SEED = 7  # which prompts choose the sampling defaults
Progress = Callable[[int, int], None]


# --- prompts -------------------------------------------------------------------------------------


def name_scenes(count: int, *, seed: int = NAMES_SEED, names: list[str] | None = None):
    """Plain scenes, white background, of `count` names drawn without repetition from all of
    them."""
    names = names or load_sprites()[0]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(names))[:count]
    return [Scene((names[int(i)],), **_jitter(rng)) for i in chosen]


def combination_scenes(combinations: Iterable[Any] | None = None, *, seed: int = 0):
    """A scene for each (tint, object, background); those of `heldout()` when None."""
    rng = np.random.default_rng(seed)
    sprites: dict[str, str] = {}
    for name in load_sprites()[0]:
        sprites.setdefault(without_color(name), name)
    if combinations is None:
        combinations = heldout()["combinations"]
    return [Scene((sprites[o],), t, (b,), **_jitter(rng)) for t, o, b in combinations]


def _jitter(rng: np.random.Generator) -> dict[str, Any]:
    """The usual variation of scale and shift in captions' pictures."""
    noise = rng.uniform(-1, 1, size=3)
    shift = (float(0.015 * noise[1]), float(0.015 * noise[2]))
    return {"scale": float(0.86 + 0.04 * noise[0]), "shift": shift}


def sheet_prompts(count: int = 64) -> list[str]:
    """The fixed random captions of the contact sheet; sample i has seed i."""
    data = EmojiImages(seed=SHEET_SEED)
    return [data.scene(i).caption for i in range(count)]


def sweep_scenes(count: int) -> tuple[list[Scene], list[Scene]]:
    """Names and combinations for choosing options: none of the names of `name_scenes(300)`, none of
    the held-out pairs."""
    tested = {scene.names[0] for scene in name_scenes(300)}
    kept = {(t, o) for t, o, _ in heldout()["combinations"]}
    names = [name for name in load_sprites()[0] if name not in tested]
    rng = np.random.default_rng(SWEEP_SEED)
    combinations: list[tuple[str, str, str]] = []
    while len(combinations) < count:
        color = TINTS[int(rng.integers(len(TINTS)))]
        noun = without_color(names[int(rng.integers(len(names)))])
        ground = list(COLORS)[int(rng.integers(len(COLORS)))]
        if ground != color and (color, noun) not in kept:
            combinations.append((color, noun, ground))
    plain = name_scenes(count, seed=SWEEP_SEED, names=names)
    return plain, combination_scenes(combinations, seed=SWEEP_SEED)


# --- pictures ------------------------------------------------------------------------------------


@torch.no_grad()
def generate(
    pipeline,
    prompts: list[str],
    *,
    seeds: list[int] | None = None,
    batch_size: int = 25,
    progress: Progress | None = None,
    **options,
) -> torch.Tensor:
    """Pictures float32 (n, 3, H, W) in [-1, 1], on the CPU, made in batches.

    Args:
        pipeline: a text-to-image pipeline.
        prompts: one a picture. seeds: one a picture; 0, 1, ... when None.
        batch_size: pictures at a time; it changes no picture.
        progress: called as progress(done, total).
        options: of the decoding strategy, for example `guidance_scale=2.0`.
    """
    seeds = list(range(len(prompts))) if seeds is None else seeds
    strategy = pipeline.sped_up(pipeline.decoding.with_options(**options))
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        output = pipeline(
            prompts[part],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            decoding=strategy,
            output_type="pt",
        )
        parts.append(output.images.float().cpu() * 2 - 1)  # (b, 3, H, W)
        if progress:
            progress(min(start + batch_size, len(prompts)), len(prompts))
    return torch.cat(parts)


def render(scenes: list[Scene], size: int) -> torch.Tensor:
    """Real pictures of scenes, (n, 3, size, size)."""
    return torch.stack([draw(scene, size) for scene in scenes])  # (n, 3, H, W)


# --- figures -------------------------------------------------------------------------------------


@torch.no_grad()
def score_names(
    images: torch.Tensor,
    scenes: list[Scene],
    *,
    features: ImageTextFeatures,
    reference: torch.Tensor | None = None,
) -> dict[str, float]:
    """How well pictures (n, 3, H, W) of plain names show them.

    Returns:
        `top1`, `top5` against the gallery of all names; `diversity`; and with `reference`, real
        pictures: `fd`, `precision`, `recall`.
    """
    found = features.encode_images(images.to(features.device))
    labels = torch.tensor([features.names.index(scene.names[0]) for scene in scenes])
    figures = retrieval(found, labels, features.gallery)
    figures["diversity"] = diversity(found)
    if reference is not None:
        real = features.encode_images(reference.to(features.device))
        figures["fd"] = frechet_distance(found, real)
        if min(len(found), len(real)) > 3:
            figures |= precision_recall(found, real)
    return figures


@torch.no_grad()
def score_combinations(
    images: torch.Tensor, scenes: list[Scene], *, features: ImageTextFeatures
) -> dict[str, float]:
    """Shares of pictures (n, 3, H, W) with the right object, colours, and all of it.

    The object is that of the nearest name, without its colour word (`object_top5`: of the five
    nearest names); the colours are those of `colours.py`. `right` = object and its colour;
    `all_right` = the background too.
    """
    near = features.retrieve(features.encode_images(images.to(features.device)))  # (n, 5)
    rows = []
    for image, scene, indices in zip(images, scenes, near.tolist(), strict=True):
        nouns = [without_color(features.names[i]) for i in indices]
        noun = without_color(scene.names[0])
        thing, color = nouns[0] == noun, tint_word(image) == scene.tint
        ground = background_word(image) == scene.background[0]
        both = thing and color
        rows.append([thing, noun in nouns, color, ground, both, both and ground])
    names = ("object", "object_top5", "colour", "background", "right", "all_right")
    shares = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return dict(zip(names, shares, strict=True))


@torch.no_grad()
def evaluate_generator(
    pipeline,
    *,
    features: ImageTextFeatures,
    names: int = 300,
    combinations: int | None = None,
    batch_size: int = 25,
    progress: Progress | None = None,
    **options,
) -> dict[str, Any]:
    """Generated pictures of names drawn at random and of the held-out combinations, beside real
    ones.

    Args:
        pipeline: a text-to-image pipeline.
        features: the bundled ones, or others with a filled gallery.
        names: how many. combinations: how many; all of them when None.
        batch_size, progress, options: as in `generate`.

    Returns:
        Plain JSON values: `names` and `combinations`, each with `generated` and `real` figures
        (see `score_names`, `score_combinations`), and the `decoding` options in use.
    """
    size = pipeline.tokenizer.config.image_size
    plain = name_scenes(names)
    paired = combination_scenes()[:combinations]
    made = generate(
        pipeline,
        [scene.caption for scene in [*plain, *paired]],
        batch_size=batch_size,
        progress=progress,
        **options,
    )
    real, other = render(plain, size), [replace(s, **_jitter(_rng(i))) for i, s in enumerate(plain)]
    return {
        "note": NOTE,
        "decoding": strategy_options(pipeline, **options),
        "names": {
            "count": len(plain),
            "generated": score_names(made[: len(plain)], plain, features=features, reference=real),
            "real": score_names(render(other, size), plain, features=features, reference=real),
        },
        "combinations": {
            "count": len(paired),
            "generated": score_combinations(made[len(plain) :], paired, features=features),
            "real": score_combinations(render(paired, size), paired, features=features),
        },
    }


def _rng(number: int) -> np.random.Generator:
    return np.random.default_rng([NAMES_SEED, number])


def strategy_options(pipeline, **options) -> dict[str, Any]:
    """The class and the options of the strategy in use, as plain JSON values."""
    strategy = pipeline.decoding.with_options(**options)
    config = {k: v for k, v in strategy.config.items() if not k.startswith("_")}
    return {"class": type(strategy).__name__, **config}


@torch.no_grad()
def contact_images(pipeline, *, batch_size: int = 16, **options) -> tuple[torch.Tensor, list[str]]:
    """The 64 unselected pictures (64, 3, H, W) of the contact sheet, seeds 0 to 63, and their
    prompts."""
    prompts = sheet_prompts()
    return generate(pipeline, prompts, batch_size=batch_size, **options), prompts


# --- choosing options ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One setting of a sweep: its options, `score_names` and `score_combinations` figures, and the
    mean of the names' top-1 and the combinations' `right`."""

    options: dict[str, Any]
    names: dict[str, float]
    combinations: dict[str, float]
    score: float


def grid(**choices: list[Any]) -> list[dict[str, Any]]:
    """Every combination of options: grid(temperature=[0.8, 1.0], top_k=[0, 64])."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


@torch.no_grad()
def sweep(
    pipeline,
    settings: list[dict[str, Any]],
    *,
    features: ImageTextFeatures,
    count: int = 50,
    batch_size: int = 25,
    progress: Progress | None = None,
) -> list[Trial]:
    """Tries options of the decoding strategy, best first.

    The prompts are `count` names and `count` combinations that no evaluation uses; every setting
    gets the same seeds. Equal scores are ordered by feature distance.

    Args:
        pipeline: a text-to-image pipeline. settings: options to try, see `grid`.
        progress: called as progress(settings done, settings).
    """
    size = pipeline.tokenizer.config.image_size
    plain, paired = sweep_scenes(count)
    real = render(plain, size)
    prompts = [scene.caption for scene in [*plain, *paired]]
    trials = []
    for number, options in enumerate(settings):
        made = generate(pipeline, prompts, batch_size=batch_size, **options)
        names = score_names(made[:count], plain, features=features, reference=real)
        pairs = score_combinations(made[count:], paired, features=features)
        trials.append(Trial(options, names, pairs, (names["top1"] + pairs["right"]) / 2))
        if progress:
            progress(number + 1, len(settings))
    return sorted(trials, key=lambda trial: (-trial.score, trial.names["fd"]))
