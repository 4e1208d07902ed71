"""Reconstruct: several tokenizers side by side, the slider, the curve, refusals."""

from tests.app.conftest import by_label, words
from tests.app.pictures import png


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


def test_what_is_no_picture_is_refused_in_words(visit, finish):
    app = drop(visit("reconstruct"), data=b"garbage")
    assert finish(app).state == "failed"
    assert any("picture" in words(error) and "/" not in words(error) for error in app.error)


def test_media_that_no_model_takes(visit, place):
    app = drop(visit("reconstruct"), name="x.wav", data=b"RIFF", models=())
    there = [e for e in place.keeper.entries() if e.medium == "audio"]
    assert there or any("No model here takes sounds" in words(text) for text in app.info)
