"""Columns that say the same in every row are left out of a table, and said once above it."""

from collections.abc import Sequence
from dataclasses import replace

from engine.reporting.blocks import SUMMARY, Block, Cell, Figure, Fold, Section, Table

SETTINGS = (
    "run",
    "average of",
    "role",
    "metric",
    "n",
    "dropped",
    "method",
    "against",
    "shots",
    "seeds",
    "so the metaprompt is",
)
"""Heads of columns that may go; scores never do."""


def without_constant_columns(blocks: Sequence[Block]) -> list[Block]:
    """The blocks, every table within them without its constant columns."""
    out: list[Block] = []
    for block in blocks:
        if isinstance(block, Section | Fold):
            block = replace(block, blocks=without_constant_columns(block.blocks))
        elif isinstance(block, Table):
            block = shortened(block)
        elif isinstance(block, Figure) and block.numbers:
            block = replace(block, numbers=shortened(block.numbers))
        out.append(block)
    return out


def shortened(table: Table) -> Table:
    """Without those columns of settings that hold one value in all rows; the first column always stays."""
    rows = [row for row in table.rows if str(row[0]) != SUMMARY]
    if len(rows) < 2:
        return table
    kept, said = [0], []
    for number, head in enumerate(table.head[1:], 1):
        values = {str(row[number]) for row in rows}
        if head in SETTINGS and len(values) == 1:
            said.append(f"{head}: {values.pop() or 'none'}")
        else:
            kept.append(number)
    if not said:
        return table
    words = sum(number < table.words for number in kept)
    chosen = [_chosen(row, kept) for row in table.rows]
    return Table(_names(table.head, kept), chosen, words, f"The same in every row: {'; '.join(said)}.")


def _chosen(row: Sequence[Cell | str], kept: Sequence[int]) -> list[Cell | str]:
    return [row[number] for number in kept]


def _names(head: Sequence[str], kept: Sequence[int]) -> list[str]:
    return [head[number] for number in kept]
