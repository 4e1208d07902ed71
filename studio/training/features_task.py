"""Training the evaluation features: pictures of one emoji, and its name, become near each other.

Pictures are rendered in batches by warping the sprites, which is some thirty times faster than
drawing them one by one; what is measured, and the gallery, are pictures drawn as any user sees
them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from studio.data.colors import COLORS, TINTS, without_color
from studio.data.emoji import EmojiImages, Scene, draw, load_sprites
from studio.registry import find_class
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, step_generator, tile

LUMA = (0.299, 0.587, 0.114)
CHECKED = 400  # drawn pictures that `evaluate` looks names up for


class FeaturesTask:
    """Options in the recipe's `loss`:

    - `pairs`: weight of the agreement between two pictures of one emoji;
    - `colours`: weight of the head that reads the background's colour;
    - `tinted`, `wide`, `blurred`: shares of tinted pictures, of ones with a wide variation of scale
      and shift, and of blurred ones;
    - `gallery`: drawn pictures a name in the final gallery.

    `batch_size` counts emoji; each is rendered twice.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.options: dict[str, Any] = {
            "pairs": 0.5,
            "colours": 0.1,
            "tinted": 0.35,
            "wide": 0.2,
            "blurred": 0.5,
        }
        self.options |= {"gallery": 6} | recipe.loss
        self.font_path = recipe.data.get("font_path")
        self.names, sprites = load_sprites(self.font_path)
        self.sprites = _half_size(sprites)
        nouns = [without_color(name) for name in self.names]
        self.groups = torch.tensor([nouns.index(noun) for noun in nouns])

    def build(self) -> nn.Module:
        config = {"names": self.names, "backgrounds": list(COLORS)}
        config |= self.recipe.model.get("config", {})
        model = find_class(self.recipe.model["class"])(**config)
        self._imprint(model)
        return model

    @torch.no_grad()
    def _imprint(self, model: Any, pictures: int = 2) -> None:
        """Starts each name's vector as the mean of its pictures', as in "Low-Shot Learning with
        Imprinted Weights" (2017, 1712.07136), so that training need not learn an arbitrary map."""
        total = torch.zeros_like(model.captions.weight)
        for number in range(pictures):
            generator = step_generator(self.recipe.seed, 10**9 + number)
            for labels in torch.randperm(len(self.names), generator=generator).split(128):
                looks = self._looks(len(labels), generator)
                total[labels] += model(warp(self.sprites[labels], looks))[0]
        model.captions.weight.copy_(F.normalize(total, dim=-1))

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        generator = step_generator(self.recipe.seed, step)
        chosen = torch.randperm(len(self.names), generator=generator)[: self.recipe.batch_size]
        labels = chosen.repeat(2)  # (2B,)
        looks = self._looks(len(labels), generator)
        images = warp(self.sprites[labels], looks)
        images = _disturb(images, self.options["blurred"], generator)
        batch = {"images": images, "labels": labels, "groups": self.groups[labels], **looks}
        return {name: value.to(device) for name, value in batch.items()}

    def _looks(self, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """How each picture looks: `tint` (len(TINTS) = none), `background` (-100 = gradient),
        `stops` (B, 2) colour numbers, `scale` and `shift` as shares of the picture."""
        draws = torch.rand(count, 8, generator=generator)
        wide = draws[:, 0] < self.options["wide"]
        none = draws[:, 1] >= self.options["tinted"]
        stops = torch.randint(len(COLORS), (count, 2), generator=generator)
        stops[:, 0] = torch.where(draws[:, 2] < 0.2, list(COLORS).index("white"), stops[:, 0])
        stops[:, 1] = torch.where(draws[:, 3] < 0.85, stops[:, 0], stops[:, 1])
        reach = torch.where(wide, 0.10, 0.03)[:, None]  # (B, 1)
        same = stops[:, 0] == stops[:, 1]
        return {
            "tint": torch.where(none, len(TINTS), (draws[:, 4] * len(TINTS)).long()),
            "background": torch.where(same, stops[:, 0], -100),
            "stops": stops,
            "scale": torch.where(wide, 0.45 + 0.35 * draws[:, 5], 0.78 + 0.17 * draws[:, 5]),
            "shift": reach * (2 * draws[:, 6:8] - 1),  # (B, 2)
        }

    def prepare(self, model: nn.Module, average: Any, step: int) -> None:
        """Nothing changes in the course of training."""

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        features, scores, backgrounds = model(batch["images"])
        groups = self.groups.to(scores.device)
        tinted = (batch["tint"] < len(TINTS))[:, None]  # (2B, 1)
        every = torch.arange(len(groups), device=scores.device)
        # a tinted picture no longer tells "red apple" from "green apple": either name is right
        right = torch.where(
            tinted, batch["groups"][:, None] == groups, batch["labels"][:, None] == every
        )  # (2B, M)
        best = scores.masked_fill(~right, -torch.inf).logsumexp(-1)
        name_loss = (scores.logsumexp(-1) - best).mean()
        pair_loss = self._pair_loss(model, features, batch["groups"])
        colour_loss = F.cross_entropy(backgrounds, batch["background"])
        total = (
            name_loss + self.options["pairs"] * pair_loss + self.options["colours"] * colour_loss
        )
        found = right.gather(1, scores.argmax(-1, keepdim=True)).float().mean()
        parts = {"name_loss": name_loss, "pair_loss": pair_loss, "colour_loss": colour_loss}
        return total, {k: v.item() for k, v in {**parts, "top1": found}.items()}

    @staticmethod
    def _pair_loss(model: Any, features: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """InfoNCE between the two pictures of each emoji; kinds that stand twice in a batch don't
        repel."""
        scale = getattr(model, "module", model).scale()
        first, second = features.chunk(2)
        own = torch.arange(len(first), device=features.device)
        kinds = groups[: len(first)]
        twice = (kinds[:, None] == kinds) & (own[:, None] != own)
        scores = (scale * first @ second.T).masked_fill(twice, -torch.inf)  # (B, B)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    @torch.no_grad()
    def evaluate(self, model: Any) -> tuple[dict[str, float], torch.Tensor]:
        self._settle(model, 4)
        self._fill_gallery(model, 2)
        device = model.gallery.device
        data = EmojiImages(model.config.image_size, seed=12345, pairs=0, font_path=self.font_path)
        scenes = [replace(data.scene(i), tint=None) for i in range(CHECKED)]
        images = torch.stack([draw(s, data.size, font_path=self.font_path) for s in scenes])
        labels = torch.tensor([self.names.index(s.names[0]) for s in scenes], device=device)
        found = model.retrieve(model.encode_images(images.to(device))) == labels[:, None]
        by_name = model.encode_images(images.to(device)) @ model.encode_captions(self.names).T
        metrics = {
            "top1": found[:, 0].float().mean().item(),
            "top5": found.any(1).float().mean().item(),
            "top1_by_caption": (by_name.argmax(-1) == labels).float().mean().item(),
        }
        return metrics, tile(self.batch(0, torch.device("cpu"))["images"][:64], 8)

    def export(self, model: Any, folder: Path) -> None:
        self._settle(model, 16)
        self._fill_gallery(model, self.options["gallery"])
        model.eval()
        export_model(model, folder)

    @torch.no_grad()
    def _settle(self, model: Any, batches: int) -> None:
        """Measures the batch norms' means and variances anew, for the averaged weights."""
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        model.train()
        for number in range(batches):
            model(self.batch(10**9 + number, model.gallery.device)["images"])
        model.eval()
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum

    @torch.no_grad()
    def _fill_gallery(self, model: Any, pictures: int) -> None:
        """The mean vector of every name over untinted pictures on backgrounds of several
        colours."""
        words = list(COLORS)
        rng = np.random.default_rng([self.recipe.seed, 77])
        for number, name in enumerate(self.names):
            scenes = [_gallery_scene(name, words, rng) for _ in range(pictures)]
            size = model.config.image_size
            images = torch.stack([draw(s, size, font_path=self.font_path) for s in scenes])
            vectors = model.encode_images(images.to(model.gallery.device))  # (pictures, D)
            model.gallery[number] = F.normalize(vectors.mean(0), dim=0)


def _gallery_scene(name: str, words: list[str], rng: np.random.Generator) -> Scene:
    noise = rng.uniform(-1, 1, size=3)
    background = "white" if rng.random() < 0.25 else words[rng.integers(len(words))]
    return Scene(
        names=(name,),
        background=(background,),
        scale=float(0.86 + 0.04 * noise[0]),
        shift=(float(0.015 * noise[1]), float(0.015 * noise[2])),
    )


def _half_size(sprites: np.ndarray) -> torch.Tensor:
    """uint8 (n, S, S, 4), straight alpha, to uint8 (n, 4, S/2, S/2), colours times alpha."""
    parts = []
    for part in torch.from_numpy(sprites).split(64):
        rgba = part.permute(0, 3, 1, 2).float() / 255  # (n, 4, S, S)
        rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
        parts.append((F.avg_pool2d(rgba, 2) * 255).round().byte())  # (n, 4, S/2, S/2)
    return torch.cat(parts)


def warp(sprites: torch.Tensor, looks: dict[str, torch.Tensor]) -> torch.Tensor:
    """Pictures of sprites: uint8 (B, 4, S, S), colours times alpha, to float (B, 3, S, S) in [-1,
    1].

    `looks` is what `FeaturesTask._looks` gives.
    """
    size = sprites.shape[-1]
    rgba = _tinted(sprites.float() / 255, looks["tint"])
    small = looks["scale"] < 0.6
    rgba[small] = F.interpolate(F.avg_pool2d(rgba[small], 2), scale_factor=2, mode="bilinear")
    zoom, zero = 1 / looks["scale"], torch.zeros_like(looks["scale"])
    right, down = (-2 * looks["shift"] * zoom[:, None]).unbind(1)
    rows = [torch.stack([zoom, zero, right], 1), torch.stack([zero, zoom, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(rgba.shape), align_corners=False)
    rgba = F.grid_sample(rgba, grid, align_corners=False)  # (B, 4, S, S)
    palette = torch.tensor(list(COLORS.values())) / 255  # (12, 3)
    top, bottom = palette[looks["stops"]].unbind(1)
    mix = torch.linspace(0, 1, size)[:, None]  # (S, 1)
    background = top[..., None, None] * (1 - mix) + bottom[..., None, None] * mix  # (B, 3, S, 1)
    return (rgba[:, :3] + background * (1 - rgba[:, 3:])) * 2 - 1


def _tinted(rgba: torch.Tensor, tints: torch.Tensor) -> torch.Tensor:
    """`studio.data.colors.tint` for a batch (B, 4, S, S) whose colours are times alpha."""
    alpha = rgba[:, 3:]
    luma = (rgba[:, :3] * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    luma = luma / alpha.clamp(min=1e-3)  # (B, 1, S, S)
    palette = torch.tensor([COLORS[t] for t in TINTS] + [(0, 0, 0)]) / 255
    target = palette[tints][..., None, None]  # (B, 3, 1, 1)
    shaded = target * (luma * 1.8).clamp(max=1) + (1 - target) * (luma * 2.2 - 1.2).clamp(0, 1)
    plain = (tints == len(TINTS))[:, None, None, None]
    return torch.cat([torch.where(plain, rgba[:, :3], shaded * alpha), alpha], 1)


def _disturb(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Some blur, noise and change of contrast, so that features look past what a tokenizer
    loses."""
    draws = torch.rand(len(images), 4, 1, 1, 1, generator=generator)  # (B, 4, 1, 1, 1)
    blurred = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    strength = torch.where(draws[:, 0] < share, draws[:, 1], 0.0)
    images = torch.lerp(images, blurred, strength)
    noise = torch.randn(images.shape, generator=generator)
    images = images * (0.9 + 0.2 * draws[:, 2]) + noise * (0.1 * draws[:, 3] ** 2)
    return images.clamp(-1, 1)
