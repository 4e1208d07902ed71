"""How fast codecs of sound are, and what memory long files take.

    python benchmarks/codec.py [-m speech] [--rounds 7]

Sections: the bundled codec against real time; its memory over a ten-minute sound and over one of a
minute, each in a process of its own; and WavTokenizer at its official size against transformers'
EnCodec at 24 kHz (both with random weights, nothing is downloaded), in turns in the same run: the
ratio is the median over rounds of EnCodec's seconds by ours. Figures go to
benchmarks/results/codec-<hardware>.json after every section. Three minutes on two cores.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from studio.evaluation.report import hardware, hardware_name
from studio.evaluation.subjects import open_tokenizers
from studio.media.files import atomic_write
from studio.tokenizers.wavtokenizer import WavTokenizer

ROOT = Path(__file__).parent
SECTIONS = ("bundled", "memory", "encodec")
CLIPS = (3, 10, 60)  # seconds
PAIR_CLIPS = (3, 10)
MINUTES = (1, 10)


def voice(seconds: float, sample_rate: int) -> torch.Tensor:
    """Something like speech, (1, 1, L): pulses of a wandering pitch with pauses, and noise."""
    place = torch.arange(round(seconds * sample_rate)) / sample_rate
    turns = torch.cumsum(130 + 40 * torch.sin(2 * place), 0) / sample_rate
    wave = sum(torch.cos(2 * math.pi * k * turns) / k for k in range(1, 9))
    hiss = torch.randn(len(place), generator=torch.Generator().manual_seed(0))
    return (0.1 * wave * (torch.sin(11 * place) > -0.3) + 0.002 * hiss)[None, None]


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def measure_bundled(model: str, rounds: int) -> dict:
    """Seconds of sound a second, through the codec and back; and a second that one core works,
    which other programs on the machine change less."""
    (subject,) = open_tokenizers([model], medium="sound")
    codec, rows = subject.model, []
    for seconds in CLIPS:
        wave = voice(seconds, codec.sample_rate)
        tokens = codec.encode(wave).tokens
        codec.decode(tokens)
        used = time.process_time()
        encode = [seconds_of(lambda w=wave: codec.encode(w)) for _ in range(rounds)]
        decode = [seconds_of(lambda t=tokens: codec.decode(t)) for _ in range(rounds)]
        used = time.process_time() - used
        both = statistics.median(map(sum, zip(encode, decode, strict=True)))
        rows.append(
            {
                "clip_seconds": seconds,
                "encode_seconds": statistics.median(encode),
                "decode_seconds": statistics.median(decode),
                "real_time": seconds / both,
                "real_time_of_a_core": seconds * rounds / used,
            }
        )
    return {
        "model": model,
        "parameters": sum(p.numel() for p in codec.parameters()),
        "token_rate": codec.frame_rate * codec.num_codebooks,
        "clips": rows,
        "real_time": min(row["real_time"] for row in rows),
    }


# --- memory --------------------------------------------------------------------------------------


def measure_memory(model: str) -> dict:
    """MiB at the peak above what was in use before, by the length of the sound; `samples` of it are
    the output itself, which a caller of `decode` gets whole."""
    found = {}
    for minutes in MINUTES:
        command = [sys.executable, __file__, "-m", model, "--peak", str(minutes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"{minutes} min"] = json.loads(done.stdout.splitlines()[-1])
    short, long = (found[f"{minutes} min"] for minutes in MINUTES)
    found["growth_mib"] = long["streamed"] - short["streamed"]
    return found


@torch.no_grad()
def print_peak(model: str, minutes: int) -> None:
    """What `measure_memory` reads, for one length: whole tensors, and the wave in pieces."""
    (subject,) = open_tokenizers([model], medium="sound")
    codec = subject.model
    codec.reconstruct(voice(15, codec.sample_rate))  # what is kept for good is there now
    wave = voice(60 * minutes, codec.sample_rate)

    def stream() -> None:
        tokens = codec.encode(wave).tokens
        pieces = tokens[:, None].split(codec.window_frames, -1)
        for _ in codec.wave_stream(pieces):
            pass

    streamed = peak_of(stream)
    whole = peak_of(lambda: codec.reconstruct(wave))
    samples = wave.numel() * wave.element_size() / 2**20
    print(json.dumps({"streamed": streamed, "whole": whole, "samples": samples}))


def peak_of(work: Callable[[], object]) -> float:
    """MiB above those before (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / 1024


def status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


# --- beside EnCodec ------------------------------------------------------------------------------


@torch.no_grad()
def measure_encodec(rounds: int) -> dict:
    """WavTokenizer (75 tokens a second) and EnCodec (1.5 kbit/s, its lowest), there and back."""
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    ours = WavTokenizer().eval()
    theirs = EncodecModel(EncodecConfig()).eval()
    rows = []
    for seconds in PAIR_CLIPS:
        wave = voice(seconds, 24000)

        def by_encodec(wave: torch.Tensor = wave) -> object:
            encoded = theirs.encode(wave, bandwidth=1.5)
            return theirs.decode(encoded.audio_codes, encoded.audio_scales)[0]

        work = {"wavtokenizer": lambda w=wave: ours.reconstruct(w), "encodec": by_encodec}
        for one in work.values():
            one()
        taken = [{name: seconds_of(one) for name, one in work.items()} for _ in range(rounds)]
        middle = {name: statistics.median(t[name] for t in taken) for name in work}
        rows.append(
            {
                "clip_seconds": seconds,
                **{f"{name}_seconds": value for name, value in middle.items()},
                "ratio": statistics.median(t["encodec"] / t["wavtokenizer"] for t in taken),
            }
        )
    parameters = {"wavtokenizer": ours, "encodec": theirs}
    return {
        "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in parameters.items()},
        "clips": rows,
        "ratio": min(row["ratio"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-m", "--model", default="speech")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.model, arguments.peak)
        return
    measures = {
        "bundled": lambda: measure_bundled(arguments.model, arguments.rounds),
        "memory": lambda: measure_memory(arguments.model),
        "encodec": lambda: measure_encodec(arguments.rounds),
    }
    path = arguments.out or ROOT / "results" / f"codec-{hardware_name(hardware())}.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for section in arguments.sections:
        figures |= {"hardware": hardware(), section: measures[section]()}
        print(section, json.dumps(figures[section], indent=1))
        atomic_write(path, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
