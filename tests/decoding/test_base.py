import json

import pytest

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.masked import Masked


@pytest.mark.parametrize("strategy", [Autoregressive(top_k=5), Masked(guidance_interval=[1, 3])])
def test_saved_and_loaded(strategy, tmp_path):
    strategy.save_pretrained(tmp_path / "decoding")
    (file,) = (tmp_path / "decoding").iterdir()
    data = json.loads(file.read_text())
    assert file.name == "decoding_config.json" and data["_class_name"] == type(strategy).__name__
    again = type(strategy).from_pretrained(tmp_path / "decoding")
    assert {k: v for k, v in again.config.items() if k[0] != "_"} == {
        k: v for k, v in strategy.config.items() if k[0] != "_"
    }
    same = type(strategy).from_pretrained(tmp_path, subfolder="decoding")
    assert same.guidance == strategy.guidance


def test_swapped_like_a_scheduler():
    first = Autoregressive(top_k=7, guidance_scale=3.0)
    other = Masked.from_config(first.config, num_steps=3)
    assert (other.config.top_k, other.config.guidance_scale, other.config.num_steps) == (7, 3.0, 3)
    assert other.config.temperature == Masked().config.temperature
    with pytest.raises(ValueError, match="num_steps is no option of Autoregressive; known: temp"):
        Autoregressive.from_config(first.config, num_steps=3)


def test_with_options_leaves_none_alone():
    strategy = Masked(num_steps=3)
    assert strategy.with_options(top_k=None) is strategy
    assert strategy.with_options(top_k=4, num_steps=None).config.num_steps == 3
    with pytest.raises(ValueError, match="num_steps is no option"):
        Autoregressive().with_options(num_steps=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "decoding: has no decoding_config.json"),
        ("{", "decoding_config.json is not readable JSON"),
        ("[]", "is not of a Masked"),
        ('{"_class_name": "Autoregressive"}', "is not of a Masked"),
        ('{"_class_name": "Masked", "speed": 1}', "speed is no option of Masked"),
        ('{"_class_name": "Masked", "num_steps": 0}', "num_steps 0 must be"),
    ],
)
def test_broken_files_are_one_line(text, message, tmp_path):
    folder = tmp_path / "decoding"
    folder.mkdir()
    if text is not None:
        (folder / "decoding_config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        Masked.from_pretrained(folder)
    assert "\n" not in str(error.value)
