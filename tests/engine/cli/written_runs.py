"""Run directories and files that the wrong commands name, by their text files alone."""

import json
from pathlib import Path
from typing import Any

from engine.benchmarking.cases import asked_of, request_of
from engine.config.loader import resolve, to_yaml
from engine.config.resume_check import compared


def write_runs(folder: Path) -> None:
    """Run directories by their text files alone, and files that are wrong."""
    folder.mkdir()
    (folder / "file.txt").write_text("a note\n")
    (folder / "ds.json").write_text(json.dumps({"optimizer": {}, "zero_optimization": {"stage": 2}}))
    _write_measurement(folder / "benchmark.json")
    (folder / "study.yaml").write_text("run_dr: x\ndistill: configs/demo/distill.yaml\n")
    (folder / "whole_study.yaml").write_text(
        f"run_dir: {folder}/study\ndistill: {folder}/wrong_data.yaml\nadapt: configs/demo/adapt.yaml\n"
        "distillations: {metaprompt: {}}\nadaptations: {few_shot: {source: metaprompt}}\n"
    )
    (folder / "wrong_data.yaml").write_text(
        f"data:\n  root: {folder}/absent\n  cards: [configs/demo/cards]\nbackbone: configs/tiny/llama.yaml\n"
        "distill: {sources: [demo_qa]}\n"
    )
    (folder / "wrong.yaml").write_text(
        f"run_dir: {folder}/new\nbackbone: gone.yaml\nsedd: 1\ndata:\n  root: {folder}/absent\n"
        "  cards: [configs/demo/cards]\nteach:\n  steps: many\ndistill:\n  sources: [demo_qu]\n"
    )
    distill, adapt = "configs/demo/distill.yaml", "configs/demo/adapt.yaml"
    sources = {"distill.steps": "40", "teach.steps": "40"}
    _write_run(folder / "distilled", distill, "distill", step=40, overrides=sources, completed=True)
    _write_run(folder / "adapted", adapt, "adapt", step=20, overrides={}, completed=True)
    _write_run(folder / "stopped", adapt, "adapt", step=10, overrides={})
    _write_run(folder / "teaching", distill, "teach", step=6, overrides=sources, part="teachers")


def _write_measurement(file: Path) -> None:
    """What ``benchmark`` would have written for the demo's configuration, as far as it is compared."""
    request = request_of("configs/demo/distill.yaml", {"steps": "1"}, {})
    identity = asked_of(request, request.cases[0], "tiny-llama-random")
    case = {"label": "", "identity": identity, "steps": {"seconds": [1.0], "probe": [1.0]}}
    content = {"cases": [case], "world_size": 1, "machine": {"cores": 1}, "versions": {"torch": "2"}}
    file.write_text(json.dumps(content))


def _write_run(
    folder: Path,
    file: str,
    stage: str,
    step: int,
    overrides: dict[str, str],
    part: str = "",
    completed: bool = False,
) -> None:
    config = resolve(file, {**overrides, "run_dir": str(folder)})
    inside = folder / part
    checkpoint = inside / "checkpoints" / f"step_{step:08d}"
    checkpoint.mkdir(parents=True)
    (inside / "config.yaml").write_text(to_yaml(config))
    tasks = config.adapt.targets if stage == "adapt" else config.distill.sources
    method = "teacher" if stage == "teach" else "metaprompt"
    state: dict[str, Any] = {
        "stage": stage,
        "step": step,
        "rows": [{"task": task, "method": method, "shots": "full", "seed": 0} for task in tasks],
        "hashes": {"config": compared(config, ["data", "prompt", stage]), "backbone": backbone_hash(config.backbone)},
    }
    (checkpoint / "state.json").write_text(json.dumps(state))
    (inside / "latest").symlink_to(Path("checkpoints") / checkpoint.name)
    if completed:
        (folder / "COMPLETED").touch()


def backbone_hash(card: str) -> str:
    """As a run's checkpoint holds it."""
    from backbones import load_backbone_card
    from backbones.loading import backbone_fingerprint

    return backbone_fingerprint(load_backbone_card(card))
