"""Answers to a test split: ours, and transformers' with the prompt put before each sample.

    python -m benchmarks.evaluation --shapes pocket cpu_mid --output benchmarks/results/evaluation_cpu.json

Two kinds (--kinds): ``generation``, greedy, against ``generate``; ``choices``, the likeliest of two to five options,
against forward passes over every option behind its context and prompt, whose head sees the options' positions alone.
``ratio`` is of each case, ``whole`` of all cases of a shape together, ``token_ratio`` what sharing could give at most
where time goes with tokens: those that the peer computes over ours, no padding counted on either side.

The peer gets batches of like length, padded on the left, its KV cache and SDPA, and whichever batch width of those
tried is its fastest. Samples end as their reference answers do, at lengths that differ from sample to sample, for both
(an untrained model would never end). The answers of both are compared token by token; a difference is a tie between
logits that two orders of summation break differently.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from backbones.layers import unfused
from benchmarks.common.workload import REGIMES, SHAPES, Workload
from engine.core import library_versions, machine_info, protect, source_commit
from engine.evaluation import Answer, Choice, Greedy, option_likelihoods

END = 2
WIDTHS = (8, 16, 32, 64)


class EndsAt(LogitsProcessor):
    """Makes sample b of a batch end after so many tokens, and no sooner."""

    def __init__(self, lengths: list[int]):
        self.lengths, self.step = torch.tensor(lengths), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step += 1
        scores[:, END] = torch.where(self.lengths == self.step, torch.inf, -torch.inf)
        return scores


class Ending(Greedy):
    """Greedy, with the same ends."""

    lengths: list[int] = []

    def pick(self, logits_NV: Tensor, chosen: Sequence[Answer]) -> list[int]:
        logits_NV[:, END] = -torch.inf
        ids: list[int] = logits_NV.argmax(-1).tolist()
        for place, answer in enumerate(chosen):
            if len(answer.ids) + 1 == self.lengths[answer.index]:
                ids[place] = END
        return ids


def ours(
    work: Workload, contexts: list[list[int]], lengths: list[int], prompt_LD: Tensor, width: int, budget: int
) -> list[list[int]]:
    greedy = Ending(work.backbone, prompt_LD, max(lengths), END, width, budget, False)
    greedy.lengths = lengths
    return [ids for _, ids in sorted(greedy(contexts))]


def padded(table: nn.Module, prompt_LD: Tensor, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Samples behind the prompt, padded on the left: embeddings (B, T, D), and a mask (B, T) of what is no padding."""
    width = len(prompt_LD) + max(map(len, ids))
    embeds = prompt_LD.new_zeros(len(ids), width, prompt_LD.shape[1])
    mask = torch.zeros(len(ids), width, dtype=torch.long, device=prompt_LD.device)
    for b, own_ids in enumerate(ids):
        own = torch.cat([prompt_LD, table(torch.tensor(own_ids, device=prompt_LD.device))])
        embeds[b, -len(own) :], mask[b, -len(own) :] = own, 1
    return embeds, mask


@torch.no_grad()
def peer(
    work: Workload, contexts: list[list[int]], lengths: list[int], prompt_LD: Tensor, width: int
) -> list[list[int]]:
    model = work.backbone.model
    out: dict[int, list[int]] = {}
    table = model.get_input_embeddings()
    # how long an answer will be is not known before
    order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    for begin in range(0, len(order), width):
        group = order[begin : begin + width]
        embeds, mask = padded(table, prompt_LD, [contexts[i] for i in group])
        ends = LogitsProcessorList([EndsAt([lengths[i] for i in group])])
        with unfused(model):  # transformers' users have its own operators
            ids = model.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=max(lengths[i] for i in group),
                do_sample=False,
                eos_token_id=END,
                pad_token_id=END,
                logits_processor=ends,
            )
        for i, row in zip(group, ids.tolist(), strict=True):
            out[i] = row[: lengths[i]]
    return [out[i] for i in range(len(contexts))]


