"""Cross-entropy and distillation terms through a frozen head, with the gradient of the head's inputs, in chunks of
answer positions.

Teacher and student share the head W, and W is constant. So no whole logits are kept, nothing is differentiated through
W, and the gradient is known as soon as the logits are: the forward pass computes it. Per position, with p = softmax(W
h_S), p(T) at temperature T:

    d(CE + lambda T^2 KL)/dh_S = W^T [p - 1_y + lambda T (p_S(T) - p_T(T))]

Near p(y) = 1 both brackets are differences of nearly equal numbers, and a logit's fp32 rounding (1e-6) is 1 % of 1 -
p(y) = 4e-4. As each sums to zero, its entry at y, or at the teacher's first choice m, is minus the sum of the others,
which are small and exact:

    W^T p = W_m + shift,   shift = sum_{j != m} p_j (W_j - W_m)

What a teacher says of a position is then h_T, shift_T, m and the entropy H_T of p_T(T):
KL = -H_T - shift_T h_S / T + lse(W h_S / T) - W_m h_S / T.

In bf16 a product's operands are rounded: the entries at y, m and the student's first choice are applied as fp32 rows of
W, the rest alone is rounded.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
LIVE = 6  # fp32 tensors of a chunk's logits' size that are alive at once
VOCABULARY = 8192  # rows of a half-precision W that a CPU widens at once


class TeacherStates(NamedTuple):
    """A teacher at N answer positions: hidden_ND, the head's inputs; shift_ND = W^T p_T(T) - W[first_N], fp32;
    entropy_N of p_T(T), in nats; first_N int64, where p_T is largest.
    """

    hidden_ND: Tensor
    shift_ND: Tensor
    entropy_N: Tensor
    first_N: Tensor


class HeadLoss(NamedTuple):
    """ce_N, kl_N, hidden_N as in DistillationTerms; gradient_ND of the weighted sum in the head's inputs, None
    where none was asked for.
    """

    ce_N: Tensor
    kl_N: Tensor
    hidden_N: Tensor
    gradient_ND: Tensor | None


@torch.no_grad()
def tied_head_loss(
    weight_VD: Tensor,
    student_ND: Tensor,
    teacher: Tensor | TeacherStates | None,
    labels_N: Tensor,
    weights_N: Tensor,
    kl: float = 0.0,
    hidden: float = 0.0,
    temperature: float = 1.0,
    gradient: bool = True,
    chunk_bytes: int = 0,
) -> HeadLoss:
    """Terms of sum_n weight_n (ce_n + kl T^2 KL_n + hidden MSE_n), and its gradient in ``student_ND``.

    Args:
        weight_VD: the head, fp64, fp32, bf16 or fp16. student_ND, teacher: the head's inputs, or of the teacher what
            was kept of it.
        labels_N: int64. weights_N: any float. kl, hidden: lambdas.
        chunk_bytes: of logits alive at once; 0 chooses by device.
    """
    terms = []
    for part in _chunks(len(student_ND), weight_VD, chunk_bytes):
        own = (student_ND[part], _part_of(teacher, part), labels_N[part], weights_N[part])
        terms.append(_chunk(weight_VD, *own, kl, hidden, temperature, gradient))
    ce, kl_terms, hidden_terms, gradients = zip(*terms, strict=True)
    gradient_ND = None
    if gradient:
        gradient_ND = torch.cat(gradients)
    return HeadLoss(torch.cat(ce), torch.cat(kl_terms), torch.cat(hidden_terms), gradient_ND)


def _part_of(teacher: Tensor | TeacherStates | None, part: slice) -> Tensor | TeacherStates | None:
    """The teacher at some of the positions."""
    if teacher is None:
        return None
    if isinstance(teacher, TeacherStates):
        return TeacherStates(*(tensor[part] for tensor in teacher))
    return teacher[part]


@torch.no_grad()
def teacher_states(
    weight_VD: Tensor, hidden_ND: Tensor, temperature: float = 1.0, chunk_bytes: int = 0
) -> TeacherStates:
    """All that a student needs of a teacher at answer positions; exact, and 2 D + 1 numbers instead of V."""
    shifts, entropies, firsts = [], [], []
    for part in _chunks(len(hidden_ND), weight_VD, chunk_bytes):
        log_p = (_logits(hidden_ND[part], weight_VD) / temperature).log_softmax(-1)
        p = log_p.exp()
        first = p.argmax(-1)
        entropies.append(-(p * log_p).sum(-1))
        shifts.append(_exact_product(_balanced(p, first), weight_VD))
        firsts.append(first)
    return TeacherStates(hidden_ND, torch.cat(shifts), torch.cat(entropies), torch.cat(firsts))


def _chunk(
    weight_VD: Tensor,
    student: Tensor,
    teacher: Tensor | TeacherStates | None,
    labels: Tensor,
    weights: Tensor,
    kl: float,
    hidden: float,
    t: float,
    gradient: bool,
) -> tuple[Tensor, ...]:
    logits = _logits(student, weight_VD)
    lse = logits.logsumexp(-1)
    ce = lse - logits.gather(1, labels[:, None])[:, 0]
    kl_terms, hidden_terms = torch.zeros_like(ce), torch.zeros_like(ce)
    if teacher is not None:
        soft, soft_lse = logits, lse
        if t != 1:
            soft = logits / t
            soft_lse = soft.logsumexp(-1)
    added = torch.zeros(())
    large = [labels]
    if isinstance(teacher, TeacherStates):
        first = teacher.first_N
        at_first = soft.gather(1, first[:, None])[:, 0]
        kl_terms = t * t * (soft_lse - at_first - (teacher.shift_ND * student).sum(-1) / t - teacher.entropy_N)
    elif teacher is not None:
        log_t = (_logits(teacher, weight_VD) / t).log_softmax(-1)
        p_t = log_t.exp()
        first = p_t.argmax(-1)
        kl_terms = t * t * (p_t * (log_t - soft + soft_lse[:, None])).sum(-1)
    if gradient:
        # of W's rows
        coefficients = (logits - lse[:, None]).exp_()
        if _rounds(weight_VD):
            large.append(coefficients.argmax(-1))
        if teacher is not None:
            p_s = (soft - soft_lse[:, None]).exp_() if t != 1 else coefficients.clone()
            large.append(first)
            if not isinstance(teacher, TeacherStates):
                p_s -= p_t
            _balanced(coefficients, labels).add_(_balanced(p_s, first), alpha=kl * t)
        else:
            _balanced(coefficients, labels)
        added = _product(coefficients, weight_VD, large)
        if isinstance(teacher, TeacherStates):
            added = added - kl * t * teacher.shift_ND
    if teacher is not None:
        teacher_ND = teacher.hidden_ND if isinstance(teacher, TeacherStates) else teacher
        difference = _wide(student) - _wide(teacher_ND)
        hidden_terms = difference.square().mean(-1)
        added = added + difference * (2 * hidden / student.shape[1])
    return ce, kl_terms, hidden_terms, added * weights.to(ce.dtype)[:, None]


def _balanced(values: Tensor, index: Tensor) -> Tensor:
    """Each row's entry at ``index`` becomes minus the sum of the others, in place."""
    values.scatter_(1, index[:, None], 0.0)
    return values.scatter_(1, index[:, None], -values.sum(1, keepdim=True))


