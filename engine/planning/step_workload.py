"""What the stages of a configuration have to compute: micro-batches of a few of their steps, cut as a run cuts them, by
the lengths of its samples.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, zip_longest
from types import SimpleNamespace
from typing import Any, cast

from engine import training
from engine.config import RunConfig
from engine.data import (
    Sample,
    Split,
    Stream,
    TaskData,
    packed_groups,
    padded_groups,
    plan_step,
)
from engine.training import (
    WORTH,
    Adapter,
    Stage,
    adapt_rows,
    adapt_sampler,
    distill_rows,
    distill_sampler,
    sample_visits,
    teach_rows,
    teach_sampler,
    teach_sweep_rows,
)

SAMPLED, ENOUGH = 6, 3000  # steps of a stage that are cut, or samples of them; the rest are taken to be like them


@dataclass(frozen=True)
class Parts:
    """Files that teachers' answers are kept in: (row, samples) of each, and the numbers of those that a run reads."""

    every: list[tuple[int, list[int]]]
    read: list[int]


@dataclass(frozen=True)
class MicroBatch:
    """prompts, length: K and L. text: tokens of samples, padding included. answers: through the head. pairs: of a query
    and a key, as a causal attention without a window has them. lora: of rows of LoRA, which have no prompt.
    """

    prompts: int
    length: int
    text: int
    answers: int
    pairs: float
    lora: bool = False

    @property
    def tokens(self) -> int:
        return self.prompts * self.length + self.text


@dataclass(frozen=True)
class StageWork:
    """A stage of a run.

    sampled: of each step looked at, the micro-batches of the slowest rank.
    kind: one of backbones.tracing.module_trace.KINDS.
    forward: micro-batches without a backward pass of the whole stage (validations, teachers' answers kept on disk).
    real_tokens, examples: of a step, all ranks.
    """

    name: str
    steps: int
    kind: str
    sampled: tuple[tuple[MicroBatch, ...], ...]
    real_tokens: float
    examples: float
    forward: tuple[MicroBatch, ...] = ()

    @cached_property
    def rounds(self) -> float:
        """Micro-batches of a rank in a step, on average."""
        return sum(map(len, self.sampled)) / len(self.sampled)

    @cached_property
    def tokens(self) -> float:
        """Of a micro-batch, prompts counted, on average."""
        return sum(b.tokens for step in self.sampled for b in step) / sum(map(len, self.sampled))


def stages_of(
    config: RunConfig, mode: str, data: dict[str, TaskData], world: int, decided: dict[str, Parts | None]
) -> list[StageWork]:
    """The stages that a mode runs, or all that the configuration has.

    Args:
        decided: holds from call to call whether teachers' answers are cached, so that settings are compared alike.
    """
    c, out = config, []
    if mode in ("", "distill") and c.distill.tasks:
        taught = bool(c.distill.lambda_kl or c.distill.lambda_hidden)
        if taught and not c.teach.adapters and not c.teach.run:
            if c.lr_sweep.relative_lr_teach:
                out.append(_teach_sweep(c, data, world))
            out.append(_teach(c, data, world))
        out.append(_distill(c, data, world, taught, decided))
    if mode in ("", "adapt") and c.adapt.targets:
        for name, tuning in (("lr_sweep", True), ("adapt", False)):
            rows = [r for r in adapt_rows(c, data, tuning=tuning) if r.train_indices]
            if rows:
                every = 0 if tuning else c.adapt.eval_interval
                out.append(
                    _stage(
                        c,
                        name,
                        rows,
                        sampler=adapt_sampler(c, rows),
                        steps=c.adapt.steps,
                        kind="train",
                        world=world,
                        eval_interval=every,
                    )
                )
    return out


def _teach(c: RunConfig, data: dict[str, TaskData], world: int) -> StageWork:
    rows, t = teach_rows(c, data), c.teach
    return _stage(
        c,
        name="teach",
        rows=rows,
        sampler=teach_sampler(c, rows),
        steps=t.steps,
        kind="train",
        world=world,
        eval_interval=t.eval_interval,
    )


def _teach_sweep(c: RunConfig, data: dict[str, TaskData], world: int) -> StageWork:
    rows = teach_sweep_rows(c, data)
    return _stage(
        c,
        name="lr_sweep",
        rows=rows,
        sampler=teach_sampler(c, rows),
        steps=c.teach.steps,
        kind="train",
        world=world,
        eval_interval=0,
    )


def _distill(
    c: RunConfig, data: dict[str, TaskData], world: int, taught: bool, decided: dict[str, Parts | None]
) -> StageWork:
    s, rows = c.distill, distill_rows(c, data, "metaprompt")
    sampler = distill_sampler(c, rows)
    if "parts" not in decided:
        decided["parts"] = _cached_parts(c, rows, sampler) if taught else None
    cached = decided["parts"]
    work = _stage(
        c,
        name="distill",
        rows=rows,
        sampler=sampler,
        steps=s.steps,
        kind="train" if cached is not None or not taught else "train_with_teacher",
        world=world,
        eval_interval=0,
    )
    return work if cached is None else replace(work, forward=_filled(c, rows, cached, world))


