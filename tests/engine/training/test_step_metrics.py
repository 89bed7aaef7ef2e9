"""Numbers of a log line."""

import pytest
import torch

from engine.training.step_metrics import peak_bytes


def test_peak_memory_on_the_host_counts_what_was_held_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    size = 2**26
    held = bytearray(b"x") * size  # written to, so that it is resident
    del held
    assert peak_bytes() >= size
