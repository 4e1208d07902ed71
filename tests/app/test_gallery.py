"""Gallery: search, star, compare, details, delete, and settings that go back to Create."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from studio.pipelines.request import Request
from tests.app.conftest import by_label, words


def pictures(app):
    return len(app.image)


def test_an_empty_gallery_says_so(visit):
    assert any("Nothing here yet" in words(text) for text in visit("gallery").info)


def test_search_and_star(visit, place, made):
    (apple,) = made("red apple", seed=1)
    made("rocket", seed=2)
    app = visit("gallery")
    assert pictures(app) == 2
    by_label(app.text_input, "Search").set_value("rocket").run()
    assert pictures(app) == 1
    by_label(app.text_input, "Search").set_value("zebra").run()
    assert pictures(app) == 0 and "Nothing fits" in app.info[0].value
    by_label(app.text_input, "Search").set_value("").run()
    place.gallery.star(apple.id, True)
    by_label(app.toggle, "Starred").set_value(True).run()
    assert pictures(app) == 1


def test_compare(visit, made):
    for item in made("red apple", seed=1, count=2):
        assert item
    app = visit("gallery")
    by_label(app.toggle, "Compare").set_value(True).run()
    for box in app.checkbox:
        box.check()
    app.run()
    assert not app.exception and pictures(app) == 4
    assert any("seed 1" in words(caption) for caption in app.caption)


def test_what_is_compared_outlives_another_search(visit, place, made):
    made("red apple", seed=1)
    (rocket,) = made("rocket", seed=2)
    app = visit("gallery")
    by_label(app.toggle, "Compare").set_value(True).run()
    for word in ("apple", "rocket"):
        by_label(app.text_input, "Search").set_value(word).run()
        (box,) = app.checkbox
        box.check().run()
    assert pictures(app) == 3 and not app.exception
    by_label(app.text_input, "Search").set_value("").run()
    assert [box.value for box in app.checkbox] == [True, True] and pictures(app) == 4
    app.checkbox[1].uncheck().run()
    assert app.session_state["gallery-chosen"] == [rocket.id] and pictures(app) == 2
    app.checkbox[1].check().run()
    by_label(app.button, "Compare none of the 2").click().run()
    assert not any(box.value for box in app.checkbox) and pictures(app) == 2
    app.checkbox[0].check().run()
    place.gallery.delete(rocket.id)
    app.run()
    assert app.session_state["gallery-chosen"] == [] and not app.exception


def test_details_star_and_delete(visit, place, made):
    (item,) = made("red apple", seed=1)
    app = visit("gallery")
    opener = by_label(app.button, ":material/more_horiz:")
    opener.click().run()
    assert not app.exception
    by_label(app.button, ":material/star_border: Star").click().run()
    assert place.gallery.get(item.id).starred
    by_label(app.button, ":material/more_horiz:").click().run()
    by_label(app.button, "Delete").click().run()
    assert len(place.gallery) == 0 and not app.exception


def test_a_dropped_file_opens_create_with_its_settings(visit, place, made):
    (item,) = made("blue apple", seed=77)
    app = visit("gallery")
    upload = by_label(app.file_uploader, "A file made here brings its settings back")
    upload.set_value(("x.png", place.gallery.read(item), "image/png")).run()
    assert not app.exception and app.title[0].value == "Create"
    assert by_label(app.text_area, "Prompt").value == "blue apple"


@pytest.mark.parametrize("medium", ["audio", "video"])
def test_sounds_and_clips_closely(visit, place, medium):
    if medium == "audio":
        wave, output = torch.sin(torch.arange(8000) / 9)[None], SimpleNamespace(sampling_rate=16000)
    else:
        pytest.importorskip("av")
        wave = [Image.new("RGB", (16, 16), (80 * i, 0, 0)) for i in range(3)]
        output = SimpleNamespace(fps=8.0)
    place.gallery.add(wave, Request(model="x", prompt="hello"), output, medium=medium, stats={})
    app = visit("gallery")
    app.session_state["details-frames"] = True  # a click here would close the dialog
    by_label(app.button, ":material/more_horiz:").click().run()
    assert not app.exception and not app.error and len(app.image) == 1
    assert [slider.max for slider in app.slider] == ([2] if medium == "video" else [])


def test_pages_of_many(visit, made):
    made("red apple", seed=1, count=25)
    app = visit("gallery")
    assert pictures(app) == 24


def test_a_lost_file_does_no_harm(visit, place, made):
    (item,) = made("red apple", seed=1)
    place.gallery.path(item).unlink()
    app = visit("gallery")
    assert any("file is gone" in words(caption) for caption in app.caption)
