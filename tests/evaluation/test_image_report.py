"""The report of image tokenizers: figures against scikit-image, codecs, what is left out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from studio.evaluation.image_report import ImageEvaluation, few
from studio.evaluation.judges import Judges
from studio.evaluation.pictures import find_pictures, read_pictures
from studio.evaluation.report_page import write_report
from studio.evaluation.subjects import Subject
from studio.media.quality import ms_ssim
from tests import toys


@pytest.fixture
def evaluation(tmp_path, features, pictures):
    torch.manual_seed(0)
    (tmp_path / "data").mkdir()
    for i, picture in enumerate(pictures[:5]):
        pixels = ((picture + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((40, 30)).save(tmp_path / "data" / f"{i}.png")
    return ImageEvaluation(
        subjects=[
            Subject("prefix", toys.prefix_tokenizer(), "a"),
            Subject("grid", toys.grid_tokenizer(), "b"),
        ],
        files=find_pictures(tmp_path / "data"),
        judges=Judges(features),
        folder=tmp_path / "out",
        codecs=["jpeg"],
        batch_size=2,
        shown=3,
    )


def test_the_report(evaluation, tmp_path):
    told = []
    evaluation.progress = lambda *x: told.append(x)
    report = evaluation.run()
    ours = [r for r in report.rows if r["group"] == "tokenizers"]
    assert [(r["subject"], r["tokens"]) for r in ours] == [
        *[("prefix", n) for n in (1, 2, 4, 8)],
        ("grid", 16),
    ]
    assert [r["bytes"] for r in ours[:4]] == [0.5, 1.0, 2.0, 4.0]
    assert all(0 < r["codes_used"] <= 1 and 0 <= r["entropy"] <= 4 for r in ours[:4])
    theirs = [r for r in report.rows if r["subject"] == "JPEG"]
    assert {r["headers"] for r in theirs} == {"counted", "forgiven"}
    assert {r["bytes"] for r in ours} <= {r["budget"] for r in theirs}
    assert all(r["bytes"] > 100 for r in theirs if r["headers"] == "counted")
    assert ("prefix", 3, 3) in told and any("not Inception's" in note for note in report.notes)
    write_report(report, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["medium"] == "image"
    (prefix, grid) = report.exhibits
    assert len(prefix.rows) == 3 and [c.label for c in prefix.rows[0]] == [
        *("0.png", "1 token", "2 tokens", "4 tokens", "8 tokens", "JPEG")
    ]
    assert all((tmp_path / "out" / cell.file).is_file() for cell in grid.rows[2])


def test_figures_agree_with_scikit_image(evaluation):
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image (extra eval)")
    evaluation.counts, evaluation.codecs = [3], []
    row = evaluation.run().rows[0]
    tokenizer = evaluation.subjects[0].model
    images, _ = read_pictures(evaluation.files, 16)
    made = tokenizer.reconstruct(images, num_tokens=3).detach().clamp(-1, 1)
    pairs = [
        tuple((x.permute(1, 2, 0).double().numpy() + 1) / 2 for x in pair)
        for pair in zip(images, made, strict=True)
    ]
    psnr = [metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = [
        metrics.structural_similarity(a, b, data_range=1, channel_axis=-1, **window)
        for a, b in pairs
    ]
    assert row["tokens"] == 3
    assert row["psnr"] == pytest.approx(np.mean(psnr), abs=1e-4)
    assert row["ssim"] == pytest.approx(np.mean(ssim), abs=1e-4)
    assert row["ms_ssim"] == pytest.approx(ms_ssim(made, images).mean().item(), abs=1e-5)


def test_parts_do_not_change_the_figures(evaluation, tmp_path):
    evaluation.codecs = []
    first = evaluation.run().rows
    evaluation.batch_size, evaluation.folder = 5, tmp_path / "other"
    for a, b in zip(first, evaluation.run().rows, strict=True):
        assert {k: v for k, v in a.items() if isinstance(v, float)} == pytest.approx(
            {k: v for k, v in b.items() if isinstance(v, float)}, abs=1e-4
        )


def test_a_rerun_tells_pictures_apart_when_one_went_away(evaluation, tmp_path):
    """Parts of a picture each: the next ones move up by one."""
    evaluation.codecs, evaluation.counts, evaluation.batch_size = [], [3], 1
    evaluation.run()
    evaluation.files = evaluation.files[1:]
    again = evaluation.run()
    shown = [row[0].label for row in again.exhibits[0].rows]
    evaluation.folder = tmp_path / "other"
    assert shown == ["1.png", "2.png", "3.png"] and again.rows == evaluation.run().rows


def test_unreadable_pictures_are_counted(evaluation):
    evaluation.codecs = []
    evaluation.files[0].path.write_bytes(b"")
    report = evaluation.run()
    assert report.facts["pictures"] == 4 and report.facts["left out, unreadable"] == 1
    assert report.exhibits[0].rows[0][0].label == "1.png" and len(report.exhibits[0].rows) == 2
    for file in evaluation.files:
        file.path.write_bytes(b"")
    evaluation.folder = evaluation.folder / "b"
    with pytest.raises(ValueError, match="none of the 5 pictures can be read"):
        evaluation.run()


def test_what_would_fail_later_is_refused_at_once(evaluation):
    evaluation.counts = [9]
    with pytest.raises(ValueError, match="num_tokens 9 must lie between 1 and 8"):
        evaluation.run()
    evaluation.counts, evaluation.codecs = None, ["heic"]
    with pytest.raises(ValueError, match="codec 'heic' must be one of jpeg"):
        evaluation.run()


def test_few_keeps_the_ends():
    assert few(list(range(10)), 4) == [0, 3, 6, 9] and few([1, 2], 4) == [1, 2]
