"""Several adaptations as one run, and sums of prompts: every row as it was, to the bit; what does not fit together is refused at once."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine import checkpoint
from engine.adaptation import Source, adapt_stage
from engine.banks import load_bank
from engine.checkpoint import Checkpoint
from engine.config import RunConfig
from engine.data import TaskData
from engine.errors import UserError
from engine.export import export_run
from engine.merge import merge_runs
from engine.merge_rows import Run, entries, join
from engine.prompt_sums import read_sums
from engine.resolve import resolve, to_yaml
from engine.unseen import joined_records, read_record, write_record
from prompt_modules import DecomposedBank
from prompt_modules.bank import JoinedBank

Row = tuple[str, str, str, int]


@pytest.fixture
def source() -> JoinedBank:
    """A metaprompt and three tasks' factors, far from their start."""
    g = torch.Generator().manual_seed(2)
    part = DecomposedBank(*(0.3 * torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((1, 5, 64), (3, 5, 2), (3, 2, 64))))
    return JoinedBank({"metaprompt": part}, {"metaprompt": 3}).requires_grad_(False)


@pytest.fixture
def adapted(make_session, make_loop, tasks: dict[str, TaskData], source: JoinedBank) -> Callable[..., Path]:
    """``adapted("a", **{"adapt.targets": ["alpha"]})``: a finished adaptation."""

    def run(name: str, source_hash: str = "of the source", rates: Any = None, **changes: Any) -> Path:
        session = make_session(name, **{"distill.sources": [], "adapt.steps": 2, **changes})
        start = Source(source.parts["metaprompt"], ["alpha", "beta", "gamma"], source_hash, 0)  # type: ignore[arg-type]
        stage = adapt_stage(session, tasks, {"metaprompt": start, "multitask_prompt": start}, rates)
        make_loop(stage, session).run()
        (session.run_dir / "config.yaml").write_text(to_yaml(session.config))
        session.complete(session.run_dir)
        return session.run_dir

    return run


def rows_of(run: Path) -> dict[Row, Tensor]:
    """Label -> its best prompt."""
    bank, found = load_bank(run, "run")
    with torch.no_grad():
        return {tuple(row.values()): bank.prompts(torch.tensor([k]))[0] for k, row in enumerate(found.state["rows"])}  # type: ignore[misc]


def silent(_: str) -> None:
    pass


A = {"adapt.targets": ["alpha"], "adapt.shots": ["0", "4"], "adapt.seeds": [0, 1]}
B = {"adapt.targets": ["beta", "gamma"], "adapt.shots": ["full"]}


@pytest.mark.parametrize("how", [("factors", "factors"), ("all", "all"), ("factors", "all"), ("all", "factors")])
def test_every_row_is_what_it_was_to_the_bit(how: tuple[str, str], adapted, tmp_path: Path) -> None:
    runs = [adapted(name, **{**part, "adapt.train": train, "adapt.steps": 3 - n}) for n, (name, part, train) in enumerate(zip("ab", (A, B), how, strict=True))]
    merge_runs(runs, tmp_path / "out", say=silent)
    parts, merged = [rows_of(run) for run in runs], rows_of(tmp_path / "out")
    wanted = parts[0] | parts[1]
    assert merged.keys() == wanted.keys() and len({t.numpy().tobytes() for t in wanted.values()}) == 10
    assert all(torch.equal(merged[row], wanted[row]) for row in wanted)
    (_, found), of_parts = load_bank(tmp_path / "out", "run"), [load_bank(run, "run")[1] for run in runs]
    shared = found.prompts["best.parts.metaprompt.shared_SLD"]
    assert len(shared) == (1 if how == ("factors", "factors") else 5)  # what a P* of each row's own costs
    assert ("frozen" in found.kept) == (how == ("factors", "factors"))
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
            assert not found.optimizer["metaprompt.shared.steps_K"][own].any() and not found.optimizer["metaprompt.shared.active_K"][own].any()


