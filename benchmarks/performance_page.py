"""Write docs/evidence/performance.md from the JSON under benchmarks/results/.

Each figure has the command that made it. The page begins with the cases where we are not faster.

python -m benchmarks.performance_page --results benchmarks/results --output docs/evidence/performance.md
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.page.components import attention, ceilings, loss, projection, roofline
from benchmarks.page.runs import checkpoint, evaluation, loader, long_notes, planning
from benchmarks.page.section import Content, Ratio, Section, table
from benchmarks.page.steps import gpu, lora, one_pass, vs_peft
from engine.core import protect

FASTER = 1.1  # ratios below are listed as cases where we are not faster

SECTIONS: dict[str, Callable[[Content], Section]] = {
    "gpu": gpu,
    "ceilings": ceilings,
    "vs_peft": vs_peft,
    "one_pass": one_pass,
    "lora": lora,
    "evaluation": evaluation,
    "attention": attention,
    "loss": loss,
    "projection": projection,
    "roofline": roofline,
    "loader": loader,
    "checkpoint": checkpoint,
    "long_notes": long_notes,
    "planning": planning,
}


INTRODUCTION = [
    "# Performance",
    "",
    "This page compares the speed and memory of this program with PEFT, transformers and PyTorch.",
    "A *ratio* is the peer's time or memory divided by ours. Both ran in turns on the same machine. A ratio above 1",
    "means that this program is faster or needs less memory.",
    "",
    "| to do | command |",
    "|---|---|",
    "| write this page from `benchmarks/results/` | `python -m benchmarks.performance_page` |",
    "| repeat in a quarter of an hour what two quiet cores can measure, and write this page | `make bench` |",
    "| measure your own cluster ([benchmark.md](../how_to/benchmark.md)) | `python train.py benchmark` |",
    "",
    "## Where it is not faster",
    "",
]


def page(results: Path) -> list[str]:
    """The page, from all results files that exist; it names the benchmarks without one."""
    sections, made, missing = [], [], []
    for name, build in SECTIONS.items():
        files = sorted(results.glob(f"{name}_*.json"))
        if not files:
            missing.append(f"`benchmarks/{name}.py`")
        for file in files:
            content = json.loads(file.read_text())
            section = build(content)
            section.command = section.command.replace(f"{name}_cpu.json", file.name)
            if len(files) > 1:
                name_device(section, device=file.stem.removeprefix(f"{name}_").upper())
            sections.append(section)
            made.append(made_on(content))
    ratios = list(chain.from_iterable(section.ratios for section in sections))
    out = [
        *INTRODUCTION,
        *not_faster(ratios),
    ]
    for section, where in zip(sections, made, strict=True):
        out += ["", f"## {section.title}", "", f"    {section.command}", "", *wrapped(section.lines), "", where]
    absent = f"No results of {', '.join(missing)}." if missing else "Every benchmark has results."
    out += ["", "## Not measured", "", absent]
    if not any("GPU" in where for where in made):
        out.append("Nothing on this page was measured on a GPU.")
    return [*out, ""]


def name_device(section: Section, device: str) -> None:
    """Put the device into the title and ratios of a section that several devices have."""
    section.title += f", {device}"
    section.ratios = [replace(ratio, where=f"{device}: {ratio.where}") for ratio in section.ratios]


def not_faster(ratios: Sequence[Ratio]) -> list[str]:
    """How many ratios are below FASTER, and a table of them with the lowest first."""
    slow = sorted((r for r in ratios if r.value < FASTER), key=lambda r: r.value)
    if not slow:
        return [f"None of the {len(ratios)} ratios on this page is below {FASTER}.", ""]
    verb = "is" if len(slow) == 1 else "are"
    rows = [[f"{r.value:.2f}", r.where, r.detail] for r in slow]
    head = f"Of {len(ratios)} ratios on this page {len(slow)} {verb} below {FASTER}:"
    return [head, "", *table(["ratio", "measurement", "remark"], rows)]


def wrapped(lines: Sequence[str]) -> list[str]:
    """Prose in lines of 120 columns; tables, lists and code as they are."""
    out: list[str] = []
    for line in lines:
        if line and not line.startswith(("|", "- ", " ")):
            out += textwrap.wrap(line, 120, break_long_words=False, break_on_hyphens=False)
        else:
            out.append(line)
    return out


def made_on(content: Content) -> str:
    """Machine, versions and commit of a results file; of each group of cases where they differ."""
    cases = content
    if isinstance(content, dict):
        cases = [content, *content.get("cases", []), *content.get("parts", [])]
    # Machine and versions -> the commits, each once.
    found: dict[str, dict[str, None]] = {}
    for c in cases:
        machine, versions = c.get("machine"), c.get("versions")
        if machine and versions:
            where = f"{_device(machine)}; {_libraries(versions)}"
            found.setdefault(where, {})[c.get("commit") or "unknown"] = None
    if not found:
        return f"No machine was measured; commit {content.get('commit') or 'unknown'}."
    groups = [f"{where}; commit {', '.join(commits)}" for where, commits in found.items()]
    return f"Made on: {'. '.join(groups)}."


def _device(machine: dict[str, Any]) -> str:
    if machine["gpu"]:
        return f"GPU {machine['gpu']}"
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{machine['cpu'] or 'a CPU'}, {machine['cores']} cores, {threads}"


def _libraries(versions: dict[str, Any]) -> str:
    names = ("torch", "transformers", "deepspeed", "peft")
    return ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name))


def main(arguments: Sequence[str] | None = None) -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--output", type=Path, default=Path("docs/evidence/performance.md"))
    a = parser.parse_args(arguments)
    a.output.write_text("\n".join(page(a.results)))
    print(f"written {a.output}")


if __name__ == "__main__":
    main()
