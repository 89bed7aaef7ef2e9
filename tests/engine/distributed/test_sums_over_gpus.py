"""nccl serves GPU tensors only; statistics live on the CPU."""

import pytest
import torch
import torch.distributed as dist

from engine.core.errors import UserError
from engine.distributed import process_group


def test_a_cpu_tensor_takes_the_way_over_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu: list[torch.Tensor] = []

    def cuda(tensor: torch.Tensor) -> torch.Tensor:
        on_gpu.append(tensor.clone())
        return on_gpu[-1]

    def all_reduce(tensor: torch.Tensor) -> None:
        assert any(tensor is t for t in on_gpu), "nccl was given a tensor on the CPU"
        tensor *= 2

    monkeypatch.setattr(process_group, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.Tensor, "cuda", cuda)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    sums = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert process_group.sum_over_ranks(sums) is sums and sums.tolist() == [2.0, 4.0]


def test_slurm_tasks_that_cannot_find_one_another_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        process_group.dist_env()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert process_group.dist_env() == process_group.DistEnv(1, 4, 1)
