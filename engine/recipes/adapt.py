"""``adapt``: the metaprompt for target tasks; the other methods beside it, on the same data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import SOURCES, RunConfig, expand, value_at
from engine.core import UserError, next_step
from engine.recipes.steps import repeatable, require

if TYPE_CHECKING:  # checks come before torch is loaded
    from engine.training import BackboneHolder, RunContext, Source

# parameters from which on 0.05 % is a yardstick: a prompt grows with the hidden size, a backbone about with its square,
# so that of a small backbone every prompt is a larger part
LARGE_BACKBONE = 1e9


@repeatable
def adapt(config: RunConfig) -> None:
    """Stage 2. Checks come first; nothing starts before they pass.

    Raises:
        UserError: all that is wrong with the configuration, the data or the distillations.
        Stopped: on request, with a checkpoint.
    """
    require(config, "adapt.targets")
    folders = {}
    for method, key in SOURCES.items():
        if method in config.adapt.methods:
            require(config, key)
            folders[method] = expand(value_at(config, key))
    from engine.data import read_overlap_record, warn_of_equal_answers, write_overlap_record
    from engine.training import (
        BackboneHolder,
        RunContext,
        adapt_rows,
        adapt_stage,
        already_complete,
        complete_run_dir,
        open_run_dir,
        run_stage,
    )

    loaded = _loaded(folders)
    context = RunContext(config)
    sources = _sources(context, folders, loaded)
    if already_complete(context, "adapt"):
        return
    validated = config.adapt.eval_interval or config.lr_sweep.any()
    data = context.data({task: ["train", "validation"] if validated else ["train"] for task in config.adapt.targets})
    warn_of_equal_answers(data, context.env.rank, context.print_rank0)
    adapt_rows(config, data)  # its errors before the process group starts
    adapt_rows(config, data, tuning=True)

    from engine.recipes.lr_sweep import chosen_rates

    holder = BackboneHolder(context)
    holder.backbone()
    rates = chosen_rates(holder, data, sources)
    stage = adapt_stage(holder, data, sources, rates)
    lock = open_run_dir(context, folder=context.run_dir, hashes=stage.hashes, zero=holder.zero)
    if context.is_main_process and "metaprompt" in folders:
        write_overlap_record(context.run_dir, read_overlap_record(folders["metaprompt"]))
    _print_trainable(holder, stage.bank)
    run_stage(holder, stage, lock)
    holder.verify()
    complete_run_dir(context, context.run_dir)
    hint = next_step(f"python train.py evaluate --run {context.run_dir}")
    context.print_rank0(f"adapted rows in {context.run_dir / 'latest'}{hint}")


def _loaded(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Method -> (bank, checkpoint) of the distillation that it starts from."""
    from engine.checkpoints import load_bank

    return {method: load_bank(folder, "distillation") for method, folder in folders.items()}


def _sources(context: "RunContext", folders: Mapping[str, Path], loaded: Mapping[str, Any]) -> dict[str, "Source"]:
    """Method -> its start, with the record of the source tasks that it derives from.

    Raises:
        UserError: all that keeps a distillation from being adapted under this configuration.
    """
    from engine.data import load_cards
    from engine.recipes.source_terms import source_record
    from engine.training import source_of

    cards, sources, problems = load_cards(context.config.data), {}, []
    for method, (bank, found) in loaded.items():
        record = source_record(folders[method], [row["task"] for row in found.state["rows"]], cards)
        sources[method] = replace(source_of(bank, found.state, found.identity), record=record)
        problems += _problems_of(
            method, source=sources[method], state=found.state, context=context, folder=folders[method]
        )
    if problems:
        raise UserError(problems)
    return sources


def _problems_of(
    method: str, source: "Source", state: dict[str, Any], context: "RunContext", folder: Path
) -> list[str]:
    """All that keeps a distillation from being adapted under this configuration, at once."""
    config, key = context.config, SOURCES[method]
    if state["stage"] != "distill":
        return [f"{key}: {folder} is not a distillation but a run of {state['stage']}"]
    own = state["rows"][0]["method"]
    if own != method:
        kind = "with" if own == "metaprompt" else "without"
        remedy = "one without has distill.lambda_kl and distill.lambda_hidden 0"
        return [
            f"{key}: {folder} is a distillation {kind} teachers, but method {method} needs the other kind; {remedy}"
        ]
    problems = _backbone_problems(state, context, folder)
    _, length, rank = source.part.cols_KLR.shape
    for name, wanted, found in (
        ("prompt.num_virtual_tokens", length, config.prompt.num_virtual_tokens),
        ("prompt.rank", rank, config.prompt.rank),
    ):
        if wanted != found:
            problems.append(f"{name}: {found}, but the metaprompt of {folder} has {wanted}; they must agree")
    named = [("adapt.init", config.adapt.init.removeprefix("task:"))] if config.adapt.init.startswith("task:") else []
    named += [("adapt.transfer", name) for name in config.adapt.transfer if method == "metaprompt"]
    for at, name in named:
        if name not in source.tasks:
            problems.append(f"{at}: {name!r} is not a source task of {folder}; it has {', '.join(source.tasks)}")
    return problems


def _backbone_problems(state: dict[str, Any], context: "RunContext", folder: Path) -> list[str]:
    problems, card = [], context.config.backbone
    if state["hashes"]["backbone"] != context.backbone_hash:
        problems.append(
            f"backbone: {card} is not the one that {folder} was distilled with; a metaprompt fits its own backbone only"
        )
    if state["hashes"]["layout"] != context.layout.fingerprint():
        problems.append(
            f"backbone: {card}: template, separator or tokenizer are not those that {folder} was distilled with"
        )
    return problems


def _print_trainable(holder: "BackboneHolder", bank: Any) -> None:
    from backbones import parameter_count

    total = parameter_count(holder.backbone().model)
    for name, part in bank.parts.items():
        numbers = part.numbers_per_row()
        percent = 100 * numbers / total
        holder.context.print_rank0(
            f"trainable for one adapted task, {name}: {numbers:,} numbers, {percent:.4f} % of the backbone"
        )
        if total >= LARGE_BACKBONE and percent > 0.05:
            holder.context.print_rank0(
                f"WARNING {name}: {percent:.4f} % is above 0.05 %; use a larger backbone, a shorter prompt or "
                "adapt.train=factors to reduce it"
            )
