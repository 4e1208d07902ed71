"""Imports go down the floors, never up, never in a circle; and the check itself is checked."""

import pytest

from studio.registry import CLASSES
from tests.architecture import tree


def test_imports_only_go_down(root):
    assert tree.forbidden(tree.arrows(root, CLASSES)) == []


def test_there_is_no_circle(root):
    assert tree.circles(tree.arrows(root, CLASSES)) == []


def test_networks_never_import_each_other(root):
    members = tree.family_members(root)
    assert len(members) >= 4, "the families were not found"
    crossing = [
        f"{a.source}:{a.line} imports {a.target}"
        for a in tree.arrows(root, CLASSES)
        if a.source in members and a.target in members
    ]
    assert crossing == []


def test_the_tree_is_really_read(root):
    pairs = {(a.source, a.target) for a in tree.arrows(root, CLASSES)}
    assert ("studio.media.image", "studio.media.files") in pairs
    assert ("studio.tokenizers.base", "studio.outputs") in pairs
    assert any(source == "studio.cli.main" for source, _ in pairs)


def plant(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree.arrows(tmp_path, {"Pipeline": "studio.pipelines.auto"})


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("import studio.cli.main", "up"),
        ("from studio.cli import main", "up"),
        ("from studio.cli.main import main", "up"),
        ("def f():\n    from studio.cli.main import main", "up"),
        ("from ..cli import main", "up"),
        ("from studio import Pipeline", "up"),
        ("import importlib\nimportlib.import_module('studio.cli.main')", "up"),
        ("from studio.data import emoji", "sideways"),
        ("import app.main", "up"),
    ],
)
def test_planted_arrows_are_found(tmp_path, text, way):
    found = plant(
        tmp_path,
        {
            "studio/__init__.py": "",
            "studio/cli/main.py": "main = 1",
            "studio/data/emoji.py": "",
            "studio/pipelines/auto.py": "",
            "app/main.py": "",
            "studio/tokenizers/grid.py": text,
        },
    )
    (line,) = tree.forbidden(found)
    assert line.startswith("studio.tokenizers.grid:") and line.endswith(f"({way})")


def test_allowed_arrows_are_not_reported(tmp_path):
    found = plant(
        tmp_path,
        {
            "studio/conversion/titok.py": "from studio.tokenizers.titok import X\nimport torch",
            "studio/tokenizers/titok.py": "from studio.layers.vit import Y",
            "studio/layers/vit.py": "from studio.layers.norms import Z",
            "studio/layers/norms.py": "",
        },
    )
    assert len(found) == 3 and tree.forbidden(found) == [] and tree.circles(found) == []


def test_a_planted_circle_is_found(tmp_path):
    files = {
        "studio/layers/a.py": "from studio.layers import b",
        "studio/layers/b.py": "def f():\n    import studio.layers.c",
        "studio/layers/c.py": "from .a import x",
    }
    assert len(tree.circles(plant(tmp_path, files))) == 1


def test_a_package_on_no_floor_is_found(tmp_path):
    found = plant(tmp_path, {"studio/utils/a.py": "from studio.env import x", "studio/env.py": ""})
    assert any("stands on no floor" in line for line in tree.forbidden(found))


def test_a_planted_repeat_is_found(tmp_path):
    block = "\n".join(f"x{i} = {i}" for i in range(10))
    (tmp_path / "a.py").write_text(block)
    (tmp_path / "b.py").write_text(f'"""Doc."""\n\n{block}\n\ny = 1\n')
    assert tree.repeats([tmp_path / "a.py", tmp_path / "b.py"]) == ["b.py:3 repeats a.py:1"]
    assert tree.repeats([tmp_path / "a.py", tmp_path / "b.py"], length=11) == []
