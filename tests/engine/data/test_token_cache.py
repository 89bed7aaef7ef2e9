"""Released files to token rows, once: cached by everything they depend on, readable by their owner only."""

import dataclasses
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from backbones import BackboneCard, Layout
from engine.config.schema import DataConfig
from engine.data import cache_keys, corpora as corpora_module, dataset
from engine.data.dataset import data_fingerprint, load_cards
from tests.engine.cached_corpora import ALL, Prepare, key, problems, rows_of


def test_rows_are_the_tokens_of_the_text_pairs(run: Prepare, layout: Layout) -> None:
    found = run(ALL)
    assert {(t, s): len(rows) for t, d in found.items() for s, rows in d.splits.items()} == {
        ("demo_qa", "train"): 36,
        ("demo_qa", "validation"): 6,
        ("demo_qa", "test"): 18,
        ("demo_entities", "train"): 27,
    }
    for task in found.values():
        for rows in task.splits.values():
            assert rows.sample_indices == list(range(len(rows))) and rows.n_dropped == 0
            for i, example in enumerate(rows.examples()):
                sample = rows.sample(i)
                assert example.task == task.card.name and sample.answer_ids[-1] == layout.end_id
                assert sample.context_ids == layout.context_ids(
                    example.input_text
                ) and sample.answer_ids == layout.answer_ids(example.answer_text)
                assert layout.answer_text(sample.answer_ids) == example.answer_text.strip()
    assert found["demo_qa"].splits["test"].example(0).options == ("yes", "no", "maybe")
    assert run.said == []  # type: ignore[attr-defined]


def test_other_rows_have_another_format(run: Prepare) -> None:
    """Where this fails, raise ``CACHE_FORMAT`` and record the rows that are made now beside it.

    The versions of the readers, of the splits and of the text pairs are held in tests/clinical_tasks/corpus.
    """
    rows = rows_of(run({**ALL, "demo_summary": ["test"]}, max_length=200))
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    assert (cache_keys.CACHE_FORMAT, digest) == ("4", "04a42443841c567e")


