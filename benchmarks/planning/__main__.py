"""What ``plan`` predicts beside what is measured: peak memory of a rank, seconds of a step, bytes gathered.

    python -m benchmarks.planning --output benchmarks/results/planning_cpu.json --docs docs/how_to/planning.md
    (root: it makes network namespaces)

The machine is calibrated first, by engine.planning.calibration, through ranks placed as the case's are. Memory is a
rank's VmHWM less that of a process which has imported the same and joined the same group. Two "nodes" are two network
namespaces of this machine, joined by a link whose rate tc limits.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.planning.case import CARDS, LENGTH, Case, predicted
from engine.core import library_versions, machine_info, source_commit
from engine.distributed import DeviceKind

LINK = "planveth"
MARKS = "<!-- planning figures -->", "<!-- end of planning figures -->"

CASES = [
    Case("mid", "zero3", 1, 1),
    Case("mid", "zero3_offload", 1, 1),
    Case("mid", "zero3", 1, 2),
    Case("mid", "zero3_offload", 1, 2),
    Case("mid", "zero3", 1, 2, stage="distill"),
    Case("mid", "zero3", 1, 2, recompute=8),
    Case("mid", "replicated", 1, 1),
    Case("large", "replicated", 1, 1),
    Case("large", "zero3", 1, 1),
    Case("large", "zero3", 1, 2),
    Case("large", "zero3_offload", 1, 2),
    Case("large", "zero3", 1, 2, recompute=16),
    Case("large", "zero3", 1, 2, tokens=2048),
    *(Case("mid", "zero3", 2, 1, gbit=g) for g in (0.5, 2, 8)),
]


@dataclass(frozen=True)
class Launch:
    """How a rank's process is started: a prefix of its command and its environment."""

    prefix: tuple[str, ...]
    environment: dict[str, str]


