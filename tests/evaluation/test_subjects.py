"""Models found by name, and those that are refused."""

import json

import pytest
import torch

import studio
from studio.evaluation.subjects import display_name, open_generators, open_tokenizers
from tests import toys


@pytest.fixture
def run(tmp_path):
    """The folder of a training run."""
    torch.manual_seed(0)
    toys.prefix_tokenizer().save_pretrained(tmp_path / "mine" / "final")
    return tmp_path / "mine"


def test_a_bare_folder_a_run_and_a_pipeline(run, tmp_path):
    bare, whole = open_tokenizers([str(run / "final"), str(run)])
    assert bare.name == "mine/final" and whole.name == "mine"
    assert bare.fingerprint == whole.fingerprint and not bare.model.training
    studio.ReconstructionPipeline(bare.model).save_pretrained(tmp_path / "pipe")
    first, again = open_tokenizers([str(tmp_path / "pipe")] * 2)
    assert (first.name, again.name) == ("pipe", "pipe (2)")
    images = torch.zeros(1, 3, 16, 16)
    assert torch.equal(first.model.encode(images).tokens, bare.model.encode(images).tokens)


def test_names_say_no_path(run):
    assert display_name("emoji-1d") == "emoji-1d"
    assert display_name(str(run / "final")) == "mine/final"


def test_what_is_refused(run, tmp_path):
    def config(**values):
        (run / "final" / "config.json").write_text(json.dumps(values))

    with pytest.raises(ValueError, match="no bundled name, folder or Hub id"):
        open_tokenizers(["nope"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither model_index.json nor config.json"):
        open_tokenizers([str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="is a tokenizer for image, not for sound"):
        open_tokenizers([str(run)], medium="sound")
    with pytest.raises(ValueError, match="is no pipeline folder"):
        open_generators([str(run)])
    config(_class_name="MaskedTransformer")
    with pytest.raises(ValueError, match="is a MaskedTransformer, not a tokenizer"):
        open_tokenizers([str(run)])
    config(_class_name=["x"])
    with pytest.raises(ValueError, match="not a tokenizer"):
        open_tokenizers([str(run)])
