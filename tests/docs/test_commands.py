"""Every command of the documents: fast ones run here, the others are run by another test or need what a laptop has not.

What a command needs is told by the command itself (`need_of`). Where that is wrong, the document says it in a comment,
which a reader does not see; it holds until the next heading, before the title for the whole document:

    <!-- not run: cluster -->
    <!-- run by: tests/end_to_end/test_extending.py -->
"""

import json
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from documented_commands import (
    REASONS,
    ROOT,
    Command,
    commands_of,
    commands_of_comments,
    documents,
    need_of,
    problems_of,
)

from tests.processes.fork_server import python

# documents whose commands a test runs as they stand
RUN_BY = {
    "docs/how_to/extending.md": "tests/end_to_end/test_extending.py",
    "docs/tutorials/*.md": "tests/end_to_end/test_tutorials.py",
}
# what a reader's own file or folder is in the runs of this test
STAND_INS = {
    "my/distill.yaml": "configs/pocket/distill.yaml",
    "my/adapt.yaml": "configs/pocket/adapt.yaml",
    "my/cards": "corpora/cards",
    "my/data": "corpora",
    "DATA_ROOT": "corpora",
    "DIR": "corpora",
}
WRITERS = ("tools.json_schemas", "tools.reference_pages")  # they write into the clone: only checked here
LINKED = ("configs", "backbones", "ds_configs", "clinical_tasks", "engine", "train.py")

