"""The modes of ``train.py``: each a short story told with the other modules. Checks come first; nothing starts before they pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import UserError
from engine.resolve import expand, resolve, unknown_key, value_at


def distill(config: RunConfig) -> None:
    """Stage 0 and 1: teach every source task its prompt, then distil them into the metaprompt."""
    from engine.session import Session

    _require(config, "distill.sources")
    session = Session(config)
    if _already_done(session.run_dir, config, session):
        return
    data = session.data({task: ["train", "validation"] if config.teach.eval_every else ["train"] for task in config.distill.sources})
    train_only = {name: type(d)(d.card, {"train": d.splits["train"]}) for name, d in data.items()}
    session.backbone()
    session.open_run_dir(session.run_dir)
    teachers, teachers_hash = _teach(session, data)

    from engine.stages import distill_stage
    from engine.trainer import Loop

    stage = distill_stage(session, train_only, teachers, teachers_hash)
    Loop(stage, session.backbone(), session.loop_settings()).run()
    session.verify_backbone()
    session.complete(session.run_dir)
    session.say(f"metaprompt in {session.run_dir / 'latest'}; next: python train.py adapt, or evaluate --run {session.run_dir}")


def _teach(session: Any, data: Any) -> tuple[Any, str]:
    """The teachers of this run: those in run_dir/teachers if they fit, else trained now."""
    from engine import checkpoint
    from engine.banks import load_bank
    from engine.stages import teach_stage
    from engine.trainer import Loop, check_hashes

    folder = session.run_dir / "teachers"
    stage = teach_stage(session, data)
    if (folder / "COMPLETED").exists() and not session.config.fresh:
        found = checkpoint.load(folder)
        if found is not None:
            check_hashes(found.state["hashes"], stage.hashes, folder)
            session.say(f"teachers: reused from {folder}")
    else:
        session.open_run_dir(folder)
        Loop(stage, session.backbone(), session.loop_settings()).run()
        session.complete(folder)
    bank, found = load_bank(folder, "teachers")
    return bank.requires_grad_(False), found.state["sha256"]["prompts.safetensors"]


def adapt(config: RunConfig) -> None:
    """Stage 2: adapt the metaprompt to the target tasks; prompt tuning beside it, on the same data."""
    from engine.banks import load_bank
    from engine.session import Session

    _require(config, "adapt.targets")
    _require(config, "adapt.source_run")
    source_dir = expand(config.adapt.source_run)
    source, found = load_bank(source_dir, "distillation")
    session = Session(config)
    if "metaprompt" not in source.parts:
        raise UserError(f"adapt.source_run: {source_dir} is no distillation")
    _same_backbone(found.state, session, source_dir)
    length = source.parts["metaprompt"].shared_SLD.shape[1]  # type: ignore[union-attr, index]
    if length != config.prompt.length:
        raise UserError(f"prompt.length: {config.prompt.length}, but the metaprompt of {source_dir} has {length}; they must agree")
    if _already_done(session.run_dir, config, session):
        return
    wanted = ["train", "validation"] if config.adapt.eval_every else ["train"]
    data = session.data({task: wanted for task in config.adapt.targets})

    from engine.stages import adapt_rows, adapt_stage
    from engine.trainer import Loop

    adapt_rows(config.adapt, config.seed, data)  # its errors before the process group starts
    session.backbone()
    session.open_run_dir(session.run_dir)
    source_tasks = [row["task"] for row in found.state["rows"]]
    stage = adapt_stage(session, data, source, source_tasks, found.state["sha256"]["prompts.safetensors"])
    count, percent = _say_trainable(session, stage.bank)
    stage.hashes["trainable"] = {"count": count}
    Loop(stage, session.backbone(), session.loop_settings()).run()
    session.verify_backbone()
    session.complete(session.run_dir)
    session.say(f"adapted rows in {session.run_dir / 'latest'}; next: python train.py evaluate --run {session.run_dir}")


def _say_trainable(session: Any, bank: Any) -> tuple[int, float]:
    from backbones import parameter_count

    total = parameter_count(session.backbone().model)
    count = max(part.numbers_per_row() for part in bank.parts.values())
    for name, part in bank.parts.items():
        percent = 100 * part.numbers_per_row() / total
        session.say(f"trainable for one adapted task, {name}: {part.numbers_per_row():,} numbers, {percent:.4f} % of the backbone")
        if percent > 0.05:
            session.say(f"WARNING {name}: {percent:.4f} % is above 0.05 %; a larger backbone, a shorter prompt or adapt.train=factors brings it down")
    return count, 100 * count / total


def evaluate(run: str, tasks: Sequence[str] = (), overrides: dict[str, str] | None = None) -> None:
    """Official metrics of a finished run's rows on their test splits -> results.json."""
    from engine.evaluation import evaluate_run
    from engine.session import Session

    run_dir = expand(run)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"--run: {run_dir} is no run directory (it has no config.yaml)")
    config = resolve(run_dir / "config.yaml", {**(overrides or {}), "run_dir": str(run_dir)})
    evaluate_run(Session(config), tasks)


def report(runs: Sequence[str], output: str = "") -> None:
    """One table of several runs' results: to the terminal, and as Markdown where ``output`` names a folder."""
    from engine.report import write_report

    write_report([expand(r) for r in runs], expand(output) if output else expand(runs[0]))


def tasks_list(cards: Sequence[str] = ()) -> None:
    """Every task card: name, type, metric, access, licence."""
    from engine.config import DataConfig
    from engine.data import load_cards

    found = load_cards(DataConfig(cards=list(cards)))
    rows = [("task", "type", "metric", "access", "licence")] + [(c.name, c.type, c.metric, c.access, c.licence) for _, c in sorted(found.items())]
    widths = [max(len(str(r[i])) for r in rows) for i in range(4)]
    for row in rows:
        print("  ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=False)) + "  " + str(row[4]))


def tasks_check(data_root: str, cards: Sequence[str] = (), tasks: Sequence[str] = ()) -> None:
    """Which corpora are there, whole and as published; raises UserError with all problems at once."""
    import clinical_tasks
    from engine.config import DataConfig
    from engine.data import load_cards

    found = load_cards(DataConfig(cards=list(cards)))
    problems = [f"--tasks: {unknown_key(t, found).replace('key', 'task', 1)}" for t in tasks if t not in found]
    root = expand(data_root)
    if not root.is_dir():
        problems.append(f"--data_root: {root} is no folder")
    if problems:
        raise UserError(problems)
    checks = clinical_tasks.check_tasks({n: c for n, c in found.items() if not tasks or n in tasks}, root, required=tasks)
    print(clinical_tasks.format_checks(checks))
    bad = [p for c in checks for p in c.problems]
    if bad:
        raise UserError(bad)


def _require(config: RunConfig, key: str) -> None:
    if not value_at(config, key):
        raise UserError(f"{key}: missing; this mode needs it")


def _already_done(run_dir: Path, config: RunConfig, session: Any) -> bool:
    if (run_dir / "COMPLETED").exists() and not config.fresh:
        session.say(f"{run_dir}: already COMPLETED; give --fresh=true to run it again")
        return True
    return False


def _same_backbone(state: dict[str, Any], session: Any, source: Path) -> None:
    from backbones.frozen import backbone_fingerprint

    if state["hashes"]["backbone"] != backbone_fingerprint(session.card):
        raise UserError(f"backbone: {session.config.backbone} is not the one that {source} was distilled with; a metaprompt fits its own backbone only")
