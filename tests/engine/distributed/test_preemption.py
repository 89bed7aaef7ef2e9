"""Saved or stopped on request, by signal or file; and what cannot work ends the run and says why."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cli import exit_codes, main
from engine.core.errors import Stopped, UserError
from engine.distributed.preemption import PreemptionHandler, StopRequest, signal_number
from engine.training.forward_backward import ForwardBackward
from engine.training.trainer import Trainer
from tests.engine.interrupted_runs import at_step, prompts

pytestmark = pytest.mark.usefixtures("nothing_asked_for", "ctrl_c_is_not_ignored")


@pytest.mark.parametrize("how", ["TERM", "USR1", "INT", "STOP"])
def test_stopped_on_request_and_gone_on_equals_uninterrupted(
    how: str, build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build("whole")
    whole.run()
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    run_dir = tmp_path / "cut"
    run_dir.mkdir()
    ask = (run_dir / "STOP").touch if how == "STOP" else lambda: os.kill(os.getpid(), getattr(signal, f"SIG{how}"))
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with PreemptionHandler(run_dir, "USR1", True) as preemption:
        trainer = build("cut", preemption)
        at_step(monkeypatch, trainer, 4, ask)
        with pytest.raises(Stopped, match="stopped at step 4 of 9"):
            trainer.run()
    assert (
        (run_dir / "STOPPED").exists()
        and not (run_dir / "STOP").exists()
        and os.readlink(run_dir / "latest").endswith("step_00000004")
    )
    assert (tmp_path / "code.STOP").exists() == (how == "STOP")  # so that a job script requeues only after a signal
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    with PreemptionHandler(run_dir, "USR1", True) as preemption:
        again = build("cut", preemption)
        again.run()
    assert not (run_dir / "STOPPED").exists()
    for name, tensor in prompts(whole).items():
        assert torch.equal(tensor, prompts(again)[name]), name
    assert (run_dir / "metrics.jsonl").read_text().count("\n") == 9


def test_save_writes_a_checkpoint_and_training_goes_on(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with PreemptionHandler(tmp_path / "run", "USR1", True) as preemption:
        trainer = build("run", preemption)
        at_step(monkeypatch, trainer, 3, (tmp_path / "run" / "SAVE").touch)
        trainer.run()
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").glob("step_*")) == ["step_00000003", "step_00000009"]
    assert not (tmp_path / "run/SAVE").exists()


def test_a_request_in_the_last_step_is_no_stop(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with PreemptionHandler(tmp_path / "run", "USR1", True) as preemption:
        trainer = build("run", preemption)
        at_step(monkeypatch, trainer, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        trainer.run()
    assert not (tmp_path / "run/STOPPED").exists() and trainer.step == 9


def test_a_request_in_the_last_step_stops_the_next_loop(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with PreemptionHandler(tmp_path / "first", "USR1", True) as preemption:
        trainer = build("first", preemption, **{"distill.steps": 2})
        at_step(monkeypatch, trainer, 2, (tmp_path / "first/STOP").touch)
        trainer.run()
    with (
        PreemptionHandler(tmp_path / "second", "USR1", True) as preemption,
        pytest.raises(Stopped, match="stopped at step 1 of 9"),
    ):
        build("second", preemption).run()


def test_where_the_time_went_is_told_once_at_the_first_step() -> None:
    script = (
        "from engine.telemetry import startup_timer as startup; startup.mark_startup('imports'); "
        "startup.mark_startup('data'); print(startup.report_first_step()); "
        "print(startup.report_first_step())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    parts = (
        r"first step done at \d\d:\d\d:\d\d\.\d, \d+\.\d s after the process began: imports 0\.\d, data 0\.\d, first "
        r"step 0\.\d\nNone\n"
    )
    assert re.fullmatch(parts, done.stdout), done.stdout + done.stderr


def test_a_signal_during_imports_stops_the_first_loop_and_one_during_evaluation_leaves(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for leave, said in ((False, True), (True, False)):
        script = (
            "import os, signal; from engine.telemetry import startup_timer as startup; "
            f"startup.defer_early_signal(signal.SIGUSR1, {leave}); "
            "os.kill(os.getpid(), 10); print(startup.take_stop_request())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={**os.environ, "EXIT_CODE_FILE": str(code)},
            timeout=60,
        )
        assert (done.returncode, "True" in done.stdout) == (75 if leave else 0, said), done.stderr
        assert code.exists() == leave


def test_rank_0_tells_a_job_script_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "code"
    monkeypatch.setenv("EXIT_CODE_FILE", str(file))
    monkeypatch.setattr(exit_codes, "LET_RANK_0_SPEAK", 0)
    for rank, wanted in (("1", None), ("0", "2")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as end:
            main.run_mode("distil", (), {})
        assert end.value.code == 2 and (file.read_text().strip() if file.exists() else None) == wanted

    def stop(*_: object) -> None:
        raise Stopped("distill", 3, 9)

    monkeypatch.setitem(main.MODES, "distill", replace(main.MODES["distill"], run=stop, required=()))
    with pytest.raises(SystemExit) as end:
        main.run_mode("distill", (), {})
    assert end.value.code == 75 and file.read_text() == "75\n"


def test_a_signal_between_two_loops_stops_the_second(build: Callable[..., Trainer], tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with PreemptionHandler(tmp_path / "first", "USR1", True) as preemption:
        build("first", preemption, **{"distill.steps": 2}).run()
    os.kill(os.getpid(), signal.SIGUSR1)  # would end a process that does not catch it
    with (
        PreemptionHandler(tmp_path / "second", "USR1", True) as preemption,
        pytest.raises(Stopped, match="stopped at step 1 of 9"),
    ):
        build("second", preemption).run()
    with PreemptionHandler(tmp_path / "second", "USR1", True) as preemption:
        build("second", preemption).run()  # asked for once


@pytest.mark.parametrize("name", ["KILL", "SIGSTOP", "NONE", "", "9"])
def test_signals_that_nothing_can_catch(name: str) -> None:
    with pytest.raises(UserError, match="must be a signal that a process can catch"):
        signal_number(name)
    assert signal_number("usr2") == signal_number("SIGUSR2") == signal.SIGUSR2


def test_a_failed_checkpoint_outranks_everything(tmp_path: Path) -> None:
    with PreemptionHandler(tmp_path, "USR1", True) as preemption:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert preemption.agreed(failed=True) == StopRequest.FAILED
        assert preemption.agreed() == StopRequest.STOP  # and nothing that was asked for is forgotten


def test_a_row_that_is_never_finite_ends_the_run_by_name(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build("run", max_nonfinite_steps=3, **{"distill.task_subsets": False})
    whole = ForwardBackward.train

    def train(self: ForwardBackward, *args: Any, **named: Any) -> Any:
        terms = whole(self, *args, **named)
        trainer.stage.bank.parts["metaprompt"].cols_KLR.grad[1] = torch.nan
        return terms

    monkeypatch.setattr(ForwardBackward, "train", train)
    with pytest.raises(
        RuntimeError, match="distill 3: the gradient of beta/.* was not finite in 3 consecutive steps"
    ) as error:
        trainer.run()
    assert "alpha" not in str(error.value) and "gamma" not in str(error.value)


@pytest.mark.parametrize(
    ("when", "code", "said"),
    [("within", 75, ""), ("before", 75, ""), ("after", 0, "True"), ("never", 0, "False")],
)
def test_while_answers_are_asked_a_signal_leaves_at_once_and_afterwards_it_waits_for_the_loop(
    when: str, code: int, said: str
) -> None:
    kill = "os.kill(os.getpid(), signal.SIGUSR1)"
    script = "\n".join(
        [
            "import os, signal",
            "from engine.telemetry import startup_timer as startup",
            "startup.defer_early_signal(signal.SIGUSR1)",
            kill if when == "before" else "",
            "with startup.exit_on_signal():",
            f"    {kill if when == 'within' else 'pass'}",
            kill if when == "after" else "",
            "print(startup.take_stop_request())",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (code, said), done.stderr
