"""Greedy answers to many contexts behind one soft prompt, on every rank in step.

Sequences enter as packed rows and go on in slots; a slot whose sequence has ended is refilled while the others go on.
Ranks do the same kind of forward pass at the same time, whatever they have left: under ZeRO-3 each is a collective.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.attention import Slots
from engine.distributed import ShardedBackbone, max_over_ranks

DONE, STEP, ENTER = 0, 1, 2
REFILL = 4  # sequences enter when a quarter of the slots is free: a packed row repeats the prompt


@dataclass
class Answer:
    """To the context of number ``index``: what was generated so far."""

    index: int
    context: list[int]
    ids: list[int]


class Greedy:
    """Generates for this rank's contexts.

    Args:
        prompt_LD: fp32; L may be 0. width: slots. max_tokens_per_micro_batch: of a packed row. synced: several ranks
            generate.
    """

    def __init__(
        self,
        backbone: ShardedBackbone,
        prompt_LD: Tensor,
        max_new_tokens: int,
        end_id: int,
        width: int,
        max_tokens_per_micro_batch: int,
        synced: bool,
    ):
        self.backbone, self.prompt_LD, self.max_new_tokens, self.end_id = backbone, prompt_LD, max_new_tokens, end_id
        self.width, self.max_tokens_per_micro_batch, self.synced = width, max_tokens_per_micro_batch, synced

    def __call__(self, contexts: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
        """Number of the context, ids of its answer (the end token included, where it came), as they end. A
        collective.
        """
        waiting = [Answer(index, context, []) for index, context in enumerate(contexts)]
        waiting.sort(key=lambda answer: len(answer.context))  # the longest enter first
        longest = len(waiting[-1].context) if waiting else 1
        if self.synced:
            longest = max_over_ranks(longest)
        width = max(1, min(self.width, len(waiting)))
        slots = self._slots(width, len(self.prompt_LD), longest + self.max_new_tokens)
        running: list[Answer] = []
        while True:
            todo = self._agree(waiting, running, width)
            if todo == DONE:
                return
            if todo == ENTER:
                chosen = []
                if self._wants(waiting, running, width):
                    chosen = self._next_group(waiting, width - len(running))
                logits = self._enter([s.context for s in chosen], slots)
                started = len(running)
                running += chosen
            else:
                chosen, started = running, 0
                logits = self._step([s.ids[-1] for s in running], slots)
            if chosen:
                for sequence, token in zip(chosen, self.pick(logits, chosen), strict=True):
                    sequence.ids.append(token)
            for slot in reversed(range(started, len(running))):
                if not self._ended(running[slot]):
                    continue
                yield running[slot].index, running[slot].ids
                moved = slots.leave(slot)
                if moved is not None:
                    running[slot] = running[moved]
                running.pop()

    def pick(self, logits_NV: Tensor, chosen: Sequence[Answer]) -> list[int]:
        """The next token of each."""
        return logits_NV.argmax(-1).tolist()  # type: ignore[no-any-return]

    def _ended(self, answer: Answer) -> bool:
        return answer.ids[-1] == self.end_id or len(answer.ids) == self.max_new_tokens

    def _wants(self, waiting: list[Answer], running: list[Answer], width: int) -> bool:
        free = width - len(running)
        return bool(waiting) and free >= min(len(waiting), max(1, width // REFILL))

    def _agree(self, waiting: list[Answer], running: list[Answer], width: int) -> int:
        own = DONE
        if self._wants(waiting, running, width):
            own = ENTER
        elif running:
            own = STEP
        return max_over_ranks(own) if self.synced else own

    def _next_group(self, waiting: list[Answer], free: int) -> list[Answer]:
        """From the longest, as many as fit into a packed row (at least one)."""
        out: list[Answer] = []
        tokens = len(self.prompt_LD)
        while (
            waiting
            and len(out) < free
            and (not out or tokens + len(waiting[-1].context) <= self.max_tokens_per_micro_batch)
        ):
            tokens += len(waiting[-1].context)
            out.append(waiting.pop())
        return out

    def _enter(self, contexts: list[list[int]], slots: Slots) -> Tensor:
        def fill(tokens_TD: Tensor) -> Tensor:
            return torch.cat([self.prompt_LD.to(tokens_TD.dtype), tokens_TD])

        logits = self.backbone.prefill(contexts, fill, slots) if contexts else self._idle()
        self.backbone.release()
        return logits

    def _step(self, ids: list[int], slots: Slots) -> Tensor:
        logits = self.backbone.decode(torch.tensor(ids, dtype=torch.long), slots) if ids else self._idle()
        self.backbone.release()
        return logits

    def _idle(self) -> Tensor:
        """The same gathers, for the other ranks' sake."""
        idle: Tensor = self.backbone.prefill([[self.end_id]], lambda tokens_TD: tokens_TD, self._slots(1, 0, 1))
        return idle[:0]

    def _slots(self, width: int, length: int, tokens: int) -> Slots:
        model = self.backbone.model
        return Slots(
            model.config, width, length, tokens, self.backbone.device, model.get_output_embeddings().weight.dtype
        )
