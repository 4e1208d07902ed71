"""How much faster modes of decoding are, and what they change: all of them in the same run.

Three parts. `count_passes` makes the same pictures by every mode, in batches, and looks at passes,
accepted drafts, whether tokens are those of plain decoding, and pictures: feature distance and
caption retrieval beside plain's, where the bundled features know the prompts. `time_modes` races
the modes one picture at a time, all of them in turn for every picture, so that a machine that is
busy with something else slows all of them; what is reported is the median of each picture's ratio.
`time_plain` (in `plain_bench.py`) sets plain decoding against decoding without a cache and against
`transformers`.

Another exact draw ("exact") differs from plain's pictures as well: its change is the noise that the
changes of lossy modes stand in.
"""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from studio.decoding.base import DecodingStrategy
from studio.decoding.costs import clock_name, clock_of, measure_costs
from studio.decoding.loop import Speculation
from studio.decoding.modes import EXACT, FAITHFUL, LOSSY, MODES, PLAIN
from studio.env import need
from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.generators import name_scenes, render, score_names
from studio.evaluation.motion import direction_clips
from studio.evaluation.report import hardware, hardware_line
from studio.generators.conditioning import ClassCondition, Condition
from studio.media.files import atomic_path

logger = logging.getLogger(__name__)

# Raced unless others are named: every drafter, every rule.
RACED = tuple(name for name in MODES if name not in ("seed-jacobi", "grouped-jacobi"))


