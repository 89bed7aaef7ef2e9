"""Whether a distillation reads its teachers from the cache, and from which files: decided, filled and opened here."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from engine.config import expand
from engine.core import UserError, nearest_existing, size_text
from engine.data import Stream, plan_step
from engine.distributed import gather_objects
from engine.training.backbone_holder import BackboneHolder
from engine.training.stage import Stage
from engine.training.teachers.cache import TaughtRow, TeacherCache, TeacherCacheReader
from prompt_modules import JoinedBank
from strict_yaml import counted

WORTH = 1.2  # visits of a sample, on average, from which on keeping pays
DISK_SHARE = 0.5  # of the free space that ``auto`` may take


def cache_teachers(holder: BackboneHolder, stage: Stage, teachers: JoinedBank, steps: int | None = None) -> None:
    """Let a distillation read its teachers from disk: fill what is missing, and set ``stage.cached_teachers``. A
    collective.

    Args:
        steps: keep only the samples that the first so many steps read; whether it is worth it is decided as for all.

    Raises:
        UserError: a limit was given that is too small, or the disk is full.
    """
    how = holder.context.config.distill.teacher_cache
    if how == "off" or holder.context.config.batching != "packed":
        return
    folder, device = expand(holder.context.config.data.cache), holder.backbone().device
    prompts_KLD = teachers.prompts(torch.arange(len(stage.rows), device=device))
    rows = []
    for k, row in enumerate(stage.rows):
        if row.train is not None:
            rows.append(TaughtRow(row.task, prompts_KLD[k], row.train, row.train_indices))
    cache = _cache_of(holder, stage, rows, folder)
    visits = sample_visits(stage)
    wanted = sorted({cache.part_of(at, index) for at, index in visits})
    read = sum(n * cache.answers[at][index] for (at, index), n in visits.items())
    missing = cache.missing(wanted)
    if not _worth(
        cache, wanted=wanted, missing=missing, read=read, how=how, folder=folder, print_rank0=holder.context.print_rank0
    ):
        return
    if steps is not None:
        cache = _cache_of(holder, stage, rows=_rows_read(rows, sample_visits(stage, steps)), folder=folder)
        wanted = list(range(len(cache.parts)))
        missing = cache.missing(wanted)
        if missing:
            holder.context.print_rank0(
                f"teacher cache: {cache.tokens(missing):,} answer tokens to fill, of the first {counted(steps, 'step')}"
            )
    there = sorted(set(wanted).difference(missing))
    damaged = cache.damaged(there, holder.context.env.rank, holder.context.env.world, holder.context.print_rank0)
    anew = sorted({*damaged, *set(wanted).intersection(missing)})
    cache.fill(anew, holder.forward_backward(), teachers, holder.context.print_rank0)
    stage.cached_teachers = TeacherCacheReader(cache, device)


def _rows_read(rows: Sequence[TaughtRow], visits: Counter[tuple[int, int]]) -> list[TaughtRow]:
    """The rows with no other samples than those visited."""
    indices: list[list[int]] = [[] for _ in rows]
    for at, index in sorted(visits):
        indices[at].append(index)
    return [replace(row, indices=own) for row, own in zip(rows, indices, strict=True)]


def _cache_of(holder: BackboneHolder, stage: Stage, rows: Sequence[TaughtRow], folder: Path) -> TeacherCache:
    decided_by = f"{holder.context.backbone_hash}|{holder.context.layout.fingerprint()}|{holder.context.card.dtype}"
    hidden, dtype = holder.context.model_config.hidden_size, getattr(torch, holder.context.card.dtype)
    return TeacherCache(rows, folder, decided_by, stage.weights.temperature, hidden, dtype.itemsize)


def sample_visits(stage: Stage, steps: int | None = None) -> Counter[tuple[int, int]]:
    """(bank row, sample) -> how often a distillation reads it, the whole or its first ``steps``; its rows never
    stop.
    """
    if steps is None:
        steps = stage.total_steps
    streams = [Stream(r.train_indices, r.stream_seed) for r in stage.rows]
    cursors = [0] * len(streams)
    found: Counter[tuple[int, int]] = Counter()
    for step in range(steps):
        found.update(plan_step(stage.sampler.counts(step, [True] * len(streams)), streams, cursors))
    return found


def _worth(
    cache: TeacherCache,
    *,
    wanted: Sequence[int],
    missing: Sequence[int],
    read: int,
    how: str,
    folder: Path,
    print_rank0: Callable[[str], None],
) -> bool:
    """Whether to keep what fills the parts ``wanted`` for ``read`` answer tokens to come. A collective.

    Says what it will take, or why not.

    Args:
        missing: those of the parts that are not on disk.
    """
    tokens = cache.tokens(missing)
    size = tokens * cache.bytes_per_token
    free = min(gather_objects(shutil.disk_usage(nearest_existing(folder)).free))  # ranks must decide alike
    need = f"{tokens:,} answer tokens, {size_text(size)}, in {folder}"
    if how == "auto":
        times = read / max(1, cache.tokens(wanted))
        if missing and times < WORTH:
            print_rank0(
                f"teacher cache: off; an answer token is read {times:.1f} times, and it pays from {WORTH} times on"
            )
            return False
        if size > DISK_SHARE * free:
            print_rank0(
                f"teacher cache: off, it would take {size / 1e9:.1f} of {free / 1e9:.1f} GB that are free in {folder}"
            )
            return False
    elif size > min(float(how) * 1e9, free):
        raise UserError(
            f"distill.teacher_cache: {how} GB (and {free / 1e9:.1f} GB free) are too little for {need}; set "
            "more, or auto, or off"
        )
    if missing:
        print_rank0(f"teacher cache: {need}")
    else:
        print_rank0(f"teacher cache: reused from {folder}")
    return True
