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

from engine.benchmarking.cases import request_of
from engine.benchmarking.profile import gaps, merged, overlap, profiled
from engine.benchmarking.result import CONTRACT
from engine.benchmarking.stage import stage_of
from engine.core import chart_png
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


# ---- the command
# -----------------------------------------------------------------------------------------------------------


def test_a_sweep_and_placements_make_a_case_each() -> None:
    request = request_of(
        DEMO,
        {
            "steps": "3",
            "sweep": "max_tokens_per_micro_batch=512,1024; prompt.num_virtual_tokens=4,8",
            "shardings": "zero3,replicated",
            "invented": "20,4",
        },
        {},
    )
    assert request.mode == "distill" and request.steps == 3 and request.warmup == 2
    assert [c.label for c in request.cases][:3] == [
        "sharding=zero3 max_tokens_per_micro_batch=512 prompt.num_virtual_tokens=4",
        "sharding=zero3 max_tokens_per_micro_batch=512 prompt.num_virtual_tokens=8",
        "sharding=zero3 max_tokens_per_micro_batch=1024 prompt.num_virtual_tokens=4",
    ]
    assert (
        len(request.cases) == 8
        and request.cases[-1].config.prompt.num_virtual_tokens == 8
        and request.cases[-1].config.sharding == "replicated"
    )
    assert request_of("configs/demo/adapt.yaml", {"steps": "1"}, {}).mode == "adapt"
    assert request_of(DEMO, {"steps": "900"}, {}).cases[0].config.distill.steps >= 900


def test_everything_wrong_with_a_command_is_told_at_once() -> None:
    own = {
        "steps": "0",
        "warmup": "-1",
        "mode": "evaluate",
        "invented": "x",
        "shardings": "cloud",
        "sweep": "max_token_per_micro_batch=1;seed",
        "profile": "yes",
        "compare": "/none.json",
    }
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {})
    text = "\n".join(error.value.problems)
    for wanted in (
        "--steps: must be a whole number >= 1; got '0'",
        "--warmup: must be a whole number >= 0; got '-1'",
        "--mode: must be one of teach, distill, adapt; got 'evaluate'",
        "rows of a task, such as 200,20 or 200,20,5000; got 'x'",
        "--shardings: must be one of ",
        "did you mean 'max_tokens_per_micro_batch'?",
        "--sweep: must be KEY=VALUE,VALUE; got 'seed'",
        "--profile: must be true or false; got 'yes'",
        "/none.json does not exist",
    ):
        assert wanted in text, wanted


def test_flags_that_exclude_one_another_are_told_with_wrong_values() -> None:
    own = {
        "steps": "1",
        "shardings": "zero3,replicated",
        "sweep": "max_tokens_per_micro_batch=abc;sharding=zero3;seed=1;seed=2;deepspeed=a.json",
        "compare_anyway": "true",
        "mode": " ",
    }
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {"sharding": "zero3"})
    told = [problem.removeprefix("command line: ") for problem in error.value.problems]
    wanted = [
        "--mode: is empty; give it a value, or leave it out",
        "--compare_anyway: has no effect without --compare",
        "--shardings: sharding is in --shardings and --sharding; keep one",
        "--sweep: sharding is in --sweep and --shardings; keep one",
        "--sweep: seed is twice in --sweep; keep one",
        "--sweep: deepspeed has no effect beside --shardings; keep one",
        "--max_tokens_per_micro_batch: must be a whole number; got 'abc'",
    ]
    for part in wanted:
        assert any(part in problem for problem in told), (part, told)
    assert request_of(DEMO, {"steps": "1", "shardings": "zero3"}, {"deepspeed": ""}).cases


def test_an_unset_variable_is_told_with_the_rest() -> None:
    own = {"steps": "x", "compare": "$NOT_SET/old.json", "output": "$NOT_SET/out"}
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {})
    assert [problem.split(": ")[1] for problem in error.value.problems] == ["--steps", "--compare", "--output"]
    with pytest.raises(UserError) as error:
        request_of(DEMO, {"steps": "x"}, {"run_dir": "$NOT_SET/a"})
    assert error.value.problems[1:] == ["run_dir: $NOT_SET/a: an environment variable in it is not set"]


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output: .*file is a file; name a folder"):
        request_of(DEMO, {"steps": "1", "output": str(tmp_path / "file")}, {})


def test_values_of_a_sweep_are_checked_as_flags_are() -> None:
    with pytest.raises(UserError, match="--max_tokens_per_micro_batch: must be a whole number; got 'many'"):
        request_of(DEMO, {"steps": "1", "sweep": "max_tokens_per_micro_batch=512,many"}, {})
    with pytest.raises(UserError, match="seed is in --sweep and --seed; keep one"):
        request_of(DEMO, {"steps": "1", "sweep": "seed=1,2"}, {"seed": "3"})
    with pytest.raises(UserError, match="adapt.targets: missing; --mode=adapt needs at least one task"):
        request_of(DEMO, {"steps": "1", "mode": "adapt"}, {})


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


def test_charts_are_png_files_for_their_owner(tmp_path: Path) -> None:
    from PIL import Image

    chart_png.stacked_bar_chart(
        tmp_path / "bars.png",
        title="t",
        unit="s",
        labels=["a", "b" * 60],
        parts={f"part {i}": [0.1 * i, 0.2] for i in range(12)},
        notes=["x", "y"],
    )
    chart_png.line_chart(
        tmp_path / "lines.png",
        title="t",
        across="x",
        upwards="y",
        series={"one": [(1, 2.0), (2, 3.0), (64, 9.0)], "flat": [(3, 0.0)]},
    )
    chart_png.line_chart(
        tmp_path / "ideal.png",
        title="t",
        across="nodes",
        upwards="tokens/s",
        series={"measured": [(1, 2.0), (8, 9.0)], "ideal": [(1, 2.0), (8, 16.0)]},
        by_logs=True,
        dashed=("ideal",),
    )
    with Image.open(tmp_path / "ideal.png") as image:
        plot = np.asarray(image.convert("RGB"), float)[97:489, 150:750]  # below the legend
        wanted = list(bytes.fromhex(chart_png.COLOURS[1][1:]))
        drawn = (np.abs(plot - wanted).max(axis=2) < 60).any(axis=0)
        assert 0.2 < drawn.mean() < 0.8  # dashes and gaps
        axis = image.convert("L").crop((10, 200, 40, 400))
        assert min(axis.getdata()) < 100  # the y axis has its name
    for name in ("bars.png", "lines.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width == chart_png.WIDTH and len(set(image.convert("RGB").resize((100, 50)).getdata())) > 20
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("largest", [1e-9, 0.07, 0.9, 1, 3.2, 8, 123, 4e9])
def test_ticks_are_round_few_and_reach_the_largest(largest: float) -> None:
    ticks = chart_png.ticks_to(largest)
    assert 3 <= len(ticks) <= 11 and ticks[0] == 0 and ticks[-1] >= 0.999 * largest and ticks[-2] < largest


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(3, 900, [2, 5, 10, 20, 50, 100, 200, 500, 1000]), (20, 20, [20, 50]), (0.004, 0.011, [0.002, 0.005, 0.01, 0.02])],
)
def test_ticks_of_a_logarithm_hold_every_value_between_them(low: float, high: float, wanted: list[float]) -> None:
    assert chart_png.log_ticks(low, high) == pytest.approx(wanted)


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
