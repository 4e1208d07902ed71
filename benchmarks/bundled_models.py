"""Measures the bundled models and writes their cards.

    python benchmarks/bundled_models.py                           everything, every bundled model
    python benchmarks/bundled_models.py --models emoji-1d --sections generators cards
    python benchmarks/bundled_models.py --sections sweep --models emoji-grid

Figures go to benchmarks/results/bundled-<hardware>.json after every section, so that a section can
be measured anew alone; contact sheets, curves and cards go to the model folders. Sections:
features, training, tokenizer, codecs, generators, sheets, speed, cards; and sweep, which only
prints and records what sampling options score.
"""

import argparse
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from operator import eq
from pathlib import Path

import numpy as np
import torch
import yaml

from studio.data.colors import COLORS
from studio.data.emoji import EmojiImages
from studio.env import PRETRAINED
from studio.evaluation import generators as generation
from studio.evaluation.cards import write_card
from studio.evaluation.codecs import compare, evaluate_codecs
from studio.evaluation.features import BUNDLED, ImageTextFeatures
from studio.evaluation.metrics import retrieval
from studio.evaluation.report import (
    contact_sheet,
    hardware,
    hardware_line,
    hardware_name,
    plot_curve,
    read_figures,
    write_figures,
)
from studio.evaluation.tokenizers import evaluate_tokenizer
from studio.hub import list_models
from studio.media.image import write_image
from studio.pipelines.auto import Pipeline

ROOT = Path(__file__).parent.parent
SECTIONS = ("features", "training", "tokenizer", "codecs", "generators", "sheets", "speed", "cards")
EXTRA_BUDGETS = [192.0, 384.0, 768.0, 1536.0]  # so that the codecs' own range is in the plot
SWEEPS = {  # no temperature 0: seeds must differ
    "autoregressive": {"guidance_scale": [1.0, 1.5, 2.0], "temperature": [0.2, 0.4, 0.7]},
    "masked": {
        "guidance_scale": [1.0, 1.5, 2.0],
        "temperature": [0.2, 0.5, 0.8],
        "num_steps": [8, 16],
    },
}
PROMPT = "red apple"
PICTURES = ("TextToImagePipeline", "ClassToImagePipeline")
PICTURES = ("TextToImagePipeline", "ClassToImagePipeline")  # speech.py measures speech
logger = logging.getLogger("bundled_models")


def heldout_images(size: int, count: int) -> torch.Tensor:
    """Renders of sprites that no tokenizer was trained on: (count, 3, size, size)."""
    return EmojiImages(size, split="heldout", seed=1).batch(0, count)[0]


# --- sections ------------------------------------------------------------------------------------


@torch.no_grad()
def measure_features(model: ImageTextFeatures) -> dict:
    """Retrieval of a drawn picture of every name, and the background's colour word."""
    size, rng = model.config.image_size, np.random.default_rng(11)
    words = list(COLORS)
    plain = generation.name_scenes(len(model.names), seed=11)
    scenes = [dataclasses.replace(s, background=(words[rng.integers(12)],)) for s in plain]
    images = generation.render(scenes, size)
    vectors = model.encode_images(images)
    labels = torch.tensor([model.names.index(s.names[0]) for s in scenes])
    words_found = model.background_words(images)
    return {
        "names": len(model.names),
        "pictures": len(scenes),
        "parameters": sum(p.numel() for p in model.parameters()),
        **retrieval(vectors, labels, model.gallery),
        "background_word": sum(map(eq, words_found, (s.background[0] for s in scenes)))
        / len(scenes),
    }


