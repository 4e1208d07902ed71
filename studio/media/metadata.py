"""The request inside a picture: written as text of the file, read back as hostile input.

PNG holds an iTXt chunk `studio` with JSON, and the plain `parameters` text that other viewers show;
WebP and JPEG hold the JSON as EXIF UserComment. Nothing of the moment or the machine goes in, so
that the same picture with the same request has the same bytes. Reading takes JSON objects of at
most 256 KiB and decodes no pixel; what the keys mean, and what values are allowed, is
`studio.Request`'s to say.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.media.header import open_header

KEY = "studio"
MAX_BYTES = 256 * 1024
_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_UNICODE = b"UNICODE\x00"


def dumps(request: dict[str, Any]) -> str:
    """A request as JSON text: sorted keys, no spaces, UTF-8 kept. Raises ValueError when it is too
    long.
    """
    text = json.dumps(
        request, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"request of {len(text.encode())} bytes is more than {MAX_BYTES}")
    return text


def parameters_text(request: dict[str, Any]) -> str:
    """The text that other viewers show: the prompt, then one line of `Name: value` pairs."""
    rest = {k: v for k, v in request.items() if k != "prompt" and v not in (None, {}, [], "")}
    pairs = ", ".join(f"{_title(key)}: {_plain(value)}" for key, value in sorted(rest.items()))
    prompt = request.get("prompt")
    return "\n".join(part for part in (str(prompt) if prompt else "", pairs) if part)


def _title(key: str) -> str:
    return str(key).replace("_", " ").capitalize()


def _plain(value: Any) -> str:
    text = str(value) if isinstance(value, (str, int, float)) else json.dumps(value, sort_keys=True)
    return f'"{text}"' if "," in text or ":" in text else text


def png_text(request: dict[str, Any]) -> PngInfo:
    """The text chunks of a PNG file that holds `request`."""
    info = PngInfo()
    info.add_itxt(KEY, dumps(request))
    info.add_itxt("parameters", parameters_text(request))
    return info


def exif_bytes(request: dict[str, Any]) -> bytes:
    """An EXIF block with `request` as UserComment, for WebP and JPEG."""
    exif = Image.Exif()
    comment = _UNICODE + dumps(request).encode("utf-16-le")
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment
    block = exif.tobytes()
    if len(block) > 65_000:
        raise ValueError("request is too long for the EXIF block of this format; write a .png")
    return block


def read_request(path: str | Path) -> dict[str, Any]:
    """The request that a picture was made by.

    Args:
        path: a PNG, WebP or JPEG file that studio wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, holds no request, or one that is too long or not a JSON
        object.
    """
    with open_header(path) as picture:
        raw = _raw_text(picture)
    if raw is None:
        raise ValueError(f"picture {str(path)!r} holds no studio request")
    return parse_request(raw, repr(str(path)))


def parse_request(raw: str, place: str) -> dict[str, Any]:
    """A request from the text found in a file; `place` names the file in errors.

    Raises:
        ValueError: it is too long or not a JSON object.
    """
    if len(raw) > MAX_BYTES:
        raise ValueError(f"request in {place} is longer than {MAX_BYTES} bytes")
    try:
        request = json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"request in {place} is not valid JSON") from error
    if not isinstance(request, dict):
        raise ValueError(f"request in {place} must be a JSON object")
    return request


def _raw_text(picture: Image.Image) -> str | None:
    text = picture.info.get(KEY)
    if isinstance(text, str):
        return str(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            comment = picture.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except Exception as error:  # a broken EXIF block raises whatever its bytes lead to
        raise ValueError("the EXIF block of the picture is broken") from error
    if not isinstance(comment, bytes) or len(comment) > 2 * MAX_BYTES:
        return None
    if not comment.startswith(_UNICODE):
        return None
    body = comment.removeprefix(_UNICODE)
    encoding = "utf-16-be" if body.startswith(b"\x00") else "utf-16-le"
    return body.decode(encoding, errors="replace")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
