"""Scores of rows to results.json, and results.json to a table."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import clinical_tasks
from engine.core.errors import UserError
from engine.evaluation.aggregate import T95, average, identities, made_with, summarise
from engine.reporting.report import write_report

CARDS = {n: SimpleNamespace(name=n, type="qa", metric="accuracy") for n in ("a", "b")}


def row(task: str, method: str, shots: str, seed: int, score: float, step: int = 5) -> dict[str, Any]:
    scores = {"accuracy": score, "macro_f1": score / 2}
    return {
        "task": task,
        "method": method,
        "shots": shots,
        "seed": seed,
        "scores": scores,
        "best_step": step,
        "n_dropped": 1,
        "n_truncated": 0,
    }


def summary(rows: list[dict[str, Any]], role: str = "target") -> dict[str, Any]:
    return summarise(rows, cards=CARDS, n_test={"a": 20, "b": 30}, role=role)


def test_mean_spread_and_interval_by_hand() -> None:
    rows = [
        row("a", "metaprompt", "16", seed, score, step) for seed, score, step in ((0, 0.5, 3), (2, 0.7, 4), (7, 0.9, 5))
    ]
    cell = summary(rows)["tasks"]["a"]["methods"]["metaprompt"]["16"]
    assert cell["mean"] == pytest.approx(0.7) and cell["std"] == pytest.approx(0.2)
    # Student's t with two degrees of freedom: 4.303 x 0.2 / sqrt(3)
    assert cell["ci95"] == pytest.approx([0.7 - 0.49686764, 0.7 + 0.49686764])
    assert (cell["seeds"], cell["values"], cell["steps"], cell["n_dropped"]) == (
        [0, 2, 7],
        [0.5, 0.7, 0.9],
        [3, 4, 5],
        1,
    )
    assert cell["scores"] == pytest.approx({"accuracy": 0.7, "macro_f1": 0.35})


def test_one_seed_has_no_spread() -> None:
    cell = summary([row("a", "metaprompt", "full", 0, 0.4)])["tasks"]["a"]["methods"]["metaprompt"]["full"]
    assert cell["mean"] == 0.4 and cell["std"] is None and cell["ci95"] is None


def test_a_task_in_the_contracts_form() -> None:
    found = summary(
        [
            row("a", "metaprompt", "full", 0, 0.4),
            row("a", "metaprompt", "0", 0, 0.2),
            row("a", "prompt_tuning", "full", 0, 0.3),
        ]
    )["tasks"]
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
    cell = summary([row("a", "metaprompt", "16", s, 0.5 + 0.1 * (s % 2)) for s in range(40)])["tasks"]["a"]["methods"][
        "metaprompt"
    ]["16"]
    assert cell["ci95"][1] - cell["mean"] == pytest.approx(1.96 * cell["std"] / 40**0.5)


def test_the_average_is_over_complete_cells_of_target_tasks_only() -> None:
    rows = [
        row("a", "metaprompt", "full", 0, 0.4),
        row("b", "metaprompt", "full", 0, 0.8),
        row("a", "metaprompt", "16", 0, 0.3),
        row("b", "prompt_tuning", "16", 0, 0.9),
        row("a", "prompt_tuning", "full", 0, 0.1),
        row("b", "prompt_tuning", "full", 0, 0.2),
    ]
    found = summary(rows)
    assert found["average"] == {
        "metaprompt": {"full": pytest.approx(0.6)},
        "prompt_tuning": {"full": pytest.approx(0.15)},
    }
    assert summary(rows, role="source")["average"] == {}
    mixed = {**found["tasks"], "s": summary([row("a", "metaprompt", "full", 0, 0.0)], role="source")["tasks"]["a"]}
    assert average(mixed) == found["average"]


def test_intervals_over_documents_are_of_the_mean_over_seeds() -> None:
    """Resample by resample: the seeds were scored on the same documents, so what two seeds share does not average
    out.
    """
    ramp = np.linspace(0.2, 0.6, 1001)
    sides = {"up": ramp, "same": ramp + 0.2, "down": ramp[::-1]}
    cells = {}
    for other in ("same", "down"):
        rows = [
            {**row("a", "metaprompt", "16", n, 0.4), "replicates": {"accuracy": sides[side]}}
            for n, side in enumerate(("up", other))
        ]
        cells[other] = summary(rows)["tasks"]["a"]["methods"]["metaprompt"]["16"]["intervals"]["accuracy"]
    assert cells["same"] == pytest.approx([0.31, 0.69]) and cells["down"] == pytest.approx([0.4, 0.4])
    # One seed without replicates: no interval rather than that of the others.
    rows[1]["replicates"] = {}
    assert "intervals" not in summary(rows)["tasks"]["a"]["methods"]["metaprompt"]["16"]


def test_what_a_checkpoint_came_from_is_named_without_its_settings() -> None:
    hashes = {"config": {"seed": 0}, "data": "d", "backbone": "b", "teachers": "", "sources": {"metaprompt": "m"}}
    assert identities(hashes) == {"data": "d", "backbone": "b", "sources.metaprompt": "m"}
    assert identities({"data": "d", "sources": ["a", "b"]}) == {"data": "d"}
    assert {"python", "torch", "transformers"} <= made_with()["versions"].keys() and made_with()["date"].endswith(
        " UTC"
    )


def test_labels_are_means_over_the_seeds_that_have_them() -> None:
    one = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 4, "predicted": 8}
    other = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 4, "predicted": 2}
    rows = [
        {**row("a", "metaprompt", "16", 0, 0.4), "labels": {"yes": one}},
        {**row("a", "metaprompt", "16", 1, 0.4), "labels": {"yes": other, "no": one}},
    ]
    found = summary(rows)["tasks"]["a"]["methods"]["metaprompt"]["16"]["labels"]
    assert found == {
        "yes": {"precision": 0.75, "recall": 0.75, "f1": pytest.approx(2 / 3), "support": 4, "predicted": 5},
        "no": one,
    }


def long_notes(folder: Path) -> tuple[clinical_tasks.TaskCard, list[clinical_tasks.Example]]:
    """Three notes, one of them cut into pieces, which parts the ends of one of its two relations."""
    (folder / "mine").mkdir(parents=True)
    text = "We gave aspirin for pain today. The next day there was a rash too."
    for name in ("a", "b", "c"):
        (folder / "mine" / f"{name}.txt").write_text(text if name == "a" else "Given aspirin. A rash.")
        (folder / "mine" / f"{name}.ann").write_text(
            (
                "T1\tDrug 8 15\taspirin\nT2\tProblem 20 24\tpain\nT3\tProblem 57 61\trash\nR1\tTreats Arg1:T1 "
                "Arg2:T2\nR2\tCauses Arg1:T1 Arg2:T3\n"
            )
            if name == "a"
            else "T1\tDrug 6 13\taspirin\nT2\tProblem 17 21\trash\nR1\tCauses Arg1:T1 Arg2:T2\n"
        )
    (folder / "mine.yaml").write_text(
        "{name: mine, type: re, reader: brat, licence: none, access: none, splits: {test: '*.txt'}, labels: "
        "{Treats: treats, Causes: causes},\n"
        ' input: "{text}", metric: relation_f1, extra_metrics: [relation_f1_lenient]}'
    )
    card = clinical_tasks.load_card(folder / "mine.yaml")
    whole = clinical_tasks.read_split(card, folder, "test")
    return card, [
        p for e in whole for p in clinical_tasks.split_long(e, card, lambda text, answer: len(text) + len(answer) < 80)
    ]


def test_cut_relations_rules_intervals_and_labels_go_from_answers_to_the_report(tmp_path: Path) -> None:
    card, pieces = long_notes(tmp_path)
    assert [p.document for p in pieces] == ["a", "a", "b", "c"]
    outcome = clinical_tasks.evaluate(card, pieces, [*(p.answer_text for p in pieces[:3]), "aspirin | treats | rash"])
    labels = {"task": "mine", "method": "metaprompt", "shots": "full", "seed": 0}
    row = {**labels, **vars(outcome), "best_step": 1, "n_dropped": 0, "n_truncated": 0}
    tasks = summarise([row], cards={"mine": card}, n_test={"mine": len(pieces)}, role="target")["tasks"]
    tasks["mine"] |= {
        "rules": {m: clinical_tasks.rule(card, m) for m in ("relation_f1", "relation_f1_lenient")},
        "answers": "generated",
    }
    cell = json.loads(json.dumps(tasks))["mine"]["methods"]["metaprompt"]["full"]
    # Four gold relations, one of them cut: two found, one of the wrong type.
    assert (cell["scores"]["n_cut"], cell["scores"]["n_gold"], cell["scores"]["n_pieces"], cell["mean"]) == (
        1,
        4,
        4,
        pytest.approx(4 / 7),
    )
    assert cell["labels"]["Causes"] == {
        "precision": 1.0,
        "recall": pytest.approx(1 / 3),
        "f1": 0.5,
        "support": 3,
        "predicted": 1,
    }
    assert tasks["mine"]["resampling"] == {
        "unit": "document",
        "n_documents": 3,
        "resamples": 1000,
        "seed": 0,
        "level": 0.95,
    }
    low, high = cell["intervals"]["relation_f1"]
    assert low < cell["mean"] < high and set(cell["intervals"]) == {m for m in cell["scores"] if not m.startswith("n_")}
    run = written(tmp_path / "run", {**RESULT, "tasks": tasks, "average": {}})
    text = write_report([run], tmp_path / "out")
    assert f"| 0.571 [{low:.3f}, {high:.3f}] |" in text
    assert (
        "- mine: relation_f1, micro over Treats, Causes: sets of (document, type, both ends' spans and types); "
        "answers generated.\n"
    ) in text
    assert "- mine: 3 documents, 1000 resamples, seed 0.\n" in text
    assert "- mine: relations cut in two with their long documents, counted as missed: 1.\n" in text
    assert (
        f"""### mine, by label (Adaptation: {run})

