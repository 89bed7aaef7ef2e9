"""``benchmark --beside=peft``: PEFT's step computes what ours does, with transformers' operators.

It is refused where it cannot be timed.
"""

import dataclasses
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones import BackboneCard
from backbones.layers.fused import fuse, is_fused
from engine import distributed
from engine.benchmarking.cases import request_of
from engine.benchmarking.choices import problems_of
from engine.benchmarking.output import peft_table
from engine.benchmarking.peft_beside import PeftBeside
from engine.benchmarking.peft_step import IGNORED, PeftTrainer, padded_ids
from engine.benchmarking.result import peft_content, spread
from engine.benchmarking.runner import run_benchmark
from engine.benchmarking.stage import stage_of
from engine.cli import main
from engine.core.errors import UserError
from engine.data.sample import Sample, weight_answer_tokens
from engine.data.synthetic import Invention, invented_data
from engine.distributed.zero3 import ShardedBackbone
from engine.training.backbone_holder import BackboneHolder
from engine.training.forward_backward import ForwardBackward, LossWeights
from engine.training.run_directory import trainer_config
from engine.training.trainer import Trainer
from prompt_modules import SoftPromptBank

DEMO = "configs/demo/distill.yaml"
RESIDENT = {"sharding": "replicated"}
SAMPLES = [Sample([5, 6, 7], [8, 9]), Sample([], [11, 12, 13]), Sample([20, 21, 22, 23, 24], [25])]


# ---- the step ------------------------------------------------------------------------------------------------------


def test_batches_are_padded_on_the_right_and_labelled_on_answers() -> None:
    batch = padded_ids([SAMPLES[0], replace(SAMPLES[1], row=1), SAMPLES[2]], torch.device("cpu"))
    assert batch.ids_BT.tolist() == [[5, 6, 7, 8, 9, 0], [11, 12, 13, 0, 0, 0], [20, 21, 22, 23, 24, 25]]
    assert batch.mask_BT.sum(1).tolist() == [5, 3, 6] and batch.tasks_B.tolist() == [0, 1, 0]
    none = IGNORED
    assert batch.labels_BT.tolist() == [[none] * 3 + [8, 9, none], [11, 12, 13, none, none, none], [none] * 5 + [25]]


