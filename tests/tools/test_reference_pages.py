"""The reference pages are up to date and name every key, flag and exit code; the exported names are listed."""

import re
from pathlib import Path

import pytest

from clinical_tasks.schema import TaskCard
from engine.cli import EXIT_CODES, MODES
from engine.cli.exit_codes import FAULT, SLOWER, START_AGAIN, USER_ERROR
from engine.config import schema_keys
from strict_yaml import fields_of
from tools import api_page, reference_pages


def rows(page: str) -> dict[str, list[str]]:
    """First cell -> the others, of each row of a page's tables."""
    found = {}
    for line in reference_pages.text_of(page).splitlines():
        if line.startswith("| `"):
            first, *others = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            found[first.strip("`")] = others
    return found


def test_the_pages_are_up_to_date() -> None:
    assert reference_pages.outdated() == [], "run: python -m tools.reference_pages"


def test_check_tells_what_is_out_of_date_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference_pages, "DOCS", tmp_path)
    (tmp_path / "reference").mkdir()
    assert reference_pages.main(["--check"]) == 1 and not any((tmp_path / "reference").iterdir())
    assert reference_pages.main([]) == 0 and reference_pages.main(["--check"]) == 0
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "tutorials" / "new.md").write_text("# A new page\n")
    capsys.readouterr()
    assert reference_pages.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/index.md: out of date; run: python -m tools.reference_pages\n"
    assert reference_pages.main([]) == 0
    assert "- [A new page](tutorials/new.md)" in (tmp_path / "index.md").read_text()


def test_every_configuration_key_has_its_values_default_readers_and_meaning() -> None:
    found = rows("reference/configuration")
    assert list(found) == sorted(found, key=list(schema_keys()).index) and set(found) == set(schema_keys())
    assert all(len(cells) == 5 and all(cells) for cells in found.values())
    assert found["max_nonfinite_steps"][:4] == ["whole number >= 0", "`50`", "distill, adapt", "free"]
    assert found["batching"][:2] == ["`packed`, `padded`", "`packed`"]
    assert found["seed"][0] == "whole number" and found["data.root"][1] == "empty"


def test_every_mode_flag_and_exit_code_is_listed() -> None:
    text = reference_pages.text_of("reference/command_line")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(MODES)
    for name, mode in MODES.items():
        assert re.findall(r"^\| `--(\w+)` \|", sections[name], re.MULTILINE) == list(mode.flags)
    assert {FAULT, USER_ERROR, SLOWER, START_AGAIN} < set(EXIT_CODES)
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == [str(code) for code in EXIT_CODES]
    assert "0.5\\*task1+0.5\\*task2" in text  # not emphasis


def test_every_key_of_a_card_is_listed_and_equal_keys_are_one() -> None:
    found = rows("reference/cards")
    assert set(fields_of(TaskCard)) <= set(found)
    assert found["splits.{train,validation,test}"][0] == "text or list of: text or mapping"
    assert found["reach.{compute,memory,pcie,intra,network}"][:2] == ["number > 0 and <= 1", "required"]
    assert found["extends"][0].startswith("one of ")


def test_the_exported_names_are_listed_with_signature_and_sections() -> None:
    page = api_page.markdown_of_faces()
    assert len(re.findall(r"^## ", page, re.MULTILINE)) == len(list(api_page.faces())) > 15
    assert "### engine.core.write\\_atomic\n\n```python\nwrite_atomic(" in page
    assert "### engine.core.UserError\n\n```python\nclass UserError(" in page
    assert len(re.findall(r"^\*\*Raises\*\*$", page, re.MULTILINE)) > 20


def test_docstrings_become_markdown() -> None:
    docstring = (
        "One * two.\n\nArgs:\n    a: first\n        goes on.\n    b, c: ``code_x``.\n\n    kept   as\n    it is\n"
    )
    assert list(api_page.markdown_of(docstring)) == [
        "One \\* two.",
        "**Args**",
        "- a: first goes on.\n- b, c: `code_x`.",
        "```text\nkept   as\nit is\n```",
    ]
