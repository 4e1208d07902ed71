"""The model card of a bundle of clips, from measured figures (benchmarks/video.py).

One JSON holds them in sections; what was not measured is left out, never guessed.
"""

from pathlib import Path
from typing import Any

from studio.evaluation.cards import FRONT, KEPT, markdown_table, share, training_table
from studio.evaluation.report import hardware_line
from studio.media.files import atomic_write

DATA = (
    "Clips made on the spot (`studio/data/motion.py`): sprites of Noto Color Emoji "
    "(https://github.com/googlefonts/noto-emoji, SIL Open Font License 1.1) that move, grow, turn, "
    "bounce and pass each other over plain, gradient and textured ground, with captions. No font "
    "and no picture of it is shipped. " + KEPT + " One pair of object and motion in sixteen is "
    "held out from the generator as well."
)
LIMITS = (
    "- Knows the names of emoji, twelve colours and nine motions, in English.\n"
    "- Learned clips of two seconds: a longer one repeats its motion part by part.\n"
    "- Objects keep their outline and colours and lose their small parts; what moves fast "
    "(bouncing) blurs between its turning points.\n"
    "- Small, for demonstration and tests."
)


def write_motion_card(folder: str | Path, figures: dict[str, Any]) -> Path:
    """Writes `README.md` into the folder of a bundle; `figures` with `hardware`."""
    text = motion_card(Path(folder).name, figures)
    return atomic_write(Path(folder) / "README.md", text)


def motion_card(name: str, figures: dict[str, Any]) -> str:
    """The card as Markdown."""
    ours = _rows(figures, "tokenizers")
    tokens = f"tokens: {ours[-1]['tokens']} a clip\n" if ours else ""
    parts = [
        FRONT.format(tag="text-to-video", kind="discrete-tokens", more=tokens) + f"# {name}",
        "Makes clips of moving emoji from words: 16 frames of 64 x 64 pixels, 8 a second, through "
        "layers of tokens, coarse ones first.\n\n"
        f'```sh\nstudio generate "red apple moving left" -m {name} --seed 7 -o clip.mp4\n```',
        "## Data\n\n" + DATA,
        "## Licence\n\nWeights: Apache-2.0, as the code. The font that training clips were "
        "rendered from: SIL OFL 1.1.",
        training_table(figures.get("training", [])),
        f"## Figures\n\nMeasured by `benchmarks/video.py` on {hardware_line(figures['hardware'])}.",
        _tokenizer(ours, figures),
        _codecs(ours, _rows(figures, "codecs at nearby bytes")),
        _flat(ours, figures.get("flat")),
        _generator(figures.get("generator")),
        _decoding(figures.get("decoding")),
        _long(figures.get("long")),
        "## Limits\n\n" + LIMITS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(figures: dict[str, Any], group: str) -> list[dict[str, Any]]:
    return [row for row in figures.get("tokenizer", {}).get("rows", []) if row["group"] == group]


def _tokenizer(ours: list[dict[str, Any]], figures: dict[str, Any]) -> str:
    if not ours:
        return ""
    seen = figures.get("layers") or [{}] * len(ours)
    rows = [
        [
            row["layers"],
            row["tokens"],
            f"{row['bpp']:.4f}",
            f"{row['psnr']:.2f}",
            f"{row['ssim']:.3f}",
            f"{row['flicker']:.2f}",
            f"{row['fd']:.4f}" if "fd" in row else "–",
            share(layer["direction"]) if "direction" in layer else "–",
            share(layer["top5"]) if "top5" in layer else "–",
        ]
        for row, layer in zip(ours, seen, strict=True)
    ]
    head = ["layers", "tokens", "bits a pixel", "PSNR, dB", "SSIM", "flicker", "clip FD"]
    clips = figures["tokenizer"]["facts"]["clips"]
    return (
        f"### Tokenizer\n\n{clips} held-out clips on plain and gradient ground; direction and "
        "object as found in moving ones after coding.\n\n"
        + markdown_table([*head, "direction", "object, top-5"], rows)
    )


def _codecs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    if not ours or not theirs:
        return ""
    budget = ours[-1]["bytes"]
    rows = [["tokens", f"{budget:.0f}", f"{ours[-1]['psnr']:.2f}", f"{ours[-1]['flicker']:.2f}"]]
    rows += [
        [
            f"{row['subject']}, headers {row['headers']}",
            f"{row['bytes']:.0f}",
            f"{row['psnr']:.2f}",
            f"{row['flicker']:.2f}",
        ]
        for row in theirs
        if row["budget"] == budget
    ]
    return (
        "### Against codecs\n\nThe same clips; codecs may shrink them and take the nearest byte "
        "count not below the tokens', or the fewest they need.\n\n"
        + markdown_table(["codec", "bytes", "PSNR, dB", "flicker"], rows)
    )


def _flat(ours: list[dict[str, Any]], flat: dict[str, Any] | None) -> str:
    if not ours or not flat:
        return ""
    rows = [
        ["layers", ours[-1]["tokens"], f"{ours[-1]['bpp']:.4f}", f"{ours[-1]['psnr']:.2f}"],
        ["one layer", flat["tokens"], f"{flat['bpp']:.4f}", f"{flat['psnr']:.2f}"],
    ]
    return "### Beside a single layer, trained the same way\n\n" + markdown_table(
        ["tokenizer", "tokens", "bits a pixel", "PSNR, dB"], rows
    )


def _generator(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    labels = {
        "direction": "moves as the caption says",
        "top1": "object right, top-1",
        "top5": "object right, top-5",
        "background": "background right",
    }
    kinds = ("generated", "coded", "real")
    rows = [[label, *(share(found[k][key]) for k in kinds)] for key, label in labels.items()]
    return (
        f"### Words to clips\n\n{found['count']} held-out captions of objects that move in one "
        "direction; real clips, and real ones through the tokenizer, are the ceiling.\n\n"
        + markdown_table(["figure", "generated", "real, coded", "real"], rows)
    )


def _decoding(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [
        [
            f"`{row['mode']}`",
            f"{row['passes']:.0f}",
            f"{row['fewer']:.2f}",
            f"{row['faster']:.2f}",
            f"{row['equal']} of {row['pictures']}",
        ]
        for row in found["rows"]
    ]
    heads = ["mode", "passes", "times fewer", "times faster", "tokens of plain decoding"]
    return "### Decoding, coarse to fine\n\n" + markdown_table(heads, rows)


def _long(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [
        [
            variant,
            *(share(values[part]["direction"]) for part in ("first", "middle", "last")),
            *(share(values[part]["top5"]) for part in ("first", "middle", "last")),
            f"{values['memory_growth_mib']:.1f}",
        ]
        for variant, values in found.items()
    ]
    first = next(iter(found.values()))
    heads = [
        f"{what}, {p}"
        for what in ("direction", "object (top-5)")
        for p in ("first", "middle", "last")
    ]
    return (
        f"### Long clips\n\n{first['count']} clips of {first['num_frames']} frames "
        "(`benchmarks/long_video.py`): the first, the middle and the last part; growth is how "
        "much more memory is held in the last third of a clip than in its second, in MiB.\n\n"
        + markdown_table(["parts", *heads, "growth"], rows)
    )
