import numpy as np
import pytest
import torch

from studio.decoding import noise
from studio.decoding.sampling import Sampling
from studio.decoding.stage import PositionNoise, Scores, Stage
from studio.outputs import TokenLayout
from tests.decoding.joints import JointRun, T, V, conditionals


def make(keep=None, count=T, sampling=None, **options):
    tokens = torch.full((2, T), 2)
    keep = torch.zeros(2, T, dtype=torch.bool) if keep is None else keep
    return Stage(
        JointRun(conditionals(), 2),
        TokenLayout.single((T,), V),
        sampling or Sampling(),
        [3, 4],
        torch.where(keep, tokens, 0),
        keep,
        **{"count": count, "slots": 4, "faithful": True, **options},
    )


def test_noise_of_positions_is_that_of_plain_decoding():
    shared = PositionNoise(np.array([3, 4], dtype=np.uint64), 3, noise.TOKEN, torch.device("cpu"))
    for first in (0, 1, 4):
        positions = np.array([[first, first + 1], [first + 1, first + 2]])
        got = shared.at(positions, 7)
        for row, key in enumerate((3, 4)):
            for column in range(2):
                wanted = noise.token_noise([key], int(positions[row, column]), 7)
                assert torch.equal(got[row, column], wanted[0])


def test_kept_prefixes_are_emitted_and_kept_tokens_certain():
    keep = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    stage = make(keep)
    assert stage.emitted.tolist() == [2, 0]
    assert stage.positions(4).tolist() == [[2, 3, 4, 4], [0, 1, 2, 3]]
    scores = stage.scores(torch.randn(2, 4, V), stage.positions(4))
    assert scores.probs[0, 1].tolist() == [0, 0, 1, 0]
    assert (scores.probs[1] > 0).all() and (scores.probs[0, 0] > 0).all()
    stage.write(0, np.full((2, 4), 1))
    assert stage.line.tolist() == [[2, 2, 1, 2, 1], [1, 1, 1, 1, 0]]


def test_distributions_at_temperature_zero_are_point_masses():
    logits = torch.tensor([[[0.0, 2.0, 1.0, -1.0]]])
    assert Scores(logits, 0.0).probs.tolist() == [[[0, 1, 0, 0]]]
    assert Scores(logits, 2.0).probs.sum().item() == pytest.approx(1.0)


def test_a_ramp_gives_every_position_its_temperature():
    stage = make(sampling=Sampling(temperature=2.0, schedule="linear"))
    scores = stage.scores(torch.randn(2, 3, V), stage.positions(3))
    assert scores.temperature[0, :, 0].tolist() == pytest.approx([2.0, 1.6, 1.2])


def test_uniforms_depend_on_the_row_the_place_the_pass_and_the_purpose():
    stage, places = make(), np.array([[0, 1], [0, 1]])
    first = stage.uniforms(places, noise.ACCEPT)
    assert torch.equal(first, stage.uniforms(places, noise.ACCEPT))
    other = stage.uniforms(places, noise.REPLACE)
    stage.step = 1
    later = stage.uniforms(places, noise.ACCEPT)
    assert torch.stack((first, other, later)).unique().numel() == 12
