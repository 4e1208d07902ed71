"""LPIPS from weight files that the user has: how different two pictures look to a network.

The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, 1801.03924, version
0.1: features of AlexNet or VGG-16 after five of their ReLUs, scaled to unit length at every
position, squared differences weighted per channel by learned heads, averaged over positions and
summed. Nothing is downloaded. Left out on purpose: SqueezeNet, training.
"""

import re
from pathlib import Path

import torch
from torch.nn import functional as F

from studio.conversion.convert import read_checkpoint

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Numbers are convolutions of torchvision's `features` with (stride, padding); "pool" is (kernel,
# stride); "out" marks the ReLU that is compared.
_POOL = {"alex": (3, 2), "vgg": (2, 2)}
_LAYERS: dict[str, tuple] = {
    "alex": (0, "out", "pool", 3, "out", "pool", 6, "out", 8, "out", 10, "out"),
    "vgg": (
        *(0, 2, "out", "pool", 5, 7, "out", "pool", 10, 12, 14, "out"),
        *("pool", 17, 19, 21, "out", "pool", 24, 26, 28, "out"),
    ),
}
_STEPS = {("alex", 0): (4, 2), ("alex", 3): (1, 2)}  # all others (1, 1)
MIN_SIDE = {"alex": 31, "vgg": 16}
_BACKBONE = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)")
_HEAD = re.compile(r"lins?\.?(\d)\.model\.1\.weight")
_PASSED_OVER = re.compile(r"classifier\..*|scaling_layer\.(shift|scale)")


class Lpips:
    """The metric, ready to use: `Lpips.from_files([...])`, then `lpips(images, originals)`.

    Args:
        weights: `"{i}.weight"`, `"{i}.bias"` of the backbone's convolutions by torchvision's
            numbers, and `"head.{k}"` (1, C, 1, 1) of the five heads.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        first = weights.get("0.weight")
        self.network = "alex" if first is not None and first.shape[-1] == 11 else "vgg"
        numbers = [step for step in _LAYERS[self.network] if isinstance(step, int)]
        wanted = {f"{i}.{part}" for i in numbers for part in ("weight", "bias")}
        wanted |= {f"head.{k}" for k in range(5)}
        for keys, word in ((wanted - weights.keys(), "lack"), (weights.keys() - wanted, "hold")):
            if keys:
                raise ValueError(
                    f"the files of LPIPS {word} {min(keys)} (of {self.network}, {len(keys)} such "
                    "in all): give the backbone of torchvision and the heads of LPIPS 0.1"
                )
        self.weights = {k: v.float() for k, v in weights.items()}
        self._try()

    def _try(self) -> None:
        side = MIN_SIDE[self.network]
        try:
            self(torch.zeros(1, 3, side, side), torch.zeros(1, 3, side, side))
        except RuntimeError as error:
            line = str(error).splitlines()[0][:150]
            raise ValueError(f"the files of LPIPS hold shapes that do not fit: {line}") from error

    @classmethod
    def from_files(cls, files: list[str | Path]) -> "Lpips":
        """From one file or two: torchvision's backbone and the heads, or both in one file as the
        `lpips` package saves its whole network. Pickles are read without running code.

        Raises:
            ValueError: one line: a file that can't be read, or tensors that are none of LPIPS.
        """
        weights: dict[str, torch.Tensor] = {}
        for file in files:
            for key, tensor in read_checkpoint(Path(file)).items():
                if name := _own_name(key):
                    weights[name] = tensor
                elif not _PASSED_OVER.fullmatch(key):
                    raise ValueError(f"file {file} holds {key}, which is no part of LPIPS")
        return cls(weights)

    def to(self, device: torch.device | str) -> "Lpips":
        """Moves the weights; returns itself."""
        self.weights = {k: v.to(device) for k, v in self.weights.items()}
        return self

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError for pictures that are too small for the network."""
        least = MIN_SIDE[self.network]
        if min(height, width) < least:
            raise ValueError(
                f"LPIPS ({self.network}) needs pictures of at least {least} pixels, these have "
                f"{height} x {width}"
            )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
        """Distance of each picture: (B, 3, H, W) in [-1, 1] twice, to (B,); 0 for equal ones."""
        total = images.new_zeros(len(images), dtype=torch.float32)
        pairs = zip(self.features(images), self.features(originals), strict=True)
        for number, (x, y) in enumerate(pairs):
            difference = (_unit(x) - _unit(y)).square()
            weighted = F.conv2d(difference, self.weights[f"head.{number}"])  # (B, 1, h, w)
            total = total + weighted.mean((1, 2, 3))
        return total

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The five compared maps (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1]."""
        device = self.weights["0.weight"].device
        shift, scale = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        x, found = (images.to(device).float() - shift) / scale, []
        for step in _LAYERS[self.network]:
            if step == "out":
                found.append(x)
            elif step == "pool":
                kernel, stride = _POOL[self.network]
                x = F.max_pool2d(x, kernel, stride)  # (B, C, h, w)
            else:
                weight, bias = self.weights[f"{step}.weight"], self.weights[f"{step}.bias"]
                stride, padding = _STEPS.get((self.network, step), (1, 1))
                x = F.relu(F.conv2d(x, weight, bias, stride, padding))  # (B, C, h, w)
        return found


def _own_name(key: str) -> str | None:
    """Our name of a tensor of torchvision's backbone or of LPIPS' heads; None for any other."""
    if match := _BACKBONE.fullmatch(key):
        return f"{match[1]}.{match[2]}"
    match = _HEAD.fullmatch(key)
    return f"head.{match[1]}" if match else None


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
