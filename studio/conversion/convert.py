"""Official checkpoints to our folders: read, translate strictly, write all or nothing.

Tensors are read without running code from the file: safetensors, or torch pickles with
`weights_only`. A tensor that the family does not know, one that is missing, or one of another shape
is refused by its official name. Left out on purpose: downloads, and conversion back to the official
names.
"""

import argparse
import logging
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from studio.conversion import tensors_only
from studio.conversion.family import Family, Source, State, find_family
from studio.conversion.torchscript import read_torchscript
from studio.hub import read_json
from studio.media.files import atomic_folder
from studio.registry import find_class

if TYPE_CHECKING:
    from diffusers import ModelMixin

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
SCRIPTS = (".jit",)
# Entries that hold the weights; the first one there counts.
WRAPPERS = ("ema", "model", "state_dict", "module")
_PREFIXES = ("module.", "_orig_mod.")  # left by wrappers of modules when every key has it
_NAMED_AT_MOST = 6

logger = logging.getLogger(__name__)


def convert(
    file: str | Path,
    family: str,
    out: str | Path,
    config: str | Path | None = None,
) -> Path:
    """Convert one official checkpoint into a folder that `from_pretrained` opens.

    Args:
        file: `.safetensors`, `.pt`, `.pth`, `.ckpt`, `.bin` or `.jit`.
        family: a name from `studio.conversion.family.families`.
        out: the folder to make; it must not exist, or be empty.
        config: the official config as JSON or YAML; when None a `config.json` beside the file, or
            else sizes are read from the shapes where the family can.

    Returns:
        The folder. It is written under another name and renamed when it is whole.

    Raises:
        ValueError: a file that can't be read or holds code, a family, tensor or setting that is not
            known, a tensor that is missing or of another shape, an `out` that is taken or can't be
            written.
    """
    file, out = Path(file), Path(out)
    found = find_family(family)
    if not found.model:
        raise ValueError(f"family {family!r} has no weights to convert")
    _check_out(out)
    state = read_checkpoint(file, trainer_objects=found.trainer_objects)
    source = Source(_read_config(file, config), state, file.name)
    model = build(found, source)
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
    logger.info("converted %s to %s", file, out)
    return out


def read_checkpoint(file: Path, *, trainer_objects: bool = False) -> State:
    """The tensors of a checkpoint under their official names, free of wrappers.

    Args:
        file: see `convert`.
        trainer_objects: pass over objects in a pickle that are neither tensors nor plain values,
            instead of refusing the file. They are not made, and no code of theirs is run.

    Raises:
        ValueError: the file is absent, cut short, of another kind, or holds more than tensors.
    """
    if not file.is_file():
        what = "is a folder, not a weight file" if file.is_dir() else "does not exist"
        raise ValueError(f"file {file} {what}")
    if file.suffix == ".safetensors":
        loaded: Any = read_tensors(file)
    elif file.suffix in PICKLES:
        loaded = _read_pickle(file, trainer_objects)
    elif file.suffix in SCRIPTS:
        loaded = read_torchscript(file)
    else:
        allowed = ", ".join((".safetensors", *PICKLES, *SCRIPTS))
        raise ValueError(f"file {file} has the suffix {file.suffix!r}; allowed: {allowed}")
    return _unwrap(loaded, file)


def read_tensors(file: Path) -> State:
    """The tensors of a safetensors file. Raises ValueError for what can't be read as one."""
    if not file.is_file():
        raise ValueError(f"file {file} does not exist")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        reason = _first_line(error)
        raise ValueError(f"file {file} is cut short or is not safetensors: {reason}") from None


