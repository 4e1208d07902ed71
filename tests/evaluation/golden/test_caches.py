import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.evaluation.verify import verify

FIXTURE = Path(__file__).resolve().parents[4] / "shared" / "parity" / "reward_forcing_ema_sink"
pytestmark = pytest.mark.skipif(not FIXTURE.is_dir(), reason="../shared/parity is not there")


def altered(tmp_path, file, change):
    folder = tmp_path / FIXTURE.name
    shutil.copytree(FIXTURE, folder, copy_function=shutil.copyfile)
    tensors = load_file(folder / file)
    change(tensors)
    (folder / file).unlink()
    save_file(tensors, folder / file)
    return folder


def test_the_recording_holds():
    rows = verify(FIXTURE)
    assert all(row.ok and row.tolerance <= 1e-5 for row in rows)
    assert len(rows) == 7 * 4 + 2


@pytest.mark.parametrize("name", ["input.block1.pass1", "sink_v.block6", "out.block0.pass0"])
def test_a_change_shows(tmp_path, name):
    folder = altered(tmp_path, "io.safetensors", lambda t: t[name].add_(1e-2))
    assert any(not row.ok for row in verify(folder))


def test_wrong_weights(tmp_path):
    folder = altered(tmp_path, "weights.safetensors", lambda t: t.pop("norm_q.weight"))
    with pytest.raises(ValueError, match=r"weights.safetensors: .*norm_q.weight"):
        verify(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match="weights"):
        verify(folder)


def test_a_tensor_too_many_is_noticed(tmp_path):
    folder = altered(tmp_path, "io.safetensors", lambda t: t.update(more=torch.zeros(1)))
    assert [row.output for row in verify(folder) if not row.ok] == ["more"]