def choices_of(work: Workload) -> list[Choice]:
    """Two to five options of one to three tokens and the end token behind each context, as labels and letters have."""
    g = torch.Generator().manual_seed(2)
    vocabulary = work.shape.card["vocab_size"]

    def draw() -> list[int]:
        size = int(torch.randint(1, 4, (), generator=g))
        return [*torch.randint(3, vocabulary, (size,), generator=g).tolist(), END]

    choices = []
    for n, sample in enumerate(work.samples):
        choices.append(Choice(sample.context_ids, [draw() for _ in range(2 + n % 4)]))
    return choices


def best_options(choices: list[Choice], sums: Sequence[Sequence[float]]) -> list[list[int]]:
    best = []
    for choice, found in zip(choices, sums, strict=True):
        best.append(choice.options[found.index(max(found))])
    return best


@torch.no_grad()
def peer_choices(work: Workload, choices: list[Choice], prompt_LD: Tensor, width: int) -> list[list[float]]:
    """Every option as a sample of its own, batches of like length, padded on the left so that the head need not see
    contexts.
    """
    model, table = work.backbone.model, work.backbone.model.get_input_embeddings()
    asked = []
    for n, choice in enumerate(choices):
        for o, option in enumerate(choice.options):
            asked.append((n, o, choice.context, option))
    asked.sort(key=lambda one: len(one[2]) + len(one[3]))
    sums = [[0.0] * len(choice.options) for choice in choices]
    for begin in range(0, len(asked), width):
        group = asked[begin : begin + width]
        last = max(len(option) for _, _, _, option in group)
        embeds, mask = padded(table, prompt_LD, [context + option for _, _, context, option in group])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        with unfused(model):
            logits = model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=last + 1
            ).logits
        logp = logits.log_softmax(-1)
        for b, (n, o, _, option) in enumerate(group):
            option_N = torch.tensor(option, device=work.device)
            sums[n][o] = float(logp[b, -1 - len(option) : -1].gather(1, option_N[:, None]).double().sum())
    return sums


Sides = dict[str, Callable[[], list[list[int]]]]


def generation_sides(work: Workload, prompt_LD: Tensor, budget: int) -> tuple[Sides, int]:
    contexts = [sample.context_ids for sample in work.samples]
    lengths = [len(sample.answer_ids) + 1 for sample in work.samples]  # and the end token
    sides: Sides = {}
    for width in WIDTHS:
        sides[f"ours, {width} at once"] = partial(ours, work, contexts, lengths, prompt_LD, width, budget)
        sides[f"transformers, batches of {width}"] = partial(peer, work, contexts, lengths, prompt_LD, width)
    return sides, sum(lengths)


