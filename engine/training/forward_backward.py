"""One micro-batch through the frozen backbone: packed, the way that trains, or plain, the formulation it is tested
against.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.data import Sample, collate, micro_batches, pack, packed_micro_batches
from engine.distributed import ShardedBackbone
from engine.telemetry import BACKWARD, DATA, FORWARD, LOSS, PROJECT, backward_from, phase
from prompt_modules import (
    HeadLoss,
    LinearUpdate,
    PromptBank,
    TeacherStates,
    cross_entropy,
    distillation_terms,
    teacher_states,
    tied_head_loss,
)


class CachedTeachers(Protocol):
    """What teachers said before, cached on disk."""

    def __call__(self, group: Sequence[Sample]) -> TeacherStates:
        """Of a micro-batch's answer tokens, in order, on the backbone's device."""
        ...

    def expect(self, groups: Sequence[Sequence[Sample]]) -> None:
        """Say all micro-batches that will be asked about, in order, so that they can be read ahead."""
        ...

    def close(self) -> None:
        """Nothing more is asked for now; ends what reads ahead."""
        ...


@dataclass(frozen=True)
class LossWeights:
    kl: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0


class AnswerTerms(NamedTuple):
    """Of N answer tokens: unweighted loss terms, bank rows, and weights in the step's loss."""

    ce_N: Tensor
    kl_N: Tensor
    hidden_N: Tensor
    row_N: Tensor
    weights_N: Tensor


