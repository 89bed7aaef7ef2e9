"""Who am I, what goes out, and which DeepSpeed files are taken."""

import dataclasses
import json
import os
import resource
import socket
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backbones import BackboneCard
from backbones.tracing.sizes import measure_footprint
from engine.core.errors import UserError
from engine.distributed.placement import FILES
from engine.distributed.process_group import (
    DistEnv,
    _listen,
    _meeting_point,
    dist_env,
    gather_objects,
    gpu_of,
    world_size,
)
from engine.distributed.zero3 import zero_config

LAUNCHER = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_STEP_ID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "MASTER_ADDR",
)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, DistEnv(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, DistEnv(3, 8, 1)),
        (
            {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "MASTER_ADDR": "n1"},
            DistEnv(5, 8, 1),
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "MASTER_ADDR": "n1"},
            DistEnv(0, 1, 0),
        ),  # inside sbatch, not started by srun
        # torchrun inside srun
        (
            {
                "RANK": "3",
                "WORLD_SIZE": "4",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
                "SLURM_STEP_ID": "0",
                "MASTER_ADDR": "n1",
            },
            DistEnv(3, 4, 0),
        ),
    ],
)
def test_a_process_knows_its_place(
    environment: dict[str, str], wanted: DistEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert dist_env() == wanted


@pytest.mark.parametrize(("local_rank", "visible", "gpu"), [(0, 8, 0), (5, 8, 5), (0, 1, 0), (5, 1, 0), (3, 0, 3)])
def test_a_rank_takes_the_gpu_of_its_number_or_the_one_that_it_is_shown(
    local_rank: int, visible: int, gpu: int
) -> None:
    assert gpu_of(local_rank, visible) == gpu


def test_alone_there_is_nothing_to_gather() -> None:
    assert world_size() == 1 and gather_objects("x") == ["x"]


def test_protection(project: Path, tmp_path: Path) -> None:
    script = (
        "import json, os, pathlib; from engine.core.privacy import protect; protect()\n"
        f"pathlib.Path({str(tmp_path / 'file')!r}).write_text('x'); os.mkdir({str(tmp_path / 'folder')!r}); "
        "print(json.dumps(dict(os.environ)))"
    )
    clean = {"PATH": os.environ["PATH"], "TRITON_CACHE_DIR": "/mine", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=clean, capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    offline = (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
    )
    assert {found[name] for name in offline} == {"1"}  # whatever the user's environment says
    assert found["TRITON_CACHE_DIR"] == "/mine" and found["HF_HOME"] == str(project / ".cache/huggingface")
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert found["WEIGHT_DIGESTS_DIR"] == str(project / ".cache/digests")
    assert (
        stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        and stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    )


CORE = "from engine.core.privacy import protect; protect(); print(resource.getrlimit(resource.RLIMIT_CORE)[0])"


@pytest.mark.parametrize(("asked", "wanted"), [({}, "0"), ({"METAPROMPT_CORE_DUMPS": "1"}, "4096")])
def test_core_dumps_are_written_where_they_are_asked_for(asked: dict[str, str], wanted: str, project: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("this machine allows no core dumps: asking for them is NOT tested")
    script = (
        f"import resource; c = resource.RLIMIT_CORE; resource.setrlimit(c, (4096, resource.getrlimit(c)[1])); {CORE}"
    )
    env = {"PATH": os.environ["PATH"], **asked}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == wanted, done.stderr


def test_code_caches_that_may_be_another_users_work_are_refused_all_at_once(project: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "planted").mkdir()
    (shared / "planted").chmod(0o777)
    (shared / "file").touch()
    caches = {"TORCH_EXTENSIONS_DIR": "planted", "TRITON_CACHE_DIR": "file", "TORCHINDUCTOR_CACHE_DIR": "a/b"}
    if os.geteuid() == 0:
        (shared / "link").symlink_to(tmp_path)
        os.chown(shared / "link", 65534, 65534, follow_symlinks=False)
        caches["HF_MODULES_CACHE"] = "link"
    command = [sys.executable, "-c", "from engine.core.privacy import protect; protect()"]
    env = {"PATH": os.environ["PATH"], **{name: str(shared / folder) for name, folder in caches.items()}}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=60)
    told = [line.split(":")[1].strip() for line in done.stderr.splitlines()]
    assert done.returncode == 2 and told == [name for name in caches if name != "TORCHINDUCTOR_CACHE_DIR"], done.stderr
    assert stat.S_IMODE((shared / "a").stat().st_mode) == stat.S_IMODE((shared / "a/b").stat().st_mode) == 0o700
    env = {"PATH": os.environ["PATH"], "TORCH_EXTENSIONS_DIR": str(tmp_path / "mine/ops")}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not (tmp_path / "mine").exists()  # who could make it there is this user alone


def write(path: Path, content: dict[str, Any] | str) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_every_shipped_deepspeed_file_is_taken(project: Path, card: BackboneCard) -> None:
    files = sorted((project / "ds_configs").glob("*.json"))
    assert {f.name for f in files} == {"cpu.json", *filter(None, FILES.values())}
    for file in files:
        for dtype in ("float32", "bfloat16"):
            found = zero_config(str(file), dataclasses.replace(card, dtype=dtype), measure_footprint(card))
            assert found.get("bf16", {"enabled": False})["enabled"] == (
                dtype == "bfloat16"
            )  # the card decides, never the file
            assert found["zero_optimization"]["stage"] == 3 and found["train_micro_batch_size_per_gpu"] == 1


def test_buckets_come_from_the_backbone_unless_the_file_names_them(card: BackboneCard, tmp_path: Path) -> None:
    config, layer = measure_footprint(card), 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    found = zero_config(write(tmp_path / "a.json", {"zero_optimization": {"stage": 3}}), card, config)[
        "zero_optimization"
    ]
    assert found == {
        "stage": 3,
        "stage3_prefetch_bucket_size": layer,
        "stage3_max_live_parameters": 3 * layer + 2 * 1024 * 64,
        "reduce_bucket_size": 1_000_000,
        "stage3_param_persistence_threshold": 0,
    }
    own = {"stage": 3, "stage3_prefetch_bucket_size": 7, "offload_param": {"device": "cpu"}}
    found = zero_config(write(tmp_path / "b.json", {"zero_optimization": own}), card, config)["zero_optimization"]
    assert found["stage3_prefetch_bucket_size"] == 7 and found["offload_param"] == {"device": "cpu"}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (
            {"zero_optimization": {"stage": 3}, "optimizer": {}, "gradient_clipping": 1},
            ["optimizer: not used here", "gradient_clipping: not used here"],
        ),
        ({"zero_optimization": {"stage": 2}}, ["zero_optimization.stage: must be 3"]),
        ({}, ["zero_optimization.stage: must be 3"]),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            ["zero_quantized_weights: corrupts frozen weights"],
        ),
        (
            {"zero_optimization": {"stage": 1, "zero_quantized_nontrainable_weights": True}, "x": 1},
            ["x: not", "corrupts", "must be 3"],
        ),
        ("{\n\n", ["line 3: not valid JSON"]),
        (
            {"zero_optimization": {"stage": 3, "offload_param": "cpu", "offload_optimizer": ["cpu"]}, "bf16": True},
            [
                'bf16: must be an object, such as {"enabled": true}; got true',
                'zero_optimization.offload_param: must be an object, such as {"device": "cpu"}; got "cpu"',
                "zero_optimization.offload_optimizer: must be an object",
            ],
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}, "wall_clock_breakdown": "no"},
            [
                'wall_clock_breakdown: must be true or false; got "no"',
                'offload_param.device: must be one of none, cpu; got "gpu"',
            ],
        ),
        (
            {"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto", "zero_hpz_partition_size": 0}},
            [
                'stage3_prefetch_bucket_size: must be a whole number >= 0; got "auto"',
                "zero_hpz_partition_size: must be a whole number >= 1; got 0",
            ],
        ),
    ],
)
def test_what_a_deepspeed_file_must_not_say(
    content: dict[str, Any] | str, wanted: list[str], card: BackboneCard, tmp_path: Path
) -> None:
    file = write(tmp_path / "ds.json", content)
    with pytest.raises(UserError) as error:
        zero_config(file, card, measure_footprint(card))
    assert len(error.value.problems) == len(wanted)
    assert all(part in problem and file in problem for part, problem in zip(wanted, error.value.problems, strict=True))