@dataclass(frozen=True)
class Settings:
    """What is raced.

    Args:
        modes: keys of `MODES`; plain decoding always takes part.
        prompts, seeds: how many of each; every prompt is made with every seed.
        timed: pictures that the race against the clock makes.
        batch_size: pictures at a time where nothing is timed.
        options: of sampling, such as temperature, instead of the model's own.
        quality: whether pictures are looked at.
    """

    modes: Sequence[str] = RACED
    prompts: int = 64
    seeds: int = 3
    timed: int = 16
    batch_size: int = 32
    options: dict[str, Any] = field(default_factory=dict)
    quality: bool = True

    def __post_init__(self):
        for name in self.modes:
            if name not in MODES:
                raise ValueError(f"modes {name!r} must be among {', '.join(MODES)}")
        for name in ("prompts", "seeds", "timed", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class Batch:
    """What every mode makes: a condition of B rows, and the seed of every row."""

    condition: Condition
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, start: int, count: int) -> "Batch":
        """Some rows."""
        rows = slice(start, start + count)
        return Batch(self.condition[rows], self.seeds[rows])

    def generators(self) -> list[torch.Generator]:
        """Fresh ones, one a row."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


def make_batch(pipe, settings: Settings) -> tuple[Batch, list | None]:
    """All pictures of a race, and the scenes that they show where the bundled features know them.

    Raises:
        ValueError: the pipeline's generator is not ordered.
    """
    if pipe.generator.kind != "ordered":
        raise ValueError(
            f"model: {type(pipe.generator).__name__} fills tokens in any order, and no mode drafts "
            "for it; take generator autoregressive"
        )
    count, copies = settings.prompts, settings.seeds
    seeds = [seed for _ in range(count) for seed in range(copies)]
    device = pipe.generator.device
    if "text_tokenizer" not in pipe.part_names():
        labels = torch.arange(count) % pipe.generator.config.num_classes
        return Batch(ClassCondition(labels).repeat(copies).to(device), seeds), None
    if getattr(pipe, "medium", "image") == "video":  # no pictures: the features know no clips
        data = direction_clips()
        captions = [data.caption(i) for i in range(count)]
        return Batch(pipe.encode_prompt(captions).repeat(copies).to(device), seeds), None
    scenes = name_scenes(count)
    if len(scenes) < count:
        raise ValueError(f"prompts {count} must be at most {len(scenes)}")
    condition = pipe.encode_prompt([scene.caption for scene in scenes]).repeat(copies)
    return Batch(condition.to(device), seeds), [s for s in scenes for _ in range(copies)]


@torch.no_grad()
def race(pipe, settings: Settings, *, features: ImageTextFeatures | None = None) -> dict[str, Any]:
    """Race modes of decoding on the same prompts and seeds.

    Args:
        pipe: a pipeline with an ordered generator.
        features: for changes of quality; None for none.

    Returns:
        `settings`, `hardware`, `clock`, `rows` (one a mode, see `count_passes` and `time_modes`)
        and `costs`, seconds of a pass over 1, 4, 8, ... tokens.
    """
    batch, scenes = make_batch(pipe, settings)
    strategies = _strategies(pipe, settings)
    rows = count_passes(pipe, strategies, batch, settings.batch_size)
    tokens = {name: row.pop("tokens") for name, row in rows.items()}
    if settings.quality and features is not None and scenes is not None:
        judge_pictures(pipe, rows, tokens, scenes, features)
    times = time_modes(pipe, strategies, batch, settings.timed)
    for name, row in rows.items():
        row |= times[name]
    guidance = strategies[PLAIN].guidance
    first = batch.part(0, 1).condition
    make_run = lambda: pipe.generator.start(first, guidance=guidance)  # noqa: E731
    return {
        "settings": {
            **vars(settings),
            "modes": list(rows),
            "sampling": {k: v for k, v in strategies[PLAIN].config.items() if k[0] != "_"},
            "tokens_per_picture": pipe.generator.layout.num_tokens,
        },
        "hardware": hardware(),
        "device": str(pipe.generator.device),
        "gpu": "not measured" if pipe.generator.device.type == "cpu" else "measured",
        "clock": clock_name(pipe.generator.device),
        "rows": list(rows.values()),
        "costs": measure_costs(make_run, repeats=20),
    }


def _strategies(pipe, settings: Settings) -> dict[str, DecodingStrategy]:
    """The strategy of every mode that this pipeline can take."""
    made = {}
    for name in dict.fromkeys((PLAIN, *settings.modes)):
        if MODES[name].get("drafter") == "prior" and pipe.generator.prior is None:
            logger.warning("mode %s is left out: the generator has no prior", name)
            continue
        if MODES[name].get("drafter") == "head" and getattr(pipe, "drafter", None) is None:
            logger.warning("mode %s is left out: the model has no drafter head", name)
            continue
        made[name] = pipe.make_strategy(name, **settings.options)
    return made


# --- passes --------------------------------------------------------------------------------------


def kind_of(mode: str) -> str:
    """What a mode keeps: "plain", "same tokens", "same distribution" or "similar"."""
    kinds = {PLAIN: (PLAIN,), "same tokens": FAITHFUL, "same distribution": EXACT, "similar": LOSSY}
    return next(kind for kind, names in kinds.items() if mode in names)


def count_passes(
    pipe, strategies: dict[str, DecodingStrategy], batch: Batch, batch_size: int
) -> dict[str, dict[str, Any]]:
    """Make all pictures by every mode.

    Returns:
        mode -> `mode`, `kind`, `passes` (median a picture), `mean_passes`, `tokens_per_pass`,
        `fewer` (plain's median passes in multiples of its own), `accepted_per_pass`,
        `drafted_per_pass`, `equal` (pictures whose tokens are plain's), `pictures`, `speculating`
        (False where it switched itself off in any batch), and `tokens` int64 (B, N).
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, strategy in strategies.items():
        logger.info("counting passes: %s", name)
        parts = [
            _decode(pipe, strategy, batch.part(start, batch_size))
            for start in range(0, len(batch), batch_size)
        ]
        tokens = torch.cat([part["tokens"] for part in parts])
        passes = torch.cat([part["passes"] for part in parts]).double()
        total = float(passes.sum())
        plain = rows[PLAIN] if rows else None
        median = float(passes.median())
        rows[name] = {
            "mode": name,
            "kind": kind_of(name),
            "pictures": len(tokens),
            "passes": median,
            "mean_passes": total / len(tokens),
            "fewer": plain["passes"] / median if plain else 1.0,
            "tokens_per_pass": tokens.numel() / total,
            "drafted_per_pass": sum(part["proposed"] for part in parts) / total if plain else None,
            "accepted_per_pass": sum(part["accepted"] for part in parts) / total if plain else None,
            "equal": int((tokens == plain["tokens"]).all(1).sum()) if plain else len(tokens),
            "speculating": all(part["speculating"] for part in parts) if plain else None,
            "tokens": tokens,
        }
    return rows


def _decode(pipe, strategy: DecodingStrategy, batch: Batch) -> dict[str, Any]:
    """One batch: tokens (B, N) on the CPU, passes int64 (B,) that each row took part in, and sums
    of drafts."""
    layout = pipe.generator.layout
    run = pipe.generator.start(batch.condition, guidance=strategy.guidance)
    passes = torch.zeros(len(batch), dtype=torch.int64)
    done = torch.zeros(len(batch), dtype=torch.bool)
    proposed = accepted = 0
    speculating = True
    for state in strategy.stream(run, layout, batch.generators()):
        passes += ~done
        done = state.known.all(dim=1).cpu()  # (B,)
        proposed, accepted = proposed + state.proposed.sum(), accepted + state.accepted.sum()
        speculating = not isinstance(state, Speculation) or state.speculating
    return {
        "tokens": state.tokens.cpu(),
        "passes": passes,
        "proposed": int(proposed),
        "accepted": int(accepted),
        "speculating": speculating,
    }


# --- pictures ------------------------------------------------------------------------------------


@torch.no_grad()
def judge_pictures(
    pipe, rows: dict[str, dict], tokens: dict[str, torch.Tensor], scenes: list, features
) -> None:
    """Adds to the rows of all modes what their pictures are like: `fd` (feature distance to real
    renders), `top1` and `top5` (retrieval of the name), and `fd_change`, `top1_change`,
    `top5_change`, relative to plain's. Modes whose tokens are plain's share plain's figures."""
    size = pipe.tokenizer.config.image_size
    real = render(scenes, size)
    base: dict[str, float] = {}
    for name, row in rows.items():
        figures = base
        if not base or row["equal"] < row["pictures"]:
            logger.info("looking at pictures: %s", name)
            device = pipe.tokenizer.device
            parts = [
                pipe.tokenizer.decode(part.to(device)).float().cpu()
                for part in tokens[name].split(32)
            ]
            found = score_names(torch.cat(parts), scenes, features=features, reference=real)
            figures = {key: found[key] for key in ("fd", "top1", "top5")}
        base = base or figures
        row |= figures
        row |= {f"{k}_change": v / base[k] - 1 if base[k] else None for k, v in figures.items()}


# --- seconds -------------------------------------------------------------------------------------


def time_modes(
    pipe, strategies: dict[str, DecodingStrategy], batch: Batch, pictures: int
) -> dict[str, dict[str, float]]:
    """Race against the clock, one picture at a time, the modes in turn for every picture.

    Returns:
        mode -> `seconds` (median a picture), `tokens_per_second`, and `faster`, the median over
        pictures of plain's seconds in multiples of its own.
    """
    clock, layout = clock_of(pipe.generator.device), pipe.generator.layout
    seconds: dict[str, list[float]] = {name: [] for name in strategies}
    step = max(1, len(batch) // pictures)  # spread over all prompts
    rows = [batch.part(i, 1) for i in range(0, len(batch), step)][:pictures]
    for number, row in enumerate([rows[0], *rows]):  # the first one warms up
        logger.info("racing: picture %d of %d", number, len(rows))
        for name, strategy in strategies.items():
            generators = row.generators()
            started = clock()
            run = pipe.generator.start(row.condition, guidance=strategy.guidance)
            for _ in strategy.stream(run, layout, generators):
                pass
            if number:
                seconds[name].append(clock() - started)
    return {
        name: {
            "seconds": statistics.median(taken),
            "tokens_per_second": layout.num_tokens / statistics.median(taken),
            "faster": statistics.median(p / t for p, t in zip(seconds[PLAIN], taken, strict=True)),
        }
        for name, taken in seconds.items()
    }


# --- what people see -----------------------------------------------------------------------------


def table(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a race with the heads of a table."""
    heads = {
        "mode": "mode",
        "kind": "keeps",
        "passes": "passes",
        "fewer": "fewer",
        "tokens_per_pass": "tokens/pass",
        "accepted_per_pass": "accepted/pass",
        "tokens_per_second": "tokens/s",
        "faster": "x plain",
    }
    if any("fd" in row for row in figures["rows"]):
        heads |= {"fd": "FD", "fd_change": "FD change", "top1": "top-1", "top1_change": "change"}
    rows = []
    for row in figures["rows"]:
        shown = {head: row.get(key) for key, head in heads.items()}
        for head in ("FD change", "change"):
            if isinstance(shown.get(head), float):
                shown[head] = f"{100 * shown[head]:+.1f} %"
        shown["plain's tokens"] = f"{row['equal']}/{row['pictures']}"
        if row["speculating"] is False:
            shown["mode"] += " (switched off)"
        rows.append(shown)
    return rows


def plot_race(path: str | Path, figures: dict[str, Any], *, title: str = "") -> Path:
    """How many times fewer passes and how many times faster every mode is, and what a pass costs,
    as PNG.

    Raises:
        ImportError: matplotlib is missing; the message has the line that installs it.
    """
    need("matplotlib", extra="eval")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = figures["rows"][::-1]
    figure = Figure(figsize=(11, 1.6 + 0.32 * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for shift, key, label in ((0.2, "fewer", "fewer passes"), (-0.2, "faster", "faster")):
        places = [i + shift for i in range(len(rows))]
        left.barh(places, [row[key] for row in rows], height=0.38, label=f"times {label}")
    left.set_yticks(range(len(rows)), [row["mode"] for row in rows])
    left.axvline(1, color="k", lw=0.8)
    left.grid(axis="x", alpha=0.3)
    left.legend(fontsize=8)
    sizes = [int(n) for n in figures["costs"]]
    right.plot(sizes, [1e3 * s for s in figures["costs"].values()], "k-o")
    right.set(xscale="log", xlabel="tokens in a pass", ylabel="milliseconds", ylim=(0, None))
    right.set_xticks(sizes, [str(n) for n in sizes])
    right.grid(alpha=0.3)
    figure.suptitle(f"{title} {hardware_line(figures['hardware'])}".strip(), fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)
