"""Does a pocket backbone follow its written instructions? Scores all 31 of them on test notes and keeps the table
beside the weights.

    python -m tools.pocket_backbones.gate --backbone backbones/pocket/llama.yaml --data runs/pocket/data --output
    backbones/pocket/llama/instructions.json

A soft prompt can only elicit what the backbone can do: below the gate no prompt result means anything. Exit code 1
below it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engine.core import protect

MASTERED, SOURCES_NEEDED, TARGETS_NEEDED = 0.8, 18, 8


def score_instructions(backbone: str, data_root: Path, max_test: int) -> dict[str, float]:
    """Task -> its metric under its written instruction, on at most ``max_test`` test examples; one process, no
    DeepSpeed.
    """
    import clinical_tasks
    from clinical_tasks.pocket import TASKS
    from engine.config import RunConfig
    from engine.evaluation import Predictor
    from engine.training import BackboneHolder

    config = RunConfig(run_dir=str(data_root / "gate"), backbone=backbone, sharding="replicated")
    config.data.root, config.data.cards, config.data.cache = (
        str(data_root),
        [str(data_root / "cards")],
        str(data_root / "tokens"),
    )
    config.data.max_test, config.data.max_length, config.prompt.num_virtual_tokens = max_test, 256, 0
    config.evaluate.batch_size, config.evaluate.max_new_tokens = 32, 96
    holder = BackboneHolder.of(config)
    data = holder.context.data({task: ["test"] for task in TASKS})
    predictor = Predictor(holder, None)
    scores = {}
    for task, found in data.items():
        answers = predictor.answers(found, 0)
        scores[task] = clinical_tasks.score(found.card, found.splits["test"].examples(), answers)[found.card.metric]
        holder.context.print_rank0(f"{task} {found.card.metric} {scores[task]:.3f}")
    return scores


def verdict(scores: dict[str, float]) -> dict[str, Any]:
    """How many instructions are mastered, and whether that is enough."""
    from clinical_tasks.pocket import SOURCES, TARGETS

    sources = sum(scores[task] >= MASTERED for task in SOURCES)
    targets = sum(scores[task] >= MASTERED for task in TARGETS)
    passed = sources >= SOURCES_NEEDED and targets >= TARGETS_NEEDED
    return {"sources": sources, "targets": targets, "passed": passed}


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="backbone card")
    parser.add_argument("--data", type=Path, required=True, help="pocket corpus (python -m clinical_tasks.pocket)")
    parser.add_argument("--output", type=Path, help="where to keep the scores as JSON")
    parser.add_argument("--max_test", type=int, default=0, help="test examples a task; 0 is all")
    a = parser.parse_args()
    scores = score_instructions(a.backbone, a.data, a.max_test)
    found = verdict(scores)
    if a.output:
        a.output.write_text(json.dumps({**found, "scores": scores}, indent=1) + "\n")
    print(
        f"mastered (>= {MASTERED}): {found['sources']} of 21 sources (needed {SOURCES_NEEDED}), "
        f"{found['targets']} of 10 targets (needed {TARGETS_NEEDED})"
    )
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
