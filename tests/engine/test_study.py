"""The study's choices and comparison on made-up results, and the page it writes."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from engine.study import GRID, METHODS, SEEDS, SHOTS, best_rates, compare
from engine.study_report import write_study


def cell(values: list[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    return {"values": values, "mean": mean, "std": (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5}


def methods(metaprompt: list[float], prompt_tuning: list[float]) -> dict[str, Any]:
    return {"metaprompt": {s: cell(metaprompt) for s in SHOTS}, "prompt_tuning": {s: cell(prompt_tuning) for s in SHOTS}}


TASKS = {
    "pocket_a": {"metric": "accuracy", "methods": methods([0.5, 0.6, 0.7], [0.4, 0.6, 0.5])},
    "pocket_b": {"metric": "rougeL", "methods": methods([0.3, 0.2, 0.1], [0.2, 0.4, 0.3])},
}


def test_each_method_and_number_of_shots_has_its_own_best_rate() -> None:
    scores = {
        "metaprompt": {"16": [0.1, 0.4, 0.2, 0.3], "full": [0.5, 0.4, 0.2, 0.1]},
        "prompt_tuning": {"16": [0.1, 0.1, 0.2, 0.9], "full": [0.1, 0.2, 0.3, 0.2]},
    }
    tuning = [{"average": {m: {s: scores[m][s][i] for s in ("16", "full")} for m in METHODS}} for i in range(4)]
    assert best_rates(tuning) == {"metaprompt": {"16": 1, "full": 0}, "prompt_tuning": {"16": 3, "full": 2}}


def test_both_methods_are_tuned_with_equal_effort() -> None:
    assert set(GRID) == set(METHODS) and len({len(rates) for rates in GRID.values()}) == 1


def test_the_difference_is_paired_by_seed() -> None:
    found = compare(TASKS, "16")
    # averages by seed: metaprompt 0.4 0.4 0.4, prompt tuning 0.3 0.5 0.4; differences 0.1 -0.1 0.0, their deviation 0.1
    assert found["averages"] == {"metaprompt": pytest.approx(0.4), "prompt_tuning": pytest.approx(0.4)}
    assert found["difference"] == pytest.approx(0.0) and found["interval"][1] == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert (found["won"], found["lost"]) == (1, 1)


def test_the_page_and_its_figure(tmp_path: Path) -> None:
    tuning = [{m: dict.fromkeys(SHOTS, 0.1 * i) for m in METHODS} for i in range(4)]
    best = {m: dict.fromkeys(SHOTS, 3) for m in METHODS}
    found = {"best": best, "tuning": tuning, "tasks": TASKS, "comparison": {s: compare(TASKS, s) for s in SHOTS}}
    outcome = {"backbone": "mine", "seeds": SEEDS, "grid": GRID, "budgets": {"5": found, "100": found}}
    write_study(outcome, tmp_path / "docs/results.md")
    text = " ".join((tmp_path / "docs/results.md").read_text().split())
    assert "-0.248 to +0.248 | 1 / 1 |" in text and "| 5 | 16 | 0.400 | 0.400 |" in text and "| 100 | 16 | 0.400" in text
    assert "0.600 ± 0.100" in text and "(results.svg)" in text and "lr_prompt 0.3 | 0.300 *" in text
    assert text.index("## After 5 steps") < text.index("## After 100 steps")
    figure = ElementTree.parse(tmp_path / "docs/results.svg").getroot()
    bars = [float(r.attrib["width"]) for r in figure.iter("{http://www.w3.org/2000/svg}rect") if r.attrib.get("height") == "12" and r.attrib["x"] != "10"]
    assert len([b for b in bars if b > 12]) == 2 * 2 * 2 * len(SHOTS) and max(bars) == pytest.approx(0.6 * 130)
