"""The reader of files: keys stand once, words stay words, and every problem has its line."""

from pathlib import Path

import pytest

from clinical_tasks.task_card.load import EMBEDDED_CARDS
from strict_yaml import reader
from strict_yaml.reader import UnreadableFile, parse, read_mapping


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.yaml"


def test_only_true_and_false_are_booleans_and_dates_are_text(file: Path) -> None:
    file.write_text("a: [yes, no, on, off, true, False, 2020-01-01, 1e-3, 12, 0.5, null]\nno: yes\n")
    expected = ["yes", "no", "on", "off", True, False, "2020-01-01", "1e-3", 12, 0.5, None]
    assert read_mapping(file) == {"a": expected, "no": "yes"}
    assert parse("[off, 3]") == ["off", 3]


def test_a_byte_order_mark_and_merged_keys_are_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfbase: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\n")
    assert read_mapping(file)["other"] == {"x": 1, "y": 3}


def test_every_key_that_stands_twice_is_told_with_both_lines(file: Path) -> None:
    file.write_text("a: 1\nb:\n  c: 1\n  c: 2\na: 3\nd: [{e: 1, e: 2}]\n")
    with pytest.raises(UnreadableFile) as error:
        read_mapping(file)
    assert sorted(error.value.told(file, "fix")) == [
        f"{file}, line 4: duplicate key 'c' (first in line 3)",
        f"{file}, line 5: duplicate key 'a' (first in line 1)",
        f"{file}, line 6: duplicate key 'e' (first in line 6)",
    ]


@pytest.mark.parametrize(
    ("content", "kind", "wanted"),
    [
        (b"a: [1\n", "syntax", "not valid YAML"),
        (b"a: 1\n  b: 2\n", "syntax", ", line 2: not valid YAML"),
        (b"a: \x01\n", "syntax", "not valid YAML (malformed)"),
        (b"a: {{ name }}\n", "key", ", line 1: a key must be plain text"),
        (b"- a\n", "content", ": must hold a mapping of keys to values"),
        (b"", "content", ": must hold a mapping of keys to values"),
        (b"a: \x80\n", "encoding", ": not a text file: byte 3 is not UTF-8; fix"),
    ],
)
def test_what_is_no_mapping(content: bytes, kind: str, wanted: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(UnreadableFile) as error:
        read_mapping(file)
    assert [problem.kind for problem in error.value.problems] == [kind]
    (line,) = error.value.told(file, "fix")
    assert line.startswith(str(file)) and wanted in line


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(UnreadableFile) as error:
        read_mapping(file)
    assert error.value.told(file, "name one") == [f"{file}: No such file or directory; name one"]


@pytest.mark.parametrize(
    "text",
    ["a: 0b_\n", "a: 0x_\n", "a: !!int x\n", "a: !!timestamp x\n", "a: !!bool x\n", "[" * 3000],
)
def test_what_yaml_cannot_make_a_value_of_is_no_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match="not valid YAML"):
        read_mapping(path)


@pytest.mark.parametrize("digits", ["9" * 61, "9" * 5000, "0x" + "f" * 5000, "-" + "1" * 4000])
def test_whole_numbers_that_no_message_and_no_hash_can_hold_are_refused_with_their_line(
    tmp_path: Path, digits: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"b: {'9' * 60}\na:\n  - {digits}\n")
    with pytest.raises(UnreadableFile) as caught:
        read_mapping(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.text) == (3, "a number must have at most 60 digits")


def test_keys_that_are_one_number_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("labels:\n  1: a\n  01: b\n")
    with pytest.raises(UnreadableFile, match=r"duplicate key '01' \(first in line 2\)"):
        read_mapping(path)


def test_a_long_key_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    note = "The patient was admitted with " + "pain " * 20
    path.write_text(f"{note}: 1\n{note}: 2\n")
    with pytest.raises(UnreadableFile) as caught:
        read_mapping(path)
    assert "patient" not in str(caught.value) and "<129 characters>" in str(caught.value)


SHIPPED = sorted(EMBEDDED_CARDS.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_a_shipped_file_holds_the_same_for_libyaml(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = read_mapping(path)
    assert repr(read_mapping(path, shipped=True)) == repr(slow)
    monkeypatch.setattr(reader, "_parsed", lambda _: pytest.fail("libyaml did not read it"))
    read_mapping(path, shipped=True)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb:\n  c: 1\n  c: 2\na: 3\n",
        "a: [1\n",
        "a: {{ name }}\n",
        "a: *b\n",
        "a: !!int x\n",
        f"a: {'9' * 61}\n",
        "a: !thing x\n",
        "- a\n",
        "",
    ],
)
def test_what_is_wrong_with_a_shipped_file_is_told_as_of_any_other(text: str, file: Path) -> None:
    file.write_text(text)
    told = []
    for shipped in (False, True):
        with pytest.raises(UnreadableFile) as error:
            read_mapping(file, shipped=shipped)
        told.append(error.value.problems)
    assert told[0] == told[1]


def test_words_stay_words_in_a_shipped_file(file: Path) -> None:
    file.write_text("a: [yes, no, on, off, true, False, 2020-01-01, 1e-3, 12, 0.5, null]\nno: yes\n01: x\n")
    assert repr(read_mapping(file, shipped=True)) == repr(read_mapping(file))


def test_a_shipped_file_is_read_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_libyaml_loader", lambda: None)
    assert read_mapping(SHIPPED[0], shipped=True) == read_mapping(SHIPPED[0])
