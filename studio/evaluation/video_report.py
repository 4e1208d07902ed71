"""The report of video tokenizers: clips through tokens and back, from every number of layers,
beside H.264 and VP9 at nearby byte counts.

Every tokenizer sees clips of its own length and size, and codecs the same ones (video_codecs.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from studio.env import need
from studio.evaluation.clips import Clip, read_clips
from studio.evaluation.codecs import Encoded
from studio.evaluation.equal_bytes import EqualBytes
from studio.evaluation.parts import Record
from studio.evaluation.report import Cell, Column
from studio.evaluation.video_codecs import LABELS, available_codecs, encodings
from studio.evaluation.video_judges import ClipJudges, flows_of, summarize
from studio.media.video_writer import write_video

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
Shape = tuple[int, int]  # side in pixels, frames


@dataclass(kw_only=True)
class VideoEvaluation(EqualBytes):
    """The settings of a report, and the work.

    Args:
        clips: of `find_clips` or `heldout_clips`.
        data_notes: sentences about the data.
        subjects, judges, folder, codecs, ...: see `TokenizerEvaluation`.
    """

    medium, noun, left_out = "video", "clips", ("used", "left out")
    columns, axes = COLUMNS, {**EqualBytes.axes, "panel": "clip"}
    exhibit_note = "The first clips in the order of names; unselected."
    codecs_shown = " Codecs at the bytes of all tokens without headers, or the fewest they need."
    beyond, group, shown_headers = (2, 4), "codecs at nearby bytes", "forgiven"
    originals, one_by_one = {"what": "clips"}, True

    clips: list[Clip]
    judges: ClipJudges
    batch_size: int = 4
    data_notes: list[str] = field(default_factory=list)

    @property
    def media(self) -> list[Clip]:
        return self.clips

    def available(self) -> list[str]:
        return available_codecs()

    def label(self, codec: str) -> str:
        return LABELS[codec]

    def seen_at(self, tokenizer: Any) -> Shape:
        return shape_of(tokenizer)

    def named(self, at: Shape) -> str:
        return f"{at[1]} x {at[0]}"

    def about(self, at: Shape, number: int | None = None) -> dict[str, Any]:
        layers = {} if number is None else {"layers": number + 1}
        return {"clip": self.named(at), **layers}

    def pixels(self, at: Shape) -> int:
        return at[0] ** 2 * at[1]

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later: a tokenizer without tokens,
        clips too small for a metric, a codec that is not here."""
        for subject in self.subjects:
            if not subject.model.layout.vocab_size:
                raise ValueError(f"model {subject.name!r} is continuous: it has no tokens to count")
            self.judges.pictures.check_size(shape_of(subject.model)[0])
        super().check()

    def lengths(self, tokenizer: Any) -> list[int]:
        return layer_counts(tokenizer)

    def shown_lengths(self, tokenizer: Any) -> dict[int, str]:
        counts = enumerate(layer_counts(tokenizer), 1)
        return {count: f"{layers} layer{'s' * (layers > 1)}" for layers, count in counts}

    def _read(self, media: list[Clip], at: Shape) -> tuple[torch.Tensor, list[int]]:
        return read_clips(media, *at)

    def _settings(self, at: Shape) -> dict[str, Any]:
        return {"shape": list(at), "shown": self.shown}

    def _judge(self, originals: torch.Tensor) -> Callable[[torch.Tensor], Record]:
        flows = flows_of(originals)
        return partial(self.judges.observe, originals=originals, flows=flows)

    def _summarize(self, rows: Record, real: Record) -> dict[str, float]:
        return summarize(rows, real)

    def _encodings(self, medium: torch.Tensor, codec: str) -> list[Encoded]:
        return encodings(medium, codec, fps=FPS)

    def _codec_facts(self, codec: str) -> dict[str, Any]:
        return {"what": codec, "av": need("av", extra="video").__version__}

    def _notes(self, count: int, real: dict[Shape, Record], codecs: bool) -> list[str]:
        notes = [*self.data_notes, f"{count} clips, as long and as large as each tokenizer's."]
        for shape, record in real.items():
            if "warped" in record:
                own = record["warped"].double().mean().item()
                notes.append(
                    f"Warped error of the clips of {self.named(shape)} themselves: {own:.3f}."
                )
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
