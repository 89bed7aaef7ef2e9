"""Released files to token rows, once: cached by everything they depend on, readable by their owner only."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones import BackboneCard, Layout, load_tokenizer
from engine.config.schema import DataConfig
from engine.core.errors import UserError
from engine.data import cache_keys, corpora as corpora_module, dataset, token_cache
from engine.data.cache_keys import cache_key
from engine.data.dataset import TaskData, data_fingerprint, load_cards, prepare
from engine.data.file_digests import FileDigests

Prepare = Callable[..., dict[str, TaskData]]
ALL = {"demo_qa": ["train", "validation", "test"], "demo_entities": ["train"]}


@pytest.fixture
def corpora(project: Path, tmp_path: Path) -> Path:
    """A copy of the demo corpora, to be changed."""
    return Path(shutil.copytree(project / "configs/demo/data", tmp_path / "corpora"))


@pytest.fixture
def config(project: Path, corpora: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(
        root=str(corpora),
        cards=[str(project / "configs/demo/cards")],
        cache=str(tmp_path / "private/cache"),
        max_length=768,
    )


@pytest.fixture(scope="module")
def layout(card: BackboneCard) -> Layout:
    return Layout(card, load_tokenizer(card.tokenizer))


@pytest.fixture
def run(config: DataConfig, layout: Layout) -> Prepare:
    """``run({"demo_qa": ["train"]}, max_length=100)``: prepare, with some keys of the configuration replaced; what
    was said is in ``run.said``.
    """

    def prepared(tasks: dict[str, list[str]], rank: int = 0, **changes: Any) -> dict[str, TaskData]:
        return prepare(tasks, dataclasses.replace(config, **changes), layout, rank, said.append)

    said: list[str] = []
    prepared.said = said  # type: ignore[attr-defined]
    return prepared


def problems(run: Prepare, tasks: dict[str, list[str]], **changes: Any) -> list[str]:
    with pytest.raises(UserError) as error:
        run(tasks, **changes)
    return error.value.problems


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
            assert rows.kept == list(range(len(rows))) and rows.n_dropped == 0
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
    assert (cache_keys.CACHE_FORMAT, digest) == ("3", "29e12851845a72f5")


def test_a_second_call_builds_nothing(run: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(ALL)
    monkeypatch.setattr(corpora_module, "_build", lambda *_: pytest.fail("the cache was not used"))
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
        lambda card, splits, *rest: (built.append((card.name, splits)), build(card, splits, *rest))[1],
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


def key(
    config: DataConfig,
    layout: Layout,
    task: str = "demo_qa",
    split: str = "train",
    max_length: int = 768,
    limit: int = 0,
    **card: Any,
) -> str:
    found = load_cards(config)[task]
    digests = FileDigests(Path(config.cache))
    return cache_key(dataclasses.replace(found, **card), split, Path(config.root), layout, max_length, limit, digests)


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
    assert 0 < dropped < 10 and len(rows) == 36 and len(rows.examples()) == 36 and len(rows.kept) == 36 - dropped
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
    kept = run({"demo_qa": ["test"]}, max_length=limit)["demo_qa"].splits["test"].kept
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
        f"data.root: {tmp_path / 'gone'} is no folder",
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
    assert "its card names no split 'validation'" in problem


def test_other_ranks_wait_for_rank_0(run: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    found: dict[str, TaskData] = {}
    waiter = threading.Thread(target=lambda: found.update(run({"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.3)
    assert waiter.is_alive() and not found
    built = run({"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert not waiter.is_alive()
    assert data_fingerprint(found) == data_fingerprint(built)


def test_other_ranks_stop_waiting_when_rank_0_fails(
    run: Prepare, corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    (corpora / "demo_qa/questions.json").write_text("{")
    told: list[str] = []
    waiter = threading.Thread(target=lambda: told.extend(problems(run, {"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.1)
    assert problems(run, {"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert not waiter.is_alive()
    assert told == ["task demo_qa: split train: rank 0 could not prepare it; its message says why"]


def test_a_failure_of_an_earlier_launch_stops_nobody(
    run: Prepare, config: DataConfig, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    cache = Path(config.cache)
    cache.mkdir(parents=True)
    marker = cache / f"demo_qa-train-{key(config, layout)}.failed"
    marker.touch()
    os.utime(marker, (time.time() - 60, time.time() - 60))
    found: dict[str, TaskData] = {}
    waiter = threading.Thread(target=lambda: found.update(run({"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.2)
    assert waiter.is_alive()
    run({"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert len(found["demo_qa"].splits["train"]) == 36 and not marker.exists()


def test_two_launches_may_build_the_same_split(
    run: Prepare, config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one to finish finds the first one's folder in its place, and uses it."""
    build, first = corpora_module._build, iter([True])

    def overtaken(card: Any, splits: list[str], *rest: Any) -> dict[str, str]:
        if next(first, False):
            build(card, splits, *rest)  # the other launch, in the meantime
        return build(card, splits, *rest)

    monkeypatch.setattr(corpora_module, "_build", overtaken)
    assert len(run({"demo_qa": ["train"]})["demo_qa"].splits["train"]) == 36
    assert len(folders(config)) == 1


