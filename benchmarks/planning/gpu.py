"""What ``plan`` predicts of the steps that ``benchmarks.gpu`` measured, side by side in docs/how_to/planning.md.
No GPU is needed.

    python -m benchmarks.planning.gpu --measured benchmarks/results/gpu_*.json --docs docs/how_to/planning.md

Each case is planned with the command that measured it, on the maker's figures of that kind of GPU. Lengths are assumed
as the invented samples' are: 100 tokens, 10 of them answer; and as many samples a task.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.page.section import table
from engine.core import protect
from engine.data import ROWS

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- gpu figures -->", "<!-- end of gpu figures -->"
TAKES = {"--invented", "--steps", "--warmup", "--sweep"}  # a value of their own, and nothing to plan


def planned_flags(command: list[str], changed: str) -> list[str]:
    """Of ``plan``, for one case of a ``train.py benchmark``. changed: the case's label, key=value, where there are
    several.
    """
    kept, skip = [], False
    for word in command[2:]:
        if skip or word in TAKES:
            skip = not skip
            continue
        kept.append(word)
    if "=" in changed:
        kept = [word for word in kept if not word.startswith(f"--{changed.partition('=')[0]}=")] + [f"--{changed}"]
    return kept


def predicted(command: list[str], changed: str, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        assumed = ["--sample_tokens", "100", "--answer_tokens", "10", "--task_examples", str(ROWS)]
        flags = ["--gpu", device, *assumed, "--mode", "distill", "--output", str(out)]
        done = subprocess.run(
            [sys.executable, "train.py", "plan", *planned_flags(command, changed), *flags],
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
        )
        if not out.is_file():  # it is there where the plan says "does not fit" too, exit code 3
            raise subprocess.CalledProcessError(done.returncode, done.args)
        plan = json.loads(out.read_text())
    stage = next(s for s in plan["stages"] if s["stage"] == "distill")
    return {
        "seconds": stage["step_seconds"],
        "bytes": plan["shardings"][plan["chosen"]]["device_bytes"],
        "binding": stage["binding"],
    }


def rows_of(measured: dict[str, Any]) -> list[list[str]]:
    """A row of the table a case, of one card's results."""
    device, rows = measured["device"], []
    for part in measured["parts"]:
        for case in part.get("cases", []):
            p = predicted(part["command"], case["label"], device)
            seconds, held = case["step_seconds"]["median"], case["peak_gpu_bytes"]
            memory = [f"{p['bytes'] / 1e9:.1f}, {held / 1e9:.1f} GB", f"{p['bytes'] / held - 1:+.0%}"]
            step = [f"{p['seconds']:.3f}, {seconds:.3f} s", f"{p['seconds'] / seconds - 1:+.0%}"]
            name = f"{device.upper()}: {part['name']}, {case['sharding']}, teacher {case['teacher']}"
            rows.append([name, *memory, *step, p["binding"]])
    return rows


def main(arguments: list[str] | None = None) -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--measured", type=Path, required=True, nargs="+", help="files of benchmarks.gpu")
    parser.add_argument("--docs", type=Path, default=Path("docs/how_to/planning.md"))
    a = parser.parse_args(arguments)
    before, _, rest = a.docs.read_text().partition(BEGIN)
    if END not in rest:
        parser.error(f"{a.docs}: {BEGIN} and {END} must mark the place of the table")
    rows = []
    for file in a.measured:
        measured = json.loads(file.read_text())
        if measured["machine"]["gpu"] is None:
            parser.error(f"{file}: measured without a GPU")
        rows += rows_of(measured)
    head = [
        "one GPU",
        "peak memory: predicted, measured",
        "error",
        "a step: predicted, measured",
        "error",
        "bound by",
    ]
    lines = table(head, rows)
    a.docs.write_text(before + "\n".join([BEGIN, *lines, END]) + rest.partition(END)[2])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
