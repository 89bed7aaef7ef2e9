"""From a typed command to a mode, strictly: unknown flags, wrong types and --help end before anything starts.

Fire alone would run the body first and complain about a typo afterwards, swallow it in ``**flags``, or run the job for
``--help``.
"""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine import distributed, recipes, telemetry
from engine.config import known_keys, resolve, unknown_key
from engine.core import Slower, Stopped, UserError

USER_ERROR, FAULT, START_AGAIN, SLOWER = 2, 1, telemetry.START_AGAIN, 3
LET_RANK_0_SPEAK = 5  # seconds
CONFIG = {"config": "YAML run configuration (required); any of its keys can follow as --a.b=value"}

BENCHMARK = {
    "steps": "measured steps (required)",
    "mode": "teach, distill or adapt; default: what the configuration is for",
    "warmup": "steps before that are not counted (default 2)",
    "output": "folder of benchmark.json, .md and .png (default: run_dir with -benchmark behind)",
    "invented": "CONTEXT,ANSWER[,ROWS]: mean tokens of invented rows in place of corpora, and how many a task (512)",
    "shardings": "shardings to hold side by side, comma-separated",
    "sweep": "KEY=VALUE,VALUE…: a value each; several keys apart by ;",
    "alternate": "false: one case after another, each alone in memory",
    "profile": "true: a torch profiler trace of two more steps, and a page on it",
    "compare": "an earlier benchmark.json: exit code 3 if a step is slower now",
    "compare_anyway": "true: although configuration, machine or backbone differ",
    "beside": "peft: after each step one of PEFT on the same samples (teach, distill; one process, resident)",
}


@dataclass(frozen=True)
class Mode:
    """A mode of train.py. ``flags``: name -> what it means. ``positional``: allowed words after the mode, if any."""

    help: str
    flags: dict[str, str]
    run: Callable[[dict[str, str], Sequence[str]], None]
    required: tuple[str, ...] = ()
    takes_config: bool = False
    positional: tuple[str, ...] = ()


def _with_config(command: Callable) -> Callable[[dict[str, str], Sequence[str]], None]:
    return lambda flags, _: command(resolve(flags["config"], {k: v for k, v in flags.items() if k != "config"}))


def _tasks(flags: dict[str, str], words: Sequence[str]) -> None:
    if words[0] == "list":
        recipes.tasks_list(_listed(flags.get("cards")))
    elif "data_root" not in flags:
        raise UserError("tasks check: --data_root: missing; name the folder that holds the corpora")
    else:
        from engine.data import OverlapQuestion, TokenQuestion, check_data

        check_data(
            flags["data_root"],
            _listed(flags.get("cards")),
            _listed(flags.get("tasks")),
            flags.get("output", ""),
            TokenQuestion(flags.get("backbone", ""), flags.get("max_length", ""), flags.get("max_new_tokens", "")),
            OverlapQuestion(flags.get("overlap", "true"), _listed(flags.get("targets")), _listed(flags.get("sources"))),
        )


def _evaluate(flags: dict[str, str], _: Sequence[str]) -> None:
    recipes.evaluate(
        flags["run"], _listed(flags.get("tasks")), {k: v for k, v in flags.items() if k not in ("run", "tasks")}
    )


def _study(flags: dict[str, str], _: Sequence[str]) -> None:
    dry_run = flags.get("dry_run", "false").lower()
    if dry_run not in ("true", "false"):
        raise UserError(f"command line: --dry_run: {dry_run!r} is neither true nor false")
    from engine.recipes import run_study

    run_study(
        flags["config"],
        _listed(flags.get("only")),
        {k: v for k, v in flags.items() if k not in ("config", "only", "dry_run")},
        dry_run == "true",
    )


def _predict(flags: dict[str, str], _: Sequence[str]) -> None:
    row = [flags.get(name, "") for name in ("task", "method", "shots", "seed")]
    own = ("run", "task", "input", "output", "method", "shots", "seed")
    recipes.predict(
        flags["run"], row, flags["input"], flags["output"], {k: v for k, v in flags.items() if k not in own}
    )


