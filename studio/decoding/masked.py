"""Many tokens at a time: iterative decoding of a masked generator.

MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200; `MASKGIT` holds the options under
which this is the published loop of TiTok (An Image is Worth 32 Tokens, 2024, 2406.07550) and RAR's
baseline. Differences of our defaults: tokens are drawn at a temperature of their own, confidence is
a log-probability, and the number of tokens to mask counts from the tokens that a row has to make,
so that inpainting follows the same schedule. That number is taken row by row; the published code
takes it from the first row, which is the same when all rows start alike. Left out on purpose: the
published loop's exact random numbers, since ours are per sample and position.

With `layer_by_layer`, a layout of several layers (HiTVideo's, coarse first) is filled one after the
other: the loop runs on a layer's tokens, while those of finer ones stay masked.
"""

import itertools
import math

import torch
from diffusers.configuration_utils import register_to_config

from studio.decoding.base import (
    DecodingStrategy,
    Proposal,
    check_batch,
    check_given,
    check_name,
    check_number,
    check_sampling,
    outside_vocabulary,
)
from studio.decoding.noise import (
    CONFIDENCE,
    TOKEN,
    gumbel,
    place_noise,
    sample_keys,
    stream_state,
)
from studio.decoding.sampling import choose, filter_logits
from studio.decoding.schedules import MASK_SCHEDULES, RAMPS, masked_share, ramped

CONFIDENCES = ("log_prob", "logit")

# The published sampler of TiTok-L-32: `Masked(**MASKGIT)`. `temperature` and `confidence_noise` are
# its randomize_temperature; `softmax_annealing` is off in its demo and on in its evaluation script.
MASKGIT = {
    "num_steps": 8,
    "schedule": "arccos",
    "temperature": 9.5,
    "temperature_schedule": "linear",
    "confidence": "logit",
    "confidence_noise": 9.5,
    "guidance_scale": 4.5,
    "guidance_form": "cond",
    "guidance_schedule": "linear",
}


