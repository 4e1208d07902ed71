"""Everything that is measured on pictures, in one place: for tokenizers, codecs and generators.

Per picture: PSNR, SSIM, MS-SSIM and, given its files, LPIPS. Over a set: the Fréchet distance of
our own features (features.py) and, given its file, of Inception's, which is the FID. `observe`
gives rows of a picture each, so that sets may be measured in parts; `summarize` makes the figures
of a set of them.
"""

import hashlib
from dataclasses import dataclass

import torch

from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.inception import Inception
from studio.evaluation.lpips import Lpips
from studio.evaluation.metrics import frechet_distance
from studio.evaluation.parts import Record
from studio.evaluation.report import Column
from studio.media.quality import SCALE_WEIGHTS, ms_ssim, num_scales, psnr, ssim

BEST_PSNR = 100.0  # of equal pictures, so that means stay finite
PSNR = Column("psnr", "PSNR", "dB", "higher", "mean of the pictures', RGB; equal ones count as 100")
SSIM = Column("ssim", "SSIM", "", "higher", "Gaussian window of 11 x 11, mean over RGB")
MS_SSIM = Column(
    "ms_ssim",
    "MS-SSIM",
    "",
    "higher",
    "five scales; fewer on pictures below 176 pixels, which compare only among equal sizes",
)
LPIPS = Column("lpips", "LPIPS", "", "lower", "from the given files, version 0.1")
FD = Column(
    "fd",
    "FD, our features",
    "",
    "lower",
    "Fréchet distance of studio's own features, trained on emoji renders: not Inception, no FID; "
    "depends on the number of pictures",
)
FID = Column(
    "fid", "FID", "", "lower", "of the given Inception weights; depends on the number of pictures"
)
_MEANS = ("psnr", "ssim", "ms_ssim", "lpips")


@dataclass
class Judges:
    """What pictures are measured with.

    Args:
        features: our own; None leaves the Fréchet distance out.
        lpips, inception: from the user's files, or None.
    """

    features: ImageTextFeatures | None
    lpips: Lpips | None = None
    inception: Inception | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What stands for the very weights in use, for the names of parts."""
        found = {}
        if self.features is not None:
            found["features"] = weights_digest(dict(self.features.state_dict()))
        if self.lpips is not None:
            found["lpips"] = weights_digest(self.lpips.weights)
        if self.inception is not None:
            found["inception"] = weights_digest(
                {k: w for k, (w, _) in self.inception.weights.items()}
            )
        return found

    def metrics(self, *, pairs: bool = True) -> list[Column]:
        """What `summarize` gives; `pairs` is False where pictures have no original."""
        found = [PSNR, SSIM, MS_SSIM] if pairs else []
        found += [LPIPS] if pairs and self.lpips is not None else []
        found += [FD] if self.features is not None else []
        return found + ([FID] if self.inception is not None else [])

    def to(self, device: torch.device | str) -> "Judges":
        """Moves all networks; returns itself."""
        for judge in (self.features, self.lpips, self.inception):
            if judge is not None:
                judge.to(device)  # pyright: ignore[reportArgumentType]
        return self

    def check_size(self, size: int) -> None:
        """Raises ValueError when pictures of that size can't be measured."""
        if size < 11:
            raise ValueError(f"pictures of {size} pixels: SSIM needs at least 11")
        if self.lpips is not None:
            self.lpips.check_size(size, size)

    def observe(self, images: torch.Tensor, originals: torch.Tensor | None = None) -> Record:
        """Rows of pictures (n, 3, H, W) in [-1, 1], compared with their originals where given: the
        values of each (n,), and its features (n, D). On the CPU."""
        images, found = images.float().clamp(-1, 1), {}
        if originals is not None:
            found["psnr"] = psnr(images, originals).clamp(max=BEST_PSNR)
            found["ssim"] = ssim(images, originals)
            found["ms_ssim"] = ms_ssim(images, originals)
            if self.lpips is not None:
                found["lpips"] = self.lpips(images, originals)
        if self.features is not None:
            found["features"] = self.features.encode_images(images.to(self.features.device))
        if self.inception is not None:
            found["inception"] = self.inception(images)
        return {k: v.detach().float().cpu() for k, v in found.items()}


def summarize(rows: Record, reference: Record | None) -> dict[str, float]:
    """The figures of a set.

    Args:
        rows: of `observe`, all pictures.
        reference: rows of the real pictures, for the distances, which need two pictures each.
    """
    found = {name: rows[name].double().mean().item() for name in _MEANS if name in rows}
    if reference is not None:
        for name, key in (("features", "fd"), ("inception", "fid")):
            if name in rows and min(len(rows[name]), len(reference[name])) > 1:
                found[key] = frechet_distance(rows[name], reference[name])
    return found


def scales_note(size: int) -> str:
    """What to say of MS-SSIM at a size; empty where it is the usual one."""
    count = num_scales(size, size)
    if count == len(SCALE_WEIGHTS):
        return ""
    return f"MS-SSIM of pictures of {size} pixels is measured on {count} scales instead of 5."


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Sixteen hex digits of tensors by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        total.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()[:16]
