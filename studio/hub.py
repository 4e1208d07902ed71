"""Where models come from: bundled folders, folders on disk, repositories of the Hugging Face Hub.

The first part enters our classes in diffusers' tables, which version 0.42 needs to write short
library names and to load them again, and imports diffusers quickly for commands. The weights
themselves are read by `pipelines/loading.py`. No remote code is run; only JSON, safetensors and
texts are downloaded. Leaves out on purpose: `from_single_file` (`studio convert` reads foreign
checkpoints).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.env import PRETRAINED
from studio.registry import CLASSES, GENERATORS, find_class

DEFAULT_MODEL = "emoji-1d"
INDEX = "model_index.json"
KINDS = {"autoregressive": "ordered", "masked": "unordered"}
# Where a folder's generators stand; "decoding" + the same ending is the strategy that goes with
# one.
ENDINGS = ("", "_masked", "_autoregressive")

_METHODS = ["save_pretrained", "from_pretrained"]
# What diffusers looks for on the top level of `studio`: base classes of everything a folder may
# hold.
_LOADABLE = ("ModelMixin", "DecodingStrategy", "CaptionTokenizer", "DiffusionPipeline")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ("*.json", "*.safetensors", "*.txt", "LICENSE*", "README.md")


# --- diffusers' tables ---------------------------------------------------------------------------


def register() -> None:
    """Makes diffusers record our components as library "studio" and find them again. Runs when a
    pipeline class is imported; calling it again changes nothing."""
    from diffusers.pipelines import pipeline_loading_utils as tables

    classes = {name: _METHODS for name in _LOADABLE}
    tables.LOADABLE_CLASSES["studio"] = classes
    tables.ALL_IMPORTABLE_CLASSES.update(classes)


def register_with_diffusers() -> None:
    """Lets plain `diffusers.DiffusionPipeline.from_pretrained` open our folders.

    Sets our pipeline classes on the `diffusers` module and enters text-to-image in its auto
    pipeline. diffusers loads less strictly than we do: `studio.Pipeline` is the way to be sure.
    """
    import diffusers
    from diffusers.pipelines import auto_pipeline

    register()
    for name in CLASSES:
        if name.endswith("Pipeline") and name != "Pipeline":
            setattr(diffusers, name, find_class(name))
    mapping = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    # Its type, which is inferred, allows only the keys that it has.
    mapping["studio"] = find_class("TextToImagePipeline")  # pyright: ignore[reportArgumentType]


def import_diffusers() -> None:
    """Imports torch and what we use of diffusers in half the time; for commands, at their start.

    Four things that diffusers does on the way are put off until somebody needs them: importing
    `torch._dynamo` (for `torch.compile` only), importing transformers where it is installed,
    importing every diffusers model (its pipeline base wants one class for one isinstance), and
    listing the files of every installed distribution. Does nothing when diffusers is imported
    already. Lost in such a process: what diffusers marks for torch.compile (`allow_in_graph`,
    `disable`) in its own blocks and hooks, and pipelines with parts from transformers, which we
    have none of.
    """
    if "diffusers" in sys.modules:
        return
    from importlib import metadata

    import torch

    look_up = metadata.packages_distributions
    metadata.packages_distributions = lambda: _LatePackages(look_up)
    stand_in = type(torch)("torch._dynamo")
    stand_in.allow_in_graph = lambda value: value
    stand_in.disable = lambda fn=None, recursive=True, **_: fn or (lambda inner: inner)
    put_off = "torch._dynamo" not in sys.modules
    if put_off:
        sys.modules["torch._dynamo"] = stand_in
    late = "transformers" not in sys.modules
    if late:
        sys.modules["transformers"] = None  # pyright: ignore # importing it raises ImportError
    try:
        import diffusers

        # Where transformers is installed, diffusers imports its models, which want the real
        # torch._dynamo.
        importlib.import_module("diffusers.utils.import_utils")._transformers_available = False
        _ = diffusers.ModelMixin
        models = importlib.import_module("diffusers.models")
        models.AutoencoderKL = _put_off_autoencoder()
        _ = diffusers.DiffusionPipeline
        del models.AutoencoderKL
        importlib.import_module("diffusers.hooks")  # `pipe.to` imports it, and it torch._dynamo
        _ask_dynamo_only_when_loaded()
    finally:
        metadata.packages_distributions = look_up
        if late:
            del sys.modules["transformers"]
        if put_off:
            del sys.modules["torch._dynamo"]
            vars(torch).pop("_dynamo", None)


class _LatePackages(Mapping):
    """Which distributions hold which package, read when first asked: it reads every installed
    one's list of files."""

    def __init__(self, look_up):
        self._look_up = functools.cache(look_up)

    def __getitem__(self, name):
        return self._look_up()[name]

    def __iter__(self):
        return iter(self._look_up())

    def __len__(self):
        return len(self._look_up())


def _ask_dynamo_only_when_loaded() -> None:
    """Makes pipelines ask whether a part is compiled without importing `torch._dynamo` to find out:
    what compiles has imported it."""
    for name in ("pipeline_utils", "pipeline_loading_utils"):
        module = importlib.import_module(f"diffusers.pipelines.{name}")
        ask = module.is_compiled_module
        module.is_compiled_module = lambda part, ask=ask: (
            "torch._dynamo" in sys.modules and ask(part)
        )


def _put_off_autoencoder() -> type:
    """A class that stands for diffusers' AutoencoderKL in isinstance checks, and imports it
    then."""

    class Meta(type):
        def __instancecheck__(cls, instance):
            return isinstance(instance, importlib.import_module("diffusers").AutoencoderKL)

    return Meta("AutoencoderKL", (), {})


