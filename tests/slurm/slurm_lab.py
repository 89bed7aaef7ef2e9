"""A SLURM of three nodes on this machine, jobs on it, and what can befall them: power, cables, signals.

SLURM_LAB_SCRIPTS names a folder with slurm-up.sh and slurm-down.sh, which bring a controller and nodes up (root,
Debian's slurm packages). Without them the tests are skipped, and say so. `make test-slurm` runs the longer ones too.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

ROOT, BIN = Path(__file__).resolve().parents[2], Path(sys.executable).parent
SMALL = [
    "--teach.steps=6",
    "--teach.eval_interval=3",
    "--teach.batch_size=2",
    "--distill.steps=200",
    "--distill.batch_size=6",
    "--checkpoint.interval=50",
    "--log.interval=2",
    "--data.max_train=12",
    "--data.max_validation=4",
    "--data.max_test=4",
    "--evaluate.max_new_tokens=4",
    "--log.tensorboard=false",
]
NODES = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-task=0", "--cpus-per-task=1", "--mem=0", "--time=10"]
ONE_NODE = ["--nodes=1", "--ntasks-per-node=2", *NODES[2:]]
LONGER = "--distill.steps=400"
WAIT = 600  # seconds for a job, on a machine that others use too
ENDED = ("FAILED", "CANCELLED", "COMPLETED", "TIMEOUT", "NODE_FAIL")


class Cluster:
    """A SLURM of three nodes, and jobs on it: most take two, the third is a spare."""

    nodes = ("node1", "node2", "node3")

    def __init__(self, lab: Path, scripts: Path):
        self.lab, self.scripts = lab, scripts
        self.env = {**os.environ, "SLURM_LAB": str(lab), "SLURM_NODES": str(len(self.nodes))}
        for name in [n for n in self.env if n.startswith("SLURM_") and n not in ("SLURM_LAB", "SLURM_NODES")]:
            del self.env[name]
        up = subprocess.run([str(scripts / "slurm-up.sh")], env=self.env, capture_output=True, text=True, timeout=60)
        if up.returncode:  # namespaces are not to be had everywhere
            pytest.skip(
                f"no SLURM can be brought up here ({up.stderr.strip()[-200:]}): the job scripts are NOT tested on SLURM"
            )
        own = {
            "VENV": str(BIN.parent),
            "PROJECT": str(ROOT),
            "LOCAL_DISK": str(lab),
            "USER": "root",
            "OMP_NUM_THREADS": "1",
        }
        self.env |= own | {"PATH": f"{lab / 'bin'}:{self.env['PATH']}"}

    def down(self) -> None:
        subprocess.run([str(self.scripts / "slurm-down.sh")], env=self.env, capture_output=True, timeout=60)

    def call(self, *command: str, expect: int = 0, **env: str) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.env | env, capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, output: Path, script: str, *arguments: str, options: list[str] | None = None, **env: str) -> str:
        where = ["--parsable", f"--output={output}", *(options or NODES)]
        return self.call("sbatch", *where, f"launch_scripts/{script}", *arguments, **env).strip()

    def shown(self, job: str, key: str) -> str:
        found = re.search(rf"\b{key}=(\S+)", self.call("scontrol", "show", "job", job))
        return found[1] if found else "?"

    def nodes_of(self, job: str) -> list[str]:
        return self.call("scontrol", "show", "hostnames", self.shown(job, "NodeList")).split()

    def state(self, job: str) -> str:
        return self.shown(job, "JobState")

    def wait_for(self, job: str, wanted: str, output: Path | None = None) -> str:
        """The job's output once it is in a state."""

        def there() -> bool:
            state = self.state(job)
            said = output.read_text() if output and output.exists() else ""
            assert state == wanted or state not in ENDED, f"{job} is {state}\n{said}"
            return state == wanted

        return self.until(there, f"job {job} never was {wanted}", output)

    def wait_for_line(self, text: str, output: Path) -> str:
        return self.until(lambda: output.exists() and text in output.read_text(), f"{text!r} never came", output)

    def until(self, holds: Callable[[], Any], otherwise: str, output: Path | None = None) -> str:
        deadline = time.monotonic() + WAIT
        while not holds():
            text = output.read_text()[-4000:] if output and output.exists() else ""
            assert time.monotonic() < deadline, f"{otherwise}\n{text}"
            time.sleep(0.3)
        return output.read_text() if output and output.exists() else ""

    # ---- machines
    # ------------------------------------------------------------------------------------------------------------

    def pid(self, box: str) -> str:
        return (self.lab / f"run/{box}.pid").read_text().strip()

    def processes(self, node: str, of: str) -> list[tuple[int, str]]:
        """Those of a node whose command line holds ``of``: pid as the node sees it, command line."""
        listed = subprocess.run(
            ["nsenter", "-t", self.pid(node), "-p", "-m", "ps", "-eo", "pid=,args="], capture_output=True, text=True
        ).stdout
        return [(int(line.split()[0]), line.split(maxsplit=1)[1]) for line in listed.splitlines() if of in line]

    def kill(self, node: str, pid: int, signal: str = "KILL") -> None:
        subprocess.run(["nsenter", "-t", self.pid(node), "-p", "-m", "kill", f"-{signal}", str(pid)], check=True)

    def power_off(self, node: str) -> None:
        os.kill(int(self.pid(node)), 9)  # its init, and with it all there

    def power_on(self, node: str) -> None:
        # a signal still under way to the dead node would hit what runs there next
        self.until(lambda: re.search(r"Agent queue size:\s+0\b", self.call("sdiag")), "signals stay under way")
        subprocess.run(
            [str(self.scripts / "slurm-up.sh"), "node", node.removeprefix("node")],
            env=self.env,
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.ready(node)

    def cable(self, node: str, state: str) -> None:
        link = ["ip", "link", "set", node.replace("node", "v"), state]
        subprocess.run(["nsenter", "-t", self.pid("ctl"), "-n", *link], check=True)

    def ready(self, *nodes: str) -> None:
        for node in nodes:
            self.until(
                lambda n=node: self.call("sinfo", "-h", "-N", "-n", n, "-o", "%T").strip() == "idle",
                f"{node} never was idle",
            )


def start() -> Cluster:
    """Skips the test where that cannot be."""
    scripts, missing = (
        os.environ.get("SLURM_LAB_SCRIPTS"),
        [p for p in ("slurmctld", "slurmd", "munged") if not shutil.which(p, path="/usr/sbin:/usr/bin")],
    )
    if not scripts or os.geteuid() != 0 or missing:
        why = (
            "SLURM_LAB_SCRIPTS is not set"
            if not scripts
            else "needs root"
            if os.geteuid()
            else f"{', '.join(missing)} not installed"
        )
        pytest.skip(f"{why}: the job scripts are NOT tested on SLURM")
    return Cluster(Path("/tmp") / f"lab{os.getpid()}", Path(scripts))  # short: a socket lies in it


def distill(place: Path, name: str, *more: str) -> list[str]:
    """Arguments of distill.sbatch: small, in a run directory of its own."""
    given = (
        [flag for flag in SMALL if not flag.startswith(tuple(m.split("=")[0] + "=" for m in more))] if more else SMALL
    )
    return ["configs/demo/distill.yaml", f"--data.cache={place / 'cache'}", f"--run_dir={place / name}", *given, *more]


def prompts(run: Path) -> dict[str, Any]:
    return load_file(run / "latest/prompts.safetensors")


def assert_same(run: Path, undisturbed: Path) -> None:
    """Final prompts to the bit, and curves that neither lack a step nor double back."""
    ours, theirs = prompts(run), prompts(undisturbed)
    assert ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)
    steps = [
        [line.split(",")[0] for line in (r / "metrics.jsonl").read_text().splitlines()] for r in (run, undisturbed)
    ]
    assert steps[0] == steps[1]
    assert (run / "COMPLETED").exists() and not (run / "STOPPED").exists()
