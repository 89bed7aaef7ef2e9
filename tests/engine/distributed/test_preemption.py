"""Saved or stopped on request, by signal or file; one writer a run directory; what cannot work ends the run and
says why.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints import checkpoint
from engine.checkpoints.checkpoint import Checkpoint, Saver
from engine.checkpoints.run_lock import RunLock, RunLockLost
from engine.cli import main
from engine.config.schema import RunConfig
from engine.core.errors import Stopped, UserError
from engine.data.dataset import TaskData
from engine.distributed import ctrl_c, preemption
from engine.distributed.preemption import PreemptionHandler, StopRequest, signal_number
from engine.distributed.preflight import preflight_problems
from engine.telemetry import startup_timer
from engine.training.forward_backward import ForwardBackward
from engine.training.teach_and_distill import distill_stage
from engine.training.trainer import Trainer


@pytest.fixture(autouse=True)
def nothing_asked_for() -> Iterator[None]:
    yield
    startup_timer.take_stop_request()  # by the test before


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As it would be where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def build(make_session, make_loop, teachers, tasks: dict[str, TaskData]) -> Callable[..., Trainer]:
    """A distillation's loop as a new process would make it, in a run directory of its own."""

    def make(name: str, interruption: PreemptionHandler | None = None, **changes: Any) -> Trainer:
        session = make_session(name, **{"distill.steps": 9, "distill.batch": 4, "checkpoint.every": 100, **changes})
        train_only = {n: TaskData(d.card, {"train": d.splits["train"]}) for n, d in tasks.items()}
        loop = make_loop(distill_stage(session, train_only, teachers(3), "hash"), session)
        loop.interruption = interruption
        return loop

    return make


def at_step(monkeypatch: pytest.MonkeyPatch, loop: Trainer, step: int, act: Callable[[], object]) -> None:
    """Do something in the middle of a step."""
    whole, done = ForwardBackward.train, []

    def train(*args: Any) -> Any:
        if loop.step == step - 1 and not done:
            done.append(act())
        return whole(*args)

    monkeypatch.setattr(ForwardBackward, "train", train)


def prompts(loop: Trainer) -> dict[str, torch.Tensor]:
    """Copies: what is loaded is mapped from a file that a test may damage."""
    return {n: t.clone() for n, t in checkpoint.load(loop.stage.run_dir).prompts.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["TERM", "USR1", "INT", "STOP"])
