"""Parts: kept, found again, shared, remade when broken."""

import pytest
import torch

from studio.evaluation.parts import Shard, joined, measure_parts


class Work:
    """Measures parts and remembers which."""

    def __init__(self, dies_at=None):
        self.done, self.dies_at = [], dies_at

    def __call__(self, number):
        if number == self.dies_at:
            raise KeyboardInterrupt
        self.done.append(number)
        shared = torch.full((2, 3), float(number))
        return {"a": shared, "b": shared, "index": torch.arange(2) + 2 * number}


def run(folder, work, *, facts=0, parts=4, **options):
    return measure_parts(
        [["file", i] for i in range(parts)], work, folder=folder, facts=facts, **options
    )


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    first, second = Work(dies_at=2), Work()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first)
    told = []
    records = run(tmp_path, second, progress=lambda *x: told.append(x))
    assert first.done == [0, 1] and second.done == [2, 3]
    assert joined(records)["index"].tolist() == list(range(8))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    whole = run(tmp_path / "other", Work())
    assert all(torch.equal(a["a"], b["a"]) for a, b in zip(records, whole, strict=True))


def test_other_settings_and_changed_files_are_measured_anew(tmp_path):
    run(tmp_path, Work())
    other = Work()
    run(tmp_path, other, facts=1)
    assert other.done == [0, 1, 2, 3]
    more = Work()
    run(tmp_path, more, parts=5)
    assert more.done == [4]


def test_parts_of_another_version_are_measured_anew(tmp_path, monkeypatch):
    run(tmp_path, Work())
    monkeypatch.setattr("studio.__version__", "99.0")
    other = Work()
    run(tmp_path, other)
    assert other.done == [0, 1, 2, 3]


def test_a_broken_part_is_measured_anew(tmp_path):
    run(tmp_path, Work())
    path = min(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:40])
    again = Work()
    assert len(run(tmp_path, again)) == 4 and len(again.done) == 1


def test_processes_share_the_parts(tmp_path):
    one, other = Work(), Work()
    assert run(tmp_path, other, shard=Shard(1, 2)) == []
    records = run(tmp_path, one, shard=Shard(0, 2))
    assert one.done == [0, 2] and other.done == [1, 3]
    assert joined(records)["index"].tolist() == list(range(8))


def test_a_folder_that_is_not_shared_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="all processes need the same folder"):
        run(tmp_path, Work(), shard=Shard(0, 2))


def test_joining_passes_over_what_a_part_lacks():
    assert joined([{"a": torch.ones(1)}, {"index": torch.ones(0)}])["a"].tolist() == [1.0]
    assert joined([]) == {}
