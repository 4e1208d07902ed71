"""`studio generate` and `studio reconstruct` with models of clips."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import studio
from studio.media.video import read_request, read_video, video_info
from studio.media.video_writer import write_video

pytest.importorskip("av")


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    from tests.toys import video_pipeline

    torch.manual_seed(0)
    words = studio.CaptionTokenizer.train(["red apple moving left"] * 9, 300, max_length=12)
    folder = tmp_path_factory.mktemp("models") / "moves"
    video_pipeline(words).save_pretrained(folder)
    return folder


def test_makes_clips_in_files_that_make_them_again(call, motion, tmp_path):
    args = ["generate", "red apple moving left", "-m", motion, "--seed", 7, "--frames", 11]
    done = call(*args, "-o", "a.gif")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "a.gif  seed 7, " in done.stdout
    info = video_info(tmp_path / "a.gif")
    assert (info.width, info.height, info.frames) == (16, 16, 11) and 7.5 < info.fps < 8.5
    request = read_request(tmp_path / "a.gif")
    assert (request["num_frames"], request["model"], request["seed"]) == (11, "moves", 7)
    assert call("generate", "--from", "a.gif", "-m", motion, "-o", "b.webp").returncode == 0
    assert call("generate", "--from", "b.webp", "-m", motion, "-o", "c.gif").returncode == 0
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "c.gif").read_bytes()
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "first.png")
    done = call("generate", "red apple", "-m", motion, "-n", 2, "--image", "first.png")
    assert done.returncode == 0 and (tmp_path / "out-1.mp4").exists()
    assert video_info(tmp_path / "out-0.mp4").frames == 8


def test_reconstructs_clips(call, fails, motion, tmp_path):
    clip = torch.rand(3, 11, 18, 21, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_video(tmp_path / "in.mp4", clip, fps=12)
    done = call("reconstruct", "in.mp4", "-m", motion, "--layers", 1)
    assert done.returncode == 0, done.stderr
    assert "in-reconstructed.mp4  " in done.stdout and " tokens for 11 frames, " in done.stdout
    made, fps = read_video(tmp_path / "in-reconstructed.mp4")
    assert made.shape == (1, 3, 11, 18, 21) and fps == pytest.approx(12)
    fine = call("reconstruct", "in.mp4", "-m", motion, "-o", "fine.mp4").stdout
    sizes = [int(text.split("  ")[1].split()[0]) for text in (done.stdout, fine)]
    assert sizes[1] == 7 * sizes[0]
    fails(
        "reconstruct",
        tmp_path / "in.mp4",
        "-m",
        motion,
        "--layers",
        4,
        message="--layers 4 must lie",
    )
    fails(
        "reconstruct",
        tmp_path / "in.mp4",
        "-m",
        motion,
        "--tokens",
        4,
        message="--tokens is for pictures",
    )
    fails(
        "reconstruct",
        tmp_path / "in.mp4",
        "-m",
        motion,
        "-o",
        "x.png",
        message="must end in one of .mp4",
    )


def test_wrong_calls(fails, motion, tiny_model, tmp_path):
    args = ["generate", "red apple", "-m", motion]
    fails(*args, "-o", "a.png", message="'a.png' must end in one of .mp4, .webm, .gif, .webp")
    fails(*args, "--frames", 0, message="num_frames 0 must be a whole number")
    fails(*args, "--strength", 0.5, message="--strength 0.5 needs --image")
    fails("generate", "-m", motion, message="PROMPT is missing: model 'moves' makes clips")
    fails("generate", "hi", "-m", tiny_model, "--frames", 9, message="is no option of model")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    fails("reconstruct", tmp_path / "cut.mp4", "-m", motion, message="cut.mp4")
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "p.png")
    args = ["reconstruct", tmp_path / "p.png", "-m", tiny_model]
    fails(*args, "--layers", 1, message="--layers is for clips")


def test_evaluates_clips(call, fails, bundled, motion, tmp_path):
    """Without a verb, as the model makes clips; its page plays them."""
    bundled("emoji-features")
    noise = torch.rand(2, 3, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for i, clip in enumerate(torch.nn.functional.interpolate(noise, (9, 24, 20))):
        write_video(tmp_path / "data" / f"{i}.mp4", clip, fps=8)
    made = ["evaluate", motion, "--data", tmp_path / "data", "--codecs", "none", "--clips", 1]
    done = call(*made, "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "r" / "report.json").read_text())["rows"]
    assert [(row["layers"], row["tokens"]) for row in rows] == [(1, 4), (2, 20), (3, 28)]
    assert "<video controls" in (tmp_path / "r" / "index.html").read_text()
    assert "report.json" in done.stdout and "flicker" in done.stdout
    args = ["evaluate", "video", motion, "--out", tmp_path / "s"]
    fails(*args, "--data", tmp_path / "none", message="does not exist")
    fails(*args, "--i3d", tmp_path / "i3d.pt", message="i3d.pt")
