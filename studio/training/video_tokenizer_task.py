"""Training a video tokenizer over an image tokenizer's trunk: fitted, then decoding learns.

The codes of `HiTVideoTokenizer(linear=True)` are principal components of the trunk's features, so
they are final after one fit, and generators can train beside the decoder. A clip is encoded once
and kept as tokens; a step decodes a few of its frames, from any number of layers. Leaves out on
purpose: an adversarial loss, and training the 3D trunk.
"""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from studio.data.datasets import make_dataset
from studio.data.token_cache import TokenCache
from studio.media.quality import psnr, ssim
from studio.registry import find_class
from studio.tokenizers.base import Tokenizer
from studio.tokenizers.hitvideo import HiTVideoTokenizer
from studio.training.ema import WeightAverage
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, load_part, step_generator, tile
from studio.training.tokenizer_task import edge_error

SHOWN = 4  # clips on a sheet, and frames of each
OPTIONS: dict[str, Any] = {
    "l1": 0.5,
    "l2": 4.0,
    "edges": 0.0,
    "fit": 640,
    "clips": 4096,
    "frames": 4,
    "whole": 0.6,
    "decoder": True,
    "checked": 24,
}


class VideoTokenizerTask:
    """Options in the recipe's `loss`:

    - `l1`, `l2`, `edges`: weights, as in `TokenizerTask`;
    - `fit`: clips that the layers of codes are fitted to;
    - `clips`: how many are trained on; their tokens are kept on disk;
    - `frames`: of a clip that a step decodes, drawn at random;
    - `whole`: share of steps that decode all layers; the others decode the first ones;
    - `decoder`: whether the trunk's decoder learns as well;
    - `checked`: held-out clips that are measured.

    `requires.trunk` is the folder of the image tokenizer. The fitted tokenizer is written to
    `tokens-final/` before the first step.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        unknown = sorted(set(recipe.loss) - set(OPTIONS))
        if unknown:
            known = ", ".join(OPTIONS)
            raise ValueError(f"loss option {unknown[0]!r} is unknown; known: {known}")
        self.options = {**OPTIONS, **recipe.loss}
        if "trunk" not in recipe.requires:
            raise ValueError("requires.trunk must name the folder of a trained image tokenizer")
        self.data = make_dataset(recipe.data, split="train", seed=recipe.seed)
        self.heldout = make_dataset(recipe.data, split="heldout", seed=recipe.seed)

    def build(self) -> HiTVideoTokenizer:
        """The fitted tokenizer: the one of `tokens-final/` where an earlier run left it."""
        fitted = self.folder / "tokens-final"
        if not (fitted / "config.json").exists():
            export_model(self._fitted(), fitted)
        # from the file in any case: in half precision a few codes are others
        model: Any = load_part(fitted)
        model.codes.requires_grad_(False)
        self.encoder = load_part(fitted)
        self.cache = TokenCache(
            self.folder.parent / "tokens", self.encoder, self.data, self.options["clips"]
        )
        if self.options["decoder"]:
            model.train_decoder()
        return model.train()

    def _fitted(self) -> HiTVideoTokenizer:
        cls = find_class(self.recipe.model["class"])
        if not issubclass(cls, HiTVideoTokenizer):
            raise ValueError(f"model.class {cls.__name__} must be a HiTVideoTokenizer")
        trunk = load_part(self.recipe.requires["trunk"])
        config = {"linear": True, **self.recipe.model.get("config", {})}
        model = cls.from_image_tokenizer(trunk, **config)
        if not model.config.linear:
            raise ValueError("model.config.linear False: this task trains decoding of linear codes")
        model.fit(self.data.batch(0, self.options["fit"])[0])
        return model

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        size, clips = self.recipe.batch_size, self.options["clips"]
        places = [i % clips for i in range(step * size, (step + 1) * size)]
        tokens = torch.cat([self.cache.batch(i, 1)[0] for i in places])  # (B, N)
        video = torch.stack([self.data[i][0] for i in places])  # (B, 3, T, H, W)
        generator = step_generator(self.recipe.seed, step)
        draws = torch.rand(size, video.shape[2], generator=generator)
        chosen = draws.argsort(1)[:, : self.options["frames"]].sort(1).values  # (B, F)
        kept = torch.rand(2, generator=generator).tolist()
        return {
            "tokens": tokens.to(device),
            "frames": pick_frames(video, chosen).to(device),
            "chosen": chosen.to(device),
            "kept": kept,
        }

    def prepare(self, model: Tokenizer, average: WeightAverage, step: int) -> None:
        """Nothing changes in the course of training."""

    def loss(self, model: Any, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        network, frames, o = getattr(model, "module", model), batch["frames"], self.options
        count = None
        if batch["kept"][0] >= o["whole"]:
            count = network.num_tokens_of(1 + int(batch["kept"][1] * (len(network.codes) - 1)))
        features, layers = network.estimate(batch["tokens"], num_tokens=count)
        decoded = network.pixels(pick_frames(features, batch["chosen"]), num_layers=layers)
        total = o["l1"] * (decoded - frames).abs().mean() + o["l2"] * F.mse_loss(decoded, frames)
        if o["edges"]:
            flat = (t.transpose(1, 2).flatten(0, 1) for t in (decoded, frames))
            total = total + o["edges"] * edge_error(*flat)
        return total, {"psnr": clip_psnr(decoded.detach(), frames), "layers": float(layers)}

    def evaluate(self, model: Any) -> tuple[dict[str, float], torch.Tensor]:
        device, count = next(model.parameters()).device, self.options["checked"]
        video = self.heldout.batch(0, count)[0].to(device)
        tokens = torch.cat([model.encode(part).tokens for part in video.split(8)])
        metrics, rows = {}, [_shown(video)]
        for layers in range(1, len(model.codes) + 1):
            kept = model.num_tokens_of(layers)
            parts = [model.decode(part, num_tokens=kept) for part in tokens.split(8)]
            decoded = torch.cat(parts).clamp(-1, 1)
            ending = "" if layers == len(model.codes) else f"_{layers}"
            metrics[f"psnr{ending}"] = clip_psnr(decoded, video)
            rows.append(_shown(decoded))
            flat = (t.transpose(1, 2).flatten(0, 1) for t in (decoded, video))
            metrics[f"ssim{ending}"] = ssim(*flat).mean().item()
        metrics["codes_used"] = tokens.unique().numel() / model.layout.vocab_size
        return metrics, tile(torch.cat(rows).cpu(), SHOWN * SHOWN)

    def export(self, model: Tokenizer, folder: Path) -> None:
        model.eval()
        export_model(model, folder)


def pick_frames(video: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Frames `chosen` (B, F) of clips or features (B, C, T, H, W): (B, C, F, H, W)."""
    rows = torch.arange(len(video), device=video.device)[:, None]
    return video.transpose(1, 2)[rows, chosen].transpose(1, 2)


def clip_psnr(decoded: torch.Tensor, video: torch.Tensor) -> float:
    """Mean PSNR in dB of all frames of clips (B, 3, T, H, W), each frame measured alone."""
    return psnr(*(t.transpose(1, 2).flatten(0, 1) for t in (decoded, video))).mean().item()


def _shown(video: torch.Tensor) -> torch.Tensor:
    """A few frames of the first clips, (SHOWN * SHOWN, 3, H, W)."""
    video = video[[i % len(video) for i in range(SHOWN)]]
    frames = torch.linspace(0, video.shape[2] - 1, SHOWN).round().long()
    return video[:, :, frames].transpose(1, 2).flatten(0, 1)
