"""Cards and reports: every number from the figures, nothing guessed, files whole."""

import pytest
import torch

from studio.evaluation import report
from studio.evaluation.cards import write_card

FACTS = {"processor": "Some CPU", "cores": 2, "threads": 2, "torch": "2.11.0"}


@pytest.fixture
def figures():
    line = {"tokens": 64, "bytes": 96.0, "psnr": 23.456, "ssim": 0.8765, "fd": 0.0321}
    tokenizer = {
        "pictures": 500,
        "size": 64,
        "vocabulary": 4096,
        "codes_used": 0.912,
        "lengths": [line],
    }
    row = {"budget": 96.0, "bytes": 286.2, "psnr": 15.43, "fd": 0.71}
    codecs = {"pictures": 200, "codecs": {"jpeg": {"with_headers": [row]}}, "tokens": [line]}
    scores = {"top1": 0.777, "top5": 0.888, "fd": 0.05, "diversity": 0.9}
    pairs = dict.fromkeys(
        ("object", "object_top5", "colour", "background", "right", "all_right"), 0.61
    )
    generator = {
        "decoding": {"class": "Masked", "num_steps": 12, "guidance_scale": 2.5},
        "names": {"count": 300, "generated": scores, "real": {**scores, "top1": 0.99}},
        "combinations": {"count": 100, "generated": pairs, "real": pairs},
        "sheet": {"file": "contact-sheet-masked.png", "prompts": ["red apple", "cat on blue"]},
    }
    run = {
        "recipe": "recipes/cpu/emoji-1d-tokenizer.yaml",
        "steps": 6000,
        "hours": 1.25,
        "hardware": "x",
    }
    model = {
        "tokenizer": tokenizer,
        "codecs": codecs,
        "curve": "curve.png",
        "generators": {"masked": generator},
        "training": [run],
        "speed": {"warm_picture": 0.41},
    }
    features = {
        "names": 1619,
        "pictures": 1619,
        "parameters": 1234567,
        "top1": 0.961,
        "top5": 0.999,
    }
    return {"hardware": FACTS, "models": {"emoji-1d": model}, "features": features}


def test_card_of_a_model(figures, tmp_path):
    path = write_card(tmp_path / "emoji-1d", figures, limits=["Hands are poor."])
    text = path.read_text(encoding="utf-8")
    expected = [
        "license: apache-2.0",
        "SIL Open Font License 1.1",
        "recipes/cpu/emoji-1d-tokenizer.yaml",
        "| 64 | 96.0 | 23.46 | 0.876 | 0.0321 |",
        "| JPEG, with headers | 286 | 15.43 | 0.7100 |",
        "| name retrieved, top-1 | 77.7 % | 99.0 % |",
        "91.2 %",
        "not Inception",
        "(contact-sheet-masked.png)",
        "1. cat on blue",
        "curve.png",
        "| warm picture | 0.41 |",
        "Hands are poor.",
        "Some CPU, 2 cores",
    ]
    assert [line for line in expected if line not in text] == []
    assert [p.name for p in path.parent.iterdir()] == ["README.md"]


def test_what_is_not_measured_is_left_out(figures, tmp_path):
    model = figures["models"]["emoji-1d"]
    for key in ("codecs", "curve", "generators", "training", "speed"):
        del model[key]
    text = write_card(tmp_path / "emoji-1d", figures).read_text(encoding="utf-8")
    assert "Tokenizer" in text
    for word in ("Training", "Generator:", "codecs", "Speed", "Contact", "None", "nan"):
        assert word not in text


def test_card_of_the_features(figures, tmp_path):
    text = write_card(tmp_path / "emoji-features", figures).read_text(encoding="utf-8")
    assert "1,234,567 parameters" in text and "| name retrieved, top-1 | 96.1 % |" in text


def test_an_unmeasured_model_is_refused(figures, tmp_path):
    with pytest.raises(ValueError, match="figures hold nothing about 'other'"):
        write_card(tmp_path / "other", figures)
    assert not (tmp_path / "other").exists()


def test_figures_are_written_with_hardware(tmp_path):
    path = report.write_figures(tmp_path / "a" / "figures.json", {"models": {"é": 1}})
    found = report.read_figures(path)
    assert found["models"] == {"é": 1} and "not Inception" in found["note"]
    assert found["hardware"]["cores"] >= 1 and "hostname" not in path.read_text()
    assert report.read_figures(tmp_path / "none.json") == {}
    assert report.hardware_name(FACTS) == "cpu-2-cores"
    assert report.hardware_name({**FACTS, "gpu": "NVIDIA H100 80GB"}) == "nvidia-h100-80gb"


def test_contact_sheet_places_pictures_row_after_row():
    images = torch.stack([torch.full((3, 4, 4), v) for v in (-1.0, 0.0, 1.0)])
    sheet = report.contact_sheet(images, columns=2, gap=1)
    assert sheet.size == (9, 9)
    assert sheet.getpixel((0, 0)) == (0, 0, 0) and sheet.getpixel((4, 0)) == (255, 255, 255)
    assert sheet.getpixel((5, 0)) == (128, 128, 128) and sheet.getpixel((0, 5)) == (255, 255, 255)


def test_curve_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra eval)")
    from PIL import Image

    line = [{"bytes": b, "psnr": b**0.5, "fd": 1 / b} for b in (12.0, 48.0, 96.0)]
    codecs = {"codecs": {"jpeg": {"with_headers": line, "without_headers": line}}}
    ours = {"lengths": line, "pictures": 3, "size": 64}
    path = report.plot_curve(tmp_path / "curve.png", ours, codecs)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size[0] > 800
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
