"""Sounds and clips through the server's parts, without a model of theirs."""

import io
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from studio.pipelines.request import Request
from studio.server import coding, media
from studio.server.gallery import Gallery
from studio.server.workspace import Workspace


@pytest.fixture
def gallery(tmp_path):
    return Gallery(Workspace(tmp_path / "w"))


def test_a_sound_becomes_an_item_with_its_request(gallery):
    request = Request(model="speech", prompt="hello", seed=3, voice="ann", speed=1.5)
    wave = torch.sin(torch.arange(1600) / 9)[None]  # (1, L)
    output = SimpleNamespace(sampling_rate=16000)
    item = gallery.add(wave, request, output, medium="audio", stats={"tokens": 8})
    assert (item.suffix, item.mime) == (".wav", "audio/wav")
    assert media.read_request(gallery.path(item)) == request.to_dict()
    assert [i.id for i in gallery.search("hello ann sound")] == [item.id]
    gallery.path(item, ".json").unlink()
    assert Gallery(Workspace(gallery.folder.parent)).search()[0].medium == "audio"


def test_a_clip_becomes_an_item_with_its_request(gallery):
    pytest.importorskip("av")
    request = Request(model="emoji-motion", prompt="red apple", seed=3, num_frames=4)
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    item = gallery.add(frames, request, SimpleNamespace(fps=8.0), medium="video", stats={})
    assert item.mime == "video/mp4" and media.read_request(gallery.path(item)) == request.to_dict()


def test_previews_of_each_medium():
    still = SimpleNamespace(images=[Image.new("RGB", (8, 8))], known=1)
    clip = SimpleNamespace(frames=[[Image.new("RGB", (8, 8), c) for c in ("red", "blue")]], known=1)
    (shown,) = media.previews(still, ["apple"])
    assert shown.mime == "image/png" and shown.alt == "preview of apple"
    (shown,) = media.previews(clip, ["apple"])
    assert Image.open(io.BytesIO(shown.data)).n_frames == 2
    assert media.previews(SimpleNamespace(frames=None), ["apple"]) == []
    wave = media.sound([torch.zeros(1, 1, 800), torch.ones(1, 1, 800)], 16000, "hello")
    assert wave.mime == "audio/wav" and wave.data[:4] == b"RIFF" and len(wave.data) == 44 + 3200


def test_files_by_their_suffix():
    names = ("a.PNG", "b.wav", "c.mp4", "d.gif")
    assert [media.kind_of_file(n).name for n in names] == ["image", "audio", "video", "video"]
    with pytest.raises(ValueError, match="'e.exe' must end in one of"):
        media.kind_of_file("../e.exe")


def test_a_spectrogram_is_a_picture():
    wave = torch.sin(torch.arange(16000) / 4)[None, None]
    shown = coding.spectrogram(wave, "a tone")
    assert Image.open(io.BytesIO(shown.data)).size == (600, 160) and shown.alt == "a tone"