class Masked(DecodingStrategy):
    """Fills all positions at every step and keeps the surest.

    Args:
        num_steps: K, of all layers together.
        layer_by_layer: fill the layout's segments in turn, each in its share of the steps; all
            tokens at once when False.
        schedule: share of tokens left masked after each step: "cosine", "arccos" or "linear".
        temperature: of the drawn tokens; 0 takes the best.
        temperature_schedule: "constant", or "linear" or "cosine" going to 0 at the last step.
        top_k, top_p, min_p: as in `Autoregressive`.
        confidence: "log_prob" of the drawn token, or its raw "logit".
        confidence_noise: scale of the Gumbel noise on confidence; falls linearly to 0 at the last
            step.
        softmax_annealing: divide logits by 0.5 + 0.8 (1 - progress) first.
        guidance_scale, guidance_form, guidance_schedule, guidance_power, guidance_interval: see
            `Guidance`.

    Raises:
        ValueError: an option out of range.
    """

    kind = "unordered"

    @register_to_config
    def __init__(
        self,
        *,
        num_steps: int = 12,
        schedule: str = "cosine",
        temperature: float = 1.0,
        temperature_schedule: str = "constant",
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        confidence: str = "log_prob",
        confidence_noise: float = 4.5,
        softmax_annealing: bool = False,
        guidance_scale: float = 1.0,
        guidance_form: str = "uncond",
        guidance_schedule: str = "constant",
        guidance_power: float = 1.0,
        guidance_interval: list[int] | None = None,
        layer_by_layer: bool = False,
    ):
        check_name("layer_by_layer", layer_by_layer, (True, False))
        check_number("num_steps", num_steps, 1, 10_000, whole=True)
        check_name("schedule", schedule, MASK_SCHEDULES)
        check_sampling(temperature, top_k, top_p, min_p)
        check_name("temperature_schedule", temperature_schedule, RAMPS)
        check_name("confidence", confidence, CONFIDENCES)
        check_number("confidence_noise", confidence_noise, 0)
        check_name("softmax_annealing", softmax_annealing, (True, False))
        _ = self.guidance  # checks its options

    def max_steps(self, num_tokens: int) -> int:
        return self.config.num_steps

    @torch.no_grad()
    def stream(self, run, layout, generators, *, given=None, keep=None, num_tokens=None):
        """As the base says; yields `Proposal`s. All tokens are made whatever `num_tokens` says,
        since an unordered network was not trained on sequences without an end; decode the prefix.
        `layer_by_layer` makes the layers that `num_tokens` reaches into.
        """
        check_batch(run, layout, generators)
        steps = self.config.num_steps
        keys = sample_keys(generators)
        tokens, known = check_given(
            given, keep, len(generators), layout.num_tokens, layout, run.device
        )
        done, layered = 0, self.config.layer_by_layer
        for later, share in self._layers(layout, known):
            start = (~known & ~later).sum(dim=1)  # (B,)
            if bool(later.any()) and not bool(start.any()):  # all of the layer was given
                done += share
                continue
            for step in range(share):
                kept = known | later  # (B, N)
                masked = (~kept).sum(dim=1)  # (B,)
                logits = run.fill(tokens, known, step=step, num_steps=share)  # (B, N, V)
                progress = (step + 1) / share
                drawn, confidence = self.draw(logits, kept, keys, layout, step, progress)
                drawn = torch.where(kept, tokens, drawn)
                count = self.num_masked(start, masked, progress)  # (B,)
                kept = kept | ~surest_masked(confidence, kept, count)
                known = kept & (known | ~later)
                tokens = torch.where(known, drawn, 0)
                yield Proposal(
                    tokens=tokens,
                    known=known,
                    final=known,
                    step=done + step + 1,
                    num_steps=steps,
                    passes=run.passes,
                    proposed=masked,
                    accepted=masked - (~kept).sum(dim=1),
                    proposal=drawn,
                )
                if bool(kept.all()):
                    break
            done += share
            if bool(known.all()) or (layered and num_tokens and not later[num_tokens - 1]):
                return

    def _layers(self, layout, known: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
        """For every layer that is filled by itself: which tokens (N,) come after it, and its steps.

        Raises:
            ValueError: fewer steps than layers.
        """
        steps, segments = self.config.num_steps, layout.segments
        places = torch.arange(layout.num_tokens, device=known.device)
        if not self.config.layer_by_layer:
            return [(places < 0, steps)]
        if steps < len(segments):
            raise ValueError(f"num_steps {steps} must be at least 1 for each of {len(segments)}")
        shares = [
            steps // len(segments) + (i < steps % len(segments)) for i in range(len(segments))
        ]
        ends = itertools.accumulate(segment.num_tokens for segment in segments)
        return [(places >= end, share) for end, share in zip(ends, shares, strict=True)]

    def num_masked(
        self, start: torch.Tensor, masked: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """How many tokens of each row stay masked after a step, int64 (B,).

        Args:
            start, masked: masked tokens at the beginning and before this step, int64 (B,).
        """
        if progress >= 1.0:
            return torch.zeros_like(masked)
        share = masked_share(self.config.schedule, progress)
        wanted = [math.floor(n * share) for n in start.tolist()]
        count = torch.tensor(wanted, device=masked.device).minimum(masked - 1).clamp(min=1)
        return count.minimum(masked)  # a row that is done stays done

    def draw(self, logits, known, keys, layout, step: int, progress: float):
        """Tokens int64 (B, N) and their confidence (B, N) from logits (B, N, V), where not
        known."""
        c = self.config
        logits = logits.float()
        if c.softmax_annealing:
            logits = logits / (0.5 + 0.8 * (1.0 - progress))
        outside = outside_vocabulary(layout, logits.shape[-1], logits.device)
        if outside is not None:
            logits = logits.masked_fill(outside, -torch.inf)
        temperature = ramped(c.temperature, c.temperature_schedule, progress)
        drawn = torch.zeros_like(known, dtype=torch.int64)  # (B, N)
        confidence = torch.zeros(known.shape, device=logits.device)  # (B, N)
        rows, places = (~known).nonzero(as_tuple=True)  # (R,)
        scores = logits[rows, places]  # (R, V)
        noise = 0.0
        if temperature > 0:
            at = zip(rows.tolist(), places.tolist(), strict=True)
            states = [stream_state(keys[b], n, step, TOKEN) for b, n in at]
            noise = gumbel(states, scores.shape[-1], device=logits.device)  # (R, V)
        options = {"top_k": c.top_k, "top_p": c.top_p, "min_p": c.min_p}
        filtered = filter_logits(scores, temperature=temperature, **options)
        chosen = choose(filtered, noise, temperature=temperature)  # (R,)
        if c.confidence == "log_prob":
            scores = scores.log_softmax(dim=-1)
        drawn[rows, places] = chosen
        confidence[rows, places] = scores.gather(1, chosen[:, None])[:, 0]
        scale = ramped(c.confidence_noise, "linear", progress)
        if scale > 0:
            confidence = confidence + scale * place_noise(
                keys, known.shape[1], step=step, purpose=CONFIDENCE, device=logits.device
            )
        return drawn, confidence


def surest_masked(
    confidence: torch.Tensor, known: torch.Tensor, count: torch.Tensor
) -> torch.Tensor:
    """bool (B, N): the `count` (B,) least sure positions that are not known. Ties mask more."""
    confidence = confidence.masked_fill(known, torch.inf)
    ordered = confidence.sort(dim=1).values  # (B, N)
    bound = ordered.gather(1, (count - 1).clamp(min=0)[:, None])  # (B, 1)
    return (confidence <= bound) & (count > 0)[:, None] & ~known
