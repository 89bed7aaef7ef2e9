"""LAUNCHER=torchrun: one node, one task, as many ranks as it has GPUs. SLURM's signals reach the ranks, never
torchrun, which would orphan them.
"""

from pathlib import Path

import pytest
from slurm_lab import ONE_NODE, Cluster, assert_same, distill

pytestmark = pytest.mark.long
TORCHRUN = [*ONE_NODE, "--export=ALL,LAUNCHER=torchrun"]


@pytest.mark.parametrize("how", ["scancel", "scancel all"])
def test_stopped_requeued_and_finished_equals_srun_to_the_bit(
    cluster: Cluster, whole: Path, place: Path, how: str
) -> None:
    name = f"torchrun-{how.replace(' ', '-')}"
    output = place / f"{name}.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, name), options=TORCHRUN)
    cluster.wait_for_line("distill 2/200", output)
    (node,) = cluster.nodes_of(job)
    assert len(cluster.processes(node, "torch.distributed.run")) >= 1
    cluster.call("scancel", *(["-f"] if how == "scancel all" else []), "-s", "USR1", job)
    text = cluster.wait_for(job, "COMPLETED", output)
    assert (
        "2 ranks" in text
        and "as requested; run the same command again to continue" in text
        and f"requeued as {job} (restart 1" in text
    )
    assert_same(place / name, whole)


def test_a_wrong_key_ends_a_job_for_good(cluster: Cluster, place: Path) -> None:
    output = place / "torchrun-wrong.out"
    job = cluster.submit(
        output, "distill.sbatch", *distill(place, "torchrun-wrong"), "--distill.stpes=3", options=TORCHRUN
    )
    text = cluster.wait_for(job, "FAILED", output)
    assert "did you mean 'distill.steps'?" in text and "not requeued" in text
    assert "ExitCode=2:0" in cluster.call("scontrol", "show", "job", job)


def test_a_killed_rank_ends_the_job_by_name(cluster: Cluster, place: Path) -> None:
    output = place / "torchrun-killed.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "torchrun-killed"), options=TORCHRUN)
    cluster.wait_for_line("distill 2/200", output)
    (node,) = cluster.nodes_of(job)
    ranks = [pid for pid, line in cluster.processes(node, "train.py") if "torch.distributed.run" not in line]
    assert len(ranks) == 2
    cluster.kill(node, max(ranks))
    text = cluster.wait_for(job, "FAILED", output)
    assert (
        f"host      : {node}" in text
        and "rank      : 1" in text
        and "SIGKILL" in text.upper()
        and "not requeued" in text
    )


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, place: Path) -> None:
    output = place / "torchrun-cancelled.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "torchrun-cancelled"), options=TORCHRUN)
    cluster.wait_for_line("distill 2/200", output)
    cluster.call("scancel", job)
    cluster.until(lambda: not cluster.call("squeue", "-h").strip(), "it is still there", output)
    assert cluster.state(job) == "CANCELLED" and cluster.shown(job, "Restarts") == "0"
