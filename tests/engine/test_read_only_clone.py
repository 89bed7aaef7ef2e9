"""A clone that its user cannot write to: what a run needs to write goes elsewhere, or is named at once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CODE = ("engine", "prompt_modules", "backbones", "clinical_tasks", "configs", "ds_configs")
FREE = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "HF_HOME", "XDG_CACHE_HOME", "PYTHONPATH")
MOUNTED = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99; cd "$1" && shift && exec "$@"'
SMALL = (
    "--teach.steps=1", "--teach.eval_every=0", "--teach.examples=2", "--distill.steps=1", "--distill.batch=3",
    "--data.max_train=4",
)  # fmt: skip

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Path:
    out = tmp_path / "clone"
    out.mkdir()
    for name in CODE:
        shutil.copytree(project / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "train.py", out)
    return out


@pytest.fixture
def run(clone: Path, tmp_path: Path) -> Run:
    """``run("train.py", "distill", HOME="…")``: Python in the clone, mounted read-only for this process alone."""

    def started(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        own = {k: v for k, v in os.environ.items() if k not in FREE}
        own |= {"HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"} | env
        command = ["unshare", "--mount", "bash", "-c", MOUNTED, "_", str(clone), sys.executable, *arguments]
        return subprocess.run(command, env=own, capture_output=True, text=True, timeout=300)

    (tmp_path / "home").mkdir()
    try:
        mounted = started("-c", "").returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("nothing can be mounted here (root is needed): a clone that cannot be written to is NOT tested")
    return started


def distill(*more: str) -> tuple[str, ...]:
    configs = ("--config=configs/demo/distill.yaml", "--backbone=configs/tiny/llama.yaml")
    return ("train.py", "distill", *configs, *SMALL, *more)


def test_the_key_is_named_and_nothing_starts(run: Run, clone: Path, tmp_path: Path) -> None:
    done = run(*distill(f"--run_dir={tmp_path / 'run'}"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: data.cache: .cache/tokens: {clone} cannot be written to by this user; "
        "name another folder (--data.cache=FOLDER), or have it opened\n"
    )
    assert not (tmp_path / "run").exists() and not list((tmp_path / "home").iterdir())


def test_everything_that_cannot_be_written_is_named_at_once(run: Run, clone: Path) -> None:
    done = run(*distill(), HOME=str(clone / "home"))
    keys = [line.split(":")[1].strip() for line in done.stderr.splitlines()]
    assert done.returncode == 2 and keys == ["run_dir", "data.cache", "TORCH_EXTENSIONS_DIR"]
    assert "export TORCH_EXTENSIONS_DIR=FOLDER" in done.stderr


def test_a_run_that_names_its_folders_ends(run: Run, tmp_path: Path) -> None:
    built = os.environ["TORCH_EXTENSIONS_DIR"]  # what is compiled already: a minute less
    folders = (f"--run_dir={tmp_path / 'run'}", f"--data.cache={tmp_path / 'cache'}")
    done = run(*distill(*folders), TORCH_EXTENSIONS_DIR=built)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/COMPLETED").exists()


def test_libraries_compile_in_the_users_cache_folder(run: Run, clone: Path, tmp_path: Path) -> None:
    script = "import json, os; from engine.protection import protect; protect(); print(json.dumps(dict(os.environ)))"
    folders = {"TORCH_EXTENSIONS_DIR": "torch_extensions", "TRITON_CACHE_DIR": "triton", "HF_HOME": "huggingface"}
    homes: list[tuple[dict[str, str], Path]] = [
        ({}, tmp_path / "home/.cache"),
        ({"XDG_CACHE_HOME": str(tmp_path / "xdg")}, tmp_path / "xdg"),
        ({"XDG_CACHE_HOME": "relative"}, tmp_path / "home/.cache"),
    ]
    for env, base in homes:
        found = json.loads(run("-c", script, **env).stdout)
        own = base / "clinical-metaprompt"
        assert {name: found[name] for name in folders} == {name: str(own / folder) for name, folder in folders.items()}
    found = json.loads(run("-c", script, TRITON_CACHE_DIR="/mine").stdout)
    assert found["TRITON_CACHE_DIR"] == "/mine"  # the user's own choice


@pytest.mark.parametrize(
    "command",
    [
        ("tasks", "check", "--data_root=configs/demo/data", "--cards=configs/demo/cards", "--output=check.json"),
        ("report", "--runs=run", "--output=report"),
        ("plan", "--config=configs/demo/distill.yaml", "--output=plan.json"),
        ("study", "--config=configs/pocket/study.yaml"),
    ],
    ids=lambda command: command[0],
)
def test_outputs_in_it_are_refused_before_anything_starts(run: Run, clone: Path, command: tuple[str, ...]) -> None:
    done = run("train.py", *command)
    assert done.returncode == 2 and done.stdout == ""
    named = "run_dir: runs/study" if command[0] == "study" else "command line: --output: "
    assert done.stderr.startswith(f"error: {named}") and f"{clone} cannot be written to by this user" in done.stderr
