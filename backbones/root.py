"""The one module that DeepSpeed wraps: everything a step asks of the backbone happens in one root forward.

Two root forwards a step (teacher, then student) would alternate in DeepSpeed's module trace and silently disable
prefetching.

``packed`` is the way that trains: one row [P_1 … P_K | samples], each prompt once, the head on answer tokens inside
the caller's loss. ``answers`` is the plain formulation that it is tested against: one padded row per sample, [P_k ;
tokens]. Samples are padded on the right, so under causal attention no real position ever sees a pad and no mask is
needed.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backbones.attention import PackedBatch, Slots, share_prefix, shared_prefix, to_device
from backbones.card import BackboneError
from backbones.layers import LinearUpdates
from backbones.loading import RowsFromFile

Loss = Callable[..., Any]  # (weight_VD, states_ND, None) -> what is made of the head's inputs, inside the head
SHARED_PREFIX_MODES = ("packed", "enter", "step", "branch")  # of FrozenRoot: rows that hold several sequences
Fill = Callable[[Tensor], Tensor]  # text embeddings (T, D) -> the packed row, prompts first, (K L + T, D)


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples with N answer tokens in all, samples in order.

    ids_BT int64, right-padded: context and answer without the last answer token's successor.
    answer_BT bool: token t of sample b is an answer token; it is predicted by the position before it.
    labels_N, sample_N int64: the answer tokens and the sample each belongs to. rows_B int64: bank rows. weights_B: fp
        weight of one answer token.
    """

    ids_BT: Tensor
    answer_BT: Tensor
    labels_N: Tensor
    sample_N: Tensor
    rows_B: Tensor
    weights_B: Tensor


class AnswerStates(NamedTuple):
    """hidden_ND: the head's inputs at answer positions; logits_NV: the head's outputs."""

    hidden_ND: Tensor
    logits_NV: Tensor


