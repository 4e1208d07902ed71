"""Recordings of published verification steps: SJD, GSD, LANTERN.

Each case brings its distributions, drafts and uniforms; what is compared is which drafts stand,
with what probability, and what the next token is drawn from. The shapes are in the fixtures'
README. Left out on purpose: the strategies built on these rules, whose own tests are of whole
distributions.
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors import safe_open

from studio.decoding import lantern, trees
from studio.decoding.acceptance import (
    RELEASED,
    exact,
    group,
    grouped,
    relaxed_mass,
    residual,
    verify_chain,
)
from studio.decoding.neighbours import Neighbours

PROBABILITY = 1e-6


def check_sjd(fixture, folder: Path) -> None:
    """Speculative Jacobi decoding: the exact rule."""
    for case in _cases(fixture, "first_reject"):
        _check_chain(fixture, case, exact, lambda p, tokens: torch.ones_like(tokens))


def check_gsd(fixture, folder: Path) -> None:
    """Grouped speculative decoding with the released settings, or those that the file names."""
    delta, distance = _thresholds(folder)
    for case in _cases(fixture, "first_reject"):
        codebook = fixture.input(f"{case}/code_embedding")
        # Ranks by probability are those by logit, since the one is the softmax of the other.
        logits = fixture.input(f"{case}/target_logits")
        fixture.expect(f"{case}/target_prob", logits.softmax(dim=-1), PROBABILITY)

        def rule(p, q, tokens, codebook=codebook):
            return grouped(
                p, q, tokens, codebook=codebook, masked=True, delta=delta, distance=distance
            )

        def size(p, tokens, codebook=codebook):
            return group(p, tokens, codebook=codebook, masked=True, delta=delta, distance=distance)[
                1
            ].sum(dim=-1)

        _check_chain(fixture, case, rule, size)


def _thresholds(folder: Path) -> tuple[float, float]:
    with safe_open(Path(folder) / "io.safetensors", framework="pt") as file:
        meta = file.metadata() or {}
    if int(meta.get("half_window", RELEASED[0])) != RELEASED[0]:
        raise ValueError(f"half_window {meta['half_window']} must be {RELEASED[0]}, as released")
    return float(meta.get("p_thr", 0.15)), float(meta.get("d_thr", 0.5))


def _cases(fixture, output: str) -> list[str]:
    names = (f"case{i:02d}" for i in itertools.count())
    return list(itertools.takewhile(lambda name: f"{name}/{output}" in fixture, names))


def _check_chain(fixture, case: str, rule, size) -> None:
    """One verification step of a chain. Column 0 of what concerns drafts is the last accepted
    token, which nobody tests."""
    p, q, drafts, drawn, u = (
        fixture.input(f"{case}/{name}")
        for name in ("target_prob", "draft_prob", "draft_tokens", "target_tokens", "u")
    )
    batch, length = drafts.shape
    tokens = drafts[:, 1:]  # (B, L - 1)
    limits = torch.full((batch,), length - 1)
    chance = rule(p[:, :-1], q[:, 1:], tokens).double()  # (B, L - 1)
    accepted, _ = verify_chain(
        p, q[:, 1:], tokens, u[:, 1:], torch.full((batch, length), 0.5), limits, rule
    )
    rejected = accepted < length - 1
    # The n-th row that rejects takes the n-th number.
    taken = fixture.input(f"{case}/u_residual")
    v = torch.full((batch, length), 0.5, dtype=torch.float64)
    spare = torch.cat((taken.double(), torch.full((batch,), 0.5)))
    v[rejected] = spare[: int(rejected.sum())].unsqueeze(1)
    accepted, token = verify_chain(p, q[:, 1:], tokens, u[:, 1:], v, limits, rule)
    rows = torch.arange(batch)
    place = accepted.clamp(max=length - 2)
    left = residual(p[rows, place], q[:, 1:][rows, place])  # (B, V)
    left = torch.where(rejected[:, None], left, torch.zeros_like(left))
    out = drawn.clone()
    out[:, : length - 1] = torch.where(
        torch.arange(length - 1) < accepted[:, None], tokens, out[:, : length - 1]
    )
    out[rows[rejected], accepted[rejected]] = token[rejected]
    none = torch.zeros(batch, 1, dtype=torch.float64)
    fixture.expect(f"{case}/accept_prob", torch.cat((none, chance), 1), PROBABILITY)
    fixture.expect(f"{case}/group_size", torch.cat((none.long(), size(p[:, :-1], tokens)), 1))
    fixture.expect(f"{case}/first_reject", accepted + 1)
    fixture.expect(f"{case}/rejected", rejected.long())
    fixture.expect(f"{case}/residual_prob", left, PROBABILITY)
    fixture.expect(f"{case}/out_tokens", out)


def check_lantern(fixture, folder: Path) -> None:
    """LANTERN and LANTERN++: one-token rules, and walks over whole trees."""
    with safe_open(Path(folder) / "io.safetensors", framework="pt") as file:
        meta = json.loads((file.metadata() or {}).get("meta", "null"))
    if not isinstance(meta, dict) or not {"single", "tree"} <= set(meta):
        raise ValueError("io.safetensors has no metadata entry 'meta', which lists the trees")
    for i in range(len(meta["single"])):
        _check_single(fixture, f"single{i}")
    for i, case in enumerate(meta["tree"]):
        _check_tree(fixture, f"tree{i:02d}", case["choices"], case["configs"])


def _check_single(fixture, name: str) -> None:
    p, q, tokens, k, delta, codebook = (
        fixture.input(f"{name}/{part}")
        for part in ("target_prob", "draft_prob", "draft_token", "k", "delta", "codebook")
    )
    nearest = Neighbours.build(codebook, len(codebook)).nearest
    fixture.expect(f"{name}/nearest", nearest)
    rows = []
    for row, (x, most, bound) in enumerate(zip(tokens, k.tolist(), delta.tolist(), strict=True)):
        mass, absorbed = relaxed_mass(p[row], x, nearest, k=most, delta=bound)
        options = lantern.Relaxation(nearest, most, bound)
        dynamic = lantern.reject_dynamic(p[row], int(x), options)
        static = lantern.reject_static(p[row], q[row], int(x), options)
        rows.append((mass.double(), absorbed, dynamic, static))
    mass, absorbed, dynamic, static = (torch.stack(column) for column in zip(*rows, strict=True))
    fixture.expect(f"{name}/relaxed_mass", mass, PROBABILITY)
    fixture.expect(f"{name}/absorbed", absorbed)
    fixture.expect(f"{name}/reject_dist_dynamic", dynamic, PROBABILITY)
    fixture.expect(f"{name}/reject_dist_static", static, PROBABILITY)


def _check_tree(fixture, name: str, choices: list[list[int]], configs: list[dict]) -> None:
    logits, tokens, nearest, uniforms = (
        fixture.input(f"{name}/{part}")
        for part in ("node_logits", "tree_tokens", "nearest", "uniforms")
    )
    tree = _recorded_tree(fixture, name, choices, tokens.tolist())
    paths = _leaf_paths(tree)
    _check_paths(fixture, name, tree, paths, tokens)
    probs = logits.softmax(dim=-1)  # (M + 1, V)
    tolerance = 1e-12 if logits.dtype == torch.float64 else PROBABILITY
    for c, config in enumerate(configs):
        options = lantern.Relaxation(nearest, config["k"], config["delta"] or 0.0)
        for mode in ("dynamic", "static", "greedy"):
            if f"{name}/{mode}_{c}/accepted" not in fixture:
                continue
            used = itertools.count()
            numbers = (float(uniforms[next(used)]) for _ in uniforms)
            if mode == "greedy":
                path = lantern.relaxed_greedy(tree, probs, options)
                output, left = "next_logits", logits[path[-1] + 1 if path else 0]
            else:
                static = mode == "static"
                path, left = lantern.relaxed_walk(tree, probs, numbers, options, static=static)
                output = "next_prob"
            # The recording names the first candidate that begins with the accepted path.
            best = next(i for i, leaf in enumerate(paths) if leaf[: len(path)] == path)
            fixture.expect(f"{name}/{mode}_{c}/accepted", torch.tensor(len(path)))
            fixture.expect(f"{name}/{mode}_{c}/best", torch.tensor(best))
            fixture.expect(f"{name}/{mode}_{c}/uniforms_used", torch.tensor(next(used)))
            fixture.expect(f"{name}/{mode}_{c}/{output}", left, tolerance)


def _recorded_tree(fixture, name: str, choices, tokens: list[int]) -> trees.Tree:
    """The nodes in the recording's order, shorter paths first, so that a parent comes before its
    children; every parent with the drafter's distribution."""
    choices = sorted(map(tuple, choices), key=lambda path: (len(path), path))
    tree, number = trees.Tree(), {(): -1}
    for choice, token in zip(choices, tokens[1:], strict=True):
        number[choice] = tree.add(number[choice[:-1]], token)
    for level in range(max(map(len, choices))):
        parents = sorted({choice[:-1] for choice in choices if len(choice) == level + 1})
        rows = fixture.input(f"{name}/draft_prob_level{level}")  # (P, V)
        tree.probs.update({number[p]: row for p, row in zip(parents, rows, strict=True)})
    return tree


