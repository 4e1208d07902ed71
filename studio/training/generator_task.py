"""Training a generator over the tokens of a frozen tokenizer, from captions.

Autoregressive: cross-entropy of every token given those before it. Masked: a random share of the
tokens is hidden, as in MaskGIT (2022, arXiv 2202.04200), and those are scored. A share of the
captions is dropped, for classifier-free guidance (2022, arXiv 2207.12598).
"""

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import torch

from studio.data.datasets import make_dataset
from studio.data.token_cache import TokenCache
from studio.generators.base import Generator
from studio.generators.captions import CaptionTokenizer
from studio.generators.conditioning import TextCondition
from studio.layers.token_embedding import digit_basis
from studio.media.files import atomic_folder
from studio.registry import find_class
from studio.tokenizers.base import Tokenizer
from studio.training.prior_fit import fit_tokens, learn_looks
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, step_generator, tile

logger = logging.getLogger(__name__)
FRAMES = 4  # of a clip on a sheet
PARTS = 3  # of a batch that trains the prior


class GeneratorTask:
    """Options in the recipe's `loss`:

    - `caption_dropout`; `cache`, items kept on disk; `vocabulary`, byte-pair ids at most;
      `longest`, ids of the longest caption.
    - `validation`: unseen items that are scored; `shown`: how many of them are on the sheet.
    - `prior_share`: share of the steps, at the start, that train the network's prior alone, on
      `prior_batch` captions a step; 1 where the run makes a prior for others to start from.
    - `short`: share of steps on the first half of the tokens alone, where a network reads them in
      order.
    - `fit`: with `requires.looks`, arguments of `prior_fit.learn_looks` and `clips`, how many are
      solved for.
    - `sample`: arguments of the decoding strategy for the sheets.

    `requires.tokenizer` is the tokenizer's folder; `requires.start` the folder of a generator over
    the same tokens whose caption encoder and prior are taken over and kept as they are;
    `requires.looks` the folder of a generator of pictures that first weights are made from, see
    `prior_fit` (with `requires.captions` of that generator);
    `requires.captions` a folder with a caption tokenizer to share, otherwise one is learned from
    the data.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.options = {"caption_dropout": 0.1, "cache": 65536, "vocabulary": 1024}
        self.options |= {
            "short": 0.0,
            "prior_share": 0.0,
            "prior_batch": 256,
            "sample": {},
            "longest": 24,
            "validation": 128,
            "shown": 32,
            **recipe.loss,
        }
        if "tokenizer" not in recipe.requires:
            raise ValueError("requires.tokenizer must name the folder of a trained tokenizer")
        if "start" in recipe.requires and self.options["prior_share"]:
            share = self.options["prior_share"]
            raise ValueError(f"loss.prior_share {share} must be 0 with requires.start: it is kept")
        self.tokenizer = _load_tokenizer(recipe.requires["tokenizer"])
        data = make_dataset(recipe.data, seed=recipe.seed)
        self.cache = TokenCache(
            folder.parent / "tokens", self.tokenizer, data, self.options["cache"]
        )
        # another seed gives renders and combinations that training does not meet
        self.validation = make_dataset(recipe.data, seed=recipe.seed + 1_000_000)
        self.captions = self._caption_tokenizer(data)

    def _caption_tokenizer(self, data) -> CaptionTokenizer:
        shared = self.recipe.requires.get("captions")
        own = Path(shared) if shared else self.folder / "text_tokenizer"
        if (own / "tokenizer.json").exists():
            return CaptionTokenizer.from_pretrained(own)
        texts = (data.caption(i) for i in range(30000))
        made = CaptionTokenizer.train(
            texts, self.options["vocabulary"], max_length=self.options["longest"]
        )
        made.save_pretrained(own)
        return made

    def build(self) -> Generator:
        config = dict(self.recipe.model.get("config", {}))
        config |= {
            "layout": self.tokenizer.layout.to_dict(),
            "condition": "text",
            "text_vocab_size": self.captions.vocab_size,
            "num_condition_tokens": self.captions.max_length,
        }
        model = find_class(self.recipe.model["class"])(**config)
        if "looks" in self.recipe.requires:
            model = self._fitted(model)
        if "start" in self.recipe.requires:
            _take_over(model, Path(self.recipe.requires["start"]))
        return model

    def _fitted(self, model: Generator) -> Generator:
        """The model with its first weights, which are kept in the run's folder."""
        kept = self.folder / "fitted"
        if not (kept / "config.json").exists():
            options = {"clips": 4096, "steps": 2000, **self.options.get("fit", {})}
            clips, data = options.pop("clips"), self.cache.dataset
            teacher = _load_generator(Path(self.recipe.requires["looks"])).eval()
            options["dropout"] = self.options["caption_dropout"]
            learn_looks(model, teacher, data, self.captions, seed=self.recipe.seed, **options)
            left = fit_tokens(model, data, self.cache, self.captions, count=clips)
            logger.info("fitted: %.3f of the variance of unseen clips' digits is left", left)
            with atomic_folder(kept) as temporary:
                model.save_pretrained(temporary)
        return _load_generator(kept)

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        size = self.options["prior_batch"] if self._on_prior(step) else self.recipe.batch_size
        tokens, captions = self.cache.batch(step * size, size)
        return self._batch(tokens, captions, device, step)

    def _batch(self, tokens, captions, device, step: int) -> dict[str, Any]:
        generator = step_generator(self.recipe.seed, step)
        dropped = torch.rand(len(tokens), generator=generator) < self.options["caption_dropout"]
        ids, mask = self.captions.encode(captions)
        condition = TextCondition(ids=ids, mask=mask, dropped=dropped).to(device)
        share = torch.rand(len(tokens), 1, generator=generator)
        order = torch.rand(tokens.shape, generator=generator).argsort(-1).argsort(-1)  # (B, N)
        count = (tokens.shape[1] * torch.cos(share * math.pi / 2)).round().clamp(min=1)
        short = torch.rand((), generator=generator) < self.options["short"]
        return {
            "prior": self._on_prior(step),
            "count": tokens.shape[1] // 2 if short else tokens.shape[1],
            "tokens": tokens.to(device),
            "condition": condition,
            "hidden": (order < count).to(device),
        }

    def prepare(self, model, average, step: int) -> None:
        """Nothing changes in the course of training."""

    def loss(self, model: Generator, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        losses = self._losses(model, batch)
        return losses, {"nats_per_token": losses.item()}

    def _on_prior(self, step: int) -> bool:
        return min(step, self.recipe.steps - 1) < self.options["prior_share"] * self.recipe.steps

    def _prior_loss(self, model: Generator, tokens: torch.Tensor, condition) -> torch.Tensor:
        """In parts of captions that are about equally long, so that little padding is encoded."""
        total = tokens.new_zeros((), dtype=torch.float32)
        for rows in condition.mask.sum(1).argsort(stable=True).chunk(PARTS):
            length = max(1, int(condition.mask[rows].sum(1).max()))
            part = dataclasses.replace(
                condition[rows],
                ids=condition.ids[rows, :length],
                mask=condition.mask[rows, :length],
            )
            losses = model(tokens[rows], part, output="prior_losses", targets=tokens[rows])
            total = total + losses.mean() * len(rows) / len(tokens)
        return total

    def _losses(self, model: Generator, batch: dict[str, Any]) -> torch.Tensor:
        network, tokens = getattr(model, "module", model), batch["tokens"]
        if batch["prior"]:
            return self._prior_loss(model, tokens, batch["condition"])
        if network.kind == "ordered":
            tokens = tokens[:, : batch["count"]]
            return model(tokens, batch["condition"], output="losses").mean()
        hidden = batch["hidden"]
        seen = tokens.masked_fill(hidden, network.mask_id)
        losses = model(seen, batch["condition"], output="losses", targets=tokens)  # (B, N)
        return (losses * hidden).sum() / hidden.sum()

    def evaluate(self, model: Generator) -> tuple[dict[str, float], torch.Tensor]:
        device = next(model.parameters()).device
        images, captions = self.validation.batch(0, self.options["validation"])
        tokens = torch.cat([self._tokens(part) for part in images.split(16)])
        batch = self._batch(tokens, captions, device, step=self.recipe.steps)
        batch["count"] = tokens.shape[1]
        metrics = {"nats_per_token": self._losses(model, batch).item()}
        shown = self.options["shown"]
        made = self._sample(model, captions[:shown], device)
        sheet = torch.cat([_stills(images[:shown]), _stills(made)])
        return metrics, tile(sheet, math.gcd(16, len(sheet)))

    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.tokenizer.encode(images).tokens
        assert tokens is not None  # generators of tokens have discrete tokenizers
        return tokens

    def _sample(self, model: Generator, captions: list[str], device) -> torch.Tensor:
        if self._on_prior(self.recipe.steps):
            return self._best_of_prior(model, captions, device)
        name = {"ordered": "Autoregressive", "unordered": "Masked"}[model.kind]
        strategy = find_class(name)(**self.options["sample"])
        ids, mask = self.captions.encode(captions)
        condition = TextCondition(ids=ids, mask=mask).to(device)
        run = model.start(condition, guidance=strategy.guidance)
        generators = [torch.Generator().manual_seed(i) for i in range(len(captions))]
        *_, last = strategy.stream(run, self.tokenizer.layout, generators)
        return self.tokenizer.decode(last.tokens.cpu()).clamp(-1, 1)

    def _best_of_prior(self, model, captions: list[str], device) -> torch.Tensor:
        """Pictures of the likeliest level of every digit: nothing but the prior is trained."""
        ids, mask = self.captions.encode(captions)
        condition = TextCondition(ids=ids, mask=mask).to(device)
        tokens = ids.new_zeros(len(ids), self.tokenizer.layout.num_tokens, device=device)
        logits = model(tokens, condition, output="prior").cpu()  # (B, N, E)
        levels = model.config.token_levels
        best = [part.argmax(-1) for part in logits.split(levels, -1)]
        codes = (torch.stack(best, -1) * torch.tensor(digit_basis(levels))).sum(-1)  # (B, N)
        return self.tokenizer.decode(codes).clamp(-1, 1)

    def export(self, model: Generator, folder: Path) -> None:
        export_model(model, folder)
        self.captions.save_pretrained(folder.parent / "text_tokenizer")


def _stills(media: torch.Tensor) -> torch.Tensor:
    """Pictures as they are, and a few frames of clips (B, 3, T, H, W): (n, 3, H, W)."""
    if media.ndim == 4:
        return media
    frames = torch.linspace(0, media.shape[2] - 1, FRAMES).round().long()
    return media[:, :, frames].transpose(1, 2).flatten(0, 1)


def _take_over(model: Generator, folder: Path) -> None:
    """Copies the caption encoder and the prior of another generator, to be kept as they are: small
    batches of the whole network would soon undo what large ones of the prior alone have learned.
    """
    other = _load_generator(folder)
    model.conditioner.load_state_dict(other.conditioner.state_dict())
    model.prior.load_state_dict(other.prior.state_dict())
    for part in (model.conditioner, model.prior):
        part.requires_grad_(False)


def _load_generator(folder: Path) -> Any:
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
    return find_class(name).from_pretrained(folder).float()


def _load_tokenizer(folder: str) -> Tokenizer:
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"requires.tokenizer {folder!r} holds no config.json")
    name = json.loads(path.read_text())["_class_name"]
    model = find_class(name).from_pretrained(folder).float().eval()
    return model.requires_grad_(False)
