"""``benchmark``: how fast a configuration trains on this machine. Runs the stage and the loop of a run; writes nothing
but its output folder.

    python train.py benchmark --config FILE --steps N --invented 200,20

Cases (shardings, values of a sweep) take turns step by step where all of them fit at once, so that what slows the
machine slows all; else each is alone in memory, one after the other. A case's first steps are warm-up: DeepSpeed
records its trace there, kernels compile.
"""

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbones import BackboneError
from engine import distributed, telemetry
from engine.benchmarking.cases import PROFILED, Case, Request, asked_of
from engine.benchmarking.compare import Old, read_old
from engine.benchmarking.measured import Measured, StepRecord
from engine.benchmarking.memory_probe import HostPeak, Probe, gpu_held, gpu_peak, reset_gpu_peak
from engine.benchmarking.output import write_files
from engine.benchmarking.peft_beside import PeftBeside, check_ranks
from engine.benchmarking.profile import profiled
from engine.benchmarking.result import assemble, identity_of
from engine.benchmarking.stage import data_of, stage_of
from engine.core import Slower, UserError, deterministic
from engine.data import data_fingerprint
from engine.distributed import Machine, MemoryEstimate, ShardedBackbone
from engine.training import BackboneHolder, Stage, Trainer, trainer_config
from strict_yaml import counted


def run_benchmark(request: Request) -> None:
    """Measure all cases, write the folder, compare.

    Raises:
        UserError: what a run would be refused with; another measurement than the one to compare with. Slower: beyond
            the spread.
    """
    every = [_prepared(case, request) for case in request.cases]
    first = every[0].holder.context
    if request.beside:
        check_ranks(first.env.world)
    old: Old | None = None
    if request.compare:
        old = read_old(request.compare)
        # what can differ before a node is held for it
        old.check([m.identity for m in every], first.env.world, request.compare_anyway)
    device = every[0].holder.join()
    machine = distributed.machine_here(device)
    if old is not None:
        old.check_nodes(machine.nodes, request.compare_anyway)
    for m in every:
        sizes, config = m.holder.context.sizes, m.case.config
        work = distributed.micro_batch_shape(config, sizes)
        asked = distributed.requested_sharding(config)
        m.chosen = distributed.choose_sharding(
            sizes, asked, recompute=config.activation_checkpointing, work=work, m=machine
        )
    every, left_out = _that_fit(every, machine)
    for line in left_out:
        first.print_rank0(f"WARNING left out: {line}")
    groups = _groups(every, machine, request.alternate)
    first.print_rank0(_told(every, groups, request))
    content: dict[str, Any] = {}
    done: list[Measured] = []
    for n, group in enumerate(groups):
        _measure(group, request, device, machine, number=n)
        done += group
        content = assemble(sorted(done, key=every.index), request.mode, request.warmup, where=machine, device=device)
        content["left_out"] = left_out
        if first.is_main_process and n + 1 < len(groups):  # if a later case ends the process, these are measured
            write_files(request.output, content, verdict=None, profiled=False)
    verdict = None
    if first.is_main_process:
        if old is not None:
            verdict = old.verdict(content)
        for line in write_files(request.output, content, verdict, profiled=request.profile):
            first.print_rank0(line)
    verdict = distributed.gather_objects(verdict)[0]
    if verdict is not None and verdict.slower:
        raise Slower(verdict.headline)


def _prepared(case: Case, request: Request) -> Measured:
    """What is known of a case before a backbone stands."""
    holder = BackboneHolder.of(case.config, writes=() if request.invented else ("data.cache",))
    data = data_of(holder, request.mode, request.invented)
    asked = asked_of(request, case, holder.context.card.name)
    identity = identity_of(asked, holder, data_fingerprint(data))
    return Measured(case, holder, data, identity=identity)


def _that_fit(every: list[Measured], m: Machine) -> tuple[list[Measured], list[str]]:
    """Cases without those of several that memory is predicted not to hold: one would end the others' measurement;
    and what is said of them.
    """
    fit, out = [], []
    for case in every:
        assert case.chosen is not None
        if case.chosen.fits(m):
            fit.append(case)
        else:
            needed = case.chosen.device
            if m.device == "cpu":
                needed += case.chosen.host
            out.append(
                f"{case.case.label}: {case.chosen.sharding} needs {needed / distributed.GB:.1f} GB a rank, there "
                f"are {distributed.free_memory_text(m)}"
            )
    if fit and len(every) > 1:
        return fit, out
    return every, []


def _groups(every: list[Measured], m: Machine, alternate: bool) -> list[list[Measured]]:
    """Cases that are in memory together: all of them if their backbones fit at once, else those of one backbone at
    a time.
    """
    needs: dict[tuple[Any, ...], MemoryEstimate] = {}
    by_backbone: dict[tuple[Any, ...], list[Measured]] = {}
    for case in every:
        assert case.chosen is not None
        needs[case.lives] = max(needs.get(case.lives, case.chosen), case.chosen, key=lambda n: n.device + n.host)
        by_backbone.setdefault(case.lives, []).append(case)
    if not alternate:
        return [[case] for case in every]
    parts: dict[str, tuple[float, float]] = {}
    for i, need in enumerate(needs.values()):
        parts |= {f"{name} {i}": size for name, size in need.parts.items()}
    if len(needs) > 1 and not MemoryEstimate("all", 0, False, parts).fits(m):
        return list(by_backbone.values())
    return [every]


