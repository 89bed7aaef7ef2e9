"""The job scripts on a real SLURM of two nodes: trained across both, stopped and requeued, refused before submission.

SLURM_LAB_SCRIPTS names a folder with slurm-up.sh and slurm-down.sh, which bring a controller and two nodes up on this machine (root, Debian's
slurm packages). Without them these tests are skipped, and say so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

ROOT, BIN = Path(__file__).resolve().parents[2], Path(sys.executable).parent
SMALL = ["--teach.steps=6", "--teach.eval_every=3", "--teach.examples=2", "--distill.steps=200", "--distill.batch=6", "--checkpoint.every=50", "--log.every=2",
         "--data.max_train=12", "--data.max_validation=4", "--data.max_test=4", "--evaluate.max_new_tokens=4", "--log.tensorboard=false"]  # fmt: skip
NODES = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-task=0", "--cpus-per-task=1", "--time=10"]
WAIT = 240  # seconds for a job


class Cluster:
    """A SLURM of two nodes, and jobs on it."""

    def __init__(self, lab: Path, scripts: Path):
        self.lab, self.scripts = lab, scripts
        self.env = {**os.environ, "SLURM_LAB": str(lab), "SLURM_NODES": "2"}
        for name in [n for n in self.env if n.startswith("SLURM_") and n not in ("SLURM_LAB", "SLURM_NODES")]:
            del self.env[name]
        up = subprocess.run([str(scripts / "slurm-up.sh")], env=self.env, capture_output=True, text=True, timeout=60)
        if up.returncode:  # namespaces are not to be had everywhere
            pytest.skip(f"no SLURM can be brought up here ({up.stderr.strip()[-200:]}): the job scripts are NOT tested on SLURM")
        own = {"VENV": str(BIN.parent), "PROJECT": str(ROOT), "LOCAL_DISK": str(lab), "USER": "root", "OMP_NUM_THREADS": "1"}
        self.env |= own | {"PATH": f"{lab / 'bin'}:{self.env['PATH']}"}

    def down(self) -> None:
        subprocess.run([str(self.scripts / "slurm-down.sh")], env=self.env, capture_output=True, timeout=60)

    def call(self, *command: str, expect: int = 0, **env: str) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.env | env, capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, output: Path, script: str, *arguments: str, options: list[str] | None = None) -> str:
        where = ["--parsable", f"--output={output}", *(options or NODES)]
        return self.call("sbatch", *where, f"launch_scripts/{script}", *arguments).strip()

    def state(self, job: str) -> str:
        found = re.search(r"JobState=(\w+)", self.call("scontrol", "show", "job", job))
        return found[1] if found else "?"

    def wait_for(self, job: str, wanted: str, output: Path | None = None) -> str:
        """The job's output once it is in a state."""

        def there() -> bool:
            state = self.state(job)
            said = output.read_text() if output and output.exists() else ""
            assert state == wanted or state not in ("FAILED", "CANCELLED", "COMPLETED", "TIMEOUT"), f"{job} is {state}\n{said}"
            return state == wanted

        return self.until(there, f"job {job} never was {wanted}", output)

    def wait_for_line(self, text: str, output: Path) -> str:
        return self.until(lambda: output.exists() and text in output.read_text(), f"{text!r} never came", output)

    def until(self, holds: Any, otherwise: str, output: Path | None) -> str:
        deadline = time.monotonic() + WAIT
        while not holds():
            text = output.read_text()[-4000:] if output and output.exists() else ""
            assert time.monotonic() < deadline, f"{otherwise}\n{text}"
            time.sleep(0.3)
        return output.read_text() if output and output.exists() else ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    scripts, missing = os.environ.get("SLURM_LAB_SCRIPTS"), [p for p in ("slurmctld", "slurmd", "munged") if not shutil.which(p, path="/usr/sbin:/usr/bin")]
    if not scripts or os.geteuid() != 0 or missing:
        why = "SLURM_LAB_SCRIPTS is not set" if not scripts else "needs root" if os.geteuid() else f"{', '.join(missing)} not installed"
        pytest.skip(f"{why}: the job scripts are NOT tested on SLURM")
    lab = Path("/tmp") / f"lab{os.getpid()}"  # short: a socket lies in it
    found = Cluster(lab, Path(scripts))
    yield found
    found.down()
    shutil.rmtree(lab, ignore_errors=True)


def distill(place: Path, name: str) -> list[str]:
    return ["configs/demo/distill.yaml", f"--data.cache={place / 'cache'}", f"--run_dir={place / name}", *SMALL]


