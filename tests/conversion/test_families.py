"""Key tables there and back, and sizes read from nothing but shapes."""

import pytest
import torch

from studio.conversion.family import Rule, Source, families, find_family, setting
from studio.registry import find_class
from studio.tokenizers.titok import OFFICIAL_SIZES
from studio.tokenizers.vocos import OFFICIAL_SIZES as VOCOS_SIZES
from tests.recordings import FAMILIES


def official_state(family, model):
    """What the official file of `model` would hold: tensors without values under official keys."""
    state = {}
    for name, tensor in model.state_dict().items():
        names = family.origins(name)
        for place in names:
            shape = tensor.shape and (tensor.shape[0] // len(names), *tensor.shape[1:])
            state[names[place]] = tensor.new_empty(shape)
    return state


def source_of(family, arguments, name="file.pt", config=None):
    with torch.device("meta"):
        model = find_class(find_family(family).model)(**arguments)
    return model, Source(config, official_state(find_family(family), model), name)


def test_all_families_are_known():
    assert set(FAMILIES) <= set(families())
    with pytest.raises(ValueError, match="family 'nope' is not known; known: .*llamagen_vq16"):
        find_family("nope")


def test_rules_rename_both_ways():
    rule = Rule("up.{i}.block.{j}.{part}", "levels.{i}.blocks.{j}.{part}")
    assert rule.rename("up.3.block.10.conv1.weight") == "levels.3.blocks.10.conv1.weight"
    assert rule.original("levels.3.blocks.10.conv1.weight") == "up.3.block.10.conv1.weight"
    assert rule.rename("up.x.block.1.conv1.weight") is None
    assert rule.rename("up_3_block_1_conv1") is None


def test_settings_are_looked_up_by_path():
    config = {"model": {"size": 3}}
    assert setting(config, "model.size") == 3 and setting(config, "model.depth", 5) == 5
    with pytest.raises(ValueError, match=r"lacks 'model\.size\.unit'"):
        setting(config, "model.size.unit")


@pytest.mark.parametrize("name", [n for n in OFFICIAL_SIZES if n.startswith("one-d-piece")])
def test_one_d_piece_needs_no_config(name):
    model, source = source_of("one_d_piece", OFFICIAL_SIZES[name])
    found = find_family("one_d_piece").config(source)
    wanted = {k: model.config[k] for k in found} | {"decoder_patch_size": 16}
    assert found == wanted | {"pixel_multipliers": [1, 1, 2, 2, 4]}
    assert {k: found[k] for k in OFFICIAL_SIZES[name]} == OFFICIAL_SIZES[name]


@pytest.mark.parametrize(
    "family, arguments",
    [
        ("llamagen_vq16", {}),
        ("llamagen_vq8", {"channel_multipliers": [1, 2, 2, 4]}),
        ("maskgit_vqgan", {}),
        ("titok_vq_legacy", OFFICIAL_SIZES["titok-b64"]),
        ("titok_vq_legacy", OFFICIAL_SIZES["titok-s128"] | {"has_pixel_decoder": False}),
    ],
)
def test_tokenizers_of_the_releases_need_no_config(family, arguments):
    model, source = source_of(family, arguments)
    found = find_family(family).config(source)
    rebuilt, _ = source_of(family, found)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == shapes
    assert find_family(family).rename("no.such.key") is None
    assert all(find_family(family).rename(key) for key in source.state)


@pytest.mark.parametrize(
    "file, size, side",
    [("c2i_B_256.pt", (12, 12, 768), 16), ("c2i_L_384.pt", (24, 16, 1024), 24)],
)
def test_llamagen_sizes_are_inferred(file, size, side):
    layout = {"segments": [{"name": "image", "shape": [side, side], "vocab_size": 16384}]}
    layers, heads, dim = size
    arguments = {"layout": layout, "num_layers": layers, "num_heads": heads, "dim": dim}
    _, source = source_of("llamagen_c2i", arguments, file)
    found = find_family("llamagen_c2i").config(source)
    wanted = {"num_layers": layers, "num_heads": heads, "dim": dim, "num_classes": 1000}
    assert {k: found[k] for k in wanted} == wanted and found["condition_rope"] == "zeros"
    assert found["layout"]["segments"][0]["shape"] == [side, side]
    assert found["hidden_dim"] == {768: 2048, 1024: 2816}[dim]
    with pytest.raises(ValueError, match='"block_size"'):
        find_family("llamagen_c2i").config(Source(None, source.state, "model.pt"))


def test_other_variants_are_refused():
    _, source = source_of("titok_vq_legacy", OFFICIAL_SIZES["titok-s128"])
    config = {"model": {"vq_model": {"is_legacy": False}}}
    with pytest.raises(ValueError, match="is_legacy false"):
        find_family("titok_vq_legacy").config(Source(config, source.state, "x"))
    config = {"model": {"vq_model": {"quantize_mode": "vae"}}}
    with pytest.raises(ValueError, match="quantize_mode 'vae'"):
        find_family("titok_vq_legacy").config(Source(config, source.state, "x"))
    config = {"model": {"vq_model": {"vit_enc_model_size": "huge"}}}
    with pytest.raises(ValueError, match="vit_enc_model_size 'huge' must be one of small, base"):
        find_family("titok_vq_legacy").config(Source(config, source.state, "x"))
    config = {"model": {"generator": {"model_type": "UViT"}}}
    with pytest.raises(ValueError, match="model_type 'UViT'"):
        find_family("maskgit_vit").config(Source(config, {}, "x"))


ODD_SIZES = {
    "strides": [3, 5],
    "encoder_width": 6,
    "lstm_layers": 1,
    "backbone_dim": 64,
    "backbone_hidden_dim": 90,
    "backbone_layers": 1,
    "n_fft": 46,
}


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("wavtokenizer", {}),
        ("wavtokenizer", {"strides": [4, 5, 5, 6], "n_fft": 2400}),
        ("wavtokenizer", ODD_SIZES | {"num_conditions": 2, "dim": 40}),
        ("wavtokenizer", ODD_SIZES | {"num_conditions": 0, "use_attention": False}),
        ("languagecodec", ODD_SIZES | {"num_codebooks": 4, "codebook_size": 9, "dim": 20}),
        ("languagecodec", {}),
        ("vocos_mel", {}),
        ("vocos_encodec", VOCOS_SIZES["vocos-encodec-24khz"]),
    ],
)
def test_sound_tokenizers_of_the_releases_need_no_config(family, arguments):
    exact = {"wavtokenizer": {"dead_codes": "encodec"}, "languagecodec": {"encodec_averages": True}}
    model, source = source_of(family, {**arguments, **exact.get(family, {})})
    found = find_family(family).config(source)
    rebuilt, _ = source_of(family, found)
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == shapes
    said = {"sample_rate", "padding", "hop", "strides", "kmeans_iterations", "mel_padding"}
    for name in said & set(found):
        wanted = model.config[name]
        assert found[name] == (list(wanted) if isinstance(wanted, tuple) else wanted)
    for key in ("head.istft.window", "multiresddisc.discriminators.0.x"):
        assert find_family(family).ignores(key)


