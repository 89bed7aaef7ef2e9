"""Prompt arithmetic: a prompt for a task from those of others, without training (task prompt vectors, arXiv
2408.01119).

    P = start + sum_i w_i (P_i - start)

start is where the P_i began: the metaprompt P* of rows that were adapted from it; of prompt tuning the one start that
``prompt.init: text`` gives all rows. Where the w_i sum to 1 it cancels, and none is asked for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

METHOD = "sum"  # and the part of the bank that holds such rows
ROUNDING = 1e-9  # weights that sum to 1 but for this sum to 1


@dataclass(frozen=True)
class PromptSum:
    """text: as typed, ``NAME=0.5*task1+task2``. terms: (weight, task)."""

    text: str
    target: str
    terms: tuple[tuple[float, str], ...]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for _, task in self.terms))

    @property
    def needs_start(self) -> bool:
        return abs(self._total - 1) > ROUNDING

    @property
    def _total(self) -> float:
        return sum(weight for weight, _ in self.terms)

    def prompt(self, prompts: Mapping[str, Tensor], start_LD: Tensor | None) -> Tensor:
        """(L, D) in the dtype of the tasks' prompts, summed in fp64: one task with weight 1 comes back to the bit.

        Args:
            prompts: task -> (L, D). start_LD: None where it is not needed.
        """
        total_LD = torch.stack([weight * prompts[task].double() for weight, task in self.terms]).sum(0)
        if self.needs_start:
            assert start_LD is not None
            total_LD = total_LD + (1 - self._total) * start_LD.double()
        return total_LD.to(prompts[self.tasks[0]].dtype)


def read_sums(text: str, tasks: Sequence[str], problems: list[str]) -> list[PromptSum]:
    """Sums of a flag, separated by commas. What cannot be read is added to ``problems``.

    Args:
        tasks: that have prompts. A name may hold a minus: the longest that fits is meant.
    """
    names = "|".join(re.escape(t) for t in sorted(tasks, key=len, reverse=True))
    term = re.compile(rf"\s*([+-]?)\s*(?:(\d+(?:\.\d*)?|\.\d+)\s*\*\s*)?({names})\s*")
    out = []
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        target, _, rest = part.partition("=")
        terms: list[tuple[float, str]] = []
        at = 0
        while (found := term.match(rest, at)) and (found[1] or not terms):
            weight = float(found[2] or 1)
            if found[1] == "-":
                weight = -weight
            terms.append((weight, found[3]))
            at = found.end()
        if terms and at == len(rest) and target.strip():
            out.append(PromptSum(part, target.strip(), tuple(terms)))
        else:
            where = ""
            if rest[at:].strip() and target.strip():
                where = f"cannot be read from {rest[at:].strip()!r} on; "
            problems.append(
                f"--sum: {part!r}: {where}write NAME=0.5*task1+0.5*task2 with tasks of these runs ({', '.join(tasks)})"
            )
    return out
