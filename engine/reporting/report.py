"""Results for people: report.html, one file that needs nothing else, and report.md with the same content; on the
terminal a short table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.evaluation import made_with
from engine.reporting.blocks import SUMMARY, Block, Section, Text, markdown, table
from engine.reporting.constant_columns import without_constant_columns
from engine.reporting.data import Run, gather, mean_of
from engine.reporting.figures import score_range
from engine.reporting.sections import averages_table, of_run, overview, warnings
from engine.reporting.verdict import headline, rivals, sentence
from engine.reporting.words import score

TEMPLATES = Path(__file__).parent / "templates"
WIDE = 120  # columns of a terminal that a table may take
DETAILED = 3  # of more sections, those after the first are folded, and the contents list names them alone

__all__ = ["table", "write_report"]


def write_report(
    runs: Sequence[Path],
    output: Path,
    names: Sequence[str] = (),
    vocabulary: bool = False,
    distillations: Mapping[Path, str] = MappingProxyType({}),
) -> str:
    """Write ``report.html`` and ``report.md`` into ``output``, print averages and where the files are.

    Args:
        names: of the runs, as their user wrote them; default: the paths.
        vocabulary: look up the vocabulary entries nearest to each prompt, which can leak its corpus.
        distillations: folder -> name of further ones, not evaluated, whose cost is told.

    Returns:
        What stands in report.md.

    Raises:
        UserError: a run has no results.json, or it cannot be read (all at once); ``vocabulary`` cannot be had.
    """
    found = sorted(gather(runs, names), key=lambda run: run.role != "target")  # adaptations first
    made, axis = made_with(), score_range(found)
    first = overview(found, distillations)
    blocks = without_constant_columns([first] if first.blocks else [])
    blocks += without_constant_columns([of_run(run, vocabulary, axis) for run in found])
    text = "# Results\n\n" + markdown([Text(f"Made {made['date']}."), *blocks])
    output.mkdir(parents=True, exist_ok=True, mode=0o700)
    (output / "report.html").write_text(page(blocks, made["date"]))
    (output / "report.md").write_text(text)
    print(terminal(found))
    print(f"written to {output / 'report.html'} and {output / 'report.md'}")
    return text


def page(blocks: Sequence[Block], date: str) -> str:
    """The blocks as one HTML document. Every word in it is escaped; charts are the only markup that comes from
    without the template.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = numbered(blocks)
    if len(found) > DETAILED:
        found = [found[0], *map(_folded, found[1:])]
    return environment.get_template("report.html").render(
        blocks=found, contents=contents(found), date=date, summary=SUMMARY
    )


def _folded(block: Block) -> Block:
    return replace(block, folded=True) if isinstance(block, Section) else block


def numbered(blocks: Sequence[Block], prefix: str = "s") -> list[Block]:
    """Sections with an anchor each, for the contents: s0, s0-0, s0-1, s1, …"""
    out: list[Block] = []
    number = 0
    for block in blocks:
        if isinstance(block, Section):
            anchor = f"{prefix}{number}"
            block = replace(block, blocks=numbered(block.blocks, f"{anchor}-"), anchor=anchor)
            number += 1
        out.append(block)
    return out


def contents(blocks: Sequence[Block]) -> list[tuple[Section, list[Section]]]:
    """The sections, each with those directly within it; of many sections the names alone, for the first screen."""
    out = [block for block in blocks if isinstance(block, Section)]
    if len(out) > DETAILED:
        return [(section, []) for section in out]
    return [(section, [inner for inner in section.blocks if isinstance(inner, Section)]) for section in out]


def terminal(runs: Sequence[Run]) -> str:
    """Warnings, averages, and each task's scores where they are few enough to be read on a terminal."""
    out = []
    for run in runs:
        out += [f"{run.name}: {line}" for line in warnings(run)]
    averages = averages_table(runs)
    if averages.rows:
        out.append(table([averages.head, *averages.rows]))
    for run in runs:
        columns = run.columns()
        rows = [["task", "metric", *map(" ".join, columns)]]
        for name, task in run.tasks.items():
            means = [mean_of(task, method, shots) for method, shots in columns]
            rows.append([name, task["metric"], *map(score, means)])
        text = table(rows)
        if run.tasks and text.index("\n") <= WIDE:
            out.append(f"{run.name}\n{text}")
    return "\n".join([*out, *leads(runs)])


def leads(runs: Sequence[Run]) -> list[str]:
    """The first sentence of each run that compares the metaprompt; with several, each behind its run's name."""
    found = {run.name: (run, rivals(run)) for run in runs}
    found = {name: (run, compared) for name, (run, compared) in found.items() if compared}
    out = []
    for name, (run, compared) in found.items():
        lead = sentence(headline(compared), len(run.tasks))
        out.append(f"{name}: {lead}" if len(found) > 1 else lead)
    return out
