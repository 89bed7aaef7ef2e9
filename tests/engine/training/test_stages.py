"""What each stage trains, on what, and from where it starts."""

import pytest
import torch
from torch import Tensor

from engine.core.errors import UserError
from engine.data.dataset import TaskData
from engine.data.sampling import TaskMixture
from engine.training.adapt import Source, adapt_stage
from engine.training.rows import adapt_rows
from engine.training.teach_and_distill import distill_stage, teach_stage
from prompt_modules import DecomposedBank, average_factors
from prompt_modules.bank import JoinedBank

NAMES = ["alpha", "beta", "gamma"]


def prompts(stage, rows: list[int]) -> Tensor:
    return stage.bank.prompts(torch.tensor(rows)).detach()


def test_teachers_start_from_vocabulary_each_from_a_draw_of_its_own(
    make_holder, tasks: dict[str, TaskData], backbone
) -> None:
    holder = make_holder()
    stage = teach_stage(holder, tasks)
    table = backbone.model.get_input_embeddings().weight
    special = holder.context.tokenizer.special_ids()
    chosen = []
    for prompt_LD in prompts(stage, [0, 1, 2]):
        ids = [int((table == row).all(1).nonzero()[0, 0]) for row in prompt_LD]
        assert len(set(ids)) == 5 and not special & set(ids) and max(ids) < holder.context.tokenizer.vocab_size
        chosen.append(tuple(ids))
    assert len(set(chosen)) == 3
    # a draw goes with the task's name, not its place: a task more or less leaves the others alone
    fewer = teach_stage(make_holder("other", **{"distill.sources": ["gamma", "alpha"]}), tasks)
    assert torch.equal(prompts(fewer, [0, 1]), prompts(stage, [2, 0]))
    assert [r.stream_seed for r in fewer.rows] == [stage.rows[2].stream_seed, stage.rows[0].stream_seed]
    other_seed = teach_stage(make_holder("seed", seed=1), tasks)
    assert (
        not torch.equal(prompts(other_seed, [0]), prompts(stage, [0]))
        and other_seed.rows[0].stream_seed != stage.rows[0].stream_seed
    )


def test_prompts_start_from_text_where_asked(make_holder, tasks: dict[str, TaskData], backbone) -> None:
    holder = make_holder(**{"prompt.init": "text", "prompt.init_text": "Dose"})
    ids = holder.context.tokenizer.encode("Dose")
    wanted = backbone.model.get_input_embeddings().weight[(ids * 5)[:5]]
    for stage in (
        teach_stage(holder, tasks),
        distill_stage(holder, data=tasks, teachers=_teachers(), teachers_hash="hash"),
    ):
        assert torch.equal(prompts(stage, [0, 1, 2]), wanted.expand(3, -1, -1))


def _teachers() -> JoinedBank:
    from prompt_modules import SoftPromptBank

    return JoinedBank({"teacher": SoftPromptBank(torch.zeros(3, 5, 64))}, {"teacher": 3}).requires_grad_(False)


def test_teachers_keep_their_best_only_where_they_are_validated(make_holder, tasks: dict[str, TaskData]) -> None:
    assert [r.validation for r in teach_stage(make_holder(), tasks).rows] == [None] * 3
    validated = teach_stage(make_holder("other", **{"teach.eval_interval": 5}), tasks)
    assert [r.validation for r in validated.rows] == [tasks[n].splits["validation"] for n in NAMES]
    assert [r.steps for r in validated.rows] == [6] * 3


