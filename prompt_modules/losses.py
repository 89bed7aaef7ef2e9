"""Losses per answer position. Every function returns one fp32 number a position; the caller weighs and sums them.

This is the plain formulation: whole logits of teacher and student. Fast paths are tested against it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class DistillationTerms(NamedTuple):
    """Each (N,), in nats (ce, kl) or squared hidden units (hidden)."""

    ce_N: Tensor
    kl_N: Tensor
    hidden_N: Tensor


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """-log p(label), (N,), computed in fp32 (fp64 stays)."""
    return F.cross_entropy(_wide(logits_NV), labels_N, reduction="none")


def distillation_terms(
    student_logits_NV: Tensor,
    teacher_logits_NV: Tensor,
    student_hidden_ND: Tensor,
    teacher_hidden_ND: Tensor,
    labels_N: Tensor,
    temperature: float,
) -> DistillationTerms:
    """CE, T^2 KL(teacher || student) at temperature T, and the mean over D of the squared difference of hidden states.

    The hidden states are the head's inputs, after the final norm. The T^2 is Hinton's (arXiv 1503.02531, sec. 2.1): it
    keeps the size of the gradient when T changes. The teacher's tensors are constants.
    """
    ce_N = cross_entropy(student_logits_NV, labels_N)
    log_student = F.log_softmax(_wide(student_logits_NV) / temperature, -1)
    log_teacher = F.log_softmax(_wide(teacher_logits_NV.detach()) / temperature, -1)
    kl_N = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1) * temperature**2
    hidden_N = (_wide(student_hidden_ND) - _wide(teacher_hidden_ND.detach())).square().mean(-1)
    return DistillationTerms(ce_N, kl_N, hidden_N)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
