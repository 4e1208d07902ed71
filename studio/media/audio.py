"""Sound: files and float tensors in [-1, 1].

Reading takes what libsndfile does (WAV, FLAC, OGG, MP3, AIFF and more); what can't be read is
refused in one line, and a sound that is too long before it is decoded. Writing keeps the true
loudness: nothing is normalised, and 16-bit samples come back as they were. The request that made a
sound is inside its file: as LIST/INFO in WAV, as a comment in FLAC and OGG, in a file beside it
otherwise. Leaves out on purpose: playing, and video containers.
"""

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.env import need
from studio.media.files import atomic_write
from studio.media.metadata import MAX_BYTES, dumps, parse_request
from studio.media.resampling import resample
from studio.media.wav import is_wav, missing_share, wav_bytes, wav_comment

logger = logging.getLogger(__name__)

WRITE_SUFFIXES = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
DEPTHS = ("16", "float")
MAX_SAMPLES = 2**28  # of all channels together: 1 GiB as floats
MAX_CHANNELS = 8
RATES = (1000, 768_000)
_MARK = "studio:"
_LOUDEST = 16.0  # beyond this, floats are no samples in [-1, 1] that overshoot


@dataclass(frozen=True)
class AudioInfo:
    """What a header says: samples a second, channels, samples a channel, and the format's name."""

    sample_rate: int
    channels: int
    length: int
    format: str

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.length / self.sample_rate


def audio_info(path: str | Path) -> AudioInfo:
    """The header of a sound file; no sample is decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one line: a folder, empty, no sound, cut short, or without samples; too many
            channels or a rate that no sound has.
        ImportError: the package `soundfile` is missing.
    """
    path = Path(path)
    _check_file(path)
    with _opened(path) as sound:
        info = AudioInfo(sound.samplerate, sound.channels, sound.frames, sound.format)
    name = repr(str(path))
    if is_wav(path) and (share := missing_share(path)) > 0:
        raise ValueError(f"sound {name} is cut short: {100 * share:.0f} % of it is missing")
    if info.length < 1:
        raise ValueError(f"sound {name} holds no samples")
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise ValueError(
            f"sound {name} has {info.channels} channels; 1 to {MAX_CHANNELS} are allowed"
        )
    low, high = RATES
    if not low <= info.sample_rate <= high:
        raise ValueError(
            f"sound {name} has {info.sample_rate} samples a second; {low} to {high} are allowed"
        )
    return info


def read_audio(
    path: str | Path,
    *,
    sample_rate: int | None = None,
    mono: bool = False,
    start: float = 0.0,
    seconds: float | None = None,
) -> tuple[torch.Tensor, int]:
    """A sound file as (1, C, L) float32 in [-1, 1], and its sample rate.

    Args:
        path: the file.
        sample_rate: convert to this one.
        mono: mix the channels into one.
        start, seconds: read this part alone.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `audio_info`; and when the part is outside
            the sound or too long, the samples are broken, or not finite.
    """
    info, name = audio_info(path), repr(str(path))
    first = round(start * info.sample_rate)
    if not 0 <= first < info.length or (seconds is not None and seconds <= 0):
        raise ValueError(
            f"start {start} and seconds {seconds} must lie in the {info.seconds:.2f} s of {name}"
        )
    count = info.length - first
    if seconds is not None:
        count = min(count, max(1, round(seconds * info.sample_rate)))
    if count * info.channels > MAX_SAMPLES:
        most = MAX_SAMPLES / info.channels / info.sample_rate / 60
        minutes = count / info.sample_rate / 60
        raise ValueError(
            f"sound {name} is too long: {minutes:.0f} minutes of {info.channels} channels at "
            f"{info.sample_rate} Hz; at most {most:.0f} are read at once"
        )
    audio = torch.from_numpy(_samples(Path(path), info, first, count).T.copy())[None]  # (1, C, L)
    if not bool(torch.isfinite(audio).all()):
        raise ValueError(f"sound {name} holds values that are not finite")
    if (peak := float(audio.abs().max())) > _LOUDEST:
        raise ValueError(f"sound {name} holds values up to {peak:.6g}; they must lie in [-1, 1]")
    if mono:
        audio = audio.mean(1, keepdim=True)  # (1, 1, L)
    rate = sample_rate or info.sample_rate
    return resample(audio, info.sample_rate, rate), rate


def _samples(path: Path, info: AudioInfo, first: int, count: int) -> np.ndarray:
    """Float32 (L, C). A compressed file may hold somewhat less than its header says."""
    errors = (need("soundfile", extra="audio").SoundFileError, RuntimeError, ValueError, OSError)
    broken = f"sound {str(path)!r} is broken or cut short"
    with _opened(path) as sound:
        try:
            sound.seek(first)
            samples = sound.read(count, dtype="float32", always_2d=True)  # (L, C)
        except errors as error:
            raise ValueError(f"{broken}: {_reason(error)}") from error
    if not len(samples) or (info.format == "FLAC" and len(samples) < count):
        raise ValueError(f"{broken}: {len(samples)} of {count} samples are there")
    return samples


