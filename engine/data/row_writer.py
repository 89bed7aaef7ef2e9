"""Examples -> token rows on the disk, one at a time."""

import hashlib
import heapq
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clinical_tasks
from clinical_tasks import Example, TaskCard
from engine.core import new_partial, publish, remove
from engine.data.token_cache import ROWS, note_checksum

if TYPE_CHECKING:
    from backbones import Layout

WRITE_ROWS, WRITE_BYTES = 1000, 1 << 21
SHORT = 32  # characters up to which an answer's tokens are kept: options and labels come again in every row


class TokenisedTexts:
    """The tokens of a document's texts, each made once: whether it fits is asked before its row is written."""

    def __init__(self, layout: "Layout"):
        self._layout = layout
        self._contexts: dict[str, list[int]] = {}
        self._answers: dict[str, list[int]] = {}
        self._short: Callable[[str], list[int]] = lru_cache(maxsize=1024)(layout.answer_ids)

    def context(self, text: str) -> list[int]:
        if text not in self._contexts:
            self._contexts[text] = self._layout.context_ids(text)
        return self._contexts[text]

    def answer(self, text: str) -> list[int]:
        if len(text) <= SHORT:
            return self._short(text)
        if text not in self._answers:
            self._answers[text] = self._layout.answer_ids(text)
        return self._answers[text]

    def forget(self) -> None:
        """After a document: memory is that of one."""
        self._contexts.clear()
        self._answers.clear()


class RowWriter:
    """Writes the rows of one split into a partial folder, which ``publish`` gives its name.

    Args:
        place: the folder's name without its key.
        limit: at most so many examples, the same ones for every model: chosen by hash, written in order; 0 for all.
    """

    def __init__(self, place: Path, card: TaskCard, texts: TokenisedTexts, max_length: int, limit: int):
        from datasets import Features, Sequence, Value
        from datasets.arrow_writer import ArrowWriter

        self.card, self.texts, self.max_length, self.limit = card, texts, max_length, limit
        self._chosen: list[tuple[int, int, Example]] = []  # a heap: the one to be dropped next comes first
        self._seen = self._waiting = 0
        features = Features(
            {
                "context_ids": Sequence(Value("int32")),
                "answer_ids": Sequence(Value("int32")),
                "example": Value("string"),
                "fits": Value("bool"),
            }
        )
        self._partial = new_partial(place, folder=True)
        (self._partial / ROWS).touch(0o600)
        self._arrow = ArrowWriter(path=str(self._partial / ROWS), features=features, writer_batch_size=WRITE_ROWS)

    def add(self, example: Example) -> None:
        """Take the next example of the split. With a limit, no more than so many wait in memory."""
        if not self.limit:
            self._write(example)
            return
        name = f"{example.task}|{example.example_id}".encode()
        entry = (-int.from_bytes(hashlib.sha256(name).digest(), "big"), -self._seen, example)
        self._seen += 1
        if len(self._chosen) < self.limit:
            heapq.heappush(self._chosen, entry)
        else:
            heapq.heappushpop(self._chosen, entry)

    def finish(self) -> None:
        """Write what waits. After the split's last example."""
        for _, _, example in sorted(self._chosen, key=lambda entry: -entry[1]):
            self._write(example)
        self._arrow.finalize()

    def publish(self, final: Path) -> None:
        """Let the folder be ``final``, unless another launch has made that meanwhile."""
        note_checksum(self._partial, final.name)
        try:
            publish(self._partial, final)
        except OSError:
            if not final.is_dir():
                raise

    def close(self) -> None:
        """Leave nothing that was not published."""
        self._arrow.close()
        remove(self._partial)

    def _write(self, whole: Example) -> None:
        for example in clinical_tasks.split_long(whole, self.card, self._fits):
            row = self._row(example)
            self._arrow.write(row)
            # row by row to the disk: what waits in memory is bounded in bytes, since a row may be a whole record or a
            # question
            self._waiting += len(row["example"]) + 36 * (len(row["context_ids"]) + len(row["answer_ids"]))
            if self._waiting > WRITE_BYTES:
                self._arrow.write_examples_on_file()
                self._waiting = 0
        self.texts.forget()

    def _row(self, example: Example) -> dict[str, Any]:
        context, answer = self.texts.context(example.input_text), self.texts.answer(example.answer_text)
        longest = max([len(answer), *(len(self.texts.answer(option)) for option in example.options)])
        return {
            "context_ids": context,
            "answer_ids": answer,
            "example": json.dumps(asdict(example)),
            "fits": len(context) + longest <= self.max_length,
        }

    def _fits(self, input_text: str, answer_text: str) -> bool:
        return len(self.texts.context(input_text)) + len(self.texts.answer(answer_text)) <= self.max_length
