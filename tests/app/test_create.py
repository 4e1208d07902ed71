"""Create: from a sentence to results, queue, cancel, reload, grids, variations, presets, files."""

import io
import json
import threading
from types import SimpleNamespace

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.hub import fingerprint
from studio.server.jobs import Job
from studio.server.visitors import COOKIE
from tests.app.conftest import by_label, words


def job_of(app):
    """The id of the job in a page's address."""
    found = app.query_params["job"]
    return found if isinstance(found, str) else found[0]


def start(app, prompt="red apple", model="tiny", **numbers):
    by_label(app.selectbox, "Model").set_value(model).run()
    by_label(app.text_area, "Prompt").set_value(prompt)
    by_label(app.text_input, "Seed").set_value("5")
    for label, value in numbers.items():
        by_label(app.number_input, label).set_value(value)
    by_label(app.button, "Generate").click().run()
    assert not app.exception, app.exception
    return app


def test_a_sentence_becomes_pictures(visit, place, finish):
    app = start(visit(), Count=2)
    assert finish(app).state == "done"
    assert [item.request["seed"] for item in place.gallery.search("apple")] == [6, 5]
    assert len(app.image) == 2 and place.keeper.loaded()
    job = job_of(app)
    assert place.queue.get(job) is not None


def test_a_page_loads_no_model_before_it_is_needed(visit, place):
    visit()
    assert place.keeper.loaded() == []


def test_a_reload_finds_the_job_again(visit, place, finish):
    app = start(visit())
    job = job_of(app)
    finish(app)
    again = visit(job=job)
    assert len(again.image) == 1
    assert any("red apple" in words(text) for text in again.markdown)
    assert not visit(job="0123456789abcdef").error


def test_a_job_is_still_ones_own_after_a_reload(visit, place, monkeypatch):
    from streamlit.runtime import context

    def come(name):
        browser = SimpleNamespace(cookies={COOKIE: name * 32})
        monkeypatch.setattr(context, "_get_client_context", lambda: browser)

    def cancels(app):
        return [b for b in app.button if b.label == "Cancel" and b.key.startswith("queue")]

    opened = threading.Event()
    place.queue.submit(Job(lambda job: opened.wait(60), kind="gate", title="gate"))
    come("a")
    app = start(visit())
    come("b")
    assert cancels(visit(job=job_of(app))) == []  # the address alone gives nobody the job
    come("a")
    (cancel,) = cancels(visit(job=job_of(app)))
    cancel.click().run()
    assert place.queue.jobs()[0].state == "cancelled"
    opened.set()


def test_a_waiting_job_is_shown_and_cancelled(visit, place, finish):
    opened = threading.Event()
    place.queue.submit(Job(lambda job: opened.wait(60), kind="gate", title="gate"))
    app = start(visit())
    (cancel,) = [b for b in app.button if b.label == "Cancel" and b.key.startswith("cancel")]
    cancel.click().run()
    assert place.queue.jobs()[0].state == "cancelled"
    opened.set()
    app.run()
    assert any("Cancelled" in words(text) for text in app.info)


def test_mistakes_are_told_in_one_line(visit, place):
    app = visit()
    by_label(app.button, "Generate").click().run()
    assert any("prompt is missing" in words(error) for error in app.error)
    by_label(app.text_input, "Seed").set_value("-1")
    by_label(app.button, "Generate").click().run()
    assert any("seed '-1' must be" in words(error) for error in app.error)
    assert place.queue.jobs() == []


def test_a_failed_job_says_why(visit, place, finish):
    app = start(visit(), Tokens=99)
    assert finish(app).state == "failed"
    assert any("num_tokens 99" in words(error) for error in app.error)


