"""A clone that its user cannot write to: what a run needs to write goes elsewhere, or is named at once."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.processes.fork_server import ForkServer

pytestmark = pytest.mark.slow

CODE = ("engine", "prompt_modules", "backbones", "clinical_tasks", "strict_yaml", "configs", "ds_configs")
FREE = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "HF_HOME", "XDG_CACHE_HOME", "PYTHONPATH")
MOUNTED = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && shift && exec "$@"'
SMALL = (
    "--teach.steps=1",
    "--teach.eval_interval=0",
    "--teach.batch_size=2",
    "--distill.steps=1",
    "--distill.batch_size=3",
    "--data.max_train=4",
)

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def clone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clone")
    for name in CODE:
        shutil.copytree(project / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "train.py", out)
    return out


@pytest.fixture(scope="module")
def server(clone: Path) -> Iterator[ForkServer]:
    """Python in a clone that is mounted read-only, for the server and its forks alone; skips where that cannot be
    had.
    """
    inside = ["unshare", "--mount", "bash", "-c", MOUNTED, "_", str(clone)]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here (root is needed): a clone that cannot be written to is NOT tested")
    found = ForkServer(clone, inside)
    yield found
    found.stop()


def python(server: ForkServer, place: Path, home: Path, *arguments: str, **env: str) -> Done:
    own = {k: v for k, v in os.environ.items() if k not in FREE}
    own |= {"HOME": str(home), "OMP_NUM_THREADS": "1"} | env
    command = [*server.python(), *arguments]
    return subprocess.run(command, cwd=place, env=own, capture_output=True, text=True, timeout=300)


def test_every_module_is_the_clone_s(server: ForkServer, clone: Path, project: Path, tmp_path: Path) -> None:
    code = "import sys; print(*(getattr(m, '__file__', None) or '' for m in sys.modules.values()), sep='\\n')"
    files = python(server, clone, tmp_path, "-c", code).stdout.splitlines()
    own = [file for file in files if file.startswith(f"{project}/") and "/.venv/" not in file]
    helpers = (f"{project}/tests/", f"{project}/tools/")  # of the server itself
    assert [file for file in own if not file.startswith(helpers)] == []
    assert len([file for file in files if file.startswith(f"{clone}/engine/")]) > 100


@pytest.fixture
def run(server: ForkServer, clone: Path, tmp_path: Path) -> Run:
    """``run("train.py", "distill", HOME="…")``"""
    (tmp_path / "home").mkdir()
    return partial(python, server, clone, tmp_path / "home")


@pytest.fixture(scope="module")
def finished(server: ForkServer, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that named its folders, and, in the clone, the same one as ``done``, which its reader cannot write to."""
    own = tmp_path_factory.mktemp("own")
    built = os.environ["TORCH_EXTENSIONS_DIR"]  # what is compiled already: a minute less
    folders = (f"--run_dir={own / 'run'}", f"--data.cache={own / 'cache'}")
    done = python(server, clone, own, *distill(*folders), TORCH_EXTENSIONS_DIR=built)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(own / "run", clone / "done")
    return own / "run"


def distill(*more: str) -> tuple[str, ...]:
    configs = ("--config=configs/demo/distill.yaml", "--backbone=configs/tiny/llama.yaml")
    return ("train.py", "distill", *configs, *SMALL, *more)


