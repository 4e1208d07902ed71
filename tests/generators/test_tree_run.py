"""Trees in one pass against chains fed alone, and what is left after a path was kept."""

import numpy as np
import pytest
import torch

from studio.generators import autoregressive_run
from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.guidance import Guidance
from studio.layers.tree_mask import depths
from studio.outputs import TokenLayout

N = 20
PARENTS = [[-1, -1, 0, 0, 1, 2, 2, 4, 5], [-1, 0, 1, 1, 0, 4, 4, 2, 7], [-1] * 9]
GUIDED = Guidance(2.5, schedule="cosine")


@pytest.fixture
def build(sizes, shake):
    def build(kind="text", **options):
        layout = TokenLayout.single((4, 5), 24).to_dict()
        base = dict(layout=layout, dim=32, num_layers=2, num_heads=4, multiple_of=16, **sizes[kind])
        return shake(AutoregressiveTransformer(**{**base, **options}))

    return build


def some(*shape, seed=5):
    return torch.randint(24, shape, generator=torch.Generator().manual_seed(seed))


def path_to(parents, node):
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def padded(*paths):
    longest = max(map(len, paths))
    return torch.tensor([path + [-1] * (longest - len(path)) for path in paths], dtype=torch.int64)


def check_paths(start, lengths, tokens, parents, found, fed):
    """Every node of `found` (B, n, V) against its path fed alone after what was fed before."""
    for leaf in (3, 6, 7, 8):
        paths = [path_to(row, leaf) for row in parents]
        lines = [row[p].tolist() for row, p in zip(tokens, paths)]
        lines = [fed[b, : lengths[b]].tolist() + line for b, line in enumerate(lines)]
        wide = torch.tensor([(line + [0] * N)[: max(map(len, lines))] for line in lines])
        logits = start().extend(wide)
        for b, path in enumerate(paths):
            wanted = logits[b, lengths[b] + 1 : lengths[b] + 1 + len(path)]
            torch.testing.assert_close(found[b, path], wanted, atol=1e-5, rtol=1e-5)


VARIANTS = {
    "grid": {},
    "line": dict(rope="1d", num_kv_heads=2, condition_rope="zeros"),
    "places": dict(token_levels=[2, 3, 4], head="digits", prior_dim=8, position_tables=True),
    "window": dict(neighborhood={"kernel": 3}),
}


@pytest.mark.parametrize(
    ("name", "guidance", "lean"),
    [(name, GUIDED, True) for name in VARIANTS] + [("grid", None, True), ("line", GUIDED, False)],
)
def test_every_path_of_a_tree_is_the_chain_alone(
    build, make_condition, guidance, name, lean, monkeypatch
):
    if not lean:
        monkeypatch.setattr(autoregressive_run, "fits", lambda *args: False)
    model, condition = build(**VARIANTS[name]), make_condition("text")
    parents = torch.tensor(PARENTS)
    fed, tokens = some(3, N), some(3, 9, seed=6)

    def start():
        run = model.start(condition, guidance=guidance)
        run.make_room(12)
        return run

    # after the condition alone
    run = start()
    found = run.extend_tree(tokens, parents)
    assert run.passes == 1 and run.lengths.tolist() == [9] * 3
    torch.testing.assert_close(found[:, :1], start().extend(tokens[:, :0]), atol=1e-5, rtol=1e-5)
    check_paths(start, [0] * 3, tokens, PARENTS, found[:, 1:], fed)
    # after tokens, rows equally long
    run = start()
    run.extend(fed[:, :4])
    check_paths(start, [4] * 3, tokens, PARENTS, run.extend_tree(tokens, parents), fed)
    # rows differently long, past the end
    run.keep_path(padded([], [], []))
    run.extend(fed[:, 4:14])
    run.rewind(torch.tensor([14, 5, 9]))
    again = run.extend_tree(tokens, parents)
    check_paths(start, [14, 5, 9], tokens, PARENTS, again, fed)


