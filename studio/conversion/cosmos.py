"""The Cosmos video tokenizers (nvidia/Cosmos-0.1-Tokenizer-{DV,CV}*, Cosmos-1.0-Tokenizer-*),
converted to `CosmosTokenizer`.

Cosmos World Foundation Model Platform for Physical AI, 2025, 2501.03575. Their files hold no
config: what the shapes do not say (how much is compressed) is said by the family. Constant buffers
that tracing left behind are ignored.
"""

import functools
from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, cases, register, setting
from studio.layers.causal import Carry
from studio.layers.haar import fold_clip, unfold_clip
from studio.tokenizers.cosmos import FSQ_LEVELS

_TOLERANCE = 1e-4

_NORMS = ("norm", "norm1", "norm2", "norm_out")
_RULES = (
    Rule("{path}.nin_shortcut.conv3d.{part}", "{path}.shortcut.{part}"),
    Rule("{path}.0.conv3d.{part}", "{path}.space.{part}"),
    Rule("{path}.1.conv3d.{part}", "{path}.time.{part}"),
    *(Rule(f"{{path}}.{name}.norm.{{part}}", f"{{path}}.{name}.{{part}}") for name in _NORMS),
    Rule("{path}.conv3d.{part}", "{path}.{part}"),
)
_IGNORED = (
    "encoder.patcher3d.{name}",
    "decoder.unpatcher3d.{name}",
    "quantizer.{name}",
    "inv_quant.{name}",
)


def _config(source: Source, *, discrete: bool, space: int, time: int) -> dict[str, Any]:
    official = setting(source.config or {}, "model", {})
    _refuse_other_variants(official, "DV" if discrete else "CV")
    base = source.shape("encoder.conv_in.0.conv3d.bias")[0]
    widths = source.widths("encoder.down.{i}.block.0.conv1.0.conv3d.weight")
    base = setting(official, "channels", base)
    multipliers = setting(official, "channels_mult", [width // base for width in widths])
    time = setting(official, "temporal_compression", time)
    patch = setting(official, "patch_size", 4)
    decoder = multipliers if discrete or time != 4 else [2, 4]
    resolution = setting(official, "resolution", 1024) // patch
    attended = setting(official, "attn_resolutions", [])
    z_channels, dim = (source.shape(f"{name}quant_conv.conv3d.bias")[0] for name in ("post_", ""))
    levels = setting(official, "levels", list(FSQ_LEVELS)) if discrete else None
    return {
        "base_channels": base,
        "channel_multipliers": multipliers,
        "decoder_multipliers": None if decoder == multipliers else decoder,
        "num_res_blocks": setting(
            official, "num_res_blocks", source.count("encoder.down.0.block.{i}.")
        ),
        "z_channels": setting(official, "z_channels", z_channels),
        "patch_size": patch,
        "space_compression": setting(official, "spatial_compression", space),
        "time_compression": time,
        "levels": levels,
        "latent_channels": setting(official, "latent_channels", dim),
        "attention_levels": _levels_of(resolution, attended, len(multipliers)),
        "decoder_attention_levels": _levels_of(resolution, attended, len(decoder)),
    }


def _levels_of(resolution: int, attended: list[int], count: int) -> list[int]:
    """The levels whose side, halved from level to level, is one of those `attended`."""
    return [i for i in range(count) if resolution // 2**i in attended]


def _refuse_other_variants(official: dict[str, Any], name: str) -> None:
    allowed = {
        "name": name,
        "patch_method": "haar",
        "legacy_mode": False,
        "num_groups": 1,
        "in_channels": 3,
        "out_channels": 3,
        "z_factor": 1,
        "encoder": "FACTORIZED",
        "decoder": "FACTORIZED",
        "quantizer": "FSQ",
        "formulation": "AE",
    }
    for key, value in allowed.items():
        if official.get(key, value) != value:
            raise ValueError(f"{key} {official[key]!r} must be {value!r} in this family")
    levels, dim = official.get("levels"), official.get("embedding_dim")
    if levels and dim and len(levels) != dim:
        raise ValueError(f"embedding_dim {dim} must be the number of levels {levels}")


def _checks(model: Any, fixture: Fixture) -> None:
    for case in cases(fixture):
        _check_case(model, fixture, case)


def _check_case(model: Any, fixture: Fixture, case: str) -> None:
    video, patch = fixture.input(f"input.{case}"), model.config.patch_size
    if f"patched.{case}" in fixture:
        folded = fold_clip(video, patch)
        fixture.expect(f"patched.{case}", folded, _TOLERANCE)
        fixture.expect(f"unpatched.{case}", unfold_clip(folded, patch), _TOLERANCE)
    fixture.expect(f"encoder_out.{case}", model.encoder(video, Carry()), _TOLERANCE)
    fixture.expect(f"pre_quant.{case}", model.latents(video), _TOLERANCE)
    encoded = model.encode(video)
    shape = encoded.layout.segments[0].shape
    if model.quantize is None:
        grid = encoded.latents.transpose(1, 2).unflatten(2, shape)  # (B, D, t, h, w)
        fixture.expect(f"latent.{case}", grid, _TOLERANCE)
        values = encoded.latents
    else:
        fixture.expect(f"indices.{case}", encoded.tokens.unflatten(1, shape))
        fixture.expect(f"codes.{case}", encoded.quantized, _TOLERANCE)
        values = encoded.tokens
        grid = model.quantize.lookup(values.unflatten(1, shape)).movedim(-1, 1)  # (B, D, t, h, w)
        fixture.expect(f"codes_from_indices.{case}", grid, _TOLERANCE)
    if f"post_quant.{case}" in fixture:
        fixture.expect(f"post_quant.{case}", model.post_quant_conv(grid), _TOLERANCE)
    fixture.expect(f"recon.{case}", model.decode(values, layout=encoded.layout), _TOLERANCE)


def _family(space: int, time: int, *, discrete: bool) -> Family:
    kind = "discrete" if discrete else "continuous"
    return Family(
        name=f"cosmos_{kind[0]}v{time}x{space}x{space}",
        kind="tokenizer",
        model="CosmosTokenizer",
        rules=_RULES,
        config=functools.partial(_config, discrete=discrete, space=space, time=time),
        checks=_checks,
        ignored=_IGNORED,
        about=f"Cosmos {kind} video, {time} frames of {space}x{space} pixels a cell",
    )


register(
    *(
        _family(space, time, discrete=discrete)
        for discrete in (True, False)
        for space, time in ((8, 4), (8, 8), (16, 8))
    )
)
