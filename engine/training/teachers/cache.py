"""What the frozen teachers say of every answer token, computed once and kept on disk: exact, and read for ever after.

Of a token a student needs the teacher's hidden state, one further vector and two numbers
(prompt_modules.TeacherStates), not V logits. A folder per teacher, keyed by all that decides its states; in it one file
per run of samples, written whole or not at all. So a killed run goes on where it was, another number of ranks or
another run with the same teacher reads what is there, and no two ranks write the same file. ``teacher_parts`` says
which samples share a file, ``teacher_files`` writes it.

Files are written in the background while the next micro-batch is computed. Rows are read in the background while the
micro-batch before them is trained on (``read_ahead``).

Every file carries a checksum and says what it is of. A run reads each file that it needs once before it trains; what is
damaged is computed again.
"""

import hashlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.attention import to_device
from engine import distributed
from engine.core import UserError, damage
from engine.data import Sample, Split
from engine.distributed import barrier, gather_objects
from engine.training.forward_backward import ForwardBackward
from engine.training.teachers import parts as teacher_parts
from engine.training.teachers.files import Part, Said, Writer
from engine.training.teachers.parts import TeacherBlock
from engine.training.teachers.read_ahead import ReadAhead
from prompt_modules import PromptBank, TeacherStates
from strict_yaml import counted

FORMAT = "3"
OPEN_FILES = 256
TOLD = 5.0  # seconds of verification or filling from which on a run says what they went into
AGREE = 8  # micro-batches between two looks at whether any rank's disk is full
SAY = 64  # micro-batches between two lines of progress


@dataclass(frozen=True)
class TaughtRow:
    """One teacher and what it reads. ``prompt_LD``: fp32. ``indices``: samples of the split, ascending."""

    task: str
    prompt_LD: Tensor
    split: Split
    indices: list[int]


