"""Pre-train a pocket backbone: a small language model that follows written instructions on invented notes.

    python -m engine.pretrain_pocket --family llama --output runs/pocket/llama
    python -m engine.pretrain_pocket --family gpt_oss --from runs/pocket/llama --output runs/pocket/gpt_oss --steps 1000
    python -m engine.pretrain_pocket --family llama --output runs/pocket/big --hidden 512     (a bigger one, on a GPU)

A soft prompt can only elicit what the frozen model can do, so the model is told all 31 skills by their written instructions, those
of the target tasks included. Each sample is [instruction ; BOS ; note ; separator ; answer ; EOS]: the instruction stands where a
soft prompt will stand. A task is drawn the more often the fewer of its answers were right of late. Killed, it goes on where it was;
--steps may be another number then, the learning rate falls over the last third.
"""

import argparse
import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from backbones import BackboneCard, Layout, load_tokenizer
from engine.pocket_model import HEAD, build, model_config, train_tokenizer, upcycle
from engine.pocket_optimizer import Muon
from engine.protection import protect

LM_WEIGHT = 0.2  # of the tokens that are no answer
MUON_LR, ADAM_LR, WARMUP, DECAY, CLIP = 6e-3, 2e-3, 100, 0.35, 1.0
MASTERED_SHARE = 0.1  # how often a mastered task is drawn, an unlearnt one being 1
SEPARATOR = "\n"


class Packet(NamedTuple):
    """Samples of like length. ``tasks`` (B,) indexes; the rest (B, T): ids padded with EOS, each token's weight as an answer and as text."""

    tasks: Tensor
    ids: Tensor
    answer: Tensor
    rest: Tensor


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("llama", "gpt_oss"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of weights, tokenizer and loss curve")
    parser.add_argument("--from", dest="source", type=Path, help="finished folder to start from: the same family, or a Llama for a gpt-oss")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=96, help="samples a step")
    parser.add_argument("--packets", type=int, default=3, help="parts that a step's samples are cut into by length")
    parser.add_argument("--hidden", type=int, default=192, help="with --from the source's, as are the layers")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--lr_scale", type=float, default=1.0, help="times both learning rates; lower it with --from")
    parser.add_argument("--seed", type=int, default=0, help="another one with --from the same family, or the same notes come again")
    parser.add_argument("--every", type=int, default=100, help="steps between log lines and checkpoints")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--workers", type=int, default=0, help="processes that write notes; a GPU wants a dozen, a CPU none")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model: a third faster on two cores")
    a = parser.parse_args()
    if a.source is not None:
        try:
            shape = json.loads((a.source / "config.json").read_text())
        except (OSError, ValueError):
            parser.error(f"--from: {a.source} is no finished folder (config.json is missing or not JSON)")
        a.hidden, a.layers = shape["hidden_size"], shape["num_hidden_layers"]
    if a.hidden % HEAD:
        parser.error(f"--hidden: {a.hidden} is no multiple of {HEAD}, the numbers a head has")
    return a


