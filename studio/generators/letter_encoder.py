"""What is said, by whom and when, as one vector a token of speech.

FastSpeech 2 (2020, 2006.04558): letters are encoded, held for as long as each is spoken, and mixed
with their neighbours, so that a decoder never has to find its place in the text. How long a letter
lasts is predicted from its encoding. Letters, not phonemes: the encoder learns what they sound like
in each voice, and nothing else is needed when something is said. Leaves out on purpose: pitch and
energy of every frame, which the tokens say.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from studio.layers.vocos import ConvNeXtBlock

_WIDEN = 3  # hidden width of the blocks, in widths
_LONG = 8.0  # tokens that count as 1


class LetterEncoder(nn.Module):
    """Embeds a `SpeechCondition`, which is `condition` everywhere here.

    Args:
        config: of the generator: `dim`, `text_vocab_size` (letters, with the padding), `voices`,
            `text_layers` and `frame_layers` (blocks over letters and over tokens).
    """

    def __init__(self, config):
        super().__init__()
        if not config.voices:
            raise ValueError("voices must name at least one voice for condition 'speech'")
        dim = config.dim
        self.letters = nn.Embedding(config.text_vocab_size, dim)
        self.voices = nn.Embedding(len(config.voices), dim)
        self.manner = nn.Linear(2, dim, bias=False)
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.text_blocks = _blocks(config.text_layers, dim)
        self.text_norm = nn.LayerNorm(dim)
        self.length = nn.Linear(dim, 1)
        self.place = nn.Sequential(nn.Linear(5, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.frame_blocks = _blocks(config.frame_layers, dim)
        self.frame_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def reset(self) -> None:
        """First weights: each linear map keeps the size of its input, and letters and voices are
        as large as what blocks add to them. Far smaller ones, which suit what stands in front of
        many more blocks, are learned several times slower."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for table in (self.letters, self.voices):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, condition: Any) -> tuple[torch.Tensor, None]:
        """The one row in front of all tokens (B, 1, D): who speaks."""
        return (self.start + self._speaker(condition)).unsqueeze(1), None

    def lengths(self, condition: Any) -> torch.Tensor:
        """Predicted log(1 + tokens) of every letter, float32 (B, S)."""
        return F.softplus(self.length(self._read(condition)).squeeze(-1).float())

    def told(self, condition: Any, count: int) -> torch.Tensor:
        """One vector for each of the first `count` tokens, (B, count, D); zeros past the end."""
        h = self._read(condition)  # (B, S, D)
        ends, mask = condition.ends.float(), condition.mask
        beyond = ConvNeXtBlock.reach * len(self.frame_blocks)  # what the last ones look at
        middle = torch.arange(count + beyond, device=ends.device) + 0.5  # (N,)
        passed = (middle[:, None] >= ends[:, None]) & mask[:, None]  # (B, N, S)
        index = passed.sum(-1)  # (B, N)
        inside = (index < mask.sum(1, keepdim=True)) & ~condition.dropped[:, None]  # (B, N)
        index = index.clamp(max=ends.shape[1] - 1)
        begin, end = F.pad(ends, (1, 0)).gather(1, index), ends.gather(1, index)  # (B, N)
        total = (ends * mask).amax(1, keepdim=True).clamp(min=1)  # (B, 1)
        left = (total - middle).clamp(min=0)
        lasting = (end - begin).clamp(min=0).log1p()
        near = [(middle - begin).clamp(-64, 64) / _LONG, (end - middle).clamp(-64, 64) / _LONG]
        place = torch.stack([*near, lasting, left / total, left.log1p() / 4], -1)  # (B, N, 5)
        own = h.gather(1, index[..., None].expand(-1, -1, h.shape[-1]))  # (B, N, D)
        x = own + self.place(place.to(h.dtype)) + self._speaker(condition).unsqueeze(1)
        x = _run(self.frame_blocks, x, inside)
        return (self.out(self.frame_norm(x)) * inside.unsqueeze(-1))[:, :count]

    def _speaker(self, condition: Any) -> torch.Tensor:
        manner = torch.stack([condition.pitches, condition.speeds], -1)  # (B, 2)
        x = self.voices(condition.voices) + self.manner(manner.to(self.manner.weight.dtype))
        return x * ~condition.dropped[:, None]  # (B, D)

    def _read(self, condition: Any) -> torch.Tensor:
        """Letters to (B, S, D), zeros where padded."""
        mask = condition.mask & ~condition.dropped[:, None]
        x = self.letters(condition.ids) + self._speaker(condition).unsqueeze(1)  # (B, S, D)
        x = _run(self.text_blocks, x, mask)
        return self.text_norm(x) * mask.unsqueeze(-1)


def _blocks(count: int, dim: int) -> nn.ModuleList:
    scale = 1 / math.sqrt(max(1, count))
    return nn.ModuleList(ConvNeXtBlock(dim, _WIDEN * dim, scale=scale) for _ in range(count))


def _run(blocks: nn.ModuleList, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T, D) through blocks; what lies outside of the mask (B, T) stays zero, as it is beyond
    the ends, so that padding changes nothing."""
    real = mask.unsqueeze(1)  # (B, 1, T)
    x = x.transpose(1, 2) * real  # (B, D, T)
    for block in blocks:
        x = block(x) * real
    return x.transpose(1, 2)  # (B, T, D)
