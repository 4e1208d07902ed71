"""Verification: all recorded outputs hold, and anything altered, added or left out is noticed."""

import functools
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.evaluation.verify import RecordedFixture, verify
from tests.recordings import FAMILIES, PARITY, needs_fixtures

# An input whose every change must show, and some weights: one family of each converter or more.
INPUTS = dict.fromkeys(FAMILIES[:7], "images") | {
    "llamagen_c2i": "tokens",
    "llamagen_t2i": "caption_embs",
    "maskgit_vit": "labels",
    "cosmos_cv4x8x8": "input.main",
    "omnitokenizer_vq": "input.video",
    "larp_tokenizer": "input.main",
    "wavtokenizer": "input.short",
    "languagecodec": "input.plus7",
    "vocos_mel": "input.audio",
    "vocos_encodec": "input.codes",
}
LOOSER = {"llamagen_c2i", "llamagen_t2i", "maskgit_vit"}  # 2e-4 instead of 1e-4
WEIGHTS = {
    "llamagen_vq16": "decoder.conv_blocks.1.res.0.nin_shortcut.weight",
    "llamagen_vq8": "encoder.conv_blocks.3.attn.0.proj_out.weight",
    "llamagen_vq8_wide": "encoder.conv_in.bias",
    "titok_vq_legacy": "decoder.latent_token_positional_embedding",
    "one_d_piece": "encoder.transformer.1.attn.in_proj_weight",
    "maskgit_vqgan": "decoder.up.1.block.0.nin_shortcut.weight",
    "maskgit_vqgan_wide": "quantize.embedding.weight",
    "llamagen_c2i": "layers.1.feed_forward.w3.weight",
    "llamagen_t2i": "cls_embedding.uncond_embedding",
    "maskgit_vit": "model.embeddings.token_type_embeddings.weight",
    "cosmos_cv4x8x8": "decoder.up.1.upsample.conv2.conv3d.bias",
    "omnitokenizer_vq": "decoder.dec_temporal_transformer.layers.1.1.norm.beta",
    "larp_tokenizer": "decoder.blocks.1.attn.qkv.weight",
    "wavtokenizer": "feature_extractor.encodec.encoder.model.4.shortcut.conv.conv.weight_g",
    "languagecodec": "feature_extractor.encodec.quantizer.vq.layers.7._codebook.embed",
    "vocos_mel": "backbone.convnext.2.gamma",
    "vocos_encodec": "feature_extractor.codebook_weights",
}


def altered(tmp_path, name, change, file="io"):
    """A copy of the fixture in which `change` has worked on the tensors of one file."""
    folder = tmp_path / name
    shutil.copytree(PARITY / name, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    tensors = load_file(folder / f"{file}.safetensors")
    change(tensors)
    (folder / f"{file}.safetensors").unlink()
    save_file(tensors, folder / f"{file}.safetensors")
    return folder


def shifted(tensor):
    """1e-2 up or down for floats, the next id for whole numbers, the other value for booleans."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if not tensor.is_floating_point():
        return (tensor + 1) % (int(tensor.max()) + 1)
    signs = torch.randint(0, 2, tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + 1e-2 * (2.0 * signs - 1)


@functools.cache
def unchanged(name):
    return verify(PARITY / name)


@needs_fixtures
@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_outputs_hold(name):
    rows = unchanged(name)
    assert [row for row in rows if not row.ok] == []
    recorded = load_file(PARITY / name / "io.safetensors")
    for row in rows:
        assert row.shape == tuple(recorded[row.output].shape)
        whole = not recorded[row.output].is_floating_point()
        assert row.tolerance == (0 if whole else 2e-4 if name in LOOSER else 1e-4)
        assert row.error <= row.tolerance


@needs_fixtures
@pytest.mark.parametrize("name", FAMILIES)
def test_every_altered_output_is_noticed(name, tmp_path):
    """One entry of every compared tensor is changed; all of `tokens`, which is masked here."""
    compared = [row.output for row in unchanged(name)]
    assert len(compared) >= 4

    def change(tensors):
        for output in compared:
            changed = shifted(tensors[output])
            one = torch.arange(changed.numel()) == changed.numel() // 2
            one = one.reshape(changed.shape) | (output == "tokens")
            tensors[output] = torch.where(one, changed, tensors[output])

    assert [row for row in verify(altered(tmp_path, name, change)) if row.ok] == []


@needs_fixtures
@pytest.mark.parametrize("name", INPUTS)
def test_altered_weights_and_inputs_are_noticed(name, tmp_path):
    key = WEIGHTS[name]
    folder = altered(tmp_path, name, lambda t: t.update({key: shifted(t[key])}), "weights")
    assert not all(row.ok for row in verify(folder))
    key = INPUTS[name]
    shutil.rmtree(folder)
    folder = altered(tmp_path, name, lambda t: t.update({key: shifted(t[key])}))
    assert not all(row.ok for row in verify(folder))


@needs_fixtures
def test_a_tensor_that_nothing_uses_fails(tmp_path):
    folder = altered(tmp_path, "maskgit_vqgan_wide", lambda t: t.update(extra=torch.zeros(2)))
    bad = [row for row in verify(folder) if not row.ok]
    assert [(row.output, row.note) for row in bad] == [
        ("extra", "neither used as an input nor compared")
    ]


@needs_fixtures
def test_the_family_can_be_named(tmp_path):
    folder = tmp_path / "some copy"
    shutil.copytree(PARITY / "maskgit_vqgan_wide", folder)
    with pytest.raises(ValueError, match="family 'some copy' is not known"):
        verify(folder)
    assert all(row.ok for row in verify(folder, "maskgit_vqgan"))
    with pytest.raises(ValueError, match="weights.safetensors as titok_vq_legacy"):
        verify(folder, "titok_vq_legacy")


@needs_fixtures
def test_broken_fixtures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="folder .*absent does not exist"):
        verify(tmp_path / "absent")
    folder = altered(tmp_path, "maskgit_vqgan_wide", lambda t: t.pop("images"))
    with pytest.raises(ValueError, match="holds no tensor 'images'"):
        verify(folder)
    (folder / "io.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match="io.safetensors is cut short"):
        verify(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json is missing"):
        verify(folder)


def test_rows_say_what_is_wrong():
    recorded = {"a": torch.zeros(2, 3), "b": torch.arange(4), "c": torch.zeros(2)}
    fixture = RecordedFixture({}, recorded)
    fixture.expect("a", torch.zeros(3, 2), 1.0)
    fixture.expect("b", torch.tensor([0, 1, 9, 9]), 5.0)
    fixture.expect("c", torch.tensor([0.0, torch.nan]), 1.0)
    fixture.expect("d", torch.zeros(1), 1.0)
    rows = fixture.finish()
    assert [row.ok for row in rows] == [False] * 4
    assert rows[0].note == "ours has the shape (3, 2)"
    assert (rows[1].error, rows[1].tolerance) == (2, 0)
    assert rows[3].note == "not in io.safetensors"
    assert [row.note for row in RecordedFixture({}, {}).finish()] == ["nothing was compared"]
