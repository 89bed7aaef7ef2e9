"""One call of a flash attention over gathered keys against the definition by blocks, in fp64. The kernels
themselves: tests/gpu.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from backbones import share_prefix
from backbones.attention import in_parts, shared_prefix
from backbones.attention.gathered import GatheredAttention
from tests.backbones.attention.test_in_parts import flash_backward, flash_forward


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_parts, "_forward", flash_forward)
    monkeypatch.setattr(in_parts, "_backward", flash_backward)
    monkeypatch.setattr(shared_prefix, "_flash_on_cuda", lambda q: True)


@given(
    lengths=st.lists(st.integers(1, 23), min_size=1, max_size=6),
    prompts=st.integers(1, 4),
    length=st.integers(0, 9),
    window=st.sampled_from([None, 1, 2, 4, 9, 15]),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    sink=st.sampled_from([None, 0.0, 6.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_equals_the_definition(flash, lengths, prompts, length, window, heads, sink, seed) -> None:
    """Samples in any order, prompts without one."""
    g = torch.Generator().manual_seed(seed)
    slots = torch.randint(prompts, (len(lengths),), generator=g).tolist()
    prefix = share_prefix(lengths, slots, n_prompts=prompts, length=length)
    n, (h, kv) = prompts * length + sum(lengths), heads
    q, k, v = (
        torch.randn(m, n, 8, generator=g, dtype=torch.float64).transpose(0, 1).requires_grad_() for m in (h, kv, kv)
    )
    sinks = None if sink is None else torch.randn(h, generator=g, dtype=torch.float64) + sink
    weights, found = torch.randn(n, h, 8, generator=g, dtype=torch.float64), []
    for attention in (GatheredAttention, shared_prefix._Packed):
        out = attention.apply(q, k, v, sinks, prefix, window, 0.4)
        found.append([out, *torch.autograd.grad((out * weights).sum(), (q, k, v))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("slots, prompts", [([0, 1, 0], 2), ([1, 1, 0], 2), ([0, 0, 0], 2), ([0, 2, 2], 3)])
def test_rows_whose_samples_do_not_lie_by_prompt_are_gathered(flash, slots: list[int], prompts: int) -> None:
    prefix = share_prefix([4, 2, 3], slots, n_prompts=prompts, length=5)
    assert prefix.segments is None
    q, k, v = (torch.randn(prompts * 5 + 9, 2, 8, dtype=torch.float64) for _ in range(3))
    found = shared_prefix.packed_attention(q, k, v, sinks=None, prefix=prefix, window=None, scale=0.4)
    torch.testing.assert_close(
        found, shared_prefix._Packed.apply(q, k, v, None, prefix, None, 0.4), rtol=1e-12, atol=1e-12
    )


def test_a_sample_gets_what_its_window_reaches_of_its_prompt() -> None:
    prefix = share_prefix([2, 1], slots=[1, 0], n_prompts=2, length=3)
    keys = prefix.gathered(3)
    assert keys.index_G is not None and keys.index_G.tolist() == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 1, 2, 8]
    assert keys.home_S.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 12]
    assert (keys.reach, keys.first_B.tolist(), keys.begins.tolist()) == (2, [10, 6], [0, 1, 2])
    assert prefix.gathered(3) is keys and prefix.gathered(1).index_G is None
    assert prefix.gathered(None) is prefix.gathered(100) and prefix.gathered(None).reach == 3


def test_the_gradient_of_a_prompt_that_150_samples_share_in_bf16(flash) -> None:
    """A sample's share is rounded as the kernel writes it, their sum once more."""
    g = torch.Generator().manual_seed(150)
    lengths, length, window = torch.randint(20, 60, (150,), generator=g).tolist(), 100, 128
    n, prefix = length + sum(lengths), share_prefix(lengths, slots=[0] * 150, n_prompts=1, length=length)
    wide = [torch.randn(n, 4, 64, generator=g).bfloat16().double().requires_grad_() for _ in range(3)]
    weights = torch.randn(n, 4, 64, generator=g).bfloat16()
    wanted = torch.autograd.grad(
        (shared_prefix._Packed.apply(*wide, None, prefix, window, 0.125) * weights.double()).sum(), wide
    )
    narrow = [x.detach().bfloat16().requires_grad_() for x in wide]
    found = torch.autograd.grad((GatheredAttention.apply(*narrow, None, prefix, window, 0.125) * weights).sum(), narrow)
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert (a[:length].double() - b[:length]).norm() / b[:length].norm() <= 4e-3


COLLECTED = """
import torch
from backbones.attention import collect_kernel, share_prefix
from backbones.attention.gathered import collected
g = torch.Generator().manual_seed(0)
for slots, prompts, length, window, dtype in (
    ([0, 1, 0, 3], 4, 5, None, torch.float32),
    ([2, 0, 0, 1], 3, 7, 4, torch.bfloat16),
    ([0, 0, 0, 0], 1, 3, 9, torch.float16),
):
    prefix = share_prefix([4, 1, 9, 2], slots, prompts, length)
    keys = prefix.gathered(window)
    dk, dv = (torch.randn(len(keys.index_G), 3, 5, generator=g).to(dtype) for _ in range(2))
    assert collect_kernel.available(dk)
    found = collected(dk, dv, keys, prefix)
    collect_kernel.available, kept = (lambda _: False), collect_kernel.available
    wanted = collected(dk, dv, keys, prefix)
    collect_kernel.available = kept
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype and a.shape == b.shape == (prompts * length + 16, 3, 5)
        torch.testing.assert_close(a, b, rtol=1e-2 if dtype != torch.float32 else 1e-6, atol=1e-6)
print("collected")
"""


def test_the_kernel_that_takes_gradients_back_in_the_interpreter(interpreted: Callable[..., str]) -> None:
    assert interpreted(COLLECTED) == "collected\n"