def _plan(flags: dict[str, str], _: Sequence[str]) -> None:
    recipes.plan(resolve(flags["config"], {k: v for k, v in flags.items() if k not in MODES["plan"].flags}), flags)


def _benchmark(flags: dict[str, str], _: Sequence[str]) -> None:
    from engine.benchmarking import request_of, run_benchmark

    own = {k: v for k, v in flags.items() if k in BENCHMARK}
    run_benchmark(
        request_of(flags["config"], own, {k: v for k, v in flags.items() if k not in BENCHMARK and k != "config"})
    )


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


MODES: dict[str, Mode] = {
    "distill": Mode(
        "teach every source task a prompt, then distil them into one metaprompt",
        CONFIG,
        _with_config(recipes.distill),
        ("config",),
        True,
    ),
    "adapt": Mode(
        "adapt the metaprompt: targets x methods x shots x seeds in one pass",
        CONFIG,
        _with_config(recipes.adapt),
        ("config",),
        True,
    ),
    "study": Mode(
        "a protocol file's distillations and adaptations, evaluated, in one report; goes on where it was",
        {
            "config": "YAML protocol (required), see docs/studies.md; keys of the run configuration can follow as "
            "--a.b=value, for every run",
            "only": "only these protocols, comma-separated",
            "dry_run": "true: name the runs and what is done of them",
        },
        _study,
        ("config",),
        True,
    ),
    "evaluate": Mode(
        "official metrics of a finished run -> results.json",
        {
            "run": "run directory (required); keys of its configuration can follow as --a.b=value",
            "tasks": "only these, comma-separated",
        },
        _evaluate,
        ("run",),
        True,
    ),
    "report": Mode(
        "several runs' results with figures: report.html, report.md, averages on the terminal",
        {
            "runs": "run directories, comma-separated (required)",
            "output": "folder of the files; default: the first run",
            "vocabulary": "true: the vocabulary entries nearest to each prompt too, which can leak its corpus",
        },
        lambda f, _: recipes.report(_listed(f["runs"]), f.get("output", ""), f.get("vocabulary", "false")),
        ("runs",),
    ),
    "tasks": Mode(
        "list: the task cards; check: which corpora are there and whole",
        {
            "data_root": "folder of the corpora (check)",
            "cards": "folders of further cards, comma-separated",
            "tasks": "only these (check)",
            "backbone": "backbone card: count tokens with its tokenizer (check)",
            "max_length": "longest sample in tokens (check; default 1024)",
            "max_new_tokens": "longest generated answer (check; default 64)",
            "overlap": "false: do not compare test with training documents (check)",
            "targets": "tasks whose test documents are looked for (check; default: all)",
            "sources": "tasks in whose training documents (check; default: all)",
            "output": "JSON file to write too (check)",
        },
        _tasks,
        positional=("list", "check"),
    ),
    "predict": Mode(
        "answers for your own notes",
        {
            "run": "run directory (required); keys of its configuration can follow as --a.b=value",
            "task": "one of the run's tasks (required)",
            "input": "a .txt, a folder of them, or a .jsonl (required)",
            "output": "a .jsonl, or for NER a folder/ of brat .ann files (required)",
            "method": "default: metaprompt",
            "shots": "default: full, or the most there are",
            "seed": "default: the first",
        },
        _predict,
        ("run", "task", "input", "output"),
        True,
    ),
    "plan": Mode(
        "memory, bytes and time before a job is submitted; what a run would be refused with",
        {
            **CONFIG,
            "nodes": "how many (default 1)",
            "gpus_per_node": "how many; 0 is a CPU rank (default 1)",
            "gpu": "h100 | h200 | a100 | l40s, or a YAML file like those in configs/machines: predict time too",
            "gpu_gb": "free memory of a GPU in GB (default: the kind's, or 80)",
            "host_gb": "free memory of a node in GB (default 256)",
            "pcie_gbs": "from host memory to a GPU, GB/s (default: the kind's)",
            "nvlink_gbs": "between GPUs of a node, GB/s a GPU in one direction (default: the kind's)",
            "network_gbs": "into a node, GB/s (default: the kind's)",
            "sample_tokens": "mean length of a sample where no corpus can be read (default: data.max_length / 4)",
            "answer_tokens": "of them answer (default: a sixteenth)",
            "task_examples": "training examples of a task where no corpus can be read (default 10000)",
            "sweep": "nodes=1,2,4 | gpus_per_node=… | max_tokens_per_micro_batch=…: scaling",
            "png": "draw the sweep here",
            "output": "JSON file to write too",
            "mode": "distill or adapt: check what it needs too, and time it alone",
            "prepare": "true: tokenise the corpora and compile what is compiled once",
        },
        _plan,
        ("config",),
        True,
    ),
    "benchmark": Mode(
        "how fast this configuration trains here -> benchmark.json",
        {**CONFIG, **BENCHMARK},
        _benchmark,
        ("config", "steps"),
        True,
    ),
    "export": Mode(
        "prompts of a finished run for other programs",
        {
            "run": "run directory (required)",
            "format": "peft | peft_collapsed | vllm (required)",
            "output": "new folder (required)",
            "tasks": "only these, comma-separated",
        },
        lambda f, _: recipes.export(f["run"], f["format"], f["output"], _listed(f.get("tasks"))),
        ("run", "format", "output"),
    ),
    "merge": Mode(
        "rows of several adaptations of one metaprompt as one run; sums of prompts",
        {
            "runs": "finished adaptations, comma-separated (required)",
            "output": "new run directory (required)",
            "sum": "NAME=0.5*task1+0.5*task2: an untrained prompt for task NAME; several comma-separated",
            "sum_of": "METHOD/SHOTS of the rows that are summed (default metaprompt/full)",
        },
        lambda f, _: recipes.merge(
            _listed(f["runs"]), f["output"], f.get("sum", ""), f.get("sum_of", "metaprompt/full")
        ),
        ("runs", "output"),
    ),
}


