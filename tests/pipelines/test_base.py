"""Saving and loading: round trips, plain diffusers, and every way in which a folder can be bad."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import studio

WEIGHTS = "diffusion_pytorch_model.safetensors"


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_round_trip(pipe, tmp_path, seeded):
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    assert os.listdir(tmp_path) == ["model"]
    again = studio.Pipeline.from_pretrained(folder)
    assert type(again) is studio.TextToImagePipeline
    assert not again.generator.training and not again.tokenizer.training
    a, b = (p("rocket", generator=seeded(3), output_type="pt") for p in (pipe, again))
    assert torch.equal(a.images, b.images) and torch.equal(a.tokens, b.tokens)
    for name in ("tokenizer", "generator"):
        one, two = getattr(pipe, name).state_dict(), getattr(again, name).state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    again.save_pretrained(folder)  # over itself
    assert studio.Pipeline.from_pretrained(folder)


def test_the_index_says_studio_and_no_path(saved, tmp_path):
    index = json.loads((saved / "grid" / "model_index.json").read_text())
    assert index["_class_name"] == "TextToImagePipeline"
    parts = {k: v for k, v in index.items() if k[0] != "_"}
    assert parts == {
        "decoding": ["studio", "Autoregressive"],
        "generator": ["studio", "AutoregressiveTransformer"],
        "text_tokenizer": ["studio", "CaptionTokenizer"],
        "tokenizer": ["studio", "GridTokenizer"],
    }
    studio.Pipeline.from_pretrained(saved / "grid").save_pretrained(tmp_path / "again")
    for name in names(tmp_path / "again"):
        if name.endswith(".json"):
            assert str(saved) not in (tmp_path / "again" / name).read_text()


def test_both_generators_of_a_folder(saved):
    for wanted, cls in ((None, "Auto"), ("autoregressive", "Auto"), ("masked", "Mask")):
        pipe = studio.Pipeline.from_pretrained(saved / "prefix", generator=wanted)
        assert type(pipe.generator).__name__.startswith(cls)
        assert type(pipe.decoding).__name__.startswith(cls)
    with pytest.raises(ValueError, match="generator 'x' must be one of autoregressive, masked"):
        studio.Pipeline.from_pretrained(saved / "prefix", generator="x")


def test_a_generator_that_is_not_there(pipes, tmp_path):
    pipes["prefix", "masked"].save_pretrained(tmp_path / "m")
    assert studio.Pipeline.from_pretrained(tmp_path / "m", generator="masked")
    message = "generator 'autoregressive' is not in model 'm'; there: masked"
    with pytest.raises(ValueError, match=message):
        studio.Pipeline.from_pretrained(tmp_path / "m", generator="autoregressive")


def test_half_precision_files_become_float32_or_what_is_asked_for(saved, tmp_path, seeded):
    pipe = studio.Pipeline.from_pretrained(saved / "prefix")
    pipe.to(torch.float16).save_pretrained(tmp_path / "half")
    stored = load_file(tmp_path / "half" / "generator" / WEIGHTS)
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    full = studio.Pipeline.from_pretrained(tmp_path / "half")
    assert full.generator.dtype == full.tokenizer.dtype == torch.float32
    assert len(full("rocket", generator=seeded(1)).images) == 1
    for key in ("dtype", "torch_dtype"):
        low = studio.Pipeline.from_pretrained(tmp_path / "half", **{key: torch.bfloat16})
        assert low.generator.dtype == torch.bfloat16
        assert len(low("rocket", generator=seeded(1)).images) == 1
    mixed = {"generator": torch.bfloat16, "default": torch.float32}
    pipe = studio.Pipeline.from_pretrained(tmp_path / "half", dtype=mixed)
    assert (pipe.generator.dtype, pipe.tokenizer.dtype) == (torch.bfloat16, torch.float32)


def test_parts_can_be_given(saved):
    pipe = studio.Pipeline.from_pretrained(saved / "grid", decoding=studio.Autoregressive(top_k=3))
    assert pipe.decoding.config.top_k == 3
    other = studio.TextToImagePipeline.from_pretrained(saved / "grid", generator=pipe.generator)
    assert other.generator is pipe.generator


def test_loading_leaves_global_random_state_alone(saved):
    before = torch.get_rng_state()
    studio.Pipeline.from_pretrained(saved / "grid")
    studio.Pipeline.from_pretrained(saved / "prefix", generator="masked")
    assert torch.equal(before, torch.get_rng_state())


def test_shards(pipes, tmp_path):
    pipes["grid", "masked"].save_pretrained(tmp_path / "m", max_shard_size="20KB")
    folder = tmp_path / "m" / "tokenizer"
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    studio.Pipeline.from_pretrained(tmp_path / "m")
    shards[0].unlink()
    with pytest.raises(ValueError, match=f"tokenizer: {shards[0].name} is missing"):
        studio.Pipeline.from_pretrained(tmp_path / "m")
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(ValueError, match="names the file '../../secret.safetensors'"):
        studio.Pipeline.from_pretrained(tmp_path / "m")


def test_variants(pipes, tmp_path):
    pipes["grid", "masked"].save_pretrained(tmp_path / "m", variant="fp16")
    assert studio.Pipeline.from_pretrained(tmp_path / "m", variant="fp16")
    with pytest.raises(ValueError, match=f"{WEIGHTS} is missing"):
        studio.Pipeline.from_pretrained(tmp_path / "m")


OPEN = """
import json, sys
import studio
studio.register_with_diffusers()
import diffusers, torch
for folder in sys.argv[1:]:
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(pipe).__name__ == "TextToImagePipeline", type(pipe)
    g = torch.Generator().manual_seed(3)
    print(pipe("rocket", generator=g, output_type="tokens").tokens.tolist())
    pipe.save_pretrained(folder + "-again")