def _stage(
    c: RunConfig,
    name: str,
    rows: Sequence[Adapter],
    sampler: Any,
    steps: int,
    kind: str,
    world: int,
    eval_interval: int,
) -> StageWork:
    streams, cursors = [Stream(r.train_indices, r.stream_seed) for r in rows], [0] * len(rows)
    sampled, tokens, examples = [], 0, 0
    for step in range(min(SAMPLED, steps)):
        samples = []
        for row, index in plan_step(sampler.counts(step, [True] * len(rows)), streams, cursors):
            samples.append(cast(Split, rows[row].train).sample(index, row))
        sampled.append(_cut(c, rows, samples, world))
        tokens += sum(len(sample) for sample in samples)
        examples += len(samples)
        if examples >= ENOUGH:
            break
    forward: tuple[MicroBatch, ...] = ()
    if eval_interval and any(r.validation is not None for r in rows):
        samples = []
        for number, adapter in enumerate(rows):
            if adapter.validation is not None:
                samples += [adapter.validation.sample(index, number) for index in adapter.validation.sample_indices]
        forward = _cut(c, rows, samples, world) * (-(-steps // eval_interval))
    return StageWork(name, steps, kind, tuple(sampled), tokens / len(sampled), examples / len(sampled), forward)


def _cut(c: RunConfig, rows: Sequence[Adapter], samples: Sequence[Sample], world: int) -> tuple[MicroBatch, ...]:
    """Micro-batches of a step, of each round the largest: ranks gather together, so that the slowest decides."""
    cut = packed_groups if c.batching == "packed" else padded_groups
    out: list[MicroBatch] = []
    for length in (0, c.prompt.num_virtual_tokens):
        own = [i for i in samples if (rows[i.row].method == "lora") == (length == 0)]
        if own:
            groups = [
                micro_batch_of(g, length, c.batching == "packed")
                for g in cut(own, length, c.max_tokens_per_micro_batch, world)
            ]
            out += [max(groups[at : at + world], key=lambda b: b.tokens) for at in range(0, len(groups), world)]
    return tuple(out)


def micro_batch_of(group: Sequence[Sample], length: int, packed: bool) -> MicroBatch:
    """Of samples, behind prompts of a length; 0 where they are of rows of LoRA."""
    widest = max(len(sample) for sample in group)
    sizes = [len(i) if packed else widest for i in group]
    prompts = (len({sample.row for sample in group}) if packed else len(group)) if length else 0
    pairs = sum(n * (length + n / 2) for n in sizes) + prompts * length * length / 2
    return MicroBatch(prompts, length, sum(sizes), sum(len(sample.answer_ids) for sample in group), pairs, not length)


def _cached_parts(c: RunConfig, rows: Sequence[Adapter], sampler: Any) -> Parts | None:
    """None where a distillation asks its teachers every time.

    Decided as engine.training.teachers decides, the disk apart.
    """
    if c.distill.teacher_cache == "off" or c.batching != "packed":
        return None
    stage = SimpleNamespace(rows=rows, sampler=sampler, total_steps=c.distill.steps)
    visits: Counter[tuple[int, int]] = sample_visits(cast(Stage, stage))
    every: list[tuple[int, list[int]]] = []
    holds: dict[tuple[int, int], int] = {}  # a row's sample -> number of its file
    for k, row in enumerate(rows):
        answers, indices = cast(Split, row.train).answer_lengths(), row.train_indices
        for begin, end in pairwise([*training.cut_files(answers[i] for i in indices), len(indices)]):
            holds |= dict.fromkeys(((k, i) for i in indices[begin:end]), len(every))
            every.append((k, indices[begin:end]))
    read = sorted({holds[visit] for visit in visits})
    times = visits.total() / max(1, sum(len(every[number][1]) for number in read))
    return Parts(every, read) if times >= WORTH or c.distill.teacher_cache != "auto" else None


def _filled(c: RunConfig, rows: Sequence[Adapter], parts: Parts, world: int) -> tuple[MicroBatch, ...]:
    """Forward passes of a rank that fill the teacher cache, of each round the largest: ranks gather together."""
    splits = [cast(Split, row.train) for row in rows]
    lengths = [(split.context_lengths(), split.answer_lengths()) for split in splits]
    samples = [
        [training.placeholder_sample(k, index=i, context=lengths[k][0][i], answer=lengths[k][1][i]) for i in indices]
        for k, indices in parts.every
    ]
    blocks = training.plan_blocks(
        samples,
        wanted=parts.read,
        prompt_length=c.prompt.num_virtual_tokens,
        max_tokens_per_micro_batch=c.max_tokens_per_micro_batch,
    )
    shares = training.assign_blocks(blocks, world)
    turns = [
        [micro_batch_of(g, c.prompt.num_virtual_tokens, True) for b in share for g in b.groups] for share in shares
    ]
    return tuple(max(filter(None, turn), key=lambda b: b.tokens) for turn in zip_longest(*turns))
