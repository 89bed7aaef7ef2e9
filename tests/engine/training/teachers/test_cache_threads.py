"""Teachers on disk, filled and read in the background: in full micro-batches, in order, to the same bits, and no
thread is left.
"""

import threading

import pytest

from engine.core.errors import UserError
from engine.training.forward_backward import ForwardBackward
from engine.training.teach_and_distill import distill_stage
from engine.training.teachers import cache as teacher_cache, files as teacher_files
from engine.training.teachers.cache_setup import cache_teachers, sample_visits
from tests.engine.cached_teachers import cut, files, gradients, trained

PATIENCE = 30.0  # seconds after which a thread that does not come is a failure


def background() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("read-ahead", "teacher-files"))]


def test_forward_passes_are_as_large_as_the_budget_and_small_tasks_share_one(cached, monkeypatch) -> None:
    sizes: list[int] = []
    teach = ForwardBackward.teach

    def counted(self, group, *arguments):
        sizes.append(len(group))
        return teach(self, group, *arguments)

    monkeypatch.setattr(ForwardBackward, "teach", counted)
    cached(max_tokens_per_micro_batch=10_000)  # in files of four samples
    assert sizes == [23 + 6 + 11]


def test_a_file_is_written_while_the_next_ones_are_computed(cached, monkeypatch) -> None:
    order: list[str] = []
    asked_again = threading.Event()
    teach, write = ForwardBackward.teach, teacher_files.write

    def taught(self, *arguments):
        if "write" in order:
            order.append("teach")
            asked_again.set()
        return teach(self, *arguments)

    def written(*arguments):
        order.append("write")
        if order.count("write") == 1:
            assert asked_again.wait(PATIENCE)
            order.append("written")
        return write(*arguments)

    monkeypatch.setattr(ForwardBackward, "teach", taught)
    monkeypatch.setattr(teacher_files, "write", written)
    trainer, _ = cached(max_tokens_per_micro_batch=60)
    assert order[0] == "write" and order.index("teach") < order.index("written")
    assert trainer.stage.cached_teachers is not None and not background()


def test_a_killed_filling_goes_on_where_it_was_with_the_same_bits(cached, tmp_path, monkeypatch) -> None:
    cached(max_tokens_per_micro_batch=60, **{"data.cache": str(tmp_path / "whole")})
    whole = [f.read_bytes() for f in sorted(files(tmp_path / "whole"))]
    teach, calls = ForwardBackward.teach, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return teach(self, *arguments)

    monkeypatch.setattr(ForwardBackward, "teach", killed)
    with pytest.raises(KeyboardInterrupt):
        cached(max_tokens_per_micro_batch=60)
    assert not background() and not list((tmp_path / "cache").rglob("*.partial"))
    first = files(tmp_path / "cache")
    assert 0 < len(first) < len(whole)
    monkeypatch.setattr(ForwardBackward, "teach", teach)
    _, said = cached(max_tokens_per_micro_batch=60)
    second = files(tmp_path / "cache")
    assert not any(line.startswith("WARNING") for line in said) and all(second[f] == first[f] for f in first)
    assert [f.read_bytes() for f in sorted(second)] == whole


def test_a_full_disk_ends_the_filling_and_its_thread(cached, monkeypatch) -> None:
    calls: list[int] = []
    teach = ForwardBackward.teach
    monkeypatch.setattr(ForwardBackward, "teach", lambda self, *a: calls.append(1) or teach(self, *a))
    monkeypatch.setattr(teacher_files, "write", lambda part, found: "teacher cache: the disk is full")
    monkeypatch.setattr(teacher_cache, "AGREE", 1)
    with pytest.raises(UserError, match="the disk is full"):
        cached(max_tokens_per_micro_batch=30)
    assert len(calls) < 23 and not background()


