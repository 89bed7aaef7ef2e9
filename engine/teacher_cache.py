"""What the frozen teachers say of every answer token, computed once and kept on disk: exact, and read for ever after.

Of a token a student needs the teacher's hidden state, one further vector and two numbers (prompt_modules.TeacherStates), not V logits.
A folder per teacher, keyed by all that decides its states; in it one file per run of samples, written whole or not at all. So a killed
run goes on where it was, another number of ranks or another run with the same teacher reads what is there, and no two ranks write the
same file. The states nearly spell the text: files are for their user alone, like the notes.

Every file carries a checksum and says what it is of. A run reads each file that it needs once before it trains; what is
damaged is computed again.
"""

import hashlib
import shutil
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine import watch
from engine.batching import Item
from engine.checksums import damage, seal, unsealed
from engine.data import Split
from engine.distributed import barrier, gather_objects
from engine.errors import UserError
from engine.files import nearest, new_partial, publish, remove, sync
from engine.formulation import Formulation
from engine.resolve import expand
from engine.sampling import Stream, plan_step
from engine.session import Session
from engine.stage import Stage
from prompt_modules import PromptBank, TeacherStates
from prompt_modules.bank import JoinedBank

FORMAT = "2"
PART = 64  # samples of a file
WORTH = 1.2  # visits of a sample, on average, from which on keeping pays
DISK_SHARE = 0.5  # of the free space that ``auto`` may take
OPEN_FILES = 256
TOLD = 5.0  # seconds of verification from which on a run says what they went into


@dataclass(frozen=True)
class TaughtRow:
    """One teacher and what it reads. ``prompt_LD``: fp32. ``indices``: samples of the split, ascending."""

    task: str
    prompt_LD: Tensor
    split: Split
    indices: list[int]


@dataclass(frozen=True)
class Part:
    """Samples whose states are one file. ``of``: what the file says that it holds."""

    row: int
    indices: list[int]
    file: Path
    of: str


