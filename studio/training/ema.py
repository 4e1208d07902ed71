"""An exponential moving average of a model's weights."""

import contextlib

import torch
from torch import nn


class WeightAverage:
    """Keeps averaged copies of all parameters; buffers are not averaged.

    The decay grows with the step, min(decay, (1 + step) / (10 + step)), so that the start is soon
    forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.shadow = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the averages towards the model's present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names, parameters = zip(*model.named_parameters(), strict=True)
        averages = [self.shadow[n] for n in names]
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - decay)

    @contextlib.contextmanager
    def applied(self, model: nn.Module):
        """Inside the block the model holds the averages; afterwards its own weights again."""
        own = {n: p.detach().clone() for n, p in model.named_parameters()}
        self._put(model, self.shadow)
        try:
            yield model
        finally:
            self._put(model, own)

    @torch.no_grad()
    def _put(self, model: nn.Module, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