auto = diffusers.AutoPipelineForText2Image.from_pretrained(folder)
assert type(auto) is type(pipe)
"""


def test_plain_diffusers_opens_it(saved, tmp_path, seeded, root):
    folders = [shutil.copytree(saved / model, tmp_path / model) for model in ("grid", "prefix")]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *map(str, folders)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    for folder, line in zip(folders, done.stdout.splitlines(), strict=True):
        pipe = studio.Pipeline.from_pretrained(folder)
        want = pipe("rocket", generator=seeded(3), output_type="tokens").tokens.tolist()
        assert line == str(want)
        again = tmp_path / f"{folder.name}-again"
        assert str(folder) not in (again / "model_index.json").read_text()
        studio.Pipeline.from_pretrained(again)


def fails(folder, message):
    before = names(folder) if folder.is_dir() else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message) as error:
            studio.Pipeline.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert before is None or names(folder) == before


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("part", ["tokenizer", "generator"])
def test_bad_weight_files(broken, part):
    path = broken / part / WEIGHTS
    good = path.read_bytes()
    tensors = load_file(path)
    key = sorted(k for k in tensors if tensors[k].ndim == 2)[0]
    for size in (0, 5, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        fails(broken, f"{part}/{WEIGHTS} is cut short or")
    save_file({k: v for k, v in tensors.items() if k != key}, path)
    fails(broken, f"{part}: the weight file lacks {key}$")
    save_file({**tensors, "zz": torch.zeros(1), "zzz": torch.zeros(1)}, path)
    fails(broken, f"{part}: the weight file has unexpected zz and 1 more")
    save_file({**tensors, key: tensors[key][:-1].contiguous()}, path)
    fails(broken, f"{part}: {key} has shape .* in the weight file, config.json wants")
    torch.save(tensors, path)
    fails(broken, f"{part}/{WEIGHTS} is a pickle, not safetensors; pickles are never read")
    path.write_bytes(pickle.dumps(list(range(100))))
    fails(broken, "is a pickle")
    path.write_bytes(good)
    studio.Pipeline.from_pretrained(broken)
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    fails(broken, f"{part}: {WEIGHTS} is missing .diffusion_pytorch_model.bin is a pickle")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_pickle_is_not_run(broken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(2, 6):
        (broken / "generator" / WEIGHTS).write_bytes(pickle.dumps(Bomb(), protocol=protocol))
        fails(broken, "is a pickle")
    (broken / "generator" / WEIGHTS).write_bytes(pickle.dumps(Bomb(), protocol=0))
    fails(broken, "is cut short or is not safetensors")
    assert not (tmp_path / "exploded").exists()


def test_bad_indexes(broken):
    index = broken / "model_index.json"
    good = index.read_text()
    for text in ("", "{", "\x00\x01", good[:50], "[" * 5000):
        index.write_text(text)
        fails(broken, "broken/model_index.json is not readable JSON")
    index.write_text("[]")
    fails(broken, "broken/model_index.json must hold a JSON object")
    index.write_text("{}")
    fails(broken, "names no pipeline class")
    cases = [
        (
            lambda d: d.update(_class_name="StableDiffusionPipeline"),
            "names StableDiffusionPipeline",
        ),
        (lambda d: d.update(_class_name="Pipeline"), "names Pipeline, which is none of"),
        (lambda d: d.pop("tokenizer"), "lacks tokenizer, which TextToImagePipeline needs"),
        (lambda d: d.update(tokenizer=[None, None]), "lacks tokenizer"),
        (lambda d: d.update(vae=["studio", "GridTokenizer"]), "names vae, no part of"),
        (
            lambda d: d.update(tokenizer=["os", "system"]),
            "os.system is no class that studio can load",
        ),
        (lambda d: d.update(tokenizer=["studio", "Nothing"]), "studio.Nothing is no class"),
        (lambda d: d.update(tokenizer=["diffusers", "logging"]), "diffusers.logging is no class"),
        (lambda d: d.update(tokenizer=["studio", "Masked"]), "tokenizer: has no decoding_config"),
        (lambda d: d.update(tokenizer=[["studio"], {}]), "is no class that studio can load"),
        (lambda d: d.update(generator=["studio", "MaskedTransformer"]), "is not of a MaskedTransf"),
    ]
    for change, message in cases:
        index.write_text(good)
        edit(index, change)
        fails(broken, message)
    index.unlink()
    fails(broken, "broken/model_index.json is missing")


def test_bad_parts(broken):
    config = broken / "tokenizer" / "config.json"
    good = config.read_text()
    edit(config, lambda d: d.update(magic=1))
    fails(broken, "tokenizer/config.json does not fit GridTokenizer: .*magic")
    config.write_text(good)
    edit(config, lambda d: d.update(base_channels="many"))
    fails(broken, "tokenizer/config.json does not fit GridTokenizer")
    config.write_text(good)
    edit(config, lambda d: d.update(codebook_size=25))
    fails(broken, r"quantize.* has shape \(24, 4\) in the weight file, config.json wants \(25, 4\)")
    config.write_text(good[:30])
    fails(broken, "tokenizer/config.json is not readable JSON")
    config.unlink()
    fails(broken, "tokenizer/config.json is missing")
    config.write_text(good)
    (broken / "text_tokenizer" / "tokenizer.json").write_text("{}")
    fails(broken, "text_tokenizer")
    (broken / "decoding" / "decoding_config.json").write_text('{"_class_name": "Masked"}')
    fails(broken, "decoding: decoding_config.json is not of a Autoregressive")


def test_a_missing_part_folder(broken):
    (broken / "decoding" / "decoding_config.json").unlink()
    fails(broken, "decoding: has no decoding_config.json")
    (broken / "decoding").rmdir()
    fails(broken, "decoding: folder is missing in broken")


def test_parts_of_two_models_do_not_mix(broken, saved):
    shutil.rmtree(broken / "tokenizer")
    shutil.copytree(saved / "prefix" / "tokenizer", broken / "tokenizer")
    edit(broken / "model_index.json", lambda d: d.update(tokenizer=["studio", "PrefixTokenizer"]))
    fails(broken, "generator makes 16 tokens of 24, but the tokenizer reads 8 of 16")


def test_arguments_of_loading_are_checked(saved):
    load = studio.TextToImagePipeline.from_pretrained
    with pytest.raises(ValueError, match="speed is no argument of TextToImagePipeline.from_pre"):
        load(saved / "grid", speed=1)
    with pytest.raises(ValueError, match="use_safetensors False is not supported"):
        load(saved / "grid", use_safetensors=False)
    with pytest.raises(ValueError, match="ReconstructionPipeline has no generator"):
        studio.ReconstructionPipeline.from_pretrained(saved / "grid", generator="masked")
    with pytest.raises(ValueError, match="tokenizer must be a Tokenizer, but is a NoneType"):
        load(saved / "grid", tokenizer=None, proxies=None)


def test_a_class_that_nobody_finds_again_is_not_saved(saved, tmp_path):
    class Mine(studio.Autoregressive):
        pass

    pipe = studio.Pipeline.from_pretrained(saved / "grid", decoding=Mine())
    with pytest.raises(ValueError, match="Mine can't be saved"):
        pipe.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="safe_serialization False"):
        pipe.decoding = studio.Autoregressive()
        pipe.save_pretrained(tmp_path / "m", safe_serialization=False)
    assert not (tmp_path / "m").exists()


def test_a_save_that_fails_leaves_nothing(saved, tmp_path, monkeypatch):
    pipe = studio.Pipeline.from_pretrained(saved / "grid")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(pipe.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        pipe.save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_offloading_hooks_are_woken(saved, seeded):
    """diffusers' hooks move a part when its `forward` is called; ours is not."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    woken = []

    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            woken.append(type(module).__name__)
            return args, kwargs

    pipe = studio.Pipeline.from_pretrained(saved / "grid", generator="masked")
    for part in (pipe.tokenizer, pipe.generator):
        add_hook_to_module(part, Hook())
    pipe("rocket", generator=seeded(1))
    assert woken == ["MaskedTransformer", "GridTokenizer"]