@pytest.mark.parametrize("guidance", [None, GUIDED])
def test_a_tree_of_one_branch_is_a_chain(build, make_condition, guidance):
    model, condition = build(), make_condition("text")
    tokens, chain = some(3, 6), torch.arange(-1, 5).expand(3, -1)
    runs = [model.start(condition, guidance=guidance) for _ in range(2)]
    one, other = runs[0].extend(tokens), runs[1].extend_tree(tokens, chain)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(runs[0].features, runs[1].features, atol=1e-5, rtol=1e-5)
    one, other = runs[0].extend(tokens), runs[1].extend_tree(tokens, chain)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [None, GUIDED])
@pytest.mark.parametrize("first", [True, False])
def test_a_kept_path_is_as_if_fed_alone(build, make_condition, guidance, first):
    model, condition = build(), make_condition("text")
    fed, tokens, after = some(3, 4), some(3, 9, seed=6), some(3, 2, seed=7)
    run = model.start(condition, guidance=guidance)
    if not first:
        run.extend(fed)
    run.extend_tree(tokens, torch.tensor(PARENTS))
    paths = [path_to(PARENTS[0], 8), path_to(PARENTS[1], 3), []]
    run.keep_path(padded(*paths))
    held = 0 if first else 4
    assert run.lengths.tolist() == [held + len(path) for path in paths]
    found = run.extend(after)
    for row, path in enumerate(paths):
        before = torch.cat((fed[row, :held], tokens[row, path], after[row]))
        alone = model.start(condition[row : row + 1], guidance=guidance).extend(before[None])
        torch.testing.assert_close(found[row], alone[0, -2:], atol=1e-5, rtol=1e-5)


def test_random_trees_one_after_the_other(build, make_condition):
    """Passes and kept paths of random trees, a line at last against one pass over it."""
    model, condition = build(), make_condition("text")
    rng = np.random.default_rng(0)
    run = model.start(condition, guidance=GUIDED)
    run.make_room(8)
    lines = [[], [], []]
    for _ in range(5):
        parents = np.array([[rng.integers(-1, i) if i else -1 for i in range(7)] for _ in lines])
        tokens = some(3, 7, seed=int(rng.integers(99)))
        found = run.extend_tree(tokens, torch.from_numpy(parents))[:, -7:]
        ends = [int(rng.integers(7)) for _ in lines]
        paths = [path_to(row, end)[:4] for row, end in zip(parents.tolist(), ends)]
        run.keep_path(padded(*paths))
        for row, path in enumerate(paths):
            lines[row] += tokens[row, path].tolist()
            alone = model.start(condition[row : row + 1], guidance=GUIDED)
            wanted = alone.extend(torch.tensor(lines[row])[None])[0, -1]
            torch.testing.assert_close(found[row, path[-1]], wanted, atol=1e-5, rtol=1e-5)
    assert run.lengths.tolist() == [len(line) for line in lines]
    assert depths(PARENTS[0])[-1] == 4


def test_wrong_trees_are_one_line(build, make_condition):
    model, condition = build(), make_condition("text")
    run = model.start(condition)
    with pytest.raises(ValueError, match=r"parents \(3, 1\) must both be \(3, n\)"):
        run.extend_tree(some(3, 2), torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="parent 1 of node 1 in row 2 must lie between -1 and 0"):
        run.extend_tree(some(3, 2), torch.tensor([[-1, 0], [-1, 0], [-1, 1]]))
    run.extend(some(3, N))
    with pytest.raises(ValueError, match="max_length"):
        run.extend_tree(some(3, 1), torch.tensor([[-1]] * 3))
    with pytest.raises(ValueError, match="before the first pass"):
        run.make_room(4)
    other = model.start(condition, cache="rolling")
    with pytest.raises(ValueError, match='trees need cache "static"'):
        other.extend_tree(some(3, 1), torch.tensor([[-1]] * 3))
    fresh = model.start(condition)
    fresh.extend_tree(some(3, 3), torch.tensor([[-1, -1, 0]] * 3))
    for path in ([0, 3], [2, 0], [-1, 1], [1, 1]):
        with pytest.raises(ValueError, match="of row 0 must ascend within 0 .. 2"):
            fresh.keep_path(padded(path, [], []))
