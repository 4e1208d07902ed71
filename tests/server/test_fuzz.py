"""Hostile input: whatever comes in, an answer of one line goes out, nothing is written elsewhere,
and the server goes on."""

import io
import json
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image, PngImagePlugin

from studio.media.token_file import MARK
from studio.pipelines.request import Request
from studio.server import coding, token_view
from studio.server.keeper import Keeper
from studio.server.settings import request_of, settings_of_file
from studio.server.workspace import Workspace
from tests import toys
from tests.hostile import SECONDS, bodies, broken_file, media, mutants, quiet, values
from tests.server.test_api import call, server  # noqa: F401

paths = some.text(string.ascii_letters + string.digits + "/.%_-~;=&\\", max_size=40)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")


def is_one_line(status, answer):
    """An answer that is allowed: never a fault of ours, never a traceback."""
    assert status < 500, answer
    if isinstance(answer, dict) and "error" in answer:
        assert "\n" not in answer["error"] and "Traceback" not in answer["error"]
        assert len(answer["error"]) < 700


@quiet
@given(body=bodies)
def test_any_object_as_a_job(call, place, body):  # noqa: F811
    text = json.dumps(body).encode()  # NaN and infinities too
    status, answer = call("POST", "/jobs", text)
    is_one_line(status, answer)
    if status == 202:
        place.queue.cancel(answer["id"])


@quiet
@given(body=some.binary(max_size=400))
def test_any_bytes_as_a_job_or_an_input(call, place, body):  # noqa: F811
    for path in ("/jobs", "/inputs"):
        is_one_line(*call("POST", path, body))
    assert list((place.workspace.folder / "uploads").iterdir()) == []


@quiet
@given(method=some.sampled_from(METHODS), path=paths)
def test_any_method_on_any_path(call, method, path):  # noqa: F811
    try:
        status, answer = call(method, f"/{path}")
    except (ValueError, TypeError):  # the client's own refusal
        return
    is_one_line(status, answer)


@quiet
@given(token=some.text(some.characters(min_codepoint=33, max_codepoint=255), max_size=60))
def test_no_guess_is_the_token(call, token):  # noqa: F811
    headers = {"Authorization": b"Bearer " + token.encode("latin-1")}
    assert call("GET", "/jobs", token=None, headers=headers)[0] == 401


def test_the_server_is_still_up(call):  # noqa: F811
    assert call("GET", "/health")[0] == 200


# --- files ---------------------------------------------------------------------------------------


