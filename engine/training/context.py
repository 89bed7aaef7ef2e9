"""What every command needs: configuration, card, tokenizer, data; later the process group and the sharded backbone."""

import copy
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from backbones import (
    PACKED_FAMILIES,
    BackboneCard,
    BackboneError,
    Layout,
    backbone_checksum,
    load_backbone_card,
    load_tokenizer,
    parameter_count,
    resident_bytes,
)
from backbones.loading import backbone_config, backbone_fingerprint
from backbones.tracing import ModelFootprint, measure_footprint
from clinical_tasks import TaskCard
from engine import checkpoints, distributed, telemetry
from engine.checkpoints import RunLock
from engine.config import FREE_ON_RESUME, RunConfig, check_hashes, expand, rms_of, to_yaml
from engine.core import UserError, workspace_problems, write_atomic
from engine.data import TaskData, prepare, seed_of
from engine.distributed import PreemptionHandler, ShardedBackbone, read_deepspeed, signal_number
from engine.training.forward_backward import ForwardBackward
from engine.training.stage import Stage, TrainerConfig
from engine.training.trainer import Trainer
from prompt_modules import embeddings_from_instruction, embeddings_from_text, embeddings_from_vocabulary


class RunContext:
    """One command's run. Building it checks everything that can be checked without the process group.

    Args:
        writes: the folders that the command writes to.

    Raises:
        UserError: all problems found.
    """

    def __init__(self, config: RunConfig, writes: distributed.Writes = distributed.TRAINS):
        telemetry.mark_startup("imports")
        self.config, self.place = config, distributed.dist_env()
        self.run_dir = expand(config.run_dir)
        try:
            card = load_backbone_card(config.backbone)
            self.card: BackboneCard = replace(card, dummy=True) if config.dummy_weights and card.path else card
            self.model_config = backbone_config(self.card)
            self.tokenizer = load_tokenizer(self.card.tokenizer, self.card.trust_remote_code)
            self.layout = Layout(self.card, self.tokenizer)
        except BackboneError as error:
            raise UserError(error.problems) from None
        problems = []
        try:
            signal_number(config.preempt_signal)
        except UserError as error:
            problems += error.problems
        if self.tokenizer.vocab_size > self.model_config.vocab_size:
            entries, rows = self.tokenizer.vocab_size, self.model_config.vocab_size
            problems.append(
                f"{config.backbone}: the tokenizer has {entries} entries, the backbone's vocabulary only {rows}"
            )
        longest = getattr(self.model_config, "max_position_embeddings", None)
        if longest and config.prompt.num_virtual_tokens + config.data.max_length > longest:
            problems.append(
                f"data.max_length: {config.data.max_length} + prompt.num_virtual_tokens {config.prompt.num_virtual_tokens} is above the "
                f"backbone's {longest} positions"
            )
        # prompt, best, and two moments of each number, in fp32
        sides = self.sizes.linear_sides if "lora" in config.adapt.methods else 0
        checkpoint_bytes = 16 * distributed.bank_numbers(config, self.model_config.hidden_size, sides)
        problems += distributed.preflight_problems(config, checkpoint_bytes, writes)
        problems += distributed.library_problems(torch.cuda.is_available())
        if config.deterministic and torch.cuda.is_available():
            problems += workspace_problems(os.environ)
        if config.batching == "packed" and self.model_config.model_type not in PACKED_FAMILIES:
            known = ", ".join(PACKED_FAMILIES)
            problems.append(
                f"batching: packed rows are tested for {known}, not for {self.model_config.model_type}; set "
                "batching: padded"
            )
        if config.deepspeed:
            problems += _problems_of(config.deepspeed)
        if problems:
            raise UserError(problems)
        for line in distributed.older_than_tested():
            self.print_rank0(line)
        self._backbone: ShardedBackbone | None = None
        self._instructions: dict[str, list[int]] = {}
        telemetry.mark_startup("checks")

    @property
    def is_main_process(self) -> bool:
        return self.place.rank == 0

    def print_rank0(self, text: str) -> None:
        if self.is_main_process:
            print(text, flush=True)

    @cached_property
    def sizes(self) -> ModelFootprint:
        """Of the backbone, by part: a model is made without memory for it, once."""
        return measure_footprint(self.card)

    @cached_property
    def backbone_hash(self) -> str:
        """Of the card and every byte of the frozen weights; large files are read once (``backbones.loading.digests``)."""
        try:
            return backbone_fingerprint(self.card)
        except BackboneError as error:
            raise UserError(error.problems) from None

    def data(self, tasks: dict[str, Sequence[str]]) -> dict[str, TaskData]:
        """Tokenised splits; before the process group starts."""
        found = prepare(tasks, self.config.data, self.layout, self.place.rank, self.print_rank0)
        telemetry.mark_startup("data")
        return found

    def backbone(self) -> ShardedBackbone:
        """Start the process group and build the backbone, once."""
        if self._backbone is None:
            device = self.join()
            torch.manual_seed(self.config.seed)
            try:
                self._backbone = self._standing_or_new(device)
            except BackboneError as error:
                raise UserError(error.problems) from None
            self._checksum = backbone_checksum(self._backbone.model)
            numbers = parameter_count(self._backbone.model)
            held = distributed.gather_objects(resident_bytes(self._backbone.model))
            self.print_rank0(
                f"backbone {self.card.name}: {numbers:,} parameters, {self.card.dtype}, "
                f"{distributed.world_size()} ranks, "
                f"resident bytes per rank {', '.join(f'{b:,}' for b in held)}"
            )
            telemetry.mark_startup("weights")
        return self._backbone

    def join(self) -> torch.device:
        """Start the process group, or find it started. -> this rank's device."""
        check_toolchain()
        device = distributed.start_process_group(self.place, self.config.hang_minutes)
        distributed.start_watchdog(
            self.config.hang_minutes, self.place.rank, self.place.world, distributed.store_for_a_thread()
        )
        telemetry.mark_startup("rendezvous")
        return device

    def build(self, device: torch.device, chosen: distributed.MemoryEstimate, ranks_per_node: int) -> ShardedBackbone:
        """A backbone where it was chosen to live, which is the caller's. A collective.

        Raises:
            BackboneError: its files.
        """
        file = self.config.deepspeed or distributed.deepspeed_file_of(chosen.sharding)
        return ShardedBackbone(
            self.card,
            file,
            device,
            chosen.recompute,
            ranks_per_node=ranks_per_node,
            offload_inputs=chosen.offloaded,
            print_rank0=self.print_rank0,
            sizes=self.sizes,
            fused=self.config.fused == "auto",
        )

    def lend(self, backbone: ShardedBackbone) -> None:
        """Use this one, which the caller built and will destroy."""
        self._backbone, self._checksum = backbone, ""

    def _standing_or_new(self, device: torch.device) -> ShardedBackbone:
        """A process holds one backbone, and a study asks for the same one again and again. A collective."""
        global _standing
        c, work = self.config, distributed.micro_batch_shape(self.config, self.sizes)
        if _standing is not None:
            # as if it were not there yet: what it takes itself is not to count against it
            chosen = distributed.choose_sharding(
                self.sizes, distributed.requested_sharding(c), c.activation_checkpointing, work, _standing.machine
            )
            if (_standing.card, _standing.deepspeed, _standing.how) == (self.card, c.deepspeed, _how(chosen, c)):
                return _standing.backbone
            _standing.backbone.destroy()
            _standing = None
        machine = distributed.machine_here(device)
        chosen = self._place(work, machine)
        backbone = self.build(device, chosen, machine.ranks_per_node)
        _standing = _Standing(self.card, c.deepspeed, _how(chosen, c), machine, backbone)
        return backbone

    def _place(self, work: distributed.MicroBatchShape, machine: distributed.Machine) -> distributed.MemoryEstimate:
        """Choose where the backbone lives and how much is recomputed, and say so."""
        chosen = distributed.choose_sharding(
            self.sizes, distributed.requested_sharding(self.config), self.config.activation_checkpointing, work, machine
        )
        self.print_rank0(chosen.line())
        if not chosen.fits(machine):
            self.print_rank0(
                f"WARNING more than the {distributed.free_memory_text(machine)} that are free; a smaller max_tokens_per_micro_batch or more "
                "ranks bring it down"
            )
        return chosen

    def verify_backbone(self) -> None:
        """After training: every weight is what it was, to the bit, on every rank.

        Raises:
            RuntimeError: it is not; a fault, never the user's.
        """
        same = distributed.gather_objects(backbone_checksum(self.backbone().model) == self._checksum)
        if not all(same):
            raise RuntimeError("the frozen backbone changed during training")
        self.print_rank0("backbone unchanged, to the bit")

    @cached_property
    def embedding_rms(self) -> float:
        """Of the backbone's input embeddings: the unit of prompts' learning rates. A collective, once."""
        rms = rms_of(self.backbone().embed, self.tokenizer.vocab_size)
        self.print_rank0(f"learning rates of prompts are in multiples of the embeddings' RMS, {rms:g}")
        return rms

    def prompt_rate(self, relative: float) -> float:
        """The learning rate of AdamW that is ``relative`` times the embeddings' RMS. A collective."""
        return relative * self.embedding_rms

    def _instruction_ids(self, card: TaskCard) -> list[int]:
        """Tokens of a task's written instruction; says once where a prompt cannot hold all of them."""
        if card.name not in self._instructions:
            ids, length = self.tokenizer.encode(card.instruction), self.config.prompt.num_virtual_tokens
            self._instructions[card.name] = ids
            if len(ids) > length:
                cut = f"the instruction of {card.name} has {len(ids)} tokens and is cut to prompt.num_virtual_tokens ({length})"
                self.print_rank0(f"WARNING prompt.init: {cut}; set prompt.num_virtual_tokens to {len(ids)} or more")
        return self._instructions[card.name]

    def start_prompt(self, *label: object, card: TaskCard | None = None) -> torch.Tensor:
        """fp32 (L, D): a prompt's start by the configuration, drawn from (seed, label).

        Args:
            card: of the prompt's task, where it has one.
        """
        prompt, backbone = self.config.prompt, self.backbone()
        if prompt.init == "instruction" and card is not None:
            return embeddings_from_instruction(backbone.embed, self._instruction_ids(card), prompt.num_virtual_tokens)
        if prompt.init == "text":
            return embeddings_from_text(
                backbone.embed, self.tokenizer.encode(prompt.init_text), prompt.num_virtual_tokens
            )
        special = self.tokenizer.special_ids()
        candidates = [i for i in range(self.tokenizer.vocab_size) if i not in special]
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, *label))
        return embeddings_from_vocabulary(backbone.embed, candidates, prompt.num_virtual_tokens, generator)

    def forward_backward(self) -> ForwardBackward:
        """How this run asks the backbone."""
        c, place = self.config, self.place
        return ForwardBackward(
            self.backbone(), c.batching == "packed", c.max_tokens_per_micro_batch, place.rank, place.world
        )

    def on(self, split: str) -> "RunContext":
        """This session, with answers asked on another split."""
        out = copy.copy(self)
        out.config = replace(self.config, evaluate=replace(self.config.evaluate, split=split))  # type: ignore[arg-type]
        return out

    def hashes(self, sections: Sequence[str], data: str, **further: Any) -> dict[str, Any]:
        """What a checkpoint of this run depends on: configuration sections, data, backbone."""
        content = asdict(self.config)
        kept = {
            k: v for k, v in content.items() if k not in FREE_ON_RESUME and (not isinstance(v, dict) or k in sections)
        }
        for dotted in FREE_ON_RESUME:
            section, _, leaf = dotted.rpartition(".")
            if section in kept:
                kept[section].pop(leaf, None)
        kept.pop("backbone")
        return {
            "config": kept,
            "data": data,
            "backbone": self.backbone_hash,
            "layout": self.layout.fingerprint(),
            **further,
        }

    def open_run_dir(self, folder: Path, hashes: dict[str, Any]) -> RunLock | None:
        """Make the run directory, claim it for this job and write the resolved configuration. Rank 0 writes, and gets
        the claim.

        Raises:
            UserError: it holds a checkpoint of another configuration, data or backbone, and ``accept_changes`` is off;
                nothing is touched.
        """
        found = None if self.config.overwrite else checkpoints.load(folder, lambda _: None)
        if found is not None:
            check_hashes(found.state["hashes"], hashes, folder, self.config.accept_changes)
        fence = None
        if self.is_main_process:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fence = RunLock(folder)
            if self.config.overwrite:  # an older run's later checkpoints would outlive the new one's
                for name in ("checkpoints", "tensorboard", "predictions", "predictions_validation"):
                    shutil.rmtree(folder / name, ignore_errors=True)
                for name in (
                    "latest",
                    "COMPLETED",
                    "metrics.jsonl",
                    "results.json",
                    "results_validation.json",
                    "overlap.json",
                ):
                    (folder / name).unlink(missing_ok=True)
            (folder / "COMPLETED").unlink(missing_ok=True)  # a finished run that goes on under accepted changes
            write_atomic(folder / "config.yaml", to_yaml(self.config))
            if self._backbone is not None and self._backbone.zero is not None:
                write_atomic(folder / "deepspeed.json", json.dumps(self._backbone.zero, indent=1) + "\n")
        distributed.barrier()
        return fence

    def train(self, stage: Stage, fence: RunLock | None) -> None:
        """Run a stage's loop to its end; stops and saves on request.

        Raises:
            Stopped: on request, with a checkpoint.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with PreemptionHandler(self.run_dir, self.config.preempt_signal, self.is_main_process) as interruption:
            Trainer(stage, self.backbone(), self.loop_settings(), interruption, fence).run()

    def loop_settings(self) -> TrainerConfig:
        c = self.config
        return TrainerConfig(
            c.max_tokens_per_micro_batch,
            c.batching == "packed",
            c.log.interval,
            c.log.tensorboard,
            c.checkpoint.interval,
            c.checkpoint.keep,
            self.place.rank,
            self.place.world,
            c.overwrite,
            c.accept_changes,
            c.max_nonfinite_steps,
        )

    def complete(self, folder: Path) -> None:
        distributed.barrier()
        if self.is_main_process:
            (folder / "COMPLETED").touch()
        distributed.barrier()


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


def check_toolchain() -> None:
    """DeepSpeed builds its CPU collectives at start: say what is missing, and how to get it, before it fails in the
    middle.
    """
    if torch.cuda.is_available():
        return
    problems = []
    if not shutil.which("g++"):
        problems.append(
            "g++ is missing; DeepSpeed builds its CPU collectives with it: `apt-get install -y g++` (or load "
            "your site's gcc module)"
        )
    if not shutil.which("ninja"):
        problems.append(
            "ninja is not on PATH; `pip install ninja` and put the environment's bin folder on PATH (`. "
            ".venv/bin/activate`)"
        )
    if problems:
        raise UserError(problems)


def _problems_of(deepspeed_file: str) -> list[str]:
    try:
        read_deepspeed(deepspeed_file)
    except UserError as error:
        return error.problems
    return []
