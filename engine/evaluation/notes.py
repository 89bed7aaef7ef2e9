"""Answers for a user's own notes, by a row of a finished run. Ranks share the notes; a command that was killed goes
on where it was.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import clinical_tasks
from backbones import Layout
from clinical_tasks import Example, TaskCard
from engine.core import UserError, write_atomic
from engine.data import Sample, load_cards, unknown_task
from engine.distributed import barrier
from engine.evaluation.eval_targets import ScoredRow, rows_of_run
from engine.evaluation.evaluate import Predictor
from engine.evaluation.prediction_store import PredictionStore
from engine.evaluation.vllm import announce
from engine.training import RunContext


@dataclass(frozen=True)
class Wanted:
    """A row in words, as typed; what is empty is the program's choice."""

    task: str
    method: str = ""
    shots: str = ""
    seed: str = ""


class Notes:
    """Pieces of notes, as a split has examples. ``kept``: those that fit ``max_length`` with room for their answer."""

    def __init__(self, examples: Sequence[Example], layout: Layout, max_length: int):
        self.examples = list(examples)
        self._contexts = [layout.context_ids(e.input_text) for e in self.examples]
        longest = [max((len(layout.answer_ids(o)) for o in e.options), default=0) for e in self.examples]
        self.kept = [i for i, ids in enumerate(self._contexts) if len(ids) + longest[i] <= max_length]
        self.key = hashlib.sha256(json.dumps([asdict(e) for e in self.examples]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, index: int) -> Example:
        return self.examples[index]

    def sample(self, index: int) -> Sample:
        return Sample(self._contexts[index], [])


def predict_notes(run_context: RunContext, wanted: Wanted, source: Path, output: Path, into_folder: bool) -> None:
    """Answer every note of ``source``; write a .jsonl, or with ``into_folder`` a brat .ann for each.

    Raises:
        UserError: no such row, notes that cannot be read, an output that is there: all at once where possible.
    """
    row = choose_row(rows_of_run(run_context)[0], wanted, run_context.run_dir)
    cards = load_cards(run_context.config.data)
    if wanted.task not in cards:
        raise UserError(unknown_task(wanted.task, cards))
    card = cards[wanted.task]
    whole, problems = clinical_tasks.read_notes(source, card)
    problems = [f"--input: {p}" for p in problems] + _output_problems(
        output, into_folder, card, run_context.config.overwrite
    )
    if into_folder:
        odd = [str(n) for n, e in enumerate(whole, 1) if not _names_a_file(e.document)]
        problems += [
            f"--input: {source}: note {n}: its id cannot name a file. Fix: give it another, or name a .jsonl as output"
            for n in odd
        ]
    if problems:
        raise UserError(problems)
    notes = Notes(
        [piece for example in whole for piece in _pieces(run_context, card, example)],
        run_context.layout,
        run_context.config.data.max_length,
    )
    announce(run_context)
    backbone = run_context.backbone()
    asker = Predictor(run_context, None if row.bank is None else row.bank.to(backbone.device))
    kept = PredictionStore(
        output.parent, f"{output.name}.answers", [asker.key(card, notes, row), source.name], run_context.place.rank
    )
    found = asker.ask(card, notes, row.number, kept)
    results = _results(card, notes, {i: a.text for i, a in found.items()}, {i for i, a in found.items() if not a.ended})
    if run_context.is_main_process:
        if into_folder:
            output.mkdir(exist_ok=True, mode=0o700)
            for result in results:
                write_atomic(output / f"{result['id']}.ann", clinical_tasks.brat_lines(result))
        else:
            write_atomic(output, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in results))
        kept.forget()
        run_context.print_rank0(f"{len(results)} notes in {len(notes)} pieces, by {row.name}: {asker.work.line()}")
        for line in _warnings(results, run_context.config.data.max_length, run_context.config.evaluate.max_new_tokens):
            run_context.print_rank0(f"WARNING {line}")
        run_context.print_rank0(f"answers in {output}")
    barrier()