def test_stopped_on_request_and_gone_on_equals_uninterrupted(
    how: str, build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build("whole")
    whole.run()
    run_dir = tmp_path / "cut"
    run_dir.mkdir()
    ask = (run_dir / "STOP").touch if how == "STOP" else lambda: os.kill(os.getpid(), getattr(signal, f"SIG{how}"))
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with PreemptionHandler(run_dir, "USR1", True) as preemption:
        loop = build("cut", preemption)
        at_step(monkeypatch, loop, 4, ask)
        with pytest.raises(Stopped, match="stopped at step 4 of 9"):
            loop.run()
    assert (
        (run_dir / "STOPPED").exists()
        and not (run_dir / "STOP").exists()
        and os.readlink(run_dir / "latest").endswith("step_00000004")
    )
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    with PreemptionHandler(run_dir, "USR1", True) as preemption:
        again = build("cut", preemption)
        again.run()
    assert not (run_dir / "STOPPED").exists()
    for name, tensor in prompts(whole).items():
        assert torch.equal(tensor, prompts(again)[name]), name
    assert (run_dir / "metrics.jsonl").read_text().count("\n") == 9


# ---- Ctrl-C ------------------------------------------------------------------------------------------------


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
        loop = build("run", asked)
        at_step(monkeypatch, loop, 4, lambda: (pressed(0.05, 3), os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(Stopped, match="stopped at step 4 of 9"):
            loop.run()
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
        loop = build("run", asked)
        at_step(monkeypatch, loop, 4, lambda: pressed(0.1))
        loop.run()
    time.sleep(0.2)
    assert ended and loop.step == 3 and not (tmp_path / "run/latest").exists()
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
def build(*_):
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
    assert process.returncode == 130 and said == "interrupted; the same command goes on from what is on disk\n"
    assert (tmp_path / "code").read_text() == "130\n" and not (tmp_path / "run").exists()


def test_during_training_ctrl_c_saves_and_leaves_with_75(project: Path, tmp_path: Path) -> None:
    flags = ["--teach.steps=2000", "--teach.eval_every=0", "--data.max_train=12", "--log.every=1"]
    places = [f"--run_dir={tmp_path / 'run'}", f"--data.cache={tmp_path / 'cache'}", "--log.tensorboard=false"]
    mode = ["distill", "--config=configs/demo/distill.yaml", "--placement=resident"]
    process = from_a_terminal(["train.py", *mode, *places, *flags], project)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("teach 2/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "as asked; the same command goes on from there" in out
    assert preemption.TOLD.decode() in err and "Traceback" not in err
    (step,) = re.findall(r"teach: stopped at step (\d+) of 2000", out)
    assert (tmp_path / "run/teachers/latest").resolve().name == f"step_{int(step):08}"


def test_save_writes_a_checkpoint_and_training_goes_on(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with PreemptionHandler(tmp_path / "run", "USR1", True) as preemption:
        loop = build("run", preemption)
        at_step(monkeypatch, loop, 3, (tmp_path / "run" / "SAVE").touch)
        loop.run()
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").glob("step_*")) == ["step_00000003", "step_00000009"]
    assert not (tmp_path / "run/SAVE").exists()


def test_a_request_in_the_last_step_is_no_stop(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with PreemptionHandler(tmp_path / "run", "USR1", True) as preemption:
        loop = build("run", preemption)
        at_step(monkeypatch, loop, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        loop.run()
    assert not (tmp_path / "run/STOPPED").exists() and loop.step == 9


def test_a_request_in_the_last_step_stops_the_next_loop(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with PreemptionHandler(tmp_path / "first", "USR1", True) as preemption:
        loop = build("first", preemption, **{"distill.steps": 2})
        at_step(monkeypatch, loop, 2, (tmp_path / "first/STOP").touch)
        loop.run()
    with (
        PreemptionHandler(tmp_path / "second", "USR1", True) as preemption,
        pytest.raises(Stopped, match="stopped at step 1 of 9"),
    ):
        build("second", preemption).run()


def test_where_the_time_went_is_told_once_at_the_first_step() -> None:
    script = (
        "from engine.telemetry import startup_timer as startup; startup.mark_startup('imports'); startup.mark_startup('data'); print(startup.report_first_step()); "
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
            f"import os, signal; from engine.telemetry import startup_timer as startup; startup.defer_early_signal(signal.SIGUSR1, {leave}); "
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
    monkeypatch.setattr(main, "LET_RANK_0_SPEAK", 0)
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
    with pytest.raises(UserError, match="no signal that a process can catch"):
        signal_number(name)
    assert signal_number("usr2") == signal_number("SIGUSR2") == signal.SIGUSR2


def test_a_failed_checkpoint_outranks_everything(tmp_path: Path) -> None:
    with PreemptionHandler(tmp_path, "USR1", True) as preemption:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert preemption.agreed(failed=True) == StopRequest.FAILED
        assert preemption.agreed() == StopRequest.STOP  # and nothing that was asked for is forgotten


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    whole, calls = checkpoint.save_file, []

    def save_file(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 4:  # the optimizer's file of the second checkpoint
            raise OSError(28, "No space left on device")
        whole(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    failed = pytest.raises(OSError, match="checkpoint of step 4 .*No space left.*previous one is whole")
    with PreemptionHandler(tmp_path / "run", "USR1", True) as preemption, failed:
        build("run", preemption, **{"checkpoint.every": 2}).run()
    assert checkpoint.load(tmp_path / "run").state["step"] == 2  # type: ignore[union-attr]
    monkeypatch.setattr(checkpoint, "save_file", whole)
    again = build("run", None, **{"checkpoint.every": 2})
    again.run()
    assert again.step == 9 and not list((tmp_path / "run/checkpoints").glob(".*"))


def test_a_checkpoint_holds_the_step_it_was_asked_at_though_training_goes_on(tmp_path: Path) -> None:
    tensor, state = torch.zeros(3), {"progress": [1]}
    saver = Saver(tmp_path, 2)
    saver.start(5, Checkpoint({"a": tensor}, {"b": tensor}, state))
    tensor.fill_(7.0)
    state["progress"].append(2)
    saver.wait()
    found = checkpoint.load(tmp_path)
    assert (
        found is not None
        and found.prompts["a"].eq(0).all()
        and found.optimizer["b"].eq(0).all()
        and found.state["progress"] == [1]
    )


# ---- damaged checkpoints
# ---------------------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["prompts.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [flipped, Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-7])])
def test_a_damaged_checkpoint_is_passed_over_and_said_aloud(
    name: str,
    damage: Callable[[Path], object],
    build: Callable[..., Trainer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = build("run", **{"checkpoint.every": 4})
    whole.run()
    expected = prompts(whole)
    damage((tmp_path / "run/latest").resolve() / name)
    with pytest.raises(UserError, match="step_00000009"):
        checkpoint.load(tmp_path / "run")  # a finished run is never read from an earlier step in silence
    again = build("run", **{"checkpoint.every": 4})
    again.run()
    out = capsys.readouterr().out
    assert (
        "WARNING checkpoint" in out
        and "going on from step_00000008, which is whole" in out
        and "resumed at step 8 of 9" in out
    )
    for n, tensor in expected.items():
        assert torch.equal(tensor, prompts(again)[n]), n


def test_all_damaged_is_an_error_that_lists_them(build: Callable[..., Trainer], tmp_path: Path) -> None:
    build("run", **{"checkpoint.every": 4}).run()
    for folder in (tmp_path / "run/checkpoints").glob("step_*"):
        flipped(folder / "prompts.safetensors")
    with pytest.raises(UserError) as error:
        build("run").run()
    assert len(error.value.problems) == 2 and all("--fresh=true" in p for p in error.value.problems)


# ---- one writer
# ------------------------------------------------------------------------------------------------------------------


def test_the_older_of_two_jobs_loses_its_right_to_write(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    loop = build("run", **{"checkpoint.every": 2, "log.every": 2})
    loop.fence = loop.saver.fence = RunLock(run_dir)
    newer: list[RunLock] = []
    at_step(monkeypatch, loop, 4, lambda: (loop.saver.wait(), newer.append(RunLock(run_dir))))  # step 2 is on disk
    with pytest.raises(RunLockLost, match="opened by another job since"):
        loop.run()
    assert (
        checkpoint.load(run_dir).state["step"] == 2 and len((run_dir / "metrics.jsonl").read_text().splitlines()) == 1
    )  # type: ignore[union-attr]
    newer[0].check()
    assert [p.name for p in run_dir.iterdir() if p.name.startswith(".owner")] == []


def test_a_checkpoint_under_way_is_not_shown_once_the_right_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = RunLock(tmp_path)
    whole = checkpoint.save_file

    def save_file(*args: Any, **kwargs: Any) -> None:
        RunLock(tmp_path)  # another job comes while it writes
        whole(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(RunLockLost):
        checkpoint.save(tmp_path, 3, Checkpoint({"a": torch.ones(1)}, {"b": torch.ones(1)}, {}), 2, fence)
    assert not (tmp_path / "latest").exists() and not (tmp_path / "checkpoints/step_00000003").exists()


def test_an_earlier_start_of_a_job_does_not_take_the_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    newer = RunLock(tmp_path)
    monkeypatch.delenv("SLURM_RESTART_COUNT")  # a job's first start has none
    with pytest.raises(RunLockLost, match="later start of job 7 .*restart 1"):
        RunLock(tmp_path)
    newer.check()
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    RunLock(tmp_path)


def test_a_claim_that_was_taken_away_is_lost(tmp_path: Path) -> None:
    fence = RunLock(tmp_path)
    fence.check()
    fence.file.write_text("{")
    with pytest.raises(RunLockLost, match="nobody that can be read"):
        fence.check()


# ---- what cannot work
# ------------------------------------------------------------------------------------------------------------


def test_a_row_that_is_never_finite_ends_the_run_by_name(
    build: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = build("run", max_skipped=3, **{"distill.task_subsets": False})
    whole = ForwardBackward.train

    def train(self: ForwardBackward, *args: Any) -> Any:
        terms = whole(self, *args)
        loop.stage.bank.parts["metaprompt"].cols_KLR.grad[1] = torch.nan
        return terms

    monkeypatch.setattr(ForwardBackward, "train", train)
    with pytest.raises(
        RuntimeError, match="distill 3: in 3 steps running the gradient of beta/.* was not finite"
    ) as error:
        loop.run()
    assert "alpha" not in str(error.value) and "gamma" not in str(error.value)


# ---- before anything starts
# ------------------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_written_and_disks_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(run_dir=str(tmp_path / "a/b"))
    config.data.cache = str(tmp_path / "cache")
    assert preflight_problems(config, 1000) == []
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = preflight_problems(config, 1000)
    assert (
        len(found) == 2
        and found[0].startswith("run_dir: ")
        and f"{tmp_path} cannot be written to" in found[0]
        and found[1].startswith("data.cache: ")
    )
    monkeypatch.undo()
    assert (
        "run_dir: " in preflight_problems(config, 10**15)[0]
        and "GB are free there" in preflight_problems(config, 10**15)[0]
    )
    (tmp_path / "file").write_text("x")
    config.run_dir = str(tmp_path / "file/run")
    assert preflight_problems(config, 0) == [f"run_dir: {tmp_path / 'file'} is a file; name a folder"]


def test_owner_says_which_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    RunLock(tmp_path)
    owner = json.loads((tmp_path / "owner.json").read_text())
    assert owner["slurm_job"] == "77" and owner["restart"] == "2" and owner["pid"] == os.getpid()


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


def test_a_claim_that_cannot_be_written_says_where_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device; nothing was changed, .*owner\.json") as error:
        RunLock(tmp_path)
    assert error.value.errno == 28 and list(tmp_path.iterdir()) == []
