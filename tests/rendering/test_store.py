"""The store: each job once whatever happens, attempts, what the dead leave, what it costs."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from studio.rendering.store import Counts
from tests.rendering.texts import make, text_jobs

A, B, C = list(text_jobs(3))


def results(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".txt")


def temporary_files(store):
    return list((store.folder / ".studio" / "tmp").iterdir())


def test_a_job_is_done_once(store_of):
    store = store_of()
    assert store.refresh() == Counts(total=3, done=0, failed=0, running=0)
    lease = store.claim(A)
    assert store.refresh() == Counts(3, 0, 0, 1) and store.claim(A) is None
    assert make(store, lease) is True
    assert store.refresh() == Counts(3, 1, 0, 0) and store.claim(A) is None
    assert results(store.folder) == ["0.txt"] and store.record(A)["attempt"] == 1
    assert temporary_files(store) == [] and not lease.path.exists()


def test_two_processes_never_take_the_same(store_of):
    first, second = store_of(), store_of()
    lease = first.claim(A)
    assert second.claim(A) is None and not second.is_open(A)
    make(first, lease)
    third = store_of()  # it looked before ...
    third.done.clear()
    assert third.claim(A) is None and third.refresh().done == 1  # ... and sees it when it claims


def test_a_released_job_is_open_again(store_of):
    first, second = store_of(), store_of()
    first.release(first.claim(A))
    lease = second.claim(A)
    assert lease.number == 1 and make(second, lease)


def test_an_error_is_tried_again_and_then_given_up(store_of):
    store = store_of(attempts=3)
    for number in (1, 2, 3):
        lease = store.claim(A)
        assert lease.number == number
        assert store.fail(lease, f"error {number}", "Traceback\n  line") is (number == 3)
        assert store.is_retry(A) is (number < 3)
    assert store.claim(A) is None and store.refresh() == Counts(3, 0, 1, 0)
    told = json.loads((store.folder / "failed" / f"{A}.json").read_text())
    assert told["error"] == "error 3" and told["traceback"] == ["Traceback", "  line"]
    assert [attempt["error"] for attempt in told["attempts"]] == ["error 1", "error 2", "error 3"]
    assert told["output"] == "0.txt" and store_of().refresh().failed == 1
    assert not list((store.folder / ".studio" / "leases").glob(f"{A}*"))


def test_a_second_attempt_may_succeed(store_of):
    store = store_of()
    store.fail(store.claim(A), "bad luck", "")
    assert store.claim(A, alone=False) is None  # what went wrong once is tried alone
    assert make(store, store.claim(A)) and store.refresh() == Counts(3, 1, 0, 0)
    assert store.record(A)["attempt"] == 2
    assert not list((store.folder / ".studio" / "leases").glob(f"{A}*"))


def crash(store, key, *, alone, point="claim"):
    """A process of its own that is killed while it holds a job; what it left is stamped as it
    would be."""
    code = f"""
import os, sys
from tests.rendering.texts import text_jobs, make
from studio.rendering.store import Store
store = Store({str(store.folder)!r}, text_jobs(3))
store.refresh()
lease = store.claim({key!r}, alone={alone})
assert lease is not None
if {point!r} == "before":
    store.temporary({key!r}, ".txt").write_text("half")
if {point!r} == "between":
    store.leases.finish = lambda *_: os.kill(os.getpid(), 9)
    make(store, lease)
if {point!r} == "after":
    store.leases.release = lambda *_: os.kill(os.getpid(), 9)
    make(store, lease)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize("point", ["claim", "before", "between", "after"])
def test_a_kill_at_any_point_loses_and_doubles_nothing(store_of, point):
    store = store_of()
    crash(store, A, alone=False, point=point)
    store.refresh()
    if point == "after":
        assert A in store.done and not store.is_retry(A)
    else:
        assert store.is_retry(A), "its process is known to be dead at once"
        lease = store.claim(A)
        assert lease.number == 2 and make(store, lease)
    assert results(store.folder) == ["0.txt"] and store.refresh() == Counts(3, 1, 0, 0)
    time.sleep(2.1 if point in ("before", "between") else 0)
    store.sweep()
    assert temporary_files(store) == []
    assert not list((store.folder / ".studio" / "leases").glob(f"{A}*"))


def test_crashes_alone_count_and_those_in_a_batch_do_not(store_of):
    store = store_of(attempts=2)
    crash(store, A, alone=False)
    crash(store, A, alone=True)
    assert store.refresh().failed == 0
    crash(store, A, alone=True)
    assert store.refresh() == Counts(3, 0, 1, 0)
    assert store.failure(A)["error"] == "the worker died"
    assert len(store.failure(A)["attempts"]) == 3


def test_a_run_forgets_the_crashes_of_earlier_ones(store_of):
    store = store_of(attempts=2)
    store.fail(store.claim(A), "an error", "")
    crash(store, A, alone=True)
    crash(store, B, alone=True)
    crash(store, B, alone=True)
    again = store_of(attempts=2)
    # `refresh` of another process gave B up before; it is wanted again on request only.
    again.prepare()
    assert again.refresh() == Counts(3, 0, 2, 0)
    again.prepare(retry_failed=True)
    assert again.refresh() == Counts(3, 0, 0, 0) and again.is_open(A) and again.is_open(B)


