"""The gradient of a global step: against a naive sum over samples, and however the step is cut up."""

from collections.abc import Callable

import pytest
import torch

from engine.data.dataset import TaskData
from engine.training.teach_and_distill import distill_stage, teach_stage
from engine.training.trainer import Trainer
from prompt_modules.bank import JoinedBank

Build = Callable[..., Trainer]


@pytest.fixture(params=["packed", "padded"])
def build(request: pytest.FixtureRequest, make_holder, make_loop, teachers, tasks: dict[str, TaskData]) -> Build:
    """``build("distill", max_tokens_per_micro_batch=50)``: the loop of a stage whose factors have left their start, in
    either formulation.
    """

    def make(kind: str, **settings: int) -> Trainer:
        holder = make_holder(
            **{
                "distill.temperature": 2.0,
                "distill.lambda_kl": 0.7,
                "distill.lambda_hidden": 0.4,
                "batching": request.param,
            }
        )
        taught: JoinedBank = teachers(3)
        stage = (
            teach_stage(holder, tasks)
            if kind == "teach"
            else distill_stage(holder, data=tasks, teachers=taught, teachers_hash="hash")
        )
        trainer = make_loop(stage, holder, **settings)
        with torch.no_grad():
            for n, parameter in enumerate(stage.bank.parameters()):
                parameter += 0.1 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(n), dtype=parameter.dtype
                )
        return trainer

    return make


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.gradients(0)
    return {n: p.grad.clone() for n, p in trainer.stage.bank.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_a_step_equals_the_naive_sum_over_tasks_of_the_mean_over_answer_tokens(
    kind: str, build: Build, naive_losses, near
) -> None:
    trainer = build(kind)
    found = gradients(trainer)
    sums = build(kind).gradients(0)["sums"]
    weights, naive = trainer.stage.weights, build(kind).stage.bank
    assert len({sample.row for sample in trainer.last_samples}) > 1
    total, per_row = torch.zeros((), dtype=torch.float64), {}
    for placed in trainer.last_samples:
        sample = trainer.stage.rows[placed.row].train.sample(placed.index)
        row = torch.tensor([placed.row])
        teacher = trainer.stage.teachers.prompts(row)[0] if trainer.stage.teachers else None
        per_row.setdefault(placed.row, []).append(
            naive_losses(sample, naive.prompts(row)[0], teacher, weights.temperature)
        )
    for k, samples in per_row.items():
        n_tokens = sum(len(s["ce"]) for s in samples)
        ce, kl, hidden = (
            sum((t for s in samples for t in s[name]), torch.zeros((), dtype=torch.float64))
            for name in ("ce", "kl", "hidden")
        )
        total = total + (ce + weights.kl * kl + weights.hidden * hidden) / n_tokens
        near(sums[k], torch.tensor([ce.item(), kl.item(), hidden.item(), n_tokens], dtype=torch.float64), 1e-12)
    total.backward()
    for name, parameter in naive.named_parameters():
        # the metaprompt sees the mean of the tasks' losses, the factors each their own
        near(found[name], parameter.grad / (len(per_row) if "shared" in name else 1), 1e-11)
    absent = [k for k in range(len(trainer.stage.rows)) if k not in per_row]
    assert not sums[absent].any()


@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_the_token_budget_changes_nothing(kind: str, build: Build, near) -> None:
    whole, cuts = None, set()
    for budget in (10**9, 60, 30 if build(kind).forward_backward.packed else 45, 1):
        trainer = build(kind, max_tokens_per_micro_batch=budget)
        found = gradients(trainer)
        cuts.add(len(trainer.forward_backward.micro_batches(trainer.last_samples, trainer.stage.bank)))
        whole = whole or found
        for name, gradient in found.items():
            near(gradient, whole[name], 1e-12)
    assert len(cuts) == 4 and min(cuts) == 1 and max(cuts) == len(trainer.last_samples)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_sum_to_the_step(world: int, build: Build, near) -> None:
    """Each rank in turn, in one process: their gradients add up to that of one process, fillers and all."""
    alone = gradients(build("distill", max_tokens_per_micro_batch=45))
    parts = [
        gradients(build("distill", max_tokens_per_micro_batch=45, rank=rank, world=world)) for rank in range(world)
    ]
    for name, gradient in alone.items():
        near(sum(p[name] for p in parts), gradient, 1e-12)
        assert not any(torch.equal(p[name], gradient) for p in parts)


def test_a_row_of_nan_reaches_no_other_row(build: Build, near) -> None:
    clean, spoiled = build("teach", max_tokens_per_micro_batch=45), build("teach", max_tokens_per_micro_batch=45)
    with torch.no_grad():
        spoiled.stage.bank.parts["teacher"].prompts_KLD[1] = torch.nan
    wanted, found = (gradients(trainer)["parts.teacher.prompts_KLD"] for trainer in (clean, spoiled))
    assert found[1].isnan().any()
    near(found[[0, 2]], wanted[[0, 2]], 1e-12)
    outcome = build("teach", max_tokens_per_micro_batch=45)
    with torch.no_grad():
        outcome.stage.bank.parts["teacher"].prompts_KLD[1] = torch.nan
    assert outcome.gradients(0)["sums"].isnan().any(1).tolist() == [False, True, False]


def test_fillers_are_counted_nowhere(build: Build, near) -> None:
    """More ranks than there is work: the last hold nothing but a filler."""
    trainer = build("distill", max_tokens_per_micro_batch=45)
    alone, world = trainer.gradients(0)["sums"], 7
    ranks = [
        build("distill", max_tokens_per_micro_batch=45, rank=r, world=world).gradients(0)["sums"] for r in range(world)
    ]
    near(sum(ranks), alone, 1e-12)
    # packed rows are cut as finely as there are ranks, padded ones by the budget alone
    busy = len(trainer.last_samples) if trainer.forward_backward.packed else 3
    assert busy < world
    assert [bool(sums.any()) for sums in ranks] == [True] * busy + [False] * (world - busy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_fifty_steps_end_at_the_same_prompts_in_either_formulation(
    kind: str, make_holder, make_loop, teachers, tasks: dict[str, TaskData], near
) -> None:
    ends = []
    for forward_backward in ("packed", "padded"):
        holder = make_holder(forward_backward, **{"teach.steps": 50, "distill.steps": 50, "batching": forward_backward})
        stage = (
            teach_stage(holder, tasks)
            if kind == "teach"
            else distill_stage(holder, data=tasks, teachers=teachers(3), teachers_hash="hash")
        )
        start = stage.bank.prompts(torch.arange(3)).detach().clone()
        trainer = make_loop(stage, holder)
        trainer.run()
        ends.append(stage.bank.prompts(torch.arange(3)).detach())
        assert (ends[-1] - start).abs().max() > 0.1  # they went somewhere
    near(ends[0], ends[1], 1e-8)
