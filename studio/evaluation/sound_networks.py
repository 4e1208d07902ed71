"""Scores of sound by networks whose files the user has: opinion scores, speakers, what is heard.

UTMOS (2022, 2204.02152), DNSMOS (2021, 2010.15258), speaker networks and recognisers are others'
weights under others' licences; studio downloads none and knows none of their architectures. What
it takes is a TorchScript or ONNX file that maps a wave at 16 kHz to a score or to a vector, and,
for words, the folder of a `Recogniser`. Leaves out on purpose: what a certain release does
around its network (DNSMOS fits polynomials to its outputs): the file's own output is shown.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from studio.data.word_errors import character_error_rate
from studio.env import probe
from studio.evaluation.recogniser import Recogniser
from studio.evaluation.report import Column
from studio.media.resampling import resample

RATE = 16000
SUFFIXES = (".pt", ".jit", ".ts", ".onnx")


@dataclass
class SoundNetwork:
    """One score.

    Args:
        column: what it is called. identity: of its very weights.
        run: the network: waves (1, L) at 16 kHz to a tensor (opinion scores and vectors), or a
            `Recogniser`.
        kind: "opinion" (of the made sound alone), "speaker" (cosine of both sounds' vectors) or
            "words" (character errors between what is heard in both).
    """

    column: Column
    identity: str
    run: Any
    kind: str

    @torch.no_grad()
    def score(self, fake: torch.Tensor, real: torch.Tensor, sample_rate: int) -> float:
        """The score of a sound (1, L) beside its original (1, L)."""
        one, other = (resample(wave, sample_rate, RATE) for wave in (fake, real))
        if self.kind == "words":
            heard = self.run.transcribe([other, one], sample_rate=RATE)
            return character_error_rate([(heard[0], heard[1])]) if heard[0] else math.nan
        if self.kind == "speaker":
            vectors = [self.run(wave).flatten().float() for wave in (one, other)]
            return F.cosine_similarity(vectors[0], vectors[1], dim=0).item()
        return self.run(one).flatten().float()[-1].item()


def open_opinion(path: str | Path) -> SoundNetwork:
    """A network that gives a sound a score, the last of its outputs; named by its file.

    Raises:
        FileNotFoundError, ValueError, ImportError: one line: no such file, another format, it can't
            be run, or the package that runs it is missing.
    """
    run, identity = _open(path)
    name = Path(path).stem
    about = f"what {Path(path).name} gives for the sound alone at 16 kHz, unscaled"
    return SoundNetwork(
        Column(f"opinion {name}", name, "", "higher", about), identity, run, "opinion"
    )


def open_speaker(path: str | Path) -> SoundNetwork:
    """A network that gives a sound a vector for its speaker; raises as `open_opinion`."""
    run, identity = _open(path)
    about = f"cosine of the vectors that {Path(path).name} gives for original and sound"
    column = Column("speaker", "speaker similarity", "", "higher", about)
    return SoundNetwork(column, identity, run, "speaker")


def open_words(folder: str | Path) -> SoundNetwork:
    """A `Recogniser` from its folder. Raises ValueError in one line when there is none."""
    try:
        run = Recogniser.from_pretrained(str(folder)).float().eval()
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--recogniser {str(folder)!r}: {line[:200]}") from error
    total = hashlib.sha256()
    for name, weight in sorted(run.state_dict().items()):
        total.update(name.encode() + weight.cpu().contiguous().numpy().tobytes())
    column = Column(
        "words",
        "letters heard otherwise",
        "share",
        "lower",
        "character errors of what the given recogniser hears, against what it hears in the "
        "original",
    )
    return SoundNetwork(column, total.hexdigest()[:16], run, "words")


def _open(path: str | Path) -> tuple[Any, str]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"network {str(path)!r} does not exist")
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ValueError(f"network {str(path)!r}: suffix {path.suffix!r} must be one of {known}")
    run = _open_onnx(path) if path.suffix.lower() == ".onnx" else _open_torchscript(path)
    try:
        found = run(torch.zeros(1, RATE))
        if not isinstance(found, torch.Tensor) or not found.numel():
            raise TypeError("it gives no tensor")
    except Exception as error:  # whatever the file does
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(
            f"network {str(path)!r} must take waves (1, L) at 16 kHz: {line[:200]}"
        ) from error
    with open(path, "rb") as file:
        return run, hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _open_torchscript(path: Path) -> Any:
    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"network {str(path)!r} is no TorchScript file") from error
    return network


def _open_onnx(path: Path) -> Any:
    if not probe("onnxruntime").ok:
        raise ImportError(
            f"network {str(path)!r}: onnxruntime does not work here; run: pip install onnxruntime"
        )
    import onnxruntime  # pyright: ignore[reportMissingImports]

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the package raises classes of its own
        raise ValueError(f"network {str(path)!r} is no ONNX file") from error
    entry = session.get_inputs()[0]
    length = entry.shape[-1] if isinstance(entry.shape[-1], int) else None

    def run(wave: torch.Tensor) -> torch.Tensor:
        if length is not None:  # a fixed window, as DNSMOS has: repeated until it is full
            wave = wave.repeat(1, -(-length // wave.shape[-1]))[:, :length]
        return torch.from_numpy(session.run(None, {entry.name: wave.numpy()})[0])

    return run


def open_all(
    opinions: Sequence[Path], speaker: Path | None, recogniser: Path | None
) -> list[SoundNetwork]:
    """All networks that the user named; raises as those that open them."""
    found = [open_opinion(path) for path in opinions]
    found += [open_speaker(speaker)] if speaker else []
    return found + ([open_words(recogniser)] if recogniser else [])
