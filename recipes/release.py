"""Puts finished runs into the folders of the bundled models.

    python recipes/release.py emoji-1d [emoji-grid ...]

Which runs and which decoding options is written in `bundles.yaml` beside this file.
"""

import sys
from pathlib import Path

import yaml

from studio.env import PRETRAINED
from studio.training.bundle import bundle

FILE = Path(__file__).with_name("bundles.yaml")


def main(names: list[str]) -> None:
    bundles = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    unknown = [name for name in names if name not in bundles]
    if unknown or not names:
        raise SystemExit(f"usage: release.py NAME ...; names in {FILE.name}: {', '.join(bundles)}")
    for name in names:
        parts = bundles[name]
        generators = [(folder, options) for folder, options in parts["generators"]]
        out = bundle(
            PRETRAINED / name,
            tokenizer=parts["tokenizer"],
            captions=parts["captions"],
            generators=generators,
            drafter=parts.get("drafter"),
        )
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
