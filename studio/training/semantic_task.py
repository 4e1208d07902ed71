"""Training a tokenizer of what is said: first its recogniser, then the flow back to sound."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from studio.data.spelling import ALPHABET
from studio.training.audio_losses import SpectralLoss
from studio.training.audio_tokenizer_task import SHOWN, cut_clip, sound_sheet
from studio.training.ema import WeightAverage
from studio.training.recipe import Recipe
from studio.training.recogniser_task import RecogniserTask
from studio.training.tasks import finish_tokens, step_generator


class SemanticTask(RecogniserTask):
    """Options in the recipe's `loss`, beside those of `RecogniserTask`:

    - `tokens_share`: share of the steps that learn to recognise. After it the tokens are final, and
      written to `tokens-final/`, so that generators can start;
    - `seconds`: length of a clip that flow and vocoder learn from;
    - `dropped`: share of clips for which the flow is told nothing, for guidance;
    - `prompted`, `prompt`: share of clips whose start is given, and how much of them at most;
    - `spectral`: weight of `SpectralLoss` of waves that the vocoder makes from true bands.
    """

    defaults: ClassVar[dict[str, Any]] = {
        **RecogniserTask.defaults,
        "tokens_share": 0.5,
        "seconds": 1.6,
        "dropped": 0.2,
        "prompted": 0.5,
        "prompt": 0.3,
        "spectral": 1.0,
    }

    def __init__(self, recipe: Recipe, folder: Path):
        super().__init__(recipe, folder)
        self.speakers = list(self.sets["train"].speakers())
        self.last = round(self.options["tokens_share"] * recipe.steps)

    def facts(self) -> dict[str, Any]:
        """What the data say of the network's arguments."""
        return {**super().facts(), "alphabet": ALPHABET, "speakers": self.speakers}

    def build(self) -> nn.Module:
        model: Any = super().build()
        self.spectral = SpectralLoss(model.sample_rate)
        clip = round(self.options["seconds"] * model.frame_rate)
        self.length, self.frames = clip * model.hop, clip * model.frames
        self.n_mels = model.n_mels
        return model

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        if step < self.last:
            return super().batch(step, device)
        generator = step_generator(self.recipe.seed, step)
        size = self.recipe.batch_size
        chosen = torch.randint(self.options["utterances"], (size,), generator=generator)
        draws = torch.rand(size, 5, generator=generator)
        train = self.sets["train"]
        clips, speakers = [], []
        for index, place in zip(chosen.tolist(), draws[:, 0].tolist(), strict=True):
            clips.append(cut_clip(train[index][0], self.length, place))
            speakers.append(self.speakers.index(train.utterance(index).voice))
        prompts = draws[:, 1] * self.options["prompt"] * self.frames
        prompts = prompts * (draws[:, 2] < self.options["prompted"])
        batch = {
            "audio": torch.stack(clips),  # (B, 1, L)
            "speakers": torch.tensor(speakers),
            "times": draws[:, 3],
            "noise": torch.randn(size, self.n_mels, self.frames, generator=generator),
            "prompts": prompts.long(),
            "dropped": draws[:, 4] < self.options["dropped"],
        }
        return {name: value.to(device) for name, value in batch.items()}

    def prepare(self, model: Any, average: WeightAverage, step: int) -> None:
        if step >= self.last:
            finish_tokens(model, average, self.folder, write=step == self.last)

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        if step < self.last:
            return super().loss(model, batch, step)
        from studio.tokenizers.semantic import FlowDraws

        names = ("speakers", "times", "noise", "prompts", "dropped")
        flow, fake = model(batch["audio"], FlowDraws(**{name: batch[name] for name in names}))
        spectral = self.spectral.to(fake.device)(fake, batch["audio"])
        total = flow + self.options["spectral"] * spectral
        return total, {"flow": flow.item(), "spectral": spectral.item()}

    @torch.no_grad()
    def evaluate(self, model: Any) -> tuple[dict[str, float], torch.Tensor]:
        """Errors of the letters read from the tokens; how far the flow's bands are from the true
        ones, in nepers; and spectrograms of sounds and of what their tokens give."""
        metrics, _ = super().evaluate(model)
        device, rows, distances = next(model.parameters()).device, [], []
        for index in range(min(SHOWN, self.options["checked"])):
            real = self.sets["heldout"][index][0][None].to(device)  # (1, 1, L)
            speaker = self.speakers.index(self.sets["heldout"].utterance(index).voice)
            tokens = model.encode(real).tokens
            fake = model.decode(tokens, length=real.shape[-1], condition=speaker).clamp(-1, 1)
            distances.append((model.bands(fake) - model.bands(real)).abs().mean() * 2)
            rows += [real, fake]
        metrics["bands"] = torch.stack(distances).mean().item()
        return metrics, sound_sheet(rows, model.sample_rate)
