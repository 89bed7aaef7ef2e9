"""The job scripts on a real SLURM: trained across two nodes, stopped and requeued, refused for good."""

import json
import os
from pathlib import Path

import pytest
from slurm_lab import BIN, ROOT, Cluster, assert_same, distill


@pytest.mark.long
def test_two_nodes_learn_what_two_local_ranks_learn(cluster: Cluster, whole: Path, place: Path) -> None:
    config, *flags = distill(place, "local")
    cluster.call(
        str(BIN / "torchrun"), "--nproc_per_node", "2", "--", "train.py", "distill", f"--config={config}", *flags
    )
    for run in ("metrics.jsonl", "teachers/metrics.jsonl"):
        ours, theirs = (
            [json.loads(line) for line in (p / run).read_text().splitlines()] for p in (whole, place / "local")
        )
        assert [(x["step"], x["loss"], x["grad_norm"]) for x in ours] == [
            (x["step"], x["loss"], x["grad_norm"]) for x in theirs
        ]


@pytest.mark.long
def test_a_signal_requeues_a_job_that_then_equals_one_undisturbed_to_the_bit(
    cluster: Cluster, whole: Path, place: Path
) -> None:
    output, run = place / "scancel.out", place / "scancel"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "scancel"))
    cluster.wait_for_line("distill 2/200", output)
    cluster.call("scancel", "-s", "USR1", job)
    text = cluster.wait_for(job, "COMPLETED", output)
    assert "as requested; run the same command again to continue" in text
    assert f"requeued as {job} (restart 1" in text and "teachers: reused" in text
    assert text.rstrip().endswith("done")
    assert_same(run, whole)


def test_the_file_stop_ends_a_job_and_submitted_again_it_equals_one_undisturbed_to_the_bit(
    cluster: Cluster, whole: Path, place: Path
) -> None:
    output, run = place / "file.out", place / "file"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "file"))
    cluster.wait_for_line("distill 2/200", output)
    (run / "STOP").touch()
    text = cluster.wait_for(job, "FAILED", output)
    assert "as requested; run the same command again to continue" in text
    assert "stopped by the file STOP: saved, not requeued" in text and cluster.shown(job, "Restarts") == "0"
    assert cluster.shown(job, "ExitCode") == "75:0"
    again = cluster.submit(output, "distill.sbatch", *distill(place, "file"))
    text = cluster.wait_for(again, "COMPLETED", output)
    assert "teachers: reused" in text and text.rstrip().endswith("done")
    assert_same(run, whole)


def test_each_node_has_its_own_copy_of_what_was_compiled_and_compiles_nothing(cluster: Cluster, whole: Path) -> None:
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR", ROOT / ".cache/torch_extensions"))
    (mark,) = cluster.lab.glob(
        "torch_extensions-root/*.whole"
    )  # on the node's own disk, LOCAL_DISK; here all nodes share it
    copies = list(mark.with_suffix("").rglob("*.so"))
    assert copies
    for copy in copies:
        original = built / copy.relative_to(mark.with_suffix(""))
        assert copy.read_bytes() == original.read_bytes() and copy.stat().st_mtime_ns == original.stat().st_mtime_ns


def test_a_wrong_key_ends_a_job_for_good(cluster: Cluster, place: Path) -> None:
    output = place / "wrong.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "wrong"), "--distill.stpes=3")
    text = cluster.wait_for(job, "FAILED", output)
    assert "did you mean 'distill.steps'?" in text and "not requeued" in text and text.count("did you mean") == 1
    assert "ExitCode=2:0" in cluster.call("scontrol", "show", "job", job)