@pytest.mark.parametrize("train", ["factors", "all"])
def test_rows_of_every_method_are_what_they_were(train: str, adapted, tmp_path: Path) -> None:
    """LoRA, whose rows are many tensors and no prompt; a second metaprompt; a variant. One row a part is the hardest to tell from what is shared."""
    every = {"adapt.methods": ["metaprompt", "multitask_prompt", "lora", "prompt_tuning"], "adapt.train": train, "adapt.lora_rank": 2}
    a = adapted("a", rates={("lora", "full"): 0.5}, **{**every, "adapt.targets": ["alpha"]})
    b = adapted("b", rates={("lora", "full"): 0.25}, **{**every, "adapt.targets": ["beta"], "adapt.transfer": ["gamma"]})
    merge_runs([a, b], tmp_path / "out", say=silent)
    (bank, found), of_parts = load_bank(tmp_path / "out", "run"), [load_bank(run, "run")[1] for run in (a, b)]
    assert bank.sizes == {"metaprompt": 3, "multitask_prompt": 2, "lora": 2, "prompt_tuning": 2}
    assert {m: len(bank.parts[m].shared_SLD) for m in ("metaprompt", "multitask_prompt")} == (
        {"metaprompt": 1, "multitask_prompt": 1} if train == "factors" else {"metaprompt": 3, "multitask_prompt": 2})  # fmt: skip
    merged = Run(tmp_path, "", resolve(tmp_path / "out/config.yaml"), found, bank.spans())
    for run, own in zip((a, b), of_parts, strict=True):
        part = Run(run, "", resolve(run / "config.yaml"), own, load_bank(run, "run")[0].spans())
        for k, label in enumerate(part.rows):
            there = merged.row(merged.rows.index(label))
            assert there.keys() == part.row(k).keys() and all(torch.equal(there[name], tensor) for name, tensor in part.row(k).items())
    assert found.optimizer.keys() == of_parts[0].optimizer.keys() == of_parts[1].optimizer.keys()
    for name, tensor in found.optimizer.items():
        assert torch.equal(tensor, torch.cat([own.optimizer[name] for own in of_parts]))
    assert found.state["hashes"]["rates"] == {"lora full": 0.5} and resolve(tmp_path / "out/config.yaml").adapt.transfer == ["gamma"]
    assert "run 2 (b): the learning rate of lora full is 0.25 there, 0.5 in an earlier run" in found.state["changes"]


def test_one_row_each_with_one_frozen_metaprompt_still_shares_it(adapted, tmp_path: Path) -> None:
    """Of one row, a tensor all rows share looks like the row's own; untrained factors that are equal are each row's own nonetheless."""
    changes = {"adapt.methods": ["metaprompt"], "adapt.shots": ["0"]}
    runs = [adapted(name, **{"adapt.targets": [task], **changes}) for name, task in (("a", "alpha"), ("b", "beta"))]
    merge_runs(runs, tmp_path / "out", say=silent)
    _, found = load_bank(tmp_path / "out", "run")
    assert {n: len(t) for n, t in found.prompts.items() if n.startswith("best.")} == {
        "best.parts.metaprompt.shared_SLD": 1, "best.parts.metaprompt.cols_KLR": 2, "best.parts.metaprompt.rows_KRD": 2}  # fmt: skip
    assert all(torch.equal(t, (rows_of(runs[0]) | rows_of(runs[1]))[row]) for row, t in rows_of(tmp_path / "out").items())


