"""A closer look at results: a sound's wave and spectrogram, a clip's single frames."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.server.jobs import Picture
from studio.server.media import picture
from studio.server.workspace import without_path

MAX_SECONDS = 60.0  # of a sound
_SIDE = 320  # about, of a small clip's frame


def wave_and_spectrogram(path: Path) -> Picture:
    """A sound's wave above its spectrogram. Raises ValueError where it can't be read."""
    with _without(path):
        return _pictured(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _pictured(path: Path, changed: int) -> Picture:
    from studio.evaluation.sound_picture import sound_picture
    from studio.media.audio import audio_info, read_audio

    length = min(MAX_SECONDS, audio_info(path).seconds)
    wave, rate = read_audio(path, mono=True, seconds=length)
    return picture(sound_picture(wave[0], rate), "wave, and spectrogram below it", side=576)


def frame_count(path: Path) -> int:
    """How many frames a clip has. Raises ValueError where it can't be read."""
    with _without(path):
        return _frames(path, path.stat().st_mtime_ns).shape[0]


def frame(path: Path, index: int) -> Picture:
    """One frame of a clip. Raises ValueError where it can't be read."""
    from PIL import Image

    with _without(path):
        frames = _frames(path, path.stat().st_mtime_ns)
    shown = Image.fromarray(frames[index])
    return picture(shown, f"frame {index + 1} of {len(frames)}", side=_SIDE)


@functools.lru_cache(maxsize=2)
def _frames(path: Path, changed: int) -> Any:
    """uint8 (T, H, W, 3)."""
    from studio.media.video import read_video

    clip, _ = read_video(path)
    values = ((clip[0] + 1) * 127.5).round().byte()
    return values.permute(1, 2, 3, 0).contiguous().numpy()  # (T, H, W, 3)


@contextlib.contextmanager
def _without(path: Path) -> Iterator[None]:
    """Errors say nothing of where a file is."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(without_path(str(error), path)) from error
