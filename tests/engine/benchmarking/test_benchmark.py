"""Measuring: phases that add up, tokens counted as they are computed, what `benchmark` refuses, traces and charts."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.benchmarking.profile import gaps, merged, overlap, profiled
from engine.benchmarking.result import CONTRACT
from engine.benchmarking.stage import stage_of
from engine.core.errors import UserError
from engine.data.synthetic import Invention, invented_data, invention_of
from engine.telemetry import phase_timer
from engine.training.run_directory import trainer_config
from engine.training.trainer import Trainer

DEMO = "configs/demo/distill.yaml"


# ---- phases
# ----------------------------------------------------------------------------------------------------------------


class Hands:
    """A clock's hands, moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def move(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    found = Hands()
    monkeypatch.setattr(phase_timer, "time", SimpleNamespace(perf_counter=lambda: found.now))
    return found


def test_an_inner_phase_is_not_counted_twice_and_all_add_up(hands: Hands) -> None:
    with phase_timer.measure_phases(torch.device("cpu")) as clock:
        with clock.phase(phase_timer.REST):
            with phase_timer.phase("forward"):
                hands.move(2)
                with phase_timer.phase("loss"):
                    hands.move(3)
                hands.move(1)
            hands.move(0.5)
        found = clock.take()
        assert {n: s for n, s in found.items() if s} == {"forward": 3, "loss": 3, "rest": 0.5}
        assert not any(clock.take().values())


def test_an_error_within_a_phase_leaves_the_clock_in_order(hands: Hands) -> None:
    with phase_timer.measure_phases(torch.device("cpu")) as clock:
        with clock.phase(phase_timer.REST):
            with pytest.raises(ZeroDivisionError):
                with phase_timer.phase("forward"):
                    clock.enter("project")
                    hands.move(1)
                    raise ZeroDivisionError
            hands.move(2)
        assert {n: s for n, s in clock.take().items() if s} == {"project": 1, "rest": 2}


def test_a_backward_pass_is_split_where_a_gradient_arrives(hands: Hands) -> None:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:
            ctx.seconds = seconds
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
            hands.move(ctx.seconds)
            return gradient, None

    with phase_timer.measure_phases(torch.device("cpu")) as clock:
        row = Slow.apply(torch.ones(3, requires_grad=True), 3.0)
        phase_timer.backward_from(row, "project")
        out = Slow.apply(row, 2.0).sum()
        with clock.phase(phase_timer.REST):
            with phase_timer.phase("backward"):
                out.backward()
            hands.move(1)
        assert {n: s for n, s in clock.take().items() if s} == {"backward": 2, "project": 3, "rest": 1}


def test_without_a_clock_nothing_is_measured_and_no_hook_is_left() -> None:
    tensor = torch.ones(2, requires_grad=True) * 1
    phase_timer.backward_from(tensor, "project")
    assert not tensor._backward_hooks
    assert phase_timer.phase("forward") is phase_timer.phase("backward")  # one context for all: nothing is made


def test_a_clock_changes_no_gradient(make_holder: Callable[..., Any], tmp_path: Path) -> None:
    def gradients(clocked: bool) -> dict[str, torch.Tensor]:
        holder = make_holder()
        data = invented_data(
            holder.context.config.distill.tasks, invention=Invention(12, 4, 20), vocabulary=1000, seed=0
        )
        trainer = Trainer(
            stage_of(holder, mode="distill", data=data, steps=3, cache=tmp_path),
            holder.backbone(),
            trainer_config(holder.context),
        )
        if clocked:
            with phase_timer.measure_phases(torch.device("cpu")) as clock:
                with clock.phase(phase_timer.REST):
                    trainer.gradients(0)
                found = clock.take()
                assert all(found[p] > 0 for p in ("data", "project", "forward", "loss", "backward", "reduce"))
        else:
            trainer.gradients(0)
        return {n: p.grad.clone() for n, p in trainer.stage.bank.named_parameters() if p.grad is not None}

    with_clock, without = gradients(True), gradients(False)
    assert with_clock and all(with_clock[n].equal(without[n]) for n in without)


# ---- what is measured
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["teach", "distill", "adapt"])
@pytest.mark.parametrize("packed", [True, False])
def test_tokens_are_counted_as_they_are_computed(
    mode: str, packed: bool, make_holder: Callable[..., Any], tmp_path: Path
) -> None:
    holder = make_holder(batching="packed" if packed else "padded")
    tasks = holder.context.config.adapt.targets if mode == "adapt" else holder.context.config.distill.tasks
    data = invented_data(tasks, invention=Invention(12, 4, 20), vocabulary=1000, seed=0)
    trainer = Trainer(
        stage_of(holder, mode, data, steps=3, cache=tmp_path), holder.backbone(), trainer_config(holder.context)
    )
    seen = []
    plain_root = holder.backbone().root.forward

    def spy(door: str, batch: Any, *rest: Any, **more: Any) -> Any:
        seen.append(
            len(batch.prefix.positions_S) if door == "packed" else batch.ids_BT.shape[0] * (batch.ids_BT.shape[1] + 5)
        )
        return plain_root(door, batch, *rest, **more)

    holder.backbone().root.forward = spy
    try:
        outcome = trainer.gradients(0)
    finally:
        del holder.backbone().root.forward
    splits = [row.train for row in trainer.stage.rows]  # type: ignore[union-attr]
    real = sum(len(splits[p.row].sample(p.index)) for p in trainer.last_samples)
    assert int(outcome["real_tokens"]) == real
    assert int(outcome["computed_tokens"]) == sum(seen) > real


