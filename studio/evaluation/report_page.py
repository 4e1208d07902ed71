"""Writing a report: JSON, CSV, and one HTML page that opens offline, with tables, curves and media.

Curves are Plotly charts; its script stands in the page, so nothing is fetched. Light and dark
follow the reader. Without the `eval` extra the page is made without curves and says so.
Everything that came from names of files or models is escaped.
"""

import base64
import html
import json
import math
import mimetypes
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.env import mend, probe
from studio.evaluation.report import (
    CSV_NAME,
    JSON_NAME,
    PAGE_NAME,
    Cell,
    Column,
    Curve,
    Exhibit,
    Report,
)
from studio.media.files import atomic_write

ARROWS = {"higher": "↑", "lower": "↓"}
_STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --text: #20201f; --quiet: #66645f;
  --rule: #e2e0da; --tint: #f1efea; }
@media (prefers-color-scheme: dark) { :root { --paper: #181817; --text: #ecebe7;
  --quiet: #a3a099; --rule: #3b3a37; --tint: #232321; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 78rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p, li { color: var(--quiet); max-width: 52rem; } p { margin: .25rem 0 .75rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; }
th { font-weight: 600; vertical-align: bottom; } td { white-space: nowrap; }
th.word, td.word { text-align: left; }
tr.first td { border-top: 2px solid var(--rule); }
.curves { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); }
.curve { height: 25rem; min-width: 0; }
.row { display: flex; gap: .6rem; margin-bottom: .9rem; align-items: flex-start; }
figure { margin: 0; flex: 0 0 auto; width: 7.6rem; }
figure.sound { width: 18rem; }
figure img, figure video { width: 100%; display: block; border-radius: 4px;
  background: var(--tint); }
figure audio { width: 100%; }
figcaption { font-size: .78rem; line-height: 1.35; color: var(--quiet); overflow-wrap: anywhere; }
figcaption b { color: var(--text); font-weight: 600; }
details { margin-top: .75rem; } summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { figure { width: 6.5rem; } .curves { grid-template-columns: 1fr; } }
"""
# Colours of the page, taken when a chart is drawn and again when the reader's scheme changes.
_DRAW = """
const scheme = matchMedia("(prefers-color-scheme: dark)");
function colours() {
  const style = getComputedStyle(document.documentElement);
  const [text, rule] = ["--text", "--rule"].map(name => style.getPropertyValue(name).trim());
  const axis = {gridcolor: rule, linecolor: rule, zerolinecolor: rule};
  return {font: {color: text}, axis};
}
for (const place of document.querySelectorAll(".curve")) {
  const {data, layout} = JSON.parse(place.querySelector("script").textContent);
  const draw = () => {
    const {font, axis} = colours();
    Plotly.react(place, data, {...layout, font: {...layout.font, ...font},
      xaxis: {...layout.xaxis, ...axis}, yaxis: {...layout.yaxis, ...axis}},
      {responsive: true, displayModeBar: false});
  };
  draw();
  scheme.addEventListener("change", draw);
}
"""
_LINES = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#9d755d", "#eeca3b", "#72b7b2")
_DASHES = ("solid", "dot", "dash", "dashdot")


def curves_missing() -> str:
    """Why a page made here has no curves, in one line; empty when it has."""
    return "" if probe("plotly").ok else f"no curves: plotly is missing; run: {mend('eval')}"


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Writes report.json, report.csv and index.html into a folder, each whole or not at all; the
    media of its exhibits must be there already.

    Returns:
        The three paths.

    Raises:
        OSError: one line, when something can't be written.
    """
    folder = Path(folder)
    return [
        atomic_write(folder / JSON_NAME, report.to_json()),
        atomic_write(folder / CSV_NAME, report.to_csv()),
        atomic_write(folder / PAGE_NAME, make_page(report, folder)),
    ]


def make_page(report: Report, folder: Path) -> str:
    """The page as text; the media of its exhibits are read from `folder`."""
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{_text(report.title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{_text(report.title)}</h1>",
        *(f"<p>{_text(note)}</p>" for note in report.notes),
        _tables(report),
        _curves(report),
        *(_exhibit(exhibit, folder) for exhibit in report.exhibits),
        _meanings(report.columns),
        _facts(report.facts),
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


# --- table ---------------------------------------------------------------------------------------


def shown(value: Any, column: Column) -> str:
    """A cell's text: a dash where there is nothing."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.{column.digits}f}"
    return str(value)


def _tables(report: Report) -> str:
    """A table for each `group` of rows; all but the first are folded."""
    groups = list(dict.fromkeys(row.get("group") for row in report.rows))
    found = ["<h2>Figures</h2>"] if groups else []
    for place, group in enumerate(groups):
        table = _table(report.columns, [r for r in report.rows if r.get("group") == group])
        folded = f"<details><summary>{_text(group)}</summary>{table}</details>"
        found.append(folded if place else table)
    return "\n".join(found)


def _table(columns: list[Column], rows: list[dict[str, Any]]) -> str:
    there = [c for c in columns if any(r.get(c.key) is not None for r in rows)]
    words = {c.key for c in there if any(isinstance(r.get(c.key), str) for r in rows)}
    kinds = {c.key: " class='word'" if c.key in words else "" for c in there}
    head = "".join(f"<th{kinds[c.key]}>{_head(c)}</th>" for c in there)
    lines, last = [], None
    for row in rows:
        first = " class='first'" if last is not None and row.get("subject") != last else ""
        cells = (f"<td{kinds[c.key]}>{_text(shown(row.get(c.key), c))}</td>" for c in there)
        lines.append(f"<tr{first}>{''.join(cells)}</tr>")
        last = row.get("subject")
    body = "\n".join(lines)
    return (
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _head(column: Column) -> str:
    unit = f", {column.unit}" if column.unit else ""
    arrow = f" {ARROWS[column.better]}" if column.better else ""
    return _text(f"{column.label}{unit}{arrow}")


def _meanings(columns: list[Column]) -> str:
    told = [c for c in columns if c.about]
    if not told:
        return ""
    rows = "".join(f"<dt>{_head(c)}</dt><dd>{_text(c.about)}</dd>" for c in told)
    return f"<h2>How it was measured</h2><dl>{rows}</dl>"


def _facts(facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(_plain(v))}</dd>" for k, v in facts.items())
    return f"<h2>Run</h2><dl>{rows}</dl>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)


# --- curves --------------------------------------------------------------------------------------


def _curves(report: Report) -> str:
    if not report.curves:
        return ""
    if missing := curves_missing():
        return f"<h2>Curves</h2><p>{_text(missing)}</p>"
    charts = [chart for curve in report.curves for chart in charts_of(curve, report)]
    if not charts:
        return ""
    from plotly.offline import get_plotlyjs

    places = "\n".join(
        f"<div class='curve'><script type='application/json'>{_for_script(chart)}</script></div>"
        for chart in charts
    )
    scripts = "".join(f"<script>{_closed(text)}</script>" for text in (get_plotlyjs(), _DRAW))
    return (
        "<h2>Curves</h2><noscript><p>Curves need JavaScript.</p></noscript>"
        f"<div class='curves'>{places}</div>{scripts}"
    )


def _closed(script: str) -> str:
    return script.replace("</script", "<\\/script")


def _for_script(chart: dict[str, Any]) -> str:
    return json.dumps(chart, ensure_ascii=False).replace("<", "\\u003c")


def charts_of(curve: Curve, report: Report) -> list[dict[str, Any]]:
    """A Plotly chart (`data`, `layout`) for each panel of a curve that has at least two points."""
    rows = [r for r in report.rows if _number(r.get(curve.x)) and _number(r.get(curve.y))]
    rows = [r for r in rows if not curve.log_x or r[curve.x] > 0]
    lines = list(dict.fromkeys(str(r.get(curve.colour)) for r in rows))
    dashes = list(dict.fromkeys(r.get(curve.dash) for r in rows)) if curve.dash else [None]
    columns = {column.key: column for column in report.columns}
    found = []
    for panel in dict.fromkeys(r.get(curve.panel) if curve.panel else None for r in rows):
        chosen = [r for r in rows if curve.panel is None or r.get(curve.panel) == panel]
        if len(chosen) < 2:
            continue
        traces = [
            _trace(curve, columns, part, line, dash, (lines.index(line), dashes.index(dash)))
            for line in lines
            for dash in dashes
            if (part := _part(curve, chosen, line, dash))
        ]
        layout = _layout(curve, columns, panel, [row[curve.x] for row in chosen])
        found.append({"data": traces, "layout": layout})
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _part(curve: Curve, rows: list[dict], line: str, dash: Any) -> list[dict]:
    """The rows of one line, in the order of x."""
    part = [r for r in rows if str(r.get(curve.colour)) == line]
    part = [r for r in part if curve.dash is None or r.get(curve.dash) == dash]
    return sorted(part, key=lambda row: row[curve.x])


def _trace(curve: Curve, columns, rows, line: str, dash: Any, places: tuple[int, int]) -> dict:
    colour, style = _LINES[places[0] % len(_LINES)], _DASHES[places[1] % len(_DASHES)]
    x, y = columns[curve.x], columns[curve.y]
    point = [f"{c.label} {shown(r[c.key], c)} {c.unit}".strip() for r in rows for c in (x, y)]
    return {
        "x": [r[x.key] for r in rows],
        "y": [r[y.key] for r in rows],
        "text": [
            "<br>".join(map(_text, pair)) for pair in zip(point[::2], point[1::2], strict=True)
        ],
        "hoverinfo": "text+name",
        "mode": "lines+markers",
        "name": _text(line if dash is None else f"{line}, {columns[str(curve.dash)].label} {dash}"),
        "line": {"color": colour, "dash": style, "width": 2},
        "marker": {"color": colour, "size": 6},
    }


def _layout(curve: Curve, columns, panel: Any, values: list[float]) -> dict[str, Any]:
    x, y = columns[curve.x], columns[curve.y]
    where = "" if panel is None else f", {columns[str(curve.panel)].label} {panel}"
    return {
        "title": {"text": _text(y.label + where), "font": {"size": 14}, "x": 0.02},
        "xaxis": {"title": {"text": _head(x)}, **(_doubling(values) if curve.log_x else {})},
        "yaxis": {"title": {"text": _head(y)}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 12, "t": 36, "b": 120},
        "legend": {"orientation": "h", "y": -0.24, "yanchor": "top", "font": {"size": 10}},
        "font": {"family": "system-ui, sans-serif", "size": 12},
    }


def _doubling(values: list[float]) -> dict[str, Any]:
    """A logarithmic axis over positive values, with marks at powers of two, at most nine."""
    low, high = (math.floor(math.log2(v)) for v in (min(values), max(values)))
    step = (high - low) // 8 + 1
    marks = [2.0**power for power in range(low, high + 2, step)]
    texts = [f"{mark:g}" for mark in marks]
    return {"type": "log", "tickmode": "array", "tickvals": marks, "ticktext": texts}


# --- media ---------------------------------------------------------------------------------------


def _exhibit(exhibit: Exhibit, folder: Path) -> str:
    rows = "\n".join(
        "<div class='scroll'><div class='row'>"
        + "".join(_figure(cell, folder) for cell in row)
        + "</div></div>"
        for row in exhibit.rows
    )
    note = f"<p>{_text(exhibit.note)}</p>" if exhibit.note else ""
    return f"<h2>{_text(exhibit.title)}</h2>{note}{rows}"


def _figure(cell: Cell, folder: Path) -> str:
    words = f"<b>{_text(cell.label)}</b>" + (f"<br>{_text(cell.caption)}" if cell.caption else "")
    medium, kind = _medium(cell, folder) if cell.file else ("", "")
    sound = " class='sound'" if kind == "audio" else ""
    if cell.picture:
        medium = _medium(replace(cell, file=cell.picture), folder)[0] + medium
    return f"<figure{sound}>{medium}<figcaption>{words}</figcaption></figure>"


def _medium(cell: Cell, folder: Path) -> tuple[str, str]:
    """The element that shows a file, with its bytes inside, and its kind."""
    path = folder / str(cell.file)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    source, name = f"data:{kind};base64,{data}", _text(f"{cell.label} {cell.caption}".strip())
    if kind.startswith("audio/"):
        return (
            f"<audio controls preload='none' src='{source}' aria-label='{name}'></audio>",
            "audio",
        )
    if kind.startswith("video/"):
        return (
            f"<video controls loop muted playsinline src='{source}' aria-label='{name}'></video>",
            "video",
        )
    return f"<img src='{source}' alt='{name}' loading='lazy'>", "image"
