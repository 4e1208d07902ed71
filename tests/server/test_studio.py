"""Jobs that really make pictures: files with their requests, gallery, models, hostile names."""

import gc
import hashlib
import io
import time
import weakref

import pytest
import torch
from PIL import Image

import studio
from studio.media.metadata import read_request
from studio.pipelines.request import Request
from studio.server import studio as module
from studio.server.gallery import Gallery
from studio.server.keeper import Keeper
from studio.server.workspace import Workspace
from tests import toys
from tests.studios import studio_over


def make(place, *requests, **options):
    job = place.generate(list(requests), **options)
    end = job.wait(timeout=60)
    assert end.state == "done", end.error
    return [place.gallery.get(name) for name in end.results]


def test_samples_become_files_with_their_requests(place):
    items = make(place, Request(model="tiny", prompt="red apple", seed=5, count=6))
    assert [item.request["seed"] for item in items] == [5, 6, 7, 8, 9, 10]
    for item in items:
        inside = read_request(place.gallery.path(item))
        assert inside == item.request and inside["count"] == 1 and len(inside["revision"]) == 12
        assert item.medium == "image" and item.stats["passes"] > 0 and item.mime == "image/png"
    assert not list(place.workspace.folder.rglob("*.studio-*"))


def test_a_result_does_not_depend_on_what_else_was_in_the_job(place):
    alone = make(place, Request(model="tiny", prompt="red apple", seed=6))[0]
    among = make(
        place,
        Request(model="tiny", prompt="rocket", seed=1),
        Request(model="tiny", prompt="red apple", seed=5, count=2),
    )[2]
    hashes = {hashlib.sha256(place.gallery.read(item)).hexdigest() for item in (alone, among)}
    assert len(hashes) == 1
    pipe = studio.Pipeline.from_pretrained(place.keeper.find("tiny").folder)
    own = pipe("red apple", generator=torch.Generator().manual_seed(6)).images[0]
    assert Image.open(place.gallery.path(alone)).tobytes() == own.tobytes()


def test_previews_and_progress_are_shown(place):
    job, shares, shown = place.generate([Request(model="grid", prompt="rocket", seed=1)]), [], 0
    snapshot = job.snapshot()
    while not snapshot.finished:
        snapshot = job.wait(snapshot.version, timeout=60)
        shares.append(snapshot.share)
        shown += bool(snapshot.previews and snapshot.previews[0].data.startswith(b"\x89PNG"))
    assert snapshot.state == "done" and shares == sorted(shares) and shown > 0


def test_a_grid_of_models_and_generators_is_one_job(place):
    requests = [
        Request(model=model, generator=kind, prompt="rocket", seed=1)
        for model, kind in (("tiny", "masked"), ("grid", None), ("tiny", None))
    ]
    items = make(place, *requests)
    assert [item.request["model"] for item in items] == ["tiny", "grid", "tiny"]
    assert len(place.keeper.loaded()) == 1
    place.keeper.free()
    assert place.keeper.loaded() == []


def test_a_grid_loads_each_network_once_and_stays_in_order(place, monkeypatch):
    load, loads = place.keeper._load, []
    monkeypatch.setattr(place.keeper, "_load", lambda *a: loads.append(a[1]) or load(*a))
    kinds = ("autoregressive", "masked", None)  # the default is the first
    requests = [
        Request(model="tiny", prompt="rocket", seed=seed, generator=kind)
        for seed in range(4)
        for kind in kinds
    ]
    job = place.generate(requests)
    seen, snapshot = [], job.snapshot()
    while not snapshot.finished:
        seen.append(snapshot.results)
        snapshot = job.wait(snapshot.version, timeout=60)
    items = [place.gallery.get(name) for name in snapshot.results]
    made = [(item.request["seed"], item.request.get("generator")) for item in items]
    assert loads == ["autoregressive", "masked"], snapshot.error
    assert made == [(request.seed, request.generator) for request in requests]
    assert items[0].stats["batch"] == 4 and any("" in results for results in seen)


