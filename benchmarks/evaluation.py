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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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
        ids = logits_NV.argmax(-1).tolist()
        return [END if len(s.ids) + 1 == self.lengths[s.index] else token for s, token in zip(chosen, ids, strict=True)]


def ours(
    work: Workload, contexts: list[list[int]], lengths: list[int], prompt_LD: Tensor, width: int, budget: int
) -> list[list[int]]:
    greedy = Ending(work.backbone, prompt_LD, max(lengths), END, width, budget, False)
    greedy.lengths = lengths
    return [ids for _, ids in sorted(greedy(contexts))]


@torch.no_grad()
def peer(
    work: Workload, contexts: list[list[int]], lengths: list[int], prompt_LD: Tensor, width: int
) -> list[list[int]]:
    model = work.backbone.model
    out: dict[int, list[int]] = {}
    table = model.get_input_embeddings()
    order = sorted(
        range(len(contexts)), key=lambda i: len(contexts[i])
    )  # how long an answer will be is not known before
    for begin in range(0, len(order), width):
        group = order[begin : begin + width]
        longest = max(len(contexts[i]) for i in group)
        embeds = torch.zeros(
            len(group), len(prompt_LD) + longest, prompt_LD.shape[1], device=work.device, dtype=prompt_LD.dtype
        )
        mask = torch.zeros(embeds.shape[:2], dtype=torch.long, device=work.device)
        for b, i in enumerate(group):
            own = torch.cat([prompt_LD, table(torch.tensor(contexts[i], device=work.device))])
            embeds[b, -len(own) :], mask[b, -len(own) :] = own, 1
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
        out |= {i: row[: lengths[i]] for i, row in zip(group, ids.tolist(), strict=True)}
    return [out[i] for i in range(len(contexts))]


def choices_of(work: Workload) -> list[Choice]:
    """Two to five options of one to three tokens and the end token behind each context, as labels and letters have."""
    g = torch.Generator().manual_seed(2)
    vocabulary = work.shape.card["vocab_size"]
    draw = lambda: [
        *torch.randint(3, vocabulary, (int(torch.randint(1, 4, (), generator=g)),), generator=g).tolist(),
        END,
    ]  # noqa: E731
    return [Choice(item.sample.context_ids, [draw() for _ in range(2 + n % 4)]) for n, item in enumerate(work.items)]


def best_options(choices: list[Choice], sums: Sequence[Sequence[float]]) -> list[list[int]]:
    return [c.options[max(range(len(s)), key=s.__getitem__)] for c, s in zip(choices, sums, strict=True)]


@torch.no_grad()
def peer_choices(work: Workload, choices: list[Choice], prompt_LD: Tensor, width: int) -> list[list[float]]:
    """Every option as a sample of its own, batches of like length, padded on the left so that the head need not see
    contexts.
    """
    model, table = work.backbone.model, work.backbone.model.get_input_embeddings()
    asked = [(n, o) for n, c in enumerate(choices) for o in range(len(c.options))]
    asked.sort(key=lambda pair: len(choices[pair[0]].context) + len(choices[pair[0]].options[pair[1]]))
    sums = [[0.0] * len(c.options) for c in choices]
    for begin in range(0, len(asked), width):
        group = asked[begin : begin + width]
        ids = [choices[n].context + choices[n].options[o] for n, o in group]
        longest, last = max(map(len, ids)), max(len(choices[n].options[o]) for n, o in group)
        embeds = torch.zeros(
            len(group), len(prompt_LD) + longest, prompt_LD.shape[1], device=work.device, dtype=prompt_LD.dtype
        )
        mask = torch.zeros(embeds.shape[:2], dtype=torch.long, device=work.device)
        for b, own_ids in enumerate(ids):
            own = torch.cat([prompt_LD, table(torch.tensor(own_ids, device=work.device))])
            embeds[b, -len(own) :], mask[b, -len(own) :] = own, 1
        places = (mask.cumsum(1) - 1).clamp(min=0)
        with unfused(model):
            logits = model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=last + 1
            ).logits
        logp = logits.log_softmax(-1)
        for b, (n, o) in enumerate(group):
            option = torch.tensor(choices[n].options[o], device=work.device)
            sums[n][o] = float(logp[b, -1 - len(option) : -1].gather(1, option[:, None]).double().sum())
    return sums


Sides = dict[str, Callable[[], list[list[int]]]]


