"""Recordings like those beside the repository, of other sizes and seeds, worked out in plain loops
from what their READMEs say and from nothing of ours."""

import itertools
import json
import math

import numpy as np
import torch
from safetensors.torch import save_file


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _normal(x):
    return x / x.sum()


def _write(folder, arrays, metadata):
    tensors = {name: torch.from_numpy(np.array(a)).contiguous() for name, a in arrays.items()}
    save_file(tensors, folder / "io.safetensors", metadata)


# --- steps of speculative decoding ---------------------------------------------------------------


def chains(folder, seed, *, grouped, cases):
    """`cases`: (B, L, V, top k of the target or 0) each."""
    rng, made = np.random.default_rng(seed), {}
    for number, (batch, length, vocab, top_k) in enumerate(cases):
        logits = rng.normal(size=(batch, length, vocab)) * 1.5
        if top_k:
            edge = np.sort(logits, -1)[..., -top_k, None]
            logits = np.where(logits < edge, -np.inf, logits)
        p = _softmax(logits)
        q = _softmax(rng.normal(size=(batch, length, vocab)) + np.log(p.clip(1e-9)) * 0.7)
        drafts = np.array([[rng.choice(vocab, p=row) for row in rows] for rows in q])
        taken = np.array([[rng.choice(vocab, p=row) for row in rows] for rows in p])
        codes = rng.normal(size=(vocab, 6)).astype(np.float32) * 0.25
        u, spare = rng.random((batch, length)), rng.random(batch)
        step = _chain(p, q, drafts, taken, codes if grouped else None, logits, u, spare)
        step |= dict(target_prob=p, draft_prob=q, draft_tokens=drafts, target_tokens=taken, u=u)
        step["u_residual"] = spare
        if grouped:
            step |= dict(target_logits=logits, code_embedding=codes)
        made |= {f"case{number:02d}/{name}": value for name, value in step.items()}
    _write(folder, made, {"p_thr": "0.15", "d_thr": "0.5", "half_window": "7"})


def _group(p, logits, x, codes):
    order = np.argsort(logits, kind="stable").tolist()
    rank = order.index(x)
    if rank < 7:
        return [x]
    near = [y for y in order[rank - 7 : rank + 7] if abs(p[y] - p[x]) < 0.15]
    return [y for y in near if ((codes[y] - codes[x]) ** 2).sum() < 0.5 or y == x]


def _chain(p, q, drafts, taken, codes, logits, u, spare):
    batch, length = drafts.shape
    chance, size = np.zeros((batch, length)), np.zeros((batch, length), dtype=np.int64)
    first, rejected = np.full(batch, length), np.zeros(batch, dtype=np.int64)
    left, out, number = np.zeros_like(p[:, 0]), taken.copy(), 0
    for b in range(batch):
        for i in range(1, length):
            x, now = drafts[b, i], p[b, i - 1]
            group = [x] if codes is None else _group(now, logits[b, i - 1], x, codes)
            chance[b, i] = min(1.0, now[group].sum() / q[b, i][group].sum())
            size[b, i] = len(group)
        for i in range(1, length):
            if u[b, i] < chance[b, i]:
                out[b, i - 1] = drafts[b, i]
                continue
            first[b], rejected[b] = i, 1
            left[b] = _normal((p[b, i - 1] - q[b, i]).clip(0))
            out[b, i - 1] = int((left[b].cumsum() > spare[number]).argmax())
            number += 1
            break
    names = ("accept_prob", "group_size", "first_reject", "rejected", "residual_prob", "out_tokens")
    values = (chance, size, first, rejected, left, out)
    return dict(zip(names, values, strict=True))


# --- LANTERN -------------------------------------------------------------------------------------


def lantern(folder, seed, *, vocab, choices, configs):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(vocab, 4))
    nearest = _nearest(codes)
    made = _singles(rng, codes, nearest)
    made = {f"single0/{name}": value for name, value in made.items()}
    choices = sorted(map(tuple, choices), key=lambda path: (len(path), path))
    made |= {f"tree00/{k}": v for k, v in _tree(rng, nearest, choices, configs).items()}
    described = [{"choices": choices, "configs": [dict(k=k, delta=d) for k, d in configs]}]
    _write(folder, made, {"meta": json.dumps({"single": [{"V": vocab}], "tree": described})})


