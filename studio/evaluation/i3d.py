"""The I3D network of FVD, from a weight file that the user has.

Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset, 2017, 1705.07750: Inception
with its filters grown along time; FVD is the Fréchet distance of its 400 scores over clips (Towards
Accurate Generative Models of Video: A New Metric & Challenges, 2018, 1812.01717). Weights are those
of the usual port to torch, `rgb_imagenet.pt`, whose names are read here. Padding is that of
TensorFlow. Another file in use, a TorchScript archive, gives somewhat other values. Nothing is
downloaded. Left out on purpose: optical flow as input, training.
"""

from pathlib import Path

import torch
from torch.nn import functional as F

from studio.conversion.convert import read_checkpoint

SIDE = 224
FEWEST = 9  # frames, so that two time steps reach the last average
SCORES = "logits.conv3d"
_EPS = 1e-3
# A step is a convolution's name with its stride along time and space, or a maximum: kernel, stride.
_STEM: tuple = (
    ("Conv3d_1a_7x7", (2, 2, 2)),
    ((1, 3, 3), (1, 2, 2)),
    ("Conv3d_2b_1x1", (1, 1, 1)),
    ("Conv3d_2c_3x3", (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2)),
    *("Mixed_3b", "Mixed_3c"),
    ((3, 3, 3), (2, 2, 2)),
    *(f"Mixed_4{letter}" for letter in "bcdef"),
    ((2, 2, 2), (2, 2, 2)),
    *("Mixed_5b", "Mixed_5c"),
)
_BRANCHES = (("b0",), ("b1a", "b1b"), ("b2a", "b2b"), ("max", "b3b"))


def names() -> list[str]:
    """The convolutions, without the scores'."""
    found = []
    for step in _STEM:
        if isinstance(step, str):
            found += [f"{step}.{n}" for branch in _BRANCHES for n in branch if n != "max"]
        elif isinstance(step[0], str):
            found.append(step[0])
    return found


class I3D:
    """The network, ready to use: `I3D.from_file(path)`, then `i3d(clips)`.

    Args:
        weights: tensors by the names of `rgb_imagenet.pt`.

    Raises:
        ValueError: a tensor is missing.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        wanted = [f"{SCORES}.weight", f"{SCORES}.bias"]
        for name in names():
            parts = ("weight", "bias", "running_mean", "running_var")
            wanted += [f"{name}.conv3d.weight", *(f"{name}.bn.{part}" for part in parts)]
        missing = [name for name in wanted if name not in weights]
        if missing:
            raise ValueError(f"weights of I3D lack {missing[0]!r} and {len(missing) - 1} more")
        self.weights = {name: weights[name].float() for name in wanted}

    @classmethod
    def from_file(cls, path: str | Path) -> "I3D":
        """Reads a .pt or .safetensors file, tensors alone. Raises ValueError in one line."""
        try:
            return cls(read_checkpoint(Path(path)))
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from None

    def to(self, device: torch.device | str) -> "I3D":
        """Moves the weights; returns itself."""
        self.weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return self

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Scores (n, 400) of clips (n, 3, T, H, W) in [-1, 1], which are resized to 224 x 224; one
        of fewer than `FEWEST` frames has its last one repeated."""
        device = self.weights[f"{SCORES}.bias"].device
        return torch.cat([self._scores(clip[None].to(device)) for clip in clips])

    def _scores(self, clip: torch.Tensor) -> torch.Tensor:
        x = clip.float()
        if x.shape[2] < FEWEST:
            x = F.pad(x, (0, 0, 0, 0, 0, FEWEST - x.shape[2]), mode="replicate")
        x = F.interpolate(x, (x.shape[2], SIDE, SIDE), mode="trilinear")
        for step in _STEM:
            if isinstance(step, str):
                x = torch.cat([self._branch(x, step, branch) for branch in _BRANCHES], 1)
            elif isinstance(step[0], str):
                x = self._convolution(x, *step)
            else:
                x = _maximum(x, *step)
        x = F.avg_pool3d(x, (min(2, x.shape[2]), 7, 7), 1)  # (1, 1024, t, 1, 1)
        x = F.conv3d(x, self.weights[f"{SCORES}.weight"], self.weights[f"{SCORES}.bias"])
        return x.mean((2, 3, 4))  # (1, 400)

    def _branch(self, x: torch.Tensor, block: str, branch: tuple[str, ...]) -> torch.Tensor:
        for name in branch:
            if name == "max":
                x = _maximum(x, (3, 3, 3), (1, 1, 1))
            else:
                x = self._convolution(x, f"{block}.{name}", (1, 1, 1))
        return x

    def _convolution(self, x: torch.Tensor, name: str, stride: tuple[int, ...]) -> torch.Tensor:
        weight = self.weights[f"{name}.conv3d.weight"]
        x = F.conv3d(F.pad(x, _same(x, tuple(weight.shape[2:]), stride)), weight, stride=stride)
        mean, variance, scale, shift = (
            self.weights[f"{name}.bn.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, variance, scale, shift, eps=_EPS))


def _maximum(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return F.max_pool3d(F.pad(x, _same(x, kernel, stride)), kernel, stride)


def _same(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """TensorFlow's padding: the output has ceil(size / stride) places, the odd one goes behind."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max(0, (-(-size // s) - 1) * s + k - size)
        pads += [total // 2, total - total // 2]
    return pads
