"""`studio render`: a batch made, resumed and killed; failures told; wrong calls refused."""

import json
import logging
import multiprocessing
import os
import random
import re
import time

import pytest

from studio.media.metadata import read_request
from studio.rendering.media import recorded_request
from tests.rendering.killing import is_alive, kill, kill_all, workers_of

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
LOG = logging.getLogger(__name__)
GRID = ["--grid", "prompt=red apple,rocket"]


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def said(done):
    """The lines of standard error without those that tell how it stands."""
    lines = done.stderr.splitlines()
    return [line for line in lines if not re.match(r"\d+ of \d+ done.* workers", line)]


def left_behind(folder):
    """Files of the store that are no record of a job that is done, and no plan."""
    hidden = folder / ".studio"
    parts = [p.relative_to(hidden) for p in hidden.rglob("*") if p.is_file()]
    return [str(p) for p in parts if p.parts[0] not in ("done", "plans")]


def test_a_dry_run_lists_and_makes_nothing(call, tiny_model, tmp_path):
    line = ("render", *GRID, "seed=7", "-m", tiny_model, "--out", "o", "--dry-run")
    done = call(*line)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert "'red apple', seed 7" in first and "'rocket', seed 7" in second
    assert last == "2 results; nothing was made" and not (tmp_path / "o").exists()
    wrong = call(*line, "seed=-1")
    assert wrong.returncode == 2 and "seed" in wrong.stderr


def test_a_grid_and_its_contact_sheet(call, tiny_model, tmp_path):
    done = call("render", *GRID, "seed=7..8", "-m", tiny_model, "--out", "o", "--workers", 1)
    assert done.returncode == 0 and said(done) == [], done.stderr
    assert re.match(r"4 of 4 results; 4 made in \d+:\d\d, \d+\.\d\d s each\n", done.stdout)
    out = tmp_path / "o"
    made = pictures(out)
    assert len(made) == 4 and left_behind(out) == []
    requests = [read_request(out / name) for name in made]
    assert {(r["prompt"], r["seed"]) for r in requests} == {
        (p, s) for p in ("red apple", "rocket") for s in (7, 8)
    }
    page = (out / "index.html").read_text()
    assert re.findall(r'<img src="([^"]+)"', page) == [
        next(n for n, r in zip(made, requests, strict=True) if (r["prompt"], r["seed"]) == cell)
        for cell in (("red apple", 7), ("red apple", 8), ("rocket", 7), ("rocket", 8))
    ]
    assert "--columns: 2" in page and "http" not in page and str(tmp_path) not in page
    # What a batch makes is what a single call makes.
    name, request = next(iter(made)), requests[0]
    args = ["generate", request["prompt"], "-m", tiny_model, "--seed", request["seed"]]
    assert call(*args, "-o", "one.png").returncode == 0
    assert (tmp_path / "one.png").read_bytes() == made[name]
    again = call("render", *GRID, "seed=7..8", "-m", tiny_model, "--out", "o")
    assert again.returncode == 0
    assert again.stdout.startswith("4 of 4 results, 4 were there; 0 made in 0:00\n")
    assert pictures(out) == made


def test_failed_jobs_are_told_and_exit_1(call, tiny_model, tmp_path):
    lines = [
        {"prompt": "rocket", "seed": 1, "output": "fine"},
        {"prompt": "<b>&", "num_tokens": 9, "output": "bad"},
    ]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = ["render", "jobs.jsonl", "-m", tiny_model, "--out", "o", "--workers", 1]
    done = call(*args)
    assert done.returncode == 1 and done.stdout.startswith("1 of 2 results, 1 failed; 1 made")
    first, second = said(done)
    assert first.startswith("failed: jobs.jsonl line 2: ValueError: num_tokens 9 must be")
    assert second == "tracebacks: o/failed; --retry-failed tries again"
    assert sorted(pictures(tmp_path / "o")) == ["fine.png"] and left_behind(tmp_path / "o") == []
    page = (tmp_path / "o" / "index.html").read_text()
    assert "&lt;b&gt;&amp;" in page and "num_tokens 9" in page and "<b>&" not in page
    again = call(*args)
    assert again.returncode == 1 and again.stdout.startswith("1 of 2 results, 1 were there, 1 fai")
    assert call(*args, "--retry-failed").returncode == 1
    # The line is mended: nothing failed any more, the rest is there.
    lines[1]["num_tokens"] = 8
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mended = call(*args)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.startswith("2 of 2 results, 1 were there; 1 made")