def test_a_merged_run_merges_again_and_says_what_it_is(adapted, tmp_path: Path) -> None:
    a, b = adapted("a", **A), adapted("b", **{**B, "adapt.targets": ["beta"], "adapt.lr_task": 0.05})
    c = adapted("c", **{**B, "adapt.targets": ["gamma"]})
    write_record(a, {"targets": ["alpha"], "excluded": True, "pairs": [], "dropped": {"s": 2}})
    write_record(b, {"targets": ["alpha", "beta"], "excluded": True, "pairs": [{"source": "s"}], "dropped": {"s": 2}})
    said: list[str] = []
    merge_runs([a, b], tmp_path / "ab", say=said.append)
    merge_runs([tmp_path / "ab", c], tmp_path / "abc", say=silent)
    assert rows_of(tmp_path / "abc").keys() == {row for run in (a, b, c) for row in rows_of(run)}
    config = resolve(tmp_path / "abc/config.yaml")
    assert (config.adapt.targets, config.adapt.shots, config.adapt.seeds) == (["alpha", "beta", "gamma"], ["0", "4", "full"], [0, 1])
    assert config.run_dir == str(tmp_path / "abc")
    _, found = load_bank(tmp_path / "abc", "run")
    changed = "run 2 (b): adapt.lr_task is 0.05 there, 0.1 in the merged configuration"
    assert found.state["changes"] == [f"run 1 (ab): {changed}"] and f"NOTE {changed}" in said
    assert said[-1] == f"8 rows in {tmp_path / 'ab'}; next: python train.py evaluate --run {tmp_path / 'ab'}"
    assert found.state["hashes"]["merged"] == [load_bank(run, "run")[1].identity for run in (tmp_path / "ab", c)]
    assert found.state["hashes"]["config"]["adapt"]["targets"] == ["alpha", "beta", "gamma"]
    assert read_record(tmp_path / "abc") == {"targets": ["alpha", "beta"], "excluded": True, "pairs": [{"source": "s"}], "dropped": {"s": 2}}
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "abc").rglob("*.safetensors")}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "abc").stat().st_mode) == 0o700
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_tables_of_a_sweep_go_along_only_where_there_is_one(adapted, cards, tmp_path: Path) -> None:
    a, b = adapted("a", **A), adapted("b", **B)
    for run, best in ((a, 0), (b, 1)):
        (run / "tune").mkdir()
        (run / "tune/tuning.json").write_text(json.dumps({"lora": {"full": {"rates": [0.1, 0.2], "scores": [0.5, 0.5], "best": best}}}))
    merge_runs([a], tmp_path / "sum", "gamma=alpha", "metaprompt/4", silent)
    assert (tmp_path / "sum/tune/tuning.json").read_text() == (a / "tune/tuning.json").read_text()
    said: list[str] = []
    merge_runs([a, b], tmp_path / "out", say=said.append)
    assert not (tmp_path / "out/tune").exists() and "NOTE merged: tables of learning rates that were tried stay in the runs (tune/tuning.json)" in said


def test_records_that_excluded_and_did_not_count_as_not_excluded() -> None:
    records = [{"targets": ["a"], "excluded": e, "pairs": [], "dropped": {}} for e in (True, False)]
    assert joined_records([*records, None]) == {"targets": ["a"], "excluded": False, "pairs": [], "dropped": {}}
    assert joined_records([None, None]) is None


def test_a_row_that_stands_twice_is_kept_once_or_refused(adapted, tmp_path: Path) -> None:
    a, same, other = adapted("a", **A), adapted("same", **{**A, "adapt.shots": ["0", "full"]}), adapted("other", **{**A, "adapt.steps": 3})
    said: list[str] = []
    merge_runs([a, same], tmp_path / "out", say=said.append)  # zero-shot rows of both are the untouched start
    assert "2 rows stood twice, the same to the bit: kept once" in said
    each = (("0", 0), ("4", 0), ("4", 1), ("full", 0), ("full", 1))
    assert list(rows_of(tmp_path / "out")) == [("alpha", method, shots, seed) for method in ("metaprompt", "prompt_tuning") for shots, seed in each]
    with pytest.raises(UserError) as error:
        merge_runs([a, other], tmp_path / "no", say=silent)
    assert len(error.value.problems) == 4 and not (tmp_path / "no").exists()
    assert error.value.problems[0] == f"--runs: {other} and {a} both hold alpha/metaprompt/4/0, with other numbers; adapt one of them without it"


