"""``plan --sweep``: one setting after another, as a table, as bars in the terminal, and as a PNG.

Of nodes and GPUs two curves: strong scaling leaves the step as it is configured, weak scaling gives every device as
many examples as it has at the first point.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import core
from engine.config import RunConfig
from engine.core import aligned_columns
from engine.distributed import Machine
from engine.planning.flags import Sweep
from engine.planning.format import bound, duration, hours, percent, yes_no
from engine.planning.planner import EXAMPLES_KEY, Case, Planner, StageTime

DEVICES = ("nodes", "gpus_per_node")
BAR = 40  # letters of the longest
IDEAL = "ideal (in proportion)"  # of a chart: what the smallest machine would reach, multiplied


@dataclass(frozen=True)
class Point:
    """One value. strong: with the step as configured. weak: with as many examples a device as at the first value;
    None where the number of devices stays.
    """

    value: int
    strong: Case
    weak: Case | None
    stage: str

    def of(self, case: Case) -> StageTime:
        return next(s for s in case.stages if s.work.name == self.stage)

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"value": self.value}
        for name, case in (("strong", self.strong), ("weak", self.weak)):
            if case is not None:
                stage = self.of(case)
                out[name] = {
                    "stage": self.stage,
                    "tokens_per_s": stage.tokens_per_s,
                    "step_seconds": stage.step.total,
                    "terms": stage.step.terms,
                    "mfu": stage.mfu,
                    "binding": stage.step.binding,
                    "sharding": case.need.sharding,
                    "fits": case.need.fits(case.machine),
                    "node_hours": case.node_hours,
                }
        return out


def scaling(planner: Planner, config: RunConfig, machine: Machine, sweep: Sweep) -> list[Point]:
    """Cases at every value; of them the longest stage at the first one."""
    points: list[Point] = []
    stage = ""
    for value in sweep.values:
        here, settings = machine, config
        if sweep.key == "nodes":
            here = replace(machine, nodes=value)
        elif sweep.key == "gpus_per_node":
            here = replace(machine, ranks_per_node=value)
        else:
            settings = replace(copy.deepcopy(config), max_tokens_per_micro_batch=value)
        strong = planner.case(settings, here)
        stage = stage or strong.main.work.name
        weak = None
        if sweep.key in DEVICES and points:
            first = points[0].strong.machine.world
            weak = planner.case(grown(config, here.world / first), here)
        elif sweep.key in DEVICES:
            weak = strong
        points.append(Point(value, strong, weak, stage))
    return points


def grown(config: RunConfig, times: float) -> RunConfig:
    """So many times as many examples in a step of every stage."""
    out = copy.deepcopy(config)
    for section, leaf in sorted(set(EXAMPLES_KEY.values())):
        part = getattr(out, section)
        setattr(part, leaf, max(1, round(getattr(part, leaf) * times)))
    return out


def sweep_lines(sweep: Sweep, points: Sequence[Point]) -> list[str]:
    """Tables and bars."""
    strong = [(point, point.strong) for point in points]
    if sweep.key not in DEVICES:
        curves = {f"By {sweep.key}": strong}
    else:
        curves = {
            "Strong scaling: the step as configured": strong,
            "Weak scaling: examples a step grow with the devices": weak_cases(points),
        }
    out: list[str] = []
    for title, cases in curves.items():
        rows = _rows(sweep.key, cases)
        bars = [(str(point.value), point.of(case).tokens_per_s) for point, case in cases]
        out += [f"{title} ({points[0].stage})", "", *aligned_columns(rows), "", *_bars(sweep.key, bars), ""]
    return out[:-1]


def weak_cases(points: Sequence[Point]) -> list[tuple[Point, Case]]:
    return [(point, point.weak) for point in points if point.weak is not None]


def _rows(key: str, cases: Sequence[tuple[Point, Case]]) -> list[list[str]]:
    """A table of a curve; times and efficiency against its first point."""
    head = f"{key},sharding,a step,real tokens/s,times,efficiency,MFU,node-hours,bound by,fits"
    rows = [head.split(",")]
    first, base = cases[0]
    for point, case in cases:
        stage = point.of(case)
        times = stage.tokens_per_s / first.of(base).tokens_per_s
        efficiency = times / (case.machine.world / base.machine.world)
        rows.append(
            [
                str(point.value),
                case.need.sharding,
                duration(stage.step.total),
                f"{stage.tokens_per_s:,.0f}",
                f"{times:.2f}",
                f"{efficiency:.0%}",
                percent(stage.mfu, 1),
                hours(case.node_hours),
                bound(stage.step),
                yes_no(case.need.fits(case.machine)),
            ]
        )
    return rows


def _bars(key: str, bars: Sequence[tuple[str, float]]) -> list[str]:
    names, values = zip(*bars, strict=True)
    most, wide = max(values), max(map(len, names))
    out = []
    for name, value in bars:
        bar = "#" * max(1, round(BAR * value / most))
        out.append(f"{key} {name.rjust(wide)} {bar} {value:,.0f} real tokens/s")
    return out


def drawn(sweep: Sweep, points: Sequence[Point], file: Path, title: str) -> None:
    """Real tokens a second against the swept setting, both by their logarithms, as a PNG."""
    strong = [(float(p.value), p.of(p.strong).tokens_per_s) for p in points]
    series = {"predicted": strong}
    if sweep.key in DEVICES:
        weak = [(float(point.value), point.of(case).tokens_per_s) for point, case in weak_cases(points)]
        ideal = [(x, strong[0][1] * x / points[0].value) for x, _ in strong]
        series = {"strong scaling": strong, "weak scaling": weak, IDEAL: ideal}
    core.line_chart(
        file,
        title=f"{title}: {points[0].stage}, real tokens/s",
        across=sweep.key,
        upwards="real tokens/s",
        series=series,
        by_logs=True,
        dashed=(IDEAL,),
    )
