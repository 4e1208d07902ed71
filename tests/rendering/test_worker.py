"""One worker, in this process: results as if made alone, jobs that fail, memory that is too
small."""

import dataclasses
import json
import shutil

import pytest

from studio.media.metadata import read_request
from studio.rendering.jobs import read_grid, read_jobs
from studio.rendering.plan import Plan, make_plan
from studio.rendering.worker import Models, Options, Worker, store_of, work

LINES = [
    {"prompt": "red apple", "seed": 3},
    {"prompt": "rocket", "count": 3},
    {"prompt": "blue apple", "seed": 5, "guidance_scale": 2, "output": "blue"},
    {"prompt": "blue apple", "seed": 5, "num_tokens": 4, "output": "few.webp"},
    {"prompt": "red apple", "seed": 4},
]


@pytest.fixture
def options_of(tmp_path):
    """`options_of(plan)` opens a store and gives a worker's options."""

    def prepare(plan, **more):
        options = Options(folder=str(tmp_path / "out"), plan="", device="cpu", **more)
        store = store_of(plan, options)
        store.open()
        path = plan.write(tmp_path / "plans")
        store.close()
        return dataclasses.replace(options, plan=str(path))

    return prepare


@pytest.fixture
def alone(tiny_model, tmp_path):
    """`alone(job)` is the file of a job made by a call of its own."""
    import studio
    from studio.media.image import write_image

    pipe = studio.Pipeline.from_pretrained(str(tiny_model))
    pipe.set_progress_bar_config(disable=True)

    def make(job):
        (image,) = pipe(**job.request.arguments(pipe)).images
        return write_image(tmp_path / "alone" / job.output, image, job.request.to_dict())

    return make


def test_results_are_those_of_single_calls(options_of, alone, jobs_file, tiny_model, tmp_path):
    plan = make_plan(read_jobs(jobs_file(LINES)), models=[str(tiny_model)])
    assert work(options_of(plan)) == 7
    for job in plan.jobs:
        path = tmp_path / "out" / job.output
        assert path.read_bytes() == alone(job).read_bytes(), job
        assert read_request(path) == job.request.to_dict()
    left = [p for p in (tmp_path / "out" / ".studio").rglob("*") if p.is_file()]
    assert {p.parent.parent.name for p in left} == {"done"} and len(left) == 7
    assert work(options_of(plan)) == 0


def test_a_poison_job_fails_and_holds_up_nobody(options_of, jobs_file, tiny_model, tmp_path):
    lines = [{"prompt": f"rocket {i}", "seed": i} for i in range(5)]
    lines.insert(2, {"prompt": "rocket", "num_tokens": 9, "output": "poison"})
    plan = make_plan(read_jobs(jobs_file(lines)), models=[str(tiny_model)])
    assert work(options_of(plan)) == 5
    (path,) = (tmp_path / "out" / "failed").iterdir()
    told = json.loads(path.read_text())
    assert told["error"].startswith("ValueError: num_tokens 9 must be a whole number from 1 to 8")
    assert told["output"] == "poison.png" and told["place"] == "jobs.jsonl line 3"
    assert len(told["attempts"]) == 3 and "Traceback" in told["traceback"][0]
    assert told["request"]["num_tokens"] == 9


def test_one_bad_job_in_a_batch_spoils_only_itself(options_of, tiny_model, tmp_path, monkeypatch):
    """An option that the pipeline refuses spoils its group; here one job of a call does."""
    plan = make_plan(read_grid(["prompt=a,poison,c", "seed=0..3"]), models=[str(tiny_model)])
    calls = failing(monkeypatch, lambda jobs: any(j.request.prompt == "poison" for j in jobs))
    assert work(options_of(plan)) == 8
    assert len(list((tmp_path / "out" / "failed").iterdir())) == 4
    assert sum(count > 1 for count, _ in calls) > 0


def failing(monkeypatch, wrong, error=None):
    """Makes calls fail whose jobs `wrong` says so of; the list that all calls are noted in."""
    make, calls = Models.make, []

    def make_or_fail(self, jobs):
        bad = wrong(jobs)
        calls.append((len(jobs), bad))
        if bad:
            raise error or ValueError("spoiled")
        return make(self, jobs)

    monkeypatch.setattr(Models, "make", make_or_fail)
    return calls


