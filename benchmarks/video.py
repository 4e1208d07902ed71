"""Measures the bundle of clips and writes its card.

    python benchmarks/video.py [-m emoji-motion] [--sections tokenizer layers generator card]

Sections: tokenizer (100 held-out clips by layers, beside H.264 and VP9), layers (direction and
object after coding), flat (the tokenizer with one layer, `--flat FOLDER`), generator (the check of
motion over 64 held-out captions), decoding (passes of modes), training, card. Figures go to
benchmarks/results/video-<hardware>.json after every section; the card also takes those of
long_video.py beside it.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

from bundled_models import measure_training

from studio.evaluation import decoding_bench
from studio.evaluation.clips import heldout_clips
from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.judges import Judges
from studio.evaluation.motion import evaluate_motion, layer_quality
from studio.evaluation.motion_card import write_motion_card
from studio.evaluation.report import (
    hardware,
    hardware_line,
    hardware_name,
    read_figures,
    write_figures,
)
from studio.evaluation.subjects import open_tokenizers
from studio.evaluation.video_judges import ClipJudges
from studio.evaluation.video_report import VideoEvaluation
from studio.hub import find_folder
from studio.pipelines.auto import Pipeline

ROOT = Path(__file__).parent
SECTIONS = ("training", "tokenizer", "layers", "flat", "generator", "decoding", "card")
MODES = ("seed", "seed-prior", "seed-recycling", "exact", "exact-prior")
logger = logging.getLogger("video")


def measure_tokenizer(names: list[str], features: ImageTextFeatures, count: int, codecs) -> dict:
    """The rows and facts of a report over held-out clips."""
    with tempfile.TemporaryDirectory() as folder:
        report = VideoEvaluation(
            subjects=open_tokenizers(names, medium="video"),
            clips=heldout_clips(count),
            judges=ClipJudges(Judges(features=features)),
            folder=Path(folder),
            codecs=codecs,
            shown=0,
            progress=_show,
        ).run()
    assert report is not None  # one process
    found = json.loads(report.to_json())
    return {"rows": found["rows"], "facts": found["facts"], "notes": found["notes"]}


def measure(section: str, arguments, figures: dict, features: ImageTextFeatures) -> None:
    """One section into `figures`."""
    model, count = arguments.model, arguments.clips
    if section == "training":
        figures[section] = measure_training(model, arguments.runs, hardware_line(hardware()))
    elif section == "tokenizer":
        figures[section] = measure_tokenizer([model], features, count, None)
    elif section == "layers":
        pipe = Pipeline.from_pretrained(model)
        figures[section] = layer_quality(pipe.tokenizer, count=count, features=features)
    elif section == "flat" and arguments.flat:
        figures[section] = measure_tokenizer([arguments.flat], features, count, [])["rows"][-1]
    elif section == "generator":
        pipe = Pipeline.from_pretrained(model)
        options = {} if arguments.temperature is None else {"temperature": arguments.temperature}
        figures[section] = evaluate_motion(
            pipe, features=features, count=arguments.captions, batch_size=4, **options
        )
    elif section == "decoding":
        pipe = Pipeline.from_pretrained(model, generator="autoregressive")
        settings = decoding_bench.Settings(
            modes=MODES, prompts=arguments.prompts, seeds=1, timed=3, batch_size=1, quality=False
        )
        figures[section] = decoding_bench.race(pipe, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default="emoji-motion")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--flat", help="folder of the tokenizer with one layer")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    name = hardware_name(hardware())
    out = arguments.out or ROOT / "results" / f"video-{name}.json"
    figures = {k: v for k, v in read_figures(out).items() if k not in ("note", "hardware")}
    features = ImageTextFeatures.bundled()
    for section in (s for s in arguments.sections if s != "card"):
        measure(section, arguments, figures, features)
        logger.info("%s: wrote %s", section, write_figures(out, figures))
    if "card" in arguments.sections:
        long = read_figures(out.with_name(f"long-video-{name}.json")).get("variants")
        known = {**figures, "hardware": hardware(), "long": long}
        logger.info("wrote %s", write_motion_card(find_folder(arguments.model), known))


def _show(name: str, done: int, total: int) -> None:
    if done % 5 == 0 or done == total:
        logger.info("%s: %d of %d", name, done, total)


if __name__ == "__main__":
    main()
