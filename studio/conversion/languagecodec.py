"""Language-Codec (`languagecodec_paper_8nq`, Lightning `.ckpt`), converted to `LanguageCodec`.

Language-Codec: Bridging Discrete Codec Representations and Speech Language Models, 2024,
2402.12208. The file is laid out as WavTokenizer's, with eight codebooks.
"""

from typing import Any

from studio.conversion.family import Family, Fixture, Source, register
from studio.conversion.vocos import TOLERANCE, decoder_rules, decoder_sizes
from studio.conversion.wavtokenizer import (
    BOOK,
    IGNORED,
    cases,
    check_sound,
    codebook_rules,
    codec_config,
    encoder_rules,
    prepare,
)
from studio.quantizers.residual import ResidualQuantizer

_PARALLEL = 3


def _config(source: Source) -> dict[str, Any]:
    books = source.count(BOOK)
    if books <= _PARALLEL:
        raise ValueError(f"it has {books} codebooks; Language-Codec has more than {_PARALLEL}")
    if decoder_sizes(source)["use_attention"]:
        raise ValueError("backbone.pos_net: Language-Codec has no attention")
    own = {"num_codebooks": books, "parallel_codebooks": _PARALLEL, "encodec_averages": True}
    return codec_config(source) | own


def _checks(model: Any, fixture: Fixture) -> None:
    for case, condition in cases(model, fixture):
        encoded = model.encode(fixture.input(f"input.{case}")[:, None])
        fixture.expect(f"enc_features.{case}", encoded.latents, TOLERANCE)
        fixture.expect(f"codes.{case}", encoded.tokens.transpose(0, 1))
        fixture.expect(f"quantized.{case}", encoded.quantized, TOLERANCE)
        _check_fewer(model, encoded.latents, fixture, case)
        plain = f"codes_plain_rvq_encode.{case}"
        if plain in fixture:  # the search that the official code offers and does not train with
            ordinary = ResidualQuantizer(list(model.codebooks.levels))
            fixture.expect(plain, ordinary(encoded.latents.transpose(1, 2)).indices.movedim(-1, 0))
        check_sound(model, fixture, case, condition)


def _check_fewer(model: Any, features: Any, fixture: Fixture, case: str) -> None:
    """The recorded results of the first few codebooks alone."""
    for books in range(1, model.num_codebooks):
        codes, quantized = f"codes_nq{books}.{case}", f"quantized_nq{books}.{case}"
        if codes in fixture or quantized in fixture:
            out = model.quantize(features, num_codebooks=books)
        if codes in fixture:
            fixture.expect(codes, out.indices.transpose(0, 1))
        if quantized in fixture:
            fixture.expect(quantized, out.quantized, TOLERANCE)


register(
    Family(
        name="languagecodec",
        kind="tokenizer",
        model="LanguageCodec",
        rules=[*encoder_rules(), *codebook_rules(BOOK, "codebooks.levels.{i}."), *decoder_rules()],
        config=_config,
        checks=_checks,
        ignored=IGNORED,
        prepare=prepare,
        trainer_objects=True,
        about="Language-Codec, 8 codebooks at 75 frames a second",
    )
)
