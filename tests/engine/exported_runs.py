"""Finished runs on the pocket backbones, with invented prompts to export: what several files of tests begin with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from backbones import load_backbone_card, load_tokenizer
from backbones.loading.frozen import backbone_config
from engine.checkpoints import checkpoint
from engine.checkpoints.checkpoint import Checkpoint
from engine.config.loader import to_yaml
from engine.distributed.zero3 import ShardedBackbone

ROOT = Path(__file__).parents[2]


LENGTH, RANK = 6, 2


TASKS = ("demo_qa", "demo_entities", "demo_summary")


def write_run(run_dir: Path, family: str, kind: str, spoil: float | None = None) -> Path:
    """A finished run on a pocket backbone with invented prompts. kind: distill, adapt (prompt tuning beside it),
    all (each row its own metaprompt), lora.
    """
    from engine.config.schema import RunConfig

    g = torch.Generator().manual_seed(3)
    card = load_backbone_card(ROOT / f"backbones/pocket/{family}.yaml")
    width = json.loads((Path(card.path) / "config.json").read_text())["hidden_size"]
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=g)  # noqa: E731
    rows = [{"task": t, "method": "metaprompt", "shots": "full", "seed": 0} for t in TASKS]
    k = len(rows)
    tensors = {
        "metaprompt.shared_SLD": draw(k if kind == "all" else 1, LENGTH, width),
        "metaprompt.cols_KLR": 1 + draw(k, LENGTH, RANK),
        "metaprompt.rows_KRD": 1 + draw(k, RANK, width),
    }
    if kind == "adapt":
        rows += [
            {"task": t, "method": "prompt_tuning", "shots": s, "seed": 1} for t in TASKS[:2] for s in ("16", "full")
        ]
        tensors["prompt_tuning.prompts_KLD"] = draw(4, LENGTH, width)
    if kind == "lora":
        rows = [{"task": t, "method": "lora", "shots": "full", "seed": 0} for t in TASKS[:2]]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(backbone_config(card))
        linears = {
            n.replace(".", "-"): m
            for n, m in model.named_modules()
            if type(m) is torch.nn.Linear and m is not model.get_output_embeddings()
        }
        tensors = {"lora.prompts_KLD": torch.zeros(2, 0, width)}
        tensors |= {f"lora.down.{n}": draw(2, 3, m.in_features) for n, m in linears.items()}
        tensors |= {f"lora.up.{n}": draw(2, m.out_features, 3) for n, m in linears.items()}
    if spoil is not None:
        tensors["metaprompt.rows_KRD"][1, 0, 0] = spoil
    config = RunConfig(run_dir=str(run_dir), backbone=str(ROOT / f"backbones/pocket/{family}.yaml"))
    config.prompt.num_virtual_tokens, config.data.root, config.data.cards = (
        LENGTH,
        str(ROOT / "configs/demo/data"),
        [str(ROOT / "configs/demo/cards")],
    )
    config.distill.sources = list(TASKS)
    run_dir.mkdir()
    hashes = {"backbone": "b" * 8, "layout": "c" * 8, "data": "d" * 8}
    state = {"stage": "distill" if kind == "distill" else "adapt", "rows": rows, "hashes": hashes, "changes": []}
    checkpoint.save(
        run_dir,
        5,
        Checkpoint({}, {"m": torch.zeros(1)}, state, {"best": {f"best.parts.{n}": t for n, t in tensors.items()}}),
        2,
    )
    (run_dir / "config.yaml").write_text(to_yaml(config))
    (run_dir / "COMPLETED").touch()
    return run_dir


@pytest.fixture(scope="module")
def models() -> Callable[[str], tuple[Any, Any, ShardedBackbone]]:
    """Family -> transformers' model from the folder, the tokenizer, and our backbone."""
    from transformers import AutoModelForCausalLM

    made: dict[str, Any] = {}

    def make(family: str) -> tuple[Any, Any, ShardedBackbone]:
        if family not in made:
            card = load_backbone_card(ROOT / f"backbones/pocket/{family}.yaml")
            model = AutoModelForCausalLM.from_pretrained(card.path, dtype=torch.float32)
            made[family] = model, load_tokenizer(card.tokenizer), ShardedBackbone(card, "", torch.device("cpu"))
        return made[family]

    return make
