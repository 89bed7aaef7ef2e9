"""The whole job on a real SLURM: checked before anything is submitted, each part after the one before it,
adaptation as an array.
"""

import re
import sys
from pathlib import Path

import pytest
from slurm_lab import NODES, ROOT, SMALL, Cluster, assert_same

pytestmark = pytest.mark.long
ALONE = ["--nodes=1", "--ntasks-per-node=1", *NODES[2:]]


def test_the_pipeline_submits_nothing_when_a_configuration_is_wrong(cluster: Cluster, place: Path) -> None:
    text = cluster.call(
        "launch_scripts/pipeline.sh",
        "configs/demo/distill.yaml",
        "configs/demo/adapt.yaml",
        "--distill.stpes=3",
        expect=2,
    )
    assert "did you mean 'distill.steps'?" in text and "job" not in text
    more = ["--data.max_train=12", f"--data.cache={place / 'cache'}", f"--run_dir={place / 'none'}"]
    text = cluster.call(
        "launch_scripts/pipeline.sh", "configs/demo/distill.yaml", "configs/demo/adapt.yaml", *more, expect=2
    )
    assert "adapt.shots: 16: task demo_relations has 12 usable training examples" in text and ": job" not in text
    both = [
        "configs/demo/distill.yaml",
        "configs/demo/adapt.yaml",
        f"--data.cache={place / 'cache'}",
        f"--run_dir={place / 'none'}",
    ]
    text = cluster.call("launch_scripts/pipeline.sh", *both, ADAPT_ARRAY="demo_relations demo_relation", expect=2)
    assert "did you mean 'demo_relations'?" in text and ": job" not in text
    assert cluster.call("squeue", "-h").strip() == ""


def test_the_whole_pipeline(cluster: Cluster, place: Path) -> None:
    args = [
        f"--data.cache={place / 'cache'}",
        *[a for a in SMALL if not a.startswith("--distill.steps")],
        "--distill.steps=4",
    ]
    adapt = ["--adapt.steps=2", "--adapt.shots=4,full"]
    base = place / "pipeline"
    base.mkdir()
    for mode in ("distill", "adapt"):
        text = (ROOT / f"configs/demo/{mode}.yaml").read_text()
        (base / f"{mode}.yaml").write_text(text.replace("runs/demo", str(base)))
    options = " ".join([*NODES, f"--output={base}/%x.out"])
    text = cluster.call(
        "launch_scripts/pipeline.sh",
        str(base / "distill.yaml"),
        str(base / "adapt.yaml"),
        *args,
        *adapt,
        SBATCH_OPTIONS=options,
    )
    jobs = dict(re.findall(r"(\w+): job (\d+)", text))
    assert list(jobs) == ["distill", "adapt", "evaluate", "report"]
    for part, job in jobs.items():
        cluster.wait_for(job, "COMPLETED", base / f"{part}.out")
    table = (base / "distill/report.md").read_text()
    assert "demo_relations" in table and (base / "adapt/results.json").exists()
    # once more, adapting as an array: the distillation is done at once
    again = cluster.call(
        "launch_scripts/pipeline.sh",
        str(base / "distill.yaml"),
        str(base / "adapt.yaml"),
        *args,
        *adapt,
        SBATCH_OPTIONS=options,
        ADAPT_ARRAY="demo_relations demo_qa,demo_entities",
    )
    jobs = dict(re.findall(r"(\w+): job (\d+)", again))
    for part, job in jobs.items():
        cluster.wait_for(job, "COMPLETED", base / f"{part}.out")
    assert "COMPLETED" in (base / "distill.out").read_text()
    for group in ("demo_relations", "demo_qa+demo_entities"):
        results = (base / f"adapt-{group}/results.json").read_text()
        assert all(task in results for task in group.split("+"))


def test_array_elements_adapt_each_its_group_and_one_that_was_stopped_loses_nothing(
    cluster: Cluster, whole: Path, place: Path
) -> None:
    flags = [
        "configs/demo/adapt.yaml",
        f"--adapt.source_run={whole}",
        f"--data.cache={place / 'cache'}",
        "--adapt.steps=60",
        "--adapt.shots=4,full",
        "--adapt.eval_interval=0",
        "--checkpoint.interval=25",
        *[f for f in SMALL if f.startswith(("--data", "--log"))],
    ]
    options = ["--array=0-1", *ALONE]
    groups = {"TARGETS": "demo_relations demo_qa,demo_entities", "RUN_DIR": str(place / "array")}
    outputs = [place / f"array-{i}.out" for i in (0, 1)]
    job = cluster.submit(place / "array-%a.out", "adapt.sbatch", *flags, options=options, **groups)
    cluster.wait_for_line("adapt 2/60", outputs[1])
    cluster.call("scancel", "-s", "USR1", f"{job}_1")
    cluster.until(lambda: not cluster.call("squeue", "-h").strip(), "elements do not end", outputs[1])
    texts = [output.read_text() for output in outputs]
    assert all(text.rstrip().endswith("done") for text in texts), texts[1][-2000:]
    assert "requeued" not in texts[0] and f"requeued as {job}_1 (restart 1" in texts[1]
    config, *more = flags
    undisturbed = place / "array-undisturbed"
    cluster.call(
        sys.executable,
        "train.py",
        "adapt",
        f"--config={config}",
        *more,
        "--adapt.targets=demo_qa,demo_entities",
        f"--run_dir={undisturbed}",
    )
    assert_same(place / "array-demo_qa+demo_entities", undisturbed)
    assert (place / "array-demo_relations/COMPLETED").exists()
