"""How often a corpus is read: once to be tokenised, and never to find out that it has not changed."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backbones import BackboneCard, Layout, load_tokenizer
from clinical_tasks.pocket import TASKS, write_pocket_corpus
from engine.config.schema import DataConfig
from engine.core.errors import UserError
from engine.data import file_digests, token_cache
from engine.data.dataset import TaskData, data_fingerprint, is_tokenised, prepare
from engine.data.file_digests import INDEX, FileDigests
from tests.processes.fork_server import python

SPLITS = ("train", "validation", "test")
opened: list[str] = []  # every file that this process opens, while a test watches


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and watching:
        opened.append(str(arguments[0]))


watching: list[bool] = []
sys.addaudithook(_hook)  # cannot be taken away again


class Reading:
    """``with Reading(root) as read``: how often each file below a folder was opened."""

    def __init__(self, root: Path):
        self.root = str(root.resolve())

    def __enter__(self) -> "Reading":
        opened.clear()
        watching.append(True)
        return self

    def __exit__(self, *_: object) -> None:
        watching.pop()
        self.times = Counter(name for name in opened if name.startswith(self.root) and os.path.isfile(name))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pocket").resolve()
    write_pocket_corpus(root, sizes={"train": 4, "validation": 1, "test": 2})
    return root


@pytest.fixture
def config(released: Path, tmp_path: Path) -> DataConfig:
    root = tmp_path.resolve() / "root"
    shutil.copytree(released, root, ignore=shutil.ignore_patterns("cards"))
    return DataConfig(root=str(root), cards=[str(released / "cards")], cache=str(tmp_path / "cache"), max_length=2000)


@pytest.fixture(scope="module")
def layout(card: BackboneCard) -> Layout:
    return Layout(card, load_tokenizer(card.tokenizer))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that have just been written are trusted."""
    monkeypatch.setattr(file_digests, "SETTLED", -1e9)


@pytest.fixture
def one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "POLL_SECONDS", 0.02)
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "1"), ("SLURM_STEP_NUM_TASKS", "2")):
        monkeypatch.setenv(name, value)


def ready(config: DataConfig, layout: Layout, tasks: tuple[str, ...], rank: int = 0) -> dict[str, TaskData]:
    return prepare({task: SPLITS for task in tasks}, config, layout, rank, print_rank0=lambda _: None)


@pytest.mark.parametrize("task", TASKS)
def test_a_build_opens_each_file_once(config: DataConfig, layout: Layout, task: str) -> None:
    with Reading(Path(config.root)) as reading:
        ready(config, layout, (task,))
    assert reading.times and set(reading.times.values()) == {1}, reading.times


