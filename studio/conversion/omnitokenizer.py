"""OmniTokenizer (Daniel0724/OmniTokenizer: imagenet_k600.ckpt and the others, and the VAE files),
converted to `OmniTokenizer`.

OmniTokenizer: A Joint Image-Video Tokenizer for Visual Generation, 2024, 2406.09399. Lightning
checkpoints: the arguments are pickled objects that are not read, so every size is read from the
shapes where there is no config. Discriminators, the perceptual network, biases that never run and
the codebook's training statistics are ignored.
"""

import functools
from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, cases, register, setting

_TOLERANCE = 1e-4
_SIDES = {"encoder": "enc", "decoder": "dec"}
_TEMPORAL = "encoder.enc_temporal_transformer.layers."

_LAYER = (
    ("0.dsconv.{part}", "position.{part}"),
    ("1.norm.gamma", "attention.norm.weight"),
    ("1.norm.beta", "attention.norm.bias"),
    ("1.to_q.weight", "attention.q.weight"),
    ("1.to_kv.weight", "attention.kv.weight"),
    ("1.to_out.weight", "attention.out.weight"),
    ("1.q_scale", "attention.q_scale"),
    ("1.k_scale", "attention.k_scale"),
    ("1.qkv.weight", "attention.qkv.weight"),
    ("1.proj.{part}", "attention.proj.{part}"),
    ("1.relative_position_bias_table", "attention.bias_table"),
    ("3.0.{part}", "feed_forward.norm.{part}"),
    ("3.1.weight", "feed_forward.up.weight"),
    ("3.4.weight", "feed_forward.down.weight"),
)


def _rules() -> list[Rule]:
    rules = []
    for side, short in _SIDES.items():
        for axis in ("spatial", "temporal"):
            official, ours = f"{side}.{short}_{axis}_transformer", f"{side}.{axis}"
            rules += [
                Rule(f"{official}.layers.{{i}}.{a}", f"{ours}.layers.{{i}}.{b}") for a, b in _LAYER
            ]
            rules.append(Rule(official + ".norm_out.gamma", ours + ".norm_out.weight"))
            rules.append(Rule(official + ".norm_out.beta", ours + ".norm_out.bias"))
    for official, ours in (("_first_frame", "first"), ("", "later")):
        for place, name in ((1, "norm_in"), (2, "linear"), (3, "norm_out")):
            rules.append(
                Rule(
                    f"encoder.to_patch_emb{official}.{place}.{{part}}",
                    f"{ours}_patches.{name}.{{part}}",
                )
            )
        rules.append(Rule(f"decoder.to_pixels{official}.0.{{part}}", f"{ours}_pixels.{{part}}"))
    rules.append(Rule("pre_vq_conv.1.{part}", "pre_quant.{part}"))
    rules.append(Rule("post_vq_conv.1.{part}", "post_quant.{part}"))
    rules.append(Rule("codebook.embeddings", "quantize.embedding"))
    return rules


_IGNORED = (
    "image_discriminator.{name}",
    "video_discriminator.{name}",
    "perceptual_model.{name}",
    "{path}.context_norm.{name}",
    "{path}.spatial_rel_pos_bias.{name}",
    "{path}.relative_position_index",
    "codebook.N",
    "codebook.z_avg",
    "codebook.codebook_usage",
)


def _kinds(source: Source, side: str) -> str:
    """One letter a layer within frames, by what its attention holds."""
    stem = f"{side}.{_SIDES[side]}_spatial_transformer.layers."
    count = source.count(stem + "{i}.")
    return "".join("w" if f"{stem}{i}.1.qkv.weight" in source.state else "t" for i in range(count))


