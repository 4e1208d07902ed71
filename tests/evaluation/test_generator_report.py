"""The report of generators: real tiny pipelines on captioned pictures."""

import pytest
import torch
from PIL import Image

import studio
from studio.evaluation.generator_report import GeneratorEvaluation, caption_gallery, find_items
from studio.evaluation.judges import Judges
from studio.evaluation.subjects import Subject
from tests import toys

CAPTIONS = ["a red thing", "blue", "a red thing", "rocket", "green"]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["file,caption"]
    for i, caption in enumerate(CAPTIONS):
        Image.effect_noise((20, 20), 30 + 30 * i).convert("RGB").save(folder / f"{i}.png")
        lines.append(f"{i}.png,{caption}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    tokenizer = toys.prefix_tokenizer()
    words = studio.CaptionTokenizer.train(["red apple", "blue rocket"] * 9, 280)
    network = toys.text_generator("masked", tokenizer, words)
    return studio.TextToImagePipeline(tokenizer, network, words, studio.Masked(num_steps=2))


def evaluation(pipe, data, features, folder, **options):
    return GeneratorEvaluation(
        subjects=[Subject("tiny", pipe, "a")],
        items=find_items(data),
        judges=Judges(features),
        folder=folder,
        shown=3,
        **options,
    )


def test_the_report(pipe, data, features, tmp_path):
    report = evaluation(pipe, data, features, tmp_path / "out", batch_size=2).run()
    made, real = report.rows
    assert (made["subject"], real["subject"]) == ("tiny", "real pictures")
    assert made["fd"] >= 0 and 0 <= made["precision"] <= 1 and 0 <= made["recall"] <= 1
    assert "fd" not in real and real["top5"] == 1.0 and real["diversity"] >= 0
    assert report.facts["decoding"]["tiny"]["num_steps"] == 2
    assert [c.label for c in report.exhibits[0].rows[0]] == CAPTIONS[:3]
    whole = evaluation(pipe, data, features, tmp_path / "b", batch_size=5).run()
    assert made == pytest.approx(whole.rows[0], abs=1e-5)


def test_a_rerun_with_fewer_captions_is_a_new_one(pipe, data, features, tmp_path):
    """Picture i has seed i, whatever was made before."""
    work = evaluation(pipe, data, features, tmp_path / "out", batch_size=1)
    work.run()
    work.items = work.items[1:]
    again = work.run()
    fresh = evaluation(pipe, data, features, tmp_path / "other", batch_size=1)
    fresh.items = fresh.items[1:]
    assert [c.label for c in again.exhibits[0].rows[0]] == CAPTIONS[1:4]
    assert again.rows == fresh.run().rows


def test_classes_need_whole_numbers(data, features, tmp_path):
    tokenizer = toys.prefix_tokenizer()
    network = toys.generator("masked", tokenizer, condition="class", num_classes=4)
    pipe = studio.ClassToImagePipeline(tokenizer, network, studio.Masked(num_steps=2))
    made = evaluation(pipe, data, features, tmp_path / "out")
    with pytest.raises(ValueError, match="captions must be whole numbers"):
        made.check()
    text = (data / "captions.csv").read_text()
    for place, caption in enumerate(dict.fromkeys(CAPTIONS)):
        text = text.replace(caption + "\n", f"{place}\n").replace(",green", ",3")
    (data / "classes").mkdir()
    for file in data.glob("*.png"):
        file.rename(data / "classes" / file.name)
    (data / "classes" / "captions.csv").write_text(text)
    report = evaluation(pipe, data / "classes", features, tmp_path / "out").run()
    assert report.facts["pictures"] == 5


def test_galleries(features):
    real = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    places, gallery, told = caption_gallery(["cat", "sun", "cat"], real, features)
    assert places.tolist() == [2, 4, 2] and len(gallery) == 6 and "names" in told
    places, gallery, told = caption_gallery(["x", "y", "x"], real, features)
    assert places.tolist() == [0, 1, 0] and torch.allclose(gallery[1], real[1])
    mean = torch.nn.functional.normalize(real[0] + real[2], dim=0)
    assert torch.allclose(gallery[0], mean, atol=1e-6) and "mean of its real" in told


def test_data_that_is_refused(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_items(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture with a caption"):
        find_items(tmp_path / "empty")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "captions.csv").write_text("name,words\na,b\n")
    with pytest.raises(ValueError, match="needs file and caption in every row"):
        find_items(tmp_path / "odd")
    (data / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match="captions name '3.png', absent"):
        find_items(data)
