"""The work of reports whose codecs are met at the tokens' own byte counts: of pictures and clips.

Tokens are decoded from several lengths. Codecs get the byte counts of all of these and more, with
headers counted and with headers forgiven (codecs.py).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch

from studio.evaluation.codebook import codebook_use, count_codes
from studio.evaluation.codecs import Encoded, best_within
from studio.evaluation.parts import Record
from studio.evaluation.report import Cell
from studio.evaluation.subjects import Subject
from studio.evaluation.tokenizer_report import (
    Real,
    Rows,
    Theirs,
    TokenizerEvaluation,
    Work,
    part_of,
)
from studio.evaluation.tokenizers import decode_all, encode_all

HEADERS = {"counted": True, "forgiven": False}


class EqualBytes(TokenizerEvaluation):
    """Of media (n, 3, ..., H, W) in [-1, 1]."""

    axes = {"x": "bytes", "dash": "headers"}
    beyond: ClassVar[tuple[int, ...]]  # times the bytes of all tokens, so that codecs are at home
    group: ClassVar[str]  # of the codecs' rows
    shown_headers: ClassVar[str]  # among `HEADERS`: which of the codecs' results are shown
    originals: ClassVar[dict[str, Any]]  # what decides what is measured of originals
    one_by_one: ClassVar[bool] = False  # through the tokenizer

    @abstractmethod
    def lengths(self, tokenizer: Any) -> list[int]:
        """The numbers of tokens that are decoded, the last of them all."""

    @abstractmethod
    def shown_lengths(self, tokenizer: Any) -> dict[int, str]:
        """Those of them that are shown, with their names."""

    @abstractmethod
    def about(self, at: Any, number: int | None = None) -> dict[str, Any]:
        """Columns of size, and of which length it is, None for codecs."""

    @abstractmethod
    def pixels(self, at: Any) -> int:
        """Of a medium."""

    def caption(self, at: Any) -> str:
        """What stands under an original."""
        return self.named(at)

    def budgets(self) -> dict[Any, list[float]]:
        """For each size, the byte counts that codecs are asked for."""
        found: dict[Any, set[float]] = {}
        for subject in self.subjects:
            tokenizer = subject.model
            asked = {tokenizer.rate(count).bits / 8 for count in self.lengths(tokenizer)}
            asked |= {times * max(asked) for times in self.beyond}
            found.setdefault(self.seen_at(tokenizer), set()).update(asked)
        return {at: sorted(asked) for at, asked in found.items()}

    # --- measuring -------------------------------------------------------------------------------

    def _judge(self, originals: torch.Tensor) -> Callable[[torch.Tensor], Record]:
        """Compares media with some originals."""
        return lambda made: self.judges.observe(made, originals)

    @abstractmethod
    def _summarize(self, rows: Record, real: Record) -> dict[str, float]: ...

    @abstractmethod
    def _encodings(self, medium: torch.Tensor, codec: str) -> list[Encoded]: ...

    @abstractmethod
    def _codec_facts(self, codec: str) -> dict[str, Any]: ...

    def _wanted(self, places: list[int]) -> list[int]:
        """Which media of a part are shown."""
        return [number for number, place in enumerate(places) if place < self.shown]

    def _originals(self, at: Any) -> Record:
        def measure(media: torch.Tensor, places: list[int]) -> Record:
            return {**self.judges.observe(media), "shown": _bytes(media[self._wanted(places)])}

        return self._measure(f"{self.noun} of {self.named(at)}", at, (measure, self.originals))

    def _through_tokens(self, subject: Subject) -> Work:
        tokenizer = subject.model
        counts = self.lengths(tokenizer)

        def measure(media: torch.Tensor, places: list[int]) -> Record:
            judge, size = self._judge(media), 1 if self.one_by_one else len(media)
            tokens = encode_all(tokenizer, media, batch_size=size)  # (n, N)
            found = {"tokens": tokens}
            for count in counts:
                made = decode_all(tokenizer, tokens, num_tokens=count, batch_size=size)
                rows = {**judge(made), "shown": _bytes(made[self._wanted(places)])}
                found |= {f"{count}.{key}": value for key, value in rows.items()}
            return found

        return measure, {"what": "tokenizer", "model": subject.fingerprint, "counts": counts}

    def _through_codec(self, codec: str, at: Any) -> Work:
        budgets = self.budgets()[at]

        def measure(media: torch.Tensor, places: list[int]) -> Record:
            settings = [self._encodings(medium, codec) for medium in media]
            judge, wanted = self._judge(media), self._wanted(places)
            seen: dict[tuple, Record] = {}
            found: Record = {}
            for name, headers in HEADERS.items():
                for place, budget in enumerate(budgets):
                    chosen = [best_within(each, budget, headers=headers) for each in settings]
                    key = tuple((e.scale, e.quality) for e in chosen)
                    if key not in seen:
                        pixels = torch.stack([torch.from_numpy(e.pixels.copy()) for e in chosen])
                        made = pixels.movedim(-1, 1).float() / 127.5 - 1  # (n, 3, ..., H, W)
                        seen[key] = {**judge(made), "shown": pixels[wanted]}
                    sizes = [e.file if headers else e.payload for e in chosen]
                    rows = {**seen[key], "bytes": torch.tensor(sizes, dtype=torch.float32)}
                    if name != self.shown_headers:
                        rows.pop("shown")
                    found |= {f"{name}.{place}.{k}": v for k, v in rows.items()}
            return found

        return measure, {"budgets": budgets, **self._codec_facts(codec)}

    # --- the report ------------------------------------------------------------------------------

    def _tokenizer_rows(self, subject: Subject, record: Record, real: Real) -> Rows:
        tokenizer, rows = subject.model, []
        at, vocabulary = self.seen_at(tokenizer), tokenizer.layout.vocab_size
        for number, count in enumerate(self.lengths(tokenizer)):
            rate = tokenizer.rate(count)
            figures = self._summarize(part_of(record, f"{count}."), real[at])
            use = codebook_use(count_codes(record["tokens"][..., :count], vocabulary))
            known = {"group": "tokenizers", "subject": subject.name, **self.about(at, number)}
            size = {"tokens": count, "bytes": rate.bits / 8, "bpp": rate.bits_per_unit}
            rows.append({**known, **size, **figures, **use})
        return rows

    def _codec_rows(self, codec: str, at: Any, record: Record, real: Real) -> Rows:
        rows = []
        for name in HEADERS:
            for place, budget in enumerate(self.budgets()[at]):
                part = part_of(record, f"{name}.{place}.")
                used = part["bytes"].double().mean().item()
                known = {"group": self.group, "subject": self.label(codec), **self.about(at)}
                size = {"bytes": used, "bpp": 8 * used / self.pixels(at)}
                figures = self._summarize(part, real[at])
                rows.append({**known, "headers": name, "budget": budget, **size, **figures})
        return rows

    def _exhibit(
        self, stem: str, subject: Subject, record: Record, real: Real, theirs: Theirs
    ) -> Iterator[list[Cell]]:
        tokenizer = subject.model
        at = self.seen_at(tokenizer)
        sources: list[tuple[Any, str, Record, float | None]] = [
            (count, label, part_of(record, f"{count}."), tokenizer.rate(count).bits / 8)
            for count, label in self.shown_lengths(tokenizer).items()
        ]
        full = self.budgets()[at].index(tokenizer.rate(self.lengths(tokenizer)[-1]).bits / 8)
        for (other, codec), found in theirs.items():
            if other == at:
                part = part_of(found, f"{self.shown_headers}.{full}.")
                sources.append((codec, self.label(codec), part, None))
        for number, original in enumerate(real[at]["shown"]):
            name = self.media[int(real[at]["index"][number])].name
            cells = [self._cell(f"{stem}-{number}-original", original, name, self.caption(at))]
            for end, label, part, size in sources:
                size = part["bytes"][number] if size is None else size
                words = f"{size:g} bytes, {part['psnr'][number]:.1f} dB"
                shown = part["shown"][number]
                cells.append(self._cell(f"{stem}-{number}-{end}", shown, label, words))
            yield cells

    @abstractmethod
    def _cell(self, stem: str, pixels: torch.Tensor, label: str, caption: str) -> Cell:
        """Pixels uint8 (..., H, W, 3), written into the report's folder."""


def _bytes(media: torch.Tensor) -> torch.Tensor:
    """Media (n, 3, ..., H, W) in [-1, 1] as uint8 (n, ..., H, W, 3)."""
    values = ((media.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return values.movedim(1, -1).cpu().contiguous()  # (n, ..., H, W, 3)
