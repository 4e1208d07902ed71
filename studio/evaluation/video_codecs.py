"""H.264 and VP9 at the byte counts of a tokenizer of clips.

As codecs.py for pictures: a clip of some hundred bytes is less than a container's headers, so both
codecs get everything in their favour. They may shrink the clip to a half or a quarter, take the
best of all settings at the nearest byte count not below the one asked for, and every comparison is
made twice: with the file's bytes, and with those of its packets alone.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from studio.env import need, probe
from studio.evaluation.codecs import Encoded

SCALES = (1, 2, 4)
# name -> container, encoder, qualities, options
CODECS: dict[str, tuple[str, str, tuple[int, ...], dict[str, str]]] = {
    "h264": ("mp4", "libx264", (18, 24, 30, 36, 42, 47, 51), {"preset": "slow"}),
    "vp9": (
        "webm",
        "libvpx-vp9",
        (16, 26, 36, 44, 52, 58, 63),
        {"deadline": "good", "cpu-used": "2", "b": "0"},
    ),
}
LABELS = {"h264": "H.264", "vp9": "VP9"}


def available_codecs() -> list[str]:
    """The codecs that this PyAV can write; none without it."""
    if not probe("av").ok:
        return []
    import av

    return [name for name, (_, encoder, *_) in CODECS.items() if encoder in av.codecs_available]


def encode(frames: np.ndarray, codec: str, quality: int, fps: float) -> tuple[bytes, int]:
    """Frames uint8 (T, H, W, 3), sides even, as a file, and the bytes of its packets."""
    av = need("av", extra="video")
    container_name, encoder, _, options = CODECS[codec]
    file, payload = io.BytesIO(), 0
    with av.open(
        file, mode="w", format=container_name, options={"fflags": "+bitexact"}
    ) as container:
        stream: Any = container.add_stream(encoder, rate=round(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {**options, "crf": str(quality)}
        stream.codec_context.thread_count = 1
        for frame in [*frames, None]:
            picture = None if frame is None else av.VideoFrame.from_ndarray(frame, format="rgb24")
            for packet in stream.encode(picture):
                payload += packet.size
                container.mux(packet)
    return file.getvalue(), payload


def decode(data: bytes, count: int) -> np.ndarray:
    """A file's frames, uint8 (count, H, W, 3); the last is repeated where some are missing."""
    av = need("av", extra="video")
    with av.open(io.BytesIO(data)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)][:count]
    return np.stack(frames + frames[-1:] * (count - len(frames)))


def encodings(
    clip: torch.Tensor,
    codec: str,
    *,
    fps: float = 8.0,
    scales: Sequence[int] = SCALES,
    qualities: Sequence[int] | None = None,
) -> list[Encoded]:
    """Settings of a codec on a clip (3, T, H, W) in [-1, 1]; `pixels` are (T, H, W, 3).

    Args:
        codec: among `available_codecs()`. fps: frames a second.
        scales: the clip is shrunk by. qualities: of the codec; all of `CODECS` when None.
    """
    frames = clip.float().clamp(-1, 1).transpose(0, 1)  # (T, 3, H, W)
    original, found = _bytes(frames).astype(np.float32), []
    for scale in scales:
        size = tuple(max(16, side // scale // 2 * 2) for side in frames.shape[-2:])
        small = frames
        if size != tuple(frames.shape[-2:]):
            small = F.interpolate(frames, size, mode="bicubic", antialias=True).clamp(-1, 1)
        for quality in CODECS[codec][2] if qualities is None else qualities:
            data, payload = encode(_bytes(small), codec, quality, fps)
            pixels = decode(data, len(frames))
            if size != tuple(frames.shape[-2:]):
                large = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()  # (T, 3, h, w)
                large = F.interpolate(large, tuple(frames.shape[-2:]), mode="bicubic")
                pixels = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
            error = float(np.square(pixels - original).mean())
            value = 10 * np.log10(255**2 / max(error, 1e-10))
            found.append(Encoded(len(data), payload, scale, quality, pixels, float(value)))
    return found


def _bytes(frames: torch.Tensor) -> np.ndarray:
    """Frames (T, 3, H, W) in [-1, 1] as uint8 (T, H, W, 3)."""
    values = ((frames + 1) * 127.5).round().to(torch.uint8)
    return values.permute(0, 2, 3, 1).contiguous().numpy()
