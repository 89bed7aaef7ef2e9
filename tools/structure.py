"""Measure the shape of the code: python -m tools.structure. The bars stand in tests/test_structure.py.

A *face* is a package's ``__init__``: code of other packages imports from it, never from a module behind it.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "clinical_tasks", "backbones", "prompt_modules", "strict_yaml", "benchmarks", "tools")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
WIDTH = 120  # columns
UNBOUNDED = ("clinical_tasks/readers",)  # a flat list of formats, one file each


@dataclass(frozen=True)
class Structure:
    """What `measure` finds. Densities are per 1,000 lines of the packages; shares are of their lines."""

    lines: int
    comprehensions: float
    ternaries: float
    wide_lines: int
    largest_folder: tuple[str, int]
    largest_package: tuple[str, float]
    past_faces: list[str]
    run_context_importers: list[str]


def measure(root: Path = ROOT) -> Structure:
    """The structure of the packages under ``root``, by their sources; nothing is imported."""
    trees = {file: ast.parse(file.read_text()) for file in _sources(root)}
    lines = {file: file.read_text().splitlines() for file in trees}
    total = sum(map(len, lines.values()))
    rooms: Counter[str] = Counter()
    for file, text in lines.items():
        rooms[_room(file.relative_to(root))] += len(text)
    folders = Counter(str(file.parent.relative_to(root)) for file in trees)
    for name in UNBOUNDED:
        folders.pop(name, None)
    largest, size = rooms.most_common(1)[0]
    return Structure(
        lines=total,
        comprehensions=1000 * _count(trees, COMPREHENSIONS) / total,
        ternaries=1000 * _count(trees, (ast.IfExp,)) / total,
        wide_lines=sum(len(line) > WIDTH for text in lines.values() for line in text),
        largest_folder=folders.most_common(1)[0],
        largest_package=(largest, size / total),
        past_faces=sorted(_past_faces(root, trees)),
        run_context_importers=sorted(_importers(root, trees, "RunContext")),
    )


def _sources(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def _room(file: Path) -> str:
    """The package that a file counts for: one level below engine, clinical_tasks and backbones, else the top one."""
    nested = len(file.parts) > 2 and file.parts[0] in ("engine", "clinical_tasks", "backbones")
    return "/".join(file.parts[:2]) if nested else file.parts[0]


def _count(trees: dict[Path, ast.Module], kinds: tuple[type, ...]) -> int:
    return sum(isinstance(node, kinds) for tree in trees.values() for node in ast.walk(tree))


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of a name, at the top or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.module, alias.name


def _past_faces(root: Path, trees: dict[Path, ast.Module]) -> Iterator[str]:
    for file, tree in trees.items():
        importer = file.relative_to(root).with_suffix("").parts
        for module, name in _imports(tree):
            parts = module.split(".")
            if parts[0] not in PACKAGES or parts[0] in ("benchmarks", "tools"):
                continue
            behind = (root / Path(*parts, name)).with_suffix(".py").is_file()
            if behind and name not in _exported(root / Path(*parts)):
                parts.append(name)  # a module behind a face, imported as a name
            if not (root / Path(*parts)).with_suffix(".py").is_file():
                continue  # a package: its face
            package = tuple(parts[:-1])
            if importer[: len(package)] != package:
                yield f"{file.relative_to(root)}: {module}.{name}"


@cache
def _exported(package: Path) -> frozenset[str]:
    """The names in a face's ``__all__``."""
    stub = package / "__init__.pyi"
    face = stub if stub.is_file() else package / "__init__.py"
    for node in ast.parse(face.read_text()).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.List)
            and ast.unparse(node.targets[0]) == "__all__"
        ):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def _importers(root: Path, trees: dict[Path, ast.Module], wanted: str) -> Iterator[str]:
    for file, tree in trees.items():
        if any(name == wanted for _, name in _imports(tree)):
            yield str(file.relative_to(root))


def main() -> None:
    found = measure()
    for field in fields(found):
        value = getattr(found, field.name)
        if isinstance(value, list):
            print(f"{field.name:24}{len(value)}")
            for line in value:
                print(f"    {line}")
        else:
            print(f"{field.name:24}{value:.1f}" if isinstance(value, float) else f"{field.name:24}{value}")


if __name__ == "__main__":
    main()
