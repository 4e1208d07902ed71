"""Puts finished runs into the folders of the bundled models.

    python recipes/release.py emoji-1d [emoji-grid ...]

Which runs and which decoding options is written in `bundles.yaml` beside this file. No file may
have more than 16 MiB, nor a bundle more than its `limit` (in MiB).
"""

import sys
from pathlib import Path

import yaml

from studio.env import PRETRAINED
from studio.training.bundle import bundle

MIB = 2**20
MOST = 16  # MiB of a file
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
            captions=parts.get("captions"),
            generators=generators,
            drafter=parts.get("drafter"),
            neighbours=parts.get("neighbours", 0),
        )
        sizes = {p: p.stat().st_size / MIB for p in out.rglob("*") if p.is_file()}
        total, largest = sum(sizes.values()), max(sizes.values())
        print(f"{out}: {total:.1f} MiB, the largest file {largest:.1f} MiB")
        if largest > MOST or total > parts.get("limit", total):
            raise SystemExit(f"{name} is too large: {MOST} MiB a file, {parts.get('limit')} in all")


if __name__ == "__main__":
    main(sys.argv[1:])
