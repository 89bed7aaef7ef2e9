"""Whether docstrings agree with the code in what ruff cannot see: python -m tools.docstrings

- Each name in an ``Args`` section is a parameter, also where several stand in one line (ruff sees the first of a line).
- Each name in a ``Raises`` section is an exception. One of the project's own is raised by the function or by something
  that it calls, directly or not. Calls are followed by name alone, so what is reported cannot be raised.

Exit code 1 where a docstring is wrong.
"""

import ast
import builtins
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONSTANTS = ("None", "True", "False")  # what an argument may be: "None: every task."
PACKAGES = ("engine", "clinical_tasks", "backbones", "prompt_modules", "strict_yaml", "benchmarks", "tools")
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes):\n((?:(?: +.*)?\n?)*)", re.MULTILINE)
# `name: ` or `one, two: ` at the start of an entry, or behind the full stop of the one before it on the same line
ARGUMENTS = re.compile(r"(?:^|\. )\*{0,2}([A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*): ", re.MULTILINE)
EXCEPTIONS = re.compile(r"^([A-Za-z_][\w.]*(?:, [A-Za-z_][\w.]*)*):", re.MULTILINE)


class Documented(NamedTuple):
    """A function or a class with a docstring. ``parameters``: of a class those of its constructor, and its fields.
    ``imported``: the names that its module imports.
    """

    where: str
    node: ast.FunctionDef | ast.ClassDef
    parameters: set[str]
    docstring: str
    imported: set[str]


class Project(NamedTuple):
    """What the modules define: exceptions with their bases, and by name what functions raise and call."""

    bases: dict[str, set[str]]
    raised: dict[str, set[str]]
    called: dict[str, set[str]]


def documented(file: Path, root: Path) -> Iterator[Documented]:
    tree = ast.parse(file.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (docstring := ast.get_docstring(node)):
            where = f"{file.relative_to(root)}:{node.lineno}"
            yield Documented(where, node, set(parameters_of(node)), docstring + "\n", imported)


def parameters_of(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        every = node.args
        found = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
        yield from (one.arg for one in found if one)
        return
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            yield inner.target.id
        elif isinstance(inner, ast.FunctionDef) and inner.name in ("__init__", "__call__", "forward"):
            yield from parameters_of(inner)


def sections(docstring: str) -> dict[str, str]:
    """Section -> its text, indented no further than its entries."""
    found = {}
    for match in SECTION.finditer(docstring):
        lines = match[2].splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        found[match[1]] = "\n".join(line[indent:] for line in lines)
    return found


def read_project(files: list[Path]) -> Project:
    project = Project(defaultdict(set), defaultdict(set), defaultdict(set))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                project.bases[node.name] |= {last_name(base) for base in node.bases}
                for inner in node.body:  # to name a class is to call what Python calls: its constructor, its context
                    if isinstance(inner, ast.FunctionDef) and (inner.name.startswith("__") or inner.name == "forward"):
                        add_function(project, node.name, inner)
            elif isinstance(node, ast.FunctionDef):
                add_function(project, node.name, node)
    return project


def add_function(project: Project, name: str, node: ast.FunctionDef) -> None:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and inner.exc is not None:
            project.raised[name].add(last_name(inner.exc))
    project.called[name] |= names_in(node)


def names_in(node: ast.AST) -> set[str]:
    """What a piece of code names: it may call it, or hand it on to be called."""
    return {last_name(inner) for inner in ast.walk(node) if isinstance(inner, ast.Name | ast.Attribute)}


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c(...)``."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def reachable(project: Project, start: set[str]) -> set[str]:
    """What can be raised, by name, from these functions on."""
    waiting, seen, found = list(start), set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            found |= project.raised.get(name, set())
            waiting += project.called.get(name, set())
    return found


def is_or_derives(project: Project, name: str, wanted: str) -> bool:
    return name == wanted or any(is_or_derives(project, base, wanted) for base in project.bases.get(name, ()))


def problems_of(one: Documented, project: Project) -> Iterator[str]:
    found = sections(one.docstring)
    for names in ARGUMENTS.findall(found.get("Args", "")):
        for name in re.findall(r"\w+", names):
            if name not in one.parameters and name not in CONSTANTS:
                yield f"{one.where}: {one.node.name} has no argument {name}"
    for names in EXCEPTIONS.findall(found.get("Raises", "")):
        for name in re.split(r", ", names):
            short = name.rpartition(".")[2]
            if short not in project.bases:
                if "." not in name and not hasattr(builtins, short) and short not in one.imported:
                    yield f"{one.where}: {one.node.name}: there is no exception {name}"
                continue
            raised = reachable(project, names_in(one.node) | own(one))
            if not any(is_or_derives(project, other, short) for other in raised):
                yield f"{one.where}: {one.node.name} cannot raise {name}"


def own(one: Documented) -> set[str]:
    """The function itself; of a class, its methods."""
    return {node.name for node in ast.walk(one.node) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def problems(root: Path = ROOT) -> list[str]:
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    project = read_project(files)
    return [problem for file in files for one in documented(file, root) for problem in problems_of(one, project)]


def main() -> int:
    found = problems()
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
