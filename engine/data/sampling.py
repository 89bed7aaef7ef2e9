"""Which examples a global step trains on. Decided before the step is split over ranks, from seeds and counters alone.

Every row of the bank reads its examples from a stream of its own, so its data order does not depend on the other rows,
and a resumed run needs no more than one counter per row.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any labels: names, not positions, so that adding a task leaves the others' draws alone."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "little") >> 1


class Stream:
    """An endless, shuffled pass over example indices: item i is a pure function of (seed, i); every epoch shuffles
    anew.
    """

    def __init__(self, indices: Sequence[int], seed: int):
        self.indices, self.seed = list(indices), seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, i: int) -> int:
        epoch, offset = divmod(i, len(self.indices))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))
        return self.indices[int(self._order[offset])]


def few_shot_order(labels: Sequence[str] | None, drawn: Sequence[int]) -> list[int]:
    """The order in which few-shot sets take examples, from a random order ``drawn`` of all of them: every set is the
    beginning of the larger ones.

    With labels it is stratified: first one example of each label, the commonest first, then whichever label is furthest
        behind its share.
    """
    if labels is None:
        return list(drawn)
    sizes = Counter(labels)
    rank_of: dict[int, float] = {}
    seen: Counter[str] = Counter()
    for place, index in enumerate(drawn):
        label = labels[index]
        first = seen[label] == 0
        rank_of[index] = -sizes[label] - 1 + place / len(drawn) if first else (seen[label] + 0.5) / sizes[label]
        seen[label] += 1
    return sorted(drawn, key=lambda index: rank_of[index])  # stable: ties stay as drawn


class EveryRow:
    """Each active row gets equally many examples a step: teachers, and adapted targets."""

    def __init__(self, n_rows: int, examples: int):
        self.n_rows, self.examples = n_rows, examples

    def counts(self, step: int, active: Sequence[bool]) -> list[int]:
        """Examples of each row in global step ``step``."""
        return [self.examples if a else 0 for a in active]


class TaskMixture:
    """``batch`` examples a step over tasks drawn by weight; with ``subsets``, among a random subset of 2..K tasks
    (MPT).
    """

    def __init__(self, sizes: Sequence[int], batch: int, how: str, cap: int, subsets: bool, seed: int):
        weights = {"uniform": [1] * len(sizes), "proportional": list(sizes), "capped": [min(n, cap) for n in sizes]}[
            how
        ]
        self.weights = np.array(weights, dtype=np.float64)
        self.batch, self.subsets, self.seed = batch, subsets, seed

    def counts(self, step: int, active: Sequence[bool]) -> list[int]:
        """Examples of each row in global step ``step``: a pure function of the seed and the step."""
        rng = np.random.default_rng([self.seed, step])
        weights = self.weights * np.array(active)
        n_tasks = len(weights)
        if self.subsets and n_tasks > 2:
            chosen = rng.choice(n_tasks, int(rng.integers(2, n_tasks + 1)), replace=False)
            subset = np.zeros(n_tasks)
            subset[chosen] = weights[chosen]
            weights = subset if subset.sum() else weights
        return rng.multinomial(self.batch, weights / weights.sum()).tolist()


def plan_step(counts: Sequence[int], streams: Sequence[Stream | None], cursors: list[int]) -> list[tuple[int, int]]:
    """The step's examples as (bank row, index in the row's training split); advances ``cursors`` in place."""
    examples = []
    for row, count in enumerate(counts):
        stream = streams[row]
        if not count or stream is None:
            continue
        examples += [(row, stream.at(cursors[row] + i)) for i in range(count)]
        cursors[row] += count
    return examples