# ---- what listens
# ----------------------------------------------------------------------------------------------------------------


def test_ranks_meet_at_the_jobs_address_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NNODES", raising=False)
    with _listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
    monkeypatch.setenv("SLURM_NNODES", "2")
    with _listen("127.0.0.1", 0) as listening:  # the node's own name resolves to itself: the others could not find it
        assert listening.getsockname()[0] == "0.0.0.0"


def test_a_port_in_use_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(UserError, match="MASTER_PORT: cannot listen on 127.0.0.1:.*export another MASTER_PORT"):
            _meeting_point(DistEnv(0, 2, 0), timedelta(seconds=5))


@pytest.mark.slow
def test_a_process_alone_listens_nowhere(project: Path) -> None:
    script = (
        "import os, pathlib; from engine.distributed.process_group import DistEnv, start_process_group; "
        "start_process_group(DistEnv(0, 1, 0))\n"
        "own = {os.readlink(f) for f in pathlib.Path('/proc/self/fd').iterdir() if f.exists() or f.is_symlink()}\n"
        "rows = [l.split() for kind in ('tcp', 'tcp6') for l in "
        "pathlib.Path(f'/proc/net/{kind}').read_text().splitlines()[1:]]\n"
        "print('LISTENS', [r[1] for r in rows if r[3] == '0A' and f'socket:[{r[9]}]' in own])"
    )
    clean = {k: v for k, v in os.environ.items() if k not in LAUNCHER}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=clean, capture_output=True, text=True, check=True, timeout=120
    )
    found = done.stdout.split("LISTENS ")[1].strip()
    loopback = ("'0100007F:", "'00000000000000000000000001000000:")
    assert all(part.strip(" []").startswith(loopback) for part in found.split(",") if part.strip(" []")), found
