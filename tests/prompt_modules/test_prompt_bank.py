"""The bank against the formula P_k = P* o (U_k V_k), written out row by row on tensors of their own."""

import pytest
import torch
from torch import Tensor, nn

from prompt_modules import DecomposedBank, JoinedBank, NoPrompts, SoftPromptBank

K, L, R, D = 4, 3, 2, 5
ROWS = [2, 0, 2, 2, 3]  # row 1 is absent, row 2 stands three times


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def decomposed(n_shared: int, train_shared: bool = True) -> DecomposedBank:
    return DecomposedBank(
        draw(0, n_shared, L, D), cols_KLR=draw(1, K, L, R), rows_KRD=draw(2, K, R, D), train_shared=train_shared
    )


def loss_of(prompts_BLD: Tensor, offset: int = 0) -> Tensor:
    """Curved, and different for every place in the batch."""
    return (prompts_BLD.sin() * draw(9, len(ROWS), L, D)[offset : offset + len(prompts_BLD)]).sum()


class Prompts(nn.Module):
    """A bank as a function of its parameters, for gradcheck."""

    def __init__(self, bank: nn.Module, rows: list[int]):
        super().__init__()
        self.bank, self.rows = bank, rows

    def forward(self) -> Tensor:
        return self.bank.prompts(torch.tensor(self.rows))


@pytest.mark.parametrize("n_shared", [1, K])
@pytest.mark.parametrize("rows", [ROWS, [1], [3, 2, 1, 0]])
def test_gradients_equal_those_of_the_formula_on_separate_tensors(n_shared: int, rows: list[int]) -> None:
    bank = decomposed(n_shared)
    shared = [bank.shared_SLD[s].detach().clone().requires_grad_() for s in range(n_shared)]
    cols = [bank.cols_KLR[k].detach().clone().requires_grad_() for k in range(K)]
    rows_of = [bank.rows_KRD[k].detach().clone().requires_grad_() for k in range(K)]
    naive = torch.stack(
        [
            shared[k if n_shared == K else 0] * sum(cols[k][:, r, None] * rows_of[k][None, r] for r in range(R))
            for k in rows
        ]
    )
    prompts = bank.prompts(torch.tensor(rows))
    torch.testing.assert_close(prompts, naive, rtol=0, atol=1e-14)
    loss_of(prompts).backward()
    loss_of(naive).backward()
    for parameter, parts in ((bank.shared_SLD, shared), (bank.cols_KLR, cols), (bank.rows_KRD, rows_of)):
        assert parameter.grad is not None
        wanted = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in parts])
        torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_shared", [1, K])