def png(text):
    """A PNG file whose studio text is `text`."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt("studio", text)
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("fuzz") / "workspace")


def refused_or_request(folder, name, data):
    before = sorted(p for p in folder.folder.parent.rglob("*") if p.is_file())
    started = time.monotonic()
    try:
        assert isinstance(settings_of_file(folder, name, data), Request)
    except ValueError as error:
        assert "\n" not in str(error) and str(folder.folder) not in str(error)
    assert time.monotonic() - started < SECONDS
    assert sorted(p for p in folder.folder.parent.rglob("*") if p.is_file()) == before


@quiet
@given(body=bodies)
def test_any_request_inside_a_picture(folder, body):
    refused_or_request(folder, "x.png", png(json.dumps(body)))


@quiet
@given(
    data=some.binary(max_size=300), name=some.sampled_from(["a.png", "a.wav", "a.gif", "a.webp"])
)
def test_any_bytes_as_a_file(folder, data, name):
    refused_or_request(folder, name, data)


@quiet
@given(name=some.text(max_size=60), cut=some.integers(0, 200))
def test_any_name_and_any_cut(folder, name, cut):
    data = png('{"prompt": "x"}')
    refused_or_request(folder, name, data[:-cut] if cut else data)
    refused_or_request(folder, "x.png", data[:cut] + b"\xff" + data[cut + 1 :])


def test_bombs(folder):
    for text in (
        "[" * 200_000,
        '{"a":' * 50_000,
        '{"prompt": "' + "x" * 300_000 + '"}',
        "9" * 5000,
    ):
        refused_or_request(folder, "x.png", png(text))
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    with pytest.raises(ValueError):
        folder.keep_input(file.getvalue())


@quiet
@given(values=bodies)
def test_any_settings(values):
    try:
        request_of(values)
    except ValueError as error:
        assert "\n" not in str(error)


# --- uploads -------------------------------------------------------------------------------------

MODELS = {"wav": "codec", "flac": "codec", "ogg": "codec", "mp4": "clips", "webm": "clips"}
MODELS |= {"avi": "clips", "moving.gif": "clips", "moving.webp": "clips"}


@pytest.fixture(scope="module")
def keeper(folder, tiny_models, tmp_path_factory):
    """A keeper of toy tokenizers of pictures, sounds and clips."""
    more = tmp_path_factory.mktemp("tokenizers")
    toys.speech_codec().save_pretrained(more / "codec")
    toys.video_tokenizer().save_pretrained(more / "clips")
    return Keeper(folder, device="cpu", keep=4, folders=[tiny_models, more])


def refused_or(work, folder):
    """What the work gives, or None for a refusal in one line; in time, and nothing is left."""
    before = sorted(p for p in folder.folder.parent.rglob("*") if p.is_file())
    started, found = time.monotonic(), None
    try:
        found = work()
    except ValueError as error:
        assert str(error).isprintable() and len(str(error)) < 700, error
        assert str(folder.folder) not in str(error)
    assert time.monotonic() - started < SECONDS
    assert sorted(p for p in folder.folder.parent.rglob("*") if p.is_file()) == before
    return found


@quiet
@given(found=broken_file(media()), named=some.sampled_from(["", *media()]))
def test_any_upload_to_be_reconstructed(folder, keeper, found, named):
    kind, data = found
    opened = keeper.open_tokenizer(MODELS.get(kind, "tiny"))

    def work():
        with folder.uploaded(f"a.{named or kind}", data) as path:
            coded = coding.encode(opened, path)
            return coding.decode(opened, coded, coded.counts[-1])

    refused_or(work, folder)


heads = some.fixed_dictionaries(
    {"model": some.just("tiny") | values, "revision": some.none() | values}
    | {"vocab_size": some.just(16) | values, "total": some.just(8) | values}
    | {"shape": some.lists(some.integers(0, 9) | values, max_size=3) | values},
    optional={"more": values},
)
packed = some.tuples(heads, some.binary(max_size=9))
headed = packed.map(lambda made: MARK + json.dumps(made[0]).encode() + b"\n" + made[1])
HEAD = b'{"model":"tiny","revision":null,"vocab_size":16,"shape":[8],"total":8}\n'


@quiet
@given(data=headed | mutants(MARK + HEAD + b"\x01\x23\x45\x67") | some.binary(max_size=99))
def test_any_bytes_as_a_token_file(folder, keeper, data):
    opened = keeper.open_tokenizer("tiny")

    def work():
        tokens, _ = token_view.from_file(opened, data)
        return token_view.decoded(opened, tokens, "x")

    refused_or(work, folder)


rows = some.lists(bodies | values, max_size=4)
tables = rows.map(lambda made: "".join(json.dumps(row) + "\n" for row in made))
cells = some.text(max_size=8) | some.sampled_from(["", "1e999", "-1", "nan", '"', "[1", "tiny"])
columns = some.sampled_from([*Request.__dataclass_fields__, "output", "option.top_k", "option."])
lines = some.lists(some.lists(cells, max_size=4).map(",".join), max_size=4)
sheets = some.tuples(some.lists(columns, max_size=4).map(",".join), lines)
texts = tables | sheets.map(lambda made: "\n".join([made[0], *made[1]])) | some.text(max_size=99)


@quiet
@given(
    text=texts,
    suffix=some.sampled_from([".jsonl", ".csv", ".exe"]),
    name=some.just("b") | some.text(max_size=20),
)
def test_any_table_as_a_batch(place, text, suffix, name):
    def work():
        place.batches.save(name, text, suffix=suffix, replace=True)
        return place.batches.rows(name), place.batches.text(name)

    outside = files_outside(place.workspace)
    try:
        work()
    except ValueError as error:
        assert str(error).isprintable() and len(str(error)) < 700, error
    assert files_outside(place.workspace) == outside
    assert not list((place.workspace.folder / "uploads").iterdir())


def files_outside(workspace):
    """What there is beside a workspace."""
    inside = workspace.folder
    return sorted(p for p in inside.parent.rglob("*") if inside not in (p, *p.parents))
