"""Training a generator to speak: letters with their times, and a voice, to tokens of a codec.

Cross-entropy of every token given those before it, of the prior alone, and the error of the
predicted lengths of letters (FastSpeech 2, 2020, 2006.04558, which takes them from an aligner; here
espeak-ng says them). Some of the tokens that are read are replaced by others, so that the network
goes by what it is told and recovers from its own mistakes.
"""

import json
from pathlib import Path
from typing import Any

import torch

from studio.data.datasets import make_dataset
from studio.data.letter_alignment import LetterTable
from studio.data.speech import PITCH_REACH, SPEEDS, VOICES, Utterance
from studio.data.speech_tokens import SpeechTokenCache, SpokenTokens, learn_table
from studio.data.spelling import ALPHABET
from studio.generators.base import Generator
from studio.generators.conditioning import SpeechCondition
from studio.generators.letters import letter_ids
from studio.outputs import TokenLayout, TokenSegment
from studio.registry import find_class
from studio.training.audio_tokenizer_task import sound_sheet
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, step_generator

SHOWN = 4
POOL = 16  # batches that are sorted by length together, so that little is padded


class SpeechTask:
    """Options in the recipe's `loss`:

    - `utterances`, `words`: how many sentences, and how many of loose words, are kept;
    - `tokens`, `letters`: the longest utterance;
    - `prior`, `lengths`: weights of the losses beside that of the tokens;
    - `noise`: share of the tokens read that are replaced by tokens of elsewhere in the batch;
    - `caption_dropout`: share of utterances whose words are hidden, for guidance;
    - `checked`: held-out sentences that are measured; `sample`: options of the decoding.

    `requires.tokenizer` is the folder of a trained sound tokenizer of one codebook.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.options: dict[str, Any] = {"utterances": 6144, "words": 2048, "tokens": 320}
        self.options |= {"letters": 80, "prior": 0.5, "lengths": 1.0, "noise": 0.1}
        self.options |= {"caption_dropout": 0.0, "checked": 32, "sample": {}}
        unknown = sorted(set(recipe.loss) - set(self.options))
        if unknown:
            known = ", ".join(self.options)
            raise ValueError(f"loss option {unknown[0]!r} is unknown; known: {known}")
        self.options |= recipe.loss
        self.tokenizer = _load_tokenizer(recipe.requires.get("tokenizer"))
        splits = ("train", "words", "heldout")
        self.sets: dict[str, Any] = {
            split: make_dataset(recipe.data, split=split, seed=recipe.seed) for split in splits
        }
        self.voices = list(self.sets["train"].speakers())
        self.table = self._table()
        counts = (self.options["utterances"], self.options["words"], self.options["checked"])
        self.caches = {
            split: SpeechTokenCache(
                folder.parent / "tokens",
                self.tokenizer,
                self.sets[split],
                self.table,
                max(1, count),
                max_tokens=self.options["tokens"],
                max_letters=self.options["letters"],
            )
            for split, count in zip(splits, counts, strict=True)
        }

    def _table(self) -> LetterTable:
        path = self.folder / "letters.json"
        if not path.exists():
            count = min(600, self.options["utterances"])
            learn_table([self.sets["train"], self.sets["words"]], count).save(path)
        return LetterTable.load(path)

    def build(self) -> Generator:
        layout = (self.options["tokens"],), self.tokenizer.codebook_size
        config = dict(self.recipe.model.get("config", {}))
        config |= {
            "layout": TokenLayout((TokenSegment("audio", *layout),)).to_dict(),
            "condition": "speech",
            "rope": "1d",
            "voices": self.voices,
            "alphabet": ALPHABET,
            "text_vocab_size": len(ALPHABET) + 1,
            "num_condition_tokens": self.options["letters"],
        }
        return find_class(self.recipe.model["class"])(**config)

    def item(self, index: int) -> SpokenTokens:
        """Utterance `index` of all that are trained on: sentences, then loose words."""
        first = self.options["utterances"]
        if index < first:
            return self.caches["train"][index]
        return self.caches["words"][index - first]

    def chosen(self, step: int) -> list[int]:
        """The utterances of a step: a part of a random pool that is about equally long."""
        size, total = self.recipe.batch_size, self.options["utterances"] + self.options["words"]
        pool = step_generator(self.recipe.seed, step // POOL)
        drawn = torch.randint(total, (size * POOL,), generator=pool)
        order = torch.randperm(POOL, generator=pool)
        lengths = torch.tensor([len(self.item(i).tokens) for i in drawn.tolist()])
        parts = drawn[lengths.argsort(stable=True)].view(POOL, size)
        return parts[order[step % POOL]].tolist()

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        items = [self.item(i) for i in self.chosen(step)]
        batch = collate(items, self.voices)
        generator = step_generator(self.recipe.seed, step)
        tokens, real = batch["tokens"], batch["real"]
        pool = tokens[real]
        other = pool[torch.randint(len(pool), tokens.shape, generator=generator)]
        wrong = torch.rand(tokens.shape, generator=generator) < self.options["noise"]
        batch["read"] = torch.where(wrong, other, tokens)
        hidden = torch.rand(len(tokens), generator=generator) < self.options["caption_dropout"]
        batch["condition"] = batch["condition"].drop(hidden)
        return {name: value.to(device) for name, value in batch.items()}

    def prepare(self, model, average, step: int) -> None:
        """Nothing changes in the course of training."""

    def loss(self, model: Any, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        parts = self._losses(model, batch)
        weights = {"nats_per_token": 1.0, "prior": self.options["prior"]}
        weights["lengths"] = self.options["lengths"]
        total = torch.stack([parts[name] * weight for name, weight in weights.items()]).sum()
        return total, {name: value.item() for name, value in parts.items()}

    def _losses(self, model: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        condition, real = batch["condition"], batch["real"]
        options = {"output": "both_losses", "targets": batch["tokens"]}
        losses = model(batch["read"], condition, **options)  # (B, N, 2)
        both, prior = losses[real].mean(0).unbind(0)
        seen = condition.mask & ~condition.dropped[:, None]
        wanted = condition.ends.diff(dim=1, prepend=torch.zeros_like(condition.ends[:, :1]))
        error = (
            model(batch["read"], condition, output="lengths") - wanted.clamp(min=0).log1p()
        ).abs()
        lengths = error[seen].mean() if bool(seen.any()) else error.sum() * 0
        return {"nats_per_token": both, "prior": prior, "lengths": lengths}

    @torch.no_grad()
    def evaluate(self, model: Any) -> tuple[dict[str, float], torch.Tensor]:
        device = next(model.parameters()).device
        items = [self.caches["heldout"][i] for i in range(self.options["checked"])]
        batch = collate(items, self.voices)
        batch["read"] = batch["tokens"]
        batch = {name: value.to(device) for name, value in batch.items()}
        metrics = {name: value.item() for name, value in self._losses(model, batch).items()}
        condition = batch["condition"]
        predicted = (model.conditioner.lengths(condition).expm1() * condition.mask).sum(1).cpu()
        real = torch.tensor([len(item.tokens) for item in items])
        metrics["length_error"] = ((predicted - real).abs() / real).mean().item()
        return metrics, self._sheet(model, items[:SHOWN])

    def _sheet(self, model: Any, items: list[SpokenTokens]) -> torch.Tensor:
        """Spectrograms of utterances and of what the network says in their times."""
        strategy = find_class("Autoregressive")(**self.options["sample"])
        condition = collate(items, self.voices)["condition"].to(model.device)
        counts = [len(item.tokens) for item in items]
        run = model.start(condition, guidance=strategy.guidance)
        generators = [torch.Generator().manual_seed(i) for i in range(len(items))]
        *_, last = strategy.stream(run, model.layout, generators, num_tokens=max(counts))
        rows = []
        for item, made, count in zip(items, last.tokens.cpu(), counts, strict=True):
            rows += [self.tokenizer.decode(t[None]) for t in (item.tokens, made[:count])]
        return sound_sheet(rows, self.tokenizer.sample_rate)

    def export(self, model: Generator, folder: Path) -> None:
        export_model(model.eval(), folder)


def manner(utterance: Utterance) -> tuple[float, float]:
    """Pitch and speed of an utterance as numbers from -1 to 1, 0 being the middle of its voice."""
    pitch = (utterance.pitch - VOICES[utterance.voice][1]) / PITCH_REACH
    middle = sum(SPEEDS) / 2
    return pitch, (utterance.speed - middle) / (SPEEDS[1] - middle)


def collate(items: list[SpokenTokens], voices: list[str]) -> dict[str, Any]:
    """Utterances side by side: "tokens" int64 and "real" bool (B, N), and their "condition"."""
    texts = [item.utterance.text for item in items]
    ids, mask = letter_ids(texts, ALPHABET)
    manners = torch.tensor([manner(item.utterance) for item in items])
    rows = torch.nn.utils.rnn.pad_sequence
    condition = SpeechCondition(
        ids=ids,
        mask=mask,
        ends=rows([item.ends for item in items], batch_first=True),
        voices=torch.tensor([voices.index(item.utterance.voice) for item in items]),
        pitches=manners[:, 0],
        speeds=manners[:, 1],
    )
    tokens = rows([item.tokens for item in items], batch_first=True)
    counts = torch.tensor([len(item.tokens) for item in items])
    real = torch.arange(tokens.shape[1]) < counts[:, None]
    return {"tokens": tokens, "real": real, "condition": condition}


def _load_tokenizer(folder: str | None):
    path = Path(folder or "", "config.json")
    if not folder or not path.exists():
        raise ValueError(
            f"requires.tokenizer {folder!r} must be the folder of a trained sound tokenizer"
        )
    name = json.loads(path.read_text(encoding="utf-8"))["_class_name"]
    model = find_class(name).from_pretrained(folder).float().eval()
    if getattr(model, "num_codebooks", 0) != 1:
        raise ValueError(f"requires.tokenizer {folder!r} must code sound in one codebook")
    return model.requires_grad_(False)
