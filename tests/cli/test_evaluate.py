"""`studio evaluate`: reports made by one command, resumed after a kill, shared by processes."""

import csv
import json
import os
import shutil
import socket
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def with_features(bundled):
    bundled("emoji-features")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(4):
        Image.effect_noise((24, 20), 40 + 40 * i).convert("RGB").save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("rocket" if i % 2 else "red apple")
    return folder


def rows_of(folder):
    return json.loads((folder / "report.json").read_text())["rows"]


def test_two_tokenizers_in_one_command(call, tiny_model, data, tmp_path):
    bare = shutil.copytree(tiny_model / "tokenizer", tmp_path / "run" / "final")
    made = ["evaluate", tiny_model, bare, "--data", data, "--out", "r", "--codecs", "webp"]
    done = call(*made, "--tokens", "2,8", "--pictures", 1)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "r")
    ours = [r for r in rows if r["group"] == "tokenizers"]
    assert [(r["subject"], r["tokens"]) for r in ours] == [
        *[("tiny", 2), ("tiny", 8), ("run/final", 2), ("run/final", 8)]
    ]
    assert all(ours[i]["psnr"] == ours[i + 2]["psnr"] for i in range(2))
    assert any(r["subject"] == "WEBP" for r in rows)
    with open(tmp_path / "r" / "report.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    page = (tmp_path / "r" / "index.html").read_text(encoding="utf-8")
    assert "our features" in page and "not Inception" in page and str(tmp_path) not in page
    assert "tiny" in done.stdout and "index.html" in done.stdout


def test_generators(call, tiny_model, data, tmp_path):
    made = ["evaluate", "generator", tiny_model, "--data", data, "--out", "r", "--count", 3]
    done = call(*made, "--generator", "masked", "--option", "num_steps=2")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "r")
    assert [r["subject"] for r in rows] == ["tiny masked", "real pictures"]
    assert rows[0]["fd"] >= 0 and 0 <= rows[0]["top1"] <= 1 and "diversity" in rows[1]


def test_a_killed_run_goes_on_where_it_was(forks, tiny_model, data, tmp_path):
    made = ["evaluate", tiny_model, "--data", data, "--codecs", "jpeg", "--batch", 1]
    killed = forks.start(*made, "--out", tmp_path / "r")
    parts = tmp_path / "r" / "parts"
    end = time.monotonic() + 120
    while len(list(parts.glob("[!.]*"))) < 3 and killed.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(killed.pid, 9)
    killed.wait()
    assert not (tmp_path / "r" / "report.json").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("[!.]*")}
    assert forks.run(*made, "--out", tmp_path / "r").returncode == 0
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in parts.iterdir()}.items()
    assert forks.run(*made, "--out", tmp_path / "whole").returncode == 0
    assert rows_of(tmp_path / "r") == rows_of(tmp_path / "whole")


def test_two_processes_make_the_report_of_one(forks, tiny_model, data, tmp_path, monkeypatch):
    made = ["evaluate", tiny_model, "--data", data, "--codecs", "none", "--batch", 1]
    made += ["--device", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    settings |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    running = []
    for rank in range(2):  # what `accelerate launch` sets
        for name, value in {**settings, "RANK": rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        running.append(forks.start(*made, "--out", tmp_path / "two"))
    assert [command.wait() for command in running] == [0, 0], [c.err.read_text() for c in running]
    assert "wrote" in running[0].out.read_text() and running[1].out.read_text() == ""
    for name in (*settings, "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name)
    assert forks.run(*made, "--out", tmp_path / "one").returncode == 0
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")


@pytest.mark.slow
def test_bundled_tokenizers_on_photographs(call, bundled, tmp_path):
    """The command of the README on the photographs that scikit-image and scikit-learn bring."""
    skimage = pytest.importorskip("skimage", reason="scikit-image is not installed (extra eval)")
    metrics = pytest.importorskip("skimage.metrics")
    folders = [Path(skimage.__file__).parent / "data"]
    if find_spec("sklearn"):
        folders.append(Path(find_spec("sklearn").origin).parent / "datasets" / "images")
    (tmp_path / "photos").mkdir()
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "china.jpg"):
        for folder in folders:
            if (folder / name).is_file():
                shutil.copy(folder / name, tmp_path / "photos")
    models = [name for name in ("emoji-1d", "emoji-grid") if bundled(name)]
    done = call("evaluate", *models, "--data", tmp_path / "photos", "--out", "r")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    rows = [r for r in report["rows"] if r["group"] == "tokenizers"]
    assert rows[6]["tokens"] == 64 and rows[7]["subject"] == "emoji-grid"
    assert rows[0]["psnr"] < rows[6]["psnr"] < rows[7]["psnr"]
    for exhibit, tokens in zip(report["exhibits"], ("64 tokens", "256 tokens"), strict=True):
        for row in exhibit["rows"]:
            made = next(cell for cell in row if cell["label"] == tokens)
            a, b = (np.asarray(Image.open(tmp_path / "r" / c["file"])) for c in (row[0], made))
            told = float(made["caption"].split(", ")[1].removesuffix(" dB"))
            assert metrics.peak_signal_noise_ratio(a, b) == pytest.approx(told, abs=0.1)


def test_wrong_calls(fails, tiny_model, data, tmp_path):
    made = ["evaluate", tiny_model, "--data", data]
    fails("evaluate", tiny_model, message="Missing option '--data'")
    fails(*made[:2], "--data", tmp_path / "none", message="does not exist")
    fails("evaluate", "nope", "--data", data, message="model 'nope' is no bundled name")
    fails(*made, "--tokens", "9", message="num_tokens 9 must lie between 1 and 8")
    fails(*made, "--tokens", "a", message="'a' must be a whole number")
    fails(*made, "--codecs", "heic", message="codec 'heic' must be one of")
    fails(*made, "--count", 1, message="--count 1 must be at least 2")
    fails(*made, "--batch", 0, message="--batch 0 must be at least 1")
    fails(*made, "--device", "tpu", message="--device 'tpu' must be one of")
    fails(*made, "--out", data / "0.png", message="is a file, not a folder")
    fails(*made, "--lpips", data / "0.png", message="suffix '.png'")
    fails(*made, "--inception", tmp_path / "no.pth", message="does not exist")
    generator = ["evaluate", "generator", tiny_model, "--data", data]
    fails(*generator, "--generator", "x", message="must be autoregressive, masked or all")
    fails(*generator, "--option", "nothing=1", message="nothing")
    (tmp_path / "bare").mkdir()
    fails("evaluate", "generator", tmp_path / "bare", "--data", data, message="is no pipeline")
