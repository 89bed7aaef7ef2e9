"""The job scripts: clean shell, a usage line each, and commands that train.py takes."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli.main import MODES

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[2] / "launch_scripts"
JOBS = sorted(SCRIPTS.glob("*.sbatch"))
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_shellcheck_has_nothing_to_say(project: Path) -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed: the job scripts are NOT checked")
    scripts = [str(p.relative_to(project)) for p in sorted(SCRIPTS.iterdir())]
    done = subprocess.run([checker, "-x", *scripts], cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_there_is_a_script_for_each_part_of_the_job() -> None:
    assert {p.name for p in SCRIPTS.iterdir()} == {
        "adapt.sbatch",
        "benchmark.sbatch",
        "common.sh",
        "distill.sbatch",
        "evaluate.sbatch",
        "pipeline.sh",
        "report.sbatch",
        "study.sbatch",
    }


@pytest.mark.parametrize("script", JOBS, ids=lambda p: p.name)
def test_a_job_script_says_how_to_run_it_and_stops_at_the_first_error(script: Path) -> None:
    lines = script.read_text().splitlines()
    comment = [line for line in lines[1:] if line.startswith("#") and not line.startswith(("#SBATCH", "##SBATCH"))]
    assert any(f"sbatch launch_scripts/{script.name} " in line for line in comment)
    assert (
        "set -euo pipefail" in lines and "#SBATCH --open-mode=append" in lines and "#SBATCH --output=%x-%j.out" in lines
    )
    (mode,) = set(re.findall(r"run_ranks (\w+)", script.read_text()))
    assert mode in MODES
    assert script.stat().st_mode & 0o100


@pytest.mark.parametrize(
    "script", [p for p in JOBS if p.name not in ("benchmark.sbatch", "report.sbatch")], ids=lambda p: p.name
)
def test_jobs_that_train_can_be_requeued_and_are_warned_of_their_time_limit(script: Path) -> None:
    text = script.read_text()
    assert "#SBATCH --requeue" in text and "#SBATCH --signal=USR1@180" in text


# ---- a job without SLURM: srun starts its command once, and python writes down how it was started ------------

SRUN = """#!/bin/bash
while [[ "${1:-}" == -* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
if [ "$1" = requeue ]; then echo "$2" > "$RECORD.requeued"; else echo node1; fi
"""
PYTHON = f"""#!{sys.executable}
import json, os, pathlib, resource, sys
record = {{"arguments": sys.argv[1:], "env": dict(os.environ), "core": resource.getrlimit(resource.RLIMIT_CORE)[0]}}
file = pathlib.Path(os.environ["EXIT_CODE_FILE"])
record["folder"] = [str(file.parent), file.parent.stat().st_mode & 0o777, sorted(os.listdir(file.parent))]
pathlib.Path(os.environ["RECORD"]).write_text(json.dumps(record))
if os.environ.get("STOPPED_BY_FILE"):
    pathlib.Path(f"{{file}}.STOP").touch()
if os.environ.get("TELL"):
    file.write_text(os.environ["TELL"])
    sys.exit(1)
"""


@pytest.fixture
def job(tmp_path: Path) -> Run:
    """``job(LOCAL_DISK=…)``: a job script (distill.sbatch) in a project of its own, with arguments (a configuration);
    what its python saw is in ``record``.
    """
    for folder in ("bin", "venv/bin", "project", "disk"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "project/launch_scripts").symlink_to(SCRIPTS)
    (tmp_path / "project/train.py").touch()
    stubs = {"bin/srun": SRUN, "bin/scontrol": SCONTROL, "venv/bin/python": PYTHON}
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(
        name: str = "distill", arguments: tuple[str, ...] = ("config.yaml",), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "SLURM_SUBMIT_DIR": str(tmp_path / "project"),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_NNODES": "1",
            "USER": "me",
            "VENV": str(tmp_path / "venv"),
            "LOCAL_DISK": str(tmp_path / "disk"),
            "RECORD": str(tmp_path / "record"),
            **environment,
        }
        script = ["bash", str(SCRIPTS / f"{name}.sbatch"), *arguments]
        return subprocess.run(script, env=env, capture_output=True, text=True, timeout=30)

    return run


def record(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "record").read_text())


@pytest.mark.parametrize("script", JOBS, ids=lambda p: p.name)
def test_without_its_arguments_or_outside_a_job_a_script_says_what_it_wants(
    script: Path, job: Run, tmp_path: Path
) -> None:
    for arguments in ((), ("--seed=1",)):
        done = job(script.stem, arguments)
        assert done.returncode == 2 and f"usage: sbatch launch_scripts/{script.name} " in done.stderr
    by_hand = {"SLURM_JOB_ID": "", "SLURM_SUBMIT_DIR": "", "VENV": "/none"}
    done = job(script.stem, **by_hand)
    assert done.returncode == 2 and f"error: submit with: sbatch launch_scripts/{script.name} " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = job(script.stem, ("--help",), **by_hand)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"usage: sbatch launch_scripts/{script.name} ")
    elsewhere = job(script.stem, SLURM_SUBMIT_DIR=str(tmp_path))
    assert elsewhere.returncode == 2 and "submit from the project's folder" in elsewhere.stderr
    assert not (tmp_path / "record").exists()


def test_the_shared_part_is_no_script_of_its_own() -> None:
    done = subprocess.run(["bash", str(SCRIPTS / "common.sh")], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "submit with: sbatch" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (
            {"LAUNCHER": "torchrun", "SLURM_NNODES": "4"},
            ["LAUNCHER=torchrun runs one node; the job has 4; use LAUNCHER=srun"],
        ),
        (
            {"LAUNCHER": "mpirun", "VENV": "/none", "STAGE_WEIGHTS": "/none", "MAX_RESTARTS": "x", "JOB_PORT": "99999"},
            [
                "LAUNCHER: must be one of srun, torchrun; got 'mpirun'",
                "VENV: /none/bin/python does not exist; run `make setup`",
                "STAGE_WEIGHTS: /none is not a folder",
                "MAX_RESTARTS: must be a whole number >= 0; got 'x'",
                "JOB_PORT: must be a port, 1 to 65535; got '99999'",
            ],
        ),
        ({"CONTAINER": "docker"}, ["CONTAINER: must be one of none, apptainer, pyxis; got 'docker'"]),
        ({"CONTAINER": "apptainer", "VENV": "/none"}, ["IMAGE: {project}/metaprompt.sif does not exist; build it"]),
        ({"CONTAINER": "pyxis", "IMAGE": "my.sqsh"}, ["IMAGE: my.sqsh does not exist; build it"]),
    ],
)
def test_settings_that_cannot_be_are_told_together_before_anything_starts(
    environment: dict[str, str], told: list[str], job: Run, tmp_path: Path
) -> None:
    done = job(**environment)
    assert done.returncode == 2 and not (tmp_path / "record").exists()
    lines = done.stderr.splitlines()
    assert len(lines) == len(told), lines
    for line, wanted in zip(lines, told, strict=True):
        assert line.startswith("error: " + wanted.format(project=tmp_path / "project")), line


def test_a_registrys_image_and_torchrun_on_one_node_are_taken(job: Run, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "venv/bin/python", tmp_path / "bin/python")
    assert job(CONTAINER="pyxis", IMAGE="nvcr.io#nvidia/pytorch", VENV="/none").returncode == 0
    assert job(LAUNCHER="torchrun").returncode == 0
    assert "torch.distributed.run" in record(tmp_path)["arguments"]


def test_variables_of_one_script_are_told_with_the_others(job: Run, tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    done = job("adapt", **array, VENV="/none")
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["VENV", "TARGETS", "RUN_DIR"]
    done = job("adapt", **array, TARGETS="a b,c", RUN_DIR="runs/a")
    assert done.returncode == 2
    assert "TARGETS: has 2 groups, none for array element 2; submit with --array=0-1" in done.stderr
    done = job("adapt", **array | {"SLURM_ARRAY_TASK_ID": "1"}, TARGETS="a b,c", RUN_DIR="runs/a")
    assert done.returncode == 0, done.stderr
    assert {"--adapt.targets=b,c", "--run_dir=runs/a-b+c"} <= set(record(tmp_path)["arguments"])
    done = job("benchmark", SLURM_NNODES="2", COUNTS="1 two 4", COMPARE="runs/before")
    assert done.returncode == 2
    assert [line.split(": ", 1)[1] for line in done.stderr.splitlines()] == [
        "COMPARE: runs/before/nodes-1/benchmark.json does not exist; name the output folder of an earlier job",
        "COUNTS: must be numbers of nodes from 1 to 2; got 'two'",
        "COUNTS: must be numbers of nodes from 1 to 2; got '4'",
    ]


def test_a_job_that_a_signal_stopped_is_requeued_and_one_that_the_file_stop_stopped_is_not(
    job: Run, tmp_path: Path
) -> None:
    done, mark = job(TELL="75", STOPPED_BY_FILE="1"), tmp_path / "record.requeued"
    assert done.returncode == 75 and not mark.exists()
    assert "stopped by the file STOP: saved, not requeued; submit it again to go on" in done.stderr
    done = job(TELL="75")
    assert done.returncode == 75 and mark.read_text() == "7\n" and "requeued as 7 (restart 1" in done.stdout


def opened(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def linked(folder: Path) -> None:
    folder.with_suffix(".elsewhere").mkdir()
    folder.symlink_to(folder.with_suffix(".elsewhere"))


def anothers(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away: folders of other users are NOT tested")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


@pytest.mark.parametrize("plant", [opened, linked, anothers, Path.touch], ids=lambda plant: plant.__name__)
def test_a_folder_that_another_user_may_have_made_is_refused(plant: Callable, job: Run, tmp_path: Path) -> None:
    for name in ("torch_extensions-me", "triton-me", "weights-me"):
        plant(tmp_path / "disk" / name)
    (tmp_path / "model").mkdir()
    done = job(STAGE_WEIGHTS=str(tmp_path / "model"))
    assert done.returncode == 2 and not (tmp_path / "record").exists()
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: LOCAL_DISK: ")]
    assert len(errors) == 3 and all("remove it, or name another LOCAL_DISK" in line for line in errors)
    assert "not requeued" in done.stderr
    for name in ("torch_extensions-me", "weights-me"):
        assert not (tmp_path / "disk" / name).is_dir() or not any((tmp_path / "disk" / name).iterdir())


def test_folders_on_a_nodes_disk_are_made_for_their_user_alone_and_used_again(job: Run, tmp_path: Path) -> None:
    built, model = tmp_path / "project/.cache/torch_extensions/op", tmp_path / "model"
    for file in (built / "op.so", built / "lock", model / "weights.safetensors"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    for _ in range(2):
        done = job(STAGE_WEIGHTS=str(model))
        assert done.returncode == 0, done.stderr
    disk = tmp_path / "disk"
    assert sorted(p.name for p in disk.iterdir()) == ["torch_extensions-me", "triton-me", "weights-me"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in disk.rglob("*") if p.is_dir()} == {0o700}
    env = record(tmp_path)["env"]
    copied = Path(env["TORCH_EXTENSIONS_DIR"])
    assert [str(p.relative_to(copied)) for p in copied.rglob("*") if p.is_file()] == ["op/op.so"]
    assert copied.parent == disk / "torch_extensions-me" and env["TRITON_CACHE_DIR"] == str(disk / "triton-me")
    assert (Path(env["WEIGHTS"]) / "model/weights.safetensors").exists()


def test_what_was_compiled_is_not_taken_from_a_folder_of_others(job: Run, tmp_path: Path) -> None:
    opened(tmp_path / "compiled")
    done = job(TORCH_EXTENSIONS_DIR=str(tmp_path / "compiled"))
    assert done.returncode == 2 and "error: TORCH_EXTENSIONS_DIR: " in done.stderr
    assert not (tmp_path / "record").exists()
    (tmp_path / "compiled").chmod(0o755)
    assert job(TORCH_EXTENSIONS_DIR=str(tmp_path / "compiled")).returncode == 0


STALE = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "3",
    "LOCAL_WORLD_SIZE": "8",
    "NODE_RANK": "1",
    "GROUP_RANK": "1",
    "ROLE_RANK": "3",
    "GROUP_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "old",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "MASTER_ADDR": "old",
    "MASTER_PORT": "1",
    "PET_NNODES": "2",
}


def test_what_a_launcher_left_in_the_submitting_shell_does_not_reach_the_ranks(job: Run, tmp_path: Path) -> None:
    assert job(**STALE).returncode == 0
    found = {name: value for name, value in record(tmp_path)["env"].items() if name in STALE}
    assert found == {"MASTER_ADDR": "node1", "MASTER_PORT": "20007"}
    assert job(**STALE, JOB_PORT="23456").returncode == 0
    assert record(tmp_path)["env"]["MASTER_PORT"] == "23456"


@pytest.fixture
def pipeline(tmp_path: Path) -> Run:
    """``pipeline(ARGUMENT …, NAME=…)``: pipeline.sh with a python that says what it got and refuses it."""
    for name, text in (("python", REFUSES), ("sbatch", "#!/bin/sh\n")):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "VENV": str(tmp_path), "RECORD": str(tmp_path / "record")}
        script = ["bash", str(SCRIPTS / "pipeline.sh"), *arguments]
        return subprocess.run(script, env=path | environment, capture_output=True, text=True, timeout=30)

    return run


REFUSES = """#!/bin/sh
env > "$RECORD"
ulimit -c >> "$RECORD"
echo "error: command line: --seed: wrong" >&2
echo "error: $4: does not exist" >&2
echo "$@" >> "$RECORD.commands"
exit 2
"""


def test_nor_the_checks_of_a_pipeline(pipeline: Run, tmp_path: Path) -> None:
    done = pipeline("a", "b", **STALE)
    lines = (tmp_path / "record").read_text().splitlines()
    assert done.returncode == 2 and lines[-1] == "0"
    assert not {line.split("=")[0] for line in lines} & STALE.keys()


def test_a_pipeline_checks_both_configurations_and_tells_what_they_share_once(pipeline: Run, tmp_path: Path) -> None:
    done = pipeline("a.yaml", "b.yaml", "--seed=x")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: command line: --seed: wrong",
        "error: --config=a.yaml: does not exist",
        "error: --config=b.yaml: does not exist",
    ]
    first, second = (tmp_path / "record.commands").read_text().splitlines()
    assert "--prepare=true" in first and "--prepare" not in second


def test_a_pipeline_checks_its_settings_first(pipeline: Run, tmp_path: Path) -> None:
    done = pipeline("a", "b", VENV="/none", LAUNCHER="mpirun", CONTAINER="apptainer", IMAGE="/none.sif")
    assert done.returncode == 2 and not (tmp_path / "record").exists()
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["LAUNCHER", "IMAGE", "VENV"]
    for arguments in ((), ("a",), ("a", "--seed=1")):
        done = pipeline(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("usage: launch_scripts/pipeline.sh DISTILL_CONFIG")
    done = pipeline("--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: launch_scripts/pipeline.sh DISTILL_CONFIG")


def test_no_core_dump_is_written_unless_asked_for(job: Run, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this machine allows no core dumps: asking for them is NOT tested")
    resource.setrlimit(resource.RLIMIT_CORE, (4096, before[1]))
    try:
        for asked, wanted in (("", 0), ("1", 4096)):
            assert job(METAPROMPT_CORE_DUMPS=asked).returncode == 0
            assert record(tmp_path)["core"] == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


def test_the_exit_code_comes_from_a_file_that_nobody_else_can_have_made(job: Run, tmp_path: Path) -> None:
    project, secret = tmp_path / "project", tmp_path / "mine"
    secret.write_text("keep")
    (project / ".exit-7-0").symlink_to(secret)
    for told, code in (("75\n", 75), ("3\n", 3), ("nonsense\n", 1)):
        assert job(TELL=told).returncode == code
        folder, mode, content = record(tmp_path)["folder"]
        assert Path(folder).parent == project and mode == 0o700 and content == [] and not Path(folder).exists()
    assert secret.read_text() == "keep"