def _read_pickle(file: Path, trainer_objects: bool) -> Any:
    try:
        if trainer_objects:
            return torch.load(
                file, map_location="cpu", weights_only=False, pickle_module=tensors_only
            )
        # Training scripts keep their plain arguments beside the weights; a Namespace runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise nearly anything
        code = re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:global|class)\S* (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            name = (code[1] or code[2]).rstrip(".,")
            raise ValueError(
                f"file {file} holds a pickled object ({name}), not only tensors; "
                "code in a file is never run"
            ) from None
        reason = _first_line(error)
        raise ValueError(f"file {file} is cut short or no torch checkpoint: {reason}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:150] if lines else type(error).__name__


def _unwrap(loaded: Any, file: Path) -> State:
    while isinstance(loaded, dict):
        inner = next((w for w in WRAPPERS if isinstance(loaded.get(w), dict) and loaded[w]), None)
        if inner is None:
            break
        loaded = loaded[inner]
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"file {file} holds no tensors by name")
    odd = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise ValueError(f"file {file} holds entries that are no tensors: {_listed(odd)}")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in loaded):
            loaded = {key.removeprefix(prefix): value for key, value in loaded.items()}
    return loaded


def _read_config(file: Path, config: str | Path | None) -> dict[str, Any] | None:
    path = Path(config) if config is not None else file.parent / "config.json"
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path)
    return read_json(path) if config is not None or path.is_file() else None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"config {path} can't be read: {_first_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"config {path} must be a mapping of names to values")
    return found


def build(family: Family, source: Source) -> "ModelMixin":
    """Our model with the weights of `source`. Raises ValueError for anything that does not fit."""
    try:
        arguments = family.config(source)
        with torch.device("meta"):  # shapes only: every tensor comes from the file
            model = find_class(family.model)(**arguments)
    except ValueError as error:
        raise ValueError(f"{source.name} as {family.name}: {error}") from None
    except (TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        what = f"{type(error).__name__}: {_first_line(error)}"
        raise ValueError(f"the config of {source.name} is none of {family.name}: {what}") from None
    model.load_state_dict(_translate(family, source, model.state_dict()), strict=True, assign=True)
    return model.eval()


def _translate(family: Family, source: Source, expected: State) -> State:
    """The tensors of `source` under our names: exactly those `expected`, in their shapes."""
    official = family.prepare(dict(source.state)) if family.prepare else source.state
    found: dict[str, dict[int, str]] = {}  # our name -> place among its parts -> official name
    unknown, missing, misshapen = [], [], []
    for key in official:
        if family.ignores(key):
            continue
        name, rule = family.rename(key) or ("", None)
        if rule is None or name not in expected or rule.part in found.get(name, {}):
            unknown.append(key)
        else:
            found.setdefault(name, {})[rule.part] = key
    state: State = {}
    for name, wanted in expected.items():
        wants, has = family.origins(name), found.get(name, {})
        missing += [key for part, key in wants.items() if part not in has]
        if len(has) == len(wants):
            keys = [has[part] for part in sorted(has)]
            state[name], fault = _joined(keys, official, wanted)
            misshapen += [fault] if fault else []
    faults = (("unknown", unknown), ("missing", missing), ("of another shape", misshapen))
    texts = "; ".join(f"{what}: {_listed(names)}" for what, names in faults if names)
    if texts:
        raise ValueError(f"{source.name} is not a {family.name} checkpoint; tensors {texts}")
    return _unshared(state)


def _joined(keys: list[str], state: State, wanted: torch.Tensor) -> tuple[torch.Tensor, str]:
    """The tensors called `keys` stacked along the first axis, and what is wrong with it or ""."""
    tensors = [state[key] for key in keys]
    if len({(t.shape[1:], t.dtype) for t in tensors}) == 1:
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        alike = tensor.is_floating_point() == wanted.is_floating_point()
        if alike and tensor.shape == wanted.shape:
            return tensor, ""
    is_ = ", ".join(f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in tensors)
    together = " together" if len(keys) > 1 else ""
    should = f"{str(wanted.dtype)[6:]} {tuple(wanted.shape)}{together}"
    return wanted, f"{' + '.join(keys)} is {is_}, should be {should}"


def _unshared(state: State) -> State:
    """Contiguous tensors with memory of their own, as safetensors wants them."""
    seen: set[int] = set()
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return state


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out {out} exists and is not an empty folder")