class BackboneCalls:
    """What can be asked of a backbone. Each call is one root forward of `FrozenRoot`, directly or through DeepSpeed."""

    __call__: Callable[..., Any]

    def forward_packed(
        self, batch: PackedBatch, fill: Fill, loss: Callable[..., Any], teacher: Fill | None = None
    ) -> tuple[Tensor, Any]:
        """The head's inputs at answer positions of a packed row, (N, D), and what ``loss`` makes of them."""
        return self("packed", batch, fill, loss, teacher)  # type: ignore[no-any-return]

    def forward_padded(
        self, batch: Batch, student_BLD: Tensor, teacher_BLD: Tensor | None = None
    ) -> tuple[AnswerStates, AnswerStates | None]:
        """States and logits at answer positions of one padded row per sample, of the student and the teacher."""
        return self("answers", batch, student_BLD, teacher_BLD)  # type: ignore[no-any-return]

    def prefill(
        self, contexts: list[list[int]], fill: Fill, slots: Slots, loss: Loss | None = None, of_N: Tensor | None = None
    ) -> Any:
        """Contexts into free slots of the key-value cache. -> next-token logits (B, V), or the loss of the states."""
        return self("enter", contexts, fill, slots, loss, of_N)

    def decode(self, ids_B: Tensor, slots: Slots) -> Tensor:
        """One more token of each sequence that is in a slot. -> next-token logits (B, V)."""
        return self("step", ids_B, slots)  # type: ignore[no-any-return]

    def decode_branches(self, ids_BOR: Tensor, slots: Slots, loss: Loss, at_N: Tensor) -> Any:
        """Several continuations of every sequence that is in a slot. -> the loss of the states at places ``at_N``."""
        return self("branch", ids_BOR, slots, loss, at_N)

    def generate(
        self,
        contexts: list[list[int]],
        prompts_BLD: Tensor,
        max_new_tokens: int,
        end_id: int,
        pad_id: int,
        synced: bool,
    ) -> Tensor:
        """transformers' own greedy continuations, int64 (B, at most max_new_tokens); ``synced``: ranks run alike."""
        ids: Tensor = self("generate", contexts, prompts_BLD, max_new_tokens, end_id, pad_id, synced)
        return ids

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, (n, D)."""
        return self("embed", ids)  # type: ignore[no-any-return]


class FrozenRoot(BackboneCalls, nn.Module):
    """Holds the backbone only; prompts come in as arguments, so the bank stays outside DeepSpeed."""

    def __init__(self, backbone: PreTrainedModel, offload_inputs: bool = False):
        super().__init__()
        # recomputed layers save their inputs through autograd's hooks, which here take them to the host until the
        # backward pass
        self._saving: Callable[[], Any] = nullcontext
        if offload_inputs:
            self._saving = partial(torch.autograd.graph.save_on_cpu, torch.cuda.is_available())
        self.backbone = backbone
        self._own_attention = backbone.config._attn_implementation
        head = backbone.get_output_embeddings()
        head.forward = _open(head.forward, head)
        self.updates = LinearUpdates(backbone, head)

    def forward(self, mode: str, *args, **kwargs):  # type: ignore[no-untyped-def]
        """``packed``, ``answers``, ``enter``, ``step``, ``branch``, ``generate`` or ``embed``: one forward pass, so
        that DeepSpeed sees one root forward.
        """
        call: Any = {
            "packed": self._packed,
            "answers": self._both,
            "enter": self._enter,
            "step": self._step,
            "branch": self._branch,
            "generate": self._generate,
            "embed": self._embed,
        }[mode]
        config = self.backbone.config
        attention = self._own_attention
        if mode in SHARED_PREFIX_MODES:
            attention = shared_prefix.NAME
        config._attn_implementation = attention
        try:
            return call(*args, **kwargs)
        finally:
            config._attn_implementation = self._own_attention

    def _packed(
        self, batch: PackedBatch, fill: Fill, loss: Callable[..., Any], teacher: Fill | None = None
    ) -> tuple[Tensor, Any]:
        """The head's inputs at answer positions, (N, D), and what ``loss(weight_VD, student_ND, teacher_ND or None)``
        makes of them.

        ``fill`` puts the student's prompts before the text's embeddings, ``teacher`` the teachers'. ``loss`` runs
        inside the head's own forward, without autograd: there alone is the head's weight whole under ZeRO-3. The
        gradient of its inputs is the loss's to compute, so that no backward pass gathers the head again.
        """
        tokens_TD = self._embed(batch.ids_T, batch.labels_N.device)
        teacher_ND = None
        if teacher is not None:
            with torch.no_grad():
                teacher_ND = self._packed_states(batch, teacher(tokens_TD))
        with self._saving():
            student_ND = self._packed_states(batch, fill(tokens_TD))
        with torch.no_grad():
            found = self.backbone.get_output_embeddings()(student_ND.detach(), loss, teacher_ND)
        return student_ND, found

    def _packed_states(self, batch: PackedBatch, row_SD: Tensor) -> Tensor:
        positions = batch.prefix.positions_S[None]
        hidden = self.backbone.base_model(
            inputs_embeds=row_SD[None], position_ids=positions, use_cache=False, prefix=batch.prefix
        ).last_hidden_state
        return hidden.squeeze(0).index_select(0, batch.before_N)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _enter(
        self, contexts: list[list[int]], fill: Fill, slots: Slots, loss: Loss | None = None, of_N: Tensor | None = None
    ) -> Any:
        """Sequences into free slots. -> logits of each one's next token, (B, V); or the loss of the states there,
        (N, D), of sequences ``of_N``.
        """
        text: list[int] = []
        for context in contexts:
            text += context
        row_SD = fill(self._embed(torch.tensor(text, dtype=torch.long), slots.device))
        sizes = [len(c) for c in contexts]
        slots.enter(sizes)
        own = [n for n in sizes if n]  # an empty context is answered by the prompt's last position
        prefix = share_prefix(
            own, slots=[0] * len(own), n_prompts=1 if slots.length else 0, length=slots.length, device=slots.device
        )
        size_B = to_device(torch.tensor(sizes), slots.device)
        last_B = slots.length - 1 + torch.where(size_B > 0, size_B.cumsum(0), 0)
        if of_N is not None:
            last_B = last_B.index_select(0, of_N)
        return self._next(row_SD, prefix.positions_S, at=last_B, loss=loss, prefix=prefix, slots=slots)

    @torch.no_grad()
    def _step(self, ids_N: Tensor, slots: Slots) -> Tensor:
        """One more token of every sequence there, int64 (N,) on the CPU. -> logits of the one after it, (N, V)."""
        row_SD = self._embed(ids_N, slots.device)
        logits_NV: Tensor = self._next(row_SD, positions_S=slots.step(), at=None, loss=None, slots=slots)
        return logits_NV

    @torch.no_grad()
    def _branch(self, ids_BOR: Tensor, slots: Slots, loss: Loss, at_N: Tensor) -> Any:
        """Continuations of every sequence there, int64 on the CPU, padded with any token. -> the loss of the states
        at places ``at_N`` of them.
        """
        _, branches, tokens = ids_BOR.shape
        return self._next(
            self._embed(ids_BOR.flatten(), slots.device),
            positions_S=slots.branch(branches, tokens),
            at=at_N,
            loss=loss,
            slots=slots,
        )

    def _next(self, row_SD: Tensor, positions_S: Tensor, at: Tensor | None, loss: Loss | None, **attention: Any) -> Any:
        hidden = self.backbone.base_model(
            inputs_embeds=row_SD[None], position_ids=positions_S[None], use_cache=False, **attention
        ).last_hidden_state[0]
        if at is not None:
            hidden = hidden.index_select(0, at)
        head = self.backbone.get_output_embeddings()
        if loss is None:
            return head(hidden)
        return head(hidden, loss, None)

    def _both(
        self, batch: Batch, prompts_BLD: Tensor, teacher_BLD: Tensor | None = None
    ) -> tuple[AnswerStates, AnswerStates | None]:
        """States at answer positions under the student's prompts and, without gradient, under the teacher's."""
        tokens_BTD = self._embed(batch.ids_BT)
        teacher = None
        if teacher_BLD is not None:
            with torch.no_grad():
                teacher = self._answers(batch, teacher_BLD, tokens_BTD)
        with self._saving():
            return self._answers(batch, prompts_BLD, tokens_BTD), teacher

    def _answers(self, batch: Batch, prompts_BLD: Tensor, tokens_BTD: Tensor) -> AnswerStates:
        embeds = torch.cat([prompts_BLD.to(tokens_BTD.dtype), tokens_BTD], 1)
        hidden = self.backbone.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        length = prompts_BLD.shape[1]
        sample, token = batch.answer_BT.nonzero(as_tuple=True)
        # token t sits at L + t and is predicted at L + t - 1: the last prompt position where the context is empty
        hidden_ND = hidden[sample, token + length - 1]
        return AnswerStates(hidden_ND, self.backbone.get_output_embeddings()(hidden_ND))

    @torch.no_grad()
    def _embed(self, ids: Tensor, device: torch.device | None = None) -> Tensor:
        table = self.backbone.get_input_embeddings()
        if device is not None and not isinstance(table, RowsFromFile):
            ids = to_device(ids, device)
        return table(ids)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _generate(
        self,
        contexts: list[list[int]],
        prompts_BLD: Tensor,
        max_new_tokens: int,
        end_id: int,
        pad_id: int,
        synced: bool,
    ) -> Tensor:
        """Greedy continuations, int64 (B, at most max_new_tokens). Padded on the left; ``synced``: every rank runs
        as long as the longest.
        """
        device, (n, length, hidden) = prompts_BLD.device, prompts_BLD.shape
        longest = max(map(len, contexts))
        ids = torch.tensor([c + [pad_id] * (longest - len(c)) for c in contexts], device=device, dtype=torch.long)
        tokens = self._embed(ids)
        embeds = tokens.new_zeros(n, length + longest, hidden)
        mask = torch.zeros(n, length + longest, dtype=torch.long, device=device)
        for b, context in enumerate(contexts):
            pad = longest - len(context)
            embeds[b, pad : pad + length] = prompts_BLD[b].to(embeds.dtype)
            embeds[b, pad + length :] = tokens[b, : len(context)]
            mask[b, pad:] = 1
        return self.backbone.generate(  # type: ignore[no-any-return]
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=end_id,
            pad_token_id=pad_id,
            synced_gpus=synced,
            use_cache=True,
        )


def _open(plain: Callable[[Tensor], Tensor], head: nn.Module) -> Callable[..., Any]:
    """The head's forward, which lends its weight to a loss where one is given."""

    def forward(hidden: Tensor, loss: Callable[..., Any] | None = None, teacher: Tensor | None = None) -> Any:
        if loss is None:
            return plain(hidden)
        if getattr(head, "bias", None) is not None:
            raise BackboneError("the head has a bias, which packed rows do not support; set batching: padded")
        return loss(head.weight, hidden, teacher)

    return forward
