"""Finished adaptations of one metaprompt as one run, for evaluate, export, predict and report: a task that came
later joins those before it.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine import checkpoints
from engine.checkpoints import Checkpoint, load_bank
from engine.config import RunConfig, resolve, to_yaml, value_at
from engine.core import UserError, write_atomic
from engine.data import join_overlap_records, read_overlap_record, write_overlap_record
from engine.recipes.merging import prompt_sums
from engine.recipes.merging.merged_config import differences, merged_config, merged_hashes, noted_sources
from engine.recipes.merging.rows import Run, entries, join, shape_problems
from engine.recipes.merging.sum_rows import with_sums
from strict_yaml import counted

TUNING = Path("lr_sweep/tuning.json")  # what a sweep leaves in a run


def merge_runs(
    folders: Sequence[Path],
    output: Path,
    sums: str = "",
    sum_of: str = "metaprompt/full",
    print_rank0: Callable[[str], None] = print,
) -> None:
    """Write one finished run with the rows of all, and those of prompt sums.

    Args:
        folders: finished adaptations. output: a new folder.
        sums: NAME=w*task1+task2, separated by commas (see ``prompt_sums``): rows of task NAME, method sum, 0 shots.
            sum_of: METHOD/SHOTS of the rows that are summed, seed by seed.

    Raises:
        UserError: everything that keeps them from being one run, at once; nothing is written.
    """
    runs = _compatible_runs(folders, output, sums)
    problems: list[str] = []
    parts = entries(runs, problems)
    wanted = prompt_sums.read_sums(sums, _tasks(runs), problems)
    if problems:
        raise UserError(problems)
    config = merged_config(runs, output, wanted)
    told = differences(runs, config)
    merged = join(runs, parts, told)
    n_joined = len(merged.state["rows"])
    merged.state["hashes"] = merged_hashes(runs, config)
    merged.state.update(noted_sources(runs))
    if wanted:
        merged = with_sums(merged, order=list(parts), runs=runs, sums=wanted, sum_of=sum_of, config=config)
        for s in wanted:
            told.append(
                f"{s.target} sum: start + sum of w (P - start) over rows {sum_of}: {s.text}; nothing was trained for it"
            )
    tables = _sweep_tables(runs)
    if len(tables) > 1:
        told.append(f"merged: tables of learning rates that were tried stay in the runs ({TUNING})")
    merged.state["changes"] = _earlier_changes(runs) + told
    overlap = join_overlap_records([read_overlap_record(run.folder) for run in runs])
    _write(output, merged, config=config, overlap=overlap, tuning=tables[0] if len(tables) == 1 else "")
    for line in told:
        print_rank0(f"NOTE {line}")
    repeated = sum(len(run.rows) for run in runs) - n_joined
    if repeated:
        print_rank0(f"{counted(repeated, 'duplicate row')}, bit-identical: kept once")
    rows = counted(len(merged.state["rows"]), "row")
    print_rank0(f"{rows} in {output}; next: python train.py evaluate --run {output}")


def _compatible_runs(folders: Sequence[Path], output: Path, sums: str) -> list[Run]:
    """The runs of these folders, if one run can hold them all.

    Raises:
        UserError: everything that keeps them from it.
    """
    problems = []
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        problems.append(f"--output: {output} already exists; name a new folder")
    resolved = [folder.resolve() for folder in folders]
    for n, folder in enumerate(folders):
        if resolved[n] in resolved[:n]:
            problems.append(f"--runs: duplicate {folder}")
    if len(folders) < 2 and not sums.strip(" ,"):
        problems.append("--runs: nothing to merge; name several run directories, or a --sum")
    runs = []
    for n, folder in enumerate(folders, 1):
        run = _opened(folder, f"run {n} ({folder.resolve().name})", problems)
        if run is not None:
            runs.append(run)
    if runs:
        problems += _disagreements(runs)
    if problems:
        raise UserError(problems)
    return runs


def _opened(folder: Path, name: str, problems: list[str]) -> Run | None:
    try:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder} is not a run directory (it has no config.yaml)")
        bank, found = load_bank(folder, "adaptation")
        if found.state["stage"] != "adapt":
            raise UserError(f"{folder} is not an adaptation but a run of {found.state['stage']}")
        return Run(folder, name, resolve(folder / "config.yaml", {"run_dir": str(folder)}), found, bank.spans())
    except UserError as error:
        problems += [f"--runs: {p}" for p in error.problems]
    return None


def _disagreements(runs: Sequence[Run]) -> list[str]:
    """What one bank, or one backbone, cannot hold both of."""
    first, problems = runs[0], []
    for run in runs[1:]:
        both = f"--runs: {run.folder} and {first.folder}"
        own, other = run.found.state["hashes"], first.found.state["hashes"]
        for key in ("backbone", "layout"):
            if own[key] != other[key]:
                problems.append(f"{both}: different {key}; prompts fit only their own")
        for key in ("prompt.num_virtual_tokens", "prompt.rank"):
            here, there = value_at(run.config, key), value_at(first.config, key)
            if here != there:
                problems.append(f"{both}: {key} is {here} and {there}; they must agree")
    return problems + _source_disagreements(runs) or shape_problems(runs)


def _source_disagreements(runs: Sequence[Run]) -> list[str]:
    """Rows of one part that were adapted from different distillations."""
    first_with: dict[str, Run] = {}
    differing: dict[str, list[Run]] = {}
    for run in runs:
        for part in run.sources:
            first = first_with.setdefault(part, run)
            others = differing.setdefault(part, [])
            if run.sources[part] != first.sources[part]:
                others.append(run)
    problems = []
    for part, others in differing.items():
        for run in others:
            both = f"{run.folder} and {first_with[part].folder}"
            problems.append(f"--runs: {both}: rows of {part} adapted from different distillations")
    return problems


def _tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks that have rows, in the order of the runs."""
    found: dict[str, None] = {}
    for run in runs:
        found.update((row["task"], None) for row in run.rows)
    return list(found)


def _earlier_changes(runs: Sequence[Run]) -> list[str]:
    """Changes that were accepted while the runs were trained."""
    lines = []
    for run in runs:
        lines += [f"{run.name}: {line}" for line in run.found.state.get("changes", [])]
    return lines


def _sweep_tables(runs: Sequence[Run]) -> list[str]:
    """The different tables of learning rates that sweeps left in the runs; one that has none counts as empty text."""
    found: dict[str, None] = {}
    for run in runs:
        table = run.folder / TUNING
        found[table.read_text() if table.is_file() else ""] = None
    return list(found)


def _write(output: Path, merged: Checkpoint, *, config: RunConfig, overlap: dict[str, Any] | None, tuning: str) -> None:
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
