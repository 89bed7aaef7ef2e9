"""metrics.jsonl and the lines on the terminal."""

import errno
import json
from pathlib import Path

import pytest

from engine.config.schema import AdaptConfig, RunConfig, TeachConfig
from engine.telemetry.metrics_writer import MetricsWriter, write_hparams

VALUES = {"loss": 1.5, "ce": 1.25, "kl": None, "task_ce": {"alpha": 1.0}, "lr": 0.1, "tokens_per_s": 1000.0}


def book(run_dir: Path, resume_step: int = 1, tensorboard: bool = False, active: bool = True) -> MetricsWriter:
    return MetricsWriter(
        run_dir, name="teach", total_steps=20, resume_step=resume_step, tensorboard=tensorboard, active=active
    )


def steps(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_one_object_a_logged_step_and_one_line_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book(tmp_path).step(3, VALUES)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, **VALUES}
    (shown,) = capsys.readouterr().out.splitlines()
    assert (
        shown.startswith("teach 3/20 | loss 1.5 | ce 1.25 | tokens_per_s 1000 | lr 0.1 | left ") and "kl" not in shown
    )


def test_terms_of_the_loss_that_a_stage_does_not_have_are_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsWriter(tmp_path, name="teach", total_steps=20, resume_step=1, tensorboard=False, active=True, terms=())
    log.step(1, {**VALUES, "ce": 1.5, "kl": 0.0, "hidden": 0.0})
    assert capsys.readouterr().out.startswith("teach 1/20 | loss 1.5 | tokens_per_s 1000 | lr 0.1 | left ")
    assert '"kl": 0.0' in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("torn", ["", '{"step": 9, "lo', '{"step": 9'])
def test_a_resumed_run_does_not_double_back(torn: str, tmp_path: Path) -> None:
    first = book(tmp_path)
    for step in range(1, 9):
        first.step(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)  # the kill tore the last line
    again = book(tmp_path, resume_step=5)
    assert steps(tmp_path) == [1, 2, 3, 4]
    again.step(5, {"loss": 0.0})
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    book(tmp_path, resume_step=1)
    assert steps(tmp_path) == []


def test_tensorboard_drops_what_is_run_again_too(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, stop in ((1, 8), (5, 9)):
        log = book(tmp_path, resume_step=start, tensorboard=True)
        for step in range(start, stop):
            log.step(step, {**VALUES, "loss": step + start / 10})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/ce", "task_ce/alpha"} <= set(
        events.Tags()["scalars"]
    ) and "train/kl" not in events.Tags()["scalars"]
    found = {e.step: round(e.value, 3) for e in events.Scalars("train/loss")}
    assert found == {1: 1.1, 2: 2.1, 3: 3.1, 4: 4.1, 5: 5.5, 6: 6.5, 7: 7.5, 8: 8.5}
    assert len(events.Scalars("train/loss")) == 8


def test_other_ranks_write_and_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = book(tmp_path, active=False, tensorboard=True)
    log.step(1, VALUES)
    log.print_rank0("hello")
    log.tick(1)
    log.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


def test_a_bar_only_where_someone_watches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    book(tmp_path).tick(10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    book(tmp_path).tick(10)
    assert "teach [###############...............] 10/20" in capsys.readouterr().err


def test_a_resumed_run_on_a_full_disk_keeps_what_earlier_ones_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 9):
        book(tmp_path, resume_step=step).step(step, {"loss": float(step)})
    before = (tmp_path / "metrics.jsonl").read_text()
    whole = Path.write_text

    def write_text(path: Path, text: str) -> int:
        whole(path, text[:20])  # a disk that runs full takes a part
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_text)
        with pytest.raises(OSError, match="No space left on device; nothing of it was changed.*metrics.jsonl"):
            book(tmp_path, resume_step=5)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"] and (
        tmp_path / "metrics.jsonl"
    ).read_text() == before
    book(tmp_path, resume_step=5)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_step_that_cannot_be_logged_names_the_file(tmp_path: Path) -> None:
    found = book(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match="the last checkpoint is intact; start again .*metrics.jsonl"):
        found.step(1, VALUES)


def test_settings_and_scores_read_back_from_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = RunConfig(
        run_dir="r",
        backbone="/weights/somewhere",
        seed=7,
        teach=TeachConfig(run="/of/someone"),
        adapt=AdaptConfig(
            lr_task=0.25, shots=["4", "full"], source_run="/runs/of/someone", multitask_run="/of/someone"
        ),
    )
    tuning = {"metaprompt": {"4": {"rates": [0.125, 0.5], "scores": [0.2, 0.3], "best": 1}}}
    for score in (0.1, 0.5):  # an evaluation that is repeated replaces the row
        write_hparams(
            tmp_path, config, average={"metaprompt": {"4": score, "full": 0.75}, "lora": {"full": 0.5}}, tuning=tuning
        )
    write_hparams(tmp_path / "other", config, average={}, tuning=tuning)
    assert not (tmp_path / "other").exists() and len(list((tmp_path / "tensorboard/hparams").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "tensorboard/hparams"))
    events.Reload()
    assert {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]} == {
        "average/metaprompt/4": 0.5,
        "average/metaprompt/full": 0.75,
        "average/lora/full": 0.5,
    }
    plugin = {
        tag: HParamsPluginData.FromString(content) for tag, content in events.PluginTagToContent("hparams").items()
    }
    started = plugin["_hparams_/session_start_info"].session_start_info.hparams
    values = {name: value.number_value or value.string_value or value.bool_value for name, value in started.items()}
    assert (
        values["seed"],
        values["prompt.num_virtual_tokens"],
        values["prompt.rank"],
        values["adapt.lr_task"],
        values["adapt.shots"],
    ) == (7, 100, 1, 0.25, "4, full")
    assert values["distill.lambda_kl"] == 0.9 and values["chosen.metaprompt.4"] == 0.5 and values["adapt.steps"] == 150
    assert not any("someone" in str(v) or "somewhere" in str(v) for v in values.values())
    metrics = {m.name.tag for m in plugin["_hparams_/experiment"].experiment.metric_infos}
    assert metrics == {"average/metaprompt/4", "average/metaprompt/full", "average/lora/full"}
