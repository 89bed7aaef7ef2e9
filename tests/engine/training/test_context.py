"""What a run checks of its machine before anything starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.core.errors import UserError


def test_a_folder_where_libraries_cannot_compile_is_told(
    make_holder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for name in ("TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"):  # on a GPU the first, elsewhere the second
        monkeypatch.setenv(name, str(file / "compiled"))
    with pytest.raises(UserError, match="(TRITON_CACHE|TORCH_EXTENSIONS)_DIR: .*/file/compiled"):
        make_holder()
