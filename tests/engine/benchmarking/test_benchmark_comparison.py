"""Verdicts that know noise from a slowdown, what is refused to be compared, and tables of several measurements."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.benchmarking import compare
from engine.benchmarking.cases import asked_of, request_of
from engine.benchmarking.compare import Old, main as compare_files, read_old
from engine.benchmarking.result import spread
from engine.benchmarking.runner import run_benchmark
from engine.benchmarking.scaling_table import main as table_of, table
from engine.benchmarking.verdict import FASTER, FEW, MACHINE, SAME, SLOWER, ratio_of, says
from engine.cli import main
from engine.core.errors import Slower, UserError
from engine.training.backbone_holder import BackboneHolder
from tests.engine.measured_runs import RNG, content_of, steps_of

ROOT = Path(__file__).resolve().parents[3]
DEMO = "configs/demo/distill.yaml"


# ---- statistics
# ------------------------------------------------------------------------------------------------------------


def test_a_slowdown_of_five_percent_is_found_through_one_percent_of_noise() -> None:
    found = [
        Old(Path("old"), content_of(steps_of(2 * i))).verdict(content_of(steps_of(2 * i + 1, 1.05))) for i in range(40)
    ]
    assert sum(v.slower for v in found) == 40
    assert "slower beyond the spread" in found[0].headline


def test_noise_alone_is_rarely_called_a_difference() -> None:
    for noise in (0.01, 0.05):
        found = [
            Old(Path("old"), content_of(steps_of(2 * i, noise=noise))).verdict(
                content_of(steps_of(2 * i + 1, noise=noise))
            )
            for i in range(100)
        ]
        assert sum(v.slower for v in found) <= 5


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    for paired in (True, False):
        inside = 0
        for i in range(200):
            old, new = (
                factor * (1 + 0.03 * RNG(1000 * i + s).standard_normal(25)) for s, factor in ((1, 1.0), (2, 1.1))
            )
            _, low, high = ratio_of(list(old), list(new), paired)
            inside += low <= 1.1 <= high
        assert 0.90 <= inside / 200 <= 1.0


def test_steps_are_compared_in_pairs_where_they_did_the_same_work() -> None:
    old, new = steps_of(1), steps_of(2, 1.05)
    paired, apart = ratio_of(old, new, True), ratio_of(old, new, False)
    assert paired[2] - paired[1] < 0.02 < apart[2] - apart[1]  # the work varies threefold, the machine by 1 %
    other = content_of(new)
    other["cases"][0]["steps"]["real_tokens"] = [101] * 20
    assert not Old(Path("old"), content_of(old)).verdict(other).slower


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((1.10, 1.05, 1.15, 20), SLOWER),
        ((1.10, 0.99, 1.2, 20), SAME),
        ((1.01, 1.005, 1.015, 20), SAME),
        ((0.9, 0.85, 0.95, 20), FASTER),
        ((1.5, 1.4, 1.6, 3), FEW),
    ],
)
def test_a_verdict_needs_size_certainty_and_steps(values: tuple[float, float, float, int], wanted: str) -> None:
    assert says(*values) == wanted


def test_what_a_slower_machine_explains_is_not_held_against_the_code() -> None:
    old = Old(Path("old"), content_of(steps_of(1), probe=0.0100))
    same = old.verdict(content_of(steps_of(2, 1.10), probe=0.0111))
    assert not same.slower and same.lines[0].says == MACHINE
    assert old.verdict(content_of(steps_of(2, 1.25), probe=0.0111)).slower


def test_percentiles_are_those_of_numpy() -> None:
    values = list(RNG(0).random(17))
    found = spread(values)
    assert list(found.values()) == pytest.approx(list(np.quantile(values, [0.5, 0.1, 0.9])))
    assert spread([3.0]) == {"median": 3.0, "p10": 3.0, "p90": 3.0}


# ---- comparing
# -------------------------------------------------------------------------------------------------------------


def test_other_settings_machines_and_backbones_are_refused_by_name() -> None:
    old = Old(Path("old.json"), content_of(steps_of(1)))
    other = content_of(steps_of(2))["cases"][0]["identity"]
    other = {
        **other,
        "weights": "x",
        "rows": "y",
        "config": {"max_tokens_per_micro_batch": 8192, "prompt.num_virtual_tokens": 16},
    }
    here = {"cpu": "d", "gpu": "H100", "cores": 2, "threads": 1}
    with pytest.raises(UserError) as error:
        old.check([other], 4, False, here)
    text = "\n".join(error.value.problems)
    for wanted in (
        "weights: w there, x here",
        "rows: r there, y here",
        "max_tokens_per_micro_batch: 4096 there, 8192 here",
        "ranks: 2 there, 4 here",
        "machine: cpu: c there, d here",
        "machine: gpu: None there, H100 here",
        "--compare_anyway=true",
    ):
        assert wanted in text
    assert len(error.value.problems) == 6
    old.check([other], 4, True, here)
    with pytest.raises(UserError, match="nodes: 1 there, 2 here"):
        old.check_nodes(2, False)
    with pytest.raises(UserError, match="has no case 'sharding=zero3_offload'; it has ''"):
        old.check([{**other, "case": "sharding=zero3_offload"}], 2, True, here)


def test_another_configuration_is_refused_before_libraries_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(content_of(steps_of(1))))
    own = {"steps": "1", "mode": "teach", "compare": str(tmp_path / "old.json")}
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {"run_dir": str(tmp_path / "run")})
    text = "\n".join(error.value.problems)
    assert "backbone: b there, tiny-llama-random here" in text and "seed: None there, " in text
    assert "json: weights: " not in text and "json: rows: " not in text and "prompt.num_virtual_tokens: 16" not in text
    assert request_of(DEMO, {**own, "compare_anyway": "true"}, {"run_dir": str(tmp_path / "run")}).compare


def as_measured(tmp_path: Path, own: dict[str, str]) -> Path:
    """A benchmark.json whose cases have the configuration of the request."""
    request = request_of(DEMO, own, {"run_dir": str(tmp_path / "run")})
    content = content_of(steps_of(1))
    asked = asked_of(request, request.cases[0], "tiny-llama-random")
    content["cases"][0]["identity"] = {**asked, "weights": "w", "rows": "r"}
    (tmp_path / "old.json").write_text(json.dumps(content))
    return tmp_path / "old.json"


def test_another_machine_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneHolder, "join", lambda _: pytest.fail("a process group was started"))
    own = {"steps": "1", "mode": "teach", "invented": "20,4", "output": str(tmp_path / "out")}
    own["compare"] = str(as_measured(tmp_path, own))
    with pytest.raises(UserError) as error:
        run_benchmark(request_of(DEMO, own, {"run_dir": str(tmp_path / "run")}))
    text = "\n".join(error.value.problems)
    assert "ranks: 2 there, 1 here" in text and "weights: w there, " in text and "rows: r there, " in text
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "overrides", "wanted"),
    [
        ({}, {"seed": "7"}, "seed: 0 there, 7 here"),
        ({"invented": "30,4"}, {}, "invented: 20,4,512 there, 30,4,512 here"),
        ({"sweep": "seed=1,2"}, {}, "has no case 'seed=1'; it has ''"),
    ],
)
def test_the_key_that_differs_is_told_and_no_hash_besides(
    flags: dict[str, str], overrides: dict[str, str], wanted: str, tmp_path: Path
) -> None:
    own = {"steps": "1", "mode": "teach", "invented": "20,4"}
    own |= {"compare": str(as_measured(tmp_path, own)), **flags}
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {"run_dir": str(tmp_path / "run"), **overrides})
    assert wanted in error.value.problems[0]
    there = json.loads((tmp_path / "old.json").read_text())["cases"][0]["identity"]
    assert compare._differences(there, {**there, "rows": "s", "weights": "v"}) == [
        "weights: w there, v here",
        "rows: r there, s here",
    ]
    changed = {**there, "rows": "s", "config": {**there["config"], "seed": 7}}
    assert compare._differences(there, changed) == ["seed: 0 there, 7 here"]


def test_a_key_that_an_older_file_lacks_had_its_default() -> None:
    there, here = (content_of(steps_of(2))["cases"][0]["identity"] for _ in range(2))
    there["config"].pop("deterministic", None)
    here["config"]["deterministic"] = False
    assert compare._differences(there, here) == compare._differences(here, there) == []
    here["config"]["deterministic"] = True
    assert compare._differences(there, here) == ["deterministic: False there, True here"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cases": []}', '{"cases": [{}], "world_size": 1}'])
def test_a_file_that_is_no_measurement_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(UserError, match=r"old.json is not a benchmark.json of this release"):
        read_old(tmp_path / "old.json")


def test_two_files_can_be_compared_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        "old": content_of(steps_of(1)),
        "slow": content_of(steps_of(2, 1.2)),
        "other": content_of(steps_of(2), world_size=4),
    }
    for name, content in names.items():
        (tmp_path / name).write_text(json.dumps(content))
    for name, code, wanted in (
        ("slow", 3, "slower beyond the spread"),
        ("old", 0, "no difference"),
        ("other", 2, "ranks: 2 there, 4 here"),
    ):
        monkeypatch.setattr("sys.argv", ["benchmark_compare", str(tmp_path / "old"), str(tmp_path / name)])
        with pytest.raises(SystemExit) as end:
            compare_files()
        said = capsys.readouterr()
        assert end.value.code == code and wanted in said.out + said.err


def test_files_that_are_not_there_are_all_named_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torn").write_text("{")
    files = [str(tmp_path / "old"), str(tmp_path / "torn")]
    monkeypatch.setattr("sys.argv", ["benchmark_compare", *files])
    with pytest.raises(SystemExit) as end:
        compare_files()
    told = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(told) == 2
    assert told[0] == f"error: {files[0]} does not exist; name a benchmark.json"
    assert told[1].startswith(f"error: {files[1]} is not a benchmark.json of this release")
    with pytest.raises(SystemExit) as end:
        table_of(files)
    told = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and told[0] == f"error: {files[0]} does not exist; name a benchmark.json"
    assert len(told) == 2


@pytest.mark.parametrize(
    "script",
    [
        "import engine.benchmarking.compare as m; sys.argv[1:] = ['a', 'b']; m.main()",
        "import engine.benchmarking.scaling_table as m; sys.argv[1:] = ['a', 'b']; m.main()",
        "import train; train.main(['benchmark', '--config=configs/demo/distill.yaml'])",
    ],
)
def test_a_wrong_command_imports_neither_torch_nor_numpy(script: str) -> None:
    watched = "import atexit, sys; atexit.register(lambda: print({'torch', 'numpy'} & sys.modules.keys()));"
    command = [sys.executable, "-c", watched + script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout.strip() == "set()", done.stderr


def test_versions_that_changed_are_told_and_not_refused() -> None:
    verdict = Old(Path("old"), content_of(steps_of(1))).verdict(
        content_of(steps_of(2), versions={"torch": "3"}, commit="b")
    )
    assert verdict.notes == ["torch: 2 then, 3 now", "commit: a then, b now"]


def test_measurements_of_several_node_counts_make_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for nodes in (2, 1):
        content = content_of([1.0 / nodes * (1.25 if nodes == 2 else 1)] * 4)
        content["machine"]["nodes"], content["cases"][0]["world_size"] = nodes, 2 * nodes
        files.append(tmp_path / f"{nodes}.json")
        files[-1].write_text(json.dumps(content))
    table_of([*map(str, files), "--output", str(tmp_path / "out")])
    one, two = (line.split("|") for line in capsys.readouterr().out.splitlines()[2:])
    assert (one[1].strip(), one[10].strip()) == ("1", "100%") and (two[1].strip(), two[10].strip()) == ("2", "80%")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"scaling.md", "scaling.png"}
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        table_of([str(tmp_path / "torn.json")])
    assert end.value.code == 2
    assert len(table([content])) == 3


def test_a_slower_benchmark_leaves_with_3_and_tells_the_job_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(flags: object, words: object) -> None:
        raise Slower("a step takes 1.2 times as long")

    monkeypatch.setitem(main.MODES, "benchmark", replace(main.MODES["benchmark"], run=slower))
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    with pytest.raises(SystemExit) as end:
        main.run_mode("benchmark", [], {"config": DEMO, "steps": "1"})
    assert end.value.code == 3 and (tmp_path / "code").read_text() == "3\n"
    assert capsys.readouterr().out == "a step takes 1.2 times as long\n"
