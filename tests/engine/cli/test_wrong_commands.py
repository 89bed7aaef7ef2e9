"""Wrong commands of every mode: exit code 2, every problem at once, before torch is imported, and nothing written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import MODES
from tests.engine.cli.written_runs import write_runs
from tests.engine.cli.wrong_commands import COMMON
from tests.engine.cli.wrong_modes import BY_MODE
from tests.engine.cli.wrong_plans import PLANS_AND_OUTPUTS

TABLE = COMMON | BY_MODE | PLANS_AND_OUTPUTS


@pytest.fixture(scope="module")
def answers(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    """What each command of the table is answered, and what its placeholders stand for."""
    folder = tmp_path_factory.mktemp("wrong")
    places = {"runs": str(folder / "runs"), "out": str(folder / "out")}
    before = Path.cwd()
    os.chdir(project)
    try:
        write_runs(folder / "runs")
    finally:
        os.chdir(before)
    (folder / "out").mkdir()
    commands = [[word.format(**places) for word in wrong.command] for wrong in TABLE.values()]
    left_out = ("RANK", "SLURM_PROCID", "WORLD_SIZE", "LOCAL_RANK", "EXIT_CODE_FILE")
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-B", "-m", "tests.engine.cli.run_commands"],
        cwd=project,
        env=env,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert not list((folder / "out").iterdir())
    return dict(zip(TABLE, json.loads(done.stdout), strict=True)), places


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_command_is_told_everything_at_once_and_starts_nothing(
    name: str, answers: tuple[dict[str, Any], dict[str, str]]
) -> None:
    answer, places = answers[0][name], answers[1]
    lines = list(answer["told"])
    assert answer["code"] == 2 and all(line.startswith("error: ") for line in lines), lines
    assert not any("is imported" in line for line in lines)
    for part in TABLE[name].told:
        found = [line for line in lines if part.format(**places) in line]
        assert found, (part, lines)
        lines.remove(found[0])
    assert not lines, f"told besides: {lines}"
    assert not answer["written"]


def test_the_table_has_every_mode_and_forty_commands() -> None:
    assert len(TABLE) == len(COMMON) + len(BY_MODE) + len(PLANS_AND_OUTPUTS) >= 40
    assert {wrong.command[0] for wrong in TABLE.values()} >= MODES.keys()
    assert sum(len(wrong.told) > 2 for wrong in TABLE.values()) >= 10
