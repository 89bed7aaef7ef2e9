"""``benchmarks.vs_peft``: sizes in place of a shape's, gpt-oss's experts in MXFP4, whose operators each method runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.layers.fused import fuse, is_fused
from backbones.layers.mxfp4_experts import Mxfp4Experts
from benchmarks import vs_peft
from benchmarks.common.workload import MXFP4, SHAPES, Shape, Workload, operations
from benchmarks.performance_page import vs_peft as section

CPU = torch.device("cpu")
SMALL = Shape(
    {
        "model_type": "gpt_oss",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "vocab_size": 256,
        "max_position_embeddings": 131072,
        **MXFP4,
    },
    "float32",
    4,
    4,
    2,
)


def test_sizes_replace_those_of_the_shape() -> None:
    shape = SHAPES["gpt_oss_20b"]
    found = vs_peft.changed(shape, samples=84, tasks=21, layers=3)
    assert (found.samples, found.tasks, found.card["num_hidden_layers"]) == (84, 21, 3)
    assert found.length == shape.length and shape.card["num_hidden_layers"] == 24
    assert vs_peft.changed(shape, samples=None, tasks=None, layers=None) == shape


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((3, None, None), "3 samples for 4 tasks: each task needs one; set --samples 4 or more"),
        ((None, 40, None), "32 samples for 40 tasks"),
        ((0, None, None), "--samples: must be >= 1; got 0"),
        ((None, -1, None), "--tasks: must be >= 1; got -1"),
        ((None, None, 0), "--layers: must be >= 1; got 0"),
    ],
)
def test_sizes_that_make_no_step_are_refused(
    sizes: tuple[int | None, ...], wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=wanted):
        vs_peft.changed(SHAPES["pocket"], *sizes)
    flags = [f"--{name}={n}" for name, n in zip(("samples", "tasks", "layers"), sizes, strict=True) if n is not None]
    monkeypatch.setattr("sys.argv", ["vs_peft", "--shape=pocket", *flags])
    with pytest.raises(SystemExit) as end:
        vs_peft.main()
    assert end.value.code == 2 and wanted in capsys.readouterr().err


def test_gpt_oss_has_packed_experts_and_the_operations_of_wide_ones() -> None:
    shape = SHAPES["gpt_oss_20b"]
    assert shape.card["quantization_config"] == {"quant_method": "mxfp4"}
    wide = replace(shape, card={k: v for k, v in shape.card.items() if k != "quantization_config"})
    found, alike = (operations(s, [[60, 70]], True, 12, 2, 2) for s in (shape, wide))
    # each token meets its four experts' three products, the attention's four, and each answer token the head
    tokens, answers = 60 + 70 + 4 * 100, 12
    layer = 2 * 2880 * 4096 + 2 * 2880 * 512 + 4 * 3 * 2880 * 2880
    products = 2 * 2 * tokens * 24 * layer + 2 * 2 * answers * 2880 * 201088
    attention = 24 * 4 * 4096 * 3.5 * (60 * 130 + 70 * 135 + 4 * 100 * 50)
    assert found == alike == products + attention


class Fused(Workload):
    """As on a GPU."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        assert fuse(self.backbone.model)
        experts = [m for m in self.backbone.model.modules() if isinstance(m, Mxfp4Experts)]
        assert len(experts) == self.shape.card["num_hidden_layers"]


@pytest.mark.parametrize("stage", ["teach", "distill"])
def test_all_methods_train_on_the_same_packed_experts_and_peft_unfused(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vs_peft, "Workload", Fused)
    seen: dict[str, set[bool]] = {}
    plain_build = vs_peft.build

    def build(method: str, work: Workload, *rest: Any) -> vs_peft.Step:
        step = plain_build(method, work, *rest)

        def spy() -> float:
            seen.setdefault(method, set()).add(is_fused(work.backbone.model))
            return step()

        return spy

    monkeypatch.setattr(vs_peft, "build", build)
    shape = replace(SMALL, tasks=1)  # of one task PEFT's mean over the batch is ours
    found = vs_peft.measure(vs_peft.Case("small", shape, "short", stage, 4096, True), 1, CPU, list(vs_peft.METHODS))
    assert seen == {"peft": {False}, "plain": {True}, "packed": {True}}
    assert {m: v["fused"] for m, v in found["methods"].items()} == {"peft": False, "plain": True, "packed": True}
    assert found["losses"]["peft"] == pytest.approx(found["losses"]["packed"], rel=1e-4)
    assert found["losses"]["plain"] == pytest.approx(found["losses"]["packed"], rel=1e-4)
    assert (found["samples"], found["tasks"], found["layers"], found["teacher_cache"]) == (4, 1, 2, stage == "distill")
    assert found["packed_vs_peft"]["ratio"]["median"] > 0


def test_results_of_other_sizes_stand_beside_those_of_the_shape(tmp_path: Path) -> None:
    def case(**sizes: int) -> dict[str, Any]:
        ratio = {"ratio": {"median": 2.0, "p10": 1.9, "p90": 2.1}, "operation_bound": 3.0}
        methods = {"peft": {"step_seconds": {"median": 2.0}}, "packed": {"step_seconds": {"median": 1.0}}}
        named = {
            "shape": "pocket",
            "regime": "short",
            "stage": "teach",
            "teacher_cache": False,
            "max_tokens_per_micro_batch": 8192,
        }
        return {**named, **sizes, "methods": methods, "packed_vs_peft": ratio}

    file = tmp_path / "vs_peft.json"
    small = {"samples": 84, "tasks": 21, "layers": 2}
    for found in (
        case(),
        case(**small),
        case(samples=32, tasks=4, layers=6),
        case(**small),
    ):  # the third is the first's
        vs_peft._keep(file, found)
    kept = json.loads(file.read_text())
    assert [c.get("samples") for c in kept] == [32, 84]
    text = "\n".join(section([case(), case(**small)]).lines)
    assert "| pocket, R = 60, teach |" in text and "| pocket, R = 60, teach, 84 samples of 21 tasks, 2 layers |" in text
