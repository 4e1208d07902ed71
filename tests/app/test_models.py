"""Models: the list, cards, loading and freeing, what can't be fetched or removed."""

from tests.app.conftest import by_label, words


def test_the_list_and_a_card(visit, place):
    app = visit("models")
    names = list(app.dataframe[0].value["name"])
    assert {"tiny", "grid"} <= set(names)
    by_label(app.selectbox, "Model").set_value("tiny").run()
    assert any("no card" in words(text) for text in app.markdown)


def test_loading_and_freeing(visit, place, finish):
    app = visit("models")
    by_label(app.selectbox, "Model").set_value("tiny").run()
    by_label(app.button, "Load now").click().run()
    finish(app)
    assert [name for name, _ in place.keeper.loaded()] == ["tiny autoregressive"]
    by_label(app.button, "Free memory").click().run()
    assert place.keeper.loaded() == [] and not app.exception


def test_removing(visit, place):
    app = visit("models")
    by_label(app.selectbox, "Model").set_value("grid").run()
    by_label(app.button, "Remove").click().run()
    assert "grid" not in list(app.dataframe[0].value["name"]) and not app.exception


def test_what_is_no_hub_id_fails_in_words(visit, place, finish):
    app = visit("models")
    by_label(app.text_input, "Hub id").set_value("../models/tiny").run()
    by_label(app.button, "Fetch").click().run()
    assert finish(app).state == "failed"
    assert any("no Hub id" in words(error) for error in app.error)


def test_a_card_that_is_a_bomb(visit, place):
    """A licence of nested aliases, which would be gigabytes of text, and one that is a list."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    models = place.workspace.folder / "models"
    (models / "tiny" / "README.md").write_text("\n".join(["---", *lines, "license: *a8", "---"]))
    (models / "grid" / "README.md").write_text("---\nlicense: [mit, cc0-1.0]\n---\n")
    table = visit("models").dataframe[0].value.set_index("name")
    assert table["licence"]["tiny"] == "" and table["licence"]["grid"] == "mit, cc0-1.0"


def test_why_a_model_stays_is_told(visit, place, tmp_path):
    models = place.workspace.folder / "models"
    (models / "grid").rename(tmp_path / "elsewhere")
    (models / "grid").symlink_to(tmp_path / "elsewhere")
    app = visit("models")
    by_label(app.selectbox, "Model").set_value("grid").run()
    by_label(app.button, "Remove").click().run()
    assert any("leads out of the workspace" in words(error) for error in app.error)
    assert (tmp_path / "elsewhere" / "model_index.json").is_file() and not app.exception
