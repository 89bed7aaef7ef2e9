"""Several adaptations as one run: every row as it was, to the bit; what does not fit together is refused at once."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints import checkpoint
from engine.checkpoints.bank_io import load_bank
from engine.checkpoints.checkpoint import Checkpoint
from engine.config.learning_rates import Rate
from engine.config.loader import resolve
from engine.config.schema import RunConfig
from engine.core.errors import UserError
from engine.data.decontamination import join_overlap_records, read_overlap_record, write_overlap_record
from engine.recipes.merging.merge import merge_runs
from engine.recipes.merging.rows import entries, join
from engine.recipes.merging.run import Run
from tests.engine.merged_runs import A, B, rows_of, silent


@pytest.mark.parametrize("how", [("factors", "factors"), ("all", "all"), ("factors", "all"), ("all", "factors")])
def test_every_row_is_what_it_was_to_the_bit(how: tuple[str, str], adapted, tmp_path: Path) -> None:
    runs = [
        adapted(name, **{**part, "adapt.train": train, "adapt.steps": 3 - n})
        for n, (name, part, train) in enumerate(zip("ab", (A, B), how, strict=True))
    ]
    merge_runs(runs, tmp_path / "out", print_rank0=silent)
    parts, merged = [rows_of(run) for run in runs], rows_of(tmp_path / "out")
    wanted = parts[0] | parts[1]
    assert merged.keys() == wanted.keys() and len({t.numpy().tobytes() for t in wanted.values()}) == 10
    assert all(torch.equal(merged[row], wanted[row]) for row in wanted)
    (_, found), of_parts = load_bank(tmp_path / "out", "run"), [load_bank(run, "run")[1] for run in runs]
    shared = found.prompts["best.parts.metaprompt.shared_SLD"]
    assert len(shared) == (1 if how == ("factors", "factors") else 5)  # what a P* of each row's own costs
    assert ("frozen" in found.reused) == (how == ("factors", "factors"))
    assert resolve(tmp_path / "out/config.yaml").adapt.train == ("factors" if set(how) == {"factors"} else "all")
    assert found.state["step"] == found.state["progress"]["step"] == 3
    # last steps, moments and progress stay with their rows too
    for number, part in enumerate(of_parts):
        here = [found.state["rows"].index(row) for row in part.state["rows"]]
        for name in ("cursors", "row_steps", "stopped", "best_step", "waited", "best_loss"):
            assert [found.state["progress"][name][k] for k in here] == part.state["progress"][name]
        for part_name in ("metaprompt", "prompt_tuning"):
            own = [k for k, row in enumerate(part.state["rows"]) if row["method"] == part_name]
            first = 0 if part_name == "metaprompt" else 5
            for name, tensor in part.optimizer.items():
                if name.startswith(f"{part_name}."):  # P*'s too
                    assert torch.equal(found.optimizer[name][[here[k] - first for k in own]], tensor)
            for name, tensor in part.prompts.items():
                if name.startswith(f"parts.{part_name}.") and len(tensor) == len(own) and len(found.prompts[name]) == 5:
                    assert torch.equal(found.prompts[name][[here[k] - first for k in own]], tensor)
        if how[number] == "factors" and "metaprompt.shared.steps_K" in found.optimizer:
            own = [k for k in here if k < 5]
            assert (
                not found.optimizer["metaprompt.shared.steps_K"][own].any()
                and not found.optimizer["metaprompt.shared.active_K"][own].any()
            )


@pytest.mark.parametrize("train", ["factors", "all"])
def test_rows_of_every_method_are_what_they_were(train: str, adapted, tmp_path: Path) -> None:
    """LoRA, whose rows are many tensors and no prompt; a second metaprompt; a variant. One row a part is the
    hardest to tell from what is shared.
    """
    every = {
        "adapt.methods": ["metaprompt", "multitask_prompt", "lora", "prompt_tuning"],
        "adapt.train": train,
        "adapt.lora_rank": 2,
    }
    a = adapted("a", rates={("lora", "full"): Rate(0.5)}, **{**every, "adapt.targets": ["alpha"]})
    b = adapted(
        "b", rates={("lora", "full"): Rate(0.25)}, **{**every, "adapt.targets": ["beta"], "adapt.transfer": ["gamma"]}
    )
    merge_runs([a, b], tmp_path / "out", print_rank0=silent)
    (bank, found), of_parts = load_bank(tmp_path / "out", "run"), [load_bank(run, "run")[1] for run in (a, b)]
    assert bank.sizes == {"metaprompt": 3, "multitask_prompt": 2, "lora": 2, "prompt_tuning": 2}
    assert {m: len(bank.parts[m].shared_SLD) for m in ("metaprompt", "multitask_prompt")} == (
        {"metaprompt": 1, "multitask_prompt": 1} if train == "factors" else {"metaprompt": 3, "multitask_prompt": 2}
    )
    merged = Run(tmp_path, "", resolve(tmp_path / "out/config.yaml"), found, bank.spans())
    for run, own in zip((a, b), of_parts, strict=True):
        part = Run(run, "", resolve(run / "config.yaml"), own, load_bank(run, "run")[0].spans())
        for k, label in enumerate(part.rows):
            there = merged.row(merged.rows.index(label))
            assert there.keys() == part.row(k).keys() and all(
                torch.equal(there[name], tensor) for name, tensor in part.row(k).items()
            )
    assert found.optimizer.keys() == of_parts[0].optimizer.keys() == of_parts[1].optimizer.keys()
    for name, tensor in found.optimizer.items():
        assert torch.equal(tensor, torch.cat([own.optimizer[name] for own in of_parts]))
    assert found.state["hashes"]["rates"] == {"lora full": 0.5} and resolve(
        tmp_path / "out/config.yaml"
    ).adapt.transfer == ["gamma"]
    assert "run 2 (b): the learning rate of lora full is 0.25 there, 0.5 in an earlier run" in found.state["changes"]


def test_one_row_each_with_one_frozen_metaprompt_still_shares_it(adapted, tmp_path: Path) -> None:
    """Of one row, a tensor all rows share looks like the row's own; untrained factors that are equal are each row's
    own nonetheless.
    """
    changes = {"adapt.methods": ["metaprompt"], "adapt.shots": ["0"]}
    runs = [adapted(name, **{"adapt.targets": [task], **changes}) for name, task in (("a", "alpha"), ("b", "beta"))]
    merge_runs(runs, tmp_path / "out", print_rank0=silent)
    _, found = load_bank(tmp_path / "out", "run")
    assert {n: len(t) for n, t in found.prompts.items() if n.startswith("best.")} == {
        "best.parts.metaprompt.shared_SLD": 1,
        "best.parts.metaprompt.cols_KLR": 2,
        "best.parts.metaprompt.rows_KRD": 2,
    }
    assert all(
        torch.equal(t, (rows_of(runs[0]) | rows_of(runs[1]))[row]) for row, t in rows_of(tmp_path / "out").items()
    )


def test_a_merged_run_merges_again_and_says_what_it_is(adapted, tmp_path: Path) -> None:
    a, b = adapted("a", **A), adapted("b", **{**B, "adapt.targets": ["beta"], "adapt.lr_task": 0.05})
    c = adapted("c", **{**B, "adapt.targets": ["gamma"]})
    write_overlap_record(a, {"targets": ["alpha"], "excluded": True, "pairs": [], "dropped": {"s": 2}})
    write_overlap_record(
        b, {"targets": ["alpha", "beta"], "excluded": True, "pairs": [{"source": "s"}], "dropped": {"s": 2}}
    )
    said: list[str] = []
    merge_runs([a, b], tmp_path / "ab", print_rank0=said.append)
    merge_runs([tmp_path / "ab", c], tmp_path / "abc", print_rank0=silent)
    assert rows_of(tmp_path / "abc").keys() == {row for run in (a, b, c) for row in rows_of(run)}
    config = resolve(tmp_path / "abc/config.yaml")
    assert (config.adapt.targets, config.adapt.shots, config.adapt.seeds) == (
        ["alpha", "beta", "gamma"],
        ["0", "4", "full"],
        [0, 1],
    )
    assert config.run_dir == str(tmp_path / "abc")
    _, found = load_bank(tmp_path / "abc", "run")
    changed = "run 2 (b): adapt.lr_task is 0.05 there, 0.1 in the merged configuration"
    assert found.state["changes"] == [f"run 1 (ab): {changed}"] and f"NOTE {changed}" in said
    assert said[-1] == f"8 rows in {tmp_path / 'ab'}; next: python train.py evaluate --run {tmp_path / 'ab'}"
    assert found.state["hashes"]["merged"] == [load_bank(run, "run")[1].identity for run in (tmp_path / "ab", c)]
    assert found.state["hashes"]["config"]["adapt"]["targets"] == ["alpha", "beta", "gamma"]
    assert read_overlap_record(tmp_path / "abc") == {
        "targets": ["alpha", "beta"],
        "excluded": True,
        "pairs": [{"source": "s"}],
        "dropped": {"s": 2},
    }
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "abc").rglob("*.safetensors")}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "abc").stat().st_mode) == 0o700
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_tables_of_a_sweep_go_along_only_where_there_is_one(adapted, cards, tmp_path: Path) -> None:
    a, b = adapted("a", **A), adapted("b", **B)
    for run, best in ((a, 0), (b, 1)):
        (run / "lr_sweep").mkdir()
        (run / "lr_sweep/tuning.json").write_text(
            json.dumps({"lora": {"full": {"rates": [0.1, 0.2], "scores": [0.5, 0.5], "best": best}}})
        )
    merge_runs([a], output=tmp_path / "sum", sums="gamma=alpha", sum_of="metaprompt/4", print_rank0=silent)
    assert (tmp_path / "sum/lr_sweep/tuning.json").read_text() == (a / "lr_sweep/tuning.json").read_text()
    said: list[str] = []
    merge_runs([a, b], tmp_path / "out", print_rank0=said.append)
    assert (
        not (tmp_path / "out/tune").exists()
        and "NOTE merged: tables of learning rates that were tried stay in the runs (lr_sweep/tuning.json)" in said
    )


def test_records_that_excluded_and_did_not_count_as_not_excluded() -> None:
    records = [{"targets": ["a"], "excluded": e, "pairs": [], "dropped": {}} for e in (True, False)]
    assert join_overlap_records([*records, None]) == {"targets": ["a"], "excluded": False, "pairs": [], "dropped": {}}
    assert join_overlap_records([None, None]) is None


def test_a_row_that_stands_twice_is_kept_once_or_refused(adapted, tmp_path: Path) -> None:
    a, same, other = (
        adapted("a", **A),
        adapted("same", **{**A, "adapt.shots": ["0", "full"]}),
        adapted("other", **{**A, "adapt.steps": 3}),
    )
    said: list[str] = []
    merge_runs([a, same], tmp_path / "out", print_rank0=said.append)  # zero-shot rows of both are the untouched start
    assert "2 duplicate rows, bit-identical: kept once" in said
    each = (("0", 0), ("4", 0), ("4", 1), ("full", 0), ("full", 1))
    assert list(rows_of(tmp_path / "out")) == [
        ("alpha", method, shots, seed) for method in ("metaprompt", "prompt_tuning") for shots, seed in each
    ]
    with pytest.raises(UserError) as error:
        merge_runs([a, other], tmp_path / "no", print_rank0=silent)
    assert len(error.value.problems) == 4 and not (tmp_path / "no").exists()
    assert (
        error.value.problems[0]
        == f"--runs: {other} and {a} both hold alpha/metaprompt/4/0, with different numbers; adapt one of them "
        "without it"
    )


def test_all_that_does_not_fit_together_is_said_at_once(adapted, make_holder, tmp_path: Path) -> None:
    a = adapted("a", **A)
    short = adapted(
        "short",
        "another source",
        **{**B, "adapt.methods": ["prompt_tuning"], "prompt.num_virtual_tokens": 4, "prompt.rank": 1},
    )
    far = adapted("far", "another source", **{**B, "adapt.targets": ["beta"]})
    alter(far, lambda state: state["hashes"].update(backbone="b", layout="l"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    unfinished = adapted("unfinished", **B)
    (unfinished / "COMPLETED").unlink()
    distilled = adapted("distilled", **B)
    alter(distilled, lambda state: state.update(stage="distill"))
    with pytest.raises(UserError) as error:
        merge_runs([a, short, far, a, tmp_path / "gone", unfinished, distilled], tmp_path / "full", print_rank0=silent)
    told = "\n".join(error.value.problems)
    wanted = [
        "--output: ",
        f"duplicate {a}",
        "gone is not a run directory",
        f"{unfinished}: holds no finished adaptation",
        "is not an adaptation but a run of distill",
        f"{short} and {a}: prompt.num_virtual_tokens is 4 and 5",
        f"{short} and {a}: prompt.rank is 1 and 2",
        f"{far} and {a}: different backbone",
        f"{far} and {a}: different layout",
        f"{far} and {a}: rows of metaprompt adapted from different distillations",
    ]
    assert [w for w in wanted if w not in told] == [] and len(error.value.problems) == len(
        wanted
    )  # short has no row of a metaprompt
    with pytest.raises(UserError, match="nothing to merge"):
        merge_runs([a], tmp_path / "out", print_rank0=silent)


def alter(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = checkpoint.load(run)
    assert found is not None
    state = {k: v for k, v in found.state.items() if k not in ("step", "reused", "sha256")}
    change(state)
    prompts = {n: t for n, t in found.prompts.items() if not any(n in reused for reused in found.reused.values())}
    checkpoint.save(run, found.state["step"], Checkpoint(prompts, found.optimizer, state, found.reused), 1)


def test_parts_of_other_shapes_are_refused(adapted, tmp_path: Path) -> None:
    a, b = adapted("a", **A), adapted("b", **B)
    found = checkpoint.load(b)
    assert found is not None
    wide = {n: torch.cat([t, t], 2) if "rows_KRD" in n else t for n, t in found.reused["best"].items()}
    prompts = {n: t for n, t in found.prompts.items() if not any(n in reused for reused in found.reused.values())}
    state = {k: v for k, v in found.state.items() if k not in ("step", "reused", "sha256")}
    checkpoint.save(
        b, found.state["step"], Checkpoint(prompts, found.optimizer, state, found.reused | {"best": wide}), 1
    )
    with pytest.raises(
        UserError, match=r"rows of metaprompt have different shapes: best.rows_KRD \[2, 128\] and \[2, 64\]"
    ):
        merge_runs([a, b], tmp_path / "out", print_rank0=silent)


# ---- what runs may hold that no part has today
# ----------------------------------------------------------------------------------


def test_tensors_and_lists_of_any_name_go_with_their_rows(adapted, tmp_path: Path) -> None:
    """A part of many tensors, some shared; state that is kept by row; state that is not."""
    runs = [adapted(name, **{**part, "adapt.methods": ["metaprompt"]}) for name, part in (("a", A), ("b", B))]
    for number, (run, n) in enumerate(zip(runs, (3, 2), strict=True)):
        found = checkpoint.load(run)
        assert found is not None
        more = {
            f"parts.metaprompt.{name}": torch.arange(size * 2.0).view(size, 2) + 100 * own
            for name, size, own in (("down_KRD", n, number), ("all_same", 7, 0), ("one_each", 1, number))
        }
        prompts = {
            k: t for k, t in found.prompts.items() if not any(k in reused for reused in found.reused.values())
        } | more
        best = found.reused["best"] | {f"best.{k}": t for k, t in more.items()}
        state = {k: v for k, v in found.state.items() if k not in ("step", "reused", "sha256")} | {
            "rates": [number + 0.1] * n,
            "of_run": number,
            "same": 4,
        }
        checkpoint.save(
            run, found.state["step"], Checkpoint(prompts, found.optimizer, state, found.reused | {"best": best}), 1
        )
    said: list[str] = []
    opened = []
    for run in runs:
        found = checkpoint.load(run)
        assert found is not None
        opened.append(
            Run(run, run.name, resolve(run / "config.yaml"), found, {"metaprompt": range(len(found.state["rows"]))})
        )
    merged = join(opened, entries(opened, []), said)
    down, same, each = (
        merged.reused["best"][f"best.parts.metaprompt.{n}"] for n in ("down_KRD", "all_same", "one_each")
    )
    assert (
        down.tolist() == [[0, 1], [2, 3], [4, 5], [100, 101], [102, 103]]
        and same.shape == (7, 2)
        and each[:, 0].tolist() == [0, 0, 0, 100, 100]
    )
    assert merged.state["rates"] == [0.1] * 3 + [1.1] * 2 and merged.state["same"] == 4 and "of_run" not in merged.state
    assert said == ["merged: of_run differs between runs and belongs to no single row: left out"]


def test_an_optimizers_group_goes_with_the_part_it_is_named_after(tmp_path: Path) -> None:
    """Parts of the same kind and size, in another order in each run."""
    groups, opened = {"one": 10.0, "two": 20.0, "two_more.fast": 30.0}, []
    for number, order in enumerate((["one", "two", "two_more"], ["two_more", "two", "one"])):
        prompts = {f"{best}parts.{part}.cols_KLR": torch.zeros(1, 2, 1) for best in ("", "best.") for part in order}
        optimizer = {
            f"{group}.{name}": torch.tensor([value + number])
            for group, value in groups.items()
            for name in ("steps_K", "cols_KLR.first")
        }
        rows = [{"task": str(number), "method": part, "shots": "0", "seed": 0} for part in order]
        found = Checkpoint(prompts, optimizer, {"rows": rows, "progress": {}, "step": 1})
        opened.append(
            Run(tmp_path / str(number), "", RunConfig(), found, {part: range(n, n + 1) for n, part in enumerate(order)})
        )
    merged = join(opened, entries(opened, []), []).optimizer
    assert {name: tensor.tolist() for name, tensor in merged.items()} == {
        f"{group}.{name}": [value, value + 1]
        for group, value in groups.items()
        for name in ("steps_K", "cols_KLR.first")
    }


# ---- sums
# --------------------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_merge_that_could_not_be_written(
    adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [adapted("a", **A), adapted("b", **B)]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.recipes.merging.merge.write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        merge_runs(runs, tmp_path / "out", print_rank0=silent)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
