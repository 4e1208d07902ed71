"""Media through tokenizers: what each keeps at each number of tokens, beside ordinary codecs.

`Coded` is one input in one tokenizer, with what is needed to decode any prefix of it later. Work
for the queue's thread; nothing here is kept on disk.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.server.codecs import codec_points
from studio.server.jobs import Job, Picture
from studio.server.keeper import Keeper, Opened
from studio.server.measuring import Point, scores
from studio.server.media import kind_of_file, picture, png_bytes, sound

MAX_SECONDS = 30.0  # of sounds
MAX_FRAMES = 32
MAX_SIDE = 192  # of clips
_POINTS = 9


@dataclass
class Coded:
    """One input in one tokenizer.

    Args:
        name: of the model.
        medium: "image", "audio" or "video".
        tokens: int64 (1, N) or (1, K, N).
        layout: of the tokens.
        real: the tensor that the tokenizer saw.
        rate: samples or frames a second; 0 for pictures.
        counts: token counts that can be decoded; one where prefixes can't.
        original: what it saw, to be shown.
        points: quality at some of the counts.
        shown: what was decoded so far, by count.
        spectra: of sounds, the spectrogram of each, and of the original at 0.
    """

    name: str
    medium: str
    tokens: Any
    layout: Any
    real: Any
    rate: float
    counts: list[int]
    original: Picture
    points: list[Point] = field(default_factory=list)
    shown: dict[int, Picture] = field(default_factory=dict)
    spectra: dict[int, Picture] = field(default_factory=dict)

    def bits(self, count: int) -> float:
        """Bits that the first tokens carry."""
        return self.layout.bits(count)

    def point(self, count: int) -> Point | None:
        """The quality at a count, where it was measured."""
        return next((p for p in self.points if p.tokens == count), None)

    @property
    def seconds(self) -> float:
        """How long it lasts; 0 for pictures."""
        return self.real.shape[-1 if self.medium == "audio" else 2] / self.rate if self.rate else 0


@dataclass
class Comparison:
    """An input in several tokenizers, and in codecs.

    Args:
        coded: at least one, all of one medium.
        codecs: their points, by codec and bytes; none before they were asked for.
        missing: a line for each codec that is not here.
        codec_job: id of the job that measures them, once somebody asked for it.
    """

    coded: list[Coded]
    codecs: list[Point] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    codec_job: str = ""

    @property
    def medium(self) -> str:
        """Of all: "image", "audio" or "video"."""
        return self.coded[0].medium

    def points(self) -> list[Point]:
        """All there are."""
        return [point for coded in self.coded for point in coded.points] + self.codecs


def comparison(
    job: Job, keeper: Keeper, path: Path, models: list[str], *, curve: bool = True
) -> Comparison:
    """An input through several tokenizers.

    Args:
        path: of the input, named by an upload.
        models: their names.
        curve: measure some prefixes too, and for pictures the codecs; those of sounds and clips
            take long, see `add_codecs`.

    Raises:
        ValueError: one line: a file that can't be read, a model for another medium.
    """
    if not 1 <= len(models) <= 8:
        raise ValueError(f"models: {len(models)} are chosen, 1 to 8 can be")

    # A function of its own: nothing here holds a model while the next one is loaded.
    def one(number: int, name: str) -> Coded:
        job.report(number / len(models), f"loading {name}")
        opened = keeper.open_tokenizer(name)
        coded = encode(opened, path)
        counts = spread(coded.counts) if curve else coded.counts[-1:]
        for i, count in enumerate(counts):
            decode(opened, coded, count)
            job.report((number + (i + 1) / len(counts)) / len(models), f"{count} tokens of {name}")
        return coded

    made = Comparison([one(number, name) for number, name in enumerate(models)])
    return add_codecs(job, made) if made.medium == "image" and curve else made


def add_codecs(job: Job, found: Comparison) -> Comparison:
    """Measures ordinary codecs on the same input, as its first tokenizer saw it.

    Raises:
        ValueError: one line: none of them works here.
    """
    first = found.coded[0]
    found.codecs, found.missing = codec_points(job, first.medium, first.real, first.rate)
    return found


def spread(counts: list[int]) -> list[int]:
    """Some of many counts, closer at the beginning; the last one is among them."""
    if len(counts) <= _POINTS:
        return counts
    last = math.log2(counts[-1])
    wanted = {round(2 ** (last * i / (_POINTS - 1))) for i in range(_POINTS)}
    return sorted({min(counts, key=lambda c: abs(c - w)) for w in wanted} | {counts[-1]})


# --- one tokenizer -------------------------------------------------------------------------------


def encode(opened: Opened, path: Path) -> Coded:
    """An input as a tokenizer's tokens. Raises ValueError for a file of another medium."""
    import torch

    tokenizer, entry = opened.pipe.tokenizer, opened.entry
    medium = getattr(tokenizer, "medium", "image")
    kind = kind_of_file(path.name)
    still = medium == "image" and path.suffix.lower() == ".gif"
    if kind.name != medium and not still:
        raise ValueError(f"model {entry.name!r} codes {medium}, and this is a {kind.noun}")
    with torch.no_grad():
        real, rate, original = _READERS[medium](path, tokenizer)
        media = real.to(tokenizer.device, tokenizer.dtype)
        media = tokenizer.fitted(media) if medium == "video" else media
        encoded = tokenizer.encode(media)
    if encoded.tokens is None:
        raise ValueError(f"model {entry.name!r} has no tokens that can be counted")
    counts = _counts(tokenizer, encoded.layout)
    return Coded(entry.name, medium, encoded.tokens, encoded.layout, real, rate, counts, original)


