"""LPIPS from files: against torchmetrics on random weights, and every file that is refused."""

import pytest
import torch
from safetensors.torch import save_file

from studio.evaluation.lpips import Lpips

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
HEADS = (64, 192, 384, 256, 256)


def alex_files(folder):
    """A backbone as torchvision writes it, and heads as LPIPS 0.1 does, of random weights."""
    generator = torch.Generator().manual_seed(0)
    backbone = {"classifier.1.weight": torch.zeros(2, 2)}
    for i, (out, channels, kernel) in ALEX.items():
        shape = (out, channels, kernel, kernel)
        spread = (2 / (channels * kernel * kernel)) ** 0.5
        backbone[f"features.{i}.weight"] = torch.randn(shape, generator=generator) * spread
        backbone[f"features.{i}.bias"] = torch.randn(out, generator=generator) * 0.1
    heads = {
        f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator)
        for k, c in enumerate(HEADS)
    }
    torch.save(backbone, folder / "alexnet.pth")
    save_file(heads, folder / "heads.safetensors")
    return [folder / "alexnet.pth", folder / "heads.safetensors"]


@pytest.fixture
def pair(pictures):
    image = torch.nn.functional.interpolate(pictures, (48, 40), mode="bilinear")
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return (image + 0.3 * noise).clamp(-1, 1), image


def test_two_files_make_the_metric(tmp_path, pair):
    lpips = Lpips.from_files(alex_files(tmp_path))
    noisy, image = pair
    assert lpips(image, image).tolist() == [0.0] * 8
    near = lpips((noisy + image) / 2, image)
    assert (near > 0).all() and (near < lpips(noisy, image)).all()
    assert torch.allclose(near[2:3], lpips(((noisy + image) / 2)[2:3], image[2:3]), atol=1e-6)
    with pytest.raises(ValueError, match="at least 31 pixels, these have 30 x 64"):
        lpips.check_size(30, 64)


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_it_agrees_with_torchmetrics(tmp_path, pair, net):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips", reason="needs torchmetrics")
    torch.manual_seed(0)
    network = theirs._LPIPS(net=net, pnet_rand=True)  # their heads, a random backbone
    torch.save(network.state_dict(), tmp_path / "lpips.pth")
    noisy, image = (x[:2] for x in pair)
    expected = network(noisy, image).flatten().tolist()
    found = Lpips.from_files([tmp_path / "lpips.pth"])(noisy, image).tolist()
    assert found == pytest.approx(expected, abs=1e-4)


def test_files_that_are_refused(tmp_path):
    backbone, heads = alex_files(tmp_path)
    with pytest.raises(ValueError, match="lack head.0 .of alex, 5 such in all"):
        Lpips.from_files([backbone])
    with pytest.raises(ValueError, match="lack 0.bias"):
        Lpips.from_files([heads])
    with pytest.raises(ValueError, match="does not exist"):
        Lpips.from_files([tmp_path / "none.pth"])
    state = torch.load(backbone)
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match="holds extra, which is no part of LPIPS"):
        Lpips.from_files([tmp_path / "more.pth", heads])
    state["features.3.weight"] = torch.zeros(192, 32, 5, 5)
    torch.save(state, tmp_path / "shape.pth")
    with pytest.raises(ValueError, match="shapes that do not fit"):
        Lpips.from_files([tmp_path / "shape.pth", heads])
