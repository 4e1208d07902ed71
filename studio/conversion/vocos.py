"""Vocos vocoders (charactr/vocos-mel-24khz and charactr/vocos-encodec-24khz, config.yaml and
pytorch_model.bin), converted to `Vocos`; and what WavTokenizer and Language-Codec share with them.

Vocos: Closing the gap between time-domain and Fourier-based neural vocoders, 2023, 2306.00814. The
sizes of the network are read from the shapes; the config says what shapes don't (padding, hop,
sample rate). Windows and filter banks in the files are made anew by ours and are not read.
"""

from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, register, setting

TOLERANCE = 1e-4
IGNORED = (
    "head.istft.window",
    "feature_extractor.mel_spec.{rest}",
    "feature_extractor.encodec.{rest}",
    "melspec_loss.{rest}",
    "disc.{rest}",
    "multiperioddisc.{rest}",
    "multiresddisc.{rest}",
)

_BLOCK = (
    ("dwconv.{part}", "depthwise.{part}"),
    ("norm.{part}", "norm.{part}"),
    ("pwconv1.{part}", "up.{part}"),
    ("pwconv2.{part}", "down.{part}"),
    ("gamma", "gamma"),
)


def section(source: Source, name: str) -> dict[str, Any]:
    """The arguments of one part ("backbone", "head", "feature_extractor") of an official config, in
    any of the forms that trainers write; empty when there are none.
    """
    config = source.config or {}
    for path in (f"model.init_args.{name}", name):
        found = setting(config, path, None)
        if isinstance(found, dict):
            return found.get("init_args", found)
    return {}


def decoder_rules() -> list[Rule]:
    """Key rules of `backbone` and `head`."""
    rules = [
        Rule("backbone.embed.{part}", "backbone.embed.{part}"),
        Rule("backbone.norm.{part}", "backbone.norm.{part}"),
        Rule("backbone.final_layer_norm.{part}", "backbone.norm_out.{part}"),
        Rule("backbone.pos_net.{i}.proj_out.{part}", "backbone.context.{i}.out.{part}"),
        Rule("backbone.pos_net.{i}.{part}", "backbone.context.{i}.{part}"),
        Rule("head.out.{part}", "head.out.{part}"),
    ]
    for official, ours in _BLOCK:
        rules.append(
            Rule("backbone.convnext.{i}." + official, "backbone.blocks.{i}." + ours),
        )
    return rules


def decoder_sizes(source: Source) -> dict[str, Any]:
    """dim, hidden_dim, num_layers, num_conditions, use_attention, n_fft, padding and input_channels
    of an official decoder.
    """
    backbone, head = section(source, "backbone"), section(source, "head")
    dim, channels, _ = source.shape("backbone.embed.weight")
    adaptive = "backbone.norm.scale.weight" in source.state
    ids = source.shape("backbone.norm.scale.weight")[0] if adaptive else 0
    hidden = source.shape("backbone.convnext.0.pwconv1.weight")[0]
    return {
        "input_channels": backbone.get("input_channels", channels),
        "dim": backbone.get("dim", dim),
        "hidden_dim": backbone.get("intermediate_dim", hidden),
        "num_layers": backbone.get("num_layers", source.count("backbone.convnext.{i}.")),
        "num_conditions": backbone.get("adanorm_num_embeddings") or ids,
        "use_attention": "backbone.pos_net.0.conv1.weight" in source.state,
        "n_fft": head.get("n_fft", source.shape("head.out.weight")[0] - 2),
        "hop": head.get("hop_length"),
        "padding": head.get("padding"),
    }


def _config(source: Source) -> dict[str, Any]:
    sizes, features = decoder_sizes(source), section(source, "feature_extractor")
    table = "feature_extractor.codebook_weights"
    codes = table in source.state
    official = source.config or {}
    common = {
        "in_channels": sizes["input_channels"],
        **{k: sizes[k] for k in ("dim", "hidden_dim", "num_layers", "num_conditions", "n_fft")},
        "sample_rate": features.get("sample_rate", 24000),
    }
    if sizes["use_attention"]:
        raise ValueError("backbone.pos_net: a Vocos with attention is a WavTokenizer")
    if codes:
        rows, books = source.shape(table)[0], setting(official, "num_q", None)
        size = setting(official, "bins", rows // books if books else 1024)
        return common | {
            "features": "codes",
            "codebook_size": size,
            "num_codebooks": rows // size,
            "condition_codebooks": [2, 4, 8, 16],
            "hop": sizes["hop"] or sizes["n_fft"] // 4,
            "padding": sizes["padding"] or "same",
        }
    return common | {
        "features": "mel",
        "mel_n_fft": features.get("n_fft", sizes["n_fft"]),
        "mel_hop": features.get("hop_length", sizes["n_fft"] // 4),
        "mel_padding": features.get("padding", "center"),
        "hop": sizes["hop"] or sizes["n_fft"] // 4,
        "padding": sizes["padding"] or "center",
    }


def _check_sound(
    model: Any, features: Any, sound: Any, fixture: Fixture, condition: int | None
) -> None:
    """From features to the decoded sound, with the head's own padding and the other one."""
    hidden = model.backbone(features, condition)
    fixture.expect("backbone", hidden, TOLERANCE)
    linear = model.head.out(hidden)
    fixture.expect("head_linear", linear, TOLERANCE)
    fixture.expect("audio", sound[:, 0], TOLERANCE)
    own = model.head.padding
    other = "same" if own == "center" else "center"
    fixture.expect("audio_other_padding", model.head.wave(linear, padding=other), TOLERANCE)
    frames = 2 if own == "center" else 1
    fixture.expect("audio_one_frame", model.head.wave(linear[:, :frames]), TOLERANCE)


def _check_mel(model: Any, fixture: Fixture) -> None:
    bands = model.encode(fixture.input("input.audio")[:, None]).latents
    fixture.expect("mel_features", bands, TOLERANCE)
    _check_sound(model, bands, model.decode(bands), fixture, None)


def _check_codes(model: Any, fixture: Fixture) -> None:
    codes = fixture.input("input.codes").transpose(0, 1)  # (B, K, T)
    ids = model.backbone.num_conditions
    condition = fixture.config.get("test_bandwidth_id", 0) if ids else None
    features = model.lookup(codes)
    fixture.expect("features", features, TOLERANCE)
    sound = model.decode(codes, condition=condition)
    _check_sound(model, features, sound, fixture, condition)


register(
    *(
        Family(
            name=name,
            kind="tokenizer",
            model="Vocos",
            rules=[*decoder_rules(), *rules],
            config=_config,
            checks=checks,
            ignored=IGNORED,
            about=about,
        )
        for name, rules, checks, about in (
            ("vocos_mel", [], _check_mel, "Vocos from mel bands at 24 kHz"),
            (
                "vocos_encodec",
                [Rule("feature_extractor.codebook_weights", "codes")],
                _check_codes,
                "Vocos from EnCodec's tokens at 24 kHz",
            ),
        )
    )
)
