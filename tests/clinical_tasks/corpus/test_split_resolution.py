"""Which documents a split holds: globs, id filters, hold-outs."""

from __future__ import annotations

import json

import pytest

from clinical_tasks import ReadError, read_split
from clinical_tasks.corpus.splits import read_documents

HELD = {
    "train": "train.jsonl",
    "validation": {"hold_out": {"from": "train", "fraction": 0.2}},
    "test": {"hold_out": {"from": "train", "fraction": 0.3}},
}


def write(path, ids):
    path.write_text("\n".join(json.dumps({"i": str(i), "q": f"Q{i}", "a": "y"}) for i in ids))


def ids(card, root, split):
    return [example.example_id for example in read_split(card, root, split)]


def qa(card, **changes):
    return card("qa", columns={"id": "i", "question": "q", "answer": "a"}, **changes)


def test_held_out_splits_partition_the_parent_and_depend_on_ids_alone(card, folder, tmp_path):
    mine = qa(card, splits=HELD)
    write(folder / "train.jsonl", range(1000))
    parts = {split: ids(mine, tmp_path, split) for split in HELD}
    assert sorted(sum(parts.values(), []), key=int) == [str(i) for i in range(1000)]
    assert 150 < len(parts["validation"]) < 250 and 250 < len(parts["test"]) < 350
    # Another order and further documents move nobody from one part to another.
    write(folder / "train.jsonl", range(1099, -1, -1))
    assert all(set(parts[split]) <= set(ids(mine, tmp_path, split)) for split in HELD)
    assert len(read_documents(mine, tmp_path, "train", as_released=True)) == 1100


def test_a_group_is_never_divided(card, folder, tmp_path):
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"d": i % 20, "q": str(i), "a": "y"}) for i in range(200)))
    mine = card("qa", splits=HELD, columns={"document": "d", "question": "q", "answer": "a"})
    groups = [{int(e.input_text.split("\n")[0]) % 20 for e in read_split(mine, tmp_path, split)} for split in HELD]
    assert set.union(*groups) == set(range(20)) and sum(map(len, groups)) == 20


def test_id_filters(card, folder, tmp_path):
    write(folder / "all.jsonl", range(6))
    mine = qa(
        card,
        splits={
            "train": {"files": "all.jsonl", "ids_not_in": "t.json"},
            "test": {"files": "all.jsonl", "ids_from": "t.json"},
        },
    )
    for content in ('{"1": "y", "4": "n"}', "[1, 4]"):
        (folder / "t.json").write_text(content)
        assert ids(mine, tmp_path, "test") == ["1", "4"]
        assert ids(mine, tmp_path, "train") == ["0", "2", "3", "5"]
    (folder / "t.json").write_text('["1", "17", "18"]')
    with pytest.raises(ReadError, match=r"t\.json: 2 of 3 ids are not in the split's files"):
        read_split(mine, tmp_path, "test")


def test_globs_and_awkward_plain_names(card, folder, tmp_path):
    write(folder / "part[1].jsonl", [1])
    write(folder / "b.jsonl", [2])
    write(folder / "a.jsonl", [3])
    assert ids(qa(card, splits={"test": ["part[1].jsonl", "?.jsonl"]}), tmp_path, "test") == ["1", "3", "2"]


def test_missing_files_are_named_by_release_name(card, folder, tmp_path):
    write(folder / "a.jsonl", [1])
    mine = qa(card, splits={"test": {"files": ["a.jsonl", "gone.jsonl"], "ids_from": "ids.json"}})
    with pytest.raises(
        ReadError, match=r"mine: task mine, split test: not found: gone\.jsonl, ids\.json\. Fix: .*mine\.yaml"
    ):
        read_split(mine, tmp_path, "test")
    with pytest.raises(ReadError, match=r"no split 'tests' \(did you mean 'test'\?\)"):
        read_split(mine, tmp_path, "tests")


def test_an_id_given_twice_names_both_lines(card, folder, tmp_path):
    write(folder / "test.jsonl", [1, 2, 1])
    with pytest.raises(
        ReadError, match=r"test\.jsonl:3: duplicate id \(first at .*test\.jsonl:1\)\. Fix: .*columns\.id"
    ):
        read_split(qa(card), tmp_path, "test")


def test_a_split_without_documents_is_an_error(card, folder, tmp_path):
    (folder / "test.jsonl").write_text("\n")
    with pytest.raises(ReadError, match="the files hold no documents"):
        read_split(qa(card), tmp_path, "test")
