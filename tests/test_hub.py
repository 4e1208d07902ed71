"""Names, tables and the quick import."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from studio import hub


def python(code, root, *args):
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, check=True
    ).stdout


def put(folder, index, **configs):
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for part, name in configs.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps({"_class_name": name}))


@pytest.fixture
def shelf(tmp_path):
    index = {"_class_name": "TextToImagePipeline", "tokenizer": ["studio", "GridTokenizer"]}
    two = {"generator": "AutoregressiveTransformer", "generator_masked": "MaskedTransformer"}
    put(tmp_path / "both", index, **two)
    put(tmp_path / "one", index, generator="MaskedTransformer")
    put(tmp_path / "odd", {"no": "class"})
    (tmp_path / "other").mkdir()
    return tmp_path


def test_models_are_listed(shelf):
    found = {m.name: m for m in hub.list_models(shelf)}
    assert found.keys() == {*hub.bundled_names(), "both", "one"}
    both = found["both"]
    assert both.generators == ("autoregressive", "masked") and both.tokenizer == "GridTokenizer"
    assert both.bytes > 0 and both.folder == shelf / "both"
    assert found["one"].generators == ("masked",)
    assert [m.name for m in hub.list_models(shelf / "one") if m.folder.parent == shelf] == ["one"]


def test_bundled_models_have_what_they_need():
    for model in hub.list_models():
        assert hub.pretrained_folder(model.name) == model.folder
        of_pictures = model.pipeline == "TextToImagePipeline"
        wanted = {"autoregressive", "masked"} if of_pictures else {"autoregressive"}
        assert set(model.generators) == wanted


@pytest.mark.parametrize("name", ["x", "../hub", "", ".", "a/b", "/"])
def test_pretrained_folder_takes_names_only(name):
    with pytest.raises(ValueError, match="is not bundled; bundled: "):
        hub.pretrained_folder(name)


def test_fingerprint_is_of_the_content(shelf):
    first = hub.fingerprint(shelf / "one")
    assert len(first) == 12 and first == hub.fingerprint(shelf / "one")
    shutil.copytree(shelf / "one", shelf / "copy")
    assert hub.fingerprint(shelf / "copy") == first
    (shelf / "copy" / "generator" / "config.json").write_text("{}")
    assert hub.fingerprint(shelf / "copy") != first


def test_hub_loads_no_framework(root):
    code = (
        "from studio import hub; hub.bundled_names(); hub.find_folder('.')\n"
        "import sys; print({'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules))"
    )
    assert python(code, root).strip() == "set()"


def test_tables_are_entered_once():
    from diffusers.pipelines import pipeline_loading_utils as tables

    hub.register()
    hub.register()
    assert "studio" in tables.LOADABLE_CLASSES
    assert tables.ALL_IMPORTABLE_CLASSES["DecodingStrategy"] == [
        "save_pretrained",
        "from_pretrained",
    ]


QUICK = """
import sys
from studio.hub import import_diffusers
import_diffusers()
import diffusers, torch
late = [m for m in ("torch._dynamo", "scipy", "diffusers.models.autoencoders") if m in sys.modules]
import studio
studio.TextToImagePipeline, studio.GridTokenizer, studio.MaskedTransformer
pipe = studio.Pipeline.from_pretrained("emoji-1d").to("cpu")
late += [m for m in ("torch._dynamo", "scipy.stats", "sympy") if m in sys.modules]
print("LATE", late)
import_diffusers()
assert diffusers.AutoencoderKL.__module__.startswith("diffusers.models")
from diffusers.pipelines import pipeline_utils
assert not isinstance(5, pipeline_utils.AutoencoderKL)
double = torch.compile(lambda x: x * 2, backend="eager")
assert double(torch.ones(2)).tolist() == [2.0, 2.0]
assert hasattr(torch._dynamo, "eval_frame")
net = torch.nn.Linear(2, 2)
assert pipeline_utils.is_compiled_module(torch.compile(net, backend="eager"))
assert not pipeline_utils.is_compiled_module(net)
assert "pillow" in diffusers.utils.import_utils._package_map["PIL"]
assert studio.Pipeline.from_pretrained("emoji-1d").to("cpu").config == pipe.config
"""


def test_the_quick_import_puts_off_and_breaks_nothing(root):
    assert "LATE []" in python(QUICK, root)