def _config(source: Source, *, continuous: bool) -> dict[str, Any]:
    official = setting(source.config or {}, "args", source.config or {})
    _refuse_other_variants(official, continuous)
    dim, numbers = source.shape("encoder.to_patch_emb_first_frame.2.weight")
    patch = setting(official, "patch_size", round((numbers / 3) ** 0.5))
    frames = source.shape("encoder.to_patch_emb.2.weight")[1] // numbers
    head_dim = setting(official, "dim_head", source.shape(_TEMPORAL + "0.1.q_scale")[0])
    heads = source.shape(_TEMPORAL + "0.1.to_q.weight")[0] // head_dim
    tables = [v for k, v in source.state.items() if k.endswith(".relative_position_bias_table")]
    window = (round(tables[0].shape[0] ** 0.5) + 1) // 2 if tables else 8
    config = {
        "num_frames": setting(official, "sequence_length", 17),
        "image_size": setting(official, "resolution", 256),
        "patch_size": patch,
        "temporal_patch_size": setting(official, "temporal_patch_size", frames),
        "dim": setting(official, "embedding_dim", dim),
        "heads": setting(official, "heads", heads),
        "head_dim": head_dim,
        "hidden_dim": source.shape(_TEMPORAL + "0.3.4.weight")[1],
        "encoder_layers": setting(official, "enc_block", _kinds(source, "encoder")),
        "decoder_layers": setting(official, "dec_block", _kinds(source, "decoder")),
        "temporal_layers": setting(official, "temporal_depth", source.count(_TEMPORAL + "{i}.")),
        "window_size": setting(official, "twod_window_size", window),
        "rotary": setting(official, "spatial_pos", "rope") == "rope",
        "codebook_dim": setting(official, "codebook_dim", source.shape("post_vq_conv.1.weight")[1]),
        "continuous": continuous,
    }
    if not continuous:
        codes = source.shape("codebook.embeddings")[0]
        config["codebook_size"] = setting(official, "n_codes", codes)
        config["normalized"] = setting(official, "l2_code", True)
    return config


def _refuse_other_variants(official: dict[str, Any], continuous: bool) -> None:
    allowed = {
        "use_vae": continuous,
        "patch_embed": "linear",
        "use_external_codebook": False,
        "defer_temporal_pool": False,
        "defer_spatial_pool": False,
        "gen_upscale": None,
        "casual_in_temporal_transformer": True,
        "casual_in_peg": True,
    }
    for key, value in allowed.items():
        if official.get(key, value) != value:
            raise ValueError(f"{key} {official[key]!r} must be {value!r} in this family")


def _checks(model: Any, fixture: Fixture) -> None:
    for case in cases(fixture):
        media = fixture.input(f"input.{case}") * 2
        still = media.ndim == 4
        video = media.unsqueeze(2) if still else media  # (B, 3, T, H, W)
        features = model.features(video)
        fixture.expect(f"encoder_out.{case}", features.movedim(-1, 1), _TOLERANCE)
        raw = model.pre_quant(features).movedim(-1, 1)  # (B, D, t, h, w)
        fixture.expect(f"pre_vq.{case}", raw, _TOLERANCE)
        encoded = model.encode(video)
        shape = encoded.layout.segments[0].shape
        if model.config.continuous:
            values = encoded.latents
            fixture.expect(f"mean.{case}", values.transpose(1, 2).unflatten(2, shape), _TOLERANCE)
        else:
            values = encoded.tokens
            fixture.expect(f"indices.{case}", values.unflatten(1, shape))
            fixture.expect(f"embeddings.{case}", encoded.quantized, _TOLERANCE)
        decoded = model.decode(values, layout=encoded.layout) / 2
        fixture.expect(f"recon.{case}", decoded.squeeze(2) if still else decoded, _TOLERANCE)


register(
    *(
        Family(
            name=name,
            kind="tokenizer",
            model="OmniTokenizer",
            rules=_rules(),
            config=functools.partial(_config, continuous=continuous),
            checks=_checks,
            trainer_objects=True,
            ignored=(*_IGNORED, "codebook.{name}") if continuous else _IGNORED,
            about=f"OmniTokenizer, images and video, {what}",
        )
        for name, continuous, what in (
            ("omnitokenizer_vq", False, "8192 codes"),
            ("omnitokenizer_vae", True, "continuous latents"),
        )
    )
)