def prompts(run: Path) -> dict[str, Any]:
    return load_file(run / "latest/prompts.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def whole(cluster: Cluster, place: Path) -> Path:
    """A distillation over both nodes that nobody disturbed."""
    output = place / "whole.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "whole"))
    text = cluster.wait_for(job, "COMPLETED", output)
    assert "2 ranks" in text and "backbone unchanged, to the bit" in text and text.rstrip().endswith("done")
    return place / "whole"


def test_two_nodes_learn_what_two_local_ranks_learn(cluster: Cluster, whole: Path, place: Path) -> None:
    config, *flags = distill(place, "local")
    cluster.call(str(BIN / "torchrun"), "--nproc_per_node", "2", "--", "train.py", "distill", f"--config={config}", *flags)
    for run in ("metrics.jsonl", "teachers/metrics.jsonl"):
        ours, theirs = ([json.loads(line) for line in (p / run).read_text().splitlines()] for p in (whole, place / "local"))
        assert [(x["step"], x["loss"], x["grad_norm"]) for x in ours] == [(x["step"], x["loss"], x["grad_norm"]) for x in theirs]


@pytest.mark.parametrize("how", ["scancel", "file"])
def test_stopped_requeued_and_finished_equals_undisturbed_to_the_bit(cluster: Cluster, whole: Path, place: Path, how: str) -> None:
    output, run = place / f"{how}.out", place / how
    job = cluster.submit(output, "distill.sbatch", *distill(place, how))
    cluster.wait_for_line("distill 2/200", output)
    if how == "scancel":
        cluster.call("scancel", "-s", "USR1", job)
    else:
        (run / "STOP").touch()
    text = cluster.wait_for(job, "COMPLETED", output)
    assert "as asked; the same command goes on from there" in text and f"requeued as {job} (restart 1" in text and "teachers: reused" in text
    assert text.rstrip().endswith("done")
    ours, theirs = prompts(run), prompts(whole)
    assert ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)
    assert not (run / "STOPPED").exists()
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(set(lines))


def test_a_wrong_key_ends_a_job_for_good(cluster: Cluster, place: Path) -> None:
    output = place / "wrong.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "wrong"), "--distill.stpes=3")
    text = cluster.wait_for(job, "FAILED", output)
    assert "did you mean 'distill.steps'?" in text and "not requeued" in text and text.count("did you mean") == 1
    assert "ExitCode=2:0" in cluster.call("scontrol", "show", "job", job)


def test_the_pipeline_submits_nothing_when_a_configuration_is_wrong(cluster: Cluster, place: Path) -> None:
    text = cluster.call("launch_scripts/pipeline.sh", "configs/demo/distill.yaml", "configs/demo/adapt.yaml", "--distill.stpes=3", expect=2)
    assert "did you mean 'distill.steps'?" in text and "job" not in text
    more = ["--data.max_train=12", f"--data.cache={place / 'cache'}", f"--run_dir={place / 'none'}"]
    text = cluster.call("launch_scripts/pipeline.sh", "configs/demo/distill.yaml", "configs/demo/adapt.yaml", *more, expect=2)
    assert "adapt.shots: 16: task demo_relations has 12 usable training examples" in text and ": job" not in text
    assert cluster.call("squeue", "-h").strip() == ""


def test_the_whole_pipeline(cluster: Cluster, place: Path) -> None:
    args = [f"--data.cache={place / 'cache'}", *[a for a in SMALL if not a.startswith("--distill.steps")], "--distill.steps=4"]
    adapt = ["--adapt.steps=2", "--adapt.shots=4,full"]
    base = place / "pipeline"
    base.mkdir()
    for mode in ("distill", "adapt"):
        text = (ROOT / f"configs/demo/{mode}.yaml").read_text()
        (base / f"{mode}.yaml").write_text(text.replace("runs/demo", str(base)))
    options = " ".join([*NODES, f"--output={base}/%x.out"])
    text = cluster.call("launch_scripts/pipeline.sh", str(base / "distill.yaml"), str(base / "adapt.yaml"), *args, *adapt, SBATCH_OPTIONS=options)
    jobs = dict(re.findall(r"(\w+): job (\d+)", text))
    assert list(jobs) == ["distill", "adapt", "evaluate", "report"]
    cluster.wait_for(jobs["report"], "COMPLETED", base / "report.out")
    table = (base / "distill/report.md").read_text()
    assert "demo_relations" in table and (base / "adapt/results.json").exists()
    again = cluster.call("launch_scripts/pipeline.sh", str(base / "distill.yaml"), str(base / "adapt.yaml"), *args, *adapt, SBATCH_OPTIONS=options)
    jobs = dict(re.findall(r"(\w+): job (\d+)", again))
    cluster.wait_for(jobs["report"], "COMPLETED", base / "report.out")
    assert "COMPLETED" in (base / "distill.out").read_text()


def test_no_process_is_left_behind(cluster: Cluster) -> None:
    cluster.until(lambda: cluster.call("squeue", "-h").strip() == "", "jobs are left", None)
    for node in ("node1", "node2"):
        pid = (cluster.lab / f"run/{node}.pid").read_text().strip()
        listed = subprocess.run(["nsenter", "-t", pid, "-p", "-m", "ps", "-eo", "args"], capture_output=True, text=True).stdout
        assert "train.py" not in listed, listed
