"""Video tokenizers over clips: layers, codecs, distances, what is shown, and what is refused."""

import json

import pytest
import torch

from studio.env import emoji_font
from studio.evaluation import video_report
from studio.evaluation.clips import find_clips, heldout_clips, read_clips
from studio.evaluation.i3d import I3D, names
from studio.evaluation.judges import Judges
from studio.evaluation.report_page import write_report
from studio.evaluation.subjects import Subject
from studio.evaluation.video_codecs import CODECS, available_codecs, decode, encode, encodings
from studio.evaluation.video_judges import ClipJudges, clip_features
from studio.media.video_writer import write_video
from tests import toys

pytest.importorskip("av")


def smooth(count=1, frames=8, size=16):
    noise = torch.rand(count, 3, 2, 3, 3, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return torch.nn.functional.interpolate(noise, (frames, size, size), mode="trilinear")


@pytest.fixture
def folder(tmp_path):
    for number, clip in enumerate(smooth(3, frames=9, size=24)):
        write_video(tmp_path / "data" / f"{number}.mp4", clip[..., :20], fps=8)
    write_video(tmp_path / "data" / "short.gif", smooth(1, frames=3)[0], fps=8)
    (tmp_path / "data" / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    return tmp_path / "data"


@pytest.fixture
def codec(monkeypatch):
    """The first codec, with two qualities."""
    name = available_codecs()[0]
    container, encoder, qualities, options = CODECS[name]
    fewer = {name: (container, encoder, (qualities[0], qualities[-1]), options)}
    monkeypatch.setattr("studio.evaluation.video_codecs.CODECS", fewer)
    return name


def test_a_folder_of_clips(folder, features, codec, tmp_path, caplog):
    torch.manual_seed(0)
    clips = find_clips(folder)
    assert [clip.name for clip in clips] == ["0.mp4", "1.mp4", "2.mp4", "cut.mp4", "short.gif"]
    evaluation = video_report.VideoEvaluation(
        subjects=[Subject("toy", toys.video_tokenizer(), "1")],
        clips=clips,
        judges=ClipJudges(Judges(features=features)),
        folder=tmp_path / "r",
        codecs=[codec],
        batch_size=2,
        shown=1,
    )
    report = evaluation.run()
    assert report is not None and "left out" in caplog.text
    ours = [row for row in report.rows if row["group"] == "tokenizers"]
    assert [(row["layers"], row["tokens"]) for row in ours] == [(1, 4), (2, 20), (3, 28)]
    keys = {"psnr", "ssim", "ms_ssim", "flicker", "warped", "fd", "bpp", "codes_used", "entropy"}
    assert all(keys <= set(row) for row in ours)
    assert report.facts["clips"] == 3 and report.facts["left out"] == 2
    theirs = [row for row in report.rows if row["group"] != "tokenizers"]
    assert {row["headers"] for row in theirs} == {"counted", "forgiven"} and theirs[-1]["psnr"] > 18
    write_report(report, tmp_path / "r")
    page = (tmp_path / "r" / "index.html").read_text()
    assert page.count("<video controls") == 5 and "data:video/mp4;base64" in page
    assert json.loads((tmp_path / "r" / "report.json").read_text())["medium"] == "video"
    again = evaluation.run()  # from the parts that were kept
    assert again is not None and again.rows == report.rows


def test_held_out_clips():
    if not emoji_font():
        pytest.skip("Noto Color Emoji is not installed")
    clips, kept = read_clips(heldout_clips(2), 16, 4)
    assert clips.shape == (2, 3, 4, 16, 16) and kept == [0, 1]


def test_what_can_not_be_measured_is_refused(folder, features, tmp_path):
    toy = Subject("toy", toys.video_tokenizer(), "1")

    def check(**options):
        known = {"subjects": [toy], "judges": ClipJudges(Judges(features=features))}
        made = {**known, "clips": find_clips(folder), "folder": tmp_path / "r", **options}
        return video_report.VideoEvaluation(**made).check()

    check()
    with pytest.raises(ValueError, match="codec 'mpeg2' must be one of"):
        check(codecs=["mpeg2"])
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no video"):
        find_clips(tmp_path / "none")


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_in_memory(codec):
    if codec not in available_codecs():
        pytest.skip(f"PyAV comes without {codec}")
    frames = ((smooth(1, frames=5, size=32)[0].permute(1, 2, 3, 0) + 1) * 127.5).to(torch.uint8)
    data, payload = encode(frames.numpy(), codec, CODECS[codec][2][0], 8)
    assert 0 < payload < len(data)
    assert abs(decode(data, 5).astype(int) - frames.numpy()).mean() < 4
    assert decode(data, 7).shape == (7, 32, 32, 3)


def test_settings_differ(codec):
    found = encodings(smooth(1, frames=4, size=34)[0], codec)
    assert [e.scale for e in found] == [1, 1, 2, 2, 4, 4]
    assert all(e.pixels.shape == (4, 34, 34, 3) for e in found)
    assert found[0].payload > found[1].payload and found[0].psnr > found[1].psnr


def test_i3d_from_a_file(tmp_path, monkeypatch):
    """The shapes of the usual port; a narrow network, as no weights are at hand."""
    monkeypatch.setattr("studio.evaluation.i3d.SIDE", 64)
    rng = torch.Generator().manual_seed(0)
    widths = {name: 2 for name in names()}
    weights, wide = {}, 3
    kernels = {"Conv3d_1a_7x7": 7, "Conv3d_2b_1x1": 1, "Conv3d_2c_3x3": 3}
    for name in names():
        _, _, part = name.partition(".")
        side = kernels.get(name, 3 if part in ("b1b", "b2b") else 1)
        inputs = 2 if part in ("b1b", "b2b") or name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3") else wide
        weights[f"{name}.conv3d.weight"] = torch.randn(2, inputs, *(side,) * 3, generator=rng)
        for stat in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{name}.bn.{stat}"] = torch.rand(2, generator=rng) + 0.5
        if name == "Conv3d_2c_3x3":
            wide = 2
        if part == "b3b":
            wide = 8
    assert len(widths) == 57
    weights["logits.conv3d.weight"] = torch.randn(5, 8, 1, 1, 1, generator=rng)
    weights["logits.conv3d.bias"] = torch.zeros(5)
    torch.save(weights, tmp_path / "i3d.pt")
    network = I3D.from_file(tmp_path / "i3d.pt")
    monkeypatch.setattr(torch.nn.functional, "avg_pool3d", lambda x, *_: x.mean((3, 4), True))
    assert network(smooth(2)).shape == (2, 5) and network(smooth(2)).isfinite().all()
    del weights["Mixed_5c.b3b.bn.bias"]
    torch.save(weights, tmp_path / "less.pt")
    with pytest.raises(ValueError, match="less.pt.*lack 'Mixed_5c.b3b.bn.bias'"):
        I3D.from_file(tmp_path / "less.pt")
    judges = ClipJudges(Judges(features=None), network)
    assert "fvd" in [column.key for column in judges.metrics()] and "i3d" in judges.identity
    assert judges.observe(smooth(2))["i3d"].shape == (2, 5)


def test_features_of_clips_tell_motion():
    still = torch.ones(1, 4, 3)
    moving = torch.arange(12.0).view(1, 4, 3)
    assert clip_features(still)[:, 3:].sum() == 0 and clip_features(moving)[:, 3:].sum() == 9
    assert clip_features(still[:, :1]).shape == (1, 6)
