"""Batch: a table is kept, run, seen and run again."""

import json
import time

from tests.app.conftest import by_label, words

ROWS = '{"model": "tiny", "prompt": "red apple", "seed": 1, "count": 2}\n'


def test_an_uploaded_table_is_run(visit, place):
    app = visit("batch")
    by_label(app.text_input, "Name").set_value("night").run()
    upload = by_label(app.file_uploader, "A jobs table")
    upload.set_value(("x.jsonl", ROWS.encode(), "application/json")).run()
    by_label(app.button, "Keep this file").click().run()
    assert not app.exception and not app.error and place.batches.names() == ["night"]
    by_label(app.button, "Run").click().run()
    end = time.monotonic() + 240
    while place.batches.running() and time.monotonic() < end:
        time.sleep(0.2)
    app.run()
    assert not app.exception and place.batches.standing("night").done == 2
    assert len(app.image) == 2 and by_label(app.button, "Run")
    assert visit("batch").session_state["batch-chosen"] == "night"


def test_the_editor_makes_a_table(visit, place):
    app = visit("batch")
    by_label(app.button, "Keep this table").click().run()
    assert not app.exception and not app.error
    text, suffix = place.batches.text("batch-1")
    assert suffix == ".jsonl" and text.count("\n") == 2 and '"seed": 1' in text


def test_a_table_is_edited_again(visit, place):
    place.batches.save("night", "prompt,seed,count\nrocket,3,1\n", suffix=".csv")
    app = visit("batch")
    by_label(app.button, "Edit").click().run()
    assert by_label(app.text_input, "Name").value == "night" and not app.exception
    by_label(app.button, "Keep this table").click().run()
    assert not app.exception and not app.error
    assert place.batches.text("night") == (
        '{"prompt": "rocket", "seed": 3, "count": 1}\n',
        ".jsonl",
    )


def test_what_was_not_edited_stays_as_it_was(visit, place):
    """A seed beside a row without one, and an option that is a list."""
    rows = [{"prompt": "a", "seed": 12, "option.levels": [1, 2]}, {"prompt": "b"}]
    place.batches.save("night", "".join(json.dumps(row) + "\n" for row in rows), suffix=".jsonl")
    app = visit("batch")
    by_label(app.button, "Edit").click().run()
    by_label(app.button, "Keep this table").click().run()
    assert not app.exception and not app.error
    text, _ = place.batches.text("night")
    assert [json.loads(line) for line in text.splitlines()] == rows


def test_mistakes_are_told(visit, place):
    app = visit("batch")
    for name, data in (("x.jsonl", b"{"), ("x.csv", b"a,b\n1,2\n"), ("y.jsonl", b"\xff\xfe")):
        upload = by_label(app.file_uploader, "A jobs table")
        upload.set_value((name, data, "text/plain")).run()
        by_label(app.button, "Keep this file").click().run()
        assert app.error and not app.exception
    assert place.batches.names() == []


def test_nobody_replaces_anothers_table(visit, place):
    first, second = visit("batch"), visit("batch")
    by_label(first.button, "Keep this table").click().run()
    text, _ = place.batches.text("batch-1")
    upload = by_label(second.file_uploader, "A jobs table")
    upload.set_value(("x.jsonl", ROWS.encode(), "application/json")).run()
    by_label(second.button, "Keep this file").click().run()
    assert any("is here already" in words(error) for error in second.error)
    assert place.batches.text("batch-1")[0] == text
    by_label(second.checkbox, "Replace batch\\-1, which is here already").check().run()
    by_label(second.button, "Keep this file").click().run()
    assert not second.error and place.batches.text("batch-1")[0] == ROWS
    assert by_label(second.text_input, "Name").value == "batch-2"
    assert by_label(visit("batch").text_input, "Name").value == "batch-2"


def test_seeds_keep_all_their_digits(visit, place):
    rows = [{"prompt": "a", "seed": 2**63 - 1}, {"prompt": "b"}, {"prompt": "c", "seed": 2**53 + 1}]
    place.batches.save("night", "".join(json.dumps(row) + "\n" for row in rows))
    app = visit("batch")
    by_label(app.button, "Edit").click().run()
    by_label(app.button, "Keep this table").click().run()
    assert not app.exception and not app.error
    text, _ = place.batches.text("night")
    assert [json.loads(line) for line in text.splitlines()] == rows


def test_why_a_batch_does_not_run_is_told(visit, place, monkeypatch):
    place.batches.save("night", ROWS)
    app = visit("batch")
    monkeypatch.setattr(place.batches, "running", lambda: "another")
    by_label(app.button, "Run").click().run()
    assert any("'another' is running" in words(error) for error in app.error)
    assert not app.exception and place.batches.standing("night").total == 0
