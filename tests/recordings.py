"""Recorded outputs of the official models, where they are: `../shared/parity`."""

from pathlib import Path

import pytest

PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity"
FAMILIES = [
    "llamagen_vq16",
    "llamagen_vq8",
    "llamagen_vq8_wide",
    "titok_vq_legacy",
    "one_d_piece",
    "maskgit_vqgan",
    "maskgit_vqgan_wide",
    "llamagen_c2i",
    "llamagen_t2i",
    "maskgit_vit",
    "cosmos_dv8x16x16",
    "cosmos_dv4x8x8",
    "cosmos_cv4x8x8",
    "omnitokenizer_vq",
    "omnitokenizer_vae",
    "larp_tokenizer",
    "wavtokenizer",
    "languagecodec",
    "vocos_mel",
    "vocos_encodec",
]
needs_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason="../shared/parity is not there")
