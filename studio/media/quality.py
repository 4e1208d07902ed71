"""How close a picture is to another: PSNR, SSIM and MS-SSIM of float images in [-1, 1].

SSIM follows "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004):
Gaussian window of 11 x 11 with deviation 1.5, constants 0.01 and 0.03, over each colour channel,
valid positions only. MS-SSIM follows "Multi-Scale Structural Similarity for Image Quality
Assessment" (2003); a picture too small for its five scales is measured on fewer. At its coarsest
scale edges count with the picture mirrored around them, as in torchmetrics, so that figures agree
with those; the paper's own code counts valid positions there too (a difference below 0.001).
"""

import torch
from torch.nn import functional as F

WINDOW = 11
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each picture: (B, 3, H, W) twice, to (B,). Equal pictures
    give inf.
    """
    error = (images.clamp(-1, 1) - originals).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def ssim(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each picture: (B, 3, H, W) twice, to (B,); 1 for equal ones."""
    light, shape = _similarity((images.clamp(-1, 1) + 1) / 2, (originals + 1) / 2)
    return (light * shape).flatten(1).mean(1)


def num_scales(height: int, width: int) -> int:
    """The scales of `ms_ssim`, 1 to 5: as many as leave a picture no smaller than the window."""
    side, count = min(height, width), 1
    while count < len(SCALE_WEIGHTS) and side // 2 >= WINDOW:
        side, count = side // 2, count + 1
    return count


def ms_ssim(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Multi-scale structural similarity of each picture: (B, 3, H, W) twice, to (B,), 0 to 1.

    Pictures whose shorter side is below 176 have fewer than five scales (see `num_scales`): the
    weights of the finer ones are then scaled to a sum of 1, and the figure compares with those of
    the same number of scales only. Negative similarities count as 0.
    """
    x, y = (images.clamp(-1, 1) + 1) / 2, (originals + 1) / 2
    count = num_scales(x.shape[-2], x.shape[-1])
    weights = [weight / sum(SCALE_WEIGHTS[:count]) for weight in SCALE_WEIGHTS[:count]]
    result = x.new_ones(len(x))
    for scale, weight in enumerate(weights):
        if scale == count - 1:
            edges = (WINDOW // 2,) * 4
            light, shape = _similarity(*(F.pad(t, edges, mode="reflect") for t in (x, y)))
            shape = light * shape
        else:
            _, shape = _similarity(x, y)
        result = result * shape.flatten(1).mean(1).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)  # (B, 3, H/2, W/2)
    return result


def _similarity(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The luminance term and the contrast-structure term at every position of pictures in
    [0, 1]."""
    offsets = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    line = line / line.sum()

    def blur(t: torch.Tensor) -> torch.Tensor:
        rows = F.conv2d(t.flatten(0, 1)[:, None], line.view(1, 1, WINDOW, 1))
        both = F.conv2d(rows, line.view(1, 1, 1, WINDOW))
        return both.unflatten(0, x.shape[:2])[:, :, 0]  # (B, 3, h, w)

    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x.square()
    var_y = blur(y * y) - mean_y.square()
    both = blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 1e-4) / (mean_x.square() + mean_y.square() + 1e-4)
    return light, (2 * both + 9e-4) / (var_x + var_y + 9e-4)
