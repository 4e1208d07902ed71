"""Puts trained parts together into the folder that users load.

A bundle holds one tokenizer, one caption tokenizer and one or two generators, each with the
decoding options that a measured sweep chose. The first generator is the one of `model_index.json`;
the second stands beside it in `generator_<kind>/` and `decoding_<kind>/`. A drafter head stands in
`drafter/`. A bundle of speech holds no caption tokenizer: its generator reads letters.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from studio.generators.captions import CaptionTokenizer
from studio.media.files import atomic_folder
from studio.pipelines.text_to_image import TextToImagePipeline
from studio.pipelines.text_to_speech import TextToSpeechPipeline
from studio.pipelines.text_to_video import TextToVideoPipeline
from studio.registry import find_class

STRATEGIES = {"ordered": "Autoregressive", "unordered": "Masked"}
KINDS = {"ordered": "autoregressive", "unordered": "masked"}


def bundle(
    out: str | Path,
    *,
    tokenizer: str | Path,
    captions: str | Path | None = None,
    generators: list[tuple[str | Path, dict[str, Any]]],
    drafter: str | Path | None = None,
    neighbours: int = 0,
) -> Path:
    """Writes a pipeline folder in half precision, whole or not at all.

    Args:
        out: the folder; an older one is replaced, its card (`README.md` and pictures) is kept.
        tokenizer: folder of a trained tokenizer.
        captions: folder of the caption tokenizer that all generators were trained with; None for
            speech.
        generators: of a trained generator, and its decoding's options; the default first.
        drafter: folder of a drafter head that was trained for the first generator; None for none.
        neighbours: of every code, in the table for relaxed decoding; 0 for no table.

    Returns:
        `out`.

    Raises:
        ValueError: the drafter is for another generator, or captions are missing.
    """
    out = Path(out)
    (first, options), *others = generators
    default = _load(first)
    pipe: Any
    if default.config.condition == "speech":
        pipe = TextToSpeechPipeline(_load(tokenizer), default, _strategy(default, options))
    elif captions is None:
        raise ValueError(f"captions are missing: generator {str(first)!r} reads captions")
    elif (coder := _load(tokenizer)).medium == "video":
        words, decoding = CaptionTokenizer.from_pretrained(captions), _strategy(default, options)
        pipe = TextToVideoPipeline(coder, default, words, decoding)
    else:
        pipe = TextToImagePipeline(
            tokenizer=coder,
            generator=default,
            text_tokenizer=CaptionTokenizer.from_pretrained(captions),
            decoding=_strategy(default, options),
            drafter=None if drafter is None else _load(drafter),
        )
        if pipe.drafter is not None:
            pipe.drafter.check_target(default)
    if neighbours:
        pipe.find_neighbours(neighbours)
    with atomic_folder(out) as temporary:
        pipe.save_pretrained(temporary)
        for folder, other_options in others:
            other = _load(folder)
            ending = KINDS[other.kind]
            other.save_pretrained(temporary / f"generator_{ending}")
            _strategy(other, other_options).save_pretrained(temporary / f"decoding_{ending}")
        if out.exists():
            for path in out.iterdir():
                if path.is_file() and path.name != "model_index.json":
                    shutil.copy2(path, temporary / path.name)
    return out


def _load(folder: str | Path):
    name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["_class_name"]
    return find_class(name).from_pretrained(folder, torch_dtype=torch.float16)


def _strategy(generator, options: dict[str, Any]):
    return find_class(STRATEGIES[generator.kind])(**options)