def _nearest(codes):
    distance = ((codes[:, None] - codes[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return distance.argsort(-1, kind="stable")[:, :-1]


def _mass(p, x, nearest, k, delta):
    """The relaxed mass, and how many neighbours gave to it."""
    if k is None:
        return p[x], 0
    limit, mass, count = (delta if delta <= 1 else (delta - 1) * p[x]), 0.0, 0
    for y in nearest[x][:k]:
        if mass + p[y] > limit:
            break
        mass, count = mass + p[y], count + 1
    return p[x] + mass, count


def _fresh(p):
    return _normal(p) if p.sum() > 0 else np.full_like(p, 1 / len(p))


def _after(p, q, x, nearest, k, delta):
    """What is left after a rejection; q None for the dynamic rule."""
    _, count = _mass(p, x, nearest, k, delta)
    changed = p.copy() if q is None else q.copy()
    if q is None:
        changed[x] = 0
    if count:
        changed[nearest[x][: k + 1]] = 0
    return _fresh(changed if q is None else (p - changed).clip(0))


def _singles(rng, codes, nearest):
    rows, vocab = 20, len(codes)
    p, q = (_softmax(2 * rng.normal(size=(rows, vocab))) for _ in range(2))
    tokens = rng.integers(vocab, size=rows)
    k = rng.integers(1, vocab - 1, size=rows)
    delta = rng.choice([0.05, 0.2, 0.7, 3.0, 9.0], size=rows)
    each = list(zip(p, q, tokens, k, delta, strict=True))
    masses = [_mass(a, x, nearest, n, d) for a, _, x, n, d in each]
    return dict(
        codebook=codes, nearest=nearest, target_prob=p, draft_prob=q, draft_token=tokens,
        k=k, delta=delta,
        relaxed_mass=[m for m, _ in masses], absorbed=[c for _, c in masses],
        reject_dist_dynamic=[_after(a, None, x, nearest, n, d) for a, _, x, n, d in each],
        reject_dist_static=[_after(a, b, x, nearest, n, d) for a, b, x, n, d in each],
    )  # fmt: skip


def _tree(rng, nearest, choices, configs):
    vocab = len(nearest)
    logits = 2 * rng.normal(size=(len(choices) + 1, vocab))
    at = {(): 0} | {choice: i + 1 for i, choice in enumerate(choices)}
    parents = sorted({c[:-1] for c in choices})
    kids = {p: [c for c in choices if c[:-1] == p] for p in parents}
    drafts = {p: _softmax(2 * rng.normal(size=vocab) + 0.5 * logits[at[p]]) for p in parents}
    tokens = rng.integers(vocab, size=len(choices) + 1)
    chance = np.ones(len(choices) + 1)
    for parent in parents:
        q = drafts[parent].copy()
        for kid in kids[parent]:
            tokens[at[kid]] = rng.choice(vocab, p=q)
            chance[at[kid]] = q[tokens[at[kid]]]
            q[tokens[at[kid]]] = 0
            q = _normal(q)
    leaves = sorted(c for c in choices if c not in kids)
    paths = [[0] + [at[leaf[: i + 1]] for i in range(len(leaf))] for leaf in leaves]
    depth = max(map(len, paths))
    table = np.array([path + [-1] * (depth - len(path)) for path in paths])
    uniforms = rng.random(len(choices) + 4)
    made = dict(
        node_logits=logits, tree_tokens=tokens, nearest=nearest, uniforms=uniforms,
        retrieve_indices=table, candidates=np.where(table < 0, -1, tokens[table]),
        candidates_prob=np.where(table < 0, 1.0, chance[table]),
    )  # fmt: skip
    for level in range(depth - 1):
        made[f"draft_prob_level{level}"] = [drafts[p] for p in parents if len(p) == level]
    walk = (nearest, kids, at, tokens, chance, drafts)
    for c, (k, delta) in enumerate(configs):
        for mode in ("dynamic", "static", "greedy"):
            if mode == "greedy":
                path, used, left = *_greedy(logits, walk, k, delta), None
            else:
                path, used, left = _walk(logits, walk, uniforms, k, delta, mode == "static")
            made[f"{mode}_{c}/accepted"] = len(path)
            best = next(i for i, leaf in enumerate(leaves) if leaf[: len(path)] == path)
            made[f"{mode}_{c}/best"] = best
            made[f"{mode}_{c}/uniforms_used"] = used
            name = "next_logits" if left is None else "next_prob"
            made[f"{mode}_{c}/{name}"] = logits[at[path]] if left is None else left
    return made


def _walk(logits, walk, uniforms, k, delta, static):
    nearest, kids, at, tokens, chance, drafts = walk
    path, used = (), 0
    while True:
        p, q = _softmax(logits[at[path]]), drafts.get(path)
        for kid in kids.get(path, []):
            x, u, used = tokens[at[kid]], uniforms[used], used + 1
            mass, _ = _mass(p, x, nearest, k, delta)
            if u <= (mass / chance[at[kid]] if static else mass):
                path = kid
                break
            p = _after(p, q if static else None, x, nearest, k, delta)
            q = q.copy()
            q[x] = 0
            q = _normal(q)
        else:
            return path, used, p


def _greedy(logits, walk, k, delta):
    nearest, kids, at, tokens, *_ = walk

    def longest(path):
        p, found = _softmax(logits[at[path]]), path
        for kid in kids.get(path, []):
            raised, x = p.copy(), tokens[at[kid]]
            raised[x], _ = _mass(p, x, nearest, k, delta)
            below = longest(kid) if raised.argmax() == x else path
            found = below if len(below) > len(found) else found
        return found

    return longest(()), 0


# --- neighborhood attention ----------------------------------------------------------------------


def _sees(i, j, size, kernel, stride, dilation, causal):
    """The README's rule for one axis."""
    if i % dilation != j % dilation:
        return False
    group, i, j = i % dilation, i // dilation, j // dilation
    count = math.ceil((size - group) / dilation)
    if causal:
        lead = min(i // stride * stride + stride - 1, count - 1)
        return max(lead - kernel + 1, 0) <= j <= i
    lead = min(i // stride * stride + stride // 2, count - 1)
    low = min(max(lead - kernel // 2, 0), count - kernel)
    return low <= j < low + kernel


def neighborhoods(folder, seed, *, cases):
    """`cases`: (shape, kernel, stride, dilation, causal, extra keys, heads, kv heads) each."""
    rng, made, described = np.random.default_rng(seed), {}, []
    for number, (shape, kernel, stride, dilation, causal, extra, heads, shared) in enumerate(cases):
        cells = list(itertools.product(*map(range, shape)))
        axes = list(zip(shape, kernel, stride, dilation, causal, strict=True))
        mask = np.array(
            [
                [all(_sees(i, j, *axis) for i, j, axis in zip(a, b, axes, strict=True))
                 for b in cells] for a in cells
            ]
        )  # fmt: skip
        case = {"mask": mask.astype(np.uint8)}
        for name, kept in (("q", heads), ("k", shared), ("v", shared)):
            case[name] = rng.normal(size=(2, *shape, kept, 8)).astype(np.float32)
        if extra:
            for name in ("extra_k", "extra_v"):
                case[name] = rng.normal(size=(2, extra, shared, 8)).astype(np.float32)
        case |= _attend(case, mask, heads // shared, extra)
        made |= {f"case{number:02d}/{name}": value for name, value in case.items()}
        described.append(
            dict(shape=shape, kernel_size=kernel, stride=stride, dilation=dilation,
                 is_causal=causal, scale=None, num_extra_kv=extra)
        )  # fmt: skip
    _write(folder, made, {"cases": json.dumps(described)})


def _attend(case, mask, repeat, extra):
    shape, heads = case["q"].shape[1:-2], case["q"].shape[-2]
    q, k, v = (case[n].astype(float).reshape(2, -1, *case[n].shape[-2:]) for n in "qkv")
    if extra:
        k = np.concatenate([k, case["extra_k"]], 1)
        v = np.concatenate([v, case["extra_v"]], 1)
    seen = np.concatenate([mask, np.ones((len(mask), extra), dtype=bool)], 1)
    k, v = k.repeat(repeat, 2), v.repeat(repeat, 2)
    scores = np.einsum("bihd,bjhd->bihj", q, k) / math.sqrt(q.shape[-1])
    scores = np.where(seen[None, :, None], scores, -np.inf)
    top = scores.max(-1)
    lse = top + np.log(np.exp(scores - top[..., None]).sum(-1))
    out = np.einsum("bihj,bjhd->bihd", np.exp(scores - lse[..., None]), v)
    return {"lse": lse.reshape(2, *shape, heads), "out": out.reshape(2, *shape, heads, 8)}


# --- the EMA sink --------------------------------------------------------------------------------


def ema_sink(folder, seed, *, heads, head_dim, h, w, window, sink, alpha, blocks):
    rng, dim = np.random.default_rng(seed), heads * head_dim
    weights = {f"{n}.weight": rng.normal(size=(dim, dim)) / math.sqrt(dim) for n in "qkvo"}
    weights |= {f"{n}.bias": 0.1 * rng.normal(size=dim) for n in "qkvo"}
    weights |= {f"norm_{n}.weight": 1 + 0.1 * rng.normal(size=dim) for n in "qk"}
    weights = {n: a.astype(np.float32) for n, a in weights.items()}
    cells, made, held = h * w, {}, []  # held: (keys, values) of every frame in the cache
    for block in range(blocks):
        start = min(block * sink, window - sink)
        if len(held) == window:
            held = _blend(held, sink, alpha)
        for number in range(2):
            x = rng.normal(size=(1, sink * cells, dim)).astype(np.float32)
            q, k, v = (_project(x, weights, n).reshape(sink, cells, heads, head_dim) for n in "qkv")
            held = held[:start] + list(zip(k, v, strict=True))
            turned = [_turn(frame, t, h, w) for t, (frame, _) in enumerate(held)]
            q = np.concatenate([_turn(f, start + i, h, w) for i, f in enumerate(q)])
            out = _dense(q, np.concatenate(turned), np.concatenate([v for _, v in held]))
            out = out.reshape(1, -1, dim) @ weights["o.weight"].T + weights["o.bias"]
            made[f"input.block{block}.pass{number}"] = x
            made[f"out.block{block}.pass{number}"] = out.astype(np.float32)
        for i, name in enumerate("kv"):
            part = np.concatenate([frame[i] for frame in held[:sink]])
            made[f"sink_{name}.block{block}"] = part[None].astype(np.float32)
    for i, name in enumerate("kv"):
        made[f"final_cache_{name}"] = np.concatenate([f[i] for f in held])[None].astype(np.float32)
    _write(folder, made, None)
    save_file({n: torch.from_numpy(a) for n, a in weights.items()}, folder / "weights.safetensors")
    config = dict(dim=dim, num_heads=heads, local_attn_size=window, sink_size=sink)
    config |= dict(block_frames=sink, h=h, w=w, alpha=alpha, blocks=blocks, seed=seed)
    (folder / "config.json").write_text(json.dumps(config))


def _blend(held, sink, alpha):
    """The oldest block past the sinks goes into them, slot by slot."""
    old = [
        tuple(alpha * a + (1 - alpha) * b for a, b in zip(*pair, strict=True))
        for pair in zip(held[:sink], held[sink : 2 * sink], strict=True)
    ]
    return old + held[2 * sink :]


def _project(x, weights, name):
    y = x.astype(float) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    if name == "v":
        return y
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
    return y * weights[f"norm_{name}.weight"]


def _turn(frame, t, h, w):
    """Rotary positions of Wan: of P pairs, P - 2 (P // 3) turn with time, P // 3 with the row and
    with the column."""
    pairs = frame.shape[-1] // 2
    third = pairs // 3
    cells = [(t, row, column) for row in range(h) for column in range(w)]
    shares = (pairs - 2 * third, third, third)
    angles = [
        [place * 10000.0 ** (-i / n) for place, n in zip(cell, shares, strict=True)
         for i in range(n)] for cell in cells
    ]  # fmt: skip
    turn = np.exp(1j * np.array(angles))[:, None]
    pairs = (frame[..., 0::2] + 1j * frame[..., 1::2]) * turn
    return np.stack([pairs.real, pairs.imag], -1).reshape(frame.shape)


def _dense(q, k, v):
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    return np.einsum("hij,jhd->ihd", _softmax(scores), v)
