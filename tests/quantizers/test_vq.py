"""Vector quantizer: the nearest code; how codes start, move, die, come back; gradients."""

import pytest
import torch
from torch.nn import functional as F

from studio.quantizers.vq import VectorQuantizer, k_means, nearest_code


def vectors(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("l2_norm", [True, False])
def test_the_nearest_code_is_found(l2_norm):
    quantizer = VectorQuantizer(50, 6, l2_norm=l2_norm).eval()
    quantizer.embedding.data = vectors(50, 6, seed=1) * 3
    z = vectors(70, 6).reshape(7, 10, 6)
    out = quantizer(z)
    codes = F.normalize(quantizer.embedding, dim=1) if l2_norm else quantizer.embedding
    inputs = F.normalize(z, dim=-1) if l2_norm else z
    brute = torch.stack([(codes - row).norm(dim=1).argmin() for row in inputs.reshape(-1, 6)])
    assert torch.equal(out.indices, brute.reshape(7, 10))
    assert torch.equal(out.quantized, codes[out.indices])
    assert torch.equal(quantizer.lookup(out.indices), out.quantized)
    assert not torch.equal(out.indices, torch.zeros_like(out.indices))


def test_portions_change_nothing(monkeypatch):
    z, codes = vectors(33, 4), vectors(12, 4, seed=1)
    whole = nearest_code(z, codes)
    monkeypatch.setattr("studio.quantizers.vq._DISTANCES_AT_A_TIME", 60)
    assert torch.equal(nearest_code(z, codes), whole)


def test_gradients_go_straight_through_and_losses_pull_both_ways():
    quantizer = VectorQuantizer(8, 3, l2_norm=False, commitment=0.5, codebook_weight=2.0)
    quantizer.embedding.data = vectors(8, 3, seed=1)
    z = vectors(5, 3).requires_grad_()
    out = quantizer(z)
    weight = vectors(5, 3, seed=2)
    (out.quantized * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    assert quantizer.embedding.grad is None
    z.grad = None
    q = quantizer.embedding.detach()[out.indices]
    quantizer(z).loss.backward()
    assert torch.allclose(z.grad, 0.5 * 2 * (z.detach() - q) / 15)
    expected = torch.zeros_like(q[:1].expand(8, 3)).index_add(
        0, out.indices, 2.0 * 2 * (q - z.detach()) / 15
    )
    assert torch.allclose(quantizer.embedding.grad, expected)
    mse = (z.detach() - q).square().mean()
    assert torch.allclose(out.loss, 2.5 * mse)


def test_half_precision_is_quantized_in_float32():
    quantizer = VectorQuantizer(64, 8).eval()
    z = vectors(40, 8).bfloat16()
    out = quantizer(z)
    assert out.quantized.dtype == torch.bfloat16 and out.loss.dtype == torch.float32
    assert torch.equal(out.indices, quantizer(z.float()).indices)


def test_moving_averages_follow_the_formula():
    quantizer = VectorQuantizer(4, 2, l2_norm=False, ema_decay=0.9)
    start = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    quantizer.embedding.data = start.clone()
    quantizer.ema_sum.copy_(start)
    z = torch.tensor([[2.0, 0.1], [3.0, -0.1], [0.2, 5.0]])
    out = quantizer(z)
    assert out.indices.tolist() == [0, 0, 2]
    count = torch.tensor([0.9 + 0.2, 0.9, 0.9 + 0.1, 0.9])
    total = start * 0.9
    total[0] += 0.1 * (z[0] + z[1])
    total[2] += 0.1 * z[2]
    assert torch.allclose(quantizer.ema_count, count) and torch.allclose(quantizer.ema_sum, total)
    smooth = (count + 1e-5) / (count.sum() + 4e-5) * count.sum()
    assert torch.allclose(quantizer.embedding, total / smooth[:, None])
    assert torch.allclose(out.loss, 0.25 * (z - start[out.indices]).square().mean())
    before = quantizer.embedding.clone()
    quantizer.eval()(z)
    assert torch.equal(quantizer.embedding, before)


def test_k_means_start_finds_the_clusters():
    centres = vectors(6, 4, seed=1) * 20
    z = torch.cat([c + 0.01 * vectors(40, 4, seed=i) for i, c in enumerate(centres)])
    z = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(3))]
    quantizer = VectorQuantizer(
        24, 4, l2_norm=False, kmeans_start=True, kmeans_batches=2, ema_decay=0.99
    )
    quantizer(z[:120])
    after_one = quantizer.embedding.clone()
    quantizer(z[120:])
    distance = torch.cdist(centres, quantizer.embedding).min(1).values
    assert distance.max() < 0.1
    assert not torch.equal(after_one, quantizer.embedding)
    loaded = VectorQuantizer(
        24, 4, l2_norm=False, kmeans_start=True, kmeans_batches=2, ema_decay=1.0
    )
    loaded.load_state_dict(quantizer.state_dict())
    quantized = loaded(vectors(50, 4)).quantized  # the start is over: centres stay
    assert torch.isin(quantized[:, 0], quantizer.embedding[:, 0]).all()


