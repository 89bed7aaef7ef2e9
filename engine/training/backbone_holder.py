"""The frozen backbone of a run: chosen, built once, lent, checked, and asked for what prompts start from."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from backbones import BackboneCard, BackboneError, backbone_checksum, parameter_count, resident_bytes
from clinical_tasks import TaskCard
from engine import distributed, telemetry
from engine.config import RunConfig, rms_of
from engine.core import UserError
from engine.data import seed_of
from engine.distributed import ShardedBackbone
from engine.training.context import RunContext
from engine.training.forward_backward import ForwardBackward
from prompt_modules import embeddings_from_instruction, embeddings_from_text, embeddings_from_vocabulary
from strict_yaml import counted


class BackboneHolder:
    """Starts the process group and builds the backbone of ``context`` when it is first asked for."""

    def __init__(self, context: RunContext):
        self.context = context
        self._backbone: ShardedBackbone | None = None
        self._checksum = ""
        self._instructions: dict[str, list[int]] = {}

    @classmethod
    def of(cls, config: RunConfig, writes: distributed.Writes = distributed.TRAINS) -> "BackboneHolder":
        """The holder of a new run context.

        Raises:
            UserError: all that is wrong with the configuration on this machine.
        """
        return cls(RunContext(config, writes))

    def on(self, split: str) -> "BackboneHolder":
        """The same backbone, for a run that asks another split."""
        out = copy.copy(self)
        out.context = self.context.on(split)
        return out

    @property
    def zero(self) -> dict[str, Any] | None:
        """What DeepSpeed was given; None before the backbone is built, and where it is replicated."""
        return None if self._backbone is None else self._backbone.zero

    def backbone(self) -> ShardedBackbone:
        """Start the process group and build the backbone, once. A collective.

        Raises:
            UserError: the backbone's files, or the toolchain.
        """
        if self._backbone is None:
            device = self.join()
            torch.manual_seed(self.context.config.seed)
            try:
                self._backbone = self._standing_or_new(device)
            except BackboneError as error:
                raise UserError(error.problems) from None
            self._checksum = backbone_checksum(self._backbone.model)
            telemetry.mark_startup("weights")
        return self._backbone

    def _report(self, backbone: ShardedBackbone) -> None:
        card, numbers = self.context.card, parameter_count(backbone.model)
        held = distributed.gather_objects(resident_bytes(backbone.model))
        self.context.print_rank0(
            f"backbone {card.name}: {numbers:,} parameters, {card.dtype}, {counted(distributed.world_size(), 'rank')}, "
            f"resident bytes per rank {', '.join(f'{b:,}' for b in held)}"
        )

    def join(self) -> torch.device:
        """Start the process group, or find it started. -> this rank's device."""
        distributed.check_toolchain()
        hang_minutes, env = self.context.config.hang_minutes, self.context.env
        device = distributed.start_process_group(env, hang_minutes)
        distributed.start_watchdog(hang_minutes, env.rank, env.world, store=distributed.store_for_a_thread())
        telemetry.mark_startup("rendezvous")
        return device

    def build(self, device: torch.device, chosen: distributed.MemoryEstimate, ranks_per_node: int) -> ShardedBackbone:
        """A backbone where it was chosen to live, which is the caller's. A collective.

        Raises:
            BackboneError: its files.
        """
        context = self.context
        return ShardedBackbone(
            context.card,
            deepspeed_file=context.config.deepspeed or distributed.deepspeed_file_of(chosen.sharding),
            device=device,
            recompute=chosen.recompute,
            ranks_per_node=ranks_per_node,
            offload_inputs=chosen.offloaded,
            print_rank0=context.print_rank0,
            sizes=context.sizes,
            fused=context.config.fused == "auto",
        )

    def lend(self, backbone: ShardedBackbone) -> None:
        """Use this one, which the caller built and will destroy."""
        self._backbone, self._checksum = backbone, ""

    def _standing_or_new(self, device: torch.device) -> ShardedBackbone:
        """A process holds one backbone, and a study asks for the same one again and again. A collective."""
        global _standing
        context, config = self.context, self.context.config
        work = distributed.micro_batch_shape(config, context.sizes)
        if _standing is not None:
            # as if it were not there yet: what it takes itself is not to count against it
            chosen = self._chosen(work, _standing.machine)
            standing = (_standing.card, _standing.deepspeed, _standing.how)
            if standing == (context.card, config.deepspeed, _how(chosen, config)):
                return _standing.backbone
            _standing.backbone.destroy()
            _standing = None
        machine = distributed.machine_here(device)
        chosen = self._chosen(work, machine)
        self._report_choice(chosen, machine)
        backbone = self.build(device, chosen, machine.ranks_per_node)
        _standing = _Standing(context.card, config.deepspeed, _how(chosen, config), machine, backbone)
        self._report(backbone)  # not again in a study's later runs, where layers may still be gathered
        return backbone

    def _chosen(self, work: distributed.MicroBatchShape, machine: distributed.Machine) -> distributed.MemoryEstimate:
        """Where the backbone lives on a machine, and how much is recomputed."""
        config = self.context.config
        asked = distributed.requested_sharding(config)
        return distributed.choose_sharding(
            self.context.sizes, asked, recompute=config.activation_checkpointing, work=work, m=machine
        )

    def _report_choice(self, chosen: distributed.MemoryEstimate, machine: distributed.Machine) -> None:
        self.context.print_rank0(chosen.line())
        if not chosen.fits(machine):
            free = distributed.free_memory_text(machine)
            self.context.print_rank0(
                f"WARNING this is more than the {free} that are free; reduce max_tokens_per_micro_batch or use more "
                "ranks"
            )

    def verify(self) -> None:
        """After training: every weight is what it was, to the bit, on every rank. A collective.

        Raises:
            RuntimeError: it is not; a fault, never the user's.
        """
        same = distributed.gather_objects(backbone_checksum(self.backbone().model) == self._checksum)
        if not all(same):
            raise RuntimeError("the frozen backbone changed during training")
        self.context.print_rank0("backbone unchanged, to the bit")

    def forward_backward(self) -> ForwardBackward:
        """How this run asks the backbone."""
        config, env = self.context.config, self.context.env
        packed = config.batching == "packed"
        return ForwardBackward(self.backbone(), packed, config.max_tokens_per_micro_batch, env.rank, env.world)

    @cached_property
    def embedding_rms(self) -> float:
        """Of the backbone's input embeddings: the unit of prompts' learning rates. A collective, once."""
        rms = rms_of(self.backbone().embed, self.context.tokenizer.vocab_size)
        self.context.print_rank0(f"learning rates of prompts are in multiples of the embeddings' RMS, {rms:g}")
        return rms

    def prompt_rate(self, relative: float) -> float:
        """The learning rate of AdamW that is ``relative`` times the embeddings' RMS. A collective."""
        return relative * self.embedding_rms

    def start_prompt(self, *label: object, card: TaskCard | None = None) -> torch.Tensor:
        """fp32 (L, D): a prompt's start by the configuration, drawn from (seed, label). A collective.

        Args:
            card: of the prompt's task, where it has one.
        """
        prompt, embed, tokenizer = self.context.config.prompt, self.backbone().embed, self.context.tokenizer
        length = prompt.num_virtual_tokens
        if prompt.init == "instruction" and card is not None:
            return embeddings_from_instruction(embed, self._instruction_ids(card), length)
        if prompt.init == "text":
            return embeddings_from_text(embed, tokenizer.encode(prompt.init_text), length)
        special = tokenizer.special_ids()
        candidates = [i for i in range(tokenizer.vocab_size) if i not in special]
        generator = torch.Generator().manual_seed(seed_of(self.context.config.seed, *label))
        return embeddings_from_vocabulary(embed, candidates, length, generator)

    def _instruction_ids(self, card: TaskCard) -> list[int]:
        """Tokens of a task's written instruction; says once where a prompt cannot hold all of them."""
        if card.name not in self._instructions:
            ids = self.context.tokenizer.encode(card.instruction)
            length = self.context.config.prompt.num_virtual_tokens
            self._instructions[card.name] = ids
            if len(ids) > length:
                self.context.print_rank0(
                    f"WARNING prompt.init: the instruction of {card.name} has {counted(len(ids), 'token')} and is cut "
                    f"to prompt.num_virtual_tokens ({length}); set prompt.num_virtual_tokens to {len(ids)} or more"
                )
        return self._instructions[card.name]


@dataclass(frozen=True)
class _Standing:
    """The backbone that this process holds. ``machine``: as it was before."""

    card: BackboneCard
    deepspeed: str
    how: tuple[str, int, bool, str]
    machine: distributed.Machine
    backbone: ShardedBackbone


def _how(chosen: distributed.MemoryEstimate, config: RunConfig) -> tuple[str, int, bool, str]:
    return chosen.sharding, chosen.recompute, chosen.offloaded, config.fused


_standing: _Standing | None = None
