"""Measuring: phases that add up, verdicts that know noise from a slowdown, and what ``benchmark`` refuses."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import chart_png, phases
from engine.benchmark import run_benchmark
from engine.benchmark_cases import request_of
from engine.benchmark_compare import FASTER, FEW, MACHINE, SAME, SLOWER, Old, ratio_of, read_old, says
from engine.benchmark_compare import main as compare_files
from engine.benchmark_profile import gaps, merged, overlap, profiled
from engine.benchmark_result import CONTRACT, spread
from engine.benchmark_stage import stage_of
from engine.benchmark_table import main as table_of
from engine.benchmark_table import table
from engine.errors import UserError
from engine.invented import Invention, invented_data, invention_of
from engine.session import Session
from engine.trainer import Loop

RNG = np.random.default_rng
DEMO = "configs/demo/distill.yaml"


def steps_of(seed: int, factor: float = 1.0, noise: float = 0.01, n: int = 20) -> list[float]:
    """Seconds of steps that do unequal work, the same of step i whatever the seed."""
    work = 0.5 + RNG(99).random(n)
    return list(factor * work * (1 + noise * RNG(seed).standard_normal(n)))


def content_of(seconds: list[float], probe: float = 0.01, **changes: Any) -> dict[str, Any]:
    """As benchmark.json has it, of one case."""
    n = len(seconds)
    case = {
        "label": "", "mode": "teach", "backbone": "b", "placement": "sharded", "world_size": 2, "tokens_per_s": 100 * n / sum(seconds), "mfu": None,
        "step_seconds": spread(seconds), "peak_gpu_bytes": None, "peak_host_bytes": 1000, "h2d_bytes_per_step": 0, "load_seconds": 1.0,
        "gather_bytes_per_step": {"intra": 10.0, "inter": 0.0},
        "phases": {p: {**spread(seconds), "share": 0.1} for p in phases.PHASES},
        "identity": {"mode": "teach", "case": "", "backbone": "b", "weights": "w", "rows": "r", "config": {"token_budget": 4096, "prompt.length": 16}},
        "steps": {"seconds": seconds, "real_tokens": [100] * n, "computed_tokens": [120] * n, "phases": {"forward": seconds}, "probe": [probe] * n},
    }  # fmt: skip
    machine = {"cpu": "c", "gpu": None, "cores": 2, "threads": 1, "nodes": 1, "ranks_per_node": 2}
    return {"mode": "teach", "world_size": 2, "machine": machine, "versions": {"torch": "2"}, "commit": "a", "cases": [case], **changes}


# ---- statistics ------------------------------------------------------------------------------------------------------------


def test_a_slowdown_of_five_percent_is_found_through_one_percent_of_noise() -> None:
    found = [Old(Path("old"), content_of(steps_of(2 * i))).verdict(content_of(steps_of(2 * i + 1, 1.05))) for i in range(40)]
    assert sum(v.slower for v in found) == 40
    assert "slower beyond the spread" in found[0].headline


def test_noise_alone_is_rarely_called_a_difference() -> None:
    for noise in (0.01, 0.05):
        found = [Old(Path("old"), content_of(steps_of(2 * i, noise=noise))).verdict(content_of(steps_of(2 * i + 1, noise=noise))) for i in range(100)]
        assert sum(v.slower for v in found) <= 5


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    for paired in (True, False):
        inside = 0
        for i in range(200):
            old, new = (factor * (1 + 0.03 * RNG(1000 * i + s).standard_normal(25)) for s, factor in ((1, 1.0), (2, 1.1)))
            _, low, high = ratio_of(list(old), list(new), paired)
            inside += low <= 1.1 <= high
        assert 0.90 <= inside / 200 <= 1.0


def test_steps_are_compared_in_pairs_where_they_did_the_same_work() -> None:
    old, new = steps_of(1), steps_of(2, 1.05)
    paired, apart = ratio_of(old, new, True), ratio_of(old, new, False)
    assert paired[2] - paired[1] < 0.02 < apart[2] - apart[1]  # the work varies threefold, the machine by 1 %
    other = content_of(new)
    other["cases"][0]["steps"]["real_tokens"] = [101] * 20
    assert not Old(Path("old"), content_of(old)).verdict(other).slower


@pytest.mark.parametrize(("values", "wanted"), [
    ((1.10, 1.05, 1.15, 20), SLOWER), ((1.10, 0.99, 1.2, 20), SAME), ((1.01, 1.005, 1.015, 20), SAME), ((0.9, 0.85, 0.95, 20), FASTER),
    ((1.5, 1.4, 1.6, 3), FEW),
])  # fmt: skip
def test_a_verdict_needs_size_certainty_and_steps(values: tuple[float, float, float, int], wanted: str) -> None:
    assert says(*values) == wanted


def test_what_a_slower_machine_explains_is_not_held_against_the_code() -> None:
    old = Old(Path("old"), content_of(steps_of(1), probe=0.0100))
    same = old.verdict(content_of(steps_of(2, 1.10), probe=0.0111))
    assert not same.slower and same.lines[0].says == MACHINE
    assert old.verdict(content_of(steps_of(2, 1.25), probe=0.0111)).slower


def test_percentiles_are_those_of_numpy() -> None:
    values = list(RNG(0).random(17))
    found = spread(values)
    assert list(found.values()) == pytest.approx(list(np.quantile(values, [0.5, 0.1, 0.9])))
    assert spread([3.0]) == {"median": 3.0, "p10": 3.0, "p90": 3.0}


# ---- comparing -------------------------------------------------------------------------------------------------------------


def test_other_settings_machines_and_backbones_are_refused_by_name() -> None:
    old = Old(Path("old.json"), content_of(steps_of(1)))
    other = content_of(steps_of(2))["cases"][0]["identity"]
    other = {**other, "weights": "x", "rows": "y", "config": {"token_budget": 8192, "prompt.length": 16}}
    here = {"cpu": "d", "gpu": "H100", "cores": 2, "threads": 1}
    with pytest.raises(UserError) as error:
        old.check([other], 4, False, here)
    text = "\n".join(error.value.problems)
    for wanted in ("weights: w there, x here", "rows: r there, y here", "token_budget: 4096 there, 8192 here", "ranks: 2 there, 4 here",
                   "machine: cpu: c there, d here", "machine: gpu: None there, H100 here", "--compare_anyway=true"):  # fmt: skip
        assert wanted in text
    assert len(error.value.problems) == 6
    old.check([other], 4, True, here)
    with pytest.raises(UserError, match="nodes: 1 there, 2 here"):
        old.check_nodes(2, False)
    with pytest.raises(UserError, match="has no case 'placement=offload'; it has ''"):
        old.check([{**other, "case": "placement=offload"}], 2, True, here)


def test_another_measurement_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.json").write_text(json.dumps(content_of(steps_of(1))))
    monkeypatch.setattr(Session, "join", lambda _: pytest.fail("a process group was started"))
    own = {"steps": "1", "mode": "teach", "invented": "20,4", "compare": str(tmp_path / "old.json"), "output": str(tmp_path / "out")}
    with pytest.raises(UserError) as error:
        run_benchmark(request_of(DEMO, own, {"run_dir": str(tmp_path / "run")}))
    text = "\n".join(error.value.problems)
    assert "backbone: b there, tiny-llama-random here" in text and "prompt.length: 16" not in text and "ranks: 2 there, 1 here" in text
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cases": []}', '{"cases": [{}], "world_size": 1}'])
def test_a_file_that_is_no_measurement_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(UserError, match=r"old.json is no benchmark.json of this release"):
        read_old(tmp_path / "old.json")


def test_two_files_can_be_compared_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"old": content_of(steps_of(1)), "slow": content_of(steps_of(2, 1.2)), "other": content_of(steps_of(2), world_size=4)}
    for name, content in names.items():
        (tmp_path / name).write_text(json.dumps(content))
    for name, code, wanted in (("slow", 3, "slower beyond the spread"), ("old", 0, "no difference"), ("other", 2, "ranks: 2 there, 4 here")):
        monkeypatch.setattr("sys.argv", ["benchmark_compare", str(tmp_path / "old"), str(tmp_path / name)])
        with pytest.raises(SystemExit) as end:
            compare_files()
        said = capsys.readouterr()
        assert end.value.code == code and wanted in said.out + said.err


def test_versions_that_changed_are_told_and_not_refused() -> None:
    verdict = Old(Path("old"), content_of(steps_of(1))).verdict(content_of(steps_of(2), versions={"torch": "3"}, commit="b"))
    assert verdict.notes == ["torch: 2 then, 3 now", "commit: a then, b now"]


# ---- phases ----------------------------------------------------------------------------------------------------------------


def test_an_inner_phase_is_not_counted_twice_and_all_add_up() -> None:
    with phases.running(torch.device("cpu")) as clock:
        begin = time.perf_counter()
        with clock.phase(phases.REST):
            with phases.phase("forward"):
                time.sleep(0.02)
                with phases.phase("loss"):
                    time.sleep(0.03)
                time.sleep(0.01)
            time.sleep(0.01)
        whole = time.perf_counter() - begin
        found = clock.take()
    assert sum(found.values()) == pytest.approx(whole, abs=2e-3)
    assert found["loss"] >= 0.03 and found["forward"] >= 0.03 and found["rest"] >= 0.01
    assert found["forward"] < 0.055


def test_a_backward_pass_is_split_where_a_gradient_arrives() -> None:
    with phases.running(torch.device("cpu")) as clock:
        leaf = torch.ones(3, requires_grad=True)
        with clock.phase(phases.REST):
            row = _slow(leaf, 0.03)
            phases.backward_from(row, "project")
            out = _slow(row, 0.02).sum()
            clock.take()
            with phases.phase("backward"):
                out.backward()
        found = clock.take()
    assert found["project"] >= 0.03 and 0.02 <= found["backward"] < 0.03 + found["project"]


def _slow(x: torch.Tensor, seconds: float) -> torch.Tensor:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            time.sleep(seconds)
            return gradient

    return Slow.apply(x)  # type: ignore[no-any-return]


def test_without_a_clock_nothing_is_measured_and_no_hook_is_left() -> None:
    tensor = torch.ones(2, requires_grad=True) * 1
    phases.backward_from(tensor, "project")
    assert not tensor._backward_hooks
    assert phases.phase("forward") is phases.phase("backward")  # one context for all: nothing is made


def test_a_clock_changes_no_gradient(make_session: Callable[..., Any], tmp_path: Path) -> None:
    def gradients(clocked: bool) -> dict[str, torch.Tensor]:
        session = make_session()
        data = invented_data(session.config.distill.tasks, Invention(12, 4, 20), 1000, 0)
        loop = Loop(stage_of(session, "distill", data, 3, tmp_path), session.backbone(), session.loop_settings())
        if clocked:
            with phases.running(torch.device("cpu")) as clock:
                with clock.phase(phases.REST):
                    loop.gradients(0)
                found = clock.take()
                assert all(found[p] > 0 for p in ("data", "project", "forward", "loss", "backward", "reduce"))
        else:
            loop.gradients(0)
        return {n: p.grad.clone() for n, p in loop.stage.bank.named_parameters() if p.grad is not None}

    with_clock, without = gradients(True), gradients(False)
    assert with_clock and all(with_clock[n].equal(without[n]) for n in without)


# ---- what is measured ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["teach", "distill", "adapt"])
@pytest.mark.parametrize("packed", [True, False])
def test_tokens_are_counted_as_they_are_computed(mode: str, packed: bool, make_session: Callable[..., Any], tmp_path: Path) -> None:
    session = make_session(formulation="packed" if packed else "plain")
    tasks = session.config.adapt.targets if mode == "adapt" else session.config.distill.tasks
    data = invented_data(tasks, Invention(12, 4, 20), 1000, 0)
    loop = Loop(stage_of(session, mode, data, 3, tmp_path), session.backbone(), session.loop_settings())
    seen = []
    plain_root = session.backbone().root.forward

    def spy(door: str, batch: Any, *rest: Any, **more: Any) -> Any:
        seen.append(len(batch.prefix.positions_S) if door == "packed" else batch.ids_BT.shape[0] * (batch.ids_BT.shape[1] + 5))
        return plain_root(door, batch, *rest, **more)

    session.backbone().root.forward = spy
    try:
        outcome = loop.gradients(0)
    finally:
        del session.backbone().root.forward
    real = sum(len(loop.stage.rows[p.row].train.sample(p.index)) for p in loop.last_step_picks)  # type: ignore[union-attr]
    assert int(outcome["real_tokens"]) == real
    assert int(outcome["computed_tokens"]) == sum(seen) > real


def test_invented_rows_are_the_same_for_a_seed_and_of_the_sizes_asked_for() -> None:
    one, again, other = (invented_data(["a", "b"], Invention(40, 6, 300), 500, seed) for seed in (3, 3, 4))
    rows = [[one["a"].splits["train"].sample(i) for i in range(300)] for one in (one, again, other)]
    assert rows[0] == rows[1] and rows[0] != rows[2]
    contexts, answers = [len(r.context_ids) for r in rows[0]], [len(r.answer_ids) for r in rows[0]]
    assert min(contexts) >= 20 and max(contexts) <= 60 and abs(np.mean(contexts) - 40) < 3
    assert min(answers) >= 3 and max(answers) <= 9
    assert {t for r in rows[0] for t in r.context_ids + r.answer_ids} <= set(range(3, 500))
    assert one["a"].splits["train"].key != other["a"].splits["train"].key != one["b"].splits["train"].key


@pytest.mark.parametrize(("text", "wanted"), [("200", "is no CONTEXT,ANSWER"), ("a,b", "is no CONTEXT,ANSWER"), ("200,0", "is no CONTEXT,ANSWER"),
                                              ("800,20", "set --data.max_length=1230")])  # fmt: skip
def test_rows_that_cannot_be_invented_are_refused(text: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        invention_of(text, 1024)


# ---- the command -----------------------------------------------------------------------------------------------------------


def test_a_sweep_and_placements_make_a_case_each() -> None:
    request = request_of(DEMO, {"steps": "3", "sweep": "token_budget=512,1024; prompt.length=4,8", "placements": "sharded,resident", "invented": "20,4"}, {})
    assert request.mode == "distill" and request.steps == 3 and request.warmup == 2
    assert [c.label for c in request.cases][:3] == ["placement=sharded token_budget=512 prompt.length=4", "placement=sharded token_budget=512 prompt.length=8",
                                                    "placement=sharded token_budget=1024 prompt.length=4"]  # fmt: skip
    assert len(request.cases) == 8 and request.cases[-1].config.prompt.length == 8 and request.cases[-1].config.placement == "resident"
    assert request_of("configs/demo/adapt.yaml", {"steps": "1"}, {}).mode == "adapt"
    assert request_of(DEMO, {"steps": "900"}, {}).cases[0].config.distill.steps >= 900


def test_everything_wrong_with_a_command_is_told_at_once() -> None:
    own = {"steps": "0", "warmup": "-1", "mode": "evaluate", "invented": "x", "placements": "cloud", "sweep": "token_bugdet=1;seed", "profile": "yes",
           "compare": "/none.json"}  # fmt: skip
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {})
    text = "\n".join(error.value.problems)
    for wanted in ("--steps: '0'", "--warmup: '-1'", "--mode: 'evaluate' is none of teach, distill, adapt", "--invented: 'x'", "--placements: 'cloud'",
                   "did you mean 'token_budget'?", "--sweep: 'seed' is no KEY=VALUE,VALUE", "--profile: 'yes'", "/none.json is no file"):  # fmt: skip
        assert wanted in text, wanted


def test_values_of_a_sweep_are_checked_as_flags_are() -> None:
    with pytest.raises(UserError, match="--token_budget: expected a whole number, found 'many'"):
        request_of(DEMO, {"steps": "1", "sweep": "token_budget=512,many"}, {})
    with pytest.raises(UserError, match="seed stands twice"):
        request_of(DEMO, {"steps": "1", "sweep": "seed=1,2"}, {"seed": "3"})
    with pytest.raises(UserError, match="adapt.targets: missing; --mode=adapt needs at least one task"):
        request_of(DEMO, {"steps": "1", "mode": "adapt"}, {})


def test_a_log_line_has_mfu_where_the_device_is_known(make_session: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    backbone = session.backbone()
    loop = Loop(stage_of(session, "teach", invented_data(session.config.distill.tasks, Invention(12, 4, 20), 1000, 0), 3, tmp_path), backbone,
                session.loop_settings())  # fmt: skip

    def logged() -> dict[str, Any]:
        loop.window.add(*loop.advance())
        return loop.window.take(loop.stage, loop.start_shared, backbone)

    assert logged()["mfu"] is None
    monkeypatch.setattr(backbone, "sizes", session.sizes)
    assert logged()["mfu"] is None  # a CPU
    monkeypatch.setattr(backbone, "peak", 1e9)
    line = logged()
    layer = 2 * 64**2 + 2 * 64 * 32 + 3 * 64 * 128
    assert line["mfu"] == pytest.approx(4 * 2 * layer * line["tokens_per_s"] / 1e9)


# ---- traces, tables, charts --------------------------------------------------------------------------------------------------


def test_gaps_and_exposed_gathers_of_a_trace() -> None:
    kernels = [("mm", 0, 10), ("ncclDevKernel_AllGather", 5, 30), ("mm", 20, 25), ("mm", 40, 50)]
    lines = gaps([(name, 1e3 * b, 1e3 * e) for name, b, e in kernels])
    assert "10.0 of 50.0 ms (20.0%) in 1 gaps, the longest 10.00 ms" in lines[0]
    assert "Collectives: 25.0 ms, of which 15.0 ms (30.0% of the whole) exposed" in lines[1]
    assert merged([(3, 4), (0, 2), (1, 3)]) == [(0, 4)]
    assert overlap([(0, 4), (6, 8)], [(1, 2), (3, 7)]) == 3


def test_a_trace_holds_operators_and_no_token(tmp_path: Path) -> None:
    secret = torch.tensor([31415926, 27182818])
    with profiled(tmp_path / "out", "0-0", "a case", True, torch.device("cpu")):
        torch.nn.functional.one_hot(secret % 50, 50).float() @ torch.ones(50, 4)
    (packed,) = (tmp_path / "out").glob("*.gz")
    text = gzip.decompress(packed.read_bytes()).decode()
    assert "aten::mm" in text and json.loads(text)["traceEvents"]
    assert "31415926" not in text and "27182818" not in text and Path(__file__).name not in text
    page = (tmp_path / "out/profile.md").read_text()
    assert "`aten::" in page and "## a case (trace-0-0.json.gz)" in page
    assert all(f.stat().st_mode & 0o077 == 0 for f in (tmp_path / "out").iterdir())
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"profile.md", "trace-0-0.json.gz"}


def test_measurements_of_several_node_counts_make_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for nodes in (2, 1):
        content = content_of([1.0 / nodes * (1.25 if nodes == 2 else 1)] * 4)
        content["machine"]["nodes"], content["cases"][0]["world_size"] = nodes, 2 * nodes
        files.append(tmp_path / f"{nodes}.json")
        files[-1].write_text(json.dumps(content))
    table_of([*map(str, files), "--output", str(tmp_path / "out")])
    one, two = (line.split("|") for line in capsys.readouterr().out.splitlines()[2:])
    assert (one[1].strip(), one[10].strip()) == ("1", "100%") and (two[1].strip(), two[10].strip()) == ("2", "80%")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"scaling.md", "scaling.png"}
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(SystemExit) as end:
        table_of([str(tmp_path / "torn.json")])
    assert end.value.code == 2
    assert len(table([content])) == 3


def test_charts_are_png_files_for_their_owner(tmp_path: Path) -> None:
    from PIL import Image

    chart_png.stacked_bars(tmp_path / "bars.png", "t", "s", ["a", "b" * 60], {f"part {i}": [0.1 * i, 0.2] for i in range(12)}, ["x", "y"])
    chart_png.lines(tmp_path / "lines.png", "t", "x", "y", {"one": [(1, 2.0), (2, 3.0), (64, 9.0)], "flat": [(3, 0.0)]})
    for name in ("bars.png", "lines.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width == chart_png.WIDTH and len(set(image.convert("RGB").resize((100, 50)).getdata())) > 20
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("largest", [1e-9, 0.07, 0.9, 1, 3.2, 8, 123, 4e9])
def test_ticks_are_round_few_and_reach_the_largest(largest: float) -> None:
    ticks = chart_png.ticks_to(largest)
    assert 3 <= len(ticks) <= 11 and ticks[0] == 0 and ticks[-1] >= 0.999 * largest and ticks[-2] < largest


def test_the_contract_lists_what_other_programs_read() -> None:
    design = ("mode", "backbone", "placement", "world_size", "samples_per_s", "tokens_per_s", "computed_tokens_per_s", "step_seconds", "mfu", "flops_per_step",
              "peak_gpu_bytes", "peak_host_bytes", "gather_bytes_per_step", "h2d_bytes_per_step", "load_seconds", "kernel_share")  # fmt: skip
    assert design == CONTRACT
