"""Convolutions over video that never look ahead, and what they carry from chunk to chunk.

Factorised as in the Cosmos tokenizers (Cosmos World Foundation Model Platform for Physical AI,
2025, 2501.03575): space first, then time. A layer sees the past through a `Carry`: frames kept from
the chunk before, or, at the start of a clip, its first frame repeated. A clip that is encoded in
chunks with one `Carry` gives what the whole clip gives. Left out on purpose: dilation.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Carry:
    """What causal layers remember between the chunks of one clip (one batch of clips).

    Nothing of it is stored on the layers: a new clip is a new `Carry`.

    Args:
        memory: how many earlier frames an attention over time keeps, counted where it stands; all
            of them when None, which is exact and grows with the clip.
    """

    def __init__(self, memory: int | None = None):
        if memory is not None and memory < 0:
            raise ValueError(f"memory {memory} must be at least 0")
        self.memory = memory
        self._kept: dict[nn.Module, tuple[torch.Tensor, ...]] = {}
        self._begun: set[nn.Module] = set()

    def is_first(self, layer: nn.Module) -> bool:
        """True the first time that a layer asks: at the start of a clip."""
        first = layer not in self._begun
        self._begun.add(layer)
        return first

    def extended(self, layer: nn.Module, x: torch.Tensor, first: int, later: int) -> torch.Tensor:
        """x (B, C, T, H, W) with the past in front: at the start `first` repeats of its first
        frame, then the last `later` frames of the chunk before.
        """
        if layer in self._kept:
            front = self._kept[layer][0]  # (B, C, later, H, W)
        else:
            front = x[:, :, :1].expand(-1, -1, first, -1, -1)  # (B, C, first, H, W)
        x = torch.cat((front, x), dim=2)
        self._kept[layer] = (x[:, :, x.shape[2] - later :].clone(),)
        return x

    def grown(
        self, layer: nn.Module, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, H, T, D) of a chunk behind those kept from the chunks before."""
        if layer in self._kept:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self._kept[layer], (k, v), strict=True))
        start = 0 if self.memory is None else max(0, k.shape[2] - self.memory)
        self._kept[layer] = (k[:, :, start:].clone(), v[:, :, start:].clone())
        return k, v

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(t.nbytes for kept in self._kept.values() for t in kept)


class CausalConv3d(nn.Conv3d):
    """A 3D convolution whose time axis is padded in front with the first frame, or the past.

    Args:
        in_channels, out_channels: C.
        kernel: along time, height and width.
        stride: the same; one along time needs kernel 3 and takes frames 0, 2, 4, ... as its ends.
        space_pad: zeros on each side of height and width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        space_pad: int = 0,
    ):
        pad = (0, space_pad, space_pad)
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=pad)

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C', T / stride, H', W')."""
        front = self.kernel_size[0] - self.stride[0]
        if front:
            x = carry.extended(self, x, front, front)  # (B, C, T + front, H, W)
        return super().forward(x)


class FactorizedConv3d(nn.Module):
    """A 3x3 convolution of every frame, then one of 3 frames at every place."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.space = CausalConv3d(in_channels, out_channels, (1, 3, 3), space_pad=1)
        self.time = CausalConv3d(out_channels, out_channels, (3, 1, 1))

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C', T, H, W)."""
        return self.time(self.space(x, carry), carry)


class FrameNorm(nn.GroupNorm):
    """Group normalisation of each frame alone, one group: later frames change nothing."""

    def __init__(self, channels: int):
        super().__init__(1, channels, eps=1e-6)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) to the same."""
        frames = input.transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W)
        frames = super().forward(frames)
        return frames.unflatten(0, (input.shape[0], -1)).transpose(1, 2)  # (B, C, T, H, W)


class CausalDownsample(nn.Module):
    """Halves space, time or both by a strided convolution plus an average of the same input.

    With neither it gives its input back; its convolutions exist all the same, as in the releases.
    """

    def __init__(self, channels: int, *, space: bool, time: bool):
        super().__init__()
        self.halves_space, self.halves_time = space, time
        self.conv1 = CausalConv3d(channels, channels, (1, 3, 3), stride=(1, 2, 2))
        self.conv2 = CausalConv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))
        self.conv3 = nn.Conv3d(channels, channels, 1)

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C, T', H', W'); T = 1 + 2k frames at the start of a clip become
        1 + k, and 2k later ones k.
        """
        if not (self.halves_space or self.halves_time):
            return x
        if self.halves_space:
            x = F.pad(x, (0, 1, 0, 1))  # (B, C, T, H + 1, W + 1)
            x = self.conv1(x, carry) + F.avg_pool3d(x, (1, 2, 2))  # (B, C, T, H/2, W/2)
        if self.halves_time:
            if carry.is_first(self):
                x = torch.cat((x[:, :, :1], x), dim=2)  # (B, C, T + 1, H, W)
            x = self.conv2(x, carry) + F.avg_pool3d(x, (2, 1, 1))  # (B, C, T/2, H, W)
        return self.conv3(x)


class CausalUpsample(nn.Module):
    """Doubles time, space or both by repetition, each with a convolution that is added.

    The first frame of a clip stays one frame. With neither it gives its input back.
    """

    def __init__(self, channels: int, *, space: bool, time: bool):
        super().__init__()
        self.doubles_space, self.doubles_time = space, time
        self.conv1 = CausalConv3d(channels, channels, (3, 1, 1))
        self.conv2 = CausalConv3d(channels, channels, (1, 3, 3), space_pad=1)
        self.conv3 = nn.Conv3d(channels, channels, 1)

    def forward(self, x: torch.Tensor, carry: Carry) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C, T', H', W'); T = 1 + k frames at the start of a clip become
        1 + 2k, and k later ones 2k.
        """
        if not (self.doubles_space or self.doubles_time):
            return x
        if self.doubles_time:
            x = x.repeat_interleave(2, dim=2)[:, :, int(carry.is_first(self)) :]  # (B, C, T', H, W)
            x = x + self.conv1(x, carry)
        if self.doubles_space:
            x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest")
            x = x + self.conv2(x, carry)  # (B, C, T', 2H, 2W)
        return self.conv3(x)
