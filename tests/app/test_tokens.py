"""Tokens: look inside, swap, download and open again."""

import torch

from studio.media.token_file import TokenFile, write_tokens
from tests.app.conftest import by_label, words
from tests.app.pictures import png


def choose(app, model):
    by_label(app.selectbox, "Tokenizer").set_value(model).run()
    assert not app.exception, app.exception
    return app


def test_looking_inside(visit, place, finish):
    app = choose(visit("tokens"), "grid")
    by_label(app.file_uploader, "A picture").set_value(("x.png", png(), "image/png")).run()
    by_label(app.button, "Look inside").click().run()
    assert finish(app).state == "done"
    assert len(app.image) == 4
    by_label(app.slider, "Token").set_value(9).run()
    assert any("row 2, column 1" in words(caption) for caption in app.caption)
    assert [metric.label for metric in app.metric] == ["Distinct codes", "Entropy"]


def test_swapping(visit, place):
    app = choose(visit("tokens"), "tiny")
    by_label(app.file_uploader, "First picture").set_value(("a.png", png(1), "image/png"))
    by_label(app.file_uploader, "Second picture").set_value(("b.png", png(2), "image/png")).run()
    assert not app.exception and not app.error
    assert len(app.image) == 2
    assert by_label(app.slider, "Tokens of the second picture").max == 7


def test_swapping_a_rectangle(visit, place):
    app = choose(visit("tokens"), "grid")
    by_label(app.file_uploader, "First picture").set_value(("a.png", png(1), "image/png"))
    by_label(app.file_uploader, "Second picture").set_value(("b.png", png(2), "image/png")).run()
    by_label(app.slider, "Rows of the second picture").set_value((0, 3))
    by_label(app.slider, "Columns of the second picture").set_value((0, 3)).run()
    assert not app.exception and not app.error and len(app.image) == 2


def test_a_token_file_opens_again(visit, place):
    from studio.server import coding, token_view

    def work(job):
        opened = place.keeper.open_tokenizer("tiny")
        with place.workspace.uploaded("x.png", png()) as path:
            return token_view.to_file(opened, coding.encode(opened, path).tokens)

    job = place.run(work, kind="test", title="test")
    assert job.wait(timeout=60).error is None
    app = choose(visit("tokens"), "tiny")
    upload = by_label(app.file_uploader, "A token file")
    upload.set_value(("x.tokens", job.value, "application/octet-stream")).run()
    assert len(app.image) == 1 and not app.error
    upload = by_label(app.file_uploader, "A token file")
    upload.set_value(("y.tokens", b"garbage", "application/octet-stream")).run()
    assert any("no token file" in words(error) for error in app.error)


def test_nothing_is_done_twice(visit, place):
    """Neither a swap nor a file that is wrong, whatever else is clicked on the page."""
    app = choose(visit("tokens"), "tiny")
    by_label(app.file_uploader, "First picture").set_value(("a.png", png(1), "image/png"))
    by_label(app.file_uploader, "Second picture").set_value(("b.png", png(2), "image/png"))
    upload = by_label(app.file_uploader, "A token file")
    upload.set_value(("y.tokens", b"garbage", "application/octet-stream")).run()
    before = len(place.queue.jobs())
    app.run()
    assert not app.exception and len(place.queue.jobs()) == before and len(app.image) == 2
    assert any("no token file" in words(error) for error in app.error)
    by_label(app.slider, "Tokens of the second picture").set_value((2, 3)).run()
    assert len(place.queue.jobs()) == before + 1


def test_a_token_file_of_another_revision(visit, place):
    data = write_tokens(TokenFile("tiny", "0123456789ab", torch.zeros(1, 8).long(), 16, 8))
    app = choose(visit("tokens"), "tiny")
    upload = by_label(app.file_uploader, "A token file")
    upload.set_value(("x.tokens", data, "application/octet-stream")).run()
    assert any("0123456789ab of tiny made these" in words(note) for note in app.warning)
    assert len(app.image) == 1 and not app.error
