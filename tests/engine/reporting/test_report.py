"""What a report says: the numbers it was given, nothing of a note or of the machine, and where the metaprompt loses
too.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from engine.core.errors import UserError
from engine.evaluation.aggregate import paired_over_targets
from engine.recipes.finished_runs import report
from engine.reporting.comparisons import holm
from engine.reporting.data import gather, scrubbed, without_home
from engine.reporting.geometry import geometry, nearest_vocabulary
from engine.reporting.report import write_report
from tests.engine.reported_run import GAIN, TARGETS, results, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """report.md and report.html of one full run."""
    home = tmp_path_factory.mktemp("reports")
    text = write_report([write_run(home / "run")], home / "out", ["runs/full-run"])
    return text, (home / "out/report.html").read_text()


def cells(text: str, *beginning: str) -> list[list[str]]:
    """The rows of Markdown tables whose first cells are these."""
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if tuple(row[: len(beginning)]) == beginning]


def test_the_main_table_holds_means_and_both_intervals(written: tuple[str, str]) -> None:
    text, page = written
    for name, task in results()["tasks"].items():
        cell = task["methods"]["lora"]["full"]
        low, high = cell["intervals"]["accuracy"]
        shown = f"{cell['mean']:.3f} ± {cell['ci95'][1] - cell['mean']:.3f} [{low:.3f}, {high:.3f}]"
        assert shown in cells(text, name)[0]
        assert shown.replace(" [", "\n[").replace(" ± ", " <small>± ") in page


def test_a_wide_table_is_divided_between_methods(tmp_path: Path) -> None:
    found = results()
    for task in found["tasks"].values():
        task["methods"] |= {f"metaprompt@v{n}": task["methods"]["lora"] for n in range(4)}
    text = write_report([write_run(tmp_path / "run", found)], tmp_path / "out")
    heads = [line for line in text.splitlines() if re.match(r"\| task .*(metaprompt@v|lora 4)", line)]
    assert len(heads) == 2 and all(len(re.findall(r" \| ", h)) <= 1 + 12 for h in heads)
    assert all(sum(f"metaprompt@v{n} {s} " in h for h in heads) == 1 for n in range(4) for s in ("4", "full"))


def test_where_it_wins_and_loses_is_said_as_the_numbers_stand(written: tuple[str, str]) -> None:
    text, page = written
    assert "Of 6 comparisons with other methods at the same number of examples: " in text
    for method in ("prompt_tuning", "lora", "metaprompt@rank4"):
        found = paired_over_targets(results()["tasks"], method, "full")
        assert found
        row = cells(text, method, "full", f"{found['difference']:+.3f}")[0]
        low, high = found["interval"]
        clear = low > 0 or high < 0
        assert row[-1] == ("not shown to differ" if not clear else "ahead" if found["difference"] > 0 else "behind")
        assert row[4] == f"{found['won']} / {found['lost']} / {found['tied']}"
    assert cells(text, "lora", "full")[0][-1] == "behind" and cells(text, "prompt_tuning", "full")[0][-1] == "ahead"
    assert '<td class="n bad">behind</td>' in page and '<td class="n good">ahead</td>' in page


def test_every_paired_test_is_listed(written: tuple[str, str]) -> None:
    text, _ = written
    tasks = results()["tasks"]
    for name, task in tasks.items():
        for other in GAIN.keys() - {"metaprompt"}:
            for shots in ("4", "full"):
                d = task["paired"][f"metaprompt-{other}"][shots]
                adjusted = holm({t: tasks[t]["paired"][f"metaprompt-{other}"][shots]["p"] for t in tasks})[name]
                low, high = d["interval"]
                assert [
                    name,
                    other,
                    shots,
                    f"{d['difference']:+.3f}",
                    f"{low:+.3f} to {high:+.3f}",
                    f"{d['p']:.3f}",
                    f"{adjusted:.3f}",
                ] in cells(text, name)


def test_transfer_cost_and_sweeps(written: tuple[str, str]) -> None:
    text, page = written
    tasks = results()["tasks"]
    for source in ("mednli", "emrqa"):
        means = [f"{t['methods'][f'metaprompt@task:{source}']['full']['mean']:.3f}" for t in tasks.values()]
        assert [source, "full", *means] in cells(text, source)
        assert f"{source} to radnli: {means[0]} (" in page
    assert "metaprompt@task:mednli full" not in text.split("## At length")[0]  # in the matrix, not in the main table
    average = f"{results()['average']['lora']['full']:.3f}"
    assert ["lora", "full", average, "40,000", "2,000", "0.02"] in cells(text, "lora", "full")
    assert "The same in every row: shots: full." in text  # rates were tried at one number of examples alone
    assert ["metaprompt", "lr_task 0.3, relative_lr_shared 0.3", "0.620 chosen"] in cells(text, "metaprompt")


def test_curves_of_the_run_its_teachers_and_its_sweeps(written: tuple[str, str]) -> None:
    text, page = written
    assert [row[1] for row in cells(text, "this run")] == ["1", "2", "3", "4", "5"] and cells(text, "this run")[1][
        2:5
    ] == ["0.25", "0.1875", "0.0625"]
    assert [row[1] for row in cells(text, "teachers")] == ["1", "2", "3"] and [
        row[1] for row in cells(text, "lr_sweep/0")
    ] == ["1", "2"]
    assert 'aria-label="teachers"' in page and page.count("</svg>") == page.count("<svg")


def test_published_numbers_stand_only_beside_tasks_of_their_name(written: tuple[str, str]) -> None:
    text, _ = written
    assert (
        cells(text, "radnli", "0.823 (F1)")
        and cells(text, "headqa", "0.644 (accuracy)")
        and "The published scores are of another backbone" in text
    )
    assert (
        not cells(text, "pocket_medqa", "0.644 (accuracy)")
        and "The pocket_ tasks are invented notes. No published score compares with them" in text
    )


def test_warnings_changes_and_identities(written: tuple[str, str]) -> None:
    text, page = written
    line = (
        "WARNING overlap, kept in distillation: 3 of 20 test documents of radnli are in 4 training examples of "
        "mednli (3 by id)"
    )
    assert line in text and f'<p class="warning">{line}' in page
    assert "Not compared with the sources" in text and "headqa." in text
    assert (
        cells(text, "checkpoint", "c" * 64) and cells(text, "data", "d" * 64) and cells(text, "versions", "torch 9.9.9")
    )
    assert cells(text, "evaluated", "2026-01-02 03:04 UTC") and "shots:\n  - '4'\n  - full" in text
    assert (
        "&lt;yes&gt;" in page and "<yes>" not in page and "tiny &amp; &lt;small&gt;" in page
    )  # words are never markup


def test_nothing_of_notes_or_of_the_machine_is_told(
    written: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report([write_run(tmp_path / "run")], tmp_path / "out", ["runs/full-run"])
    for text in (*written, capsys.readouterr().out.split("written to")[0]):
        assert not re.search(r"patient-77|a note\b|/home|/data|someone|secret|/tmp", text)
    for shown in ("…/notes.txt", "root: …/corpora", "backbone: cards/tiny.yaml"):
        assert shown in written[0]
    assert "by label" not in capsys.readouterr().out


def test_paths_lose_the_machine() -> None:
    assert scrubbed({"a": ["/x/y/z", "runs/a", "0.1/0.2 a/b", "$DATA/x/y", "~/runs/a", 3]}) == {
        "a": ["…/z", "runs/a", "0.1/0.2 a/b", "…/y", "…/a", 3]
    }
    assert (without_home("/home/ann/runs/a"), without_home("runs/a"), without_home(str(Path.home() / "r"))) == (
        "~/runs/a",
        "runs/a",
        "~/r",
    )


def test_a_bare_run_has_a_report_too(tmp_path: Path) -> None:
    """Results of an older release: no pairs, no hashes, no configuration, a checkpoint that cannot be read."""
    cell = {"mean": 0.5, "std": None, "ci95": None, "n_dropped": 0}
    found = {
        "tasks": {
            "radnli": {
                "type": "nli",
                "role": "source",
                "metric": "accuracy",
                "n_test": 5,
                "methods": {"teacher": {"full": cell}},
            }
        },
        "average": {},
        "trainable": {"count": 1, "percent": 0.1},
        "backbone": "b",
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.json").write_text(json.dumps(found))
    text = write_report([tmp_path / "run"], tmp_path / "out")
    assert (
        cells(text, "radnli", "source", "accuracy", "5", "0", "0.500")
        and "Not drawn: …/run: holds no finished run" in text
    )
    assert "not recorded" in text and "Paired tests" not in text and "Published numbers" not in text


def test_several_runs_are_compared_first(tmp_path: Path) -> None:
    other = results()
    for task in other["tasks"].values():
        task["methods"]["metaprompt"]["full"]["mean"] += 0.01
    other["average"]["metaprompt"]["full"] += 0.01
    text = write_report([write_run(tmp_path / "a"), write_run(tmp_path / "b", other)], tmp_path / "out", ["a", "b"])
    glance = text[: text.index("## Adaptation: a\n")]
    first, second = (f"{v['average']['metaprompt']['full']:.3f}" for v in (results(), other))
    assert "The same in every row: average of: 3 targets." in glance
    assert cells(glance, "a", "metaprompt")[0][-1].startswith(first)
    assert cells(glance, "b", "metaprompt")[0][-1].startswith(second)
    assert "### The metaprompt, by run" in glance and "do not compare" not in glance
    del other["tasks"]["headqa"]
    text = write_report([tmp_path / "a", write_run(tmp_path / "c", other)], tmp_path / "out", ["a", "c"])
    assert (
        "> The runs have other targets" in text
        and "### The metaprompt, by run" not in text
        and cells(text, "c", "2 targets", "metaprompt")
    )


def test_one_row_of_each_task_and_method_and_what_is_left_out(tmp_path: Path) -> None:
    found = geometry(write_run(tmp_path / "run"))
    assert [(r["task"], r["method"], r["shots"]) for r in found.labels] == [
        ("P*", "metaprompt", ""),
        ("radnli", "metaprompt", "full"),
        ("headqa", "metaprompt", "full"),
        ("radnli", "prompt_tuning", "full"),
        ("headqa", "prompt_tuning", "full"),
    ]
    assert found.left_out == {"of other shots and seeds": 2} and geometry(tmp_path / "run", 3).left_out == {
        "of other shots and seeds": 2,
        "beyond 3": 1,
    }


def test_nearest_entries_only_on_request_and_with_a_warning(tmp_path: Path, written: tuple[str, str]) -> None:
    assert "Nearest vocabulary" not in written[0]
    run = write_run(tmp_path / "run")
    card = tmp_path / "card.yaml"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "backbone": str(card)}))
    tokenizer = Path("backbones/pocket/llama/tokenizer.model").resolve()
    card.write_text(f"{{name: drawn, random: {{model_type: llama}}, tokenizer: {tokenizer}}}")
    with pytest.raises(UserError, match="--vocabulary: drawn has no weight files"):
        report([str(run)], str(tmp_path / "out"), "true")
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file({"model.norm.weight": torch.ones(3)}, weights / "model.safetensors")
    card.write_text(f"{{name: own, path: {weights}, tokenizer: {tokenizer}}}")
    with pytest.raises(UserError, match="none of its tensors ends in embed_tokens.weight"):
        report([str(run)], str(tmp_path / "out"), "true")
    shown = geometry(run).prompts
    save_file(
        {"model.embed_tokens.weight": torch.cat([torch.zeros(50, 3), 2 * shown[1, :1], shown[0]])},
        weights / "model.safetensors",
    )
    report([str(run)], str(tmp_path / "out"), "true")
    text = (tmp_path / "out/report.md").read_text()
    assert "A prompt is derived from its corpus and can leak it" in text and cells(text, "1  P* metaprompt", "1.000")
    assert nearest_vocabulary(shown, str(card))[0][0][1] == pytest.approx(1.0)
    with pytest.raises(UserError, match="prompts are 4 wide, own 3"):
        nearest_vocabulary(torch.ones(1, 2, 4), str(card))
    with pytest.raises(UserError, match="must be true or false; got 'perhaps'"):
        report([str(run)], "", "perhaps")


def test_gathered_runs_keep_the_order_of_methods(tmp_path: Path) -> None:
    run = gather([write_run(tmp_path / "run")])[0]
    assert [m for m, _ in run.columns()[::2]] == [
        "metaprompt",
        "metaprompt@rank4",
        "prompt_tuning",
        "lora",
        "instruction",
    ]
    assert run.curves.keys() == {"", "teachers", "lr_sweep/0"} and set(TARGETS) == run.tasks.keys()