def measure_training(model: str, runs: Path, trained_on: str) -> list[dict]:
    """What each recipe of a model took, from its run's log. Recipes without a run are left out, and
    so are runs that did not reach the recipe's last step."""
    records = []
    for path in sorted(ROOT.glob(f"recipes/*/{model}*.yaml")):
        recipe = yaml.safe_load(path.read_text())
        log = runs / recipe["name"] / "metrics.jsonl"
        lines = [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []
        if not lines or lines[-1]["step"] != recipe["steps"]:
            continue
        seconds, last = 0.0, 0
        for line in (x for x in lines if "steps_per_second" in x):
            seconds += (line["step"] - last) / line["steps_per_second"]
            last = line["step"]
        known = {"recipe": str(path.relative_to(ROOT)), "steps": last, "hours": seconds / 3600}
        records.append({**known, "hardware": trained_on})
    return records


def measure_codecs(pipe, features: ImageTextFeatures, count: int) -> dict:
    """The codecs at the byte counts of every prefix length, and the tokenizer on the same
    pictures."""
    images = heldout_images(pipe.tokenizer.config.image_size, count)
    ours = evaluate_tokenizer(pipe.tokenizer, images, features=features)
    budgets = sorted({row["bytes"] for row in ours["lengths"]} | set(EXTRA_BUDGETS))
    result = evaluate_codecs(images, budgets, features=features)
    return {**result, "tokens": ours["lengths"], "comparison": compare(ours, result)}


def measure_speed(model: str, pipe) -> dict:
    """Seconds: the command from start to written picture, a warm picture, `--help`, `import
    studio`."""
    command = [sys.executable, "-m", "studio.cli.main"]
    generator = torch.Generator()
    pipe(PROMPT, generator=generator.manual_seed(0))
    warm = []
    for seed in range(5):
        start = time.perf_counter()
        pipe(PROMPT, generator=generator.manual_seed(seed))
        warm.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        made = [*command, "generate", PROMPT, "-m", model, "-o", str(Path(folder, "a.png"))]
        return {
            "cold_generate": _seconds(made, 2),
            "warm_picture": sorted(warm)[2],
            "help": _seconds([*command, "--help"], 5),
            "import_studio": _seconds([sys.executable, "-c", "import studio"], 5),
        }


def _seconds(command: list[str], times: int) -> float:
    """The best of several runs, so that what else the machine does counts little."""
    taken = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        taken.append(time.perf_counter() - start)
    return min(taken)


def measure_sheet(pipe, path: Path, batch_size: int) -> dict:
    """The 8 x 8 contact sheet as a file, and its prompts."""
    images, prompts = generation.contact_images(pipe, batch_size=batch_size)
    write_image(path, contact_sheet(images))
    return {"file": path.name, "prompts": prompts}


def run_sweep(pipe, kind: str, features: ImageTextFeatures, count: int) -> list[dict]:
    """Tries the options of `SWEEPS`, best first, and logs the first ten."""
    settings = generation.grid(**SWEEPS[kind])
    trials = generation.sweep(pipe, settings, features=features, count=count, progress=_show)
    for t in trials[:10]:
        logger.info("%.3f  %s  fd %.4f", t.score, t.options, t.names["fd"])
    return [dataclasses.asdict(trial) for trial in trials]


def _show(done: int, total: int) -> None:
    logger.info("%d of %d", done, total)


# --- the whole -----------------------------------------------------------------------------------


def measure_model(info, figures: dict, features: ImageTextFeatures, args, save) -> None:
    """All asked sections of one model; `figures` is its part of the JSON."""
    pipes = {k: Pipeline.from_pretrained(info.name, generator=k) for k in info.generators}
    pipe = next(iter(pipes.values()))
    size = pipe.tokenizer.config.image_size
    if "training" in args.sections:
        figures["training"] = measure_training(info.name, args.runs, args.trained_on)
    if "tokenizer" in args.sections:
        images = heldout_images(size, args.pictures)
        figures["tokenizer"] = evaluate_tokenizer(pipe.tokenizer, images, features=features)
        save()
    if "codecs" in args.sections:
        figures["codecs"] = measure_codecs(pipe, features, args.codec_pictures)
        ours = {**figures["codecs"], "lengths": figures["codecs"]["tokens"]}
        plot_curve(info.folder / "curve.png", ours, figures["codecs"])
        figures["curve"] = "curve.png"
        save()
    kinds = figures.setdefault("generators", {})
    for kind, each in pipes.items():
        if "sweep" in args.sections:
            figures.setdefault("sweeps", {})[kind] = run_sweep(each, kind, features, args.sweep)
            save()
        if "generators" in args.sections:
            found = generation.evaluate_generator(
                each, features=features, names=args.names, batch_size=args.batch, progress=_show
            )
            kinds[kind] = {**kinds.get(kind, {}), **found}
            save()
        if "sheets" in args.sections:
            path = info.folder / f"contact-sheet-{kind}.png"
            kinds.setdefault(kind, {})["sheet"] = measure_sheet(each, path, args.batch)
            save()
    if "speed" in args.sections:
        figures["speed"] = measure_speed(info.name, pipe)
        save()


def main() -> None:
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out = args.out or ROOT / "benchmarks" / "results" / f"bundled-{hardware_name(hardware())}.json"
    figures = read_figures(out)
    features = ImageTextFeatures.bundled()

    def save() -> None:
        write_figures(out, {k: v for k, v in figures.items() if k not in ("note", "hardware")})
        logger.info("wrote %s", out)

    if "features" in args.sections:
        training = measure_training(BUNDLED, args.runs, args.trained_on)
        figures["features"] = {**measure_features(features), "training": training}
        save()
    models = figures.setdefault("models", {})
    infos = [i for i in list_models() if i.pipeline in PICTURES]
    infos = [i for i in infos if args.models is None or i.name in args.models]
    for info in infos:
        logger.info("model %s", info.name)
        measure_model(info, models.setdefault(info.name, {}), features, args, save)
    save()
    if "cards" in args.sections:
        figures = read_figures(out)
        limits = yaml.safe_load(args.limits.read_text()) if args.limits else {}
        for info in infos:
            write_card(info.folder, figures, limits=limits.get(info.name))
        if "features" in figures:
            write_card(PRETRAINED / BUNDLED, figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure the bundled models and write their cards."
    )
    parser.add_argument("--models", nargs="+", help="bundled names; all when not given")
    parser.add_argument("--sections", nargs="+", choices=[*SECTIONS, "sweep"], default=SECTIONS)
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of training runs")
    parser.add_argument("--trained-on", default=hardware_line(hardware()), help="for the cards")
    parser.add_argument("--pictures", type=int, default=500, help="held-out renders")
    parser.add_argument("--codec-pictures", type=int, default=200)
    parser.add_argument("--names", type=int, default=300)
    parser.add_argument("--sweep", type=int, default=50, help="names, and combinations, a setting")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--limits", type=Path, help="YAML: model name -> lines for its card")
    return parser.parse_args()


if __name__ == "__main__":
    main()