def _told(every: list[Measured], groups: list[list[Measured]], request: Request) -> str:
    rows = "the run's own data"
    if request.invented:
        rows = f"invented rows of {request.invented.context} + {request.invented.answer} tokens"
    out = f"benchmark of {request.mode}: {counted(len(every), 'case')}"
    out += f", {request.warmup} + {counted(request.steps, 'step')} on {rows}"
    if len(every) > 1:
        if len(groups) == 1:
            out += "; they take turns"
        elif len(groups) == len(every):
            out += "; one after another"
        else:
            out += "; in turns by backbone"
    if request.beside:
        out += "; after each step one of PEFT's"
    return out


@dataclass(frozen=True)
class _Standing:
    """A backbone that stands. bytes: on the GPU."""

    backbone: ShardedBackbone
    load_seconds: float
    bytes: int


def _measure(group: list[Measured], request: Request, device: torch.device, machine: Machine, number: int) -> None:
    """Build a group's backbones, run all of its steps, and give the memory back. A collective."""
    cache = request.output / f".teachers-{number}"
    with telemetry.measure_phases(device) as clock, contextlib.ExitStack() as after:
        after.callback(_remove, cache, group[0].holder)
        host, probe = HostPeak(), Probe(device)
        standing: dict[tuple[Any, ...], _Standing] = {}
        after.callback(_destroy, group, standing)
        for m in group:
            if m.lives not in standing:
                standing[m.lives] = _built(m, device, machine)
            stage = _start(m, standing[m.lives], request, cache)
            assert m.trainer is not None and m.backbone is not None
            after.callback(m.trainer.close)
            m.beside = len(group) - 1
            if request.beside:
                start_LD, config = m.holder.start_prompt("metaprompt"), m.case.config
                fixed = config.deterministic
                m.peft = PeftBeside(
                    stage, start_LD, m.backbone, budget=config.max_tokens_per_micro_batch, deterministic=fixed
                )
        for step in range(request.warmup + request.steps):
            for m in group:
                record = _step(m, clock, device, probe)
                if step >= request.warmup:
                    m.records.append(record)
                if m.peft is not None:
                    assert m.trainer is not None
                    m.peft.step(m.trainer, step >= request.warmup)
            if step + 1 == request.warmup:
                group[0].holder.context.print_rank0(f"warm-up done: {counted(request.warmup, 'step')}")
        for m in group:
            if not m.beside and m.peft is None:
                m.peak_host = host.peak()
        if request.profile:
            for i, m in enumerate(group):
                with profiled(
                    request.output,
                    name=f"{number}-{i}",
                    label=m.case.label,
                    is_main_process=m.holder.context.is_main_process,
                    device=device,
                ):
                    for _ in range(PROFILED):
                        _step(m, clock, device, None)


def _start(m: Measured, there: _Standing, request: Request, cache: Path) -> Stage:
    """Give a case its loop, on a backbone that stands. -> the loop's stage."""
    m.backbone, m.load_seconds = there.backbone, there.load_seconds
    m.holder.lend(m.backbone)
    before = gpu_held()
    with deterministic(m.case.config.deterministic):
        stage = stage_of(m.holder, request.mode, m.data, steps=request.all_steps, cache=cache)
    m.trainer, m.peak = Trainer(stage, m.backbone, trainer_config(m.holder.context)), m.backbone.peak
    if stage.teachers is not None:
        m.teacher = "asked" if stage.cached_teachers is None else "cached"
    m.own_bytes = there.bytes + gpu_held() - before
    return stage


def _built(m: Measured, device: torch.device, machine: Machine) -> _Standing:
    assert m.chosen is not None
    m.holder.context.print_rank0(m.chosen.line())
    if not m.chosen.fits(machine):
        m.holder.context.print_rank0(
            f"WARNING this is more than the {distributed.free_memory_text(machine)} that are free"
        )
    distributed.barrier()
    before, begin = gpu_held(), time.perf_counter()
    torch.manual_seed(m.case.config.seed)
    try:
        backbone = m.holder.build(device, m.chosen, machine.ranks_per_node)
    except BackboneError as error:
        raise UserError(error.problems) from None
    return _Standing(backbone, max(distributed.gather_objects(time.perf_counter() - begin)), gpu_held() - before)


def _step(m: Measured, clock: telemetry.PhaseTimer, device: torch.device, probe: Probe | None) -> StepRecord:
    """One step of the case's loop: all ranks begin together, and a step is over when its numbers are there."""
    assert m.trainer is not None and m.backbone is not None
    probed = probe.seconds() if probe is not None else 0.0
    distributed.barrier()
    m.backbone.gathers.take()
    reset_gpu_peak()
    held = gpu_held()
    clock.take()
    begin = time.perf_counter()
    with deterministic(m.case.config.deterministic), clock.phase(telemetry.REST):
        outcome, _ = m.trainer.advance()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    gathered = m.backbone.gathers.take()
    peak = None
    if device.type == "cuda":
        peak = m.own_bytes + gpu_peak() - held
    return StepRecord(
        seconds=seconds,
        phases=clock.take(),
        samples=int(outcome["examples"].sum()),
        real_tokens=int(outcome["real_tokens"]),
        computed_tokens=int(outcome["computed_tokens"]),
        gathered=gathered,
        peak_gpu=peak,
        probe=probed,
    )


def _destroy(group: list[Measured], standing: dict[tuple[Any, ...], _Standing]) -> None:
    for m in group:
        m.trainer = m.backbone = None
        if m.peft is not None:
            m.peft.release()
        m.holder._backbone = None
    while standing:
        standing.popitem()[1].backbone.destroy()


def _remove(cache: Path, holder: BackboneHolder) -> None:
    if holder.context.is_main_process:
        shutil.rmtree(cache, ignore_errors=True)
