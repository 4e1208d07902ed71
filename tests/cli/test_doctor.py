"""`studio doctor`."""

import json

import pytest

from studio import env


@pytest.fixture
def few_packages(monkeypatch):
    """A shorter list of packages: each import costs seconds."""
    monkeypatch.setattr(env, "REQUIRED", ("yaml",))
    monkeypatch.setattr(env, "OPTIONAL", {"studio_absent": ("ray", "a purpose")})
    monkeypatch.setattr(env, "_MEDDLING", {})


def test_doctor_of_a_whole_installation(call, few_packages, monkeypatch):
    monkeypatch.setattr(env, "bundled_models", lambda: ["emoji-1d"])
    done = call("doctor")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for words in (
        "python:",
        "CPU threads:",
        "gpu:",
        "emoji-1d",
        "yaml",
        "Everything that is needed",
    ):
        assert words in done.stdout
    assert 'studio_absent (a purpose): pip install -e ".[ray]"' in done.stdout


def test_doctor_says_what_is_missing(call, few_packages, monkeypatch):
    monkeypatch.setattr(env, "bundled_models", list)
    done = call("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["ok"] is False and report["models"] == []
    assert report["mends"][0].startswith("no bundled model: pip install")


def test_doctor_as_installed(run_studio, bundled):
    bundled("emoji-1d")
    done = run_studio("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["ok"], done.stdout
    assert "emoji-1d" in report["models"]
    assert {state["name"] for state in report["required"]} >= {"torch", "diffusers"}
