"""What a report is made of, before it is HTML or Markdown: both say the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from engine.core import markdown_table

SUMMARY = "average of targets"  # first cell of the row that sums up a table


@dataclass(frozen=True)
class Cell:
    """``small`` stands smaller behind the text in HTML. ``mark``: good, bad or empty."""

    text: str
    small: str = ""
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.small}".strip()


@dataclass(frozen=True)
class Text:
    """kind: plain, answer (to what the page is about), small, note (in a box) or warning."""

    text: str
    kind: str = "plain"
    name: str = "text"


@dataclass(frozen=True)
class Items:
    items: Sequence[str]
    name: str = "items"


@dataclass(frozen=True)
class Table:
    """rows: as long as head. words: this many first columns hold words, the others numbers. common: what holds for all
    rows, said above the table.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    words: int = 1
    common: str = ""
    name: str = "table"


@dataclass(frozen=True)
class Figure:
    """Charts that belong together; ``numbers`` is what Markdown shows in their place (without them the figure is HTML's
    alone), and HTML folded beneath.

    colours: how to read the charts, for who sees them. keys: (drawn mark, words).
    """

    title: str  # may be empty
    charts: Sequence[Markup]
    caption: str = ""
    colours: str = ""
    keys: Sequence[tuple[Markup, str]] = ()
    numbers: Table | None = None
    name: str = "figure"


@dataclass(frozen=True)
class Code:
    text: str
    language: str = ""
    name: str = "code"


@dataclass(frozen=True)
class Fold:
    """Long material: closed in HTML until it is asked for, at the end in Markdown."""

    title: str
    blocks: Sequence["Block"]
    name: str = "fold"


@dataclass(frozen=True)
class Section:
    """folded: in HTML behind its title, which opens it; on paper it stays closed."""

    title: str
    blocks: Sequence["Block"] = field(default_factory=list)
    anchor: str = ""
    level: int = 2
    folded: bool = False
    name: str = "section"


Block = Text | Items | Table | Figure | Code | Fold | Section


def markdown(blocks: Sequence[Block]) -> str:
    """Headings, tables that read well unrendered, code; what is folded in HTML stands at the end."""
    folded: list[str] = []
    written = list(_written(blocks, folded))
    if folded:
        written += ["## At length\n", *folded]
    return "\n".join(written)


def _written(blocks: Sequence[Block], folded: list[str], level: int = 2, where: str = "") -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Section):
            yield f"{'#' * block.level} {block.title}\n"
            if block.level == 2:
                where = block.title
            yield from _written(block.blocks, folded, level=block.level + 1, where=where)
        elif isinstance(block, Fold):
            title = f"{block.title} ({where})" if where else block.title
            folded.append(f"### {title}\n")
            folded.extend(_written(block.blocks, folded, level=4, where=where))
        elif isinstance(block, Figure):
            if block.numbers:
                yield f"{'#' * level} {block.title}\n"
                if block.caption:
                    yield f"{block.caption}\n"
                yield from _table(block.numbers)
        elif isinstance(block, Table):
            yield from _table(block)
        elif isinstance(block, Items):
            yield "".join(f"- {item}\n" for item in block.items)
        elif isinstance(block, Code):
            yield f"```{block.language}\n{block.text.rstrip()}\n```\n"
        else:
            boxed = block.kind in ("note", "warning")
            yield f"> {block.text}\n" if boxed else f"{block.text}\n"


def _table(block: Table) -> Iterator[str]:
    if block.common:
        yield f"{block.common}\n"
    yield table([block.head, *block.rows])


def table(rows: Sequence[Sequence[Cell | str]]) -> str:
    """A Markdown table that reads well unrendered too."""
    return "\n".join(markdown_table([list(map(_escaped, row)) for row in rows])) + "\n"


def _escaped(value: Cell | str) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