class TeacherCache:
    """States of teachers' rows (number k is bank row k) at the samples of their training splits.

    Args:
        folder: where caches lie. decided_by: hash of backbone, layout and temperature.
        hidden, itemsize: D, and bytes of one of the backbone's numbers.
    """

    def __init__(
        self, rows: Sequence[TaughtRow], folder: Path, decided_by: str, temperature: float, hidden: int, itemsize: int
    ):
        self.rows, self.temperature = rows, temperature
        self.bytes_per_token = hidden * (itemsize + 4) + 12
        self.answers = [row.split.answer_lengths() for row in rows]
        self.parts: list[Part] = []
        self._numbers: list[range] = []  # of each row's parts
        self._firsts: list[list[int]] = []  # of each row's parts, the first sample
        cut_by = f"{teacher_parts.ANSWERS}|{teacher_parts.SAMPLES}"
        for k, row in enumerate(rows):
            content = f"{FORMAT}|{cut_by}|{decided_by}|{temperature}|{row.split.key}|{row.indices}"
            digest = hashlib.sha256(content.encode())
            digest.update(row.prompt_LD.detach().cpu().contiguous().numpy().tobytes())
            own = folder / f"teacher-{row.task}-{digest.hexdigest()[:24]}"
            answers = self.answers[k]
            starts = teacher_parts.cut_files(answers[index] for index in row.indices)
            self._numbers.append(range(len(self.parts), len(self.parts) + len(starts)))
            self._firsts.append([row.indices[start] for start in starts])
            for number, (begin, end) in enumerate(pairwise([*starts, len(row.indices)])):
                of = f"teacher {digest.hexdigest()} part {number}"
                self.parts.append(Part(k, row.indices[begin:end], own / f"{number:06d}.safetensors", of))
        self._open: dict[int, Any] = {}

    def part_of(self, row: int, index: int) -> int:
        """Number of the part that holds a sample of the row's."""
        return self._numbers[row][bisect_right(self._firsts[row], index) - 1]

    def missing(self, wanted: Sequence[int]) -> list[int]:
        """Those parts that are not on disk, as rank 0 sees it. A collective."""
        absent = [number for number in wanted if not self.parts[number].file.exists()]
        return gather_objects(absent)[0]  # type: ignore[no-any-return]

    def damaged(self, wanted: Sequence[int], rank: int, world: int, print_rank0: Callable[[str], None]) -> list[int]:
        """Those parts whose files are not what was written, to the bit; each is named. A collective: ranks share
        the reading.
        """
        begin, own, size = time.monotonic(), {}, 0
        for number in wanted[rank::world]:
            part = self.parts[number]
            distributed.note_progress(f"checksum of {part.file}")
            problem = damage(part.file, part.of)
            if problem:
                own[number] = problem
            else:
                size += part.file.stat().st_size
        every = gather_objects((own, size))
        seconds, read = time.monotonic() - begin, sum(n for _, n in every) / 1e9
        if seconds > TOLD:
            print_rank0(f"teacher cache: {read:.1f} GB verified in {seconds:.0f} s, {read / seconds:.2f} GB/s")
        found: dict[int, str] = {}
        for problems, _ in every:
            found |= problems
        for number in sorted(found):
            print_rank0(f"WARNING teacher cache: {self.parts[number].file} {found[number]}; it is recomputed")
        return sorted(found)

    def tokens(self, numbers: Sequence[int]) -> int:
        """Answer tokens of parts."""
        total = 0
        for number in numbers:
            part = self.parts[number]
            answers = self.answers[part.row]
            total += sum(answers[index] for index in part.indices)
        return total

    def fill(
        self,
        numbers: Sequence[int],
        forward_backward: ForwardBackward,
        teachers: PromptBank,
        print_rank0: Callable[[str], None],
    ) -> None:
        """Compute parts, this rank its share of them, in step with the others. A collective.

        Ranks call the backbone equally often: one that has fewer micro-batches repeats a sample. A part's bits depend
        on the token budget, and neither on the number of ranks nor on which other parts are filled.

        Raises:
            UserError: the disk is full, on any rank.
        """
        begin, rank = time.monotonic(), forward_backward.rank
        shares = teacher_parts.assign_blocks(self._blocks(numbers, forward_backward), forward_backward.world)
        turns = [_turns(share) for share in shares]
        rounds = max(map(len, turns))
        said: list[Said] = []
        with Writer() as writer:
            for turn in range(rounds):
                if turn < len(turns[rank]):
                    block, group = turns[rank][turn]
                else:
                    block, group = None, turns[0][0][1][:1]
                group = [self._whole(sample) for sample in group]
                states = forward_backward.teach(group, teachers, self.temperature)
                if block is not None:
                    said.append(Said(group, states))
                    if len(said) == len(block.groups):
                        writer.put([self.parts[number] for number in block.parts], said)
                        said = []
                if (turn + 1) % AGREE == 0:
                    _agree(writer.problem)
                if (turn + 1) % SAY == 0:
                    print_rank0(f"teacher cache: {turn + 1} of {rounds} micro-batches")
            _agree(writer.finish())
        barrier()
        seconds = time.monotonic() - begin
        if seconds > TOLD:
            print_rank0(
                f"teacher cache: {counted(len(numbers), 'file')} filled in {seconds:.0f} s, "
                f"{counted(rounds, 'micro-batch', 'micro-batches')} a rank"
            )

    def _blocks(self, numbers: Sequence[int], forward_backward: ForwardBackward) -> list[TeacherBlock]:
        """What computes parts. Its samples have no tokens yet: those of a large corpus need not fit in memory."""
        if not numbers:
            return []
        contexts = [row.split.context_lengths() for row in self.rows]
        parts = [self._placeholders(part, contexts[part.row]) for part in self.parts]
        length = self.rows[0].prompt_LD.shape[0]
        return teacher_parts.plan_blocks(
            parts,
            wanted=numbers,
            prompt_length=length,
            max_tokens_per_micro_batch=forward_backward.max_tokens_per_micro_batch,
        )

    def _placeholders(self, part: Part, contexts: Sequence[int]) -> list[Sample]:
        """Placeholders of a part's samples, without tokens; ``contexts``: context tokens of the row's samples."""
        answers = self.answers[part.row]
        return [
            teacher_parts.placeholder_sample(part.row, index=i, context=contexts[i], answer=answers[i])
            for i in part.indices
        ]

    def _whole(self, sample: Sample) -> Sample:
        return self.rows[sample.row].split.sample(sample.index, sample.row)

    def read(self, group: Sequence[Sample]) -> TeacherStates:
        """Of a micro-batch's answer tokens, in order, on the CPU.

        Raises:
            RuntimeError: a file has been damaged or removed since this run began, or was never filled.
        """
        pieces: list[tuple[Tensor, ...]] = []
        for sample in group:
            number, place = self._place(sample)
            part = self._reader(number)
            begin, end = part["offsets"][place], part["offsets"][place + 1]
            pieces.append(tuple(part[name][begin:end] for name in TeacherStates._fields))
        return TeacherStates(*(torch.cat(column) for column in zip(*pieces, strict=True)))

    def _place(self, sample: Sample) -> tuple[int, int]:
        """A sample's part, and which of the part's samples it is."""
        indices = self.rows[sample.row].indices
        at = bisect_left(indices, sample.index)
        if at == len(indices) or indices[at] != sample.index:  # a benchmark fills what its steps read
            task = self.rows[sample.row].task
            raise RuntimeError(f"teacher cache: sample {sample.index} of {task} was not requested when it was filled")
        number = self.part_of(sample.row, sample.index)
        return number, bisect_left(self.parts[number].indices, sample.index)

    def _reader(self, number: int) -> dict[str, Any]:
        if number not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open)))
            try:
                file = safe_open(str(self.parts[number].file), "pt")
                slices = {name: file.get_slice(name) for name in TeacherStates._fields}
                offsets = file.get_tensor("offsets").tolist()
            except (OSError, SafetensorError) as error:
                told = f"{self.parts[number].file} was intact when this run began ({type(error).__name__}: {error})"
                raise RuntimeError(f"teacher cache: {told}; start again: damaged parts are recomputed") from None
            self._open[number] = {"file": file, "offsets": offsets, **slices}
        return self._open[number]  # type: ignore[no-any-return]