@pytest.mark.parametrize("rank", [1, 4])
def test_distillation_starts_at_one_metaprompt_for_every_task(
    rank: int, make_holder, tasks: dict[str, TaskData]
) -> None:
    stage = distill_stage(make_holder(**{"prompt.rank": rank}), data=tasks, teachers=_teachers(), teachers_hash="hash")
    part = stage.bank.parts["metaprompt"]
    assert part.shared_SLD.shape == (1, 5, 64) and part.cols_KLR.shape == (3, 5, rank)
    assert torch.equal(prompts(stage, [0, 1, 2]), part.shared_SLD.detach().expand(3, -1, -1))
    assert set(stage.optimizer.groups) == {"shared", "task"} and stage.groups_of_row == {
        "shared": None,
        "task": range(3),
    }
    assert stage.optimizer.groups["shared"].parameters.keys() == {"shared_SLD"} and stage.optimizer.groups[
        "task"
    ].parameters.keys() == {"cols_KLR", "rows_KRD"}


def test_a_tasks_schedule_counts_the_steps_it_is_drawn_in(make_holder, tasks: dict[str, TaskData], make_loop) -> None:
    holder = make_holder(**{"distill.batch_size": 3})
    stage = distill_stage(holder, data=tasks, teachers=_teachers(), teachers_hash="hash")
    trainer = make_loop(stage, holder)
    trainer.run()
    group = stage.optimizer.groups["task"]
    assert group.total_steps.tolist() == group.steps_K.tolist() == trainer.row_steps
    assert max(trainer.row_steps) < 8 and stage.optimizer.groups["shared"].steps_K.tolist() == [8]


def test_the_samplers_weights_are_the_tasks_sizes(make_holder, tasks: dict[str, TaskData]) -> None:
    stage = distill_stage(
        make_holder(**{"distill.sampler": "capped", "distill.cap": 10, "distill.task_subsets": False}),
        data=tasks,
        teachers=_teachers(),
        teachers_hash="hash",
    )
    assert (
        isinstance(stage.sampler, TaskMixture)
        and stage.sampler.weights.tolist() == [10, 6, 10]
        and not stage.sampler.subsets
    )


def rows(make_holder, tasks: dict[str, TaskData], **changes):
    holder = make_holder("rows" + str(abs(hash(str(changes)))), **changes)
    return adapt_rows(holder.context.config, tasks)


def test_few_shot_sets_are_nested_and_shared_by_the_methods(make_holder, tasks: dict[str, TaskData]) -> None:
    found = {
        r.name: r
        for r in rows(
            make_holder,
            tasks,
            **{"adapt.shots": ["0", "2", "4", "full"], "adapt.seeds": [0, 1], "adapt.eval_interval": 1},
        )
    }
    assert len(found) == 2 * 2 * (1 + 3 * 2)
    for task in ("alpha", "beta"):
        drawn = {}
        for seed in (0, 1):
            two, four = (found[f"{task}/metaprompt/{n}/{seed}"] for n in (2, 4))
            assert len(set(two.train_indices)) == 2 and len(set(four.train_indices)) == 4
            assert two.train_indices == four.train_indices[:2]
            tuned = found[f"{task}/prompt_tuning/4/{seed}"]
            assert tuned.train_indices == four.train_indices and tuned.stream_seed == four.stream_seed
            assert set(four.train_indices) <= set(tasks[task].splits["train"].sample_indices)
            drawn[seed] = four.train_indices
            assert found[f"{task}/metaprompt/full/{seed}"].train_indices == tasks[task].splits["train"].sample_indices
        assert drawn[0] != drawn[1]
        assert found[f"{task}/metaprompt/0/0"].train_indices == []
    for name, row in found.items():  # few-shot runs use the last step unless a validation split is named
        assert (row.validation is not None) == ("/full/" in name), name
    chosen = rows(
        make_holder,
        tasks,
        **{"adapt.shots": ["0", "4"], "adapt.eval_interval": 1, "adapt.few_shot_validation": True},
    )
    assert {r.shots: r.validation is not None for r in chosen} == {"0": False, "4": True}


def test_more_shots_than_examples_are_refused_with_every_task(make_holder, tasks: dict[str, TaskData]) -> None:
    with pytest.raises(UserError) as error:
        rows(make_holder, tasks, **{"adapt.shots": ["7", "24"]})
    assert error.value.problems == [
        "adapt.shots: 24: task alpha has 23 usable training examples",
        "adapt.shots: 24: task beta has 6 usable training examples",
        "adapt.shots: 7: task beta has 6 usable training examples",
    ]