def test_gradients_equal_finite_differences(n_shared: int) -> None:
    bank = decomposed(n_shared)
    module = Prompts(bank, ROWS)
    names = [n for n, _ in module.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in module.parameters())

    def prompts(*tensors: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, tensors, strict=True)), ())

    assert torch.autograd.gradcheck(prompts, values, eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_shared", [1, K])
def test_absent_rows_get_exactly_zero(n_shared: int) -> None:
    bank = decomposed(n_shared)
    loss_of(bank.prompts(torch.tensor(ROWS))).backward()
    per_row = [bank.cols_KLR, bank.rows_KRD] + ([bank.shared_SLD] if n_shared == K else [])
    for parameter in per_row:
        assert not parameter.grad[1].any()
        assert all(parameter.grad[k].any() for k in (0, 2, 3))


def test_soft_prompts_gather_rows_and_sum_the_gradient_of_repeated_ones() -> None:
    bank = SoftPromptBank(draw(0, K, L, D))
    prompts = bank.prompts(torch.tensor(ROWS))
    assert torch.equal(prompts, torch.stack([bank.prompts_KLD[k] for k in ROWS]))
    loss_of(prompts).backward()
    wanted = torch.zeros(K, L, D, dtype=torch.float64)
    for b, k in enumerate(ROWS):
        wanted[k] += bank.prompts_KLD[k].detach().cos() * draw(9, len(ROWS), L, D)[b]
    torch.testing.assert_close(bank.prompts_KLD.grad, wanted, rtol=0, atol=1e-14)


def test_a_joined_bank_equals_its_parts_in_values_and_gradients() -> None:
    def parts() -> dict[str, SoftPromptBank | DecomposedBank]:
        return {"a": decomposed(1), "b": SoftPromptBank(draw(3, 2, L, D)), "c": decomposed(K)}

    together, apart = parts(), parts()
    joined = JoinedBank(together, {"a": K, "b": 2, "c": K})
    assert len(joined) == 2 * K + 2
    assert joined.spans() == {"a": range(K), "b": range(K, K + 2), "c": range(K + 2, 2 * K + 2)}
    asked = [("c", 1), ("a", 0), ("b", 1), ("c", 1), ("a", 3)]  # mixed order, one twice
    prompts = joined.prompts(torch.tensor([joined.spans()[name][k] for name, k in asked]))
    naive = torch.cat([apart[name].prompts(torch.tensor([k])) for name, k in asked])
    assert torch.equal(prompts, naive)
    loss_of(prompts).backward()
    loss_of(naive).backward()
    for name in together:
        for (label, ours), theirs in zip(together[name].named_parameters(), apart[name].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-14, msg=f"{name}.{label}")


def test_a_joined_bank_leaves_parts_that_nobody_asked_for_alone() -> None:
    a, b = SoftPromptBank(draw(0, 2, L, D)), SoftPromptBank(draw(1, 3, L, D))
    joined = JoinedBank({"a": a, "b": b}, {"a": 2, "b": 3})
    joined.prompts(torch.tensor([4, 2])).sum().backward()
    assert a.prompts_KLD.grad is None and b.prompts_KLD.grad is not None
    assert [bool(b.prompts_KLD.grad[k].any()) for k in range(3)] == [True, False, True]
    with pytest.raises(ValueError, match="no row"):
        joined.prompts(torch.tensor([], dtype=torch.long))


def test_master_values_are_never_narrower_than_fp32_and_are_the_banks_own() -> None:
    start = draw(0, K, L, D, dtype=torch.float32).bfloat16()
    bank = SoftPromptBank(start)
    assert bank.prompts_KLD.dtype == torch.float32
    assert torch.equal(bank.prompts_KLD.detach(), start.float())
    assert SoftPromptBank(draw(0, K, L, D)).prompts_KLD.dtype == torch.float64
    kept = draw(0, K, L, D)
    with torch.no_grad():
        SoftPromptBank(kept).prompts_KLD.zero_()
    assert kept.all()


def test_numbers_of_one_adapted_task() -> None:
    assert SoftPromptBank(draw(0, K, L, D)).numbers_per_row() == L * D
    assert decomposed(1, train_shared=False).numbers_per_row() == (L + D) * R
    assert decomposed(K).numbers_per_row() == L * D + (L + D) * R
    # the paper's setting: L = 100, d = 4096, rank 1 and P*, of an 8B model: 0.0052 %
    assert 100 * DecomposedBank(
        torch.zeros(1, 100, 4096), torch.zeros(1, 100, 1), torch.zeros(1, 1, 4096)
    ).numbers_per_row() / 8.03e9 == pytest.approx(0.0052, abs=5e-5)


def test_a_frozen_metaprompt_gets_no_gradient() -> None:
    bank = decomposed(1, train_shared=False)
    loss_of(bank.prompts(torch.tensor(ROWS))).backward()
    assert bank.shared_SLD.grad is None and bank.cols_KLR.grad is not None


def test_a_metaprompt_with_a_wrong_number_of_copies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 rows: 1 or 4 fit"):
        DecomposedBank(draw(0, 2, L, D), draw(1, K, L, R), draw(2, K, R, D))


def test_no_prompts_leave_a_packed_row_as_it_is() -> None:
    bank, tokens = NoPrompts(D), draw(0, 4, D)
    assert bank.prompts(torch.tensor([1, 2])).shape == (2, 0, D) and bank.length(1) == 0
    assert bank.packed_sequence(torch.tensor([1, 2]), tokens) is tokens
