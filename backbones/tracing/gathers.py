"""What ZeRO-3 moves for a backbone, counted where DeepSpeed fetches: bytes from ranks of the own node, from other
nodes, over PCIe.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import nn

ISSUE, WAIT = "gather issue", "gather wait"  # phases of a step


class Gathered(NamedTuple):
    """calls: all-gathers. intra, inter: bytes that this rank receives, by where a shard lies: on its own node or on
    another, whatever way the collective sends it. uploaded: bytes of its own shards that go from host memory to its
    GPU.
    """

    calls: int = 0
    intra: int = 0
    inter: int = 0
    uploaded: int = 0

    @property
    def bytes(self) -> int:
        return self.intra + self.inter

    def plus(self, other: "Gathered") -> "Gathered":
        return Gathered(*(a + b for a, b in zip(self, other, strict=True)))


class GatherCounter:
    """Counts the all-gathers that ZeRO-3 issues for a backbone, and the bytes they bring to this rank.

    Wraps each partitioned parameter's own gather, the one door through which DeepSpeed's coordinator fetches.

    Args:
        ranks_per_node: ranks lie node by node, equally many on each. on_gpu: shards in host memory go over PCIe first.
    """

    def __init__(self, model: nn.Module, ranks_per_node: int = 1, on_gpu: bool = False):
        self.ranks_per_node, self.on_gpu = ranks_per_node, on_gpu
        self.since = Gathered()
        self._reaches: dict[Any, tuple[int, int]] = {}
        for parameter in model.parameters():
            if hasattr(parameter, "all_gather_coalesced"):
                parameter.all_gather_coalesced = self._counted(parameter.all_gather_coalesced)

    def _counted(self, gather: Any) -> Any:
        def counted(params: Any, *args: Any, **kwargs: Any) -> Any:
            params = list(params)
            for each in map(self._brought, params):
                self.since = self.since.plus(each)
            self.since = self.since._replace(calls=self.since.calls + 1)
            return gather(params, *args, **kwargs)

        return counted

    def take(self) -> Gathered:
        """What was counted since the last take."""
        out, self.since = self.since, Gathered()
        return out

    def _brought(self, parameter: Any) -> Gathered:
        """By gathering a parameter: from its node where there are secondary shards, else from all."""
        shard, group = parameter.ds_tensor, parameter.ds_process_group
        if parameter.ds_secondary_tensor is not None:
            shard, group = parameter.ds_secondary_tensor, parameter.ds_zero_param_process_group
        each, (near, size) = shard.numel() * shard.element_size(), self._reach(group)
        uploaded = each if self.on_gpu and shard.device.type == "cpu" else 0
        return Gathered(0, each * (near - 1), each * (size - near), uploaded)

    def _reach(self, group: Any) -> tuple[int, int]:
        """Ranks of a group: on this node, and in all. Asked for once: it is on the path of every gather, and groups
        may have hundreds.
        """
        if group not in self._reaches:
            ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
            node = dist.get_rank() // self.ranks_per_node
            self._reaches[group] = sum(rank // self.ranks_per_node == node for rank in ranks), len(ranks)
        return self._reaches[group]


@contextlib.contextmanager
def timed_gathers(phase: Callable[[str], contextlib.AbstractContextManager[None]], on_gpu: bool) -> Iterator[None]:
    """Within, whatever DeepSpeed's coordinator does before a module is a phase: WAIT where it is blocked on a gather's
    handle, ISSUE the rest.

    Args:
        phase: its context. on_gpu: handles wait on a stream of their own; what counts is how long the computing stream
            stands still, which is from before the coordinator's call to after it: all of it is WAIT.
    """
    from deepspeed.runtime.zero import partition_parameters as handles
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator as Coordinator

    def within(name: str, plain: Any, fetches: bool) -> Any:
        @functools.wraps(plain)
        def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
            if fetches and not args[0]._parameters:  # most modules have none of their own
                return plain(self, *args, **kwargs)
            with phase(name):
                return plain(self, *args, **kwargs)

        return timed

    doors: list[tuple[Any, str, str]] = [(Coordinator, "fetch_sub_module", WAIT if on_gpu else ISSUE)]
    if not on_gpu:
        every = (
            handles.NoGatherHandle,
            handles.NoGatherCoalescedHandle,
            handles.AllGatherHandle,
            handles.AllGatherCoalescedHandle,
        )
        doors += [(handle, "wait", WAIT) for handle in every]
    before = [getattr(owner, name) for owner, name, _ in doors]
    try:
        for (owner, name, what), plain in zip(doors, before, strict=True):
            setattr(owner, name, within(what, plain, owner is Coordinator))
        yield
    finally:
        for (owner, name, _), plain in zip(doors, before, strict=True):
            setattr(owner, name, plain)
