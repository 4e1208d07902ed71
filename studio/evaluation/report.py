"""Figures as files. `Report` is the one form of every evaluation, of pictures, sound and video:
JSON, CSV and a page (report_page.py).

An evaluator fills rows (one a model and setting), says what the columns mean, which curves to draw
over them and which media to show; writing, reading and the page know nothing of its medium. Beside
it stand figures with the hardware in them, contact sheets, and the plot in a card.
"""

import csv
import dataclasses
import io
import json
import math
import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from studio.env import need
from studio.evaluation.features import NOTE
from studio.media.files import atomic_path, atomic_write
from studio.media.image import to_pil

FORMAT = 1
JSON_NAME, CSV_NAME, PAGE_NAME = "report.json", "report.csv", "index.html"
MEDIA = "media"  # the folder beside the report that its media stand in


@dataclass(frozen=True)
class Column:
    """What stands in a column of rows.

    Args:
        key: in the rows. label, unit: for readers.
        better: "higher", "lower" or "" where neither is.
        about: how it is measured, in one line.
        digits: after the point, on the page.
    """

    key: str
    label: str
    unit: str = ""
    better: str = ""
    about: str = ""
    digits: int = 3


@dataclass(frozen=True)
class Curve:
    """A plot of rows: one column over another.

    Args:
        x, y: keys of columns. Rows that lack one are left out.
        colour: key of what gives a line its colour and name.
        dash: key of what gives a line its dashes, or None.
        panel: key whose values get a plot each, or None.
        log_x: a logarithmic axis.
    """

    x: str
    y: str
    colour: str = "subject"
    dash: str | None = None
    panel: str | None = None
    log_x: bool = False


@dataclass(frozen=True)
class Cell:
    """One medium that is shown: `file` in the report's folder (picture, sound or clip, by its
    ending; None shows words alone), what it is, a caption, and a `picture` of it to stand above."""

    label: str
    file: str | None = None
    caption: str = ""
    picture: str | None = None


@dataclass(frozen=True)
class Exhibit:
    """Media side by side, a row an original."""

    title: str
    rows: list[list[Cell]]
    note: str = ""


@dataclass
class Report:
    """An evaluation; `report_page.write_report` puts it into a folder.

    Args:
        title: of the page.
        medium: "image", "speech", "video", ...
        columns: in the order of the table; the first ones say what a row is about.
        rows: plain JSON values by column keys; `subject` is the model's name, and rows of another
            `group` stand in a table of their own. Missing keys, None and numbers that are not
            finite are empty cells.
        curves, exhibits: what the page draws and shows.
        facts: plain JSON values: data, number, settings.
        notes: what readers must know, in sentences.
    """

    title: str
    medium: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    curves: list[Curve] = field(default_factory=list)
    exhibits: list[Exhibit] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """JSON of all fields, with `format`; what is not finite is null."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(_finite(values), indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A line a row, all columns."""
        file = io.StringIO()
        keys = [column.key for column in self.columns]
        writer = csv.DictWriter(file, keys, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_finite(self.rows))
        return file.getvalue()


def read_report(folder: str | Path) -> Report:
    """The report in a folder. Raises ValueError when there is none that can be read."""
    path = Path(folder) / JSON_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        values["columns"] = [Column(**v) for v in values["columns"]]
        values["curves"] = [Curve(**v) for v in values["curves"]]
        values["exhibits"] = [
            Exhibit(**{**v, "rows": [[Cell(**c) for c in row] for row in v["rows"]]})
            for v in values["exhibits"]
        ]
        return Report(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is no report of format {FORMAT}") from error


def _finite(value: Any) -> Any:
    """Plain values with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
