"""The report of image tokenizers: a folder of pictures through tokens and back, at every prefix
length, beside JPEG, WebP and AVIF at the same bytes.

Every tokenizer sees the middle square of a picture at its own size, and is compared with codecs at
that size. Codecs get every advantage (codecs.py): the best setting at the nearest byte count not
below the tokens', smaller scales, and a second comparison with their headers forgiven.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version

from studio.evaluation.codebook import codebook_use, count_codes
from studio.evaluation.codecs import Encoded, available_codecs, best_within, encodings
from studio.evaluation.judges import Judges, scales_note, summarize
from studio.evaluation.parts import Record, Shard, joined, measure_parts
from studio.evaluation.pictures import PictureFile, read_pictures
from studio.evaluation.report import (
    MEDIA,
    Cell,
    Column,
    Curve,
    Exhibit,
    Report,
    hardware,
)
from studio.evaluation.subjects import Subject
from studio.evaluation.tokenizers import decode_all, encode_all, prefix_counts
from studio.media.image import to_pil, to_tensor, write_image

HEADERS = {"counted": True, "forgiven": False}
BEYOND = (2, 4, 8, 16)  # times the bytes of all tokens, so that the codecs' own range is seen
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
USE_COLUMNS = [
    Column(
        "codes_used", "codes used", "share", "", "share of the codebook that these pictures use"
    ),
    Column(
        "entropy",
        "entropy",
        "bits a token",
        "",
        "of the codes' frequencies, all positions together; log2 of the codebook is the most",
        digits=2,
    ),
    Column("perplexity", "perplexity", "", "", "2 to the entropy", digits=1),
]
Progress = Callable[[str, int, int], None]


@dataclass
class ImageEvaluation:
    """The settings of a report, and the work.

    Args:
        subjects: of `open_tokenizers`. files: of `find_pictures`.
        judges: what is measured. folder: of the report; parts are kept in it.
        counts: prefix lengths for all tokenizers; those of `prefix_counts` when None.
        codecs: names among `available_codecs()`; all when None, [] for none.
        batch_size: pictures of a part. shown: pictures on the page.
        shard: which parts are this process's.
        progress: called as progress(what, parts done, parts).
    """

    subjects: list[Subject]
    files: list[PictureFile]
    judges: Judges
    folder: Path
    counts: list[int] | None = None
    codecs: list[str] | None = None
    batch_size: int = 16
    shown: int = 8
    shard: Shard = field(default_factory=Shard)
    progress: Progress | None = None

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later: lengths that a tokenizer can't
        decode, pictures too small for a metric, a codec that is not here."""
        for subject in self.subjects:
            tokenizer = subject.model
            self.judges.check_size(tokenizer.config.image_size)
            for count in self.lengths(tokenizer):
                tokenizer.check_num_tokens(count, tokenizer.layout)
        for codec in self.codecs or []:
            if codec not in available_codecs():
                known = ", ".join(available_codecs())
                raise ValueError(f"codec {codec!r} must be one of {known}")

    def lengths(self, tokenizer) -> list[int]:
        """The prefix lengths of a tokenizer: those asked for, where it has prefixes."""
        if self.counts is None or not tokenizer.layout.prefix:
            return prefix_counts(tokenizer)
        return self.counts

    def run(self) -> Report | None:
        """Measures all and gives the report; None on all processes but the main one."""
        self.check()
        real: dict[int, Record] = {}
        ours: list[Record] = []
        for subject in self.subjects:
            size = subject.model.config.image_size
            if size not in real:
                real[size] = self._measure(f"pictures of {size}", self._originals, size)
            ours.append(self._measure(subject.name, self._reconstructions, subject))
        theirs: dict[tuple[int, str], Record] = {}
        for size, budgets in self.budgets().items():
            for codec in available_codecs() if self.codecs is None else self.codecs:
                name = f"{codec.upper()} at {size}"
                theirs[size, codec] = self._measure(name, self._encoded, codec, size, budgets)
        return self._report(real, ours, theirs) if self.shard.is_main else None

    def budgets(self) -> dict[int, list[float]]:
        """For each picture size, the byte counts that codecs are asked for."""
        found: dict[int, set[float]] = {}
        for subject in self.subjects:
            tokenizer = subject.model
            counts = self.lengths(tokenizer)
            asked = {tokenizer.rate(count).bits / 8 for count in counts}
            asked |= {times * max(asked) for times in BEYOND}
            found.setdefault(tokenizer.config.image_size, set()).update(asked)
        return {size: sorted(asked) for size, asked in found.items()}

    # --- measuring -------------------------------------------------------------------------------

    def _measure(self, name: str, work, *arguments) -> Record:
        parts = [
            self.files[start : start + self.batch_size]
            for start in range(0, len(self.files), self.batch_size)
        ]
        measure, facts = work(*arguments)

        def one(number: int) -> Record:
            first = number * self.batch_size
            images, kept = read_pictures(parts[number], facts["size"])
            places = torch.tensor([first + place for place in kept], dtype=torch.int64)
            wanted = [place for place, index in enumerate(places.tolist()) if index < self.shown]
            found = measure(images, wanted) if len(images) else {}
            return {"index": places, **found}

        records = measure_parts(
            [[file.key for file in part] for part in parts],
            one,
            folder=self.folder / "parts",
            facts={**facts, "judges": self.judges.identity, "shown": self.shown},
            shard=self.shard,
            progress=partial(self.progress, name) if self.progress else None,
        )
        return joined(records)

    def _originals(self, size: int):
        def measure(images: torch.Tensor, wanted: list[int]) -> Record:
            return {**self.judges.observe(images), "shown": _pixels(images[wanted])}

        return measure, {"what": "originals", "size": size}

    def _reconstructions(self, subject: Subject):
        tokenizer = subject.model
        counts = self.lengths(tokenizer)

        def measure(images: torch.Tensor, wanted: list[int]) -> Record:
            tokens = encode_all(tokenizer, images, batch_size=self.batch_size)
            found = {"tokens": tokens}
            for count in counts:
                made = decode_all(tokenizer, tokens, num_tokens=count, batch_size=self.batch_size)
                rows = self.judges.observe(made, images)
                found |= {f"{count}.{key}": value for key, value in rows.items()}
                found[f"{count}.shown"] = _pixels(made[wanted])
            return found

        size = tokenizer.config.image_size
        facts = {"what": "tokenizer", "size": size, "model": subject.fingerprint}
        return measure, {**facts, "counts": counts}

    def _encoded(self, codec: str, size: int, budgets: list[float]):
        def measure(images: torch.Tensor, wanted: list[int]) -> Record:
            settings = [encodings(to_pil(image), codec) for image in images]
            seen: dict[tuple, Record] = {}
            found: Record = {}
            for name, headers in HEADERS.items():
                for place, budget in enumerate(budgets):
                    chosen = [best_within(each, budget, headers=headers) for each in settings]
                    key = tuple((e.scale, e.quality) for e in chosen)
                    if key not in seen:
                        seen[key] = self._observe_encoded(chosen, images, wanted)
                    sizes = [e.file if headers else e.payload for e in chosen]
                    rows = {**seen[key], "bytes": torch.tensor(sizes, dtype=torch.float32)}
                    if not headers:
                        rows.pop("shown")
                    found |= {f"{name}.{place}.{k}": v for k, v in rows.items()}
            return found

        facts = {"what": "codec", "size": size, "codec": codec, "budgets": budgets}
        return measure, {**facts, "pillow": pillow_version}

    def _observe_encoded(self, chosen: list[Encoded], images, wanted: list[int]) -> Record:
        decoded = torch.stack([to_tensor(Image.fromarray(e.pixels)) for e in chosen])
        rows = self.judges.observe(decoded, images)  # (n, 3, H, W)
        return {**rows, "shown": _pixels(decoded[wanted])}

    # --- the report ------------------------------------------------------------------------------

    def _report(self, real, ours: list[Record], theirs) -> Report:
        count = len(next(iter(real.values()))["index"])
        if not count:
            raise ValueError(f"none of the {len(self.files)} pictures can be read")
        rows = [
            row
            for subject, record in zip(self.subjects, ours, strict=True)
            for row in self._tokenizer_rows(subject, record, real)
        ]
        budgets = self.budgets()
        for (size, codec), record in theirs.items():
            rows += _codec_rows(codec, size, budgets[size], record, real[size])
        exhibits = [
            self._exhibit(place, subject, ours[place], real, theirs)
            for place, subject in enumerate(self.subjects)
        ]
        metrics = self.judges.metrics()
        left_out = len(self.files) - count
        facts = {
            "pictures": count,
            **({"left out, unreadable": left_out} if left_out else {}),
            "hardware": hardware(),
        }
        names = ", ".join(subject.name for subject in self.subjects)
        return Report(
            title=f"Image tokenizers: {names}",
            medium="image",
            columns=[*COLUMNS, *metrics, *USE_COLUMNS],
            rows=rows,
            curves=[
                Curve("bytes", m.key, dash="headers", panel="pixels", log_x=True) for m in metrics
            ],
            exhibits=exhibits if self.shown else [],
            facts=facts,
            notes=self._notes(count, bool(theirs)),
        )

    def _tokenizer_rows(self, subject: Subject, record: Record, real) -> list[dict[str, Any]]:
        tokenizer = subject.model
        size, vocabulary = tokenizer.config.image_size, tokenizer.layout.vocab_size
        rows = []
        for count in self.lengths(tokenizer):
            rate = tokenizer.rate(count)
            use = codebook_use(count_codes(record["tokens"][..., :count], vocabulary))
            rows.append(
                {
                    "group": "tokenizers",
                    "subject": subject.name,
                    "pixels": size,
                    "tokens": count,
                    "bytes": rate.bits / 8,
                    "bpp": rate.bits_per_unit,
                    **summarize(part_of(record, f"{count}."), real[size]),
                    **use,
                }
            )
        return rows

    def _notes(self, count: int, codecs: bool) -> list[str]:
        sizes = sorted({subject.model.config.image_size for subject in self.subjects})
        notes = [f"{count} pictures, their middle squares at each tokenizer's own size."]
        if self.judges.features is not None:
            notes.append(
                "The Fréchet distance is taken on studio's own features, not Inception's: it "
                "compares within this report and with reports on the same pictures only."
            )
        notes += [note for note in map(scales_note, sizes) if note]
        if codecs:
            notes.append(
                "Codecs use, of all settings and of scales down to an eighth, the best at the "
                "nearest byte count not below the tokens'; where a codec has no file so small, its "
                "smallest stands. With headers forgiven only the bytes that tell one picture from "
                "another are counted."
            )
        return notes

    def _exhibit(self, place: int, subject: Subject, record: Record, real, theirs) -> Exhibit:
        """Rows of an original, its prefixes, and the codecs at the bytes of all tokens."""
        tokenizer = subject.model
        size, counts = tokenizer.config.image_size, self.lengths(tokenizer)
        budgets = self.budgets()[size]
        full = budgets.index(tokenizer.rate(counts[-1]).bits / 8)
        originals = real[size]["shown"]
        rows = []
        for number in range(len(originals)):
            stem = f"{MEDIA}/{place}-{number}"
            index = int(real[size]["index"][number])
            cells = [self._cell(f"{stem}-original", originals[number], "original", "")]
            cells[0] = Cell(self.files[index].name, cells[0].file, f"{size} x {size}")
            for count in few(counts, SHOWN_LENGTHS):
                size_of = f"{tokenizer.rate(count).bits / 8:g} bytes"
                words = f"{size_of}, {record[f'{count}.psnr'][number].item():.1f} dB"
                shown = record[f"{count}.shown"][number]
                cells.append(
                    self._cell(f"{stem}-{count}", shown, f"{count} token{'s' * (count > 1)}", words)
                )
            for (other, codec), found in theirs.items():
                if other == size:
                    part = part_of(found, f"counted.{full}.")
                    words = f"{part['bytes'][number]:g} bytes, {part['psnr'][number]:.1f} dB"
                    shown = part["shown"][number]
                    cells.append(self._cell(f"{stem}-{codec}", shown, codec.upper(), words))
            rows.append(cells)
        note = "The first pictures in the order of names; unselected."
        if theirs:
            note += " Codecs at the bytes of all tokens, or the smallest file that they make."
        return Exhibit(subject.name, rows, note)

    def _cell(self, stem: str, pixels: torch.Tensor, label: str, caption: str) -> Cell:
        write_image(self.folder / f"{stem}.png", Image.fromarray(pixels.numpy()))
        return Cell(label, f"{stem}.png", caption)


def _codec_rows(codec: str, size: int, budgets: list[float], record: Record, real: Record):
    rows = []
    for name in HEADERS:
        for place, budget in enumerate(budgets):
            part = part_of(record, f"{name}.{place}.")
            used = part["bytes"].double().mean().item()
            rows.append(
                {
                    "group": "codecs at the same bytes",
                    "subject": codec.upper(),
                    "pixels": size,
                    "headers": name,
                    "budget": budget,
                    "bytes": used,
                    "bpp": 8 * used / size**2,
                    **summarize(part, real),
                }
            )
    return rows


def part_of(record: Record, prefix: str) -> Record:
    """The tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}


def few(values: list[int], count: int) -> list[int]:
    """At most `count` of some values, evenly spread, the first and the last among them."""
    if len(values) <= count:
        return values
    places = np.linspace(0, len(values) - 1, count).round().astype(int)
    return [values[i] for i in places]


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] as uint8 (n, H, W, 3)."""
    values = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return values.permute(0, 2, 3, 1).cpu().contiguous()  # (n, H, W, 3)