def test_one_model_at_a_time_is_in_memory(place, monkeypatch):
    """The one before is gone when the next one of a job is loaded."""
    load, seen, alive = place.keeper._load, [], []

    def watched(entry, generator):
        gc.collect()
        alive.append(sum(one() is not None for one in seen))
        opened = load(entry, generator)
        seen.append(weakref.ref(opened.pipe))
        return opened

    monkeypatch.setattr(place.keeper, "_load", watched)
    kinds = ("autoregressive", "masked")
    requests = [Request(model="tiny", prompt="apple", generator=kind) for kind in kinds]
    assert place.generate(requests).wait(timeout=60).state == "done"
    assert alive == [0, 0]


def test_cancelling_keeps_what_is_finished(place):
    job = place.generate([Request(model="grid", prompt="rocket", seed=1, count=100)])
    while len(job.snapshot().results) < 4:
        time.sleep(0.01)
    asked = time.monotonic()
    place.queue.cancel(job.id)
    end = job.wait(timeout=20)
    assert end.state == "cancelled" and time.monotonic() - asked < 5
    assert 4 <= len(end.results) < 100 and len(place.gallery) == len(end.results)


def test_a_variation_of_an_uploaded_picture(place):
    file = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(file, "PNG")
    name = place.workspace.keep_input(file.getvalue())
    request = Request(model="tiny", prompt="rocket", seed=1, input=name, strength=0.5)
    assert make(place, request)[0].request["input"] == name
    with pytest.raises(ValueError, match="upload the picture first"):
        place.generate([Request(model="tiny", prompt="rocket", input="0" * 64)])
    with pytest.raises(ValueError, match="strength 0.5 needs an input"):
        place.generate([Request(model="tiny", prompt="rocket", strength=0.5)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "nothing"}, "model 'nothing' is not here"),
        ({"model": "tiny"}, "prompt is missing"),
        ({"model": "tiny", "class_label": 3}, "prompt is missing"),
        ({"model": "tiny", "prompt": "x", "count": 101}, "between 1 and 100"),
        ({"model": "grid", "prompt": "x", "generator": "masked"}, "'masked' is not in model"),
        ({"model": "owner/name", "prompt": "x"}, "is not here"),
        ({"model": "models/tiny", "prompt": "x"}, "is not here"),
    ],
)
def test_what_can_not_be_made_is_refused_before_it_waits(place, values, message):
    with pytest.raises(ValueError, match=message):
        place.generate([Request(**values)])
    assert place.queue.jobs() == []


def test_what_only_the_model_knows_fails_the_job_in_one_line(place):
    job = place.generate([Request(model="tiny", prompt="x", num_tokens=99)])
    end = job.wait(timeout=60)
    assert end.state == "failed" and "num_tokens 99" in end.error and len(place.gallery) == 0


def test_the_gallery_is_searched_starred_and_emptied(place):
    apple = make(place, Request(model="tiny", prompt="red apple", seed=5))[0]
    rocket = make(place, Request(model="tiny", prompt="rocket", seed=77))[0]
    gallery = place.gallery
    found = {
        words: [i.id for i in gallery.search(words)] for words in ("APPLE", "77", "tiny", "x y")
    }
    assert found == {
        "APPLE": [apple.id],
        "77": [rocket.id],
        "tiny": [rocket.id, apple.id],
        "x y": [],
    }
    gallery.star(apple.id, True)
    assert [i.id for i in gallery.search(starred=True)] == [apple.id]
    again = Gallery(place.workspace)
    assert [i.id for i in again.search(starred=True)] == [apple.id] and len(again) == 2
    assert gallery.delete(rocket.id) and not gallery.delete(rocket.id)
    assert [p.stem for p in gallery.folder.rglob("*.*")] == [apple.id] * 2
    with pytest.raises(ValueError, match="is gone"):
        gallery.read(rocket)


def test_a_file_without_a_record_is_found_again(place):
    apple = make(place, Request(model="tiny", prompt="red apple", seed=5))[0]
    place.gallery.path(apple, ".json").write_text("{broken")
    (place.gallery.folder / apple.id[:8] / "stranger.png").write_bytes(b"x")
    (again,) = Gallery(place.workspace).search()
    assert again.request == apple.request and again.id == apple.id


