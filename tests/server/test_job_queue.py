"""The queue: order, progress, cancelling, errors, waiting, limits."""

import threading
import time

import pytest

from studio.server import job_queue
from studio.server.job_queue import JobQueue, QueueFull
from studio.server.jobs import Job, Picture


@pytest.fixture
def queue():
    made = JobQueue()
    yield made
    made.close()


@pytest.fixture
def gate(queue):
    """Keeps the queue's thread busy until it is opened."""
    opened, started = threading.Event(), threading.Event()

    def wait(job):
        started.set()
        while not opened.wait(0.01):
            job.check()

    queue.submit(Job(wait, kind="gate", title="gate"))
    assert started.wait(10)
    yield opened
    opened.set()


def job_of(work, **options):
    return Job(work, kind="test", title="a test", **options)


def test_a_job_runs_reports_and_gives_its_value(queue):
    def work(job):
        job.report(0.5, "half way")
        job.show([Picture("image/png", b"x")])
        job.add_result("one")
        return 42

    job = queue.submit(job_of(work))
    end = job.wait(timeout=10)
    assert (end.state, end.share, end.results, job.value) == ("done", 1.0, ("one",), 42)
    assert end.previews == () and end.error is None and end.version >= 4
    assert queue.get(job.id) is job and queue.get("nothing") is None
    assert end.to_dict()["progress"] == 1.0


def test_every_change_can_be_waited_for(queue):
    step = threading.Semaphore(0)

    def work(job):
        for i in range(1, 4):
            step.acquire()
            job.report(i / 4)

    job, seen = queue.submit(job_of(work)), []
    snapshot = job.snapshot()
    while not snapshot.finished:
        step.release()
        snapshot = job.wait(snapshot.version, timeout=10)
        seen.append(snapshot.share)
    assert seen == sorted(seen) and len(set(seen)) > 2 and seen[-1] == 1.0


def test_the_time_that_is_left_is_told_from_the_share(queue):
    def work(job):
        job.report(0.0)
        time.sleep(0.2)
        job.report(0.5)
        told.append(job.snapshot().left)

    told = []
    queue.submit(job_of(work)).wait(timeout=10)
    assert 0.1 < told[0] < 1.0


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("prompt is\n missing"), "prompt is missing"),
        (OSError("no space"), "no space"),
        (KeyError("x"), "something went wrong here (KeyError)"),
        (RuntimeError("out of memory"), "there is not enough memory"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_errors_stay_with_the_job(queue, error, shown):
    def work(job):
        raise error

    end = queue.submit(job_of(work)).wait(timeout=10)
    assert end.state == "failed" and end.error.startswith(shown) and "\n" not in end.error
    assert queue.submit(job_of(lambda job: 1)).wait(timeout=10).state == "done"


def test_a_waiting_job_is_cancelled_at_once(queue, gate):
    ran = []
    job = queue.submit(job_of(ran.append))
    assert queue.cancel(job.id) and job.state == "cancelled"
    assert not queue.cancel(job.id) and not queue.cancel("nothing")
    gate.set()
    queue.submit(job_of(lambda job: 1)).wait(timeout=10)
    assert ran == []


def test_a_running_job_is_cancelled_within_a_step(queue):
    started = threading.Event()

    def work(job):
        while True:
            started.set()
            job.report(0.5)
            time.sleep(0.01)

    job = queue.submit(job_of(work))
    assert started.wait(10)
    asked = time.monotonic()
    assert queue.cancel(job.id)
    assert job.wait(timeout=10).state == "cancelled" and time.monotonic() - asked < 2


def test_owners_take_turns_and_urgent_jobs_go_first(queue, gate):
    ran = []

    def add(name, **options):
        return queue.submit(job_of(lambda job: ran.append(name), **options))

    made = [add(f"ann{i}", owner="ann") for i in range(3)]
    made += [add("ben", owner="ben"), add("slider", owner="ann", urgent=True)]
    assert [queue.ahead(job.id) for job in made] == [3, 4, 5, 2, 1]  # the slider was ann's turn
    gate.set()
    for job in made:
        job.wait(timeout=10)
    assert ran == ["slider", "ben", "ann0", "ann1", "ann2"]


def test_the_queue_is_bounded(queue, gate, monkeypatch):
    monkeypatch.setattr(job_queue, "MAX_OWNED", 2)
    monkeypatch.setattr(job_queue, "MAX_QUEUED", 4)
    for owner in ("ann", "ann", "ben", "ben"):
        if owner == "ben" and len(queue.jobs()) == 3:
            with pytest.raises(QueueFull, match="2 jobs wait already"):
                queue.submit(job_of(len, owner="ann"))
        queue.submit(job_of(len, owner=owner))
    with pytest.raises(QueueFull, match="4 jobs wait"):
        queue.submit(job_of(len, owner="cid"))


def test_old_jobs_are_forgotten_and_their_values_before_that(queue, monkeypatch):
    monkeypatch.setattr(job_queue, "_KEPT", 4)
    monkeypatch.setattr(job_queue, "_VALUES", 2)
    made = []
    for i in range(8):
        made.append(queue.submit(job_of(lambda job, i=i: i)))
        made[-1].wait(timeout=10)
    assert len(queue.jobs()) <= 6 and queue.get(made[0].id) is None
    assert made[-1].value == 7 and made[3].value is None


def test_small_steps_do_not_cost_the_value_that_they_belong_to(queue, monkeypatch):
    monkeypatch.setattr(job_queue, "_KEPT", 6)
    monkeypatch.setattr(job_queue, "_VALUES", 2)

    def done(**options):
        job = queue.submit(job_of(lambda job: "value", **options))
        assert job.wait(timeout=10).state == "done"
        return job

    comparison, made = done(), done(owner="api")
    steps = [done(urgent=True) for _ in range(3)]
    for _ in range(20):  # somebody drags a slider
        steps.append(done(urgent=True))
        assert steps[-1].value == "value"
    assert queue.get(comparison.id) is comparison and comparison.value == "value"
    assert queue.get(made.id) is made and len(queue.jobs()) <= 7
    done()
    assert steps[-1].value is None and steps[1].value == steps[2].value == "value"
    assert steps[0].value is None  # nobody asked for it, and others came
    done()
    assert comparison.value == "value" and made.value is None  # it was looked at last


def test_places_of_a_long_queue_cost_little(queue, gate):
    jobs = [queue.submit(job_of(len, owner=f"owner {i % 5}")) for i in range(200)]
    start = time.monotonic()
    assert [queue.ahead(job.id) for job in jobs] == list(range(1, 201))
    queue.cancel(jobs[0].id)
    assert queue.ahead(jobs[5].id) == 5 and time.monotonic() - start < 1


def test_closing_cancels_everything(gate, queue):
    job = queue.submit(job_of(lambda job: 1))
    queue.close()
    assert job.state == "cancelled"
    with pytest.raises(QueueFull, match="closing"):
        queue.submit(job_of(lambda job: 1))


def test_a_worker_that_can_not_prepare_itself_works_all_the_same(caplog):
    def broken():
        raise RuntimeError("no")

    queue = JobQueue(first=broken)
    assert queue.submit(job_of(lambda job: 1)).wait(timeout=10).state == "done"
    queue.close()
    assert "could not prepare" in caplog.text
