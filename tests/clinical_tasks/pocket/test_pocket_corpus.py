"""The pocket corpus: deterministic, whole, lossless, and no note on both sides of a split."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import subprocess
import sys
import zipfile

import pytest

from clinical_tasks import check_tasks, load_cards, read_split
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.pocket import (
    CARDS,
    DRILLS,
    LESSONS,
    SIZES,
    SOURCES,
    TARGETS,
    TASKS,
    draw_examples,
    instruction_pairs,
    lessons,
    write_dialogue,
    write_note,
    write_pocket_corpus,
)
from clinical_tasks.pocket.corpus import share_of
from clinical_tasks.pocket.questions import INQUIRIES
from clinical_tasks.schema.documents import one_line

pytestmark = pytest.mark.slow

SMALL = {"train": 3, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The default corpus, with the committed cards."""
    root = tmp_path_factory.mktemp("pocket")
    write_pocket_corpus(root)
    return root


@pytest.fixture(scope="module")
def cards():
    return {name: card for name, card in load_cards([CARDS]).items() if name in TASKS}


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def note_hashes(card, root, split):
    """A hash of every note that a split shows, whatever is asked about it."""
    hashes = []
    for document in read_documents(card, root, split):
        fields = document.fields
        text = document.text or fields.get("note") or fields["question"].rpartition("\n")[0]
        text = "\n".join(text) if isinstance(text, list) else text
        hashes.append(hashlib.sha256(one_line(text).encode()).hexdigest())
        assert share_of(text) == split
    return hashes


def test_a_note_says_what_its_facts_say():
    for index in range(300):
        note = write_note(5, index)
        assert note == write_note(5, index) and 15 <= len(note.text.split()) <= 65
        for fact in note.facts:
            assert fact.spans.keys() == fact.words.keys()
            assert all(note.text[start:end] == fact.words[slot] for slot, (start, end) in fact.spans.items())
            (start, _), *_ = fact.spans.values()
            begin = note.text.rfind("\n", 0, start) + 1
            line = note.text[begin:].partition("\n")[0]
            assert 3 <= len(line.split()) <= 14 and line.endswith(" .")
    assert write_note(5, 0) != write_note(6, 0) and write_dialogue(5, 0) == write_dialogue(5, 0)


def test_the_same_seed_writes_the_same_bytes(tmp_path, project):
    command = [sys.executable, "-m", "clinical_tasks.pocket", "--output", tmp_path / "a", "--seed", "7"]
    counts = [f"--{split}={size}" for split, size in SMALL.items()]
    done = subprocess.run([*command, *counts], check=True, capture_output=True, text=True, cwd=project)
    assert "21 source and 10 target tasks, 186 documents" in done.stdout
    write_pocket_corpus(tmp_path / "b", 7, {split: size + 3 for split, size in SMALL.items()})
    assert write_pocket_corpus(tmp_path / "b", 7, SMALL)["pocket_medqa"] == 6
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for check in check_tasks([*load_cards([tmp_path / "b" / "cards"]).values()], tmp_path / "b", required=TASKS):
        assert check.problems == [] and (check.name not in TASKS or check.counts == SMALL), check.name
    refused = subprocess.run([*command, "--test=0"], capture_output=True, text=True, cwd=project)
    assert refused.returncode == 2 and "at least one document" in refused.stderr
    with pytest.raises(ValueError, match="at least 1 for each of train, validation, test"):
        write_pocket_corpus(tmp_path / "c", 0, {"tset": 3})


def test_the_committed_cards_are_those_of_the_default_corpus(corpus):
    assert files(corpus / "cards") == files(CARDS)
    assert (len(SOURCES), len(TARGETS), len(set(TASKS))) == (21, 10, 31)
    assert {path.stem for path in CARDS.glob("*.yaml")} == set(TASKS)


def test_every_task_is_complete_and_round_trips(corpus, cards):
    checks = check_tasks(cards, corpus, required=TASKS)
    assert {check.name for check in checks} == set(TASKS)
    for check in checks:
        assert (check.problems, check.notes, check.counts) == ([], [], SIZES), check.name
        assert check.offset_mismatches == 0 and check.ceiling >= 0.99, check.name
        assert not check.labels or min(check.labels.values()) >= 0.04 * sum(check.labels.values()), check.name


def test_no_note_lies_in_two_splits(corpus, cards):
    by_split = {split: set() for split in SIZES}
    for card in cards.values():
        for split, found in by_split.items():
            hashes = note_hashes(card, corpus, split)
            assert len(set(hashes)) == len(hashes) == SIZES[split], card.name
            found.update(hashes)
    assert all(not one & other for one, other in itertools.combinations(by_split.values(), 2))


