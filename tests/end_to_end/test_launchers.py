"""Real launchers on two processes: Ctrl-C in the terminal of a torchrun, and DeepSpeed's own launcher."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands_runner import BIN, ROOT, command

SMALL = [
    "--config=configs/demo/distill.yaml",
    "--teach.eval_interval=0",
    "--data.max_train=12",
    "--log.interval=1",
    "--log.tensorboard=false",
]


def flags(place: Path, *more: str) -> list[str]:
    return ["distill", *SMALL, f"--run_dir={place / 'run'}", f"--data.cache={place / 'cache'}", *more]


@contextlib.contextmanager
def from_a_terminal(arguments: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process group that Ctrl-C reaches, wherever the tests run; nothing of it is left behind."""
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # a launcher ends its ranks
        process.wait(60)


def test_ctrl_c_to_torchrun_saves_on_all_ranks_at_one_step(tmp_path: Path) -> None:
    arguments = command(*flags(tmp_path, "--teach.steps=5000"), ranks=2)
    seen = []
    with from_a_terminal(arguments, EXIT_CODE_FILE=str(tmp_path / "code")) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if line.startswith("teach 2/"):
                os.killpg(process.pid, signal.SIGINT)
                break
        rest, _ = process.communicate(timeout=120)
    text = "".join(seen) + rest
    (step,) = re.findall(r"teach: stopped at step (\d+) of 5000 as requested", text)
    assert (tmp_path / "run/teachers/latest").resolve().name == f"step_{int(step):08}", text
    assert (tmp_path / "code").read_text() == "75\n" and "fault" not in text


@pytest.mark.long
def test_the_deepspeed_launcher_starts_a_mode(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", str(port), "train.py"]
    arguments = [*launcher, *flags(tmp_path, "--teach.steps=2", "--distill.steps=2")]
    with from_a_terminal(arguments, DS_ACCELERATOR="cpu") as process:
        text, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "'--local_rank=1', 'distill'" in text and ", 2 ranks, " in text, text[-4000:]
    assert (tmp_path / "run/COMPLETED").exists()