| label  | support | metaprompt full (P R F1) |
|--------|---------|--------------------------|
| Causes | 3       | 1.000 0.333 0.500        |
| Treats | 1       | 0.500 1.000 0.667        |
"""
        in text
    )


RESULT = {
    "backbone": "tiny",
    "trainable": {"count": 1234, "percent": 0.04567},
    "tasks": {
        "alpha": {
            "type": "qa",
            "role": "target",
            "metric": "accuracy",
            "n_test": 18,
            "methods": {
                "metaprompt": {
                    "full": {"mean": 0.5, "std": 0.1, "ci95": [0.375, 0.625], "n_dropped": 2},
                    "4": {"mean": 0.25, "std": None, "ci95": None, "n_dropped": 2},
                    "16": {"mean": 0.3, "std": None, "ci95": None, "n_dropped": 2},
                    "0": {"mean": 0.125, "std": None, "ci95": None, "n_dropped": 2},
                },
                "lora": {"full": {"mean": 0.75, "std": None, "ci95": None, "n_dropped": 2}},
            },
        },
        "be": {
            "type": "ner",
            "role": "target",
            "metric": "f1",
            "n_test": 7,
            "methods": {"metaprompt": {"full": {"mean": 1.0, "std": None, "ci95": None, "n_dropped": 0}}},
        },
    },
    "average": {"metaprompt": {"full": 0.75}},
}

TABLE = """\
The same in every row: role: target.

