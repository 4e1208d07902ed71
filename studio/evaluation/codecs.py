"""JPEG, WebP and AVIF at the byte counts of a tokenizer.

A picture of a hundred bytes is less than most codecs' headers, so everything is done in their
favour: they may shrink the picture to a half, a quarter or an eighth (and are enlarged again), they
get the nearest byte count not below the one asked for, of all settings that fit they use the one
with the best PSNR, and every comparison is made twice, with headers counted and with headers
forgiven. Where a codec has no file so small, its smallest one stands, and its bytes are stated.
Leaves out on purpose: codecs that Pillow does not bring.
"""

import io
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from PIL import features as pillow_features

from studio.evaluation.features import NOTE, ImageTextFeatures
from studio.evaluation.metrics import frechet_distance
from studio.media.image import to_pil, to_tensor
from studio.media.quality import ssim

QUALITIES = (1, 3, 6, 10, 15, 22, 30, 40, 52, 65, 80, 92)
SCALES = (1, 2, 4, 8)
OPTIONS = {
    "jpeg": {"format": "JPEG", "optimize": True, "subsampling": "4:2:0"},
    "webp": {"format": "WEBP", "method": 6},
    "avif": {"format": "AVIF", "speed": 6, "subsampling": "4:2:0"},
}
_JPEG_ALONE = {0x01, *range(0xD0, 0xDA)}  # markers without a length
_JPEG_SCAN = 0xDA


def available_codecs() -> list[str]:
    """The codecs that this Pillow can write."""
    present = {"jpeg": "jpg", "webp": "webp", "avif": "avif"}
    return [name for name, part in present.items() if pillow_features.check(part)]


def encode(picture: Image.Image, codec: str, quality: int) -> bytes:
    """A picture as a file of a codec, without metadata."""
    file = io.BytesIO()
    picture.save(file, quality=quality, **OPTIONS[codec])
    return file.getvalue()


def payload_bytes(data: bytes, codec: str) -> int:
    """The bytes of a file that tell one picture from another: headers, tables and boxes
    forgiven."""
    return {"jpeg": _jpeg_payload, "webp": _webp_payload, "avif": _avif_payload}[codec](data)


def _jpeg_payload(data: bytes) -> int:
    """Entropy-coded bytes of all scans."""
    total, place = 0, 2
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker in _JPEG_ALONE:
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _JPEG_SCAN:
            end = place
            while not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
            total, place = total + end - place, end
    return total


def _webp_payload(data: bytes) -> int:
    """Bytes of the VP8 (or VP8L) chunks, without the 10 (or 5) bytes of their own header."""
    total, place = 0, 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            total += size - (10 if kind == b"VP8 " else 5)
        place += 8 + size + size % 2
    return total


def _avif_payload(data: bytes) -> int:
    """Bytes of the `mdat` boxes."""
    total, place = 0, 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big") or len(data) - place
        if data[place + 4 : place + 8] == b"mdat":
            total += size - 8
        place += max(size, 8)
    return total


@dataclass(frozen=True)
class Encoded:
    """One setting of a codec on one picture.

    Args:
        file, payload: bytes with headers, and without.
        scale, quality: of the setting.
        pixels: uint8 (H, W, 3), decoded and enlarged again.
        psnr: in dB.
    """

    file: int
    payload: int
    scale: int
    quality: int
    pixels: np.ndarray
    psnr: float


