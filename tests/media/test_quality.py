import math

import pytest
import torch

from studio.media.quality import SCALE_WEIGHTS, ms_ssim, num_scales, psnr, ssim


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


def noisy_pair(side):
    generator = torch.Generator().manual_seed(side)
    coarse = torch.rand(2, 3, 9, 9, generator=generator) * 2 - 1
    image = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)
    noise = 0.2 * torch.randn(image.shape, generator=generator)
    return (image + noise).clamp(-1, 1), image


@pytest.mark.parametrize(("side", "scales"), [(64, 3), (100, 4), (180, 5)])
def test_ms_ssim_agrees_with_torchmetrics(side, scales):
    theirs = pytest.importorskip("torchmetrics.functional.image", reason="needs torchmetrics")
    noisy, image = noisy_pair(side)
    assert num_scales(side, side + 3) == scales
    weights = tuple(w / sum(SCALE_WEIGHTS[:scales]) for w in SCALE_WEIGHTS[:scales])
    expected = theirs.multiscale_structural_similarity_index_measure(
        (noisy + 1) / 2, (image + 1) / 2, data_range=1.0, betas=weights, reduction=None
    )
    assert ms_ssim(noisy, image).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_psnr_and_ssim_agree_with_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.functional.image", reason="needs torchmetrics")
    noisy, image = noisy_pair(64)
    pair = ((noisy + 1) / 2, (image + 1) / 2)
    _, full = theirs.structural_similarity_index_measure(
        *pair, data_range=1.0, return_full_image=True
    )
    inner = full[..., 5:-5, 5:-5].flatten(1).mean(1)  # theirs counts mirrored edges as well
    assert ssim(noisy, image).tolist() == pytest.approx(inner.tolist(), abs=1e-4)
    expected = theirs.peak_signal_noise_ratio(*pair, data_range=1.0, reduction=None, dim=(1, 2, 3))
    assert psnr(noisy, image).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_ms_ssim_of_equal_and_of_opposite_pictures():
    image = pictures(2)
    assert num_scales(11, 99) == 1 and num_scales(4000, 4000) == 5
    assert ms_ssim(image, image).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert ms_ssim(-image, image).max() < 0.5 and ms_ssim(-image, image).min() >= 0
