"""The request inside a file: there and back, and what hostile files can't do."""

import struct
import zlib

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.media.image import write_image
from studio.media.metadata import MAX_BYTES, exif_bytes, parameters_text, read_request

REQUEST = {
    "prompt": 'κόκκινο "μήλο" 🍎, {x}: 苹果',
    "seeds": [7, 2**63 - 1],
    "decoding": {"top_p": 0.9},
    "model": "emoji-1d",
    "negative": None,
}
IMAGE = torch.zeros(3, 8, 8)


def png_with(tmp_path, value):
    info = PngInfo()
    info.add_itxt("studio", value)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    return tmp_path / "a.png"


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "jpeg"])
def test_round_trip(tmp_path, suffix):
    assert read_request(write_image(tmp_path / f"a.{suffix}", IMAGE, REQUEST)) == REQUEST


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_long_prompts_in_other_scripts_fit(tmp_path, suffix):
    request = {"prompt": "🍎" * 10_000}
    assert read_request(write_image(tmp_path / f"a.{suffix}", IMAGE, request)) == request


def test_parameters_text_for_other_viewers(tmp_path):
    with Image.open(write_image(tmp_path / "a.png", IMAGE, REQUEST)) as picture:
        text = picture.info["parameters"]
    assert text.splitlines()[0] == REQUEST["prompt"]
    assert "Model: emoji-1d" in text and "Seeds:" in text and "Negative" not in text
    assert parameters_text({"model": "a,b"}) == 'Model: "a,b"'


def test_a_picture_without_a_request(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds no studio request"):
        read_request(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "must be a JSON object"),
        ('{"a": NaN}', "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": "' + "x" * MAX_BYTES + '"}', "longer than"),
    ],
)
def test_hostile_text(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_request(png_with(tmp_path, text))


def test_a_text_bomb_is_refused(tmp_path):
    """64 MiB of zeros packed into a few KiB of zTXt."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packed = zlib.compress(b"0" * (64 << 20), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    bomb = chunk(b"iTXt", b"studio\0\1\0\0\0" + packed)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0\0\0")) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + bomb + pixels)
    with pytest.raises(ValueError):
        read_request(tmp_path / "a.png")


def test_broken_exif(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with pytest.raises(ValueError):
        read_request(tmp_path / "a.jpg")


def test_requests_that_are_too_long_to_write(tmp_path):
    with pytest.raises(ValueError, match=r"write a .png"):
        exif_bytes({"prompt": "x" * 40_000})
    with pytest.raises(ValueError, match="is more than"):
        write_image(tmp_path / "a.png", IMAGE, {"prompt": "x" * MAX_BYTES})
    assert list(tmp_path.iterdir()) == []
