import math

import pytest
import torch

from studio.media.quality import psnr, ssim


def pictures(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 6, 6, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (40, 40), mode="bicubic").clamp(-1, 1)


def test_psnr_of_a_known_error():
    flat = torch.zeros(2, 3, 16, 16)
    shifted = flat + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)
    assert psnr(shifted, flat).tolist() == pytest.approx([20.0, 40.0], abs=1e-4)
    assert math.isinf(psnr(flat, flat)[0])


def test_both_agree_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image (extra eval)")
    image = pictures(0)
    noisy = (
        image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    ).clamp(-1, 1)
    for i in range(2):
        a, b = ((t[i].permute(1, 2, 0).double().numpy() + 1) / 2 for t in (noisy, image))
        ours = psnr(noisy, image)[i].item()
        assert ours == pytest.approx(metrics.peak_signal_noise_ratio(b, a, data_range=1), abs=1e-4)
        expected = metrics.structural_similarity(
            b,
            a,
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(noisy, image)[i].item() == pytest.approx(expected, abs=1e-4)


def test_ssim_of_equal_pictures_is_one():
    image = pictures(1)
    assert ssim(image, image).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert ssim(-image, image).max() < 0.9
