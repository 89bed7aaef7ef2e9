"""Whether offsets count a note's line ends as the file has them, by the words that its annotations quote.

CR LF is two characters of the file. Tools that read text as Python or Java's readers of lines do, brat among them, see
one. The other way round, a note may have lost the CRs that its offsets count. Neither may give other words in silence.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clinical_tasks.readers.archives import locate
from clinical_tasks.schema import Document, ReadError, one_line, read_error

# How many further files an error names.
_NAMED = 3


@dataclass(frozen=True)
class Quote:
    """The words that an annotation quotes, where it says they stand, and its line in the file of annotations."""

    line: int
    spans: tuple[tuple[int, int], ...]
    words: str

    @property
    def end(self) -> int:
        """Of its last fragment."""
        return max((end for _, end in self.spans), default=0)

    def agrees(self, text: str) -> bool:
        """Whether they stand there, runs of whitespace taken as one space."""
        return one_line(self.words) == one_line(" ".join(text[start:end] for start, end in self.spans))


@dataclass(frozen=True)
class LineEndFault:
    """One note of which the annotations do not count the line ends that it has.

    `fix`: what mends it. `expression`: of `sed`, where that does it.
    """

    note: Path
    annotations: Path
    line: int
    reason: str
    fix: str
    expression: str = ""

    def remedy(self, target: str) -> str:
        """What mends this note, or the notes that a glob of the shell leads to."""
        if not self.expression:
            return self.fix
        return f"{self.fix}: sed -i '{self.expression}' {target}"


class LineEndError(ReadError):
    """Notes whose annotations count other line ends; `faults` lists every note, the message names the first few.

    `whole_folder`: every note that was read of the first one's folder has its fault.
    """

    def __init__(self, faults: Sequence[LineEndFault], whole_folder: bool = False) -> None:
        self.faults, self.whole_folder = list(faults), whole_folder
        first, *others = self.faults
        folder = shlex.quote(str(first.note.parent))
        target = f"{folder}/*.txt" if whole_folder else shlex.quote(str(first.note))
        reason, fix = first.reason, first.remedy(target)
        if others:
            names = [f"{fault.annotations}:{fault.line}" for fault in others[:_NAMED]]
            if len(others) > _NAMED:
                names.append("…")
            files = "1 more file" if len(others) == 1 else f"{len(others)} more files"
            reason += f"; the line ends of {files} do not agree either ({', '.join(names)})"
            if not whole_folder:
                fix += ", and correct the other notes as the next check says"
        super().__init__(str(read_error(first.annotations, reason, line=first.line, fix=fix)))

    def __reduce__(self) -> tuple[type[LineEndError], tuple[list[LineEndFault], bool]]:
        # An exception that crosses a process border is rebuilt from its arguments, not from its message.
        return type(self), (self.faults, self.whole_folder)


def check_line_ends(note: Path, annotations: Path, text: str, quotes: Iterable[Quote]) -> None:
    """Compare the quoted words under both counts of a line end.

    Annotations that quote nothing, and those before the first line end, say nothing about it. Where the note as it is
    fits better, what still disagrees is a mismatch for the caller to count.

    Raises:
        LineEndError: the offsets fit better with each line end one character shorter (CR LF) or longer (LF) than in the
            file; or the note has CR LF, and both counts fit equally few.
    """
    crlf = "\r\n" in text
    if crlf:
        first_end, other = text.find("\r\n"), text.replace("\r\n", "\n")
    else:
        first_end, other = text.find("\n"), text.replace("\n", "\r\n")
    if first_end < 0:
        return
    telling = [quote for quote in quotes if quote.words.strip() and quote.end > first_end]
    astray = [quote for quote in telling if not quote.agrees(text)]
    if not astray:
        return
    here = len(telling) - len(astray)
    there = sum(quote.agrees(other) for quote in telling)
    # One annotation of a note with LF may be a character off for any reason.
    needed = here if crlf else max(here, 1) + 1
    doubtful = there >= needed
    if doubtful:
        counts = _Counts(here, there, len(telling))
        raise LineEndError([_fault(note, annotations, line=astray[0].line, crlf=crlf, counts=counts)])


class _Counts(NamedTuple):
    """Annotations that fit the note as it is, that fit the other count of line ends, and all that say something."""

    here: int
    there: int
    total: int


def _fault(note: Path, annotations: Path, *, line: int, crlf: bool, counts: _Counts) -> LineEndFault:
    if crlf:
        has, here, there, wanted, expression = "CR LF", "two characters", "one", "LF", "s/\\r$//"
    else:
        has, here, there, wanted, expression = "LF", "one character", "two", "CR LF", "s/$/\\r/"
    told = (
        f"of {counts.total} annotations after the first line end, {counts.there} hold the words that they quote "
        f"if it counts as {there}, {counts.here} if it counts as {here}"
    )
    if counts.there <= counts.here:
        reason = f"offsets do not agree with the CR LF line ends of {note.name}: {told}"
        fix = "correct the offsets: they count characters of the .txt as it is, CR LF as two"
        return LineEndFault(note, annotations, line, reason, fix)
    reason = f"offsets count a line end as {there}, and in {note.name} it is {has}, {here}: {told}"
    if locate(note):
        return LineEndFault(note, annotations, line, reason, f"unpack the archive and give the note {wanted} line ends")
    return LineEndFault(note, annotations, line, reason, f"give the note {wanted} line ends", expression)


def refused_together(notes: Iterable[Path], read: Callable[[Path], Document]) -> Iterator[Document]:
    """Each note's document, up to the first whose line ends are refused; the rest is then read for that fault alone.

    Raises:
        LineEndError: for all such notes at once.
        ReadError: what `read` raises besides.
    """
    faults: list[LineEndFault] = []
    every = list(notes)
    for note in every:
        try:
            document = read(note)
        except LineEndError as error:
            faults += error.faults
        except ReadError:
            if not faults:
                raise
        else:
            if not faults:
                yield document
    if faults:
        first = faults[0]
        alike = {fault.note for fault in faults if fault.expression == first.expression != ""}
        beside = [note for note in every if note.parent == first.note.parent]
        raise LineEndError(faults, whole_folder=len(beside) > 1 and alike.issuperset(beside))
