"""What a run tells: one line a logged step, ``metrics.jsonl``, TensorBoard, and a progress bar where someone
watches.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.config import Rate, RunConfig
from engine.core import write_atomic

LOSS_TERMS = ("ce", "kl", "hidden")


class MetricsWriter:
    """Writes on rank 0, is silent on the others. Numbers and task names only, never text.

    Args:
        resume_step: first step that will be logged next; what earlier launches wrote from there on is dropped, in both
            files, so that a resumed run's curves do not double back.
        terms: parts of the loss that the log line of a step shows beside their sum.
    """

    def __init__(
        self,
        run_dir: Path,
        name: str,
        total_steps: int,
        resume_step: int,
        tensorboard: bool,
        active: bool,
        terms: Sequence[str] = LOSS_TERMS,
    ):
        self._shown = ("loss", *terms, "grad_norm", "tokens_per_s")
        self.name, self.total, self.active = name, total_steps, active
        self._started, self._first = time.monotonic(), resume_step
        self._bar = active and sys.stderr.isatty()
        self._writer: Any = None
        if not active:
            return
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = run_dir / "metrics.jsonl"
        kept = [line for line in _lines(self._file) if json.loads(line)["step"] < resume_step]
        write_atomic(self._file, "".join(line + "\n" for line in kept))  # all that earlier launches told
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step)

    def step(self, step: int, values: dict[str, Any]) -> None:
        """Record one logged step (1-based): a flat mapping, one level of nesting for per-task numbers."""
        if not self.active:
            return
        try:
            with self._file.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}; the last checkpoint is intact; start again once it can be written",
                str(self._file),
            ) from None
        if self._writer is not None:
            self._write_curves(step, values)
        shown = []
        for key in self._shown:
            if isinstance(values.get(key), int | float):
                shown.append(f"{key} {values[key]:.4g}")
        self.print_rank0(
            f"{self.name} {step}/{self.total} | {' | '.join(shown)} | lr {values.get('lr', 0):.3g} "
            f"| left {self._left(step)}"
        )

    def _write_curves(self, step: int, values: dict[str, Any]) -> None:
        """Every number for TensorBoard: those of the whole bank under ``train``, the others under their own names."""
        for key, value in values.items():
            by_name = {f"train/{key}": value}
            if isinstance(value, dict):
                by_name = {f"{key}/{name}": number for name, number in value.items()}
            for name, number in by_name.items():
                if isinstance(number, int | float):
                    self._writer.add_scalar(name, number, step)

    def print_rank0(self, text: str) -> None:
        if self.active:
            if self._bar:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            print(text, flush=True)

    def tick(self, step: int) -> None:
        """Every step: the bar, on a terminal only."""
        if self._bar:
            done = int(30 * step / self.total)
            print(
                f"\r{self.name} [{'#' * done}{'.' * (30 - done)}] {step}/{self.total}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._bar:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _left(self, step: int) -> str:
        done = step - self._first + 1
        seconds = (time.monotonic() - self._started) / max(done, 1) * (self.total - step)
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"


HPARAMS = (
    "prompt",
    "teach",
    "distill",
    "adapt",
    "lr_sweep",
)  # sections of settings; seed and max_tokens_per_micro_batch beside them


def write_hparams(
    run_dir: Path, config: RunConfig, average: Mapping[str, Mapping[str, float]], tuning: Mapping[str, Any]
) -> None:
    """TensorBoard's table of settings against scores: ``tensorboard/hparams``, written anew.

    Args:
        average: method -> shots -> mean over the run's tasks; ``average/METHOD/SHOTS`` in TensorBoard. Nothing is
            written where it is empty.
        tuning: of results.json; the rates that were chosen are settings too, ``chosen.METHOD.SHOTS``.
    """
    scores = {}
    for method, by_shots in average.items():
        for shots, value in by_shots.items():
            scores[f"average/{method}/{shots}"] = value
    if not scores:
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    settings = _settings(config, tuning)
    folder = run_dir / "tensorboard" / "hparams"
    shutil.rmtree(folder, ignore_errors=True)  # else every evaluation would add a row
    with SummaryWriter(str(folder)) as writer:
        for summary in hparams(settings, scores):
            writer.file_writer.add_summary(summary)
        for name, value in scores.items():
            writer.add_scalar(name, value)


# of the machine, or words that may be of a note
_PATHS = ("source_run", "multitask_run", "run", "adapters", "init_text")


def _settings(config: RunConfig, tuning: Mapping[str, Any]) -> dict[str, int | float | str | bool]:
    """The configuration's settings and the rates that a sweep chose, by name."""
    settings: dict[str, int | float | str | bool] = {
        "seed": config.seed,
        "max_tokens_per_micro_batch": config.max_tokens_per_micro_batch,
    }
    for section in HPARAMS:
        for key, value in asdict(getattr(config, section)).items():
            name = f"{section}.{key}"
            if isinstance(value, int | float | bool):
                settings[name] = value
            elif key not in _PATHS and isinstance(value, list):
                settings[name] = ", ".join(map(str, value))
            elif key not in _PATHS:
                settings[name] = str(value)
    for method, by_shots in tuning.items():
        for shots, cell in by_shots.items():
            rate = Rate.of(cell["rates"][cell["best"]])
            settings[f"chosen.{method}.{shots}"] = rate.own
            if rate.shared is not None:
                settings[f"chosen.{method}.{shots}.shared"] = rate.shared
    return settings


def _lines(path: Path) -> list[str]:
    """Whole JSON lines; a line torn by a kill is dropped."""
    if not path.exists():
        return []
    out = []
    for line in path.read_text().split("\n"):
        try:
            json.loads(line)
        except json.JSONDecodeError:
            continue
        out.append(line)
    return out
