"""Codecs at byte counts: payloads, budgets, the comparison."""

import json

import pytest
import torch
from PIL import Image

from studio.evaluation import codecs
from studio.media.image import to_pil


@pytest.fixture
def picture(pictures):
    return to_pil(pictures[0])


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_payload_is_less_than_the_file_and_grows_with_quality(picture, codec):
    if codec not in codecs.available_codecs():
        pytest.skip(f"this Pillow has no {codec}")
    sizes = []
    for quality in (5, 60):
        data = codecs.encode(picture, codec, quality)
        payload = codecs.payload_bytes(data, codec)
        assert 0 < payload < len(data) - 10
        sizes.append((payload, len(data)))
    assert sizes[0] < sizes[1]


def test_jpeg_payload_is_the_scan(picture):
    data = codecs.encode(picture, "jpeg", 50)
    start = data.index(b"\xff\xda")
    header = int.from_bytes(data[start + 2 : start + 4], "big") + 2
    assert codecs.payload_bytes(data, "jpeg") == len(data) - start - header - 2  # EOI


def test_nearest_count_not_below(picture):
    found = codecs.encodings(picture, "jpeg")
    assert {e.scale for e in found} == {1, 2, 4, 8}
    assert all(e.pixels.shape == (32, 32, 3) for e in found)
    sizes = sorted(e.file for e in found)
    middle = sizes[len(sizes) // 2]
    best = codecs.best_within(found, middle - 0.5, headers=True)
    assert best.file <= middle
    assert best.psnr == max(e.psnr for e in found if e.file <= middle)
    assert codecs.best_within(found, 1, headers=True).file == sizes[0]  # its smallest stands
    assert codecs.best_within(found, 1e9, headers=True).psnr == max(e.psnr for e in found)
    forgiven = codecs.best_within(found, 40, headers=False)
    assert forgiven.psnr >= codecs.best_within(found, 40, headers=True).psnr


def test_a_flat_picture_costs_little():
    found = codecs.encodings(Image.new("RGB", (32, 32), (200, 30, 40)), "webp")
    assert max(e.psnr for e in found) > 35
    assert min(e.file for e in found) < 60


def test_evaluation_and_comparison(pictures, features):
    result = codecs.evaluate_codecs(pictures[:3], [40.0, 400.0], features=features, codecs=["jpeg"])
    assert json.loads(json.dumps(result)) == result
    assert "not Inception" in result["note"]
    with_headers = result["codecs"]["jpeg"]["with_headers"]
    without = result["codecs"]["jpeg"]["without_headers"]
    assert with_headers[0]["bytes"] == with_headers[0]["smallest"] > 200
    assert without[0]["bytes"] < with_headers[0]["bytes"]
    assert with_headers[0]["psnr"] <= with_headers[1]["psnr"]
    ours = {"lengths": [{"tokens": 8, "bytes": 40.0, "psnr": 99.0, "fd": -1.0}]}
    rows = codecs.compare(ours, result)
    assert [row["headers"] for row in rows] == ["with_headers", "without_headers"]
    assert all(row["better"] and row["tokens"] == 8 for row in rows)
    worse = {"lengths": [{"tokens": 8, "bytes": 40.0, "psnr": 99.0, "fd": 1e9}]}
    assert not any(row["better"] for row in codecs.compare(worse, result))


def test_every_figure_is_finite(pictures, features):
    result = codecs.evaluate_codecs(pictures[:2], [60.0], features=features, codecs=["webp"])
    for row in result["codecs"]["webp"]["without_headers"]:
        assert torch.isfinite(torch.tensor(list(row.values()))).all()