def test_wrong_calls_are_one_line(fails, tiny_model, tmp_path):
    model = ["-m", tiny_model, "--out", "o"]
    (tmp_path / "j.csv").write_text("prompt,seed\nrocket,1\nrocket,-1\n")
    jobs = tmp_path / "j.csv"
    fails("render", *model, message="JOBS is missing: give one .jsonl or .csv file, or --grid")
    fails("render", jobs, *model, message="j.csv line 3: seed -1 must be a whole number from 0")
    fails("render", "no.jsonl", *model, message="jobs file 'no.jsonl' does not exist")
    fails("render", "a.jsonl", "b.jsonl", *model, message="JOBS is missing: give one")
    fails("render", jobs, *GRID, *model, message="exclude each other")
    fails("render", "--grid", "sed=1", *model, message="--grid 'sed=1' must be NAME=VALUES")
    fails(
        "render", *GRID, *model, "--engine", "x", message="--engine 'x' must be one of local, ray"
    )
    fails("render", *GRID, *model, "--format", "gif", message="--format '.gif' must be one of .png")
    fails("render", *GRID, *model, "--workers", 0, message="--workers 0 must be a whole number")
    fails("render", *GRID, *model, "--batch", 0, message="--batch 0 must be a whole number from 1")
    fails("render", *GRID, *model, "--address", "x", message="--address 'x' is for --engine ray")
    fails("render", *GRID, *model, "--device", "tpu", message="--device 'tpu' must be one of")
    fails("render", *GRID, "-m", "nope", message="model 'nope' is no bundled name")
    fails("render", "--grid", "seed=1", *model, message="--grid cell 1: prompt is missing")


