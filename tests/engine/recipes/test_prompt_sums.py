"""Sums of prompts as rows of a merged run: what they are, where they may stand, how they go out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoints import checkpoint
from engine.checkpoints.bank_io import load_bank
from engine.checkpoints.checkpoint import Checkpoint
from engine.config.loader import resolve
from engine.core.errors import UserError
from engine.recipes.exporting.export import export_run
from engine.recipes.merging.merge import merge_runs
from engine.recipes.merging.prompt_sums import read_sums
from prompt_modules.bank import JoinedBank
from tests.engine.merged_runs import A, B, rows_of, silent


def test_a_sum_is_start_and_weighted_differences(adapted, cards, source: JoinedBank, tmp_path: Path) -> None:
    run = adapted("a", **{**A, "adapt.targets": ["alpha", "beta"], "adapt.shots": ["4", "full"]})
    said: list[str] = []
    merge_runs(
        [run], output=tmp_path / "out", sums="gamma=alpha + 0.5*beta, delta=2*alpha-beta", print_rank0=said.append
    )
    own, rows = rows_of(run), rows_of(tmp_path / "out")
    assert list(rows)[: len(own)] == list(own) and list(rows)[len(own) :] == [
        (t, "sum", "0", s) for t in ("gamma", "delta") for s in (0, 1)
    ]
    start = source.parts["metaprompt"].shared_SLD[0]  # type: ignore[index, union-attr]
    for seed in (0, 1):
        alpha, beta = (own[t, "metaprompt", "full", seed] for t in ("alpha", "beta"))
        assert (rows["gamma", "sum", "0", seed] - (start + (alpha - start) + 0.5 * (beta - start))).abs().max() < 1e-12
        assert (rows["delta", "sum", "0", seed] - (2 * alpha - beta)).abs().max() < 1e-12
        assert not torch.equal(rows["gamma", "sum", "0", seed], rows["delta", "sum", "0", seed])
    assert (
        "NOTE gamma sum: start + sum of w (P - start) over rows metaprompt/full: gamma=alpha + 0.5*beta; nothing "
        "was trained for it"
    ) in said
    _, found = load_bank(tmp_path / "out", "run")
    assert (
        found.state["progress"]["best_step"][-4:] == [0] * 4 and found.state["progress"]["stopped"][-4:] == [True] * 4
    )
    assert resolve(tmp_path / "out/config.yaml").adapt.targets == ["alpha", "beta", "gamma", "delta"]
    # a run with sums merges on, its sums last, and takes more of them
    later = adapted("later", **{**B, "adapt.targets": ["gamma"]})
    merge_runs([tmp_path / "out", later], tmp_path / "more", print_rank0=silent)
    assert all(torch.equal(t, (rows | rows_of(later))[label]) for label, t in rows_of(tmp_path / "more").items())
    assert [row[1] for row in rows_of(tmp_path / "more")][-4:] == ["sum"] * 4
    with pytest.raises(UserError, match="a second sum for gamma"):
        merge_runs([tmp_path / "out"], output=tmp_path / "no", sums="gamma=beta", print_rank0=silent)


def test_sums_stay_last_when_other_parts_come_later(adapted, cards, tmp_path: Path) -> None:
    a = adapted("a", **{**A, "adapt.methods": ["metaprompt"]})
    merge_runs([a], output=tmp_path / "out", sums="gamma=alpha", sum_of="metaprompt/4", print_rank0=silent)
    b = adapted("b", **{**B, "adapt.methods": ["prompt_tuning"]})
    merge_runs(
        [tmp_path / "out", b], output=tmp_path / "more", sums="delta=-alpha", sum_of="metaprompt/4", print_rank0=silent
    )
    rows, own = rows_of(tmp_path / "more"), rows_of(tmp_path / "out") | rows_of(b)
    assert all(torch.equal(rows[label], own[label]) for label in own)
    assert (
        [label for label in rows if label not in own]
        == list(rows)[-2:]
        == [("delta", "sum", "0", 0), ("delta", "sum", "0", 1)]
    )


def test_a_sum_has_the_seeds_that_all_its_tasks_have(adapted, cards, tmp_path: Path) -> None:
    runs = [adapted("a", **{**A, "adapt.shots": ["full"]}), adapted("b", **{**B, "adapt.seeds": [1, 2]})]
    merge_runs(runs, output=tmp_path / "out", sums="gamma=alpha+beta", print_rank0=silent)
    assert [label[3] for label in rows_of(tmp_path / "out") if label[1] == "sum"] == [1]


def test_a_task_alone_is_its_own_prompt_to_the_bit(adapted, cards, tmp_path: Path) -> None:
    run = adapted("a", **A)
    merge_runs([run], output=tmp_path / "out", sums="gamma=alpha", sum_of="metaprompt/4", print_rank0=silent)
    own, rows = rows_of(run), rows_of(tmp_path / "out")
    assert all(torch.equal(rows["gamma", "sum", "0", seed], own["alpha", "metaprompt", "4", seed]) for seed in (0, 1))


def test_prompt_tuning_is_summed_only_from_one_start(adapted, cards, backbone, tmp_path: Path) -> None:
    drawn = adapted("a", **A)
    with pytest.raises(UserError, match="began at a draw of its own"):
        merge_runs([drawn], output=tmp_path / "out", sums="gamma=alpha", sum_of="prompt_tuning/4", print_rank0=silent)
    text = {"prompt.init": "text", "prompt.init_text": "Dose", "adapt.targets": ["alpha", "beta"]}
    without = adapted("without", **text)
    with pytest.raises(UserError, match='adapt with shots "0" too'):
        merge_runs(
            [without], output=tmp_path / "out", sums="gamma=alpha+beta", sum_of="prompt_tuning/full", print_rank0=silent
        )
    other = adapted("other", **{**text, "prompt.init_text": "drug", "adapt.targets": ["beta"], "adapt.seeds": [1]})
    with pytest.raises(UserError, match="only under one prompt.init: text"):
        merge_runs(
            [without, other],
            output=tmp_path / "out",
            sums="gamma=alpha",
            sum_of="prompt_tuning/full",
            print_rank0=silent,
        )
    run = adapted("text", **text, **{"adapt.shots": ["0", "full"]})
    beside = adapted(
        "beside", **{**A, "adapt.methods": ["metaprompt"]}
    )  # none of the rows that are summed: how it starts does not matter
    merge_runs(
        [run, beside], output=tmp_path / "out", sums="gamma=alpha+beta", sum_of="prompt_tuning/full", print_rank0=silent
    )
    own, rows = rows_of(run), rows_of(tmp_path / "out")
    start = own["alpha", "prompt_tuning", "0", 0]
    assert torch.equal(start, own["beta", "prompt_tuning", "0", 0]) and not torch.equal(
        start, own["beta", "prompt_tuning", "full", 0]
    )
    wanted = own["alpha", "prompt_tuning", "full", 0] + own["beta", "prompt_tuning", "full", 0] - start
    assert (rows["gamma", "sum", "0", 0] - wanted).abs().max() < 1e-12


def test_where_every_row_trained_a_metaprompt_the_start_comes_from_its_source(
    adapted, cards, make_holder, source: JoinedBank, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    tensors = {f"best.{n}": t for n, t in source.named_parameters()}
    checkpoint.save(folder, 1, Checkpoint({}, {"m": torch.zeros(1)}, {"stage": "distill"}, {"best": tensors}), 1)
    found = checkpoint.load(folder)
    assert found is not None
    every = {**A, "adapt.train": "all", "adapt.shots": ["full"], "adapt.source_run": str(folder)}
    run = adapted("a", found.identity, **every)
    merge_runs([run], output=tmp_path / "out", sums="gamma=2*alpha", print_rank0=silent)
    start = source.parts["metaprompt"].shared_SLD[0]  # type: ignore[index, union-attr]
    alpha = rows_of(run)["alpha", "metaprompt", "full", 1]
    assert (rows_of(tmp_path / "out")["gamma", "sum", "0", 1] - (2 * alpha - start)).abs().max() < 1e-12
    merge_runs(
        [adapted("other", "gone", **every)],
        output=tmp_path / "fine",
        sums="gamma=0.3*alpha+0.7*alpha",
        print_rank0=silent,
    )  # cancels
    with pytest.raises(UserError, match="adapt.source_run alone, which is not there as it was"):
        merge_runs(
            [adapted("another", "gone", **every)], output=tmp_path / "no", sums="gamma=2*alpha", print_rank0=silent
        )
    assert not (tmp_path / "no").exists()


def test_sums_that_cannot_be_are_said_at_once(adapted, cards, tmp_path: Path) -> None:
    run = adapted("a", **A)
    with pytest.raises(UserError) as error:
        merge_runs(
            [run],
            output=tmp_path / "out",
            sums="gamma=alpha+omega,=alpha,gamma,delta=alpha beta,delta=0.5alpha,delta=alpha+",
            print_rank0=silent,
        )
    assert len(error.value.problems) == 6 and "cannot be read from '+omega' on" in error.value.problems[0]
    with pytest.raises(UserError) as error:
        merge_runs([run], output=tmp_path / "out", sums="gama=alpha", sum_of="lora/4", print_rank0=silent)
    assert [p.split(":")[0] for p in error.value.problems] == [
        "--sum_of",
        "--sum",
    ] and "did you mean 'gamma'?" in error.value.problems[1]
    with pytest.raises(UserError, match="no seed for which alpha each have a row metaprompt/16"):
        merge_runs([run], output=tmp_path / "out", sums="gamma=alpha", sum_of="metaprompt/16", print_rank0=silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("n=a", ((1.0, "a"),)),
        ("n= .5 * a - b", ((0.5, "a"), (-1.0, "b"))),
        ("n=-a+2*a-b", ((-1.0, "a"), (2.0, "a-b"))),
        ("n=2012_x+a", ((1.0, "2012_x"), (1.0, "a"))),
    ],
)
def test_how_a_sum_is_written(text: str, terms: tuple[tuple[float, str], ...]) -> None:
    problems: list[str] = []
    (found,) = read_sums(text, ["a", "b", "a-b", "2012_x"], problems)
    assert found.terms == terms and found.target == "n" and not problems


def test_merged_rows_and_sums_go_out_to_other_programs(adapted, cards, tmp_path: Path) -> None:
    runs = [adapted("a", **{**A, "adapt.seeds": [0]}), adapted("b", **B)]
    merge_runs(runs, tmp_path / "plain", print_rank0=silent)
    export_run(tmp_path / "plain", "peft", tmp_path / "peft")
    assert load_file(tmp_path / "peft/metaprompt/adapter_model.safetensors")["prefix_task_cols"].shape == (4, 5, 2)
    assert str(tmp_path) not in (tmp_path / "peft/metaprompt/README.md").read_text()
    merge_runs(
        [tmp_path / "plain"], output=tmp_path / "out", sums="gamma=alpha", sum_of="metaprompt/4", print_rank0=silent
    )
    wanted = rows_of(tmp_path / "out")
    for fmt, file, name in (
        ("peft_collapsed", "adapter_model", "prompt_embeddings"),
        ("vllm", "prompt", "prompt_embeds"),
    ):
        for folder in export_run(tmp_path / "out", fmt, tmp_path / fmt):
            (row,) = json.loads((folder / "rows.json").read_text())
            assert torch.equal(load_file(folder / f"{file}.safetensors")[name], wanted[tuple(row.values())])
        assert len(list((tmp_path / fmt).glob("*/rows.json"))) == len(wanted)
    with pytest.raises(UserError, match="gamma.sum.0: a sum of prompts has no factors.*peft_collapsed"):
        export_run(tmp_path / "out", "peft", tmp_path / "no")
