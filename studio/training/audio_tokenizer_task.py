"""Training a sound tokenizer: first its tokens, then the wave, then against discriminators."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from studio.data.datasets import make_dataset
from studio.layers.spectrogram import LogMel
from studio.media.sound_quality import WIDE_BAND, pesq, quality_packages, stoi
from studio.registry import find_class
from studio.tokenizers.base import Tokenizer
from studio.training.audio_discriminators import AudioDiscriminators
from studio.training.audio_losses import MelLoss, SpectralLoss
from studio.training.ema import WeightAverage
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, finish_tokens, step_generator

SHOWN = 4  # utterances on a sheet


class AudioTokenizerTask:
    """Options in the recipe's `loss`:

    - `seconds`, `utterances`: length of a training clip, and how many items of the data set are
      cut (all epochs over the same ones);
    - `gain`: clips are made softer by up to so many dB;
    - `settled`: once the tokens are final, this share of the clips is from the data without its
      `variety` (of a third as many items): a decoder is best in the voices that it is used for;
    - `spectral`, `mel`: weights of `SpectralLoss` and of WavTokenizer's `MelLoss`;
    - `own`: weight of the tokenizer's own loss (commitment, outline);
    - `outline_share`: share of the steps that make no wave and learn the tokens alone (tokenizers
      with an `outline` only). After it the tokens are final, as after `encoder_share`;
    - `encoder_share`: share of the steps in which the encoder learns. After it the averaged encoder
      is kept, and written to `tokens-final/`, so that generators can start;
    - `adversarial`, `matching`: weights of the discriminators' losses;
    - `adversarial_from`: share of the steps after which the discriminators come in;
    - `discriminators`: arguments of `AudioDiscriminators`; `discriminator_rate`: learning rate;
    - `checked`: held-out sentences that are measured.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.options: dict[str, Any] = {
            "seconds": 0.8,
            "utterances": 4096,
            "gain": 3.0,
            "settled": 0.0,
            "spectral": 1.0,
            "mel": 0.0,
            "own": 1.0,
            "outline_share": 0.0,
            "encoder_share": 1.0,
            "adversarial": 0.0,
            "matching": 0.0,
            "adversarial_from": 0.5,
            "discriminators": {},
            "discriminator_rate": 2e-4,
            "checked": 20,
        }
        unknown = sorted(set(recipe.loss) - set(self.options))
        if unknown:
            known = ", ".join(self.options)
            raise ValueError(f"loss option {unknown[0]!r} is unknown; known: {known}")
        self.options |= recipe.loss
        self.sets = {
            split: make_dataset(recipe.data, split=split, seed=recipe.seed)
            for split in ("train", "heldout", "voice")
        }
        if self.options["settled"]:
            plain = {name: value for name, value in recipe.data.items() if name != "variety"}
            self.sets["settled"] = make_dataset(plain, split="train", seed=recipe.seed)
        self.sample_rate: int = self.sets["train"].sample_rate
        self.discriminators: AudioDiscriminators | None = None
        self.optimizer: torch.optim.AdamW | None = None

    # --- the contract ----------------------------------------------------------------------------

    def build(self) -> nn.Module:
        cls = find_class(self.recipe.model["class"])
        model = cls(**{"sample_rate": self.sample_rate, **self.recipe.model.get("config", {})})
        if model.config.sample_rate != self.sample_rate:
            ours, theirs = model.config.sample_rate, self.sample_rate
            raise ValueError(f"sample_rate {ours} of the model must be the data's, {theirs}")
        if self.options["outline_share"] and not hasattr(model, "outline"):
            raise ValueError(f"outline_share: {cls.__name__} has no outline to learn tokens from")
        if self.options["adversarial"] or self.options["matching"]:
            self.discriminators = AudioDiscriminators(**self.options["discriminators"])
            self.optimizer = torch.optim.AdamW(
                self.discriminators.parameters(),
                lr=self.options["discriminator_rate"],
                betas=(0.8, 0.99),
            )
        self.spectral, self.mel = SpectralLoss(self.sample_rate), MelLoss(self.sample_rate)
        self.length = round(self.options["seconds"] * self.sample_rate / model.hop) * model.hop
        self.sets["train"].render(self.options["utterances"])
        if "settled" in self.sets:
            self.sets["settled"].render(self._settled_count)
        return model

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        generator = step_generator(self.recipe.seed, step)
        size = self.recipe.batch_size
        chosen = torch.randint(self.options["utterances"], (size,), generator=generator)
        draws = torch.rand(size, 2, generator=generator)
        settled = torch.rand(size, generator=generator) < self.options["settled"]
        settled &= step >= self._last_of_tokens
        clips = []
        for index, (place, gain), known in zip(
            chosen.tolist(), draws.tolist(), settled.tolist(), strict=True
        ):
            item = (
                self.sets["settled"][index % self._settled_count]
                if known
                else self.sets["train"][index]
            )
            clip = cut_clip(item[0], self.length, place)
            clips.append(clip * 10 ** (-self.options["gain"] * gain / 20))
        return {"audio": torch.stack(clips).to(device)}  # (B, 1, L)

    def prepare(self, model: Tokenizer, average: WeightAverage, step: int) -> None:
        last = self._last_of_tokens
        if step >= last and last < self.recipe.steps:
            finish_tokens(model, average, self.folder, write=step == last)

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        audio, o = batch["audio"], self.options
        if o["outline_share"] and step < self._last_of_tokens:
            own = model(audio, synthesize=False)[1].loss
            return own, {"own": own.item()}
        fake, encoded = model(audio)
        own = encoded.loss if encoded.loss is not None else fake.new_zeros(())
        total, parts = o["own"] * own, {"own": own}
        for name in ("spectral", "mel"):
            if o[name]:
                parts[name] = getattr(self, name).to(audio.device)(fake, audio)
                total = total + o[name] * parts[name]
        if self.discriminators and step >= round(o["adversarial_from"] * self.recipe.steps):
            total = total + self._against(fake, audio, parts)
        return total, {name: value.item() for name, value in parts.items()}

    @torch.no_grad()
    def evaluate(self, model: Any) -> tuple[dict[str, float], torch.Tensor]:
        device = next(model.parameters()).device
        metrics, tokens, rows = {}, [], []
        for split, ending in (("heldout", ""), ("voice", "_voice")):
            scores: dict[str, list[float]] = {}
            for index in range(self.options["checked"]):
                real = self.sets[split][index][0][None].to(device)  # (1, 1, L)
                encoded = model.encode(real)
                fake = model.decode(encoded.tokens, length=real.shape[-1]).clamp(-1, 1)
                tokens.append(encoded.tokens.flatten())
                for name, value in self._scores(fake, real).items():
                    scores.setdefault(name, []).append(value)
                if len(rows) < 2 * SHOWN:
                    rows += [real, fake]
            metrics |= {name + ending: _mean(values) for name, values in scores.items()}
        counts = torch.bincount(torch.cat(tokens)).float()
        shares = counts[counts > 0] / counts.sum()
        metrics["codes_used"] = len(shares) / model.codebook_size
        metrics["entropy_bits"] = -(shares * shares.log2()).sum().item()
        return metrics, sound_sheet(rows, self.sample_rate)

    def export(self, model: Tokenizer, folder: Path) -> None:
        model.eval()
        export_model(model, folder)

    # --- what checkpoints carry ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Discriminators and their optimizer, where there are any."""
        if self.discriminators is None or self.optimizer is None:
            return {}
        state = {"discriminators": self.discriminators.state_dict()}
        return {**state, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; a state without discriminators starts them anew."""
        if self.discriminators is not None and self.optimizer is not None and state:
            self.discriminators.load_state_dict(state["discriminators"])
            self.optimizer.load_state_dict(state["optimizer"])

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _last_of_tokens(self) -> int:
        """The step from which on the tokens are final."""
        share = self.options["outline_share"] or self.options["encoder_share"]
        return round(share * self.recipe.steps)

    @property
    def _settled_count(self) -> int:
        return max(1, self.options["utterances"] // 3)

    def _against(self, fake: torch.Tensor, real: torch.Tensor, parts: dict) -> torch.Tensor:
        """A step of the discriminators, then what they make the tokenizer pay."""
        judges, optimizer = self.discriminators, self.optimizer
        assert judges is not None and optimizer is not None
        judges.to(real.device).requires_grad_(True)
        wrong = judges.discriminator_loss(real, fake)
        optimizer.zero_grad()
        wrong.backward()
        optimizer.step()
        judges.requires_grad_(False)
        adversarial, matching = judges.generator_losses(real, fake)
        parts |= {"discriminator": wrong, "adversarial": adversarial, "matching": matching}
        return self.options["adversarial"] * adversarial + self.options["matching"] * matching

    def _scores(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        """Measures of one utterance, (1, 1, L) twice."""
        scores = {"spectral": self.spectral.to(real.device)(fake, real).item()}
        if quality_packages():
            if self.sample_rate == WIDE_BAND:
                scores["pesq"] = pesq(fake[0, 0], real[0, 0])
            scores["stoi"] = stoi(fake[0, 0], real[0, 0], self.sample_rate)
        return scores


def cut_clip(wave: torch.Tensor, length: int, place: float) -> torch.Tensor:
    """A clip (1, length) of a wave (1, L), from `place` (0 to 1) of the room there is; a shorter
    wave is put into silence."""
    room = wave.shape[-1] - length
    if room >= 0:
        start = int(place * (room + 1))
        return wave[:, start : start + length]
    left = int(place * (1 - room))
    return F.pad(wave, (left, -room - left))


def _mean(values: list[float]) -> float:
    found = torch.tensor([v for v in values if v == v])
    return found.mean().item() if len(found) else float("nan")


def sound_sheet(waves: list[torch.Tensor], sample_rate: int) -> torch.Tensor:
    """Log-mel pictures of waves (1, 1, L), original and made in turn, as (3, H, W) in [-1, 1]."""
    features = LogMel(sample_rate, 1024, 256, 80, clip=1e-3)
    width = max(wave.shape[-1] for wave in waves) // 256 + 1
    rows = []
    for wave in waves:
        bands = features(wave[0].cpu().float())[0].flip(0)  # (80, T)
        picture = ((bands + 7) / 11).clamp(0, 1) * 2 - 1
        rows.append(F.pad(picture, (0, width - picture.shape[-1], 0, 2), value=-1.0))
    return torch.cat(rows)[None].repeat(3, 1, 1)  # (3, H, W)
