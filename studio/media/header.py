"""Opening a picture file without decoding a pixel: what it is, its size, and refusing what can't be
read.

Leaves out on purpose: formats whose decoder starts another program.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 8192 * 8192
READ_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What Pillow's decoders raise on broken bytes.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    KeyError,
    IndexError,
    TypeError,
    Image.DecompressionBombError,  # a later frame larger than the first
)


@contextmanager
def open_header(path: str | Path) -> Iterator[Image.Image]:
    """The picture with its header read and no pixel decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one line: empty, no picture, broken, or more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    name = repr(str(path))
    if not path.exists():
        raise FileNotFoundError(f"picture {name} does not exist")
    if path.is_dir():
        raise ValueError(f"picture {name} is a folder")
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"picture {name} is empty")
        with open(path, "rb") as file:
            picture = _open(file, name)
            yield picture
    except PermissionError as error:
        raise PermissionError(f"picture {name} can't be read: {error.strerror}") from error


def _open(file, name: str) -> Image.Image:
    too_large = f"picture {name} is too large: at most {MAX_PIXELS:,} pixels are read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=READ_FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except UnidentifiedImageError as error:
        known = ", ".join(READ_FORMATS)
        raise ValueError(f"picture {name} is none that can be read (known: {known})") from error
    except BROKEN as error:
        raise ValueError(f"picture {name} is broken: {error}") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{too_large}, this has {width} x {height}")
    return picture
