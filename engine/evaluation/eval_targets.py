"""What can be scored of a run: its rows, a distillation's teachers, and what needs no training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import checkpoints
from engine.checkpoints import Checkpoint
from engine.config import UNTRAINED
from engine.core import UserError
from engine.data import Split
from engine.training import BackboneHolder, train_indices
from prompt_modules import JoinedBank


@dataclass(frozen=True)
class ScoredRow:
    """A row of a bank, or (``bank`` None) an untrained backbone. ``checkpoint``: what identifies the bank's numbers."""

    labels: dict[str, Any]
    bank: JoinedBank | None = None
    number: int = 0
    best_step: int = 0
    checkpoint: str = ""

    @property
    def name(self) -> str:
        return "{task}.{method}.{shots}.{seed}".format(**self.labels)


def rows_of_run(holder: BackboneHolder) -> tuple[list[ScoredRow], JoinedBank, Checkpoint]:
    """Every row of a finished run, its bank and its checkpoint.

    Raises:
        UserError: the run is not finished, or belongs to another backbone.
    """
    run_dir, config = holder.context.run_dir, holder.context.config
    bank, found = checkpoints.load_bank(run_dir, "run")
    rows = _of_bank(bank, found)
    adapted = found.state["stage"] == "adapt"
    # teachers of teach.run are scored in that run, and there may be none here
    if not adapted and (run_dir / "teachers").exists():
        rows += _of_bank(*checkpoints.load_bank(run_dir / "teachers", "teachers"))
    untrained = set(config.adapt.methods).intersection(UNTRAINED) if adapted else set()
    names = list(dict.fromkeys(row.labels["task"] for row in rows))
    if config.evaluate.instruction or "instruction" in untrained:
        rows += [_untrained(task, "instruction") for task in names]
    if "in_context" in untrained:
        for task in names:
            for shots in config.adapt.shots:
                if shots not in ("0", "full"):
                    rows += [_untrained(task, "in_context", shots, seed) for seed in config.adapt.seeds]
    _check_backbone(holder, found.state["hashes"], run_dir)
    return rows, bank, found


def shown_examples(train: Split, labels: dict[str, Any], seed: int) -> list[tuple[str, str]]:
    """The solved examples of an in-context row: the few-shot set that a trained row of these labels gets."""
    chosen = train_indices(
        train, labels={}, task=labels["task"], shots=labels["shots"], seed=labels["seed"], run_seed=seed
    )
    examples = map(train.example, chosen)
    return [(example.input_text, example.answer_text) for example in examples]


def _of_bank(bank: JoinedBank, found: Checkpoint) -> list[ScoredRow]:
    best: Sequence[int] = found.state["progress"]["best_step"]
    return [ScoredRow(labels, bank, k, best[k], found.identity) for k, labels in enumerate(found.state["rows"])]


def _untrained(task: str, method: str, shots: str = "0", seed: int = 0) -> ScoredRow:
    return ScoredRow({"task": task, "method": method, "shots": shots, "seed": seed})


def _check_backbone(holder: BackboneHolder, saved: dict[str, Any], run_dir: Path) -> None:
    hashes = {"backbone": holder.context.backbone_hash, "layout": holder.context.layout.fingerprint()}
    differing = [k for k, v in hashes.items() if saved[k] != v]
    if differing:
        raise UserError(
            f"backbone: {holder.context.config.backbone} is not the one that {run_dir} was trained with "
            f"({', '.join(differing)} differ)"
        )
