"""Several benchmark.json files as one table and one chart: node counts, machines, commits.

python -m engine.benchmarking.scaling_table runs/bench/nodes-1/benchmark.json runs/bench/nodes-2/benchmark.json --output
runs/bench
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import core
from engine.core import protect, write_atomic


def table(contents: Sequence[dict[str, Any]]) -> list[str]:
    """A row a case. Efficiency: real tokens a second and rank, over those of the same case on the fewest ranks."""
    from engine.benchmarking.output import markdown, mfu_text, with_range  # torch

    rows = []
    for content, case in _cases(contents):
        base = _fewest(contents, case)
        per_rank, of_base = case["tokens_per_s"] / case["world_size"], base["tokens_per_s"] / base["world_size"]
        gathered = case["gather_bytes_per_step"]
        rows.append(
            [
                str(content["machine"].get("nodes")),
                str(case["world_size"]),
                case["mode"],
                case["backbone"],
                case["label"] or "-",
                case["sharding"],
                with_range(case["step_seconds"]),
                f"{case['tokens_per_s']:,.0f}",
                f"{per_rank:,.0f}",
                f"{per_rank / of_base:.0%}",
                mfu_text(case),
                f"{gathered['intra'] / 1e6:,.1f}",
                f"{gathered['inter'] / 1e6:,.1f}",
                f"{case['phases']['gather wait']['share']:.0%}",
                f"{case['phases']['reduce']['share']:.0%}",
                content["commit"] or "-",
            ]
        )
    head = [
        "nodes",
        "ranks",
        "mode",
        "backbone",
        "case",
        "sharding",
        "step s",
        "real tokens/s",
        "a rank",
        "efficiency",
        "MFU",
        "MB from the node",
        "MB from others",
        "gather wait",
        "sums",
        "commit",
    ]
    return markdown(head, rows)


def _cases(contents: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    every = []
    for content in contents:
        every += [(content, case) for case in content["cases"]]
    return sorted(every, key=lambda pair: (*_key(pair[1]), pair[1]["world_size"]))


def _key(case: dict[str, Any]) -> tuple[Any, ...]:
    return case["mode"], case["backbone"], case["label"]


def _fewest(contents: Sequence[dict[str, Any]], case: dict[str, Any]) -> dict[str, Any]:
    """The same case on the fewest ranks."""
    return next(other for _, other in _cases(contents) if _key(other) == _key(case))  # they are in order of ranks


def main(arguments: Sequence[str] | None = None) -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="folder of scaling.md and scaling.png")
    a = parser.parse_args(arguments)
    contents, problems = _read(a.files)
    if problems:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    lines = table(contents)
    print("\n".join(lines))
    if a.output:
        a.output.mkdir(parents=True, exist_ok=True, mode=0o700)
        modes = ", ".join(sorted({content["mode"] for content in contents}))
        write_atomic(a.output / "scaling.md", "\n".join([f"# benchmark: {modes}", "", *lines, ""]))
        _chart(a.output / "scaling.png", contents)


def _read(files: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Contents of the files, and what is wrong with any of them."""
    contents, problems = [], []
    for file in files:
        try:
            contents.append(json.loads(file.read_text()))
        except FileNotFoundError:
            problems.append(f"{file} does not exist; name a benchmark.json")
        except (OSError, ValueError):
            problems.append(f"{file} is not a benchmark.json of this release")
    if problems:  # known before torch is imported
        return [], list(dict.fromkeys(problems))
    for file, content in zip(files, contents, strict=True):
        try:
            table([content])
        except (ValueError, KeyError, TypeError):
            problems.append(f"{file} is not a benchmark.json of this release")
    return contents, problems


def _chart(file: Path, contents: Sequence[dict[str, Any]]) -> None:
    """Real tokens a second of every case by ranks; dashed, what they were if they grew with the ranks."""
    series: dict[str, list[tuple[float, float]]] = {}
    for _, case in _cases(contents):
        name = " ".join(filter(None, _key(case)))
        series.setdefault(name, []).append((case["world_size"], case["tokens_per_s"]))
    ideals: dict[str, list[tuple[float, float]]] = {}
    for name, measured in series.items():
        ranks, tokens = measured[0]
        label = "ideal (in proportion to ranks)" if len(series) == 1 else f"{name}, ideal"
        ideals[label] = [(x, tokens * x / ranks) for x, _ in measured]
    core.line_chart(
        file,
        title="scaling: real tokens a second by ranks",
        across="ranks (devices)",
        upwards="real tokens/s",
        series={**series, **ideals},
        by_logs=True,
        dashed=tuple(ideals),
    )


if __name__ == "__main__":
    main()