def test_diffusers_features(saved):
    pipe = studio.Pipeline.from_pretrained(saved / "grid")
    parts = {"tokenizer", "generator", "text_tokenizer", "decoding", "drafter"}
    assert set(pipe.components) == parts and pipe.drafter is None
    assert pipe.device.type == "cpu" and pipe.dtype == torch.float32
    again = studio.TextToImagePipeline.from_pipe(pipe)
    assert again.generator is pipe.generator
    pipe.to("cpu")


@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_compiled_pipeline_draws_the_same(saved, seeded, kind):
    pipe = studio.Pipeline.from_pretrained(saved / "grid", generator=kind)
    wanted = pipe("rocket", generator=seeded(1)).tokens
    assert pipe.compile(backend="eager", sizes=(1,)) is pipe
    assert torch.equal(pipe("rocket", generator=seeded(1)).tokens, wanted)


def test_a_quantized_pipeline_is_not_saved(saved, seeded, tmp_path):
    pipe = studio.Pipeline.from_pretrained(saved / "grid").quantize("int8")
    assert pipe("rocket", generator=seeded(1)).tokens.shape == (1, pipe.tokenizer.layout.num_tokens)
    with pytest.raises(ValueError, match="generator was quantized to int8 and can't be saved"):
        pipe.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="precision 'int5'"):
        studio.Pipeline.from_pretrained(saved / "grid").quantize("int5")


def test_a_cache_is_chosen(saved, seeded):
    pipe = studio.Pipeline.from_pretrained(saved / "grid").use_cache("int8")
    assert pipe("rocket", generator=seeded(1)).tokens is not None and pipe.cache == "int8"
    with pytest.raises(ValueError, match="cache 'int5' must be one of"):
        pipe.use_cache("int5")
    masked = studio.Pipeline.from_pretrained(saved / "grid", generator="masked")
    with pytest.raises(ValueError, match="cache 'int8': an unordered generator keeps no cache"):
        masked.use_cache("int8")