@contextlib.contextmanager
def places(case: Case) -> Iterator[list[Launch]]:
    """Where the ranks of a case run; namespaces and their link last as long as the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(case.world), "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common["MASTER_ADDR"] = "127.0.0.1" if case.nodes == 1 else "10.213.7.1"
    names = [f"plan{n}" for n in range(2)]
    launches = []
    for rank in range(case.world):
        node, local_rank = divmod(rank, case.ranks_per_node)
        own = common | {"RANK": str(rank), "LOCAL_RANK": str(local_rank)}
        if case.nodes == 1:
            launches.append(Launch((), own))
        else:
            own["GLOO_SOCKET_IFNAME"] = f"{LINK}{node}"
            launches.append(Launch(("ip", "netns", "exec", names[node]), own))
    if case.nodes == 1:
        yield launches
        return
    with _link(names, case.gbit):
        yield launches


@contextlib.contextmanager
def _link(names: Sequence[str], gbit: float) -> Iterator[None]:
    def run(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True)

    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run(
            "ip",
            "link",
            "add",
            f"{LINK}0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            f"{LINK}1",
            "netns",
            names[1],
        )
        for n, name in enumerate(names):
            run("ip", "-n", name, "addr", "add", f"10.213.7.{n + 1}/24", "dev", f"{LINK}{n}")
            run("ip", "-n", name, "link", "set", f"{LINK}{n}", "up")
            run(
                "tc",
                "-n",
                name,
                "qdisc",
                "add",
                "dev",
                f"{LINK}{n}",
                "root",
                "tbf",
                "rate",
                f"{gbit * 1000:.0f}mbit",
                "burst",
                "1mb",
                "latency",
                "50ms",
            )
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def launched(case: Case, what: str, steps: int, folder: Path) -> dict[str, Any]:
    """Run workers of a case to their end; what rank 0 wrote.

    Raises:
        RuntimeError: one failed; with its last lines.
    """
    out = folder / f"{what}.json"
    out.unlink(missing_ok=True)
    with places(case) as ranks:
        command = [
            sys.executable,
            "-m",
            "benchmarks.planning.case",
            what,
            json.dumps(asdict(case)),
            str(steps),
            str(out),
        ]
        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context((folder / f"{what}{r}.log").open("w")) for r in range(len(ranks))]
            workers = []
            for p, log in zip(ranks, logs, strict=True):
                environment = {**os.environ, **p.environment}
                workers.append(subprocess.Popen([*p.prefix, *command], env=environment, stdout=log, stderr=log))
            codes = [w.wait() for w in workers]
    if any(codes):
        failed = codes.index(next(filter(None, codes)))
        raise RuntimeError(
            f"{case.name}: {what} ended with {codes}: {(folder / f'{what}{failed}.log').read_text()[-1000:]}"
        )
    return json.loads(out.read_text())  # type: ignore[no-any-return]


def measured(case: Case, steps: int, folder: Path, earlier: dict[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    """Measurements of a case, and the calibration of its place.

    Args:
        earlier: what was measured of the same place before: calibrations, processes that do nothing.
    """
    place = (case.shape, case.tokens, case.nodes, case.ranks_per_node, case.gbit)
    if place not in earlier:
        earlier[place] = launched(case, what="calibrate", steps=steps, folder=folder)
    if place[2:] not in earlier:
        earlier[place[2:]] = launched(case, what="empty", steps=steps, folder=folder)
    found = launched(case, what="steps", steps=steps, folder=folder)
    return {
        "name": case.name,
        "case": asdict(case),
        "kind": earlier[place]["kind"],
        "seconds": found["seconds"],
        "bytes": found["bytes"],
        "memory": max(found["peaks"]) - max(earlier[place[2:]]["peaks"]),
    }


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """Measurements with what the plan says."""
    wanted = predicted(Case(**found["case"]), DeviceKind(**found["kind"]))
    median = statistics.median(found["seconds"])
    return {
        **found,
        "predicted": wanted,
        "memory_error": wanted["memory"] / found["memory"] - 1,
        "seconds_error": wanted["seconds"] / median - 1,
        "spread": (max(found["seconds"]) - min(found["seconds"])) / median,
        "bytes_equal": wanted["bytes"] == found["bytes"],
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    rows = [
        "| case | peak memory of a rank: predicted, measured | error | a step: predicted, measured | error | spread"
        " | bytes received a step: predicted, measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        p = r["predicted"]
        rows.append(
            f"| {r['name']} | {p['memory'] / 1e9:.2f}, {r['memory'] / 1e9:.2f} GB | {r['memory_error']:+.0%}"
            f" | {p['seconds']:.2f}, {statistics.median(r['seconds']):.2f} s | {r['seconds_error']:+.0%} | "
            f"{r['spread']:.0%}"
            f" | {sum(p['bytes']):,}, {sum(r['bytes']):,} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--only",
        default="",
        help=f"cases whose name contains one of these words, separated by ;. Shapes are {', '.join(CARDS)}, L = "
        f"{LENGTH}",
    )
    parser.add_argument("--steps", type=int, default=5, help="measured, after one that is not")
    parser.add_argument("--output", type=Path, help="JSON; cases of an earlier call are kept, the same ones replaced")
    parser.add_argument("--docs", type=Path, help="Markdown file with a place for the table")
    parser.add_argument(
        "--again",
        action="store_true",
        help="measure nothing: predict anew for the measurements and calibrations in --output",
    )
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # namespaces are taken down on the way out
    if a.again:
        for earlier in json.loads(a.output.read_text()):
            _keep(a.output, compared(earlier))
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    for case in CASES if not a.again else ():
        if any(words in case.name for words in a.only.split(";")):
            with tempfile.TemporaryDirectory() as folder:
                result = compared(measured(case, a.steps, folder=Path(folder), earlier=known)) | {
                    "machine": machine_info(),
                    "versions": library_versions(),
                    "commit": source_commit(),
                }
            print(table([result]).splitlines()[-1], flush=True)
            if a.output:
                _keep(a.output, result)
    if a.docs and a.output:
        before, _, rest = a.docs.read_text().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        a.docs.write_text(f"{before}{MARKS[0]}\n{table(json.loads(a.output.read_text()))}\n{MARKS[1]}{after}")


def _keep(file: Path, result: dict[str, Any]) -> None:
    earlier = json.loads(file.read_text()) if file.exists() else []
    kept = {r["name"]: r for r in earlier} | {result["name"]: result}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([kept[c.name] for c in CASES if c.name in kept], indent=1) + "\n")


if __name__ == "__main__":
    main()