def test_what_is_drawn_is_what_is_read(corpus, cards):
    for name, card in cards.items():
        for split, size in SIZES.items():
            read = [(e.input_text, e.answer_text, e.options) for e in read_split(card, corpus, split)]
            assert read == [
                (e.input_text, e.answer_text, e.options) for e in draw_examples(name, seed=0, split=split, size=size)
            ], (
                name,
                split,
            )


def test_the_pairs_are_those_that_the_pocket_backbones_were_trained_on(corpus, cards):
    """Whatever formats the corpus is written in: a digest of all inputs, answers and options of the default corpus."""
    pairs = {
        f"{name}/{split}": [
            (e.input_text, e.answer_text, list(e.options)) for e in read_split(cards[name], corpus, split)
        ]
        for name in TASKS
        for split in ("train", "validation", "test")
    }
    digest = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    assert digest == "1aec08b2ea468a0dd3cff57ca861888810f3309b2f1a1796ac853bc99b85cfaa"


def test_annotated_tasks_lie_in_the_formats_of_their_releases(corpus, cards):
    readers = {name: cards[name].reader for name in TASKS if cards[name].type in ("ner", "re")}
    assert readers["pocket_i2b2_2009_medications"] == "i2b2_2009" and readers["pocket_i2b2_2012_events"] == "i2b2_2012"
    assert {readers[f"pocket_{name}"] for name in ("bc5cdr_cid", "chemprot", "ddi_2013")} == {"bioc", "chemprot", "ddi"}
    left_out = {}
    for name in readers:
        documents = [document for split in SIZES for document in read_documents(cards[name], corpus, split)]
        left_out[name] = {key for document in documents for key in document.left_out}
        # Two editions of one corpus say the same.
        if name == "pocket_bc5cdr_entities":
            pubtator = documents
        elif name == "pocket_bc5cdr_cid":
            assert [
                (d.doc_id, d.text, {(m.type, m.start, m.end, m.ids) for m in d.mentions}, set(d.relations))
                for d in documents
            ] == [
                (d.doc_id, d.text, {(m.type, m.start, m.end, m.ids) for m in d.mentions}, set(d.relations))
                for d in pubtator
            ]
    assert {name: kinds for name, kinds in left_out.items() if kinds} == {
        "pocket_i2b2_2009_medications": {"ln fields"},
        "pocket_ddi_2013": {"pairs that do not interact"},
        "pocket_n2c2_2022_sdoh_entities": {"A lines", "E lines"},
        "pocket_n2c2_2022_sdoh_relations": {"A lines"},
    }


def test_pairs_for_pre_training(corpus, cards):
    pairs = list(instruction_pairs(3, 6000))
    assert pairs[:50] == list(itertools.islice(instruction_pairs(3), 50)) != list(instruction_pairs(4, 50))
    assert {name for name, *_ in pairs} == set(TASKS)
    held = {
        e.input_text
        for card in cards.values()
        for split in ("validation", "test")
        for e in read_split(card, corpus, split)
    }
    answers = {}
    for name, instruction, text, answer in pairs:
        assert instruction == cards[name].instruction and text not in held
        assert answer.strip() and len(answer.split()) <= 45 and len(text.split()) <= 70
        # One rule decides: the same question never has two answers.
        assert answers.setdefault((name, text), answer) == answer
    words = {
        word
        for _, instruction, text, answer in pairs
        for word in re.findall(r"[^\s:]+|:", f"{instruction} {text} {answer}")
    }
    assert 300 < len(words) < 700


def test_lessons_ask_several_questions_about_one_note():
    """Each further turn, put behind the note, is an input that the task could show, and its answer the one that the
    note gives.
    """
    found = list(lessons(5, 4000))
    assert found[:40] == list(itertools.islice(lessons(5), 40)) and {lesson.name for lesson in found} == set(LESSONS)
    assert {len(lesson.turns) for lesson in found} == {1, 2, 3, 4, 5}
    answers = {}
    for lesson in found:
        (first, answer), *further = lesson.turns
        note = first[: max(first.rfind("\nquestion : "), first.rfind("\nhypothesis : "))]
        assert (len(further) == 0) or lesson.name in DRILLS or lesson.name in INQUIRIES
        for text, one in [(first, answer), *((f"{note}\n{turn}", one) for turn, one in further)]:
            assert text.endswith("\nanswer :") and answers.setdefault((lesson.name, text), one) == one
    for name in INQUIRIES:  # a first question does not depend on those that follow it
        assert [lesson.turns[0] for lesson in lessons(5, 20, (name,))] == [
            pair[2:] for pair in instruction_pairs(5, 20, (name,))
        ]