def test_states_are_read_before_they_are_asked_for(cached, monkeypatch) -> None:
    trainer, _ = cached(max_tokens_per_micro_batch=60)
    kept, read, order = trainer.stage.cached_teachers, trainer.stage.cached_teachers.cache.read, []
    done: dict[int, threading.Event] = {}

    def recorded(group):
        states = read(group)
        order.append(("read", id(group)))
        done.setdefault(id(group), threading.Event()).set()
        return states

    train, groups = ForwardBackward.train, []

    def trained(self, group, *arguments, **named):
        groups.append(group)  # so that no other gets its identity
        assert done.setdefault(id(group), threading.Event()).wait(PATIENCE)
        order.append(("asked", id(group)))
        return train(self, group, *arguments, **named)

    monkeypatch.setattr(kept.cache, "read", recorded)
    monkeypatch.setattr(ForwardBackward, "train", trained)
    gradients(trainer)
    first_of_next = trainer._ahead.groups[0]
    assert done.setdefault(id(first_of_next), threading.Event()).wait(PATIENCE)  # of a step that nobody has begun
    read_at, asked_at = ({g: at for at, (what, g) in enumerate(order) if what == kind} for kind in ("read", "asked"))
    assert len(asked_at) == len(groups) > 5 and all(read_at[g] < at for g, at in asked_at.items())
    assert len(background()) == 1
    trainer.close()
    assert not background()


def test_reading_ahead_changes_no_bit(cached, monkeypatch, tmp_path) -> None:
    ahead, _ = cached(max_tokens_per_micro_batch=60, run_dir=str(tmp_path / "ahead"))
    wanted = trained(ahead)
    assert not background()  # the thread has ended with the run
    now, _ = cached(max_tokens_per_micro_batch=60, run_dir=str(tmp_path / "now"))
    monkeypatch.setattr(now.stage.cached_teachers, "expect", lambda groups: None)
    found = trained(now)
    assert all(found[name].equal(tensor) for name, tensor in wanted.items())
    assert now.cursors == ahead.cursors and now.row_tokens == ahead.row_tokens


def test_no_thread_outlives_a_run_that_fails(cached, tmp_path) -> None:
    trainer, _ = cached()
    for file in files(tmp_path / "cache"):
        cut(file, 30)
    trainer.stage.teachers = None
    with pytest.raises(RuntimeError, match="was intact when this run began"):
        trainer.run()
    assert not background()


def test_a_plan_that_no_longer_holds_is_made_anew(cached) -> None:
    trainer, _ = cached(max_tokens_per_micro_batch=60)
    step = 0
    while trainer._ahead is None or {p.row for p in trainer._ahead.samples} == {1}:
        trainer.gradients(step)
        step += 1
    row = next(p.row for p in trainer._ahead.samples)
    trainer.stopped[row] = True
    trainer.stage.teachers = None
    trainer.gradients(step)
    assert trainer.last_samples and row not in {p.row for p in trainer.last_samples}


def test_a_benchmark_fills_what_its_steps_read(make_holder, make_loop, teachers, tasks, tmp_path) -> None:
    holder = make_holder(**{"distill.temperature": 2.0, "distill.steps": 12, "data.cache": str(tmp_path / "cache")})
    said: list[str] = []
    holder.context.print_rank0 = said.append
    taught = teachers(3).double()
    stage = distill_stage(holder, data=tasks, teachers=taught, teachers_hash="hash")
    cache_teachers(holder, stage, teachers=taught, steps=1)
    cache = stage.cached_teachers.cache
    assert {(p.row, i) for p in cache.parts for i in p.indices} == set(sample_visits(stage, 1))
    assert any("of the first 1 step" in line for line in said) and all(part.file.exists() for part in cache.parts)
    trainer = make_loop(stage, holder)
    stage.teachers = None
    trainer.gradients(0)
    with pytest.raises(RuntimeError, match="was not requested when it was filled"):
        for step in range(1, 4):
            trainer.gradients(step)
    trainer.close()
    assert not background()