@pytest.mark.parametrize("changes", [{"adapt.methods": []}, {"adapt.shots": []}, {"adapt.seeds": []}])
def test_nothing_to_train_is_refused(changes, make_holder, tasks: dict[str, TaskData]) -> None:
    with pytest.raises(UserError, match="no row to train"):
        rows(make_holder, tasks, **changes)


def source(rank: int) -> JoinedBank:
    generator = torch.Generator().manual_seed(2)
    part = DecomposedBank(
        *(torch.randn(*shape, generator=generator) for shape in ((1, 5, 64), (3, 5, rank), (3, rank, 64)))
    )
    return JoinedBank({"metaprompt": part}, {"metaprompt": 3})


def sources(bank: JoinedBank) -> dict[str, Source]:
    return {"metaprompt": Source(bank.parts["metaprompt"], NAMES, "hash", 0)}


@pytest.mark.parametrize(
    ("init", "rank", "how"),
    [
        ("auto", 1, "mean_factors"),
        ("auto", 2, "mean_product"),
        ("mean_factors", 2, "mean_factors"),
        ("mean_product", 1, "mean_product"),
        ("ones", 2, "ones"),
        ("task:beta", 2, ""),
    ],
)
def test_adaptation_starts_from_the_metaprompt_and_the_named_factors(
    init: str, rank: int, how: str, make_holder, tasks: dict[str, TaskData]
) -> None:
    bank = source(rank)
    part = bank.parts["metaprompt"]
    stage = adapt_stage(
        make_holder(**{"adapt.init": init, "prompt.rank": rank, "adapt.methods": ["metaprompt"]}),
        tasks,
        sources(bank),
    )
    if how:
        u, v = average_factors(
            part.cols_KLR.detach(), rows_KRD=part.rows_KRD.detach(), how=how, start_cols_LR=torch.zeros(5, rank)
        )
        wanted = part.shared_SLD[0] * (u @ v if how != "ones" else torch.ones(5, 64))
    else:
        wanted = part.prompts(torch.tensor([1]))[0]
    torch.testing.assert_close(prompts(stage, [0, 1]), wanted.detach().expand(2, -1, -1), rtol=1e-5, atol=1e-6)
    if init == "ones":
        assert torch.equal(prompts(stage, [0]), part.shared_SLD.detach())


def test_a_source_task_that_is_not_there_is_refused(make_holder, tasks: dict[str, TaskData]) -> None:
    with pytest.raises(UserError, match=r"adapt\.init: 'delta' is not a source task of .*; it has alpha, beta, gamma"):
        adapt_stage(make_holder(**{"adapt.init": "task:delta"}), tasks, sources(source(2)))


def test_adapting_leaves_its_source_as_it_was(make_holder, make_loop, tasks: dict[str, TaskData]) -> None:
    bank = source(2)
    before = {n: p.detach().clone() for n, p in bank.named_parameters()}
    holder = make_holder(**{"adapt.train": "all"})
    make_loop(adapt_stage(holder, tasks, sources(bank)), holder).run()
    assert all(torch.equal(p, before[n]) for n, p in bank.named_parameters())


def test_the_log_shows_the_terms_that_a_stage_has(make_holder, tasks: dict[str, TaskData]) -> None:
    assert teach_stage(make_holder(), tasks).loss_terms == []  # cross-entropy alone, which is the loss
    for weights, terms in (((0.5, 0.5), ["ce", "kl", "hidden"]), ((0, 0.5), ["ce", "hidden"]), ((0, 0), [])):
        holder = make_holder(**{"distill.lambda_kl": weights[0], "distill.lambda_hidden": weights[1]})
        assert distill_stage(holder, tasks, teachers=None, teachers_hash="").loss_terms == terms
