"""From a typed command to a mode, strictly: unknown flags, wrong types and --help end before anything starts.

Fire alone would run the body first and complain about a typo afterwards, swallow it in ``**flags``, or run the job for
``--help``.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from engine import config, distributed, recipes, telemetry
from engine.cli import early, exit_codes, origins
from engine.cli.arguments import Typed, later_mode, mode_problem, parse
from engine.cli.flags import (
    BENCHMARK,
    CONFIG,
    ONLY_TASKS,
    RUN,
    Mode,
    divided,
    known_flags,
    listed,
    print_help,
    problems_of,
    switches,
)
from engine.core import DoesNotFit, Slower, Stopped, UserError
from strict_yaml import nearest

SIGNALLED = ("distill", "adapt", "evaluate", "predict", "study")  # modes that a scheduler's signal may reach


def _with_config(command: Callable) -> Callable[[dict[str, str], Sequence[str]], None]:
    return lambda flags, _: command(config.resolve(flags["config"], _without(flags, ("config",))))


def _without(flags: dict[str, str], own: Sequence[str]) -> dict[str, str]:
    """The keys of the run configuration, without a mode's own flags."""
    return {name: text for name, text in flags.items() if name not in own}


def _tasks(flags: dict[str, str], words: Sequence[str]) -> None:
    if words[0] == "list":
        recipes.tasks_list(listed(flags.get("cards")))
    elif "data_root" not in flags:
        raise UserError("tasks check: --data_root: missing; name the folder that holds the corpora")
    else:
        from engine.data import OverlapQuestion, TokenQuestion, check_data

        check_data(
            flags["data_root"],
            cards=listed(flags.get("cards")),
            tasks=listed(flags.get("tasks")),
            output=flags.get("output", ""),
            tokens=TokenQuestion(
                flags.get("backbone", ""), flags.get("max_length", ""), flags.get("max_new_tokens", "")
            ),
            overlap=OverlapQuestion(
                flags.get("overlap", "true"), listed(flags.get("targets")), listed(flags.get("sources"))
            ),
        )


def _evaluate(flags: dict[str, str], _: Sequence[str]) -> None:
    recipes.evaluate(flags["run"], listed(flags.get("tasks")), _without(flags, ("run", "tasks")))


def _study(flags: dict[str, str], _: Sequence[str]) -> None:
    problems: list[str] = []
    dry_run = config.read_switch(flags.get("dry_run", "false"), "command line: --dry_run", problems)
    if problems:
        raise UserError(problems)
    from engine.recipes import run_study

    run_study(
        flags["config"],
        only=listed(flags.get("only")),
        overrides=_without(flags, ("config", "only", "dry_run")),
        plan_only=dry_run,
    )


def _predict(flags: dict[str, str], _: Sequence[str]) -> None:
    row = [flags.get(name, "") for name in ("task", "method", "shots", "seed")]
    own = ("run", "task", "input", "output", "method", "shots", "seed")
    recipes.predict(flags["run"], row, source=flags["input"], output=flags["output"], overrides=_without(flags, own))


def _plan(flags: dict[str, str], _: Sequence[str]) -> None:
    recipes.plan(flags["config"], _without(flags, tuple(MODES["plan"].flags)), flags)


def _benchmark(flags: dict[str, str], _: Sequence[str]) -> None:
    from engine.benchmarking import request_of, run_benchmark

    own = {name: text for name, text in flags.items() if name in BENCHMARK}
    run_benchmark(request_of(flags["config"], own, _without(flags, ("config", *BENCHMARK))))