def generation_sides(work: Workload, prompt_LD: Tensor, budget: int) -> tuple[Sides, int]:
    contexts = [i.sample.context_ids for i in work.items]
    lengths = [len(i.sample.answer_ids) + 1 for i in work.items]  # and the end token
    sides: Sides = {}
    for width in WIDTHS:
        sides[f"ours, {width} at once"] = lambda width=width: ours(work, contexts, lengths, prompt_LD, width, budget)  # type: ignore[misc]
        sides[f"transformers, batches of {width}"] = lambda width=width: peer(work, contexts, lengths, prompt_LD, width)  # type: ignore[misc]
    return sides, sum(lengths)


def choice_sides(work: Workload, prompt_LD: Tensor, budget: int) -> tuple[Sides, int]:
    choices, sides = choices_of(work), Sides()
    for tokens in (budget // 4, budget // 2, budget):
        sides[f"ours, rows of {tokens}"] = lambda tokens=tokens: best_options(  # type: ignore[misc]
            choices, option_likelihoods(work.backbone, prompt_LD, choices, tokens, 0, 1)
        )
    for width in WIDTHS:
        sides[f"transformers, batches of {width}"] = lambda width=width: best_options(
            choices, peer_choices(work, choices, prompt_LD, width)
        )  # type: ignore[misc]
    return sides, sum(len(o) for c in choices for o in c.options)


def token_ratio(work: Workload, kind: str) -> float:
    """The peer's tokens over ours: it computes the prompt for every sample, and for every option prompt and
    context; we compute contexts once.
    """
    length = work.shape.length
    asked = [(len(i.sample.context_ids), [len(i.sample.answer_ids) + 1]) for i in work.items]
    if kind == "choices":
        asked = [(len(c.context), [len(o) for o in c.options]) for c in choices_of(work)]
    own = sum(context + sum(sizes) for context, sizes in asked)
    return sum((length + context) * len(sizes) + sum(sizes) for context, sizes in asked) / own


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
    best = {
        who: min((side for side in sides if side.startswith(who)), key=lambda side: medians[side])
        for who in ("ours", "transformers")
    }
    ratios = sorted(p / o for p, o in zip(seconds[best["transformers"]], seconds[best["ours"]], strict=True))
    same = [a == b for a, b in zip(answers[best["ours"]], answers[best["transformers"]], strict=True)]
    out = {
        "shape": name,
        "regime": regime,
        "kind": kind,
        "samples": samples,
        "prompt_length": len(prompt_LD),
        "mean_context": statistics.fmean(len(i.sample.context_ids) for i in work.items),
        "answer_tokens": tokens,
        "seconds": medians,
        "best": best,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "token_ratio": token_ratio(work, kind),
        "same_answers": sum(same),
        "answers_per_s": {who: samples / medians[side] for who, side in best.items()},
        "answer_tokens_per_s": {who: tokens / medians[side] for who, side in best.items()},
    }
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    print(
        f"{name} {regime} {kind}: {medians[best['ours']]:.2f} s ({best['ours']}) against "
        f"{medians[best['transformers']]:.2f} s ({best['transformers']}): "
        f"{out['ratio']:.2f}x ({spread}), by tokens {out['token_ratio']:.2f}x; same answers {sum(same)} of {samples}",
        flush=True,
    )
    return out


def whole(cases: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each shape, and of all: the peer's seconds over ours, summed over the cases, each side at its best width."""
    out = {}
    for shape in [*dict.fromkeys(c["shape"] for c in cases), "all"]:
        own = [c for c in cases if shape in ("all", c["shape"])]
        total = {who: sum(c["seconds"][c["best"][who]] for c in own) for who in ("ours", "transformers")}
        out[shape] = {**total, "ratio": total["transformers"] / total["ours"]}
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
    cases = [
        measure(shape, regime, kind, a.samples, a.pairs, a.max_tokens_per_micro_batch)
        for shape in a.shapes
        for regime in a.regimes
        for kind in a.kinds
    ]
    for shape, total in whole(cases).items():
        print(
            f"{shape}, whole: {total['ours']:.2f} s against {total['transformers']:.2f} s: {total['ratio']:.2f}x",
            flush=True,
        )
    if a.output:
        _keep(a.output, cases)


def _keep(file: Path, cases: Sequence[dict[str, Any]]) -> None:
    made = {"machine": machine_info(), "versions": library_versions(), "commit": source_commit()}
    name = lambda c: [c[k] for k in ("shape", "regime", "kind")]  # noqa: E731
    new = [name(c) for c in cases]
    earlier = json.loads(file.read_text())["cases"] if file.exists() else []
    every = [c for c in earlier if name(c) not in new] + [{**c, **made} for c in cases]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cases": every, "whole": whole(every)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
