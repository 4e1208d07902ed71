"""A training recipe: one YAML file that says everything a run depends on.

Recipes live in `recipes/`; every bundled model names the one that made it in its card.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Recipe:
    """What `studio train` needs to know.

    Args:
        name: of the run; its folder is `runs/<name>` unless `--out` says otherwise.
        task: a name of `tasks.TASKS`.
        model: {"class": a public class, "config": its arguments}.
        data: arguments of the data set; {"kind": "emoji", ...} or {"kind": "folder", "path": ...}.
        loss: weights and options of the task's loss.
        steps, batch_size: length of the run, and pictures a step.
        learning_rate, warmup, weight_decay, betas, clip: AdamW; linear warm-up, then cosine down to
            a tenth.
        ema: decay of the averaged weights that are kept at the end.
        precision: "float32" or "bfloat16" (autocast; pays on a GPU and on processors with bf16
            units).
        seed: everything random follows from it and the step.
        log_every, save_every, sample_every: in steps.
        threads: CPU threads; 0 leaves torch's own choice.
        requires: other bundles or runs that this one reads, for example {"tokenizer":
            "runs/emoji-1d/final"}.
    """

    name: str
    task: str
    model: dict[str, Any]
    data: dict[str, Any]
    steps: int
    batch_size: int
    loss: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.995
    precision: str = "float32"
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    sample_every: int = 1000
    threads: int = 0
    requires: dict[str, str] = field(default_factory=dict)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file.

    Args:
        path: a YAML file with the fields of `Recipe`.
        overrides: "key=value" with dotted keys, for example "steps=10" or "model.config.dim=64".

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown or missing field, or a value that is no YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"recipe {path} not found")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for item in overrides or []:
            key, sign, text = item.partition("=")
            if not sign:
                raise ValueError(f"override {item!r} must read key=value")
            _assign(values, key.split("."), yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(
            f"recipe {path.name} is not valid YAML: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"recipe {path.name} must be a mapping of fields")
    known = {f.name for f in fields(Recipe)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"recipe field {unknown[0]!r} is unknown; known: {', '.join(sorted(known))}"
        )
    missing = [
        n for n in ("name", "task", "model", "data", "steps", "batch_size") if n not in values
    ]
    if missing:
        raise ValueError(f"recipe {path.name} lacks the field {missing[0]!r}")
    return _checked(Recipe(**{**values, "betas": tuple(values.get("betas", (0.9, 0.95)))}))


def _checked(recipe: Recipe) -> Recipe:
    for name in ("steps", "batch_size", "log_every", "save_every", "sample_every"):
        value = getattr(recipe, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"recipe field {name} is {value!r}; it must be a whole number >= 1")
    if recipe.precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {recipe.precision!r} must be 'float32' or 'bfloat16'")
    return recipe


def check_required(recipe: Recipe) -> None:
    """Raises FileNotFoundError unless all that a recipe reads is there; says what to train
    first."""
    for name, folder in recipe.requires.items():
        if not Path(folder).exists():
            run = Path(folder).parent
            hint = f"; train {run.name} first" if run.parent.name == "runs" else ""
            raise FileNotFoundError(f"requires.{name} {folder!r} does not exist{hint}")


def _assign(values: dict, keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values[keys[-1]] = value
