"""A training step as PEFT's users have it: multitask prompt tuning on the backbone and samples that ours is timed on.

PEFT gets length-grouped batches, padded on the right, of the same token budget. Tasks are mixed in a batch. It attends
by SDPA and has transformers' own loss. Logits are made at every position: ``logits_to_keep`` keeps the last ones of
each row, which does not fit rows that are padded on the right. PEFT has no distillation. KL and hidden MSE are written
into its loop, on answer tokens, and the teacher is asked in every step.

gpt-oss attends eagerly, for it has sinks that SDPA does not know. transformers has no trainable MXFP4: PEFT runs on the
packed experts of ``backbones.layers.mxfp4_experts``, so that both hold the same weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.data import Sample, padded_groups
from engine.training import LossWeights
from prompt_modules import PromptBank

IGNORED = -100  # a label that transformers' loss leaves out
RATE = 1e-3  # of AdamW; what a step takes does not depend on it


class PaddedIds(NamedTuple):
    """A batch: ids, attention mask and labels, (B, T) each, and the task of each row, (B,)."""

    ids_BT: Tensor
    mask_BT: Tensor
    labels_BT: Tensor
    tasks_B: Tensor


def padded_ids(group: Sequence[Sample], device: torch.device) -> PaddedIds:
    """Padded on the right; labels are IGNORED off the answers."""
    shape = len(group), max(len(sample) for sample in group)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for b, sample in enumerate(group):
        n, first = len(sample), len(sample.context_ids)
        ids[b, :n] = torch.tensor(sample.context_ids + sample.answer_ids)
        mask[b, :n] = 1
        labels[b, first:n] = ids[b, first:n]
    tasks = torch.tensor([sample.row for sample in group])
    return PaddedIds(ids.to(device), mask.to(device), labels.to(device), tasks.to(device))


class PeftTrainer:
    """PEFT's shared prompt with a factor pair for each task, before a model whose weights stay as they are.

    Args:
        model: transformers' causal language model, frozen. start_LD: what the shared prompt starts from.
        tasks: how many. weights, teachers: of a distillation; no teachers, cross-entropy alone.
    """

    def __init__(
        self,
        model: Any,
        start_LD: Tensor,
        tasks: int,
        weights: LossWeights | None = None,
        teachers: PromptBank | None = None,
    ):
        from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model

        self.backbone, self.length = model, len(start_LD)
        self.weights, self.teachers = weights or LossWeights(), teachers
        config = MultitaskPromptTuningConfig(
            task_type=TaskType.CAUSAL_LM, num_tasks=tasks, num_virtual_tokens=self.length, num_ranks=1
        )
        self.model: Any = get_peft_model(model, config)
        encoder: Any = self.model.prompt_encoder["default"]
        with torch.no_grad():
            encoder.embedding.weight.copy_(start_LD)
            encoder.prefix_task_cols.fill_(1.0)
            encoder.prefix_task_rows.fill_(1.0)
        self.device = model.get_input_embeddings().weight.device
        self.encoder = encoder.to(self.device)
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def batches(self, samples: Sequence[Sample], budget: int) -> list[PaddedIds]:
        """Of like length, none over ``budget`` tokens, prompts and padding counted."""
        return [
            padded_ids(group, self.device)
            for group in padded_groups(samples, prompt_length=self.length, max_tokens_per_micro_batch=budget, world=1)
        ]

    def gradients(self, batches: Sequence[PaddedIds]) -> float:
        """Forward and backward passes. -> the mean of the batches' losses, in nats."""
        self.encoder.zero_grad()
        total = torch.zeros((), device=self.device)
        with _attention(self.backbone):
            for batch in batches:
                loss = self._loss(batch) / len(batches)
                loss.backward()
                total += loss.detach()
        return total.item()

    def step(self, batches: Sequence[PaddedIds]) -> float:
        """The same, and AdamW."""
        loss = self.gradients(batches)
        self.optimizer.step()
        return loss

    def _loss(self, batch: PaddedIds) -> Tensor:
        distils = self.teachers is not None
        out = self.model(
            input_ids=batch.ids_BT,
            attention_mask=batch.mask_BT,
            labels=batch.labels_BT,
            task_ids=batch.tasks_B,
            use_cache=False,
            output_hidden_states=distils,
        )
        if not distils:
            return out.loss  # type: ignore[no-any-return]
        taught = self._taught(batch)
        # a token is predicted one place before its own, and the prompt lies before all of them
        at = F.pad(batch.labels_BT != IGNORED, (self.length - 1, 1))
        loss, heat = out.loss, self.weights.temperature
        if self.weights.kl:
            student = (out.logits[at].float() / heat).log_softmax(-1)
            target = (taught.logits[at].float() / heat).log_softmax(-1)
            kl = F.kl_div(student, target, reduction="batchmean", log_target=True)
            loss = loss + self.weights.kl * heat**2 * kl
        if self.weights.hidden:
            student = out.hidden_states[-1][at].float()
            target = taught.hidden_states[-1][at].float()
            loss = loss + self.weights.hidden * F.mse_loss(student, target)
        return loss  # type: ignore[no-any-return]

    @torch.no_grad()
    def _taught(self, batch: PaddedIds) -> Any:
        assert self.teachers is not None
        embed = self.backbone.get_input_embeddings()
        mask = F.pad(batch.mask_BT, (self.length, 0), value=1)
        prompts_BLD = self.teachers.prompts(batch.tasks_B).to(embed.weight.dtype)
        embeds = torch.cat([prompts_BLD, embed(batch.ids_BT)], 1)
        return self.backbone(inputs_embeds=embeds, attention_mask=mask, use_cache=False, output_hidden_states=True)


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """Within, the fastest attention that transformers has for the family without further packages."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager" if model.config.model_type == "gpt_oss" else "sdpa"
    try:
        yield
    finally:
        model.config._attn_implementation = before
