"""TiTok of the first, two-stage form (yucornetto/tokenizer_titok_{l32,b64,s128}_imagenet and the
older fun-research/TiTok `.bin` copies), converted to `TiTokTokenizer`.

An Image is Worth 32 Tokens for Reconstruction and Generation, 2024, 2406.07550. A checkpoint of the
first stage has no `pixel_*` tensors; it converts to a tokenizer that gives logits only. Without a
config every size is read from the shapes (heads are 64 wide in every release).
"""

from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, register, setting
from studio.conversion.maskgit_vqgan import convolution_rules, decoder_sizes
from studio.tokenizers.titok import VIT_SIZES

TOLERANCE = 1e-4

_BLOCK = (
    ("attn.in_proj_weight", "attention.qkv.weight"),
    ("attn.in_proj_bias", "attention.qkv.bias"),
    ("attn.out_proj.{part}", "attention.out.{part}"),
    ("mlp.c_fc.{part}", "feed_forward.up.{part}"),
    ("mlp.c_proj.{part}", "feed_forward.down.{part}"),
    ("ln_1.{part}", "norm1.{part}"),
    ("ln_2.{part}", "norm2.{part}"),
)
_TRUNK = (
    ("class_embedding", "class_embedding"),
    ("positional_embedding", "positions"),
    ("latent_token_positional_embedding", "latent_positions"),
    ("ln_pre.{part}", "norm_pre.{part}"),
    ("ln_post.{part}", "norm_post.{part}"),
)


def _trunk_rules(side: str) -> list[Rule]:
    rules = [Rule(f"{side}.{a}", f"{side}.trunk.{b}") for a, b in _TRUNK]
    for official, ours in _BLOCK:
        rules.append(
            Rule(f"{side}.transformer.{{i}}.{official}", f"{side}.trunk.blocks.{{i}}.{ours}")
        )
    return rules


RULES = (
    Rule("latent_tokens", "latent_tokens"),
    Rule("encoder.patch_embed.{part}", "encoder.patch_embed.{part}"),
    Rule("encoder.conv_out.{part}", "encoder.conv_out.{part}"),
    Rule("decoder.decoder_embed.{part}", "decoder.embed.{part}"),
    Rule("decoder.mask_token", "decoder.mask_token"),
    Rule("decoder.ffn.{i}.{part}", "decoder.head.{i}.{part}"),
    Rule("quantize.embedding.weight", "quantize.embedding"),
    Rule("pixel_quantize.embedding.weight", "pixel_codebook"),
    *_trunk_rules("encoder"),
    *_trunk_rules("decoder"),
    *convolution_rules("pixel_decoder", "up", "pixel_decoder"),
)


def _vit_size(source: Source, side: str) -> list[int]:
    """Width, layers and heads of a transformer: by the config's name of it, or from the shapes."""
    name = setting(source.config or {}, f"model.vq_model.vit_{side[:3]}_model_size", None)
    if name is None:
        width = source.shape(f"{side}.class_embedding")[1]
        return [width, source.count(side + ".transformer.{i}."), max(1, width // 64)]
    table = {size: list(VIT_SIZES[size]) for size in VIT_SIZES}
    for size, entry in setting(source.config or {}, "_tiny.vit_sizes", {}).items():
        table[size] = [entry["width"], entry["layers"], entry["heads"]]
    if name not in table:
        raise ValueError(f"vit_{side[:3]}_model_size {name!r} must be one of {', '.join(table)}")
    return table[name]


def _refuse_other_variants(official: dict[str, Any]) -> None:
    if not setting(official, "model.vq_model.is_legacy", True):
        raise ValueError("is_legacy false: this family reads the legacy TiTok checkpoints only")
    mode = setting(official, "model.vq_model.quantize_mode", "vq")
    if mode != "vq":
        raise ValueError(f"quantize_mode {mode!r} must be 'vq' in this family")


def _pixel_sizes(source: Source) -> dict[str, Any]:
    stage2 = any(key.startswith("pixel_") for key in source.state)
    if not setting(source.config or {}, "model.vq_model.finetune_decoder", stage2):
        return {"has_pixel_decoder": False}
    sizes = decoder_sizes(source, "pixel_decoder")
    sizes |= setting(source.config or {}, "_tiny.pixel_decoder", {})
    return {
        "has_pixel_decoder": True,
        "pixel_channels": sizes["hidden_channels"],
        "pixel_multipliers": sizes["channel_mult"],
        "pixel_res_blocks": sizes["num_res_blocks"],
        "pixel_dim": sizes["z_channels"],
    }


def tokenizer_config(source: Source, *, prefix: bool) -> dict[str, Any]:
    """The arguments of `TiTokTokenizer`; `prefix` for One-D-Piece."""
    official = source.config or {}
    _refuse_other_variants(official)
    patch = source.shape("encoder.patch_embed.weight")[-1]
    side = round((source.shape("encoder.positional_embedding")[0] - 1) ** 0.5)
    codes, dim = source.shape("quantize.embedding.weight")
    model = "model.vq_model."
    patch = setting(official, model + "vit_enc_patch_size", patch)
    return {
        "image_size": setting(official, "dataset.preprocessing.crop_size", patch * side),
        "patch_size": patch,
        "decoder_patch_size": setting(official, model + "vit_dec_patch_size", patch),
        "encoder_size": _vit_size(source, "encoder"),
        "decoder_size": _vit_size(source, "decoder"),
        "num_tokens": setting(
            official, model + "num_latent_tokens", source.shape("latent_tokens")[0]
        ),
        "prefix": prefix,
        "codebook_size": setting(official, model + "codebook_size", codes),
        "codebook_dim": setting(official, model + "token_size", dim),
        "codebook_l2_norm": setting(official, model + "use_l2_norm", True),
        "commitment": setting(official, model + "commitment_cost", 0.25),
        "proxy_codes": source.shape("decoder.ffn.2.weight")[0],
        **_pixel_sizes(source),
    }


def check_encoding(model: Any, fixture: Fixture) -> None:
    """Latents, ids and quantized vectors of the recorded images; the official ones are (B, D, 1,
    N).
    """
    encoded = model.encode(fixture.input("images") * 2 - 1)
    fixture.expect("latents", encoded.latents.transpose(1, 2).unsqueeze(2), TOLERANCE)
    fixture.expect("indices", encoded.tokens.unsqueeze(1))
    fixture.expect("quantized", encoded.quantized.transpose(1, 2).unsqueeze(2), TOLERANCE)


def _checks(model: Any, fixture: Fixture) -> None:
    check_encoding(model, fixture)
    tokens = fixture.input("indices").squeeze(1)  # (B, N)
    logits = model.decode_logits(tokens)
    fixture.expect("decoder_logits", logits, TOLERANCE)
    decoded = (model.decode(tokens) + 1) / 2 if model.config.has_pixel_decoder else logits
    fixture.expect("decoded_from_tokens", decoded, TOLERANCE)


register(
    Family(
        name="titok_vq_legacy",
        kind="tokenizer",
        model="TiTokTokenizer",
        rules=RULES,
        config=lambda source: tokenizer_config(source, prefix=False),
        checks=_checks,
        about="TiTok L-32, B-64, S-128 (two-stage, MaskGIT-VQGAN pixel decoder)",
    )
)