class Samples(Dataset[list[Packet]]):
    """Step ``n``'s samples depend on the seed, n and the tasks' shares alone, however one got there."""

    def __init__(self, seed: int, size: int, packets: int, layout: Layout) -> None:
        from clinical_tasks.pocket import TASKS

        self.seed, self.size, self.packets, self.layout, self.tasks = seed, size, packets, layout, TASKS
        self.shares = dict.fromkeys(TASKS, 1.0)

    def __getitem__(self, number: int) -> list[Packet]:
        from clinical_tasks.pocket import instruction_pairs

        rng = random.Random(f"{self.seed} {number}")
        drawn = Counter(rng.choices(self.tasks, [self.shares[t] for t in self.tasks], k=self.size))
        pairs = [pair for task, n in sorted(drawn.items()) for pair in instruction_pairs(self.seed + number, n, (task,))]
        rows = []
        for task, instruction, text, answer in pairs:
            head = [*self.layout.tokenizer.encode(instruction), *self.layout.context_ids(text)]
            rows.append((self.tasks.index(task), head, self.layout.answer_ids(answer)))
        rows.sort(key=lambda row: len(row[1]) + len(row[2]))
        parts = min(self.packets, len(rows))
        return [self._packet(rows[i * len(rows) // parts : (i + 1) * len(rows) // parts]) for i in range(parts)]

    def _packet(self, rows: list[tuple[int, list[int], list[int]]]) -> Packet:
        wide = -(-max(len(head) + len(answer) for _, head, answer in rows) // 8) * 8
        ids = torch.full((len(rows), wide), self.layout.end_id)
        answer_weight, rest = torch.zeros(len(rows), wide), torch.zeros(len(rows), wide)
        for row, (_, head, answer) in enumerate(rows):
            end = len(head) + len(answer)
            ids[row, :end] = torch.tensor(head + answer)
            # between a weight a token, by which one-word answers hardly count, and a weight an answer
            answer_weight[row, len(head) : end] = len(answer) ** -0.5
            rest[row, 1 : len(head)] = 1.0
        return Packet(torch.tensor([task for task, _, _ in rows]), ids, answer_weight, rest)


def train_step(model: Any, packets: list[Packet], device: torch.device) -> tuple[float, Tensor, Tensor]:
    """Gradients of one step; (answer cross-entropy, task of each sample, whether each answer was right, every token of it)."""
    answers, others = (torch.stack([p[i].sum() for p in packets]).sum().item() for i in (2, 3))
    total, right = 0.0, []
    for packet in packets:
        ids = packet.ids.to(device)
        answer, rest = packet.answer[:, 1:].to(device), packet.rest[:, 1:].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        ce = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(answer)
        answer_ce = (ce * answer).sum() / answers
        (answer_ce + LM_WEIGHT * (ce * rest).sum() / others).backward()
        total += answer_ce.item()
        right.append(((logits.argmax(-1) == ids[:, 1:]) | (answer == 0)).all(1).cpu())
    return total, torch.cat([p.tasks for p in packets]), torch.cat(right)


def optimizers(model: nn.Module, scale: float) -> list[torch.optim.Optimizer]:
    """Muon for what is a matrix or a stack of them inside a layer, AdamW for embeddings, norms, biases, sinks and routers."""
    inner = {n: p for n, p in model.named_parameters() if ".layers." in n and n.endswith((".weight", "_proj")) and p.ndim > 1 and "router" not in n}
    outer = [p for n, p in model.named_parameters() if n not in inner]
    return [Muon(inner.values(), MUON_LR * scale), torch.optim.AdamW(outer, ADAM_LR * scale, betas=(0.9, 0.98), weight_decay=0.0)]


def start(a: argparse.Namespace, layout: Layout) -> nn.Module:
    """The model at step 0: random, or what a finished folder holds."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(a.seed)
    pieces = layout.tokenizer.vocab_size
    model = build(a.family, a.hidden, a.layers, -(-pieces // 64) * 64)
    if a.source is None:
        return model
    source = AutoModelForCausalLM.from_pretrained(a.source, dtype=torch.float32)
    if source.config.model_type == a.family:
        model.load_state_dict(source.state_dict())
    else:
        upcycle(source, model)
    return model


def main() -> None:
    """Train to the last step, from the last checkpoint if there is one, and write weights, tokenizer and loss curve."""
    protect()
    a = arguments()
    from clinical_tasks.pocket import instruction_pairs

    if a.threads:
        torch.set_num_threads(a.threads)
    a.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer_file = a.output / "tokenizer.model"
    if a.source is not None:
        shutil.copyfile(a.source / "tokenizer.model", tokenizer_file)
    elif not tokenizer_file.exists():
        train_tokenizer((f"{i}\n{t}\n{x}" for _, i, t, x in instruction_pairs(a.seed + 10_000_000, 20_000)), a.output)
    tokenizer = load_tokenizer(tokenizer_file)
    keys = model_config(a.family, a.hidden, a.layers, -(-tokenizer.vocab_size // 64) * 64)
    layout = Layout(BackboneCard(name=a.family, random=keys, tokenizer=str(tokenizer_file), separator=SEPARATOR), tokenizer)
    model: Any = start(a, layout).to(device)
    samples = Samples(a.seed, a.batch, a.packets, layout)
    both = optimizers(model, a.lr_scale)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in both]
    state_file, curve_file = a.output / "training.pt", a.output / "loss.jsonl"
    step = 0
    if state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(both, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        samples.shares, step = saved["shares"], saved["step"]
    print(f"{a.family}: {sum(p.numel() for p in model.parameters()):,} parameters on {device}, from step {step} of {a.steps}", flush=True)
    forward: Any = torch.compile(model, dynamic=True) if a.compile else model
    started, first = time.monotonic(), step
    losses: list[float] = []
    seen, right = torch.zeros(len(samples.tasks)), torch.zeros(len(samples.tasks))
    while step < a.steps:
        ahead = range(step, min(step - step % a.every + a.every, a.steps))  # the tasks' shares hold so long
        for packets in DataLoader(samples, batch_size=None, sampler=ahead, num_workers=a.workers, pin_memory=device.type == "cuda"):
            factor = min((step + 1) / WARMUP, (a.steps - step) / (DECAY * a.steps), 1.0)
            for optimizer, peak in zip(both, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
            loss, tasks, correct = train_step(forward, packets, device)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            losses.append(loss)
            seen += torch.bincount(tasks, minlength=len(samples.tasks))
            right += torch.bincount(tasks[correct], minlength=len(samples.tasks))
        exact = {task: round(float(r / s), 3) for task, r, s in zip(samples.tasks, right, seen, strict=True) if s}
        line = {"step": step, "answer_ce": sum(losses) / len(losses), "lr": peaks[0] * factor, "mean_exact": sum(exact.values()) / len(exact),
                "samples_per_s": (step - first) * a.batch / (time.monotonic() - started), "exact": exact}  # fmt: skip
        samples.shares.update({task: max(1 - rate, MASTERED_SHARE) for task, rate in exact.items()})
        with curve_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({k: v for k, v in line.items() if k != "exact"}), flush=True)
        losses, seen, right = [], torch.zeros_like(seen), torch.zeros_like(right)
        _save(state_file, {"model": model.state_dict(), "optimizers": [o.state_dict() for o in both], "shares": samples.shares, "step": step})
    model.to(torch.bfloat16).save_pretrained(a.output)
    state_file.unlink()
    print(f"weights in {a.output}")


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


if __name__ == "__main__":
    main()
