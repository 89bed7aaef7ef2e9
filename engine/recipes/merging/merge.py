"""Finished adaptations of one metaprompt as one run, for evaluate, export, predict and report: a task that came
later joins those before it.
"""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import checkpoints
from engine.checkpoints import Checkpoint, bank_of, load_bank
from engine.config import FREE_ON_RESUME, JOINED_BY_MERGE, Rate, RunConfig, expand, flat, resolve, to_yaml, value_at
from engine.core import UserError, write_atomic
from engine.data import join_overlap_records, load_cards, read_overlap_record, unknown_task, write_overlap_record
from engine.recipes.merging import prompt_sums
from engine.recipes.merging.prompt_sums import PromptSum
from engine.recipes.merging.rows import LABELS, Run, append_sums, entries, join, shape_problems
from engine.recipes.source_terms import sources_of

JOINED = JOINED_BY_MERGE  # of which the merged configuration has all runs'
TUNING = Path("tune/tuning.json")  # what a sweep leaves in a run


def merge_runs(
    folders: Sequence[Path],
    output: Path,
    sums: str = "",
    sum_of: str = "metaprompt/full",
    say: Callable[[str], None] = print,
) -> None:
    """Write one finished run with the rows of all, and those of prompt sums.

    Args:
        folders: finished adaptations. output: a new folder.
        sums: NAME=w*task1+task2, separated by commas (see ``prompt_sums``): rows of task NAME, method sum, 0 shots.
            sum_of: METHOD/SHOTS of the rows that are summed, seed by seed.

    Raises:
        UserError: everything that keeps them from being one run, at once; nothing is written.
    """
    problems = (
        [f"--output: {output} is there already; name a new folder"]
        if output.exists() and (not output.is_dir() or any(output.iterdir()))
        else []
    )
    resolved = [folder.resolve() for folder in folders]
    problems += [f"--runs: {folder} stands twice" for n, folder in enumerate(folders) if resolved[n] in resolved[:n]]
    if len(folders) < 2 and not sums.strip(" ,"):
        problems.append("--runs: nothing to merge; name several run directories, or a --sum")
    runs = [
        run
        for n, folder in enumerate(folders, 1)
        if (run := _opened(folder, f"run {n} ({folder.resolve().name})", problems)) is not None
    ]
    problems += _disagreements(runs) if runs else []
    if problems:
        raise UserError(problems)
    parts = entries(runs, problems)
    wanted = prompt_sums.read_sums(sums, list(dict.fromkeys(row["task"] for run in runs for row in run.rows)), problems)
    if problems:
        raise UserError(problems)
    config = _config(runs, output, wanted)
    told = _differences(runs, config)
    merged = join(runs, parts, told)
    n_joined = len(merged.state["rows"])
    merged.state["hashes"] = _hashes(runs, config)
    merged.state.update(_source_tasks(runs))
    if wanted:
        merged = _with_sums(merged, list(parts), runs, wanted, sum_of, config)
        told += [
            f"{s.target} sum: start + sum of w (P - start) over rows {sum_of}: {s.text}; nothing was trained for it"
            for s in wanted
        ]
    tables = list(
        dict.fromkeys((run.folder / TUNING).read_text() if (run.folder / TUNING).is_file() else "" for run in runs)
    )
    if len(tables) > 1:
        told.append(f"merged: tables of learning rates that were tried stay in the runs ({TUNING})")
    merged.state["changes"] = [
        *(f"{run.name}: {line}" for run in runs for line in run.found.state.get("changes", [])),
        *told,
    ]
    _write(
        output,
        merged,
        config,
        join_overlap_records([read_overlap_record(run.folder) for run in runs]),
        tables[0] if len(tables) == 1 else "",
    )
    for line in told:
        say(f"NOTE {line}")
    repeated = sum(len(run.rows) for run in runs) - n_joined
    if repeated:
        say(f"{repeated} rows stood twice, the same to the bit: kept once")
    say(f"{len(merged.state['rows'])} rows in {output}; next: python train.py evaluate --run {output}")


def _opened(folder: Path, name: str, problems: list[str]) -> Run | None:
    try:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is no run directory (it has no config.yaml)")
        bank, found = load_bank(folder, "adaptation")
        if found.state["stage"] != "adapt":
            raise UserError(f"{folder} is no adaptation but a run of {found.state['stage']}")
        return Run(folder, name, resolve(folder / "config.yaml", {"run_dir": str(folder)}), found, bank.spans())
    except UserError as error:
        problems += [f"--runs: {p}" for p in error.problems]
    return None


