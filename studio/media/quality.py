"""How close a picture is to another: PSNR and SSIM of float images in [-1, 1].

SSIM follows "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004):
Gaussian window of 11 x 11 with deviation 1.5, constants 0.01 and 0.03, over each colour channel,
valid positions only.
"""

import torch
from torch.nn import functional as F


def psnr(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each picture: (B, 3, H, W) twice, to (B,). Equal pictures
    give inf.
    """
    error = (images.clamp(-1, 1) - originals).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def ssim(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each picture: (B, 3, H, W) twice, to (B,); 1 for equal ones."""
    x, y = (images.clamp(-1, 1) + 1) / 2, (originals + 1) / 2
    offsets = torch.arange(11, device=x.device, dtype=x.dtype) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    line = line / line.sum()

    def blur(t: torch.Tensor) -> torch.Tensor:
        t = F.conv2d(t.flatten(0, 1)[:, None], line.view(1, 1, 11, 1))
        return F.conv2d(t, line.view(1, 1, 1, 11)).unflatten(0, x.shape[:2])[
            :, :, 0
        ]  # (B, 3, h, w)

    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x.square()
    var_y = blur(y * y) - mean_y.square()
    both = blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x.square() + mean_y.square() + 1e-4)
    shape = (2 * both + 9e-4) / (var_x + var_y + 9e-4)
    return (light * shape).flatten(1).mean(1)
