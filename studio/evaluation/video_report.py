"""The report of video tokenizers: clips through tokens and back, from every number of layers,
beside H.264 and VP9 at nearby byte counts.

Every tokenizer sees clips of its own length and size, and codecs the same ones (video_codecs.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from studio.evaluation.clips import Clip, read_clips
from studio.evaluation.codebook import codebook_use, count_codes
from studio.evaluation.codecs import Encoded, best_within
from studio.evaluation.image_report import HEADERS, USE_COLUMNS, part_of
from studio.evaluation.parts import Record, Shard, joined, measure_parts
from studio.evaluation.report import MEDIA, Cell, Column, Curve, Exhibit, Report, hardware
from studio.evaluation.subjects import Subject
from studio.evaluation.video_codecs import LABELS, available_codecs, encodings
from studio.evaluation.video_judges import ClipJudges, Flow, flows_of, summarize
from studio.media.video_writer import write_video

BEYOND = (2, 4)  # times the bytes of all tokens, so that the codecs' own range is seen
FPS = 8.0  # of what the page plays, and of what codecs are told
QUALITY = 10  # of the page's own files
COLUMNS = [
    Column("subject", "model"),
    Column("clip", "clip", "frames x pixels"),
    Column("layers", "layers"),
    Column("tokens", "tokens", "a clip"),
    Column("headers", "headers"),
    Column("budget", "bytes asked", digits=0),
    Column("bytes", "bytes", "a clip", digits=0),
    Column("bpp", "bits", "a pixel", digits=4),
]
Progress = Callable[[str, int, int], None]
Shape = tuple[int, int]  # side in pixels, frames


@dataclass
class VideoEvaluation:
    """The settings of a report, and the work.

    Args:
        subjects: of `open_tokenizers(medium="video")`. clips: of `find_clips` or `heldout_clips`.
        judges: what is measured. folder: of the report; parts are kept in it.
        codecs: names among `available_codecs()`; all when None, [] for none.
        batch_size: clips of a part. shown: clips on the page.
        data_notes: sentences about the data.
        shard: which parts are this process's.
        progress: called as progress(what, parts done, parts).
    """

    subjects: list[Subject]
    clips: list[Clip]
    judges: ClipJudges
    folder: Path
    codecs: list[str] | None = None
    batch_size: int = 4
    shown: int = 6
    data_notes: list[str] = field(default_factory=list)
    shard: Shard = field(default_factory=Shard)
    progress: Progress | None = None

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later: a tokenizer without tokens,
        clips too small for a metric, a codec that is not here."""
        for subject in self.subjects:
            if not subject.model.layout.vocab_size:
                raise ValueError(f"model {subject.name!r} is continuous: it has no tokens to count")
            self.judges.pictures.check_size(shape_of(subject.model)[0])
        for codec in self.codecs or []:
            if codec not in available_codecs():
                known = ", ".join(available_codecs()) or "none is here"
                raise ValueError(f"codec {codec!r} must be one of {known}")

    def run(self) -> Report | None:
        """Measures all and gives the report; None on all processes but the main one."""
        self.check()
        real: dict[Shape, Record] = {}
        ours: list[Record] = []
        for subject in self.subjects:
            shape = shape_of(subject.model)
            if shape not in real:
                real[shape] = self._measure(f"clips of {_named(shape)}", self._originals, shape)
            ours.append(self._measure(subject.name, self._reconstructions, subject))
        theirs: dict[tuple[Shape, str], Record] = {}
        for shape, budgets in self.budgets().items():
            for codec in available_codecs() if self.codecs is None else self.codecs:
                name = f"{LABELS[codec]} at {_named(shape)}"
                theirs[shape, codec] = self._measure(name, self._encoded, codec, shape, budgets)
        return self._report(real, ours, theirs) if self.shard.is_main else None

    def budgets(self) -> dict[Shape, list[float]]:
        """For each size of clips, the byte counts that codecs are asked for."""
        found: dict[Shape, set[float]] = {}
        for subject in self.subjects:
            asked = {subject.model.rate(n).bits / 8 for n in layer_counts(subject.model)}
            asked |= {times * max(asked) for times in BEYOND}
            found.setdefault(shape_of(subject.model), set()).update(asked)
        return {shape: sorted(asked) for shape, asked in found.items()}

    # --- measuring -------------------------------------------------------------------------------

    def _measure(self, name: str, work, *arguments) -> Record:
        size = self.batch_size
        parts = [self.clips[start : start + size] for start in range(0, len(self.clips), size)]
        measure, shape, facts = work(*arguments)

        def one(number: int) -> Record:
            clips, kept = read_clips(parts[number], *shape)
            places = torch.tensor([number * size + place for place in kept], dtype=torch.int64)
            wanted = [place for place, index in enumerate(places.tolist()) if index < self.shown]
            found = measure(clips, wanted) if len(clips) else {}
            return {"index": places, **found}

        known = {"shape": list(shape), "judges": self.judges.identity, "shown": self.shown}
        records = measure_parts(
            [[clip.key for clip in part] for part in parts],
            one,
            folder=self.folder / "parts",
            facts={**facts, **known},
            shard=self.shard,
            progress=partial(self.progress, name) if self.progress else None,
        )
        return joined(records)

    def _originals(self, shape: Shape):
        def measure(clips: torch.Tensor, wanted: list[int]) -> Record:
            return {**self.judges.observe(clips), "shown": _pixels(clips[wanted])}

        return measure, shape, {"what": "clips"}

    def _reconstructions(self, subject: Subject):
        tokenizer = subject.model
        counts = layer_counts(tokenizer)

        @torch.no_grad()
        def measure(clips: torch.Tensor, wanted: list[int]) -> Record:
            flows = flows_of(clips)
            encoded = [tokenizer.encode(c.to(tokenizer.device)).tokens for c in clips.split(1)]
            found = {"tokens": torch.cat(encoded).cpu()}
            for count in counts:
                made = [tokenizer.decode(rows[:, :count], num_tokens=count) for rows in encoded]
                made = torch.cat(made).float().cpu()  # (n, 3, T, H, W)
                rows = self.judges.observe(made, clips, flows=flows)
                found |= {f"{count}.{key}": value for key, value in rows.items()}
                found[f"{count}.shown"] = _pixels(made[wanted])
            return found

        facts = {"what": "tokenizer", "model": subject.fingerprint, "counts": counts}
        return measure, shape_of(tokenizer), facts

    def _encoded(self, codec: str, shape: Shape, budgets: list[float]):
        import av

        def measure(clips: torch.Tensor, wanted: list[int]) -> Record:
            settings = [encodings(clip, codec, fps=FPS) for clip in clips]
            flows = flows_of(clips)
            seen: dict[tuple, Record] = {}
            found: Record = {}
            for name, headers in HEADERS.items():
                for place, budget in enumerate(budgets):
                    chosen = [best_within(each, budget, headers=headers) for each in settings]
                    key = tuple((e.scale, e.quality) for e in chosen)
                    if key not in seen:
                        seen[key] = self._observe_encoded(chosen, clips, wanted, flows)
                    sizes = [e.file if headers else e.payload for e in chosen]
                    rows = {**seen[key], "bytes": torch.tensor(sizes, dtype=torch.float32)}
                    found |= {f"{name}.{place}.{k}": v for k, v in rows.items()}
            return found

        return measure, shape, {"what": codec, "budgets": budgets, "av": av.__version__}

    def _observe_encoded(
        self, chosen: list[Encoded], clips, wanted: list[int], flows: list[Flow]
    ) -> Record:
        pixels = torch.stack([torch.from_numpy(e.pixels.copy()) for e in chosen])
        made = pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (n, 3, T, H, W)
        return {**self.judges.observe(made, clips, flows=flows), "shown": pixels[wanted]}

    # --- the report ------------------------------------------------------------------------------

    def _report(self, real, ours: list[Record], theirs) -> Report:
        count = len(next(iter(real.values()))["index"])
        if not count:
            raise ValueError(f"none of the {len(self.clips)} clips can be used")
        rows = [
            row
            for subject, record in zip(self.subjects, ours, strict=True)
            for row in _tokenizer_rows(subject, record, real[shape_of(subject.model)])
        ]
        budgets = self.budgets()
        for (shape, codec), record in theirs.items():
            rows += _codec_rows(codec, shape, budgets[shape], record, real[shape])
        metrics, left_out = self.judges.metrics(), len(self.clips) - count
        facts = {
            "clips": count,
            **({"left out": left_out} if left_out else {}),
            "hardware": hardware(),
        }
        return Report(
            title=f"Video tokenizers: {', '.join(subject.name for subject in self.subjects)}",
            medium="video",
            columns=[*COLUMNS, *metrics, *USE_COLUMNS],
            rows=rows,
            curves=[
                Curve("bytes", m.key, dash="headers", panel="clip", log_x=True) for m in metrics
            ],
            exhibits=[
                self._exhibit(place, subject, ours[place], real, theirs)
                for place, subject in enumerate(self.subjects)
            ]
            if self.shown
            else [],
            facts=facts,
            notes=self._notes(count, real, bool(theirs)),
        )

    def _notes(self, count: int, real, codecs: bool) -> list[str]:
        notes = [*self.data_notes, f"{count} clips, as long and as large as each tokenizer's."]
        for shape, record in real.items():
            if "warped" in record:
                own = record["warped"].double().mean().item()
                notes.append(f"Warped error of the clips of {_named(shape)} themselves: {own:.3f}.")
        if self.judges.pictures.features is not None:
            notes.append(
                "The Fréchet distance is taken on studio's own features, not on I3D's: it compares "
                "within this report and with reports on the same clips only."
            )
        if codecs:
            notes.append(
                "Codecs use, of all settings and of scales down to a quarter, the best at the "
                "nearest byte count not below the tokens'; where a codec has no file so small, its "
                "smallest stands. With headers forgiven only the bytes of packets are counted."
            )
        return notes

    def _exhibit(self, place: int, subject: Subject, record: Record, real, theirs) -> Exhibit:
        """Rows of an original, its layers, and the codecs at the bytes of all tokens."""
        tokenizer = subject.model
        shape, counts = shape_of(tokenizer), layer_counts(tokenizer)
        full = self.budgets()[shape].index(tokenizer.rate(counts[-1]).bits / 8)
        rows = []
        for number, original in enumerate(real[shape]["shown"]):
            stem = f"{MEDIA}/{place}-{number}"
            name = self.clips[int(real[shape]["index"][number])].name
            cells = [self._cell(f"{stem}-original", original, name, _named(shape))]
            for layers, count in enumerate(counts, 1):
                size_of = f"{tokenizer.rate(count).bits / 8:g} bytes"
                words = f"{size_of}, {record[f'{count}.psnr'][number].item():.1f} dB"
                label = f"{layers} layer{'s' * (layers > 1)}"
                shown = record[f"{count}.shown"][number]
                cells.append(self._cell(f"{stem}-{count}", shown, label, words))
            for (other, codec), found in theirs.items():
                if other == shape:
                    part = part_of(found, f"forgiven.{full}.")
                    words = f"{part['bytes'][number]:g} bytes, {part['psnr'][number]:.1f} dB"
                    shown = part["shown"][number]
                    cells.append(self._cell(f"{stem}-{codec}", shown, LABELS[codec], words))
            rows.append(cells)
        note = "The first clips in the order of names; unselected."
        if theirs:
            note += " Codecs at the bytes of all tokens without headers, or the fewest they need."
        return Exhibit(subject.name, rows, note)

    def _cell(self, stem: str, pixels: torch.Tensor, label: str, caption: str) -> Cell:
        video = pixels.permute(3, 0, 1, 2).float() / 127.5 - 1  # (3, T, H, W)
        write_video(self.folder / f"{stem}.mp4", video, fps=FPS, quality=QUALITY)
        return Cell(label, f"{stem}.mp4", caption)


