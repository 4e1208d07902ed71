"""Batches of the app: kept, run, stopped, resumed, and never a path of a visitor's."""

import json
import time

import pytest

from studio.media.metadata import read_request
from studio.server.batches import Batches
from studio.server.gallery import Gallery


def table(count, **more):
    rows = [{"model": "tiny", "prompt": f"apple {i}", "seed": i, **more} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def wait(batches, name, *, until=None):
    end = time.monotonic() + 240
    while time.monotonic() < end:
        now = batches.standing(name)
        if batches.running() is None or (until and until(now)):
            return now
        time.sleep(0.1)
    raise AssertionError(now)


def test_a_batch_is_run_stopped_and_resumed(place):
    batches: Batches = place.batches
    assert batches.save("night", table(60)) == 60 and batches.names() == ["night"]
    batches.start("night")
    with pytest.raises(ValueError, match="is running"):
        batches.start("night")
    with pytest.raises(ValueError, match="stop it first"):
        batches.save("night", table(1), replace=True)
    wait(batches, "night", until=lambda now: now.done > 0)
    batches.stop()
    stopped = wait(batches, "night")
    assert 0 < stopped.done <= 60 and stopped.error is None and not stopped.running
    again = Batches(place.workspace, place.keeper, device="cpu")
    assert again.standing("night").done == stopped.done
    again.start("night")
    end = wait(again, "night")
    assert (end.done, end.failed, end.finished) == (60, 0, True), end.error
    made = again.results("night", last=100)
    assert len(made) == 60 and sorted(read_request(p)["seed"] for p in made) == list(range(60))
    assert again.sheet("night") and again.failures("night") == []


def test_results_are_in_the_gallery_too(place):
    place.batches.save("night", table(2))
    place.batches.start("night")
    assert wait(place.batches, "night").done == 2
    items = place.gallery.search("apple")
    assert [item.request["prompt"] for item in items] in (
        ["apple 0", "apple 1"],
        ["apple 1", "apple 0"],
    )
    first = items[0]
    path = place.gallery.path(first)
    assert read_request(path) == first.request and len(Gallery(place.workspace)) == 2
    assert place.gallery.adopt(place.batches.results("night")[0], medium="image") is None
    place.gallery.delete(first.id)
    place.batches.start("night")
    assert wait(place.batches, "night").done == 2 and len(place.gallery) == 1
    assert len(place.batches.results("night")) == 2


def test_what_was_made_while_nobody_looked_is_in_the_gallery(place, caplog):
    """By the command line, or by a studio that was killed before it gave the gallery anything."""
    aside = Batches(place.workspace, place.keeper, device="cpu")
    aside.save("night", table(3))
    aside.start("night")
    assert wait(aside, "night").done == 3 and len(place.gallery) == 0
    broken = place.workspace.folder / "batches" / "night" / "out" / "broken.mp4"
    broken.write_bytes(b"not a clip")

    def given(gallery):
        end = time.monotonic() + 60
        while len(gallery) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        return len(gallery)

    place.batches.standing("night")
    assert given(place.gallery) == 3 and "broken.mp4" in caplog.text
    path = place.workspace.folder / "batches" / "night" / "in-gallery.json"
    path.unlink()  # as if it had been killed
    for item in place.gallery.search():
        place.gallery.delete(item.id)
    gallery = Gallery(place.workspace)
    again = Batches(place.workspace, place.keeper, gallery=gallery, device="cpu")
    assert given(gallery) == 3
    again.close(timeout=60)
    written, item = path.stat().st_mtime_ns, gallery.search()[0]
    gallery.delete(item.id)
    place.batches.standing("night")  # nothing was made since
    place.batches.close(timeout=60)
    assert path.stat().st_mtime_ns == written and gallery.get(item.id) is None


def test_a_batch_that_can_not_begin_says_why(place):
    place.batches.save("night", table(1))
    folder = place.workspace.folder / "batches" / "night"
    (folder / "out").write_text("a file where the results should go")
    (folder / "state.json").mkdir()  # nor can it be noted how it stands
    place.batches.start("night")
    end = wait(place.batches, "night")
    assert "cannot write into" in (end.error or "") and (end.total, end.running) == (1, False)


def test_a_table_is_replaced_only_when_that_is_wanted(place):
    assert place.batches.free_name() == "batch-1"
    place.batches.save("batch-1", table(2))
    assert place.batches.free_name() == "batch-2"
    with pytest.raises(ValueError, match="'batch-1' is here already"):
        place.batches.save("batch-1", "prompt\nrocket\n", suffix=".csv")
    assert place.batches.text("batch-1")[0] == table(2)
    assert place.batches.save("batch-1", table(1), replace=True) == 1
    assert place.batches.text("batch-1")[0] == table(1)


def test_tables_as_rows(place):
    place.batches.save("a", table(1, decoding_options={"min_p": 0.1}))
    assert place.batches.rows("a") == [
        {"model": "tiny", "prompt": "apple 0", "seed": 0, "option.min_p": 0.1}
    ]
    place.batches.save("b", "prompt,seed,top_p,output\nrocket,3,0.5,\n", suffix=".csv")
    assert place.batches.rows("b") == [{"prompt": "rocket", "seed": 3, "top_p": 0.5}]


def test_tables_from_other_programs(place):
    """With a mark of byte order, blanks, and numbers in columns of options."""
    text = "\ufeffprompt, seed,option.min_p,decoding_options\n"
    place.batches.save("a", text + 'rocket, 3,0.5,"{""top_k"": 7}"\n', suffix=".csv")
    row = {"prompt": "rocket", "seed": 3, "option.min_p": 0.5, "option.top_k": 7}
    assert place.batches.rows("a") == [row]
    line = json.dumps({"prompt": "two\u2028lines"}, ensure_ascii=False)
    place.batches.save("b", f"\ufeff{line}\n\n")
    assert place.batches.rows("b") == [{"prompt": "two\u2028lines"}]


def test_a_long_table_is_checked_at_once(place, monkeypatch):
    """Models are looked up on the disk, which takes long for thousands of rows."""
    entries, looks = place.keeper.entries, []
    monkeypatch.setattr(place.keeper, "entries", lambda: looks.append(1) or entries())
    assert place.batches.save("long", table(500)) == 500 and len(looks) == 1


def test_names_with_large_letters_are_in_the_gallery(place):
    place.batches.save("night", table(1, output="Apple.PNG"))
    place.batches.start("night")
    assert wait(place.batches, "night").done == 1
    assert [path.name for path in place.batches.results("night")] == ["Apple.PNG"]
    (item,) = place.gallery.search("apple")
    assert item.mime == "image/png" and place.gallery.read(item)


@pytest.mark.parametrize(
    ("name", "text", "suffix", "message"),
    [
        ("../x", table(1), ".jsonl", "must be letters"),
        ("x", "", ".jsonl", "holds no job"),
        ("x", "{", ".jsonl", "line 1: is no valid JSON"),
        ("x", table(1), ".txt", "must be one of"),
        ("x", '{"model": "models/tiny", "prompt": "x"}', ".jsonl", "is not here"),
        ("x", '{"model": "tiny", "prompt": "x", "output": "../../x"}', ".jsonl", "output"),
        ("x", '{"prompt": "x", "count": 1024}\n' * 11, ".jsonl", "10000 are allowed"),
        ("x", "prompt,nothing\na,b\n", ".csv", "'nothing' is unknown"),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused(place, name, text, suffix, message):
    with pytest.raises(ValueError, match=message) as caught:
        place.batches.save(name, text, suffix=suffix)
    assert str(place.workspace.folder) not in str(caught.value) and place.batches.names() == []


def test_what_is_not_there(place):
    for call in (place.batches.start, place.batches.text):
        with pytest.raises(ValueError, match="is not here"):
            call("nothing")
    assert place.batches.standing("nothing").total == 0