@pytest.mark.parametrize("distils", [False, True])
def test_pefts_loss_and_gradient_are_ours(
    distils: bool, backbone: ShardedBackbone, teachers: Callable[..., Any]
) -> None:
    """Of one task, whose mean over answer tokens is the mean over the batch."""
    weights = LossWeights(0.9, 0.5, 2.0) if distils else LossWeights()
    taught = teachers(1) if distils else None
    samples = weight_answer_tokens(SAMPLES)
    start_LD = 0.05 * torch.randn(5, backbone.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    attention = backbone.model.config._attn_implementation
    theirs = PeftTrainer(backbone.model, start_LD, tasks=1, weights=weights, teachers=taught)
    loss = theirs.gradients(theirs.batches(samples, 1000))
    assert backbone.model.config._attn_implementation == attention
    bank: Any = SoftPromptBank(start_LD.double()[None])
    terms = ForwardBackward(backbone, True, 1000, 0, 1).train(samples, bank, weights, teachers=taught, cached=None)
    each = terms.ce_N + weights.kl * terms.kl_N + weights.hidden * terms.hidden_N
    assert loss == pytest.approx(float((each * terms.weights_N).sum()), rel=1e-5)
    found, wanted = theirs.encoder.embedding.weight.grad, bank.prompts_KLD.grad[0]
    assert torch.allclose(found.double(), wanted.double(), rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


# ---- beside a loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["teach", "distill"])
def test_numbers_are_finite_and_their_ratio_is_that_of_the_seconds(
    mode: str, make_holder: Callable[..., Any], tmp_path: Path
) -> None:
    holder = make_holder()
    data = invented_data(holder.context.config.distill.tasks, invention=Invention(12, 4, 20), vocabulary=1000, seed=0)
    stage = stage_of(holder, mode, data, steps=3, cache=tmp_path)
    trainer = Trainer(stage, holder.backbone(), trainer_config(holder.context))
    peft = PeftBeside(
        stage,
        start_LD=holder.start_prompt("metaprompt"),
        backbone=holder.backbone(),
        budget=holder.context.config.max_tokens_per_micro_batch,
        deterministic=False,
    )
    assert peft.trainer is not None and (peft.trainer.teachers is None) == (mode == "teach")
    real, samples, seen = [], [], []
    plain_step, limit = peft.trainer.step, holder.context.config.max_tokens_per_micro_batch

    def spy(batches: Any) -> float:
        seen.append(sum(int(b.mask_BT.sum()) for b in batches))
        longest = peft.trainer.length  # type: ignore[union-attr]
        assert all(len(b.ids_BT) == 1 or len(b.ids_BT) * (longest + b.ids_BT.shape[1]) <= limit for b in batches)
        return plain_step(batches)

    peft.trainer.step = spy  # type: ignore[method-assign]
    for step in range(4):
        outcome, _ = trainer.advance()
        peft.step(trainer, step > 0)
        real.append(int(outcome["real_tokens"]))
        samples.append(int(outcome["examples"].sum()))
    assert seen == real  # the same samples
    ours = [0.5, 0.25, 0.125]
    found = peft_content(peft, seconds=ours, real=real[1:], samples=samples[1:])
    theirs = found["steps"]["seconds"]
    assert len(theirs) == len(found["steps"]["loss"]) == 3 and all(map(math.isfinite, theirs + found["steps"]["loss"]))
    assert found["step_seconds"] == spread(theirs) and not found["fused"] and not found["ours_fused"]
    assert found["ratio"]["median"] == pytest.approx(
        statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    )
    assert found["tokens_per_s"] * sum(theirs) == pytest.approx(sum(real[1:]))
    assert found["samples_per_s"] * sum(theirs) == pytest.approx(sum(samples[1:]))
    (head, _, row) = peft_table([{"label": "a", "step_seconds": spread(ours), "tokens_per_s": 5.0, "peft": found}])
    assert "PEFT's seconds / ours" in head and f"{found['ratio']['median']:.2f} (" in row
    assert peft_table([{"label": "a"}]) == []
    peft.release()
    assert peft.trainer is None and peft.seconds == theirs


def test_pefts_steps_run_transformers_operators_and_ours_stay_fused(
    card: BackboneCard, make_holder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = make_holder()
    holder._backbone = ShardedBackbone(card, "", torch.device("cpu"))
    model = holder.backbone().model
    fuse(model)  # as on a GPU
    data = invented_data(holder.context.config.distill.tasks, invention=Invention(12, 4, 20), vocabulary=1000, seed=0)
    stage = stage_of(holder, mode="teach", data=data, steps=1, cache=tmp_path)
    trainer = Trainer(stage, holder.backbone(), trainer_config(holder.context))
    peft = PeftBeside(
        stage,
        start_LD=holder.start_prompt("metaprompt"),
        backbone=holder.backbone(),
        budget=holder.context.config.max_tokens_per_micro_batch,
        deterministic=False,
    )
    seen = []
    monkeypatch.setattr(PeftTrainer, "step", lambda *_: seen.append(is_fused(model)) or 1.0)
    trainer.advance()
    peft.step(trainer, True)
    assert seen == [False] and is_fused(model) and peft.ours_fused

    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PeftTrainer, "step", full)
    with pytest.raises(
        UserError, match=r"--beside: PEFT's step ran out of the GPU's memory.*--max_tokens_per_micro_batch"
    ):
        peft.step(trainer, True)
    assert is_fused(model)


# ---- the flag ------------------------------------------------------------------------------------------------------


def own(**flags: str) -> dict[str, str]:
    return {"steps": "1", "invented": "20,4", "beside": "peft", **flags}


def test_it_is_taken_for_teach_and_distill_where_the_backbone_is_resident() -> None:
    assert request_of(DEMO, own(mode="teach"), RESIDENT).beside == "peft"
    assert request_of(DEMO, own(shardings="replicated"), {}).beside == "peft"
    assert request_of(DEMO, {"steps": "1"}, {}).beside == ""


@pytest.mark.parametrize(
    ("flags", "overrides", "wanted"),
    [
        ({"beside": "lora"}, RESIDENT, "--beside: must be one of peft; got 'lora'"),
        ({"beside": ""}, RESIDENT, "--beside: must be one of peft; got ''"),
        (
            {"mode": "adapt"},
            {**RESIDENT, "adapt.targets": "[demo_qa]"},
            "no step like that of adapt; set --mode=teach or --mode=distill",
        ),
        ({}, {}, "needs the whole backbone, not zero3_offload; set --sharding=replicated"),
        ({"shardings": "replicated,zero3"}, {}, "needs the whole backbone, not zero3; set --sharding=replicated"),
        ({}, {"sharding": "auto"}, "needs the whole backbone, not auto; set --sharding=replicated"),
    ],
)
def test_what_cannot_be_timed_is_refused_with_the_flag_and_the_fix(
    flags: dict[str, str], overrides: dict[str, str], wanted: str
) -> None:
    with pytest.raises(UserError) as error:
        request_of(DEMO, own(**flags), overrides)
    assert any("command line: --beside" in p and wanted in p for p in error.value.problems), error.value.problems


def test_it_is_told_with_everything_else_that_is_wrong() -> None:
    with pytest.raises(UserError) as error:
        request_of(DEMO, own(steps="0"), {})
    assert [p.split(": ")[1] for p in error.value.problems] == ["--steps", "--beside"]


def test_adaptation_is_impossible_whatever_else_is_missing() -> None:
    with pytest.raises(UserError) as error:
        request_of(DEMO, own(mode="adapt"), {})
    told = "\n".join(error.value.problems)
    assert len(error.value.problems) == 3 and "adapt.targets: missing" in told and "set --sharding=replicated" in told
    assert "command line: --beside: PEFT has no step like that of adapt; set --mode=teach or --mode=distill" in told


def test_a_missing_package_is_named_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit) as end:
        main.run_mode("benchmark", [], {"config": DEMO, **own(), **RESIDENT})
    assert end.value.code == 2
    assert "--beside: peft is not installed; pip install -r requirements-dev.txt" in capsys.readouterr().err


def test_several_ranks_are_refused_before_they_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneHolder, "join", lambda _: pytest.fail("a process group was started"))
    monkeypatch.setattr(distributed, "dist_env", lambda: distributed.DistEnv(0, 8, 0))
    request = request_of(
        DEMO, own(mode="teach", output=str(tmp_path / "out")), {**RESIDENT, "run_dir": str(tmp_path / "run")}
    )
    with pytest.raises(UserError, match=r"--beside: PEFT is timed in one process, not in 8; start it without torchrun"):
        run_benchmark(request)
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


def test_a_deepspeed_file_is_named() -> None:
    config = request_of(DEMO, {"steps": "1"}, RESIDENT).cases[0].config
    (problem,) = problems_of("peft", "teach", [dataclasses.replace(config, deepspeed="zero3.json")])
    assert "not zero3.json; set --sharding=replicated --deepspeed=" in problem
