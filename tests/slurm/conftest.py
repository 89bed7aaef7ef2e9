"""One cluster for all tests of this folder, and runs that nobody disturbed to compare with. Nothing may be left
behind by any test.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_lab import LONGER, NODES, ONE_NODE, Cluster, distill, start


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    found = start()
    yield found
    found.down()
    shutil.rmtree(found.lab, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" not in request.fixturenames:
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    left = cluster.call("squeue", "-h").strip()
    if left:
        cluster.call("scancel", "-u", "root")
        cluster.until(lambda: not cluster.call("squeue", "-h").strip(), "jobs cannot be cancelled")
    cluster.until(
        lambda: not any(cluster.processes(node, "train.py") for node in cluster.nodes),
        "processes are left on the nodes",
    )
    assert not left, left


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")


def undisturbed(cluster: Cluster, place: Path, name: str, options: list[str], *more: str) -> Path:
    output = place / f"{name}.out"
    job = cluster.submit(output, "distill.sbatch", *distill(place, name, *more), options=options)
    text = cluster.wait_for(job, "COMPLETED", output)
    assert "2 ranks" in text and "backbone unchanged, to the bit" in text and text.rstrip().endswith("done")
    return place / name


@pytest.fixture(scope="session")
def whole(cluster: Cluster, place: Path) -> Path:
    """Over two nodes."""
    return undisturbed(cluster, place, "whole", NODES)


@pytest.fixture(scope="session")
def longer(cluster: Cluster, place: Path) -> Path:
    """On one node, and LONGER. ``begun`` in it: when its job was."""
    begun = time.time()
    run = undisturbed(cluster, place, "longer", ONE_NODE, LONGER)
    (run / "begun").touch()
    os.utime(run / "begun", (begun, begun))
    return run
