"""One token after another: plain autoregressive decoding.

Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation, 2024, 2406.06525 (its
sampler's order and edge rules; guidance is the run's). Left out on purpose: drafting, which is
`speculative.py`'s.
"""

from itertools import repeat

import torch
from diffusers.configuration_utils import register_to_config

from studio.decoding.base import (
    DecodingStrategy,
    check_batch,
    check_count,
    check_given,
    check_name,
    check_number,
    check_sampling,
    outside_vocabulary,
)
from studio.decoding.noise import REPLACE, gumbel, sample_keys, stream_state, token_noises
from studio.decoding.repetition import repeated
from studio.decoding.sampling import Sampling, choose
from studio.decoding.schedules import RAMPS
from studio.outputs import DecodeState


class Autoregressive(DecodingStrategy):
    """Draws token after token from an ordered run.

    Args:
        temperature: >= 0; 0 takes the best token.
        top_k: 0 for all.
        top_p, min_p: in [0, 1]; 1 and 0 for all.
        temperature_schedule: "constant", or "linear" or "cosine" going to 0 with the position.
        repetition_window, repetition_share: a token that is at least that share of the last so many
            tokens is drawn again, from all, see `repetition.repeated`; 0 for never. Speculative
            decoding does without.
        guidance_scale, guidance_form, guidance_schedule, guidance_power, guidance_interval: see
            `Guidance`.

    Raises:
        ValueError: an option out of range.
    """

    kind = "ordered"

    @register_to_config
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        temperature_schedule: str = "constant",
        repetition_window: int = 0,
        repetition_share: float = 0.1,
        guidance_scale: float = 1.0,
        guidance_form: str = "uncond",
        guidance_schedule: str = "constant",
        guidance_power: float = 1.0,
        guidance_interval: list[int] | None = None,
    ):
        check_sampling(temperature, top_k, top_p, min_p)
        check_name("temperature_schedule", temperature_schedule, RAMPS)
        check_number("repetition_window", repetition_window, 0, 10**6, whole=True)
        check_number("repetition_share", repetition_share, 1e-6, 1)
        _ = self.guidance  # checks its options

    def max_steps(self, num_tokens: int) -> int:
        return num_tokens

    @torch.no_grad()
    def stream(self, run, layout, generators, *, given=None, keep=None, num_tokens=None):
        """As the base says; a step is a token.

        Args:
            given, keep: kept tokens are fed as they are and never drawn. A kept prefix, common to
                all rows, is fed in one pass.
            num_tokens: stop after so many; all when None.
        """
        check_batch(run, layout, generators)
        total, batch = layout.num_tokens, len(generators)
        count = check_count(num_tokens, total)
        keys = sample_keys(generators)
        tokens, keep = check_given(given, keep, batch, total, layout, run.device)
        prefix = _common_prefix(keep[:, : count - 1])
        logits = run.extend(tokens[:, :prefix])[:, -1]  # (B, V)
        outside = outside_vocabulary(layout, logits.shape[-1], logits.device)
        known = torch.zeros_like(keep)
        known[:, :prefix] = True
        kept, made = keep.any(dim=0).tolist(), (~keep).long()
        sampling, places, noises = (
            Sampling.from_config(self.config),
            range(prefix, count),
            repeat(0.0),
        )
        if self.config.temperature > 0:
            noises = token_noises(keys, places, logits.shape[-1], device=logits.device)
        for position, noise in zip(places, noises, strict=False):
            if outside is not None:
                logits = logits.masked_fill(outside[position], -torch.inf)
            temperature = sampling.temperature_at(position / total)
            few = sampling.filtered(logits, temperature)
            drawn = choose(few, noise, temperature=temperature)  # (B,)
            if self.config.repetition_window:
                before = tokens[:, :position]
                drawn = self._again(drawn, before, logits, keys, temperature)
            if kept[position]:
                drawn = torch.where(keep[:, position], tokens[:, position], drawn)
            tokens[:, position], known[:, position] = drawn, True
            yield DecodeState(
                tokens=tokens,
                known=known,
                final=known,
                step=position + 1,
                num_steps=count,
                passes=run.passes,
                proposed=made[:, position],
                accepted=made[:, position],
            )
            if position + 1 < count:
                logits = run.extend(drawn[:, None])[:, -1]  # (B, V)

    def _again(self, drawn, before, logits, keys: list[int], temperature) -> torch.Tensor:
        """The drawn tokens (B,), those that repeat too much drawn once more from all logits (B,
        V)."""
        window, share = self.config.repetition_window, self.config.repetition_share
        again = repeated(before, drawn, window=window, share=share)
        if not bool(again.any()):
            return drawn
        states = [stream_state(key, before.shape[1], 0, REPLACE) for key in keys]
        noise = gumbel(states, logits.shape[-1], device=logits.device)
        other = choose(logits.float(), noise, temperature=temperature or 1.0)
        return torch.where(again, other, drawn)


def _common_prefix(keep: torch.Tensor) -> int:
    """The number of leading positions that every row keeps."""
    return int(keep.all(dim=0).long().cumprod(dim=0).sum())