def _check_file(path: Path) -> None:
    name = repr(str(path))
    if not path.exists():
        raise FileNotFoundError(f"sound {name} does not exist")
    if path.is_dir():
        raise ValueError(f"sound {name} is a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"sound {name} is empty")


def _opened(path: Path) -> Any:
    """The file opened by soundfile. Raises ValueError in one line when it is no sound."""
    soundfile = need("soundfile", extra="audio")
    try:
        with open(path, "rb"):
            pass
        return soundfile.SoundFile(path)
    except PermissionError as error:
        raise PermissionError(f"sound {str(path)!r} can't be read: {error.strerror}") from error
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise ValueError(
            f"sound {str(path)!r} is none that can be read, or cut short: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    lines = str(getattr(error, "error_string", error)).strip().splitlines()
    return lines[-1][:120] if lines else type(error).__name__


def check_suffix(path: str | Path) -> str:
    """The format for a file name. Raises ValueError for a suffix that we do not write."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        known = ", ".join(WRITE_SUFFIXES)
        raise ValueError(f"output {str(path)!r} must end in one of {known}")
    return WRITE_SUFFIXES[suffix]


def write_audio(
    path: str | Path,
    audio: torch.Tensor,
    sample_rate: int,
    request: dict[str, Any] | None = None,
    *,
    depth: str = "16",
) -> Path:
    """Write a sound, whole or not at all, with the request that made it.

    The same sound and request give the same bytes in WAV and FLAC. Only WAV needs no other package.

    Args:
        path: ends in .wav, .flac, .ogg or .mp3; missing folders are made.
        audio: (C, L) or (1, C, L) floats; in 16 bits they are clipped to [-1, 1], with one warning.
        sample_rate: samples a second.
        request: plain JSON values.
        depth: "16" or "float" (WAV only); compressed formats have their own.

    Raises:
        ValueError: the suffix, shape, depth, rate or number of channels; values that are not
            finite; a request that is too long.
        OSError: one line, when the file can't be written; nothing is left behind.
        ImportError: the package `soundfile`, which formats other than WAV need, is missing.
    """
    kind, path = check_suffix(path), Path(path)
    if depth not in DEPTHS or (depth == "float" and kind != "WAV"):
        raise ValueError(f"depth {depth!r} must be '16', or 'float' in a .wav file")
    samples = _checked(audio, sample_rate)
    text = None if request is None else dumps(request)
    values = samples if depth == "float" else _as_16_bit(samples)
    comment = None if text is None else _MARK + text
    if kind == "WAV":
        return atomic_write(path, wav_bytes(values, sample_rate, comment))
    if kind != "FLAC":  # libsndfile makes noise of 16-bit stereo in MP3
        values = values.astype(np.float32) / 32768
    atomic_write(path, _encoded(values, sample_rate, kind, None if kind == "MP3" else comment))
    if text is not None and kind == "MP3":
        atomic_write(side_file(path), text)
    return path


def side_file(path: str | Path) -> Path:
    """Where the request of a sound stands whose format has no place for it."""
    return Path(path).with_name(Path(path).name + ".json")


def _checked(audio: torch.Tensor, sample_rate: int) -> np.ndarray:
    """Float32 (L, C)."""
    if audio.ndim == 3 and audio.shape[0] == 1:
        audio = audio[0]  # (C, L)
    if audio.ndim != 2 or not audio.numel() or audio.shape[0] > MAX_CHANNELS:
        raise ValueError(
            f"audio of shape {tuple(audio.shape)} must be (C, L) or (1, C, L), with 1 to "
            f"{MAX_CHANNELS} channels and at least one sample"
        )
    low, high = RATES
    if sample_rate != int(sample_rate) or not low <= sample_rate <= high:
        raise ValueError(f"sample_rate {sample_rate} must be a whole number from {low} to {high}")
    values = audio.detach().float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("audio holds values that are not finite")
    return np.ascontiguousarray(values.numpy().T)  # (L, C)


def _as_16_bit(samples: np.ndarray) -> np.ndarray:
    """One step is 1 / 32768, as readers take it, so that what was read comes back as it was."""
    if (peak := float(np.abs(samples).max())) > 1:
        logger.warning("sound reaches %.2f: what is beyond 1 is clipped", peak)
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _encoded(samples: np.ndarray, sample_rate: int, kind: str, comment: str | None) -> bytes:
    soundfile = need("soundfile", extra="audio")
    file, form = io.BytesIO(), {"FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}[kind]
    try:
        with soundfile.SoundFile(
            file, "w", sample_rate, samples.shape[1], subtype=form, format=kind
        ) as sound:
            if comment is not None:
                sound.comment = comment
            sound.write(samples)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        what = f"{samples.shape[1]} channels at {sample_rate} Hz"
        raise ValueError(f"{kind} can't hold {what}: {_reason(error)}; write a .wav") from error
    return file.getvalue()


def read_request(path: str | Path) -> dict[str, Any]:
    """The request that a sound was made by.

    Args:
        path: a file that studio wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no sound, holds no request, or one that is too long or not a JSON object.
    """
    path = Path(path)
    _check_file(path)
    text = wav_comment(path) if is_wav(path) else _comment(path)
    if text is not None and text.startswith(_MARK):
        return parse_request(text.removeprefix(_MARK), f"sound {str(path)!r}")
    beside = side_file(path)
    if not beside.is_file() or beside.stat().st_size > MAX_BYTES:
        raise ValueError(f"sound {str(path)!r} holds no studio request")
    raw = beside.read_bytes().decode(errors="replace")
    return parse_request(raw, f"sound {str(path)!r}")


def _comment(path: Path) -> str | None:
    with _opened(path) as sound:
        return sound.comment or None