def run_mode(name: str, words: Sequence[str], flags: dict[str, str]) -> None:
    """Check the command, run the mode, leave with the contract's exit code (0 done, 2 the user's, 3 slower than
    before, 75 start me again, 1 a fault).
    """
    try:
        mode = _checked(name, list(words), flags)
        if mode is not None:
            if name in (
                "distill",
                "adapt",
                "evaluate",
                "predict",
                "study",
            ):  # a scheduler's signal may come while libraries are imported
                telemetry.defer_early_signal(signal.SIGUSR1, leave=name in ("evaluate", "predict"))
            mode.run(flags, words)
    except UserError as error:
        _fail(error.problems)
    except (Stopped, Slower) as end:
        _ended(end, START_AGAIN if isinstance(end, Stopped) else SLOWER)
    except BrokenPipeError:  # the reader of our output left
        os._exit(FAULT)
    except Exception as error:  # a fault: where it happened, never what a note said
        _fault(error)
    _leave_group(0)


def without_launcher_flag(arguments: Sequence[str]) -> list[str]:
    """The command as typed: `deepspeed` puts --local_rank=N before the mode. Exits 2 where N makes no sense."""
    try:
        return distributed.without_local_rank(arguments, os.environ)
    except UserError as error:
        _fail(error.problems)
        raise


