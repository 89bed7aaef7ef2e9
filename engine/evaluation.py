"""Answers of trained prompts on test (or validation) splits, scored by the tasks' official metrics.

Choices are scored by the likelihood of each option's tokens, the end token included (``evaluate.likelihood: mean``: per token);
everything else is generated greedily, with every rank in step. An example that was too long for the run counts as an empty answer.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clinical_tasks
from backbones import parameter_count
from engine import banks
from engine.batching import Item
from engine.choices import Choice, option_likelihoods
from engine.data import Sample, Split, TaskData
from engine.distributed import gather_objects, sum_over_ranks, world_size
from engine.errors import UserError
from engine.files import write_whole
from engine.generation import Greedy
from engine.logbook import write_hparams
from engine.results import average, identities, made_with, summarise
from engine.session import Session
from engine.unseen import of_targets, read_record
from prompt_modules import NoPrompts, PromptBank
from prompt_modules.bank import JoinedBank

EMPTY = ""  # the answer of an example that could not be asked


def evaluate_run(session: Session, only: Sequence[str]) -> dict[str, Any]:
    """Score every row of a run (and, of a distillation, its teachers); write results.json and predictions/ (or results_validation.json, ...).

    Raises:
        UserError: the run is not finished, or ``only`` names tasks it does not have.
    """
    run_dir, on = session.run_dir, session.config.evaluate.split
    suffix = "" if on == "test" else f"_{on}"
    file = run_dir / f"results{suffix}.json"
    bank, found = banks.load_bank(run_dir, "run")
    role = "target" if found.state["stage"] == "adapt" else "source"
    jobs: list[tuple[JoinedBank | None, int, dict[str, Any], int]] = []
    jobs += [(bank, k, labels, found.state["progress"]["best_step"][k]) for k, labels in enumerate(found.state["rows"])]
    if role == "source":
        teachers, taught = banks.load_bank(run_dir / "teachers", "teachers")
        jobs += [(teachers, k, labels, taught.state["progress"]["best_step"][k]) for k, labels in enumerate(taught.state["rows"])]
    names = list(dict.fromkeys(labels["task"] for _, _, labels, _ in jobs))
    if session.config.evaluate.instruction:
        jobs += [(None, 0, {"task": n, "method": "instruction", "shots": "0", "seed": 0}, 0) for n in names]
    hashes = {"backbone": session.backbone_hash, "layout": session.layout.fingerprint()}
    differing = [k for k, v in hashes.items() if found.state["hashes"][k] != v]
    if differing:
        raise UserError(f"backbone: {session.config.backbone} is not the one that {run_dir} was trained with ({', '.join(differing)} differ)")
    unknown = [t for t in only if t not in names]
    if unknown:
        raise UserError([f"--tasks: {t!r} is not in {run_dir}; it has {', '.join(names)}" for t in unknown])
    every, names = names, [n for n in names if not only or n in only]
    data = session.data({name: [on] for name in names})
    backbone = session.backbone()
    scored = []
    for name in names:
        for source, k, labels, step in jobs:
            if labels["task"] != name:
                continue
            asker = Asker(session, None if source is None else source.to(backbone.device))
            answers = asker.answers(data[name], k)
            split = data[name].splits[on]
            outcome = clinical_tasks.evaluate(data[name].card, split.examples(), answers, resamples=session.config.evaluate.resamples)
            scored.append({**labels, **vars(outcome), "best_step": step, "n_dropped": split.n_dropped, "n_truncated": asker.n_truncated})
            metric = data[name].card.metric
            session.say(f"{name} {labels['method']} {labels['shots']} seed {labels['seed']}: {metric} {outcome.scores[metric]:.3f}")
            if session.leads:
                _write_predictions(run_dir / f"predictions{suffix}", labels, split, answers)
    tasks = summarise(scored, {n: d.card for n, d in data.items()}, {n: len(d.splits[on]) for n, d in data.items()}, role)["tasks"]
    for name, task in tasks.items():
        card = data[name].card
        task["rules"] = {m: clinical_tasks.rule(card, m) for m in (card.metric, *card.extra_metrics)}
        task["answers"] = f"options by likelihood ({session.config.evaluate.likelihood})" if card.answer == "likelihood" else "generated"
    results: dict[str, Any] = {"checkpoint": found.identity}
    results["tasks"] = _earlier(file, results["checkpoint"]) | tasks
    # a mean over some of the targets would not compare with one over all
    results["average"] = average(results["tasks"]) if set(every) <= results["tasks"].keys() else {}
    results["backbone"] = session.card.name
    results |= made_with() | {"hashes": identities(found.state["hashes"])}
    overlap = of_targets(run_dir, list(results["tasks"])) if role == "target" else read_record(run_dir)
    if overlap is not None:
        results["overlap"] = overlap
    if found.state.get("changes"):
        results["changes"] = found.state["changes"]
    results["trainable"] = _trainable(bank, session.config.adapt.train == "all" and role == "target", parameter_count(backbone.model))
    if session.leads:
        write_whole(file, json.dumps(results, indent=1))
        if session.config.log.tensorboard and not suffix:
            whole = average(results["tasks"], role) if set(every) <= results["tasks"].keys() else {}
            write_hparams(run_dir, session.config, whole, results.get("tuning", {}))
        session.say(f"results in {file}" + ("" if suffix else f"; next: python train.py report --runs {run_dir}"))
    return results


def _earlier(path: Path, checkpoint: str) -> dict[str, Any]:
    """Tasks evaluated before, of the same checkpoint."""
    try:
        results = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return results["tasks"] if results.get("checkpoint") == checkpoint else {}


def _trainable(bank: JoinedBank, with_shared: bool, total: int) -> dict[str, Any]:
    """Numbers that one adapted task trains: of the metaprompt's rows where there are any."""
    part = bank.parts["metaprompt"] if "metaprompt" in bank.parts else next(iter(bank.parts.values()))
    count = sum(p[0].numel() for n, p in part.named_parameters() if n != "shared_SLD" or with_shared)
    return {"count": count, "percent": 100 * count / total}