def _counts(tokenizer: Any, layout: Any) -> list[int]:
    if hasattr(tokenizer, "num_tokens_of"):
        return [tokenizer.num_tokens_of(i + 1, layout) for i in range(len(tokenizer.codes))]
    total = layout.num_tokens
    return list(range(1, total + 1)) if layout.prefix else [total]


def decode(opened: Opened, coded: Coded, count: int) -> Picture:
    """The first tokens of an input, decoded and measured; kept in `coded`.

    Raises:
        ValueError: a count that can't be decoded.
    """
    import torch

    if count not in coded.counts:
        raise ValueError(f"num_tokens {count} must be one of {coded.counts[0]}..{coded.counts[-1]}")
    if count in coded.shown:
        return coded.shown[count]
    tokenizer = opened.pipe.tokenizer
    part = None if count == coded.counts[-1] else count
    values = coded.tokens
    if part is not None and coded.medium == "video":
        values = values[:, :count]
    with torch.no_grad():
        made = tokenizer.decode(values, num_tokens=part, layout=coded.layout).float().cpu()
    made = made.clamp(-1, 1)
    made = made[tuple(slice(size) for size in coded.real.shape)]  # without what was padded
    coded.shown[count] = _SHOWN[coded.medium](coded, made, count)
    values = scores(coded.medium, made, coded.real, coded.rate)
    coded.points.append(Point(count, coded.bits(count) / 8, values, coded.name))
    coded.points.sort(key=lambda point: point.tokens)
    return coded.shown[count]


# --- media ---------------------------------------------------------------------------------------


def _read_image(path: Path, tokenizer: Any) -> tuple[Any, float, Picture]:
    from studio.media.image import fit_square, open_picture, to_tensor

    seen = fit_square(open_picture(path), tokenizer.config.image_size)
    return to_tensor(seen)[None], 0.0, picture(seen, "the original")


def _read_audio(path: Path, tokenizer: Any) -> tuple[Any, float, Picture]:
    from studio.media.audio import audio_info, read_audio

    length = min(MAX_SECONDS, audio_info(path).seconds)
    rate = tokenizer.sample_rate
    wave, _ = read_audio(path, sample_rate=rate, mono=True, seconds=length)
    return wave, float(rate), sound([wave], rate, "the original")


def _read_video(path: Path, tokenizer: Any) -> tuple[Any, float, Picture]:
    import torch.nn.functional as F

    from studio.media.video import read_video, video_info

    info = video_info(path)
    clip, rate = read_video(path, num_frames=MAX_FRAMES)
    side = max(info.width, info.height)
    if side > MAX_SIDE:
        size = [max(1, round(n * MAX_SIDE / side)) for n in clip.shape[-2:]]
        frames = F.interpolate(clip[0].transpose(0, 1), size, mode="area")
        clip = frames.transpose(0, 1)[None]  # (1, 3, T, H, W)
    return clip, rate, animated(clip, rate, "the original")


def animated(clip: Any, rate: float, alt: str) -> Picture:
    """A clip (1, 3, T, H, W) as an animated WebP."""
    from studio.media.image import to_pil_list

    frames, file = to_pil_list(clip[0].transpose(0, 1)), io.BytesIO()
    stay = max(20, round(1000 / max(rate, 1)))
    frames[0].save(
        file, format="WEBP", save_all=True, append_images=frames[1:], duration=stay, loop=0
    )
    return Picture("image/webp", file.getvalue(), alt)


def _show_image(coded: Coded, made: Any, count: int) -> Picture:
    from studio.media.image import to_pil

    return picture(to_pil(made), f"reconstruction by {coded.name}")


def _show_audio(coded: Coded, made: Any, count: int) -> Picture:
    rate = int(coded.rate)
    if 0 not in coded.spectra:
        coded.spectra[0] = spectrogram(coded.real, "the original's spectrogram")
    text = f"spectrogram of the reconstruction by {coded.name}"
    coded.spectra[count] = spectrogram(made, text)
    return sound([made], rate, f"reconstruction by {coded.name}")


def _show_video(coded: Coded, made: Any, count: int) -> Picture:
    return animated(made, coded.rate, f"reconstruction by {coded.name}")


_READERS = {"image": _read_image, "audio": _read_audio, "video": _read_video}
_SHOWN = {"image": _show_image, "audio": _show_audio, "video": _show_video}


def spectrogram(wave: Any, alt: str) -> Picture:
    """A sound (1, 1, L) as a picture: time to the right, mel bands upwards, louder is brighter."""
    import torch
    from PIL import Image

    from studio.layers.spectrogram import magnitudes, mel_filterbank

    window = torch.hann_window(512)
    power = magnitudes(wave[0], 512, max(64, wave.shape[-1] // 600), window=window)[0]  # (F, T)
    bands = mel_filterbank(16000, 512, 80).T @ power  # (80, T)
    level = (20 * bands.clamp(min=1e-4).log10() + 60).clamp(0, 80) / 80
    gray = (level.flip(0) * 255).round().to(torch.uint8)
    image = Image.fromarray(gray.numpy()).resize((600, 160), Image.Resampling.BILINEAR)
    return Picture("image/png", png_bytes(image), alt)
