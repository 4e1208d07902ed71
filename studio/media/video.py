"""Video files read: what they are, their frames in bounded memory, the request inside.

Films go through PyAV (extra `video`), GIF, WebP and still pictures through Pillow. Frames come at a
constant rate whatever the file's timing is, upright, as RGB of 8 bits (10-bit files too). What
can't be read is refused in one line. Leaves out on purpose: sound, colour profiles, pixels that are
not square.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.env import need
from studio.media.animation import animation_info, animation_request, timed_pictures
from studio.media.header import MAX_PIXELS
from studio.media.metadata import parse_request

MARK = "studio:"  # before the request in a comment
MIN_FPS, MAX_FPS = 0.001, 1000.0
MAX_VALUES = 2**29  # of one clip in memory: 2 GiB as floats
# No playlists: they make the reader open other files and addresses.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,ivf,nut,mxf,dv"
_PICTURES = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff")

Timed = tuple[float, np.ndarray]


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself.

    Args:
        width, height: in pixels, as they are stored; frames come upright, so those of a film that
            is to be turned have them swapped.
        frames: how many there are, about; None where the file does not say.
        fps: frames a second, on average.
        seconds: of the whole; None where the file does not say.
        codec: name of the coding.
    """

    width: int
    height: int
    frames: int | None
    fps: float
    seconds: float | None
    codec: str


def video_info(path: str | Path) -> VideoInfo:
    """What a video file is, without decoding it whole. Raises as `read_video`."""
    path = _checked(path)
    if _is_picture(path):
        return VideoInfo(*animation_info(path))
    with _opened(path) as (_, stream):
        return _info(path, stream)


def read_pieces(
    path: str | Path,
    *,
    chunk_frames: int = 32,
    fps: float | None = None,
    start: float = 0.0,
    num_frames: int | None = None,
    info: VideoInfo | None = None,
) -> Iterator[torch.Tensor]:
    """The frames of a video in pieces, holding one at a time however long the file is.

    Args:
        path: mp4, mov, webm, mkv, avi and others, animated or still pictures.
        chunk_frames: frames a piece; the last may have fewer, and so do all where more are too
            large to be held.
        fps: constant rate to read at: frames are repeated or left out by their times. The file's
            average when None.
        start: seconds to skip.
        num_frames: how many at most; all when None.
        info: of the file, where it is known: animations are decoded once for it.

    Yields:
        float32 (1, 3, n, H, W) in [-1, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one line: empty, no video, sound only, broken or cut short, too large, or an
            argument out of range.
        ImportError: PyAV is not there; the line says what to install.
    """
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames {chunk_frames} must be at least 1")
    path = _checked(path)
    info = info or video_info(path)
    _check_part(path, info, fps, start, num_frames)
    chunk_frames = min(chunk_frames, _room(info))
    rate = fps or info.fps
    frames = timed_pictures(path) if _is_picture(path) else _timed_frames(path, info, start)
    held: list[np.ndarray] = []
    count = 0
    for frame in _steady(frames, rate, start, slack=0.49 / max(rate, info.fps)):
        held.append(frame)
        count += 1
        if len(held) == chunk_frames:
            yield _to_tensor(held)
            held = []
        if count == num_frames:
            break
    if held:
        yield _to_tensor(held)
    if not count:
        raise ValueError(f"video {str(path)!r} has no frames after {start} seconds")


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    start: float = 0.0,
    num_frames: int | None = None,
    info: VideoInfo | None = None,
) -> tuple[torch.Tensor, float]:
    """A whole video as float32 (1, 3, T, H, W) in [-1, 1], and its rate in frames a second.

    Arguments and errors as `read_pieces`; besides, ValueError for one that is too long to be held.
    """
    path = _checked(path)
    info = info or video_info(path)
    _check_part(path, info, fps, start, num_frames)
    rate = fps or info.fps
    promised = [num_frames, info.seconds and round((info.seconds - start) * rate)]
    _check_room(path, info, min((n for n in promised if n), default=0))
    pieces = []
    for piece in read_pieces(path, fps=fps, start=start, num_frames=num_frames, info=info):
        pieces.append(piece)
        _check_room(path, info, sum(p.shape[2] for p in pieces))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2), rate


def read_request(path: str | Path) -> dict[str, Any]:
    """The request that a video was made by.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no video, or holds no request that can be read.
    """
    path = _checked(path)
    if _is_picture(path):
        return animation_request(path, MARK)
    with _opened(path) as (container, _):
        tags = {key.lower(): value for key, value in container.metadata.items()}
    comment = tags.get("comment", "")
    if not comment.startswith(MARK):
        raise ValueError(f"video {str(path)!r} holds no studio request")
    return parse_request(comment.removeprefix(MARK), repr(str(path)))


def check_fps(fps: float) -> float:
    """The rate. Raises ValueError for one that is no rate."""
    if not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps {fps} must lie between {MIN_FPS} and {MAX_FPS:g}")
    return fps


