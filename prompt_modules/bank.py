"""The bank: every prompt of a run, as rows of a few replicated fp32 parameters.

A bank is indexed by row, never a module per task: under ZeRO-3 all ranks must run the same modules in the
same order, and one parameter per kind keeps the optimizer and the checkpoint to a handful of tensors.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prompt_modules.projection import packed_row

# of a linear layer: its name, inputs (…, I), outputs (…, O) -> other outputs
LinearUpdate = Callable[[str, Tensor, Tensor], Tensor]


class PromptBank(Protocol):
    """What the engine needs of a bank."""

    def prompts(self, rows_B: Tensor) -> Tensor:
        """Soft prompts of the given rows: int64 (B,) -> fp32 (B, L, D), differentiable in the bank."""
        ...

    def packed_sequence(self, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
        """A packed row in the dtype of the text: prompts of K different bank rows, then the text, (K L + T, D)."""
        ...

    def length(self, row: int) -> int:
        """L, of a row's prompt; 0 where the row is no prompt."""
        ...

    def updates(self, rows: Sequence[int], sizes: Sequence[int]) -> LinearUpdate | None:
        """What rows that are no prompts do to the backbone's linear layers, of stretches of tokens: each one's row
        and size. None: nothing.
        """
        ...


class _Prompts(nn.Module):
    """Rows that are prompts and nothing else."""

    def updates(self, rows: Sequence[int], sizes: Sequence[int]) -> None:
        return None


class SoftPromptBank(_Prompts):
    """Ordinary soft prompts, one per row: the teachers T_k, and single-task prompt tuning.

    Args:
        prompts_KLD: start values, any float dtype; kept as fp32 (fp64 stays fp64, for exactness tests).
    """

    def __init__(self, prompts_KLD: Tensor):
        super().__init__()
        self.prompts_KLD = nn.Parameter(master(prompts_KLD))

    def prompts(self, rows_B: Tensor) -> Tensor:
        return self.prompts_KLD[rows_B]

    def packed_sequence(self, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
        return _joined(self.prompts(rows_K), tokens_TD)

    def length(self, row: int) -> int:
        return self.prompts_KLD.shape[1]

    def numbers_per_row(self) -> int:
        """How many trainable numbers belong to one adapted task."""
        return self.prompts_KLD[0].numel()


class DecomposedBank(_Prompts):
    """P_k = P* o (U_k V_k): one metaprompt, elementwise scaled by a rank-R update per row (MPT, arXiv 2303.02861, eq.
    1-2).

    Args:
        shared_SLD: the metaprompt P* (1, L, D), or one copy per row (K, L, D) where every row trains its own.
        cols_KLR: U. rows_KRD: V.
        train_shared: False freezes P* (stage 2, ``factors``).
    """

    def __init__(self, shared_SLD: Tensor, cols_KLR: Tensor, rows_KRD: Tensor, train_shared: bool = True):
        super().__init__()
        if shared_SLD.shape[0] not in (1, cols_KLR.shape[0]):
            raise ValueError(f"shared_SLD has {shared_SLD.shape[0]} rows: 1 or {cols_KLR.shape[0]} fit this bank")
        self.shared_SLD = nn.Parameter(master(shared_SLD), requires_grad=train_shared)
        self.cols_KLR = nn.Parameter(master(cols_KLR))
        self.rows_KRD = nn.Parameter(master(rows_KRD))

    def prompts(self, rows_B: Tensor) -> Tensor:
        update_BLD = self.cols_KLR[rows_B] @ self.rows_KRD[rows_B]
        shared: Tensor = self.shared_SLD
        if len(shared) > 1:
            shared = shared[rows_B]
        return shared * update_BLD

    def packed_sequence(self, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
        return packed_row(self.shared_SLD, self.cols_KLR, self.rows_KRD, rows_K, tokens_TD)

    def length(self, row: int) -> int:
        return self.shared_SLD.shape[1]

    def numbers_per_row(self) -> int:
        """How many trainable numbers belong to one adapted task."""
        numbers = self.cols_KLR[0].numel() + self.rows_KRD[0].numel()
        if self.shared_SLD.requires_grad:
            numbers += self.shared_SLD[0].numel()
        return numbers


class NoPrompts:
    """Prompts of length 0: a written instruction stands in the text instead."""

    def __init__(self, hidden: int):
        self.hidden = hidden

    def prompts(self, rows_B: Tensor) -> Tensor:
        return torch.zeros(len(rows_B), 0, self.hidden, device=rows_B.device)

    def packed_sequence(self, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
        return tokens_TD

    def length(self, row: int) -> int:
        return 0

    def updates(self, rows: Sequence[int], sizes: Sequence[int]) -> None:
        return None


def _joined(prompts_KLD: Tensor, tokens_TD: Tensor) -> Tensor:
    return torch.cat([prompts_KLD.flatten(0, 1).to(tokens_TD.dtype), tokens_TD])


def master(values: Tensor) -> Tensor:
    """A copy to train: fp32, or wider as it is."""
    # near 1 a bf16 factor cannot move by a step of 1e-3: master values are never narrower than fp32
    return values.detach().clone().to(torch.promote_types(values.dtype, torch.float32))


class JoinedBank(nn.Module):
    """Several banks behind one row numbering: rows of the first part come first.

    Lets different methods (a metaprompt's rows, prompt-tuning rows) train in one pass over one backbone.
    """

    def __init__(self, parts: dict[str, Any], sizes: dict[str, int]):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.sizes = sizes

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def spans(self) -> dict[str, range]:
        """Part name -> its row numbers in the joined numbering."""
        out, start = {}, 0
        for name, size in self.sizes.items():
            out[name] = range(start, start + size)
            start += size
        return out

    def prompts(self, rows_B: Tensor) -> Tensor:
        out_BLD: Tensor | None = None
        for name, span in self.spans().items():
            here = ((rows_B >= span.start) & (rows_B < span.stop)).nonzero()[:, 0]
            if not len(here):
                continue
            part_BLD = self.parts[name].prompts(rows_B[here] - span.start)  # type: ignore[operator]
            if out_BLD is None:
                out_BLD = part_BLD.new_zeros(len(rows_B), *part_BLD.shape[1:])
            out_BLD = out_BLD.index_copy(0, here, part_BLD)
        if out_BLD is None:
            raise ValueError("no row of this bank was selected")
        return out_BLD

    def packed_sequence(self, rows_K: Tensor, tokens_TD: Tensor) -> Tensor:
        first = int(rows_K[0])
        for name, span in self.spans().items():
            if first in span and bool(((rows_K >= span.start) & (rows_K < span.stop)).all()):  # one part's: in one go
                part: Any = self.parts[name]
                sequence: Tensor = part.packed_sequence(rows_K - span.start, tokens_TD)
                return sequence
        return _joined(self.prompts(rows_K), tokens_TD)

    def length(self, row: int) -> int:
        part, place = self._of(row)
        return self.parts[part].length(place)  # type: ignore[operator, no-any-return]

    def updates(self, rows: Sequence[int], sizes: Sequence[int]) -> LinearUpdate | None:
        places = [self._of(row) for row in rows]
        parts = {part for part, _ in places}
        # prompts of several methods; one with updates of its own comes alone, for its length is another
        if len(parts) > 1:
            return None
        part: Any = self.parts[parts.pop()]
        return part.updates([place for _, place in places], sizes)  # type: ignore[no-any-return]

    def _of(self, row: int) -> tuple[str, int]:
        return next((name, row - span.start) for name, span in self.spans().items() if row in span)
