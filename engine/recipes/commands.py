"""The modes of ``train.py``: each a short story told with the other modules. Checks come first; nothing starts
before they pass.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config import FREE_IN_EVALUATION, RunConfig, expand, read_switch, resolve, value_at
from engine.core import UserError
from engine.distributed import room_for


def _repeatable(command: Callable[[RunConfig], None]) -> Callable[[RunConfig], None]:
    """The command under its configuration's ``deterministic``, which ends with it: a study runs several in one
    process.
    """

    @functools.wraps(command)
    def run(config: RunConfig) -> None:
        from engine.core import deterministic

        with deterministic(config.deterministic):
            command(config)

    return run


@_repeatable
def distill(config: RunConfig) -> None:
    """Stage 0 and 1: teach every source task its prompt, then distil them into the metaprompt."""
    from engine.data import decontaminate, write_overlap_record
    from engine.training import RunContext, check_adapters

    _require(config, "distill.sources")
    run_context = RunContext(config)
    if _already_done(run_context, "distill"):
        return
    check_adapters(config, run_context)
    wanted = ["train", "validation"] if config.teach.eval_interval or config.lr_sweep.relative_lr_teach else ["train"]
    data = run_context.data({task: wanted for task in config.distill.tasks})
    data, overlap = decontaminate(data, config.data, run_context.place.rank, run_context.print_rank0)
    train_only = {name: type(d)(d.card, {"train": d.splits["train"]}) for name, d in data.items()}
    taught = bool(config.distill.lambda_kl or config.distill.lambda_hidden)
    given = (
        _given_teachers(run_context) if taught and config.teach.run else None
    )  # its errors before the process group starts
    run_context.backbone()
    teachers, teachers_hash = given or (_teach(run_context, data) if taught else (None, ""))

    from engine.training import cache_teachers, distill_stage

    stage = distill_stage(run_context, train_only, teachers, teachers_hash)
    fence = run_context.open_run_dir(run_context.run_dir, stage.hashes)
    if run_context.is_main_process:
        write_overlap_record(run_context.run_dir, overlap)
    if teachers is not None:
        cache_teachers(run_context, stage, teachers)
    run_context.train(stage, fence)
    run_context.verify_backbone()
    run_context.complete(run_context.run_dir)
    run_context.print_rank0(
        f"metaprompt in {run_context.run_dir / 'latest'}; next: python train.py adapt, or evaluate --run {run_context.run_dir}"
    )


def _given_teachers(run_context: Any) -> tuple[Any, str]:
    from engine.checkpoints import teachers_of

    config = run_context.config
    bank, identity = teachers_of(
        expand(config.teach.run), config.distill.tasks, run_context.hashes(["data", "prompt", "teach"], "")
    )
    run_context.print_rank0(f"teachers: {len(bank)} of {config.teach.run}")
    return bank.requires_grad_(False), identity


def _teach(run_context: Any, data: Any) -> tuple[Any, str]:
    """The teachers of this run: those in run_dir/teachers if they fit, else trained now."""
    from engine import checkpoints
    from engine.checkpoints import load_bank
    from engine.config import check_hashes
    from engine.recipes.lr_sweep import chosen_teach_rate
    from engine.training import teach_stage

    folder = run_context.run_dir / "teachers"
    stage = teach_stage(run_context, data, chosen_teach_rate(run_context, data))
    if (folder / "COMPLETED").exists() and not run_context.config.overwrite:
        done = checkpoints.load(folder)
        if done is not None:
            for line in check_hashes(done.state["hashes"], stage.hashes, folder, run_context.config.accept_changes):
                run_context.print_rank0(f"WARNING {folder}: kept although it changed: {line}")
            run_context.print_rank0(f"teachers: reused from {folder}")
    else:
        run_context.train(stage, run_context.open_run_dir(folder, stage.hashes))
        run_context.complete(folder)
        if run_context.config.teach.adapters:
            run_context.print_rank0(f"teachers: {len(stage.rows)} adapters of {run_context.config.teach.adapters}")
    bank, found = load_bank(folder, "teachers")
    return bank.requires_grad_(False), found.identity


@_repeatable
def adapt(config: RunConfig) -> None:
    """Stage 2: adapt the metaprompt to the target tasks; the other methods beside it, on the same data."""
    from engine.checkpoints import load_bank
    from engine.data import load_cards, read_overlap_record, write_overlap_record
    from engine.recipes.source_terms import SOURCES, source_record
    from engine.training import RunContext

    _require(config, "adapt.targets")
    needed: dict[str, str] = {method: key for method, key in SOURCES.items() if method in config.adapt.methods}
    for key in needed.values():
        _require(config, key)
    folders = {method: expand(value_at(config, key)) for method, key in needed.items()}
    loaded = {method: load_bank(folder, "distillation") for method, folder in folders.items()}
    run_context = RunContext(config)
    from engine.training import adapt_rows, adapt_stage, source_of

    cards = load_cards(config.data)
    sources = {}
    for method, (bank, found) in loaded.items():
        record = source_record(folders[method], [row["task"] for row in found.state["rows"]], cards)
        sources[method] = replace(source_of(bank, found.state, found.identity), record=record)
    problems = [
        p
        for method, source in sources.items()
        for p in _problems_of(method, source, loaded[method][1].state, run_context, folders[method])
    ]
    if problems:
        raise UserError(problems)
    if _already_done(run_context, "adapt"):
        return
    wanted = ["train", "validation"] if config.adapt.eval_interval or config.lr_sweep.any() else ["train"]
    data = run_context.data({task: wanted for task in config.adapt.targets})

    adapt_rows(config, data)  # its errors before the process group starts
    adapt_rows(config, data, tuning=True)
    run_context.backbone()
    from engine.recipes.lr_sweep import chosen_rates

    rates = chosen_rates(run_context, data, sources)
    stage = adapt_stage(run_context, data, sources, rates)
    fence = run_context.open_run_dir(run_context.run_dir, stage.hashes)
    if run_context.is_main_process and "metaprompt" in folders:
        write_overlap_record(run_context.run_dir, read_overlap_record(folders["metaprompt"]))
    _say_trainable(run_context, stage.bank)
    run_context.train(stage, fence)
    run_context.verify_backbone()
    run_context.complete(run_context.run_dir)
    run_context.print_rank0(
        f"adapted rows in {run_context.run_dir / 'latest'}; next: python train.py evaluate --run {run_context.run_dir}"
    )


def _problems_of(method: str, source: Any, state: dict[str, Any], run_context: Any, folder: Path) -> list[str]:
    """All that keeps a distillation from being adapted under this configuration, at once."""
    from engine.recipes.source_terms import SOURCES

    config, key = run_context.config, SOURCES[method]
    if state["stage"] != "distill":
        return [f"{key}: {folder} is no distillation but a run of {state['stage']}"]
    own = state["rows"][0]["method"]
    if own != method:
        kind = "with" if own == "metaprompt" else "without"
        remedy = "one without has distill.lambda_kl and distill.lambda_hidden 0"
        return [
            f"{key}: {folder} is a distillation {kind} teachers, method {method} starts from the other kind; {remedy}"
        ]
    problems = []
    if state["hashes"]["backbone"] != run_context.backbone_hash:
        problems.append(
            f"backbone: {config.backbone} is not the one that {folder} was distilled with; a metaprompt fits its "
            "own backbone only"
        )
    if state["hashes"]["layout"] != run_context.layout.fingerprint():
        problems.append(
            f"backbone: {config.backbone}: template, separator or tokenizer are not those that {folder} was "
            "distilled with"
        )
    _, length, rank = source.part.cols_KLR.shape
    for name, wanted, found in (
        ("prompt.num_virtual_tokens", length, config.prompt.num_virtual_tokens),
        ("prompt.rank", rank, config.prompt.rank),
    ):
        if wanted != found:
            problems.append(f"{name}: {found}, but the metaprompt of {folder} has {wanted}; they must agree")
    named = [("adapt.init", config.adapt.init.removeprefix("task:"))] if config.adapt.init.startswith("task:") else []
    named += [("adapt.transfer", name) for name in config.adapt.transfer if method == "metaprompt"]
    problems += [
        f"{at}: {name!r} is no source task of {folder}; it has {', '.join(source.tasks)}"
        for at, name in named
        if name not in source.tasks
    ]
    return problems


def _say_trainable(run_context: Any, bank: Any) -> None:
    from backbones import parameter_count

    total = parameter_count(run_context.backbone().model)
    for name, part in bank.parts.items():
        percent = 100 * part.numbers_per_row() / total
        run_context.print_rank0(
            f"trainable for one adapted task, {name}: {part.numbers_per_row():,} numbers, {percent:.4f} % of the "
            "backbone"
        )
        if percent > 0.05:
            run_context.print_rank0(
                f"WARNING {name}: {percent:.4f} % is above 0.05 %; a larger backbone, a shorter prompt or "
                "adapt.train=factors brings it down"
            )


def plan(config: RunConfig, flags: dict[str, str]) -> None:
    """Memory, bytes and, on a known kind of GPU, time of a configuration on a machine in words."""
    from engine.distributed import GB
    from engine.planning import Asked, assumed_of, check_png, device_of, machine_of, plan as print_plan, read_sweep

    mode = flags.get("mode", "")
    problems = [] if mode in ("", "distill", "adapt") else [f"command line: --mode: {mode!r} is none of distill, adapt"]
    prepare = read_switch(flags.get("prepare", "false"), "command line: --prepare", problems)
    found: dict[str, Any] = {}

    def keep(name: str, read: Callable[[], Any]) -> None:
        try:
            found[name] = read()
        except UserError as error:
            problems.extend(error.problems)

    keep(
        "device",
        lambda: device_of(
            flags.get("gpu", ""), {n: flags.get(n, "") for n in ("pcie_gbs", "nvlink_gbs", "network_gbs")}
        ),
    )
    memory = f"{found['device'].memory_bytes / GB:g}" if found.get("device") else "80"
    keep(
        "machine",
        lambda: machine_of(
            *(
                flags.get(n, d)
                for n, d in (("nodes", "1"), ("gpus_per_node", "1"), ("gpu_gb", memory), ("host_gb", "256"))
            )
        ),
    )
    keep(
        "assumed",
        lambda: assumed_of(config, *(flags.get(n, "") for n in ("sample_tokens", "answer_tokens", "task_examples"))),
    )
    keep("sweep", lambda: read_sweep(flags.get("sweep", "")))
    keep("png", lambda: check_png(flags.get("png", ""), found.get("sweep")))
    if flags.get("sweep") and not flags.get("gpu"):
        problems.append("command line: --sweep: name the kind of GPU too (--gpu)")
    if problems:
        raise UserError(problems)
    asked = Asked(
        mode,
        prepare,
        found["device"],
        found["assumed"],
        found["sweep"],
        flags.get("png", ""),
        flags.get("output", ""),
    )
    print_plan(config, found["machine"], asked)


def evaluate(run: str, tasks: Sequence[str] = (), overrides: dict[str, str] | None = None) -> None:
    """Official metrics of a finished run's rows on their test splits -> results.json."""
    from engine.core import deterministic
    from engine.evaluation import evaluate_run
    from engine.training import RunContext

    config = _of_run(run, overrides or {}, "evaluate")
    with deterministic(config.deterministic):
        evaluate_run(RunContext(config, writes=("--run", "data.cache")), tasks)


