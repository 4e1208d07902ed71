"""`studio demo`: one page that needs nothing else."""

import base64
import io
import os
import re
import wave
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

import studio
from studio.cli.demo import CLIPS, PROMPTS, SENTENCE, prefix_lengths
from studio.cli.page import Figure, Page, Sound
from tests import toys


class Reader(HTMLParser):
    """Collects images and everything that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.images, self.sounds, self.fetched, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        elif tag == "audio":
            self.sounds.append(attrs)
        elif "src" in attrs or "href" in attrs:
            self.fetched.append((tag, attrs))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(path):
    text = path.read_text(encoding="utf-8")
    page = Reader(text)
    assert page.open == [] and page.fetched == [] and "<script" not in text
    assert not re.search(r"https?:|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text and 'lang="en"' in text
    for image in page.images:
        kind = image["src"].partition(";")[0]
        assert image["alt"].strip() and kind in ("data:image/png", "data:image/webp")
        data = base64.b64decode(image["src"].partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == (int(image["width"]), int(image["height"]))
    for sound in page.sounds:
        assert sound["aria-label"].strip() and sound["src"].startswith("data:audio/wav;base64,")
        data = io.BytesIO(base64.b64decode(sound["src"].partition(",")[2]))
        with wave.open(data) as file:
            assert file.getnframes() > 0.2 * file.getframerate()
    return text, page


def test_demo_of_a_toy_that_speaks(call, monkeypatch, tmp_path):
    torch.manual_seed(0)
    toys.speech_pipeline().save_pretrained(tmp_path / "models" / "talk")
    monkeypatch.setattr("studio.hub.PRETRAINED", tmp_path / "models")
    done = call("demo", "--out", "page")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text, page = check_page(tmp_path / "page" / "index.html")
    assert len(page.sounds) == 2 and "talk speaks" in text and SENTENCE in text
    assert "--voice ada" in text and "Timings" in text
    assert Image.open(tmp_path / "page" / "talk.png").size == (288, 120)
    with wave.open(str(tmp_path / "page" / "talk.wav")) as file:
        assert file.getnframes() > 0.2 * file.getframerate()


def test_demo_of_toy_models(call, tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr("studio.hub.PRETRAINED", tiny_model.parent)
    done = call("demo", "--out", "page")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    name, index = tiny_model.name, os.path.join("page", "index.html")
    assert done.stdout.endswith(f"wrote {index}, and beside it {name}.png\n")
    assert {p.name for p in (tmp_path / "page").iterdir()} == {"index.html", f"{name}.png"}
    text, page = check_page(tmp_path / "page" / "index.html")
    assert len(page.images) == 2 * len(PROMPTS) + 3 * 4 + 8
    for words in ("masked generator", "Growing prefixes", "Reconstructions", "Timings", PROMPTS[1]):
        assert words in text


def test_clips_play_on_the_page(call, monkeypatch, tmp_path):
    torch.manual_seed(0)
    words = studio.CaptionTokenizer.train(["red apple moving left"] * 9, 300, max_length=40)
    toys.video_pipeline(words).save_pretrained(tmp_path / "models" / "moves")
    monkeypatch.setattr("studio.hub.PRETRAINED", tmp_path / "models")
    done = call("demo", "--out", "page")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text, page = check_page(tmp_path / "page" / "index.html")
    assert len(page.images) == len(CLIPS) + 3 and "Layers of moves" in text
    for image in page.images:
        clip = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert clip.n_frames == 8 and clip.format == "WEBP"
    beside = Image.open(tmp_path / "page" / "moves.gif")
    width, height = clip.size
    assert beside.n_frames == 8 and beside.size == (len(CLIPS) * width, height)


def test_demo_without_models_or_room(fails, tiny_model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    fails("demo", "--out", tmp_path / "file", message="a file stands where a folder is needed")
    monkeypatch.setattr("studio.hub.PRETRAINED", tmp_path / "nothing")
    fails("demo", message="no bundled model is installed")


def test_words_are_escaped():
    page = Page()
    figure = Figure(Image.new("RGB", (2, 2)), '<b>"a"</b>')
    page.gallery("<i>", [figure], note="studio <x>")
    page.table("t", [{"<k>": "<v>"}])
    page.sounds("s", [Sound(b"", Image.new("RGB", (2, 2)), "<u>")])
    text = page.html()
    assert "<b>" not in text and "<i>" not in text and "<v>" not in text
    assert "<u>" not in text and 'aria-label="&lt;u&gt;"' in text
    assert 'alt="&lt;b&gt;&quot;a&quot;&lt;/b&gt;"' in text and "<code>studio &lt;x&gt;" in text


def test_prefix_lengths():
    assert prefix_lengths(64) == [1, 2, 4, 8, 16, 32, 64] and prefix_lengths(6) == [1, 2, 4, 6]
    assert prefix_lengths(1) == [1]


def test_demo_of_the_bundled_models(forks, bundled, tmp_path):
    for model in ("emoji-1d", "emoji-grid"):
        bundled(model)
    done = forks.run("demo", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    text, page = check_page(tmp_path / "studio-demo" / "index.html")
    assert len(page.images) >= 4 * len(PROMPTS)
    assert all(name in text for name in ("emoji-1d, masked", "emoji-grid, autoregressive"))


@pytest.mark.parametrize("name", ["emoji-1d", "emoji-grid"])
def test_prompts_are_what_the_models_know(bundled, name):
    """Every word of the demo's prompts stands in the data's own words."""
    bundled(name)
    from studio.data.colors import COLORS
    from studio.data.emoji import emoji_names

    known = {word for name in emoji_names() for word in name.split()}
    known |= set(COLORS) | {"on", "to", "and", "small"}
    assert {word for prompt in PROMPTS for word in prompt.split()} <= known


def test_only_the_last_clip_shows_a_pair_that_no_generator_saw():
    from studio.data.colors import COLORS
    from studio.data.emoji import emoji_names
    from studio.data.motion import MOTIONS, is_heldout_pair

    unseen = []
    for prompt in CLIPS:
        words, _, ground = prompt.partition(" on ")
        motion = next(m for m in MOTIONS if words.endswith(f" {m}"))
        name = words.removesuffix(f" {motion}")
        assert ground in ("", *COLORS) and name in emoji_names()
        unseen.append(is_heldout_pair(name, motion))
    assert unseen == [False, False, False, True]
