"""A page of pictures, sounds and tables in one HTML file.

Nothing is fetched; light and dark follow the reader. Leaves out on purpose: scripts.
"""

import base64
import html
import io
from dataclasses import dataclass
from typing import Any

FRAME = 125  # milliseconds of a clip's frame
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>studio demo</title>
<style>
:root { color-scheme: light dark;
  --ground: #fbfaf8; --ink: #1d1c1a; --soft: #6b6862; --line: #dedbd5; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #171614; --ink: #eeece8; --soft: #a09c94; --line: #3a3834; }
}
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
p { margin: .25rem 0 1rem; color: var(--soft); max-width: 46rem; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
.gallery { display: grid; gap: .75rem;
  grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
figure { margin: 0; }
img { width: 100%; height: auto; display: block; border-radius: 6px;
  border: 1px solid var(--line); }
figure.sound { min-width: 0; } audio { width: 100%; margin-top: .4rem; }
figcaption { font-size: .8rem; color: var(--soft); margin-top: .25rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); }
@media (max-width: 40rem) {
  .gallery { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .rows { overflow-x: auto; grid-template-columns: repeat(var(--columns), minmax(4.5rem, 1fr)); }
}
</style>
</head>
<body>
<main>
<h1>What the bundled models make</h1>
<p>Made on this machine, offline. Nothing was selected: every prompt is shown once, at one seed.</p>
"""


@dataclass(frozen=True)
class Figure:
    """A PIL image, or a clip as a list of them, with its caption; `alt` when the words for those
    who don't see it differ."""

    image: Any
    caption: str
    alt: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return (self.image[0] if isinstance(self.image, list) else self.image).size


@dataclass(frozen=True)
class Sound:
    """A sound to be played: the bytes of a WAV file, a PIL image of it, and a caption."""

    wav: bytes
    image: Any
    caption: str


def data_uri(image: Any) -> str:
    """A PIL image, or a clip as a list of them, as the text of an `img` source."""
    file = io.BytesIO()
    if isinstance(image, list):
        first, *others = image
        times = {"duration": FRAME, "loop": 0}
        first.save(file, "WEBP", save_all=True, append_images=others, lossless=True, **times)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


class Page:
    """Collects parts and gives the whole page."""

    def __init__(self):
        self._parts: list[str] = []

    def _title(self, title: str, note: str, *, code: bool = False) -> None:
        text = html.escape(note)
        self._parts.append(f"<h2>{html.escape(title)}</h2>\n")
        if note:
            self._parts.append(f"<p>{f'<code>{text}</code>' if code else text}</p>\n")

    def gallery(
        self,
        title: str,
        figures: list[Figure],
        *,
        note: str = "",
        columns: int = 6,
        rows: bool = False,
    ) -> None:
        """Pictures in rows of `columns`, which a narrow screen keeps where `rows` mean something; a
        note that is a command is set as one."""
        self._title(title, note, code=note.startswith("studio "))
        self._parts.append(f'<div class="gallery{" rows" * rows}" style="--columns: {columns}">\n')
        for figure in figures:
            alt = html.escape(figure.alt or figure.caption, quote=True)
            self._parts.append(
                f'<figure><img src="{data_uri(figure.image)}" alt="{alt}" '
                f'width="{figure.size[0]}" height="{figure.size[1]}">'
                f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>\n"
            )
        self._parts.append("</div>\n")

    def sounds(self, title: str, sounds: list[Sound], *, note: str = "", columns: int = 3) -> None:
        """Players below pictures of their sounds, in rows of `columns`."""
        self._title(title, note, code=note.startswith("studio "))
        self._parts.append(f'<div class="gallery" style="--columns: {columns}">\n')
        for sound in sounds:
            caption = html.escape(sound.caption, quote=True)
            source = base64.b64encode(sound.wav).decode("ascii")
            self._parts.append(
                f'<figure class="sound"><img src="{data_uri(sound.image)}" '
                f'alt="wave and spectrogram: {caption}" width="{sound.image.width}" '
                f'height="{sound.image.height}">'
                f'<audio controls preload="none" aria-label="{caption}" '
                f'src="data:audio/wav;base64,{source}"></audio>'
                f"<figcaption>{caption}</figcaption></figure>\n"
            )
        self._parts.append("</div>\n")

    def table(self, title: str, rows: list[dict[str, Any]], *, note: str = "") -> None:
        """Rows (dicts of one set of keys) as a table with the keys as heads."""
        self._title(title, note)
        head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
        lines = ["".join(f"<td>{html.escape(str(v))}</td>" for v in row.values()) for row in rows]
        body = "".join(f"<tr>{line}</tr>\n" for line in lines)
        self._parts.append(
            f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}</tbody>\n</table></div>\n"
        )

    def html(self) -> str:
        """The page."""
        return _HEAD + "".join(self._parts) + "</main>\n</body>\n</html>\n"
