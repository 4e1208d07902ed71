"""What the reports of tokenizers of pictures, clips and sounds share: media through tokens and
back, beside codecs, measured in parts that are kept (parts.py). A subclass says what its medium is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from studio.evaluation.parts import Record, Shard, joined, measure_parts
from studio.evaluation.report import MEDIA, Cell, Column, Curve, Exhibit, Report, hardware
from studio.evaluation.subjects import Subject

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
# How rows are made of media, given which of all these are; and what decides them, as JSON values.
Work = tuple[Callable[[Any, list[int]], Record], dict[str, Any]]
Rows = list[dict[str, Any]]
Real = dict[Any, Record]
Theirs = dict[tuple[Any, str], Record]


@dataclass(kw_only=True)
class TokenizerEvaluation(ABC):
    """The settings of a report, and the work.

    `at` is, everywhere, what a tokenizer sees its media at, and codecs too: a size or a rate.

    Args:
        subjects: of `open_tokenizers`.
        judges: what is measured. folder: of the report; parts are kept in it.
        codecs: names among `available()`; all when None, [] for none.
        batch_size: media of a part. shown: media on the page.
        shard: which parts are this process's.
        progress: called as progress(what, parts done, parts).
    """

    medium: ClassVar[str]
    noun: ClassVar[str]  # of several media
    left_out: ClassVar[tuple[str, str]]  # what could not be done with some; the name of their count
    columns: ClassVar[list[Column]]
    axes: ClassVar[dict[str, str]]  # of the curves, but for y
    exhibit_note: ClassVar[str]
    codecs_shown: ClassVar[str] = ""  # more of that where there are codecs

    subjects: list[Subject]
    judges: Any
    folder: Path
    codecs: list[str] | None = None
    batch_size: int = 8
    shown: int = 6
    shard: Shard = field(default_factory=Shard)
    progress: Progress | None = None

    @property
    @abstractmethod
    def media(self) -> list[Any]:
        """All that is measured; each has a `key`."""

    @abstractmethod
    def available(self) -> list[str]:
        """The codecs that are here."""

    @abstractmethod
    def seen_at(self, tokenizer: Any) -> Any:
        """What a tokenizer sees its media at."""

    @abstractmethod
    def named(self, at: Any) -> str:
        """That in words."""

    def label(self, codec: str) -> str:
        """A codec's name, for readers."""
        return codec.upper()

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later, such as a codec that is not
        here."""
        for codec in self.codecs or []:
            if codec not in self.available():
                known = ", ".join(self.available()) or "none is here"
                raise ValueError(f"codec {codec!r} must be one of {known}")

    def run(self) -> Report | None:
        """Measures all and gives the report; None on all processes but the main one."""
        self.check()
        real: Real = {}
        ours: list[Record] = []
        theirs: Theirs = {}
        for subject in self.subjects:
            at = self.seen_at(subject.model)
            if at not in real:
                real[at] = self._originals(at)
            ours.append(self._measure(subject.name, at, self._through_tokens(subject)))
        for at in real:
            for codec in self.available() if self.codecs is None else self.codecs:
                name = f"{self.label(codec)} at {self.named(at)}"
                theirs[at, codec] = self._measure(name, at, self._through_codec(codec, at))
        return self._report(real, ours, theirs) if self.shard.is_main else None

    # --- measuring -------------------------------------------------------------------------------

    def _measure(self, name: str, at: Any, work: Work) -> Record:
        size, (measure, facts) = self.batch_size, work
        parts = [self.media[start : start + size] for start in range(0, len(self.media), size)]

        def one(number: int) -> Record:
            media, kept = self._read(parts[number], at)
            places = [number * size + place for place in kept]
            found = measure(media, places) if places else {}
            return {"index": torch.tensor(places, dtype=torch.int64), **found}

        records = measure_parts(
            [[n * size, *(medium.key for medium in part)] for n, part in enumerate(parts)],
            one,
            folder=self.folder / "parts",
            facts={"judges": self.judges.identity, **self._settings(at), **facts},
            shard=self.shard,
            progress=partial(self.progress, name) if self.progress else None,
        )
        return joined(records)

    @abstractmethod
    def _read(self, media: list[Any], at: Any) -> tuple[Any, list[int]]:
        """Some media as tensors, and which of them could be read."""

    @abstractmethod
    def _settings(self, at: Any) -> dict[str, Any]:
        """What decides all rows, besides the judges."""

    def _originals(self, at: Any) -> Record:
        """What is measured of the media themselves: nothing here."""
        return {}

    @abstractmethod
    def _through_tokens(self, subject: Subject) -> Work: ...

    @abstractmethod
    def _through_codec(self, codec: str, at: Any) -> Work: ...

    # --- the report ------------------------------------------------------------------------------

    def _report(self, real: Real, ours: list[Record], theirs: Theirs) -> Report:
        count = len(ours[0]["index"])
        failed, name_of_failed = self.left_out
        if not count:
            raise ValueError(f"none of the {len(self.media)} {self.noun} can be {failed}")
        rows, exhibits = [], []
        for place, (subject, record) in enumerate(zip(self.subjects, ours, strict=True)):
            rows += self._tokenizer_rows(subject, record, real)
            if self.shown:
                cells = list(self._exhibit(f"{MEDIA}/{place}", subject, record, real, theirs))
                note = self.exhibit_note + (self.codecs_shown if theirs else "")
                exhibits.append(Exhibit(subject.name, cells, note))
        for (at, codec), record in theirs.items():
            rows += self._codec_rows(codec, at, record, real)
        metrics, missing = self.judges.metrics(), len(self.media) - count
        facts = {self.noun: count, **({name_of_failed: missing} if missing else {})}
        return Report(
            title=f"{self.medium.capitalize()} tokenizers: "
            + ", ".join(subject.name for subject in self.subjects),
            medium=self.medium,
            columns=[*self.columns, *metrics, *USE_COLUMNS],
            rows=rows,
            curves=[Curve(y=metric.key, log_x=True, **self.axes) for metric in metrics],
            exhibits=exhibits,
            facts={**facts, **self._facts(ours), "hardware": hardware()},
            notes=self._notes(count, real, bool(theirs)),
        )

    def _facts(self, ours: list[Record]) -> dict[str, Any]:
        """More facts: none here."""
        return {}

    @abstractmethod
    def _tokenizer_rows(self, subject: Subject, record: Record, real: Real) -> Rows: ...

    @abstractmethod
    def _codec_rows(self, codec: str, at: Any, record: Record, real: Real) -> Rows: ...

    @abstractmethod
    def _exhibit(
        self, stem: str, subject: Subject, record: Record, real: Real, theirs: Theirs
    ) -> Iterator[list[Cell]]:
        """Writes what the page shows of a subject, in files that begin with `stem`: an original and
        what is made of it, again and again."""

    @abstractmethod
    def _notes(self, count: int, real: Real, codecs: bool) -> list[str]: ...


def part_of(record: Record, prefix: str) -> Record:
    """The tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}
