import json

import pytest

from studio.evaluation.report import Report
from studio.evaluation.speech_card import card_folder, write_speech_card
from tests import toys

ROW = {"token_rate": 74.1, "bit_rate": 815.0, "pesq": 2.31, "stoi": 0.934, "codes_used": 0.87}


@pytest.fixture
def report():
    rows = [
        {"group": "tokenizers", "subject": "speech", "part": "held-out sentences", **ROW},
        {"group": "tokenizers", "subject": "speech", "part": "held-out voices", **ROW, "pesq": 2.2},
        {"group": "codecs", "subject": "MP3", "part": "held-out sentences", "bit_rate": 8020.0}
        | {"pesq": 1.47, "stoi": 0.856},
        {"group": "codecs", "subject": "MP3", "part": "held-out voices", "bit_rate": 8020.0},
    ]
    return Report("t", "sound", [], rows, facts={"sounds": 100}, notes=["50 sentences."])


def test_sections_are_put_together(report, tmp_path):
    folder, figures = tmp_path / "speech", tmp_path / "figures.json"
    heard = {f"{kind}{of}": 0.1 for kind in ("cer", "wer") for of in ("", "_codec", "_real")}
    heard |= {"length_error": 0.05, "length_within_30": 1.0, "real_time": 3.2, "sentences": [{}]}
    write_speech_card(folder, figures, speech=heard)
    text = (folder / "README.md").read_text()
    assert "10.0 %" in text and "### Codec" not in text and "tokens:" not in text
    path = write_speech_card(folder, figures, codec=report)
    text = path.read_text()
    for words in (
        "tokens: 74 a second",
        "pipeline_tag: text-to-speech",
        "| PESQ, wide band | 2.31 | 2.20 | 1.47 |",
        "| codes used | 0.870 | 0.870 | – |",
        "held-out voices | MP3, 8.0 kbit/s |",
        "50 sentences.",
        "### Text to speech",
    ):
        assert words in text, words
    assert text.count("MP3") == 2 and "None" not in text and "nan" not in text
    found = json.loads(figures.read_text())
    assert set(found) >= {"codec", "speech", "hardware"}
    costs = {"plain": {"passes_per_token": 1.0, "tokens_per_second": 300.0, "same": 1.0}}
    write_speech_card(folder, figures, decoding=costs, speed={"real_time": 31.0})
    text = path.read_text()
    assert "| `plain` | 1.000 | 300 | 100.0 % |" in text and "takes 31 seconds" in text


def test_models_without_a_card_of_speech(tmp_path):
    toys.speech_codec().save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match="is no pipeline of speech"):
        card_folder([str(tmp_path / "codec")], synthetic=True)
    with pytest.raises(ValueError, match="of one model, not of 2"):
        card_folder(["a", "b"], synthetic=True)
    with pytest.raises(ValueError, match="leave --data out"):
        card_folder(["a"], synthetic=False)