def test_k_means_keeps_codes_it_has_no_vectors_for():
    codes = vectors(5, 2, seed=1)
    made = k_means(vectors(2, 2), codes, iterations=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made[2:], codes[2:])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_dead_codes_come_back_and_are_used(ema_decay):
    options = {"l2_norm": False, "revive_after": 3, "ema_decay": ema_decay}
    quantizer = VectorQuantizer(16, 4, **options)
    quantizer.embedding.data = torch.full((16, 4), 1e3) + vectors(16, 4)
    quantizer.embedding.data[0] = 0
    if ema_decay:
        quantizer.ema_sum.copy_(quantizer.embedding.data)
    for step in range(3):
        out = quantizer(vectors(64, 4, seed=step))
        assert set(out.indices.tolist()) == {0} and out.stats["revived"] == 0
    z = vectors(64, 4, seed=9)
    out = quantizer(z)
    assert out.stats["revived"] == 15
    assert set(out.indices.tolist()) == set(range(16)) and out.stats["usage"] == 1.0
    assert quantizer(z).stats["revived"] == 0


def test_revival_is_the_same_for_the_same_seed_only():
    def codes(seed):
        quantizer = VectorQuantizer(16, 4, l2_norm=False, revive_after=1, seed=seed)
        quantizer.embedding.data = torch.arange(16.0)[:, None].expand(16, 4) * 1e3
        for step in range(3):
            quantizer(vectors(64, 4, seed=step))
        return quantizer.embedding.detach()

    assert torch.equal(codes(1), codes(1))
    assert not torch.equal(codes(1), codes(2))


def test_stats_count_the_codes():
    quantizer = VectorQuantizer(4, 1, l2_norm=False).eval()
    quantizer.embedding.data = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    stats = quantizer(torch.tensor([[0.1], [0.9]])).stats
    assert stats["usage"] == 0.5 and abs(stats["perplexity"] - 2) < 1e-5


def test_the_averages_of_encodec_shrink_after_k_means_and_keep_their_counts():
    options = {"l2_norm": False, "ema_decay": 0.99, "kmeans_start": True}
    quantizer = VectorQuantizer(1, 3, encodec_averages=True, **options)
    z = vectors(10, 3)
    centre = z.mean(0)
    assert torch.allclose(quantizer(z).quantized[0], centre, atol=1e-6)
    assert torch.allclose(quantizer.ema_count, torch.tensor([10.0]))
    assert torch.allclose(quantizer.embedding[0], centre * (0.99 + 0.01 * 10) / 10, atol=1e-5)
    sound = VectorQuantizer(1, 3, **options)
    sound(z)
    assert torch.allclose(sound.embedding[0], centre, atol=1e-5)
    with pytest.raises(ValueError, match="encodec_averages needs ema_decay"):
        VectorQuantizer(4, 3, encodec_averages=True)
    with pytest.raises(ValueError, match="revive_after to be None"):
        VectorQuantizer(4, 3, encodec_averages=True, ema_decay=0.9, revive_after=3)
