"""WAV files by hand: written with a comment of any length, and looked into without decoding.

Multimedia Programming Interface and Data Specifications 1.0, 1991 (RIFF). Samples are read through
`audio.py`; here stand the chunks around them. Left out on purpose: files beyond 4 GiB.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_PCM, _FLOAT = 1, 3
_UNKNOWN = 0xFFFFFFFF  # a size that a writer into a pipe could not know
MAX_SECTION = 1024 * 1024  # of a LIST chunk that is read


def wav_bytes(samples: np.ndarray, sample_rate: int, comment: str | None = None) -> bytes:
    """A WAV file.

    Args:
        samples: int16 or float32 (L, C).
        sample_rate: samples a second.
        comment: stands in the file as LIST/INFO, entry ICMT, UTF-8.

    Raises:
        ValueError: other samples, or more than a WAV file can hold.
    """
    kinds = {"int16": _PCM, "float32": _FLOAT}
    if samples.ndim != 2 or samples.dtype.name not in kinds:
        raise ValueError(f"samples {samples.dtype} {samples.shape} must be int16 or float32 (L, C)")
    channels, width = samples.shape[1], samples.dtype.itemsize
    rates = (sample_rate, sample_rate * channels * width, channels * width, 8 * width)
    form = struct.pack("<HHIIHH", kinds[samples.dtype.name], channels, *rates)
    parts = [_chunk(b"fmt ", form)]
    if samples.dtype == np.float32:
        parts.append(_chunk(b"fact", struct.pack("<I", samples.shape[0])))
    if comment is not None:
        entry = _chunk(b"ICMT", comment.encode() + b"\x00")
        parts.append(_chunk(b"LIST", b"INFO" + entry))
    data = samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes()
    parts.append(_chunk(b"data", data))
    size = 4 + sum(map(len, parts))
    if size >= _UNKNOWN:
        raise ValueError(f"sound of {size:,} bytes is more than a WAV file holds; write a .flac")
    return b"".join([b"RIFF", struct.pack("<I", size), b"WAVE", *parts])


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)


def is_wav(path: Path) -> bool:
    """True for a file that begins as WAV files do."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WAVE"


def wav_comment(path: Path) -> str | None:
    """The comment that `wav_bytes` wrote, or None."""
    with open(path, "rb") as file:
        for name, size in _chunks(file, 12):
            if name == b"LIST" and size <= MAX_SECTION and file.read(4) == b"INFO":
                start = file.tell()
                for entry, length in _chunks(file, start, stop=start + size - 4):
                    if entry == b"ICMT":
                        return file.read(length).rstrip(b"\x00").decode(errors="replace")
    return None


def missing_share(path: Path) -> float:
    """The share of the samples promised by the header that the file does not hold, 0 to 1."""
    end = path.stat().st_size
    with open(path, "rb") as file:
        for name, size in _chunks(file, 12):
            if name == b"data":
                there = end - file.tell()
                known = 0 < size < _UNKNOWN - 64
                return max(0.0, 1 - there / size) if known else 0.0
    return 1.0


def _chunks(file: BinaryIO, start: int, *, stop: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Names and sizes from `start` on; the file then stands at the chunk's body."""
    while stop is None or start + 8 <= stop:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        size = struct.unpack("<I", head[4:])[0]
        yield head[:4], size
        start += 8 + size + size % 2