def predict(run: str, row: Sequence[str], source: str, output: str, overrides: dict[str, str] | None = None) -> None:
    """Answers for a user's own notes, by one row of a finished run: task, method, shots and seed (empty: chosen)."""
    from engine.core import deterministic
    from engine.evaluation import Wanted, predict_notes
    from engine.training import RunContext

    config = _of_run(run, overrides or {}, "predict")
    into = expand(output)
    with deterministic(config.deterministic):
        predict_notes(
            RunContext(config, writes=()), Wanted(*row), expand(source), into, output.endswith("/") or into.is_dir()
        )


def _of_run(run: str, overrides: dict[str, str], mode: str) -> RunConfig:
    """A finished run's configuration, with what a command that only reads the run may change."""
    run_dir = expand(run)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"--run: {run_dir} is no run directory (it has no config.yaml)")
    fixed = [key for key in overrides if not key.startswith(("evaluate.", "log.")) and key not in FREE_IN_EVALUATION]
    if fixed:
        raise UserError(
            [
                (
                    f"command line: --{key}: belongs to the run; {mode} can change {', '.join(FREE_IN_EVALUATION)}, "
                    "evaluate.*"
                )
                for key in fixed
            ]
        )
    # the run's own `overwrite` was of its training
    return resolve(run_dir / "config.yaml", {"overwrite": "false", **overrides, "run_dir": str(run_dir)})


