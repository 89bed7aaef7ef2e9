"""What a command loads before it has something to do: by the names of modules, which no busy machine changes.

A package from outside the standard library that is not named here fails a test, whatever its name.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.cli.main import MODES

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
before = set(sys.modules)
import train
code = 0
try:
    train.main(sys.argv[1:])
except SystemExit as end:
    code = end.code
files = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) and name not in before]
print(code, *files)
"""
OURS = {"backbones", "clinical_tasks", "engine", "prompt_modules", "strict_yaml", "train"}
# packages of others
LISTS = {"lazy_loader"}
READS = LISTS | {"yaml", "pydantic_core", "typing_extensions"}
RUNS = READS | {"fire", "termcolor"}
# parts of the standard library that take long, and parts of this program that have no say in a message
SLOW = ("asyncio", "concurrent.futures", "ctypes", "email", "http", "importlib.metadata", "multiprocessing", "ssl")
CORPORA = ("clinical_tasks.readers.registry", "clinical_tasks.scoring", "engine.data.corpora", "engine.data.dataset")
WEIGHTS = ("backbones.loading.digests", "engine.checkpoints.checkpoint", "engine.training.trainer")
UNUSED = (*SLOW, *CORPORA, *WEIGHTS, "engine.config.loader", "difflib", "importlib.resources", "socket", "tempfile")
# library releases are compared, which importlib.metadata knows
CHECKED = ("asyncio", "concurrent.futures", *CORPORA, *WEIGHTS)

DISTILL = ("distill", "--config=configs/demo/distill.yaml", "--run_dir={out}/run")
RUN_TAKERS = {
    "evaluate": ("--run={out}/none",),
    "predict": ("--run={out}/none", "--task=demo_qa", "--input={out}/none", "--output={out}/answers.jsonl"),
    "export": ("--run={out}/none", "--format=peft", "--output={out}/new"),
    "merge": ("--runs={out}/none,{out}/other", "--output={out}/new"),
    "report": ("--runs={out}/none",),
}


class Loads(NamedTuple):
    """A command, its exit code, the packages of others that it may load, and modules that it must not."""

    command: tuple[str, ...]
    code: int
    packages: set[str]
    never: tuple[str, ...]


TABLE = {
    "help": Loads(("--help",), 0, LISTS, (*UNUSED, "engine.config.schema")),
    "no mode": Loads((), 2, LISTS, (*UNUSED, "engine.config.schema")),
    **{f"help of {mode}": Loads((mode, "--help"), 0, LISTS, UNUSED) for mode in MODES},
    "cards": Loads(("tasks", "list"), 0, RUNS, ("email", "importlib.metadata", "multiprocessing", *CORPORA, *WEIGHTS)),
    "cards of a folder": Loads(
        ("tasks", "list", "--cards=configs/demo/cards"), 0, RUNS, ("email", "importlib.metadata", *CORPORA, *WEIGHTS)
    ),
    "wrong mode": Loads(("distil",), 2, READS, (*SLOW, *CORPORA, *WEIGHTS)),
    "wrong flag": Loads((*DISTILL, "--nonsense"), 2, READS, CHECKED),
    "wrong key": Loads(("distill", "--config={out}/wrong.yaml"), 2, READS, CHECKED),
    "no backbone": Loads((*DISTILL, "--backbone={out}/none.yaml"), 2, READS, CHECKED),
    "no source run": Loads(
        ("adapt", "--config=configs/demo/adapt.yaml", "--run_dir={out}/run", "--adapt.source_run={out}/none"),
        2,
        READS,
        CHECKED,
    ),
    "no study file": Loads(("study", "--config={out}/none.yaml"), 2, READS, (*SLOW, *CORPORA, *WEIGHTS)),
    **{f"no run: {mode}": Loads((mode, *flags), 2, READS, (*SLOW, *CORPORA)) for mode, flags in RUN_TAKERS.items()},
    "no data root": Loads(("tasks", "check", "--data_root={out}/none"), 2, READS, ("asyncio", *WEIGHTS)),
    "no plan file": Loads(("plan", "--config={out}/none.yaml"), 2, READS, ("asyncio", *WEIGHTS)),
    "no benchmark file": Loads(("benchmark", "--config={out}/none.yaml", "--steps=2"), 2, READS, ("asyncio", *WEIGHTS)),
}


@pytest.fixture
def out(tmp_path: Path, project: Path) -> Path:
    """A folder with a configuration that has a wrong key."""
    text = (project / "configs/demo/distill.yaml").read_text()
    assert text.count("\nbackbone:") == 1
    (tmp_path / "wrong.yaml").write_text(text.replace("\nbackbone:", "\nbackbon:"))
    return tmp_path


def loaded(command: tuple[str, ...], code: int, project: Path, out: Path) -> set[str]:
    """The modules that a command has loaded when it ends."""
    left_out = ("RANK", "SLURM_PROCID", "WORLD_SIZE", "LOCAL_RANK", "EXIT_CODE_FILE")
    left_out += ("COVERAGE_PROCESS_CONFIG",)  # coverage.py loads modules of the table itself
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(word.format(out=out) for word in command)],
        cwd=project,
        env=env | {"PYTHONPATH": str(out)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == str(code), done.stderr
    return set(last[1:])


def of_others(modules: set[str]) -> set[str]:
    """The packages among modules that belong neither to Python nor to this program."""
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - OURS


@pytest.mark.parametrize("name", TABLE)
def test_a_command_that_starts_nothing_loads_what_it_needs_alone(name: str, project: Path, out: Path) -> None:
    command, code, packages, never = TABLE[name]
    modules = loaded(command, code, project, out)
    assert "engine.cli.main" in modules
    assert of_others(modules) <= packages
    assert not modules & set(never)


def test_a_module_that_must_not_be_loaded_has_not_been_renamed() -> None:
    for name in {name for row in TABLE.values() for name in row.never}:
        assert importlib.util.find_spec(name) is not None, name


@pytest.mark.parametrize("mode", ["distill", "adapt"])
def test_the_first_line_of_a_run_waits_for_no_library(mode: str, project: Path, out: Path) -> None:
    """It comes as torch is looked for; a torch that ends the process shows what was loaded until then."""
    (out / "torch.py").write_text("raise SystemExit(0)\n")
    config = ("--config=configs/demo/distill.yaml", "--run_dir={out}/run")
    if mode == "adapt":
        config = ("--config=configs/demo/adapt.yaml", "--run_dir={out}/run", "--adapt.methods=prompt_tuning")
    modules = loaded((mode, *config), 0, project, out)
    assert "engine.telemetry.loading_line" in modules
    assert of_others(modules) <= RUNS
    assert not modules & set(WEIGHTS)
