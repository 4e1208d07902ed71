"""`studio convert` and `studio verify` as commands; what they compute is tested beside the code."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def fixture(root):
    """A small recording of an official model."""
    folder = root.parent / "shared" / "parity" / "llamagen_vq8"
    if not folder.is_dir():
        pytest.skip("the recorded fixtures (../shared/parity) are not here")
    return folder


def test_verify_holds(forks, fixture):
    done = forks.run("verify", fixture)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    assert "llamagen_vq8" in done.stdout and "outputs hold" in done.stdout
    for head in ("output", "shape", "error", "tolerance", "ok"):
        assert head in done.stdout


def test_verify_fails_on_an_altered_recording(call, fixture, tmp_path):
    copy = shutil.copytree(fixture, tmp_path / "altered", copy_function=shutil.copyfile)
    rows = json.loads(call("verify", fixture, "--json").stdout)
    name = next(row["output"] for row in rows if row["tolerance"])
    tensors = {key: value.clone() for key, value in load_file(copy / "io.safetensors").items()}
    tensors[name] += 1e-2
    save_file(tensors, copy / "io.safetensors")
    done = call("verify", copy, "--family", "llamagen_vq8")
    assert done.returncode == 1 and f"error: altered does not hold: {name}" in done.stderr
    table = json.loads(call("verify", copy, "--family", "llamagen_vq8", "--json").stdout)
    assert [row["output"] for row in table if not row["ok"]] == [name]


def test_convert_writes_a_folder_that_opens(call, fixture, tmp_path):
    args = ["convert", fixture / "weights.safetensors", "--family", "llamagen_vq8"]
    done = call(*args, "--out", "ours")
    assert done.returncode == 0 and done.stdout == "wrote ours\n", done.stderr
    import studio

    studio.GridTokenizer.from_pretrained(tmp_path / "ours")
    assert call(*args, "--out", "ours").returncode == 2


def test_wrong_calls(fails, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"junk")
    convert = ["convert", tmp_path / "w.safetensors", "--out", "ours", "--family"]
    fails(*convert, "nope", message="nope")
    fails(*convert, "llamagen_vq8", message="w.safetensors")
    fails("convert", "nope.pt", "--out", "ours", "--family", "llamagen_vq8", message="nope.pt")
    fails("convert", "nope.pt", message="Missing option '--family'")
    fails("verify", "nope", message="nope does not exist")
    (tmp_path / "empty_fixture").mkdir()
    fails("verify", tmp_path / "empty_fixture", message="empty_fixture")