def _disagreements(runs: Sequence[Run]) -> list[str]:
    """What one bank, or one backbone, cannot hold both of."""
    first, problems = runs[0], []
    for run in runs[1:]:
        both, own, other = (
            f"--runs: {run.folder} and {first.folder}",
            run.found.state["hashes"],
            first.found.state["hashes"],
        )
        problems += [
            f"{both}: another {key}; prompts fit their own only"
            for key in ("backbone", "layout")
            if own[key] != other[key]
        ]
        for key in ("prompt.num_virtual_tokens", "prompt.rank"):
            here, there = value_at(run.config, key), value_at(first.config, key)
            problems += [f"{both}: {key} is {here} and {there}; they must agree"] if here != there else []
    for part in dict.fromkeys(part for run in runs for part in run.sources):
        adapted = [run for run in runs if part in run.sources]
        problems += [
            f"--runs: {run.folder} and {adapted[0].folder}: rows of {part} adapted from different distillations"
            for run in adapted[1:]
            if run.sources[part] != adapted[0].sources[part]
        ]
    return problems or shape_problems(runs)


def _config(runs: Sequence[Run], output: Path, sums: Sequence[PromptSum]) -> RunConfig:
    """The first run's, with the targets, methods, shots, seeds and cards of all. Rows need not be every combination
    of them.
    """
    config = copy.deepcopy(runs[0].config)
    config.run_dir = str(output)
    for key in JOINED:
        section, _, leaf = key.partition(".")
        setattr(
            value_at(config, section), leaf, list(dict.fromkeys(v for run in runs for v in value_at(run.config, key)))
        )
    config.adapt.targets += [t for t in dict.fromkeys(s.target for s in sums) if t not in config.adapt.targets]
    if any(run.config.adapt.train == "all" for run in runs):
        config.adapt.train = "all"
    return config


def _differences(runs: Sequence[Run], merged: RunConfig) -> list[str]:
    """How rows came about, or were asked, otherwise than the merged configuration says. Without paths: it goes into
    results and model cards.
    """
    kept = flat(
        {k: v for k, v in asdict(merged).items() if k in ("seed", "data", "prompt", "adapt", "tune", "evaluate")}
    )
    skipped = {key for key in FREE_ON_RESUME if not key.startswith("evaluate.")}
    skipped |= {*JOINED, "adapt.source_run", "adapt.multitask_run", "evaluate.batch_size"}
    rates = _rates(runs)
    out = []
    for run in runs:
        own = flat(asdict(run.config))
        out += [
            f"{run.name}: {k} is {own[k]!r} there, {v!r} in the merged configuration"
            for k, v in kept.items()
            if k not in skipped and own[k] != v
        ]
        chosen = run.found.state["hashes"].get("rates", {})
        for k, v in chosen.items():
            if v != rates[k]:
                out.append(
                    f"{run.name}: the learning rate of {k} is {Rate.of(v)} there, {Rate.of(rates[k])} in an earlier run"
                )
        if own["data.root"] != kept["data.root"]:
            out.append(
                f"{run.name}: another data.root than {runs[0].name}; give evaluate a --data.root that holds all corpora"
            )
    return out


def _rates(runs: Sequence[Run]) -> dict[str, Any]:
    """What sweeps chose, by method and shots; of several runs the first's."""
    return {k: v for run in reversed(runs) for k, v in run.found.state["hashes"].get("rates", {}).items()}


def _hashes(runs: Sequence[Run], config: RunConfig) -> dict[str, Any]:
    """Of the first run, with what was joined. ``merged``, which no adaptation has, keeps one from going on training
    from here.
    """
    all_hashes = [run.found.state["hashes"] for run in runs]
    out = copy.deepcopy(all_hashes[0])
    for key in (*JOINED, "adapt.train"):
        section, _, leaf = key.partition(".")
        out["config"][section][leaf] = value_at(config, key)
    data = list(dict.fromkeys(h["data"] for h in all_hashes))
    out["data"] = data[0] if len(data) == 1 else hashlib.sha256(json.dumps(data).encode()).hexdigest()
    out |= {
        "sources": {part: identity for run in runs for part, identity in run.sources.items()},
        "rates": _rates(runs),
    }
    return out | {"merged": [run.found.identity for run in runs]}


def _source_tasks(runs: Sequence[Run]) -> dict[str, Any]:
    """What any of the runs knows of the distillations behind their rows: for a method the same one in all runs."""
    noted: dict[str, Any] = {}
    for run in runs:
        noted |= {method: record for method, record in sources_of(run.found.state, run.config).items() if record}
    return {"source_tasks": noted} if noted else {}


