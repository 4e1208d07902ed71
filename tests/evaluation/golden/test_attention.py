import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from studio.evaluation.verify import verify

FIXTURE = Path(__file__).resolve().parents[4] / "shared" / "parity" / "neighborhood_attention"
pytestmark = pytest.mark.skipif(not FIXTURE.is_dir(), reason="../shared/parity is not there")


def altered(tmp_path, change, metadata=None):
    folder = tmp_path / FIXTURE.name
    folder.mkdir()
    file = FIXTURE / "io.safetensors"
    tensors = load_file(file)
    change(tensors)
    with safe_open(file, "pt") as opened:
        known = opened.metadata()
    save_file(tensors, folder / file.name, known if metadata is None else metadata)
    return folder


@pytest.fixture(autouse=True)
def without_flex(monkeypatch, request):
    """On a CPU flex is slow, and it is compared once."""
    from studio.layers.neighborhood import NEIGHBORHOOD_BACKENDS

    if "recording" not in request.node.name:
        monkeypatch.delitem(NEIGHBORHOOD_BACKENDS, "flex")


def test_the_recording_holds():
    rows = verify(FIXTURE)
    assert [row for row in rows if not row.ok] == []
    assert {row.tolerance for row in rows} == {0.0, 1e-5, 1e-11}
    assert {row.output for row in rows if row.tolerance == 1e-11} == {
        f"case{n:02d}/{part}" for n in range(38) for part in ("out", "lse")
    }


@pytest.mark.parametrize(
    "name", ["case05/mask", "case20/out", "case30/lse", "case36/extra_k", "case12/v"]
)
def test_a_change_shows(tmp_path, name):
    def change(tensors):
        if name.endswith("mask"):
            tensors[name][2, 3] ^= 1
        else:
            tensors[name].flatten()[5].add_(1e-3)

    rows = verify(altered(tmp_path, change))
    assert {row.output[:6] for row in rows if not row.ok} == {name[:6]}


def test_a_tensor_too_many_is_noticed(tmp_path):
    folder = altered(tmp_path, lambda t: t.update({"case99/q": t["case00/q"].clone()}))
    assert [row.output for row in verify(folder) if not row.ok] == ["case99/q"]


def test_cases_must_be_listed(tmp_path):
    with pytest.raises(ValueError, match="no metadata entry 'cases'"):
        verify(altered(tmp_path, lambda t: None, {"seed": "1"}))
    shutil.rmtree(tmp_path / FIXTURE.name)
