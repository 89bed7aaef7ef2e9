"""docs/evidence/performance.md: every results file is read, and what is not faster is named by the page itself."""

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.performance_page import FASTER, SECTIONS, main, page


def test_the_committed_page_is_what_the_committed_results_say(project: Path) -> None:
    assert (project / "docs/evidence/performance.md").read_text() == "\n".join(page(project / "benchmarks/results"))


def test_every_results_file_has_a_section_with_its_command(project: Path) -> None:
    text = "\n".join(page(project / "benchmarks/results"))
    for file in (project / "benchmarks/results").glob("*.json"):
        assert re.search(
            rf"^    \S.* -m benchmarks\.{file.stem.rpartition('_')[0]} .*{re.escape(file.name)}$", text, re.M
        ), file.name
        assert file.stem.rpartition("_")[0] in SECTIONS
    commands = text.count("\n    python -m") + text.count("\n    torchrun ")
    assert text.count("No machine was measured; commit ") == 1  # the roofline's, which counts
    assert text.count("Made on: ") == commands - 1


def test_a_ratio_below_the_bar_is_listed_and_one_above_is_not(project: Path, tmp_path: Path) -> None:
    content = json.loads((project / "benchmarks/results/lora_cpu.json").read_text())
    content["cases"][0]["ratio"], content["cases"][1]["ratio"] = FASTER - 0.01, FASTER
    (tmp_path / "lora_cpu.json").write_text(json.dumps(content))
    whole = page(tmp_path)
    start = whole.index("| ratio | measurement | remark |")
    listed = whole[start + 2 : whole.index("", start)]
    assert listed == [f"| {FASTER - 0.01:.2f} | LoRA adapters, {content['cases'][0]['size']} |  |"]
    assert f"Of 3 ratios on this page 1 is below {FASTER}:" in page(tmp_path)


def test_results_that_are_not_there_are_named(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(project / "benchmarks/results/loss_cpu.json", tmp_path)
    main(["--results", str(tmp_path), "--output", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text()
    assert (
        "No results of `benchmarks/gpu.py`, " in text
        and "`benchmarks/vs_peft.py`" in text
        and "`benchmarks/loss.py`" not in text
    )
    assert "Nothing on this page was measured on a GPU." in text


def test_make_bench_runs_benchmarks_that_exist_into_files_that_the_page_reads(project: Path) -> None:
    recipe = (project / "Makefile").read_text().partition("\nbench: setup\n")[2].partition("\n\n")[0]
    names = re.findall(r"benchmarks\.(\w+).*\$\(RESULT\)(\w+)\.json", recipe)
    assert len(names) == 10
    for name, file in names:
        assert file == ("roofline_modelled" if name == "roofline" else f"{name}_cpu")
        assert name in SECTIONS and (project / f"benchmarks/{name}.py").is_file()
    assert recipe.splitlines()[-1].strip() == "python -m benchmarks.performance_page"
