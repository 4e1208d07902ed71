"""Measures long clips: memory, and the check of motion in the first, the middle and the last part.

    python benchmarks/long_video.py [-m emoji-motion] [--frames 512] [--count 8]

Three variants on the same captions and seeds: parts that remember those before in blended sinks (as
they are made), parts that only begin as the one before ended, and a plan of coarse tokens first.
Figures go to benchmarks/results/long-video-<hardware>.json after every variant.
"""

import argparse
import logging
from pathlib import Path

from studio.evaluation.features import ImageTextFeatures
from studio.evaluation.long_motion import evaluate_long_motion
from studio.evaluation.report import hardware, hardware_name, write_figures
from studio.pipelines.auto import Pipeline

ROOT = Path(__file__).parent
VARIANTS = ("remembering", "without memory", "under a plan")
logger = logging.getLogger("long_video")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default="emoji-motion")
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:2])
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    features = ImageTextFeatures.bundled()
    options = {} if arguments.temperature is None else {"temperature": arguments.temperature}
    figures: dict = {"model": arguments.model, "options": options, "variants": {}}
    out = arguments.out or ROOT / "results" / f"long-video-{hardware_name(hardware())}.json"
    for variant in arguments.variants:
        pipe = Pipeline.from_pretrained(arguments.model)
        if variant == "without memory":
            pipe._new_memory = lambda job: None
        found = evaluate_long_motion(
            pipe,
            features=features,
            count=arguments.count,
            num_frames=arguments.frames,
            plan=variant == "under a plan",
            progress=_show,
            **options,
        )
        figures["variants"][variant] = found
        for part in ("first", "middle", "last"):
            logger.info("%s, %s part: %s", variant, part, found[part])
        logger.info("wrote %s", write_figures(out, figures))


def _show(done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        logger.info("%d of %d parts", done, total)


if __name__ == "__main__":
    main()
