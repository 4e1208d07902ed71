import math

import pytest
import torch

from studio.generators.guidance import Guidance


def scales(guidance, steps=8):
    return [guidance.scale_at(k, steps) for k in range(steps)]


def test_constant_and_interval():
    assert scales(Guidance(3.0)) == [3.0] * 8
    cut = Guidance(3.0, interval=(2, 5))
    assert scales(cut) == [1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0]
    assert scales(Guidance(3.0, "cond", interval=(0, 1))) == [3.0] + [0.0] * 7
    assert Guidance(3.0).constant and not cut.constant


def test_linear_is_that_of_maskgit_and_of_mar():
    assert scales(Guidance(4.0, "cond", "linear")) == [4.0 * k / 8 for k in range(8)]
    assert scales(Guidance(4.0, "uncond", "linear")) == [1 + 3.0 * k / 8 for k in range(8)]


def test_power_cosine_is_that_of_rar():
    expected = [1 + 5 * (1 - math.cos(math.pi * (k / 8) ** 2.75)) / 2 for k in range(8)]
    assert scales(Guidance(6.0, schedule="power-cosine", power=2.75)) == pytest.approx(expected)
    assert scales(Guidance(6.0, schedule="power-cosine", power=0.0)) == [6.0] * 8
    cosine = Guidance(6.0, schedule="power-cosine", power=1.0)
    assert scales(Guidance(6.0, schedule="cosine", power=9.0)) == scales(cosine)


def test_forms():
    rng = torch.Generator().manual_seed(0)
    c, u = torch.randn(2, 1, 3, 5, generator=rng)
    torch.testing.assert_close(Guidance().combine(c, u, 2.0), u + 2 * (c - u))
    torch.testing.assert_close(Guidance(form="cond").combine(c, u, 2.0), c + 2 * (c - u))
    assert torch.equal(Guidance().combine(c, u, 1.0), c)
    rows = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    torch.testing.assert_close(Guidance().combine(c, u, rows)[:, 2], (u + 3 * (c - u))[:, 2])
    assert Guidance().combine(c.bfloat16(), u.bfloat16(), 2.0).dtype == torch.float32


def test_active():
    assert not Guidance().active and not Guidance(0.0, "cond").active
    assert Guidance(0.0).active and Guidance(1.0, "cond").active
    assert not Guidance(3.0, interval=(4, 4)).active


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(form="both"), "form 'both'"),
        (dict(schedule="square"), "schedule 'square'"),
        (dict(scale=float("nan")), "scale nan"),
        (dict(scale=-1.0), "scale -1.0"),
        (dict(power=-1.0), "power -1.0"),
    ],
)
def test_wrong_use(options, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**options)