# --- names ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo:
    """One model that can be loaded by name: its folder, pipeline class, kinds of generator (the
    default first), tokenizer class and size on disk in bytes."""

    name: str
    folder: Path
    pipeline: str
    generators: tuple[str, ...]
    tokenizer: str
    bytes: int


def bundled_names() -> list[str]:
    """Names of the models that came with the package."""
    if not PRETRAINED.is_dir():
        return []
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{INDEX}"))


def pretrained_folder(name: str) -> Path:
    """The folder of a bundled model or network. Raises ValueError when there is none of that
    name."""
    folder = PRETRAINED / name
    if not re.fullmatch(r"[\w-][\w.-]*", name) or not folder.is_dir():
        raise ValueError(f"model {name!r} is not bundled; bundled: {_bundled()}")
    return folder


def list_models(folder: str | Path | None = None) -> list[ModelInfo]:
    """The bundled models, then those in `folder` (itself or its subfolders); what can't be read is
    left out."""
    folders = [PRETRAINED / name for name in bundled_names()]
    if folder is not None:
        folders += sorted(
            p.parent for p in [*Path(folder).glob(INDEX), *Path(folder).glob(f"*/{INDEX}")]
        )
    found = []
    for path in folders:
        with contextlib.suppress(ValueError):
            found.append(_describe(path))
    return found


def _describe(folder: Path) -> ModelInfo:
    index = read_index(folder)
    kinds = [generator_kind(folder, f"generator{ending}") for ending in ENDINGS]
    tokenizer = index.get("tokenizer")
    return ModelInfo(
        name=folder.name,
        folder=folder,
        pipeline=index["_class_name"],
        generators=tuple(dict.fromkeys(kind for kind in kinds if kind)),
        tokenizer=str(tokenizer[1]) if isinstance(tokenizer, list) else "",
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def find_folder(
    name: str | Path, *, revision: str | None = None, local_files_only: bool = False, **options
) -> Path:
    """The folder that a bundled name, a folder or a Hub id stands for; a Hub id is downloaded.

    Args:
        name: tried in this order: a bundled name, a folder, a Hub id (owner/name).
        revision, local_files_only: as in `huggingface_hub.snapshot_download`; for Hub ids only.
        options: `token`, `cache_dir`, `force_download` and the like, passed on.

    Raises:
        ValueError: nothing is found.
    """
    text = str(name)
    if text in bundled_names():
        return PRETRAINED / text
    if os.path.isdir(text):
        return Path(text)
    if not _HUB_ID.fullmatch(text) or not isinstance(name, str):
        raise ValueError(
            f"model {text!r} is no bundled name, folder or Hub id (owner/name); "
            f"bundled: {_bundled()}"
        )
    from huggingface_hub import snapshot_download

    try:
        # Not through DiffusionPipeline.download: it fetches only what the index names, so no second
        # generator.
        folder = snapshot_download(
            text,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=list(_FILES),
            **options,
        )
    except Exception as error:  # the Hub's client raises errors of five libraries
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ValueError(
            f"model {text!r} is no bundled name or folder, and as a Hub id it can't be had "
            f"({type(error).__name__}: {reason}); bundled: {_bundled()}"
        ) from error
    return Path(folder)


def _bundled() -> str:
    return ", ".join(bundled_names()) or "none"


def fingerprint(folder: Path) -> str:
    """Twelve hex digits that stand for the very content of a model folder (JSON and weights)."""
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.safetensors")]):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def identity(name: str, folder: Path, revision: str | None = None) -> dict[str, Any]:
    """`model` and `revision` of a request: never a path, and for folders what they really hold.

    Args:
        name: as the user gave it: a bundled name, a folder or a Hub id.
        folder: where it was found.
        revision: of a Hub id, as the user gave it.
    """
    if name in bundled_names():
        return {"model": name, "revision": fingerprint(folder)}
    if Path(name).is_dir():
        word = re.sub(r"[^\w.-]", "-", Path(name).resolve().name, flags=re.ASCII).lstrip(".-")
        return {"model": word or "model", "revision": fingerprint(folder)}
    return {"model": name, "revision": revision}


# --- reading -------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError of one line that names the file by its folder and name."""
    name = f"{path.parent.name}/{path.name}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not readable JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} must hold a JSON object")
    return value


def read_index(folder: Path) -> dict[str, Any]:
    """A pipeline folder's `model_index.json`. Raises ValueError when it is absent, broken or names
    no class."""
    index = read_json(folder / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(f"{folder.name}/{INDEX} names no pipeline class (_class_name)")
    return index


def generator_kind(folder: Path, part: str) -> str | None:
    """ "autoregressive" or "masked", the kind of the generator in `folder/part`; None when there is
    none."""
    if not (folder / part / "config.json").is_file():
        return None
    name = read_json(folder / part / "config.json").get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"{part}: studio.{name} is no class that studio can load")
    return next((word for word, value in KINDS.items() if value == GENERATORS.get(name)), None)


def component_class(library: Any, name: Any, part: str) -> type:
    """The class that an index names for a part. Raises ValueError for anything but our classes and
    diffusers' models."""
    if library == "studio" and isinstance(name, str) and name in CLASSES:
        return find_class(name)
    if library == "diffusers" and isinstance(name, str) and name.isidentifier():
        import diffusers

        cls = getattr(diffusers, name, None)
        if isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin):
            return cls
    raise ValueError(f"{part}: {library}.{name} is no class that studio can load")