def test_what_stands_there_is_not_overwritten(call, tiny_model, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.png").write_text("mine")
    (tmp_path / "jobs.jsonl").write_text('{"prompt": "a", "output": "mine"}\n')
    done = call("render", "jobs.jsonl", "-m", tiny_model, "--out", "o")
    assert done.returncode == 2 and "'mine.png' is in 'o' already" in done.stderr, done.stderr
    assert (tmp_path / "o" / "mine.png").read_text() == "mine"
    done = call("render", "jobs.jsonl", "-m", tiny_model, "--out", "o/mine.png")
    assert done.returncode == 2 and "cannot write into 'o" in done.stderr


def until(check, seconds=120):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_killed_batch_goes_on(forks, call, tiny_model, tmp_path):
    """kill -9 of the whole command on its way, and a run to the end."""
    out = tmp_path / "o"
    args = ["render", *GRID, "seed=0..29", "-m", tiny_model, "--out", "o", "--workers", 2]
    command = forks.start(*args, cwd=tmp_path)
    until(lambda: len(pictures(out)) > 3)
    kill_all(command.pid)
    assert command.wait() == -9
    before = pictures(out)
    assert 3 < len(before) < 60
    done = call(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("60 of 60 results, ")
    after = pictures(out)
    assert len(after) == 60 and before.items() <= after.items()
    assert [name for name in left_behind(out) if not name.startswith("tmp/")] == []


@pytest.mark.slow
def test_an_interrupt_gives_everything_back(forks, tiny_model, tmp_path):
    out = tmp_path / "o"
    args = ["render", *GRID, "seed=0..99", "-m", tiny_model, "--out", "o", "--workers", 2]
    command = forks.start(*args, cwd=tmp_path)
    until(lambda: len(pictures(out)) > 3)
    workers = workers_of(command.pid)
    assert len(workers) == 2
    os.kill(command.pid, 2)
    assert command.wait() == 130, command.err.read_text()
    assert "of 200 done; the same command goes on" in command.err.read_text()
    assert left_behind(out) == [] and not any(is_alive(pid) for pid in workers)


@pytest.mark.slow
def test_workers_end_with_a_killed_command(forks, tiny_model, tmp_path):
    """kill -9 of the command alone: its workers do not go on by themselves."""
    out = tmp_path / "o"
    args = ["render", *GRID, "seed=0..999", "-m", tiny_model, "--out", "o", "--workers", 2]
    command = forks.start(*args, cwd=tmp_path)
    until(lambda: len(pictures(out)) > 3)
    workers = workers_of(command.pid)
    kill(command.pid)
    assert command.wait() == -9 and len(workers) == 2
    until(lambda: not any(is_alive(pid) for pid in workers), seconds=30)


@pytest.mark.slow
def test_two_hundred_jobs_under_fire(forks, call, tiny_model, tmp_path):
    """Three workers, one of them killed every second, the whole command killed three times; at the
    end every job is there once, as if it had been made alone."""
    out, random_one = tmp_path / "o", random.Random(0)
    args = ["render", *GRID, "seed=0..99", "-m", tiny_model, "--out", "o", "--workers", 3]
    args += ["--batch", 4]
    shots = 0

    def fire(command, enough):
        """Kills a worker a second until there are enough results, or the command ends."""
        nonlocal shots
        next_shot = time.monotonic() + 1.0
        while command.poll() is None and len(pictures(out)) < enough:
            time.sleep(0.02)
            if time.monotonic() >= next_shot and (workers := workers_of(command.pid)):
                kill(random_one.choice(workers))
                shots += 1
                next_shot = time.monotonic() + 1.0

    started = time.monotonic()
    for enough in (50, 100, 150):
        command = forks.start(*args, cwd=tmp_path)
        fire(command, enough)
        assert command.poll() is None, command.err.read_text()
        kill_all(command.pid)
        assert command.wait() == -9
    command = forks.start(*args, cwd=tmp_path)
    fire(command, 1000)
    assert command.wait() == 0, command.err.read_text()
    seconds = time.monotonic() - started
    made = pictures(out)
    keys = [p.stem for p in (out / ".studio" / "done").rglob("*.json")]
    records = [
        json.loads(p.read_text().splitlines()[-1])
        for p in (out / ".studio" / "done").rglob("*.json")
    ]
    assert len(made) == len(set(keys)) == len(keys) == 200
    assert sorted(r["output"] for r in records) == sorted(made) and not (out / "failed").exists()
    again = sum(r["attempt"] > 1 for r in records)
    LOG.info("%d workers, 3 commands killed in %.0f s; %d jobs again", shots, seconds, again)
    assert same_alone(made, out, tiny_model)


def same_alone(made, out, model):
    """Whether each picture is, byte for byte, what a call of its own makes."""
    import studio
    from studio.media.image import write_image

    pipe = studio.Pipeline.from_pretrained(str(model))
    pipe.set_progress_bar_config(disable=True)
    for name, raw in made.items():
        request = studio.Request.from_dict(recorded_request(out / name))
        (image,) = pipe(**request.arguments(pipe)).images
        path = write_image(out.parent / "alone" / name, image, request.to_dict())
        if path.read_bytes() != raw:
            return False
    return True


@pytest.mark.ray
def test_two_hundred_jobs_on_ray_under_fire(call, tiny_model, tmp_path):
    """The same store; a worker of the cluster is killed every second, and nothing is lost."""
    pytest.importorskip("ray")
    from studio.rendering.leases import read_line
    from studio.rendering.ray_engine import RayEngine

    args = [*GRID, "seed=0..99", "-m", tiny_model, "--out", "o"]
    out, random_one, shots = tmp_path / "o", random.Random(0), []
    tend, next_shot = RayEngine.tend, time.monotonic()

    def shoot(self, settled):
        nonlocal next_shot
        leases = [read_line(p, 0) for p in (out / ".studio" / "leases").glob("*.?")]
        owners = sorted({lease["owner"]["pid"] for lease in leases if lease})  # {}: it ended now
        if owners and time.monotonic() >= next_shot:
            shots.append(random_one.choice(owners))
            kill(shots[-1])
            next_shot = time.monotonic() + 1.0
        return tend(self, settled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayEngine, "tend", shoot)
        done = call("render", *args, "--engine", "ray", "--workers", 3, "--batch", 4)
    assert done.returncode == 0, done.stderr
    made = pictures(out)
    LOG.info("%d workers killed", len(shots))  # seen with --log-cli-level=INFO
    assert len(shots) >= 3 and len(made) == 200 and not (out / "failed").exists()
    assert same_alone(made, out, tiny_model)
    fails = call("render", *args, "--engine", "ray", "--address", "127.0.0.1:1", "--retry-failed")
    assert fails.returncode == 0  # all is there, so no cluster is asked for
