"""Classifier-free guidance as data: its form, its scale and how the scale moves.

Classifier-Free Diffusion Guidance, 2022, 2207.12598. Papers write it in two ways, and the same
number means different things in them; `form` says which. Scales move with progress k / K: a token's
index over their number in ordered runs, the step over their number in unordered ones. Left out on
purpose: guidance by a second, weaker network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

FORMS = ("uncond", "cond")
SCHEDULES = ("constant", "linear", "cosine", "power-cosine")


@dataclass(frozen=True)
class Guidance:
    """How conditional and unconditional logits are combined.

    Args:
        scale: s, reached at the end of the schedule.
        form: "uncond" is u + s (c - u), neutral at 1 (LlamaGen, RAR, diffusion papers); "cond" is
            c + s (c - u), neutral at 0 (MaskGIT in TiTok, VAR). "cond" with s equals "uncond" with
            s + 1.
        schedule: the share of the way from neutral to `scale` at progress p: "constant" 1, "linear"
            p, "cosine" (1 - cos(pi p)) / 2, "power-cosine" (1 - cos(pi p^power)) / 2.
        power: of "power-cosine"; 0 makes it constant.
        interval: (start, stop), guided only for start <= k < stop (LlamaGen's cut-off after decode
            call i is `(0, i + 2)`); None for everywhere.

    Raises:
        ValueError: an unknown form or schedule, or a number out of range.
    """

    scale: float = 1.0
    form: str = "uncond"
    schedule: str = "constant"
    power: float = 1.0
    interval: tuple[int, int] | None = None

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"guidance form {self.form!r} must be one of {FORMS}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"guidance schedule {self.schedule!r} must be one of {SCHEDULES}")
        if not math.isfinite(self.scale) or self.scale < 0:
            raise ValueError(f"guidance scale {self.scale} must be a number >= 0")
        if not math.isfinite(self.power) or self.power < 0:
            raise ValueError(f"guidance power {self.power} must be a number >= 0")
        if self.interval is not None:
            start, stop = self.interval
            object.__setattr__(self, "interval", (int(start), int(stop)))

    @property
    def neutral(self) -> float:
        """The scale at which the answer is the conditional logits."""
        return 1.0 if self.form == "uncond" else 0.0

    @property
    def active(self) -> bool:
        """False when no step is guided, so that no unconditional pass is needed."""
        return self.scale != self.neutral and (
            self.interval is None or self.interval[0] < self.interval[1]
        )

    @property
    def constant(self) -> bool:
        """True when every step has the same scale."""
        return self.schedule == "constant" and self.interval is None

    def scale_at(self, step: int, num_steps: int) -> float:
        """The scale at step k of K, 0 <= k < K."""
        if self.interval is not None and not self.interval[0] <= step < self.interval[1]:
            return self.neutral
        return self.neutral + (self.scale - self.neutral) * self._ramp(step / num_steps)

    def scales(
        self, steps: Sequence[Sequence[int]], num_steps: int, device: torch.device
    ) -> float | torch.Tensor:
        """The scales at steps (B, n), those past the last one borrowing its own: one number where
        all are the same, else (B, n, 1)."""
        if self.constant:
            return self.scale
        found = [[self.scale_at(min(k, num_steps - 1), num_steps) for k in row] for row in steps]
        first = found[0][0] if len(found[0]) else self.scale
        if all(scale == first for row in found for scale in row):
            return first
        return torch.tensor(found, device=device).unsqueeze(-1)  # (B, n, 1)

    def _ramp(self, progress: float) -> float:
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return progress
        power = self.power if self.schedule == "power-cosine" else 1.0
        return (1.0 - math.cos(math.pi * progress**power)) / 2

    def combine(
        self, cond: torch.Tensor, uncond: torch.Tensor, scale: float | torch.Tensor
    ) -> torch.Tensor:
        """Guided logits, float32.

        Args:
            cond, uncond: logits (B, n, V).
            scale: from `scale_at`, one number or a tensor that broadcasts to the logits. Where it
                is neutral the answer is `cond` to the bit.
        """
        cond, uncond = cond.float(), uncond.float()
        extra = scale - self.neutral
        if isinstance(extra, float | int) and extra == 0:
            return cond
        return cond + extra * (cond - uncond)