| task               | metric   | n  | dropped | metaprompt 0 \
| metaprompt 4 | metaprompt 16 | metaprompt full | lora full |
|--------------------|----------|----|---------|--------------\
|--------------|---------------|-----------------|-----------|
| alpha              | accuracy | 18 | 2       | 0.125        \
| 0.250        | 0.300         | 0.500 ± 0.125   | 0.750     |
| be                 | f1       | 7  | 0       |              \
|              |               | 1.000           |           |
| average of targets |          |    |         |              \
|              |               | 0.750           |           |
"""

SHORT = """\
| run    | average of | method     | full  |
|--------|------------|------------|-------|
| my-run | 2 targets  | metaprompt | 0.750 |

my-run
| task  | metric   | metaprompt 0 | metaprompt 4 | metaprompt 16 | metaprompt full | lora full |
|-------|----------|--------------|--------------|---------------|-----------------|-----------|
| alpha | accuracy | 0.125        | 0.250        | 0.300         | 0.500           | 0.750     |
| be    | f1       |              |              |               | 1.000           |           |

"""


def written(folder: Path, result: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(result))
    return folder


def test_the_table_of_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # wherever the command is given
    run = written(tmp_path / "my-run", RESULT)
    text = write_report([run], tmp_path / "out", ["my-run"])
    assert (tmp_path / "out/report.md").read_text() == text
    assert (
        TABLE in text
        and "## Adaptation: my-run\n\nBackbone tiny; one adapted task trains 1,234 numbers, 0.0457 % of it.\n" in text
    )
    printed = capsys.readouterr().out
    assert printed == f"{SHORT}written to {tmp_path / 'out/report.html'} and {tmp_path / 'out/report.md'}\n"


def test_runs_stand_one_after_another(tmp_path: Path) -> None:
    first = written(tmp_path / "first", RESULT)
    second = written(tmp_path / "second", {**RESULT, "average": {}})
    text = write_report([second, first], first)
    assert (
        text.index(f"## Adaptation: {second}\n") < text.index(f"## Adaptation: {first}\n")
        and text.count("average of targets") == 1
    )


def test_every_run_without_results_is_named(tmp_path: Path) -> None:
    good, torn = written(tmp_path / "good", RESULT), written(tmp_path / "torn", RESULT)
    (torn / "results.json").write_text('{"tasks"')
    with pytest.raises(UserError) as error:
        write_report([tmp_path / "x", good, tmp_path / "y", torn], good)
    assert [p.split(";")[0] for p in error.value.problems] == [
        f"--runs: {tmp_path / 'x'} has no results.json",
        f"--runs: {tmp_path / 'y'} has no results.json",
        f"--runs: {torn / 'results.json'}: not readable (JSONDecodeError)",
    ]
    assert not (good / "report.md").exists()