MODES: dict[str, Mode] = {
    "distill": Mode(
        "train a prompt for every source task, then distil these prompts into one metaprompt",
        CONFIG,
        _with_config(lambda run: recipes.distill(run)),
        ("config",),
        True,
        reads=("distill",),
    ),
    "adapt": Mode(
        "adapt the metaprompt to target tasks: targets x methods x shots x seeds in one pass",
        CONFIG,
        _with_config(lambda run: recipes.adapt(run)),
        ("config",),
        True,
        reads=("adapt",),
    ),
    "study": Mode(
        "run the distillations and adaptations of a protocol file, evaluate them and write one report; continues where "
        "it stopped",
        {
            "config": "YAML protocol (required), see docs/how_to/studies.md; a key of the run configuration can be set "
            "for all runs with --a.b=value",
            "only": "only these protocols, comma-separated",
            "dry_run": "true: list the runs and their state",
        },
        _study,
        ("config",),
        True,
    ),
    "evaluate": Mode(
        "score a finished run with the official metrics of its tasks -> results.json",
        {
            "run": RUN,
            "tasks": ONLY_TASKS,
        },
        _evaluate,
        ("run",),
        True,
        reads=("evaluate",),
    ),
    "report": Mode(
        "write the results of several runs with figures (report.html, report.md); print averages",
        {
            "runs": "run directories, comma-separated (required)",
            "output": "folder of the files (default: the first run directory)",
            "vocabulary": "true: also list the vocabulary entry nearest to each virtual token, which can leak "
            "training text",
        },
        lambda f, _: recipes.report(listed(f["runs"]), f.get("output", ""), f.get("vocabulary", "false")),
        ("runs",),
    ),
    "tasks": Mode(
        "list: show the task cards; check: which corpora are present and complete",
        {
            "data_root": "folder that holds the corpora (check; required)",
            "cards": "folders of further task cards, comma-separated",
            "tasks": "only these tasks, comma-separated (check)",
            "backbone": "backbone card: also count tokens with its tokenizer (check)",
            "max_length": "longest sample in tokens (check; default 1024)",
            "max_new_tokens": "longest generated answer in tokens (check; default 64)",
            "overlap": "false: do not compare test with training documents (check)",
            "targets": "tasks whose test documents are compared (check; default: all)",
            "sources": "tasks whose training documents they are compared with (check; default: all)",
            "output": "JSON file that the result is also written to (check)",
        },
        _tasks,
        positional=("list", "check"),
    ),
    "predict": Mode(
        "generate answers for your own notes",
        {
            "run": RUN,
            "task": "one of the run's tasks (required)",
            "input": "a .txt file, a folder of .txt files, or a .jsonl file (required)",
            "output": "a .jsonl file, or for NER a folder of brat .ann files, written with a / at its end (required)",
            "method": "method of the prompt (default: metaprompt)",
            "shots": "training examples of the prompt (default: full, or the largest number)",
            "seed": "seed of the prompt (default: the first)",
        },
        _predict,
        ("run", "task", "input", "output"),
        True,
        reads=("evaluate",),
    ),
    "plan": Mode(
        "predict memory, traffic and time before submission; report errors that would stop the run",
        {
            **CONFIG,
            "nodes": "number of nodes (default 1)",
            "gpus_per_node": "GPUs of a node; 0: one CPU rank instead (default 1)",
            "gpu": "h100 | h200 | a100 | l40s, or a YAML file like those in configs/machines: also predict time",
            "gpu_gb": "free memory of a GPU in GB (default: that of --gpu, or 80)",
            "host_gb": "free memory of a node in GB (default 256)",
            "pcie_gbs": "bandwidth from host memory to a GPU in GB/s (default: that of --gpu)",
            "nvlink_gbs": "bandwidth between GPUs of a node in GB/s per GPU, one direction (default: that of --gpu)",
            "network_gbs": "bandwidth into a node in GB/s (default: that of --gpu)",
            "sample_tokens": "mean length of a sample in tokens where no corpus can be read (default: data.max_length "
            "/ 4)",
            "answer_tokens": "mean length of an answer in tokens (default: 1/16 of sample_tokens)",
            "task_examples": "training examples per task where no corpus can be read (default 10000)",
            "sweep": "nodes=1,2,4 | gpus_per_node=… | max_tokens_per_micro_batch=…: predict each (needs --gpu)",
            "png": ".png file that the sweep is drawn to",
            "output": "JSON file that the plan is also written to",
            "mode": "distill or adapt: also check what this mode needs, and time only this mode",
            "prepare": "true: tokenise the corpora and compile code now, so that the job does not have to",
        },
        _plan,
        ("config",),
        True,
    ),
    "benchmark": Mode(
        "measure how fast this configuration trains on this machine -> benchmark.json",
        {**CONFIG, **BENCHMARK},
        _benchmark,
        ("config", "steps"),
        True,
    ),
    "export": Mode(
        "write the prompts of a finished run for other programs",
        {
            "run": "run directory (required)",
            "format": "peft | peft_collapsed | vllm (required)",
            "output": "new folder (required)",
            "tasks": ONLY_TASKS,
        },
        lambda f, _: recipes.export(f["run"], fmt=f["format"], output=f["output"], tasks=listed(f.get("tasks"))),
        ("run", "format", "output"),
    ),
    "merge": Mode(
        "combine several adaptations of one metaprompt into one run; add prompts",
        {
            "runs": "run directories of finished adaptations, comma-separated (required)",
            "output": "new run directory (required)",
            "sum": "NAME=0.5*task1+0.5*task2: a weighted sum of prompts, untrained, for task NAME; several "
            "comma-separated",
            "sum_of": "METHOD/SHOTS of the prompts that are summed (default metaprompt/full)",
        },
        lambda f, _: recipes.merge(
            listed(f["runs"]), f["output"], f.get("sum", ""), f.get("sum_of", "metaprompt/full")
        ),
        ("runs", "output"),
    ),
}


