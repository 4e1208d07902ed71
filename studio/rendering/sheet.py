"""The contact sheet: every result of a batch on pages that open offline.

Pictures are links to the files beside it, loaded as they come into view; no script. What the jobs
say is text in it, never markup. Leaves out on purpose: thumbnails, which would be files to keep.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from studio.media.files import atomic_write
from studio.rendering.plan import Job, Plan
from studio.rendering.store import Store

PAGE = 500  # results on one page
_PLAIN = ("schema", "count", "prompt", "class_label", "seed", "model", "revision")

_STYLE = """:root { color-scheme: light dark;
  --back: #fff; --text: #222; --dim: #666; --bad: #a40000; }
@media (prefers-color-scheme: dark) {
  :root { --back: #181818; --text: #eee; --dim: #aaa; --bad: #ff8a80; }
}
body { background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif;
  margin: 1.5rem; }
h1 { font-size: 1.3rem; } p, figcaption, nav { color: var(--dim); }
nav a { margin-right: .6rem; color: inherit; } nav b { margin-right: .6rem; }
.sheet { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.sheet.columns { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
figure { margin: 0; } img, video, audio { width: 100%; border-radius: 4px; }
img, video { height: auto; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
.failed { border: 1px solid var(--bad); border-radius: 4px; padding: .5rem; color: var(--bad); }
@media (max-width: 40rem) { .sheet.columns { grid-template-columns: repeat(2, 1fr); } }"""


def write_sheet(plan: Plan, store: Store, *, columns: int | None = None) -> Path:
    """Writes `index.html`, and `index-2.html`, ... where one page does not hold all.

    Args:
        plan: in whose order the results stand.
        store: as last refreshed.
        columns: results in a row, at most 12; as many as there is room for when None.

    Returns:
        the first page.
    """
    jobs = [job for job in plan.jobs if job.key in store.done or job.key in store.failed]
    starts = range(0, max(1, len(jobs)), PAGE)
    names = ["index.html", *(f"index-{i}.html" for i in range(2, len(starts) + 1))]
    counts = store.counts()
    failed = f", {counts.failed} failed" if counts.failed else ""
    note = f"{counts.done} of {counts.total} results{failed}."
    for name, start in zip(names, starts, strict=True):
        body = "".join(_figures(jobs[start : start + PAGE], store))
        page = _page(name, names, note, body, columns)
        atomic_write(store.folder / name, page)
    return store.folder / names[0]


def _figures(jobs: Sequence[Job], store: Store) -> Iterator[str]:
    for job in jobs:
        caption = html.escape(_caption(job))
        if job.key in store.failed:
            error = html.escape(str(store.failure(job.key).get("error", "")))
            yield f'<figure class="failed"><strong>failed</strong> {error}'
        else:
            source, alt = quote(job.output), html.escape(_what(job), quote=True)
            yield f"<figure>{_shown(source, alt)}"
        yield f"<figcaption>{caption}</figcaption></figure>\n"


def _shown(source: str, alt: str) -> str:
    """The element for a file: a player, or a picture that leads to it."""
    suffix = source.rpartition(".")[2].lower()
    if suffix in ("mp4", "webm"):
        return (
            f'<video src="{source}" aria-label="{alt}" controls loop muted preload="metadata">'
            + ("</video>")
        )
    if suffix in ("wav", "flac", "ogg"):
        return f'<audio src="{source}" aria-label="{alt}" controls preload="none"></audio>'
    return f'<a href="{source}"><img src="{source}" alt="{alt}" loading="lazy"></a>'


def _what(job: Job) -> str:
    request = job.request
    return request.prompt if request.prompt is not None else f"class {request.class_label}"


def _caption(job: Job) -> str:
    values: dict[str, Any] = job.request.to_dict()
    rest = [f"{k.replace('_', ' ')} {v}" for k, v in values.items() if k not in _PLAIN]
    return ", ".join([_what(job), f"seed {job.request.seed}", job.request.model, *rest])


def _page(name: str, names: list[str], note: str, body: str, columns: int | None) -> str:
    links = [f"<b>{i}</b>" if n == name else f'<a href="{n}">{i}</a>' for i, n in _numbered(names)]
    nav = f"<nav>{''.join(links)}</nav>\n" if len(names) > 1 else ""
    fixed = columns is not None and 1 < columns <= 12
    style = f' class="sheet columns" style="--columns: {columns}"' if fixed else ' class="sheet"'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>studio render</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        f"<h1>Contact sheet</h1>\n<p>{html.escape(note)}</p>\n{nav}"
        f"<div{style}>\n{body}</div>\n{nav}</body>\n</html>\n"
    )


def _numbered(names: list[str]) -> list[tuple[int, str]]:
    return list(enumerate(names, 1))
