"""Releases read from their archives, in place: the same documents as unpacked, and nothing that an archive can do
to us.
"""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest

from clinical_tasks import ReadError, check_tasks, read_split
from clinical_tasks.corpus.splits import split_files
from clinical_tasks.readers import archives
from clinical_tasks.readers.files import find_files, is_file, name_in, open_text, read_bytes, read_text
from clinical_tasks.readers.gzip_seek import SeekableGzip

NOTES = {
    "n2c2/train/a.txt": "aspirin",
    "n2c2/train/a.ann": "T1\tDrug 0 7\taspirin\n",
    "n2c2/train/b.txt": "pain\u2028é",
    "n2c2/train/b.ann": "T1\tProblem 0 4\tpain\n",
    "n2c2/test/c.txt": "rest",
    "n2c2/test/c.ann": "",
}
SPLITS = {"train": "train/*.txt", "test": "test/*.txt"}


def pack(path, contents):
    """A zip, tar or tar.gz of names and texts, in the order given."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in contents.items():
                archive.writestr(name, text)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, text in contents.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["release.zip", "release.tar", "release.tar.gz", "RELEASE.TGZ"])
def test_a_release_is_found_in_the_archive_it_came_in(card, folder, tmp_path, name):
    mine = card("ner", splits=SPLITS)
    for path, text in NOTES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    unpacked = {
        split: read_split(card("ner", splits={s: f"n2c2/{f}" for s, f in SPLITS.items()}), tmp_path, split)
        for split in SPLITS
    }
    (folder / "n2c2").rename(tmp_path / "elsewhere")
    pack(folder / name, NOTES)
    assert {split: read_split(mine, tmp_path, split) for split in SPLITS} == unpacked
    assert unpacked["train"][1].input_text.startswith("pain\u2028é")
    (check,) = check_tasks([mine], tmp_path)
    assert (check.status, check.counts) == ("ok", {"train": 2, "test": 1})


def test_a_path_may_lead_through_an_archive_and_an_archive_in_it(folder, tmp_path):
    inner = pack(tmp_path / "training.zip", {"training/x.tsv": "1\tone\n"}).read_bytes()
    pack(folder / "Corpus.tar.gz", {"Corpus/training.zip": inner, "Corpus/readme.txt": "r"})
    path = folder / "Corpus.tar.gz/Corpus/training.zip/training/x.tsv"
    assert (
        is_file(path)
        and read_text(path) == "1\tone\n"
        and not is_file(path.with_name("y.tsv"))
        and not is_file(path.parent)
    )
    for name in (
        "training/x.tsv",
        "x.tsv",
        "training/*.tsv",
        "Corpus.tar.gz/Corpus/training.zip/training/*.tsv",
        "*.tar.gz/**/x.tsv",
    ):
        assert find_files(folder, name) == [path], name
    assert find_files(folder, "Corpus.tar.gz/training/x.tsv") == []  # from the archive's top where it is named
    assert name_in(path, folder) == "Corpus/training/x.tsv"


def test_what_lies_in_the_folder_comes_before_archives(folder):
    pack(folder / "a.zip", {"x.txt": "packed", "__MACOSX/._x.txt": "", "._x.txt": ""})
    assert find_files(folder, "*.txt") == [folder / "a.zip/x.txt"]
    (folder / "x.txt").write_text("unpacked")
    assert find_files(folder, "*.txt") == find_files(folder, "x.txt") == [folder / "x.txt"]


def test_a_name_in_two_archives_is_not_guessed(card, folder, tmp_path):
    pack(folder / "a.zip", {"x.txt": "1"})
    pack(folder / "b.zip", {"old/x.txt": "2"})
    with pytest.raises(ReadError, match=r"x\.txt is found more than once: a\.zip/x\.txt and b\.zip/old/x\.txt\. Fix"):
        split_files(card("ner", splits={"test": "x.txt"}), tmp_path, "test")
    (check,) = check_tasks([card("ner", splits={"test": "x.txt"})], tmp_path)
    assert "found more than once" in check.problems[0]


def test_a_glob_does_not_mean_several_folders_at_once(folder):
    pack(folder / "a.zip", NOTES)
    assert len(find_files(folder, "train/*.txt")) == 2 and len(find_files(folder, "n2c2/**/*.txt")) == 3
    with pytest.raises(ReadError, match=r"\*\.txt is found below several folders: n2c2/test/ and n2c2/train/\. Fix"):
        find_files(folder, "*.txt")


def test_lines_end_in_a_line_feed_only(folder):
    text = "\ufeffone\r\ntwo\u2028still\x0btwo\n\nlast"
    pack(folder / "a.zip", {"x.txt": text})
    (folder / "y.txt").write_text(text, newline="")
    for path in (folder / "a.zip/x.txt", folder / "y.txt"):
        assert list(open_text(path)) == text[1:].split("\n")
        assert next(open_text(path, skip_bom=False)) == "\ufeffone\r"
    (folder / "z.txt").write_bytes(b"good\nb\xffd\n")
    with pytest.raises(ReadError, match=r"z\.txt: not UTF-8 at byte 6"):
        list(open_text(folder / "z.txt"))


def test_members_of_a_tar_gz_are_read_in_any_order_without_holding_it(folder):
    rng = random.Random(0)
    contents = {f"n{i:04}.txt": "".join(rng.choices("abcdefgh \n", k=20_000)) for i in range(400)}
    path = pack(folder / "a.tar.gz", contents)
    names = rng.sample(sorted(contents), 60)
    tracemalloc.start()
    assert all(read_text(path / name) == contents[name] for name in names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, peak  # of 8 MB


def test_a_seekable_gzip_is_the_stream(tmp_path):
    rng = random.Random(1)
    parts = [rng.randbytes(300_000) + bytes(2_000_000), rng.randbytes(70_000)]
    whole = b"".join(parts)
    (tmp_path / "x.gz").write_bytes(b"".join(map(gzip.compress, parts)) + bytes(100_000))  # two streams, and padding
    with (tmp_path / "x.gz").open("rb") as file:
        stream = SeekableGzip(file, 10_000_000)
        assert stream.readable() and stream.seekable()
        for _ in range(100):
            at, size = rng.randrange(len(whole)), rng.randrange(200_000)
            stream.seek(at)
            assert (
                stream.read(size) == whole[at : at + size]
                and stream.tell() == max(at, min(at + size, len(whole)))
                or at >= len(whole)
            )


def refusal(path):
    with pytest.raises(ReadError) as error:
        read_bytes(path)
    return str(error.value)


def test_names_links_and_devices_do_not_lead_out(folder, tmp_path, canary):
    (tmp_path / "secret.txt").write_text(canary)
    for name in ("../../secret.txt", "/etc/passwd", "a\\..\\..\\b"):
        assert "leads out of the archive" in refusal(pack(folder / "out.zip", {name: ""}) / "x")
        assert "leads out of the archive" in refusal(pack(folder / "out.tar", {name: ""}) / "x")
        archives._from_disk.cache_clear()
    with tarfile.open(folder / "link.tar", "w") as tar:
        for name, kind in (("x.txt", tarfile.SYMTYPE), ("y.txt", tarfile.LNKTYPE), ("z.txt", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.txt")
            tar.addfile(info)
    with zipfile.ZipFile(folder / "link.zip", "w") as archive:
        info = zipfile.ZipInfo("x.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, str(tmp_path / "secret.txt"))
    for path in ("link.tar/x.txt", "link.tar/y.txt", "link.tar/z.txt", "link.zip/x.txt"):
        assert "is a link or no ordinary file" in refusal(folder / path)


def test_bombs_are_refused_in_bounded_memory(folder, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    zeros = bytes(30_000_000)
    pack(folder / "bomb.zip", {"x.txt": zeros})
    pack(folder / "bomb.tar.gz", {"x.txt": zeros})
    del zeros
    tracemalloc.start()
    for name in ("bomb.zip", "bomb.tar.gz"):
        assert "expands to more than 100 times its size" in refusal(folder / name / "x.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, peak


def test_encrypted_and_damaged_archives_are_told_apart(folder, canary):
    pack(folder / "a.zip", {"x.txt": canary})
    data = bytearray((folder / "a.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    (folder / "b.zip").write_bytes(data)
    assert "b.zip/x.txt: is encrypted" in refusal(folder / "b.zip/x.txt")
    (folder / "c.zip").write_bytes(b"no zip: " + canary.encode())
    assert "c.zip: is damaged or not an archive of its kind (BadZipFile)" in refusal(folder / "c.zip/x.txt")
    whole = pack(folder / "d.tar.gz", {"x.txt": canary * 1000, "y.txt": "y"}).read_bytes()
    (folder / "d.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "d.tar.gz: is damaged" in refusal(folder / "d.tar.gz/y.txt")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_random_damage_is_an_error_that_names_the_file_or_harmless(folder, canary, name):
    whole = pack(folder / name, {f"{i}.txt": (canary + "\n") * 50 for i in range(5)}).read_bytes()
    rng = random.Random(2)
    seen = set()
    for number in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (folder / name).write_bytes(damaged)
        archives._from_disk.cache_clear()  # the same size within one tick of the clock
        try:
            for path in find_files(folder, "*.txt"):
                read_text(path)
            seen.add("read")
        except ReadError as error:
            assert name in str(error) and not any(word in str(error) for word in canary.split()), number
            seen.add("error")
    assert "error" in seen


def test_an_archive_that_changes_is_opened_anew(folder):
    pack(folder / "a.zip", {"x.txt": "one"})
    assert read_text(folder / "a.zip/x.txt") == "one"
    pack(folder / "a.zip", {"x.txt": "one and two"})
    assert read_text(folder / "a.zip/x.txt") == "one and two"
    assert zlib.crc32(read_bytes(folder / "a.zip/x.txt")) == zlib.crc32(b"one and two")