class TeacherCache:
    """States of teachers' rows (number k is bank row k) at the samples of their training splits.

    Args:
        folder: where caches lie. decided_by: hash of backbone, layout and temperature.
        hidden, itemsize: D, and bytes of one of the backbone's numbers.
    """

    def __init__(self, rows: Sequence[TaughtRow], folder: Path, decided_by: str, temperature: float, hidden: int, itemsize: int):
        self.rows, self.temperature = rows, temperature
        self.bytes_per_token = hidden * (itemsize + 4) + 12
        self.parts: list[Part] = []
        for k, row in enumerate(rows):
            digest = hashlib.sha256(f"{FORMAT}|{PART}|{decided_by}|{temperature}|{row.split.key}|{row.indices}".encode())
            digest.update(row.prompt_LD.detach().cpu().contiguous().numpy().tobytes())
            own = folder / f"teacher-{row.task}-{digest.hexdigest()[:24]}"
            for begin in range(0, len(row.indices), PART):
                number = begin // PART
                of = f"teacher {digest.hexdigest()} part {number}"
                self.parts.append(Part(k, row.indices[begin : begin + PART], own / f"{number:06d}.safetensors", of))
        self._starts = {k: next(i for i, p in enumerate(self.parts) if p.row == k) for k in range(len(rows))}
        self._open: dict[int, Any] = {}

    def part_of(self, row: int, index: int) -> int:
        """Number of the part that holds a sample."""
        return self._starts[row] + bisect_left(self.rows[row].indices, index) // PART

    def missing(self, wanted: Sequence[int]) -> list[int]:
        """Those parts that are not on disk, as rank 0 sees it. A collective."""
        absent = [number for number in wanted if not self.parts[number].file.exists()]
        return gather_objects(absent)[0]  # type: ignore[no-any-return]

    def damaged(self, wanted: Sequence[int], rank: int, world: int, say: Callable[[str], None]) -> list[int]:
        """Those parts whose files are not what was written, to the bit; each is named. A collective: ranks share the reading."""
        begin, own, size = time.monotonic(), {}, 0
        for number in wanted[rank::world]:
            part = self.parts[number]
            watch.note(f"checksum of {part.file}")
            own[number] = damage(part.file, part.of)
            size += part.file.stat().st_size if not own[number] else 0
        every = gather_objects((own, size))
        seconds, read = time.monotonic() - begin, sum(n for _, n in every) / 1e9
        if seconds > TOLD:
            say(f"teacher cache: {read:.1f} GB verified in {seconds:.0f} s, {read / seconds:.2f} GB/s")
        found = {number: problem for reasons, _ in every for number, problem in reasons.items() if problem}
        for number in sorted(found):
            say(f"WARNING teacher cache: {self.parts[number].file} {found[number]}; it is computed again")
        return sorted(found)

    def tokens(self, numbers: Sequence[int]) -> int:
        """Answer tokens of parts."""
        lengths = [row.split.answer_lengths() for row in self.rows]
        return sum(lengths[p.row][i] for p in (self.parts[n] for n in numbers) for i in p.indices)

    def fill(self, numbers: Sequence[int], formulation: Formulation, teachers: PromptBank, say: Callable[[str], None]) -> None:
        """Compute parts, this rank its share of them, in step with the others. A collective.

        Raises:
            UserError: the disk is full, on any rank.
        """
        rank, world, length = formulation.rank, formulation.world, self.rows[0].prompt_LD.shape[0]
        for begin in range(0, len(numbers), world):
            groups = [self._groups(n, formulation, length) for n in numbers[begin : begin + world]]
            rounds = max(map(len, groups))
            own = groups[rank] if rank < len(groups) else []
            filler = groups[0][0][:1]  # ranks call the backbone equally often
            found = [formulation.teach(own[i] if i < len(own) else filler, teachers, self.temperature) for i in range(rounds)][: len(own)]
            problems = gather_objects(_written(self.parts[numbers[begin + rank]], own, found) if own else "")
            if any(problems):
                raise UserError(next(filter(None, problems)))
            if begin % (10 * world) == 0 and begin:
                say(f"teacher cache: {begin} of {len(numbers)} files")
        barrier()

    def states(self, group: Sequence[Item], device: torch.device) -> TeacherStates:
        """Of a micro-batch's answer tokens, in order."""
        pieces: list[tuple[Tensor, ...]] = []
        for item in group:
            number = self.part_of(item.row, item.index)
            part = self._reader(number)
            place = bisect_left(self.parts[number].indices, item.index)
            begin, end = part["offsets"][place], part["offsets"][place + 1]
            pieces.append(tuple(part[name][begin:end] for name in TeacherStates._fields))
        return TeacherStates(*(torch.cat(column).to(device) for column in zip(*pieces, strict=True)))

    def _reader(self, number: int) -> dict[str, Any]:
        if number not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open)))
            try:
                file = safe_open(str(self.parts[number].file), "pt")
                slices = {name: file.get_slice(name) for name in TeacherStates._fields}
                offsets = file.get_tensor("offsets").tolist()
            except (OSError, SafetensorError) as error:
                told = f"{self.parts[number].file} was whole as this run began ({type(error).__name__}: {error})"
                raise RuntimeError(f"teacher cache: {told}; start again: what is damaged is computed again") from None
            self._open[number] = {"file": file, "offsets": offsets, **slices}
        return self._open[number]  # type: ignore[no-any-return]

    def _groups(self, number: int, formulation: Formulation, length: int) -> list[list[Item]]:
        """A part's micro-batches, samples in order."""
        part = self.parts[number]
        groups: list[list[Item]] = []
        tokens = 0
        for index in part.indices:
            item = Item(part.row, self.rows[part.row].split.sample(index), 1.0, index)
            if not groups or tokens + len(item.sample) > formulation.token_budget:
                groups.append([])
                tokens = length
            groups[-1].append(item)
            tokens += len(item.sample)
        return groups


def _written(part: Part, groups: Sequence[Sequence[Item]], found: Sequence[TeacherStates]) -> str:
    """Write a part's file; what went wrong, or nothing."""
    lengths = torch.tensor([0] + [len(i.sample.answer_ids) for group in groups for i in group])
    tensors = {name: torch.cat([getattr(states, name).cpu() for states in found]) for name in TeacherStates._fields}
    folder, partial = part.file.parent, None
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync(folder.parent)
        partial = new_partial(part.file)
        save_file({**tensors, "offsets": lengths.cumsum(0)}, str(partial), unsealed(part.of))
        partial.chmod(0o600)
        seal(partial)
        publish(partial, part.file)
    except Exception as error:  # safetensors has an error of its own for a full disk
        if partial is not None:
            remove(partial)
        return f"teacher cache: {part.file.parent} cannot be written ({type(error).__name__}: {error}). Make room, or set distill.teacher_cache: off"
    return ""


