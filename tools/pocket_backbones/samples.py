"""What a step of pre-training is made of: which tasks are drawn, and their samples as padded tensors."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbones import Layout

MASTERED_SHARE = 0.1  # how often a mastered task is drawn, an unlearnt one being 1
EARLY_SHARE, READY = 0.02, 0.8  # how often one is drawn that builds on others, before so much of their answers is right
SEPARATOR = "\n"


class Packet(NamedTuple):
    """Samples of like length with A answers in all. ``tasks`` (A,): the task of each answer. The rest (B, T): ids
    padded with EOS, each token's weight as an answer and as text, and the number of the answer it belongs to, A for the
    tokens of none.
    """

    tasks: Tensor
    ids: Tensor
    answer: Tensor
    rest: Tensor
    number: Tensor


class Samples(Dataset[list[Packet]]):
    """Step ``n``'s samples depend on the seed, n and ``exact`` (task -> share of answers right of late) alone,
    however one got there.
    """

    def __init__(self, seed: int, size: int, packets: int, layout: Layout) -> None:
        from clinical_tasks.pocket import LESSONS

        self.seed, self.size, self.packets, self.layout, self.tasks = seed, size, packets, layout, LESSONS
        self.exact = dict.fromkeys(LESSONS, 0.0)

    def shares(self) -> list[float]:
        """How often each task is drawn, by how much of its answers was right of late."""
        from clinical_tasks.pocket import BUILDS_ON

        shares = []
        for task in self.tasks:
            ready = all(self.exact[other] >= READY for other in BUILDS_ON.get(task, ()))
            shares.append(max(1 - self.exact[task], MASTERED_SHARE) if ready else EARLY_SHARE)
        return shares

    def __getitem__(self, number: int) -> list[Packet]:
        from clinical_tasks.pocket import lessons

        rng = random.Random(f"{self.seed} {number}")
        drawn = Counter(rng.choices(self.tasks, self.shares(), k=self.size))
        rows = []
        for task, n in sorted(drawn.items()):
            rows += [self._row(lesson) for lesson in lessons(self.seed + number, n, (task,))]
        rows.sort(key=lambda row: sum(map(len, row[1])))
        parts = min(self.packets, len(rows))
        ends = [part * len(rows) // parts for part in range(parts + 1)]
        return [self._packet(rows[begin:end]) for begin, end in pairwise(ends)]

    def _row(self, lesson: Any) -> tuple[int, list[list[int]]]:
        """The task, and tokens by turns: what is read, what is answered, what is read, ..."""
        spans = []
        for turn, (text, answer) in enumerate(lesson.turns):
            if turn:
                read = self.layout.tokenizer.encode(text + SEPARATOR)
            else:
                read = self.layout.instructed_ids(lesson.instruction, text)
            spans += [read, self.layout.answer_ids(answer)]
        return self.tasks.index(lesson.name), spans

    def _packet(self, rows: list[tuple[int, list[list[int]]]]) -> Packet:
        wide = -(-max(sum(map(len, spans)) for _, spans in rows) // 8) * 8
        ids = torch.full((len(rows), wide), self.layout.end_id)
        answer, rest = torch.zeros(len(rows), wide), torch.zeros(len(rows), wide)
        number = torch.full((len(rows), wide), -1)
        tasks: list[int] = []
        for row, (task, spans) in enumerate(rows):
            begin = 0
            for turn, span in enumerate(spans):
                here = slice(begin, begin + len(span))
                ids[row, here] = torch.tensor(span)
                if turn % 2:
                    # between a weight a token, by which one-word answers hardly count, and a weight an answer
                    answer[row, here], number[row, here] = len(span) ** -0.5, len(tasks)
                    tasks.append(task)
                else:
                    rest[row, here] = 1.0
                begin += len(span)
            rest[row, 0] = 0.0  # nothing predicts the first token
        return Packet(torch.tensor(tasks), ids, answer, rest, torch.where(number < 0, len(tasks), number))
