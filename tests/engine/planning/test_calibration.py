"""The command that calibrates a machine: what it refuses, and the file that it writes."""

from pathlib import Path

import pytest
import torch

from engine.distributed.hardware import read_kind
from engine.planning import calibration


def test_a_calibration_is_written_as_a_file_that_plan_reads(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, file = read_kind("h100"), tmp_path / "machines/mine.yaml"
    monkeypatch.setattr(calibration.distributed, "start_process_group", lambda env: torch.device("cpu"))
    monkeypatch.setattr(calibration, "calibrate", lambda *asked: kind)
    card = project / "configs/gpt_oss_20b/shape.yaml"
    monkeypatch.setattr("sys.argv", ["calibration", f"--backbone={card}", f"--output={file}"])
    calibration.main()
    assert capsys.readouterr().out.strip() == file.read_text().strip()
    assert read_kind(str(file)).flops == pytest.approx(kind.flops, rel=1e-3)


@pytest.mark.parametrize("wrong", ["--tokens=0", "--output=machine.json"])
def test_wrong_flags_are_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["calibration", "--backbone=b.yaml", "--output=machine.yaml", wrong])
    with pytest.raises(SystemExit, match="--tokens must be above 0, and --output a .yaml file"):
        calibration.main()
