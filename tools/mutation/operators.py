"""The small changes that a mutation check makes: operators, numbers, conditions, returned values, left-out statements.

Strings, annotations, decorators and code that only type checkers read are left alone.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COMPARISONS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
    "is": "is not", "is not": "is", "in": "not in", "not in": "in",
}  # fmt: skip
ARITHMETIC = {
    "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*", "@": "+", "&": "|", "|": "&", "^": "&",
    "<<": ">>", ">>": "<<",
}  # fmt: skip


class Mutant(NamedTuple):
    """One change: the bytes ``start`` to ``end`` of the file at ``path`` become ``new``.

    Attributes:
        path: relative to the project's root.
        line: of the file, from 1, where the change begins.
        kind: which operator made it.
    """

    path: str
    line: int
    start: int
    end: int
    new: str
    kind: str

    def applied_to(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Every change of one file that still compiles, in the order of the file."""
    source = (root / path).read_bytes()
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(m for m in set(finder.found) if _compiles(m.applied_to(source)))


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes):
        self.path, self.source = path, source
        self.found: list[Mutant] = []
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        return self.source[self._start(node) : self._end(node)].decode()

    def _add(self, start: int, end: int, new: str, kind: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Mutant(self.path, line, start=start, end=end, new=new, kind=kind))

    def _replace(self, node: ast.expr | ast.stmt, new: str, kind: str) -> None:
        self._add(self._start(node), self._end(node), new, kind)

    def _between(self, left: ast.expr, right: ast.expr, changes: dict[str, str], kind: str) -> None:
        """Change the operator that stands between two operands."""
        start, end = self._end(left), self._start(right)
        for position, text in _operators(self.source[start:end].decode()):
            if text in changes:
                self._add(start + position, start + position + len(text), changes[text], kind)

    # what is left alone
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Python 3.11 gives wrong places inside of these."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default:
                self.visit(default)
        self._visit_body(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_body(node.body)

    def _visit_body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    # what is changed
    def _negate(self, condition: ast.expr) -> None:
        self._replace(condition, f"(not ({self._text(condition)}))", "condition")

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in zip([node.left, *node.comparators], node.comparators):
            self._between(left, right, COMPARISONS, "comparison")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._between(node.left, node.right, ARITHMETIC, "arithmetic")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:]):
            self._between(left, right, {"and": "or", "or": "and"}, "and/or")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._replace(node, f"({self._text(node.operand)})", "sign")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value), "constant")
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1), "constant")
        elif isinstance(node.value, float):
            self._replace(node, repr(2 * node.value + 1), "constant")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and not isinstance(node.value, ast.Constant):
            self._replace(node, "return None", "return")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._replace(node, "pass", "statement")
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._replace(node, "pass", "statement")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass", "statement")
        self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue", "loop")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break", "loop")


def _operators(text: str) -> Iterator[tuple[int, str]]:
    """The operators of what stands between two operands, with their place in bytes; comments are passed over."""
    lines = text.splitlines(keepends=True)
    starts = [sum(len(line.encode()) for line in lines[:n]) for n in range(len(lines) + 1)]
    words: list[tuple[int, str]] = []
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    try:
        for token in tokens:
            if token.type in (tokenize.OP, tokenize.NAME) and token.string not in "()":
                place = starts[token.start[0] - 1] + len(token.line[: token.start[1]].encode())
                words.append((place, token.string))
    except (tokenize.TokenError, IndentationError):
        pass  # an open bracket, a line that begins indented
    joined = " ".join(word for _, word in words)
    if len(words) == 2 and joined in ("is not", "not in") and joined in text:
        yield words[0][0], joined
    elif words:
        yield words[0]
