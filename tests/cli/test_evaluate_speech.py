"""`studio evaluate speech`."""

import json
import shutil

import pytest
import torch

from studio.data.speech import PROGRAM
from studio.media.audio import write_audio


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    from tests.toys import speech_pipeline

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "talk"
    speech_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    for i in range(2):
        wave = 0.3 * torch.sin(torch.arange(8000 * (i + 1)) / 15)[None]
        write_audio(tmp_path / "data" / f"{i}.wav", wave, 8000)
    return tmp_path / "data"


def test_a_folder_of_sounds(call, speech, data, tmp_path):
    made = ["evaluate", "speech", speech, "--data", data, "--out", "r", "--codecs", "none"]
    done = call(*made, "--sounds", 1, "--seconds", 1.5)
    assert done.returncode == 0, done.stderr
    assert "talk" in done.stdout and "index.html" in done.stdout
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    (row,) = report["rows"]
    assert row["token_rate"] == pytest.approx(40, rel=0.05) and row["mel"] > 0
    assert report["facts"]["seconds"] == 2.5 and len(report["exhibits"][0]["rows"]) == 1
    page = (tmp_path / "r" / "index.html").read_text()
    assert "<audio" in page and str(tmp_path) not in page


@pytest.mark.skipif(not shutil.which(PROGRAM), reason="needs espeak-ng")
def test_held_out_sentences_and_the_card(call, speech, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = shutil.copytree(speech, tmp_path / "talk")
    made = ["evaluate", "speech", model, "--out", "r", "--codecs", "none", "--count", 2]
    done = call(*made, "--sounds", 0, "--card", "figures.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [row["part"] for row in report["rows"]] == ["held-out sentences", "held-out voices"]
    assert report["facts"]["sounds"] == 4 and "jon" in report["notes"][0]
    card = (model / "README.md").read_text()
    assert "| held-out sentences | held-out voices |" in card
    rows = json.loads((tmp_path / "figures.json").read_text())["codec"]["rows"]
    assert rows == report["rows"] and f"{rows[0]['mel']:.3f}" in card


def test_wrong_calls(fails, speech, tiny_model, data, tmp_path):
    made = ["evaluate", "speech", speech, "--data", data]
    fails(*made[:3], "--data", tmp_path / "none", message="does not exist")
    fails("evaluate", "speech", tiny_model, "--data", data, message="for image, not for sound")
    fails(*made, "--seconds", 0, message="--seconds 0 must lie between")
    fails(*made, "--codecs", "aac", message="codec 'aac' must be one of")
    fails(*made, "--opinion", tmp_path / "no.onnx", message="does not exist")
    fails(*made, "--speaker", data / "0.wav", message="suffix '.wav' must be one of")
    fails(*made, "--recogniser", data, message="--recogniser")
    fails(*made, "--card", "x.json", message="leave --data out")
