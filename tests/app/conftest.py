"""The app's pages without a browser, over a studio with toy models."""

import sys

import pytest

pytest.importorskip("streamlit")

from studio.server import studio as module
from tests.server.conftest import apart, tiny_models  # noqa: F401
from tests.studios import studio_over

PATIENCE = 120


@pytest.fixture
def place(tmp_path, tiny_models, monkeypatch, root):  # noqa: F811
    """The studio that the pages see."""
    monkeypatch.syspath_prepend(str(root / "app"))
    made = studio_over(tmp_path / "workspace", tiny_models)
    monkeypatch.setattr(module, "_current", made)
    yield made
    made.close()
    sys.modules.pop("elements", None)


@pytest.fixture
def visit(place, root):
    """`visit("gallery")` opens a page, with query parameters; it must not fail."""
    from streamlit.testing.v1 import AppTest

    def open_page(name="create", **query):
        app = AppTest.from_file(str(root / "app" / "main.py"), default_timeout=PATIENCE)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        if name != "create":
            app.switch_page(f"pages/{name}.py").run()
        assert not app.exception, app.exception
        return app

    return open_page


@pytest.fixture
def made(place):
    """`made("red apple", seed=3)` is what the studio made of a request, as items of the gallery."""
    from studio.pipelines.request import Request

    def make(prompt, model="tiny", **options):
        job = place.generate([Request(model=model, prompt=prompt, **options)])
        end = job.wait(timeout=PATIENCE)
        assert end.state == "done", end.error
        return [place.gallery.get(name) for name in end.results]

    return make


def by_label(elements, label):
    """The widget of a label."""
    (found,) = [element for element in elements if element.label == label]
    return found


@pytest.fixture
def finish(place):
    """`finish(app)` waits for the newest job and runs the page again; the job's last snapshot."""

    def wait(app):
        end = place.queue.jobs()[0].wait(timeout=PATIENCE)
        app.run()
        assert not app.exception, app.exception
        return end

    return wait


def words(element):
    """What an element says, without the marks that keep words from being markup."""
    return element.value.replace("\\", "")
