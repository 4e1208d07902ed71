"""One-D-Piece (turing-motors/One-D-Piece-{S,B,L}-256), converted to `TiTokTokenizer` with decodable
prefixes.

One-D-Piece: Image Tokenizer Meets Quality-Controllable Compression, 2025, 2501.10064. The hub has
no config: sizes are read from the shapes, and come to those in
`studio.tokenizers.titok.OFFICIAL_SIZES`.
"""

from typing import Any

from studio.conversion.family import Family, Fixture, register
from studio.conversion.titok import RULES, TOLERANCE, check_encoding, tokenizer_config


def _checks(model: Any, fixture: Fixture) -> None:
    check_encoding(model, fixture)
    tokens = fixture.input("indices").squeeze(1)  # (B, N)
    fixture.expect("decoder_logits_full", model.decode_logits(tokens), TOLERANCE)
    total = model.config.num_tokens
    for name, count in (("quarter", total // 4), ("half", total // 2), ("full", total)):
        decoded = model.decode(tokens, num_tokens=max(1, count))
        fixture.expect(f"decoded_{name}", (decoded + 1) / 2, TOLERANCE)


register(
    Family(
        name="one_d_piece",
        kind="tokenizer",
        model="TiTokTokenizer",
        rules=RULES,
        config=lambda source: tokenizer_config(source, prefix=True),
        checks=_checks,
        about="One-D-Piece S, B, L at 256 pixels, 1 to 256 tokens",
    )
)
