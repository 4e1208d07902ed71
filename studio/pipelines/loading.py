"""Reading the parts of a pipeline folder, strictly: JSON and safetensors alone.

A weight that is missing, left over or of another shape is an error of one line, never a warning:
diffusers leaves a missing parameter on the meta device with a log line. Nothing is unpickled. All
parts are there before a pipeline is made, so nothing is ever half loaded. Leaves out on purpose:
device maps and quantized loading, which plain diffusers offers for the same folders.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from studio.hub import ENDINGS, KINDS, component_class, generator_kind, read_index, read_json

WEIGHTS = "diffusion_pytorch_model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load_parts(
    cls: type,
    names: list[str],
    folder: Path,
    *,
    generator: str | None = None,
    dtype: torch.dtype | dict[str, torch.dtype] | None = None,
    variant: str | None = None,
    given: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All parts of a pipeline of class `cls` from a folder.

    Args:
        names: the parts that `cls` needs; those it can do without are None where the folder's index
            does not name them.
        generator: "autoregressive" or "masked"; None takes the folder's default.
        dtype: of the weights, or one a part with a "default"; float32 when None.
        given: parts that are there already, taken as they are.

    Raises:
        ValueError: one line, whatever is wrong.
    """
    index, given = read_index(folder), given or {}
    listed = [k for k, v in index.items() if not k.startswith("_") and isinstance(v, list)]
    unknown = sorted(set(listed) - set(names))
    if index["_class_name"] == cls.__name__ and unknown:
        raise ValueError(
            f"{folder.name}/model_index.json names {unknown[0]}, no part of {cls.__name__}"
        )
    ending = generator_ending(folder, generator) if generator else ""
    parts = {}
    for name in names:
        if name in given:
            parts[name] = given[name]
            continue
        if name in cls._optional_components and not index.get(name):
            parts[name] = None
            continue
        place = name + ending if name in ("generator", "decoding") else name
        part_class = _part_class(index, folder, name, place, cls)
        wanted = dtype.get(name, dtype.get("default")) if isinstance(dtype, dict) else dtype
        parts[name] = load_component(part_class, folder / place, dtype=wanted, variant=variant)
    return parts


def generator_ending(folder: Path, generator: str) -> str:
    """The ending ("" for the default) of the folder that holds a generator of a kind.

    Raises:
        ValueError: there is none, or the kind is none that we know.
    """
    if generator not in KINDS:
        raise ValueError(f"generator {generator!r} must be one of {', '.join(KINDS)}")
    kinds = {ending: generator_kind(folder, f"generator{ending}") for ending in ENDINGS}
    for ending, kind in kinds.items():
        if kind == generator:
            return ending
    there = ", ".join(kind for kind in kinds.values() if kind) or "none"
    raise ValueError(f"generator {generator!r} is not in model {folder.name!r}; there: {there}")


def _part_class(index: dict, folder: Path, name: str, place: str, cls: type) -> type:
    """The class of a part: from the index, or from its own config where it stands beside the
    default."""
    entry = index.get(name)
    if not isinstance(entry, list) or len(entry) != 2 or entry[0] is None:
        raise ValueError(f"{folder.name}/model_index.json lacks {name}, which {cls.__name__} needs")
    if place == name:
        return component_class(entry[0], entry[1], name)
    file = "decoding_config.json" if name == "decoding" else "config.json"
    return component_class("studio", read_json(folder / place / file).get("_class_name"), place)


