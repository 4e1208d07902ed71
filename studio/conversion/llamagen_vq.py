"""The image tokenizers of LlamaGen (FoundationVision/LlamaGen `vq_ds16_c2i.pt`, `vq_ds8_c2i.pt`,
and peizesun/llamagen_t2i `vq_ds16_t2i.pt`), converted to `GridTokenizer`.

Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation, 2024, 2406.06525. The
published files have no config: every size is read from the shapes.
"""

from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, register, setting

_TOLERANCE = 1e-4
_SIDES = ("encoder", "decoder")


def _rules() -> list[Rule]:
    rules = [Rule("quantize.embedding.weight", "quantize.embedding")]
    for side, change in zip(_SIDES, ("downsample", "upsample"), strict=True):
        level, ours = side + ".conv_blocks.{i}", side + ".levels.{i}"
        rules += [
            Rule(level + ".res.{j}.nin_shortcut.{part}", ours + ".res.{j}.shortcut.{part}"),
            Rule(level + ".res.{j}.{part}", ours + ".res.{j}.{part}"),
            Rule(level + ".attn.{j}.proj_out.{part}", ours + ".attn.{j}.proj.{part}"),
            Rule(level + ".attn.{j}.{part}", ours + ".attn.{j}.{part}"),
            Rule(f"{level}.{change}.conv.{{part}}", ours + ".resize.conv.{part}"),
            Rule(side + ".mid.1.proj_out.{part}", side + ".mid.1.proj.{part}"),
            Rule(side + ".mid.{i}.{part}", side + ".mid.{i}.{part}"),
            Rule(side + ".norm_out.{part}", side + ".norm_out.{part}"),
            Rule(side + ".conv_in.{part}", side + ".conv_in.{part}"),
            Rule(side + ".conv_out.{part}", side + ".conv_out.{part}"),
        ]
    rules += [
        Rule(f"{name}.{{part}}", f"{name}.{{part}}") for name in ("quant_conv", "post_quant_conv")
    ]
    return rules


def _config(source: Source) -> dict[str, Any]:
    base = source.shape("encoder.conv_in.weight")[0]
    widths = source.widths("encoder.conv_blocks.{i}.res.0.conv1.weight")
    codes, dim = source.shape("quantize.embedding.weight")
    official = source.config or {}
    return {
        "image_size": setting(official, "image", 256),
        "base_channels": setting(official, "ch", base),
        "channel_multipliers": setting(official, "ch_mult", [width // base for width in widths]),
        "num_res_blocks": setting(
            official, "num_res_blocks", source.count("encoder.conv_blocks.0.res.{i}.")
        ),
        "z_channels": setting(official, "z_channels", source.shape("post_quant_conv.weight")[0]),
        "quantizer": "vq",
        "codebook_size": setting(official, "codebook_size", codes),
        "codebook_dim": setting(official, "codebook_embed_dim", dim),
        "codebook_l2_norm": setting(official, "codebook_l2_norm", True),
        "commitment": setting(official, "commit_loss_beta", 0.25),
    }


def _checks(model: Any, fixture: Fixture) -> None:
    images = fixture.input("images")
    encoded = model.encode(images)
    fixture.expect("latents", encoded.latents, _TOLERANCE)
    fixture.expect("indices", encoded.tokens)
    fixture.expect("quantized", encoded.quantized, _TOLERANCE)
    fixture.expect("decoded_from_quantized", model.pixels(encoded.quantized), _TOLERANCE)
    decoded = model.decode(fixture.input("indices"), layout=encoded.layout)
    fixture.expect("decoded_from_codes", decoded, _TOLERANCE)


register(
    *(
        Family(
            name=name,
            kind="tokenizer",
            model="GridTokenizer",
            rules=_rules(),
            config=_config,
            checks=_checks,
            ignored=("quantize.codebook_used",),
            about=about,
        )
        for name, about in (
            ("llamagen_vq16", "LlamaGen VQ-16, 16x16 tokens at 256 pixels"),
            ("llamagen_vq8", "LlamaGen VQ-8, 32x32 tokens at 256 pixels"),
            ("llamagen_vq8_wide", "LlamaGen VQ-8 (the same converter)"),
        )
    )
)
