"""Evaluating tokenizers: figures of real tiny ones, and of a perfect one."""

import json

import pytest
import torch

from studio.evaluation.tokenizers import (
    decode_all,
    encode_all,
    evaluate_tokenizer,
    prefix_counts,
)
from studio.tokenizers.titok import TiTokTokenizer


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    sizes = {"encoder_size": (32, 1, 2), "decoder_size": (32, 1, 2), "num_tokens": 6}
    pixels = {"pixel_channels": 32, "pixel_multipliers": (1, 2), "pixel_res_blocks": 1}
    rest = {"codebook_size": 16, "codebook_dim": 5, "proxy_codes": 12, "pixel_dim": 8}
    base = {"image_size": 16, "patch_size": 4, "decoder_patch_size": 2, "prefix": True}
    return TiTokTokenizer(**{**base, **sizes, **pixels, **rest}).eval()


@pytest.fixture
def pictures(pictures):
    return pictures[..., :16, :16]


def test_counts_are_powers_of_two_and_the_whole(tokenizer):
    assert prefix_counts(tokenizer) == [1, 2, 4, 6]


def test_batches_change_nothing(tokenizer, pictures):
    tokens = encode_all(tokenizer, pictures, batch_size=3)
    assert torch.equal(tokens, tokenizer.encode(pictures).tokens)
    decoded = decode_all(tokenizer, tokens, num_tokens=2, batch_size=5)
    assert torch.allclose(decoded, tokenizer.decode(tokens, num_tokens=2).clamp(-1, 1), atol=1e-5)


def test_figures(tokenizer, pictures, features):
    result = evaluate_tokenizer(tokenizer, pictures, features=features, batch_size=3)
    assert json.loads(json.dumps(result)) == result
    assert "not Inception" in result["note"] and result["pictures"] == 8
    assert [row["tokens"] for row in result["lengths"]] == [1, 2, 4, 6]
    assert [row["bytes"] for row in result["lengths"]] == [0.5, 1.0, 2.0, 3.0]  # 4 bits a token
    tokens = tokenizer.encode(pictures).tokens
    assert result["codes_used"] == tokens.unique().numel() / 16
    assert all(0 < row["psnr"] < 40 and row["fd"] >= 0 for row in result["lengths"])


def test_asked_counts_only(tokenizer, pictures, features):
    result = evaluate_tokenizer(tokenizer, pictures, features=features, counts=[3])
    assert [row["tokens"] for row in result["lengths"]] == [3]
