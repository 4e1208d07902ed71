"""Training a drafter head on the features of a frozen generator, over cached tokens.

EAGLE, 2024, 2401.15077: smooth L1 to the target's next features, and cross-entropy to the
distribution that the target makes of them. EAGLE-3, 2025, 2503.01840: the head goes on from its own
predictions for some steps, as it will when it drafts. Drafts follow guided distributions, so every
caption is read as itself and dropped, and the cross-entropy is to what guidance makes of both. Left
out on purpose: noise on the features, which the unrolling stands for.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from studio.generators.conditioning import TextCondition
from studio.generators.drafter_head import DrafterHead
from studio.generators.guidance import Guidance
from studio.layers.attention import mask_bias
from studio.registry import find_class
from studio.training.generator_task import GeneratorTask
from studio.training.recipe import Recipe
from studio.training.tasks import export_model, load_part, step_generator

OPTIONS = {
    "unroll": 3,
    "unroll_from": 0.0,
    "decay": 0.8,
    "feature_weight": 0.2,
    "guidance": [2.0, 4.0],
}


class DrafterTask(GeneratorTask):
    """Options in the recipe's `loss`:

    - `unroll`: steps on the head's own predictions, the first being on the target's features;
      `decay`: what a step counts against the one before it; `unroll_from`: share of the run,
      which is cheaper, before there is more than one.
    - `feature_weight`: of the smooth L1 loss; the cross-entropy counts 1.
    - `guidance`: the least and the largest scale of guidance, drawn for every picture.
    - `cache`: as in `GeneratorTask`.

    `requires.generator` is the folder of the target, an autoregressive generator from captions;
    `requires.tokenizer` and `requires.captions` are those that it was trained with.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        for name in ("generator", "captions"):
            if name not in recipe.requires:
                raise ValueError(f"requires.{name} must name a folder of what the drafter is for")
        super().__init__(recipe, folder)
        self.options = {**OPTIONS, **self.options}
        low, high = self.options["guidance"]
        if not 0 <= low <= high:
            raise ValueError(f"loss.guidance {[low, high]} must be two numbers >= 0, rising")
        if not 1 <= self.options["unroll"] < self.tokenizer.layout.num_tokens:
            raise ValueError(f"loss.unroll {self.options['unroll']} must be at least 1")
        self.target = _load_target(recipe.requires["generator"])

    def build(self) -> DrafterHead:
        target = self.target.config
        config = {
            "layout": self.tokenizer.layout.to_dict(),
            "feature_dim": target.dim,
            "rope": target.rope,
            "rope_base": target.rope_base,
            **self.recipe.model.get("config", {}),
        }
        model = find_class(self.recipe.model["class"])(**config)
        model.check_target(self.target)
        return model

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        size = self.recipe.batch_size
        tokens, captions = self.cache.batch(step * size, size)
        generator = step_generator(self.recipe.seed, step)
        low, high = self.options["guidance"]
        scale = low + (high - low) * torch.rand(size, 1, 1, generator=generator)
        return self._example(tokens, captions, scale, device)

    @torch.no_grad()
    def _example(self, tokens, captions, scale, device) -> dict[str, Any]:
        """What the target says of tokens (B, N) with their captions, and without them below:
        `features` (2B, N, D) that the tokens are scored from, and `prior` (2B, N, E)."""
        self.target.to(device)
        ids, mask = self.captions.encode(captions)
        condition = TextCondition(ids=ids, mask=mask).to(device)
        both = condition.joined(condition.null())
        tokens = tokens.to(device).repeat(2, 1)  # (2B, N)
        prior = None
        if self.target.prior is not None:
            prior = self.target(tokens, both, output="prior")
        return {
            "tokens": tokens,
            "features": self.target(tokens, both, output="features"),
            "prior": prior,
            "scale": scale.to(device),
        }

    def loss(self, model, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        head = getattr(model, "module", model)
        features, late = batch["features"], step >= self.options["unroll_from"] * self.recipe.steps
        unroll = self.options["unroll"] if late else 1
        embedded = self.target.embeddings(batch["tokens"])[:, :-1]  # (2B, N - 1, D)
        guesses = unrolled(model, features[:, :-1], embedded, head.rotary(features.device), unroll)
        wanted = self._guided(batch, features[:, 1:])
        total, weights, metrics = features.new_zeros(()), 0.0, {}
        for i, guess in enumerate(guesses):
            # the first rows of a later step would go on from predictions that were never made
            near = feature_loss(guess[:, i:], features[:, i + 1 :])
            parts = self._guided(batch, guess)
            told = token_loss([p[:, i:] for p in parts], [p[:, i:] for p in wanted])
            weight = self.options["decay"] ** i
            total = total + weight * (told + self.options["feature_weight"] * near)
            weights += weight
            metrics |= {f"nats_{i + 1}": told.item(), f"feature_{i + 1}": near.item()}
        return total / weights, metrics

    def _guided(self, batch: dict[str, Any], features: torch.Tensor) -> list[torch.Tensor]:
        """Guided logits of tokens 1 .. N - 1 from features (2B, N - 1, D): one (B, N - 1, L) a
        digit where the target's head takes digits as independent, else one (B, N - 1, V)."""
        head, prior = self.target.token_head, batch["prior"]
        places = torch.arange(1, features.shape[1] + 1, device=features.device)
        prior = None if prior is None else prior[:, 1:]
        alone = head.kind == "digits"
        score = head.digit_logits if alone else head
        cond, uncond = score(features, places, prior).chunk(2)
        logits = Guidance().combine(cond, uncond, batch["scale"])
        return list(logits.split(head.split.levels, dim=-1)) if alone else [logits]

    @torch.no_grad()
    def evaluate(self, model) -> tuple[dict[str, float], torch.Tensor | None]:
        """`acceptance_i`: how probable it is that an exact rule takes the i-th draft in a row, at
        temperature 1 and the mean scale of guidance, on pictures that training does not meet."""
        device = next(model.parameters()).device
        # A quarter of what generators are scored on, as every token's whole distribution is made.
        images, captions = self.validation.batch(0, max(1, self.options["validation"] // 4))
        scale = torch.full((8, 1, 1), sum(self.options["guidance"]) / 2)
        sums = torch.zeros(self.options["unroll"])
        for i in range(0, len(images), 8):
            tokens = self._tokens(images[i : i + 8])
            batch = self._example(tokens, captions[i : i + 8], scale[: len(tokens)], device)
            sums += self._acceptance(model, batch) * len(tokens)
        return {f"acceptance_{i + 1}": float(a) / len(images) for i, a in enumerate(sums)}, None

    def _acceptance(self, model, batch: dict[str, Any]) -> torch.Tensor:
        features, unroll = batch["features"], self.options["unroll"]
        embedded = self.target.embeddings(batch["tokens"])[:, :-1]  # (2B, N - 1, D)
        guesses = unrolled(model, features[:, :-1], embedded, model.rotary(features.device), unroll)
        p = self._probs(batch, features[:, 1:])
        shared = [torch.minimum(p, self._probs(batch, guess)).sum(-1) for guess in guesses]
        return torch.stack([taken[:, i:].mean() for i, taken in enumerate(shared)]).cpu()

    def _probs(self, batch: dict[str, Any], features: torch.Tensor) -> torch.Tensor:
        parts = self._guided(batch, features)
        whole = parts[0] if len(parts) == 1 else self.target.token_head.expand(torch.cat(parts, -1))
        return whole.softmax(-1)  # (B, N - 1, V)

    def export(self, model, folder: Path) -> None:
        export_model(model, folder)


# --- losses --------------------------------------------------------------------------------------


def feature_loss(guess: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between features (B, n, D), their mean."""
    return F.smooth_l1_loss(guess.float(), features.float())


def token_loss(guess: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
    """Divergence of the drafter's distribution from the target's, in nats a token: KL(target ||
    drafter), the soft cross-entropy less what no drafter could save.

    Args:
        guess, wanted: logits of independent parts of a token, (B, n, L) each.
    """
    total = guess[0].new_zeros(())
    for ours, theirs in zip(guess, wanted, strict=True):
        logs = ours.float().log_softmax(-1)
        total = (
            total
            + F.kl_div(logs, theirs.float().log_softmax(-1), reduction="none", log_target=True)
            .sum(-1)
            .mean()
        )
    return total


# --- unrolling -----------------------------------------------------------------------------------


def unrolled(
    model, features: torch.Tensor, embedded: torch.Tensor, rope: torch.Tensor, steps: int
) -> list[torch.Tensor]:
    """What the head predicts when its last 0, 1, ... `steps` - 1 inputs are its own predictions.

    Args:
        features, embedded: (B, n, D), what token i was scored from and its embedding.
        rope: the head's rotary table, n rows or more.

    Returns:
        `steps` times (B, n, D); the rows before i of entry i mean nothing.
    """
    n, x, keys, found = features.shape[1], features, SeenKeys(), []
    for step in range(steps):
        mask = mask_bias(unrolled_mask(n, step, features.device), features.dtype)
        x = model(x, embedded, rope=rope[:n], mask=mask, cache=keys)
        found.append(x)
        x = torch.cat((features[:, :1], x[:, :-1]), dim=1)
    return found


def unrolled_mask(n: int, step: int, device: torch.device) -> torch.Tensor:
    """Which keys the queries of a step see, bool (n, (step + 1) n): those of the true features up
    to `step` tokens back, then one of each later step, the last being a query's own."""
    rows = torch.arange(n, device=device).unsqueeze(1)
    columns = torch.arange(n, device=device)
    parts = [columns <= rows - step]
    parts += [columns == rows - step + i for i in range(1, step + 1)]
    return torch.cat(parts, dim=1)


@dataclasses.dataclass
class SeenKeys:
    """A cache that gradients go through: the keys and values of all steps, side by side."""

    keys: list[torch.Tensor] = dataclasses.field(default_factory=list)
    values: list[torch.Tensor] = dataclasses.field(default_factory=list)
    turns_keys = False

    def update(self, layer: int, k, v, *, q=None, mask=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds k, v (B, H, n, D); all so far, (B, H, steps n, D)."""
        self.keys.append(k)
        self.values.append(v)
        return torch.cat(self.keys, dim=2), torch.cat(self.values, dim=2)


def _load_target(folder: str):
    try:
        target = load_part(folder).requires_grad_(False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"requires.generator {error}") from error
    if target.kind != "ordered" or target.config.condition != "text":
        raise ValueError(
            f"requires.generator {folder!r} must be an autoregressive generator from captions"
        )
    return target