# runs several commands in one process, so that libraries are imported once
RUNNER = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, sys.argv[2])
import train
for line in list(open(sys.argv[1])):
    words = json.loads(line)
    said, code = io.StringIO(), 0
    print(json.dumps({"started": words}), flush=True)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if words[1] == "-m":
                sys.argv[:] = words[2:]
                runpy.run_module(words[2], run_name="__main__")
            else:
                train.main(words[2:])
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps({"code": code, "said": said.getvalue()[-2000:]}), flush=True)
"""


def everything() -> list[Command]:
    return [command for path in documents() for command in commands_of(path)]


def run_by(command: Command) -> str:
    """The test that runs a command, by a mark or by the table; empty where there is none."""
    if command.mark and command.mark[0] == "run by":
        return command.mark[1]
    document = command.where.rpartition(":")[0]
    return next((test for pattern, test in RUN_BY.items() if fnmatch(document, pattern)), "")


def with_stand_ins(command: Command) -> Command:
    words = []
    for word in command.words:
        name, given, value = word.rpartition("=")
        words.append(name + given + STAND_INS.get(value, value))
    if words[1:2] == ["-m"] and words[2] in WRITERS and "--check" not in words:
        words.append("--check")
    return command._replace(words=tuple(words))


def runs_here(command: Command) -> bool:
    if run_by(command) or (command.mark and command.mark[0] == "not run"):
        return False
    return not need_of(with_stand_ins(command))


def test_there_are_commands_and_no_mode_is_left_out() -> None:
    found = everything()
    assert len(found) > 60 and len([command for command in found if command.fenced]) > 30
    named = {word for command in found for word in command.words}
    assert named >= {
        "distill",
        "adapt",
        "evaluate",
        "report",
        "tasks",
        "predict",
        "plan",
        "benchmark",
        "export",
        "merge",
    }


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_names_what_exists(path: Path) -> None:
    problems = [f"{one.where}: {text}\n    {one.text}" for one in commands_of(path) for text in problems_of(one)]
    assert not problems, "\n".join(problems)


def test_commands_in_comments_of_configurations_name_what_exists() -> None:
    files = [path for top in ("configs", "backbones") for path in sorted((ROOT / top).rglob("*.yaml"))]
    found = [command for path in files for command in commands_of_comments(path)]
    named = {command.words[0] for command in found}
    assert len(found) > 30 and named >= {"python", "torchrun", "srun", "sbatch", "hf"}
    problems = [f"{one.where}: {text}\n    {one.text}" for one in found for text in problems_of(one)]
    assert not problems, "\n".join(problems)


def test_every_command_is_run_or_says_what_it_needs() -> None:
    for command in everything():
        if command.mark and command.mark[0] == "not run":
            assert command.mark[1] in REASONS, f"{command.where}: the reason must be one of {', '.join(REASONS)}"
        elif run_by(command):
            test = ROOT / run_by(command)
            assert test.is_file(), f"{command.where}: there is no test {run_by(command)}"
            name = Path(command.where.rpartition(":")[0]).name
            assert name in test.read_text() or "tutorials" in test.read_text(), f"{test} does not read {name}"
        else:
            assert runs_here(command) or need_of(with_stand_ins(command)) in REASONS, f"{command.where}: mark it"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("python train.py distil --config my/distill.yaml", "there is no mode distil"),
        ("python train.py distill --sharding zero3", "distill needs --config"),
        ("python train.py distill --config my/d.yaml --token_budget 5", "distill has no flag --token_budget"),
        (
            "torchrun --nproc_per_node 8 -- train.py adapt --config my/a.yaml --adapt.step=5",
            "adapt has no flag --adapt.step",
        ),
        ("python train.py adapt --config my/a.yaml --adapt.steps=many", "--adapt.steps: 'many' is not a whole number"),
        ("python train.py plan --config configs/demo/distil.yaml", "there is no file configs/demo/distil.yaml"),
        (
            "python train.py plan --config my/d.yaml --batching plain",
            "--batching: 'plain' must be one of packed, padded",
        ),
        ("python train.py tasks lst", "tasks is followed by one of list, check"),
        ("python -m tools.no_such_tool", "there is no module tools.no_such_tool"),
        ("python -m tools.json_schemas --chek", "tools.json_schemas has no flag --chek"),
        ("make demos", "the Makefile has no target demos"),
        ("make demo BACKBON=llama", "the Makefile has no variable BACKBON"),
        (
            "sbatch launch_scripts/distil.sbatch configs/demo/distill.yaml",
            "there is no file launch_scripts/distil.sbatch",
        ),
        (
            "sbatch launch_scripts/distill.sbatch my/d.yaml --sede=1",
            "launch_scripts/distill.sbatch takes no flag --sede",
        ),
        ("pip install -r requirements-devel.txt", "there is no file requirements-devel.txt"),
    ],
)
def test_a_wrong_command_is_seen(line: str, problem: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in (f"# Page\n\n```bash\n{line}\n```\n", f"# Page\n\nType `{line}`.\n"):
        page.write_text(text)
        (command,) = commands_of(page)
        assert list(problems_of(command)) == [problem]


def test_marks_hold_until_the_next_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n<!-- not run: cluster -->\n\n```\nmake demo\n```\n\n```text\nmake test\nother output\n```\n"
        "## Next\n\n```bash\nA=1 make demo BACKBONE=llama; make check # both\n```\n"
        "```yaml\nmake: nothing\n```\n```bash\ncat > my/a.yaml <<'END'\nmake: nothing\nEND\nmake \\\n  lock\n```\n"
    )
    found = list(commands_of(page))
    assert [(one.where, one.text, one.mark) for one in found] == [
        ("page.md:6", "make demo", ("not run", "cluster")),
        ("page.md:10", "make test", ("not run", "cluster")),
        ("page.md:16", "make demo BACKBONE=llama", None),
        ("page.md:16", "make check", None),
        ("page.md:22", "cat '>' my/a.yaml '<<' END", None),
        ("page.md:25", "make lock", None),
    ]


def test_fast_commands_run(tmp_path: Path) -> None:
    """plan, tasks and --help, in one process, in a folder that has the clone's files and no others."""
    wanted = {with_stand_ins(command).words: command.where for command in everything() if runs_here(command)}
    for mode in ("distill", "study", "predict"):
        wanted.setdefault(("python", "train.py", mode, "--help"), "every mode's --help")
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "commands").write_text("".join(f"{json.dumps(words)}\n" for words in wanted))
    make_corpora = [*python(), "-m", "clinical_tasks.pocket", "--output", str(tmp_path / "corpora")]
    subprocess.run(make_corpora, cwd=ROOT, check=True, capture_output=True)
    runner = [*python(), "-c", RUNNER, str(tmp_path / "commands"), str(ROOT)]
    done = subprocess.run(runner, cwd=tmp_path, text=True, capture_output=True, timeout=600)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    outcomes = [one for one in said if "code" in one]
    failed = []
    for (words, where), outcome in zip(wanted.items(), outcomes, strict=False):
        if outcome["code"] != 0:
            failed.append(f"{where}: exit code {outcome['code']}: {' '.join(words)}\n{outcome['said']}")
    assert not failed, "\n\n".join(failed)
    assert len(outcomes) == len(wanted) > 5, f"{said[-1]} ended the process\n{done.stderr[-3000:]}"
