"""Workers in processes of their own, on the toy model: killed, replaced, stopped; results that do
not tell who made them."""

import dataclasses
import multiprocessing
import time
from pathlib import Path

import pytest

from studio.rendering.engines import Deaths, EngineError, LocalEngine, answer_of, raise_answer
from studio.rendering.jobs import read_grid
from studio.rendering.plan import make_plan
from studio.rendering.render import Speed, render
from studio.rendering.worker import DiskError, Options, store_of, work
from tests.rendering import crashing
from tests.rendering.killing import is_alive, kill

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)


@pytest.fixture
def batch(tiny_model, tmp_path):
    """`batch("prompt=a", "seed=0..9")` gives a plan, its store and options."""
    stores = []

    def prepare(*axes, name="out", **more):
        plan = make_plan(read_grid(axes), models=[str(tiny_model)])
        folder = tmp_path / name
        options = Options(folder=str(folder), plan="", device="cpu", **more)
        store = store_of(plan, options)
        store.open()
        store.prepare()
        stores.append(store)
        path = plan.write(tmp_path / "plans")
        return plan, store, dataclasses.replace(options, plan=str(path))

    yield prepare
    for store in stores:
        store.close()


def pictures(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.png")}


def test_killed_workers_lose_and_double_nothing(batch):
    """Two processes, killed again and again, leave what one alone makes."""
    axes = ("prompt=red apple,rocket", "seed=0..19")
    plan, store, options = batch(*axes, name="killed", batch=4)
    engine = LocalEngine(options, 2)
    killed, seen = [], 0

    def shoot(progress):
        nonlocal seen
        settled = progress.counts.done
        if settled > seen and len(killed) < 4:  # at work
            seen = settled
            killed.append(engine.pids[len(killed) % 2])
            kill(killed[-1])

    summary = render(plan, store, engine, on_progress=shoot, look_seconds=0.05)
    assert len(killed) >= 2 and engine.pids == []
    assert summary.counts.done == 40 and summary.counts.failed == 0 and summary.made == 40
    assert sum(store.record(job.key)["attempt"] for job in plan.jobs) >= 40
    plan, store, options = batch(*axes, name="alone")
    assert work(dataclasses.replace(options, batch=1)) == 40
    assert pictures(options.folder) == pictures(Path(options.folder).parent / "killed")
    hidden = Path(options.folder).parent / "killed" / ".studio"
    assert not [p for p in (hidden / "leases").iterdir() if "clock" not in p.name]


def test_a_job_that_kills_its_worker_fails(batch, monkeypatch):
    """Its neighbours in a batch are made, and it is given up after three attempts alone."""
    plan, store, options = batch("prompt=a,poison,c", "seed=0..2", batch=2)
    monkeypatch.setattr("studio.rendering.engines._run", crashing.run)
    summary = render(plan, store, LocalEngine(options, 2), look_seconds=0.05)
    assert summary.counts.done == 6 and summary.counts.failed == 3
    poison = [job.key for job in plan.jobs if job.request.prompt == "poison"]
    assert [failure["key"] for failure in summary.failures] == poison
    for failure in summary.failures:
        assert failure["error"] == "the worker died" and failure["place"].startswith("--grid cell")
        assert 3 <= len(failure["attempts"]) <= 4  # the first may have been with others


def test_workers_end_when_they_are_told_to(batch):
    """What they hold goes back."""
    _, store, options = batch("prompt=a,b", "seed=0..499")
    engine = LocalEngine(options, 2)
    engine.start()
    pids = engine.pids
    end = time.monotonic() + 60
    while store.refresh().done < 2 and time.monotonic() < end:
        time.sleep(0.05)
    engine.stop()
    counts = store.refresh()
    assert 2 <= counts.done < 1000 and counts.running == 0
    assert all(store.is_open(key) for key in store.jobs if key not in store.done)
    assert not any(is_alive(pid) for pid in pids)


def test_workers_that_only_die_are_given_up(batch, monkeypatch):
    _, _, options = batch("prompt=a", "seed=0..1")
    engine = LocalEngine(options, 1)
    monkeypatch.setattr(engine._deaths, "_allowed", 2)
    monkeypatch.setattr("studio.rendering.engines._run", crashing.die)
    with pytest.raises(EngineError, match=r"3 workers in a row died .*: exit code -9"):
        engine.start()
        while True:
            engine.tend(0)
            time.sleep(0.02)
    engine.stop()


def test_what_a_worker_ends_with_reaches_the_command(batch):
    _, _, options = batch("prompt=a", "seed=0..1")
    cases = [
        (DiskError("cannot write 'x'"), DiskError, "cannot write 'x'"),
        (ValueError("--device"), ValueError, "--device"),
        (KeyError("x"), EngineError, "a worker stopped: KeyError: 'x'"),
    ]
    for error, kind, words in cases:

        def fail(error=error):
            raise error

        with pytest.raises(kind, match=words):
            raise_answer(answer_of(fail))
    raise_answer(answer_of(lambda: None))
    engine = LocalEngine(dataclasses.replace(options, plan="nowhere"), 1)
    engine.start()
    with pytest.raises(EngineError, match="FileNotFoundError"):
        while engine.tend(0):
            time.sleep(0.02)
    engine.stop()


def test_deaths_count_since_the_last_job():
    deaths = Deaths(1)
    for settled in range(100):
        deaths.died(settled, "x")
    with pytest.raises(EngineError):
        for _ in range(80):
            deaths.died(99, "x")


def test_seconds_left():
    speed = Speed()
    assert speed.left(0.0, 10, 100) is None and speed.left(1.0, 10, 100) is None
    assert speed.left(2.0, 20, 100) == 16.0 - 0.0
    assert speed.left(100.0, 100, 100) == 0.0
    late = Speed()
    for second in range(200):
        left = late.left(float(second), second // 10, 100)
    assert 780 <= left <= 850, "it is the speed of the last minute that counts"
