"""Variables that a launcher left behind, against what SLURM says; the flag that deepspeed puts before the mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from engine.cli import exit_codes, main
from engine.core.errors import UserError
from engine.distributed import launcher, process_group
from engine.distributed.process_group import DistEnv, dist_env

pytestmark = pytest.mark.slow

# the second of two tasks on the second of two nodes
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "MASTER_ADDR": "n1",
}
STALE = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "NODE_RANK": "0",
    "GROUP_RANK": "0",
    "ROLE_RANK": "0",
}
AGENT = {
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_x/error.json",
}
# one torchrun in each of four tasks, two ranks each; the agents met in another order than SLURM's
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "4",
    "ROLE_RANK": "3",
    **AGENT,
}
RIGHT = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "1",
    "GROUP_RANK": "1",
    "ROLE_RANK": "3",
}
INTERACTIVE = {
    "SLURM_STEP_ID": "4294967290",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
LEFT = [*STALE, *AGENT]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "_set_by_start", {})
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in (
            *RIGHT,
            "WORLD_SIZE",
            "MASTER_ADDR",
            "CUDA_VISIBLE_DEVICES",
        ):
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], started: dict[str, str] | None) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher, "started_with", lambda _: started)


@pytest.mark.parametrize(
    ("environment", "started", "wanted"),
    [
        ({}, None, DistEnv(0, 1, 0)),
        (STALE, None, DistEnv(0, 1, 0)),  # no SLURM: a launcher's word
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, None, DistEnv(3, 8, 1)),
        (STEP, STEP, DistEnv(3, 4, 1)),
        (STEP | RIGHT, STEP | RIGHT, DistEnv(3, 4, 1)),  # srun with a wrapper that exports what SLURM says
        (STEP | RIGHT, STEP | STALE, DistEnv(3, 4, 1)),
        (STEP | RIGHT | {"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "1"}, None, DistEnv(3, 4, 0)),  # its own GPU
        (STEP | TORCHRUN, STEP, DistEnv(3, 8, 1)),
        # an agent replaces stale variables
        (STEP | TORCHRUN, STEP | STALE | AGENT | {"TORCHELASTIC_ERROR_FILE": "old"}, DistEnv(3, 8, 1)),
        (STEP | TORCHRUN, None, DistEnv(3, 8, 1)),
        # deepspeed in each task
        (STEP | {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, STEP | STALE, DistEnv(6, 8, 0)),
        (STEP | {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, None, DistEnv(6, 8, 0)),
        (BATCH, None, DistEnv(0, 1, 0)),
        (BATCH | TORCHRUN, None, DistEnv(3, 8, 1)),
        (INTERACTIVE, None, DistEnv(0, 1, 0)),  # python in the shell of an salloc of eight tasks
        (INTERACTIVE | TORCHRUN, None, DistEnv(3, 8, 1)),
    ],
)
def test_a_launchers_variables_are_believed_where_they_are_its_own(
    environment: dict[str, str], started: dict[str, str] | None, wanted: DistEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, environment, started)
    assert dist_env() == wanted and launcher.launcher_rank(os.environ) == wanted.rank


@pytest.mark.parametrize(
    ("environment", "started", "names"),
    [
        (STEP | STALE, STEP | STALE, list(STALE)),
        (STEP | STALE, None, list(STALE)),
        (STEP | STALE | AGENT, STEP | STALE | AGENT, LEFT),  # a stale TORCHELASTIC_RUN_ID is no excuse
        (STEP | STALE | AGENT, None, LEFT),
        (STEP | AGENT, STEP | AGENT, list(AGENT)),
        (STEP | TORCHRUN, STEP | TORCHRUN, ["WORLD_SIZE", *AGENT]),
        # all of a node's tasks would take its first GPU
        (STEP | {"LOCAL_RANK": "0"}, STEP | {"LOCAL_RANK": "0"}, ["LOCAL_RANK"]),
        (STEP | {"RANK": "x"}, STEP | {"RANK": "x"}, ["RANK"]),
        (STEP | RIGHT | {"LOCAL_RANK": "7"}, STEP | {"LOCAL_RANK": "7"}, ["LOCAL_RANK"]),  # a wrapper that forgot one
        (STEP | RIGHT | AGENT, STEP | AGENT, list(AGENT)),
    ],
)
def test_what_contradicts_slurm_is_refused_all_names_at_once(
    environment: dict[str, str], started: dict[str, str] | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, environment, started)
    with pytest.raises(UserError) as error:
        dist_env()
    (problem,) = error.value.problems
    told, remedy = problem.split("unset ")
    delivered = {name for name, value in environment.items() if started is None or started.get(name) == value}
    all_left = delivered & {*RIGHT, *AGENT, "GROUP_WORLD_SIZE"}  # what fits this task by chance fits no other
    assert set(remedy.split()) == {*names, *all_left} and all(name in told for name in names)
    assert "task 3 of 4, 1 on its node" in told
    assert launcher.launcher_rank(os.environ) == 3  # whom the error is told by, and who writes the exit code


def test_a_rank_that_is_no_number_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"RANK": "first", "WORLD_SIZE": "", "LOCAL_RANK": "0"}, None)
    with pytest.raises(UserError) as error:
        dist_env()
    assert [p.split(":")[0] for p in error.value.problems] == [
        "RANK",
        "WORLD_SIZE",
    ] and "unset RANK" in error.value.problems[0]


def test_what_this_process_sets_for_deepspeed_is_no_launchers_word(project: Path) -> None:
    """start() sets LOCAL_RANK to the number of the GPU that the task sees, which is not SLURM's number on the node."""
    script = (
        "import torch; torch.cuda.device_count = lambda: 1\n"
        "from engine.distributed import process_group as d; first = d.dist_env(); d.start_process_group(first)\n"
        "print('SAME', first == d.dist_env() == d.DistEnv(0, 1, 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert "SAME True" in done.stdout, done.stderr


# ---- processes as srun starts them --------------------------------------------------------------------

SAY = (
    "import os\nfrom engine.distributed import launcher\n"
    "left = launcher.stale_variables(os.environ, launcher.started_with(os.environ))\n"
    "os.write(1, (' '.join(['LEFT', *left]) + '\\n').encode())"  # at once: print would mix the lines of two ranks
)
BIN = Path(sys.executable).parent


def in_task(project: Path, command: str, environment: dict[str, str]) -> list[str]:
    """Lines that ranks print, of a shell command that is the first process of a task: its own pid is SLURM_TASK_PID."""
    clean = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "SAY": SAY}
    first = 'export SLURM_TASK_PID=$$; exec bash -c "$0"'
    done = subprocess.run(
        ["bash", "-c", first, command],
        env=clean | environment,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return sorted(line for line in done.stdout.splitlines() if line.startswith("LEFT"))


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ('exec python -c "$SAY"', LEFT),
        ('python -c "$SAY"; true', LEFT),
        ('RANK=3 WORLD_SIZE=4 python -c "$SAY"; true', [n for n in LEFT if n not in ("RANK", "WORLD_SIZE")]),
        (
            "unset ${!TORCHELASTIC_@} GROUP_RANK ROLE_RANK NODE_RANK LOCAL_WORLD_SIZE; "
            'RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 python -c "$SAY"; true',
            [],
        ),
    ],
)
def test_what_srun_delivered_is_told_from_what_was_set_in_the_task(
    command: str, left: list[str], project: Path
) -> None:
    found = in_task(project, command, STEP | STALE | AGENT)
    assert [sorted(line.split()[1:]) for line in found] == [sorted(left)]


