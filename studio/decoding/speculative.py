"""Draft and verify: several tokens a pass, by exchangeable drafters and acceptance rules.

Fast Inference from Transformers via Speculative Decoding, 2022, 2211.17192; Jacobi drafts:
Accelerating Auto-regressive Text-to-Image Generation with Training-free Speculative Jacobi
Decoding, 2024, 2410.01699. The drafters are in `drafting.py`, the rules in `acceptance.py`, the
window in `windows.py`, the loop in `loop.py`.

In seed-faithful decoding the result is `Autoregressive`'s for that seed, token for token, whatever
the drafter and the window: both take argmax(log p + g) with noise g of the seed and the position
alone, and a draft stands while it is that token. Rounding is the only caveat: where the two best
tokens are equal to the last bit a pass over many tokens may decide otherwise than one over one.

Trees of drafts have a loop of their own, `tree_loop.py`. Left out on purpose: trees whose size
adapts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import torch
from diffusers.configuration_utils import register_to_config

from studio.decoding import noise
from studio.decoding.acceptance import ACCEPTANCES, RULES, Rule
from studio.decoding.base import (
    DecodingStrategy,
    check_batch,
    check_count,
    check_given,
    check_name,
    check_number,
    check_sampling,
)
from studio.decoding.costs import head_costs, model_costs
from studio.decoding.drafting import COUPLINGS
from studio.decoding.filling import INITIALISERS
from studio.decoding.head_drafter import DRAFTERS, HEAD_USES  # all of `drafting.py`, and "head"
from studio.decoding.loop import Speculation, SpeculativeLoop
from studio.decoding.neighbours import NEIGHBOURS, Neighbours
from studio.decoding.sampling import Sampling
from studio.decoding.schedules import RAMPS
from studio.decoding.stage import Stage
from studio.decoding.tree_drafting import TreeDrafter, check_tree
from studio.decoding.tree_loop import TreeLoop
from studio.decoding.windows import AutoWindow, FixedWindow
from studio.generators.drafter_head import DrafterHead

MAX_WINDOW = 1024


class Speculative(DecodingStrategy):
    """Draws tokens from an ordered run, several a pass.

    Args:
        acceptance: "seed", plain decoding's tokens for that seed; "exact", another draw from the
            same distribution; "grouped", "relaxed" or "annealed", from a similar one.
        drafter: "jacobi", "coupled", "prior", "model" (needs `draft_run`), "recycling" or "head"
            (needs the attribute `head`).
        window: tokens scored a pass, of which one is no draft; "auto" takes what is fastest here,
            by measured costs, and switches speculation off where it does not pay. In all modes but
            "seed" other windows give other samples of the same quality.
        initialiser: "random", "left", "above" or "prior", for places that Jacobi drafts have not
            reached yet; "above" is "left" where there is no row above, and "auto" is "prior" where
            the generator has one and else "above".
        coupling: "maximal" or "gumbel", of "coupled" drafts.
        tree: None for chains of drafts; "recursive", siblings without replacement, `branches` at
            every node or, as a list, at each depth; "greedy", a tree that grows where drafts are
            likeliest to stand; "kseq", `branches` independent chains. Scores `window` nodes a pass
            with the last emitted token; takes the drafters "prior", "jacobi" and "model".
        branches: see `tree`.
        head_use: what "head" does: "changes", it corrects coupled drafts by what the tokens that
            changed change; "chain", it makes `head_depth` drafts in a row, those after them are
            coupled ones.
        head_depth: see `head_use`.
        group_size, group_delta, group_distance: G (None for the released code's 7 below and 6
            above), the most difference of probability and of squared distance in the codebook of
            "grouped"; without a table of neighbours, or with None, distances do not matter.
        relax_neighbours, relax_delta: k, and the most mass that moves (up to 1) or lambda (over 1),
            of "relaxed".
        anneal_delta, anneal_nu, anneal_mu: of "annealed", see `acceptance.annealed`.
        temperature, top_k, top_p, min_p, temperature_schedule: as in `Autoregressive`.
        guidance_scale, guidance_form, guidance_schedule, guidance_power, guidance_interval: see
            `Guidance`.

    Attributes:
        neighbours: the codebook's `Neighbours`; saved and loaded with the config.
        costs: seconds of a pass over n tokens with its drafts, for the window "auto"; measured when
            None.
        head: a `generators.drafter_head.DrafterHead` for the drafter "head"; a pipeline gives its
            own.

    Raises:
        ValueError: an option out of range.
    """

    kind = "ordered"
    neighbours: Neighbours | None = None
    head: DrafterHead | None = None
    costs: dict[int, float] | None = None

    @register_to_config
    def __init__(
        self,
        *,
        acceptance: str = "seed",
        drafter: str = "jacobi",
        window: int | str = 32,
        initialiser: str = "auto",
        coupling: str = "maximal",
        tree: str | None = None,
        branches: int | list[int] = 2,
        head_use: str = "changes",
        head_depth: int = 4,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        temperature_schedule: str = "constant",
        group_size: int | None = None,
        group_delta: float = 0.15,
        group_distance: float | None = 0.5,
        relax_neighbours: int = 1000,
        relax_delta: float = 0.1,
        anneal_delta: float = 1.1,
        anneal_nu: float = 0.7,
        anneal_mu: float = 0.0,
        guidance_scale: float = 1.0,
        guidance_form: str = "uncond",
        guidance_schedule: str = "constant",
        guidance_power: float = 1.0,
        guidance_interval: list[int] | None = None,
    ):
        check_name("acceptance", acceptance, ACCEPTANCES)
        check_name("drafter", drafter, tuple(DRAFTERS))
        check_name("initialiser", initialiser, tuple(INITIALISERS))
        check_name("coupling", coupling, COUPLINGS)
        check_name("head_use", head_use, HEAD_USES)
        check_number("head_depth", head_depth, 1, MAX_WINDOW, whole=True)
        if window != "auto":
            check_number("window", window, 1, MAX_WINDOW, whole=True)
        if tree is not None:
            check_tree(tree, branches, acceptance=acceptance, drafter=drafter, window=window)
        check_sampling(temperature, top_k, top_p, min_p)
        check_name("temperature_schedule", temperature_schedule, RAMPS)
        if group_size is not None:
            check_number("group_size", group_size, 0, whole=True)
        check_number("group_delta", group_delta, 0)
        if group_distance is not None:
            check_number("group_distance", group_distance, 0)
        check_number("relax_neighbours", relax_neighbours, 0, whole=True)
        for name, value in (
            ("relax_delta", relax_delta),
            ("anneal_delta", anneal_delta),
            ("anneal_nu", anneal_nu),
            ("anneal_mu", anneal_mu),
        ):
            check_number(name, value, 0)
        _ = self.guidance  # checks its options

    def max_steps(self, num_tokens: int) -> int:
        return num_tokens

    def with_options(self, **overrides) -> Self:
        made = super().with_options(**overrides)
        made.neighbours, made.costs, made.head = self.neighbours, self.costs, self.head
        return made

    def save_pretrained(self, folder, **kwargs) -> None:
        """Also writes the table of neighbours, where there is one."""
        super().save_pretrained(folder, **kwargs)
        if self.neighbours is not None:
            self.neighbours.save(folder)

    @classmethod
    def from_pretrained(cls, folder, *, subfolder: str | None = None) -> Self:
        """Also reads the table of neighbours, where there is one."""
        made = super().from_pretrained(folder, subfolder=subfolder)
        place = Path(folder, subfolder or "")
        if (place / NEIGHBOURS).is_file():
            made.neighbours = Neighbours.load(place)
        return made

    @torch.no_grad()
    def stream(
        self, run, layout, generators, *, given=None, keep=None, num_tokens=None, draft_run=None
    ) -> Iterator[Speculation]:
        """As the base says; a step is a token that every row has.

        Args:
            given, keep: kept tokens are never drawn; leading ones are fed in the first pass.
            num_tokens: stop after so many; all when None.
            draft_run: a fresh run of the draft model, for the drafter "model", on the same
                condition; for "head" a `HeadRun` instead of one of the attribute `head`.
        """
        check_batch(run, layout, generators)
        batch, total = len(generators), layout.num_tokens
        count = check_count(num_tokens, total)
        keys = noise.sample_keys(generators)
        tokens, keep = check_given(given, keep, batch, total, layout, run.device)
        yield from self.states(run, layout, keys, tokens, keep, count, draft_run)

    def states(
        self, run, layout, keys, tokens, keep, count: int, draft_run=None
    ) -> Iterator[Speculation]:
        """`stream` after its checks.

        Args:
            keys: one a sample.
            tokens, keep: int64 and bool (B, N), see `base.check_given`.
            count: tokens to make.
        """
        if draft_run is None and self.head is not None and self.config.drafter == "head":
            draft_run = self.head.start(run)
        window = self._make_window(run, draft_run, len(keys))
        faithful = self.config.acceptance == "seed"
        rule = None if faithful else self._make_rule(run.device)
        stage = Stage(
            run,
            layout,
            Sampling.from_config(self.config),
            keys,
            tokens,
            keep,
            count=count,
            slots=window.largest,
            faithful=faithful,
        )
        if self.config.tree is not None:
            planter = TreeDrafter(stage, self.config, draft_run)
            return TreeLoop(stage, planter, window, rule).states()
        drafter = DRAFTERS[self.config.drafter](stage, self.config, draft_run)
        return SpeculativeLoop(stage, drafter, window, rule).states()

    @property
    def neighbours_wanted(self) -> int:
        """How many neighbours of every code a table should hold; 0 where there is one already, or
        none is needed."""
        c = self.config
        if self.neighbours is not None or c.acceptance not in ("grouped", "relaxed"):
            return 0
        if c.acceptance == "grouped":
            return int(c.group_distance is not None)
        return max(1, c.relax_neighbours)

    def _make_rule(self, device) -> Rule:
        table = None if self.neighbours is None else self.neighbours.to(device)
        return RULES[self.config.acceptance](self.config, table)

    def _make_window(self, run, draft_run, batch: int) -> FixedWindow:
        """The window's policy. Where a result depends on the window, a row's must not depend on
        the batch: then costs are those of a single row."""
        if self.config.window != "auto":
            return FixedWindow(self.config.window)
        faithful = self.config.acceptance == "seed"
        costs = self.costs
        if costs is None:
            # Not a curve for every batch: one for each power of two.
            size = 1 << (batch - 1).bit_length() if faithful else 1
            costs = self._measured(run, size)
            costs = self._with_drafting(costs, run, draft_run, size)
        return AutoWindow(costs, batch, pooled=faithful)

    def _with_drafting(self, costs: dict[int, float], run, draft_run, batch: int):
        """Costs with what a draft network adds to a pass."""
        if draft_run is None:
            return costs
        if self.config.drafter == "head":
            each = head_costs(draft_run.model, run.model, batch, self.guidance, tuple(costs))
            if self.config.head_use == "changes":
                return {n: s + 2 * each[n] if n > 1 else s for n, s in costs.items()}
            return {n: s + min(n - 1, self.config.head_depth) * each[1] for n, s in costs.items()}
        each = self._measured(draft_run, batch)[1]
        return {n: seconds + (n - 1) * each for n, seconds in costs.items()}

    def _measured(self, run, batch: int) -> dict[int, float]:
        model = getattr(run, "model", None)
        if model is None:
            raise ValueError("window 'auto' needs the strategy's `costs` for such a run")
        return model_costs(model, batch_size=batch, guidance=self.guidance)
