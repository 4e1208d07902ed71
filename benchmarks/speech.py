"""Measures text to speech: what a recogniser hears, lengths, and what the modes of decoding cost.

    python benchmarks/speech.py [-m speech] [--recogniser runs/speech-recogniser/final] [--count 50]
    studio evaluate speech --card benchmarks/results/speech-cpu-2-cores.json

Figures go to benchmarks/results/speech-<hardware>.json, spectrograms (real above, generated below)
to --sheet, and all figures that are known to the model's card; the second command measures the
codec. Needs espeak-ng for the real speech.
"""

import argparse
from pathlib import Path

import torch
from bundled_models import measure_training  # pyright: ignore[reportMissingImports]

from studio.data.speech import SpokenSentences
from studio.evaluation.recogniser import Recogniser
from studio.evaluation.report import hardware, hardware_line, hardware_name, read_figures
from studio.evaluation.speech_card import write_speech_card
from studio.evaluation.spoken import evaluate_spoken, options_of, passes_per_token
from studio.hub import find_folder
from studio.media.image import write_image
from studio.pipelines.auto import Pipeline
from studio.training.audio_tokenizer_task import sound_sheet

ROOT = Path(__file__).parent
MODES = ("seed", "seed-jacobi", "seed-prior", "seed-recycling", "exact", "exact-prior")
SHOWN = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default="speech")
    parser.add_argument("--recogniser", default="runs/speech-recogniser/final")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of training runs")
    parser.add_argument("--trained-on", default=hardware_line(hardware()), help="for the card")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    if arguments.temperature is not None:
        pipe.decoding = pipe.decoding.with_options(temperature=arguments.temperature)
    recogniser = Recogniser.from_pretrained(arguments.recogniser).float().eval()
    data = SpokenSentences(sample_rate=pipe.sampling_rate, split="heldout")
    figures: dict = {"sampling": dict(pipe.decoding.config)}
    figures["speech"] = evaluate_spoken(pipe, recogniser, data, count=arguments.count)
    texts = [data.caption(i) for i in range(8)]
    figures["decoding"] = passes_per_token(pipe, texts, MODES)
    for part, values in figures.items():
        print(part, {k: v for k, v in values.items() if k != "sentences"})
    name = hardware_name(hardware())
    figures["training"] = measure_training("speech", arguments.runs, arguments.trained_on)
    if speed := read_figures(ROOT / "results" / f"codec-{name}.json").get("bundled"):
        figures["speed"] = speed
    path = ROOT / "results" / f"speech-{name}.json"
    print(write_speech_card(find_folder(arguments.model), path, **figures))
    if arguments.sheet:
        rows = []
        for index in range(SHOWN):
            utterance = data.utterance(index)
            generator = torch.Generator().manual_seed(index)
            made = pipe(utterance.text, generator=generator, **options_of(utterance)).audios[0]
            rows += [data[index][0][None], made[None]]
        write_image(arguments.sheet, sound_sheet(rows, pipe.sampling_rate))


if __name__ == "__main__":
    main()
