"""What a checkpoint costs: seconds on the step's path, processor seconds of the thread that writes it, bytes on disk.

    python -m benchmarks.checkpoint --output benchmarks/results/checkpoint_cpu.json

Shares are of 100 steps, the default interval. A step is measured where this machine can run one (the pocket shape, 32
short samples); for a bank of an 8B backbone the shortest step is given at which the share stays below 1 %.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.timing import alternate, run
from benchmarks.common.workload import SHAPES, WEIGHTS, Workload
from engine.checkpoints import Checkpoint, Saver, save
from engine.config import CheckpointConfig
from engine.training import ForwardBackward
from prompt_modules import DecomposedBank, RowGroup, RowwiseAdamW

# tasks or rows, prompt length, width, and whether the metaprompt is trained (distill) or frozen (adapt)
SIZES = {
    "pocket, 21 sources": (21, 16, 192, True),
    "8B, 21 sources": (21, 100, 4096, True),
    "8B, 240 adapted rows": (240, 100, 4096, False),
}


def checkpoint_of(rows: int, length: int, width: int, shared: bool, device: torch.device) -> tuple[Checkpoint, int]:
    """As the loop makes it in the middle of a run, and the bytes of the trained numbers."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    bank = DecomposedBank(
        draw(1, length, width), cols_KLR=draw(rows, length, 1), rows_KRD=draw(rows, 1, width), train_shared=shared
    ).to(device)
    parts = {}
    if shared:
        parts["shared"] = {"shared_SLD": bank.shared_SLD}
    parts["task"] = {"cols_KLR": bank.cols_KLR, "rows_KRD": bank.rows_KRD}
    optimizer = RowwiseAdamW({n: RowGroup(p, 0.1, 100, 0, "constant", 1.0) for n, p in parts.items()})
    trained = {n: p for n, p in bank.named_parameters() if p.requires_grad}
    best = {f"best.{n}": p.detach().clone() for n, p in bank.named_parameters()}
    reused: dict[str, dict[str, torch.Tensor]] = {}
    if not shared:  # a distillation is not validated
        reused = {"best": best, "frozen": {"shared_SLD": bank.shared_SLD.detach()}}
    state = {
        "rows": [{"task": f"task {k}", "method": "metaprompt", "shots": "full", "seed": 0} for k in range(rows)],
        "progress": list(range(4 * rows)),
    }
    return Checkpoint(dict(trained), optimizer.state_dict(), state, reused), sum(
        4 * p.numel() for p in trained.values()
    )


def measure(name: str, device: torch.device, repeats: int) -> dict[str, Any]:
    content, trained = checkpoint_of(*SIZES[name], device)
    with tempfile.TemporaryDirectory() as folder:
        run_dir, steps, on_path, processor = Path(folder), iter(range(1, 10**6)), [], []
        saver = Saver(run_dir, CheckpointConfig.keep)

        def on_the_path() -> None:
            saver.wait()  # with 100 steps between two, nothing is left to wait for
            begin = time.perf_counter()
            saver.start(next(steps), content)
            on_path.append(time.perf_counter() - begin)

        def whole() -> None:
            begin = time.process_time()
            save(run_dir, next(steps), content, CheckpointConfig.keep)
            processor.append(time.process_time() - begin)

        for _ in range(repeats):
            on_the_path()
        saver.wait()
        seconds = {
            "on the step's path": sorted(on_path)[repeats // 2],
            **alternate({"written": whole}, repeats, torch.device("cpu")),
        }
        size = _bytes_of((run_dir / "latest").resolve())
        beside = _bytes_of(run_dir / "checkpoints/reused") if content.reused else 0
    seconds["processor"] = sorted(processor)[len(processor) // 2]
    out: dict[str, Any] = {
        "size": name,
        "seconds": seconds,
        "trained_bytes": trained,
        "bytes": size,
        "bytes_kept_beside": beside,
    }
    print(
        f"{name}: {size:,} bytes, {(size - 65536) / trained:.2f} x the trained {trained:,} above 64 KiB; "
        f"{beside:,} beside"
    )
    cost = seconds["on the step's path"] + seconds["processor"]
    if name.startswith("pocket"):
        step = _step(device, repeats)
        out |= {"step_seconds": step, "share_of_100_steps": cost / (100 * step)}
        print(
            f"{name}: a step {step:.3f} s; saving takes {cost / step:.2%} of one step's time every 100 steps, "
            f"{cost / (100 * step):.4%}"
        )
    else:
        out["shortest_step_below_1_percent"] = cost
        print(f"{name}: below 1 % where a step takes {cost * 1e3:.0f} ms or more")
    return out


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _step(device: torch.device, repeats: int) -> float:
    work = Workload(SHAPES["pocket"], "short", device)
    student, forward_backward = work.student("distill"), ForwardBackward(work.backbone, True, 4096, 0, 1)

    def step() -> None:
        for group in forward_backward.micro_batches(work.samples, student):
            forward_backward.train(group, bank=student, weights=WEIGHTS, teachers=work.teachers, cached=None)

    return alternate({"step": step}, repeats, device)["step"]


if __name__ == "__main__":
    run(__doc__, measure, {"cuda": SIZES, "cpu": SIZES}, 9)