def test_labels_of_choice_tasks_are_those_of_kept_rows(run: Prepare) -> None:
    found = run({"demo_qa": ["train"], "demo_entities": ["train"]})
    train = found["demo_qa"].splits["train"]
    assert train.labels() == [train.example(i).gold["label"] for i in train.kept] and set(train.labels() or ()) == {
        "yes",
        "no",
        "maybe",
    }
    assert found["demo_entities"].splits["train"].labels() is None


# ---- what kills and bad disks leave
# ------------------------------------------------------------------------------------


def folders(config: DataConfig) -> list[Path]:
    return [path for path in Path(config.cache).iterdir() if path.is_dir()]


def rows_of(found: dict[str, TaskData]) -> list[Any]:
    return [list(rows.rows) for task in found.values() for rows in task.splits.values()]


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


def swap(a: Path, b: Path) -> None:
    a.rename(a.with_name("aside"))
    b.rename(a)
    a.with_name("aside").rename(b)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "a bit at the front": lambda folder, _: flip(folder / "rows.arrow", 900),
    "a bit in the middle": lambda folder, _: flip(folder / "rows.arrow", (folder / "rows.arrow").stat().st_size // 2),
    "a bit at the end": lambda folder, _: flip(folder / "rows.arrow", -1),
    "cut": lambda folder, _: os.truncate(folder / "rows.arrow", 3000),
    "empty": lambda folder, _: os.truncate(folder / "rows.arrow", 0),
    "rows missing": lambda folder, _: (folder / "rows.arrow").unlink(),
    "checksum missing": lambda folder, _: (folder / "checksum.json").unlink(),
    "checksum damaged": lambda folder, _: flip(folder / "checksum.json", 20),
    "swapped": swap,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_rows_are_named_and_tokenised_again(run: Prepare, config: DataConfig, how: str) -> None:
    first = run(ALL)
    wanted, mark = rows_of(first), data_fingerprint(first)
    cache = Path(config.cache)
    (train,), (test,) = cache.glob("demo_qa-train-*"), cache.glob("demo_qa-test-*")
    DAMAGES[how](train, test)
    found = run(ALL)
    assert rows_of(found) == wanted and data_fingerprint(found) == mark
    said = run.said  # type: ignore[attr-defined]
    assert len(said) == (2 if how == "swapped" else 1) and any(str(train) in line for line in said)
    assert all(line.startswith("WARNING task demo_qa: split t") and "made again" in line for line in said)
    said.clear()
    assert rows_of(run(ALL)) == wanted and said == []
    assert len(folders(config)) == 4


def test_other_ranks_wait_until_damage_is_mended(
    run: Prepare, config: DataConfig, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    wanted = rows_of(run({"demo_qa": ["train"]}))
    (folder,) = folders(config)
    flip(folder / "rows.arrow", 900)
    found: dict[str, TaskData] = {}
    waiter = threading.Thread(target=lambda: found.update(run({"demo_qa": ["train"]}, rank=1)), daemon=True)
    waiter.start()
    time.sleep(0.3)
    assert waiter.is_alive() and not found
    run({"demo_qa": ["train"]})
    waiter.join(timeout=10)
    assert not waiter.is_alive() and rows_of(found) == wanted
    assert capfd.readouterr().err.count("rank 1: task demo_qa: split train: ") == 1


def test_what_a_killed_start_left_is_in_nobodys_way(run: Prepare, config: DataConfig) -> None:
    """In a container every start has the same process id."""
    cache = Path(config.cache)
    left = cache / f".demo_qa-train.{os.getpid()}.partial"
    left.mkdir(parents=True)
    assert len(run({"demo_qa": ["train"]})["demo_qa"].splits["train"]) == 36
    assert left.exists()  # it may be of another host's live process
    shutil.rmtree(next(p for p in folders(config) if p != left))
    os.utime(left, (1, 1))
    run({"demo_qa": ["train"]})
    assert not left.exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_the_users_error(
    run: Prepare, config: DataConfig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: Any, **how: Any) -> str:
        raise OSError(number, os.strerror(number), str(Path(config.cache) / "x"))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    (problem,) = problems(run, {"demo_qa": ["train"]})
    assert problem.startswith(f"data.cache: {config.cache} cannot be written to ({os.strerror(number)})")
    assert "--data.cache=FOLDER" in problem