def run_mode(name: str, words: Sequence[str], flags: dict[str, str]) -> None:
    """Run a mode whose command is right, and leave with the contract's exit code (see ``exit_codes``)."""
    if name not in MODES:
        exit_codes.fail([mode_problem(name, (), MODES)])
    own, keys = divided(MODES[name], flags)
    with _ends(name, own, keys):
        _announce_loading(name)
        MODES[name].run(flags, words)
    exit_codes.leave_group(0)


def read_command(arguments: Sequence[str]) -> tuple[str, Typed] | None:
    """The mode and flags of a command in which nothing is wrong; None where help was asked for and printed.

    All that can be found wrong without torch ends the process with exit code 2, in one list. Nothing has started then.
    """
    name, rest, problems = _mode_of(arguments)
    if name is None:
        exit_codes.fail(problems)
    mode = MODES[name]
    typed = parse(rest, known_flags(mode), switches(mode), words=(*mode.positional, *MODES))
    if typed.asks_for_help():
        if problems:
            exit_codes.fail(problems)
        print_help(name, mode)
        return None
    if name in SIGNALLED:  # a scheduler's signal may come while files are checked and libraries are imported
        telemetry.defer_early_signal(signal.SIGUSR1, leave=name in ("evaluate", "predict"))
    own, keys = divided(mode, typed.flags)
    with _ends(name, own, keys):
        problems += problems_of(name, mode, typed)
        problems += early.problems_of(name, own, keys, typed.words, mode.required)
        if problems:
            raise UserError(problems)
    return name, typed


def _mode_of(arguments: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """The mode that is meant (None: nobody can tell), the words besides it, and what is wrong with how it is named."""
    first, rest = arguments[0], list(arguments[1:])
    if first in MODES:
        return first, rest, []
    problems = [mode_problem(first, rest, MODES)]
    if first.startswith("-"):
        place = later_mode(first, rest, MODES)
        later = None if place is None else rest.pop(place)
        return later, [first, *rest], problems
    return nearest(first, MODES, 0.55), rest, problems


@contextlib.contextmanager
def _ends(name: str, own: Mapping[str, str], keys: Mapping[str, str]) -> Iterator[None]:
    """End the process with the contract's exit code where the block raises; values are blamed on where they stand."""
    try:
        yield
    except UserError as error:
        exit_codes.fail(_with_origins(error.problems, name, own, keys))
    except Stopped as end:
        exit_codes.ended(end, exit_codes.START_AGAIN)
    except Slower as end:
        exit_codes.ended(end, exit_codes.SLOWER)
    except DoesNotFit as end:
        exit_codes.ended(end, exit_codes.DOES_NOT_FIT)
    except BrokenPipeError:  # the reader of our output left
        os._exit(exit_codes.FAULT)
    except Exception as error:  # a fault: where it happened, never what a note said
        exit_codes.fault(error)


def _with_origins(problems: Sequence[str], name: str, own: Mapping[str, str], keys: Mapping[str, str]) -> list[str]:
    mode = MODES[name]
    if name == "tasks":  # its flags have names of their own
        problems = origins.of_tasks(problems, own)
    file = own.get("config", "")
    if not file and "run" in mode.flags and mode.takes_config:
        file = f"{own.get('run', '')}/config.yaml"
    of_file = origins.existing(file) if mode.takes_config else ""
    configuration = config.known_keys() if mode.takes_config else ()
    return origins.with_origins(problems, {**own, **keys}, own=mode.flags, keys=configuration, file=of_file)


def _announce_loading(name: str) -> None:
    """Rank 0 says that libraries load: in the log of a job, else beside what the mode prints as its result."""
    if distributed.launcher_rank(os.environ) == 0:
        telemetry.announce_loading(sys.stdout if name in SIGNALLED else sys.stderr)


def without_launcher_flag(arguments: Sequence[str]) -> list[str]:
    """The command as typed: `deepspeed` puts --local_rank=N before the mode. Exits 2 where N makes no sense."""
    try:
        return distributed.without_local_rank(arguments, os.environ)
    except UserError as error:
        exit_codes.fail(error.problems)
