"""Processes: who am I, start the group, sum over ranks."""

import ipaddress
import os
import socket
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.core import UserError
from engine.distributed import watchdog
from engine.distributed.build_ops import load_cpu_collectives, without_build_lines
from engine.distributed.launcher import check_launcher, slurm_task

_set_by_start: dict[str, str] = {}  # by this process for DeepSpeed's sake: no launcher's word


@dataclass(frozen=True)
class DistEnv:
    """This process among all: known from the environment before any process group exists."""

    rank: int
    world: int
    local_rank: int


def dist_env() -> DistEnv:
    """From a launcher's variables, or SLURM's where srun starts one task per GPU; else one process alone.

    Raises:
        UserError: a launcher's variables contradict SLURM, or MASTER_ADDR is missing.
    """
    env = {}
    for name, value in os.environ.items():
        if _set_by_start.get(name) != value:
            env[name] = value
    check_launcher(env)
    if "RANK" in env and "WORLD_SIZE" in env:
        return DistEnv(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    task = slurm_task(env)
    if task is None:
        return DistEnv(0, 1, 0)
    if "MASTER_ADDR" not in env:  # each task would take itself for a job of one
        how = 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1) MASTER_PORT=29500'
        raise UserError(f"MASTER_ADDR is not set; before srun: {how}")
    return DistEnv(task.rank, task.count, task.local_rank)


def start_process_group(where: DistEnv, hang_minutes: float = 30.0) -> torch.device:
    """Join the process group (nccl on GPUs, gloo on CPUs) and return this rank's device. Safe to call again.

    Args:
        hang_minutes: a collective that takes longer is an error; of two, the watch speaks first: it knows more than a
            library's time-out.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed looks for mpi4py when these are missing
    gpu = gpu_of(where.local_rank, torch.cuda.device_count())
    on_gpu = torch.cuda.is_available()
    defaults = {"RANK": where.rank, "WORLD_SIZE": where.world, "LOCAL_RANK": gpu, "MASTER_ADDR": "127.0.0.1"}
    for name, value in defaults.items():
        if name not in os.environ:
            os.environ[name] = _set_by_start[name] = str(value)
    # DeepSpeed 0.19.8 calls the old name of a collective at every gather
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)
    import deepspeed

    backend = "nccl" if on_gpu else "gloo"
    if on_gpu:
        torch.cuda.set_device(gpu)
    wait = timedelta(seconds=watchdog.spoken_after(hang_minutes) + 2)
    watchdog.note_progress("joining the process group")
    if not dist.is_initialized():
        dist.init_process_group(
            backend, store=_meeting_point(where, wait), rank=where.rank, world_size=where.world, timeout=wait
        )
    if not on_gpu:
        load_cpu_collectives(announce=where.rank == 0)
    with without_build_lines():
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=wait)
    if not on_gpu:
        return torch.device("cpu")
    return torch.device("cuda", gpu)


def store_for_a_thread() -> dist.Store | None:
    """The job's store, safe to use beside the group's own use of it; None for a process alone."""
    if world_size() == 1:
        return None
    store: dist.Store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
    return store


def gpu_of(local_rank: int, visible: int) -> int:
    """The number of this rank's GPU among those that it sees: SLURM's --gpus-per-task shows each task its own only;
    no GPU: the local rank.
    """
    if visible == 1:
        return 0
    return local_rank


def _meeting_point(where: DistEnv, wait: timedelta) -> dist.Store | None:
    """Where ranks find one another: on the address that the job names, and no other (torch's own store listens on all
    of a machine's).

    Returns:
        None: torchrun has one, which its agent holds.
    """
    if where.world == 1:
        return dist.HashStore()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ.get("MASTER_PORT", "29500"))
    if where.rank:
        return dist.TCPStore(host, port, where.world, False, wait)
    try:
        listening = _listen(host, port).detach()
    except OSError as error:
        remedy = "export another MASTER_PORT (JOB_PORT for launch_scripts/), or the first node's address as MASTER_ADDR"
        raise UserError(f"MASTER_PORT: cannot listen on {host}:{port} ({error.strerror}); {remedy}") from None
    return dist.TCPStore(host, port, where.world, True, wait, wait_for_workers=False, master_listen_fd=listening)


def _listen(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    several_nodes = int(os.environ.get("SLURM_NNODES", "1")) > 1
    # a node that resolves its own name so would hide from the others
    if several_nodes and ipaddress.ip_address(address[0]).is_loopback:
        address = ("", port)
    listening = socket.create_server(address[:2], family=family, backlog=2048)
    listening.setblocking(False)
    return listening


def world_size() -> int:
    if not dist.is_initialized():
        return 1
    return dist.get_world_size()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """In place; a no-op alone. A tensor on the CPU takes the way over the GPU where the group is nccl, which serves
    nothing else.
    """
    if world_size() > 1:
        watchdog.note_progress(f"sum of {tensor.numel()} numbers over ranks")
        on_group = tensor
        if dist.get_backend() == "nccl":
            on_group = tensor.cuda()
        dist.all_reduce(on_group)
        if on_group is not tensor:
            tensor.copy_(on_group)
    return tensor


def sum_gradients(bank: nn.Module) -> None:
    """One all-reduce of all the bank's gradients, summed and never averaged: weights already count the global step."""
    trainable = [p for p in bank.parameters() if p.requires_grad]
    for p in trainable:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in trainable])  # type: ignore[union-attr]
    sum_over_ranks(flat)
    for p, part in zip(trainable, flat.split([p.numel() for p in trainable]), strict=True):
        p.grad.copy_(part.view_as(p))  # type: ignore[union-attr]


def max_over_ranks(number: int) -> int:
    """The largest that any rank has. A collective."""
    if world_size() == 1:
        return number
    watchdog.note_progress("the largest of a number over ranks")
    out = torch.tensor(number, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(out, dist.ReduceOp.MAX)
    return int(out)


def gather_objects(value):
    """Every rank's value, on every rank, in rank order."""
    if world_size() == 1:
        return [value]
    watchdog.note_progress("gather of objects")
    out = [None] * world_size()
    dist.all_gather_object(out, value)
    return out


def barrier() -> None:
    if world_size() > 1:
        watchdog.note_progress("barrier")
        dist.barrier()
