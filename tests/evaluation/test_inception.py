"""The Inception network: keys, refusals, and torch-fidelity's own network where it is installed."""

import pytest
import torch

from studio.evaluation.inception import (
    BLOCKS,
    CLASSES,
    STEM,
    Inception,
    convolutions,
    enlarged,
)

# Kernels of the published network by the names of its convolutions.
KERNELS = {
    "branch5x5_2": (5, 5),
    **dict.fromkeys(("branch7x7_2", "branch7x7dbl_3", "branch7x7dbl_5", "branch7x7x3_2"), (1, 7)),
    **dict.fromkeys(("branch7x7_3", "branch7x7dbl_2", "branch7x7dbl_4", "branch7x7x3_3"), (7, 1)),
    **dict.fromkeys(("branch3x3_2a", "branch3x3dbl_3a"), (1, 3)),
    **dict.fromkeys(("branch3x3_2b", "branch3x3dbl_3b"), (3, 1)),
}
POINTS = {"branch1x1", "branch_pool", "branch5x5_1", "branch7x7_1", "branch7x7dbl_1"}
POINTS |= {"branch3x3dbl_1", "branch7x7x3_1"}


def kernel(name):
    block, _, last = name.rpartition(".")
    point = last in POINTS or last.endswith("_1x1")
    point |= last == "branch3x3_1" and block in ("Mixed_7a", "Mixed_7b", "Mixed_7c")
    return KERNELS.get(last, (1, 1) if point else (3, 3))


def tiny_state(width=4):
    """Random weights in the published names, a few channels everywhere."""
    generator, state = torch.Generator().manual_seed(0), {}

    def walk(branch, channels, place):
        for step in branch.split():
            names = [n.removesuffix("/2") for n in step.split("|")]
            if names[0] in ("avg", "max"):
                continue
            for name in (place + n for n in names):
                shape = (width, channels, *kernel(name))
                state[f"{name}.conv.weight"] = torch.randn(shape, generator=generator) * 0.3
                for part in ("weight", "bias", "running_mean"):
                    state[f"{name}.bn.{part}"] = torch.rand(width, generator=generator)
                state[f"{name}.bn.running_var"] = torch.rand(width, generator=generator) + 0.5
            channels = width * len(names)
        return channels

    last = walk(STEM, 3, "")
    for place, block in BLOCKS.items():
        last = sum(walk(branch, last, f"{place}.") for branch in block)
    return {**state, "fc.weight": torch.zeros(CLASSES, last)}


def test_the_network_has_94_convolutions():
    assert len(convolutions()) == len(set(convolutions())) == 94


def test_features_of_pictures(tmp_path, pictures):
    torch.save(tiny_state(), tmp_path / "inception.pth")
    inception = Inception.from_file(tmp_path / "inception.pth")
    found = inception(pictures[:3])
    assert found.shape == (3, inception.dim) and found.isfinite().all() and found.std() > 0
    assert torch.allclose(found[1:2], inception(pictures[1:2]), atol=1e-5)


def test_files_that_are_refused():
    state = tiny_state()
    with pytest.raises(ValueError, match="lacks Conv2d_1a_3x3.bn.bias"):
        Inception({k: v for k, v in state.items() if k != "Conv2d_1a_3x3.bn.bias"})
    with pytest.raises(ValueError, match="unexpected AuxLogits"):
        Inception({**state, "AuxLogits.fc.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="1000 classes, the network of FID has 1008"):
        Inception({**state, "fc.weight": torch.zeros(1000, 4)})
    with pytest.raises(ValueError, match="features, its head has 5"):
        Inception({**state, "fc.weight": torch.zeros(CLASSES, 5)})
    with pytest.raises(ValueError, match="shapes that do not fit"):
        Inception({**state, "Conv2d_2a_3x3.conv.weight": torch.zeros(4, 9, 3, 3)})


def test_pictures_are_enlarged_from_the_corner():
    line = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert enlarged(line, 4)[0, 0, 0].tolist() == [0.0, 2.0, 4.0, 4.0]


def test_it_agrees_with_torch_fidelity(monkeypatch, tmp_path):
    theirs = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity"
    )
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    cls = theirs.FeatureExtractorInceptionV3
    monkeypatch.setattr(cls, "load_state_dict", lambda *_: None)
    torch.manual_seed(0)
    network = cls("inception", ["2048"])
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.weight.uniform_(0.8, 1.6)
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.3, 1.2)
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    pictures = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    found = Inception.from_file(tmp_path / "inception.pth")(pictures.float() / 127.5 - 1)
    assert torch.allclose(found, network(pictures)[0], atol=1e-4)
