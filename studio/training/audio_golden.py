"""Recorded pieces of WavTokenizer's training: codebook steps, losses, what discriminators look at.

The codebook takes the recorded steps in order, so that every step checks the ones before it too.
"""

import re
from pathlib import Path
from typing import Any

import torch

from studio.conversion.convert import read_tensors
from studio.conversion.wavtokenizer import codebook_rules, prepare
from studio.layers.spectrogram import LogMel, magnitudes, mel_filterbank
from studio.quantizers.vq import VectorQuantizer
from studio.training import audio_losses as losses
from studio.training.audio_discriminators import BandDiscriminator

TOLERANCE, MEL_TOLERANCE = 1e-5, 1e-4
_EPSILON = 1e-5  # of the smoothed counts, in VectorQuantizer


def check_training(fixture: Any, folder: Path) -> None:
    """Compare every recorded piece.

    Args:
        fixture: takes inputs and comparisons, see `evaluation.verify.RecordedFixture`.
        folder: where `weights.safetensors`, the codebook before training, lies.

    Raises:
        ValueError: a setting that ours has no counterpart of.
    """
    names = fixture.names()
    codebook = _codebook(fixture.config, folder / "weights.safetensors")
    with torch.enable_grad():
        for step in sorted({int(m[1]) for m in map(_STEP.fullmatch, names) if m}):
            _check_step(fixture, codebook, step)
    _check_mel(fixture, sorted({n.split(".")[1] for n in names if _MEL.fullmatch(n)}))
    _check_hinge(fixture, sum(n.startswith("hinge.real") for n in names))
    _check_spectra(fixture, names)


_STEP = re.compile(r"input\.step(\d+)")
_MEL = re.compile(r"mel\.\w+\.y")
_BAND = re.compile(r"dac\.band(\d+)_fft(\d+)")
_MAGNITUDE = re.compile(r"mrd\.spectrogram_(\d+)")


def _codebook(config: dict[str, Any], weights: Path) -> VectorQuantizer:
    if config["epsilon"] != _EPSILON:
        raise ValueError(f"epsilon {config['epsilon']} must be {_EPSILON}")
    codebook = VectorQuantizer(
        config["codebook_size"],
        config["dim"],
        l2_norm=False,
        commitment=config["commitment_weight"],
        ema_decay=config["decay"],
        kmeans_start=True,
        encodec_averages=True,
    )
    rules, state = codebook_rules("_codebook.", ""), prepare(read_tensors(weights))
    renamed = {rule.rename(key): value for key, value in state.items() for rule in rules}
    codebook.load_state_dict({name: value for name, value in renamed.items() if name})
    return codebook.train()


def _check_step(fixture: Any, codebook: VectorQuantizer, step: int) -> None:
    """One training step: its output, its gradients, and the codebook after it."""
    features = fixture.input(f"input.step{step}").requires_grad_()  # (B, D, T)
    out = codebook(features.transpose(1, 2))
    quantized, name = out.quantized.transpose(1, 2), f"step{step}."
    fixture.expect(name + "quantized", quantized.detach(), TOLERANCE)
    fixture.expect(name + "codes", out.indices)
    fixture.expect(name + "commit_loss", out.loss.detach().reshape(1), TOLERANCE)
    (gradient,) = torch.autograd.grad(out.loss, features, retain_graph=True)
    fixture.expect(name + "grad_commit", gradient, TOLERANCE)
    # a fixed linear function was taken of the output, whose weights reach the input unchanged
    weights = fixture.input(name + "grad_straight_through")
    (gradient,) = torch.autograd.grad((quantized * weights).sum(), features)
    fixture.expect(name + "grad_straight_through", gradient, TOLERANCE)
    fixture.expect(name + "embed", codebook.embedding.detach(), TOLERANCE)
    fixture.expect(name + "embed_avg", codebook.ema_sum, TOLERANCE)
    fixture.expect(name + "cluster_size", codebook.ema_count, TOLERANCE)


def _check_mel(fixture: Any, cases: list[str]) -> None:
    settings = fixture.config["mel"]
    if settings.get("power", 1) != 1:
        raise ValueError(f"mel.power {settings['power']} must be 1")
    sizes = [settings[k] for k in ("sample_rate", "n_fft", "hop_length", "n_mels")]
    loss = losses.MelLoss(*sizes)
    loss.features = LogMel(*sizes, clip=settings["clip"], center=settings.get("center", True))
    fixture.expect("mel.filterbank", mel_filterbank(sizes[0], sizes[1], sizes[3]), TOLERANCE)
    for case in cases:
        real, fake = (fixture.input(f"mel.{case}.{part}") for part in ("y", "y_hat"))
        found = loss(fake[:, None], real[:, None])
        fixture.expect(f"mel.{case}.loss", found.reshape(1), MEL_TOLERANCE)
        if f"mel.{case}.logmel_y" in fixture:
            fixture.expect(f"mel.{case}.logmel_y", loss.features(real), MEL_TOLERANCE)


def _check_hinge(fixture: Any, count: int) -> None:
    real, fake = (
        [fixture.input(f"hinge.{side}{i}") for i in range(count)] for side in ("real", "fake")
    )
    summed = losses.hinge_generator(fake) * count
    fixture.expect("hinge.gen_loss_sum", summed.reshape(1), TOLERANCE)
    summed = losses.hinge_discriminator(real, fake) * count
    fixture.expect("hinge.disc_loss_sum", summed.reshape(1), TOLERANCE)


def _check_spectra(fixture: Any, names: list[str]) -> None:
    """What the discriminators of bands and of resolutions are given."""
    wave = fixture.input("dac.input")  # (B, 1, L)
    level = losses.peak_normalised(wave)
    fixture.expect("dac.preprocessed", level, TOLERANCE)
    bands = {int(m[2]) for m in map(_BAND.fullmatch, names) if m}
    for n_fft in sorted(bands):
        for number, band in enumerate(BandDiscriminator(n_fft, width=1).split(wave)):
            fixture.expect(f"dac.band{number}_fft{n_fft}", band, TOLERANCE)
    for match in filter(None, map(_MAGNITUDE.fullmatch, names)):
        n_fft = int(match[1])
        spectrum = magnitudes(wave[:, 0], n_fft, n_fft // 4, floor=1e-12)
        fixture.expect(match[0], spectrum, TOLERANCE)
