"""What all pipelines share: strict loading, checked parts, atomic saving.

`StudioPipeline` is a `diffusers.DiffusionPipeline`, so `to`, `progress_bar`, `components`,
offloading and `push_to_hub` work as diffusers users know them. What differs: loading is strict and
reads safetensors only, an unknown argument is an error, and a folder is saved whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from studio import hub
from studio.generators.compiled import SIZES, compile_step
from studio.generators.precision import UNSAVED, quantize
from studio.layers.caches import CacheOption, find_cache
from studio.outputs import DecodeStats
from studio.pipelines.loading import load_parts
from studio.registry import CLASSES, find_class

hub.register()


@dataclass
class ImageOutput(BaseOutput):
    """What image pipelines return. Fields that are None vanish from the tuple.

    Args:
        images: PIL images, numpy (B, H, W, 3) or a tensor (B, 3, H, W), the latter two in [0, 1];
            None for `output_type="tokens"`.
        tokens: int64 (B, N), on the CPU.
        stats: what decoding cost; None where nothing was decoded.
    """

    images: Any = None
    tokens: torch.Tensor | None = None
    stats: DecodeStats | None = None


@dataclass
class Preview:
    """A picture on the way, as `stream` yields it.

    Args:
        images: as in `ImageOutput`; what is not known yet is drawn, proposed or filled from its
            neighbours.
        tokens, known: int64 and bool (B, N), copies: the tokens so far and where they are.
        step, num_steps, passes: as in `DecodeState`.
    """

    images: Any
    tokens: torch.Tensor
    known: torch.Tensor
    step: int
    num_steps: int
    passes: int


class _Family(tuple):
    """Classes, of which every subclass is one: `from_pipe` looks for a part's very class."""

    def __contains__(self, cls) -> bool:
        return any(issubclass(cls, base) for base in self)


