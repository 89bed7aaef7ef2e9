"""Which samples share a file of teachers' states, and which micro-batches compute them: from lengths alone.

Every rank, every later run and the planner find the same cut. A micro-batch never depends on which files are
missing, so that a file that is computed again holds the same bits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.data import Sample, packed_micro_batches

ANSWERS = 4096
"""Answer tokens that a file holds at most; a longer answer has a file of its own.

This bounds the bytes of a file: 101 MB for Llama-8B in bf16, 71 MB for gpt-oss-20B. Such a file is written and
checked within a second on a disk of 100 MB/s or more, and a few of them fit in host memory while they wait.
"""
SAMPLES = 512
"""Samples that a file holds at most.

This bounds what is lost where answers are short: a damaged file, or a killed run, costs the forward passes of 512
samples, which is three micro-batches of 16,384 tokens at 90 tokens a sample.
"""
JOINED = 4
"""Micro-batches up to which small files are computed together.

The last micro-batch of a block may be far from full, so that a block of several wastes less. A block is also what one
rank computes, and what is computed again for one damaged file, so that it must stay small.
"""


@dataclass(frozen=True)
class TeacherBlock:
    """Files that are computed together. ``parts``: numbers of those to write. ``groups``: the micro-batches of all."""

    parts: list[int]
    groups: list[list[Sample]]


def placeholder_sample(row: int, index: int, context: int, answer: int) -> Sample:
    """A sample by its lengths alone, without tokens."""
    return Sample(range(context), range(answer), row=row, index=index)  # type: ignore[arg-type]


def cut_files(answers: Iterable[int]) -> list[int]:
    """Places of the first samples of files, ascending.

    Args:
        answers: answer tokens of a row's samples, in order.
    """
    starts: list[int] = []
    held = 0
    for place, tokens in enumerate(answers):
        if not starts or held + tokens > ANSWERS or place - starts[-1] >= SAMPLES:
            starts.append(place)
            held = 0
        held += tokens
    return starts


def plan_blocks(
    parts: Sequence[Sequence[Sample]], wanted: Iterable[int], prompt_length: int, max_tokens_per_micro_batch: int
) -> list[TeacherBlock]:
    """What computes the files ``wanted``, in order.

    Consecutive files are computed together as long as ``JOINED`` micro-batches hold them, so that small tasks share a
    forward pass.

    Args:
        parts: the samples of every file, whether it is wanted or not.
    """
    asked = set(wanted)
    joined: list[list[int]] = []
    size, held, last_row = 0, 0, -1
    for number, samples in enumerate(parts):
        tokens = sum(len(sample) for sample in samples)
        answers = sum(len(sample.answer_ids) for sample in samples)
        row = samples[0].row
        more = tokens
        if row != last_row:
            more += prompt_length
        if not joined or size + more > JOINED * max_tokens_per_micro_batch or held + answers > 2 * ANSWERS:
            joined.append([])
            size, held, more = 0, 0, tokens + prompt_length
        joined[-1].append(number)
        size, held, last_row = size + more, held + answers, row
    out = []
    for numbers in joined:
        needed = [number for number in numbers if number in asked]
        if needed:
            samples = []
            for number in numbers:
                samples += parts[number]
            out.append(
                TeacherBlock(
                    needed, packed_micro_batches(samples, prompt_length, max_tokens_per_micro_batch, rank=0, world=1)
                )
            )
    return out


def assign_blocks(dealt: Sequence[TeacherBlock], world: int) -> list[list[TeacherBlock]]:
    """Blocks of every rank: each goes to the rank that has the fewest micro-batches so far."""
    shares: list[list[TeacherBlock]] = [[] for _ in range(world)]
    loads = [0] * world
    for block in dealt:
        rank = loads.index(min(loads))
        shares[rank].append(block)
        loads[rank] += len(block.groups)
    return shares
