"""The Inception network of FID, from a weight file that the user has.

GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, 2017, 1706.08500,
measures on the pooled features of Inception v3 as Google trained it in 2015 ("Rethinking the
Inception Architecture for Computer Vision", 2015, 1512.00567). Its published conversion to torch
(`pt_inception-2015-12-05`, 2,048 features) differs from torchvision's ImageNet network: averages
leave the padding out, the last block takes a maximum, and there are 1,008 classes. Pictures are
rounded to 8 bits and enlarged as TensorFlow 1 did, corner to corner of the source grid, as in the
original code. Nothing is downloaded. Left out on purpose: the classifier (Inception score).
"""

from pathlib import Path

import torch
from torch.nn import functional as F

from studio.conversion.convert import read_checkpoint

SIDE = 299
CLASSES = 1008
# A branch is its steps in order: a convolution's name, "/2" for stride 2, "a|b" for two side by
# side on the same input, "avg", "max" and "max/2" for pooling.
_A = (
    "branch1x1",
    "branch5x5_1 branch5x5_2",
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
    "avg branch_pool",
)
_B = ("branch3x3/2", "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3/2", "max/2")
_C = (
    "branch1x1",
    "branch7x7_1 branch7x7_2 branch7x7_3",
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5",
    "avg branch_pool",
)
_D = (
    "branch3x3_1 branch3x3_2/2",
    "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4/2",
    "max/2",
)
_E = (
    "branch1x1",
    "branch3x3_1 branch3x3_2a|branch3x3_2b",
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a|branch3x3dbl_3b",
)
STEM = "Conv2d_1a_3x3/2 Conv2d_2a_3x3 Conv2d_2b_3x3 max/2 Conv2d_3b_1x1 Conv2d_4a_3x3 max/2"
_PADDED = "Conv2d_2b_3x3"  # the only one of the stem
BLOCKS: dict[str, tuple[str, ...]] = {
    **{f"Mixed_5{x}": _A for x in "bcd"},
    "Mixed_6a": _B,
    **{f"Mixed_6{x}": _C for x in "bcde"},
    "Mixed_7a": _D,
    "Mixed_7b": (*_E, "avg branch_pool"),
    "Mixed_7c": (*_E, "max branch_pool"),
}


def _steps(branch: str) -> list[list[tuple[str, int]]]:
    """A branch as steps of (name, stride), several where they stand side by side."""
    return [
        [(name.removesuffix("/2"), 2 if name.endswith("/2") else 1) for name in step.split("|")]
        for step in branch.split()
    ]


def convolutions() -> list[str]:
    """The names of all convolutions."""
    places = [("", STEM), *((f"{k}.", branch) for k, block in BLOCKS.items() for branch in block)]
    names = [
        place + name
        for place, branch in places
        for step in _steps(branch)
        for name, _ in step
        if name not in ("avg", "max")
    ]
    return names


class Inception:
    """The feature network, ready to use: `Inception.from_file(path)`, then `inception(images)`.

    Args:
        state: the file's tensors: `NAME.conv.weight` and `NAME.bn.*` of every convolution, and
            `fc.*`.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """

    def __init__(self, state: dict[str, torch.Tensor]):
        parts = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        wanted = {f"{name}.{part}" for name in convolutions() for part in parts} | {"fc.weight"}
        passed_over = {f"{name}.bn.num_batches_tracked" for name in convolutions()} | {"fc.bias"}
        missing, more = wanted - state.keys(), state.keys() - wanted - passed_over
        for keys, word in ((missing, "lacks"), (more, "has unexpected")):
            if keys:
                raise ValueError(f"the Inception file {word} {min(keys)} ({len(keys)} such in all)")
        classes = len(state["fc.weight"])
        if classes != CLASSES:
            raise ValueError(
                f"the Inception file has {classes} classes, the network of FID has {CLASSES}: "
                "torchvision's ImageNet weights give another distance"
            )
        self.weights = {name: _folded(state, name) for name in convolutions()}
        self.dim = state["fc.weight"].shape[1]
        try:
            found = self(torch.zeros(1, 3, 8, 8)).shape[1]
        except RuntimeError as error:
            line = str(error).splitlines()[0][:150]
            raise ValueError(f"the Inception file holds shapes that do not fit: {line}") from error
        if found != self.dim:
            raise ValueError(f"the Inception file gives {found} features, its head has {self.dim}")

    @classmethod
    def from_file(cls, file: str | Path) -> "Inception":
        """From a `.pth` or `.safetensors` file. Raises ValueError of one line for any other."""
        return cls(read_checkpoint(Path(file)))

    def to(self, device: torch.device | str) -> "Inception":
        """Moves the weights; returns itself."""
        self.weights = {k: (w.to(device), b.to(device)) for k, (w, b) in self.weights.items()}
        return self

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, 2048) of pictures (B, 3, H, W) in [-1, 1]."""
        device = self.weights[_PADDED][0].device
        pixels = ((images.to(device).float().clamp(-1, 1) + 1) * 127.5).round()
        x = (enlarged(pixels, SIDE) - 128) / 128  # (B, 3, 299, 299)
        x = self._branch(x, STEM, "", padded=False)
        for place, block in BLOCKS.items():
            x = torch.cat([self._branch(x, branch, f"{place}.") for branch in block], 1)
        return x.mean((2, 3))  # (B, 2048)

    def _branch(self, x: torch.Tensor, branch: str, place: str, *, padded=True) -> torch.Tensor:
        for step in _steps(branch):
            x = torch.cat([self._step(x, place, name, stride, padded) for name, stride in step], 1)
        return x

    def _step(self, x: torch.Tensor, place: str, name: str, stride: int, padded: bool):
        if name == "avg":
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        if name == "max":
            return F.max_pool2d(x, 3, stride, 0 if stride == 2 else 1)
        weight, bias = self.weights[place + name]
        same = stride == 1 and (padded or name == _PADDED)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else (0, 0)
        return F.relu(F.conv2d(x, weight, bias, stride, padding))


def _folded(state: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution with its batch norm (epsilon 0.001) inside: weight and bias."""
    gain, shift, mean, variance = (
        state[f"{name}.bn.{part}"].double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    weight = state[f"{name}.conv.weight"].double()
    if weight.ndim != 4 or gain.shape != (len(weight),):
        raise ValueError(f"the Inception file: {name} has shape {tuple(weight.shape)}")
    scale = gain / (variance + 1e-3).sqrt()
    return (weight * scale.view(-1, 1, 1, 1)).float(), (shift - mean * scale).float()


def enlarged(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures (B, C, H, W) resized to side x side as TensorFlow 1 did: bilinear, the place of an
    output pixel i is i * input / output, without a shift by half a pixel."""
    for axis in (2, 3):
        length = pixels.shape[axis]
        places = torch.arange(side, device=pixels.device, dtype=torch.float32) * (length / side)
        low = places.floor().long().clamp(max=length - 1)
        high = (low + 1).clamp(max=length - 1)
        shape = [1] * pixels.ndim
        shape[axis] = side
        share = (places - low).view(shape)
        below, above = pixels.index_select(axis, low), pixels.index_select(axis, high)
        pixels = below + (above - below) * share  # (B, C, side, ...)
    return pixels
