"""The command line: what train.py refuses, with which exit code, before anything of weight starts."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import train
from engine.cli import early, main
from engine.cli.arguments import later_mode, parse
from engine.cli.exit_codes import LET_RANK_0_SPEAK
from engine.cli.flags import fix_of
from engine.config.schema import schema_keys
from engine.core.errors import UserError
from engine.data.audit import check_data
from engine.recipes.tasks import tasks_list

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that distill would accept and run."""
    path = tmp_path / "run.yaml"
    content = {
        "run_dir": str(tmp_path / "out"),
        "backbone": "configs/tiny/llama.yaml",
        "sharding": "replicated",
        "data": {"root": "configs/demo/data", "cards": ["configs/demo/cards"], "cache": str(tmp_path / "cache")},
        "distill": {"sources": ["demo_qa"]},
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def command(project: Path) -> Command:
    """``command("distill", "--seed=1")``: train.py in a process of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "SLURM_PROCID", "WORLD_SIZE")}
        return subprocess.run(
            [sys.executable, "train.py", *arguments],
            cwd=project,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


REFUSED = [
    (["--dryrun"], "--dryrun: unknown key 'dryrun'"),
    (["-d"], "--d: unknown key 'd'"),
    (["--teach.stpes=3"], "did you mean 'teach.steps'?"),
    (["--teach.steps=abc"], "--teach.steps: must be a whole number; got 'abc'"),
    (["--seed=1", "--seed=2"], "--seed: duplicate flag, with '1' and '2'"),
    (["--run-dir=x", "--run_dir=y"], "--run_dir: duplicate flag"),
    (["word"], "'word': not a flag; write --key=value"),
    (["-", "--seed=1"], "'-' has no meaning here"),
    (["--", "--seed=1"], "'--' has no meaning here"),
    (["--max_tokens_per_micro_batch=0"], "--max_tokens_per_micro_batch: must be > 0; got 0"),
]


@pytest.mark.parametrize(("arguments", "wanted"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_a_wrong_command_ends_with_2_before_anything_starts(
    arguments: list[str], wanted: str, command: Command, config: Path, tmp_path: Path
) -> None:
    done = command("distill", f"--config={config}", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and wanted in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "wanted"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_a_wrong_command_never_calls_training(
    arguments: list[str],
    wanted: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    called: list[object] = []
    monkeypatch.chdir(project)
    # the modes hold the training functions themselves
    for name in ("distill", "adapt"):
        monkeypatch.setitem(
            main.MODES,
            name,
            main.Mode(main.MODES[name].help, main.CONFIG, main._with_config(called.append), ("config",), True),
        )
    with pytest.raises(SystemExit) as end:
        train.main(["distill", f"--config={config}", *arguments])
    assert end.value.code == 2 and not called
    assert wanted in capsys.readouterr().err
    train.main(["distill", f"--config={config}"])  # and what is right does call it
    assert len(called) == 1


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["distil"], "unknown mode 'distil'; did you mean 'distill'? (modes: distill, adapt,"),
        (["--seed=1"], "--seed: the mode is missing; write python train.py MODE --seed=1"),
        (["distill"], "--config: missing"),
        (["distill", "--config=gone.yaml"], "gone.yaml: No such file"),
        (["evaluate"], "--run: missing"),
        (["evaluate", "--run=gone"], "gone is not a run directory"),
        (["report"], "--runs: missing"),
        (["report", "--run=x"], "did you mean 'runs'?"),
        (["tasks"], "must be followed by one of list | check; got nothing"),
        (["tasks", "chek"], "must be followed by one of list | check; got chek"),
        (["tasks", "check"], "--data_root: missing"),
        (["adapt", "--config=configs/demo/adapt.yaml", "--adapt.targets=[]"], "adapt.targets: missing"),
        (["distill", "--config=configs/demo/distill.yaml", "--distill.sources="], "distill.sources: missing"),
    ],
)
def test_other_wrong_commands(
    arguments: list[str],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as end:
        train.main(arguments)
    assert end.value.code == 2
    assert wanted in capsys.readouterr().err


def test_everything_wrong_is_told_at_once(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run_dir: x\nbackbon: y\nteach: {steps: many}\n")
    done = command("distill", f"--config={path}", "--dryrun", "--distill.steps=few")
    assert done.returncode == 2
    for wanted in ("dryrun", "'backbon'", "teach.steps", "distill.steps"):
        assert sum(wanted in line for line in done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_mode(arguments: list[str], command: Command) -> None:
    done = command(*arguments)
    assert done.returncode == 0 and not done.stderr
    assert all(f"\n  {mode}" in done.stdout for mode in main.MODES)


@pytest.mark.parametrize("arguments", [["plan", "--help"], ["tasks", "list"], []])
@pytest.mark.parametrize("read", [0, 10])
def test_a_reader_that_leaves_ends_the_command_quietly(arguments: list[str], read: int, project: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(read)
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode in (0, 1, 2) and not [line for line in told.splitlines() if "loading" not in line], told


def test_every_required_flag_has_a_fix_that_is_not_its_help() -> None:
    for name, mode in main.MODES.items():
        for flag in mode.required:
            fix = fix_of(name, flag)
            assert fix.startswith(("name ", "write ", "give ")) and "required" not in fix
            assert fix != mode.flags[flag]


@pytest.mark.parametrize(
    ("typed", "flags", "words"),
    [
        (["--overwrite", "--seed=1"], {"overwrite": "true", "seed": "1"}, []),
        (["--overwrite"], {"overwrite": "true"}, []),
        (["--overwrite", "False"], {"overwrite": "False"}, []),
        (["--overwrite", "yes"], {"overwrite": "yes"}, []),
        (["--overwrite", "-1"], {"overwrite": "-1"}, []),
        (["--overwrite", "check"], {"overwrite": "true"}, ["check"]),
        (["--overwrite", "help"], {"overwrite": "true"}, ["help"]),
        (["--overwrite", "seed=1"], {"overwrite": "true"}, ["seed=1"]),
        (["--overwrite", "a=1"], {"overwrite": "a=1"}, []),
        (["--seed", "check"], {"seed": "check"}, []),
    ],
)
def test_the_word_behind_a_switch_is_its_value(typed: list[str], flags: dict[str, str], words: list[str]) -> None:
    found = parse(typed, known=("overwrite", "seed"), switches=("overwrite",), words=("check",))
    assert (found.flags, found.words, found.problems) == (flags, words, [])


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        (["--mode", "adapt", "benchmark", "--steps=1"], 1),
        (["--mode=adapt", "benchmark"], 0),
        (["--mode", "adapt"], 0),
        (["--seed", "1", "adapt", "--mode", "distill"], 1),
        (["--seed", "1"], None),
    ],
)
def test_the_value_of_a_flag_is_not_taken_for_the_mode(typed: list[str], place: int | None) -> None:
    assert later_mode(typed[0], typed[1:], main.MODES) == place


def test_no_mode_at_all_is_help_with_2(command: Command) -> None:
    done = command()
    assert done.returncode == 2 and "distill" in done.stdout


@pytest.mark.parametrize("help_flag", ["--help", "-h", "help"])
def test_help_of_a_mode_explains_every_key_that_it_reads_and_starts_nothing(
    help_flag: str, command: Command, config: Path, tmp_path: Path
) -> None:
    done = command("distill", f"--config={config}", help_flag)
    assert done.returncode == 0 and not done.stderr
    told = " ".join(done.stdout.split())
    for key, leaf in schema_keys().items():
        read = "distill" in leaf.metadata["modes"]
        assert (f"--{key} " in done.stdout) == read, key
        assert leaf.help in told or not read, key
    assert "--teach.steps whole number, > 0; default: 300 Training steps of each teacher." in told
    assert "--teach.schedule constant | linear | cosine; default: linear" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mode", "reader"), [("adapt", "adapt"), ("evaluate", "evaluate"), ("predict", "evaluate"), ("study", None)]
)
def test_help_lists_the_keys_of_its_own_mode(mode: str, reader: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    train.main([mode, "--help"])
    told = capsys.readouterr().out
    for key, leaf in schema_keys().items():
        own = key in main.MODES[mode].flags  # predict's seed is a row's
        assert (f"--{key} " in told) == (own or reader is None or reader in leaf.metadata["modes"]), key
    assert all(len(line) <= 120 or line.startswith(("  --", "python")) for line in told.splitlines())


def test_values_arrive_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    mode = main.Mode("", {n: "" for n in "abcdefgk"}, lambda flags, words: seen.append(flags))
    monkeypatch.setitem(main.MODES, "report", mode)
    monkeypatch.delitem(early._FINDERS, "report")  # of the flags that the real one has
    typed = {
        "a": "2024_01",
        "b": "1e10",
        "c": "true",
        "d": "[1, 2]",
        "e": "{x: 1}",
        "f": "'quoted'",
        "g": "1-2",
        "k": "x=y",
    }
    train.main(["report", *(f"--{k}={v}" for k, v in typed.items())])
    train.main(["report", *(part for k, v in typed.items() for part in (f"--{k}", v))])
    assert seen == [typed, typed]


def test_dotted_keys_and_dashes_reach_the_configuration(
    config: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.chdir(project)
    seen = []
    monkeypatch.setitem(
        main.MODES, "distill", main.Mode("", main.CONFIG, main._with_config(seen.append), ("config",), True)
    )
    train.main(
        [
            "distill",
            "--config",
            str(config),
            "--run-dir=2024_01",
            "--teach.relative_lr",
            "1e-3",
            "--distill.sources=demo_qa,demo_entities",
            "--overwrite",
            "--data.max_train=5",
        ]
    )
    (found,) = seen
    assert (found.run_dir, found.teach.relative_lr, found.distill.sources, found.overwrite, found.data.max_train) == (
        "2024_01",
        0.001,
        ["demo_qa", "demo_entities"],
        True,
        5,
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_speaks_first_and_all_end_alike(
    rank: int, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher ends every rank when one has exited: the others leave rank 0 the time to say what is wrong."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        assert not capsys.readouterr().err
        waited.append(seconds)

    monkeypatch.setattr("engine.cli.exit_codes.time.sleep", sleep)
    with pytest.raises(SystemExit) as ended:
        train.main(["distill", f"--config={config}", "--dryrun"])
    assert ended.value.code == 2 and waited == [LET_RANK_0_SPEAK] * rank
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error (rank 1): " if rank else "error: ")


@pytest.mark.parametrize(
    ("error", "told"), [("ValueError", False), ("KeyError", False), ("RuntimeError", True), ("OSError", True)]
)
def test_a_fault_is_1_and_does_not_quote_data(error: str, told: bool, project: Path, config: Path) -> None:
    script = "import sys, train\nfrom engine.cli import main as cli\n"
    script += f"def broken(config): raise {error}('Mrs. Example, 82')\n"
    script += (
        "cli.MODES['distill'] = cli.Mode('', cli.CONFIG, cli._with_config(broken), ('config',), "
        "True)\ntrain.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "distill", f"--config={config}"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert (
        f"fault on rank 0: {error}" in done.stderr
        and " in broken" in done.stderr
        and f"on {socket.gethostname()}, last: start" in done.stderr
    )
    assert ("Mrs. Example" in done.stderr) == told


def test_a_users_error_in_the_middle_of_a_mode_is_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)

    def refuse(_: object) -> None:
        raise UserError(["first", "second"])

    monkeypatch.setitem(main.MODES, "distill", main.Mode("", main.CONFIG, main._with_config(refuse), ("config",), True))
    with pytest.raises(SystemExit) as end:
        train.main(["distill", f"--config={config}"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: first\nerror: second\n"


def test_a_missing_run_is_told_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["report", f"--runs={tmp_path}/a,{tmp_path}/b"])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(
        f"{tmp_path}/{run} has no results.json" in line for run, line in zip("ab", lines, strict=True)
    )


def test_the_task_list_names_every_card(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    tasks_list([str(project / "configs/demo/cards")])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    embedded = [p.stem for p in (project / "clinical_tasks/cards").glob("*.yaml")]
    assert set(names) == {"task", *embedded, "demo_qa", "demo_entities", "demo_relations", "demo_summary"}


def test_a_check_of_absent_corpora_is_refused_with_all_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        check_data(str(tmp_path / "gone"), tasks=["pubmedq", "bc5cdr_cid"])
    assert len(error.value.problems) == 2
    assert (
        "'pubmedq'; did you mean 'pubmedqa'?" in error.value.problems[0]
        and "is not a folder" in error.value.problems[1]
    )


def test_the_door_is_short(project: Path) -> None:
    assert len((project / "train.py").read_text().splitlines()) < 100
