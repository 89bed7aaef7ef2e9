"""The pre-training script of the pocket backbones, on a model that is trained in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbones import BackboneCard, Layout, build_backbone, load_tokenizer
from engine.pretrain_pocket import LM_WEIGHT, SEPARATOR, batches, loss_of


def pretrain(project: Path, output: Path, family: str, steps: int) -> str:
    sizes = {"steps": steps, "batch": 4, "hidden": 32, "layers": 1, "every": 2}
    command = [sys.executable, "-m", "engine.pretrain_pocket", f"--family={family}", f"--output={output}", *(f"--{n}={v}" for n, v in sizes.items())]
    done = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_what_it_writes_is_a_backbone_that_loads(project: Path, tmp_path: Path, family: str) -> None:
    pretrain(project, tmp_path, family, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "generation_config.json", "loss.jsonl", "model.safetensors", "tokenizer.model"}
    assert [json.loads(line)["step"] for line in (tmp_path / "loss.jsonl").read_text().splitlines()] == [2]
    card = BackboneCard(name=family, path=str(tmp_path), tokenizer=str(tmp_path / "tokenizer.model"), separator=SEPARATOR, dtype="float32")
    model = build_backbone(card, None)
    layout = Layout(card, load_tokenizer(card.tokenizer))
    first, again = (next(batches(0, 5, 3, layout)) for _ in range(2))
    assert first[0].equal(again[0]) and first[1].equal(again[1]) and not first[0].equal(next(batches(0, 6, 3, layout))[0])
    ids, weights = first
    answers = (weights == 1).sum(1)
    assert (answers > 0).all() and {round(w, 6) for w in weights.unique().tolist()} <= {0.0, LM_WEIGHT, 1.0}
    # the answers of a row alone, by the plain formula
    logits = model(input_ids=ids).logits.log_softmax(-1)
    expected = [-logits[b, t - 1, ids[b, t]] for b, t in (weights == 1).nonzero().tolist()]
    torch.testing.assert_close(loss_of(model, ids, weights)[1], torch.stack(expected).mean())