def test_prepare_takes_crashes_back_before_they_count(tmp_path):
    from studio.rendering.store import Store

    store = Store(tmp_path, text_jobs(3), attempts=1)
    store.open()
    crash(store, A, alone=True)
    store.prepare()
    assert store.refresh() == Counts(3, 0, 0, 0) and store.claim(A).number == 1
    store.close()


def test_a_lease_that_is_not_renewed_ends(store_of):
    """The owner is on another machine, as far as can be told."""
    store = store_of(lease_seconds=0.4)
    lease = store.claim(A)
    told = json.loads(lease.path.read_text())
    lease.path.write_text(json.dumps({**told, "owner": {**told["owner"], "machine": "other"}}))
    other = store_of(lease_seconds=0.4)
    time.sleep(1.0)
    assert other.refresh().running == 1, "the heartbeat renews it"
    store.leases.heartbeat.stop()
    time.sleep(1.0)
    assert other.refresh().running == 0 and other.is_retry(A)
    # The sleeper comes back after another has done its job: nothing is doubled, nothing breaks.
    second = other.claim(A)
    assert make(other, second, "the same") is True
    assert make(store, lease, "the same") is False
    assert results(store.folder) == ["0.txt"] and store.refresh() == Counts(3, 1, 0, 0)


def test_a_sleeper_s_result_outweighs_a_failure(store_of):
    """The job was given up while its worker slept; the failure goes when it publishes."""
    sleeper, other = store_of(lease_seconds=0.2), store_of(lease_seconds=0.2, attempts=1)
    lease = sleeper.claim(A)
    told = json.loads(lease.path.read_text())
    lease.path.write_text(json.dumps({**told, "owner": {**told["owner"], "machine": "other"}}))
    sleeper.leases.heartbeat.stop()
    time.sleep(0.5)
    assert other.refresh().failed == 1
    assert make(sleeper, lease) and other.refresh() == Counts(3, 1, 0, 0)
    assert not list((other.folder / "failed").iterdir())


def test_the_clock_of_the_file_system_counts(store_of, monkeypatch):
    store = store_of()
    lease = store.claim(A)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert store_of().refresh().running == 1
    os.utime(lease.path, (0, 0))
    assert store_of().refresh().running == 0


def test_another_file_of_that_name_is_kept(store_of):
    store = store_of()
    lease = store.claim(A)
    (store.folder / "0.txt").write_text("somebody's own")
    with pytest.raises(FileExistsError, match=r"output '0.txt' is another file's"):
        make(store, lease)
    assert (store.folder / "0.txt").read_text() == "somebody's own"
    assert temporary_files(store) == []
    with pytest.raises(ValueError, match="'0.txt' is in .* already and was not made by this job"):
        store_of().prepare()


def test_a_deleted_result_is_wanted_again(store_of):
    store = store_of()
    make(store, store.claim(A))
    (store.folder / "0.txt").unlink()
    again = store_of()
    again.prepare()
    assert again.is_open(A) and make(again, again.claim(A))


def test_jobs_of_other_plans_are_left_alone(store_of):
    large, small = store_of(3), store_of(1)
    large.fail(large.claim(C), "an error", "")
    make(large, large.claim(B))
    small.prepare()
    assert small.refresh() == Counts(1, 0, 0, 0)
    assert large.refresh() == Counts(3, 1, 0, 0) and large.is_retry(C)


def test_folders_that_can_not_be_used(tmp_path):
    from studio.rendering.store import Store

    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot write into '.*file': "):
        Store(tmp_path / "file", {}).open()


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_store_costs_little(tmp_path, count):
    """Looking, claiming, publishing and recording; what a result costs to make and to bring to the
    disk (its fsync) is not the store's."""
    from studio.rendering.store import Store

    store = Store(tmp_path, text_jobs(count))
    store.open()
    store.prepare()
    started, spent, tenths = time.perf_counter(), time.process_time(), []
    for number, key in enumerate(store.jobs):
        if number % (count // 10) == 0:
            store.refresh()
            tenths.append(time.perf_counter())
        assert make(store, store.claim(key), "x")
    counts = store.refresh()
    ended, processor = time.perf_counter(), time.process_time() - spent
    store.close()
    assert counts == Counts(count, count, 0, 0) and len(tenths) == 10
    each, busy = (ended - started) / count * 1e3, processor / count * 1e3
    # The median: what others do to the disk for a while is not the store's.
    usual = float(np.median(np.diff([*tenths, ended]))) / (count // 10) * 1e3
    print(f"{each:.2f} ms a job, {usual:.2f} ms usually, {busy:.2f} ms on the processor")
    assert busy < 5 and usual < 5, f"{each:.1f} ms a job, {usual:.1f} ms usually"
