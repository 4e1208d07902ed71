"""What ordinary codecs make of an input: JPEG, WebP and AVIF, MP3 and Opus, H.264.

Each gets what `studio evaluate` gives it: pictures and clips may be shrunk first, and of sounds and
clips what the container takes is not counted. Of clips fewer settings are tried than there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from studio.server.jobs import Job
from studio.server.measuring import Point, scores

PICTURES = ("jpeg", "webp", "avif")
CLIPS = {1: (24, 30, 36, 42), 2: (18, 30, 42), 4: (18, 30)}  # qualities by how far it is shrunk
NAMES = {"image": "JPEG, WebP and AVIF", "audio": "MP3 and Opus", "video": "H.264"}
NOTES = {
    "image": "Codecs may shrink the picture first, and their files count with headers",
    "audio": "Codecs count without headers",
    "video": "H.264 may shrink the clip first, and counts without headers",
}
_GAIN = 0.2  # dB by which more bytes must be better, to be shown


def codec_points(job: Job, medium: str, real: Any, rate: float) -> tuple[list[Point], list[str]]:
    """Codecs on an input, and a line for each that is missing here.

    Args:
        job: told how far it is, and asked whether it was cancelled.
        medium: "image", "audio" or "video".
        real: float (1, 3, H, W), (1, 1, L) or (1, 3, T, H, W) in [-1, 1].
        rate: samples or frames a second.

    Raises:
        ValueError: one line: no codec of this medium works here.
    """
    job.say(NAMES[medium])
    find = {"image": _of_picture, "audio": _of_sound, "video": _of_clip}[medium]
    missing: list[str] = []
    points = list(find(job, real, rate, missing))
    if not points and missing:
        raise ValueError(" ".join(missing))
    return points, missing


def _of_picture(job: Job, real: Any, rate: float, missing: list[str]) -> Iterator[Point]:
    """For each codec, the best at every size."""
    from PIL import Image

    from studio.evaluation.codecs import available_codecs, encodings
    from studio.media.image import to_pil, to_tensor

    seen = to_pil(real)
    for codec in (c for c in PICTURES if c in available_codecs()):
        job.check()
        for one in _best(encodings(seen, codec), lambda e: e.file):
            made = to_tensor(Image.fromarray(one.pixels))[None]
            yield Point(0, one.file, scores("image", made, real, rate), codec.upper())


def _of_sound(job: Job, real: Any, rate: float, missing: list[str]) -> Iterator[Point]:
    """Every codec at the lowest rates that it has."""
    from studio.evaluation.sound_codecs import RATES, available_codecs, code, missing_codecs

    missing += missing_codecs()
    wanted = [(codec, kbits) for codec in available_codecs() for kbits in RATES[codec]]
    for number, (codec, kbits) in enumerate(wanted):
        job.report(number / len(wanted), f"{_SHOWN[codec]} at {kbits} kbit/s")
        try:
            made = code(real[0], int(rate), codec, kbits)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{_SHOWN[codec]} can't code this sound: {error}") from error
        found = scores("audio", made.wave[None], real, rate)
        yield Point(0, made.bits / 8, found, _SHOWN[codec])


def _of_clip(job: Job, real: Any, rate: float, missing: list[str]) -> Iterator[Point]:
    """H.264, the best at every size."""
    import torch

    from studio.env import mend, need
    from studio.evaluation.video_codecs import available_codecs, encodings

    if "h264" not in available_codecs():
        missing.append(f"No H.264: package av does not write it here; run: {mend('video')}")
        return
    av = need("av", extra="video")
    made, total = [], sum(map(len, CLIPS.values()))
    for scale, qualities in CLIPS.items():
        for quality in qualities:
            job.report(len(made) / total, f"H.264 at quality {quality}, 1/{scale} of the sides")
            options: dict[str, Any] = {"scales": (scale,), "qualities": (quality,)}
            try:
                made += encodings(real[0], "h264", fps=max(1.0, rate), **options)
            except av.FFmpegError as error:
                raise ValueError(f"H.264 can't code this clip: {error}") from error
    for one in _best(made, lambda e: e.payload):
        values = torch.from_numpy(one.pixels).permute(3, 0, 1, 2)[None]  # (1, 3, T, H, W)
        found = scores("video", values.float() / 127.5 - 1, real, rate)
        yield Point(0, max(1, one.payload), found, _SHOWN["h264"])


_SHOWN = {"mp3": "MP3", "opus": "Opus", "h264": "H.264"}


def _best(found: list, size) -> Iterator[Any]:
    """Of all settings those that no smaller one comes near, the smallest first."""
    best = -float("inf")
    for one in sorted(found, key=lambda e: (size(e), -e.psnr)):
        if one.psnr > best + _GAIN:
            best = one.psnr
            yield one
