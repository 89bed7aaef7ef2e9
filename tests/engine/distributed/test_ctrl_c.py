"""Ctrl-C: once it asks for a stop, twice it ends; before training it ends at once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.core.errors import Stopped
from engine.distributed import ctrl_c, preemption
from engine.distributed.preemption import PreemptionHandler, StopRequest
from engine.telemetry import startup_timer
from engine.training.trainer import Trainer
from tests.engine.interrupted_runs import at_step

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_asked_for", "ctrl_c_is_not_ignored")]


def pressed(seconds: float, times: int = 2) -> None:
    for k in range(times):
        if k:
            time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)


def test_what_a_launcher_sends_on_of_one_ctrl_c_counts_once(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    with PreemptionHandler(tmp_path / "run", "USR1", True) as asked:
        trainer = build("run", asked)
        at_step(monkeypatch, trainer, 4, lambda: (pressed(0.05, 3), os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(Stopped, match="stopped at step 4 of 9"):
            trainer.run()
    assert capfd.readouterr().err.splitlines() == [preemption.TOLD.decode().strip()]


def test_ctrl_c_for_the_second_time_ends_at_once(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(preemption, "ONE_PRESS", 0.05)
    monkeypatch.setattr(ctrl_c, "GRACE", 0.01)
    monkeypatch.setattr(ctrl_c, "leave", lambda: ended.append(True))
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt), PreemptionHandler(tmp_path / "run", "USR1", True) as asked:
        trainer = build("run", asked)
        at_step(monkeypatch, trainer, 4, lambda: pressed(0.1))
        trainer.run()
    time.sleep(0.2)
    assert ended and trainer.step == 3 and not (tmp_path / "run/latest").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_before_ctrl_c_is_no_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "ONE_PRESS", 0.0)
    with PreemptionHandler(tmp_path, "USR1", True) as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.agreed() == StopRequest.STOP
    startup_timer.take_stop_request()


def test_where_ctrl_c_is_ignored_it_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with PreemptionHandler(tmp_path, "USR1", True) as asked, ctrl_c.ends_at_once():
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.agreed() == StopRequest.NONE
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# distill's own process: "building" is said in the middle of tokenising, which then takes for ever
TOKENISING = """
import time, train
from engine.data import corpora as data
def build(*_, **__):
    print("building", flush=True)
    {how}
data._build = build
train.main({arguments!r})
"""


SWALLOWED = "\n    ".join(["while True:", "    try: time.sleep(60)", "    except KeyboardInterrupt: pass"])


def from_a_terminal(arguments: list[str], project: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A Python process that Ctrl-C reaches, wherever the tests run."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=project,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("how", ["time.sleep(60)", SWALLOWED], ids=["raised", "swallowed"])
def test_before_training_ctrl_c_ends_with_130_and_one_line(how: str, project: Path, tmp_path: Path) -> None:
    places = [f"--run_dir={tmp_path / 'run'}", f"--data.cache={tmp_path / 'cache'}"]
    script = TOKENISING.format(how=how, arguments=["distill", "--config=configs/demo/distill.yaml", *places])
    env = {**os.environ, "EXIT_CODE_FILE": str(tmp_path / "code")}
    process = from_a_terminal(["-c", script], project, env)
    assert process.stdout is not None
    for line in process.stdout:
        if "building" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (
        process.returncode == 130
        and said == "interrupted; run the same command again to continue from what is on disk\n"
    )
    assert (tmp_path / "code").read_text() == "130\n" and not (tmp_path / "run").exists()


def test_during_training_ctrl_c_saves_and_leaves_with_75(project: Path, tmp_path: Path) -> None:
    flags = ["--teach.steps=2000", "--teach.eval_interval=0", "--data.max_train=12", "--log.interval=1"]
    places = [f"--run_dir={tmp_path / 'run'}", f"--data.cache={tmp_path / 'cache'}", "--log.tensorboard=false"]
    mode = ["distill", "--config=configs/demo/distill.yaml", "--sharding=replicated"]
    process = from_a_terminal(["train.py", *mode, *places, *flags], project)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("teach 2/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "as requested; run the same command again to continue" in out
    assert preemption.TOLD.decode() in err and "Traceback" not in err
    (step,) = re.findall(r"teach: stopped at step (\d+) of 2000", out)
    assert (tmp_path / "run/teachers/latest").resolve().name == f"step_{int(step):08}"