def test_foreign_records_are_not_believed(place):
    apple = make(place, Request(model="tiny", prompt="red apple", seed=5))[0]
    path = place.gallery.path(apple, ".json")
    path.write_text(path.read_text().replace('"image"', '"../../etc"'))
    assert Gallery(place.workspace).search()[0].medium == "image"


def test_models_come_from_known_places_alone(place, tmp_path, monkeypatch):
    names = {entry.name: entry.origin for entry in place.keeper.entries()}
    assert names["tiny"] == "workspace" and names.get("emoji-1d", "bundled") == "bundled"
    monkeypatch.chdir(place.workspace.folder)
    for name in ("models/tiny", "../x", "/etc/passwd", "tiny/..", "./models"):
        with pytest.raises(ValueError, match="is not here"):
            place.keeper.find(name)
        with pytest.raises(ValueError, match="no Hub id|is a folder here"):
            place.keeper.fetch(name)


def test_models_of_the_workspace_can_be_removed(place):
    place.keeper.remove("grid")
    assert "grid" not in [entry.name for entry in place.keeper.entries()]
    for entry in place.keeper.entries():
        if entry.origin == "bundled":
            with pytest.raises(ValueError, match="bundled and stays"):
                place.keeper.remove(entry.name)


def test_models_of_other_folders_are_on_the_list(tmp_path, tiny_models):
    made = module.Studio(tmp_path / "w", models=[tiny_models], device="cpu")
    assert made.keeper.find("tiny").origin == "folder"
    made.close()


def test_a_tokenizer_alone_is_a_model_too(place):
    source = place.keeper.find("tiny").folder / "tokenizer"
    source.rename(place.workspace.folder / "models" / "alone")
    entry = place.keeper.find("alone")
    assert (entry.tokenizer, entry.pipeline, entry.generates) == ("PrefixTokenizer", "", False)
    opened = place.keeper.open_tokenizer("alone")
    assert opened.pipe.tokenizer.layout.num_tokens == 8
    with pytest.raises(ValueError, match="generates nothing"):
        place.generate([Request(model="alone", prompt="x")])


def test_a_process_has_one_studio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert module.current() is module.current()
    with pytest.raises(ValueError, match="has a studio already"):
        module.open_studio(tmp_path / "other")
    module.close_studio()
    assert module.open_studio(tmp_path / "other").workspace.folder == tmp_path / "other"
    module.close_studio()


def test_two_studios_don_t_share_a_workspace(place):
    with pytest.raises(ValueError, match="in use by another"):
        module.Studio(place.workspace.folder)
    assert Workspace(place.workspace.folder)


def test_tokenizers_alone_are_found_in_other_folders(tmp_path):
    codec, clips = toys.speech_codec(), toys.video_tokenizer()
    codec.save_pretrained(tmp_path / "runs" / "codec")
    clips.save_pretrained(tmp_path / "clips")
    studio.ReconstructionPipeline(codec).save_pretrained(tmp_path / "runs" / "whole")
    folders = [tmp_path / "runs", tmp_path / "clips"]
    keeper = Keeper(Workspace(tmp_path / "w"), device="cpu", folders=folders)
    found = {e.name: (e.medium, e.origin) for e in keeper.entries() if e.origin != "bundled"}
    audio = ("audio", "folder")
    assert found == {"codec": audio, "whole": audio, "clips": ("video", "folder")}
    for name in found:
        assert keeper.open_tokenizer(name).pipe.tokenizer.medium == found[name][0]


def test_generators_take_half_the_memory_when_that_is_wanted(tmp_path, tiny_models):
    place = studio_over(tmp_path / "w", tiny_models, dtype="bfloat16")
    try:
        job = place.generate([Request(model="tiny", prompt="red apple")])
        assert job.wait(timeout=120).state == "done"
        parts = place.keeper.open("tiny").pipe.components
        assert parts["generator"].dtype == torch.bfloat16
        assert parts["tokenizer"].dtype == torch.float32
    finally:
        place.close()