def keep_teachers(session: Session, stage: Stage, teachers: JoinedBank, steps: int | None = None) -> None:
    """Let a distillation read its teachers from disk: fill what is missing, and set ``stage.kept``. A collective.

    Args:
        steps: fill what the first so many steps read; whether it is worth it is decided as for all of them.

    Raises:
        UserError: a limit was given that is too small, or the disk is full.
    """
    how, temperature = session.config.distill.teacher_cache, stage.weights.temperature
    if how == "off" or session.config.formulation != "packed":
        return
    folder, device = expand(session.config.data.cache), session.backbone().device
    prompts_KLD = teachers.prompts(torch.arange(len(stage.rows), device=device))
    rows = [TaughtRow(r.task, prompts_KLD[k], r.train, r.train_indices) for k, r in enumerate(stage.rows) if r.train is not None]
    decided_by = f"{session.backbone_hash}|{session.layout.fingerprint()}|{session.card.dtype}"
    hidden, dtype = session.model_config.hidden_size, getattr(torch, session.card.dtype)
    cache = TeacherCache(rows, folder, decided_by, temperature, hidden, dtype.itemsize)
    visits = visited(stage)
    wanted = sorted({cache.part_of(row, index) for row, index in visits})
    lengths = [row.split.answer_lengths() for row in rows]
    read = sum(n * lengths[row][index] for (row, index), n in visits.items())
    missing = cache.missing(wanted)
    if not _worth(cache, wanted, missing, read, how, folder, session.say):
        return
    if steps is not None:
        wanted = sorted({cache.part_of(row, index) for row, index in visited(stage, steps)})
    there = sorted(set(wanted).difference(missing))
    damaged = cache.damaged(there, session.place.rank, session.place.world, session.say)
    anew = sorted({*damaged, *set(wanted).intersection(missing)})
    cache.fill(anew, session.formulation(), teachers, session.say)
    stage.kept = cache.states


def visited(stage: Stage, steps: int | None = None) -> Counter[tuple[int, int]]:
    """(bank row, sample) -> how often a distillation reads it, the whole or its first ``steps``; its rows never stop."""
    streams = [Stream(r.train_indices, r.stream_seed) for r in stage.rows]
    cursors = [0] * len(streams)
    found: Counter[tuple[int, int]] = Counter()
    for step in range(stage.total_steps if steps is None else steps):
        picks = plan_step(stage.sampler.counts(step, [True] * len(streams)), streams, cursors)
        found.update((p.row, p.index) for p in picks)
    return found


def _worth(
    cache: TeacherCache, wanted: Sequence[int], missing: Sequence[int], read: int, how: str, folder: Path,
    say: Callable[[str], None],
) -> bool:
    """Whether to keep what fills the parts ``wanted`` for ``read`` answer tokens to come. A collective.

    Says what it will take, or why not.

    Args:
        missing: those of the parts that are not on disk.
    """
    tokens = cache.tokens(missing)
    size = tokens * cache.bytes_per_token
    free = min(gather_objects(shutil.disk_usage(nearest(folder)).free))  # ranks must decide alike
    need = f"{tokens:,} answer tokens, {size / 1e9:.3f} GB, in {folder}"
    if how == "auto":
        times = read / max(1, cache.tokens(wanted))
        if missing and times < WORTH:
            say(f"teacher cache: off, an answer token is read {times:.1f} times only")
            return False
        if size > DISK_SHARE * free:
            say(f"teacher cache: off, it would take {size / 1e9:.1f} of {free / 1e9:.1f} GB that are free in {folder}")
            return False
    elif size > min(float(how) * 1e9, free):
        raise UserError(f"distill.teacher_cache: {how} GB (and {free / 1e9:.1f} GB free) are too little for {need}; give more, or auto, or off")
    say(f"teacher cache: {need}" if missing else f"teacher cache: reused from {folder}")
    return True