def choice_sides(work: Workload, prompt_LD: Tensor, budget: int) -> tuple[Sides, int]:
    choices, sides = choices_of(work), Sides()

    def our_choices(tokens: int) -> list[list[int]]:
        return best_options(
            choices,
            option_likelihoods(work.backbone, prompt_LD, choices, max_tokens_per_micro_batch=tokens, rank=0, world=1),
        )

    def their_choices(width: int) -> list[list[int]]:
        return best_options(choices, peer_choices(work, choices, prompt_LD, width))

    for tokens in (budget // 4, budget // 2, budget):
        sides[f"ours, rows of {tokens}"] = partial(our_choices, tokens)
    for width in WIDTHS:
        sides[f"transformers, batches of {width}"] = partial(their_choices, width)
    options = chain.from_iterable(choice.options for choice in choices)
    return sides, sum(map(len, options))


def token_ratio(work: Workload, kind: str) -> float:
    """The peer's tokens over ours: it computes the prompt for every sample, and for every option prompt and
    context; we compute contexts once.
    """
    length = work.shape.length
    theirs = own = 0

    def count(context: int, sizes: list[int]) -> None:
        nonlocal theirs, own
        own += context + sum(sizes)
        theirs += (length + context) * len(sizes) + sum(sizes)

    if kind == "choices":
        for choice in choices_of(work):
            count(len(choice.context), [len(option) for option in choice.options])
    else:
        for sample in work.samples:
            count(len(sample.context_ids), [len(sample.answer_ids) + 1])
    return theirs / own


KINDS = {"generation": generation_sides, "choices": choice_sides}


def measure(name: str, regime: str, kind: str, samples: int, pairs: int, budget: int) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = Workload(replace(SHAPES[name], samples=samples, tasks=1), regime, device)
    weight = work.backbone.model.get_output_embeddings().weight
    prompt_LD = work.start_LD.to(device, weight.dtype)
    sides, tokens = KINDS[kind](work, prompt_LD, budget)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    answers: dict[str, list[list[int]]] = {}
    for repeat in range(pairs + 1):  # the first is a warm-up, and the answers
        for side, run in sides.items():
            begin = time.perf_counter()
            answers[side] = run()
            if repeat:
                seconds[side].append(time.perf_counter() - begin)
    medians = {side: statistics.median(s) for side, s in seconds.items()}
    best = {}
    for who in ("ours", "transformers"):
        own_sides = [side for side in sides if side.startswith(who)]
        best[who] = min(own_sides, key=lambda side: medians[side])
    own, theirs = best["ours"], best["transformers"]
    ratios = sorted(p / o for p, o in zip(seconds[theirs], seconds[own], strict=True))
    same = sum(a == b for a, b in zip(answers[own], answers[theirs], strict=True))
    out = {
        "shape": name,
        "regime": regime,
        "kind": kind,
        "samples": samples,
        "prompt_length": len(prompt_LD),
        "mean_context": statistics.fmean(len(sample.context_ids) for sample in work.samples),
        "answer_tokens": tokens,
        "seconds": medians,
        "best": best,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "token_ratio": token_ratio(work, kind),
        "same_answers": same,
        "answers_per_s": {who: samples / medians[side] for who, side in best.items()},
        "answer_tokens_per_s": {who: tokens / medians[side] for who, side in best.items()},
    }
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    print(
        f"{name} {regime} {kind}: {medians[own]:.2f} s ({own}) against {medians[theirs]:.2f} s ({theirs}): "
        f"{out['ratio']:.2f}x ({spread}), by tokens {out['token_ratio']:.2f}x; same answers {same} of {samples}",
        flush=True,
    )
    return out


def whole(cases: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each shape, and of all: the peer's seconds over ours, summed over the cases, each side at its best width."""
    out = {}
    for shape in [*dict.fromkeys(c["shape"] for c in cases), "all"]:
        own = theirs = 0.0
        for c in cases:
            if shape in ("all", c["shape"]):
                own += c["seconds"][c["best"]["ours"]]
                theirs += c["seconds"][c["best"]["transformers"]]
        out[shape] = {"ours": own, "transformers": theirs, "ratio": theirs / own}
    return out


def main() -> None:
    protect()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["pocket", "cpu_mid"])
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=["short", "medium"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--max_tokens_per_micro_batch", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON; cases of earlier calls are kept, the same ones replaced")
    a = parser.parse_args()
    cases = []
    for shape, regime, kind in product(a.shapes, a.regimes, a.kinds):
        cases.append(measure(shape, regime, kind, a.samples, a.pairs, a.max_tokens_per_micro_batch))
    for shape, total in whole(cases).items():
        print(
            f"{shape}, whole: {total['ours']:.2f} s against {total['transformers']:.2f} s: {total['ratio']:.2f}x",
            flush=True,
        )
    if a.output:
        _keep(a.output, cases)


def _keep(file: Path, cases: Sequence[dict[str, Any]]) -> None:
    made = {"machine": machine_info(), "versions": library_versions(), "commit": source_commit()}
    new = [(c["shape"], c["regime"], c["kind"]) for c in cases]
    earlier = json.loads(file.read_text())["cases"] if file.exists() else []
    every = [c for c in earlier if (c["shape"], c["regime"], c["kind"]) not in new]
    every += [{**c, **made} for c in cases]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cases": every, "whole": whole(every)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