def report(runs: Sequence[str], output: str = "", vocabulary: str = "false") -> None:
    """Several runs' results as report.html and report.md in ``output`` (default: the first run), and shortly on the
    terminal.
    """
    from engine.reporting import write_report

    problems = [] if runs else ["--runs: names no run directory"]
    with_vocabulary = read_switch(vocabulary, "command line: --vocabulary", problems)
    into = expand(output or runs[0]) if runs else None
    if into is not None and not output:  # a flag was looked at as the command was read
        problems += room_for("command line: --output", into, 0)
    if problems or into is None:
        raise UserError(problems)
    write_report([expand(r) for r in runs], into, runs, with_vocabulary)


def export(run: str, fmt: str, output: str, tasks: Sequence[str] = ()) -> None:
    """Prompts of a finished run as PEFT adapters or for vLLM."""
    from engine.recipes.exporting import export_run

    for folder in export_run(expand(run), fmt, expand(output), tasks):
        print(f"written {folder}")


def merge(runs: Sequence[str], output: str, sums: str = "", sum_of: str = "metaprompt/full") -> None:
    """Several finished adaptations as one run; rows that are sums of prompts."""
    from engine.recipes.merging import merge_runs

    if not runs:
        raise UserError("--runs: names no run directory")
    merge_runs([expand(r) for r in runs], expand(output), sums, sum_of)


