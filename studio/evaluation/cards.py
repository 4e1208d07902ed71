"""Model cards from measured figures: every number in a bundled folder's README.md comes from JSON.

What a figure is missing for is left out of the card, never guessed.
"""

from pathlib import Path
from typing import Any

from studio.evaluation.features import BUNDLED, NOTE
from studio.evaluation.report import hardware_line
from studio.media.files import atomic_write

FRONT = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: {tag}
tags: [token-studio, {kind}]
{more}---
"""
DATA = (
    "Pictures rendered on the spot from Noto Color Emoji "
    "(https://github.com/googlefonts/noto-emoji, SIL Open Font License 1.1) "
    "with their CLDR names as captions: {names} sprites, plain and "
    "gradient backgrounds, tints, scale and shift. No font and no picture of it is shipped. "
    "{kept}"
)
KEPT = (
    "`studio/data/heldout.json` lists the sprites that no tokenizer saw in training and the "
    "pairs of colour and object that no generator saw."
)
PARTS = {
    "drafter": "the drafter head of the autoregressive generator (`drafter=head` in speculative "
    "decoding), one layer that reads the generator's features.",
    "tokenizer/neighbours.safetensors": "the nearest codes of every code, for relaxed acceptance "
    "(LANTERN).",
}
LICENCE = (
    "Weights: Apache-2.0, as the code. "
    "The font that training pictures were rendered from: SIL OFL 1.1."
)


def write_card(
    folder: str | Path, figures: dict[str, Any], *, limits: list[str] | None = None
) -> Path:
    """Writes `README.md` into a bundled folder.

    Args:
        folder: for example studio/pretrained/emoji-1d; its name is the model's.
        figures: what benchmarks/bundled_models.py measured, whole (`models`, `features`,
            `hardware`).
        limits: lines about what the model can't do, from whoever looked at the pictures.

    Raises:
        ValueError: the figures have nothing about this model.
    """
    folder = Path(folder)
    name = folder.name
    if name == BUNDLED and figures.get("features"):
        text = features_card(figures)
    elif name in figures.get("models", {}):
        text = model_card(name, figures, limits=limits, parts=_parts(folder))
    else:
        raise ValueError(f"figures hold nothing about {name!r}")
    return atomic_write(folder / "README.md", text)


def model_card(
    name: str, figures: dict[str, Any], *, limits: list[str] | None = None, parts: str = ""
) -> str:
    """The card of a generative model as Markdown; `parts`: a section on what else is in it."""
    model = figures["models"][name]
    sections = [
        FRONT.format(tag="text-to-image", kind="discrete-tokens", more=_tokens_line(model))
        + f"# {name}",
        _introduction(name, model),
        parts,
        "## Data\n\n"
        + DATA.format(names=figures.get("features", {}).get("names", "1,619"), kept=KEPT),
        "## Licence\n\n" + LICENCE,
        training_table(model.get("training", [])),
        "## Figures\n\nMeasured by `benchmarks/bundled_models.py` on "
        f"{hardware_line(figures['hardware'])}. {NOTE[0].upper()}{NOTE[1:]}: "
        "distances compare with each other only.",
        _tokenizer(model.get("tokenizer")),
        _codecs(model),
        *(_generator(kind, g) for kind, g in model.get("generators", {}).items()),
        _speed(model.get("speed")),
        *(_sheet(kind, g) for kind, g in model.get("generators", {}).items()),
        _limits(limits),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _parts(folder: Path) -> str:
    """What lies in a folder for faster decoding."""
    there = [f"- `{place}`: {what}" for place, what in PARTS.items() if (folder / place).exists()]
    return "## Parts for faster decoding\n\n" + "\n".join(there) if there else ""


def features_card(figures: dict[str, Any]) -> str:
    """The card of the evaluation features as Markdown."""
    f = figures["features"]
    labels = {
        "top1": "name retrieved, top-1",
        "top5": "name retrieved, top-5",
        "background_word": "background's colour word",
    }
    rows = [[label, share(f[key])] for key, label in labels.items() if key in f]
    parts = [
        FRONT.format(tag="image-feature-extraction", kind="evaluation", more="") + f"# {BUNDLED}",
        f"Picture and name features of {f['parameters']:,} parameters, trained on emoji renders to "
        "measure the bundled models: Fréchet distance, retrieval and diversity need no "
        "download. They are not Inception features, and know nothing but emoji: distances compare "
        "with each other only.",
        "## Data\n\n"
        + DATA.format(names=f["names"], kept="All names were seen, since they judge others."),
        "## Licence\n\n" + LICENCE,
        training_table(f.get("training", [])),
        f"## Figures\n\nOver {f['pictures']} drawn pictures, against a gallery of {f['names']} "
        f"names; measured on {hardware_line(figures['hardware'])}.\n\n"
        + markdown_table(["figure", "value"], rows),
        "## Limits\n\n- Names are a closed set; a sentence or a photograph means nothing to it.\n"
        "- Tinted pictures of things that differ by colour alone count as the same thing.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tokens_line(model: dict[str, Any]) -> str:
    """The line of the front matter that `studio models` shows: tokens of a picture."""
    lengths = model.get("tokenizer", {}).get("lengths", [])
    return f"tokens: {max(row['tokens'] for row in lengths)}\n" if lengths else ""


def _introduction(name: str, model: dict[str, Any]) -> str:
    tokens = model.get("tokenizer") or {}
    whole = tokens.get("lengths", [{}])[-1]
    size = f"{tokens['size']} x {tokens['size']} pixels, " if tokens else ""
    count = f"{whole['tokens']} tokens ({whole['bytes']:.0f} bytes) a picture, " if whole else ""
    kinds = " and ".join(model.get("generators", {}))
    return (
        f"Makes emoji-like pictures from words: {size}{count}generators: {kinds or 'none'}.\n\n"
        f'```sh\nstudio generate "red apple" -m {name} --seed 7\n```'
    )


def training_table(runs: list[dict[str, Any]]) -> str:
    """The section on training; empty where nothing is known."""
    if not runs:
        return ""
    rows = [
        [f"`{r['recipe']}`", f"{r['steps']:,}", f"{r['hours']:.2f}", r.get("hardware", "")]
        for r in runs
    ]
    return "## Training\n\n" + markdown_table(["recipe", "steps", "hours", "hardware"], rows)


def _tokenizer(result: dict[str, Any] | None) -> str:
    if not result:
        return ""
    rows = [
        [r["tokens"], f"{r['bytes']:.1f}", f"{r['psnr']:.2f}", f"{r['ssim']:.3f}", f"{r['fd']:.4f}"]
        for r in result["lengths"]
    ]
    return (
        f"### Tokenizer\n\n{result['pictures']} held-out renders; {share(result['codes_used'])} "
        f"of {result['vocabulary']:,} codes used.\n\n"
        + markdown_table(["tokens", "bytes", "PSNR, dB", "SSIM", "feature distance"], rows)
    )


def _codecs(model: dict[str, Any]) -> str:
    result, tokens = model.get("codecs"), model.get("tokenizer")
    if not result or not tokens:
        return ""
    budget, rows = tokens["lengths"][-1]["bytes"], []
    ours = result.get("tokens", tokens["lengths"])[-1]
    rows.append(["tokens", f"{ours['bytes']:.0f}", f"{ours['psnr']:.2f}", f"{ours['fd']:.4f}"])
    for codec, both in result["codecs"].items():
        for headers, line in both.items():
            r = next((r for r in line if r["budget"] == budget), None)
            if r:
                label = f"{codec.upper()}, {headers.replace('_', ' ')}"
                rows.append([label, f"{r['bytes']:.0f}", f"{r['psnr']:.2f}", f"{r['fd']:.4f}"])
    plot = "\n\n![Bytes against quality](curve.png)" if model.get("curve") else ""
    return (
        f"### Against codecs\n\n{result['pictures']} of the same pictures. Codecs may shrink "
        "the picture to a half, a quarter or an eighth and take the nearest byte count not below "
        "ours; where no file is so small, their smallest stands.\n\n"
        + markdown_table(["codec", "bytes", "PSNR, dB", "feature distance"], rows)
        + plot
    )


def _generator(kind: str, result: dict[str, Any]) -> str:
    names, pairs = result["names"], result["combinations"]
    rows = [
        [label, share(names["generated"][key]), share(names["real"][key])]
        for key, label in (("top1", "name retrieved, top-1"), ("top5", "name retrieved, top-5"))
    ]
    for key, label in (("fd", "feature distance"), ("diversity", "diversity")):
        rows.append([label, f"{names['generated'][key]:.4f}", f"{names['real'][key]:.4f}"])
    for key, label in (
        ("object", "object right"),
        ("object_top5", "object right, top-5"),
        ("colour", "colour right"),
        ("background", "background right"),
        ("right", "object and colour right"),
        ("all_right", "all three right"),
    ):
        rows.append([label, share(pairs["generated"][key]), share(pairs["real"][key])])
    options = {k: v for k, v in result["decoding"].items() if k != "class"}
    used = ", ".join(f"{k} {v}" for k, v in options.items() if v is not None)
    return (
        f"### Generator: {kind}\n\n{names['count']} names drawn at random from all, then "
        f"{pairs['count']} held-out combinations; real renders are the ceiling. "
        f"Decoding: {result['decoding']['class']} ({used}).\n\n"
        + markdown_table(["figure", "generated", "real renders"], rows)
    )


def _speed(speed: dict[str, Any] | None) -> str:
    if not speed:
        return ""
    rows = [[label.replace("_", " "), f"{value:.2f}"] for label, value in speed.items()]
    return "### Speed\n\n" + markdown_table(["what", "seconds"], rows)


def _sheet(kind: str, result: dict[str, Any]) -> str:
    sheet = result.get("sheet")
    if not sheet:
        return ""
    prompts = "\n".join(f"{i}. {text}" for i, text in enumerate(sheet["prompts"]))
    return (
        f"## Contact sheet: {kind}\n\nUnselected, seeds 0 to 63, row after row.\n\n"
        f"![64 unselected pictures of the {kind} generator]({sheet['file']})\n\n"
        f"<details><summary>The prompts, by seed</summary>\n\n{prompts}\n\n</details>"
    )


def _limits(limits: list[str] | None) -> str:
    lines = [
        "Knows the words of emoji names and twelve colours, in English; anything else gives "
        "something at random.",
        "Small, for demonstration and tests; sentences, counts and places are not understood.",
        *(limits or []),
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def share(value: float) -> str:
    """A share as per cent."""
    return f"{100 * value:.1f} %"


def markdown_table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
