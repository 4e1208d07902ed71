"""MP3 and Opus at low bit rates, to compare tokens with: by libsndfile, else by ffmpeg.

Both are given every advantage: what a file of a moment's silence takes is not counted, the delay
of the coder is taken out before anything is measured, and each runs down to the lowest rate that it
has. Leaves out on purpose: codecs for telephones, EVS and other networks.
"""

import functools
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from studio.env import need, probe
from studio.media.resampling import resample

RATES = {"mp3": (8, 16, 32), "opus": (6, 12, 24)}  # kbit/s asked for
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RANGES = {16000: (8, 160), 24000: (8, 160), 22050: (8, 160), 12000: (8, 64), 8000: (8, 64)}
_FFMPEG = {"mp3": ("libmp3lame", "mp3"), "opus": ("libopus", "ogg")}
_MOMENT = 0.02


@dataclass(frozen=True)
class Coded:
    """A sound after a codec: `wave` float32 (1, L), and the `bits` of it without headers."""

    wave: torch.Tensor
    bits: float


def available_codecs() -> list[str]:
    """The codecs that work here."""
    return [name for name in RATES if _backend(name)]


def missing_codecs() -> list[str]:
    """Which codecs are left out here, a line each."""
    gone = [name for name in RATES if not _backend(name)]
    return [f"No {name.upper()}: neither soundfile nor ffmpeg codes it here." for name in gone]


def code(wave: torch.Tensor, sample_rate: int, codec: str, kbits: int) -> Coded:
    """A sound (1, L) through a codec, as long as it was and in step with it.

    Raises:
        ValueError: the codec is none of `available_codecs()`.
    """
    backend = _backend(codec)
    if backend is None:
        known = ", ".join(available_codecs()) or "none is here"
        raise ValueError(f"codec {codec!r} must be one of {known}")
    rate = _coder_rate(codec, sample_rate)
    samples = resample(wave, sample_rate, rate)[0].numpy()
    length = _headers(codec, rate, kbits)
    data, made = backend(samples, rate, codec, kbits)
    back = resample(torch.from_numpy(made)[None], rate, sample_rate)  # (1, L')
    return Coded(in_step(back, wave), 8.0 * max(1, len(data) - length))


def in_step(made: torch.Tensor, real: torch.Tensor, *, latest: int = 4800) -> torch.Tensor:
    """A sound (1, L') moved by up to `latest` samples to where it fits another (1, L) best, and as
    long as it."""
    length = real.shape[-1]
    size = 1 << (length + made.shape[-1]).bit_length()
    spectrum = torch.fft.rfft(made, size) * torch.fft.rfft(real, size).conj()
    fit = torch.fft.irfft(spectrum, size)[0]  # (size,), index = how late
    reach = min(latest, size // 2 - 1)
    late = int(torch.cat([fit[-reach:], fit[: reach + 1]]).argmax()) - reach
    shifted = made[:, late:] if late >= 0 else torch.nn.functional.pad(made, (-late, 0))
    shifted = shifted[:, :length]
    return torch.nn.functional.pad(shifted, (0, length - shifted.shape[-1])).float()


Backend = Callable[[np.ndarray, int, str, int], tuple[bytes, np.ndarray]]


@functools.lru_cache(maxsize=8)
def _backend(codec: str) -> Backend | None:
    """What codes here: tried on a moment of silence."""
    candidates = {"soundfile": _by_soundfile, "imageio_ffmpeg": _by_ffmpeg}
    for package, backend in candidates.items():
        if codec in RATES and probe(package).ok:
            try:
                backend(np.zeros(1600, np.float32), 16000, codec, RATES[codec][0])
                return backend
            except (OSError, RuntimeError, ValueError, TypeError):  # TypeError: an old soundfile
                continue
    return None


@functools.lru_cache(maxsize=32)
def _headers(codec: str, rate: int, kbits: int) -> int:
    """Bytes of a file that holds next to nothing."""
    backend = _backend(codec)
    assert backend is not None
    moment = round(_MOMENT * rate)
    return len(backend(np.zeros(moment, np.float32), rate, codec, kbits)[0]) - int(
        _MOMENT * kbits * 125
    )


def _coder_rate(codec: str, sample_rate: int) -> int:
    """The sample rate at which a codec takes a sound: the next one that it knows."""
    known = _OPUS_RATES if codec == "opus" else sorted(_MP3_RANGES)
    return next((rate for rate in known if rate >= sample_rate), known[-1])


def _by_soundfile(samples, rate: int, codec: str, kbits: int) -> tuple[bytes, np.ndarray]:
    soundfile = need("soundfile", extra="audio")
    file = io.BytesIO()
    if codec == "opus":  # libsndfile spreads the levels over 6 to 256 kbit/s
        form = {"format": "OGG", "subtype": "OPUS", "compression_level": 1 - (kbits - 6) / 250}
    else:
        low, high = _MP3_RANGES[rate]
        level = min(0.999, 1 - (kbits - low) / (high - low))
        form = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": level}
        form["bitrate_mode"] = "CONSTANT"
    with soundfile.SoundFile(file, "w", rate, 1, **form) as sound:
        sound.write(samples)
    data = file.getvalue()
    made, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return data, made


def _by_ffmpeg(samples, rate: int, codec: str, kbits: int) -> tuple[bytes, np.ndarray]:
    program = need("imageio_ffmpeg", extra="audio").get_ffmpeg_exe()
    coder, container = _FFMPEG[codec]
    raw = ["-f", "f32le", "-ar", str(rate), "-ac", "1"]
    begin = [program, "-v", "error"]
    there = [*begin, *raw, "-i", "-", "-c:a", coder, "-b:a", f"{kbits}k", "-f", container, "-"]
    data = subprocess.run(there, input=samples.tobytes(), capture_output=True, check=False)
    back = [*begin, "-i", "-", *raw, "-"]
    made = subprocess.run(back, input=data.stdout, capture_output=True, check=False)
    if data.returncode or made.returncode:
        said = (data.stderr + made.stderr).decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"ffmpeg: {said[-1] if said else 'failed'}")
    return data.stdout, np.frombuffer(made.stdout, np.float32).copy()
