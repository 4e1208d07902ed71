"""The real app in a real browser: `pytest -m browser`."""

import os
import shutil
import subprocess
import sys
import time

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
START, PATIENCE = 900, 120  # seconds: machines that are busy with other work are slow


@pytest.fixture(scope="session")
def address(tmp_path_factory, root, bundled):
    """The address of the app, started by the command, in an empty workspace."""
    bundled("emoji-1d")
    folder = tmp_path_factory.mktemp("app")
    command = [sys.executable, "-m", "studio.cli.main", "app", "--port", "0"]
    log = folder / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, "--workspace", str(folder / "workspace")],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
    end = time.monotonic() + START
    while "studio is at" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    yield log.read_text().split("studio is at ")[1].split()[0]
    process.terminate()
    process.wait(30)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def browser():
    """Chromium, without its window."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser, address):
    """A page at the app's front; what its console says is an error of the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    context.set_default_timeout(PATIENCE * 1000)
    made, said = context.new_page(), []
    made.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda error: said.append(str(error)))
    outside = []
    made.on("request", lambda r: outside.append(r.url) if not _inside(r.url, address) else None)
    made.goto(address)
    made.get_by_role("heading", name="Create").wait_for()
    yield made
    context.close()
    assert outside == [], "the page asked for something that is not here"
    assert said == []


def _inside(url, address):
    return url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))
