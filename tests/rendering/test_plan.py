"""Plans: keys, seeds and names that are the same in every run, clashes that are refused."""

import json
import shutil

import pytest

from studio import hub
from studio.rendering.jobs import read_grid, read_jobs
from studio.rendering.plan import Plan, make_plan
from studio.rendering.worker import Models, Options


@pytest.fixture
def planned(jobs_file, tiny_model):
    def plan(lines, **options):
        return make_plan(read_jobs(jobs_file(lines)), models=[str(tiny_model)], **options)

    return plan


def test_a_plan_is_the_same_in_every_run(planned, tiny_model):
    lines = [{"prompt": "red apple"}, {"prompt": "red apple"}, {"prompt": "b", "seed": 3}]
    plan = planned(lines)
    assert plan == planned(lines)
    first, second, third = plan.jobs
    assert len({job.key for job in plan.jobs}) == 3
    assert first.request.seed != second.request.seed and third.request.seed == 3
    assert first.request.model == "tiny" and len(first.request.revision) == 12
    assert first.output.startswith("red-apple-") and first.output.endswith(".png")
    assert plan.folder(first) == str(tiny_model)


def test_lines_may_be_moved_and_added(planned):
    lines = [{"prompt": p} for p in ("a", "b", "a")]
    keys = {job.key for job in planned(lines).jobs}
    more = {job.key for job in planned([{"prompt": "c"}, *reversed(lines)]).jobs}
    assert keys < more and len(more) == 4


def test_equal_lines_are_two_jobs(planned):
    line = {"prompt": "a", "seed": 1, "output": "x"}
    plan = planned([line, line, {**line, "output": "y"}])
    assert [job.output for job in plan.jobs] == ["x.png", "x-copy2.png", "y.png"]
    assert len({job.key for job in plan.jobs}) == 3
    bare = planned([{"prompt": "a", "seed": 1}] * 2)
    assert len({job.output for job in bare.jobs}) == 2


def test_counts_become_single_results(planned):
    plan = planned([{"prompt": "a", "seed": 5, "count": 3, "output": "f/x.webp"}])
    assert [job.output for job in plan.jobs] == ["f/x-0.webp", "f/x-1.webp", "f/x-2.webp"]
    assert [job.request.seed for job in plan.jobs] == [5, 6, 7]
    assert {job.request.count for job in plan.jobs} == {1}
    (alone,) = planned([{"prompt": "a", "seed": 6, "output": "f/x-1.webp"}]).jobs
    assert alone.key == plan.jobs[1].key


def test_the_format_is_part_of_the_key(planned):
    (png,), (webp,) = (planned([{"prompt": "a"}], suffix=s).jobs for s in (".png", ".webp"))
    assert png.key != webp.key and webp.output.endswith(".webp")
    with pytest.raises(ValueError, match=r"--format '.gif' must be one of .png"):
        planned([{"prompt": "a"}], suffix=".gif")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("x", "x.png", "line 2: output 'x.png' is that of jobs.jsonl line 1 already"),
        ("x", "X.PNG", "line 2: output 'X.PNG' is that of"),
        ("Straße", "strasse", "line 2: output 'strasse.png' is that of"),
        ("x.png", "x.png/y", "needs a folder where jobs.jsonl line 1 wants a file"),
    ],
)
def test_clashing_names(planned, first, second, message):
    with pytest.raises(ValueError) as error:
        planned([{"prompt": "a", "output": first}, {"prompt": "b", "output": second}])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a", "model": "nope"}, "model 'nope' is no bundled name"),
        ({"seed": 1}, "prompt is missing: model 'tiny' needs one"),
        ({"prompt": "a", "revision": "abc"}, "revision 'abc': the model 'tiny' here is "),
        ({"class_label": 1}, "prompt is missing"),
    ],
)
def test_models_that_do_not_fit(planned, line, message):
    with pytest.raises(ValueError, match=r"^jobs.jsonl line 2: ") as error:
        planned([{"prompt": "a"}, line])
    assert message in str(error.value)


def test_several_models(tiny_model, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    config = json.loads((other / "decoding" / "decoding_config.json").read_text())
    (other / "decoding" / "decoding_config.json").write_text(json.dumps({**config, "top_k": 5}))
    jobs = read_grid(["prompt=a,b", "model=tiny,other"])
    plan = make_plan(jobs, models=[str(tiny_model), str(other)])
    assert len({job.request.revision for job in plan.jobs}) == 2
    assert [plan.folder(job) for job in plan.jobs] == [str(tiny_model), str(other)] * 2
    assert len({job.model for job in plan.jobs}) == len({job.group for job in plan.jobs}) == 2
    shutil.copytree(tiny_model, tmp_path / "deep" / "tiny")
    with pytest.raises(ValueError, match="another model is called tiny"):
        make_plan(jobs, models=[str(tiny_model), str(tmp_path / "deep" / "tiny")])


def test_a_bundled_model_is_found_where_the_package_is(tiny_model, tmp_path, monkeypatch):
    """A node of a cluster has it elsewhere than the machine that made the plan."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny_model, here / "tiny")
    monkeypatch.setattr(hub, "PRETRAINED", here)
    plan = make_plan(read_grid(["prompt=a", "model=tiny"]))
    (job,) = plan.jobs
    assert plan.folder(job) == str(here / "tiny")
    here.rename(there)
    assert plan.folder(job) == str(here / "tiny")  # none is bundled: loading it will say so
    monkeypatch.setattr(hub, "PRETRAINED", there)
    assert plan.folder(job) == str(there / "tiny")
    models = Models(Options(str(tmp_path), "", device="cpu"))
    models.try_load(job, plan.folder(job))
    assert models.make([job])
    config = there / "tiny" / "decoding" / "decoding_config.json"
    config.write_text(config.read_text().replace("{", '{"top_k": 5,', 1))
    models = Models(Options(str(tmp_path), "", device="cpu"))
    models.try_load(job, plan.folder(job))
    with pytest.raises(ValueError, match="is not .* any more"):
        models.make([job])


def test_jobs_of_one_call_have_one_group(planned):
    jobs = planned(
        [
            {"prompt": "a", "seed": 1},
            {"prompt": "b", "seed": 2},
            {"prompt": "a", "seed": 1, "guidance_scale": 2},
            {"prompt": "a", "num_tokens": 4},
        ]
    ).jobs
    assert jobs[0].group == jobs[1].group and len({job.group for job in jobs}) == 3


def test_a_plan_is_a_file(planned, tmp_path):
    plan = planned([{"prompt": "苹果", "count": 2}])
    path = plan.write(tmp_path / "plans")
    assert plan.write(tmp_path / "plans") == path and Plan.read(path) == plan
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="is no plan"):
        Plan.read(path)
