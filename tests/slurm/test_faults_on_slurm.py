"""What befalls a job on a cluster: a node loses power, a cable is cut while the job goes on elsewhere, a rank is
killed, time runs out.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from slurm_lab import LONGER, NODES, ONE_NODE, Cluster, assert_same, distill

pytestmark = pytest.mark.long


def test_a_node_without_power_is_replaced_and_the_outcome_is_the_same_to_the_bit(
    cluster: Cluster, whole: Path, place: Path
) -> None:
    output = place / "power.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "power"))
    cluster.wait_for_line("distill 60/200", output)
    lost = cluster.nodes_of(job)[1]
    cluster.power_off(lost)
    try:
        text = cluster.wait_for(job, "COMPLETED", output)
        assert cluster.shown(job, "Restarts") == "1" and lost not in cluster.nodes_of(job)
        assert "distill: resumed at step" in text
        assert_same(place / "power", whole)
    finally:
        cluster.power_on(lost)


def owner(run: Path) -> dict[str, Any]:
    return json.loads((run / "owner.json").read_text())


def test_a_job_cut_off_alive_does_not_hurt_its_successor(cluster: Cluster, longer: Path, place: Path) -> None:
    output, run = place / "cable.out", place / "cable"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "cable", LONGER), options=ONE_NODE)
    cluster.wait_for_line("distill 60/400", output)
    (node,) = cluster.nodes_of(job)
    before, ranks = owner(run), [pid for pid, _ in cluster.processes(node, "train.py")]
    assert len(ranks) == 2
    cluster.cable(node, "down")
    try:
        # it trains and saves behind the cut; before it is done it pauses, so that the two surely meet
        cluster.until(lambda: owner(run) != before or "distill 300/" in output.read_text(), "it stands still", output)
        paused = ranks if owner(run) == before else []
        for pid in paused:
            cluster.kill(node, pid, "STOP")
        cluster.until(lambda: owner(run) != before, "nobody took over", output)
        cluster.wait_for_line("distill: resumed at step", output)
        for pid in paused:
            cluster.kill(node, pid, "CONT")
        cluster.wait_for_line(
            "opened by another job since", output
        )  # the old job says so while its node is still cut off
    finally:
        cluster.cable(node, "up")
    cluster.wait_for(job, "COMPLETED", output)
    assert (
        cluster.shown(job, "Restarts") == owner(run)["restart"] == "1"
    )  # the old srun, back on the network, has not ended the new ranks' step
    assert_same(run, longer)
    cluster.ready(node)


def test_a_killed_rank_ends_the_job_at_once_by_name_and_the_pipeline_behind_it(cluster: Cluster, place: Path) -> None:
    base = place / "killed"
    base.mkdir()
    options = " ".join([*NODES, f"--output={base}/%x.out"])
    configs = []
    for mode in ("distill", "adapt"):
        configs.append(base / f"{mode}.yaml")
        configs[-1].write_text(Path(f"configs/demo/{mode}.yaml").read_text().replace("runs/demo", str(base)))
    flags = [f for f in distill(place, "")[3:] if not f.startswith("--data.max")]
    text = cluster.call(
        "launch_scripts/pipeline.sh",
        *map(str, configs),
        *flags,
        f"--data.cache={place / 'cache'}",
        SBATCH_OPTIONS=options,
    )
    jobs = dict(line.split(": job ") for line in text.splitlines() if ": job " in line)
    jobs = {name: job.split(",")[0] for name, job in jobs.items()}
    assert list(jobs) == ["distill", "adapt", "evaluate", "report"]
    output = base / "distill.out"
    cluster.wait_for_line("distill 2/200", output)
    node = cluster.nodes_of(jobs["distill"])[1]
    ((pid, _),) = cluster.processes(node, "train.py")
    cluster.kill(node, pid)
    text = cluster.wait_for(jobs["distill"], "FAILED", output)
    assert "waited for: " not in text  # SLURM ends the other rank, before its watchdog does
    assert (
        f"{node}: task 1: Killed" in text and "not requeued; submit it again to go on from the last checkpoint" in text
    )
    cluster.until(lambda: cluster.call("squeue", "-h").strip() == "", "the parts that waited for it are still there")
    assert [cluster.state(jobs[name]) for name in ("adapt", "evaluate", "report")] == ["CANCELLED"] * 3


def test_a_pipeline_ends_when_a_part_of_it_is_cancelled(cluster: Cluster, place: Path) -> None:
    """SLURM looks at dependencies when it schedules: what waited disappears within a cycle, all the way down."""
    options = ["--dependency=afterok:{}", "--kill-on-invalid-dep=yes", *NODES]
    jobs: list[str] = []
    for part in range(4):
        given = [o.format(jobs[-1]) for o in options] if jobs else NODES
        jobs.append(
            cluster.submit(place / f"part{part}.out", "distill.sbatch", *distill(place, "cancelled"), options=given)
        )
    cluster.wait_for(jobs[0], "RUNNING")
    cluster.call("scancel", jobs[0])
    cluster.until(lambda: cluster.call("squeue", "-h").strip() == "", "parts of it are left")
    assert [cluster.state(job) for job in jobs] == ["CANCELLED"] * 4
    assert cluster.shown(jobs[0], "Restarts") == "0"


def test_a_job_out_of_time_saves_is_requeued_and_equals_one_with_time_enough(
    cluster: Cluster, longer: Path, place: Path
) -> None:
    output = place / "time.out"
    took = (longer / "COMPLETED").stat().st_mtime - (longer / "begun").stat().st_mtime
    minutes = int(took // 60) + 1
    # SLURM looks every half minute, and ahead: the signal comes up to 30 s before it was asked for
    options = [
        *[o for o in ONE_NODE if not o.startswith("--time")],
        f"--time={minutes}",
        f"--signal=USR1@{int(60 * minutes - 0.8 * took)}",
    ]
    job = cluster.submit(output, "distill.sbatch", *distill(place, "time", LONGER), options=options)
    text = cluster.wait_for(job, "COMPLETED", output)
    assert "as requested; run the same command again to continue" in text and f"requeued as {job} (restart 1" in text
    assert int(cluster.shown(job, "Restarts")) >= 1
    assert_same(place / "time", longer)