def _leaf_paths(tree: trees.Tree) -> list[list[int]]:
    """The nodes from the root to every leaf, in depth-first order."""
    paths: list[list[int]] = []
    stack: list[list[int]] = [[node] for node in reversed(tree.children(-1))]
    while stack:
        path = stack.pop()
        below = tree.children(path[-1])
        if not below:
            paths.append(path)
        stack.extend([*path, node] for node in reversed(below))
    return paths


def _check_paths(fixture, name: str, tree: trees.Tree, paths, tokens: torch.Tensor) -> None:
    """The candidates, which the recording writes out as a table, -1 behind their end."""
    depth = max(map(len, paths)) + 1
    indices = torch.full((len(paths), depth), -1)  # (L, depth)
    indices[:, 0] = 0
    for row, path in zip(indices, paths, strict=True):
        row[1 : len(path) + 1] = torch.tensor(path) + 1
    chance = torch.ones(len(tree.tokens) + 1, dtype=torch.float64)
    for parent, q in tree.probs.items():
        for kid in tree.children(parent):
            chance[kid + 1] = q[tree.tokens[kid]]
            q = trees.without(q, torch.tensor(tree.tokens[kid]))
    there = indices >= 0
    ids = torch.where(there, tokens[indices.clamp(min=0)], -1)
    q = torch.where(there, chance[indices.clamp(min=0)], 1.0)
    fixture.expect(f"{name}/retrieve_indices", indices)
    fixture.expect(f"{name}/candidates", ids)
    fixture.expect(f"{name}/candidates_prob", q, PROBABILITY)
