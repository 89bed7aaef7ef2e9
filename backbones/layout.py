"""How one example becomes tokens: [P_k ; BOS ; input ; separator ; answer ; EOS] and its chat and harmony forms.

BOS comes after the prompt (PEFT's order, so exports match). Input and answer are tokenised apart: the border between
them is a border between tokens for every tokenizer, in training, scoring and generation alike.
"""

import hashlib
from collections.abc import Sequence

from backbones.card import BackboneCard, BackboneError
from backbones.tokenizer import HuggingFaceTokenizer, TextTokenizer

# harmony, final channel: https://cookbook.openai.com/articles/openai-harmony; written out because the tokenizer's own
# template inserts the current date, and a layout must not change from day to day
HARMONY_MARKS = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>")


class Layout:
    """Token layout of one backbone.

    Raises:
        BackboneError: the tokenizer lacks what the template needs.
    """

    def __init__(self, card: BackboneCard, tokenizer: TextTokenizer):
        self.template, self.separator, self.tokenizer = card.template, card.separator, tokenizer
        self.instruction_first = card.instruction_first
        self.end_id = tokenizer.eos_id
        if self.template == "none":
            return
        if not isinstance(tokenizer, HuggingFaceTokenizer):
            raise BackboneError(
                f"template {self.template}: needs a transformers tokenizer folder, not a sentencepiece file"
            )
        if self.template == "chat" and not tokenizer.inner.chat_template:
            raise BackboneError(
                "template chat: the tokenizer has no chat template; use an instruction-tuned folder or `template: none`"
            )
        if self.template == "harmony":
            vocabulary = tokenizer.inner.get_vocab()
            missing = [mark for mark in HARMONY_MARKS if mark not in vocabulary]
            if missing:
                raise BackboneError(f"template harmony: the tokenizer lacks {', '.join(missing)}")
            self._marks = {mark: vocabulary[mark] for mark in HARMONY_MARKS}
            self.end_id = self._marks["<|return|>"]

    def context_ids(self, input_text: str) -> list[int]:
        """Everything between the prompt and the answer's first token."""
        if self.template == "chat":
            inner = self.tokenizer.inner  # type: ignore[attr-defined]
            turns = [{"role": "user", "content": input_text}]
            return list(
                inner.apply_chat_template(
                    turns, add_generation_prompt=True, tokenize=True, return_dict=False, date_string="26 Jul 2024"
                )
            )
        encode = self.tokenizer.encode
        if self.template == "harmony":
            start, message, end, channel, _ = (self._marks[m] for m in HARMONY_MARKS)
            user = [start, *encode("user"), message, *encode(input_text), end]
            return [*user, start, *encode("assistant"), channel, *encode("final"), message]
        ids = encode(input_text + self.separator)
        if self.tokenizer.bos_id is not None:
            ids = [self.tokenizer.bos_id, *ids]
        return ids

    def instructed_ids(self, instruction: str, input_text: str, solved: Sequence[tuple[str, str]] = ()) -> list[int]:
        """The same, with a written instruction in place of a soft prompt, and before the input solved examples:
        (input text, answer text).
        """
        asked = "".join(map(self.solved_text, solved)) + input_text
        if self.instruction_first:
            return [*self.tokenizer.encode(instruction), *self.context_ids(asked)]
        return self.context_ids(instruction + self.separator + asked)

    def solved_text(self, example: tuple[str, str]) -> str:
        """A solved example as it stands in a context: input, separator, answer, a blank line."""
        return f"{example[0]}{self.separator}{example[1]}\n\n"

    def answer_ids(self, answer_text: str) -> list[int]:
        """The answer's tokens and the end token, which is an answer token too."""
        return [*self.tokenizer.encode(answer_text), self.end_id]

    def answer_text(self, ids: list[int]) -> str:
        """Generated ids up to the first end token, as text."""
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return self.tokenizer.decode(ids).strip()

    def fingerprint(self) -> str:
        """Changes with the tokenizer's files, the template and the separator."""
        return hashlib.sha256(f"{self.template}|{self.separator}|{self.tokenizer.fingerprint()}".encode()).hexdigest()
