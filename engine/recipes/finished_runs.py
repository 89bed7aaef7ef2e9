"""Modes that read finished runs: ``evaluate``, ``predict``, ``report``, ``export``, ``merge``."""

from collections.abc import Sequence

from engine.config import RunConfig, expand, read_switch
from engine.core import UserError
from engine.distributed import room_for
from engine.recipes.checks import config_of_run


def evaluate(run: str, tasks: Sequence[str] = (), overrides: dict[str, str] | None = None) -> None:
    """Official metrics of a finished run's rows on their test splits -> results.json."""
    from engine.core import deterministic
    from engine.evaluation import evaluate_run
    from engine.training import BackboneHolder

    config = _of_run(run, overrides or {}, "evaluate")
    with deterministic(config.deterministic):
        evaluate_run(BackboneHolder.of(config, writes=("--run", "data.cache")), tasks)


def predict(run: str, row: Sequence[str], source: str, output: str, overrides: dict[str, str] | None = None) -> None:
    """Answers for a user's own notes, by one row of a finished run: task, method, shots and seed (empty: chosen)."""
    from engine.core import deterministic
    from engine.evaluation import Wanted, names_folder, predict_notes
    from engine.training import BackboneHolder

    config = _of_run(run, overrides or {}, "predict")
    into = expand(output)
    with deterministic(config.deterministic):
        holder = BackboneHolder.of(config, writes=())
        predict_notes(
            holder,
            wanted=Wanted(*row),
            source=expand(source),
            output=into,
            into_folder=names_folder(output, into),
        )


def _of_run(run: str, overrides: dict[str, str], mode: str) -> RunConfig:
    """A finished run's configuration, with what a command that only reads the run may change."""
    config, problems = config_of_run(expand(run), overrides, mode)
    if config is None or problems:
        raise UserError(problems)
    return config


def report(runs: Sequence[str], output: str = "", vocabulary: str = "false", distillations: Sequence[str] = ()) -> None:
    """Several runs' results as report.html and report.md in ``output`` (default: the first run), and shortly on the
    terminal.

    Args:
        distillations: run directories behind the runs, not evaluated, whose cost is told.
    """
    from engine.reporting import write_report

    problems = [] if runs else ["--runs: names no run directory"]
    shown = read_switch(vocabulary, "command line: --vocabulary", problems)
    into = expand(output or runs[0]) if runs else None
    if into is not None and not output:  # a flag was looked at as the command was read
        problems += room_for("command line: --output", into, 0)
    if problems or into is None:
        raise UserError(problems)
    named = {expand(name): name for name in distillations}
    write_report([expand(r) for r in runs], output=into, names=runs, vocabulary=shown, distillations=named)


def export(run: str, fmt: str, output: str, tasks: Sequence[str] = ()) -> None:
    """Prompts of a finished run as PEFT adapters or for vLLM."""
    from engine.recipes.exporting import export_run

    for folder in export_run(expand(run), fmt, output=expand(output), tasks=tasks):
        print(f"written {folder}")


def merge(runs: Sequence[str], output: str, sums: str = "", sum_of: str = "metaprompt/full") -> None:
    """Several finished adaptations as one run; rows that are sums of prompts."""
    from engine.recipes.merging import merge_runs

    if not runs:
        raise UserError("--runs: names no run directory")
    merge_runs([expand(r) for r in runs], output=expand(output), sums=sums, sum_of=sum_of)
