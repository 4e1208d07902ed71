"""Clips into files as their frames come, so that memory does not grow with their length."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def write_clips(pipe: Any, call: dict[str, Any], paths: Sequence[Path], requests: Sequence[Any]):
    """Makes clips, and writes each part of them as soon as it is there.

    Args:
        pipe: of clips. call: its arguments. paths, requests: one a clip; each file is there when
            all are whole. GIF and WebP hold their frames until then.

    Returns:
        the statistics of the call.
    """
    from studio.media.image import to_rgb, to_tensor
    from studio.media.video_writer import video_writer
    from studio.pipelines.video_parts import VideoOutput, summed

    stats: list[Any] = []
    writers: list[Any] = []
    with ExitStack() as files:
        for part in pipe.stream_blocks(**call):
            assert isinstance(part, VideoOutput)  # previews were not asked for
            if not writers:
                writers = [
                    files.enter_context(video_writer(path, fps=part.fps, request=one.to_dict()))
                    for path, one in zip(paths, requests, strict=True)
                ]
            for write, frames in zip(writers, part.frames, strict=True):
                for frame in frames:
                    write(to_tensor(to_rgb(frame))[:, None])  # (3, 1, H, W)
            stats.append(part.stats)
    return summed(stats)
