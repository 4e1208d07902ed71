import numpy as np
import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.drafting import DRAFTERS
from studio.decoding.feeding import Feeder
from studio.decoding.speculative import Speculative
from tests.decoding.tiny_models import GRID, captions, tiny, tiny_head
from tests.decoding.toy_runs import last, seeded

MODEL = tiny()


def decode(strategy, **options):
    run = MODEL.start(captions(), guidance=strategy.guidance)
    return last(strategy.stream(run, GRID, seeded(1, 2, 3), **options)), run


def test_a_draft_model_that_is_the_target_is_always_accepted():
    for rule in ("seed", "exact"):
        draft = MODEL.start(captions())
        strategy = Speculative(acceptance=rule, drafter="model", window=5)
        state, _ = decode(strategy, draft_run=draft)
        assert state.passes == 3  # 12 tokens, 5 a pass
        assert state.draft_passes <= 3 * 4


def test_at_temperature_zero_every_drafter_makes_the_best_tokens():
    plain, _ = decode(Autoregressive(temperature=0.0))
    for name in DRAFTERS:
        for rule in ("seed", "exact"):
            strategy = Speculative(acceptance=rule, drafter=name, temperature=0.0, window=7)
            strategy.head = tiny_head(MODEL)
            draft = tiny(seed=5).start(captions()) if name == "model" else None
            state, _ = decode(strategy, draft_run=draft)
            assert torch.equal(state.tokens, plain.tokens), (name, rule)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_prior_and_the_features_of_a_run(guidance):
    strategy = Autoregressive(guidance_scale=guidance)
    run = MODEL.start(captions(), guidance=strategy.guidance)
    prior = run.prior_logits([0, 3, 10], 4)  # before any pass
    assert prior.shape == (3, 4, 24) and run.passes == 0
    every = run.prior_logits([0, 0, 0], 12)
    torch.testing.assert_close(prior[1], every[1, 3:7])
    torch.testing.assert_close(prior[2, :2], every[2, 10:])
    feeder = Feeder(run)
    logits = feeder.score(np.zeros((3, 12), dtype=np.int64), np.array([0, 2, 4]), np.array([3] * 3))
    copies = 2 if guidance != 1.0 else 1
    assert feeder.features.shape == (3 * copies, 3, 16)
    if copies == 1:
        head = MODEL.token_head(feeder.features[1:2], None, run._prior[1:2, 2:5])
        torch.testing.assert_close(head, logits[1:2])
