"""The job scripts: clean shell, a usage line each, and commands that train.py takes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.cli import MODES

SCRIPTS = Path(__file__).resolve().parents[2] / "launch_scripts"
JOBS = sorted(SCRIPTS.glob("*.sbatch"))


def test_shellcheck_has_nothing_to_say(project: Path) -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed: the job scripts are NOT checked")
    scripts = [str(p.relative_to(project)) for p in sorted(SCRIPTS.iterdir())]
    done = subprocess.run([checker, "-x", *scripts], cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_there_is_a_script_for_each_part_of_the_job() -> None:
    assert {p.name for p in SCRIPTS.iterdir()} == {"adapt.sbatch", "benchmark.sbatch", "common.sh", "distill.sbatch", "evaluate.sbatch", "pipeline.sh",
                                               "report.sbatch", "study.sbatch"}


@pytest.mark.parametrize("script", JOBS, ids=lambda p: p.name)
def test_a_job_script_says_how_to_run_it_and_stops_at_the_first_error(script: Path) -> None:
    lines = script.read_text().splitlines()
    comment = [line for line in lines[1:] if line.startswith("#") and not line.startswith(("#SBATCH", "##SBATCH"))]
    assert any(f"sbatch launch_scripts/{script.name} " in line for line in comment)
    assert "set -euo pipefail" in lines and "#SBATCH --open-mode=append" in lines and "#SBATCH --output=%x-%j.out" in lines
    (mode,) = set(re.findall(r"run_ranks (\w+)", script.read_text()))
    assert mode in MODES
    assert script.stat().st_mode & 0o100


@pytest.mark.parametrize("script", [p for p in JOBS if p.name not in ("benchmark.sbatch", "report.sbatch")], ids=lambda p: p.name)
def test_jobs_that_train_can_be_requeued_and_are_warned_of_their_time_limit(script: Path) -> None:
    text = script.read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=USR1@180" in text


@pytest.mark.parametrize("script", [p for p in JOBS if p.name != "evaluate.sbatch"], ids=lambda p: p.name)
def test_without_its_arguments_a_script_says_what_it_wants(script: Path, project: Path, tmp_path: Path) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node1\n")
    (tmp_path / "scontrol").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(project), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "USER": "me"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and f"usage: sbatch launch_scripts/{script.name}" in done.stderr
