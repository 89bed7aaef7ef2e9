"""What the first screen answers, and what every table and axis of a report keeps to."""

import re
from pathlib import Path

import pytest

from engine.evaluation.aggregate import average
from engine.reporting.blocks import Cell, Section, Table
from engine.reporting.constant_columns import shortened, without_constant_columns
from engine.reporting.data import gather
from engine.reporting.figures.axes import short
from engine.reporting.figures.score_figures import score_range
from engine.reporting.report import write_report
from engine.reporting.verdict import answer, rivals, sentence
from engine.reporting.words import significant
from tests.engine.reported_demo import demo_results, write_demo
from tests.engine.reported_run import write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """report.md and report.html."""
    home = tmp_path_factory.mktemp("demo")
    text = write_report(write_demo(home), home / "out", ["runs/demo/distill", "runs/demo/adapt"])
    return text, (home / "out/report.html").read_text()


def test_the_first_screen_says_who_wins_by_how_much_and_at_which_cost(demo: tuple[str, str]) -> None:
    first = demo[0].split("## Adaptation: runs/demo/adapt")[0]
    (lead,) = re.findall(r".*With 16 examples the metaprompt scores .*", first)
    assert re.search(
        r"scores 0\.921 on average over 10 target tasks, prompt tuning 0\.901; "
        r"difference \+0\.020 \(95 % interval \+0\.019 to \+0\.022; 3 seeds\)\.$",
        lead,
    )
    assert "Yes: the metaprompt is ahead of the best other method at every number of training examples." in lead
    (head,) = re.findall(r"\| method .*trained numbers per task.*", first)
    assert re.findall(r"[\w -]+\w", head) == [
        " method",
        " no examples",
        " 16 examples",
        " all examples",
        " trained numbers per task",
        " device-hours per task",
    ]
    (row,) = re.findall(r"\| prompt_tuning .*3,072.*", first)
    assert "0.901 (+0.020; +0.019 to +0.022)" in row and "0.0053" in row
    assert "- Without training examples the metaprompt scores" in first and "- With all examples" in first


def test_the_terminal_says_the_same_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write_report(write_demo(tmp_path), tmp_path / "out", ["runs/demo/distill", "runs/demo/adapt"])
    lead = capsys.readouterr().out.splitlines()[-2]
    assert lead.startswith("With 16 examples the metaprompt scores") and lead in text


def test_adaptation_stands_before_distillation_and_all_is_in_the_contents(demo: tuple[str, str]) -> None:
    text, page = demo
    titles = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert titles[:3] == ["Does the metaprompt win?", "Adaptation: runs/demo/adapt", "Distillation: runs/demo/distill"]
    contents = page[page.index("<nav") : page.index("</nav>")]
    for anchor, title in re.findall(r'<section id="(s[\d-]+)">\s*<h[23]>(.*?)</h', page):
        assert f'<a href="#{anchor}">{title}</a>' in contents


def test_one_seed_has_no_interval_and_no_verdict(tmp_path: Path) -> None:
    run = gather([write_run(tmp_path / "run", demo_results("target", seeds=(0,)))])[0]
    found = rivals(run)
    assert answer(found) == ""
    assert [rival.method for rival in found] == ["prompt_tuning"] * 3
    for rival in found:
        assert sentence(rival).endswith("(one seed: no interval, no verdict).")


@pytest.mark.parametrize(
    "gain, wanted",
    [
        (0.02, "Yes: the metaprompt is ahead of"),
        (-0.02, "No: the metaprompt is behind"),
        (0.0, "Not shown: the metaprompt and the best other method do not clearly differ"),
    ],
)
def test_the_answer_follows_the_intervals(tmp_path: Path, gain: float, wanted: str) -> None:
    run = gather([write_run(tmp_path / "run", demo_results("target", gain=gain))])[0]
    assert answer(rivals(run)).startswith(wanted)


def test_a_mixed_answer_names_the_numbers_of_examples(tmp_path: Path) -> None:
    found = demo_results("target")
    for task in found["tasks"].values():
        cell = task["methods"]["metaprompt"]["full"]
        cell["values"] = [value - 0.05 for value in cell["values"]]
    run = gather([write_run(tmp_path / "run", found)])[0]
    wanted = "It depends on the number of training examples. The metaprompt is ahead with 16 examples; behind with all"
    assert answer(rivals(run)).startswith(wanted)


def test_a_missing_verdict_shows_no_dependence_on_the_number_of_examples(tmp_path: Path) -> None:
    found = demo_results("target")
    for task in found["tasks"].values():
        for method in ("metaprompt", "prompt_tuning"):
            cell = task["methods"][method]["16"]
            cell["seeds"], cell["values"] = cell["seeds"][:1], cell["values"][:1]
    run = gather([write_run(tmp_path / "run", found)])[0]
    wanted = (
        "The verdict is not the same at every number of training examples. The metaprompt is without a verdict (one "
        "seed) with 16 examples; ahead with all examples."
    )
    assert answer(rivals(run)) == wanted


