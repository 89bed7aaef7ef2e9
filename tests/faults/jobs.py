"""Real runs of train.py that can be broken, and what is left of them: steps reached, checkpoints, prompts, metrics."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tests.processes.fork_server import LAUNCHER, pid_of, python, torchrun
from tools.process_tree import children, kill_tree, wait_until_gone

ROOT = Path(__file__).resolve().parents[2]
EVERY, TEACH, STEPS = 4, 6, 30
SMALL = [
    f"--teach.steps={TEACH}",
    "--teach.eval_interval=3",
    "--teach.batch_size=2",
    f"--distill.steps={STEPS}",
    "--distill.batch_size=6",
    "--log.interval=1",
    "--data.max_train=12",
    "--data.max_validation=4",
    "--data.max_test=4",
    "--log.tensorboard=false",
]
TIMING = ("tokens_per_s", "device_seconds", "mem", "mfu", "gathers", "gather_bytes")  # what no two launches share
LONGEST = 120  # seconds a job may take


class Job:
    """One launched job: its launcher and its ranks."""

    def __init__(self, client: "subprocess.Popen[bytes]", launcher: int, output: Path):
        self.launcher, self.output, self._client = launcher, output, client
        self.began = time.monotonic()

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    @property
    def code(self) -> int | None:
        return self._client.poll()

    @property
    def ranks(self) -> list[int]:
        """Process ids in rank order: the launcher's children, or itself."""
        return children(self.launcher) or [self.launcher]

    def kill(self, pids: list[int], number: int = signal.SIGKILL) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_all(self) -> None:
        """Launcher and ranks together, as a node's power does."""
        wait_until_gone(kill_tree(self.launcher))

    def wait(self, longest: float = LONGEST) -> int:
        """Its exit code.

        Raises:
            TimeoutError: it has not ended; it is killed.
        """
        try:
            return self._client.wait(longest)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise TimeoutError(f"a job did not end in {longest} s:\n{self.text[-2000:]}") from None

    def until(self, holds: Callable[[], bool], pause: float = 0.003) -> bool:
        """Wait for something, or for the job's end. -> whether it came."""
        deadline = time.monotonic() + LONGEST
        while self.code is None and time.monotonic() < deadline:
            if holds():
                return True
            time.sleep(pause)
        return False


