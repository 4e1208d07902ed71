"""Training the recogniser of the synthetic voices."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from studio.data.datasets import make_dataset
from studio.data.word_errors import character_error_rate, word_error_rate
from studio.registry import find_class
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, step_generator


class RecogniserTask:
    """Options in the recipe's `loss`:

    - `utterances`: how many items of the data set are heard (all epochs the same ones);
    - `gain`: made softer or louder by up to so many dB;
    - `noise`: the strongest white noise, as an amplitude; log-uniform down to a hundredth of it;
    - `masked`: up to so many seconds of every utterance are silenced;
    - `checked`: held-out sentences that are measured.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "utterances": 4096,
        "gain": 8.0,
        "noise": 0.02,
        "masked": 0.1,
        "checked": 50,
    }

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.options = dict(self.defaults)
        unknown = sorted(set(recipe.loss) - set(self.options))
        if unknown:
            known = ", ".join(self.options)
            raise ValueError(f"loss option {unknown[0]!r} is unknown; known: {known}")
        self.options |= recipe.loss
        self.sets: dict[str, Any] = {
            split: make_dataset(recipe.data, split=split, seed=recipe.seed)
            for split in ("train", "heldout", "voice")
        }

    def facts(self) -> dict[str, Any]:
        """What the data say of the network's arguments."""
        return {"sample_rate": self.sets["train"].sample_rate}

    def build(self) -> nn.Module:
        config = {**self.facts(), **self.recipe.model.get("config", {})}
        model: Any = find_class(self.recipe.model["class"])(**config)
        self.numbers = {letter: i for i, letter in enumerate(model.config.alphabet, 1)}
        self.sets["train"].render(self.options["utterances"])
        return model

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        generator = step_generator(self.recipe.seed, step)
        size = self.recipe.batch_size
        chosen = torch.randint(self.options["utterances"], (size,), generator=generator)
        items = [self.sets["train"][i] for i in chosen.tolist()]
        lengths = torch.tensor([wave.shape[-1] for wave, _ in items])
        longest = int(lengths.max())
        waves = torch.stack([F.pad(w, (0, longest - w.shape[-1])) for w, _ in items])  # (B, 1, L)
        waves = self._disturbed(waves, lengths, generator)
        texts = [torch.tensor([self.numbers[c] for c in text]) for _, text in items]
        batch = {"waves": waves, "lengths": lengths, "letters": torch.cat(texts)}
        batch["counts"] = torch.tensor([len(text) for text in texts])
        return {name: value.to(device) for name, value in batch.items()}

    def _disturbed(self, waves, lengths, generator) -> torch.Tensor:
        draws = torch.rand(len(waves), 4, 1, 1, generator=generator)  # (B, 4, 1, 1)
        start = draws[:, 0] * lengths[:, None, None]
        rate = self.sets["train"].sample_rate
        end = start + draws[:, 1] * self.options["masked"] * rate
        place = torch.arange(waves.shape[-1])
        waves = waves.masked_fill((place >= start) & (place < end), 0.0)
        gain = 10 ** (self.options["gain"] * (2 * draws[:, 2] - 1) / 20)
        noise = torch.randn(waves.shape, generator=generator)
        return (waves * gain + noise * self.options["noise"] * 100 ** -draws[:, 3]).clamp(-1, 1)

    def prepare(self, model: nn.Module, average: Any, step: int) -> None:
        """Nothing changes in the course of training."""

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        scores = model(batch["waves"]).transpose(0, 1)  # (T, B, V)
        steps: Any = getattr(model, "module", model).steps
        total = F.ctc_loss(
            scores,
            batch["letters"],
            steps(batch["lengths"]).clamp(max=len(scores)),
            batch["counts"],
            zero_infinity=True,
        )
        return total, {}

    @torch.no_grad()
    def evaluate(self, model: Any) -> tuple[dict[str, float], None]:
        metrics = {}
        for split, ending in (("heldout", ""), ("voice", "_voice")):
            items = [self.sets[split][i] for i in range(self.options["checked"])]
            heard = model.transcribe([wave for wave, _ in items])
            pairs = list(zip([text for _, text in items], heard, strict=True))
            metrics["wer" + ending] = word_error_rate(pairs)
            metrics["cer" + ending] = character_error_rate(pairs)
        return metrics, None

    def export(self, model: Any, folder: Path) -> None:
        model.eval()
        export_model(model, folder)