def test_words_are_shown_as_words(visit, place, finish):
    app = start(visit(), prompt="![x](http://example.invalid/x.png) :red[y] $z$")
    finish(app)
    shown = [text.value for text in [*app.markdown, *app.caption] if "example" in text.value]
    assert shown and all("](" not in text and ":red[" not in text for text in shown)
    mistake = by_label(app.text_input, "Other options of decoding")
    mistake.set_value("x=![x](http://example.invalid/y.png)")
    by_label(app.button, "Generate").click().run()
    end = finish(app)
    assert all("](" not in error.value for error in app.error) and end.state == "failed"


def test_variations_and_grids(visit, place, finish):
    app = start(visit(), prompt="{red|blue} apple")
    assert len(finish(app).results) == 2
    by_label(app.text_area, "Prompt").set_value("rocket")
    by_label(app.selectbox, "X axis").set_value("seed")
    by_label(app.selectbox, "Y axis").set_value("generator")
    by_label(app.text_input, "X values").set_value("0..2")
    by_label(app.text_input, "Y values").set_value("masked, autoregressive")
    by_label(app.button, "Generate").click().run()
    assert len(finish(app).results) == 6
    assert [c.value for c in app.caption].count("Seed 1") == 2
    again = visit(job=job_of(app))  # a reload
    assert [c.value for c in again.caption].count("Seed 1") == 2


def test_presets_fill_in_settings_and_are_kept(visit, place):
    app = visit()
    by_label(app.selectbox, "Preset").set_value("Best guess").run()
    assert by_label(app.number_input, "Temperature").value == 0.0
    by_label(app.number_input, "Top k").set_value(7).run()
    by_label(app.text_input, "Keep these settings as").set_value("mine").run()
    by_label(app.button, "Keep").click().run()
    assert not app.error, app.error
    kept = place.workspace.read_json("presets.json", {})
    assert kept == {"mine": {"temperature": 0.0, "top_k": 7}}
    by_label(app.selectbox, "Preset").set_value("mine").run()
    by_label(app.button, "Drop").click().run()
    assert place.workspace.read_json("presets.json", {}) == {}


def test_a_dropped_file_brings_its_settings_back(visit, place, made):
    (item,) = made("blue apple on yellow", seed=123, temperature=0.5, generator="masked")
    app = visit()
    upload = by_label(app.file_uploader, "A file made here brings its settings back")
    upload.set_value(("x.png", place.gallery.read(item), "image/png")).run()
    assert not app.exception and not app.error
    assert by_label(app.text_area, "Prompt").value == "blue apple on yellow"
    assert by_label(app.text_input, "Seed").value == "123"
    assert by_label(app.selectbox, "Model").value == "tiny"
    assert by_label(app.number_input, "Temperature").value == 0.5
    by_label(app.button, "Generate").click().run()
    place.queue.jobs()[0].wait(timeout=60)
    first, second = place.gallery.search("blue apple")
    assert place.gallery.read(first) == place.gallery.read(second)


def test_whatever_a_file_may_hold_fits_into_the_widgets(visit, place):
    file, info = io.BytesIO(), PngInfo()
    values = {"model": "tiny", "prompt": "x", "count": 1024, "strength": 0.01, "top_k": 10**7}
    info.add_itxt("studio", json.dumps({**values, "input": "0" * 64}))
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
    app = visit()
    upload = by_label(app.file_uploader, "A file made here brings its settings back")
    upload.set_value(("x.png", file.getvalue(), "image/png")).run()
    assert not app.exception, app.exception
    assert by_label(app.number_input, "Count").value == 1024
    assert by_label(app.slider, "Strength").value == 0.01


def test_a_foreign_file_is_refused_in_words(visit, place):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    app = visit()
    for data in (file.getvalue(), b"garbage", file.getvalue()[:30]):
        upload = by_label(app.file_uploader, "A file made here brings its settings back")
        upload.set_value(("x.png", data, "image/png")).run()
        assert app.error, app
        assert str(place.workspace.folder) not in app.error[0].value
    assert list((place.workspace.folder / "uploads").iterdir()) == []


