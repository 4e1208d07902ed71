"""The report of image tokenizers: a folder of pictures through tokens and back, at every prefix
length, beside JPEG, WebP and AVIF at the same bytes.

Every tokenizer sees the middle square of a picture at its own size, and is compared with codecs at
that size. Codecs get every advantage (codecs.py): the best setting at the nearest byte count not
below the tokens', smaller scales, and a second comparison with their headers forgiven.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version

from studio.evaluation.codecs import Encoded, available_codecs, encodings
from studio.evaluation.equal_bytes import EqualBytes
from studio.evaluation.judges import Judges, scales_note, summarize
from studio.evaluation.parts import Record
from studio.evaluation.pictures import PictureFile, read_pictures
from studio.evaluation.report import Cell, Column
from studio.evaluation.tokenizers import prefix_counts
from studio.media.image import to_pil, write_image

SHOWN_LENGTHS = 5
COLUMNS = [
    Column("subject", "model"),
    Column("pixels", "side", "pixels"),
    Column("tokens", "tokens"),
    Column("headers", "headers"),
    Column("budget", "bytes asked"),
    Column("bytes", "bytes", "a picture", digits=1),
    Column("bpp", "bits", "a pixel", digits=4),
]


@dataclass(kw_only=True)
class ImageEvaluation(EqualBytes):
    """The settings of a report, and the work.

    Args:
        files: of `find_pictures`.
        counts: prefix lengths for all tokenizers; those of `prefix_counts` when None.
        subjects, judges, folder, codecs, ...: see `TokenizerEvaluation`.
    """

    medium, noun, left_out = "image", "pictures", ("read", "left out, unreadable")
    columns, axes = COLUMNS, {**EqualBytes.axes, "panel": "pixels"}
    exhibit_note = "The first pictures in the order of names; unselected."
    codecs_shown = " Codecs at the bytes of all tokens, or the smallest file that they make."
    beyond, group, shown_headers = (2, 4, 8, 16), "codecs at the same bytes", "counted"
    originals = {"what": "originals"}

    files: list[PictureFile]
    judges: Judges
    counts: list[int] | None = None
    batch_size: int = 16
    shown: int = 8

    @property
    def media(self) -> list[PictureFile]:
        return self.files

    def available(self) -> list[str]:
        return available_codecs()

    def seen_at(self, tokenizer: Any) -> int:
        return tokenizer.config.image_size

    def named(self, at: int) -> str:
        return str(at)

    def caption(self, at: int) -> str:
        return f"{at} x {at}"

    def about(self, at: int, number: int | None = None) -> dict[str, Any]:
        return {"pixels": at}

    def pixels(self, at: int) -> int:
        return at**2

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later: lengths that a tokenizer can't
        decode, pictures too small for a metric, a codec that is not here."""
        for subject in self.subjects:
            tokenizer = subject.model
            self.judges.check_size(tokenizer.config.image_size)
            for count in self.lengths(tokenizer):
                tokenizer.check_num_tokens(count, tokenizer.layout)
        super().check()

    def lengths(self, tokenizer: Any) -> list[int]:
        """The prefix lengths of a tokenizer: those asked for, where it has prefixes."""
        if self.counts is None or not tokenizer.layout.prefix:
            return prefix_counts(tokenizer)
        return self.counts

    def shown_lengths(self, tokenizer: Any) -> dict[int, str]:
        counts = few(self.lengths(tokenizer), SHOWN_LENGTHS)
        return {count: f"{count} token{'s' * (count > 1)}" for count in counts}

    def _read(self, media: list[PictureFile], at: int) -> tuple[torch.Tensor, list[int]]:
        return read_pictures(media, at)

    def _settings(self, at: int) -> dict[str, Any]:
        return {"size": at, "shown": self.shown}

    def _summarize(self, rows: Record, real: Record) -> dict[str, float]:
        return summarize(rows, real)

    def _encodings(self, medium: torch.Tensor, codec: str) -> list[Encoded]:
        return encodings(to_pil(medium), codec)

    def _codec_facts(self, codec: str) -> dict[str, Any]:
        return {"what": "codec", "codec": codec, "pillow": pillow_version}

    def _notes(self, count: int, real: dict[int, Record], codecs: bool) -> list[str]:
        notes = [f"{count} pictures, their middle squares at each tokenizer's own size."]
        if self.judges.features is not None:
            notes.append(
                "The Fréchet distance is taken on studio's own features, not Inception's: it "
                "compares within this report and with reports on the same pictures only."
            )
        notes += [note for note in map(scales_note, sorted(real)) if note]
        if codecs:
            notes.append(
                "Codecs use, of all settings and of scales down to an eighth, the best at the "
                "nearest byte count not below the tokens'; where a codec has no file so small, its "
                "smallest stands. With headers forgiven only the bytes that tell one picture from "
                "another are counted."
            )
        return notes

    def _cell(self, stem: str, pixels: torch.Tensor, label: str, caption: str) -> Cell:
        write_image(self.folder / f"{stem}.png", Image.fromarray(pixels.numpy()))
        return Cell(label, f"{stem}.png", caption)


def few(values: list[int], count: int) -> list[int]:
    """At most `count` of some values, evenly spread, the first and the last among them."""
    if len(values) <= count:
        return values
    places = np.linspace(0, len(values) - 1, count).round().astype(int)
    return [values[i] for i in places]