def test_out_of_memory_halves_and_goes_on(options_of, tiny_model, tmp_path, monkeypatch):
    plan = make_plan(read_grid(["prompt=a", "seed=0..15"]), models=[str(tiny_model)])
    monkeypatch.setattr("studio.rendering.batching._PAYS", float("inf"))
    calls = failing(monkeypatch, lambda jobs: len(jobs) > 2, RuntimeError("CUDA out of memory"))
    assert work(options_of(plan)) == 16
    assert calls == [(1, False), (2, False), (4, True), *[(2, False)] * 6, (1, False)]
    assert not (tmp_path / "out" / "failed").exists()


def test_a_job_that_is_too_large_alone_fails(options_of, tiny_model, monkeypatch):
    plan = make_plan(read_grid(["prompt=a", "seed=0..1"]), models=[str(tiny_model)])
    failing(monkeypatch, lambda jobs: True, MemoryError("too large"))
    options = options_of(plan, attempts=2)
    assert work(options) == 0
    store = store_of(plan, options)
    assert store.refresh().failed == 2
    assert "MemoryError: too large" in store.failure(plan.jobs[0].key)["error"]


def test_a_model_that_can_not_be_loaded(options_of, tiny_model, tmp_path):
    """Its jobs fail, those of the other model are made."""
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    plan = make_plan(
        read_grid(["prompt=a", "model=tiny,broken", "seed=0..2"]),
        models=[str(tiny_model), str(broken)],
    )
    (broken / "decoding" / "decoding_config.json").write_text("{}")
    options = options_of(plan)
    assert work(options) == 3
    store = store_of(plan, options)
    assert store.refresh().failed == 3
    failed = [job for job in plan.jobs if job.key in store.failed]
    assert {job.request.model for job in failed} == {"broken"}
    assert "was changed" in store.failure(failed[0].key)["error"]


def test_a_model_that_can_not_be_loaded_for_a_while(options_of, tiny_model, monkeypatch):
    """The next job tries again."""
    plan = make_plan(read_grid(["prompt=a", "seed=0..3"]), models=[str(tiny_model)])
    load, asked = Models._load, []

    def away_at_first(self, job, folder):
        asked.append(job)
        if len(asked) == 1:
            raise OSError("the share is away")
        return load(self, job, folder)

    monkeypatch.setattr(Models, "_load", away_at_first)
    assert work(options_of(plan)) == 4 and len(asked) == 2


def test_what_stands_in_the_way_fails_one_job(options_of, tiny_model, tmp_path):
    plan = make_plan(read_grid(["prompt=a,b", "seed=1"]), models=[str(tiny_model)])
    options = options_of(plan)
    (tmp_path / "out" / plan.jobs[0].output).mkdir()
    assert work(options) == 1
    store = store_of(plan, options)
    store.refresh()
    assert "is another file's" in store.failure(plan.jobs[0].key)["error"]


def test_groups_of_a_loaded_model_come_first(options_of, tiny_model, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    jobs = read_grid(["prompt=a", "num_tokens=4,8", "model=tiny,other"])
    plan = make_plan(jobs, models=[str(tiny_model), str(other)])
    options = options_of(plan)
    firsts = []
    for index in (0, 1):
        store = store_of(plan, options)
        worker = Worker(plan, store, dataclasses.replace(options, index=index, workers=2))
        worker._models.loaded = plan.jobs[index].model
        groups = [worker._groups[group][0] for group in worker._order()]
        firsts.append([job.request.model for job in groups])
        store.close()
    assert firsts == [["tiny"] * 2 + ["other"] * 2, ["other"] * 2 + ["tiny"] * 2]


def test_a_plan_that_is_none(options_of, tiny_model, tmp_path):
    (tmp_path / "no").write_text("x")
    with pytest.raises(ValueError, match="is no plan"):
        work(Options(folder=str(tmp_path), plan=str(tmp_path / "no")))
    with pytest.raises(ValueError, match="torch finds no such device here"):
        plan = make_plan(read_grid(["prompt=a"]), models=[str(tiny_model)])
        work(dataclasses.replace(options_of(plan), device="mps"))
    assert isinstance(plan, Plan)
