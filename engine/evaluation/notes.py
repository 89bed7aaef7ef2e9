"""Answers for a user's own notes, by a row of a finished run. Ranks share the notes; a command that was killed goes
on where it was.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import clinical_tasks
from backbones import Layout
from clinical_tasks import Example, TaskCard
from engine.core import UserError, write_atomic
from engine.data import Sample, load_cards, unknown_task
from engine.distributed import barrier
from engine.evaluation.answer_files import answer_output_problems
from engine.evaluation.eval_targets import ScoredRow, rows_of_run
from engine.evaluation.prediction_store import Prediction, PredictionStore
from engine.evaluation.predictor import EMPTY, Predictor
from engine.evaluation.vllm import announce
from engine.training import BackboneHolder
from strict_yaml import counted


@dataclass(frozen=True)
class Wanted:
    """A row in words, as typed; what is empty is the program's choice."""

    task: str
    method: str = ""
    shots: str = ""
    seed: str = ""


class Notes:
    """Pieces of notes, as a split has examples.

    sample_indices: those that fit ``max_length`` with room for their answer.
    """

    def __init__(self, examples: Sequence[Example], layout: Layout, max_length: int):
        self.examples = list(examples)
        self._contexts = [layout.context_ids(e.input_text) for e in self.examples]
        self.sample_indices: list[int] = []
        for index, example in enumerate(self.examples):
            longest = max((len(layout.answer_ids(option)) for option in example.options), default=0)
            if len(self._contexts[index]) + longest <= max_length:
                self.sample_indices.append(index)
        self.key = hashlib.sha256(json.dumps([asdict(e) for e in self.examples]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> Example:
        return self.examples[index]

    def sample(self, index: int) -> Sample:
        return Sample(self._contexts[index], [])


def predict_notes(holder: BackboneHolder, wanted: Wanted, source: Path, output: Path, into_folder: bool) -> None:
    """Answer every note of ``source``; write a .jsonl, or with ``into_folder`` a brat .ann for each.

    Raises:
        UserError: no such row, notes that cannot be read, an output that is there: all at once where possible.
    """
    config = holder.context.config
    row = choose_row(rows_of_run(holder)[0], wanted, holder.context.run_dir)
    cards = load_cards(config.data)
    if wanted.task not in cards:
        raise UserError(unknown_task(wanted.task, cards))
    card = cards[wanted.task]
    notes = Notes(_read(holder, card, source, output, into_folder), holder.context.layout, config.data.max_length)
    announce(holder)
    backbone = holder.backbone()
    predictor = Predictor(holder, None if row.bank is None else row.bank.to(backbone.device))
    key = [predictor.key(card, notes, row), source.name]
    store = PredictionStore(output.parent, name=f"{output.name}.answers", key=key, rank=holder.context.env.rank)
    results = _results(card, notes, predictor.ask(card, notes, row.number, store))
    if holder.context.is_main_process:
        _write(results, output, into_folder)
        store.forget()
        holder.context.print_rank0(
            f"{counted(len(results), 'note')} in {counted(len(notes), 'piece')}, by {row.name}: {predictor.work.line()}"
        )
        for line in _warnings(results, config.data.max_length, config.evaluate.max_new_tokens):
            holder.context.print_rank0(f"WARNING {line}")
        holder.context.print_rank0(f"answers in {output}")
    barrier()


def _read(holder: BackboneHolder, card: TaskCard, source: Path, output: Path, into_folder: bool) -> list[Example]:
    """The notes of ``source``, the long ones in pieces.

    Raises:
        UserError: they cannot be read, or ``output`` cannot be written: all at once.
    """
    whole, unreadable = clinical_tasks.read_notes(source, card)
    problems = [f"--input: {problem}" for problem in unreadable]
    problems += answer_output_problems(output, into_folder, card, holder.context.config.overwrite)
    if into_folder:
        fix = "Fix: give it another, or name a .jsonl as output"
        for number, example in enumerate(whole, 1):
            if not _names_a_file(example.document):
                problems.append(f"--input: {source}: note {number}: its id cannot name a file. {fix}")
    if problems:
        raise UserError(problems)
    pieces: list[Example] = []
    for example in whole:
        pieces += _pieces(holder, card, example)
    return pieces


def _write(results: Sequence[dict[str, Any]], output: Path, into_folder: bool) -> None:
    if into_folder:
        output.mkdir(exist_ok=True, mode=0o700)
        for result in results:
            write_atomic(output / f"{result['id']}.ann", clinical_tasks.brat_lines(result))
    else:
        write_atomic(output, "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results))


def choose_row(rows: Sequence[ScoredRow], wanted: Wanted, run_dir: Path) -> ScoredRow:
    """The row that fits: by default the metaprompt's, trained on all or on most, of the first seed.

    Raises:
        UserError: none does; says which there are.
    """
    # an in-context row's examples are the corpus's, which may be elsewhere
    usable = [row for row in rows if row.labels["method"] != "in_context"]
    of_task = [row for row in usable if row.labels["task"] == wanted.task]
    if not of_task:
        there = ", ".join(dict.fromkeys(row.labels["task"] for row in usable))
        raise UserError(f"--task: {wanted.task!r} is not in {run_dir}; it has {there}")
    method = wanted.method
    if not method:
        methods = [row.labels["method"] for row in of_task]
        method = "metaprompt"
        if method not in methods:
            method = methods[0]
    asked = replace(wanted, method=method)
    fitting = [row for row in of_task if _fits(row, asked)]
    if not fitting:
        missing = " ".join([method, wanted.shots or "*", wanted.seed or "*"])
        there = ", ".join("{method} {shots} {seed}".format(**row.labels) for row in of_task)
        raise UserError(f"--method, --shots, --seed: {run_dir} has no row {missing} of {wanted.task}; it has {there}")
    return max(fitting, key=_shots)  # of several the first: the first seed


def _fits(row: ScoredRow, wanted: Wanted) -> bool:
    labels = row.labels
    return (
        labels["method"] == wanted.method
        and wanted.shots in ("", labels["shots"])
        and wanted.seed in ("", str(labels["seed"]))
    )


def _shots(row: ScoredRow) -> float:
    shots = row.labels["shots"]
    return float("inf") if shots == "full" else float(shots)


def _pieces(holder: BackboneHolder, card: TaskCard, example: Example) -> list[Example]:
    """A long note is split as in training; the answer, not known yet, is given room."""
    c, layout = holder.context.config, holder.context.layout
    room = min(c.evaluate.max_new_tokens, c.data.max_length // 2)

    def fits(text: str, _: str) -> bool:
        return len(layout.context_ids(text)) + room <= c.data.max_length

    return clinical_tasks.split_long(example, card, fits)


def _results(card: TaskCard, notes: Notes, answers: dict[int, Prediction]) -> list[dict[str, Any]]:
    """One a note, in the input's order. ``n_not_asked`` pieces were too long; the answers of ``n_truncated`` did
    not end by themselves.
    """
    of_note: dict[str, list[int]] = {}
    for index, piece in enumerate(notes.examples):
        of_note.setdefault(piece.document, []).append(index)
    out = []
    for identifier, indices in of_note.items():
        pieces, texts, not_asked, truncated = [], [], 0, 0
        for index in indices:
            answer = answers.get(index, EMPTY)
            pieces.append(notes.examples[index])
            texts.append(answer.text)
            not_asked += index not in answers
            truncated += not answer.ended
        result = {"id": identifier, **clinical_tasks.note_result(card, pieces, texts)}
        if len(indices) > 1:
            result["n_pieces"] = len(indices)
        if not_asked:
            result["n_not_asked"] = not_asked
        if truncated:
            result["n_truncated"] = truncated
        out.append(result)
    return out


def _warnings(results: Sequence[dict[str, Any]], max_length: int, max_new_tokens: int) -> list[str]:
    said = {
        "n_not_asked": f"have a part longer than data.max_length={max_length} that was skipped (n_not_asked)",
        "n_truncated": f"have an answer cut at evaluate.max_new_tokens={max_new_tokens} (n_truncated)",
        "unaligned": "have lines in their answer that name nothing of the note (unaligned)",
    }
    out = []
    for key, text in said.items():
        count = sum(bool(result.get(key)) for result in results)
        if count:
            out.append(f"{count} of {len(results)} notes {text}")
    return out


def _names_a_file(identifier: str) -> bool:
    return (
        identifier == Path(identifier).name
        and "\0" not in identifier
        and not identifier.startswith(".")
        and len(identifier.encode()) <= 250
    )
