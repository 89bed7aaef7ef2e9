"""Many prompts in one pass over one backbone: each goes the way it would have gone alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoints import checkpoint
from engine.data.dataset import TaskData
from engine.data.sampling import EveryRow, TaskMixture
from engine.training.adapt import Source, adapt_stage
from engine.training.stage import Stage
from engine.training.trainer import Trainer
from prompt_modules import DecomposedBank, RowGroup, RowwiseAdamW, SoftPromptBank, identity_factors
from prompt_modules.bank import JoinedBank

NAMES, LRS, TOTALS, STEPS = ["alpha", "beta", "gamma"], [0.1, 0.02, 0.05], [12, 7, 9], 12
EXACT = 1e-9


def starts() -> Tensor:
    return 0.05 * torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@dataclass
class Teach:
    """Rows ``which`` of the same three teachers, each with its own learning rate, schedule length and number of
    steps.
    """

    make_holder: Callable[..., Any]
    make_loop: Callable[..., Trainer]
    row_of: Callable[..., Any]
    tasks: dict[str, TaskData]
    made: list[str] = field(default_factory=list)

    def __call__(
        self,
        which: Sequence[int],
        sampler: Any = None,
        n_steps: int = STEPS,
        own_steps: bool = True,
        validated: bool = False,
        nan: int = -1,
        log_every: int = 1,
    ) -> Trainer:
        prompts_KLD = starts()[list(which)]
        if nan in which:
            prompts_KLD[list(which).index(nan)] = torch.nan
        self.made.append("".join(map(str, which)))
        holder = self.make_holder(f"teach{len(self.made)}")
        bank = JoinedBank({"teacher": SoftPromptBank(prompts_KLD)}, {"teacher": len(which)})
        lr, total = torch.tensor([LRS[k] for k in which], dtype=torch.float64), torch.tensor([TOTALS[k] for k in which])
        group = RowGroup({"prompts_KLD": bank.parts["teacher"].prompts_KLD}, lr, total, 2, "linear", 0.5)
        # alpha is validated on another task: it gets worse while it learns, and stops early
        validation = {k: self.tasks[NAMES[k or 2]].splits["validation"] if validated else None for k in which}
        rows = [
            self.row_of(NAMES[k], self.tasks[NAMES[k]].splits["train"], TOTALS[k] if own_steps else 0, validation[k])
            for k in which
        ]
        stage = Stage(
            "teach",
            holder.context.run_dir,
            bank,
            rows,
            RowwiseAdamW({"teacher": group}),
            {"teacher": range(len(which))},
            sampler or EveryRow(len(which), 3),
            n_steps,
            eval_interval=2 if validated else 0,
            patience=2 if validated else 0,
        )
        trainer = self.make_loop(stage, holder, checkpoint_every=100, log_every=log_every)
        trainer.run()
        return trainer


@pytest.fixture
def teach(make_holder, make_loop, row_of, tasks: dict[str, TaskData]) -> Teach:
    return Teach(make_holder, make_loop, row_of, tasks)


def prompts(trainer: Trainer, best: bool = False) -> Tensor:
    return (
        trainer.best["parts.teacher.prompts_KLD"] if best else trainer.stage.bank.parts["teacher"].prompts_KLD.detach()
    )


def test_teachers_in_one_pass_equal_each_alone(teach: Teach, near) -> None:
    together = teach([0, 1, 2])
    assert together.row_steps == TOTALS and not together.stage.optimizer.groups["teacher"].active_K.any()
    for k in range(3):
        alone = teach([k])
        near(prompts(together)[k], prompts(alone)[0], EXACT)
        assert (prompts(alone)[0] - starts()[k]).abs().max() > 0.05  # it went somewhere


def test_with_validation_and_early_stop_too(teach: Teach, near) -> None:
    together = teach([2, 0, 1], validated=True)
    for position, k in enumerate([2, 0, 1]):
        alone = teach([k], validated=True)
        assert (together.row_steps[position], together.best_step[position]) == (alone.row_steps[0], alone.best_step[0])
        assert together.best_loss[position] == pytest.approx(alone.best_loss[0], rel=1e-9)
        near(prompts(together)[position], prompts(alone)[0], EXACT)
        near(prompts(together, best=True)[position], prompts(alone, best=True)[0], EXACT)
    assert (
        together.row_steps[1] < TOTALS[0] and together.best_step[1] == together.row_steps[1] - 4
    )  # alpha: two validations without a better one
    assert together.row_steps[0::2] == [TOTALS[2], TOTALS[1]]


def test_the_last_steps_are_logged_when_all_rows_stop_early(teach: Teach, metrics) -> None:
    trainer = teach([0], validated=True, log_every=5)
    assert trainer.step < STEPS and trainer.step % 5
    assert [line["step"] for line in metrics(trainer.stage.run_dir)][-1] == trainer.step


def test_a_row_keeps_its_own_best_step(teach: Teach) -> None:
    trainer = teach([0, 1, 2], validated=True)
    assert all(
        b % 2 == 0 or b == t for b, t in zip(trainer.best_step, TOTALS, strict=True)
    )  # validated every second step, and at its last
    with torch.no_grad():
        trainer.stage.bank.parts["teacher"].prompts_KLD.copy_(prompts(trainer, best=True))
    again = trainer.validation_losses([0, 1, 2])
    assert list(again.values()) == pytest.approx(trainer.best_loss, rel=1e-12)


def test_the_validation_loss_is_the_mean_over_answer_tokens(teach: Teach, naive_losses) -> None:
    trainer = teach([0, 1], validated=True, n_steps=2)
    for k, found in trainer.validation_losses([0, 1]).items():
        split = trainer.stage.rows[k].validation
        tokens = [t for i in split.sample_indices for t in naive_losses(split.sample(i), prompts(trainer)[k])["ce"]]
        assert found == pytest.approx(torch.stack(tokens).mean().item(), rel=1e-12)


def test_tasks_that_are_absent_from_most_steps_equal_each_alone(teach: Teach, fixed, near) -> None:
    mixture = TaskMixture([23, 6, 11], batch=4, how="uniform", cap=0, subsets=True, seed=4)
    counts = [mixture.counts(step, [True] * 3) for step in range(STEPS)]
    together = teach([0, 1, 2], mixture, own_steps=False)
    present = [sum(c[k] > 0 for c in counts) for k in range(3)]
    assert together.row_steps == present and max(present) > min(present) > 1
    for k in range(3):
        own = [[c[k]] for c in counts if c[k]]
        alone = teach([k], fixed(own), n_steps=len(own), own_steps=False)
        near(prompts(together)[k], prompts(alone)[0], EXACT)


def test_a_task_that_goes_nan_leaves_the_others_as_they_would_be(teach: Teach, near, metrics) -> None:
    spoiled = teach([0, 1, 2], nan=1)
    for k in (0, 2):
        near(prompts(spoiled)[k], prompts(teach([k]))[0], EXACT)
    assert prompts(spoiled)[1].isnan().all()
    group = spoiled.stage.optimizer.groups["teacher"]
    assert group.steps_K.tolist() == [12, 0, 9] and not group.moments["prompts_KLD"][0][1].any()
    lines = metrics(spoiled.stage.run_dir)
    assert [line["skipped_rows"] for line in lines] == [1] * 7 + [0] * 5  # until beta's own steps are over
    assert lines[0]["task_ce"]["alpha"] > 0 and lines[0]["loss"] is None  # JSON has no NaN


@pytest.fixture
def adapted(make_holder, make_loop, tasks: dict[str, TaskData]) -> Callable[..., Trainer]:
    """``adapted("all", **{"adapt.shots": ["4"]})``: the loop of an adaptation from a made-up distillation of three
    tasks, run to its end.
    """
    count = iter(range(100))

    def run(train: str, **changes: Any) -> Trainer:
        holder = make_holder(
            f"adapt{next(count)}",
            **{"adapt.train": train, "adapt.seeds": [0, 1], "adapt.shots": ["full", "4", "0"], **changes},
        )
        generator = torch.Generator().manual_seed(1)
        cols_KLR, rows_KRD = identity_factors(3, length=5, rank=2, hidden=64, generator=generator)
        part = DecomposedBank(starts()[:1], cols_KLR + 0.1 * torch.randn(cols_KLR.shape, generator=generator), rows_KRD)
        stage = adapt_stage(
            holder,
            {n: tasks[n] for n in holder.context.config.adapt.targets},
            {"metaprompt": Source(part, NAMES, "hash", 0)},
        )
        trainer = make_loop(stage, holder, checkpoint_every=100)
        trainer.run()
        return trainer

    return run


def by_name(trainer: Trainer) -> dict[str, Tensor]:
    return {
        row.name: trainer.stage.bank.prompts(torch.tensor([k]))[0].detach() for k, row in enumerate(trainer.stage.rows)
    }


@pytest.mark.parametrize("train", ["factors", "all"])
def test_an_adapted_row_does_not_depend_on_the_others(train: str, adapted, near) -> None:
    together = by_name(adapted(train))
    assert len(together) == 2 * 2 * (2 * 2 + 1)  # targets, methods; per seed at full and 4, once zero-shot
    fewer = (
        {"adapt.targets": ["beta"], "adapt.methods": ["metaprompt"]},
        {"adapt.shots": ["4"], "adapt.seeds": [1]},
        {"adapt.methods": ["prompt_tuning"]},
    )
    for changes in fewer:
        alone = by_name(adapted(train, **changes))
        assert 0 < len(alone) < len(together)
        for name, prompt in alone.items():
            near(together[name], prompt, EXACT)


@pytest.mark.parametrize("train", ["factors", "all"])
def test_what_adaptation_trains(train: str, adapted) -> None:
    trainer = adapted(train)
    bank = trainer.stage.bank.parts["metaprompt"]
    zero_shot = [k for k, row in enumerate(trainer.stage.rows) if row.shots == "0" and row.method == "metaprompt"]
    named = by_name(trainer)
    for k in zero_shot:  # P* with averaged factors, nothing trained
        torch.testing.assert_close(
            named[trainer.stage.rows[k].name],
            starts()[0] * (bank.cols_KLR[k] @ bank.rows_KRD[k]).detach(),
            rtol=1e-6,
            atol=0,
        )
        assert trainer.row_steps[k] == 0
    assert len({tuple(named[trainer.stage.rows[k].name].flatten().tolist()) for k in zero_shot}) == 1
    assert bank.shared_SLD.requires_grad == (train == "all") and len(bank.shared_SLD) == (
        1 if train == "factors" else len(bank.cols_KLR)
    )
    moved = (bank.shared_SLD.detach() - starts()[:1]).abs().flatten(1).amax(1) > 1e-6
    trained = [k for k in range(len(bank.cols_KLR)) if k not in zero_shot]
    assert moved.tolist() == ([False] if train == "factors" else [k in trained for k in range(len(bank.cols_KLR))])
    assert bank.numbers_per_row() == (5 + 64) * 2 + (5 * 64 if train == "all" else 0)


def test_zero_shot_prompt_tuning_is_its_untrained_start(adapted) -> None:
    trainer, trained = adapted("factors", **{"adapt.shots": ["0"]}), adapted("factors")
    assert trainer.step == 0 and not any(trainer.row_steps)
    tuned = [k for k, row in enumerate(trained.stage.rows) if row.method == "prompt_tuning"]
    for name, prompt in by_name(trainer).items():
        if "/prompt_tuning/" in name:
            k = next(k for k in tuned if trained.stage.rows[k].name == name)
            assert trained.row_steps[k] == 0 and torch.equal(by_name(trained)[name], prompt)
    assert {row.method for row in trainer.stage.rows} == {"metaprompt", "prompt_tuning"}


def test_zero_shot_alone_leaves_a_checkpoint_to_evaluate(adapted) -> None:
    trainer = adapted("factors", **{"adapt.shots": ["0"]})
    found = checkpoint.load(trainer.stage.run_dir)
    assert found is not None and torch.equal(
        found.prompts["best.parts.metaprompt.cols_KLR"], trainer.stage.bank.parts["metaprompt"].cols_KLR
    )
