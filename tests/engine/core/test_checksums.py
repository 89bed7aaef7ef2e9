"""A checksum over all of a file: every flipped bit and every cut is seen, and a whole file under another's name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.core.checksums import damage, seal, unsealed

OF = "teacher 0a part 3"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    file = tmp_path / "file.safetensors"
    save_file({"a": torch.arange(6.0), "b": torch.arange(3)}, file, unsealed(OF))
    seal(file)
    return file


def test_a_sealed_file_is_whole_and_read_as_any(sealed: Path) -> None:
    assert damage(sealed, OF) == ""
    assert load_file(sealed)["a"].equal(torch.arange(6.0))


def test_every_flipped_bit_is_seen(sealed: Path) -> None:
    whole = sealed.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            sealed.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            assert damage(sealed, OF), f"bit {bit} of byte {place}"
    sealed.write_bytes(whole)
    assert not damage(sealed, OF)


def test_every_cut_is_seen(sealed: Path) -> None:
    whole = sealed.read_bytes()
    for length in range(len(whole)):
        sealed.write_bytes(whole[:length])
        assert damage(sealed, OF), f"cut to {length} bytes"
    sealed.write_bytes(whole + b"x")
    assert damage(sealed, OF)


def test_reasons(sealed: Path, tmp_path: Path) -> None:
    assert damage(sealed, OF.replace("3", "4")) == "is a different, intact file under this name"
    assert damage(tmp_path / "gone", OF) == "is missing"
    assert damage(tmp_path, OF) == "cannot be read (Is a directory)"
    sealed.write_bytes(b"")
    assert damage(sealed, OF) == "is empty"
    save_file({"a": torch.arange(3)}, sealed)  # as another program saves it
    assert damage(sealed, OF) == "its header is damaged"
    with pytest.raises(ValueError, match="no place for a checksum"):
        seal(sealed)
