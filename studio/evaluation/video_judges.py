"""Everything that is measured on clips: how near frames are, how steady, and distances of sets.

Per clip: PSNR, SSIM, MS-SSIM and, given its files, LPIPS, as means over frames; flicker and
flow-warped error (steadiness.py). Over a set: the Fréchet distance of clip features made from our
own picture features - their mean over frames beside the mean size of their change from frame to
frame - and, given its file, that of I3D, which is the FVD. `observe` gives rows of a clip each.
"""

from dataclasses import dataclass

import torch

from studio.evaluation.i3d import I3D
from studio.evaluation.judges import LPIPS as PICTURE_LPIPS
from studio.evaluation.judges import MS_SSIM, PSNR, SSIM, Judges, weights_digest
from studio.evaluation.metrics import frechet_distance
from studio.evaluation.parts import Record
from studio.evaluation.report import Column
from studio.evaluation.steadiness import backward_flow, flicker, warped_error

FLICKER = Column(
    "flicker",
    "flicker",
    "levels of 255",
    "lower",
    "mean difference between how frames change and how the source's frames change",
)
WARPED = Column(
    "warped",
    "warped error",
    "levels of 255",
    "lower",
    "mean difference of frames and those before them, moved as the source moves by block matching; "
    "the source's own is among the notes",
)
FD = Column(
    "fd",
    "FD, our clip features",
    "",
    "lower",
    "Fréchet distance of studio's own picture features, their mean and their change over a clip: "
    "no FVD; depends on the number of clips",
)
FVD = Column(
    "fvd", "FVD", "", "lower", "of the given I3D weights; depends on the number of clips", digits=1
)
Flow = tuple[torch.Tensor, torch.Tensor]
_MEANS = ("psnr", "ssim", "ms_ssim", "lpips", "flicker", "warped")


@dataclass
class ClipJudges:
    """What clips are measured with.

    Args:
        pictures: for frames; its features make clip features. Its Inception is not used.
        i3d: from the user's file, or None.
    """

    pictures: Judges
    i3d: I3D | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What stands for the very weights in use, for the names of parts."""
        i3d = {} if self.i3d is None else {"i3d": weights_digest(self.i3d.weights)}
        return {**self.pictures.identity, **i3d}

    def metrics(self) -> list[Column]:
        """What `summarize` gives."""
        found = [PSNR, SSIM, MS_SSIM]
        found += [PICTURE_LPIPS] if self.pictures.lpips is not None else []
        found += [FLICKER, WARPED]
        found += [FD] if self.pictures.features is not None else []
        return found + ([FVD] if self.i3d is not None else [])

    def to(self, device: torch.device | str) -> "ClipJudges":
        """Moves all networks; returns itself."""
        self.pictures.to(device)
        if self.i3d is not None:
            self.i3d.to(device)
        return self

    @torch.no_grad()
    def observe(
        self,
        clips: torch.Tensor,
        originals: torch.Tensor | None = None,
        *,
        flows: list[Flow] | None = None,
    ) -> Record:
        """Rows of clips (n, 3, T, H, W) in [-1, 1], compared with their originals, or with
        themselves where there are none: the values of each (n,), and features (n, D). On the CPU.

        Args:
            flows: of the originals, where they are known, since they take long (`flows_of`).
        """
        clips = clips.float().clamp(-1, 1)
        found: Record = {}
        frames = self.pictures.observe(
            _frames(clips), None if originals is None else _frames(originals)
        )
        per_clip = {k: v.unflatten(0, (len(clips), -1)) for k, v in frames.items()}  # (n, T, ...)
        features = per_clip.pop("features", None)
        per_clip.pop("inception", None)
        found |= {name: values.mean(1) for name, values in per_clip.items()}
        if features is not None:
            found["features"] = clip_features(features)
        if originals is not None:
            found["flicker"] = flicker(clips, originals)
        if clips.shape[2] > 1:
            flows = flows or flows_of(clips if originals is None else originals)
            pairs = zip(clips, flows, strict=True)
            found["warped"] = torch.stack([warped_error(clip, flow) for clip, flow in pairs])
        if self.i3d is not None:
            found["i3d"] = self.i3d(clips)
        return {k: v.detach().float().cpu() for k, v in found.items()}


def flows_of(clips: torch.Tensor) -> list[Flow]:
    """`backward_flow` of clips (n, 3, T, H, W), n entries."""
    return [backward_flow(clip) for clip in clips] if clips.shape[2] > 1 else []


def clip_features(features: torch.Tensor) -> torch.Tensor:
    """Features of frames (n, T, D) as those of clips, (n, 2 D)."""
    change = features.diff(dim=1).abs() if features.shape[1] > 1 else torch.zeros_like(features)
    return torch.cat((features.mean(1), change.mean(1)), -1)


def summarize(rows: Record, reference: Record | None) -> dict[str, float]:
    """The figures of a set; `reference` has the rows of real clips, for the distances."""
    found = {name: rows[name].double().mean().item() for name in _MEANS if name in rows}
    if reference is not None:
        for name, key in (("features", "fd"), ("i3d", "fvd")):
            if name in rows and min(len(rows[name]), len(reference[name])) > 1:
                found[key] = frechet_distance(rows[name], reference[name])
    return found


def _frames(clips: torch.Tensor) -> torch.Tensor:
    """Clips (n, 3, T, H, W) as pictures (n * T, 3, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)
