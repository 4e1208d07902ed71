"""Codebook use against cases that are clear by hand."""

import pytest
import torch

from studio.evaluation.codebook import codebook_use, count_codes


def test_even_use_has_all_bits():
    use = codebook_use(count_codes(torch.arange(16).view(2, 8).repeat(3, 1), 16))
    assert use == {"codes_used": 1.0, "entropy": 4.0, "perplexity": 16.0}


def test_one_code_has_none():
    use = codebook_use(count_codes(torch.full((2, 5), 3), 10))
    assert use == {"codes_used": 0.1, "entropy": 0.0, "perplexity": 1.0}
    assert codebook_use(torch.zeros(4, dtype=torch.int64))["codes_used"] == 0.0


def test_counts_add_up_over_parts():
    tokens = torch.randint(0, 9, (40,), generator=torch.Generator().manual_seed(0))
    whole = count_codes(tokens, 9)
    assert torch.equal(whole, count_codes(tokens[:7], 9) + count_codes(tokens[7:], 9))


def test_foreign_tokens_are_refused():
    with pytest.raises(ValueError, match="tokens from 0 to 12 must lie between 0 and 8"):
        count_codes(torch.tensor([0, 12]), 9)
