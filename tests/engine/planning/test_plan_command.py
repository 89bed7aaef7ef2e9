"""``plan --gpu`` from the command line: what it prints and writes, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from backbones import load_backbone_card
from backbones.tracing.sizes import measure_footprint
from engine.config.schema import RunConfig
from engine.core import chart_png
from engine.core.errors import UserError
from engine.distributed.hardware import OVERLAPPED, REACHED, names, read_kind
from engine.planning.cost_model import TERMS
from engine.planning.flags import Sweep, assumed_of, check_png, device_of, machine_of, read_sweep
from engine.recipes.plan import _kind_problems

pytestmark = pytest.mark.slow

GB = 10**9


def run_plan(*flags: str) -> dict[str, Any]:
    train.main(["plan", *flags])
    output = next(f.removeprefix("--output=") for f in flags if f.startswith("--output="))
    return json.loads(Path(output).read_text())  # type: ignore[no-any-return]


def test_a_newcomer_s_command_says_what_binds(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(project)
    picture = tmp_path / "scaling.png"
    found = run_plan(
        "--config=configs/gpt_oss_20b/distill.yaml",
        "--backbone=configs/gpt_oss_20b/shape.yaml",
        "--nodes=4",
        "--gpus_per_node=8",
        "--gpu=h100",
        "--host_gb=1000",
        "--sweep=nodes=1,4,16",
        f"--png={picture}",
        f"--output={tmp_path / 'plan.json'}",
    )
    text = capsys.readouterr().out
    assert (
        "the longest stage, is bound by " in text
        and "Strong scaling" in text
        and "Weak scaling" in text
        and "largest max_tokens_per_micro_batch that fits" in text
    )
    assert found["machine"]["device_bytes"] == 80 * GB and found["gpu"]["name"].startswith("H100")
    assert [s["stage"] for s in found["stages"]] == ["teach", "distill"]
    for stage in found["stages"]:
        assert set(stage["terms"]) == set(TERMS) and stage["binding"] == max(stage["terms"], key=stage["terms"].get)
        assert stage["step_seconds"] >= max(stage["terms"].values()) and 0 < stage["mfu"] < 0.6
        assert stage["node_hours"] == pytest.approx(4 * stage["seconds"] / 3600)
        assert stage["tokens_per_s"] == pytest.approx(stage["real_tokens_per_step"] / stage["step_seconds"])
    assert (
        found["node_hours"] == pytest.approx(sum(s["node_hours"] for s in found["stages"]))
        and found["knobs"]
        and found["binding"] in TERMS
    )
    assert [p["value"] for p in found["sweep"]["points"]] == [1, 4, 16] and all(
        {"strong", "weak"} <= set(p) for p in found["sweep"]["points"]
    )
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(1 << 20)
        assert image.width == chart_png.WIDTH and len(colours) > 5  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["auto", "replicated", "zero3_offload"])
@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_the_pocket_backbones_are_planned_everywhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, asked: str
) -> None:
    """The Llama ties its head to the embedding, whose rows a sharded backbone reads from the file."""
    monkeypatch.chdir(project)
    found = run_plan(
        "--config=configs/pocket/distill.yaml",
        f"--backbone=backbones/pocket/{name}.yaml",
        "--nodes=2",
        f"--sharding={asked}",
        "--gpus_per_node=2",
        f"--output={tmp_path / 'plan.json'}",
    )
    card = load_backbone_card(project / f"backbones/pocket/{name}.yaml")
    sizes = measure_footprint(card)
    assert (sizes.head == 0) == (name == "llama") and sizes.rows_from_file
    gathered = {p: of["gathered_bytes_per_micro_batch"] for p, of in found["shardings"].items()}
    assert set(gathered) == {"replicated", "zero3_hpz", "zero3", "zero3_offload"} and gathered.pop("replicated") == 0
    assert found["weight_bytes"] == sizes.weights and min(gathered.values()) > 0


def test_links_of_ones_own_replace_the_kind_s() -> None:
    kind = device_of("A100", {"pcie_gbs": "20", "nvlink_gbs": "", "network_gbs": "12.5"})
    assert kind is not None and (kind.pcie, kind.network, kind.intra) == (20e9, 12.5e9, read_kind("a100").intra)
    assert device_of("", {"pcie_gbs": ""}) is None


@pytest.mark.parametrize("name", names())
def test_every_shipped_kind_is_read(name: str) -> None:
    kind = read_kind(name)
    assert (
        set(kind.flops) == {"bfloat16", "float32"}
        and set(kind.reach) == set(REACHED)
        and set(kind.overlap) == set(OVERLAPPED)
    )
    assert kind.flops["bfloat16"] > kind.flops["float32"] and kind.network and kind.source and kind.matches


def test_every_error_of_a_machine_s_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    content = {
        "name": "mine",
        "flops": {"bfloat16": "fast", "fp8": 1e15},
        "memory": -1,
        "memory_bytes": 8e10,
        "pcie": True,
        "intra": 4e11,
        "netwrok": 1e9,
        "reach": {"compute": 1.6, "memory": 0.8, "pcie": 0.8, "intra": 0.8, "network": 0},
        "latency": 0,
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError) as error:
        read_kind(str(file))
    told = "\n".join(error.value.problems)
    for wanted in (
        "unknown key 'netwrok'",
        f"{file}: network: missing; see configs/machines/h100.yaml",
        f"{file}, line 3: flops.bfloat16: must be a number of operations per second, such as 9.89e+14; got 'fast'",
        "flops.float32: missing",
        "unknown key 'flops.fp8'",
        "memory: must be > 0; got -1.0",
        "pcie: must be a number of bytes per second, such as 3.35e+12; got True",
        "reach.compute: must be <= 1; got 1.6",
        "reach.network: must be > 0 and <= 1; got 0.0",
        "latency: must be > 0; got 0.0",
    ):
        assert wanted in told, (wanted, told)
    with pytest.raises(UserError, match="one of a100, h100, h200, l40s"):
        read_kind("b200")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nodes", "must be like nodes=1,2,4"),
        ("gpus=1,2", "must be like nodes=1,2,4"),
        ("nodes=1,x", "whole numbers > 0; got 'x'"),
        ("nodes=4,2", "must ascend"),
        ("nodes=1,0", "whole numbers > 0; got '0'"),
        ("nodes=", "must be whole numbers > 0"),
        ("max_tokens_per_micro_batch=2,2", "must ascend"),
    ],
)
def test_a_sweep_that_is_none(text: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        read_sweep(text)


def test_a_sweep_and_its_picture(tmp_path: Path) -> None:
    sweep = read_sweep("max_tokens_per_micro_batch=1024, 2048")
    assert sweep == Sweep("max_tokens_per_micro_batch", (1024, 2048)) and read_sweep("") is None
    check_png(str(tmp_path / "a.png"), sweep)
    for png, given in (
        (str(tmp_path / "a.png"), None),
        (str(tmp_path / "a.jpg"), sweep),
        (str(tmp_path / "none" / "a.png"), sweep),
    ):
        with pytest.raises(UserError):
            check_png(png, given)


def test_wrong_flags_are_told_together(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    flags = [
        "--gpu=h101",
        "--network_gbs=fast",
        "--sample_tokens=-3",
        "--answer_tokens=x",
        "--sweep=nodes=a",
        "--png=x.png",
        "--nodes=0",
    ]
    with pytest.raises(SystemExit) as end:
        train.main(["plan", "--config=configs/demo/distill.yaml", *flags])
    told = capsys.readouterr().err
    assert end.value.code == 2
    for wanted in (
        "--gpu: ",
        "--network_gbs: must be a number of GB/s > 0; got 'fast'",
        "--sample_tokens: must be a whole number > 0; got '-3'",
        "--answer_tokens: must be a whole number > 0; got 'x'",
        "--sweep: must be whole numbers > 0; got 'a'",
        "--png",
        "--nodes: must be a whole number >= 1; got '0'",
    ):
        assert wanted in told, (wanted, told)
    for alone in (["--network_gbs=50"], ["--sweep=nodes=1,2"]):
        with pytest.raises(SystemExit) as end:
            train.main(["plan", "--config=configs/demo/distill.yaml", *alone])
        assert end.value.code == 2 and "--gpu" in capsys.readouterr().err


def test_assumed_lengths_go_together() -> None:
    config = RunConfig()
    config.data.max_length = 4096
    assert assumed_of(config).sample_tokens == 1024 and assumed_of(config).answer_tokens == 64
    cases = (
        (("9999",), "must be <= data.max_length, 4096; got 9999"),
        (("100", "100"), "must be < --sample_tokens, 100; got 100"),
        (("1.5",), "whole number"),
        (("", "", "0"), "--task_examples"),
    )
    for flags, wanted in cases:
        with pytest.raises(UserError, match=wanted):
            assumed_of(config, *flags)


SHAPE = ("--config=configs/gpt_oss_20b/adapt.yaml", "--backbone=configs/gpt_oss_20b/shape.yaml")


def test_what_does_not_fit_is_told_with_what_would_and_ends_with_3(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("CLINICAL_DATA_ROOT", raising=False)
    with pytest.raises(SystemExit) as end:
        run_plan(*SHAPE, "--sharding=replicated", "--gpu_gb=16", f"--output={tmp_path / 'plan.json'}")
    found = json.loads((tmp_path / "plan.json").read_text())
    paragraph = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    assert end.value.code == 3 and not found["fits"] and found["would_fit"]
    assert "It does not fit: `replicated` needs " in paragraph and "16.0 GB (14.7 GB usable)" in paragraph
    for remedy in found["would_fit"]:
        assert (remedy["words"] or " ".join(remedy["flags"])) in paragraph
    assert "not checked: adapt.source_run (runs/gpt_oss_20b/distill), data.root" in paragraph


def test_a_plan_of_zero_shot_rows_has_no_times(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    flags = ("--mode=adapt", "--adapt.shots=0", "--gpu=h100", "--gpu_gb=80", f"--output={tmp_path / 'plan.json'}")
    found = run_plan(*SHAPE, *flags)
    paragraph = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    assert "Nothing is trained, so there are no times." in paragraph and found["recommended"] is None


def test_the_paragraph_comes_before_the_tables(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    places = (f"--data.cache={tmp_path}", f"--output={tmp_path / 'plan.json'}")  # no rows whose lengths are known
    found = run_plan("--config=configs/demo/distill.yaml", "--gpu=h100", *places)
    paragraph = " ".join(capsys.readouterr().out.partition("\n\n")[0].split())
    for begin in ("Asked: distillation with ", "It fits: `", "It takes ", "Recommended: "):
        assert begin in paragraph
    assert "is limited by " in paragraph and "Uncertain: lengths are assumed (192 tokens a sample" in paragraph
    assert "the maker's figures times an assumed share" in paragraph
    assert found["would_fit"] == [] and found["recommended"]["node_hours"] <= found["node_hours"]


def test_all_refusals_come_at_once_and_before_torch(project: Path) -> None:
    code = (
        "import sys, train\n"
        "try: train.main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    flags = [
        "plan",
        "--config=configs/demo/distill.yaml",
        "--mode=teach",
        "--gpu=none.yaml",
        "--backbone=none.yaml",
        "--distill.sources=scinly",
        "--adapt.targets=headqua",
        "--adapt.methods=metaprompt,multitask_prompt",
        "--data.decontaminate_against=nothing_like_it",
    ]
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    for wanted in (
        "--mode: must be one of distill, adapt; got 'teach'",
        "--gpu: ",
        "backbone: none.yaml does not exist; name a backbone card",
        "distill.sources: unknown task 'scinly'; did you mean 'scinli'?",
        "adapt.targets: unknown task 'headqua'; did you mean 'headqa'?",
        "adapt.source_run: missing",
        "adapt.multitask_run: missing",
        "data.decontaminate_against: unknown task 'nothing_like_it'",
    ):
        assert wanted in done.stderr, (wanted, done.stderr)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--mode=adapt"], "adapt.targets: missing"),
        (["--distill.sources=", "--mode=distill"], "distill.sources: missing"),
        (["--distill.sources="], "distill.sources: missing, and adapt.targets too"),
        (["--adapt.methods=lora,soup"], "'soup'"),
        (
            ["--sharding=zero3", "--deepspeed=ds_configs/zero3.json"],
            "already sets the sharding; remove deepspeed or sharding",
        ),
    ],
)
def test_plan_refuses_what_a_run_would_be_refused_with(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    wanted: str,
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as end:
        train.main(["plan", "--config=configs/demo/distill.yaml", *flags])
    assert end.value.code == 2 and wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("memory_bytes", "typed", "told"),
    [
        (80e9, "85", 0),  # what an H100 of 80 GiB has
        (80e9, "86", 1),
        (85520871936.0, "", 0),  # a driver's exact number, which the default of --gpu_gb rounds up
    ],
)
def test_memory_is_held_to_what_the_kind_of_gpu_has(memory_bytes: float, typed: str, told: int) -> None:
    kind = replace(read_kind("h100"), memory_bytes=memory_bytes)
    machine = machine_of("1", "8", typed or f"{memory_bytes / GB:g}", "256")
    flags = {"gpu": "h100"} | ({"gpu_gb": typed} if typed else {})
    assert len(list(_kind_problems(flags, kind, machine))) == told