class StudioPipeline(DiffusionPipeline):
    """Base of all pipelines. A subclass names the classes of its parts in `part_types` and calls
    `register_parts`."""

    medium = "image"  # or "audio", "video"
    part_types: dict[str, type] = {}
    _callback_tensor_inputs = ["tokens", "known"]
    _interrupt = False
    cache: CacheOption = "static"
    folder: Path | None = None  # that it was loaded from

    def register_parts(self, **parts) -> None:
        """Takes the parts over; optional ones may be None.

        Raises:
            ValueError: a part is not of its class in `part_types`.
        """
        for name, part in parts.items():
            expected = self.part_types[name]
            if part is None and name in self._optional_components:
                continue
            if not isinstance(getattr(part, "_orig_mod", part), expected):
                raise ValueError(
                    f"{name} must be a {expected.__name__}, but is a {type(part).__name__}"
                )
        self.register_modules(**parts)

    @staticmethod
    def wake(part: Any) -> Any:
        """`part` itself, on its device: offloading hooks fire in `forward` only, and neither a run
        nor a tokenizer's `encode` and `decode` goes through it."""
        hook = getattr(part, "_hf_hook", None)
        if hook is not None and hasattr(hook, "pre_forward"):
            hook.pre_forward(part)
        return part

    def compile(self, *, mode: str | None = None, backend: str = "inductor", sizes=SIZES):
        """Compiles the generator's step, with static shapes, and CUDA graphs on a GPU; pictures
        stay the same but for rounding. The first picture waits for the compiler.

        Args:
            mode, backend, sizes: see `generators.compiled.compile_step`.

        Returns:
            the pipeline.

        Raises:
            ValueError: there is no generator, or no C++ compiler where one is needed.
        """
        compile_step(self._generator_part("compile"), mode=mode, backend=backend, sizes=sizes)
        return self

    def quantize(self, precision: str = "int8"):
        """Computes the generator's transformer at another precision, for good.

        Args:
            precision: see `generators.precision.PRECISIONS`.

        Returns:
            the pipeline, which can't be saved any more unless `precision` is "bf16".

        Raises:
            ValueError: there is no generator, an unknown precision, or one that is not for it.
        """
        quantize(self._generator_part("quantize"), precision)
        return self

    def use_cache(self, cache: CacheOption = "static"):
        """Keeps keys and values in another kind of cache from now on.

        Args:
            cache: see `layers.caches.find_cache`.

        Returns:
            the pipeline.

        Raises:
            ValueError: an unknown cache, or a generator without one.
        """
        find_cache(cache)
        generator = self._generator_part("use_cache")
        if generator.kind != "ordered":
            raise ValueError(f"cache {cache!r}: an {generator.kind} generator keeps no cache")
        self.cache = cache
        return self

    def _generator_part(self, what: str) -> Any:
        generator = getattr(self, "generator", None)
        if generator is None:
            raise ValueError(f"{what}: a {type(self).__name__} has no generator")
        return generator

    @property
    def interrupt(self) -> bool:
        """True when a callback has set `_interrupt` to stop after the current step."""
        return self._interrupt

    @classmethod
    def part_names(cls) -> list[str]:
        """Names of the parts, sorted."""
        return cls._get_signature_keys(cls)[0]

    @classmethod
    def _get_signature_types(cls) -> dict[str, tuple]:
        return {name: _Family(types) for name, types in super()._get_signature_types().items()}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        generator: Any = None,
        revision: str | None = None,
        dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        torch_dtype: torch.dtype | dict[str, torch.dtype] | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        use_safetensors: bool = True,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        **parts,
    ):
        """Loads a pipeline from a bundled name, a folder or a Hub id.

        Args:
            pretrained_model_name_or_path: tried as a bundled name, then a folder, then a Hub id.
            generator: "autoregressive" or "masked" to pick one of the folder's generators (and its
                strategy), None for the default; or a generator network to use.
            dtype: of the weights; float32 when None, whatever the files hold. `torch_dtype` is its
                old name.
            variant: read `diffusion_pytorch_model.<variant>.safetensors`.
            revision, local_files_only, token, cache_dir, force_download: for Hub ids.
            use_safetensors: must be True.
            parts: parts to use instead of the folder's, such as `decoding=`.

        Raises:
            ValueError: one line: the model is not found, a file is broken, a weight does not fit.
        """
        names = cls.part_names()
        # diffusers' auto pipelines hand on options such as proxies=None.
        unknown = sorted(k for k, v in parts.items() if k not in names and v is not None)
        parts = {k: v for k, v in parts.items() if k in names}
        if unknown:
            raise ValueError(f"{unknown[0]} is no argument of {cls.__name__}.from_pretrained")
        if not use_safetensors:
            raise ValueError("use_safetensors False is not supported: pickles are never read")
        if generator is not None and "generator" not in names:
            raise ValueError(f"generator {generator!r}: {cls.__name__} has no generator")
        if generator is not None and not isinstance(generator, str):
            parts, generator = {**parts, "generator": generator}, None
        name = os.fspath(pretrained_model_name_or_path)
        folder = hub.find_folder(
            name,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
        )
        loaded = load_parts(
            cls,
            names,
            folder,
            generator=generator,
            dtype=dtype if dtype is not None else torch_dtype,
            variant=variant,
            given=parts,
        )
        pipe = cls(**loaded)
        pipe.folder = folder
        if not os.path.isdir(name) or name in hub.bundled_names():
            pipe.register_to_config(_name_or_path=name)  # never a path of this machine
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike, **options) -> None:
        """As diffusers', but every file is written beside its place and moved, `model_index.json`
        last.

        Raises:
            ValueError: a part's class could not be loaded again.
        """
        for name, part in self.components.items():
            if part is not None:
                self._check_saveable(name, getattr(part, "_orig_mod", part))
        if not options.pop("safe_serialization", True):
            raise ValueError("safe_serialization False is not supported: pickles are never written")
        if options.get("push_to_hub"):
            super().save_pretrained(os.fspath(save_directory), **options)
            return
        target = Path(save_directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            super().save_pretrained(temporary, **options)
            self._save_more(Path(temporary))
            files = sorted(path for path in Path(temporary).rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: path.name == hub.INDEX):
                place = target / path.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, place)

    def _save_more(self, folder: Path) -> None:
        """Writes what belongs to a model beside its parts; nothing here."""

    @staticmethod
    def _check_saveable(name: str, part: Any) -> None:
        cls = type(part)
        if getattr(part, "precision", None) in UNSAVED:
            raise ValueError(
                f"{name} was quantized to {part.precision} and can't be saved; save it before"
            )
        ours = cls.__name__ in CLASSES and find_class(cls.__name__) is cls
        if not ours and cls.__module__.split(".")[0] != "diffusers":
            raise ValueError(
                f"{name}: {cls.__module__}.{cls.__name__} can't be saved, as nothing else finds "
                "that class; add it to studio.registry.CLASSES"
            )

    def to_json_string(self) -> str:
        """The text of `model_index.json`, without the name or path that the pipeline was loaded
        from, and without optional parts that are not there."""
        config = self._internal_dict
        absent = [k for k in self._optional_components if getattr(self, k, None) is None]
        kept = {k: v for k, v in config.items() if k not in ("_name_or_path", *absent)}
        self._internal_dict = type(config)(kept)
        try:
            return super().to_json_string()
        finally:
            self._internal_dict = config
