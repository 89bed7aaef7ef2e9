"""What a command's run is: its configuration, its place among the ranks, its backbone's card, tokenizer and layout."""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from backbones import PACKED_FAMILIES, BackboneCard, BackboneError, Layout, load_backbone_card, load_tokenizer
from backbones.loading import backbone_config, backbone_fingerprint
from backbones.tracing import ModelFootprint, measure_footprint
from engine import distributed, telemetry
from engine.config import RunConfig, compared, expand
from engine.core import UserError, workspace_problems
from engine.data import TaskData, prepare
from engine.distributed import read_deepspeed, signal_number


class RunContext:
    """Plain data of one command's run. Building it checks everything that can be checked without the process group.

    Args:
        writes: the folders that the command writes to.

    Raises:
        UserError: all problems found.
    """

    def __init__(self, config: RunConfig, writes: distributed.Writes = distributed.TRAINS):
        telemetry.mark_startup("imports")
        self.config, self.env = config, distributed.dist_env()
        self.run_dir = expand(config.run_dir)
        try:
            card = load_backbone_card(config.backbone)
            self.card: BackboneCard = replace(card, dummy=True) if config.dummy_weights and card.path else card
            self.model_config = backbone_config(self.card)
            self.tokenizer = load_tokenizer(self.card.tokenizer, self.card.trust_remote_code)
            self.layout = Layout(self.card, self.tokenizer)
        except BackboneError as error:
            raise UserError(error.problems) from None
        problems = [*self._model_problems(), *self._machine_problems(writes)]
        if problems:
            raise UserError(problems)
        for line in distributed.older_than_tested():
            self.print_rank0(line)
        telemetry.mark_startup("checks")

    def _model_problems(self) -> list[str]:
        """What of the configuration does not fit the backbone."""
        config, problems = self.config, []
        if self.tokenizer.vocab_size > self.model_config.vocab_size:
            entries, rows = self.tokenizer.vocab_size, self.model_config.vocab_size
            problems.append(
                f"{config.backbone}: the tokenizer has {entries} entries, the backbone's vocabulary only {rows}"
            )
        longest, length = getattr(self.model_config, "max_position_embeddings", None), config.prompt.num_virtual_tokens
        if longest and length + config.data.max_length > longest:
            problems.append(
                f"data.max_length: {config.data.max_length} + prompt.num_virtual_tokens {length} is above the "
                f"backbone's {longest} positions"
            )
        family = self.model_config.model_type
        if config.batching == "packed" and family not in PACKED_FAMILIES:
            known = ", ".join(PACKED_FAMILIES)
            problems.append(f"batching: packed rows are tested for {known}, not for {family}; set batching: padded")
        return problems

    def _machine_problems(self, writes: distributed.Writes) -> list[str]:
        """What keeps the run from starting on this machine."""
        config, problems = self.config, []
        for check in (lambda: signal_number(config.preempt_signal), self._read_deepspeed):
            try:
                check()
            except UserError as error:
                problems += error.problems
        # prompt, best, and two moments of each number, in fp32
        sides = self.sizes.linear_sides if "lora" in config.adapt.methods else 0
        checkpoint_bytes = 16 * distributed.bank_numbers(config, self.model_config.hidden_size, sides)
        problems += distributed.preflight_problems(config, checkpoint_bytes, writes)
        problems += distributed.library_problems(torch.cuda.is_available())
        if config.deterministic and torch.cuda.is_available():
            problems += workspace_problems(os.environ)
        return problems

    def _read_deepspeed(self) -> None:
        if self.config.deepspeed:
            read_deepspeed(self.config.deepspeed)

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""
        return self.env.rank == 0

    def print_rank0(self, text: str) -> None:
        """A line on rank 0's terminal, at once."""
        if self.is_main_process:
            print(text, flush=True)

    @cached_property
    def sizes(self) -> ModelFootprint:
        """Of the backbone, by part: a model is made without memory for it, once."""
        return measure_footprint(self.card)

    @cached_property
    def backbone_hash(self) -> str:
        """Of the card and every byte of the frozen weights; large files are read once (`backbones.loading`)."""
        try:
            return backbone_fingerprint(self.card)
        except BackboneError as error:
            raise UserError(error.problems) from None

    def data(self, tasks: dict[str, Sequence[str]]) -> dict[str, TaskData]:
        """Tokenised splits; before the process group starts."""
        found = prepare(
            tasks, config=self.config.data, layout=self.layout, rank=self.env.rank, print_rank0=self.print_rank0
        )
        telemetry.mark_startup("data")
        return found

    def on(self, split: str) -> "RunContext":
        """This run, with answers asked on another split."""
        out = copy.copy(self)
        out.config = replace(self.config, evaluate=replace(self.config.evaluate, split=split))  # type: ignore[arg-type]
        return out

    def hashes(self, sections: Sequence[str], data: str, **further: Any) -> dict[str, Any]:
        """What a checkpoint of this run depends on: configuration sections, data, backbone."""
        return {
            "config": compared(self.config, sections),
            "data": data,
            "backbone": self.backbone_hash,
            "layout": self.layout.fingerprint(),
            **further,
        }
