"""What a mode can be refused with before torch is imported, by the flags of its command.

A required flag may be missing, which the caller tells. The other flags are checked all the same.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine import config as configuration
from engine.cli.flags import listed
from engine.core import UserError
from engine.recipes import checks

if TYPE_CHECKING:  # a list of the modes does without the keys of the configuration
    from engine.config import RunConfig

Flags = Mapping[str, str]


def problems_of(name: str, own: Flags, keys: Flags, words: Sequence[str], required: Sequence[str] = ()) -> list[str]:
    """All problems of a command whose flags are known, besides that a required flag is missing or empty.

    Args:
        own: the mode's own flags. keys: those of the run configuration.
    """
    find = _FINDERS.get(name)
    missing = [flag for flag in required if not own.get(flag, "").strip()]
    given = {flag: text for flag, text in own.items() if flag not in missing}
    try:
        found = [] if find is None else find(given, keys, words)
    except UserError as error:  # such as a path with a variable that is not set
        found = list(error.problems)
    told = tuple(f"--{flag}: " for flag in missing)
    return [problem for problem in found if not problem.removeprefix("command line: ").startswith(told)]


def _of_config(check: "Callable[[RunConfig], list[str]]") -> Callable[[Flags, Flags, Sequence[str]], list[str]]:
    """Problems of the file, then of what the keys that can be read name."""

    def find(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
        config, problems = configuration.read_config(own.get("config", ""), keys)
        return problems if config is None else [*problems, *_untold(check(config), problems)]

    return find


def _untold(found: Sequence[str], told: Sequence[str]) -> list[str]:
    """Those whose key no problem was told of: a wrong key holds its default meanwhile."""
    text = "\n".join(told)
    return [problem for problem in found if f"{problem.partition(': ')[0]}:" not in text]


def _run(own: Flags) -> str:
    """The run directory; where none is named a path that is not one, of which only that would be told."""
    return own.get("run") or os.devnull


def _evaluate(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    return checks.evaluation_problems(_run(own), listed(own.get("tasks")), keys)


def _predict(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    row = [own.get(name, "") for name in ("task", "method", "shots", "seed")]
    source, output = own.get("input", ""), own.get("output", "")
    return checks.prediction_problems(_run(own), row, source=source, output=output, overrides=keys)


def _export(own: Flags, _: Flags, __: Sequence[str]) -> list[str]:
    output = own.get("output", "")
    return checks.export_problems(_run(own), own.get("format", ""), output=output, tasks=listed(own.get("tasks")))


def _merge(own: Flags, _: Flags, __: Sequence[str]) -> list[str]:
    runs, sums = listed(own.get("runs")), listed(own.get("sum"))
    return checks.merge_problems(runs, own.get("output", ""), sums=sums, sum_of=own.get("sum_of", "metaprompt/full"))


def _report(own: Flags, _: Flags, __: Sequence[str]) -> list[str]:
    return checks.report_problems(listed(own.get("runs")), own.get("output", ""))


def _study(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    problems = configuration.read_config("", keys)[1]
    told = " ".join(problems)
    right = {key: text for key, text in keys.items() if f"--{key}: " not in told}
    dry_run = configuration.read_switch(own.get("dry_run", "false"), "command line: --dry_run", problems)
    if own.get("config") and not dry_run:
        problems += checks.study_problems(own["config"], listed(own.get("only")), right)
    return problems


def _benchmark(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    from engine.benchmarking import read_request

    asked = {name: text for name, text in own.items() if name != "config"}
    asked.setdefault("steps", "1")  # that it is missing has been told
    request, problems = read_request(own.get("config", ""), asked, dict(keys))
    if request is None:
        return problems
    corpora, told = checks.Corpora(), list(problems)
    for case in request.cases:
        found = checks.benchmark_problems(case.config, request.mode, "invented" in own, corpora)
        for problem in _untold(found, told):
            swept = problem.partition(": ")[0] in case.swept
            problems.append(f"command line: --sweep: {problem}" if swept else problem)
    return list(dict.fromkeys(problems))


def _plan(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    from engine.recipes import plan_problems

    flags = {name: text for name, text in own.items() if name != "config"}
    return plan_problems(own.get("config", ""), keys, flags)


def _tasks(own: Flags, _: Flags, words: Sequence[str]) -> list[str]:
    if list(words) == ["list"]:
        return []
    from engine.data import OverlapQuestion, TokenQuestion, check_problems

    missing = "check" in words and not own.get("data_root")
    told = ["--data_root: missing; name the folder that holds the corpora"] if missing else []
    return told + check_problems(
        own.get("data_root") or ".",
        cards=listed(own.get("cards")),
        tasks=listed(own.get("tasks")),
        output=own.get("output", ""),
        tokens=TokenQuestion(own.get("backbone", ""), own.get("max_length", ""), own.get("max_new_tokens", "")),
        overlap=OverlapQuestion(own.get("overlap", "true"), listed(own.get("targets")), listed(own.get("sources"))),
    )


_FINDERS: dict[str, Callable[[Flags, Flags, Sequence[str]], list[str]]] = {
    "distill": _of_config(lambda config: checks.distillation_problems(config)),
    "adapt": _of_config(lambda config: checks.adaptation_problems(config)),
    "benchmark": _benchmark,
    "plan": _plan,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "merge": _merge,
    "report": _report,
    "study": _study,
    "tasks": _tasks,
}
