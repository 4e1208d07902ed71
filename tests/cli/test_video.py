"""`studio generate` and `studio reconstruct` with models of clips."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import studio
from studio.cli.reconstruct_video import Tally, through
from studio.media.video import read_pieces, read_request, read_video, video_info
from studio.media.video_writer import video_writer, write_video
from studio.rendering.batching import Memory
from studio.rendering.media import recorded_request

av = pytest.importorskip("av")


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


def test_long_files_take_no_more_memory(motion, tmp_path):
    """600 frames through tokens and back at the peak of 150, and as many come back."""
    tokenizer = studio.Pipeline.from_pretrained(motion).tokenizer
    peaks = []
    for frames in (150, 600):
        path = tmp_path / f"{frames}.mp4"
        with video_writer(path, fps=8) as write:
            for start in range(0, frames, 50):
                level = torch.linspace(-1, 1, 50)[:, None, None] * (start + 1) / frames
                write(level.expand(3, 50, 32, 32))
        memory, tally, count = Memory(torch.device("cpu")), Tally(), 0
        memory.start()
        for piece in through(tokenizer, read_pieces(path, chunk_frames=16), 1, tally):
            count += piece.shape[2]
        peaks.append(memory.peak())
        assert count == tally.frames == frames
    if None in peaks:
        pytest.skip("this system does not tell what a process held at its peak")
    assert peaks[1] < peaks[0] + 3 * 2**20  # all frames are 7 MiB


def test_files_that_are_not_usual(call, motion, tmp_path):
    """One frame, ten bits, uneven times and odd sizes: all come back as long and as large."""
    for name, frames, size, format in (("one", 1, 16, "yuv420p"), ("ten", 5, 21, "yuv444p10le")):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width = stream.height = size
            stream.pix_fmt = format
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 99, np.uint8), "rgb24")
                frame.pts = number + 2 * (number > 2)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        done = call("reconstruct", f"{name}.mp4", "-m", motion, "-o", f"{name}-back.mp4")
        assert done.returncode == 0, done.stderr
        info = video_info(tmp_path / f"{name}-back.mp4")
        assert (info.width, info.height) == (size, size) and (info.frames or 0) >= frames


def test_wrong_calls(fails, motion, tiny_model, tmp_path):
    args = ["generate", "red apple", "-m", motion]
    fails(*args, "-o", "a.png", message="'a.png' must end in one of .mp4, .webm, .gif, .webp")
    fails(*args, "--frames", 0, message="num_frames 0 must be a whole number")
    fails(*args, "--strength", 0.5, message="--strength 0.5 needs --image")
    fails("generate", "-m", motion, message="PROMPT is missing: model 'moves' makes clips")
    fails("generate", "hi", "-m", tiny_model, "--frames", 9, message="is no option of model")
    fails(*args, "--frames", 70000, message="num_frames 70000 must be a whole number from 1 to 655")
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    fails("reconstruct", tmp_path / "cut.mp4", "-m", motion, message="cut.mp4' is none, broken or")
    (tmp_path / "empty.mp4").touch()
    fails("reconstruct", tmp_path / "empty.mp4", "-m", motion, message="empty.mp4' is empty")
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    fails("reconstruct", tmp_path / "song.mp4", "-m", motion, message="song.mp4' holds sound only")
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "p.png")
    args = ["reconstruct", tmp_path / "p.png", "-m", tiny_model]
    fails(*args, "--layers", 1, message="--layers is for clips")
    args[-1] = motion
    fails(*args, message="p.png' is a picture")


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


def test_renders_clips(call, fails, motion, tmp_path):
    lines = [
        {"prompt": "red apple moving left", "seed": 7, "num_frames": 11},
        {"prompt": "red apple", "seed": 3, "output": "b.gif"},
    ]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = call("render", "jobs.jsonl", "--out", "out", "-m", motion, "--workers", 1)
    assert done.returncode == 0, done.stderr
    (film,) = (tmp_path / "out").glob("*.mp4")
    assert video_info(film).frames == 11 and read_request(film)["num_frames"] == 11
    assert read_request(tmp_path / "out" / "b.gif")["seed"] == 3
    page = (tmp_path / "out" / "index.html").read_text()
    assert f'<video src="{film.name}"' in page and '<img src="b.gif"' in page
    assert call("generate", "--from", film, "-m", motion, "-o", "again.mp4").returncode == 0
    assert (tmp_path / "again.mp4").read_bytes() == film.read_bytes()
    assert recorded_request(film) == read_request(film)  # how a rerun knows what stands there
    args = ["render", "--grid", "prompt=a", "--out", tmp_path / "o", "-m", motion]
    fails(*args, "--format", "png", message="--format '.png' must be one of .mp4")
    (tmp_path / "j.jsonl").write_text('{"prompt": "a", "output": "x.png"}')
    args = ["render", tmp_path / "j.jsonl", "--out", tmp_path / "o", "-m", motion]
    fails(*args, message="output 'x.png' must end in one of .mp4")
