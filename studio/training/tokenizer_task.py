"""Training a tokenizer: reconstruct what you see, from any prefix where prefixes can be decoded."""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from studio.data.datasets import make_dataset
from studio.media.quality import psnr, ssim
from studio.registry import find_class
from studio.tokenizers.base import Tokenizer
from studio.training.ema import WeightAverage
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, step_generator, tile

HELDOUT = 64


class TokenizerTask:
    """Options in the recipe's `loss`:

    - `l1`, `l2`, `edges`: weights of the absolute error, the squared error, and the absolute error
      of differences between neighbouring pixels, at three scales;
    - `crop`, `crop_share`: side of random crops and the share of all steps that train on them
      (convolutional tokenizers only: a crop costs less, and the whole picture comes last);
    - `encoder_share`: share of the steps in which the encoder learns. After it the tokens are final
      (the averaged encoder is kept, and written to `tokens-final/`, so that generators can start)
      and the decoder goes on;
    - `fit`: pictures from which tokenizers with a `fit` start;
    - `whole`: share of steps that decode all tokens; the others decode a prefix of random length.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.options = {"l1": 1.0, "l2": 1.0, "edges": 0.0, "crop": 0, "crop_share": 0.8}
        self.options |= {"encoder_share": 1.0, "whole": 0.5, "fit": 4096, **recipe.loss}
        self.data = make_dataset(recipe.data, split="train", seed=recipe.seed)
        self.heldout = make_dataset(recipe.data, split="heldout", seed=recipe.seed)

    def build(self) -> Tokenizer:
        model = find_class(self.recipe.model["class"])(**self.recipe.model.get("config", {}))
        if hasattr(model, "fit"):
            count = min(self.options["fit"], len(self.data))
            model.fit(self.data.batch(0, count)[0])
        return model

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        size = self.recipe.batch_size
        images, _ = self.data.batch(step * size, size)
        crop = self.options["crop"]
        if crop and step < self.options["crop_share"] * self.recipe.steps:
            images = _random_crops(images, crop, step_generator(self.recipe.seed, step))
        return {"images": images.to(device)}

    def prepare(self, model: Tokenizer, average: WeightAverage, step: int) -> None:
        last = round(self.options["encoder_share"] * self.recipe.steps)
        if step < last:
            return
        encoder = model.encoder_parameters()
        if step == last:
            with torch.no_grad():
                for name, parameter in encoder:
                    parameter.copy_(average.shadow[name])
            with average.applied(model):
                export_model(model, self.folder / "tokens-final")
        for _, parameter in encoder:
            parameter.requires_grad_(False)

    def loss(self, model: Tokenizer, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        images, keep = batch["images"], self._prefix(model, step)
        decoded, encoded = model(images, keep) if keep else model(images)
        o = self.options
        total = o["l1"] * (decoded - images).abs().mean() + o["l2"] * F.mse_loss(decoded, images)
        if o["edges"]:
            total = total + o["edges"] * edge_error(decoded, images)
        if encoded.loss is not None:
            total = total + encoded.loss
        return total, {"psnr": psnr(decoded.detach(), images).mean().item()}

    def _prefix(self, model: Tokenizer, step: int) -> int | None:
        layout = getattr(model, "module", model).layout
        if not layout.prefix:
            return None
        draw = torch.rand(2, generator=step_generator(self.recipe.seed, step)).tolist()
        if draw[0] < self.options["whole"]:
            return layout.num_tokens
        return max(1, round(layout.num_tokens ** draw[1]))

    def evaluate(self, model: Tokenizer) -> tuple[dict[str, float], torch.Tensor]:
        device = next(model.parameters()).device
        images = self.heldout.batch(0, HELDOUT)[0].to(device)
        tokens = model.encode(images).tokens
        assert tokens is not None  # this task trains discrete tokenizers
        total = model.layout.num_tokens
        counts = [total]
        if model.layout.prefix:
            counts = [2**i for i in range(total.bit_length()) if 2**i <= total]
        metrics, rows = {}, [images[:16]]
        for count in counts:
            decoded = model.decode(tokens, num_tokens=count).clamp(-1, 1)
            name = "" if count == total else f"_{count}"
            metrics[f"psnr{name}"] = psnr(decoded, images).mean().item()
            rows.append(decoded[:16])
        metrics["ssim"] = ssim(decoded, images).mean().item()
        used = tokens.unique().numel()
        metrics["codes_used"] = used / model.layout.vocab_size
        return metrics, tile(torch.cat(rows).cpu(), 16)

    def export(self, model: Tokenizer, folder: Path) -> None:
        export_model(model, folder)


def edge_error(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of horizontal and vertical differences, over three scales: scalar."""
    difference, total = decoded - images, decoded.new_zeros(())
    for scale in range(3):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        total = total + (difference[..., 1:] - difference[..., :-1]).abs().mean()
        total = total + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return total


def _random_crops(images: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """One random square of every picture: (B, 3, H, W) to (B, 3, side, side)."""
    room = images.shape[-1] - side
    places = torch.randint(room + 1, (len(images), 2), generator=generator).tolist()
    crops = [x[:, t : t + side, l : l + side] for x, (t, l) in zip(images, places, strict=True)]
    return torch.stack(crops)  # (B, 3, side, side)
