"""``deterministic: true``: the same bits in every run on a GPU. CPUs give them anyway."""

import contextlib
from collections.abc import Iterator, Mapping

import torch

from engine.core.privacy import CUBLAS, REPEATABLE_WORKSPACES


def workspace_problems(environment: Mapping[str, str]) -> list[str]:
    """What keeps cuBLAS from repeating its sums. torch refuses the same at the first product, deep inside a step."""
    found = environment.get(CUBLAS)
    if found in REPEATABLE_WORKSPACES:
        return []
    state = "not set"
    if found is not None:
        state = f"{found!r}"
    allowed = " or ".join(REPEATABLE_WORKSPACES)
    return [f"{CUBLAS}: {state}, but deterministic: true needs {allowed}; export {CUBLAS}={REPEATABLE_WORKSPACES[0]}"]


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within, operators on a GPU give the same bits each time. Afterwards all is as it was before.

    Nothing changes on a machine without a GPU, nor where it is not wanted.

    Raises:
        RuntimeError: by torch, where an operator has no such algorithm, or cuBLAS was started with another workspace.
    """
    if not (wanted and torch.cuda.is_available()):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    # torch would write NaN into every new tensor, which finds errors and costs time; no number depends on it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
