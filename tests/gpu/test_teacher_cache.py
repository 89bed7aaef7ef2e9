"""Teachers' states on their way from a GPU to files and back: pinned, asynchronous, and the same bits."""

from types import SimpleNamespace

import pytest
import torch

from engine.data.sample import Sample
from engine.training.teachers.cache import TeacherCacheReader
from engine.training.teachers.files import Said
from prompt_modules import TeacherStates

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: pinned copies of teachers' states are NOT tested"
)


def states_of(n: int, seed: int) -> TeacherStates:
    g = torch.Generator().manual_seed(seed)
    hidden, shift = torch.randn(n, 4096, generator=g).bfloat16(), torch.randn(n, 4096, generator=g)
    return TeacherStates(hidden, shift, torch.rand(n, generator=g), torch.randint(0, 1000, (n,), generator=g))


def equal(a: TeacherStates, b: TeacherStates) -> bool:
    return all(x.cpu().equal(y.cpu()) for x, y in zip(a, b, strict=True))


def test_states_leave_the_gpu_unchanged_while_it_works_on() -> None:
    group = [Sample([1], [2] * n, row=0, index=index) for index, n in enumerate((300, 1, 700))]
    states = states_of(1001, 0)
    on_gpu = TeacherStates(*(t.cuda() for t in states))
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 64
    said = Said(group, on_gpu)
    del on_gpu
    torch.randn(64, 4096, 4096, device="cuda")  # what takes the memory that was given back
    found = said.by_sample()
    for index, expected in enumerate(zip(*(t.split([300, 1, 700]) for t in states), strict=True)):
        assert equal(found[0, index], TeacherStates(*expected))


def test_rows_that_are_read_ahead_reach_the_gpu_unchanged() -> None:
    groups = [[Sample([1], [2], row=0, index=index)] for index in range(6)]
    whole = {index: states_of(500, index) for index in range(6)}
    store = SimpleNamespace(read=lambda group: whole[group[0].index])
    kept = TeacherCacheReader(store, torch.device("cuda"))  # type: ignore[arg-type]
    assert kept._read(groups[0]).hidden_ND.is_pinned()
    kept.expect(groups)
    for index, group in enumerate(groups):
        found = kept(group)
        assert found.hidden_ND.is_cuda and equal(found, whole[index])
    kept.close()
