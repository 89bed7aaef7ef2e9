"""Pre-train a pocket backbone: a small language model that follows written instructions on invented notes.

    python -m engine.pretrain_pocket --family llama --output runs/pocket/llama --steps 6000
    python -m engine.pretrain_pocket --family gpt_oss --output runs/pocket/gpt_oss --steps 6000 --hidden 256 --layers 6

A soft prompt can only elicit what the frozen model can do, so the model is told all 31 skills by their written instructions, those
of the target tasks included. Each sample is [instruction ; BOS ; note ; separator ; answer ; EOS]: the instruction stands where a
soft prompt will stand. The loss is the answer tokens' cross-entropy and a fifth of the rest's. Killed, it goes on where it was.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import BackboneCard, Layout, load_tokenizer
from engine.protection import protect

LM_WEIGHT = 0.2  # of the tokens that are no answer
PEAK_LR, WARMUP, CLIP = 1.5e-3, 200, 1.0
SEPARATOR = "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("llama", "gpt_oss"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of weights, tokenizer, card and loss curve")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=96, help="samples a step")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between log lines and checkpoints")
    return parser.parse_args()


def model_config(family: str, hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """A card's ``random`` keys: 64 numbers a head, grouped keys and values, tied embeddings where the family allows it."""
    common = {
        "model_type": family, "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": max(hidden // 32, 1),
        "num_key_value_heads": max(hidden // 64, 1), "head_dim": 32, "max_position_embeddings": 2048, "tie_word_embeddings": family == "llama",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    if family == "llama":
        return {**common, "intermediate_size": 3 * hidden}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128}
    return {**common, **experts, "intermediate_size": hidden, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def train_tokenizer(texts: Iterator[str], vocabulary: int, folder: Path) -> Path:
    """A sentencepiece model with byte fallback that gives any text back unchanged."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sorted({line for text in texts for line in text.split("\n") if line})),
        model_writer=model,  # a file prefix would be stored in the model
        vocab_size=vocabulary, model_type="unigram", byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=False, user_defined_symbols=["\n"], hard_vocab_limit=False, split_digits=True,
        bos_id=1, eos_id=2, unk_id=0, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder / "tokenizer.model"


def batches(seed: int, start: int, size: int, layout: Layout) -> Iterator[tuple[Tensor, Tensor]]:
    """ids (B, T) int64 padded with EOS, and each token's loss weight (B, T); batch ``start`` is the same however one got there."""
    from clinical_tasks.pocket import instruction_pairs

    step = start
    while True:
        rows, weights = [], []
        for _, instruction, text, answer in instruction_pairs(seed + step, size):
            head = [*layout.tokenizer.encode(instruction), *layout.context_ids(text)]
            target = layout.answer_ids(answer)
            rows.append(head + target)
            weights.append([LM_WEIGHT] * len(head) + [1.0] * len(target))
        widest = max(map(len, rows))
        ids = torch.tensor([r + [layout.end_id] * (widest - len(r)) for r in rows])
        yield ids, torch.tensor([w + [0.0] * (widest - len(w)) for w in weights])
        step += 1


def loss_of(model: Any, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(training loss, mean cross-entropy of an answer token)."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    ce = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(ids[:, 1:])
    weights = weights[:, 1:]
    answers = weights == 1
    rest = (weights > 0) & ~answers
    answer_ce = ce[answers].mean()
    return answer_ce + LM_WEIGHT * ce[rest].mean(), answer_ce.detach()


def main() -> None:
    """Train to the last step, from the last checkpoint if there is one, and write weights, tokenizer and loss curve."""
    protect()
    a = arguments()
    from transformers import AutoConfig, AutoModelForCausalLM

    from clinical_tasks.pocket import instruction_pairs

    a.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer_file = a.output / "tokenizer.model"
    if not tokenizer_file.exists():
        sample = (f"{i}\n{t}\n{x}" for _, i, t, x in instruction_pairs(a.seed + 10_000_000, 20_000))
        train_tokenizer(sample, a.vocabulary, a.output)
    tokenizer = load_tokenizer(tokenizer_file)
    keys = model_config(a.family, a.hidden, a.layers, -(-tokenizer.vocab_size // 64) * 64)
    layout = Layout(BackboneCard(name=a.family, random=keys, tokenizer=str(tokenizer_file), separator=SEPARATOR), tokenizer)
    torch.manual_seed(a.seed)
    kind = keys.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **keys), dtype=torch.float32).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / WARMUP, max(1 - s / a.steps, 0.0)))
    state_file, curve_file = a.output / "training.pt", a.output / "loss.jsonl"
    step = 0
    if state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        decay.load_state_dict(saved["decay"])
        step = saved["step"]
    print(f"{a.family}: {sum(p.numel() for p in model.parameters()):,} parameters on {device}, from step {step} of {a.steps}", flush=True)
    started, first, seen = time.monotonic(), step, 0.0
    for ids, weights in batches(a.seed, step, a.batch, layout):
        if step >= a.steps:
            break
        loss, answer_ce = loss_of(model, ids.to(device), weights.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
        step += 1
        seen += answer_ce.item()
        if step % a.every == 0 or step == a.steps:
            mean = seen / (a.every if step % a.every == 0 else step % a.every)
            line = {"step": step, "answer_ce": mean, "lr": decay.get_last_lr()[0], "samples_per_s": (step - first) * a.batch / (time.monotonic() - started)}
            with curve_file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            seen = 0.0
            _save(state_file, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "decay": decay.state_dict(), "step": step})
    model.to(torch.bfloat16).save_pretrained(a.output)
    state_file.unlink()
    print(f"weights in {a.output}")


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


if __name__ == "__main__":
    main()
