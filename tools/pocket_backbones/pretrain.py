"""Pre-train a pocket backbone: a small language model that follows written instructions on invented notes.

    python -m tools.pocket_backbones.pretrain --family llama --output runs/pocket/llama
    python -m tools.pocket_backbones.pretrain --family gpt_oss --from runs/pocket/llama --steps 1000 \\
        --output runs/pocket/gpt_oss
    python -m tools.pocket_backbones.pretrain --family llama --output runs/pocket/big --hidden 512  (bigger, on a GPU)

A soft prompt can only elicit what the frozen model can do, so the model is told all 31 skills by their written
instructions, those of the target tasks included. Each sample is [instruction ; BOS ; note ; separator ; answer ; EOS],
then further questions about the same note with their answers where the task asks questions: the instruction stands
where a soft prompt will stand. A task is drawn the more often the fewer of its answers were right of late, but hardly
before those that it builds on are learnt. Killed, it goes on where it was; --steps may be another number then, the
learning rate falls over the last third.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from backbones import BackboneCard, Layout, load_tokenizer
from engine.core import protect
from tools.pocket_backbones.model import HEAD, build, look_back, model_config, train_tokenizer, upcycle
from tools.pocket_backbones.muon import Muon
from tools.pocket_backbones.samples import SEPARATOR, Packet, Samples

LM_WEIGHT = 0.2  # of the tokens that are no answer
MUON_LR, ADAM_LR, WARMUP, DECAY, CLIP = 6e-3, 2e-3, 100, 0.35, 1.0
SINK = 0.0  # a gpt-oss's sinks at its start: as strong as one indifferent word


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("llama", "gpt_oss"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of weights, tokenizer and loss curve")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        help="finished folder to start from: the same family, or a Llama for a gpt-oss",
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=96, help="samples a step")
    parser.add_argument("--packets", type=int, default=3, help="parts that a step's samples are cut into by length")
    parser.add_argument("--hidden", type=int, default=192, help="with --from the source's, as are the layers")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--lr_scale", type=float, default=1.0, help="times both learning rates; lower it with --from")
    parser.add_argument(
        "--seed", type=int, default=0, help="another one with --from the same family, or the same notes come again"
    )
    parser.add_argument("--every", type=int, default=100, help="steps between log lines and checkpoints")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that write notes; a GPU wants a dozen, a CPU none"
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="matrix products in bfloat16, always so on a GPU; a CPU needs AVX512-BF16 or AMX to gain",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the model: a third faster on two cores")
    a = parser.parse_args()
    if a.source is not None:
        try:
            shape = json.loads((a.source / "config.json").read_text())
        except (OSError, ValueError):
            parser.error(f"--from: {a.source} is not a finished folder (config.json is missing or not JSON)")
        a.hidden, a.layers = shape["hidden_size"], shape["num_hidden_layers"]
    if a.hidden % HEAD:
        parser.error(f"--hidden: {a.hidden} must be a multiple of {HEAD}, the size of a head")
    return a


def train_step(
    model: Any, packets: list[Packet], device: torch.device, bf16: bool = False
) -> tuple[float, Tensor, Tensor]:
    """Gradients of one step; (answer cross-entropy, task of each answer, whether each answer was right, every token
    of it).
    """
    answers = torch.stack([packet.answer.sum() for packet in packets]).sum().item()
    others = torch.stack([packet.rest.sum() for packet in packets]).sum().item()
    total, right = 0.0, []
    for packet in packets:
        ids = packet.ids.to(device)
        answer, rest = packet.answer[:, 1:].to(device), packet.rest[:, 1:].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16 or device.type == "cuda"):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        ce = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(answer)
        answer_ce = (ce * answer).sum() / answers
        (answer_ce + LM_WEIGHT * (ce * rest).sum() / others).backward()
        total += answer_ce.item()
        wrong = (logits.argmax(-1) != ids[:, 1:]).cpu()
        right.append(torch.bincount(packet.number[:, 1:][wrong], minlength=len(packet.tasks) + 1)[:-1] == 0)
    return total, torch.cat([p.tasks for p in packets]), torch.cat(right)


def optimizers(model: nn.Module, scale: float) -> list[torch.optim.Optimizer]:
    """Muon for what is a matrix or a stack of them inside a layer, AdamW for embeddings, norms, biases, sinks and
    routers.
    """
    inner, outer = [], []
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith((".weight", "_proj")) and parameter.ndim > 1
        if ".layers." in name and is_matrix and "router" not in name:
            inner.append(parameter)
        else:
            outer.append(parameter)
    return [
        Muon(inner, MUON_LR * scale),
        torch.optim.AdamW(outer, ADAM_LR * scale, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def start(a: argparse.Namespace, layout: Layout) -> nn.Module:
    """The model at step 0: random but for some attention heads, or what a finished folder holds."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(a.seed)
    pieces = layout.tokenizer.vocab_size
    model = build(a.family, a.hidden, a.layers, -(-pieces // 64) * 64)
    if a.source is None:
        if a.family == "llama":
            look_back(model, a.seed)
        return model
    source = AutoModelForCausalLM.from_pretrained(a.source, dtype=torch.float32)
    if source.config.model_type == a.family:
        model.load_state_dict(source.state_dict())
    else:
        upcycle(source, model, SINK)
    return model


def texts_of(lessons: Iterable[Any]) -> Iterator[str]:
    """Instruction, input and answer of every turn."""
    for lesson in lessons:
        for text, answer in lesson.turns:
            yield f"{lesson.instruction}\n{text}\n{answer}"


def main() -> None:
    """Train to the last step, from the last checkpoint if there is one, and write weights, tokenizer and loss curve."""
    protect()
    a = arguments()
    from clinical_tasks.pocket import lessons

    if a.threads:
        torch.set_num_threads(a.threads)
    a.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer_file = a.output / "tokenizer.model"
    if a.source is not None:
        shutil.copyfile(a.source / "tokenizer.model", tokenizer_file)
    elif not tokenizer_file.exists():
        written = lessons(a.seed + 10_000_000, 20_000)
        train_tokenizer(texts_of(written), a.output)
    tokenizer = load_tokenizer(tokenizer_file)
    keys = model_config(a.family, a.hidden, a.layers, vocabulary=-(-tokenizer.vocab_size // 64) * 64)
    layout = Layout(
        BackboneCard(name=a.family, random=keys, tokenizer=str(tokenizer_file), separator=SEPARATOR), tokenizer
    )
    model: Any = start(a, layout).to(device)
    samples = Samples(a.seed, size=a.batch, packets=a.packets, layout=layout)
    both = optimizers(model, a.lr_scale)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in both]
    state_file, curve_file = a.output / "training.pt", a.output / "loss.jsonl"
    step = 0
    if state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(both, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step = saved["step"]
        samples.exact.update(saved["exact"])
    numbers = sum(p.numel() for p in model.parameters())
    print(f"{a.family}: {numbers:,} parameters on {device}, from step {step} of {a.steps}", flush=True)
    forward: Any = torch.compile(model, dynamic=True) if a.compile else model
    started, first = time.monotonic(), step
    losses: list[float] = []
    seen, right = torch.zeros(len(samples.tasks)), torch.zeros(len(samples.tasks))
    while step < a.steps:
        ahead = range(step, min(step - step % a.every + a.every, a.steps))  # the tasks' shares hold so long
        for packets in DataLoader(
            samples, batch_size=None, sampler=ahead, num_workers=a.workers, pin_memory=device.type == "cuda"
        ):
            factor = min((step + 1) / WARMUP, (a.steps - step) / (DECAY * a.steps), 1.0)
            for optimizer, peak in zip(both, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
            loss, tasks, correct = train_step(forward, packets, device, a.bf16)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            losses.append(loss)
            seen += torch.bincount(tasks, minlength=len(samples.tasks))
            right += torch.bincount(tasks[correct], minlength=len(samples.tasks))
        exact = {}
        for task, right_answers, answers in zip(samples.tasks, right, seen, strict=True):
            if answers:
                exact[task] = round(float(right_answers / answers), 3)
        line = {
            "step": step,
            "answer_ce": sum(losses) / len(losses),
            "lr": peaks[0] * factor,
            "mean_exact": sum(exact.values()) / len(exact),
            "samples_per_s": (step - first) * a.batch / (time.monotonic() - started),
            "exact": exact,
        }
        samples.exact.update(exact)
        with curve_file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({k: v for k, v in line.items() if k != "exact"}), flush=True)
        losses, seen, right = [], torch.zeros_like(seen), torch.zeros_like(right)
        optimizer_states = [optimizer.state_dict() for optimizer in both]
        state = {"model": model.state_dict(), "optimizers": optimizer_states, "exact": samples.exact, "step": step}
        _save(state_file, state)
    model.to(torch.bfloat16).save_pretrained(a.output)
    state_file.unlink()
    print(f"weights in {a.output}")


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


if __name__ == "__main__":
    main()
