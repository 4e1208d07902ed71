"""Reads the source tree: which file imports which, and which arrows the floors forbid.

Imports inside functions count, and so do `importlib.import_module("studio...")` with a literal name
and `from studio import Name`, which stands for the module that the registry gives for the name.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

FLOORS = (
    {"registry", "outputs", "env", "hub"},
    {"quantizers", "layers", "media"},
    {"tokenizers", "generators", "conversion", "data"},
    {"decoding"},
    {"pipelines"},
    {"rendering", "training", "evaluation"},
    {"cli", "server"},
    {"app"},
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# The only arrows within a floor, besides those inside one package.
SIDEWAYS = {
    ("conversion", "tokenizers"),
    ("conversion", "generators"),
    ("hub", "registry"),
    ("hub", "env"),
}
# Families of networks that never know each other: the base class that marks a member.
FAMILIES = {"tokenizers": "Tokenizer", "generators": "Generator"}


@dataclass(frozen=True)
class Arrow:
    """`source` imports `target` (dotted module names) in `line`."""

    source: str
    target: str
    line: int


def part_of(module: str) -> str:
    """The package or file of floor 0 that a module belongs to; "" for studio's own front."""
    names = module.split(".")
    return names[0] if names[0] == "app" else ".".join(names[1:2])


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of studio and app."""
    found = {}
    for package in ("studio", "app"):
        for path in sorted((root / package).rglob("*.py")):
            names = path.relative_to(root).with_suffix("").parts
            found[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    return found


def _imported(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """Dotted names that one statement or call may import, longest last."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            drop = node.level - 1 if is_package else node.level
            parents = module.split(".")[: len(module.split(".")) - drop]
            base = ".".join([*parents, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _resolve(name: str, known: dict[str, Path], classes: dict[str, str]) -> str | None:
    """The module of ours that an imported name lives in, or None when it is not ours."""
    if name.split(".")[0] not in ("studio", "app"):
        return None
    if name.startswith("studio.") and name.removeprefix("studio.") in classes:
        return classes[name.removeprefix("studio.")]
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def arrows(root: Path, classes: dict[str, str]) -> list[Arrow]:
    """Every import of one of our modules by another."""
    known, found = modules(root), []
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for name in _imported(node, module, path.name == "__init__.py"):
                target = _resolve(name, known, classes)
                if target and target != module:
                    found.append(Arrow(module, target, node.lineno))
    return found


def forbidden(found: list[Arrow]) -> list[str]:
    """One line for each arrow that goes up, or sideways into another package."""
    lines = []
    for arrow in found:
        source, target = part_of(arrow.source), part_of(arrow.target)
        if "" in (source, target) or source == target:
            continue
        for part in (source, target):
            if part not in FLOOR_OF:
                lines.append(f"{arrow.source}: {part!r} stands on no floor")
        high, low = FLOOR_OF.get(source, 0), FLOOR_OF.get(target, 0)
        if low > high or (low == high and (source, target) not in SIDEWAYS):
            way = "up" if low > high else "sideways"
            lines.append(f"{arrow.source}:{arrow.line} imports {arrow.target} ({way})")
    return sorted(set(lines))


def circles(found: list[Arrow]) -> list[str]:
    """One line for each circle of modules that import each other."""
    graph: dict[str, set[str]] = {}
    for arrow in found:
        graph.setdefault(arrow.source, set()).add(arrow.target)
    done: set[str] = set()
    lines = []

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            lines.append(" -> ".join([*trail[trail.index(module) :], module]))
            return
        if module in done:
            return
        for target in sorted(graph.get(module, ())):
            visit(target, [*trail, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return lines


def family_members(root: Path) -> dict[str, str]:
    """Module -> package, for each file that holds a tokenizer or a generator (base*.py aside)."""
    members = {}
    for module, path in modules(root).items():
        base = FAMILIES.get(part_of(module))
        if base is None or path.name.startswith(("base", "__init__")):
            continue
        classes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
        if any(ast.unparse(b).endswith(base) for c in classes for b in c.bases):
            members[module] = part_of(module)
    return members


def code_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, stripped text) of the code: no blank lines, comments, docstrings, imports."""
    text = path.read_text()
    skip: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            skip.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate((line.strip() for line in text.splitlines()), 1)
    return [(n, line) for n, line in lines if line and n not in skip and not line.startswith("#")]


def repeats(paths: list[Path], *, length: int = 10) -> list[str]:
    """One line for each run of `length` lines of code that stands in two places."""
    seen: dict[tuple[str, ...], str] = {}
    found = []
    for path in paths:
        lines, until = code_lines(path), 0
        for start in range(len(lines) - length + 1):
            window = tuple(text for _, text in lines[start : start + length])
            place = f"{path.name}:{lines[start][0]}"
            if window in seen and start >= until:
                found.append(f"{place} repeats {seen[window]}")
                until = start + length
            seen.setdefault(window, place)
    return found
