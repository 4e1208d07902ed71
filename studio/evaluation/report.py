"""Figures as files: JSON with the hardware in it, contact sheets, the curve of bytes against
quality."""

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio.env import need
from studio.evaluation.features import NOTE
from studio.media.files import atomic_path, atomic_write
from studio.media.image import to_pil


def hardware() -> dict[str, Any]:
    """What figures were measured on: processor, cores, GPU, versions; nothing that names the
    machine."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"model name\s*:\s*(.+)", text)
    return " ".join(names[0].split()) if names else platform.machine()


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, ValueError, OSError):
        return None


def hardware_name(facts: dict[str, Any]) -> str:
    """A short name for file names, for example "cpu-2-cores" or "nvidia-h100"."""
    name = facts.get("gpu") or f"cpu-{facts['cores']}-cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def hardware_line(facts: dict[str, Any]) -> str:
    """The hardware in a few words, for texts."""
    gpu = f"{facts['gpu']}; " if facts.get("gpu") else ""
    return f"{gpu}{facts['processor']}, {facts['cores']} cores, torch {facts['torch']}"


def write_figures(path: str | Path, figures: dict[str, Any]) -> Path:
    """Figures as JSON, whole or not at all, with the hardware and what the features are."""
    known = {"note": NOTE, "hardware": hardware()}
    return atomic_write(path, json.dumps({**known, **figures}, indent=1, ensure_ascii=False) + "\n")


def read_figures(path: str | Path) -> dict[str, Any]:
    """What `write_figures` wrote; an empty dictionary when there is no file."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def contact_sheet(images: torch.Tensor, *, columns: int = 8, gap: int = 2) -> Image.Image:
    """Pictures (n, 3, H, W) in [-1, 1] side by side, row after row, with white gaps of some
    pixels."""
    height, width = images.shape[-2:]
    rows = -(-len(images) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for place, image in enumerate(images):
        corner = (place % columns * (width + gap), place // columns * (height + gap))
        sheet.paste(to_pil(image), corner)
    return sheet


def plot_curve(path: str | Path, tokenizer: dict[str, Any], codecs: dict[str, Any]) -> Path:
    """Bytes against PSNR and against feature distance, as PNG.

    Args:
        tokenizer, codecs: of `evaluate_tokenizer` and `evaluate_codecs` over the same pictures.

    Raises:
        ImportError: matplotlib is missing; the message has the line that installs it.
    """
    need("matplotlib", extra="eval")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = {"psnr": "PSNR, dB (higher is better)", "fd": "feature distance (lower is better)"}
    for place, (key, label) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 2, place + 1)
        ours = tokenizer["lengths"]
        axes.plot([r["bytes"] for r in ours], [r[key] for r in ours], "k-o", lw=2, label="tokens")
        for number, (codec, both) in enumerate(codecs["codecs"].items()):
            for style, name in (("-", "with_headers"), (":", "without_headers")):
                x, y = zip(*sorted({(r["bytes"], r[key]) for r in both[name]}), strict=True)
                label_text = f"{codec.upper()}, {name.replace('_', ' ')}"
                axes.plot(x, y, f"C{number}", ls=style, marker=".", label=label_text)
        axes.set(xscale="log", xlabel="bytes a picture", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(
        f"{tokenizer['pictures']} pictures of {tokenizer['size']} px; {NOTE}", fontsize=9
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)
