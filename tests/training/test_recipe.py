import pytest

from studio.training.recipe import load_recipe
from studio.training.tasks import make_task


def test_overrides_reach_nested_fields(write_recipe):
    recipe = load_recipe(write_recipe(), ["steps=7", "model.config.dim=48", "betas=[0.8, 0.9]"])
    assert recipe.steps == 7
    assert recipe.model["config"]["dim"] == 48
    assert recipe.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "recipe field 'stepz' is unknown; known: "),
        ({"steps": 0}, "recipe field steps is 0; it must be a whole number >= 1"),
        ({"precision": "float8"}, "precision 'float8' must be 'float32' or 'bfloat16'"),
    ],
)
def test_a_wrong_field_is_named(write_recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write_recipe(**changes))


def test_a_missing_file_a_missing_field_and_no_yaml(tmp_path):
    with pytest.raises(FileNotFoundError, match="recipe .* not found"):
        load_recipe(tmp_path / "none.yaml")
    path = tmp_path / "short.yaml"
    path.write_text("name: x\ntask: tokenizer\n")
    with pytest.raises(ValueError, match="lacks the field 'model'"):
        load_recipe(path)
    path.write_text("name: [x")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_recipe(path)


def test_an_unknown_task_is_named(write_recipe, tmp_path):
    with pytest.raises(ValueError, match="task 'poetry' must be one of tokenizer, generator, "):
        make_task(load_recipe(write_recipe(task="poetry")), tmp_path)


def test_bundled_recipes_are_readable(root):
    paths = sorted((root / "recipes").glob("*/*.yaml"))
    assert len(paths) >= 12
    for path in paths:
        assert load_recipe(path).name == path.stem