def test_a_text_is_tokenised_once(config: DataConfig, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    for name in ("context_ids", "answer_ids"):
        plain = getattr(layout, name)
        counted = lambda text, plain=plain, name=name: (counts.update([f"{name} {text}"]), plain(text))[1]  # noqa: E731
        monkeypatch.setattr(layout, name, counted)
    for task, longest in (("pocket_bc5cdr_entities", 150), ("pocket_medqa", 2000), ("pocket_mts_dialog", 2000)):
        counts.clear()
        ready(replace(config, max_length=longest), layout, (task,))
        assert counts and set(counts.values()) == {1}, task


@pytest.mark.usefixtures("settled")
def test_a_later_start_reads_no_corpus(config: DataConfig, layout: Layout) -> None:
    tasks = tuple(TASKS)
    first = ready(config, layout, tasks)
    with Reading(Path(config.root)) as reading:
        second = ready(config, layout, tasks)
        assert is_tokenised({task: SPLITS for task in tasks}, config, layout)
    assert not reading.times
    assert data_fingerprint(first) == data_fingerprint(second)
    index = Path(config.cache) / INDEX
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    with Reading(Path(config.root)) as reading:
        ready(replace(config, max_length=1900), layout, tasks[:3])
    assert set(reading.times.values()) == {1}, "other rows of files that are known need one reading"


@pytest.mark.usefixtures("settled")
def test_an_index_that_is_lost_or_damaged_costs_time_alone(config: DataConfig, layout: Layout) -> None:
    first = ready(config, layout, ("pocket_medqa",))
    index = Path(config.cache) / INDEX
    whole = json.loads(index.read_text())
    other = {name: [*entry[:-1], "0" * 64] for name, entry in whole["files"].items()}
    for content in ("", "[]", "{", json.dumps({**whole, "files": other})):
        index.write_text(content)
        with Reading(Path(config.root)) as reading:
            again = ready(config, layout, ("pocket_medqa",))
        assert data_fingerprint(again) == data_fingerprint(first) and set(reading.times.values()) == {1}
    assert json.loads(index.read_text()) == whole


def changed_in_place(file: Path) -> None:
    """Same size, same inode, and the old time of modification."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("some words\n")
    digests = FileDigests(tmp_path)
    first = digests.of(file)
    digests.save()
    assert FileDigests(tmp_path).known(file) == first
    time.sleep(0.02)
    changed_in_place(file)
    assert FileDigests(tmp_path).known(file) is None and digests.known(file) is None
    assert FileDigests(tmp_path).of(file) != first


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("some words\n")
    digests = FileDigests(tmp_path)
    assert digests.of(file) == digests.known(file)
    digests.save()
    assert not (tmp_path / INDEX).exists()


@pytest.mark.usefixtures("settled")
def test_the_index_forgets_files_that_are_gone_and_keeps_what_others_wrote(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    mine, others = FileDigests(tmp_path), FileDigests(tmp_path)
    mine.of(tmp_path / "a"), others.of(tmp_path / "b"), others.of(tmp_path / "c")
    others.save()
    (tmp_path / "c").unlink()
    mine.save()
    names = json.loads((tmp_path / INDEX).read_text())["files"]
    assert sorted(Path(name).name for name in names) == ["a", "b"]


@pytest.fixture
def rank_1(config: DataConfig, layout: Layout) -> Iterator[Any]:
    """A thread as rank 1; ``rank_1.result`` is what it found, or the error."""

    class Rank(threading.Thread):
        result: Any = None

        def run(self) -> None:
            try:
                self.result = ready(config, layout, ("pocket_medqa", "pocket_pubmedqa"), rank=1)
            except UserError as error:
                self.result = error

    yield Rank(daemon=True)


@pytest.mark.usefixtures("one_launch")
def test_other_ranks_take_the_keys_from_rank_0_and_read_nothing(
    config: DataConfig, layout: Layout, rank_1: Any
) -> None:
    rank_1.start()
    time.sleep(0.2)
    assert rank_1.is_alive()
    built = ready(config, layout, ("pocket_medqa", "pocket_pubmedqa"))
    rank_1.join(timeout=20)
    assert data_fingerprint(rank_1.result) == data_fingerprint(built)
    shutil.rmtree(config.root)
    Path(config.root).mkdir()
    again = ready(config, layout, ("pocket_medqa", "pocket_pubmedqa"), rank=1)
    assert data_fingerprint(again) == data_fingerprint(built)
    for file in Path(config.cache).glob("keys-*.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.usefixtures("one_launch")
def test_other_ranks_learn_which_task_rank_0_could_not_prepare(config: DataConfig, layout: Layout, rank_1: Any) -> None:
    (Path(config.root) / "pocket_pubmedqa/ori_pqal.json").write_text("{")
    rank_1.start()
    with pytest.raises(UserError, match=r"task pocket_pubmedqa: .*ori_pqal\.json"):
        ready(config, layout, ("pocket_medqa", "pocket_pubmedqa"))
    rank_1.join(timeout=20)
    assert rank_1.result.problems == [
        "task pocket_pubmedqa: split train: rank 0 could not prepare it; its message says why"
    ]


@pytest.mark.usefixtures("one_launch")
def test_other_ranks_stop_waiting_for_keys_when_rank_0_breaks_off(
    config: DataConfig, layout: Layout, rank_1: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank_1.start()
    monkeypatch.setattr("engine.data.corpora._build", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ready(config, layout, ("pocket_medqa",))
    assert rank_1.is_alive(), "another request"
    with pytest.raises(ZeroDivisionError):
        ready(config, layout, ("pocket_medqa", "pocket_pubmedqa"))
    rank_1.join(timeout=20)
    assert rank_1.result.problems == ["data: rank 0 could not prepare it; its message says why"]


def test_a_launch_has_a_name_only_where_no_other_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    for name in (*names, "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert token_cache.unique_launch() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert token_cache.unique_launch() == "", "a script of a job may start several launches"
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert token_cache.unique_launch() == "", "a step of one task may be a shell, which starts several launches"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert token_cache.unique_launch() == "7 - 1 -"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert token_cache.unique_launch() == "7 - 1 -", "one process asks no store"


LAUNCHES = """
import os
from pathlib import Path
from engine.data.token_cache import unique_launch

place = Path(os.environ["PLACE"]) / os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
place.mkdir(exist_ok=True)
(place / os.environ["RANK"]).write_text(unique_launch())
while len(list(place.iterdir())) < int(os.environ["WORLD_SIZE"]):
    pass
raise SystemExit(place.name == "0")
"""


@pytest.mark.slow
def test_the_ranks_of_all_nodes_of_a_torchrun_know_their_launch(tmp_path: Path, project: Path) -> None:
    """Two nodes of two ranks, started again once after a failure. No SLURM tells the launch."""
    (tmp_path / "job.py").write_text(LAUNCHES)
    (tmp_path / "made").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TORCHELASTIC"))}
    env |= {"PLACE": str(tmp_path / "made"), "PYTHONPATH": str(project)}
    command = [*python(), "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "2"]
    command += ["--max_restarts", "1", "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    command += ["--rdzv_id", "one", str(tmp_path / "job.py")]
    nodes = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [node.communicate(timeout=240)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    first, second = ({file.read_text() for file in (tmp_path / "made" / n).iterdir()} for n in "01")
    assert len(first) == len(second) == 1 and first != second
    assert len(next(iter(first))) == len("torchrun ") + 32
