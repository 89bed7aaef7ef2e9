"""docs/tutorials as they stand: every command block is given to a shell, page after page, in a folder like a clone."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.processes.fork_server import as_programs

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("labels", "entities", "questions")  # the first one distils the metaprompt that the others adapt
CLONED = ("train.py", "backbones", "clinical_tasks", "configs", "ds_configs", "engine", "prompt_modules", "strict_yaml")


def commands_of(page: str) -> list[str]:
    """The blocks marked as bash, in the order of the page. Other blocks show output."""
    text = (ROOT / "docs/tutorials" / f"{page}.md").read_text()
    return re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder in which all pages ran, and what each page's commands printed."""
    clone = tmp_path_factory.mktemp("clone")
    for name in CLONED:
        (clone / name).symlink_to(ROOT / name)
    path = as_programs(tmp_path_factory.mktemp("bin"))
    env = os.environ | {"HOME": str(clone / "home"), "PATH": path}
    output = {}
    for page in PAGES:
        script = "set -euo pipefail\n" + "\n".join(commands_of(page))
        done = subprocess.run(
            ["bash", "-c", script], cwd=clone, env=env, text=True, capture_output=True, timeout=550, check=False
        )
        output[page] = done.stdout + done.stderr
        assert done.returncode == 0, output[page][-4000:]
    return clone, output


def test_every_page_has_commands() -> None:
    assert sorted(file.stem for file in (ROOT / "docs/tutorials").glob("*.md")) == sorted(PAGES)
    assert all(len(commands_of(page)) >= 4 for page in PAGES)


def test_cards_lose_nothing(printed: tuple[Path, dict[str, str]]) -> None:
    _, output = printed
    for page, task in (("labels", "findings"), ("entities", "drugs"), ("questions", "questions")):
        assert re.search(rf"^{task} .* ok .* 1\.0000$", output[page], re.MULTILINE), output[page]


def test_adapted_prompts_answer_the_test_split(printed: tuple[Path, dict[str, str]]) -> None:
    clone, _ = printed
    for run, task in (("labels", "findings"), ("entities", "drugs"), ("questions", "questions")):
        average = json.loads((clone / f"my/runs/{run}/results.json").read_text())["average"]
        assert average["metaprompt"]["full"] >= 0.7, (task, average)
    assert "<html" in (clone / "my/report/report.html").read_text()


def test_new_notes_are_answered_in_the_formats_that_the_pages_name(printed: tuple[Path, dict[str, str]]) -> None:
    clone, _ = printed
    labelled = [json.loads(line) for line in (clone / "my/labelled.jsonl").read_text().splitlines()]
    assert [record["id"] for record in labelled] == ["c01", "c02"]
    assert all(record["label"] in ("supported", "unclear", "refuted") for record in labelled)
    for name in ("visit1", "visit2"):
        note = (clone / f"my/new_notes/{name}.txt").read_text()
        lines = (clone / f"my/marked/{name}.ann").read_text().splitlines()
        assert lines, name
        for line in lines:
            _, place, text = line.split("\t")
            _, start, end = place.split()
            assert note[int(start) : int(end)] == text
    assert json.loads((clone / "my/answers.jsonl").read_text())["id"] == "s01"


def test_no_note_is_printed(printed: tuple[Path, dict[str, str]]) -> None:
    """The pages print answers with `cat`; what the program itself prints holds no note."""
    _, output = printed
    for text in output.values():
        assert "year old" not in text
