"""Every kind of picture people have, in and out."""

import io
import logging
import os
import signal
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from studio.media.image import (
    fit_square,
    open_picture,
    read_image,
    to_pil,
    to_pil_list,
    to_tensor,
    write_image,
)
from studio.media.metadata import read_request

RED = (200, 30, 40)


def save(tmp_path, picture, name="a.png", **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


def gradient(height=20, width=30):
    grid = torch.linspace(-1, 1, height * width).reshape(height, width)
    return torch.stack([grid, -grid, grid * 0.5])


def test_read_shape_and_range(tmp_path):
    image = read_image(save(tmp_path, Image.new("RGB", (30, 20), (255, 0, 128))))
    assert image.shape == (1, 3, 20, 30) and image.dtype == torch.float32
    assert image[0, 0].eq(1).all() and image[0, 1].eq(-1).all()
    assert abs(float(image[0, 2, 0, 0])) < 0.01


def test_tensor_and_pil_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    tensor = to_tensor(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(to_pil(tensor)), pixels)
    assert np.array_equal(np.asarray(to_pil(tensor[None])), pixels)
    assert len(to_pil_list(torch.stack([tensor, tensor]))) == 2


def test_to_pil_clips_and_refuses_other_shapes():
    assert to_pil(torch.full((3, 1, 1), 7.0)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        to_pil(torch.zeros(1, 2, 2))


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, suffix):
    image = to_tensor(to_pil(gradient()))
    path = write_image(tmp_path / f"a{suffix}", image)
    assert torch.equal(read_image(path)[0], image)


def test_jpeg_is_close(tmp_path):
    path = write_image(tmp_path / "a.jpg", gradient())
    assert (read_image(path)[0] - gradient()).abs().mean() < 0.05


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_same_picture_same_bytes(tmp_path, suffix):
    request = {"prompt": "red apple", "seed": 7}
    first = write_image(tmp_path / f"a{suffix}", gradient(), request).read_bytes()
    second = write_image(tmp_path / f"b{suffix}", gradient(), dict(reversed(request.items())))
    assert first == second.read_bytes()


def test_nothing_of_the_source_travels_along(tmp_path):
    source = Image.new("RGB", (4, 4))
    source.info["comment"] = "private"
    path = write_image(tmp_path / "a.png", source, {"seed": 1})
    assert b"private" not in path.read_bytes() and source.info == {"comment": "private"}


def test_one_pixel(tmp_path):
    assert read_image(save(tmp_path, Image.new("RGB", (1, 1), RED))).shape == (1, 3, 1, 1)


def test_alpha_lies_over_white_or_the_given_ground(tmp_path):
    path = save(tmp_path, Image.new("RGBA", (4, 4), (*RED, 0)))
    assert open_picture(path).getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(path, background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_other_transparency(tmp_path, mode):
    picture = Image.new("LA", (4, 4), (0, 0))
    if mode == "P":
        picture = Image.new("P", (4, 4), 0)
        picture.putpalette([0, 0, 0] * 256)
        path = save(tmp_path, picture, transparency=0)
    else:
        path = save(tmp_path, picture)
    assert open_picture(path).getpixel((1, 1)) == (255, 255, 255)


def test_cmyk(tmp_path):
    path = save(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    red, green, blue = open_picture(path).getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_sixteen_bits(tmp_path):
    values = np.full((4, 4), 32768, dtype=np.uint16)
    path = save(tmp_path, Image.fromarray(values))
    assert open_picture(path).getpixel((0, 0)) == (128, 128, 128)
    float_path = save(tmp_path, Image.fromarray(np.full((4, 4), 0.5, np.float32)), "a.tiff")
    assert open_picture(float_path).getpixel((0, 0)) == (128, 128, 128)


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(np.full((2, 2), np.nan, np.float32)), "a.tiff")
    with pytest.raises(ValueError, match="not finite"):
        open_picture(path)


def test_animation_gives_its_first_frame_and_says_so(tmp_path, caplog):
    frames = [Image.new("RGB", (6, 6), color) for color in (RED, (0, 0, 255))]
    path = save(
        tmp_path, frames[0], "a.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    with caplog.at_level(logging.WARNING):
        assert open_picture(path).getpixel((0, 0)) == RED
    assert "2 frames" in caplog.text


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, Image.new("RGB", (30, 20)), "a.jpg", exif=exif)
    assert open_picture(path).size == (20, 30)


def test_empty(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="a.png' is empty"):
        read_image(tmp_path / "a.png")


def test_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match="none that can be read"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_truncated(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="broken|none that can be read"):
        read_image(path)


def test_missing_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


def png_of_size(width, height):
    """A PNG whose header claims a size, with hardly any data."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 9_000)])
def test_too_large_is_refused_before_decoding(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png_of_size(*size))
    with pytest.raises(ValueError, match="too large: at most 67,108,864 pixels"):
        read_image(tmp_path / "a.png")


def test_fit_square():
    assert fit_square(Image.new("RGB", (50, 20)), 16).size == (16, 16)


def test_unknown_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"out.gif' must end in one of .png"):
        write_image(tmp_path / "out.gif", gradient())
    assert list(tmp_path.iterdir()) == []


def test_written_over_an_old_file(tmp_path):
    path = write_image(tmp_path / "a.png", gradient(), {"seed": 1})
    write_image(path, gradient(), {"seed": 2})
    assert read_request(path) == {"seed": 2} and [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    """A limit on the file size makes the write fail half way, as a full disk does."""
    import resource

    path = write_image(tmp_path / f"a.{suffix}", gradient(), {"seed": 1})
    before = path.read_bytes()
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    answer, told = os.pipe()
    child = os.fork()  # a limit can't be taken back
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        message = "nothing failed"
        try:
            write_image(path, noise, {"seed": 2})
        except BaseException as error:
            message = str(error)
        os.write(told, message.encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(answer) as reading:
        assert reading.read() == f"cannot write {str(path)!r}: File too large"
    os.waitpid(child, 0)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_bytes_come_from_memory_not_the_clock():
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        to_pil(gradient()).save(file, format="PNG")
    assert files[0].getvalue() == files[1].getvalue()
