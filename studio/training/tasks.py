"""What a task must give to the training loop, and the tasks by name."""

import copy
import importlib
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import ModelMixin
from torch import nn

from studio.media.files import atomic_folder
from studio.registry import find_class
from studio.training.ema import WeightAverage
from studio.training.recipe import Recipe

TASKS = {
    "tokenizer": "studio.training.tokenizer_task:TokenizerTask",
    "generator": "studio.training.generator_task:GeneratorTask",
    "video_tokenizer": "studio.training.video_tokenizer_task:VideoTokenizerTask",
    "features": "studio.training.features_task:FeaturesTask",
    "audio_tokenizer": "studio.training.audio_tokenizer_task:AudioTokenizerTask",
    "recogniser": "studio.training.recogniser_task:RecogniserTask",
    "semantic": "studio.training.semantic_task:SemanticTask",
    "speech": "studio.training.speech_task:SpeechTask",
    "drafter": "studio.training.drafter_task:DrafterTask",
}


class Task(Protocol):
    """One kind of training. All randomness comes from the step it is given.

    A task that trains something of its own beside the model (discriminators) has `state_dict()` and
    `load_state_dict(state)` as well, which checkpoints carry.
    """

    def build(self) -> nn.Module:
        """The network with its first weights."""
        ...

    def batch(self, step: int, device: torch.device) -> dict[str, Any]:
        """The batch of a step."""
        ...

    def prepare(self, model: nn.Module, average: WeightAverage, step: int) -> None:
        """Called before every step: what changes in the course of training, as a function of the
        step.
        """
        ...

    def loss(self, model: nn.Module, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict]:
        """A scalar to minimise, and plain numbers for the log."""
        ...

    def evaluate(self, model: nn.Module) -> tuple[dict[str, float], torch.Tensor | None]:
        """Held-out metrics, and a sheet (3, H, W) in [-1, 1] to look at."""
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes what users load."""
        ...


def make_task(recipe: Recipe, folder: Path) -> Task:
    """The task that a recipe names. Raises ValueError for an unknown one."""
    if recipe.task not in TASKS:
        raise ValueError(f"task {recipe.task!r} must be one of {', '.join(TASKS)}")
    module, _, name = TASKS[recipe.task].partition(":")
    return getattr(importlib.import_module(module), name)(recipe, folder)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of a step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def load_part(folder: str | Path) -> Any:
    """The model of a folder, in float32 and evaluation mode. Raises FileNotFoundError."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{str(folder)!r} holds no config.json")
    name = json.loads(path.read_text(encoding="utf-8"))["_class_name"]
    return find_class(name).from_pretrained(folder).float().eval()


def finish_tokens(model: Any, average: WeightAverage, folder: Path, *, write: bool) -> None:
    """From here on a tokenizer's tokens are final: its encoder learns no more. With `write` the
    averaged weights are taken over first and written to `tokens-final/`, so that generators can
    start."""
    if write:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(average.shadow[name])
        export_model(model, folder / "tokens-final")
    for _, parameter in model.encoder_parameters():
        parameter.requires_grad_(False)


def tile(images: torch.Tensor, columns: int) -> torch.Tensor:
    """Pictures (n * columns, 3, H, W) as one sheet (3, n * H, columns * W)."""
    rows = images.unflatten(0, (-1, columns))  # (n, columns, 3, H, W)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # (3, n * H, columns * W)


def export_model(model: ModelMixin, folder: Path) -> None:
    """`save_pretrained` in half precision, whole or not at all."""
    # a copy, since halving rounds buffers that no state dict holds
    with atomic_folder(folder) as temporary:
        copy.deepcopy(model).half().save_pretrained(temporary)  # pyright: ignore
