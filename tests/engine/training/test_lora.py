"""LoRA rows: PEFT's own layers to rounding, many rows in one pass, beside prompts, and out of a checkpoint again."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from backbones import BackboneCard, build_backbone
from engine.checkpoints import checkpoint
from engine.checkpoints.bank_io import bank_of, part_order
from engine.data.dataset import TaskData
from engine.distributed.zero3 import ShardedBackbone
from engine.training.adapt import Source, adapt_stage
from engine.training.trainer import Trainer
from prompt_modules import DecomposedBank, LoraBank

RANK = 3


@pytest.fixture(params=["packed", "padded"])
def build(request: pytest.FixtureRequest, make_holder, make_loop, tasks: dict[str, TaskData]) -> Callable[..., Trainer]:
    """``build(**{"max_tokens_per_micro_batch": 50})``: an adaptation of LoRA rows that have left their start."""
    count = iter(range(100))

    def make(moved: bool = True, **changes) -> Trainer:
        settings = {k: changes.pop(k) for k in ("max_tokens_per_micro_batch", "rank", "world") if k in changes}
        base = {"adapt.methods": ["lora"], "adapt.lora_rank": RANK, "adapt.seeds": [0, 1], "batching": request.param}
        holder = make_holder(f"lora{next(count)}", **{**base, **changes})
        generator = torch.Generator().manual_seed(3)
        part = DecomposedBank(
            *(torch.randn(*shape, generator=generator) for shape in ((1, 5, 64), (3, 5, 2), (3, 2, 64)))
        )
        data = {n: tasks[n] for n in holder.context.config.adapt.targets}
        trainer = make_loop(
            adapt_stage(holder, data, {"metaprompt": Source(part, ["alpha", "beta", "gamma"], "hash", 0)}),
            holder,
            **settings,
        )
        if moved:
            with torch.no_grad():
                for n, parameter in enumerate(p for name, p in trainer.stage.bank.named_parameters() if ".up." in name):
                    parameter += 0.05 * torch.randn(
                        parameter.shape, generator=torch.Generator().manual_seed(n), dtype=parameter.dtype
                    )
        return trainer

    return make


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    trainer.gradients(0)
    return {n: p.grad.clone() for n, p in trainer.stage.bank.named_parameters() if p.grad is not None}


def test_losses_and_gradients_are_those_of_peft(
    build, backbone: ShardedBackbone, card: BackboneCard, exact_norms, near
) -> None:
    trainer = build()
    found = gradients(trainer)
    sums = build().gradients(0)["sums"]
    part = trainer.stage.bank.parts["lora"]
    plain = build_backbone(card, None, torch.float64)
    plain.load_state_dict(backbone.model.state_dict())
    exact_norms(plain)
    theirs = (
        get_peft_model(plain, LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
        .double()
        .eval()
    )
    layers = dict(theirs.named_modules())
    for k in range(len(trainer.stage.rows)):
        for name, (down, up) in part.layers().items():
            layer = layers[f"base_model.model.{name}"]
            layer.lora_A.default.weight.data, layer.lora_B.default.weight.data = (
                down[k].detach().clone(),
                up[k].detach().clone(),
            )
        theirs.zero_grad()
        samples = [trainer.stage.rows[k].train.sample(p.index) for p in trainer.last_samples if p.row == k]
        total, tokens = torch.zeros((), dtype=torch.float64), sum(len(s.answer_ids) for s in samples)
        for s in samples:
            logits = theirs(torch.tensor([s.context_ids + s.answer_ids])).logits[0]
            total = total + torch.nn.functional.cross_entropy(
                logits[len(s.context_ids) - 1 : -1], torch.tensor(s.answer_ids), reduction="sum"
            )
        near(sums[k][0], total.detach(), 1e-11)
        (total / tokens).backward()
        for name in part.layers():
            layer, key = layers[f"base_model.model.{name}"], name.replace(".", "-")
            near(found[f"parts.lora.down.{key}"][k], layer.lora_A.default.weight.grad, 1e-10)
            near(found[f"parts.lora.up.{key}"][k], layer.lora_B.default.weight.grad, 1e-10)
    assert len(part.layers()) == 7 * backbone.model.config.num_hidden_layers


def test_rows_start_as_the_backbone_is(build, backbone: ShardedBackbone, near) -> None:
    trainer, other = build(moved=False), build(moved=False)
    part, again = trainer.stage.bank.parts["lora"], other.stage.bank.parts["lora"]
    assert all(not up.any() for _, up in part.layers().values())
    for (down, _), (same, _) in zip(part.layers().values(), again.layers().values(), strict=True):
        assert torch.equal(down, same) and not torch.equal(down[0], down[1])
        assert 0.9 < down.abs().max().item() * down.shape[-1] ** 0.5 <= 1


def test_budget_and_ranks_change_nothing(build, near) -> None:
    whole = gradients(build(max_tokens_per_micro_batch=10**6))
    cut = gradients(build(max_tokens_per_micro_batch=25))
    parts = [gradients(build(max_tokens_per_micro_batch=40, rank=rank, world=2)) for rank in range(2)]
    for name, gradient in whole.items():
        near(cut[name], gradient, 1e-11)
        near(sum(p[name] for p in parts), gradient, 1e-11)


def test_recomputed_layers_change_nothing(
    build, card: BackboneCard, backbone: ShardedBackbone, exact_norms, near
) -> None:
    wanted = gradients(build())
    again = ShardedBackbone(
        card,
        deepspeed_file="",
        device=torch.device("cpu"),
        recompute=card.random["num_hidden_layers"],
        dtype=torch.float64,
    )
    again.model.load_state_dict(backbone.model.state_dict())
    exact_norms(again.model)
    trainer = build()
    trainer.backbone = again
    trainer.forward_backward = type(trainer.forward_backward)(again, trainer.forward_backward.packed, 120, 0, 1)
    found = gradients(trainer)
    for name, gradient in wanted.items():
        near(found[name], gradient, 1e-11)


def test_a_row_trains_as_it_would_alone_beside_prompts_and_comes_back_from_its_checkpoint(build, near) -> None:
    methods = {"adapt.methods": ["metaprompt", "lora", "prompt_tuning"], "adapt.seeds": [0]}
    together, alone = (
        build(moved=False, **methods),
        build(moved=False, **{"adapt.seeds": [0], "adapt.targets": ["beta"]}),
    )
    together.run()
    alone.run()
    own, span = alone.stage.bank.parts["lora"], together.stage.bank.spans()["lora"]
    row = next(k for k in span if together.stage.rows[k].task == "beta")
    for name, tensor in own.named_parameters():
        if tensor.requires_grad:
            near(together.stage.bank.parts["lora"].get_parameter(name)[row - span.start], tensor[0], 1e-10)
    assert any(up.any() for _, up in own.layers().values())
    assert together.row_tokens[row] == alone.row_tokens[0] > 0
    found = checkpoint.load(together.stage.run_dir)
    bank = bank_of(found.prompts, part_order(found.state["rows"]))
    assert list(bank.parts) == ["metaprompt", "lora", "prompt_tuning"] and isinstance(bank.parts["lora"], LoraBank)
    for name, tensor in together.stage.bank.named_parameters():
        assert torch.equal(bank.get_parameter(name), tensor)
    assert bank.prompts(torch.tensor([row])).shape == (1, 0, 64) and bank.length(row) == 0 and bank.length(0) == 5


def test_updates_end_with_the_pass_that_asked_for_them(backbone: ShardedBackbone) -> None:
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = backbone.model(ids).logits
        with backbone.updated(lambda name, x, out: out + 1):
            assert not torch.equal(backbone.model(ids).logits, before)
        assert torch.equal(backbone.model(ids).logits, before)
