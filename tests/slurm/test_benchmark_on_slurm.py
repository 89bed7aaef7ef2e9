"""The benchmark job on a real SLURM: one node, then two, in one table."""

import json
from pathlib import Path

import pytest
from slurm_lab import NODES, Cluster


@pytest.mark.long
def test_node_counts_of_one_job_make_one_table(cluster: Cluster, place: Path) -> None:
    output, folder = place / "benchmark.out", place / "bench"
    arguments = [
        "configs/demo/distill.yaml",
        "--mode=teach",
        "--invented=20,4",
        "--teach.batch_size=2",
        f"--run_dir={place / 'unused'}",
    ]
    job = cluster.submit(output, "benchmark.sbatch", *arguments, options=NODES, OUTPUT=str(folder), STEPS="3")
    text = cluster.wait_for(job, "COMPLETED", output)
    one, two = (json.loads((folder / f"nodes-{n}/benchmark.json").read_text()) for n in (1, 2))
    assert (one["world_size"], one["machine"]["nodes"]) == (1, 1) and (two["world_size"], two["machine"]["nodes"]) == (
        2,
        2,
    )
    assert one["gather_bytes_per_step"] == {"intra": 0, "inter": 0}
    assert two["gather_bytes_per_step"]["intra"] == 0 < two["gather_bytes_per_step"]["inter"]
    assert (folder / "scaling.png").is_file() and (folder / "scaling.md").read_text().strip().splitlines()[-1] in text
    assert not (place / "unused").exists()