def test_all_that_does_not_fit_together_is_said_at_once(adapted, make_session, tmp_path: Path) -> None:
    a = adapted("a", **A)
    short = adapted("short", "another source", **{**B, "adapt.methods": ["prompt_tuning"], "prompt.length": 4, "prompt.rank": 1})
    far = adapted("far", "another source", **{**B, "adapt.targets": ["beta"]})
    alter(far, lambda state: state["hashes"].update(backbone="b", layout="l"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    unfinished = adapted("unfinished", **B)
    (unfinished / "COMPLETED").unlink()
    distilled = adapted("distilled", **B)
    alter(distilled, lambda state: state.update(stage="distill"))
    with pytest.raises(UserError) as error:
        merge_runs([a, short, far, a, tmp_path / "gone", unfinished, distilled], tmp_path / "full", say=silent)
    told = "\n".join(error.value.problems)
    wanted = ["--output: ", f"{a} stands twice", "gone is no run directory", f"{unfinished}: holds no finished adaptation",
              "no adaptation but a run of distill", f"{short} and {a}: prompt.length is 4 and 5", f"{short} and {a}: prompt.rank is 1 and 2",
              f"{far} and {a}: another backbone", f"{far} and {a}: another layout",
              f"{far} and {a}: rows of metaprompt adapted from different distillations"]  # fmt: skip
    assert [w for w in wanted if w not in told] == [] and len(error.value.problems) == len(wanted)  # short has no row of a metaprompt
    with pytest.raises(UserError, match="nothing to merge"):
        merge_runs([a], tmp_path / "out", say=silent)


def alter(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = checkpoint.load(run)
    assert found is not None
    state = {k: v for k, v in found.state.items() if k not in ("step", "kept", "sha256")}
    change(state)
    prompts = {n: t for n, t in found.prompts.items() if not any(n in kept for kept in found.kept.values())}
    checkpoint.save(run, found.state["step"], Checkpoint(prompts, found.optimizer, state, found.kept), 1)


def test_parts_of_other_shapes_are_refused(adapted, tmp_path: Path) -> None:
    a, b = adapted("a", **A), adapted("b", **B)
    found = checkpoint.load(b)
    assert found is not None
    wide = {n: torch.cat([t, t], 2) if "rows_KRD" in n else t for n, t in found.kept["best"].items()}
    prompts = {n: t for n, t in found.prompts.items() if not any(n in kept for kept in found.kept.values())}
    state = {k: v for k, v in found.state.items() if k not in ("step", "kept", "sha256")}
    checkpoint.save(b, found.state["step"], Checkpoint(prompts, found.optimizer, state, found.kept | {"best": wide}), 1)
    with pytest.raises(UserError, match=r"rows of metaprompt of other shapes: best.rows_KRD \[2, 128\] and \[2, 64\]"):
        merge_runs([a, b], tmp_path / "out", say=silent)


# ---- what runs may hold that no part has today ----------------------------------------------------------------------------------


def test_tensors_and_lists_of_any_name_go_with_their_rows(adapted, tmp_path: Path) -> None:
    """A part of many tensors, some shared; state that is kept by row; state that is not."""
    runs = [adapted(name, **{**part, "adapt.methods": ["metaprompt"]}) for name, part in (("a", A), ("b", B))]
    for number, (run, n) in enumerate(zip(runs, (3, 2), strict=True)):
        found = checkpoint.load(run)
        assert found is not None
        more = {f"parts.metaprompt.{name}": torch.arange(size * 2.0).view(size, 2) + 100 * own
                for name, size, own in (("down_KRD", n, number), ("all_same", 7, 0), ("one_each", 1, number))}  # fmt: skip
        prompts = {k: t for k, t in found.prompts.items() if not any(k in kept for kept in found.kept.values())} | more
        best = found.kept["best"] | {f"best.{k}": t for k, t in more.items()}
        state = {k: v for k, v in found.state.items() if k not in ("step", "kept", "sha256")} | {"rates": [number + 0.1] * n, "of_run": number, "same": 4}
        checkpoint.save(run, found.state["step"], Checkpoint(prompts, found.optimizer, state, found.kept | {"best": best}), 1)
    said: list[str] = []
    opened = []
    for run in runs:
        found = checkpoint.load(run)
        assert found is not None
        opened.append(Run(run, run.name, resolve(run / "config.yaml"), found, {"metaprompt": range(len(found.state["rows"]))}))
    merged = join(opened, entries(opened, []), said)
    down, same, each = (merged.kept["best"][f"best.parts.metaprompt.{n}"] for n in ("down_KRD", "all_same", "one_each"))
    assert down.tolist() == [[0, 1], [2, 3], [4, 5], [100, 101], [102, 103]] and same.shape == (7, 2) and each[:, 0].tolist() == [0, 0, 0, 100, 100]
    assert merged.state["rates"] == [0.1] * 3 + [1.1] * 2 and merged.state["same"] == 4 and "of_run" not in merged.state
    assert said == ["merged: of_run differs from run to run and is no row's own: left out"]


def test_an_optimizers_group_goes_with_the_part_it_is_named_after(tmp_path: Path) -> None:
    """Parts of the same kind and size, in another order in each run."""
    groups, opened = {"one": 10.0, "two": 20.0, "two_more.fast": 30.0}, []
    for number, order in enumerate((["one", "two", "two_more"], ["two_more", "two", "one"])):
        prompts = {f"{best}parts.{part}.cols_KLR": torch.zeros(1, 2, 1) for best in ("", "best.") for part in order}
        optimizer = {f"{group}.{name}": torch.tensor([value + number]) for group, value in groups.items() for name in ("steps_K", "cols_KLR.first")}
        rows = [{"task": str(number), "method": part, "shots": "0", "seed": 0} for part in order]
        found = Checkpoint(prompts, optimizer, {"rows": rows, "progress": {}, "step": 1})
        opened.append(Run(tmp_path / str(number), "", RunConfig(), found, {part: range(n, n + 1) for n, part in enumerate(order)}))
    merged = join(opened, entries(opened, []), []).optimizer
    assert {name: tensor.tolist() for name, tensor in merged.items()} == {
        f"{group}.{name}": [value, value + 1] for group, value in groups.items() for name in ("steps_K", "cols_KLR.first")}  # fmt: skip


# ---- sums -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import merge

    monkeypatch.setattr(merge, "load_cards", lambda _: {"gamma": None, "delta": None})


def test_a_sum_is_start_and_weighted_differences(adapted, cards, source: JoinedBank, tmp_path: Path) -> None:
    run = adapted("a", **{**A, "adapt.targets": ["alpha", "beta"], "adapt.shots": ["4", "full"]})
    said: list[str] = []
    merge_runs([run], tmp_path / "out", "gamma=alpha + 0.5*beta, delta=2*alpha-beta", say=said.append)
    own, rows = rows_of(run), rows_of(tmp_path / "out")
    assert list(rows)[: len(own)] == list(own) and list(rows)[len(own) :] == [(t, "sum", "0", s) for t in ("gamma", "delta") for s in (0, 1)]
    start = source.parts["metaprompt"].shared_SLD[0]  # type: ignore[index, union-attr]
    for seed in (0, 1):
        alpha, beta = (own[t, "metaprompt", "full", seed] for t in ("alpha", "beta"))
        assert (rows["gamma", "sum", "0", seed] - (start + (alpha - start) + 0.5 * (beta - start))).abs().max() < 1e-12
        assert (rows["delta", "sum", "0", seed] - (2 * alpha - beta)).abs().max() < 1e-12
        assert not torch.equal(rows["gamma", "sum", "0", seed], rows["delta", "sum", "0", seed])
    assert "NOTE gamma sum: start + sum of w (P - start) over rows metaprompt/full: gamma=alpha + 0.5*beta; nothing was trained for it" in said
    _, found = load_bank(tmp_path / "out", "run")
    assert found.state["progress"]["best_step"][-4:] == [0] * 4 and found.state["progress"]["stopped"][-4:] == [True] * 4
    assert resolve(tmp_path / "out/config.yaml").adapt.targets == ["alpha", "beta", "gamma", "delta"]
    # a run with sums merges on, its sums last, and takes more of them
    later = adapted("later", **{**B, "adapt.targets": ["gamma"]})
    merge_runs([tmp_path / "out", later], tmp_path / "more", say=silent)
    assert all(torch.equal(t, (rows | rows_of(later))[label]) for label, t in rows_of(tmp_path / "more").items())
    assert [row[1] for row in rows_of(tmp_path / "more")][-4:] == ["sum"] * 4
    with pytest.raises(UserError, match="a second sum for gamma"):
        merge_runs([tmp_path / "out"], tmp_path / "no", "gamma=beta", say=silent)


def test_sums_stay_last_when_other_parts_come_later(adapted, cards, tmp_path: Path) -> None:
    a = adapted("a", **{**A, "adapt.methods": ["metaprompt"]})
    merge_runs([a], tmp_path / "out", "gamma=alpha", "metaprompt/4", silent)
    b = adapted("b", **{**B, "adapt.methods": ["prompt_tuning"]})
    merge_runs([tmp_path / "out", b], tmp_path / "more", "delta=-alpha", "metaprompt/4", silent)
    rows, own = rows_of(tmp_path / "more"), rows_of(tmp_path / "out") | rows_of(b)
    assert all(torch.equal(rows[label], own[label]) for label in own)
    assert [label for label in rows if label not in own] == list(rows)[-2:] == [("delta", "sum", "0", 0), ("delta", "sum", "0", 1)]


def test_a_sum_has_the_seeds_that_all_its_tasks_have(adapted, cards, tmp_path: Path) -> None:
    runs = [adapted("a", **{**A, "adapt.shots": ["full"]}), adapted("b", **{**B, "adapt.seeds": [1, 2]})]
    merge_runs(runs, tmp_path / "out", "gamma=alpha+beta", say=silent)
    assert [label[3] for label in rows_of(tmp_path / "out") if label[1] == "sum"] == [1]


def test_nothing_is_left_of_a_merge_that_could_not_be_written(adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [adapted("a", **A), adapted("b", **B)]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.merge.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        merge_runs(runs, tmp_path / "out", say=silent)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_task_alone_is_its_own_prompt_to_the_bit(adapted, cards, tmp_path: Path) -> None:
    run = adapted("a", **A)
    merge_runs([run], tmp_path / "out", "gamma=alpha", "metaprompt/4", silent)
    own, rows = rows_of(run), rows_of(tmp_path / "out")
    assert all(torch.equal(rows["gamma", "sum", "0", seed], own["alpha", "metaprompt", "4", seed]) for seed in (0, 1))


def test_prompt_tuning_is_summed_only_from_one_start(adapted, cards, backbone, tmp_path: Path) -> None:
    drawn = adapted("a", **A)
    with pytest.raises(UserError, match="began at a draw of its own"):
        merge_runs([drawn], tmp_path / "out", "gamma=alpha", "prompt_tuning/4", silent)
    text = {"prompt.init": "text", "prompt.init_text": "Dose", "adapt.targets": ["alpha", "beta"]}
    without = adapted("without", **text)
    with pytest.raises(UserError, match='adapt with shots "0" too'):
        merge_runs([without], tmp_path / "out", "gamma=alpha+beta", "prompt_tuning/full", silent)
    other = adapted("other", **{**text, "prompt.init_text": "drug", "adapt.targets": ["beta"], "adapt.seeds": [1]})
    with pytest.raises(UserError, match="only under one prompt.init: text"):
        merge_runs([without, other], tmp_path / "out", "gamma=alpha", "prompt_tuning/full", silent)
    run = adapted("text", **text, **{"adapt.shots": ["0", "full"]})
    beside = adapted("beside", **{**A, "adapt.methods": ["metaprompt"]})  # none of the rows that are summed: how it starts does not matter
    merge_runs([run, beside], tmp_path / "out", "gamma=alpha+beta", "prompt_tuning/full", silent)
    own, rows = rows_of(run), rows_of(tmp_path / "out")
    start = own["alpha", "prompt_tuning", "0", 0]
    assert torch.equal(start, own["beta", "prompt_tuning", "0", 0]) and not torch.equal(start, own["beta", "prompt_tuning", "full", 0])
    wanted = own["alpha", "prompt_tuning", "full", 0] + own["beta", "prompt_tuning", "full", 0] - start
    assert (rows["gamma", "sum", "0", 0] - wanted).abs().max() < 1e-12


def test_where_every_row_trained_a_metaprompt_the_start_comes_from_its_source(adapted, cards, make_session, source: JoinedBank, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    tensors = {f"best.{n}": t for n, t in source.named_parameters()}
    checkpoint.save(folder, 1, Checkpoint({}, {"m": torch.zeros(1)}, {"stage": "distill"}, {"best": tensors}), 1)
    found = checkpoint.load(folder)
    assert found is not None
    every = {**A, "adapt.train": "all", "adapt.shots": ["full"], "adapt.source_run": str(folder)}
    run = adapted("a", found.identity, **every)
    merge_runs([run], tmp_path / "out", "gamma=2*alpha", say=silent)
    start, alpha = source.parts["metaprompt"].shared_SLD[0], rows_of(run)["alpha", "metaprompt", "full", 1]  # type: ignore[index, union-attr]
    assert (rows_of(tmp_path / "out")["gamma", "sum", "0", 1] - (2 * alpha - start)).abs().max() < 1e-12
    merge_runs([adapted("other", "gone", **every)], tmp_path / "fine", "gamma=0.3*alpha+0.7*alpha", say=silent)  # cancels
    with pytest.raises(UserError, match="adapt.source_run alone, which is not there as it was"):
        merge_runs([adapted("another", "gone", **every)], tmp_path / "no", "gamma=2*alpha", say=silent)
    assert not (tmp_path / "no").exists()


def test_sums_that_cannot_be_are_said_at_once(adapted, cards, tmp_path: Path) -> None:
    run = adapted("a", **A)
    with pytest.raises(UserError) as error:
        merge_runs([run], tmp_path / "out", "gamma=alpha+omega,=alpha,gamma,delta=alpha beta,delta=0.5alpha,delta=alpha+", say=silent)
    assert len(error.value.problems) == 6 and "cannot be read from '+omega' on" in error.value.problems[0]
    with pytest.raises(UserError) as error:
        merge_runs([run], tmp_path / "out", "gama=alpha", "lora/4", silent)
    assert [p.split(":")[0] for p in error.value.problems] == ["--sum_of", "--sum"] and "did you mean 'gamma'?" in error.value.problems[1]
    with pytest.raises(UserError, match="no seed of which alpha each have a row metaprompt/16"):
        merge_runs([run], tmp_path / "out", "gamma=alpha", "metaprompt/16", silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("n=a", ((1.0, "a"),)), ("n= .5 * a - b", ((0.5, "a"), (-1.0, "b"))), ("n=-a+2*a-b", ((-1.0, "a"), (2.0, "a-b"))),
        ("n=2012_x+a", ((1.0, "2012_x"), (1.0, "a"))),
    ],
)
def test_how_a_sum_is_written(text: str, terms: tuple[tuple[float, str], ...]) -> None:
    problems: list[str] = []
    (found,) = read_sums(text, ["a", "b", "a-b", "2012_x"], problems)
    assert found.terms == terms and found.target == "n" and not problems


def test_merged_rows_and_sums_go_out_to_other_programs(adapted, cards, tmp_path: Path) -> None:
    runs = [adapted("a", **{**A, "adapt.seeds": [0]}), adapted("b", **B)]
    merge_runs(runs, tmp_path / "plain", say=silent)
    export_run(tmp_path / "plain", "peft", tmp_path / "peft")
    assert load_file(tmp_path / "peft/metaprompt/adapter_model.safetensors")["prefix_task_cols"].shape == (4, 5, 2)
    assert str(tmp_path) not in (tmp_path / "peft/metaprompt/README.md").read_text()
    merge_runs([tmp_path / "plain"], tmp_path / "out", "gamma=alpha", "metaprompt/4", silent)
    wanted = rows_of(tmp_path / "out")
    for fmt, file, name in (("peft_collapsed", "adapter_model", "prompt_embeddings"), ("vllm", "prompt", "prompt_embeds")):
        for folder in export_run(tmp_path / "out", fmt, tmp_path / fmt):
            (row,) = json.loads((folder / "rows.json").read_text())
            assert torch.equal(load_file(folder / f"{file}.safetensors")[name], wanted[tuple(row.values())])
        assert len(list((tmp_path / fmt).glob("*/rows.json"))) == len(wanted)
    with pytest.raises(UserError, match="gamma.sum.0: a sum of prompts has no factors.*peft_collapsed"):
        export_run(tmp_path / "out", "peft", tmp_path / "no")
