"""What a mode can be refused with before torch is imported, by the flags of its command."""

from collections.abc import Callable, Mapping, Sequence

from engine.cli.flags import listed
from engine.config import RunConfig, read_config, read_switch
from engine.core import UserError
from engine.recipes import checks

Flags = Mapping[str, str]


def problems_of(name: str, own: Flags, keys: Flags, words: Sequence[str]) -> list[str]:
    """All problems of a command whose flags are known.

    Args:
        own: the mode's own flags. keys: those of the run configuration.
    """
    find = _FINDERS.get(name)
    try:
        return [] if find is None else find(own, keys, words)
    except UserError as error:  # such as a path with a variable that is not set
        return list(error.problems)


def _of_config(check: Callable[[RunConfig], list[str]]) -> Callable[[Flags, Flags, Sequence[str]], list[str]]:
    """Problems of the file, then of what the keys that can be read name."""

    def find(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
        if not own.get("config"):
            return []
        config, problems = read_config(own["config"], keys)
        return problems if config is None else [*problems, *_untold(check(config), problems)]

    return find


def _untold(found: Sequence[str], told: Sequence[str]) -> list[str]:
    """Those whose key no problem was told of: a wrong key holds its default meanwhile."""
    text = "\n".join(told)
    return [problem for problem in found if f"{problem.partition(': ')[0]}:" not in text]


def _evaluate(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    return checks.evaluation_problems(own["run"], listed(own.get("tasks")), keys) if own.get("run") else []


def _predict(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    if not all(own.get(name) for name in ("run", "task", "input", "output")):
        return []
    row = [own.get(name, "") for name in ("task", "method", "shots", "seed")]
    return checks.prediction_problems(own["run"], row, source=own["input"], output=own["output"], overrides=keys)


def _export(own: Flags, _: Flags, __: Sequence[str]) -> list[str]:
    if not all(own.get(name) for name in ("run", "format", "output")):
        return []
    return checks.export_problems(own["run"], own["format"], output=own["output"], tasks=listed(own.get("tasks")))


def _merge(own: Flags, _: Flags, __: Sequence[str]) -> list[str]:
    if not all(own.get(name) for name in ("runs", "output")):
        return []
    return checks.merge_problems(listed(own["runs"]), own["output"], own.get("sum", ""))


def _report(own: Flags, _: Flags, __: Sequence[str]) -> list[str]:
    problems: list[str] = []
    read_switch(own.get("vocabulary", "false"), "command line: --vocabulary", problems)
    if "runs" in own:
        problems += checks.report_problems(listed(own["runs"]), own.get("output", ""))
    return problems


def _study(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    problems: list[str] = []
    dry_run = read_switch(own.get("dry_run", "false"), "command line: --dry_run", problems)
    if own.get("config") and not dry_run:
        problems += checks.study_problems(own["config"], listed(own.get("only")), keys)
    return problems


def _benchmark(own: Flags, keys: Flags, _: Sequence[str]) -> list[str]:
    if not own.get("config"):
        return []
    from engine.benchmarking import read_request

    asked = {name: text for name, text in own.items() if name != "config"}
    asked.setdefault("steps", "1")  # that it is missing has been told
    request, problems = read_request(own["config"], asked, dict(keys))
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
    if not own.get("config"):
        return []
    from engine.recipes import plan_problems

    flags = {name: text for name, text in own.items() if name != "config"}
    return plan_problems(own["config"], keys, flags)


def _tasks(own: Flags, _: Flags, words: Sequence[str]) -> list[str]:
    if list(words) != ["check"]:
        return []
    if not own.get("data_root"):
        return ["--data_root: missing; name the folder that holds the corpora"]
    from engine.data import OverlapQuestion, TokenQuestion, check_problems

    return check_problems(
        own["data_root"],
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
