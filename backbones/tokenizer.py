"""Text to token ids and back, from a transformers folder or a bare sentencepiece model."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from backbones.card import BackboneError

# what transformers may read of a tokenizer's folder, whatever its class, which config.json can name
TOKENIZER_FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer.*.json",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.model.v*",
    "*.tiktoken",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


class TextTokenizer(Protocol):
    """What layout, data and evaluation need."""

    bos_id: int | None
    eos_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids without any special token."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text without special tokens; not stripped."""
        ...

    def special_ids(self) -> set[int]:
        """Ids that stand for no text."""
        ...

    def fingerprint(self) -> str:
        """sha256 of the files the tokenizer was read from."""
        ...


class SentencePieceTokenizer:
    """A sentencepiece ``.model`` file."""

    def __init__(self, path: Path):
        from sentencepiece import SentencePieceProcessor

        self.path = path
        try:
            self._pieces = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError):
            raise BackboneError(f"tokenizer {path}: not a sentencepiece model") from None
        if self._pieces.eos_id() < 0:
            raise BackboneError(f"tokenizer {path}: has no end-of-text id; train it with eos_id >= 0")
        self.bos_id = self._pieces.bos_id() if self._pieces.bos_id() >= 0 else None
        self.eos_id = self._pieces.eos_id()
        self.vocab_size = self._pieces.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)  # type: ignore[no-any-return]

    def decode(self, ids: list[int]) -> str:
        special = self.special_ids()
        text: str = self._pieces.decode([i for i in ids if i not in special and i < self.vocab_size])
        return text

    def special_ids(self) -> set[int]:
        return {i for i in range(self.vocab_size) if self._pieces.is_control(i) or self._pieces.is_unknown(i)}

    def fingerprint(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


class HuggingFaceTokenizer:
    """A folder that transformers' AutoTokenizer reads; never the network, and code of its own only where that is
    stated.
    """

    def __init__(self, path: Path, trust_remote_code: bool):
        from transformers import AutoTokenizer

        self.path, self._runs_code = path, trust_remote_code
        try:
            self.inner: Any = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # transformers raises many kinds for a folder that holds no tokenizer
            if not trust_remote_code and "trust_remote_code" in str(error):
                reason = (
                    "needs Python code of its own, which is not run; read that code, then set trust_remote_code: true "
                    "in the card"
                )
                raise BackboneError(f"tokenizer {path}: {reason}") from None
            raise BackboneError(
                f"tokenizer {path}: transformers cannot read it ({type(error).__name__}); it needs tokenizer.json"
            ) from None
        if self.inner.eos_token_id is None:
            raise BackboneError(f"tokenizer {path}: has no eos_token; set it in tokenizer_config.json")
        self.bos_id, self.eos_id, self.vocab_size = self.inner.bos_token_id, self.inner.eos_token_id, len(self.inner)

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode(ids, skip_special_tokens=True)  # type: ignore[no-any-return]

    def special_ids(self) -> set[int]:
        return set(self.inner.all_special_ids) | set(self.inner.added_tokens_decoder)

    def fingerprint(self) -> str:
        """sha256 of every file that can decide ids, special tokens or the chat template."""
        patterns = {*TOKENIZER_FILES, *self.inner.vocab_files_names.values()}
        if self._runs_code:
            patterns.add("**/*.py")
        files: set[Path] = set()
        for pattern in patterns:
            files.update(file for file in self.path.glob(pattern) if file.is_file())
        digest = hashlib.sha256()
        for file in sorted(files):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(self.path)} {len(content)}\n".encode() + content)
        return digest.hexdigest()


def load_tokenizer(
    path: str | Path, trust_remote_code: bool = False
) -> "SentencePieceTokenizer | HuggingFaceTokenizer":
    """The tokenizer at ``path``: a folder for transformers, or a sentencepiece file.

    Raises:
        BackboneError: it cannot be read, or has no end-of-text token.
    """
    path = Path(path)
    if path.is_dir():
        return HuggingFaceTokenizer(path, trust_remote_code)
    return SentencePieceTokenizer(path)