def tasks_list(cards: Sequence[str] = ()) -> None:
    """Every task card: name, type, metric, access, licence."""
    from engine.config import DataConfig
    from engine.data import load_cards

    found = load_cards(DataConfig(cards=list(cards)))
    rows = [("task", "type", "metric", "access", "licence")] + [
        (c.name, c.type, c.metric, c.access, c.licence) for _, c in sorted(found.items())
    ]
    widths = [max(len(str(r[i])) for r in rows) for i in range(4)]
    for row in rows:
        print("  ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=False)) + "  " + str(row[4]))


def _require(config: RunConfig, key: str) -> None:
    if not value_at(config, key):
        raise UserError(f"{key}: missing; this mode needs it")


def _already_done(run_context: Any, stage: str) -> bool:
    """Whether the run directory holds this very run, finished.

    Raises:
        UserError: it holds another one, finished.
    """
    from engine import checkpoints
    from engine.config import check_hashes

    found = (
        checkpoints.load(run_context.run_dir)
        if (run_context.run_dir / "COMPLETED").exists() and not run_context.config.overwrite
        else None
    )
    if found is None:
        return False
    now = run_context.hashes(["data", "prompt", stage, *(["lr_sweep"] if stage == "adapt" else [])], "")
    compared = ("config", "backbone", "layout")  # the data are not tokenised yet
    accept = run_context.config.accept_changes
    if check_hashes(
        {k: found.state["hashes"][k] for k in compared}, {k: now[k] for k in compared}, run_context.run_dir, accept
    ):
        return False
    run_context.print_rank0(f"{run_context.run_dir}: already COMPLETED; give --overwrite=true to run it again")
    return True