def check_raw(arguments: Sequence[str]) -> None:
    """What Fire would swallow: its separators, and a flag given twice. Exits 2."""
    problems = [f"command line: {a!r} has no meaning here" for a in arguments if a in ("-", "--")]
    names = [
        a.split("=", 1)[0].lstrip("-").replace("-", "_")
        for a in arguments
        if a.startswith("-") and a not in ("-", "--")
    ]
    problems += [f"command line: --{n} stands twice" for n in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        _fail(problems)


def _checked(name: str, words: list[str], flags: dict[str, str]) -> Mode | None:
    """The mode, or None when help was asked for and given."""
    if name not in MODES:
        raise UserError(unknown_key(name, MODES).replace("key", "mode") + f" (modes: {', '.join(MODES)})")
    mode = MODES[name]
    if "help" in flags or "h" in flags or "help" in words:
        _help(name, mode)
        return None
    known = [*mode.flags, *(known_keys() if mode.takes_config else ())]
    problems = [f"command line: --{key}: " + unknown_key(key, known) for key in flags if key not in known]
    if problems and mode.takes_config and "config" in flags:  # everything at once: what is wrong in the file too
        problems += _also_wrong(
            {k: v for k, v in flags.items() if k == "config" or (k in known and k not in mode.flags)}
        )
    problems += [f"command line: --{key}: missing; {mode.flags[key]}" for key in mode.required if key not in flags]
    if mode.positional and (len(words) != 1 or words[0] not in mode.positional):
        problems.append(f"{name}: expected one of {' | '.join(mode.positional)}, found {' '.join(words) or 'nothing'}")
    elif not mode.positional:
        problems += [f"command line: {word!r}: not a flag; write --key=value" for word in words]
    problems += distributed.output_problems(flags)
    if problems:
        raise UserError(problems)
    return mode


def _also_wrong(flags: dict[str, str]) -> list[str]:
    try:
        resolve(flags["config"], {k: v for k, v in flags.items() if k != "config"})
    except UserError as error:
        return error.problems
    return []


def _help(name: str, mode: Mode) -> None:
    print(f"python train.py {name} — {mode.help}\n")
    for word in mode.positional:
        print(f"  {word}")
    for flag, meaning in mode.flags.items():
        print(f"  --{flag:28} {meaning}")
    if mode.takes_config:
        print("\nKeys of the run configuration, with their defaults (meanings: engine/config/schema.py):")
        for key, (_, default) in known_keys().items():
            print(f"  --{key:28} {default!r}")


def _rank() -> int:
    return distributed.launcher_rank(os.environ)


def _tell(code: int) -> None:
    """Rank 0's exit code for a job script: torchrun answers 1 whatever its ranks answered, srun 137 for a rank that
    it ended itself.
    """
    file = os.environ.get("EXIT_CODE_FILE")
    if file and _rank() == 0:
        with contextlib.suppress(OSError), open(file, "w") as stream:
            stream.write(f"{code}\n")


def _fail(problems: Sequence[str]) -> None:
    started = _group_started()
    if (
        _rank() > 0 and not started
    ):  # every rank finds the same: rank 0 speaks first, before a launcher ends all for one rank's exit
        time.sleep(LET_RANK_0_SPEAK)
    for problem in problems:
        print(f"error{f' (rank {_rank()})' if _rank() else ''}: {problem}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    _tell(USER_ERROR)
    if started:
        os._exit(USER_ERROR)
    raise SystemExit(USER_ERROR)


def _fault(error: Exception) -> None:
    """Frames and the kind of the error; its message only from our own code and libraries that do not quote data."""
    frames = "".join(f"  {f.filename}:{f.lineno} in {f.name}\n" for f in traceback.extract_tb(error.__traceback__))
    quotable = isinstance(error, RuntimeError | OSError | MemoryError | AssertionError)
    message = f": {error}" if quotable else " (message withheld: it may quote data)"
    print(
        (
            f"fault on rank {_rank()}: {type(error).__name__}{message}\n  on {socket.gethostname()}, last: "
            f"{distributed.last_progress()}\n{frames}"
        ),
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    _tell(FAULT)
    os._exit(FAULT)  # other ranks may sit in a collective that this one will never join


def _ended(end: Exception, code: int) -> None:
    """All is written, and every rank is here for the same reason."""
    if _rank() == 0:
        print(end, flush=True)
    _tell(code)
    _leave_group(
        code
    )  # which no rank gets through before all have come: a launcher may end the others for one that has left
    raise SystemExit(code)


def _group_started() -> bool:
    if "torch" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _leave_group(code: int) -> None:
    if _group_started():
        import torch.distributed as dist

        dist.barrier()
        several = dist.get_world_size() > 1
        dist.destroy_process_group()
        if (
            several
        ):  # all is written: what libraries' threads do while a process is taken down must not make a failure of it
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