def test_the_key_is_named_and_nothing_starts(run: Run, clone: Path, tmp_path: Path) -> None:
    done = run(*distill(f"--run_dir={tmp_path / 'run'}"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: data.cache: .cache/tokens: {clone} cannot be written to by this user; "
        "name another folder (--data.cache=FOLDER), or ask for write permission\n"
    )
    assert not (tmp_path / "run").exists() and not list((tmp_path / "home").iterdir())


def test_everything_that_cannot_be_written_is_named_at_once(run: Run, clone: Path) -> None:
    done = run(*distill(), HOME=str(clone / "home"))
    keys = re.findall(r"(\S+): \S+: \S+ cannot be written to", done.stderr)
    assert done.returncode == 2 and keys == ["run_dir", "data.cache", "TORCH_EXTENSIONS_DIR"], done.stderr
    assert "export TORCH_EXTENSIONS_DIR=FOLDER" in done.stderr


def test_a_run_that_names_its_folders_ends(finished: Path) -> None:
    assert (finished / "COMPLETED").exists()


def test_a_run_from_another_folder_need_not_name_any(server: ForkServer, clone: Path, tmp_path: Path) -> None:
    away, built = tmp_path / "away", os.environ["TORCH_EXTENSIONS_DIR"]
    away.mkdir()
    inputs = {"data.root": "demo/data", "data.cards": "demo/cards", "config": "demo/distill.yaml"}
    inputs["backbone"] = "tiny/llama.yaml"
    flags = [f"--{key}={clone / 'configs' / path}" for key, path in inputs.items()]
    command = (str(clone / "train.py"), "distill", *flags, *SMALL)
    done = python(server, away, tmp_path, *command, TORCH_EXTENSIONS_DIR=built)
    assert done.returncode == 0, done.stderr
    assert (away / "runs/demo/distill/COMPLETED").exists() and (away / ".cache/tokens").is_dir()


def test_answers_and_exports_of_a_run_that_cannot_be_written_to(run: Run, finished: Path, tmp_path: Path) -> None:
    built = os.environ["TORCH_EXTENSIONS_DIR"]
    (tmp_path / "note.txt").write_text("The patient takes aspirin.")
    notes = (f"--input={tmp_path / 'note.txt'}", f"--output={tmp_path / 'answers.jsonl'}")
    asked = ("--run=done", "--task=demo_entities", *notes, "--evaluate.max_new_tokens=2")
    done = run("train.py", "predict", *asked, TORCH_EXTENSIONS_DIR=built)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 1
    written = f"--output={tmp_path / 'exported'}"
    done = run("train.py", "export", "--run=done", "--format=vllm", written)
    assert done.returncode == 0 and list((tmp_path / "exported").rglob("*.safetensors")), done.stderr


def test_what_is_written_into_such_a_run_is_refused(run: Run, clone: Path, finished: Path) -> None:
    done = run("train.py", "evaluate", "--run=done")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: command line: --run: done: {clone / 'done'} cannot be written to by this user; "
        "copy the run to a folder of yours, or ask for write permission\n"
    )
    done = run("train.py", "report", "--runs=done")
    assert done.returncode == 2 and "--runs: done has no results.json" in done.stderr
    assert done.stderr.endswith(
        f"error: command line: --output: done: {clone / 'done'} cannot be written to by this user; "
        "name another folder (--output=FOLDER), or ask for write permission\n"
    )


def test_a_copy_of_it_is_evaluated_and_reported(run: Run, finished: Path, tmp_path: Path) -> None:
    built = os.environ["TORCH_EXTENSIONS_DIR"]
    shutil.copytree(finished, tmp_path / "run")
    few = ("--data.max_test=1", "--evaluate.max_new_tokens=2", f"--data.cache={tmp_path / 'cache'}")
    done = run("train.py", "evaluate", f"--run={tmp_path / 'run'}", *few, TORCH_EXTENSIONS_DIR=built)
    assert done.returncode == 0, done.stderr
    done = run("train.py", "report", f"--runs={tmp_path / 'run'}")
    assert done.returncode == 0 and (tmp_path / "run/report.html").exists(), done.stderr


def test_a_benchmark_asks_for_its_output_alone(run: Run, clone: Path, tmp_path: Path) -> None:
    built = os.environ["TORCH_EXTENSIONS_DIR"]
    command = ("train.py", "benchmark", *distill()[2:], "--steps=1", "--warmup=1", "--invented=20,4")
    done = run(*command)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "--output: " in done.stderr and "(--output=FOLDER)" in done.stderr and "run_dir" not in done.stderr.split(": ")
    )
    done = run(*command, f"--output={tmp_path / 'speed'}", TORCH_EXTENSIONS_DIR=built)
    assert done.returncode == 0 and (tmp_path / "speed/benchmark.json").exists(), done.stderr


def test_libraries_compile_in_the_users_cache_folder(run: Run, clone: Path, tmp_path: Path) -> None:
    script = "import json, os; from engine.core.privacy import protect; protect(); print(json.dumps(dict(os.environ)))"
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
    named = "configs/pocket/study.yaml, line 3: run_dir: runs/study"
    if command[0] != "study":
        named = "command line: --output: "
    assert f"error: {named}" in done.stderr and f"{clone} cannot be written to by this user" in done.stderr
