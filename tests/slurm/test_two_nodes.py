"""The job scripts on a real SLURM: trained across two nodes, stopped and requeued, refused before submission; adapted as an array."""

import json
import re
from pathlib import Path

import pytest
from slurm_lab import BIN, LONG, NODES, ROOT, SMALL, Cluster, assert_same, distill


@LONG
def test_two_nodes_learn_what_two_local_ranks_learn(cluster: Cluster, whole: Path, place: Path) -> None:
    config, *flags = distill(place, "local")
    cluster.call(str(BIN / "torchrun"), "--nproc_per_node", "2", "--", "train.py", "distill", f"--config={config}", *flags)
    for run in ("metrics.jsonl", "teachers/metrics.jsonl"):
        ours, theirs = ([json.loads(line) for line in (p / run).read_text().splitlines()] for p in (whole, place / "local"))
        assert [(x["step"], x["loss"], x["grad_norm"]) for x in ours] == [(x["step"], x["loss"], x["grad_norm"]) for x in theirs]


@pytest.mark.parametrize("how", ["file", pytest.param("scancel", marks=LONG)])
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
    assert_same(run, whole)


def test_a_wrong_key_ends_a_job_for_good(cluster: Cluster, place: Path) -> None:
    output = place / "wrong.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, "wrong"), "--distill.stpes=3")
    text = cluster.wait_for(job, "FAILED", output)
    assert "did you mean 'distill.steps'?" in text and "not requeued" in text and text.count("did you mean") == 1
    assert "ExitCode=2:0" in cluster.call("scontrol", "show", "job", job)


@LONG
def test_the_pipeline_submits_nothing_when_a_configuration_is_wrong(cluster: Cluster, place: Path) -> None:
    text = cluster.call("launch_scripts/pipeline.sh", "configs/demo/distill.yaml", "configs/demo/adapt.yaml", "--distill.stpes=3", expect=2)
    assert "did you mean 'distill.steps'?" in text and "job" not in text
    more = ["--data.max_train=12", f"--data.cache={place / 'cache'}", f"--run_dir={place / 'none'}"]
    text = cluster.call("launch_scripts/pipeline.sh", "configs/demo/distill.yaml", "configs/demo/adapt.yaml", *more, expect=2)
    assert "adapt.shots: 16: task demo_relations has 12 usable training examples" in text and ": job" not in text
    assert cluster.call("squeue", "-h").strip() == ""


@LONG
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
