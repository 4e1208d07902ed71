"""Whatever the options of a strategy are: refused in one line, or decoded with."""

import inspect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.masked import Masked
from studio.decoding.neighbours import Neighbours
from studio.decoding.speculative import Speculative
from tests.decoding.tiny_models import GRID, captions, tiny, tiny_head
from tests.decoding.toy_runs import UnorderedTable, random_table, seeded
from tests.hostile import plain, quiet, values

CLASSES = [Autoregressive, Masked, Speculative]
MODEL, DRAFT = tiny(), tiny(seed=3)
HEAD = tiny_head(MODEL)
TABLE = Neighbours.build(random_table(24, 3), k=5)
COSTS = {1: 1.0, 16: 1.5, 32: 2.0}
STEPS = 30  # of thousands that may be asked for
NAMES = (
    "seed exact grouped relaxed annealed jacobi coupled prior model recycling head auto random "
    "left above maximal gumbel recursive greedy kseq changes chain constant linear cosine arccos "
    "power-cosine cond uncond log_prob logit"
).split()
edges = some.sampled_from(
    [0, 1, 2, 3, 12, 1000, -1, 2**31, 2**62, 2**63, 10**400, 0.5, 1e-9, 1e-40, 5e-324, 1e9, 1e308]
)
odd = edges | some.sampled_from([True, False, None, float("nan"), float("inf"), -0.0]) | values


def options_of(cls):
    """Any options of a class, most of them such as it could take."""
    found = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name != "self":
            default = some.just(parameter.default)
            near = some.sampled_from(NAMES) if isinstance(parameter.default, str) else edges
            pairs = some.lists(edges | plain, max_size=3)
            found[name] = some.one_of(default, near, near, odd, pairs)
    return some.fixed_dictionaries({}, optional=found)


def last_state(strategy):
    condition, generators = captions(2), seeded(4, 5)
    if strategy.kind == "unordered":
        stream = strategy.stream(UnorderedTable(random_table(2, 12, 24)), GRID, generators)
    else:
        run, more = MODEL.start(condition, guidance=strategy.guidance), {}
        if isinstance(strategy, Speculative):
            strategy.neighbours, strategy.costs, strategy.head = TABLE, COSTS, HEAD
            if strategy.config.drafter == "model":
                more["draft_run"] = DRAFT.start(condition, guidance=strategy.guidance)
        stream = strategy.stream(run, GRID, generators, **more)
    for state in itertools.islice(stream, STEPS):
        assert int(state.tokens.min()) >= 0 and int(state.tokens.max()) < 24
    return state


@pytest.mark.parametrize("cls", CLASSES)
def test_any_options(cls):
    @quiet
    @given(options=options_of(cls))
    def check(options):
        try:
            strategy = cls(**options)
            state = last_state(strategy)
        except ValueError as error:
            assert str(error).isprintable() and len(str(error)) < 400
        else:
            assert state.num_steps > STEPS or bool(state.known.all())

    check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_interval": 5}, "guidance_interval 5 must be None or two whole numbers"),
        ({"guidance_interval": [0, 1, 2]}, "guidance_interval .0, 1, 2. must be None or two"),
        ({"guidance_interval": [0, None]}, "guidance_interval None must be a whole number >= 0"),
        ({"guidance_power": "x"}, "guidance_power 'x' must be a number >= 0"),
        ({"temperature_schedule": ["a"]}, "temperature_schedule .'a'. must be one of constant, "),
        ({"temperature": 10**400}, r"temperature 10000\S*0000 must be a number from 0"),
        ({"group_size": 2**62}, "group_size 4611686018427387904 must be a whole number from 0"),
        (
            {"tree": "kseq", "branches": 1000, "acceptance": "exact", "drafter": "prior"},
            "branches 1000 must be fewer than window 32: tree 'kseq' has a node for each of them",
        ),
    ],
)
def test_odd_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Speculative(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"acceptance": "grouped", "group_size": 10**9},
        {"acceptance": "relaxed", "relax_neighbours": 10**9},
        {"tree": "recursive", "branches": 10**9, "drafter": "prior"},
        {"tree": "recursive", "branches": [1, 10**9], "drafter": "prior", "acceptance": "exact"},
    ],
)
def test_more_than_there_is_means_all(options):
    assert bool(last_state(Speculative(**options)).known.all())