def test_invented_rows_are_the_same_for_a_seed_and_of_the_sizes_asked_for() -> None:
    one, again, other = (
        invented_data(["a", "b"], invention=Invention(40, 6, 300), vocabulary=500, seed=seed) for seed in (3, 3, 4)
    )
    rows = [[one["a"].splits["train"].sample(i) for i in range(300)] for one in (one, again, other)]
    assert rows[0] == rows[1] and rows[0] != rows[2]
    contexts, answers = [len(r.context_ids) for r in rows[0]], [len(r.answer_ids) for r in rows[0]]
    assert min(contexts) >= 20 and max(contexts) <= 60 and abs(np.mean(contexts) - 40) < 3
    assert min(answers) >= 3 and max(answers) <= 9
    assert {t for r in rows[0] for t in r.context_ids + r.answer_ids} <= set(range(3, 500))
    assert one["a"].splits["train"].key != other["a"].splits["train"].key != one["b"].splits["train"].key


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("200", "must be CONTEXT,ANSWER"),
        ("a,b", "must be CONTEXT,ANSWER"),
        ("200,0", "must be CONTEXT,ANSWER"),
        ("800,20", "set --data.max_length=1230"),
    ],
)
def test_rows_that_cannot_be_invented_are_refused(text: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        invention_of(text, 1024)


def test_a_log_line_has_mfu_where_the_device_is_known(
    make_holder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = make_holder()
    backbone = holder.backbone()
    trainer = Trainer(
        stage_of(
            holder,
            mode="teach",
            data=invented_data(
                holder.context.config.distill.tasks, invention=Invention(12, 4, 20), vocabulary=1000, seed=0
            ),
            steps=3,
            cache=tmp_path,
        ),
        backbone,
        trainer_config(holder.context),
    )

    def logged() -> dict[str, Any]:
        trainer.window.add(*trainer.advance())
        return trainer.window.take(trainer.stage, trainer.start_shared, backbone)

    assert logged()["mfu"] is None
    monkeypatch.setattr(backbone, "sizes", holder.context.sizes)
    assert logged()["mfu"] is None  # a CPU
    monkeypatch.setattr(backbone, "peak", 1e9)
    line = logged()
    layer = 2 * 64**2 + 2 * 64 * 32 + 3 * 64 * 128
    assert line["mfu"] == pytest.approx(4 * 2 * layer * line["tokens_per_s"] / 1e9)


# ---- traces, tables, charts
# --------------------------------------------------------------------------------------------------


def test_gaps_and_exposed_gathers_of_a_trace() -> None:
    kernels = [("mm", 0, 10), ("ncclDevKernel_AllGather", 5, 30), ("mm", 20, 25), ("mm", 40, 50)]
    lines = gaps([(name, 1e3 * b, 1e3 * e) for name, b, e in kernels])
    assert "10.0 of 50.0 ms (20.0%) in 1 gap, the longest 10.00 ms" in lines[0]
    assert "Collectives: 25.0 ms, of which 15.0 ms (30.0% of the whole) exposed" in lines[1]
    assert merged([(3, 4), (0, 2), (1, 3)]) == [(0, 4)]
    assert overlap([(0, 4), (6, 8)], [(1, 2), (3, 7)]) == 3


def test_a_trace_holds_operators_and_no_token(tmp_path: Path) -> None:
    secret = torch.tensor([31415926, 27182818])
    with profiled(tmp_path / "out", name="0-0", label="a case", is_main_process=True, device=torch.device("cpu")):
        torch.nn.functional.one_hot(secret % 50, 50).float() @ torch.ones(50, 4)
    (packed,) = (tmp_path / "out").glob("*.gz")
    text = gzip.decompress(packed.read_bytes()).decode()
    assert "aten::mm" in text and json.loads(text)["traceEvents"]
    assert "31415926" not in text and "27182818" not in text and Path(__file__).name not in text
    page = (tmp_path / "out/profile.md").read_text()
    assert "`aten::" in page and "## a case (trace-0-0.json.gz)" in page
    assert all(f.stat().st_mode & 0o077 == 0 for f in (tmp_path / "out").iterdir())
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"profile.md", "trace-0-0.json.gz"}


def test_the_contract_lists_what_other_programs_read() -> None:
    design = (
        "mode",
        "backbone",
        "sharding",
        "world_size",
        "samples_per_s",
        "tokens_per_s",
        "computed_tokens_per_s",
        "step_seconds",
        "mfu",
        "flops_per_step",
        "peak_gpu_bytes",
        "peak_host_bytes",
        "gather_bytes_per_step",
        "h2d_bytes_per_step",
        "load_seconds",
        "kernel_share",
    )
    assert design == CONTRACT
