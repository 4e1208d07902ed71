"""The report of sound tokenizers: sounds through tokens and back, beside MP3 and Opus at their
lowest rates.

Every tokenizer hears the sounds at its own sample rate, mixed into one channel. Held-out sentences
of the synthetic speech are measured apart in the voices that training heard and in those that it
did not. Codecs are met at the rates that they have (sound_codecs.py): none goes as low as tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from studio.evaluation.codebook import codebook_use, count_codes
from studio.evaluation.image_report import USE_COLUMNS, part_of
from studio.evaluation.parts import Record, Shard, joined, measure_parts
from studio.evaluation.pictures import spread
from studio.evaluation.report import MEDIA, Cell, Column, Curve, Exhibit, Report, hardware
from studio.evaluation.sound_codecs import RATES, available_codecs, code, missing_codecs
from studio.evaluation.sound_judges import SoundJudges, summarize
from studio.evaluation.sound_picture import sound_picture
from studio.evaluation.sounds import Sound, read_sounds
from studio.evaluation.subjects import Subject
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
Progress = Callable[[str, int, int], None]


@dataclass
class SoundEvaluation:
    """The settings of a report, and the work.

    Args:
        subjects: of `open_tokenizers(medium="sound")`. sounds: of `find_sounds` or `spoken_sounds`.
        judges: what is measured. folder: of the report; parts are kept in it.
        seconds: of every sound, from its start.
        codecs: names among `available_codecs()`; all when None, [] for none.
        batch_size: sounds of a part. shown: sounds on the page.
        data_notes: sentences about the data.
        shard: which parts are this process's.
        progress: called as progress(what, parts done, parts).
    """

    subjects: list[Subject]
    sounds: list[Sound]
    judges: SoundJudges
    folder: Path
    seconds: float = 10.0
    codecs: list[str] | None = None
    batch_size: int = 8
    shown: int = 6
    data_notes: list[str] = field(default_factory=list)
    shard: Shard = field(default_factory=Shard)
    progress: Progress | None = None

    def check(self) -> None:
        """Raises ValueError in one line for what would fail later."""
        for codec in self.codecs or []:
            if codec not in available_codecs():
                known = ", ".join(available_codecs()) or "none is here"
                raise ValueError(f"codec {codec!r} must be one of {known}")

    def run(self) -> Report | None:
        """Measures all and gives the report; None on all processes but the main one."""
        self.check()
        ours = [self._measure(s.name, self._through_tokens, s) for s in self.subjects]
        theirs: dict[tuple[int, str], Record] = {}
        for rate in dict.fromkeys(subject.model.sample_rate for subject in self.subjects):
            for codec in available_codecs() if self.codecs is None else self.codecs:
                name = f"{codec.upper()} at {rate} Hz"
                theirs[rate, codec] = self._measure(name, self._through_codec, codec, rate)
        return self._report(ours, theirs) if self.shard.is_main else None

    def shown_places(self) -> list[int]:
        """Which sounds are on the page: evenly spread."""
        return spread(list(range(len(self.sounds))), self.shown) if self.shown else []

    # --- measuring -------------------------------------------------------------------------------

    def _measure(self, name: str, work, *arguments) -> Record:
        size = self.batch_size
        starts = range(0, len(self.sounds), size)
        parts = [self.sounds[start : start + size] for start in starts]
        measure, facts = work(*arguments)
        wanted = set(self.shown_places())

        def one(number: int) -> Record:
            waves, kept = read_sounds(parts[number], facts["rate"], self.seconds)
            rows = []
            for wave, place in zip(waves, kept, strict=True):
                index = number * size + place
                row = measure(wave, index in wanted)
                rows.append({"index": torch.tensor([index]), **row})
            return joined(rows) if rows else {"index": torch.zeros(0, dtype=torch.int64)}

        records = measure_parts(
            [[sound.key for sound in part] for part in parts],
            one,
            folder=self.folder / "parts",
            facts={
                **facts,
                "seconds": self.seconds,
                "judges": self.judges.identity,
                "shown": sorted(wanted),
            },
            shard=self.shard,
            progress=partial(self.progress, name) if self.progress else None,
        )
        return joined(records)

    def _through_tokens(self, subject: Subject):
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

        return measure, {"what": "tokenizer", "rate": rate, "model": subject.fingerprint}

    def _through_codec(self, codec: str, rate: int):
        def measure(wave: torch.Tensor, kept: bool) -> Record:
            found: Record = {}
            for kbits in RATES[codec]:
                coded = code(wave, rate, codec, kbits)
                bits = torch.tensor([coded.bits], dtype=torch.float64)
                lowest = kept and kbits == min(RATES[codec])
                row = self._row(coded.wave, wave, rate, bits, lowest)
                found |= {f"{kbits}.{name}": value for name, value in row.items()}
            return found

        return measure, {"what": "codec", "rate": rate, "codec": codec, "rates": RATES[codec]}

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

    def _report(self, ours: list[Record], theirs: dict[tuple[int, str], Record]) -> Report:
        count = len(ours[0]["index"])
        if not count:
            raise ValueError(f"none of the {len(self.sounds)} sounds can be read")
        rows = []
        for subject, record in zip(self.subjects, ours, strict=True):
            rows += self._tokenizer_rows(subject, record)
        for (rate, codec), record in theirs.items():
            rows += self._codec_rows(codec, rate, record)
        metrics = self.judges.metrics()
        left_out = len(self.sounds) - count
        facts = {
            "sounds": count,
            **({"left out, unreadable": left_out} if left_out else {}),
            "seconds": round(ours[0]["length"].sum().item(), 1),
            "hardware": hardware(),
        }
        exhibits = [
            self._exhibit(place, subject, ours[place], theirs)
            for place, subject in enumerate(self.subjects)
        ]
        return Report(
            title=f"Sound tokenizers: {', '.join(s.name for s in self.subjects)}",
            medium="sound",
            columns=[*COLUMNS, *metrics, *USE_COLUMNS],
            rows=rows,
            curves=[Curve("bit_rate", m.key, dash="part", log_x=True) for m in metrics],
            exhibits=exhibits if self.shown else [],
            facts=facts,
            notes=self._notes(bool(theirs)),
        )

    def _tokenizer_rows(self, subject: Subject, record: Record) -> list[dict[str, Any]]:
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

    def _codec_rows(self, codec: str, rate: int, record: Record) -> list[dict[str, Any]]:
        rows = []
        for kbits in RATES[codec]:
            found = {**part_of(record, f"{kbits}."), "index": record["index"]}
            for part, places in self._parts(record):
                words = {"group": "codecs at their lowest rates", "subject": codec.upper()}
                known = {"part": part, "hertz": rate, "asked": kbits}
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

    def _notes(self, codecs: bool) -> list[str]:
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

    def _exhibit(self, place: int, subject: Subject, record: Record, theirs) -> Exhibit:
        """Rows of an original, what the tokens give, and the codecs at their lowest rates."""
        rate = subject.model.sample_rate
        sources = [("tokens", record, "")]
        for (other, codec), found in theirs.items():
            if other == rate:
                part = part_of(found, f"{min(RATES[codec])}.")
                sources.append((codec.upper(), {**part, "index": found["index"]}, codec))
        pairs = [(label, record, _cut(record)) for label, record, _ in sources]
        kept = [i for i in record["index"].tolist() if i in set(self.shown_places())]
        rows = []
        for number, index in enumerate(kept):
            sound, stem = self.sounds[index], f"{MEDIA}/{place}-{number}"
            original = pairs[0][2][number][0]
            cells = [self._cell(f"{stem}-original", original, rate, sound.name, sound.caption)]
            for label, source, waves in pairs:
                row = source["index"].tolist().index(index)
                bits = (source["bits"][row] / source["length"][row]).item()
                words = f"{bits:,.0f} bits a second" + _score(source, row)
                stem_of = f"{stem}-{label.lower()}"
                cells.append(self._cell(stem_of, waves[number][1], rate, label, words))
            rows.append(cells)
        note = "Evenly spread over the data; unselected. Above, the wave; below, log-mel bands."
        return Exhibit(subject.name, rows, note)

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
