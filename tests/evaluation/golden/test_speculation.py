"""Recordings of published verification steps hold, and anything altered is noticed."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from studio.evaluation.verify import verify

PARITY = Path(__file__).resolve().parents[4] / "shared" / "parity"
FOLDERS = ["spec_sjd", "spec_gsd", "spec_lantern"]
OUTPUTS = [
    ("spec_sjd", "case01/accept_prob"),
    ("spec_sjd", "case01/residual_prob"),
    ("spec_sjd", "case02/out_tokens"),
    ("spec_gsd", "case01/group_size"),
    ("spec_gsd", "case03/accept_prob"),
    ("spec_gsd", "case02/target_logits"),
    ("spec_gsd", "case02/first_reject"),
    ("spec_lantern", "single0/relaxed_mass"),
    ("spec_lantern", "single1/reject_dist_static"),
    ("spec_lantern", "tree00/dynamic_1/next_prob"),
    ("spec_lantern", "tree00/static_0/accepted"),
    ("spec_lantern", "tree00/greedy_0/next_logits"),
    ("spec_lantern", "tree00/node_logits"),
    ("spec_lantern", "tree00/draft_prob_level1"),
]
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="../shared/parity is not there")


@functools.cache
def rows(name):
    return verify(PARITY / name)


@pytest.mark.parametrize("name", FOLDERS)
def test_recorded_steps_hold(name):
    assert [row for row in rows(name) if not row.ok] == []
    assert len(rows(name)) > 90


def one_case(name, case):
    """The tensors of one case, as the first one of its kind, and the metadata that goes with it."""
    first = case.rstrip("0123456789") + ("0" if case.startswith("single") else "00")
    tensors = load_file(PARITY / name / "io.safetensors")
    tensors = {f"{first}/{k.split('/', 1)[1]}": v for k, v in tensors.items() if in_case(k, case)}
    with safe_open(PARITY / name / "io.safetensors", framework="pt") as file:
        meta = file.metadata()
    if "meta" in meta:
        described, number = json.loads(meta["meta"]), int(case.lstrip("singletr"))
        kept = {k: [v[number]] if case.startswith(k) else [] for k, v in described.items()}
        meta = {"meta": json.dumps(kept)}
    return tensors, meta, first


def in_case(key, case):
    return key.split("/")[0] == case


@pytest.mark.parametrize(("name", "tensor"), OUTPUTS)
def test_what_is_altered_is_noticed(tmp_path, name, tensor):
    """A shift of 1e-2, or the next number."""
    case, output = tensor.split("/", 1)
    tensors, meta, first = one_case(name, case)
    tensor = f"{first}/{output}"
    save_file(tensors, tmp_path / "io.safetensors", metadata=meta)
    assert all(row.ok for row in verify(tmp_path, name))
    value = tensors[tensor]
    signs = torch.arange(value.numel()).view(value.shape) % 2 * 2.0 - 1
    tensors[tensor] = value + 1e-2 * signs if value.is_floating_point() else value + 1
    save_file(tensors, tmp_path / "io.safetensors", metadata=meta)
    assert not all(row.ok for row in verify(tmp_path, name))
