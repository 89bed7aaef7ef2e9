"""What this machine reaches, measured through the ranks of a job, as a file that ``plan --gpu FILE`` reads.

    torchrun --nproc_per_node 8 -m engine.planning.calibration --backbone configs/gpt_oss_20b/shape.yaml --tokens 16384
    --output my/machine.yaml

Every rank measures at once, so that what they share is shared: cores, memory, links. The slowest rank's rate counts.
Rates are reached, not peaks: ``reach`` is 1 throughout. A calibration takes half a minute.
"""

import argparse
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from backbones import BackboneCard, load_backbone_card
from backbones.tracing import ModelFootprint, measure_footprint
from engine import distributed
from engine.core import UserError
from engine.distributed import OVERLAPPED, REACHED, DeviceKind, deepspeed_file_of, free_host_bytes

REPEATS = 9
AT_LEAST = 0.5  # seconds that a rank's own work is repeated for: a moment's disturbance does not hold as long
COPIED = 1 << 27  # bytes of a copy: far more than any cache
SMALL = 1 << 10  # bytes of a gather that is all latency


def calibrate(
    card: BackboneCard, tokens: int, device: torch.device, nodes: int = 0, sizes: ModelFootprint | None = None
) -> DeviceKind:
    """The kind of device that this job runs on. A collective.

    Args:
        tokens: of a micro-batch: products are measured at the backbone's own widths and these many rows. nodes: how
            many there are; 0: by host names.
    """
    sizes = sizes or measure_footprint(card)
    world = distributed.world_size()
    nodes = nodes or len(Counter(distributed.gather_objects(socket.gethostname())))
    per_node, cuda = world // nodes, device.type == "cuda"
    flops = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        flops[name] = _slowest(_products(sizes, tokens, dtype, device))
    memory = pcie = _slowest(_copy(device, device))
    if cuda:
        pcie = _slowest(_copy(torch.device("cpu"), device))
    latency = _gather_seconds(SMALL, None, device) if world > 1 else 1e-6
    bucket = max(1 << 22, min(1 << 28, max(sizes.layers)) // world)  # of a rank, in the gather of a layer
    intra, network = _link_rates(nodes, bucket, latency, device)
    entering = _slowest(_entering(card, device), most=True)
    name, memory_bytes, matches = "CPU rank", free_host_bytes() / per_node, []
    if cuda:
        name, memory_bytes = torch.cuda.get_device_name(device), float(torch.cuda.mem_get_info(device)[1])
        matches = [name]
    memory_bytes = min(distributed.gather_objects(memory_bytes))  # what is free on a host changes between two readings
    return DeviceKind(
        f"{name}, measured on {nodes} x {per_node} ranks at {tokens} tokens of {card.name}",
        flops=flops,
        memory=memory,
        memory_bytes=memory_bytes,
        pcie=pcie,
        intra=intra or network or memory,
        network=network or intra or memory,
        reach=dict.fromkeys(REACHED, 1.0),
        # CPU ranks wait for each gather, and their cores do one thing at a time
        overlap=dict.fromkeys(OVERLAPPED, float(cuda)),
        latency=latency,
        entering=entering,
        matches=matches,
        source=(
            "engine.planning.calibration: medians, the slowest rank. On one rank a node `intra`, on one node "
            "`network` is the other's: nothing to measure"
        ),
    )


def _link_rates(nodes: int, bucket: int, latency: float, device: torch.device) -> tuple[float, float]:
    """Bytes a second that a rank receives within its node and from others; 0 where there is no link to measure.

    Args:
        bucket: bytes that each rank gives to an all-gather.
    """
    world, rank = distributed.world_size(), distributed.dist_env().rank
    per_node, intra, network = world // nodes, 0.0, 0.0
    if per_node > 1:
        groups = [dist.new_group(range(n * per_node, (n + 1) * per_node)) for n in range(nodes)]
        seconds = _gather_seconds(bucket, groups[rank // per_node], device)
        intra = (per_node - 1) * bucket / max(1e-9, seconds - latency)
    if nodes > 1:
        seconds = _gather_seconds(bucket, None, device)
        network = (world - per_node) * bucket / max(1e-9, seconds - latency)
    return intra, network


def write_kind(kind: DeviceKind, file: Path) -> None:
    """A file for ``--gpu``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = f"# python train.py plan --config … --gpu {file}\n"
    file.write_text(head + yaml.safe_dump(_rounded(asdict(kind)), sort_keys=False, width=150))


def _rounded(value: Any) -> Any:
    """Numbers to four digits, those in a table too."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _seconds(action: Callable[[], Any], device: torch.device, at_least: float = 0.0) -> float:
    """Median of REPEATS and of so many seconds, after one that does not count. A collective is repeated as often on
    every rank: ``at_least`` is 0.
    """
    found: list[float] = []
    while len(found) <= REPEATS or sum(found) < at_least:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


def _slowest(value: float, most: bool = False) -> float:
    every = distributed.gather_objects(value)
    return float(max(every) if most else min(every))


def _products(sizes: ModelFootprint, tokens: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of the products that a token takes: forward x W^T and backward g W, of a square one and
    one as wide as the inner layer.
    """
    experts, chosen = sizes.experts
    rows = tokens * chosen
    if device.type == "cpu":  # CPUs take the experts one after another
        rows = max(1, rows // experts)
    inner = max(sizes.hidden, sizes.active // len(sizes.layers) // (4 * sizes.hidden))
    shapes = [(tokens, sizes.hidden, sizes.queries), (rows, sizes.hidden, inner), (rows, inner, sizes.hidden)]
    seconds = operations = 0.0
    for t, width, out in shapes:
        x = torch.randn(t, width, device=device).to(dtype)
        w = torch.randn(out, width, device=device).to(dtype)
        g = torch.randn(t, out, device=device).to(dtype)
        seconds += _seconds(lambda x=x, w=w, g=g: (x @ w.T, g @ w), device, AT_LEAST)  # type: ignore[misc]
        operations += 2 * 2 * t * width * out
    return operations / seconds


def _copy(source: torch.device, to: torch.device) -> float:
    """Bytes a second: within a memory those read and those written, from a host to its GPU those sent."""
    pinned = source.type == "cpu" and to.type == "cuda"
    a = torch.ones(COPIED, dtype=torch.uint8, device=source, pin_memory=pinned)
    b = torch.empty(COPIED, dtype=torch.uint8, device=to)
    seconds = _seconds(lambda: b.copy_(a, non_blocking=True), to, AT_LEAST)
    return COPIED / seconds if pinned else 2 * COPIED / seconds


def _gather_seconds(each: int, group: Any, device: torch.device) -> float:
    """An all-gather of so many bytes of every rank, as DeepSpeed calls it; the slowest rank's. A collective."""
    import deepspeed.comm as comm

    own = torch.ones(each, dtype=torch.uint8, device=device)
    whole = torch.empty(each * dist.get_world_size(group), dtype=torch.uint8, device=device)
    return _slowest(
        _seconds(lambda: comm.allgather_fn(whole, own, group=group, async_op=True).wait(), device), most=True
    )


def _entering(card: BackboneCard, device: torch.device) -> float:
    """Seconds that a module costs the host, of a backbone so small that nothing else counts, sharded over this rank
    alone.
    """
    from backbones.tracing import trace, twin_card
    from engine.data import Sample
    from engine.distributed import ShardedBackbone
    from engine.training import ForwardBackward, LossWeights
    from prompt_modules import SoftPromptBank

    small = twin_card(card)
    backbone = ShardedBackbone(small, deepspeed_file_of("zero3"), device)
    bank = SoftPromptBank(torch.zeros(1, 2, backbone.model.config.hidden_size)).to(device)
    samples = [Sample([3, 3], [3, 3])]
    forward_backward = ForwardBackward(backbone, True, 16, 0, 1)
    seconds = _seconds(
        lambda: forward_backward.train(samples, bank, weights=LossWeights(), teachers=None, cached=None), device
    )
    entered = sum(v.enters for v in trace(card).visits["train"])
    calls = backbone.gathers.take().calls / (REPEATS + 1)
    backbone.destroy()
    latency = _gather_seconds(SMALL, None, device) if distributed.world_size() > 1 else 0.0
    return max(1e-7, (seconds - calls * latency) / entered)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--backbone", required=True, help="its card")
    parser.add_argument("--tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--nodes", type=int, default=0, help="default: by host names")
    parser.add_argument("--output", type=Path, required=True)
    a = parser.parse_args()
    if a.tokens < 1 or a.output.suffix not in (".yaml", ".yml"):
        raise SystemExit("error: --tokens must be above 0, and --output a .yaml file")
    if problems := distributed.output_problems({"output": str(a.output)}):
        raise SystemExit("\n".join(f"error: {problem}" for problem in problems))
    try:
        device = distributed.start_process_group(distributed.dist_env())
        kind = calibrate(load_backbone_card(a.backbone), a.tokens, device, a.nodes)
    except UserError as error:
        raise SystemExit("\n".join(f"error: {p}" for p in error.problems)) from None
    if distributed.dist_env().rank == 0:
        write_kind(kind, a.output)
        print(a.output.read_text())
    distributed.barrier()


if __name__ == "__main__":
    main()
