"""Lines of lease files on a disk that is nearly full: whole, or not there."""

import json
import resource
from contextlib import contextmanager

import pytest

from studio.rendering.leases import Leases, _write_new, read_line
from studio.rendering.owners import Heartbeat

RECORD = {"file": "a.png", "note": "x" * 3000}


@contextmanager
def files_of_at_most(size):
    """The system takes what fits and says so, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def leases(tmp_path):
    made = Leases(tmp_path, seconds=60, heartbeat=Heartbeat(10))
    made.now()
    yield made
    made.close()


def test_half_a_record_is_none(leases, tmp_path):
    lease = leases.claim("k", 1, alone=True)
    before = lease.path.read_bytes()
    with files_of_at_most(len(before) + 1000), pytest.raises(OSError):
        leases.finish(lease, RECORD, tmp_path / "done")
    assert lease.path.read_bytes() == before and not (tmp_path / "done").exists()
    assert leases.finish(lease, RECORD, tmp_path / "done")
    assert read_line(tmp_path / "done", -1)["note"] == RECORD["note"]
    assert [json.loads(line) for line in (tmp_path / "done").read_bytes().splitlines()]


def test_half_a_claim_is_none(leases):
    with files_of_at_most(10), pytest.raises(OSError):
        leases.claim("k", 1, alone=True)
    assert not leases.path("k", 1).exists()


def test_half_a_file_is_none(tmp_path):
    with files_of_at_most(1000), pytest.raises(OSError):
        _write_new(tmp_path / "done", RECORD)
    assert not (tmp_path / "done").exists()
    assert _write_new(tmp_path / "done", RECORD) and not _write_new(tmp_path / "done", RECORD)
