"""The report of sound tokenizers: figures, parts of the data, what is left out, the page."""

import dataclasses
import json
import math

import pytest
import torch

from studio.evaluation.report import read_report
from studio.evaluation.report_page import write_report
from studio.evaluation.sound_codecs import available_codecs
from studio.evaluation.sound_judges import SoundJudges, mel_distance
from studio.evaluation.sound_report import SoundEvaluation
from studio.evaluation.sounds import find_sounds
from studio.evaluation.subjects import Subject
from studio.media.audio import read_audio, write_audio
from tests import toys


@pytest.fixture
def evaluation(tmp_path):
    torch.manual_seed(0)
    for i in range(4):
        time = torch.arange(9000 + 1000 * i) / 16000
        wave = 0.3 * torch.sin(2 * torch.pi * (120 + 30 * i) * time) * (torch.sin(20 * time) > 0)
        write_audio(tmp_path / "data" / f"{i}.wav", wave[None], 16000)
    return SoundEvaluation(
        subjects=[
            Subject("one", toys.speech_codec(), "a"),
            Subject("other", toys.speech_codec(hop=200), "b"),
        ],
        sounds=find_sounds(tmp_path / "data"),
        judges=SoundJudges(),
        folder=tmp_path / "out",
        codecs=available_codecs()[:1],
        batch_size=2,
        shown=3,
    )


def test_the_report(evaluation, tmp_path):
    told = []
    evaluation.progress = lambda *x: told.append(x)
    evaluation.sounds = [
        dataclasses.replace(sound, part="early" if i < 3 else "late")
        for i, sound in enumerate(evaluation.sounds)
    ]
    report = evaluation.run()
    ours = [r for r in report.rows if r["group"] == "tokenizers"]
    assert [(r["subject"], r["part"]) for r in ours] == [
        (name, part) for name in ("one", "other") for part in ("early", "late")
    ]
    early = ours[0]
    assert early["token_rate"] == pytest.approx((23 + 25 + 28) / (30000 / 16000))
    assert early["bit_rate"] == pytest.approx(early["token_rate"] * math.log2(12))
    assert ours[2]["token_rate"] == pytest.approx(2 * early["token_rate"], rel=0.05)
    assert 0 < early["codes_used"] <= 1 and early["entropy"] <= math.log2(12)
    first = evaluation.subjects[0].model
    waves = [sound.read(16000, 10.0) for sound in evaluation.sounds[:3]]
    by_hand = [
        mel_distance(first.reconstruct(w[None])[0].detach().clamp(-1, 1), w, 16000) for w in waves
    ]
    assert early["mel"] == pytest.approx(sum(by_hand) / 3, abs=1e-4)
    theirs = [r for r in report.rows if r["group"] != "tokenizers"]
    assert len(theirs) == 6 * len(evaluation.codecs) and ("one", 2, 2) in told
    write_report(report, tmp_path / "out")
    again = read_report(tmp_path / "out")
    assert again.medium == "sound" and again.facts["sounds"] == 4
    for row in again.exhibits[0].rows:
        assert row[0].label == f"{row[0].label[0]}.wav" and row[1].label == "tokens"
        for cell in row:
            sound = read_audio(tmp_path / "out" / cell.file)[0]
            assert 9000 <= sound.shape[-1] <= 12000 and (tmp_path / "out" / cell.picture).is_file()
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<audio") == sum(len(r) for e in again.exhibits for r in e.rows)
    assert page.count("<img src='data:image/png") == page.count("src='data:audio/")


def test_parts_do_not_change_the_figures_and_are_kept(evaluation, tmp_path):
    evaluation.subjects = evaluation.subjects[:1]
    evaluation.codecs = []
    first = evaluation.run().rows
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "parts").iterdir()}
    assert len(kept) == 2 and evaluation.run().rows == first
    assert kept == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "parts").iterdir()}
    evaluation.batch_size, evaluation.folder = 3, tmp_path / "other"
    (row,), (again,) = first, evaluation.run().rows
    assert json.dumps(row) == json.dumps(again)


def test_several_codebooks_are_counted_each(evaluation):
    from studio import LanguageCodec

    tiny = {"dim": 12, "encoder_width": 2, "lstm_layers": 1, "backbone_dim": 8}
    tiny |= {"backbone_hidden_dim": 8, "backbone_layers": 1}
    codec = LanguageCodec(**tiny, num_codebooks=4, codebook_size=6).eval()
    evaluation.subjects, evaluation.codecs = [Subject("books", codec, "c")], []
    (row,) = evaluation.run().rows
    assert row["token_rate"] == pytest.approx(4 * 75, rel=0.02)
    assert row["bit_rate"] == pytest.approx(300 * math.log2(6), rel=0.02)


def test_unreadable_sounds_are_counted(evaluation):
    evaluation.codecs, evaluation.subjects = [], evaluation.subjects[:1]
    evaluation.sounds[0].path.write_bytes(b"")
    report = evaluation.run()
    assert report.facts["sounds"] == 3 and report.facts["left out, unreadable"] == 1
    for sound in evaluation.sounds:
        sound.path.write_bytes(b"")
    evaluation.folder = evaluation.folder / "b"
    with pytest.raises(ValueError, match="none of the 4 sounds can be read"):
        evaluation.run()
    evaluation.codecs = ["aac"]
    with pytest.raises(ValueError, match="codec 'aac' must be one of"):
        evaluation.run()
