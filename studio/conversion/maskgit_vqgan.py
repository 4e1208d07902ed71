"""MaskGIT-VQGAN (fun-research/TiTok `maskgit-vqgan-imagenet-f16-256.bin`), converted to
`MaskGITTokenizer`.

MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200. The published file has no config:
sizes are read from the shapes.
"""

import math
from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, register

_TOLERANCE = 1e-4


def convolution_rules(side: str, levels: str, ours: str) -> list[Rule]:
    """The key table of one half of the network: `side` as the official files call it, with `levels`
    "up" or "down".
    """
    level, own = f"{side}.{levels}.{{i}}", ours + ".levels.{i}"
    return [
        Rule(level + ".block.{j}.nin_shortcut.{part}", own + ".blocks.{j}.shortcut.{part}"),
        Rule(level + ".block.{j}.{part}", own + ".blocks.{j}.{part}"),
        Rule(level + ".upsample_conv.{part}", own + ".upsample.{part}"),
        Rule(side + ".mid.{i}.{part}", ours + ".mid.{i}.{part}"),
        Rule(side + ".norm_out.{part}", ours + ".norm_out.{part}"),
        Rule(side + ".conv_in.{part}", ours + ".conv_in.{part}"),
        Rule(side + ".conv_out.{part}", ours + ".conv_out.{part}"),
    ]


def decoder_sizes(source: Source, side: str, base: int | None = None) -> dict[str, Any]:
    """Widths of a pixel decoder called `side`, from its shapes, under the official config's names.

    Only products of `base` and the multipliers show; the largest possible base is taken when None.
    """
    widths = source.widths(side + ".up.{i}.block.0.conv1.weight")
    base = base or math.gcd(*widths)
    return {
        "hidden_channels": base,
        "channel_mult": [width // base for width in widths],
        "num_res_blocks": source.count(side + ".up.0.block.{i}."),
        "z_channels": source.shape(side + ".conv_in.weight")[1],
    }


def _config(source: Source) -> dict[str, Any]:
    base, codes = (
        source.shape("encoder.conv_in.weight")[0],
        source.shape("quantize.embedding.weight")[0],
    )
    official = {"resolution": 256, "num_embeddings": codes, "num_channels": 3}
    official |= decoder_sizes(source, "decoder", base) | (source.config or {})
    if official["num_channels"] != 3:
        raise ValueError(
            f"num_channels {official['num_channels']} in the official config must be 3"
        )
    return {
        "image_size": official["resolution"],
        "base_channels": official["hidden_channels"],
        "channel_multipliers": official["channel_mult"],
        "num_res_blocks": official["num_res_blocks"],
        "codebook_size": official["num_embeddings"],
        "codebook_dim": official["z_channels"],
        "commitment": official.get("commitment_cost", 0.25),
    }


def _checks(model: Any, fixture: Fixture) -> None:
    encoded = model.encode(fixture.input("images") * 2 - 1)
    fixture.expect("latents", encoded.latents, _TOLERANCE)
    fixture.expect("indices", encoded.tokens)
    fixture.expect("quantized", encoded.quantized, _TOLERANCE)
    decoded = model.decode(encoded.tokens, layout=encoded.layout)
    fixture.expect("decoded", (decoded + 1) / 2, _TOLERANCE)


register(
    *(
        Family(
            name=name,
            kind="tokenizer",
            model="MaskGITTokenizer",
            rules=(
                Rule("quantize.embedding.weight", "quantize.embedding"),
                *convolution_rules("encoder", "down", "encoder"),
                *convolution_rules("decoder", "up", "decoder"),
            ),
            config=_config,
            checks=_checks,
            about=about,
        )
        for name, about in (
            ("maskgit_vqgan", "MaskGIT-VQGAN f16, the teacher of TiTok and the tokenizer of RAR"),
            ("maskgit_vqgan_wide", "MaskGIT-VQGAN f16 (the same converter)"),
        )
    )
)