def encodings(picture: Image.Image, codec: str) -> list[Encoded]:
    """Every setting of a codec on a picture."""
    original, found = np.asarray(picture, np.float32), []
    for scale in SCALES:
        size = (max(1, picture.width // scale), max(1, picture.height // scale))
        small = picture.resize(size, Image.Resampling.LANCZOS) if scale > 1 else picture
        for quality in QUALITIES:
            data = encode(small, codec, quality)
            decoded = Image.open(io.BytesIO(data)).convert("RGB")
            if scale > 1:
                decoded = decoded.resize(picture.size, Image.Resampling.BICUBIC)
            pixels = np.asarray(decoded)
            error = float(np.square(pixels - original).mean())
            value = 10 * np.log10(255**2 / max(error, 1e-10))
            payload = payload_bytes(data, codec)
            found.append(Encoded(len(data), payload, scale, quality, pixels, float(value)))
    return found


def best_within(found: list[Encoded], budget: float, *, headers: bool) -> Encoded:
    """The best picture at the nearest byte count not below `budget`.

    Args:
        found: every setting. budget: bytes. headers: count them.
    """
    sizes = sorted({e.file if headers else e.payload for e in found})
    limit = sizes[min(bisect_left(sizes, budget), len(sizes) - 1)]
    fitting = [e for e in found if (e.file if headers else e.payload) <= limit]
    return max(fitting, key=lambda e: e.psnr)


@torch.no_grad()
def evaluate_codecs(
    images: torch.Tensor,
    budgets: list[float],
    *,
    features: ImageTextFeatures,
    codecs: list[str] | None = None,
) -> dict:
    """Every codec at every byte count, over pictures.

    Args:
        images: float (n, 3, H, W) in [-1, 1], at least 2.
        budgets: bytes a picture.
        features: what distances are measured on.
        codecs: among `available_codecs()`; all of them when None.

    Returns:
        Plain JSON values: for each codec, under "with_headers" and "without_headers", for each
        budget: `budget`, mean `bytes` used, `smallest` (the mean of the smallest files that the
        codec made), `psnr` in dB (mean of the pictures'), `ssim`, `fd` and `mean_scale`.
    """
    reference = features.encode_images(images.to(features.device))
    pictures = [to_pil(image) for image in images]
    result: dict = {"note": NOTE, "pictures": len(images), "size": images.shape[-1], "codecs": {}}
    for codec in codecs or available_codecs():
        chosen: dict = {(h, b): [] for h in (True, False) for b in budgets}
        smallest = {True: [], False: []}
        for picture in pictures:
            found = encodings(picture, codec)
            smallest[True].append(min(e.file for e in found))
            smallest[False].append(min(e.payload for e in found))
            for headers, budget in chosen:
                chosen[headers, budget].append(best_within(found, budget, headers=headers))
        result["codecs"][codec] = {
            name: [
                _summary(
                    chosen[headers, b], b, headers, smallest[headers], images, reference, features
                )
                for b in budgets
            ]
            for name, headers in (("with_headers", True), ("without_headers", False))
        }
    return result


def _summary(chosen, budget, headers, smallest, images, reference, features) -> dict:
    decoded = torch.stack([to_tensor(Image.fromarray(e.pixels)) for e in chosen])  # (n, 3, H, W)
    found = features.encode_images(decoded.to(features.device))
    return {
        "budget": budget,
        "bytes": float(np.mean([e.file if headers else e.payload for e in chosen])),
        "smallest": float(np.mean(smallest)),
        "psnr": float(np.mean([e.psnr for e in chosen])),
        "ssim": ssim(decoded, images).mean().item(),
        "fd": frechet_distance(found, reference),
        "mean_scale": float(np.mean([e.scale for e in chosen])),
    }


def compare(tokenizer_result: dict, codec_result: dict) -> list[dict]:
    """Whether the tokenizer beats each codec at its own byte counts, on PSNR and on features.

    Args:
        tokenizer_result: of `evaluate_tokenizer`. codec_result: of `evaluate_codecs`, over the same
            pictures, its budgets among the tokenizer's byte counts.
    """
    rows = []
    for codec, both in codec_result["codecs"].items():
        for headers, line in both.items():
            by_budget = {row["budget"]: row for row in line}
            for ours in tokenizer_result["lengths"]:
                theirs = by_budget.get(ours["bytes"])
                if theirs is None:
                    continue
                rows.append(
                    {
                        "codec": codec,
                        "headers": headers,
                        "tokens": ours["tokens"],
                        "bytes": ours["bytes"],
                        "codec_bytes": theirs["bytes"],
                        "psnr_gain": ours["psnr"] - theirs["psnr"],
                        "fd_gain": theirs["fd"] - ours["fd"],
                        "better": ours["psnr"] > theirs["psnr"] and ours["fd"] < theirs["fd"],
                    }
                )
    return rows
