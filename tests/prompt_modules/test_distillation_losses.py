"""Losses against explicit sums."""

import math

import pytest
import torch
from torch import Tensor

from prompt_modules import cross_entropy, distillation_terms
from prompt_modules.losses import DistillationTerms

N, V, D = 6, 11, 7


def draw(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER, STUDENT_H, TEACHER_H = draw(0, N, V), draw(1, N, V), draw(2, N, D), draw(3, N, D)
LABELS = torch.tensor([3, 0, 10, 3, 5, 1])


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(x / temperature) for x in logits]
    return [p / sum(powers) for p in powers]


def naive_kl(teacher: Tensor, student: Tensor, temperature: float) -> list[float]:
    out = []
    for t_row, s_row in zip(teacher.tolist(), student.tolist(), strict=True):
        p, q = softmax(t_row, temperature), softmax(s_row, temperature)
        out.append(temperature**2 * sum(pi * (math.log(pi) - math.log(qi)) for pi, qi in zip(p, q, strict=True)))
    return out


def terms_of(student: Tensor, hidden: Tensor, temperature: float) -> DistillationTerms:
    """Beside the one teacher."""
    return distillation_terms(
        student,
        teacher_logits_NV=TEACHER,
        student_hidden_ND=hidden,
        teacher_hidden_ND=TEACHER_H,
        labels_N=LABELS,
        temperature=temperature,
    )


def test_cross_entropy_is_minus_log_p_of_the_label() -> None:
    wanted = [-math.log(softmax(row, 1)[label]) for row, label in zip(STUDENT.tolist(), LABELS.tolist(), strict=True)]
    torch.testing.assert_close(
        cross_entropy(STUDENT, LABELS), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_kl_is_the_explicit_sum_times_t_squared(temperature: float) -> None:
    terms = terms_of(STUDENT, STUDENT_H, temperature)
    wanted = torch.tensor(naive_kl(TEACHER, STUDENT, temperature), dtype=torch.float64)
    torch.testing.assert_close(terms.kl_N, wanted, rtol=0, atol=1e-11)
    # the direction matters: KL(student || teacher) is another number
    assert (wanted - torch.tensor(naive_kl(STUDENT, TEACHER, temperature), dtype=torch.float64)).abs().max() > 1e-3
    # temperature is the KL's own
    torch.testing.assert_close(terms.ce_N, cross_entropy(STUDENT, LABELS), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_of_kl_is_t_times_the_difference_of_probabilities(temperature: float) -> None:
    """d/dz T^2 KL(p || softmax(z / T)) = T (q - p)."""
    student = STUDENT.clone().requires_grad_()
    terms_of(student, STUDENT_H, temperature).kl_N.sum().backward()
    wanted = temperature * (torch.softmax(STUDENT / temperature, -1) - torch.softmax(TEACHER / temperature, -1))
    torch.testing.assert_close(student.grad, wanted, rtol=0, atol=1e-12)


def test_the_hidden_term_is_a_mean_over_d() -> None:
    terms = terms_of(STUDENT, STUDENT_H, 1.0)
    wanted = [
        sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) / D
        for a, b in zip(STUDENT_H.tolist(), TEACHER_H.tolist(), strict=True)
    ]
    torch.testing.assert_close(terms.hidden_N, torch.tensor(wanted, dtype=torch.float64), rtol=1e-13, atol=0)
    assert terms.ce_N.shape == terms.kl_N.shape == terms.hidden_N.shape == (N,)


def test_the_teacher_gets_no_gradient() -> None:
    tensors = [t.clone().requires_grad_() for t in (STUDENT, TEACHER, STUDENT_H, TEACHER_H)]
    sum(t.sum() for t in distillation_terms(*tensors, LABELS, 2.0)).backward()
    student, teacher, student_h, teacher_h = tensors
    assert teacher.grad is None and teacher_h.grad is None
    assert student.grad.abs().sum() > 0 and student_h.grad.abs().sum() > 0


def test_a_student_that_equals_its_teacher_has_no_distillation_loss() -> None:
    student = TEACHER.clone().requires_grad_()
    hidden = TEACHER_H.clone().requires_grad_()
    terms = terms_of(student, hidden, 2.0)
    assert terms.kl_N.abs().max() < 1e-14 and not terms.hidden_N.any()
    (terms.kl_N + terms.hidden_N).sum().backward()
    assert student.grad.abs().max() < 1e-14 and not hidden.grad.any()


def test_without_an_answer_position_loss_and_gradient_are_zero() -> None:
    student, hidden = STUDENT.clone().requires_grad_(), STUDENT_H.clone().requires_grad_()
    none = torch.zeros(N, dtype=torch.bool)
    terms = distillation_terms(
        student[none],
        teacher_logits_NV=TEACHER[none],
        student_hidden_ND=hidden[none],
        teacher_hidden_ND=TEACHER_H[none],
        labels_N=LABELS[none],
        temperature=2.0,
    )
    assert [len(t) for t in terms] == [0, 0, 0]
    loss = sum(t.sum() for t in terms)
    assert loss.item() == 0
    loss.backward()
    assert not student.grad.any() and not hidden.grad.any()


def test_bf16_is_computed_in_fp32() -> None:
    narrow = [t.bfloat16() for t in (STUDENT, TEACHER, STUDENT_H, TEACHER_H)]
    terms = distillation_terms(*narrow, LABELS, 2.0)
    wide = distillation_terms(*[t.double() for t in narrow], LABELS, 2.0)
    for ours, exact in zip(terms, wide, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)  # bf16 arithmetic would be off by 1e-2
    student = narrow[0].requires_grad_()
    cross_entropy(student, LABELS).sum().backward()
    assert student.grad.dtype == torch.bfloat16


def test_terms_stay_finite_at_extreme_logits() -> None:
    far = torch.tensor([[0.0, 1e4, -1e4]], dtype=torch.float32)
    terms = distillation_terms(
        far,
        teacher_logits_NV=far.flip(1),
        student_hidden_ND=far,
        teacher_hidden_ND=far,
        labels_N=torch.tensor([2]),
        temperature=1.0,
    )
    assert all(t.isfinite().all() for t in terms) and terms.ce_N.item() == pytest.approx(2e4)