def test_the_strongest_other_method_is_named_and_no_variant_of_ours(tmp_path: Path) -> None:
    run = gather([write_run(tmp_path / "run")])[0]
    found = {rival.shots: rival for rival in rivals(run)}
    assert found["4"].method == "lora" and "the best other method (LoRA)" in sentence(found["4"])


def test_constant_columns_are_said_once_above_the_table() -> None:
    rows = [["a", "target", "f1", "50", Cell("0.5")], ["b", "target", "acc", "50", Cell("0.5")]]
    table = Table(["task", "role", "metric", "n", "score"], [*rows, ["average of targets", "", "", "", "0.5"]], 3)
    found = shortened(table)
    assert found.head == ["task", "metric", "score"] and found.words == 2
    assert found.common == "The same in every row: role: target; n: 50."
    assert list(found.rows[-1]) == ["average of targets", "", "0.5"]  # scores stay though they are the same
    assert shortened(Table(table.head, rows[:1], 3)).head == table.head  # one row is no column of the same
    (section,) = without_constant_columns([Section("t", [table])])
    assert isinstance(section, Section) and section.blocks == [found]


def test_score_axes_end_at_one_and_share_their_range(demo: tuple[str, str], tmp_path: Path) -> None:
    runs = gather(write_demo(tmp_path))
    assert score_range(runs) == (0.4, 1.0)  # the lowest interval of the two runs lies below 0.5
    page = demo[1]
    charts = re.findall(r'<svg class="chart fit".*?</svg>', page, re.DOTALL)
    shared = set()
    for chart in charts:
        if "training examples" in chart or "score against" in chart:
            shared.add(tuple(re.findall(r'text-anchor="end">([\d.]+)</text>', chart)))
    assert shared == {("0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")}


def test_several_runs_are_counted_and_compared_in_one_table(tmp_path: Path) -> None:
    folders = []
    for name, gain in (("factors", -0.02), ("all", 0.02)):
        folders.append(write_run(tmp_path / name, demo_results("target", gain=gain)))
    text = write_report(folders, tmp_path / "out", ["runs/unseen/factors", "runs/unseen/all"])
    first = text.split("## Adaptation: ")[0]
    assert (
        "2 runs compare the metaprompt with the best other method. It is behind in 1 and ahead in 1. "
        "The written instruction alone scores 0.500." in first
    )
    (behind,) = re.findall(r"^\| factors .*", first, re.MULTILINE)
    (ahead,) = re.findall(r"^\| all .*", first, re.MULTILINE)
    assert "-0.020 (-0.021 to -0.018)" in behind and re.search(r"\| behind +\|$", behind)
    assert "+0.020 (+0.019 to +0.022)" in ahead and re.search(r"\| ahead +\|$", ahead)
    assert "The runs are in runs/unseen." in first


def test_details_of_many_runs_are_folded_and_the_contents_name_them_alone(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run{n}", demo_results("target")) for n in range(4)]
    write_report(folders, tmp_path / "out", [f"runs/unseen/run{n}" for n in range(4)])
    page = (tmp_path / "out/report.html").read_text()
    folded = re.findall(r'<details class="section" id="(s\d+)"><summary><h2>(.*?)</h2>', page)
    assert folded == [(f"s{n + 1}", f"Adaptation: runs/unseen/run{n}") for n in range(4)]
    contents = page[page.index("<nav") : page.index("</nav>")]
    assert contents.count("<a href=") == 5


@pytest.mark.parametrize(
    "value, digits, shown",
    [
        (0.0123, 2, "0.012"),
        (99.4, 2, "99"),
        (99.6, 2, "100"),
        (120.4, 2, "120"),
        (1234.5, 2, "1,234"),
        (999.7, 3, "1,000"),
        (123456.0, 4, "123,456"),
        (-120.4, 2, "-120"),
        (0.0, 0, "0"),
    ],
)
def test_large_numbers_keep_every_digit_before_the_point(value: float, digits: int, shown: str) -> None:
    assert significant(value, digits) == shown
    assert "e+" not in short(value) and "e+" not in short(value * 1e9)


def test_one_thing_is_counted_in_the_singular(tmp_path: Path) -> None:
    found = demo_results("target")
    name = next(iter(found["tasks"]))
    found["tasks"] = {name: found["tasks"][name]}
    for by_shots in found["tasks"][name]["methods"].values():
        if "16" in by_shots:
            by_shots["1"] = by_shots.pop("16")
    found["average"] = average(found["tasks"])
    text = write_report([write_run(tmp_path / "run", found)], tmp_path / "out")
    assert "With 1 example the metaprompt scores" in text and "over 1 target task," in text
    assert "Averages over 1 target, paired by seed." in text and "| 1 example " in text
    assert not re.search(
        r"(?<![\d.,])1 (examples|targets|tasks|target tasks|seeds|documents|tests|comparisons)\b", text
    )
