"""``distill``: teach every source task its prompt, then distil the prompts into the metaprompt."""

from typing import TYPE_CHECKING, Any

from engine.config import RunConfig, expand
from engine.core import next_step
from engine.recipes.steps import repeatable, require
from strict_yaml import counted

if TYPE_CHECKING:  # checks come before torch is loaded
    from engine.training import BackboneHolder, RunContext


@repeatable
def distill(config: RunConfig) -> None:
    """Stages 0 and 1. Checks come first; nothing starts before they pass.

    Raises:
        UserError: all that is wrong with the configuration, the data or the teachers.
        Stopped: on request, with a checkpoint.
    """
    require(config, "distill.sources")
    from engine.data import decontaminate, warn_of_equal_answers, write_overlap_record
    from engine.training import (
        BackboneHolder,
        RunContext,
        already_complete,
        cache_teachers,
        check_adapters,
        complete_run_dir,
        distill_stage,
        open_run_dir,
        run_stage,
    )

    context = RunContext(config)
    if already_complete(context, "distill"):
        return
    check_adapters(config, context.model_config.hidden_size)
    validated = config.teach.eval_interval or config.lr_sweep.relative_lr_teach
    data = context.data({task: ["train", "validation"] if validated else ["train"] for task in config.distill.tasks})
    data, overlap = decontaminate(data, config=config.data, rank=context.env.rank, print_rank0=context.print_rank0)
    warn_of_equal_answers(data, context.env.rank, context.print_rank0)
    taught = bool(config.distill.lambda_kl or config.distill.lambda_hidden)
    given = _given_teachers(context) if taught and config.teach.run else None  # its errors come before any rank's
    holder = BackboneHolder(context)
    holder.backbone()
    teachers, teachers_hash = None, ""
    if taught:
        teachers, teachers_hash = given or _teach(holder, data)

    train_only = {name: type(d)(d.card, {"train": d.splits["train"]}) for name, d in data.items()}
    stage = distill_stage(holder, data=train_only, teachers=teachers, teachers_hash=teachers_hash)
    lock = open_run_dir(context, folder=context.run_dir, hashes=stage.hashes, zero=holder.zero)
    if context.is_main_process:
        write_overlap_record(context.run_dir, overlap)
    if teachers is not None:
        cache_teachers(holder, stage, teachers)
    run_stage(holder, stage, lock)
    holder.verify()
    complete_run_dir(context, context.run_dir)
    hint = next_step(f"python train.py adapt, or evaluate --run {context.run_dir}")
    context.print_rank0(f"metaprompt in {context.run_dir / 'latest'}{hint}")


def _given_teachers(context: "RunContext") -> tuple[Any, str]:
    """The teachers of another distillation (``teach.run``), and what identifies them."""
    from engine.checkpoints import teachers_of

    config = context.config
    hashes = context.hashes(["data", "prompt", "teach"], "")
    bank, identity = teachers_of(expand(config.teach.run), config.distill.tasks, hashes)
    context.print_rank0(f"teachers: {len(bank)} of {config.teach.run}")
    return bank.requires_grad_(False), identity


def _teach(holder: "BackboneHolder", data: Any) -> tuple[Any, str]:
    """The teachers of this run: those in run_dir/teachers if they fit, else trained now."""
    from engine import checkpoints
    from engine.checkpoints import load_bank
    from engine.config import check_hashes
    from engine.recipes.lr_sweep import chosen_teach_rate
    from engine.training import complete_run_dir, open_run_dir, run_stage, teach_stage

    context = holder.context
    config, folder = context.config, context.run_dir / "teachers"
    stage = teach_stage(holder, data, chosen_teach_rate(holder, data))
    if (folder / "COMPLETED").exists() and not config.overwrite:
        done = checkpoints.load(folder)
        if done is not None:
            for line in check_hashes(
                done.state["hashes"], now=stage.hashes, run_dir=folder, accept=config.accept_changes
            ):
                context.print_rank0(f"WARNING {folder}: kept, although the configuration changed: {line}")
            context.print_rank0(f"teachers: reused from {folder}")
    else:
        run_stage(holder, stage, open_run_dir(context, folder, stage.hashes, holder.zero))
        complete_run_dir(context, folder)
        if config.teach.adapters:
            context.print_rank0(f"teachers: {counted(len(stage.rows), 'adapter')} of {config.teach.adapters}")
    bank, found = load_bank(folder, "teachers")
    return bank.requires_grad_(False), found.identity
