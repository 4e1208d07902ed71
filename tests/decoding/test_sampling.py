import numpy as np
import pytest
import torch

from studio.decoding import noise
from studio.decoding.sampling import Sampling, choose, filter_logits, log_probs, pick

INF = torch.inf


def test_top_k_keeps_ties():
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0])
    assert filter_logits(logits, top_k=2).tolist() == [-INF, 3.0, 2.0, 2.0, -INF]
    assert torch.equal(filter_logits(logits, top_k=5), logits)
    assert torch.equal(filter_logits(logits, top_k=99), logits)


def test_top_p_keeps_the_first_token_over_the_threshold():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = [
        filter_logits(logits, top_p=p).isfinite().sum().item() for p in (0.0, 0.49, 0.6, 0.9, 1)
    ]
    assert kept == [1, 1, 2, 3, 4]


def test_top_p_works_on_what_top_k_left():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    both = filter_logits(logits, top_k=2, top_p=0.6)  # 0.625 is already over
    assert both.isfinite().tolist() == [True, False, False, False]


def test_min_p_is_relative_to_the_best():
    logits = torch.tensor([0.6, 0.3, 0.08, 0.02]).log()
    assert filter_logits(logits, min_p=0.4).isfinite().tolist() == [True, True, False, False]
    hot = filter_logits(logits, min_p=0.4, temperature=100.0)
    assert hot.isfinite().all()


def test_filters_are_row_by_row_and_float32():
    logits = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0)).half()
    options = {"temperature": 0.8, "top_k": 20, "top_p": 0.8, "min_p": 0.01}
    out = filter_logits(logits, **options)
    assert out.dtype == torch.float32
    assert torch.equal(out[1, 1], filter_logits(logits[1, 1], **options))


def test_log_probs_sum_to_one():
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"temperature": 0.5, "top_k": 5}, {"top_p": 0.7, "min_p": 0.1}):
        assert torch.allclose(log_probs(logits, **options).exp().sum(-1), torch.ones(4))
    best = log_probs(logits, temperature=0.0)
    assert torch.equal(best.exp().argmax(-1), logits.argmax(-1))
    assert best.exp().sum(-1).tolist() == [1.0] * 4


def test_temperature_zero_is_argmax_whatever_the_noise():
    logits = torch.tensor([[0.0, 1.0, 0.5]])
    assert choose(logits, torch.tensor([[99.0, 0.0, 0.0]]), temperature=0.0).tolist() == [1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    """Chi-square over 20,000 draws of 6 tokens; 20.5 is its 99.9th percentile."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.3, -0.5])
    draws = 20_000
    drawn = choose(logits, noise.gumbel(list(range(draws)), 6), temperature=temperature)
    counts = torch.bincount(drawn, minlength=6)
    expected = log_probs(logits, temperature=temperature).exp() * draws
    assert ((counts - expected) ** 2 / expected).sum() < 20.5


def test_filtered_tokens_are_never_drawn():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = choose(filter_logits(logits, top_k=2), noise.gumbel(list(range(500)), 4))
    assert set(drawn.tolist()) == {1, 3}


def test_a_pick_is_the_first_token_over_the_number():
    probs = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    numbers = torch.tensor([1e-9, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 1e-9], dtype=torch.float64)
    assert pick(probs.expand(6, 6), numbers).tolist() == [1, 1, 3, 3, 4, 4]
    assert pick(probs.expand(6, 6) * 7, numbers).tolist() == [1, 1, 3, 3, 4, 4]


def test_a_temperature_a_row_is_that_temperature():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(temperature=0.9, top_p=0.7, min_p=0.01, schedule="cosine")
    progress = np.array([0.0, 0.3, 0.8])
    rows = sampling.temperature_at(progress)
    together = sampling.filtered(logits, rows)
    drawn = choose(together, torch.ones(3, 50), temperature=rows)
    for i in range(3):
        alone = sampling.temperature_at(float(progress[i]))
        assert torch.equal(sampling.filtered(logits[i], alone), together[i])
        assert choose(together[i], torch.ones(50), temperature=alone) == drawn[i]
    assert Sampling(temperature=0.5).temperature_at(progress) == 0.5
