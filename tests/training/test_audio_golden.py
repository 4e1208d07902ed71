"""The recorded pieces of WavTokenizer's training hold, and a wrong one is noticed."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.evaluation.verify import verify
from tests.recordings import PARITY, needs_fixtures

NAME = "wavtokenizer_training_bits"


@needs_fixtures
def test_all_recorded_pieces_hold():
    rows = verify(PARITY / NAME)
    assert [row for row in rows if not row.ok] == []
    assert {row.output for row in rows} >= {"step2.embed", "mel.b.loss", "dac.band4_fft512"}
    assert len(rows) == 37 and all(row.tolerance <= 1e-4 for row in rows)


@needs_fixtures
@pytest.mark.parametrize("file, key", [("io", "input.step0"), ("weights", "_codebook.embed_avg")])
def test_a_change_is_noticed(file, key, tmp_path):
    folder = tmp_path / NAME
    shutil.copytree(PARITY / NAME, folder, copy_function=shutil.copyfile)
    tensors = load_file(folder / f"{file}.safetensors")
    tensors[key] = tensors[key] + 1e-2 * torch.randn(
        tensors[key].shape, generator=torch.Generator().manual_seed(0)
    )
    (folder / f"{file}.safetensors").unlink()
    save_file(tensors, folder / f"{file}.safetensors")
    bad = {row.output for row in verify(folder) if not row.ok}
    assert {"step0.embed_avg", "step2.embed"} <= bad and "mel.a.loss" not in bad