class Asker:
    """Asks one bank's rows, or without a bank a task's written instruction, for answers to a task's split.

    Collective: every rank calls alike and gets all answers.
    """

    def __init__(self, session: Session, bank: JoinedBank | None):
        self.session, self.bank, self.backbone = session, bank, session.backbone()
        self._asked: PromptBank = NoPrompts(session.model_config.hidden_size) if bank is None else bank
        self.instruction = ""
        self.n_truncated = 0  # generated answers of the last call that did not end by themselves

    def answers(self, task: TaskData, row: int) -> list[str]:
        """One answer text per example, in the split's order."""
        split = task.splits[self.session.config.evaluate.split]
        self.instruction = task.card.instruction
        likelihood = task.card.answer == "likelihood"
        with self.backbone.updated(self._asked.updates([row], [0])):  # one stretch: all tokens
            found = self._choose(split, row) if likelihood else self._generate(split, row)
        return [found.get(i, EMPTY) for i in range(len(split))]

    def _context(self, split: Split, index: int) -> list[int]:
        """Token ids between the prompt and the answer; an instruction is among them."""
        if self.bank is not None:
            return split.sample(index).context_ids
        return self.session.layout.instructed_ids(self.instruction, split.example(index).input_text)

    def _choose(self, split: Split, row: int) -> dict[int, str]:
        layout, place, per_token = self.session.layout, self.session.place, self.session.config.evaluate.likelihood == "mean"
        written = {i: split.example(i).options for i in split.kept}
        choices = [Choice(self._context(split, i), [layout.answer_ids(o) for o in written[i]]) for i in split.kept]
        if self.session.config.formulation == "packed":
            prompt_LD = self._asked.prompts(torch.tensor([row], device=self.backbone.device))[0].detach()
            found = option_likelihoods(self.backbone, prompt_LD, choices, self.session.config.token_budget, place.rank, world_size())
        else:
            found = self._plain_likelihoods(choices, row)
        best: dict[int, str] = {}
        for index, choice, sums in zip(split.kept, choices, found, strict=True):
            scores = [s / (len(ids) if per_token else 1) for s, ids in zip(sums, choice.options, strict=True)]
            scores = [-math.inf if math.isnan(s) else s for s in scores]
            best[index] = written[index][scores.index(max(scores))]
        return best

    def _plain_likelihoods(self, choices: list[Choice], row: int) -> list[list[float]]:
        """Every option behind its context and prompt anew."""
        items = [Item(row, Sample(c.context, ids), 0.0) for c in choices for ids in c.options]
        # the weight carries the item's number (from 1) through the cut into micro-batches; fillers have 0
        items = [replace(item, weight=float(n)) for n, item in enumerate(items, 1)]
        logp = torch.zeros(len(items) + 1, dtype=torch.float64)
        formulation = self.session.formulation()
        for group in formulation.micro_batches(items, self._asked):
            terms = formulation.cross_entropies(group, self._asked)
            logp.index_add_(0, terms.weights_N.long().cpu(), -terms.ce_N.double().cpu())
        sum_over_ranks(logp)
        values = iter(logp[1:].tolist())
        return [[next(values) for _ in c.options] for c in choices]

    def _generate(self, split: Split, row: int) -> dict[int, str]:
        config, layout, rank, world = self.session.config, self.session.layout, self.session.place.rank, world_size()
        order = sorted(split.kept, key=lambda i: -len(self._context(split, i)))
        mine = order[rank::world]  # of every length a share
        prompt_LD = self._asked.prompts(torch.tensor([row], device=self.backbone.device))[0].detach()
        contexts = [self._context(split, i) for i in mine]
        evaluate = config.evaluate
        if config.formulation == "packed":
            found = Greedy(self.backbone, prompt_LD, evaluate.max_new_tokens, layout.end_id, evaluate.batch, config.token_budget, world > 1)(contexts)
        else:
            found = self._plain(contexts, prompt_LD, -(-len(order) // world))
        own = {mine[number]: (layout.answer_text(ids), layout.end_id in ids) for number, ids in found}
        merged: dict[int, tuple[str, bool]] = {}
        for part in gather_objects(own):
            merged |= part
        self.n_truncated = sum(not ended for _, ended in merged.values())
        return {index: text for index, (text, _) in merged.items()}

    def _plain(self, contexts: list[list[int]], prompt_LD: Tensor, most: int) -> Iterator[tuple[int, list[int]]]:
        """By transformers' own generation, prompt and context anew for every sample; as many groups on every rank as the one with ``most`` has."""
        evaluate, end, pad = self.session.config.evaluate, self.session.layout.end_id, self.session.tokenizer.eos_id
        size = evaluate.batch
        for begin in range(0, most, size):
            group = contexts[begin : begin + size]
            asked = group or [[end]]  # for the other ranks' sake
            ids = self.backbone("generate", asked, prompt_LD.expand(len(asked), -1, -1), evaluate.max_new_tokens, end, pad, world_size() > 1)
            self.backbone.release()
            yield from ((begin + n, answer) for n, answer in enumerate(ids.tolist()[: len(group)]))


def _write_predictions(folder: Path, labels: dict[str, Any], split: Split, answers: Sequence[str]) -> None:
    """Model output on notes: protected like notes."""
    folder.mkdir(exist_ok=True, mode=0o700)
    lines = [json.dumps({"example_id": e.example_id, "answer": a}) for e, a in zip(split.examples(), answers, strict=True)]
    path = folder / f"{labels['task']}.{labels['method']}.{labels['shots']}.{labels['seed']}.jsonl"
    write_whole(path, "".join(line + "\n" for line in lines))
