import json

import pytest
import torch

from studio.decoding import costs
from studio.decoding.speculative import Speculative
from studio.generators.guidance import Guidance
from tests.decoding.tiny_models import GRID, captions, tiny
from tests.decoding.toy_runs import last, seeded


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "studio" / "costs"


def test_costs_of_passes_do_not_fall():
    made = costs.measure_costs(lambda: tiny().start(captions()), repeats=1)
    assert list(made) == [1, 4]  # half of 12 tokens
    values = list(made.values())
    assert values == sorted(values) and values[0] > 0


def test_measured_once_for_model_and_machine(empty_cache):
    model = tiny()
    made = costs.model_costs(model)
    assert costs.model_costs(model) is made
    (file,) = empty_cache.iterdir()
    assert file.stem == costs.curve_key(model, 1, False)
    file.write_text(json.dumps({"1": 1.0, "4": 2.0}))
    assert costs.model_costs(tiny()) == {1: 1.0, 4: 2.0}  # another object of the same config
    file.write_text("broken")
    assert 1 in costs.model_costs(tiny())


def test_a_curve_is_for_its_batch_and_its_guidance():
    model, guidance = tiny(), Guidance(scale=2.0)
    keys = {costs.curve_key(model, rows, guided) for rows in (1, 3) for guided in (0, 1)}
    assert len(keys) == 4
    assert costs.curve_key(model, 1, True) != costs.curve_key(tiny(num_layers=2), 1, True)
    assert costs.model_costs(model, guidance=guidance)


@pytest.mark.parametrize(
    "options",
    [
        dict(condition="class", num_classes=5, prior_dim=0),
        dict(condition="features", caption_dim=10),
    ],
)
def test_every_kind_of_condition(options):
    model = tiny(**options)
    condition = costs.blank_condition(model.config, 2, torch.device("cpu"))
    assert model.start(condition).extend(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 1, 24)


def test_auto_measures_where_nobody_gave_costs(empty_cache):
    strategy = Speculative(window="auto")
    state = last(strategy.stream(tiny().start(captions()), GRID, seeded(1, 2, 3)))
    assert state.known.all() and len(list(empty_cache.iterdir())) == 1
