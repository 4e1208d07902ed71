"""LARP (hywang66/LARP-L-long-tokenizer, hub layout: config.json and model.safetensors), converted
to `LARPTokenizer`.

LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior, 2024, 2410.21264. The prior
of the training is converted too where its size is known.
"""

from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, cases, register, setting

_TOLERANCE = 1e-4
_HEAD_WIDTH = 64

_BLOCK = (
    ("attn.qkv.{part}", "attention.qkv.{part}"),
    ("attn.proj.{part}", "attention.out.{part}"),
    ("mlp.fc1.{part}", "feed_forward.up.{part}"),
    ("mlp.fc2.{part}", "feed_forward.down.{part}"),
    ("norm1.{part}", "norm1.{part}"),
    ("norm2.{part}", "norm2.{part}"),
)
_PRIOR_BLOCK = (
    ("attn.proj.{part}", "attention.out.{part}"),
    ("mlp.0.{part}", "feed_forward.up.{part}"),
    ("mlp.2.{part}", "feed_forward.down.{part}"),
    ("ln1.{part}", "norm1.{part}"),
    ("ln2.{part}", "norm2.{part}"),
)
_RULES = (
    Rule("x_embedder.proj.{part}", "patch_embed.{part}"),
    Rule("encoder_patch_pe", "encoder_positions"),
    Rule("encoder_latent_query_embed", "queries"),
    Rule("bottleneck.in_linear.{part}", "to_codes.{part}"),
    Rule("bottleneck.regularizer.embedding.weight", "quantize.embedding"),
    Rule("bottleneck.out_linear.{part}", "from_codes.{part}"),
    Rule("decoder_latent_pe", "code_positions"),
    Rule("decoder_patch_query_embed", "decoder_queries"),
    Rule("decoder_patch_query_token_type_embed", "decoder_query_type"),
    Rule("final_layer.norm_final.{part}", "norm_out.{part}"),
    Rule("final_layer.linear.{part}", "to_pixels.{part}"),
    *(
        Rule(f"{side}.blocks.{{i}}.{official}", f"{side}.blocks.{{i}}.{ours}")
        for side in ("encoder", "decoder")
        for official, ours in _BLOCK
    ),
    Rule("prior_model.input_proj.{part}", "prior.embed.{part}"),
    Rule("prior_model.pos_emb", "prior.positions"),
    Rule("prior_model.ln_f.{part}", "prior.norm.{part}"),
    Rule("prior_model.head.{part}", "prior.head.{part}"),
    *(
        Rule(f"prior_model.blocks.{{i}}.{official}", f"prior.blocks.{{i}}.{ours}")
        for official, ours in _PRIOR_BLOCK
    ),
    *(
        Rule(
            f"prior_model.blocks.{{i}}.attn.{name}.{{part}}",
            "prior.blocks.{i}.attention.qkv.{part}",
            part=place,
        )
        for place, name in enumerate(("query", "key", "value"))
    ),
)


def _config(source: Source) -> dict[str, Any]:
    official = setting(source.config or {}, "model", source.config or {})
    _refuse_other_variants(official)
    args = "bottleneck.args."
    regularizer = args + "regularizer.args."
    frames, patch = source.shape("x_embedder.proj.weight")[2:4]
    codes, dim = source.shape("bottleneck.regularizer.embedding.weight")
    return {
        "num_frames": setting(official, "frame_num", 16),
        "image_size": setting(official, "input_size", 128),
        "patch_size": setting(official, "patch_size", patch),
        "temporal_patch_size": setting(official, "temporal_patch_size", frames),
        "decoder_patch_size": setting(official, "decoder_patch_size", patch),
        "decoder_temporal_patch_size": setting(official, "decoder_temporal_patch_size", frames),
        "num_tokens": source.shape("encoder_latent_query_embed")[0],
        "encoder_size": _size(source, official, "encoder"),
        "decoder_size": _size(source, official, "decoder"),
        "codebook_size": setting(official, regularizer + "codebook_size", codes),
        "codebook_dim": setting(official, args + "bottleneck_dim", dim),
        "commitment": setting(official, regularizer + "commitment_loss_weight", 0.25),
        "codebook_weight": setting(official, regularizer + "codebook_loss_weight", 1.0),
        "temperature": setting(official, regularizer + "stochastic_temperature", 0.03),
        "block_eps": setting(source.config or {}, "block_norm_eps", 1e-5),
        "prior_size": _prior_size(source),
    }


def _size(source: Source, official: dict[str, Any], side: str) -> list[int]:
    width = source.shape(side + ".blocks.0.norm1.weight")[0]
    return [
        setting(official, side + "_hidden_size", width),
        setting(official, side + "_depth", source.count(side + ".blocks.{i}.")),
        setting(official, side + "_num_heads", max(1, width // _HEAD_WIDTH)),
    ]


def _prior_size(source: Source) -> list[int] | None:
    if "prior_model.pos_emb" not in source.state:
        return None
    _, length, width = source.shape("prior_model.pos_emb")
    heads = setting(source.config or {}, "prior_heads", max(1, width // _HEAD_WIDTH))
    return [width, source.count("prior_model.blocks.{i}."), heads, length]


def _refuse_other_variants(official: dict[str, Any]) -> None:
    allowed = {
        "bottleneck.name": "bottleneck",
        "bottleneck.args.norm": "none",
        "bottleneck.args.regularizer.name": "vq",
        "bottleneck.args.regularizer.args.l2_normalized": True,
        "transformer_name": "transformer_encoder_parallel",
        "in_channels": 3,
        "learned_encoder_patch_pe": False,
        "learned_encoder_latent_query_embed": True,
        "learned_decoder_latent_pe": False,
        "learned_decoder_patch_query_embed": False,
        "use_encoder_patch_token_type_embed": False,
        "use_encoder_latent_query_token_type_embed": False,
        "use_decoder_latent_token_type_embed": False,
        "use_decoder_patch_query_token_type_embed": True,
        "prior_model.args.l2_normalized": True,
    }
    for path, value in allowed.items():
        found = setting(official, path, value)
        if found != value:
            raise ValueError(f"{path} {found!r} must be {value!r} in this family")


def _checks(model: Any, fixture: Fixture) -> None:
    for case in cases(fixture):
        video = fixture.input(f"input.{case}") * 2 - 1
        fixture.expect(f"patch_tokens.{case}", model.patches(video), _TOLERANCE)
        encoded = model.encode(video)
        fixture.expect(f"projected_z.{case}", encoded.latents, _TOLERANCE)
        fixture.expect(f"regularized_z.{case}", encoded.quantized, _TOLERANCE)
        fixture.expect(f"indices.{case}", encoded.tokens)
        fixture.expect(f"decoder_in.{case}", model.from_codes(encoded.quantized), _TOLERANCE)
        decoded = model.decode(encoded.tokens)
        fixture.expect(f"recon.{case}", (decoded + 1) / 2, _TOLERANCE)
        if f"prior_pred.{case}" in fixture:
            fixture.expect(f"prior_pred.{case}", model.prior(encoded.quantized), _TOLERANCE)


register(
    Family(
        name="larp_tokenizer",
        kind="tokenizer",
        model="LARPTokenizer",
        rules=_RULES,
        config=_config,
        checks=_checks,
        about="LARP video tokenizer, 1024 tokens without a grid for 16 frames of 128x128",
    )
)
