"""Write tokenizer.model: a small sentencepiece model with byte fallback, from the invented notes beside it.

python configs/tiny/make_tokenizer.py
"""

import io
from pathlib import Path

import sentencepiece

HERE = Path(__file__).parent
CORPUS = HERE.parent / "demo" / "data"


def main() -> None:
    texts = [p.read_text() for p in sorted(CORPUS.rglob("*")) if p.suffix in (".txt", ".csv", ".json", ".jsonl")]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n") if line]),
        model_writer=model,  # a file prefix would be stored in the model
        vocab_size=1000,
        model_type="unigram",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=["\n"],
        hard_vocab_limit=False,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        num_threads=1,
        minloglevel=2,
    )
    (HERE / "tokenizer.model").write_bytes(model.getvalue())


if __name__ == "__main__":
    main()
