"""The fingerprint of frozen weights: every byte counts, and large files that have not changed are not read again."""

import multiprocessing
import os
import stat
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import BackboneCard, BackboneError
from backbones.loading import digests
from backbones.loading.digests import backbone_fingerprint, folder_fingerprint

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def released(folder: Path, shards: str = "5GB") -> list[Path]:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    model.save_pretrained(folder, max_shard_size=shards)
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture
def remembering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where digests are kept, of small and fresh files too."""
    monkeypatch.setattr(digests, "REMEMBERED", 0)
    monkeypatch.setattr(digests, "SETTLED", -1e9)
    monkeypatch.setenv(digests.FOLDER, str(tmp_path / "digests"))
    return tmp_path / "digests"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was read, in order."""
    names: list[str] = []
    plain = digests._part
    monkeypatch.setattr(digests, "_part", lambda file, start: names.append(file.name) or plain(file, start))
    return names


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("shards", ["5GB", "5KB"])
def test_one_bit_anywhere_in_any_file_changes_the_fingerprint(tmp_path: Path, shards: str) -> None:
    files, seen = released(tmp_path, shards), set()
    card = BackboneCard(name="x", path=str(tmp_path), tokenizer="unused")
    assert (len(files) > 1) == (shards == "5KB")
    for file in files:
        for share in (0.3, 0.5, 0.999):
            seen.add(backbone_fingerprint(card))
            flip(file, int(file.stat().st_size * share))
    seen.add(backbone_fingerprint(card))
    assert len(seen) == 3 * len(files) + 1


def test_a_file_of_several_parts_is_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,), seen = released(tmp_path), set()
    monkeypatch.setattr(digests, "PART", 1000)
    monkeypatch.setattr(digests, "READ", 300)
    for at in (0, 999, 1000, 1001, file.stat().st_size - 1):
        seen.add(folder_fingerprint(tmp_path))
        flip(file, at)
    assert len(seen) == 5
    file.write_bytes(b"")
    assert folder_fingerprint(tmp_path) not in seen


def test_files_that_hold_no_weights_do_not_count(tmp_path: Path) -> None:
    released(tmp_path, "5KB")
    before = folder_fingerprint(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "adapter.safetensors")
    assert folder_fingerprint(tmp_path) == before
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace("silu", "gelu"))
    assert folder_fingerprint(tmp_path) != before


def test_unchanged_files_are_read_once(tmp_path: Path, remembering: Path, hashed: list[str]) -> None:
    files = released(tmp_path / "m", "5KB")
    first = folder_fingerprint(tmp_path / "m")
    assert sorted(hashed) == [f.name for f in files]
    assert folder_fingerprint(tmp_path / "m") == first and len(hashed) == len(files)
    entries = list(remembering.glob("*.sha256"))
    assert len(entries) == len(files) and {stat.S_IMODE(e.stat().st_mode) for e in remembering.iterdir()} == {0o600}
    assert stat.S_IMODE(remembering.stat().st_mode) == 0o700
    entries[0].write_text("damaged")  # is made again
    assert folder_fingerprint(tmp_path / "m") == first and len(hashed) == len(files) + 1


def test_a_change_is_noticed_even_where_size_and_time_are_set_back(
    tmp_path: Path, remembering: Path, hashed: list[str]
) -> None:
    (file,) = released(tmp_path / "m")
    before, times = folder_fingerprint(tmp_path / "m"), file.stat()
    time.sleep(0.02)  # more than a tick of the clock that ctime is read from
    flip(file, times.st_size // 2)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_mtime_ns == times.st_mtime_ns and file.stat().st_ino == times.st_ino
    assert folder_fingerprint(tmp_path / "m") != before and len(hashed) == 2


def test_files_changed_a_moment_ago_and_small_ones_are_not_remembered(
    tmp_path: Path, remembering: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path / "m")
    for name, value in (("SETTLED", 3600.0), ("REMEMBERED", 1 << 20)):
        with monkeypatch.context() as patch:
            patch.setattr(digests, name, value)
            folder_fingerprint(tmp_path / "m")
    assert len(hashed) == 2 and not list(remembering.glob("*.sha256"))


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = released(tmp_path / "m")
    plain = digests._part

    def disturbed(path: Path, start: int) -> bytes:
        out = plain(path, start)
        os.utime(path, ns=(1, 1))
        return out

    monkeypatch.setattr(digests, "_part", disturbed)
    folder_fingerprint(tmp_path / "m")
    assert not list(remembering.glob("*.sha256"))


@pytest.mark.parametrize("where", ["", "a file", "a file/x"])
def test_without_a_place_to_remember_they_are_hashed_again(
    tmp_path: Path, remembering: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As in a read-only folder, which a test that runs as root cannot make."""
    (tmp_path / "a file").touch()
    monkeypatch.setenv(digests.FOLDER, where and str(tmp_path / where))
    released(tmp_path / "m")
    first = folder_fingerprint(tmp_path / "m")
    assert folder_fingerprint(tmp_path / "m") == first and len(hashed) == 2 and not remembering.exists()


def test_old_entries_make_room(tmp_path: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "ENTRIES", 2)
    files = released(tmp_path / "m", "5KB")
    folder_fingerprint(tmp_path / "m")
    assert len(files) > 2 and len(list(remembering.glob("*.sha256"))) == 2


def _rank(folder: Path, remembering: Path, answers: "multiprocessing.Queue[tuple[str, int]]") -> None:
    read, plain = [], digests._part

    def slow(file: Path, start: int) -> bytes:
        read.append(file)
        time.sleep(0.3)
        return plain(file, start)

    digests.REMEMBERED, digests.SETTLED, digests._part = 0, -1e9, slow
    os.environ[digests.FOLDER] = str(remembering)
    answers.put((folder_fingerprint(folder), len(read)))


def test_of_several_ranks_on_a_node_one_hashes(tmp_path: Path, remembering: Path) -> None:
    released(tmp_path / "m")
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    ranks = [context.Process(target=_rank, args=(tmp_path / "m", remembering, answers)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    found = [answers.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(20)
    assert len({fingerprint for fingerprint, _ in found}) == 1 and sorted(read for _, read in found) == [0, 0, 1]


def test_a_lock_that_is_not_given_back_is_not_waited_for_forever(
    tmp_path: Path, remembering: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path / "m")
    monkeypatch.setattr(digests, "_locked", lambda _: False)
    monkeypatch.setattr(digests, "PATIENCE", 0.0)
    folder_fingerprint(tmp_path / "m")
    assert len(hashed) == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = released(tmp_path)

    def broken(path: Path, start: int) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(digests, "_part", broken)
    with pytest.raises(BackboneError, match=f"{file.name}: Input/output error while reading; check the disk"):
        folder_fingerprint(tmp_path)


def test_folders_that_the_loader_refuses_have_a_fingerprint_all_the_same(tmp_path: Path) -> None:
    files = released(tmp_path, "5KB")
    files[0].unlink()
    assert len(folder_fingerprint(tmp_path)) == 64
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert len(folder_fingerprint(tmp_path)) == 64


def test_a_weight_in_the_middle_is_seen(tmp_path: Path) -> None:
    (file,) = released(tmp_path)
    card = BackboneCard(name="x", path=str(tmp_path), tokenizer="unused")
    before, weights = backbone_fingerprint(card), load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"] *= -50
    save_file(weights, file, metadata={"format": "pt"})
    assert backbone_fingerprint(card) != before
