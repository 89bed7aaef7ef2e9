"""Checkpoints: whole or not there, readable by their owner only, and the newest few."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.checkpoints import checkpoint
from engine.checkpoints.bank_io import bank_of, load_bank
from engine.checkpoints.checkpoint import Checkpoint
from engine.core.errors import UserError

FILES = ["optimizer.safetensors", "prompts.safetensors", "state.json"]


def content(value: float = 1.0) -> Checkpoint:
    return Checkpoint(
        {"a.b": torch.full((2, 3), value)},
        {"g.steps_K": torch.tensor([int(value)])},
        {"stage": "teach", "progress": {"step": 4}},
    )


def tree(run_dir: Path) -> list[str]:
    return sorted(str(p.relative_to(run_dir)) for p in run_dir.rglob("*"))


def test_a_checkpoint_is_exactly_these_files(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 100, content(), 2)
    folder = "checkpoints/step_00000100"
    assert tree(tmp_path) == ["checkpoints", folder, *(f"{folder}/{name}" for name in FILES), "latest"]
    assert os.readlink(tmp_path / "latest") == folder  # relative: the run directory may be moved


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = content(3.0)
    checkpoint.save(tmp_path, 7, saved, 2)
    found = checkpoint.load(tmp_path)
    assert found is not None and found.state.pop("sha256").keys() == set(FILES[:2])
    assert found.state == {"stage": "teach", "progress": {"step": 4}, "step": 7, "reused": {}}
    for ours, theirs in ((found.prompts, saved.prompts), (found.optimizer, saved.optimizer)):
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[n], theirs[n]) and ours[n].dtype == theirs[n].dtype for n in ours
        )


def test_views_and_infinity_survive(tmp_path: Path) -> None:
    table = torch.arange(12.0).view(3, 4)
    checkpoint.save(tmp_path, 1, Checkpoint({"t": table.T, "row": table[1]}, {}, {"best_loss": [float("inf")]}), 1)
    found = checkpoint.load(tmp_path)
    assert (
        torch.equal(found.prompts["t"], table.T)
        and torch.equal(found.prompts["row"], table[1])
        and found.state["best_loss"] == [float("inf")]
    )


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)  # as on most machines: the modes must not lean on the umask
    try:
        checkpoint.save(tmp_path / "run", 1, content(), 2)
    finally:
        os.umask(before)
    folder = tmp_path / "run/checkpoints"
    modes = {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in [folder, *folder.rglob("*")]}
    assert modes == {".": 0o700, "step_00000001": 0o700, **{f"step_00000001/{name}": 0o600 for name in FILES}}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(keep: int, tmp_path: Path) -> None:
    for step in (5, 10, 100, 1000, 20_000_000):
        checkpoint.save(tmp_path, step, content(step), keep)
    kept = [f"step_{step:08d}" for step in (5, 10, 100, 1000, 20_000_000)[-keep:]]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == kept
    assert checkpoint.load(tmp_path).prompts["a.b"][0, 0] == 20_000_000


def test_a_run_started_again_does_not_lose_its_checkpoints_to_the_old_ones(tmp_path: Path) -> None:
    for step in (30, 40):
        checkpoint.save(tmp_path, step, content(step), 2)
    for step in (10, 20):
        checkpoint.save(tmp_path, step, content(step), 2)
        assert checkpoint.load(tmp_path).state["step"] == step
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000010", "step_00000020"]


def test_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        checkpoint.save(tmp_path, 5, content(value), 2)
    assert checkpoint.load(tmp_path).prompts["a.b"][0, 0] == 2


@pytest.mark.parametrize("moment", ["save_file", "_sha256", "sync", "_point"])
def test_a_writer_that_dies_leaves_the_previous_checkpoint_whole(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 5, content(1.0), 2)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, moment, die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 6, content(2.0), 2)
    found = checkpoint.load(tmp_path)
    assert found.state["step"] == 5 and found.prompts["a.b"][0, 0] == 1
    checkpoint.save(tmp_path, 6, content(2.0), 2)  # the next launch gets there again
    assert checkpoint.load(tmp_path).state["step"] == 6
    assert not any(".partial" in name for name in tree(tmp_path))


def test_everything_is_on_disk_before_the_name_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(checkpoint, "sync", lambda path: synced.append(path.name))

    def renamed(self: Path, target: Path) -> Path:
        assert sorted(synced) == sorted([*FILES, self.name])
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    checkpoint.save(tmp_path, 5, content(), 2)
    assert synced[-1] == "checkpoints"


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "gone") is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def emptied(path: Path) -> None:
    path.write_text(json.dumps({"step": 5}))


@pytest.mark.parametrize(
    ("name", "damage", "wanted"),
    [
        ("prompts.safetensors", flip, "prompts.safetensors is damaged"),
        ("optimizer.safetensors", flip, "optimizer.safetensors is damaged"),
        ("prompts.safetensors", Path.unlink, "incomplete"),
        ("optimizer.safetensors", Path.unlink, "incomplete"),
        ("state.json", Path.unlink, "incomplete"),
        ("state.json", lambda p: p.write_text(p.read_text()[:20]), "incomplete"),
        ("state.json", emptied, "incomplete"),
        (".", shutil.rmtree, "incomplete"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_a_way_out(
    name: str, damage: Callable[[Path], object], wanted: str, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path, 5, content(), 2)
    damage((tmp_path / "latest").resolve() / name)
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path)
    (problem,) = error.value.problems
    assert (
        wanted in problem
        and "step_00000005" in problem
        and f"point {tmp_path / 'latest'} at an older one" in problem
        and "--overwrite=true" in problem
    )


def test_without_latest_the_newest_whole_one_is_gone_on_from_aloud(tmp_path: Path) -> None:
    for step in (5, 6):
        checkpoint.save(tmp_path, step, content(step), 2)
    (tmp_path / "latest").unlink()
    told: list[str] = []
    assert checkpoint.load(tmp_path, told.append).state["step"] == 6
    assert len(told) == 1 and "latest is missing" in told[0] and "continuing from step_00000006" in told[0]
    with pytest.raises(UserError, match="latest is missing.*point .*latest at an older one"):
        checkpoint.load(tmp_path)  # a finished run is not guessed at
    flip(tmp_path / "checkpoints/step_00000006" / FILES[1])
    assert checkpoint.load(tmp_path, told.append).state["step"] == 5
    flip(tmp_path / "checkpoints/step_00000005" / FILES[1])
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path, told.append)
    assert len(error.value.problems) == 3


def test_latest_can_be_pointed_at_an_older_one_as_the_message_says(tmp_path: Path) -> None:
    for step in (5, 6):
        checkpoint.save(tmp_path, step, content(step), 2)
    flip((tmp_path / "latest").resolve() / FILES[1])
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("checkpoints/step_00000005")
    assert checkpoint.load(tmp_path).state["step"] == 5
    shutil.copytree(tmp_path, tmp_path.parent / "moved", symlinks=False)  # a copy that turned links into folders
    assert checkpoint.load(tmp_path.parent / "moved").state["step"] == 5


# ---- what changes seldom
# -----------------------------------------------------------------------------------------------------------


def with_best(value: float, best: float) -> Checkpoint:
    return Checkpoint(
        {"a": torch.full((50, 100), value)},
        {"m": torch.full((50, 100), value)},
        {},
        {"best": {"best.a": torch.full((50, 100), best)}},
    )


def copies(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints/reused").iterdir())


def test_the_best_lies_beside_the_checkpoints_and_is_written_when_it_changes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, with_best(1.0, 1.0), 2)
    first = {p: p.stat().st_mtime_ns for p in copies(tmp_path)}
    assert len(first) == 2 and {stat.S_IMODE(p.stat().st_mode) for p in first} == {0o600}
    checkpoint.save(tmp_path, 2, with_best(2.0, 1.0), 2)
    assert {p: p.stat().st_mtime_ns for p in copies(tmp_path)} == first
    found = checkpoint.load(tmp_path)
    assert found is not None and found.prompts["best.a"].eq(1).all() and found.prompts["a"].eq(2).all()
    before = found.identity
    checkpoint.save(tmp_path, 3, with_best(2.0, 3.0), 2)
    assert len(copies(tmp_path)) == 4  # the one before still names the older best
    found = checkpoint.load(tmp_path)
    assert found is not None and found.prompts["best.a"].eq(3).all() and found.identity != before
    (tmp_path / "checkpoints/reused/.best-1.1.safetensors.99.partial").touch()  # of a writer that was killed
    checkpoint.save(tmp_path, 4, with_best(4.0, 3.0), 2)
    assert len(copies(tmp_path)) == 2 and not set(copies(tmp_path)) & set(first)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-7])])
@pytest.mark.parametrize("which", [0, 1])
def test_one_damaged_copy_of_the_best_costs_nothing_and_is_written_again(
    which: int, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    checkpoint.save(tmp_path, 1, with_best(1.0, 1.0), 2)
    whole = copies(tmp_path)[which].read_bytes()
    path = copies(tmp_path)[which]
    damage(path)
    found = checkpoint.load(tmp_path)
    assert found is not None and found.prompts["best.a"].eq(1).all()
    checkpoint.save(tmp_path, 2, with_best(2.0, 1.0), 2)
    assert path.read_bytes() == whole


def test_both_copies_damaged_is_a_damaged_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, with_best(1.0, 1.0), 2)
    older = set(copies(tmp_path))
    checkpoint.save(tmp_path, 2, with_best(2.0, 2.0), 2)
    for path in set(copies(tmp_path)) - older:
        flip(path)
    with pytest.raises(UserError, match="both copies of reused/best-.* are damaged or missing"):
        checkpoint.load(tmp_path)
    told: list[str] = []
    found = checkpoint.load(tmp_path, told.append)
    assert found is not None and found.state["step"] == 1 and found.prompts["best.a"].eq(1).all() and len(told) == 1


def test_a_checkpoint_that_cannot_be_read_may_name_anything(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, with_best(1.0, 1.0), 2)
    (tmp_path / "checkpoints/step_00000001/state.json").write_text("{")
    checkpoint.save(tmp_path, 2, with_best(2.0, 2.0), 2)
    assert len(copies(tmp_path)) == 4


def bank_file(run_dir: Path, completed: bool = True) -> None:
    """A finished adaptation whose prompt-tuning rows come first."""
    tensors = {
        "prompt_tuning.prompts_KLD": torch.ones(2, 3, 4),
        "metaprompt.shared_SLD": torch.full((1, 3, 4), 5.0),
        "metaprompt.cols_KLR": torch.ones(1, 3, 1),
        "metaprompt.rows_KRD": torch.ones(1, 1, 4),
    }
    prompts = {f"best.parts.{n}": t for n, t in tensors.items()} | {f"parts.{n}": -t for n, t in tensors.items()}
    rows = [
        {"task": "a", "method": m, "shots": "full", "seed": 0} for m in ("prompt_tuning", "prompt_tuning", "metaprompt")
    ]
    checkpoint.save(run_dir, 5, Checkpoint(prompts, {}, {"rows": rows}), 2)
    if completed:
        (run_dir / "COMPLETED").touch()


def test_a_bank_is_read_back_in_the_order_of_its_rows(tmp_path: Path) -> None:
    bank_file(tmp_path)
    bank, found = load_bank(tmp_path, "adaptation")
    assert bank.spans() == {"prompt_tuning": range(2), "metaprompt": range(2, 3)}
    assert bank.prompts(torch.arange(3)).flatten(1)[:, 0].tolist() == [1, 1, 5]  # each row's best
    last = bank_of(found.prompts, ["prompt_tuning", "metaprompt"], which="")
    assert last.prompts(torch.arange(3)).flatten(1)[:, 0].tolist() == [-1, -1, -5]


def test_an_unfinished_run_has_no_bank(tmp_path: Path) -> None:
    for run in (tmp_path / "gone", tmp_path / "unfinished"):
        if run.name == "unfinished":
            bank_file(run, completed=False)
        with pytest.raises(UserError, match=r"holds no finished adaptation; run it to its end first"):
            load_bank(run, "adaptation")