def _turns(share: Sequence[TeacherBlock]) -> list[tuple[TeacherBlock | None, list[Sample]]]:
    """A rank's micro-batches in order, each with its block."""
    turns: list[tuple[TeacherBlock | None, list[Sample]]] = []
    for block in share:
        turns += [(block, group) for group in block.groups]
    return turns


class TeacherCacheReader:
    """A cache as a loop reads it: ahead of the micro-batches that need it, and in order.

    For a GPU the rows wait in pinned memory, so that their copy is one that nobody waits for.
    """

    def __init__(self, cache: TeacherCache, device: torch.device):
        self.cache, self.device = cache, device
        self._ahead = ReadAhead(self._read)
        self.expect, self.close = self._ahead.expect, self._ahead.close

    def __call__(self, group: Sequence[Sample]) -> TeacherStates:
        """Of a micro-batch's answer tokens, in order, on the device.

        Raises:
            RuntimeError: as TeacherCache.read.
        """
        return TeacherStates(*(to_device(tensor, self.device) for tensor in self._ahead.take(group)))

    def _read(self, group: Sequence[Sample]) -> TeacherStates:
        states = self.cache.read(group)
        if self.device.type != "cuda":
            return states
        with torch.cuda.device(self.device):  # a new thread is on GPU 0, which may be another rank's
            return TeacherStates(*(tensor.pin_memory() for tensor in states))


def _agree(problem: str) -> None:
    """A collective.

    Raises:
        UserError: there is a problem on any rank.
    """
    problems = gather_objects(problem)
    if any(problems):
        raise UserError(next(filter(None, problems)))
