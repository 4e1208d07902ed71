"""TorchScript archives: every tensor by its name, and nothing of the program is run."""

import zipfile

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from studio.conversion.convert import convert
from studio.conversion.torchscript import read_torchscript
from studio.registry import find_class
from tests.recordings import PARITY, needs_fixtures


class Node(nn.Module):
    """A tree of tensors under given names, which torch.jit.trace takes."""

    def __init__(self, state):
        super().__init__()
        children = {}
        for key, tensor in state.items():
            name, _, rest = key.partition(".")
            if rest:
                children.setdefault(name, {})[rest] = tensor
            else:
                self.register_buffer(name, tensor)
        for name, inner in children.items():
            self.add_module(name, Node(inner))

    def forward(self, x):
        return x + 1


def archive(path, state):
    torch.jit.trace(Node(state), torch.zeros(1), check_trace=False).save(str(path))
    return path


def test_tensors_come_by_name(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    state = {"a.0.weight": shared, "a.1.b": torch.tensor([1, 2]), "c": torch.ones(2).bfloat16()}
    state["t"] = shared.T
    found = read_torchscript(archive(tmp_path / "a.jit", state))
    assert set(found) == set(state)
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items())
    expected = torch.jit.load(str(tmp_path / "a.jit")).state_dict()
    assert set(expected) == set(found)


def test_bad_archives_are_named(tmp_path):
    path = archive(tmp_path / "a.jit", {"a": torch.ones(100)})
    (tmp_path / "half.jit").write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="half.jit is cut short or no TorchScript"):
        read_torchscript(tmp_path / "half.jit")
    with zipfile.ZipFile(tmp_path / "other.jit", "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(ValueError, match="other.jit is no TorchScript archive"):
        read_torchscript(tmp_path / "other.jit")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "less.jit", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="less.jit is cut short or no TorchScript"):
        read_torchscript(tmp_path / "less.jit")


@needs_fixtures
def test_a_cosmos_archive_converts(tmp_path):
    """As NVIDIA publishes them: no config, so sizes are those of the shapes and of the family."""
    state = load_file(PARITY / "cosmos_dv8x16x16" / "weights.safetensors")
    traced = {"encoder.patcher3d.wavelets": torch.ones(2), "quantizer._basis": torch.ones(6)}
    path = archive(tmp_path / "autoencoder.jit", state | traced)
    out = convert(path, "cosmos_dv8x16x16", tmp_path / "model")
    model = find_class("CosmosTokenizer").from_pretrained(out)
    assert model.config.base_channels == 8 and list(model.config.channel_multipliers) == [2, 4, 4]
    assert (model.space_factor, model.time_factor) == (16, 8)
    key = "encoder.conv_in.0.conv3d.weight"
    assert torch.equal(model.encoder.conv_in.space.weight, state[key])
