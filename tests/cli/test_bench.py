"""`studio bench`: what it prints and writes, and what it refuses."""

import json


def test_decoding_modes_race(call, tiny_model, tmp_path):
    args = ["bench", "decoding", "-m", tiny_model, "--prompts", 2, "--seeds", 1, "--timed", 1]
    args += ["--rounds", 1, "--modes", "seed,exact", "--temperature", 0.5]
    done = call(*args, "--out", "race")
    assert done.returncode == 0, done.stderr
    assert "temperature 0.5" in done.stdout and "plain's tokens" in done.stdout
    assert "times as fast as without a cache" in done.stdout
    written = sorted(path.name for path in (tmp_path / "race").iterdir())
    assert written == ["decoding.json", "decoding.png"]
    figures = json.loads((tmp_path / "race" / "decoding.json").read_text(encoding="utf-8"))
    assert [row["mode"] for row in figures["rows"]] == ["plain", "seed", "exact"]
    assert figures["rows"][1]["equal"] == 2 and figures["settings"]["options"]["temperature"] == 0.5
    assert figures["hardware"]["processor"] and str(tmp_path) not in json.dumps(figures)


def test_what_cannot_be_raced_is_one_line(fails, tiny_model):
    bench = ["bench", "decoding", "-m", tiny_model]
    fails(*bench, "--modes", "fast", message="modes 'fast' must be among plain")
    fails(*bench, "--prompts", 0, message="prompts 0 must be at least 1")
    fails(*bench, "--plain-batch", 0, message="--plain-batch 0 must be at least 1")
    fails(*bench, "--rounds", -1, message="--rounds -1 must be at least 0")