def _chunks(n: int, weight_VD: Tensor, chunk_bytes: int) -> list[slice]:
    budget = chunk_bytes or CHUNK_BYTES.get(weight_VD.device.type, 1 << 28)
    size = max(1, budget // (LIVE * 4 * len(weight_VD)))
    return [slice(i, i + size) for i in range(0, max(n, 1), size)]


def _logits(hidden: Tensor, weight_VD: Tensor) -> Tensor:
    """W h in fp32 (fp64 stays): the operands may be rounded, the sums are not."""
    if not _rounds(weight_VD):
        return hidden.to(weight_VD.dtype) @ weight_VD.T
    hidden = hidden.to(weight_VD.dtype)
    if _on_gpu(hidden):
        return torch.mm(hidden, weight_VD.T, out_dtype=torch.float32)
    return torch.cat([hidden.float() @ rows.float().T for rows in weight_VD.split(VOCABULARY)], 1)


def _product(coefficients: Tensor, weight_VD: Tensor, large: list[Tensor]) -> Tensor:
    """coefficients W; with a half-precision W the entries ``large`` (one index per row each) in fp32. Overwrites
    coefficients.
    """
    if not _rounds(weight_VD):
        return coefficients @ weight_VD
    rows = torch.zeros(len(coefficients), weight_VD.shape[1], device=weight_VD.device)
    for index in large:  # an entry named twice is zero the second time
        value = coefficients.gather(1, index[:, None])
        coefficients.scatter_(1, index[:, None], 0.0)
        rows += value * weight_VD[index].float()
    tail = coefficients.to(weight_VD.dtype)
    if _on_gpu(tail):
        return rows + torch.mm(tail, weight_VD, out_dtype=torch.float32)
    return rows + _exact_product(tail.float(), weight_VD)


def _exact_product(p: Tensor, weight_VD: Tensor) -> Tensor:
    """p W without rounding p."""
    if weight_VD.dtype == p.dtype:
        return p @ weight_VD
    total = torch.zeros(len(p), weight_VD.shape[1], device=p.device)
    for part, rows in zip(p.split(VOCABULARY, 1), weight_VD.split(VOCABULARY), strict=True):
        total += part @ rows.float()
    return total


def _rounds(weight_VD: Tensor) -> bool:
    """Whether a product with W rounds its other operand below fp32."""
    return weight_VD.element_size() < 4


def _on_gpu(operand: Tensor) -> bool:
    """Whether a product of half-precision operands has its sums in fp32, and gives them out."""
    return operand.is_cuda


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
