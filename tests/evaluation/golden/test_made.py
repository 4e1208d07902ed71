"""Recordings of other sizes and seeds hold as well: no check knows those of the files it was made
with."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.evaluation.verify import verify
from studio.layers.neighborhood import NEIGHBORHOOD_BACKENDS
from tests.evaluation.golden import made

CHAINS = [(3, 7, 50, 0), (1, 2, 33, 0), (4, 12, 90, 40)]
TREES = [
    [[0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0]],
    [[0], [1], [2], [0, 0], [1, 0], [1, 1], [2, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0, 0]],
]
CONFIGS = [(None, None), (7, 0.15), (4, 0.6), (12, 3.0)]
WINDOWS = [
    ((9,), (4,), (3,), (2,), (False,), 0, 2, 1),
    ((6, 7), (3, 5), (2, 1), (2, 1), (True, False), 3, 4, 2),
    ((3, 4, 5), (2, 3, 4), (1, 2, 4), (1, 1, 1), (True, False, False), 0, 2, 2),
]


def failed(folder, name):
    return [row for row in verify(folder, name) if not row.ok]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["spec_sjd", "spec_gsd"])
def test_chains(tmp_path, name, seed):
    made.chains(tmp_path, seed, grouped=name == "spec_gsd", cases=CHAINS)
    assert failed(tmp_path, name) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("choices", TREES, ids=["small", "wide"])
def test_trees(tmp_path, choices, seed):
    made.lantern(tmp_path, seed, vocab=30 + seed, choices=choices, configs=CONFIGS)
    assert failed(tmp_path, "spec_lantern") == []


def test_windows(tmp_path, monkeypatch):
    monkeypatch.delitem(NEIGHBORHOOD_BACKENDS, "flex")  # slow on a CPU, and compared elsewhere
    made.neighborhoods(tmp_path, 4, cases=WINDOWS)
    assert failed(tmp_path, "neighborhood_attention") == []


@pytest.mark.parametrize(("heads", "head_dim", "sink"), [(3, 16, 2), (1, 20, 1), (2, 32, 3)])
def test_streams(tmp_path, heads, head_dim, sink):
    made.ema_sink(
        tmp_path, 5, heads=heads, head_dim=head_dim, h=3, w=2, window=3 * sink, sink=sink,
        alpha=0.8, blocks=5,
    )  # fmt: skip
    assert failed(tmp_path, "reward_forcing_ema_sink") == []


def test_what_nothing_uses_is_noticed(tmp_path):
    made.chains(tmp_path, 1, grouped=True, cases=CHAINS[1:2])
    tensors = load_file(tmp_path / "io.safetensors")
    save_file(tensors | {"case00/more": torch.zeros(1)}, tmp_path / "io.safetensors")
    assert [row.output for row in failed(tmp_path, "spec_gsd")] == ["case00/more"]
    save_file(tensors, tmp_path / "io.safetensors", {"half_window": "5"})
    with pytest.raises(ValueError, match="half_window 5 must be 7"):
        verify(tmp_path, "spec_gsd")
    with pytest.raises(ValueError, match="no metadata entry 'meta'"):
        verify(tmp_path, "spec_lantern")
