import pytest
import torch

from studio.training.audio_discriminators import (
    AudioDiscriminators,
    BandDiscriminator,
    PeriodDiscriminator,
    ResolutionDiscriminator,
)

SMALL = {
    "period_widths": (2, 4, 4),
    "periods": (2, 3),
    "resolution_width": 4,
    "resolutions": ((256, 64),),
    "band_width": 2,
    "band_windows": (256,),
    "band_period_widths": (2, 4, 4),
}


def wave(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, 1, 2000, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("judge", "maps"),
    [
        (PeriodDiscriminator(3, (2, 4, 4), conditions=4), 3),
        (PeriodDiscriminator(3, (2, 4, 4), whole_pad=True, skip=0), 4),
        (ResolutionDiscriminator(256, 64, 4, conditions=4), 6),
        (BandDiscriminator(256, 2), 26),
    ],
)
def test_verdicts(judge, maps):
    verdict = judge(wave(0))
    assert verdict.score.shape[0] == 2 and verdict.score.ndim == 2
    assert len(verdict.maps) == maps


def test_official_sizes():
    count = sum(p.numel() for p in PeriodDiscriminator(2, conditions=4).parameters())
    # five convolutions and the last one, each with gains and biases, and the table
    weights = 5 * (32 + 32 * 128 + 128 * 512 + 512 * 1024 + 1024 * 1024) + 3 * 1024
    gains = 2 * (32 + 128 + 512 + 1024 + 1024 + 1)
    assert count == weights + gains + 4 * 1024


def test_a_condition_changes_the_score_once_its_table_was_learned():
    judge = PeriodDiscriminator(2, (2, 4, 4), conditions=2)
    assert torch.equal(judge(wave(0), 0).score, judge(wave(0), 1).score)
    assert judge.table is not None
    torch.nn.init.ones_(judge.table.weight[1].data)
    assert not torch.equal(judge(wave(0), 0).score, judge(wave(0), 1).score)


def test_both_sides_learn():
    judges = AudioDiscriminators(**SMALL)
    real, fake = wave(0), wave(1).requires_grad_()
    judges.discriminator_loss(real, fake).backward()
    assert fake.grad is None
    assert all(p.grad is not None for p in judges.parameters())
    adversarial, matching = judges.generator_losses(real, fake)
    (adversarial + matching).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0


def test_parts_can_be_left_out():
    judges = AudioDiscriminators(**{**SMALL, "period_widths": (), "band_period_widths": ()})
    assert len(judges.periods) == 0 and len(judges.bands) == 1
    assert judges.discriminator_loss(wave(0), wave(1)) > 0
