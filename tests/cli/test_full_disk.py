"""Disks that are really full: one clear line, exit code 1, nothing half-written."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from safetensors.torch import save_file

PAGE = 4096
OLD = "x" * PAGE
UNSHARE = ["unshare", "--map-root-user", "--mount"]


@pytest.fixture
def on_small_disks(root, tmp_path):
    """`on_small_disks(jobs)` gives what `small_disks.py` says; skipped where nobody may mount."""
    place = tmp_path / "probe"
    place.mkdir()
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("unshare and mount, which make a small disk for the test, are not here")
    probe = subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "small", place], capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"a test may mount no small disk here ({probe.stderr.strip()[:100]})")

    def run(jobs):
        done = subprocess.run(
            [*UNSHARE, sys.executable, "-m", "tests.cli.small_disks"],
            input=json.dumps(jobs),
            capture_output=True,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def failed(answer, message):
    """One error line that ends with it, and exit code 1."""
    assert answer["code"] == 1, answer
    assert answer["stderr"].splitlines()[-1] == f"error: {message}: No space left on device"
    assert "Traceback" not in answer["stderr"]


def test_pictures_and_conversion(on_small_disks, tiny_model, tmp_path):
    from tests import toys

    Image.effect_noise((20, 20), 50).save(tmp_path / "noise.png")
    state = toys.official_vqgan()
    save_file(state, tmp_path / "w.safetensors")
    model = ["-m", str(tiny_model)]
    picture = {"size": PAGE, "there": {"old.png": OLD}}  # and that fills it
    jobs = [
        {"arguments": ["generate", "a", *model, "-o", "a.png"], **picture},
        {"arguments": ["generate", "a", *model, "-o", "old.png"], **picture},
        {"arguments": ["reconstruct", str(tmp_path / "noise.png"), *model], **picture},
        {
            "arguments": [
                *("convert", str(tmp_path / "w.safetensors")),
                *("--out", "deep/ours", "--family", "maskgit_vqgan"),
            ],
            "size": 16 * PAGE,
        },
    ]
    answers = on_small_disks(
        [{"disk": str(tmp_path / f"{i}"), **job} for i, job in enumerate(jobs)]
    )
    names = ["a.png", "old.png", "noise-reconstructed.png", "deep/ours"]
    for answer, name in zip(answers, names, strict=True):
        failed(answer, f"cannot write '{name}'")
        assert len(answer["stderr"].splitlines()) == 1
    for answer in answers[:3]:
        assert answer["texts"] == {"old.png": OLD} and answer["files"] == ["old.png"]
    assert answers[3]["files"] == []


def test_a_checkpoint_that_does_not_fit(on_small_disks, call, recipe, tmp_path):
    """The one before stays, and training goes on from it when there is room again."""
    assert call("train", recipe, "--out", "free", "--set", "steps=2").returncode == 0
    size = (tmp_path / "free" / "last.pt").stat().st_size
    train = ["train", str(recipe), "--out", "run", "--set", "steps=4"]
    disk = str(tmp_path / "disk")
    full, more = on_small_disks(
        [
            {"disk": disk, "size": size * 3 // 2, "arguments": train},
            {"disk": disk, "size": size * 9, "arguments": [*train, "--resume"]},
        ]
    )
    failed(full, "cannot write 'run/last.pt'")
    assert {"run/last.pt", "run/metrics.jsonl"} <= set(full["files"])
    assert not [name for name in full["files"] if ".studio-" in name or "final" in name]
    assert more["code"] == 0 and "step 4/4" in more["stderr"], more
    assert "run/final/config.json" in more["files"]


def test_a_batch_that_does_not_fit(on_small_disks, tiny_model, tmp_path):
    """What was made stays and is whole; when there is room again the rest is made."""
    from studio.media.image import open_picture

    arguments = ["render", "--grid", "prompt=a,b", "seed=0..9", "-m", str(tiny_model)]
    arguments += ["--out", "o", "--workers", "2", "--batch", "4"]
    disk = str(tmp_path / "disk")
    full, more = on_small_disks(
        [
            {"disk": disk, "size": 16 * PAGE, "arguments": arguments},
            {"disk": disk, "size": 200 * PAGE, "arguments": arguments, "keep": str(tmp_path / "k")},
        ]
    )
    assert full["code"] == 1, full
    line = full["stderr"].splitlines()[-1]
    assert line.startswith("error: cannot write ") and line.endswith("No space left on device")
    pictures = [name for name in full["files"] if name.endswith(".png")]
    assert 0 < len(pictures) < 20 and not [n for n in full["files"] if "/tmp/" in n or "index" in n]
    assert more["code"] == 0, more
    kept = sorted((tmp_path / "k" / "o").glob("*.png"))
    assert len(kept) == 20 and {f"o/{path.name}" for path in kept} >= set(pictures)
    assert all(open_picture(path).size == (16, 16) for path in kept)