# --- files ---------------------------------------------------------------------------------------


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"video {str(path)!r} does not exist")
    if path.is_dir():
        raise ValueError(f"video {str(path)!r} is a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"video {str(path)!r} is empty")
    return path


def _is_picture(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(12)
    return head.startswith(_PICTURES) or (head[:4], head[8:]) == (b"RIFF", b"WEBP")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream. Errors of the file become one line."""
    av, name = need("av", extra="video"), repr(str(path))
    try:
        with open(path, "rb") as file:
            options = {"format_whitelist": _CONTAINERS}
            with av.open(file, mode="r", container_options=options) as container:
                yield container, _stream(av, container, name)
    except av.error.FFmpegError as error:
        reason = str(error.strerror or error).splitlines()[0]
        raise ValueError(f"video {name} is none, broken or cut short: {reason}") from error


def _stream(av: Any, container: Any, name: str) -> Any:
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        what = "sound only" if container.streams.audio else "no pictures"
        raise ValueError(f"video {name} holds {what}")
    # A stream whose coding isn't known has no such attributes.
    width, height = (getattr(streams[0], name, 0) for name in ("width", "height"))
    if not width or not height:
        raise ValueError(f"video {name} is broken or cut short: it has no size")
    if width * height > MAX_PIXELS:
        raise ValueError(f"video {name} is too large: {width} x {height} pixels a frame")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _info(path: Path, stream: Any) -> VideoInfo:
    fps = float(stream.average_rate or stream.guessed_rate or 25)
    seconds = _own_seconds(stream)
    if seconds is None and stream.container.duration:
        seconds = stream.container.duration / 1e6
    frames = stream.frames or (round(seconds * fps) if seconds else None)
    return VideoInfo(stream.width, stream.height, frames, fps, seconds, stream.codec_context.name)


def _own_seconds(stream: Any) -> float | None:
    """How long a stream says that it is itself, which a sound beside it may outlast."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag is None:  # Matroska and WebM have it
        return None
    return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])


# --- arguments -----------------------------------------------------------------------------------


def _check_part(
    path: Path, info: VideoInfo, fps: float | None, start: float, num_frames: int | None
) -> None:
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames {num_frames} must be at least 1")
    check_fps(fps if fps is not None else 1.0)
    if not start >= 0.0 or (info.seconds is not None and start >= max(info.seconds, 1e-9)):
        raise ValueError(f"start {start} must lie within the {info.seconds} seconds of {path}")


def _room(info: VideoInfo) -> int:
    """How many frames can be held at once."""
    return max(1, MAX_VALUES // (3 * info.width * info.height))


def _check_room(path: Path, info: VideoInfo, frames: int) -> None:
    if frames > _room(info):
        raise ValueError(
            f"video {str(path)!r} is too long to be held at once: at most {_room(info)} frames of "
            f"{info.width}x{info.height}, this has about {frames}; give num_frames"
        )


# --- frames --------------------------------------------------------------------------------------


def _timed_frames(path: Path, info: VideoInfo, start: float) -> Iterator[Timed]:
    """Frames (H, W, 3) uint8 and their times in seconds; the last comes again at its end."""
    count, time, frame, shape = 0, 0.0, None, None
    with _opened(path) as (container, stream):
        seconds = _own_seconds(stream) if container.streams.audio else info.seconds
        zero = float((stream.start_time or 0) * stream.time_base)
        if start:
            container.seek(int((start + zero) / stream.time_base), stream=stream)
        for picture in container.decode(stream):
            time = picture.time - zero if picture.time is not None else count / info.fps
            frame = _upright(picture, info)
            if frame.shape != (shape := shape or frame.shape):
                raise ValueError(f"video {str(path)!r} is broken: it is turned in the middle")
            count += 1
            yield time, frame
    if frame is None and start:  # streams without an index can't always be entered in the middle
        yield from _timed_frames(path, info, 0.0)
        return
    if frame is None:
        raise ValueError(f"video {str(path)!r} is broken or cut short: it has no frames")
    if seconds is not None and time + 1 / info.fps < 0.9 * seconds - 2 / info.fps:
        raise ValueError(
            f"video {str(path)!r} is cut short: its frames end after {time:.2f} of "
            f"{seconds:.2f} seconds"
        )
    yield time + 1 / info.fps, frame


def _upright(picture: Any, info: VideoInfo) -> np.ndarray:
    """A decoded frame as (H, W, 3) uint8, turned as the camera was held."""
    rgb = picture.to_ndarray(format="rgb24", width=info.width, height=info.height)
    turns = round(getattr(picture, "rotation", 0) / 90) % 4
    return np.rot90(rgb, turns) if turns else rgb


def _steady(
    frames: Iterator[Timed], fps: float, start: float, *, slack: float
) -> Iterator[np.ndarray]:
    """At every tick of a constant rate the frame that stands there, or comes within `slack`
    seconds.

    The last of `frames` is not shown: it only says when the one before it ends.
    """
    shown, tick, first = None, 0, start
    for time, frame in frames:
        if time < start - slack:
            shown = frame
            continue
        if shown is None:
            first = max(start, time)
        while shown is not None:
            at = first + tick / fps
            if at > time - slack:
                break
            yield shown
            tick += 1
        shown = frame


def _to_tensor(frames: list[np.ndarray]) -> torch.Tensor:
    """Frames (H, W, 3) uint8 as float32 (1, 3, n, H, W) in [-1, 1]."""
    height, width = frames[0].shape[:2]
    video = torch.empty(1, 3, len(frames), height, width)
    for number, frame in enumerate(frames):
        pixels = torch.from_numpy(np.array(frame, order="C"))
        video[0, :, number] = pixels.permute(2, 0, 1)  # (3, H, W)
    return video.div_(127.5).sub_(1.0)