def test_a_trainers_yaml_is_read_and_must_agree(tmp_path):
    _, source = source_of("wavtokenizer", {"dead_codes": "encodec"})
    extractor = {"init_args": {"dowmsamples": [8, 5, 4, 2], "vq_bins": 4096, "vq_kmeans": 150}}
    head = {"init_args": {"padding": "center"}}
    arguments = {"sample_rate": 24000, "feature_extractor": extractor, "head": head}
    config = {"model": {"init_args": arguments}}
    found = find_family("wavtokenizer").config(Source(config, source.state, "x"))
    assert found["kmeans_iterations"] == 150 and found["padding"] == "center"
    head["init_args"]["hop_length"] = 300
    with pytest.raises(ValueError, match="hop_length 300 of the head; the strides give 320"):
        find_family("wavtokenizer").config(Source(config, source.state, "x"))
    extractor["init_args"]["dowmsamples"] = [6, 5, 5, 4]
    with pytest.raises(ValueError, match=r"strides \[6, 5, 5, 4\] of the config"):
        find_family("wavtokenizer").config(Source(config, source.state, "x"))
    _, other = source_of("languagecodec", {"encodec_averages": True})
    with pytest.raises(ValueError, match="it has 8 codebooks; WavTokenizer has 1"):
        find_family("wavtokenizer").config(other)
