"""The Triton kernels in Triton's interpreter, against eager torch: tiny, fp32. On a GPU tests/gpu runs the same."""

import torch

from prompt_modules.projection import packed_row, packed_row_reference

CHECK = """
import sys, torch
from prompt_modules import projection
from prompt_modules.projection import available, packed_row, packed_row_reference

assert available(torch.zeros(1)), "the interpreter does not run"
projection.ROWS, projection.WIDTH = 4, 8
cases = [(1, 5, 1, 8, 3, False), (3, 4, 2, 11, 6, False), (4, 7, 3, 16, 1, True), (2, 9, 1, 5, 0, True)]
for case, (k, length, rank, width, tokens, own) in enumerate(cases):
    g = torch.Generator().manual_seed(case)
    draw = lambda *shape: torch.randn(*shape, generator=g, requires_grad=True)
    shared, cols, rows = draw(k if own else 1, length, width), draw(k, length, rank), draw(k, rank, width)
    chosen, text = torch.randperm(k, generator=g)[: max(1, k - 1)], torch.randn(tokens, width, generator=g)
    weights = torch.randn(len(chosen) * length + tokens, width, generator=g)
    found, again, wanted = (f(shared, cols, rows, chosen, text) for f in (packed_row, packed_row, packed_row_reference))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    grads = [torch.autograd.grad((row * weights).sum(), (shared, cols, rows)) for row in (found, again, wanted)]
    for name, a, b, c in zip(("shared", "cols", "rows"), *grads):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-5, msg=lambda m: f"{case} {name}: {m}")
        assert torch.equal(a, b), (case, name)
    frozen = packed_row(shared.detach(), cols, rows, chosen, text)
    (frozen * weights).sum().backward()
    assert torch.allclose(cols.grad, grads[2][1], atol=1e-5)
print("kernels ran")
"""


def test_kernels_equal_eager_torch_in_the_interpreter(interpreted) -> None:
    assert "kernels ran" in interpreted(CHECK)


def test_without_a_gpu_eager_torch_runs() -> None:
    shared, cols, rows = torch.randn(1, 3, 4), torch.randn(2, 3, 1), torch.randn(2, 1, 4)
    chosen, text = torch.tensor([1]), torch.randn(5, 4)
    assert torch.equal(
        packed_row(shared, cols_KLR=cols, rows_KRD=rows, rows_K=chosen, tokens_TD=text),
        packed_row_reference(shared, cols_KLR=cols, rows_KRD=rows, rows_K=chosen, tokens_TD=text),
    )
    assert (
        packed_row(shared, cols_KLR=cols, rows_KRD=rows, rows_K=chosen, tokens_TD=text.bfloat16()).dtype
        == torch.bfloat16
    )
