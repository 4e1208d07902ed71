"""The report of sound tokenizers: sounds through tokens and back, beside MP3 and Opus at their
lowest rates.

Every tokenizer hears the sounds at its own sample rate, mixed into one channel. Held-out sentences
of the synthetic speech are measured apart in the voices that training heard and in those that it
did not. Codecs are met at the rates that they have (sound_codecs.py): none goes as low as tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from studio.evaluation.codebook import codebook_use, count_codes
from studio.evaluation.parts import Record, joined
from studio.evaluation.pictures import spread
from studio.evaluation.report import Cell, Column
from studio.evaluation.sound_codecs import RATES, available_codecs, code, missing_codecs
from studio.evaluation.sound_judges import SoundJudges, summarize
from studio.evaluation.sound_picture import sound_picture
from studio.evaluation.sounds import Sound, read_sounds
from studio.evaluation.subjects import Subject
from studio.evaluation.tokenizer_report import (
    Real,
    Rows,
    Theirs,
    TokenizerEvaluation,
    Work,
    part_of,
)
from studio.media.audio import write_audio
from studio.media.image import write_image

COLUMNS = [
    Column("subject", "model"),
    Column("part", "data"),
    Column("hertz", "sample rate", "Hz"),
    Column("asked", "rate asked", "kbit/s"),
    Column("token_rate", "tokens", "a second", digits=1),
    Column("bit_rate", "bits", "a second", digits=0),
]


@dataclass(kw_only=True)
class SoundEvaluation(TokenizerEvaluation):
    """The settings of a report, and the work.

    Args:
        sounds: of `find_sounds` or `spoken_sounds`.
        seconds: of every sound, from its start.
        data_notes: sentences about the data.
        subjects, judges, folder, codecs, ...: see `TokenizerEvaluation`.
    """

    medium, noun, left_out = "sound", "sounds", ("read", "left out, unreadable")
    columns, axes = COLUMNS, {"x": "bit_rate", "dash": "part"}
    exhibit_note = "Evenly spread over the data; unselected. Above, the wave; below, log-mel bands."

    sounds: list[Sound]
    judges: SoundJudges
    seconds: float = 10.0
    data_notes: list[str] = field(default_factory=list)

    @property
    def media(self) -> list[Sound]:
        return self.sounds

    def available(self) -> list[str]:
        return available_codecs()

    def seen_at(self, tokenizer: Any) -> int:
        return tokenizer.sample_rate

    def named(self, at: int) -> str:
        return f"{at} Hz"

    def shown_places(self) -> list[int]:
        """Which sounds are on the page: evenly spread."""
        return spread(list(range(len(self.sounds))), self.shown) if self.shown else []

    # --- measuring -------------------------------------------------------------------------------

    def _read(self, media: list[Sound], at: int) -> tuple[list[torch.Tensor], list[int]]:
        return read_sounds(media, at, self.seconds)

    def _settings(self, at: int) -> dict[str, Any]:
        return {"rate": at, "seconds": self.seconds, "shown": sorted(self.shown_places())}

    def _each(self, measure: Callable[[torch.Tensor, bool], Record]) -> Any:
        """The rows of some sounds, one by one, of the waves (1, L) and whether they are shown."""
        wanted = set(self.shown_places())

        def measure_all(waves: list[torch.Tensor], places: list[int]) -> Record:
            pairs = zip(waves, places, strict=True)
            return joined([measure(wave, place in wanted) for wave, place in pairs])

        return measure_all

    def _through_tokens(self, subject: Subject) -> Work:
        tokenizer = subject.model
        rate = tokenizer.sample_rate

        @torch.no_grad()
        def measure(wave: torch.Tensor, kept: bool) -> Record:
            media = wave[None].to(tokenizer.device)  # (1, 1, L)
            encoded = tokenizer.encode(media)
            made = tokenizer.decode(encoded.tokens, length=wave.shape[-1])[0].cpu()  # (1, L)
            tokens = encoded.tokens.reshape(1, -1, encoded.tokens.shape[-1])[0].T.cpu()  # (T, K)
            found = {"tokens": tokens, "count": torch.tensor([tokens.numel()])}
            bits = torch.tensor([float(encoded.layout.bits())], dtype=torch.float64)
            return {**found, **self._row(made, wave, rate, bits, kept)}

        return self._each(measure), {"what": "tokenizer", "model": subject.fingerprint}

    def _through_codec(self, codec: str, at: int) -> Work:
        def measure(wave: torch.Tensor, kept: bool) -> Record:
            found: Record = {}
            for kbits in RATES[codec]:
                coded = code(wave, at, codec, kbits)
                bits = torch.tensor([coded.bits], dtype=torch.float64)
                lowest = kept and kbits == min(RATES[codec])
                row = self._row(coded.wave, wave, at, bits, lowest)
                found |= {f"{kbits}.{name}": value for name, value in row.items()}
            return found

        return self._each(measure), {"what": "codec", "codec": codec, "rates": RATES[codec]}

    def _row(self, made, wave, rate: int, bits: torch.Tensor, kept: bool) -> Record:
        scores = self.judges.observe(made, wave, rate)
        found = {name: torch.tensor([value]) for name, value in scores.items()}
        found |= {"bits": bits, "length": torch.tensor([wave.shape[-1] / rate])}
        if kept:
            both = torch.stack([wave[0], made[0].clamp(-1, 1)], -1)  # (L, 2)
            found["shown"] = (both * 32767).round().to(torch.int16)
            found["shown_length"] = torch.tensor([len(both)])
        return found

    # --- the report ------------------------------------------------------------------------------

    def _facts(self, ours: list[Record]) -> dict[str, Any]:
        return {"seconds": round(ours[0]["length"].sum().item(), 1)}

    def _tokenizer_rows(self, subject: Subject, record: Record, real: Real) -> Rows:
        tokenizer, rows = subject.model, []
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), record["count"].cumsum(0)])
        for part, places in self._parts(record):
            books = record["tokens"].shape[1]
            spans = [(int(ends[p]) // books, int(ends[p + 1]) // books) for p in places]
            tokens = torch.cat([record["tokens"][a:b] for a, b in spans])  # (T, K)
            uses = [
                codebook_use(count_codes(tokens[:, k], tokenizer.codebook_size))
                for k in range(books)
            ]
            use = {name: sum(u[name] for u in uses) / books for name in uses[0]}
            length = record["length"][places].sum().item()
            row = self._figures(record, places)
            row |= {"hertz": tokenizer.sample_rate, "token_rate": tokens.numel() / length}
            rows.append(
                {"group": "tokenizers", "subject": subject.name, "part": part, **row, **use}
            )
        return rows

    def _codec_rows(self, codec: str, at: int, record: Record, real: Real) -> Rows:
        rows = []
        for kbits in RATES[codec]:
            found = {**part_of(record, f"{kbits}."), "index": record["index"]}
            for part, places in self._parts(record):
                words = {"group": "codecs at their lowest rates", "subject": codec.upper()}
                known = {"part": part, "hertz": at, "asked": kbits}
                rows.append({**words, **known, **self._figures(found, places)})
        return rows

    def _figures(self, record: Record, places: list[int]) -> dict[str, Any]:
        """Means over some rows of a record; bits a second over all of them together."""
        names = [column.key for column in self.judges.metrics()]
        chosen = {name: record[name][places] for name in (*names, "bits", "length")}
        rate = chosen["bits"].sum().item() / chosen["length"].double().sum().item()
        return {"bit_rate": rate, **summarize(chosen, names)}

    def _parts(self, record: Record) -> list[tuple[str, list[int]]]:
        """The parts of the data, and which rows of a record belong to each."""
        found: dict[str, list[int]] = {}
        for place, index in enumerate(record["index"].tolist()):
            found.setdefault(self.sounds[index].part, []).append(place)
        return list(found.items())

    def _notes(self, count: int, real: Real, codecs: bool) -> list[str]:
        notes = [
            *self.data_notes,
            f"Sounds are mixed into one channel; at most {self.seconds:g} s of each are measured.",
            *self.judges.missing(),
        ]
        if codecs:
            notes.append(
                "Codecs run at the lowest rates they have, constant in MP3. What a file of nothing "
                "takes is not counted, and their delay is taken out before anything is measured."
            )
        return notes + (missing_codecs() if self.codecs is None else [])

    def _exhibit(
        self, stem: str, subject: Subject, record: Record, real: Real, theirs: Theirs
    ) -> Iterator[list[Cell]]:
        rate = subject.model.sample_rate
        sources = [("tokens", record, "")]
        for (other, codec), found in theirs.items():
            if other == rate:
                part = part_of(found, f"{min(RATES[codec])}.")
                sources.append((codec.upper(), {**part, "index": found["index"]}, codec))
        pairs = [(label, record, _cut(record)) for label, record, _ in sources]
        kept = [i for i in record["index"].tolist() if i in set(self.shown_places())]
        for number, index in enumerate(kept):
            sound = self.sounds[index]
            original = pairs[0][2][number][0]
            cells = [
                self._cell(f"{stem}-{number}-original", original, rate, sound.name, sound.caption)
            ]
            for label, source, waves in pairs:
                row = source["index"].tolist().index(index)
                bits = (source["bits"][row] / source["length"][row]).item()
                words = f"{bits:,.0f} bits a second" + _score(source, row)
                stem_of = f"{stem}-{number}-{label.lower()}"
                cells.append(self._cell(stem_of, waves[number][1], rate, label, words))
            yield cells

    def _cell(self, stem: str, samples, rate: int, label: str, caption: str) -> Cell:
        wave = samples.float()[None] / 32767  # (1, L)
        write_audio(self.folder / f"{stem}.wav", wave, rate)
        write_image(self.folder / f"{stem}.png", sound_picture(wave, rate))
        return Cell(label, f"{stem}.wav", caption, picture=f"{stem}.png")


def _score(record: Record, row: int) -> str:
    known = {"pesq": "PESQ", "stoi": "STOI"}
    told = [f"{known[n]} {record[n][row]:.2f}" for n in known if n in record]
    return ", " + ", ".join(told) if told else ""


def _cut(record: Record) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Original and made samples (L,) of each sound that is shown."""
    lengths = record["shown_length"].tolist() if "shown_length" in record else []
    parts = record["shown"].split(lengths) if lengths else ()
    return [(part[:, 0], part[:, 1]) for part in parts]
