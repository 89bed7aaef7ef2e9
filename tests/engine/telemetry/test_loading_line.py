"""The first line of a command, before libraries that take seconds are loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from engine.telemetry import announce_loading
announce_loading(sys.{stream})
import json
print("before", flush=True)
for _ in range(2):
    import {library}
"""


def python(code: str, project: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run code where torch is a module that loads at once and says so."""
    (tmp_path / "torch.py").write_text("print('torch loads', flush=True)\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{project}"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_it_comes_once_and_just_before_the_first_slow_library(project: Path, tmp_path: Path) -> None:
    done = python(SCRIPT.format(stream="stdout", library="torch"), project, tmp_path)
    assert done.stdout.splitlines() == ["before", "loading libraries …", "torch loads"] and done.stderr == ""


def test_it_keeps_out_of_what_a_mode_prints_as_its_result(project: Path, tmp_path: Path) -> None:
    done = python(SCRIPT.format(stream="stderr", library="torch"), project, tmp_path)
    assert done.stdout.splitlines() == ["before", "torch loads"] and done.stderr == "loading libraries …\n"


def test_a_command_that_loads_no_slow_library_prints_nothing(project: Path, tmp_path: Path) -> None:
    done = python(SCRIPT.format(stream="stdout", library="csv"), project, tmp_path)
    assert done.stdout.splitlines() == ["before"]


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("mode", ["distill", "report"])
def test_rank_0_alone_speaks_in_the_log_of_a_job_and_beside_a_result(
    mode: str, rank: str, project: Path, tmp_path: Path
) -> None:
    code = f"""
import sys
from engine.cli import main
main.check = lambda *words: None
main.exit_codes.leave_group = lambda code: None
class Mode:
    def run(self, flags, words):
        import torch
main.MODES = {{"{mode}": Mode()}}
import os; os.environ.update(RANK="{rank}", WORLD_SIZE="2")
main.run_mode("{mode}", (), {{}})
"""
    done = python(code, project, tmp_path)
    line = "loading libraries …\n" if rank == "0" else ""
    in_log, beside = (line, "") if mode == "distill" else ("", line)
    assert (done.stdout, done.stderr) == (in_log + "torch loads\n", beside)
