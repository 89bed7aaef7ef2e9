"""Scores of rows to results.json, and results.json to a table."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import UserError
from engine.report import write_report
from engine.results import T95, average, summarise

CARDS = {n: SimpleNamespace(name=n, type="qa", metric="accuracy") for n in ("a", "b")}


def row(task: str, method: str, shots: str, seed: int, score: float, step: int = 5) -> dict[str, Any]:
    scores = {"accuracy": score, "macro_f1": score / 2}
    return {"task": task, "method": method, "shots": shots, "seed": seed, "scores": scores, "best_step": step, "n_dropped": 1, "n_truncated": 0}


def summary(rows: list[dict[str, Any]], role: str = "target") -> dict[str, Any]:
    return summarise(rows, CARDS, {"a": 20, "b": 30}, role)


def test_mean_spread_and_interval_by_hand() -> None:
    rows = [row("a", "metaprompt", "16", seed, score, step) for seed, score, step in ((0, 0.5, 3), (2, 0.7, 4), (7, 0.9, 5))]
    cell = summary(rows)["tasks"]["a"]["methods"]["metaprompt"]["16"]
    assert cell["mean"] == pytest.approx(0.7) and cell["std"] == pytest.approx(0.2)
    # Student's t with two degrees of freedom: 4.303 x 0.2 / sqrt(3)
    assert cell["ci95"] == pytest.approx([0.7 - 0.49686764, 0.7 + 0.49686764])
    assert (cell["seeds"], cell["values"], cell["steps"], cell["n_dropped"]) == ([0, 2, 7], [0.5, 0.7, 0.9], [3, 4, 5], 1)
    assert cell["scores"] == pytest.approx({"accuracy": 0.7, "macro_f1": 0.35})


def test_one_seed_has_no_spread() -> None:
    cell = summary([row("a", "metaprompt", "full", 0, 0.4)])["tasks"]["a"]["methods"]["metaprompt"]["full"]
    assert cell["mean"] == 0.4 and cell["std"] is None and cell["ci95"] is None


def test_a_task_in_the_contracts_form() -> None:
    found = summary([row("a", "metaprompt", "full", 0, 0.4), row("a", "metaprompt", "0", 0, 0.2), row("a", "prompt_tuning", "full", 0, 0.3)])["tasks"]
    methods = found["a"].pop("methods")
    assert found == {"a": {"type": "qa", "role": "target", "metric": "accuracy", "n_test": 20}}
    assert {m: list(by) for m, by in methods.items()} == {"metaprompt": ["full", "0"], "prompt_tuning": ["full"]}
    json.dumps(summary([row("a", "metaprompt", "full", 0, 0.4)]))


def test_quantiles_of_student_t() -> None:
    """Against their definition: the integral of the density from -t to t is 0.95."""
    from math import gamma, pi, sqrt

    for df in (1, 2, 5, 10, 30):
        scale = gamma((df + 1) / 2) / (sqrt(df * pi) * gamma(df / 2))
        n = 20_000
        width = T95[df] / n
        area = 2 * scale * sum((1 + ((i + 0.5) * width) ** 2 / df) ** (-(df + 1) / 2) * width for i in range(n))
        assert area == pytest.approx(0.95, abs=5e-5), df
    assert sorted(T95) == list(range(1, 31)) and list(T95.values()) == sorted(T95.values(), reverse=True)


def test_many_seeds_use_the_normal_quantile() -> None:
    cell = summary([row("a", "metaprompt", "16", s, 0.5 + 0.1 * (s % 2)) for s in range(40)])["tasks"]["a"]["methods"]["metaprompt"]["16"]
    assert cell["ci95"][1] - cell["mean"] == pytest.approx(1.96 * cell["std"] / 40**0.5)


def test_the_average_is_over_complete_cells_of_target_tasks_only() -> None:
    rows = [row("a", "metaprompt", "full", 0, 0.4), row("b", "metaprompt", "full", 0, 0.8), row("a", "metaprompt", "16", 0, 0.3),
            row("b", "prompt_tuning", "16", 0, 0.9), row("a", "prompt_tuning", "full", 0, 0.1), row("b", "prompt_tuning", "full", 0, 0.2)]  # fmt: skip
    found = summary(rows)
    assert found["average"] == {"metaprompt": {"full": pytest.approx(0.6)}, "prompt_tuning": {"full": pytest.approx(0.15)}}
    assert summary(rows, role="source")["average"] == {}
    mixed = {**found["tasks"], "s": summary([row("a", "metaprompt", "full", 0, 0.0)], role="source")["tasks"]["a"]}
    assert average(mixed) == found["average"]


RESULT = {
    "backbone": "tiny", "trainable": {"count": 1234, "percent": 0.04567},
    "tasks": {
        "alpha": {"type": "qa", "role": "target", "metric": "accuracy", "n_test": 18, "methods": {
            "metaprompt": {"full": {"mean": 0.5, "std": 0.1, "ci95": [0.375, 0.625], "n_dropped": 2},
                           "4": {"mean": 0.25, "std": None, "ci95": None, "n_dropped": 2},
                           "16": {"mean": 0.3, "std": None, "ci95": None, "n_dropped": 2}, "0": {"mean": 0.125, "std": None, "ci95": None, "n_dropped": 2}},
            "lora": {"full": {"mean": 0.75, "std": None, "ci95": None, "n_dropped": 2}}}},
        "be": {"type": "ner", "role": "target", "metric": "f1", "n_test": 7, "methods": {
            "metaprompt": {"full": {"mean": 1.0, "std": None, "ci95": None, "n_dropped": 0}}}},
    },
    "average": {"metaprompt": {"full": 0.75}},
}  # fmt: skip

TABLE = """\
| task               | role   | metric   | n  | dropped | lora full | metaprompt 0 | metaprompt 4 | metaprompt 16 | metaprompt full |
|--------------------|--------|----------|----|---------|-----------|--------------|--------------|---------------|-----------------|
| alpha              | target | accuracy | 18 | 2       | 0.750     | 0.125        | 0.250        | 0.300         | 0.500 ± 0.125   |
| be                 | target | f1       | 7  | 0       |           |              |              |               | 1.000           |
| average of targets |        |          |    |         |           |              |              |               | 0.750           |
"""


def written(folder: Path, result: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(result))
    return folder


def test_the_table_of_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path / "my-run", RESULT)
    text = write_report([run], tmp_path / "out")
    assert (tmp_path / "out/report.md").read_text() == text
    assert TABLE in text and f"## {run}\n\nBackbone tiny; one adapted task trains 1,234 numbers, 0.0457 % of it.\n" in text
    printed = capsys.readouterr().out
    assert TABLE in printed and str(tmp_path / "out/report.md") in printed


def test_runs_stand_one_after_another(tmp_path: Path) -> None:
    first = written(tmp_path / "first", RESULT)
    second = written(tmp_path / "second", {**RESULT, "average": {}})
    text = write_report([second, first], first)
    assert text.index(f"## {second}\n") < text.index(f"## {first}\n") and text.count("average of targets") == 1


def test_every_run_without_results_is_named(tmp_path: Path) -> None:
    good, torn = written(tmp_path / "good", RESULT), written(tmp_path / "torn", RESULT)
    (torn / "results.json").write_text('{"tasks"')
    with pytest.raises(UserError) as error:
        write_report([tmp_path / "x", good, tmp_path / "y", torn], good)
    assert [p.split(";")[0] for p in error.value.problems] == [
        f"--runs: {tmp_path / 'x'} has no results.json", f"--runs: {tmp_path / 'y'} has no results.json",
        f"--runs: {torn / 'results.json'}: not readable (JSONDecodeError)",
    ]  # fmt: skip
    assert not (good / "report.md").exists()