def choose_row(rows: Sequence[ScoredRow], wanted: Wanted, run_dir: Path) -> ScoredRow:
    """The row that fits: by default the metaprompt's, trained on all or on most, of the first seed.

    Raises:
        UserError: none does; says which there are.
    """
    usable = [
        r for r in rows if r.labels["method"] != "in_context"
    ]  # its examples are the corpus's, which may be elsewhere
    of_task = [r for r in usable if r.labels["task"] == wanted.task]
    if not of_task:
        raise UserError(
            f"--task: {wanted.task!r} is not in {run_dir}; it has "
            f"{', '.join(dict.fromkeys(r.labels['task'] for r in usable))}"
        )
    method = wanted.method or (
        "metaprompt" if any(r.labels["method"] == "metaprompt" for r in of_task) else of_task[0].labels["method"]
    )
    fitting = [r for r in of_task if r.labels["method"] == method]
    fitting = [
        r for r in fitting if wanted.shots in ("", r.labels["shots"]) and wanted.seed in ("", str(r.labels["seed"]))
    ]
    if not fitting:
        there = ", ".join(" ".join(str(r.labels[k]) for k in ("method", "shots", "seed")) for r in of_task)
        asked = " ".join(w or "*" for w in (method, wanted.shots, wanted.seed))
        raise UserError(f"--method, --shots, --seed: {run_dir} has no row {asked} of {wanted.task}; it has {there}")
    most = max(fitting, key=lambda r: float("inf") if r.labels["shots"] == "full" else float(r.labels["shots"]))
    return next(r for r in fitting if r.labels["shots"] == most.labels["shots"])


def _pieces(run_context: RunContext, card: TaskCard, example: Example) -> list[Example]:
    """A long note is split as in training; the answer, not known yet, is given room."""
    c, layout = run_context.config, run_context.layout
    room = min(c.evaluate.max_new_tokens, c.data.max_length // 2)
    return clinical_tasks.split_long(
        example, card, lambda text, _: len(layout.context_ids(text)) + room <= c.data.max_length
    )


def _results(card: TaskCard, notes: Notes, answers: dict[int, str], truncated: set[int]) -> list[dict[str, Any]]:
    """One a note, in the input's order. ``n_not_asked`` pieces were too long; the answers of ``n_truncated`` did
    not end by themselves.
    """
    of_note: dict[str, list[int]] = {}
    for index, piece in enumerate(notes.examples):
        of_note.setdefault(piece.document, []).append(index)
    out = []
    for identifier, indices in of_note.items():
        result = clinical_tasks.note_result(
            card, [notes.examples[i] for i in indices], [answers.get(i, "") for i in indices]
        )
        counts = {
            "n_pieces": len(indices),
            "n_not_asked": sum(i not in answers for i in indices),
            "n_truncated": sum(i in truncated for i in indices),
        }
        out.append({"id": identifier, **result, **{k: v for k, v in counts.items() if v > (k == "n_pieces")}})
    return out


def _warnings(results: Sequence[dict[str, Any]], max_length: int, max_new_tokens: int) -> list[str]:
    total: Counter[str] = Counter()
    for result in results:
        total.update({k: int(bool(result.get(k))) for k in ("n_not_asked", "n_truncated", "unaligned")})
    said = {
        "n_not_asked": f"have a part longer than data.max_length={max_length} that was not asked (n_not_asked)",
        "n_truncated": f"have an answer cut at evaluate.max_new_tokens={max_new_tokens} (n_truncated)",
        "unaligned": "have lines in their answer that name nothing of the note (unaligned)",
    }
    return [f"{total[key]} of {len(results)} notes {text}" for key, text in said.items() if total[key]]


def _output_problems(output: Path, into_folder: bool, card: TaskCard, overwrite: bool) -> list[str]:
    parent = output.parent
    if not parent.is_dir():
        return [f"--output: {parent} is no folder; make it first"]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"--output: {parent} cannot be written to by this user"]
    if into_folder and card.type != "ner":
        return [f"--output: a folder of .ann files is for NER; {card.name} is {card.type}: name a .jsonl file"]
    there = (
        any(output.iterdir())
        if into_folder and output.is_dir()
        else output.exists() and not (into_folder and output.is_dir())
    )
    if there and (not overwrite or (into_folder and not output.is_dir())):
        return [f"--output: {output} is there already; name another, or give --overwrite=true to write over it"]
    return []


def _names_a_file(identifier: str) -> bool:
    return (
        identifier == Path(identifier).name
        and "\0" not in identifier
        and not identifier.startswith(".")
        and len(identifier.encode()) <= 250
    )
