"""Reconstruct: several tokenizers side by side, the slider, the curves, refusals."""

import threading

import pytest

from studio.evaluation import sound_codecs, video_codecs
from studio.media import sound_quality
from studio.server.jobs import Job
from tests import toys
from tests.app.conftest import by_label, words
from tests.app.pictures import gif, png, wav


def drop(app, name="in.png", data=None, models=("tiny",)):
    by_label(app.file_uploader, "A picture, a sound or a clip").set_value(
        (name, data or png(), "image/png")
    ).run()
    if models:
        by_label(app.multiselect, "Tokenizers").set_value(list(models)).run()
        by_label(app.button, "Reconstruct").click().run()
    assert not app.exception, app.exception
    return app


def test_two_tokenizers_side_by_side(visit, finish):
    app = drop(visit("reconstruct"), models=("tiny", "grid"))
    assert finish(app).state == "done"
    assert len(app.image) == 3
    captions = " ".join(caption.value for caption in app.caption)
    assert "8 tokens · 4 bytes · PSNR" in captions and "16 tokens" in captions
    assert len(app.get("vega_lite_chart")) == 1


def test_the_slider_decodes_a_prefix(visit, place, finish):
    app = drop(visit("reconstruct"))
    finish(app)
    coded = place.queue.jobs()[-1].value.coded[0]
    coded.shown.pop(3, None)
    by_label(app.select_slider, "Tokens").set_value(3).run()
    assert not app.exception and 3 in coded.shown
    assert any("3 tokens" in words(caption) for caption in app.caption)


@pytest.mark.parametrize("left", [False, True])
def test_a_step_that_nobody_waits_for_is_cancelled(visit, place, finish, monkeypatch, left):
    """The queue is busy for too long, or the visitor leaves while it is."""
    import elements  # pyright: ignore[reportMissingImports] # as the pages find it

    app = drop(visit("reconstruct"))
    finish(app)
    coded = place.queue.jobs()[-1].value.coded[0]
    coded.shown.pop(3, None)
    opened = threading.Event()
    place.queue.submit(Job(lambda job: opened.wait(60), kind="gate", title="gate"))
    slider = by_label(app.select_slider, "Tokens").set_value(3)
    if left:
        with pytest.raises(RuntimeError, match="timed out"):
            slider.run(timeout=1)
    else:
        monkeypatch.setattr(elements, "PATIENCE", 0.1)
        slider.run()
        assert any("busy" in words(error) for error in app.error)
    step = place.queue.jobs()[0]
    assert step.kind == "prefix" and step.wait(timeout=10).state == "cancelled"
    opened.set()


def test_what_is_no_picture_is_refused_in_words(visit, finish):
    app = drop(visit("reconstruct"), data=b"garbage")
    assert finish(app).state == "failed"
    assert any("picture" in words(error) and "/" not in words(error) for error in app.error)


def test_media_that_no_model_takes(visit, place):
    app = drop(visit("reconstruct"), name="x.wav", data=b"RIFF", models=())
    there = [e for e in place.keeper.entries() if e.medium == "audio"]
    assert there or any("No model here takes sounds" in words(text) for text in app.info)


@pytest.fixture
def tokenizers(place):
    """Tokenizers of sounds and clips in the workspace: "codec" and "clips"."""
    for name, tokenizer in (("codec", toys.speech_codec()), ("clips", toys.video_tokenizer())):
        tokenizer.save_pretrained(place.workspace.folder / "models" / name)


def compared(app, place, finish, button):
    """The rows of the curve after asking for codecs."""
    assert not app.get("vega_lite_chart")[1:]
    by_label(app.button, button).click().run()
    assert not app.exception and finish(app).state == "done"
    assert len(app.get("vega_lite_chart")) == 1
    assert button not in [b.label for b in app.button]
    return app.dataframe[0].value


@pytest.mark.skipif(not sound_codecs.available_codecs(), reason="no codec of sounds is here")
@pytest.mark.parametrize("judged", [True, False])
def test_sounds_against_codecs_when_asked(visit, place, finish, tokenizers, monkeypatch, judged):
    if not judged:
        monkeypatch.setattr(sound_quality, "quality_packages", lambda: False)
    elif not sound_quality.quality_packages():
        pytest.skip("pesq and pystoi are not installed")
    monkeypatch.setattr(sound_codecs, "RATES", {"mp3": (8,), "opus": (6,)})
    app = drop(visit("reconstruct"), name="x.wav", data=wav(), models=("codec",))
    assert finish(app).state == "done" and not app.get("vega_lite_chart")
    said = " ".join(words(caption) for caption in app.caption)
    assert ("PESQ" in said) is judged and "mel distance" in said and "bits a second" in said
    rows = compared(app, place, finish, "Compare with MP3 and Opus")
    assert set(rows["by"]) == {"codec", "MP3", "Opus"} and (rows["bytes"] > 0).all()
    assert ("PESQ" in rows) is judged and rows["mel distance"].gt(0).all()
    assert any("count without headers" in words(caption) for caption in app.caption)


@pytest.mark.skipif("h264" not in video_codecs.available_codecs(), reason="no H.264 is here")
def test_clips_against_h264_when_asked(visit, place, finish, tokenizers):
    app = drop(visit("reconstruct"), name="x.gif", data=gif(), models=("clips",))
    assert finish(app).state == "done"
    rows = compared(app, place, finish, "Compare with H.264")
    assert set(rows["by"]) == {"clips", "H.264"}
    best = rows[rows["by"] == "H.264"]
    assert best["PSNR"].is_monotonic_increasing and best["PSNR"].max() > 25


@pytest.mark.parametrize(
    ("name", "data", "model", "button", "says"),
    [
        ("x.wav", wav, "codec", "Compare with MP3 and Opus", "neither soundfile nor ffmpeg codes"),
        ("x.gif", gif, "clips", "Compare with H.264", "No H.264: package av does not write it"),
    ],
)
def test_missing_codecs_are_told(
    visit, finish, tokenizers, monkeypatch, name, data, model, button, says
):
    monkeypatch.setattr(sound_codecs, "_backend", lambda codec: None)
    monkeypatch.setattr(video_codecs, "available_codecs", lambda: [])
    app = drop(visit("reconstruct"), name=name, data=data(), models=(model,))
    finish(app)
    by_label(app.button, button).click().run()
    assert finish(app).state == "failed"
    assert any(says in words(error) for error in app.error) and by_label(app.button, button)
