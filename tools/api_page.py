"""The names that packages export, with signatures and docstrings, as Markdown for the site. Nothing is imported.

python -m tools.api_page    # print the page; `make docs` appends it to docs/reference/api.md
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOP = ("prompt_modules", "strict_yaml", "backbones", "clinical_tasks")
SECTION = re.compile(r"(Args|Returns|Yields|Raises):$")
ITEM = re.compile(r"[\w*]+(?:, [\w*]+)*: ")
SPECIAL = re.compile(r"([\\*_<\[\]|$#])")


class Exported(NamedTuple):
    """A name of a face, and where its definition is."""

    name: str
    node: ast.stmt
    docstring: str


def faces() -> Iterator[str]:
    """The packages whose faces other packages import from."""
    yield from TOP
    yield from sorted(f"engine.{file.parent.name}" for file in (ROOT / "engine").glob("*/__init__.pyi"))


def exported(package: str) -> Iterator[Exported]:
    """What a package exports, in the order of its face."""
    folder = ROOT / package.replace(".", "/")
    for node in ast.parse(face_file(folder).read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(package)):
            for alias in node.names:
                yield from definition(source_of(folder, node), alias.name)


def face_file(folder: Path) -> Path:
    """The file with a face's imports: the stub of a lazy one."""
    stub = folder / "__init__.pyi"
    return stub if stub.is_file() else folder / "__init__.py"


def source_of(folder: Path, node: ast.ImportFrom) -> Path:
    """The file or folder that an import in a face reads."""
    base = folder if node.level else ROOT
    target = base.joinpath(*(node.module or "").split("."))
    return target if target.is_dir() else target.with_suffix(".py")


def definition(source: Path, name: str) -> Iterator[Exported]:
    """The definition of a name; a package's face is followed. A module that is exported whole has none."""
    if (source / f"{name}.py").is_file():
        return
    if source.is_dir():
        for node in ast.parse(face_file(source).read_text()).body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
                yield from definition(source_of(source, node), name)
        return
    body = ast.parse(source.read_text()).body
    for position, node in enumerate(body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            yield Exported(name, node, ast.get_docstring(node) or "")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and name in names_of(node):
            yield Exported(name, node, comment_behind(body[position + 1 : position + 2]))


def names_of(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def comment_behind(following: list[ast.stmt]) -> str:
    """The string that describes the assignment before it."""
    for node in following:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return inspect.cleandoc(node.value.value)
    return ""


def signature(node: ast.stmt) -> str:
    """How a name is called, as code."""
    if isinstance(node, ast.FunctionDef):
        returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){returned}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        head = f"class {node.name}({bases})" if bases else f"class {node.name}"
        return "\n".join([head, *members(node)])
    text = ast.unparse(node)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def members(node: ast.ClassDef) -> Iterator[str]:
    """The public fields and methods of a class, a line each."""
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and not ast.unparse(inner.target).startswith("_"):
            yield f"    {ast.unparse(inner.target)}: {ast.unparse(inner.annotation)}"
        elif isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
            yield f"    {signature(inner)}"


def markdown_of(docstring: str) -> Iterator[str]:
    """A docstring's blocks: paragraphs, and a list for each of its sections."""
    for block in re.split(r"\n\s*\n", docstring.strip()):
        lines = block.splitlines() or [""]
        section = SECTION.match(lines[0].strip())
        if section:
            yield f"**{section[1]}**"
            yield "\n".join(f"- {prose(item)}" for item in items(lines[1:]))
        elif block.startswith("    "):
            yield f"```text\n{inspect.cleandoc(block)}\n```"
        elif block.strip():
            yield prose(block)


def items(lines: list[str]) -> Iterator[str]:
    """The entries of a section; a further line of one is indented deeper."""
    text = inspect.cleandoc("\n" + "\n".join(lines))
    entry = ""
    for line in text.splitlines():
        if entry and (line.startswith(" ") or not ITEM.match(line)):
            entry += f" {line.strip()}"
            continue
        if entry:
            yield entry
        entry = line
    if entry:
        yield entry


def prose(text: str) -> str:
    """Text with what Markdown would read as marks escaped, code left as it is."""
    parts = " ".join(text.split()).replace("``", "`").split("`")
    if len(parts) % 2 == 0:
        return SPECIAL.sub(r"\\\1", "".join(parts))
    for index in range(0, len(parts), 2):
        parts[index] = SPECIAL.sub(r"\\\1", parts[index])
    return "`".join(parts)


def markdown_of_faces() -> str:
    """The page: a heading for each package and each name."""
    blocks: list[str] = []
    for package in faces():
        blocks.append(f"## {package}")
        face = ROOT / package.replace(".", "/") / "__init__.py"
        blocks += markdown_of(ast.get_docstring(ast.parse(face.read_text())) or "")
        for one in exported(package):
            blocks.append(f"### {package}.{one.name}".replace("_", "\\_"))
            blocks.append(f"```python\n{signature(one.node)}\n```")
            blocks += markdown_of(one.docstring)
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    print(markdown_of_faces(), end="")
