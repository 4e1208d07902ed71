"""The models that can be used here, and the one that is loaded.

A visitor names a model; what is opened is a bundled folder, a folder in the workspace's `models`, a
folder that whoever started the app put on the list, or a Hub id that is on this disk already. No
other path is ever opened. Loaded pipelines are kept, the least recently used one goes first.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio import hub
from studio.env import PRETRAINED
from studio.registry import CLASSES, find_class
from studio.server.workspace import Workspace

# What tokenizers are for that are not for pictures; asking their classes would load torch.
_TOKENIZERS = {
    "audio": ("WavTokenizer", "SpectralTokenizer", "LanguageCodec", "Vocos"),
    "video": ("CosmosTokenizer", "OmniTokenizer", "LARPTokenizer", "HiTVideoTokenizer"),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")


@dataclass(frozen=True)
class Entry:
    """A model on the list.

    Args:
        name: what visitors call it.
        folder: where it is.
        origin: "bundled", "workspace", "folder" or "hub".
        pipeline, tokenizer: classes; "" for none.
        generators: kinds, the default first; none for a tokenizer alone.
        medium: "image", "audio" or "video".
        bytes: on disk.
    """

    name: str
    folder: Path
    origin: str
    pipeline: str
    tokenizer: str
    generators: tuple[str, ...]
    medium: str
    bytes: int

    @property
    def words(self) -> bool:
        """Whether it makes things from words, not from classes."""
        return self.pipeline != "ClassToImagePipeline"

    @property
    def generates(self) -> bool:
        """Whether it makes anything."""
        return bool(self.generators)


@dataclass
class Opened:
    """A loaded model: its pipeline, its entry, and `model` and `revision` of requests."""

    pipe: Any
    entry: Entry
    identity: dict[str, Any]


class Keeper:
    """Finds, loads and keeps models.

    Args:
        workspace: whose `models` are on the list.
        keep: how many stay loaded.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: of the weights of generators: "float32", "bfloat16" or "float16". Tokenizers, which
            are small beside them, stay in float32.
        folders: more folders of models, or folders that hold some.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        keep: int = 1,
        device: str = "auto",
        dtype: str = "float32",
        folders: Iterable[str | Path] = (),
    ):
        self._workspace, self._keep, self._device = workspace, max(1, keep), device
        self._dtype = dtype
        self._folders = [Path(folder).resolve() for folder in folders]
        self._opened: OrderedDict[tuple, Opened] = OrderedDict()
        self._lock = threading.RLock()
        self._listed: tuple[list, list[Entry]] = ([], [])  # when last looked at, and what was there

    # --- the list --------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All models here: bundled ones, then the workspace's and the other folders', then what
        came from the Hub. Read anew when a folder of models, or one in it, has changed."""
        stamp = self._stamp()
        if self._listed[0] != stamp:
            self._listed = (stamp, self._read_entries())
        return list(self._listed[1])

    def _stamp(self) -> list[tuple[str, int]]:
        """Paths and times that differ when a model came or went."""
        roots = (PRETRAINED, self._workspace.folder / "models", *self._folders)
        places = [place for root in roots for place in (root, *root.glob("*"))]
        return [_changed(place) for place in (*places, self._workspace.folder / "hub.json")]

    def _read_entries(self) -> list[Entry]:
        bundled = hub.list_models()
        found = {info.name: _entry(info.name, info, "bundled") for info in bundled}
        for folder in (self._workspace.folder / "models", *self._folders):
            origin = "folder" if folder in self._folders else "workspace"
            for info in hub.list_models(folder)[len(bundled) :]:
                if not info.name.startswith("."):
                    found.setdefault(info.name, _entry(info.name, info, origin))
        for folder in (self._workspace.folder / "models", *self._folders):
            origin = "folder" if folder in self._folders else "workspace"
            for entry in _lone_tokenizers(folder, origin):
                if not entry.name.startswith("."):
                    found.setdefault(entry.name, entry)
        for entry in self._from_hub():
            found.setdefault(entry.name, entry)
        return list(found.values())

    def find(self, name: str) -> Entry:
        """The model of a name. Raises ValueError with the names that there are."""
        entries = self.entries()
        for entry in entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in entries)
        raise ValueError(f"model {ascii(name)[:60]} is not here; there are: {known}")

    def _from_hub(self) -> list[Entry]:
        """Models that were fetched here by name, and are still in the Hub's cache."""
        names = self._workspace.read_json("hub.json", [])
        found = []
        for name in names if isinstance(names, list) else []:
            try:
                folder = hub_folder(name, local_files_only=True)
                (info,) = [i for i in hub.list_models(folder) if i.folder == folder]
                found.append(_entry(name, info, "hub"))
            except ValueError:
                continue
        return found

    def fetch(self, name: str) -> Entry:
        """Downloads a model from the Hub and puts it on the list.

        Raises:
            ValueError: one line: no Hub id, not to be had, or none of ours.
        """
        folder = hub_folder(name)
        hub.read_index(folder)
        names = self._workspace.read_json("hub.json", [])
        names = [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
        self._workspace.write_json("hub.json", sorted({*names, name}))
        return self.find(name)

    def remove(self, name: str) -> None:
        """Deletes a model of the workspace, or takes one of the Hub off the list. Raises ValueError
        for others."""
        entry = self.find(name)
        if entry.origin == "workspace":
            self.free()
            shutil.rmtree(self._workspace.place("models", entry.folder.name))
        elif entry.origin == "hub":
            names = self._workspace.read_json("hub.json", [])
            self._workspace.write_json("hub.json", [n for n in names if n != name])
        else:
            raise ValueError(f"model {name!r} is {entry.origin} and stays")

    # --- loading ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Imports what loading needs, which takes seconds; for the worker's start."""
        with self._lock:
            hub.import_diffusers()
            find_class("Pipeline")
        collect()

    def open(self, name: str, generator: str | None = None) -> Opened:
        """A model, loaded now unless it is kept. To be used in the worker's thread alone.

        Args:
            name: of an entry.
            generator: "autoregressive" or "masked"; its default when None.

        Raises:
            ValueError: one line: it is not here, or can't be loaded.
        """
        entry = self.find(name)
        if generator is None and entry.generators:
            generator = entry.generators[0]
        key = (str(entry.folder), generator)
        with self._lock:
            if key in self._opened:
                self._opened.move_to_end(key)
                return self._opened[key]
            while len(self._opened) >= self._keep:
                self._opened.popitem(last=False)
                empty_cache()
            opened = self._load(entry, generator)
            collect()
            self._opened[key] = opened
            return opened

    def open_tokenizer(self, name: str) -> Opened:
        """A model for its tokenizer: one that is loaded with any generator will do."""
        entry = self.find(name)
        with self._lock:
            for key, opened in reversed(self._opened.items()):
                if key[0] == str(entry.folder):
                    return opened
        return self.open(name)

    def loaded(self) -> list[tuple[str, int]]:
        """Names and bytes of the weights of what is loaded."""
        with self._lock:
            return [
                (" ".join([o.entry.name, key[1] or ""]).strip(), weight_bytes(o.pipe))
                for key, o in self._opened.items()
            ]

    def free(self) -> None:
        """Lets go of all models."""
        with self._lock:
            self._opened.clear()
        empty_cache()

    def _load(self, entry: Entry, generator: str | None) -> Opened:
        import torch

        hub.import_diffusers()
        name = "Pipeline" if entry.pipeline else "ReconstructionPipeline"
        options: dict[str, Any] = {"generator": generator} if generator else {}
        if entry.generates:
            options["dtype"] = {"generator": getattr(torch, self._dtype)}
        pipe: Any = find_class(name)
        pipe = pipe.from_pretrained(str(entry.folder), **options).to(pick_device(self._device))
        pipe.set_progress_bar_config(disable=True)
        who = str(entry.folder) if entry.origin != "hub" else entry.name
        return Opened(pipe, entry, hub.identity(who, entry.folder))


def hub_folder(name: str, *, local_files_only: bool = False) -> Path:
    """The folder of a Hub id. Raises ValueError for anything else, such as a path that exists."""
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or ".." in name:
        raise ValueError(f"model {ascii(name)[:60]} is no Hub id (owner/name)")
    if os.path.lexists(name):
        raise ValueError(f"model {name!r} is a folder here: put it on the list with --models")
    return hub.find_folder(name, local_files_only=local_files_only)


def pick_device(device: str) -> str:
    """What torch calls a device; "auto" takes a GPU where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def weight_bytes(pipe: Any) -> int:
    """Bytes of all weights of a pipeline."""
    import torch

    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


def collect() -> None:
    """Collects garbage and takes what is left out of later collections: Streamlit makes a full one
    after every run of a page, and with torch and a model in memory each would take 0.3 seconds."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def empty_cache() -> None:
    """Gives memory that nobody uses back."""
    import torch

    collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _changed(path: Path) -> tuple[str, int]:
    try:
        return str(path), path.stat().st_mtime_ns
    except OSError:
        return str(path), 0


def _medium_of(pipeline: str, tokenizer: str) -> str:
    words = {"TextToSpeechPipeline": "audio", "TextToVideoPipeline": "video"}
    names = (medium for medium, known in _TOKENIZERS.items() if tokenizer in known)
    return words.get(pipeline) or next(names, "image")


def _entry(name: str, info: hub.ModelInfo, origin: str) -> Entry:
    medium = _medium_of(info.pipeline, info.tokenizer)
    kinds, size = info.generators, info.bytes
    return Entry(name, info.folder, origin, info.pipeline, info.tokenizer, kinds, medium, size)


def _lone_tokenizers(folder: Path, origin: str) -> Iterator[Entry]:
    """Entries of the folders in one, or itself, that hold a tokenizer alone, as `studio convert`
    and `studio train` write it."""
    if (folder / hub.INDEX).is_file():
        return  # a pipeline; its parts are no models
    for path in sorted([*folder.glob("config.json"), *folder.glob("*/config.json")]):
        try:
            name = str(hub.read_json(path).get("_class_name"))
        except ValueError:
            continue
        if str(CLASSES.get(name)).startswith("studio.tokenizers."):
            place, medium = path.parent, _medium_of("", name)
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            yield Entry(place.name, place, origin, "", name, (), medium, size)
