"""studio app: what it refuses, where its pages are, and what the wheel must carry."""

import os
import subprocess
import sys
import time

import pytest

from studio.cli import app
from studio.cli.main import run

pytest.importorskip("streamlit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "99999"], "--port 99999 must be a whole number from 0 to 65535"),
        (["--port", "x"], "must be a whole number"),
        (["--keep", "0"], "--keep 0 must be"),
        (["--device", "tpu"], "--device 'tpu' must be one of"),
        (["--dtype", "int8"], "--dtype 'int8' must be float32, bfloat16 or float16"),
        (["--models", "no-such-folder"], "--models 'no-such-folder' is no folder"),
    ],
)
def test_wrong_options_are_refused(options, message, capsys):
    assert run(["app", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_is_started(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))
    monkeypatch.setenv("PYTHONPATH", "")
    options = ["--port", "0", "--workspace", str(tmp_path), "--dtype", "bfloat16"]
    assert run(["app", *options, "--models", str(tmp_path)]) == 0
    (command,) = started
    assert command[command.index("--dtype") + 1] == "bfloat16"
    assert command[1] == str(app.app_folder() / "serve.py") and command[-2:] == [
        "--models",
        str(tmp_path),
    ]


def test_the_wheel_carries_the_pages_and_their_settings(root):
    from hatchling.builders.wheel import WheelBuilder

    files = {f.distribution_path for f in WheelBuilder(str(root)).recurse_included_files()}
    for name in ("main.py", "serve.py", "elements.py", "icon.png", ".streamlit/config.toml"):
        assert f"studio/_app/{name}" in files
    pages = {f"studio/_app/pages/{path.name}" for path in (root / "app" / "pages").glob("*.py")}
    assert len(pages) == 7 and pages <= files


@pytest.mark.slow
def test_it_serves_pages_and_the_api_to_this_machine_alone(tmp_path, root):
    import http.client

    log = tmp_path / "log"
    command = [sys.executable, "-m", "studio.cli.main", "app", "--port", "0"]
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, "--workspace", str(tmp_path / "w")], stdout=file, stderr=subprocess.STDOUT,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
    try:
        end = time.monotonic() + 300
        while "studio is at" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        address = log.read_text().split("http://")[1].split()[0]

        def get(path, **headers):
            line = http.client.HTTPConnection(address, timeout=60)
            line.request("GET", path, headers=headers)
            answer = line.getresponse()
            return answer.status, answer.read()

        assert get("/")[0] == 200 and get("/_stcore/health")[0] == 200
        assert get("/api/v1/health")[0] == 200 and get("/api/v1/jobs")[0] == 401
        for path in ("/", "/api/v1/health", "/_stcore/health"):
            assert get(path, Host="evil.example")[0] == 400
        second = subprocess.run(
            [*command, "--workspace", str(tmp_path / "w")], capture_output=True, text=True,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, timeout=300,
        )  # fmt: skip
        assert second.returncode == 2 and "is in use by another" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        process.terminate()
        assert process.wait(60) is not None
    assert "Traceback" not in log.read_text()
