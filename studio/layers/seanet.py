"""SEANet: the strided convolutions and the LSTM between a wave and its frames.

SEANet: A Multi-modal Speech Enhancement Network, 2020, 2009.02095, in the form that SoundStream
(2107.03312) and EnCodec (2210.13438) gave it: weight-normalised convolutions, ELU, reflected
borders, an LSTM with a skip at the low rate. A long clip goes through `SEANetEncoder.stream` piece
by piece with the same result: the convolutions see a margin, the LSTM keeps its state. Left out on
purpose: causal padding and other norms (the sound tokenizers here use neither), and the decoder,
which they replace by an inverse STFT.
"""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F


def reflect_pad(x: torch.Tensor, left: int, right: int) -> torch.Tensor:
    """(B, C, N) to (B, C, left + N + right), mirrored at both ends.

    A clip too short to be mirrored gets zeros at its end first, and loses as many samples after.
    """
    short = max(left, right) - x.shape[-1] + 1
    if short <= 0:
        return F.pad(x, (left, right), mode="reflect")
    padded = F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - short]


class SEANetConv(nn.Module):
    """A weight-normalised convolution whose output has ceil(N / stride) frames.

    Weight Normalization, 2016, 1602.07868. Of an odd padding the left side gets the larger half.

    Args:
        in_channels, out_channels, kernel, stride: of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1):
        super().__init__()
        start = nn.Conv1d(in_channels, out_channels, kernel)
        self.stride, self.padding = stride, kernel - stride
        self.v = nn.Parameter(start.weight.detach().clone())  # (out, in, kernel)
        self.g = nn.Parameter(self.v.detach().norm(dim=(1, 2), keepdim=True))  # (out, 1, 1)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    @property
    def reach(self) -> int:
        """How many inputs beside a frame's own it depends on, on the side where there are more."""
        return self.padding - self.padding // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, N) to (B, D, ceil(N / stride))."""
        right = self.padding // 2
        extra = -x.shape[-1] % self.stride
        x = reflect_pad(x, self.padding - right, right + extra)
        weight = torch._weight_norm(self.v, self.g, 0)
        return F.conv1d(x, weight, self.bias, self.stride)  # (B, D, N / stride)


class SEANetBlock(nn.Module):
    """`shortcut(x) + conv2(elu(conv1(elu(x))))`; the shortcut is a 1x1 convolution."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = SEANetConv(dim, dim // 2, 3)
        self.conv2 = SEANetConv(dim // 2, dim, 1)
        self.shortcut = SEANetConv(dim, dim, 1)

    @property
    def reach(self) -> int:
        """As `SEANetConv.reach`."""
        return self.conv1.reach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, N) to (B, C, N)."""
        return self.shortcut(x) + self.conv2(F.elu(self.conv1(F.elu(x))))


class SkipLSTM(nn.Module):
    """`x + lstm(x)` in one direction, along the frames."""

    def __init__(self, dim: int, num_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers)

    def forward(self, x: torch.Tensor, state=None) -> tuple[torch.Tensor, tuple]:
        """(B, C, T) and the state after earlier frames, to (B, C, T) and the state after these."""
        rows = x.permute(2, 0, 1)  # (T, B, C)
        out, state = self.lstm(rows, state)
        return (rows + out).permute(1, 2, 0), state  # (B, C, T)


class SEANetEncoder(nn.Module):
    """Waves (B, 1, L) to features (B, D, T), T = ceil(L / hop).

    Args:
        width: channels at the full rate; every stride doubles them.
        strides: in the order in which they run.
        dim: D.
        lstm_layers: 0 leaves the LSTM out.
        channels: of the wave.
    """

    def __init__(
        self,
        width: int,
        strides: Sequence[int],
        dim: int,
        *,
        lstm_layers: int = 2,
        channels: int = 1,
    ):
        super().__init__()
        layers: list[nn.Module] = [SEANetConv(channels, width, 7)]
        for stride in strides:
            down = SEANetConv(width, 2 * width, 2 * stride, stride=stride)
            layers += [SEANetBlock(width), nn.ELU(), down]
            width *= 2
        self.num_front = len(layers)
        if lstm_layers:
            layers.append(SkipLSTM(width, lstm_layers))
        self.layers = nn.ModuleList([*layers, nn.ELU(), SEANetConv(width, dim, 7)])
        self.hop = math.prod(strides)

    @property
    def margin(self) -> int:
        """Samples beside a frame on which the layers before the LSTM depend, in whole hops."""
        total, rate = 0, 1
        for layer in self.layers[: self.num_front]:
            total += cast(int, getattr(layer, "reach", 0)) * rate
            rate *= cast(int, getattr(layer, "stride", 1))
        return -(-total // self.hop) * self.hop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, L) to (B, D, T)."""
        hidden, _ = self._recur(self._front(x), None)
        return self.layers[-1](F.elu(hidden))

    def stream(self, x: torch.Tensor, *, frames: int) -> Iterator[torch.Tensor]:
        """The features of `forward` in pieces (B, D, t) of about `frames` frames, one after the
        other; only one piece is held in memory at a time.
        """
        total = -(-x.shape[-1] // self.hop)
        reach, state, held = cast(SEANetConv, self.layers[-1]).reach, None, None
        frames = max(frames, 2 * reach + 1)
        for start in range(0, total, frames):
            stop = min(start + frames, total)
            hidden, state = self._recur(self._piece(x, start, stop), state)
            hidden = hidden if held is None else torch.cat([held, hidden], dim=2)
            skip = 0 if held is None else reach
            held = hidden[..., -2 * reach :]
            out = self.layers[-1](F.elu(hidden))  # (B, D, t), wrong within reach of inner borders
            yield out[..., skip:] if stop == total else out[..., skip:-reach]

    def _front(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[: self.num_front]:
            x = layer(x)
        return x  # (B, C, T)

    def _recur(self, x: torch.Tensor, state) -> tuple[torch.Tensor, tuple | None]:
        lstm = self.layers[self.num_front]
        return lstm(x, state) if isinstance(lstm, SkipLSTM) else (x, None)

    def _piece(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """What `_front` gives for the frames from `start` to `stop`."""
        margin = self.margin
        first = max(0, start * self.hop - margin)
        out = self._front(x[..., first : stop * self.hop + margin])
        skip = start - first // self.hop
        return out[..., skip : skip + stop - start]  # (B, C, t)