def load_component(cls: type, folder: Path, *, dtype: torch.dtype | None = None, variant=None):
    """One part of a pipeline from its folder, strictly.

    Raises:
        ValueError: one line that begins with the folder's name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder.name}: folder is missing in {folder.parent.name}")
    if issubclass(cls, ModelMixin):
        return load_model(cls, folder, dtype=dtype, variant=variant)
    try:
        return cls.from_pretrained(folder)
    except Exception as error:  # a tokenizer library raises bare Exceptions
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            line if line.startswith(folder.name) else f"{folder.name}: {line}"
        ) from error


def load_model(cls: type, folder: Path, *, dtype: torch.dtype | None = None, variant=None):
    """A network with its weights, in evaluation mode.

    Args:
        dtype: of the weights; float32 when None, whatever the file holds.
        variant: read `diffusion_pytorch_model.<variant>.safetensors`.

    Raises:
        ValueError: one line: a broken config; a file that is absent, cut short or a pickle; a key
            that is missing, left over or of another shape.
    """
    config = read_json(folder / "config.json")
    if config.get("_class_name") != cls.__name__:
        raise ValueError(f"{folder.name}/config.json is not of a {cls.__name__}")
    options = {k: v for k, v in config.items() if not k.startswith("_")}
    weights = read_weights(folder, variant=variant)
    try:
        with _NoRandomFills():
            model = cls(**options)
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{folder.name}/config.json does not fit {cls.__name__}: {line}"
        ) from error
    check_weights(model.state_dict(), weights, folder.name)
    dtype = dtype or torch.float32
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    for module in model.modules():  # the buffers that are in no file
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[key] = buffer.to(dtype)
    return model.eval()


def check_weights(expected: dict, found: dict, name: str) -> None:
    """Raises ValueError unless both hold the same keys with the same shapes."""
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    for keys, word in ((missing, "lacks"), (unexpected, "has unexpected")):
        if keys:
            first, more = min(keys), len(keys) - 1
            raise ValueError(
                f"{name}: the weight file {word} {first}" + (f" and {more} more" if more else "")
            )
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise ValueError(
                f"{name}: {key} has shape {tuple(found[key].shape)} in the weight file, "
                f"config.json wants {tuple(tensor.shape)}"
            )


def read_weights(folder: Path, *, variant: str | None = None) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, from one safetensors file or several with an index."""
    stem = WEIGHTS + (f".{variant}" if variant else "")
    single = folder / f"{stem}.safetensors"
    parts = folder / (WEIGHTS + ".safetensors.index" + (f".{variant}" if variant else "") + ".json")
    if not single.is_file() and parts.is_file():
        return _read_shards(folder, parts)
    if not single.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        hint = (
            f" ({pickles[0]} is a pickle, which is never read: see studio convert)"
            if pickles
            else ""
        )
        raise ValueError(f"{folder.name}: {single.name} is missing{hint}")
    return read_safetensors(single)


def _read_shards(folder: Path, index: Path) -> dict[str, torch.Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ValueError(f"{folder.name}/{index.name} has no weight_map")
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder.name}/{index.name} names the file {name!r}")
        if not (folder / name).is_file():
            raise ValueError(f"{folder.name}: {name} is missing")
        weights |= read_safetensors(folder / name)
    return weights


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file. Raises ValueError for a file that is cut short, a pickle
    or something else."""
    name = f"{path.parent.name}/{path.name}"
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(9)
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise ValueError(f"{name} is a pickle, not safetensors; pickles are never read")
    if size < 9 or struct.unpack("<Q", head[:8])[0] > size - 8:
        raise ValueError(f"{name} is cut short or is not safetensors ({size} bytes)")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{name} is cut short or broken ({size} bytes): {error}") from error


class _NoRandomFills(TorchFunctionMode):
    """A context of this thread in which weights are not initialised at random, as they are read
    from a file at once. Leaves torch's global random state alone."""

    _FILLS = (
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.Tensor.erfinv_,
        torch.nn.init.normal_,
        torch.nn.init.uniform_,
        torch.nn.init.trunc_normal_,
        torch.nn.init.kaiming_uniform_,
        torch.nn.init.kaiming_normal_,
    )
    _DRAWS = (torch.randn, torch.rand)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        if func in self._DRAWS:
            return torch.zeros(*args, **{k: v for k, v in kwargs.items() if k != "generator"})
        return func(*args, **kwargs)
