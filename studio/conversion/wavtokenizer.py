"""WavTokenizer (novateur/WavTokenizer and its medium and large releases, Lightning `.ckpt`),
converted to `WavTokenizer`.

WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling, 2024,
2408.16532. Of a Lightning file only the keys of `feature_extractor`, `backbone` and `head` count;
discriminators, and a second decoder that every file carries and never runs, are passed over. Sizes
are read from the shapes and, where it is there, from the config.
"""

import math
from typing import Any

from studio.conversion.family import Family, Fixture, Rule, Source, State, register, setting
from studio.conversion.vocos import TOLERANCE, decoder_rules, decoder_sizes, section

_ENCODER = "feature_extractor.encodec.encoder.model."
BOOK = "feature_extractor.encodec.quantizer.vq.layers.{i}._codebook."

IGNORED = (
    "feature_extractor.encodec.decoder.{rest}",
    "head.istft.window",
    "multiperioddisc.{rest}",
    "multiresddisc.{rest}",
    "dac.{rest}",
    "dacdiscriminator.{rest}",
    "melspec_loss.{rest}",
)


def encoder_rules() -> list[Rule]:
    """Key rules of the SEANet encoder."""
    rules = []
    for part, ours in (("weight_g", "g"), ("weight_v", "v"), ("bias", "bias")):
        for official, name in (
            ("conv.conv", ""),
            ("block.1.conv.conv", "conv1."),
            ("block.3.conv.conv", "conv2."),
            ("shortcut.conv.conv", "shortcut."),
        ):
            target = f"encoder.layers.{{i}}.{name}{ours}"
            rules.append(Rule(f"{_ENCODER}{{i}}.{official}.{part}", target))
    rules.append(Rule(_ENCODER + "{i}.lstm.{part}", "encoder.layers.{i}.lstm.{part}"))
    return rules


def codebook_rules(book: str, ours: str) -> list[Rule]:
    """Key rules of one EMA codebook, or of several where both names hold `{i}`."""
    return [
        Rule(book + "embed", ours + "embedding"),
        Rule(book + "embed_avg", ours + "ema_sum"),
        Rule(book + "cluster_size", ours + "ema_count"),
        Rule(book + "inited", ours + "batches"),
    ]


def prepare(state: State) -> State:
    """The official mark that the k-means start is over, as our number of batches seen."""
    for key in state:
        if key.endswith("_codebook.inited"):
            state[key] = state[key].reshape(()).round().long()
    return state


def codec_config(source: Source) -> dict[str, Any]:
    """What WavTokenizer and Language-Codec have in common of our arguments."""
    sizes = decoder_sizes(source)
    official = source.config or {}
    features = section(source, "feature_extractor")
    key, book = _ENCODER + "{i}.conv.conv.weight_v", BOOK.replace("{i}", "0")
    downs = [source.shape(k)[-1] for k in (key.replace("{i}", str(i)) for i in _downs(source))]
    strides = [kernel // 2 for kernel in downs]
    given = features.get("dowmsamples", setting(official, "dowmsamples", None))
    given = given or setting(official, "ratios", None)
    if given is not None and list(given) != strides[::-1]:
        raise ValueError(f"strides {given} of the config; the weights have {strides[::-1]}")
    hop = sizes["hop"] or math.prod(strides)
    if hop != math.prod(strides):
        raise ValueError(f"hop_length {hop} of the head; the strides give {math.prod(strides)}")
    codes, dim = source.shape(book + "embed")
    lstm = _ENCODER + f"{3 * len(strides) + 1}.lstm.weight_ih_l"
    return {
        "sample_rate": setting(
            official, "sample_rate", setting(official, "model.init_args.sample_rate", 24000)
        ),
        "strides": strides,
        "encoder_width": source.shape(key.replace("{i}", "0"))[0],
        "lstm_layers": len(source.widths(lstm + "{i}")),
        "dim": dim,
        "codebook_size": features.get("vq_bins", setting(official, "vq_bins", codes)),
        "kmeans_iterations": features.get("vq_kmeans", setting(official, "vq_kmeans", 200)),
        "backbone_dim": sizes["dim"],
        "backbone_hidden_dim": sizes["hidden_dim"],
        "backbone_layers": sizes["num_layers"],
        "num_conditions": sizes["num_conditions"],
        "n_fft": sizes["n_fft"],
        "padding": sizes["padding"] or "same",
    }


def _downs(source: Source) -> list[int]:
    """Places of the strided convolutions among the encoder's layers."""
    last = source.count(_ENCODER + "{i}.")
    return [
        i for i in range(3, last, 3) if _ENCODER + f"{i - 2}.block.1.conv.conv.bias" in source.state
    ]


def _config(source: Source) -> dict[str, Any]:
    books = source.count(BOOK)
    if books != 1:
        raise ValueError(f"it has {books} codebooks; WavTokenizer has 1 (see languagecodec)")
    attention = decoder_sizes(source)["use_attention"]
    return codec_config(source) | {"use_attention": attention, "dead_codes": "encodec"}


def cases(model: Any, fixture: Fixture) -> list[tuple[str, int | None]]:
    """The recorded cases and the condition id of each, None for a decoder without conditions."""
    ids = fixture.config.get("test_bandwidth_id", {})
    names = [name for name in fixture.names() if name.startswith("input.")]
    found = [name.removeprefix("input.") for name in names]
    return [(case, ids.get(case, 0) if model.backbone.num_conditions else None) for case in found]


def check_sound(model: Any, fixture: Fixture, case: str, condition: int | None) -> None:
    """From recorded codes to features and sound."""
    codes = fixture.input(f"codes.{case}").transpose(0, 1)  # (B, K, T)
    vectors = model.lookup(codes)
    fixture.expect(f"features_from_codes.{case}", vectors, TOLERANCE)
    fixture.expect(f"backbone.{case}", model.backbone(vectors, condition), TOLERANCE)
    audio = model.decode(codes, condition=condition)
    fixture.expect(f"audio.{case}", audio[:, 0], TOLERANCE)


def _checks(model: Any, fixture: Fixture) -> None:
    for case, condition in cases(model, fixture):
        encoded = model.encode(fixture.input(f"input.{case}")[:, None])
        fixture.expect(f"enc_features.{case}", encoded.latents, TOLERANCE)
        fixture.expect(f"codes.{case}", encoded.tokens[None])
        fixture.expect(f"quantized.{case}", encoded.quantized, TOLERANCE)
        check_sound(model, fixture, case, condition)
        embedded = model.backbone.embed(encoded.quantized)
        for part, value in (("embed", embedded), ("pos_net", model.backbone.context(embedded))):
            if f"backbone_{part}.{case}" in fixture:
                fixture.expect(f"backbone_{part}.{case}", value, TOLERANCE)


register(
    Family(
        name="wavtokenizer",
        kind="tokenizer",
        model="WavTokenizer",
        rules=[
            *encoder_rules(),
            *codebook_rules(BOOK.replace("{i}", "0"), "codebook."),
            *decoder_rules(),
        ],
        config=_config,
        checks=_checks,
        ignored=IGNORED,
        prepare=prepare,
        trainer_objects=True,
        about="WavTokenizer, 40 or 75 tokens a second",
    )
)