def test_a_picture_to_begin_with(visit, place, finish):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    app = visit()
    by_label(app.selectbox, "Model").set_value("tiny").run()
    upload = by_label(app.file_uploader, "A picture to vary")
    upload.set_value(("x.png", file.getvalue(), "image/png")).run()
    by_label(app.slider, "Strength").set_value(0.5).run()
    start(app)
    assert finish(app).state == "done"
    assert place.gallery.search("apple")[0].request["strength"] == 0.5


def test_seeds_step_and_are_thrown(visit):
    app = visit()
    by_label(app.text_input, "Seed").set_value("7").run()
    by_label(app.button, ":material/add:").click().run()
    assert by_label(app.text_input, "Seed").value == "8"
    by_label(app.button, ":material/remove:").click().run()
    assert by_label(app.text_input, "Seed").value == "7"
    by_label(app.button, ":material/casino:").click().run()
    assert by_label(app.text_input, "Seed").value.isdigit()


def dropped(app, **values):
    """A page after a file that was made by these values came; its revision is that of no model."""
    file, info = io.BytesIO(), PngInfo()
    info.add_itxt("studio", json.dumps({"model": "tiny", "prompt": "x", **values}))
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
    upload = by_label(app.file_uploader, "A file made here brings its settings back")
    upload.set_value(("x.png", file.getvalue(), "image/png")).run()
    assert not app.exception and not app.error, app.error
    return app


def test_strategies_and_lists_come_back_from_a_file(visit, place, finish):
    for name, kind, options in (
        ("Speculative", "autoregressive", {"acceptance": "seed", "guidance_interval": [0, 4]}),
        ("Autoregressive", "autoregressive", {"guidance_interval": [1, 3]}),
        ("Masked", "masked", {"schedule": "cosine"}),
    ):
        app = dropped(visit(), decoding=name, generator=kind, decoding_options=options)
        assert by_label(app.selectbox, "Decoding").value == name
        by_label(app.button, "Generate").click().run()
        assert finish(app).state == "done", place.queue.jobs()[0].snapshot().error
        made = place.gallery.search()[0].request
        assert made["decoding"] == name and made["decoding_options"] == options


def test_another_revision_is_told(visit, place):
    app = dropped(visit(), revision="0123456789ab")
    assert any("revision 0123456789ab of tiny" in words(toast) for toast in app.toast)
    here = fingerprint(place.keeper.find("tiny").folder)
    app = dropped(visit(), revision=here)
    assert app.toast and not any("revision" in words(toast) for toast in app.toast)


def test_a_preset_that_can_not_be_kept_says_why(visit, place):
    app = visit()
    by_label(app.text_input, "Keep these settings as").set_value("Best guess").run()
    by_label(app.button, "Keep").click().run()
    assert any("preset 'Best guess' must be a name" in words(error) for error in app.error)


def test_without_the_picture_after_all(visit, place):
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG")
    app = visit()
    by_label(app.selectbox, "Model").set_value("tiny").run()
    upload = by_label(app.file_uploader, "A picture to vary")
    upload.set_value(("x.png", file.getvalue(), "image/png")).run()
    by_label(app.button, "Without it").click().run()
    assert not app.exception and "Strength" not in [slider.label for slider in app.slider]
    start(app)
    place.queue.jobs()[0].wait(timeout=60)
    assert "input" not in place.gallery.search("apple")[0].request


def test_the_picture_of_a_file_goes_before_an_upload(visit, place):
    pictures = []
    for colour in ("red", "blue"):
        file = io.BytesIO()
        Image.new("RGB", (30, 20), colour).save(file, "PNG")
        pictures.append(file.getvalue())
    wanted = place.workspace.keep_input(pictures[1])
    app = visit()
    by_label(app.selectbox, "Model").set_value("tiny").run()
    upload = by_label(app.file_uploader, "A picture to vary")
    upload.set_value(("x.png", pictures[0], "image/png")).run()
    assert dropped(app, input=wanted).session_state["make-input"] == wanted
