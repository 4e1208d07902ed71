import torch

from studio.training import audio_losses as losses


def wave(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, 1, 4000, generator=torch.Generator().manual_seed(seed))


def test_spectral_errors_are_zero_for_the_same_sound_and_grow_with_distance():
    real = wave(0)
    for loss in (losses.SpectralLoss(), losses.MelLoss(16000)):
        assert loss(real, real).abs() < 1e-5
        assert loss(2 * real, real) < loss(8 * real, real)
        fake = wave(1).requires_grad_()
        loss(fake, real).backward()
        assert torch.isfinite(fake.grad).all() and fake.grad.abs().sum() > 0


def test_adversarial_losses_by_hand():
    real, fake = [torch.tensor([[2.0, 0.5]])], [torch.tensor([[-2.0, 0.0]])]
    assert losses.hinge_discriminator(real, fake) == 0.25 + 0.5
    assert losses.hinge_generator(fake) == 2.0
    assert losses.squares_generator(fake) == 5.0
    assert losses.squares_discriminator(real, fake) == 2.0 + 0.625


def test_feature_matching_averages_over_discriminators_and_spares_the_real_side():
    one = [[torch.zeros(2, 3, requires_grad=True)], [torch.zeros(4)]]
    other = [[torch.ones(2, 3, requires_grad=True)], [torch.full((4,), 2.0)]]
    assert losses.feature_matching(one, other) == 1.5
    losses.feature_matching(one, other, average=False).backward()
    assert one[0][0].grad is None and other[0][0].grad is not None


def test_peak_and_commitment():
    level = losses.peak_normalised(wave(0) + 0.3)
    assert torch.allclose(level.abs().amax(-1), torch.tensor(0.8))
    latents = torch.ones(3, requires_grad=True)
    codes = torch.zeros(3, requires_grad=True)
    losses.commitment(latents, codes).backward()
    assert codes.grad is None and latents.grad is not None
