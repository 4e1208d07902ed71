"""Video files written: whole or not at all, in their exact size, with the request inside.

MP4 (H.264) and WebM (VP9) through PyAV (extra `video`), in pieces if need be, so that a long video
never stands in memory; GIF and WebP through Pillow, which holds all frames. Nothing is padded: an
odd size goes into MP4 with full colour (4:4:4), which some browsers don't play; WebM takes any size
as it is. Leaves out on purpose: sound, alpha, more than 8 bits.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from studio.env import need
from studio.media.animation import animation_bytes
from studio.media.files import atomic_path, atomic_write
from studio.media.image import to_rgb, to_tensor
from studio.media.metadata import dumps
from studio.media.video import MARK, check_fps

WRITE_SUFFIXES = {".mp4": "libx264", ".webm": "libvpx-vp9", ".gif": "GIF", ".webp": "WEBP"}
_ANIMATIONS = ("GIF", "WEBP")
_OPTIONS = {
    # its macroblock tree gives other bytes now and then for the same frames
    "libx264": {"preset": "medium", "mbtree": "0"},
    "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
}
QUALITY = {"libx264": 18, "libvpx-vp9": 24}
_WORST = {"libx264": 51, "libvpx-vp9": 63}


def check_suffix(path: str | Path) -> str:
    """How a file of that name is coded. Raises ValueError for a suffix that we do not write."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        known = ", ".join(WRITE_SUFFIXES)
        raise ValueError(f"output {str(path)!r} must end in one of {known}")
    return WRITE_SUFFIXES[suffix]


def write_video(
    path: str | Path,
    video: torch.Tensor | Iterable[torch.Tensor],
    *,
    fps: float,
    request: dict[str, Any] | None = None,
    quality: int | None = None,
) -> Path:
    """Write a video, whole or not at all.

    Args:
        path: ends in .mp4, .webm, .gif or .webp; missing folders are made.
        video: (3, T, H, W) or (1, 3, T, H, W) floats in [-1, 1] (clipped), or its pieces in order.
        fps: frames a second.
        request: plain JSON values, put inside.
        quality: 0 (best) to 51 of H.264 or 63 of VP9; near to what the eye tells when None.
            Animations have none.

    Raises:
        ValueError: an unknown suffix, a wrong shape, no frames, numbers that are not finite, a rate
            or quality out of range, a request too long.
        ImportError: PyAV is not there; the line says what to install.
        OSError: one line, when the file can't be written; nothing is left behind.
    """
    pieces = [video] if isinstance(video, torch.Tensor) else video
    with video_writer(path, fps=fps, request=request, quality=quality) as write:
        for piece in pieces:
            write(piece)
    return Path(path)


@contextmanager
def video_writer(
    path: str | Path,
    *,
    fps: float,
    request: dict[str, Any] | None = None,
    quality: int | None = None,
) -> Iterator[Callable[[torch.Tensor], None]]:
    """A function that takes the next frames (3, n, H, W) or (1, 3, n, H, W) of a video; the file is
    there when the block ends well. Arguments and errors as `write_video`.
    """
    codec = check_suffix(path)
    check_fps(fps)
    if codec in _ANIMATIONS:
        frames: list[np.ndarray] = []

        def write(piece: torch.Tensor) -> None:
            frames.extend(_frames(piece))
            _check_same(frames[-1].shape, frames[0].shape)

        yield write
        if not frames:
            raise ValueError(f"video for {str(path)!r} has no frames")
        atomic_write(path, animation_bytes(frames, codec, fps, request, MARK))
        return
    quality = QUALITY[codec] if quality is None else quality
    if not 0 <= quality <= _WORST[codec]:
        raise ValueError(f"quality {quality} must lie between 0 and {_WORST[codec]}")
    film = _Film(codec, fps, request, quality)
    with atomic_path(path) as temporary:
        film.open(temporary)
        try:
            yield film.write
            film.finish(path)
        finally:
            film.close()


def write_frames(
    path: str | Path,
    frames: Iterable[Image.Image],
    *,
    fps: float,
    request: dict[str, Any] | None = None,
) -> Path:
    """`write_video` for PIL images, as video pipelines give them, one at a time."""
    return write_video(
        path, (to_tensor(to_rgb(f))[:, None] for f in frames), fps=fps, request=request
    )


class _Film:
    """An open container and its one stream, whose size the first frame says."""

    def __init__(self, codec: str, fps: float, request: dict[str, Any] | None, quality: int):
        self.codec, self.fps, self.quality = codec, Fraction(fps).limit_denominator(10_000), quality
        self.comment = None if request is None else MARK + dumps(request)
        self.av = need("av", extra="video")
        self.container: Any = None
        self.stream: Any = None

    def open(self, path: Path) -> None:
        options = {"fflags": "+bitexact"}  # no random numbers in the file
        if self.codec == "libx264":
            options["movflags"] = "+faststart"
        self.container = self.av.open(str(path), mode="w", options=options)
        if self.comment is not None:
            self.container.metadata["comment"] = self.comment

    def _start(self, height: int, width: int) -> Any:
        stream = self.container.add_stream(self.codec, rate=self.fps)
        stream.width, stream.height = width, height
        odd = self.codec == "libx264" and (width % 2 or height % 2)
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.options = {**_OPTIONS[self.codec], "crf": str(self.quality)}
        try:
            stream.codec_context.open()
        except self.av.error.FFmpegError as error:
            size = f"{height}x{width}"
            raise ValueError(f"video of {size} can't be coded by {self.codec}") from error
        return stream

    def write(self, piece: torch.Tensor) -> None:
        for frame in _frames(piece):
            height, width = frame.shape[:2]
            if self.stream is None:
                self.stream = self._start(height, width)
            _check_same(frame.shape, (self.stream.height, self.stream.width))
            picture = self.av.VideoFrame.from_ndarray(frame, format="rgb24")
            self.container.mux(self.stream.encode(picture))

    def finish(self, path: str | Path) -> None:
        if self.stream is None:
            raise ValueError(f"video for {str(path)!r} has no frames")
        self.container.mux(self.stream.encode(None))

    def close(self) -> None:
        if self.container is not None:
            self.container.close()


def _check_same(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape[:2] != wanted[:2]:
        size = f"{wanted[0]}x{wanted[1]}"
        raise ValueError(f"frame of {shape[0]}x{shape[1]} in a video of {size}")


def _frames(piece: torch.Tensor) -> np.ndarray:
    """(3, n, H, W) or (1, 3, n, H, W) floats in [-1, 1] as uint8 (n, H, W, 3)."""
    if piece.ndim == 5 and piece.shape[0] == 1:
        piece = piece[0]  # (3, n, H, W)
    if piece.ndim != 4 or piece.shape[0] != 3 or not piece.shape[2] or not piece.shape[3]:
        shape = tuple(piece.shape)
        raise ValueError(f"video of shape {shape} must be (3, T, H, W) or (1, 3, T, H, W)")
    values = piece.detach().float().cpu()
    if not values.isfinite().all():
        raise ValueError("video holds values that are not finite")
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().numpy()
