"""What this machine has: optional packages, fonts, a GPU, bundled models.

Every optional package is imported through `probe` or `need`, since a wheel built for another torch
fails with OSError or RuntimeError, not with ImportError. `doctor` looks at each package in a
process of its own, so that a package that takes the interpreter down is reported as well. Leaves
out on purpose: installing anything.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

DISTRIBUTION = "token-studio"
PRETRAINED = Path(__file__).parent / "pretrained"

FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
)

# Optional import name -> (extra that brings it, what it is for).
OPTIONAL: dict[str, tuple[str, str]] = {
    "emoji": ("train", "captions of the emoji data set"),
    "tensorboard": ("train", "training curves"),
    "scipy": ("eval", "metrics"),
    "skimage": ("eval", "metrics"),
    "matplotlib": ("eval", "plots of curves"),
    "plotly": ("eval", "curves in reports"),
    "pesq": ("speech", "PESQ of speech"),
    "pystoi": ("speech", "STOI of speech"),
    "soundfile": ("audio", "reading sound, and writing anything but WAV"),
    "torchaudio": ("audio", "resampling"),
    "av": ("video", "reading and writing video"),
    "imageio_ffmpeg": ("video", "comparing with other codecs"),
    "streamlit": ("app", "the studio in a browser"),
    "xformers": ("gpu", "memory-efficient attention on a GPU"),
    "ray": ("ray", "rendering over several machines"),
}
REQUIRED = (
    "torch",
    "diffusers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "tokenizers",
    "numpy",
    "PIL",
    "yaml",
)
# Distributions whose name differs from the import's.
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image"}
# Not needed by us, yet a build of it for another torch breaks `import diffusers`.
_MEDDLING = {"torchvision": "torchvision==0.26.*", "torchaudio": "torchaudio==2.11.*"}


@dataclass(frozen=True)
class Probe:
    """The state of one package: `ok` when it imports, its `version`, else one line of `error`."""

    name: str
    ok: bool
    version: str | None = None
    error: str | None = None

    @property
    def installed(self) -> bool:
        """True when it is on the disk, working or not."""
        return self.version is not None


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(_DISTRIBUTIONS.get(name, name))
    except metadata.PackageNotFoundError:
        return None


def _one_line(error: BaseException | str) -> str:
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    lines = str(error).strip().splitlines()
    return (kind + (lines[-1] if lines else "no message"))[:200]


@cache
def probe(name: str) -> Probe:
    """Import `name` here and say how that went. Never raises; asked once a process."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Probe(name, False, _version(name), _one_line(error))
    return Probe(name, True, _version(name))


def need(name: str, *, extra: str) -> ModuleType:
    """The optional package `name`, imported.

    Args:
        name: import name.
        extra: our extra that brings it, named in the error.

    Raises:
        ImportError: one line with what failed and the pip line that mends it.
    """
    state = probe(name)
    if not state.ok:
        what = "does not work here" if state.installed else "is not installed"
        raise ImportError(f"{name} {what} ({state.error}); run: {mend(extra)}")
    return importlib.import_module(name)


def mend(extra: str | None = None) -> str:
    """The pip line that installs an extra, or the core: from the checkout when this is one."""
    checkout = (Path(__file__).parent.parent / "pyproject.toml").is_file()
    name = ("-e", ".") if checkout else ("", DISTRIBUTION)
    what = f'"{name[1]}[{extra}]"' if extra else name[1]
    return " ".join(filter(None, ["pip install", name[0], what]))


def probe_apart(name: str, *, timeout: float = 120.0) -> Probe:
    """Like `probe`, in a process of its own: survives crashes and hangs of the package."""
    version = _version(name)
    if version is None:
        return Probe(name, False, None, "not installed")
    command = [sys.executable, "-P", "-c", f"import {name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Probe(name, False, version, f"import takes more than {timeout:.0f} s")
    if done.returncode == 0:
        return Probe(name, True, version)
    return Probe(name, False, version, _one_line(done.stderr or f"exit {done.returncode}"))


def emoji_font() -> Path | None:
    """The Noto Color Emoji font file where systems put it, or None."""
    return next((Path(path) for path in FONT_PATHS if Path(path).is_file()), None)


def bundled_models() -> list[str]:
    """Names of the model folders that came with the package, sorted."""
    if not PRETRAINED.is_dir():
        return []
    folders = (path for path in PRETRAINED.iterdir() if path.is_dir())
    marks = ("model_index.json", "config.json")
    return sorted(path.name for path in folders if any((path / m).is_file() for m in marks))


def _machine() -> dict[str, str]:
    """Facts about the interpreter, torch and its devices. Imports torch."""
    facts = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    if not probe("torch").ok:
        return facts | {"gpu": "unknown: torch does not work"}
    import torch

    facts["CPU threads"] = f"{torch.get_num_threads()} used by torch, {os.cpu_count()} present"
    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        facts["gpu"] = f"{torch.cuda.get_device_name(0)}, {gib:.0f} GiB"
    elif torch.backends.mps.is_available():
        facts["gpu"] = "Apple GPU (mps)"
    else:
        facts["gpu"] = "none: everything runs on the CPU"
    return facts


@dataclass(frozen=True)
class Report:
    """What `studio doctor` shows.

    Args:
        machine: facts by name.
        required, optional: one `Probe` a package.
        font: path of the emoji font, or None.
        models: names of the bundled models.
        mends: lines that mend what does not work, the needed ones first.
        ok: True when everything that the core needs works.
    """

    machine: dict[str, str]
    required: list[Probe]
    optional: list[Probe]
    font: str | None
    models: list[str]
    mends: list[str]
    ok: bool


def doctor() -> Report:
    """Look at everything; takes some seconds, since each installed package is imported apart."""
    from concurrent.futures import ThreadPoolExecutor

    names = [*REQUIRED, *OPTIONAL, *(n for n in _MEDDLING if n not in OPTIONAL)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        states = dict(zip(names, pool.map(probe_apart, names), strict=True))
    required = [states[name] for name in REQUIRED]
    optional = [
        states[n] for n in names if n in OPTIONAL or (n in _MEDDLING and states[n].installed)
    ]
    font, models = emoji_font(), bundled_models()
    return Report(
        machine=_machine(),
        required=required,
        optional=optional,
        font=font.name if font else None,
        models=models,
        mends=_mends(required, optional, font, models),
        ok=all(state.ok for state in required) and bool(models),
    )


def _mends(required, optional, font, models) -> list[str]:
    lines = [
        f"{state.name} is needed: {mend()} --force-reinstall" for state in required if not state.ok
    ]
    if not models:
        lines.append(f"no bundled model: {mend()} --force-reinstall")
    for state in optional:
        if state.ok:
            continue
        if state.installed and state.name in _MEDDLING:
            spec = _MEDDLING[state.name]
            lines.append(f'{state.name} is built for another torch: pip install "{spec}"')
        elif state.name in OPTIONAL:
            extra, purpose = OPTIONAL[state.name]
            lines.append(f"{state.name} ({purpose}): {mend(extra)}")
    if font is None:
        lines.append(
            "emoji font (training, tests): apt-get install fonts-noto-color-emoji libraqm0"
        )
    return lines
