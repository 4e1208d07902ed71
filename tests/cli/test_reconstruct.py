"""`studio reconstruct`: a picture through tokens and back, and every picture it refuses."""

import struct
import zlib

import pytest
from PIL import Image

from studio.media.metadata import read_request


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    Image.linear_gradient("L").convert("RGB").resize((40, 30)).save(path)
    return path


def test_reconstruct(call, tiny_model, picture, tmp_path):
    done = call("reconstruct", picture, "-m", tiny_model, "-o", "out.png")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "8 tokens, 4 bytes" in done.stdout and "PSNR" in done.stdout
    with Image.open(tmp_path / "out.png") as made:
        assert made.size == (16, 16)
    request = read_request(tmp_path / "out.png")
    assert request["model"] == "tiny" and len(request["input"]) == 64


def test_generate_says_that_a_picture_was_reconstructed(call, fails, tiny_model, picture, tmp_path):
    assert call("reconstruct", picture, "-m", tiny_model, "-o", "out.png").returncode == 0
    made = ["generate", "--from", tmp_path / "out.png", "-m", tiny_model]
    fails(*made, message="that picture was reconstructed: studio reconstruct makes it")


def test_a_tokenizer_alone(call, fails, tiny_model, picture, tmp_path):
    assert call("reconstruct", picture, "-m", tiny_model, "-o", "a.png").returncode == 0
    done = call("reconstruct", picture, "-m", tiny_model / "tokenizer", "-o", "b.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert a.tobytes() == b.tobytes()
    args = ["reconstruct", picture, "-m", tiny_model / "generator"]
    fails(*args, message="is a AutoregressiveTransformer, no tokenizer")


def test_fewer_tokens_and_the_original_beside(call, tiny_model, picture, tmp_path):
    done = call("reconstruct", picture, "-m", tiny_model, "--tokens", 2, "--original")
    assert done.returncode == 0 and "2 tokens, 1 bytes" in done.stdout
    with Image.open(tmp_path / "in-reconstructed.png") as made:
        assert made.size == (32, 16)
    assert read_request(tmp_path / "in-reconstructed.png")["num_tokens"] == 2


def header_only(width, height):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GIF89a", "is none that can be read"),
        (b"no picture", "is none that can be read"),
        (header_only(20_000, 20_000), "is too large: at most 67,108,864 pixels"),
        (header_only(64, 64), "is broken or cut short"),
    ],
)
def test_pictures_that_are_refused(fails, tiny_model, tmp_path, data, message):
    (tmp_path / "bad.png").write_bytes(data)
    fails("reconstruct", tmp_path / "bad.png", "-m", tiny_model, message=message)


def test_a_truncated_picture(fails, tiny_model, tmp_path):
    Image.effect_noise((99, 99), 90).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    fails("reconstruct", tmp_path / "a.jpg", "-m", tiny_model, message="is broken or cut short")


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "one.png", {}),
        ("CMYK", "a.jpg", {}),
        ("I;16", "a.png", {}),
        ("RGBA", "a.png", {}),
        ("LA", "a.png", {}),
        ("1", "a.png", {}),
        ("P", "a.gif", {"save_all": True, "append_images": [Image.new("P", (9, 9), 3)]}),
    ],
)
def test_unusual_pictures_give_a_sensible_result(call, tiny_model, tmp_path, mode, name, options):
    size = (1, 1) if name == "one.png" else (9, 9)
    Image.new(mode, size).save(tmp_path / name, **options)
    done = call("reconstruct", name, "-m", tiny_model, "-o", "out.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as made:
        assert made.size == (16, 16) and made.mode == "RGB"


def test_wrong_calls(fails, tiny_model, picture, tmp_path):
    args = ["reconstruct", picture, "-m", tiny_model]
    fails(*args, "--tokens", 99, message="--tokens 99 must be a whole number from 1 to 8")
    fails(*args, "--tokens", 0, message="--tokens 0 must be")
    fails(*args, "--tokens", "x", message="'--tokens': 'x' must be a whole number")
    fails(*args, "-o", "a.bmp", message="output 'a.bmp' must end in one of")
    fails(*args, "-o", picture / "a.png", message="a file stands where a folder is needed")
    fails("reconstruct", tmp_path, "-m", tiny_model, message="is a folder")
    fails("reconstruct", picture, "-m", "nope", message="model 'nope' is no bundled name")


@pytest.mark.parametrize("model", ["emoji-1d", "emoji-grid"])
def test_bundled_models_keep_a_picture(call, bundled, picture, model):
    bundled(model)
    done = call("reconstruct", picture, "-m", model, "-o", "out.png")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("PSNR")[1].split()[0]) > 20
