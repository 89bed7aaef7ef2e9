"""Commands of the documents that train, evaluate or read a reader's own runs, one after the other on small runs.

A launcher in front of a command is left out. `my/distill.yaml` and `my/adapt.yaml` are the pocket configurations with
fewer tasks and steps. Task names and numbers of steps are replaced; everything else is typed as the document has it.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from documented_commands import OWN, ROOT, Command, commands_of, documents, need_of, without_launcher
from test_commands import LINKED, RUNNER, run_by, runs_here

from clinical_tasks.pocket import write_pocket_corpus
from tests.processes.fork_server import python

ENTITIES, PAIRS, LATER = "pocket_n2c2_2022_sdoh_entities", "pocket_radnli", "pocket_uf_opioid_entities"
STAND_INS = {
    "n2c2_2022_sdoh_entities": ENTITIES,
    "radnli": PAIRS,
    "my_doses": LATER,
    "runs/adapt": "runs/my/adapt",
    "200": "2",
}
MODES = ("distill", "adapt", "evaluate", "report", "predict", "benchmark", "export", "merge")
# a mode's place: what it reads has been written before; adaptations of another run directory follow the first one
ORDER = ("distill", "adapt", "evaluate", "report", "predict", "export", "merge", "benchmark")


def documented_runs() -> list[Command]:
    """Blocks' commands of these modes on a reader's own files, without launchers, in the order of ``ORDER``."""
    found = []
    for path in documents():
        for command in commands_of(path):
            bare = without_launcher(command)
            is_run = bare.words[1:2] == ("train.py",) and bare.words[2:3] and bare.words[2] in MODES
            marked = bool(command.mark) or bool(run_by(command))
            own = any(word.rpartition("=")[2].startswith(OWN) for word in bare.words)
            if command.fenced and is_run and own and not marked and need_of(bare) != "values":
                found.append(bare)
    return sorted(found, key=lambda one: (ORDER.index(one.words[2]), "--run_dir" in one.text))


def replaced(command: Command) -> list[str]:
    words = []
    for word in command.words:
        name, given, value = word.rpartition("=")
        words.append(name + given + STAND_INS.get(value, value))
    if "--steps" in words:
        words[words.index("--steps") + 1] = "1"
        words[words.index("--invented") + 1] = "20,4"
        words.append("--distill.batch_size=4")
    return words


def write_own_files(folder: Path) -> None:
    """What the documents call a reader's own: two configurations, a corpus, notes, pairs."""
    write_pocket_corpus(folder / "data", sizes={"train": 40, "validation": 4, "test": 4})
    common = {
        "backbone": "backbones/pocket/llama.yaml",
        "data": {"root": "data", "cards": ["data/cards"], "max_length": 384},
        "evaluate": {"max_new_tokens": 8},
    }
    distill = {
        "run_dir": "runs/my/distill",
        "teach": {"steps": 2, "eval_interval": 0},
        "distill": {"sources": ["pocket_medqa", "pocket_ncbi_disease"], "steps": 2, "batch_size": 4},
    }
    adapt = {
        "run_dir": "runs/my/adapt",
        "adapt": {
            "source_run": "runs/my/distill",
            "targets": [ENTITIES, PAIRS],
            "steps": 2,
            "shots": ["16", "full"],
            "seeds": [0, 1],
        },
    }
    (folder / "my/runs").mkdir(parents=True)
    for name, own in (("distill", distill), ("adapt", adapt)):
        (folder / f"my/{name}.yaml").write_text(yaml.safe_dump(common | own))
    (folder / "my/runs/adapt").symlink_to(folder / "runs/my/adapt")  # as another page calls it
    (folder / "notes").mkdir()
    (folder / "notes/visit.txt").write_text("The patient smokes and lives alone.\n")
    pair = {"id": "p1", "note": "No effusion is seen.", "hypothesis": "There is an effusion."}
    (folder / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, object]]]:
    """A folder in which every command ran, and what became of each: exit code and last output, by its place."""
    folder = tmp_path_factory.mktemp("reader")
    write_own_files(folder)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    runs = documented_runs()
    lines = [json.dumps(replaced(one)) for one in runs]
    (folder / "commands").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    runner = [*python(), "-c", RUNNER, str(folder / "commands"), str(ROOT)]
    done = subprocess.run(runner, cwd=folder, text=True, capture_output=True, timeout=580, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    ended = [one for one in told if "code" in one]
    assert len(ended) == len(set(lines)), f"{told[-1]} ended the process\n{done.stderr[-3000:]}"
    by_line = dict(zip(dict.fromkeys(lines), ended, strict=True))
    return folder, {one.where: by_line[line] for one, line in zip(runs, lines, strict=True)}


def test_every_mode_that_runs_is_documented() -> None:
    assert {command.words[2] for command in documented_runs()} == set(MODES)


def test_every_documented_run_ends_well(outcomes: tuple[Path, dict[str, dict[str, object]]]) -> None:
    _, found = outcomes
    failed = [f"{where}: exit code {one['code']}\n{one['said']}" for where, one in found.items() if one["code"] != 0]
    assert not failed, "\n\n".join(failed)


def _has_results(folder: Path) -> bool:
    return "average" in json.loads((folder / "runs/my/adapt/results.json").read_text())


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(_has_results, id="evaluate"),
        pytest.param(lambda folder: "<html" in (folder / "runs/my/distill/report.html").read_text(), id="report"),
        pytest.param(lambda folder: (folder / "answered/visit.ann").is_file(), id="predict"),
        pytest.param(lambda folder: "label" in json.loads((folder / "labels.jsonl").read_text()), id="predict pairs"),
        pytest.param(lambda folder: list((folder / "exported").rglob("*.safetensors")), id="export"),
        pytest.param(lambda folder: (folder / "my/runs/both/COMPLETED").exists(), id="merge"),
    ],
)
def test_the_documented_files_are_there(
    outcomes: tuple[Path, dict[str, dict[str, object]]], written: Callable[[Path], object]
) -> None:
    assert written(outcomes[0])


def test_every_command_of_a_block_is_run_or_marked() -> None:
    """Of train.py, of a launcher and of SLURM; commands with a placeholder in them cannot be run as they stand."""
    run = {command.where for command in documented_runs()}
    unmarked = []
    for command in (one for path in documents() for one in commands_of(path)):
        starts = "train.py" in command.words or command.words[0] in ("torchrun", "deepspeed", "sbatch", "srun")
        accounted = command.mark or run_by(command) or runs_here(command) or command.where in run
        if command.fenced and starts and not accounted and need_of(command) != "values":
            unmarked.append(f"{command.where}: {command.text}")
    assert not unmarked, "mark with <!-- not run: REASON --> what no test runs:\n" + "\n".join(unmarked)