def test_a_second_call_builds_nothing(run: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(ALL)
    monkeypatch.setattr(corpora_module, "_build", lambda *_, **__: pytest.fail("the cache was not used"))
    second = run(ALL)
    assert data_fingerprint(first) == data_fingerprint(second)
    assert [r.sample(0) for d in first.values() for r in d.splits.values()] == [
        r.sample(0) for d in second.values() for r in d.splits.values()
    ]


def test_a_split_is_built_once_whoever_asks(run: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = corpora_module._build
    monkeypatch.setattr(
        corpora_module,
        "_build",
        lambda card, splits, **rest: (built.append((card.name, splits)), build(card, splits=splits, **rest))[1],
    )
    run({"demo_qa": ["train"]})
    run(ALL)
    assert built == [("demo_qa", ["train"]), ("demo_qa", ["validation", "test"]), ("demo_entities", ["train"])]


def test_the_fingerprint_of_data_does_not_depend_on_where_the_cache_lies(run: Prepare, tmp_path: Path) -> None:
    here, there = run(ALL), run(ALL, cache=str(tmp_path / "elsewhere"))
    assert data_fingerprint(here) == data_fingerprint(there)
    assert data_fingerprint(here) != data_fingerprint(run(ALL, max_length=300))
    assert data_fingerprint(here) != data_fingerprint({"demo_qa": here["demo_qa"]})


def test_the_cache_is_its_owners_alone(run: Prepare, config: DataConfig) -> None:
    before = os.umask(0o022)
    try:
        run(ALL)
    finally:
        os.umask(before)
    cache = Path(config.cache)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in [cache, *cache.rglob("*")]}
    assert {m for p, m in modes.items() if p.is_dir()} == {0o700} and {m for p, m in modes.items() if p.is_file()} == {
        0o600
    }
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 4
    assert not [p for p in modes if "partial" in p.name or "failed" in p.name]


def test_the_key_changes_with_everything_the_rows_depend_on(
    config: DataConfig, layout: Layout, corpora: Path, card: BackboneCard
) -> None:
    keys = {"": key(config, layout)}
    assert key(config, layout) == keys[""]
    keys["split"] = key(config, layout, split="test")
    keys["length"] = key(config, layout, max_length=767)
    keys["limit"] = key(config, layout, limit=5)
    keys["card"] = key(config, layout, input="Q: {question}\n{contexts}")
    keys["separator"] = key(config, Layout(dataclasses.replace(card, separator="\n"), layout.tokenizer))
    template = Layout(card, layout.tokenizer)
    template.template = "chat"  # the tiny tokenizer has none: the name alone must count
    keys["template"] = key(config, template)
    questions = corpora / "demo_qa/questions.json"
    questions.write_text(questions.read_text() + " ")
    keys["file"] = key(config, layout)
    ids = corpora / "demo_qa/test_ground_truth.json"
    ids.write_text(ids.read_text() + " ")
    keys["ids"] = key(config, layout)
    assert len(set(keys.values())) == len(keys), keys


def test_the_key_follows_both_halves_of_a_pair_and_not_other_splits(
    config: DataConfig, layout: Layout, corpora: Path
) -> None:
    train, test = (key(config, layout, "demo_entities", s) for s in ("train", "test"))
    summary = key(config, layout, "demo_summary", "train")
    for half in ("note_00.txt", "note_00.ann"):
        path = corpora / "demo_notes/train" / half
        path.write_text(path.read_text() + "\n")
        assert key(config, layout, "demo_entities", "train") != train
        train = key(config, layout, "demo_entities", "train")
    other = corpora / "demo_summary/dialogues_test.csv"
    other.write_text(other.read_text() + "\n")
    assert (
        key(config, layout, "demo_entities", "test") == test and key(config, layout, "demo_summary", "train") == summary
    )


def test_a_held_out_split_depends_on_its_parent(config: DataConfig, layout: Layout, corpora: Path) -> None:
    before = key(config, layout, "demo_entities", "validation")
    path = corpora / "demo_notes/train/note_03.txt"
    path.write_text(path.read_text() + "\n")
    assert key(config, layout, "demo_entities", "validation") != before


def test_changed_files_are_read_again(run: Prepare, corpora: Path) -> None:
    run({"demo_summary": ["test"]})
    path = corpora / "demo_summary/dialogues_test.csv"
    path.write_text(path.read_text().replace("Doctor: ", "Visitor: "))
    assert any(
        "Visitor" in e.input_text + e.answer_text
        for e in run({"demo_summary": ["test"]})["demo_summary"].splits["test"].examples()
    )


def test_limits_choose_the_same_examples_whatever_the_order_of_splits(run: Prepare) -> None:
    whole = [e.example_id for e in run({"demo_qa": ["train"]})["demo_qa"].splits["train"].examples()]
    some = [e.example_id for e in run({"demo_qa": ["train"]}, max_train=10)["demo_qa"].splits["train"].examples()]
    fewer = [e.example_id for e in run({"demo_qa": ["train"]}, max_train=4)["demo_qa"].splits["train"].examples()]
    assert len(some) == 10 and len(fewer) == 4 and set(fewer) < set(some) < set(whole)
    assert some == [i for i in whole if i in some] and some != whole[:10]
    untouched = run({"demo_qa": ["train"]}, max_test=4, max_validation=2)["demo_qa"].splits["train"]
    assert len(untouched) == 36


def test_a_few_examples_too_long_are_warned_about_and_still_counted(run: Prepare) -> None:
    lengths = sorted(len(run({"demo_qa": ["train"]})["demo_qa"].splits["train"].sample(i)) for i in range(36))
    rows = run({"demo_qa": ["train"]}, max_length=lengths[-1] - 1)["demo_qa"].splits["train"]
    dropped = rows.n_dropped
    assert (
        0 < dropped < 10 and len(rows) == 36 and len(rows.examples()) == 36 and len(rows.sample_indices) == 36 - dropped
    )
    (line,) = run.said  # type: ignore[attr-defined]
    assert (
        line.startswith(f"WARNING demo_qa/train: {dropped} of 36 examples ({dropped / 36:.0%})")
        and f"data.max_length={lengths[-1] - 1}" in line
    )


def test_one_in_a_hundred_is_said_without_a_warning(run: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "LOSS_WARNING", 0.9)
    run({"demo_qa": ["train"]}, max_length=120)
    (line,) = run.said  # type: ignore[attr-defined]
    assert line.startswith("demo_qa/train: ") and "WARNING" not in line
    assert dataset.LOSS_WARNING == 0.9
    monkeypatch.undo()
    assert dataset.LOSS_WARNING == 0.01


def test_a_choice_whose_longest_option_does_not_fit_is_dropped(
    run: Prepare, layout: Layout, config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordy = dataclasses.replace(
        load_cards(config)["demo_qa"], labels={"yes": "yes", "no": "no", "maybe": "the abstract does not say which"}
    )
    monkeypatch.setattr(dataset, "load_cards", lambda _: {"demo_qa": wordy})
    rows = run({"demo_qa": ["test"]})["demo_qa"].splits["test"]
    longest = {
        i: len(rows.sample(i).context_ids) + max(len(layout.answer_ids(o)) for o in rows.example(i).options)
        for i in range(len(rows))
    }
    limit = sorted(longest.values())[9]
    kept = run({"demo_qa": ["test"]}, max_length=limit)["demo_qa"].splits["test"].sample_indices
    assert kept == [i for i, n in longest.items() if n <= limit] and 0 < len(kept) < len(rows)
    assert any(len(rows.sample(i)) <= limit for i in longest if i not in kept)  # its own answer would have fitted


def test_documents_are_divided_rather_than_dropped(run: Prepare) -> None:
    whole = run({"demo_entities": ["train"]})["demo_entities"].splits["train"]
    longest = max(len(whole.sample(i)) for i in range(len(whole)))
    parts = run({"demo_entities": ["train"]}, max_length=longest // 2)["demo_entities"].splits["train"]
    assert len(parts) > len(whole) and parts.n_dropped == 0


def test_no_example_that_fits_is_an_error(run: Prepare) -> None:
    found = problems(run, {"demo_qa": ["train", "test"], "demo_summary": ["train"]}, max_length=5)
    assert len(found) == 3 and all("no example fits data.max_length=5" in p for p in found)
    assert [p.split(":")[0] for p in found] == ["task demo_qa", "task demo_qa", "task demo_summary"]


def test_everything_that_is_missing_is_told_at_once(run: Prepare, corpora: Path, tmp_path: Path) -> None:
    assert problems(run, {"demo_q": ["train"], "zzz": ["train"]}, root=str(tmp_path / "gone")) == [
        f"data.root: {tmp_path / 'gone'} is not a folder",
        "unknown task 'demo_q'; did you mean 'demo_qa'?",
        "unknown task 'zzz'; see `python train.py tasks list`",
    ]
    assert problems(run, {"demo_qa": ["train"]}, root="")[0].startswith("data.root: missing")
    assert problems(run, {"demo_qa": ["train"]}, cards=["gone", "too"]) == [
        f"data.cards: folder {c} does not exist" for c in ("gone", "too")
    ]
    shutil.rmtree(corpora / "demo_summary")
    (corpora / "demo_qa/questions.json").write_text("{")
    found = problems(run, {"demo_qa": ["train"], "demo_summary": ["train", "test"], "demo_entities": ["train"]})
    assert any(p.startswith("task demo_qa: ") for p in found) and any(
        p.startswith("task demo_summary: ") for p in found
    )
    assert not any("demo_entities" in p for p in found)


def test_a_split_that_a_card_does_not_name(run: Prepare, monkeypatch: pytest.MonkeyPatch, config: DataConfig) -> None:
    cards = load_cards(config)
    bare = dataclasses.replace(cards["demo_qa"], splits={"train": cards["demo_qa"].splits["train"]})
    monkeypatch.setattr(dataset, "load_cards", lambda _: {"demo_qa": bare})
    (problem,) = problems(run, {"demo_qa": ["validation"]})
    assert "its card has no split 'validation'" in problem


def test_labels_of_choice_tasks_are_those_of_kept_rows(run: Prepare) -> None:
    found = run({"demo_qa": ["train"], "demo_entities": ["train"]})
    train = found["demo_qa"].splits["train"]
    assert train.labels() == [train.example(i).gold["label"] for i in train.sample_indices] and set(
        train.labels() or ()
    ) == {
        "yes",
        "no",
        "maybe",
    }
    assert found["demo_entities"].splits["train"].labels() is None