def shape_of(tokenizer: Any) -> Shape:
    """Side and frames of a tokenizer's clips."""
    return tokenizer.config.image_size, tokenizer.config.num_frames


def layer_counts(tokenizer: Any) -> list[int]:
    """Tokens of one layer, of two, ... of all; of all alone where there are no layers."""
    if not hasattr(tokenizer, "num_tokens_of"):
        return [tokenizer.layout.num_tokens]
    return [tokenizer.num_tokens_of(i + 1) for i in range(len(tokenizer.layout.segments))]


def _tokenizer_rows(subject: Subject, record: Record, real: Record) -> list[dict[str, Any]]:
    tokenizer = subject.model
    rows = []
    for layers, count in enumerate(layer_counts(tokenizer), 1):
        rate = tokenizer.rate(count)
        counted = count_codes(record["tokens"][:, :count], tokenizer.layout.vocab_size)
        rows.append(
            {
                "group": "tokenizers",
                "subject": subject.name,
                "clip": _named(shape_of(tokenizer)),
                "layers": layers,
                "tokens": count,
                "bytes": rate.bits / 8,
                "bpp": rate.bits_per_unit,
                **summarize(part_of(record, f"{count}."), real),
                **codebook_use(counted),
            }
        )
    return rows


def _codec_rows(codec: str, shape: Shape, budgets: list[float], record: Record, real: Record):
    rows = []
    for name in HEADERS:
        for place, budget in enumerate(budgets):
            part = part_of(record, f"{name}.{place}.")
            used = part["bytes"].double().mean().item()
            rows.append(
                {
                    "group": "codecs at nearby bytes",
                    "subject": LABELS[codec],
                    "clip": _named(shape),
                    "headers": name,
                    "budget": budget,
                    "bytes": used,
                    "bpp": 8 * used / (shape[0] ** 2 * shape[1]),
                    **summarize(part, real),
                }
            )
    return rows


def _named(shape: Shape) -> str:
    return f"{shape[1]} x {shape[0]}"


def _pixels(clips: torch.Tensor) -> torch.Tensor:
    """Clips (n, 3, T, H, W) in [-1, 1] as uint8 (n, T, H, W, 3)."""
    values = ((clips.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return values.permute(0, 2, 3, 4, 1).cpu().contiguous()