def test_drills_are_answered_by_their_notes():
    for lesson in lessons(6, 300, tuple(DRILLS)):
        note = lesson.turns[0][0].partition("\nquestion : ")[0]
        for text, answer in lesson.turns:
            question = text.partition("question : ")[2]
            if lesson.name == "drill_words":
                assert answer in note and answer not in question
            elif lesson.name == "drill_sentences":
                asked = question.removeprefix("what is in the note with ").partition(" ?")[0]
                assert answer in note.split("\n") and re.search(rf"\b{re.escape(asked)}\b", answer)
            elif lesson.name == "drill_mentions":
                asked = question.removeprefix("is ").partition(" in the note ?")[0]
                assert answer == ("yes" if re.search(rf"\b{re.escape(asked)}\b", note) else "no")
            else:
                named = question.partition("which option is ")[2].partition(" ?\n")[0]
                assert f"\n{answer} {named}\n" in question


def test_instructions_are_short_and_unique(cards):
    instructions = [card.instruction for card in cards.values()]
    assert len(set(instructions)) == 31
    assert all(len(re.findall(r"[a-z]+", instruction)) <= 12 for instruction in instructions)


def test_targets_need_labels_or_skills_of_their_own(cards):
    sources = [cards[name] for name in SOURCES]
    trained = {word for card in sources for word in card.labels.values()}
    for name in TARGETS:
        card = cards[name]
        if card.type in ("ner", "re"):
            assert not trained & set(card.labels.values()), name
        assert not card.labels or all(set(card.labels.values()) != set(source.labels.values()) for source in sources), (
            name
        )
    inputs = {name: [e.input_text for e in draw_examples(name, seed=0, split="train", size=200)] for name in TASKS}
    for skill, targets in (
        ("runs in the family|what did the", {"pocket_medbullets"}),
        ("which test is", {"pocket_headqa"}),
        ("question : ", {"pocket_medbullets", "pocket_headqa"}),
    ):
        asked = {name for name, texts in inputs.items() if any(re.search(skill, text) for text in texts)}
        assert targets <= asked and (skill == "question : " or asked == targets)
    assert {len(e.options) for e in draw_examples("pocket_medbullets", seed=0, split="test", size=20)} == {5}
    social = re.compile("smoker|drinker|marijuana|oxycodone|naloxone|resides|employed")
    assert not any(social.search(text) for name in SOURCES for text in inputs[name])


def test_releases_keep_their_peculiarities(corpus):
    notes = corpus / "pocket_n2c2_2022_sdoh" / "train"
    annotations = "".join(path.read_text() for path in notes.glob("*.ann"))
    assert re.search(r"^E1\t\w+:T\d+ \w+:T\d+", annotations, re.M) and re.search(
        r"^A1\tStatusTimeVal T\d+ \w+$", annotations, re.M
    )
    assert b"\r\npatient :" in (corpus / "pocket_mts_dialog" / "MTS-Dialog-TrainingSet.csv").read_bytes()
    assert (corpus / "pocket_scitail/SciTailV1.1/tsv_format/scitail_1.0_test.tsv").read_text().count("\n") == SIZES[
        "test"
    ]
    (part,) = json.loads((corpus / "pocket_emrqa" / "data.json").read_text())["data"]
    assert len(part["paragraphs"]) == sum(SIZES.values())
    for paragraph in part["paragraphs"]:
        (answer,) = paragraph["qas"][0]["answers"]
        line, token = answer["answer_start"]
        assert paragraph["context"][line - 1] == answer["evidence"] and answer["evidence"].split(" ", token)[
            -1
        ].startswith(answer["text"])
    exams = json.loads((corpus / "pocket_headqa/HEAD_EN/train_HEAD_EN.json").read_text())["exams"]
    assert len(exams) > 10 and sum(len(exam["data"]) for exam in exams.values()) == SIZES["train"]
    columns = json.loads((corpus / "pocket_medbullets/medbullets/medbullets_op5.json").read_text())
    assert {len(column) for column in columns.values()} == {sum(SIZES.values())}
    with zipfile.ZipFile(corpus / "pocket_meqsum/MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx") as archive:
        assert b"_x000D_\n" in archive.read("xl/sharedStrings.xml")
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {json.loads(line)["cop"] for line in (corpus / "pocket_medmcqa/train.json").open()} == {1, 2, 3, 4}
    with (corpus / "pocket_bionli/test.csv").open(newline="") as file:
        assert {row["label_cat"] for row in csv.DictReader(file)} == {"pos", "SRE", "negToPos", "posToNeg", "LPR"}
    truth = json.loads((corpus / "pocket_pubmedqa" / "test_ground_truth.json").read_text())
    assert set(truth.values()) == {"yes", "no", "maybe"} and len(truth) == SIZES["test"]
