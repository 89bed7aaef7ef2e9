"""A study from the command line on two ranks: every method, each with its sweep, one after another in one job;
killed and gone on with.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands_runner import ROOT, run

from engine.reporting.study_page import write_page

METHODS = ["metaprompt", "multitask_prompt", "prompt_tuning", "lora", "instruction", "in_context"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """Folder of a finished study, the command, and what it printed."""
    base = tmp_path_factory.mktemp("study")
    demo = ROOT / "configs/demo"
    for mode in ("distill", "adapt"):
        content = yaml.safe_load((demo / f"{mode}.yaml").read_text())
        content["data"] |= {
            "root": str(demo / "data"),
            "cache": str(base / "cache"),
            "max_train": 12,
            "max_validation": 3,
            "max_test": 3,
        }
        content["evaluate"] = {**content.get("evaluate", {}), "max_new_tokens": 4}
        (base / f"{mode}.yaml").write_text(yaml.safe_dump(content))
    protocol: dict[str, Any] = {
        "run_dir": str(base / "runs"),
        "distill": str(base / "distill.yaml"),
        "adapt": str(base / "adapt.yaml"),
        "distillations": {
            "taught": {
                "teach.steps": 3,
                "teach.batch_size": 2,
                "teach.eval_interval": 0,
                "distill.steps": 3,
                "distill.batch_size": 4,
                "lr_sweep.relative_lr_teach": [2.5, 5.0],
            },
            "untaught": {
                "distill.lambda_kl": 0,
                "distill.lambda_hidden": 0,
                "distill.steps": 3,
                "distill.batch_size": 4,
            },
            "fewer": {
                "teachers": "taught",
                "distill.steps": 2,
                "distill.batch_size": 4,
                "teach.steps": 3,
                "teach.batch_size": 2,
                "teach.eval_interval": 0,
                "distill.without": ["demo_summary"],
                "prompt.rank": 2,
            },
        },
        "adaptations": {
            "all_methods": {
                "source": "taught",
                "multitask": "untaught",
                "adapt.methods": METHODS,
                "adapt.shots": ["0", "2"],
                "adapt.seeds": [0, 1],
                "adapt.steps": 2,
                "adapt.batch_size": 2,
                "adapt.eval_interval": 0,
                "adapt.lora_rank": 2,
                "adapt.train": "all",
                "lr_sweep.metaprompt": [0.1, 0.2],
                "lr_sweep.relative_lr_prompt": [0.3],
                "lr_sweep.multitask_prompt": [0.1],
                "lr_sweep.lora": [0.001, 0.01],
            },
            "transfer": {
                "source": "fewer",
                "prompt.rank": 2,
                "adapt.methods": ["metaprompt"],
                "adapt.shots": ["0"],
                "adapt.transfer": ["demo_qa"],
                "adapt.eval_interval": 0,
            },
        },
    }
    (base / "study.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    command = ["study", f"--config={base / 'study.yaml'}"]
    return base / "runs", command, run(*command)


def test_every_method_is_scored_and_every_rate_that_was_tried_is_told(study: tuple[Path, list[str], str]) -> None:
    runs, _, said = study
    results = json.loads((runs / "all_methods/results.json").read_text())
    (task,) = results["tasks"].values()
    trained = {"metaprompt", "multitask_prompt", "prompt_tuning", "lora"}
    assert {m: set(s) for m, s in task["methods"].items()} == {
        **{m: {"0", "2"} for m in trained},
        "instruction": {"0"},
        "in_context": {"2"},
    }
    assert task["methods"]["lora"]["2"]["seeds"] == [0, 1] and task["methods"]["lora"]["2"]["steps"] == [2, 2]
    assert {m: s["2"]["rates"] for m, s in results["tuning"].items()} == {
        "metaprompt": [0.1, 0.2],
        "prompt_tuning": [0.3],
        "multitask_prompt": [0.1],
        "lora": [0.001, 0.01],
    }
    assert set(results["cost"]) == trained and all(
        cost["2"]["tokens"] > 0 and cost["2"]["device_hours"] > 0 for cost in results["cost"].values()
    )
    counts = {m: t["count"] for m, t in results["trainable"]["methods"].items()}
    assert counts["metaprompt"] == counts["multitask_prompt"] == 16 * 64 + 16 + 64
    assert counts["prompt_tuning"] == 16 * 64 and counts["lora"] > counts["metaprompt"]
    assert results["trainable"]["count"] == counts["metaprompt"]
    tried = json.loads((runs / "taught/lr_sweep/tuning.json").read_text())["teacher"]["full"]
    chosen = json.loads((runs / "taught/teachers/latest/state.json").read_text())["hashes"]["rate"]
    assert tried["rates"] == [2.5, 5.0] and chosen == tried["rates"][tried["best"]]
    assert (
        "learning rates of lora at 2, mean validation score (cross-entropy) of the tasks: 0.001 " in said
        and "backbone unchanged, to the bit" in said
    )


def test_sources_borrowed_teachers_and_single_sources(study: tuple[Path, list[str], str]) -> None:
    runs, _, said = study
    state = json.loads((runs / "fewer/latest/state.json").read_text())
    assert (
        [row["task"] for row in state["rows"]] == ["demo_qa", "demo_entities"]
        and "teachers: 2 of" in said
        and not (runs / "fewer/teachers").exists()
    )
    assert {row["method"] for row in json.loads((runs / "untaught/latest/state.json").read_text())["rows"]} == {
        "multitask_prompt"
    }
    (task,) = json.loads((runs / "transfer/results.json").read_text())["tasks"].values()
    assert set(task["methods"]) == {"metaprompt", "metaprompt@task:demo_qa"}
    assert (runs / "report.html").is_file() and (runs / "report.md").is_file()
    cells = json.loads((runs / "study.json").read_text())["cells"]
    assert [c["run"] for c in cells] == ["taught", "untaught", "fewer", "all_methods", "transfer"]


def test_the_backbone_is_built_once_and_what_is_done_is_passed_over(study: tuple[Path, list[str], str]) -> None:
    runs, command, said = study
    assert said.count("parameters, float32, 2 ranks") == 1 and said.count("predicted") == 1
    before = {
        f: (runs / f).stat().st_mtime_ns
        for f in ("taught/latest/state.json", "all_methods/results.json", "all_methods/lr_sweep/tuning.json")
    }
    again = run(*command, ranks=1)
    assert again.count("already COMPLETED") == 5 and "study: adapt all_methods, 4 of 5: done" in again
    assert {f: (runs / f).stat().st_mtime_ns for f in before} == before
    assert "5 of 5: done" in run(*command, "--dry_run=true", ranks=1)


def test_the_page_of_a_study_and_its_figures(study: tuple[Path, list[str], str], tmp_path: Path) -> None:
    runs, _, _ = study
    write_page(runs, tmp_path / "docs/evidence/results.md")
    text = (tmp_path / "docs/evidence/results.md").read_text()
    figures = re.findall(r"\]\((\S+\.svg)\)", text)
    assert figures == ["results_all_methods.svg", "results_transfer.svg"]
    for figure in figures:
        root = ElementTree.parse(tmp_path / "docs/evidence" / figure).getroot()
        assert root.tag.endswith("svg") and float(root.attrib["width"]) > 200
    scores = json.loads((runs / "all_methods/results.json").read_text())["average"]
    table = next(block for block in text.split("\n\n") if block.startswith("| method ") and "in_context" in block)
    assert re.search(rf"\| lora +\| {scores['lora']['0']:.3f} .*\| {scores['lora']['2']:.3f} ", table), table
    for wanted in (
        "## all_methods",
        "## One source at a time",
        "| against ",
        " *  ",
        "## The metaprompt in both settings",
        "numbers that one task trains",
        "with 2 seeds",
    ):
        assert wanted in text, wanted
    assert str(runs) not in text


def test_a_part_can_be_chosen_and_nothing_else_is(study: tuple[Path, list[str], str]) -> None:
    _, command, _ = study
    said = run(*command, "--only=transfer", "--dry_run=true", ranks=1)
    assert "distill taught, 1 of 3" in said and "distill fewer, 2 of 3" in said and "adapt transfer, 3 of 3" in said
    refused = run(*command, "--only=transfre", "--adapt.stpes=3", ranks=1, expect=2)
    assert "unknown key 'adapt.stpes'" in refused


def test_teachers_that_are_others_are_refused_before_anything_starts(
    study: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    runs, _, _ = study
    config = [
        f"--config={runs.parent / 'distill.yaml'}",
        f"--run_dir={tmp_path / 'run'}",
        "--teach.steps=3",
        "--teach.batch_size=2",
        "--teach.eval_interval=0",
    ]
    changed = ["--teach.relative_lr=0.9", "--prompt.init=text", "--prompt.init_text=fever"]
    said = run("distill", *config, f"--teach.run={runs / 'taught'}", *changed, ranks=1, expect=2)
    assert (
        "teach.relative_lr was 5.0 there, is 0.9 here" in said
        and "prompt.init was 'vocabulary' there, is 'text' here" in said
    )
    said = run("distill", *config, f"--teach.run={runs / 'fewer'}", ranks=1, expect=2)
    assert "holds no finished teachers" in said and not (tmp_path / "run").exists()
