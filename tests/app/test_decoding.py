"""Decoding: a race with its table, maps and the exactness check."""

from tests.app.conftest import by_label, words


def test_a_race(visit, finish):
    app = visit("decoding")
    by_label(app.selectbox, "Model").set_value("tiny").run()
    by_label(app.multiselect, "Ways").set_value(["plain", "seed-jacobi", "masked"]).run()
    by_label(app.button, "Race").click().run()
    assert finish(app).state == "done"
    table = app.dataframe[0].value
    assert list(table["way"]) == ["plain", "seed-jacobi", "masked"]
    assert list(table["check"])[1] == "the same tokens"
    assert len(app.image) == 6
    app.query_params.clear()  # as a visit to another page does
    app.switch_page("pages/gallery.py").run()
    assert len(app.image) == 0
    app.switch_page("pages/decoding.py").run()
    assert len(app.image) == 6 and not app.exception


def test_a_way_that_can_not_run_says_why(visit, finish):
    app = visit("decoding")
    by_label(app.selectbox, "Model").set_value("grid").run()
    by_label(app.multiselect, "Ways").set_value(["seed-head"]).run()
    by_label(app.button, "Race").click().run()
    finish(app)
    assert any("drafter" in words(caption) for caption in app.caption)


def test_a_mistake_is_told(visit):
    app = visit("decoding")
    by_label(app.text_input, "Prompt").set_value("").run()
    by_label(app.button, "Race").click().run()
    assert not app.exception