@pytest.mark.parametrize("wrapped", [False, True])
def test_ranks_of_a_real_torchrun_in_a_task_are_its_own_whatever_was_left(
    wrapped: bool, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "say.py").write_text(SAY)
    command = f"torchrun --nproc_per_node 2 {tmp_path / 'say.py'}"
    if wrapped:  # as launch_scripts do
        command = f"bash -c '\"$@\" & wait $!' _ {command}"
    assert in_task(project, f"{command}; true", STEP | STALE | AGENT) == ["LEFT", "LEFT"]


# ---- --local_rank before the mode ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", sorted(main.MODES))
@pytest.mark.parametrize(
    "flag", [["--local_rank=1"], ["--local_rank", "1"], ["--local-rank=1"], ["--local-rank", "1"]], ids=" ".join
)
def test_every_mode_takes_the_launchers_flag_before_it(
    flag: list[str], mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    train.main([*flag, mode, "--help"])
    assert capsys.readouterr().out.startswith(f"python train.py {mode} — ")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--local_rank=x", "distill"], "--local_rank: must be a rank; got 'x'"),
        (["--local-rank"], "--local-rank: must be a rank; got ''"),
        (["--local_rank=-1", "distill"], "--local_rank: must be a rank; got '-1'"),
        (["--local_rank=0", "distill"], "--local_rank=0: differs from LOCAL_RANK=1"),
        (["distill", "--local_rank=1", "--config=configs/demo/distill.yaml"], "--local_rank: belongs to the launcher"),
        (["--local_rank=1", "distil"], "did you mean 'distill'?"),
    ],
)
def test_a_launchers_flag_that_makes_no_sense_is_refused(
    arguments: list[str],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    project: Path,
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(exit_codes, "LET_RANK_0_SPEAK", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert end.value.code == 2 and wanted in capsys.readouterr().err


def test_the_flag_alone_is_help() -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--local_rank=0"])
    assert end.value.code == 2