@dataclass(frozen=True)
class ForwardBackward:
    """How a list of samples becomes micro-batches, and a micro-batch losses and gradients.

    Args:
        packed: each prompt once per micro-batch, no padding; else one padded row per sample.
        rank, world: which share of the micro-batches is this process's.
    """

    backbone: ShardedBackbone
    packed: bool
    max_tokens_per_micro_batch: int
    rank: int
    world: int

    def micro_batches(self, samples: Sequence[Sample], bank: PromptBank) -> list[list[Sample]]:
        """This rank's, as many as every other rank's. Prompts of a micro-batch are of one length."""
        cut = packed_micro_batches if self.packed else micro_batches
        by_length: dict[int, list[Sample]] = {}
        for sample in samples:
            by_length.setdefault(bank.length(sample.row), []).append(sample)
        groups = []
        for length, alike in sorted(by_length.items()):
            groups += cut(alike, length, self.max_tokens_per_micro_batch, self.rank, self.world)
        return groups

    def train(
        self,
        group: Sequence[Sample],
        bank: PromptBank,
        weights: LossWeights,
        teachers: PromptBank | None,
        cached: CachedTeachers | None,
    ) -> AnswerTerms:
        """Forward and backward; the gradient of the weighted sum is added to the bank's. A collective.

        Args:
            teachers: a bank of theirs; none in stages without. cached: what they said before, which packed rows then do
                not ask again.
        """
        with self.backbone.updated(self._updates(group, bank)):
            if self.packed:
                terms = self._train_packed(group, bank, weights, teachers, cached)
            else:
                terms = self._train_plain(group, bank, weights, teachers)
        with phase(BACKWARD):
            self.backbone.release()
        return terms

    def tokens(self, group: Sequence[Sample], bank: PromptBank) -> int:
        """Rows of a micro-batch that go through the student's backbone: samples, prompts, padding and fillers."""
        length, sizes = _length(group, bank), [len(sample) for sample in group]
        if self.packed:
            prompts = {sample.row for sample in group}
            return sum(sizes) + length * len(prompts)
        return (length + max(sizes)) * len(sizes)

    def _updates(self, group: Sequence[Sample], bank: PromptBank) -> LinearUpdate | None:
        sizes = [len(sample) for sample in group]
        if not self.packed:  # a sample's stretch is as long as the longest
            sizes = [max(sizes)] * len(sizes)
        return bank.updates([sample.row for sample in group], sizes)

    @torch.no_grad()
    def cross_entropies(self, group: Sequence[Sample], bank: PromptBank) -> AnswerTerms:
        """Forward only. A collective."""
        with self.backbone.updated(self._updates(group, bank)):
            terms = self._cross_entropies(group, bank)
        self.backbone.release()
        return terms

    def _cross_entropies(self, group: Sequence[Sample], bank: PromptBank) -> AnswerTerms:
        if self.packed:
            batch = pack(group, _length(group, bank), self.backbone.device)

            def loss(weight_VD: Tensor, student_ND: Tensor, _: None) -> HeadLoss:
                return tied_head_loss(
                    weight_VD,
                    student_ND,
                    teacher=None,
                    labels_N=batch.labels_N,
                    weights_N=batch.weights_N,
                    gradient=False,
                )

            _, found = self.backbone.forward_packed(batch, _fill(bank, batch.rows_K), loss)
            return AnswerTerms(found.ce_N, found.kl_N, found.hidden_N, batch.row_N, batch.weights_N)
        padded = collate(group, self.backbone.device)
        states, _ = self.backbone.forward_padded(padded, bank.prompts(padded.rows_B))
        ce_N = cross_entropy(states.logits_NV, padded.labels_N)
        zero_N = torch.zeros_like(ce_N)
        return AnswerTerms(ce_N, zero_N, zero_N, padded.rows_B[padded.sample_N], padded.weights_B[padded.sample_N])

    @torch.no_grad()
    def teach(self, group: Sequence[Sample], bank: PromptBank, temperature: float) -> TeacherStates:
        """What the teachers say of a micro-batch's answer tokens. A collective."""
        batch = pack(group, _length(group, bank), self.backbone.device)

        def states(weight_VD: Tensor, hidden_ND: Tensor, _: None) -> TeacherStates:
            return teacher_states(weight_VD, hidden_ND, temperature)

        _, found = self.backbone.forward_packed(batch, _fill(bank, batch.rows_K), states)
        self.backbone.release()
        return found  # type: ignore[no-any-return]

    def _train_packed(
        self,
        group: Sequence[Sample],
        bank: PromptBank,
        weights: LossWeights,
        teachers: PromptBank | None,
        cached: CachedTeachers | None,
    ) -> AnswerTerms:
        with phase(DATA):
            batch = pack(group, _length(group, bank), self.backbone.device)
            said: TeacherStates | None = None
            if cached is not None:
                said = cached(group)

        def loss(weight_VD: Tensor, student_ND: Tensor, teacher_ND: Tensor | None) -> HeadLoss:
            teacher = said if teacher_ND is None else teacher_ND
            with phase(LOSS):
                return tied_head_loss(
                    weight_VD, student_ND, teacher, batch.labels_N, batch.weights_N, *astuple(weights)
                )

        asked = None
        if said is None and teachers is not None:
            asked = _fill(teachers, batch.rows_K)
        with phase(FORWARD):
            student_ND, found = self.backbone.forward_packed(
                batch, fill=_fill(bank, batch.rows_K), loss=loss, teacher=asked
            )
        with phase(BACKWARD):
            student_ND.backward(found.gradient_ND.to(student_ND.dtype))
        return AnswerTerms(found.ce_N, found.kl_N, found.hidden_N, batch.row_N, batch.weights_N)

    def _train_plain(
        self, group: Sequence[Sample], bank: PromptBank, weights: LossWeights, teachers: PromptBank | None
    ) -> AnswerTerms:
        with phase(DATA):
            batch = collate(group, self.backbone.device)
        with phase(PROJECT):
            asked = None
            if teachers is not None:
                with torch.no_grad():
                    asked = teachers.prompts(batch.rows_B)
            prompts_BLD = bank.prompts(batch.rows_B)
            backward_from(prompts_BLD, PROJECT)
        with phase(FORWARD):
            student, teacher = self.backbone.forward_padded(batch, prompts_BLD, asked)
        with phase(LOSS):
            if teacher is None:
                ce_N = cross_entropy(student.logits_NV, batch.labels_N)
                kl_N = hidden_N = torch.zeros_like(ce_N)
            else:
                hidden = (student.hidden_ND, teacher.hidden_ND)
                ce_N, kl_N, hidden_N = distillation_terms(
                    student.logits_NV, teacher.logits_NV, *hidden, batch.labels_N, weights.temperature
                )
            weights_N = batch.weights_B[batch.sample_N]
            total = ((ce_N + weights.kl * kl_N + weights.hidden * hidden_N) * weights_N.to(ce_N.dtype)).sum()
        with phase(BACKWARD):
            total.backward()
        return AnswerTerms(ce_N.detach(), kl_N.detach(), hidden_N.detach(), batch.rows_B[batch.sample_N], weights_N)


def _length(group: Sequence[Sample], bank: PromptBank) -> int:
    return bank.length(group[0].row)


def _fill(bank: PromptBank, rows_K: Tensor) -> Callable[[Tensor], Tensor]:
    def fill(tokens_TD: Tensor) -> Tensor:
        with phase(PROJECT):
            row_SD = bank.packed_sequence(rows_K, tokens_TD)
        backward_from(row_SD, PROJECT)
        return row_SD

    return fill
