"""What the pages on tokenizers, tokens, decoding and models stand on."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from studio.media.token_file import TokenFile, write_tokens
from studio.pipelines.request import Request
from studio.server import catalog, coding, racing, token_view
from studio.server.workspace import Workspace


@pytest.fixture
def picture(tmp_path):
    """The path of a picture file."""
    values = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    path = tmp_path / "in.png"
    Image.fromarray(values).save(path)
    return path


def done(place, work):
    """What a job's work gives."""
    job = place.run(work, kind="test", title="test")
    end = job.wait(timeout=120)
    assert end.state == "done", end.error
    return job.value


def test_prefixes_are_measured_and_decoded_later(place, picture):
    found = done(place, lambda job: coding.comparison(job, place.keeper, picture, ["tiny", "grid"]))
    prefix, grid = found.coded
    assert prefix.counts == list(range(1, 9)) and grid.counts == [16]
    assert [p.tokens for p in grid.points] == [16] and prefix.points[-1].tokens == 8
    assert prefix.bits(8) == 8 * 4 and prefix.points[-1].bytes == 4
    names = {point.name for point in found.codecs}
    assert {"JPEG", "WEBP"} <= names and all(p.scores["PSNR"] > 5 for p in found.codecs)
    prefix.shown.clear()
    prefix.points.clear()
    shown = done(place, lambda job: coding.decode(place.keeper.open_tokenizer("tiny"), prefix, 3))
    assert shown.mime == "image/png" and prefix.point(3) is not None
    with pytest.raises(ValueError, match="num_tokens 99 must be"):
        coding.decode(place.keeper.open_tokenizer("tiny"), prefix, 99)
    pipe = place.keeper.open_tokenizer("tiny").pipe
    with torch.no_grad():
        own = pipe.tokenizer.decode(prefix.tokens, num_tokens=3)
    from studio.media.image import to_pil

    assert Image.open(io.BytesIO(shown.data)).tobytes() == to_pil(own.clamp(-1, 1)).tobytes()


def test_points_are_spread():
    assert coding.spread([1, 2, 3]) == [1, 2, 3]
    found = coding.spread(list(range(1, 257)))
    assert found[0] == 1 and found[-1] == 256 and len(found) == 9 and found == sorted(set(found))


