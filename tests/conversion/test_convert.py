"""Conversion: every kind of file, and what is refused leaves nothing on the disk."""

import argparse
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.conversion.convert import convert, read_checkpoint
from studio.conversion.family import find_family
from studio.tokenizers.maskgit import MaskGITTokenizer
from studio.tokenizers.titok import TiTokTokenizer
from tests.recordings import PARITY, needs_fixtures

SIZES = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1}
OFFICIAL = {"channel_mult": [1, 2], "hidden_channels": 32, "num_res_blocks": 1, "resolution": 16}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MaskGITTokenizer(image_size=16, codebook_size=20, codebook_dim=8, **SIZES).eval()


@pytest.fixture
def state(model):
    family = find_family("maskgit_vqgan")
    return {family.origins(k)[0]: v.clone() for k, v in model.state_dict().items()}


def refused(message, file, out, family="maskgit_vqgan", **options):
    """Conversion fails with that message, and the disk is as it was."""
    before = sorted(path for path in out.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        convert(file, family, out, **options)
    assert "\n" not in str(error.value)
    assert sorted(path for path in out.parent.rglob("*")) == before


def same(out, model):
    loaded = MaskGITTokenizer.from_pretrained(out).eval()
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return torch.equal(loaded.reconstruct(images), model.reconstruct(images))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt", ".bin"])
def test_every_kind_of_file(tmp_path, state, model, suffix):
    file = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    (tmp_path / "config.json").write_text(json.dumps(OFFICIAL | {"z_channels": 8}))
    out = convert(file, "maskgit_vqgan", tmp_path / "deep" / "ours")
    assert same(out, model)
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert [p.name for p in out.parent.iterdir()] == ["ours"]


@pytest.mark.parametrize("wrapper", ["ema", "model", "state_dict", "module"])
def test_wrappers_and_prefixes_come_off(tmp_path, state, wrapper):
    others = {"steps": 3, "args": argparse.Namespace(lr=1e-4), "optimizer": {"state": {}}}
    wrapped = {f"module._orig_mod.{k}": v for k, v in state.items()}
    torch.save({wrapper: wrapped, **others}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert found.keys() == state.keys()
    # EMA weights come before the plain ones, whatever the order in the file.
    torch.save({"model": {"k": torch.zeros(1)}, "ema": state}, tmp_path / "b.pt")
    assert read_checkpoint(tmp_path / "b.pt").keys() == state.keys()


def test_precision_of_the_file_is_kept(tmp_path, state):
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "w.safetensors")
    out = convert(tmp_path / "w.safetensors", "maskgit_vqgan", tmp_path / "ours")
    tensors = load_file(out / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}


def test_tensors_that_share_memory(tmp_path, state, model):
    shared = state["decoder.mid.0.conv1.weight"]
    state["encoder.mid.0.conv1.weight"] = shared
    torch.save(state, tmp_path / "w.pt")
    out = convert(tmp_path / "w.pt", "maskgit_vqgan", tmp_path / "ours")
    loaded = MaskGITTokenizer.from_pretrained(out)
    assert torch.equal(loaded.encoder.mid[0].conv1.weight, model.decoder.mid[0].conv1.weight)


def test_tensors_that_do_not_fit_are_named(tmp_path, state):
    file, out = tmp_path / "w.safetensors", tmp_path / "ours"

    def changed(**changes):
        tensors = {k: v for k, v in state.items() if k not in changes.get("drop", ())}
        save_file(tensors | changes.get("add", {}), file)

    changed(add={"loss.logvar": torch.zeros(1)})
    refused(r"w\.safetensors is not a maskgit_vqgan .* unknown: loss\.logvar$", file, out)
    changed(drop=["decoder.up.1.upsample_conv.bias", "decoder.norm_out.bias"])
    refused("missing: decoder.up.1.upsample_conv.bias, decoder.norm_out.bias$", file, out)
    changed(add={"encoder.down.0.block.0.conv1.weight": torch.zeros(32, 32, 1, 1)})
    refused(
        r"another shape: encoder.down.0.block.0.conv1.weight is float32 \(32, 32, 1, 1\), "
        r"should be float32 \(32, 32, 3, 3\)",
        file,
        out,
    )
    changed(add={"encoder.conv_out.bias": torch.zeros(8, dtype=torch.int64)})
    refused(r"encoder.conv_out.bias is int64 \(8,\), should be float32 \(8,\)", file, out)
    changed(drop=["quantize.embedding.weight"])
    refused("has no tensor 'quantize.embedding.weight'", file, out)


def test_another_family_is_refused(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    out = tmp_path / "ours"
    refused("w.safetensors as llamagen_vq16: .* no tensor", tmp_path / "w.safetensors", out,
            "llamagen_vq16")  # fmt: skip
    refused("w.safetensors as one_d_piece: .* no tensor", tmp_path / "w.safetensors", out,
            "one_d_piece")  # fmt: skip
    refused("family 'vqgan' is not known; known: ", tmp_path / "w.safetensors", out, "vqgan")


def test_configs_that_do_not_fit_are_refused(tmp_path, state):
    file, out, config = tmp_path / "w.safetensors", tmp_path / "ours", tmp_path / "other.json"
    save_file(state, file)
    refused("other.json is missing", file, out, config=config)
    config.write_text("{")
    refused("other.json is not readable JSON", file, out, config=config)
    config.write_text(json.dumps({"hidden_channels": 64}))
    refused("of another shape: ", file, out, config=config)
    config.write_text(json.dumps({"channel_mult": "wide"}))
    refused("the config of w.safetensors is none of maskgit_vqgan", file, out, config=config)
    config.write_text(json.dumps({"num_channels": 4}))
    refused("num_channels 4 .* must be 3", file, out, config=config)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_never_run(tmp_path, state):
    torch.save({"model": state, "extra": Bomb(tmp_path / "ran")}, tmp_path / "w.pt")
    refused(r"w.pt holds a pickled object \(\S*mkdir\)", tmp_path / "w.pt", tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    refused(r"w.pt holds a pickled object \(\S*mkdir\)", tmp_path / "w.pt", tmp_path / "ours")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("part", [0, 5, 0.5, 0.99])
def test_files_cut_short_are_refused(tmp_path, state, name, part):
    file = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(state, file)
    content = file.read_bytes()
    file.write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    refused(f"file .*{name} is cut short", file, tmp_path / "ours")


def test_other_files_are_refused(tmp_path, state):
    out = tmp_path / "ours"
    refused("file .*absent.pt does not exist", tmp_path / "absent.pt", out)
    refused("is a folder, not a weight file", tmp_path, out)
    (tmp_path / "w.gguf").write_bytes(b"GGUF")
    refused("suffix '.gguf'; allowed: .safetensors, .pt", tmp_path / "w.gguf", out)
    torch.save(state, tmp_path / "w.safetensors")
    refused("is cut short or is not safetensors", tmp_path / "w.safetensors", out)
    torch.save([1, 2], tmp_path / "w.pt")
    refused("holds no tensors by name", tmp_path / "w.pt", out)
    torch.save({"weights": torch.zeros(1), "epoch": 3}, tmp_path / "w.pt")
    refused("holds entries that are no tensors: epoch$", tmp_path / "w.pt", out)


def test_a_folder_that_is_taken_stays_as_it_is(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    out = tmp_path / "ours"
    out.mkdir()
    convert(tmp_path / "w.safetensors", "maskgit_vqgan", out)  # an empty one is taken over
    kept = (out / "config.json").read_bytes()
    refused("ours exists and is not an empty folder", tmp_path / "w.safetensors", out)
    assert (out / "config.json").read_bytes() == kept
    (tmp_path / "file").write_text("x")
    refused("file exists and is not an empty", tmp_path / "w.safetensors", tmp_path / "file")
    below = tmp_path / "file" / "ours"
    with pytest.raises(FileExistsError, match=r"cannot write '.*ours': a file stands where"):
        convert(tmp_path / "w.safetensors", "maskgit_vqgan", below)


def test_nothing_half_written_stays(tmp_path, state, monkeypatch):
    save_file(state, tmp_path / "w.safetensors")
    real = MaskGITTokenizer.save_pretrained

    def full_disk(self, folder, **options):
        real(self, folder, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MaskGITTokenizer, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="cannot write '.*o': No space left on device"):
        convert(tmp_path / "w.safetensors", "maskgit_vqgan", tmp_path / "o")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@needs_fixtures
def test_a_checkpoint_of_the_first_stage(tmp_path):
    fixture = PARITY / "titok_vq_legacy"
    state = load_file(fixture / "weights.safetensors")
    config = json.loads((fixture / "config.json").read_text())
    file = tmp_path / "w.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("pixel_")}, file)
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("has no tensor 'pixel_decoder.conv_in.weight'", file, tmp_path / "ours",
            "titok_vq_legacy")  # fmt: skip
    config["model"]["vq_model"]["finetune_decoder"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = convert(file, "titok_vq_legacy", tmp_path / "ours")
    tokenizer = TiTokTokenizer.from_pretrained(out).eval()
    recorded = load_file(fixture / "io.safetensors")
    logits = tokenizer.decode_logits(recorded["indices"].squeeze(1))
    assert (logits - recorded["decoder_logits"]).abs().max() < 1e-4


class Trainer:
    """An object that a trainer leaves in a checkpoint; `made` says whether one was ever loaded."""

    made = False

    def __setstate__(self, state):
        type(self).made = True


def test_objects_of_a_trainer_are_passed_over_where_the_family_says_so(tmp_path):
    tensors = {"a": torch.randn(2, 3), "b": torch.nn.Parameter(torch.ones(2).half())}
    trainer = Trainer()
    trainer.epoch = 3
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": tensors, "callbacks": {"x": trainer, "p": tmp_path}}, file)
    with pytest.raises(ValueError, match="code in a file is never run"):
        read_checkpoint(file)
    loaded = read_checkpoint(file, trainer_objects=True)
    assert list(loaded) == ["a", "b"] and not Trainer.made
    assert torch.equal(loaded["a"], tensors["a"]) and loaded["b"].dtype == torch.float16
    torch.save({"state_dict": {"a": trainer}}, file)
    with pytest.raises(ValueError, match="entries that are no tensors: a"):
        read_checkpoint(file, trainer_objects=True)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save({"state_dict": tensors, "hyper_parameters": Evil()}, file)
    assert list(read_checkpoint(file, trainer_objects=True)) == ["a", "b"]
    assert not marker.exists()
    torch.save({"state_dict": tensors}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="torch's old format"):
        read_checkpoint(file, trainer_objects=True)
