"""`studio train`: a run of a few steps, going on, and recipes that are refused."""

import json


def test_train_and_go_on(call, recipe, tmp_path):
    done = call("train", recipe, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stderr and "wrote run/final" in done.stdout
    assert (tmp_path / "run" / "final").is_dir()
    again = call("train", recipe, "--out", "run")
    assert again.returncode == 2 and "resume it, or choose another folder" in again.stderr
    more = call("train", recipe, "--out", "run", "--resume", "--set", "steps=5")
    assert more.returncode == 0, more.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "steps_per_second" in line]
    assert steps == [1, 2, 3, 4, 5]


def test_recipes_that_are_refused(fails, recipe, tmp_path):
    fails("train", "nope.yaml", message="recipe 'nope.yaml' does not exist")
    fails("train", recipe, "--set", "steps", message="'steps' must")
    fails("train", recipe, "--set", "steps=0", message="steps is 0")
    lacking = f"requires.x '{tmp_path}/runs/tiny/final' does not exist; train tiny first"
    fails("train", recipe, "--set", f"requires.x={tmp_path}/runs/tiny/final", message=lacking)
    fails("train", recipe, "--out", "run", "--set", "task=nope", message="task 'nope' must be")
    assert not (tmp_path / "run").exists()
    fails("train", recipe, "--set", "nope=1", message="'nope' is unknown")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    fails("train", bad, message="is not valid YAML")
    bad.write_text("")
    fails("train", bad, message="must be a mapping")
    bad.write_text("name: x")
    fails("train", bad, message="lacks the field")