def test_files_of_another_medium_are_refused(place, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF")
    job = place.run(
        lambda job: coding.comparison(job, place.keeper, path, ["tiny"]), kind="t", title="t"
    )
    assert "codes image, and this is a sound" in job.wait(timeout=60).error


def test_what_each_token_changes(place, picture):
    def work(job):
        opened = place.keeper.open_tokenizer("grid")
        coded = coding.encode(opened, picture)
        return token_view.anatomy(job, opened, coded.tokens, coded.original)

    found = done(place, work)
    assert found.influence.shape == (16, 16, 16) and found.grid == (4, 4)
    assert (found.strength > 0).all()
    for shown in (found.overlay(0), found.map()):
        assert shown.data.startswith(b"\x89PNG") and shown.alt


def test_tokens_are_swapped_and_travel_as_files(place, picture):
    def work(job):
        opened = place.keeper.open_tokenizer("tiny")
        tokens = coding.encode(opened, picture).tokens
        other = (tokens + 1) % 16
        mixed = token_view.swapped(tokens, other, [0, 2])
        file = token_view.to_file(opened, mixed)
        again, note = token_view.from_file(opened, file)
        assert note == ""
        shown = [token_view.decoded(opened, t, "x").data for t in (mixed, again, mixed[:, :3])]
        return tokens, other, mixed, file, again, shown

    tokens, other, mixed, file, again, shown = done(place, work)
    assert torch.equal(mixed[:, [0, 2]], other[:, [0, 2]])
    assert torch.equal(mixed[:, [1, 3]], tokens[:, [1, 3]]) and torch.equal(again, mixed)
    assert len(file) < 150 and shown[0] == shown[1] != shown[2]
    with pytest.raises(ValueError, match="can't be swapped"):
        token_view.swapped(tokens, other[:, :3], [0])
    with pytest.raises(ValueError, match="place 9"):
        token_view.swapped(tokens, other, [9])
    job = place.run(
        lambda job: token_view.from_file(place.keeper.open_tokenizer("grid"), file),
        kind="t", title="t",
    )  # fmt: skip
    assert "is not for 'grid'" in job.wait(timeout=60).error


def test_token_files_of_others(place):
    """Of another model with as many tokens, of another revision, of the same under another name."""
    opened = done(place, lambda job: place.keeper.open_tokenizer("tiny"))
    tokens, own = torch.zeros(1, 8, dtype=torch.int64), opened.identity["revision"]

    def read(model, revision):
        data = write_tokens(TokenFile(model, revision, tokens, 16, 8))
        return token_view.from_file(opened, data)[1]

    assert read("tiny", own) == read("tiny", None) == read("other", own) == ""
    assert "Revision 0123456789ab of tiny made" in read("tiny", "0123456789ab")
    for revision in (None, "0123456789ab"):
        with pytest.raises(ValueError, match=r"'other' \(8 tokens of 16\) is not for 'tiny'"):
            read("other", revision)


def test_use_of_codes_and_cells():
    use = token_view.usage(np.array([1, 1, 2, 3]), 16)
    assert (use.tokens, use.distinct, use.most) == (4, 3, 4.0)
    assert use.entropy == pytest.approx(1.5) and use.top[0] == (1, 2)
    assert token_view.cells((4, 4), 1, 2, 2, 9) == [6, 7, 10, 11]
    assert token_view.code_picture(np.arange(10), None, 16).data.startswith(b"\x89PNG")


def test_a_race(place):
    request = Request(model="tiny", prompt="red apple", seed=3)
    modes = ["seed-jacobi", "exact", "seed-head", "masked"]
    lanes = done(place, lambda job: racing.race(job, place.keeper, request, modes))
    by_mode = {lane.mode: lane for lane in lanes}
    assert list(by_mode) == ["plain", "seed-jacobi", "exact", "seed-head", "masked"]
    plain = by_mode["plain"]
    assert plain.passes == 8 and list(plain.made) == list(range(1, 9)) and not plain.drafted.any()
    seed = by_mode["seed-jacobi"]
    assert seed.same is True and seed.passes <= 8 and seed.made.max() == seed.passes
    assert by_mode["exact"].same is None and "drafter" in by_mode["seed-head"].error
    assert by_mode["masked"].passes == 4 and by_mode["masked"].heat().mime == "image/png"
    with pytest.raises(ValueError, match="0 are chosen"):
        racing.race(None, place.keeper, request, [])


def test_cards_are_words_alone(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\n---\n# Card\n![a picture](http://x/y.png)\n"
        "<img src=x><script>a</script>"
    )
    assert catalog.card_values(tmp_path) == {"license": "mit"}
    assert catalog.card_text(tmp_path) == "# Card\n*a picture*\na"
    assert catalog.card_text(tmp_path / "none") == "" and catalog.memory_used() > 10**7
    (tmp_path / "README.md").write_text("---\n&a [*a, !!python/object:x {}]\n---\n")
    assert catalog.card_values(tmp_path) == {}


def test_checkpoints_are_converted_from_the_workspace_alone(place, tmp_path):
    from safetensors.torch import save_file

    from tests.toys import official_vqgan

    workspace: Workspace = place.workspace
    folder = workspace.folder / "checkpoints"
    folder.mkdir()
    save_file(official_vqgan(), folder / "vqgan.safetensors")
    (folder / "notes.txt").write_text("")
    assert catalog.checkpoints(workspace) == ["vqgan.safetensors"]
    assert "maskgit_vqgan" in catalog.families()
    for file, name, message in (
        ("../x.pt", "new", "not in checkpoints"),
        ("vqgan.safetensors", "../new", "must be letters"),
        ("vqgan.safetensors", "tiny", "taken already"),
    ):
        with pytest.raises(ValueError, match=message):
            catalog.convert(workspace, place.keeper, file, "maskgit_vqgan", name)
