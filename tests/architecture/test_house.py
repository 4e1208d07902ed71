"""The rules of the house that can be read off the files."""

import ast
import inspect
import json
import re
import zipfile
from pathlib import Path

import pytest

import studio
from studio.registry import CLASSES, find_class
from tests.architecture import tree

MAX_FILE, MAX_FUNCTION = 400, 80
VAGUE = {"utils", "util", "misc", "helpers", "common"}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".cff", ".html", ".txt", ".cfg", ""}


def sources(root):
    return sorted((root / "studio").rglob("*.py")) + sorted((root / "app").rglob("*.py"))


def texts(root):
    """Every text file that a commit would carry."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(p.startswith(".") and p != ".ci" for p in parts[:-1])
        built = {"__pycache__", "runs", "dist", "build"} & set(parts)
        if path.is_file() and path.suffix in TEXT and not (hidden or built):
            yield path


def test_files_are_short(root):
    long = {str(p): n for p in sources(root) if (n := len(p.read_text().splitlines())) > MAX_FILE}
    assert long == {}


def test_functions_are_short(root):
    long = []
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.end_lineno - node.lineno + 1
                if body - doc_lines(node) > MAX_FUNCTION:
                    long.append(f"{path.name}:{node.lineno} {node.name} has {body} lines")
    assert long == []


def doc_lines(node):
    return len((ast.get_docstring(node, clean=False) or "").splitlines())


def test_no_vague_file_names(root):
    assert [str(p) for p in sources(root) if {p.stem, *p.parts} & VAGUE] == []


def test_no_ten_lines_stand_twice(root):
    assert tree.repeats(sources(root)) == []


def test_public_names_have_docstrings(root):
    missing = []
    for path in sources(root):
        module = ast.parse(path.read_text())
        if module.body and not ast.get_docstring(module):
            missing.append(str(path))
        for node in module.body:
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            public = isinstance(node, kinds) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                missing.append(f"{path}:{node.lineno} {node.name}")
    assert missing == []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_registry_entries_resolve_and_are_documented(name):
    cls = find_class(name)
    assert cls is getattr(studio, name) and cls.__name__ == name
    missing = [
        key
        for key, value in vars(cls).items()
        if not key.startswith("_") and inspect.isfunction(value)
        if not inspect.getdoc(getattr(cls, key))
    ]
    assert missing == []


def test_unknown_names_are_refused():
    with pytest.raises(KeyError, match="not one of ours"):
        find_class("Nothing")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        studio.Nothing  # noqa: B018


def test_no_package_name_collides_with_a_diffusers_pipeline(root):
    """diffusers records a module's parent package as its library when it knows a pipeline so
    called.
    """
    from diffusers import pipelines

    folders = [p.name for p in (root / "studio").iterdir() if p.is_dir() and p.name[0] not in "._"]
    assert [name for name in folders if hasattr(pipelines, name)] == []


def test_no_path_of_a_machine_in_the_tree(root):
    home = str(Path.home())
    pattern = "|".join([re.escape(f"{root}/"), r"/(?:home|Users)/[a-z]\w*/", re.escape(f"{home}/")])
    hits = []
    for path in texts(root):
        text = path.read_text(errors="replace")
        hits += [f"{path}: {match.group()}" for match in re.finditer(pattern, text)]
    assert hits == []


def test_large_files_stay_small(root):
    files = [p for p in root.glob("studio/pretrained/**/*") if p.is_file()]
    weights = [p for p in files if p.suffix == ".safetensors"]
    assert [p.name for p in files if p.stat().st_size > 16 * 2**20] == []
    images = [p for p in weights if p.parts[-3] in ("emoji-1d", "emoji-grid")]
    assert 0 < sum(p.stat().st_size for p in images) <= 48 * 2**20
    assert sum(p.stat().st_size for p in weights) <= 95e6  # the wheel stays below 100 MB


def test_citation_and_version_agree(root):
    version = studio.__version__
    assert f"version: {version}\n" in (root / "CITATION.cff").read_text()
    assert f"## [{version}]" in (root / "CHANGELOG.md").read_text()


def test_the_wheel_carries_weights_and_app(root, tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(wheel).namelist()
    assert "studio/py.typed" in names and "studio/cli/main.py" in names
    assert not [name for name in names if name.startswith(("tests/", "app/"))]
    pretrained = (p for p in root.glob("studio/pretrained/**/*") if p.is_file())
    expected = {p.relative_to(root).as_posix() for p in pretrained if "__pycache__" not in p.parts}
    expected |= {f"studio/_{p.relative_to(root).as_posix()}" for p in root.glob("app/**/*.py")}
    assert expected <= set(names)
    assert Path(wheel).stat().st_size < 100 * 10**6


def test_json_files_are_json(root):
    for path in texts(root):
        if path.suffix == ".json":
            json.loads(path.read_text())
