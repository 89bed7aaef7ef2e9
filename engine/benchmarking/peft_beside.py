"""``benchmark --beside=peft``: after each of our steps one of PEFT's, on the same samples.

PEFT is in requirements-dev.txt alone.
"""

import importlib.util
import time
from collections.abc import Sequence

import torch

from backbones.layers import is_fused, unfused
from engine.benchmarking.peft_step import PeftTrainer
from engine.config import RunConfig
from engine.core import UserError, deterministic
from engine.distributed import ShardedBackbone
from engine.training import Stage, Trainer
from strict_yaml import must_be_one_of

PEERS = ("peft",)
STAGES = ("teach", "distill")


def problems_of(peer: str, mode: str, configs: Sequence[RunConfig]) -> list[str]:
    """What is wrong with ``--beside`` for these cases, told before anything starts."""
    if peer not in PEERS:
        return [f"command line: --beside: {must_be_one_of(peer, PEERS)}"]
    out = []
    if importlib.util.find_spec("peft") is None:
        out.append("command line: --beside: peft is not installed; pip install -r requirements-dev.txt")
    if mode and mode not in STAGES:
        out.append(f"command line: --beside: PEFT has no step like that of {mode}; set --mode=teach or --mode=distill")
    for file, placed in sorted({(c.deepspeed, c.sharding) for c in configs}):
        if file or placed != "replicated":
            fix = "--sharding=replicated" + (" --deepspeed=" if file else "")
            out.append(f"command line: --beside: PEFT needs the whole backbone, not {file or placed}; set {fix}")
    return out


def check_ranks(world: int) -> None:
    """PEFT is timed in one process.

    Raises:
        UserError: there are several.
    """
    if world > 1:
        fix = "start it without torchrun, or with --nproc_per_node 1"
        raise UserError(f"command line: --beside: PEFT is timed in one process, not in {world}; {fix}")


class PeftBeside:
    """PEFT's steps beside those of a loop, with transformers' own operators: their seconds, and their losses in nats.

    ``ours_fused``: whether operators of a layer are joined in the loop's steps. ``deterministic``: as the key of the
        run, for both alike.
    """

    def __init__(
        self, stage: Stage, start_LD: torch.Tensor, backbone: ShardedBackbone, budget: int, *, deterministic: bool
    ):
        self.budget, self.ours_fused, self.deterministic = budget, is_fused(backbone.model), deterministic
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.trainer: PeftTrainer | None = PeftTrainer(
            backbone.model, start_LD, tasks=len(stage.rows), weights=stage.weights, teachers=stage.teachers
        )

    def step(self, trainer: Trainer, measured: bool) -> None:
        """One step on the samples of the loop's last one.

        Batches are there before the clock starts, as a data loader makes them ahead.

        Raises:
            UserError: the GPU's memory does not hold it.
        """
        assert self.trainer is not None
        batches = self.trainer.batches(trainer.last_samples, self.budget)
        try:
            with unfused(self.trainer.backbone), deterministic(self.deterministic):
                _wait(self.trainer.device)
                begin = time.perf_counter()
                loss = self.trainer.step(batches)
                _wait(self.trainer.device)
                seconds = time.perf_counter() - begin
        except torch.OutOfMemoryError:
            problem = "--beside: PEFT's step ran out of the GPU's memory, for it makes logits at every position"
            raise UserError(f"{problem}; set a smaller --max_tokens_per_micro_batch, or leave --beside out") from None
        if measured:
            self.seconds.append(seconds)
            self.losses.append(loss)

    def release(self) -> None:
        """Let go of the backbone; what was measured stays."""
        self.trainer = None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