class Jobs:
    """Starts jobs in a folder; within ``with``."""

    def __init__(self, place: Path):
        self.place, self._n, self._all = place, 0, list[Job]()

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._all:
            if job.code is None:
                job.kill_all()
                job.wait()

    def start(self, run_dir: Path, *arguments: str, ranks: int, bound: bool = False, every: int = EVERY) -> Job:
        self._n += 1
        output, pid = self.place / f"{self._n}.out", self.place / f"{self._n}.pid"
        pid.unlink(missing_ok=True)
        flags = [
            "distill",
            "--config=configs/demo/distill.yaml",
            f"--run_dir={run_dir}",
            f"--data.cache={self.place / 'cache'}",
            *SMALL,
            f"--checkpoint.interval={every}",
            *arguments,
        ]
        script = ["-m", "tests.faults.bound"] if bound else ["train.py"]
        launcher = python() if ranks == 1 else torchrun(ranks)
        env = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        with output.open("wb") as stream:
            client = subprocess.Popen(
                [*launcher, *script, *flags],
                cwd=ROOT,
                env=env | {"FORK_PID_FILE": str(pid)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        job = Job(client, pid_of(client, pid), output)
        self._all.append(job)
        return job

    def run(self, run_dir: Path, *arguments: str, ranks: int, expect: int = 0, **how: Any) -> Job:
        job = self.start(run_dir, *arguments, ranks=ranks, **how)
        found = job.wait()
        assert found == expect, f"exit code {found}\n{job.text[-4000:]}"
        return job


# ---- what is left of a run
# ---------------------------------------------------------------------------------------------------------


def reached(text: str) -> tuple[str, int]:
    """Stage and last step that a job logged."""
    found = re.findall(r"^(teach|distill) (\d+)/\d+ \|", text, re.M)
    return (found[-1][0], int(found[-1][1])) if found else ("teach", 0)


def resumed_at(text: str, stage: str) -> int:
    """The step at which a job went on in a stage; its end where that was reused whole."""
    found = re.search(rf"^{stage}: resumed at step (\d+) of", text, re.M)
    if found:
        return int(found[1])
    return TEACH if stage == "teach" and "teachers: reused" in text else 0


def lost_steps(broken: str, after: str) -> int:
    """Steps that a broken job had logged and the next one trained again."""
    stage, step = reached(broken)
    if "already COMPLETED" in after:
        return 0
    return max(step - resumed_at(after, stage), 0)


def left_behind(run_dir: Path) -> dict[str, dict[str, Tensor]]:
    """Every tensor of a finished run's last checkpoints, teachers too."""
    folders = {"": run_dir, "teachers/": run_dir / "teachers"}
    files = {
        n + f: d / "latest" / f for n, d in folders.items() for f in ("prompts.safetensors", "optimizer.safetensors")
    }
    for n, d in folders.items():
        kept = json.loads((d / "latest/state.json").read_text()).get("reused", {})
        files |= {n + kind: d / f"checkpoints/reused/{name}.1.safetensors" for kind, name in kept.items()}
    return {name: load_file(path) for name, path in files.items()}


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def wrong(run_dir: Path, whole: Path, tolerance: float = 0.0) -> list[str]:
    """What differs between a finished run and one that nobody disturbed.

    Args:
        tolerance: of every number, relative to the largest of its tensor; 0 is bit for bit, metrics and optimizer too.
    """
    problems = [f"{f} is missing" for f in ("COMPLETED", "teachers/COMPLETED") if not (run_dir / f).exists()]
    if problems:
        return problems
    found, wanted = left_behind(run_dir), left_behind(whole)
    if found.keys() != wanted.keys() or any(found[f].keys() != wanted[f].keys() for f in wanted):
        return ["other files or tensors"]
    for file, tensors in wanted.items():
        for name, tensor in tensors.items():
            other = found[file][name]
            scale = tensor.double().abs().max().item() if tensor.numel() else 0.0
            off = (other.double() - tensor.double()).abs().max().item() if tensor.numel() else 0.0
            if not (
                other.equal(tensor)
                if not tolerance
                else file.endswith("optimizer.safetensors") or off <= tolerance * max(scale, 1e-12)
            ):
                problems.append(f"{file} {name}: off by {off:.2g} of {scale:.2g}")
    for folder, steps in (("teachers", TEACH), (".", STEPS)):
        lines = metrics(run_dir / folder)
        if [line["step"] for line in lines] != list(range(1, steps + 1)):
            problems.append(f"{folder}/metrics.jsonl has steps {[line['step'] for line in lines]}")
        elif not tolerance and lines != metrics(whole / folder):
            problems.append(f"{folder}/metrics.jsonl has other numbers")
    problems += [f"left over: {p.relative_to(run_dir)}" for p in run_dir.rglob("*.partial")]
    return problems


# ---- places that can fail
# ----------------------------------------------------------------------------------------------------------


class Disk:
    """A file system in memory of so many KiB, mounted at a folder. Root."""

    def __init__(self, folder: Path):
        self.folder = folder

    def mount(self, kib: int) -> None:
        self.folder.mkdir(exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0777", "tmpfs", str(self.folder)],
            check=True,
            capture_output=True,
        )

    def remount(self, options: str) -> bool:
        """Whether it could be: it is refused while a file is open for writing."""
        return (
            subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], capture_output=True).returncode == 0
        )

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)


def can_mount(place: Path) -> bool:
    disk = Disk(place / "probe")
    try:
        disk.mount(64)
    except (subprocess.CalledProcessError, FileNotFoundError, PermissionError):
        return False
    disk.unmount()
    return True


@contextlib.contextmanager
def a_disk(folder: Path, kib: int) -> Iterator[Disk]:
    disk = Disk(folder)
    disk.mount(kib)
    try:
        yield disk
    finally:
        disk.unmount()


def copy_of(run_dir: Path, name: str) -> Path:
    to = run_dir.with_name(name)
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run_dir, to, symlinks=True)
    return to
