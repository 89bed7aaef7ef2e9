"""`check_tasks`: what is there, what is missing, what differs from the release; never content."""

from __future__ import annotations

from clinical_tasks import check_tasks, format_checks


def test_absent_tasks_are_no_problem_unless_named(card, tmp_path):
    mine = card("ner", splits={"train": "train.txt", "test": "test/*.txt"})
    (check,) = check_tasks({"mine": mine}, tmp_path / "nowhere")
    assert (check.status, check.problems, check.missing) == ("absent", [], ["test/*.txt", "train.txt"])
    (check,) = check_tasks([mine], tmp_path / "nowhere", required=["mine"])
    assert check.status == "problems"
    assert check.problems[0].startswith(f"not found in {tmp_path / 'nowhere/mine'}: test/*.txt, train.txt. Fix")


def test_counts_labels_mismatches_and_ceiling(card, brat, tmp_path):
    brat("train_a", "aspirin for pain", "T1\tDrug 0 7\taspirin\nT2\tProblem 12 16\tpain\nT3\tDose 8 11\tfor\n")
    brat("test_a", "pain", "T1\tProblem 0 4\tpian\n")
    mine = card(
        "ner",
        splits={"train": "train_*.txt", "test": "test_*.txt"},
        published={"train": {"documents": 1, "mentions": 2}, "test": {"documents": 7, "mentions": 1}},
    )
    (check,) = check_tasks([mine], tmp_path)
    assert check.found == ["test_a.txt", "train_a.txt"] and check.counts == {"train": 1, "test": 1}
    assert check.labels == {"Drug": 1, "Problem": 2} and check.ignored_labels == {"Dose": 1}
    assert (check.offset_mismatches, check.ceiling) == (1, 1.0)
    assert check.problems == ["split test has 1 document, but 7 are published. Fix: compare the files with the release"]
    table = format_checks([check])
    first = table.split("\n")[1].split()
    assert first == ["mine", "ner", "problems", "1", "-", "1", "1", "span_f1_strict", "1.0000"]
    assert (
        "labels: Problem 2 (67%), Drug 1 (33%)" in table
        and "ignored: Dose 1 (100%)" in table
        and "problem: split test" in table
    )


def test_a_partly_missing_task_and_a_broken_file_are_problems_without_content(card, folder, tmp_path, canary):
    (folder / "train.jsonl").write_text('{"q": "Q", "a": "y"}\n{"q": "' + canary + '"')
    splits = {
        "train": "train.jsonl",
        "validation": {"hold_out": {"from": "train", "fraction": 0.5}},
        "test": "test.jsonl",
    }
    (check,) = check_tasks([card("qa", splits=splits)], tmp_path)
    assert len(check.problems) == 2 and "test.jsonl" in check.problems[0]
    assert check.problems[1].startswith(f"{folder / 'train.jsonl'}:2: not JSON")
    table = format_checks([check])
    assert all(word not in table for word in canary.split())


def test_mismatches_are_named_and_most_of_a_task_being_wrong_is_a_problem(card, brat, tmp_path, canary):
    wrong = "".join(f"T{n}\tDrug 0 7\t{canary}\n" for n in range(1, 8))
    path = brat("train_a", "aspirin", wrong)
    brat("test_a", "aspirin", "T1\tDrug 0 7\taspirin\n")
    (check,) = check_tasks([card("ner", splits={"train": "train_*.txt", "test": "test_*.txt"})], tmp_path)
    places = ", ".join(f"{path}:{n}" for n in range(1, 6))
    told = f"offsets and quoted words disagree, or no words are quoted: 7 of 8 annotations ({places}, …)"
    assert check.status == "problems" and check.problems[0].startswith(f"{told}. Fix: count characters")
    assert all(word not in format_checks([check]) for word in canary.split())
    brat("train_a", "aspirin", wrong.partition("\n")[0] + "\nT2\tDrug 0 7\taspirin\n")
    (check,) = check_tasks([card("ner", splits={"train": "train_*.txt", "test": "test_*.txt"})], tmp_path)
    assert check.status == "ok"
    assert f"offsets and quoted words disagree, or no words are quoted: 1 of 3 annotations ({path}:1)" in check.notes


def test_a_low_ceiling_is_noted(card, brat, tmp_path):
    # The second occurrence is the annotated one, and nothing in the answer says so.
    brat("a", "pain or pain", "T1\tProblem 8 12\tpain\n")
    (check,) = check_tasks([card("ner")], tmp_path)
    assert check.ceiling == 0.0 and check.status == "ok"
    assert check.notes == ["round trip 0.0000 is below 0.99: explain it in the card's protocol"]


def test_an_empty_hold_out_is_a_problem(card, folder, tmp_path):
    (folder / "test.jsonl").write_text('{"q": "Q", "a": "y"}\n')
    splits = {"validation": {"hold_out": {"from": "test", "fraction": 0.0001}}, "test": "test.jsonl"}
    (check,) = check_tasks([card("qa", splits=splits)], tmp_path)
    assert check.counts == {"validation": 0, "test": 1} and check.problems[0].startswith("split validation is empty")
