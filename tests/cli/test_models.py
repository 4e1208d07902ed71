"""`studio models`."""

import json

from studio.cli.models import card_values


def test_a_folder_of_models(call, tiny_model):
    (tiny_model / "README.md").write_text("---\nlicense: cc0-1.0\ntokens: 8\n---\n# Tiny\n")
    done = call("models", tiny_model.parent, "--json")
    assert done.returncode == 0, done.stderr
    row = next(row for row in json.loads(done.stdout) if row["name"] == "tiny")
    assert row["generators"] == ["autoregressive", "masked"] and row["license"] == "cc0-1.0"
    assert row["pipeline"] == "TextToImagePipeline" and row["tokens"] == 8 and row["MiB"] > 0
    table = call("models", tiny_model.parent).stdout
    assert "tiny" in table and "autoregressive, masked" in table


def test_no_model(fails, monkeypatch, tmp_path):
    fails("models", "nope", message="folder 'nope' does not exist")
    fails("models", tmp_path, message="holds no model (no model_index.json)")
    monkeypatch.setattr("studio.hub.PRETRAINED", tmp_path / "nothing")
    fails("models", message="no model is installed; run: studio doctor")


def test_cards_that_do_not_read(tmp_path):
    assert card_values(tmp_path) == {}
    for text in ("", "# Title\n", "---\n[a\n---\n", "---\n- a\n---\n", "text --- a: 1 --- more"):
        (tmp_path / "README.md").write_text(text)
        assert card_values(tmp_path) == {}


def test_bundled_models(call, bundled):
    for name in ("emoji-1d", "emoji-grid"):
        bundled(name)
    rows = {row["name"]: row for row in json.loads(call("models", "--json").stdout)}
    assert sum(row["default"] for row in rows.values()) == 1
    for name in ("emoji-1d", "emoji-grid"):
        assert sorted(rows[name]["generators"]) == ["autoregressive", "masked"]
        assert rows[name]["license"] and rows[name]["tokens"]