def _with_sums(
    merged: Checkpoint,
    order: Sequence[str],
    runs: Sequence[Run],
    sums: Sequence[PromptSum],
    sum_of: str,
    config: RunConfig,
) -> Checkpoint:
    """The merged run with a row more for each sum and seed.

    Raises:
        UserError: a task is unknown or has no such row, or the rows have no start in common.
    """
    method, _, shots = sum_of.partition("/")
    problems = (
        []
        if method in ("metaprompt", "prompt_tuning") and shots
        else [f"--sum_of: {sum_of!r}: expected metaprompt/SHOTS or prompt_tuning/SHOTS"]
    )
    cards = load_cards(config.data)
    problems += [f"--sum: {s.text!r}: {unknown_task(s.target, cards)}" for s in sums if s.target not in cards]
    numbers = {tuple(row[key] for key in LABELS): k for k, row in enumerate(merged.state["rows"])}
    bank = bank_of(merged.prompts | {n: t for tensors in merged.kept.values() for n, t in tensors.items()}, order)
    start_LD = _start(method, runs, any(s.needs_start for s in sums), problems) if not problems else None
    rows: list[dict[str, Any]] = []
    prompts: list[Tensor] = []
    for s in () if problems else sums:
        seeds = [
            row["seed"]
            for row in merged.state["rows"]
            if (row["task"], row["method"], row["shots"]) == (s.tasks[0], method, shots)
        ]
        seeds = [seed for seed in seeds if all((task, method, shots, seed) in numbers for task in s.tasks)]
        problems += (
            []
            if seeds
            else [f"--sum: {s.text!r}: no seed of which {', '.join(s.tasks)} each have a row {sum_of}; see --sum_of"]
        )
        for seed in seeds:
            label = (s.target, prompt_sums.METHOD, "0", seed)
            problems += (
                [f"--sum: {s.text!r}: a second sum for {s.target}; a run holds one"]
                if label in numbers and seed == seeds[0]
                else []
            )
            numbers[label] = len(numbers)
            with torch.no_grad():
                own = {task: bank.prompts(torch.tensor([numbers[task, method, shots, seed]]))[0] for task in s.tasks}
            rows.append(dict(zip(LABELS, label, strict=True)))
            prompts.append(s.prompt(own, start_LD))
    if problems:
        raise UserError(problems)
    return append_sums(merged, rows, torch.stack(prompts))


def _start(method: str, runs: Sequence[Run], needed: bool, problems: list[str]) -> Tensor | None:
    """(L, D) that the rows of a method began at; None where it is not needed."""
    if method == "prompt_tuning":
        starts = {
            (run.config.prompt.init, run.config.prompt.init_text)
            for run in runs
            if any(row["method"] == method for row in run.rows)
        }
        if len(starts) > 1 or any(init != "text" for init, _ in starts):
            problems.append(
                "--sum_of: each row of prompt_tuning began at a draw of its own; they can be summed only under "
                "one prompt.init: text"
            )
        zero_shot = (
            [
                (run, k)
                for run in runs
                for k, row in enumerate(run.rows)
                if (row["method"], row["shots"]) == (method, "0")
            ]
            if needed
            else []
        )
        if needed and not zero_shot:
            problems.append(
                '--sum: weights that do not sum to 1 need the start of the prompts: adapt with shots "0" too, '
                "which is it"
            )
        return zero_shot[0][0].row(zero_shot[0][1])["best.prompts_KLD"] if zero_shot else None
    if not needed:
        return None
    for run in (run for run in runs if method in run.sources):
        if "shared_SLD" in run.frozen(method):
            return run.tensors(method)["shared_SLD"][0]
        folder = expand(run.config.adapt.source_run)  # each row trained a P* of its own
        source = checkpoints.load(folder) if folder.is_dir() else None
        if source is not None and source.identity == run.sources[method]:
            return source.prompts["best.parts.metaprompt.shared_SLD"][0]
    problems.append(
        "--sum: weights that do not sum to 1 need P*; under adapt.train: all it is in adapt.source_run alone, "
        "which is not there as it was"
    )
    return None


def _write(output: Path, merged: Checkpoint, config: RunConfig, overlap: dict[str, Any] | None, tuning: str) -> None:
    """All of it, or nothing."""
    output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))  # its owner's alone
    try:
        checkpoints.save(partial, merged.state["progress"]["step"], merged, 1)
        write_atomic(partial / "config.yaml", to_yaml(config))
        write_overlap_record(partial, overlap)
        if tuning:
            (partial / TUNING).parent.mkdir(mode=0o700)
            write_atomic(partial / TUNING, tuning)
        (partial / "COMPLETED").touch()
        if output.exists():
            output.rmdir()  # empty: checked before
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
