"""The model card of a bundle of speech, from measured figures.

One JSON holds them, in sections that different commands measure: `studio evaluate speech --card`
the codec, `benchmarks/speech.py` what is said, what modes of decoding cost, training and speed.
Each writes its own and then the whole card anew. What was not measured is left out, never guessed.
"""

import json
from pathlib import Path
from typing import Any

from studio.evaluation.cards import FRONT, markdown_table, share, training_table
from studio.evaluation.report import Report, hardware, hardware_line, read_figures, write_figures
from studio.evaluation.sounds import SPLITS
from studio.hub import INDEX, find_folder, read_index
from studio.media.files import atomic_write

DATA = (
    "Sentences from a small grammar, single words and digits, spoken on the spot by espeak-ng in "
    "several voices, pitches and speeds: no recording of a person. The codec also hears most other "
    "variants of that program, in six accents. Which sentences training never sees follows from "
    "their letters, and the voices built on variants numbered 5 are held out "
    "(`studio/data/speech.py`)."
)
LIMITS = (
    "- Speaks English as espeak-ng does, in the voices it was trained on; it copies no other.\n"
    "- Words unlike those of its grammar and of Python's documentation may be mispronounced.\n"
    "- The codec is trained on synthetic speech alone: music, noise and several speakers at once "
    "lose more.\n"
    "- Its decoder makes a phase of its own, so SI-SDR says little about it."
)
_MEASURES = {
    "pesq": ("PESQ, wide band", 2),
    "stoi": ("STOI", 3),
    "estoi": ("ESTOI", 3),
    "si_sdr": ("SI-SDR, dB", 1),
    "mel": ("mel distance, nepers", 3),
    "stft": ("STFT distance", 3),
    "f0": ("pitch error, cents", 1),
    "voicing": ("voicing error", 3),
    "token_rate": ("tokens a second", 1),
    "bit_rate": ("bits a second", 0),
    "codes_used": ("codes used", 3),
    "entropy": ("entropy, bits a token", 2),
}


def card_folder(names: list[str], *, synthetic: bool) -> Path:
    """The folder whose card figures of these models go into.

    Raises:
        ValueError: one line: several models, other data than the held-out sentences, or a model
            that is no pipeline of speech.
    """
    if len(names) != 1:
        raise ValueError(f"--card takes the figures of one model, not of {len(names)}")
    if not synthetic:
        raise ValueError("--card takes the figures of the held-out sentences: leave --data out")
    folder = find_folder(names[0])
    is_pipeline = (folder / INDEX).is_file()
    if not is_pipeline or read_index(folder)["_class_name"] != "TextToSpeechPipeline":
        raise ValueError(f"--card: model {names[0]!r} is no pipeline of speech")
    return folder


def codec_figures(report: Report) -> dict[str, Any]:
    """The section of the codec: the rows of a report, and what it was measured on."""
    found = json.loads(report.to_json())  # what is not finite is None
    facts = {name: value for name, value in found["facts"].items() if name != "hardware"}
    return {"rows": found["rows"], "facts": facts, "notes": found["notes"]}


def write_speech_card(
    folder: str | Path, figures: str | Path, *, codec: Report | None = None, **sections: Any
) -> Path:
    """Puts sections into a JSON of figures and writes the card, `README.md` in `folder`, from all.

    Args:
        folder: of the bundle; its name is the model's.
        figures: the JSON; sections of others are kept.
        codec: a report of `SoundEvaluation` over the held-out sentences.
        sections: others by name.
    """
    known = {k: v for k, v in read_figures(figures).items() if k not in ("note", "hardware")}
    if codec is not None:
        known["codec"] = codec_figures(codec)
    write_figures(figures, {**known, **sections})
    text = speech_card(Path(folder).name, {"hardware": hardware(), **known, **sections})
    return atomic_write(Path(folder) / "README.md", text)


def speech_card(name: str, figures: dict[str, Any]) -> str:
    """The card as Markdown."""
    rates = [row.get("token_rate") for row in _tokenizer_rows(figures)]
    tokens = f"tokens: {rates[0]:.0f} a second\n" if rates and rates[0] else ""
    parts = [
        FRONT.format(tag="text-to-speech", kind="discrete-tokens", more=tokens) + f"# {name}",
        "Speaks English sentences through tokens, without any other program.\n\n"
        f'```sh\nstudio generate "three red apples" -m {name} --seed 7 -o apples.wav\n'
        f"studio reconstruct talk.wav -m {name}\n```",
        "## Data\n\n" + DATA,
        "## Licence\n\nWeights: Apache-2.0, as the code.",
        training_table(figures.get("training", [])),
        f"## Figures\n\nMeasured on {hardware_line(figures['hardware'])}.",
        _codec(figures),
        _speech(figures.get("speech")),
        _decoding(figures.get("decoding")),
        _speed(figures.get("speed")),
        "## Limits\n\n" + LIMITS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tokenizer_rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    rows = figures.get("codec", {}).get("rows", [])
    return [row for row in rows if row.get("group") == "tokenizers"]


def _codec(figures: dict[str, Any]) -> str:
    ours = _tokenizer_rows(figures)
    if not ours:
        return ""
    first = next(iter(SPLITS.values()))
    others = [
        row
        for row in figures["codec"]["rows"]
        if row.get("group") != "tokenizers" and row["part"] == first
    ]
    heads = [row["part"] for row in ours]
    heads += [f"{row['subject']}, {row['bit_rate'] / 1000:.1f} kbit/s" for row in others]
    lines = []
    for key, (label, digits) in _MEASURES.items():
        values = [row.get(key) for row in (*ours, *others)]
        if any(value is not None for value in values):
            lines.append([label, *("–" if v is None else f"{v:,.{digits}f}" for v in values)])
    return (
        "### Codec\n\nBy `studio evaluate speech`. "
        + figures["codec"]["notes"][0]
        + " MP3 and Opus on the first of these, without what their headers take.\n\n"
        + markdown_table(["measure", *heads], lines)
    )


def _speech(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [
        ["what is said", share(found["cer"]), share(found["wer"])],
        ["real speech through the codec", share(found["cer_codec"]), share(found["wer_codec"])],
        ["real speech", share(found["cer_real"]), share(found["wer_real"])],
    ]
    return (
        f"### Text to speech\n\n{len(found['sentences'])} held-out sentences, heard by a small "
        "recogniser that was trained on the same synthetic voices; its own error on real speech "
        "stands beside.\n\n"
        + markdown_table(["heard", "character errors", "word errors"], rows)
        + f"\n\nLengths are off by {share(found['length_error'])} on average; "
        f"{share(found['length_within_30'])} are within 30 % of the real ones. "
        f"{found['real_time']:.1f} seconds of sound are made a second."
    )


def _decoding(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [
        [
            f"`{mode}`",
            f"{cost['passes_per_token']:.3f}",
            f"{cost['tokens_per_second']:.0f}",
            share(cost["same"]),
        ]
        for mode, cost in found.items()
    ]
    heads = ["mode", "passes a token", "tokens a second", "same tokens as plain"]
    return "### Decoding\n\n" + markdown_table(heads, rows)


def _speed(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    return (
        f"### Speed\n\nThe codec takes {found['real_time']:.0f} seconds of sound apart and puts "
        "them together again in a second (`benchmarks/codec.py`)."
    )
