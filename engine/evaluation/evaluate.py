"""Answers of trained prompts on test (or validation) splits, scored by the tasks' official metrics.

Choices are scored by the likelihood of each option's tokens, the end token included (``evaluate.likelihood: mean``: per
token); everything else is generated greedily, with every rank in step. An example that was too long for the run counts
as an empty answer.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clinical_tasks
from backbones import parameter_count
from clinical_tasks import TaskCard
from engine.core import UserError, write_atomic
from engine.data import Item, Sample, TaskData, read_overlap_record, target_overlap_record
from engine.distributed import gather_objects, sum_over_ranks, world_size
from engine.evaluation.aggregate import average, identities, made_with, summarise
from engine.evaluation.eval_targets import ScoredRow, rows_of_run, shown_examples
from engine.evaluation.few_shot_context import Shown, common_start
from engine.evaluation.generation import Greedy
from engine.evaluation.multiple_choice import Choice, option_likelihoods
from engine.evaluation.prediction_store import InferenceStats, Prediction, PredictionInputs, PredictionStore
from engine.evaluation.run_summary import cost_and_tuning, trainable_counts
from engine.evaluation.vllm import announce, model_name, served_answers
from engine.telemetry import write_hparams
from engine.training import RunContext
from prompt_modules import JoinedBank, NoPrompts, PromptBank

EMPTY = Prediction("")  # the answer of an example that could not be asked
CHUNK = 16  # packed rows of a rank whose choices are asked before their answers are written


def evaluate_run(run_context: RunContext, only: Sequence[str]) -> dict[str, Any]:
    """Score every row of a run (and, of a distillation, its teachers); write results.json and predictions/ (or
    results_validation.json, ...).

    Raises:
        UserError: the run is not finished, or ``only`` names tasks it does not have.
    """
    run_dir, on = run_context.run_dir, run_context.config.evaluate.split
    suffix = "" if on == "test" else f"_{on}"
    file = run_dir / f"results{suffix}.json"
    rows, bank, found = rows_of_run(run_context)
    role = "target" if found.state["stage"] == "adapt" else "source"
    names = list(dict.fromkeys(row.labels["task"] for row in rows))
    unknown = [t for t in only if t not in names]
    if unknown:
        raise UserError([f"--tasks: {t!r} is not in {run_dir}; it has {', '.join(names)}" for t in unknown])
    every, names = names, [n for n in names if not only or n in only]
    shows = any(row.labels["method"] == "in_context" for row in rows)
    data = run_context.data({name: [on, "train"] if shows else [on] for name in names})
    announce(run_context)
    backbone = run_context.backbone()
    scored: list[dict[str, Any]] = []
    unfilled: dict[str, dict[str, dict[str, str]]] = {}  # task -> method -> shots -> why there is no score
    work = {name: InferenceStats() for name in names}
    for name in names:
        card, split = data[name].card, data[name].splits[on]
        for row in (r for r in rows if r.labels["task"] == name):
            shown = (
                shown_examples(data[name].splits["train"], row.labels, run_context.config.seed)
                if row.labels["method"] == "in_context"
                else []
            )
            asker = Predictor(run_context, None if row.bank is None else row.bank.to(backbone.device), shown)
            key = asker.key(card, split, row)
            answers = asker.answers(
                data[name],
                row.number,
                PredictionStore(run_dir / f"predictions{suffix}", row.name, key, run_context.place.rank),
            )
            for line in _said_of_examples(asker, row.labels, run_context.config.evaluate.max_context):
                run_context.print_rank0(line)
            if asker.nothing_fits:
                reason = f"no solved example fits evaluate.max_context={run_context.config.evaluate.max_context}"
                unfilled.setdefault(name, {}).setdefault(row.labels["method"], {})[row.labels["shots"]] = reason
                continue
            outcome = clinical_tasks.evaluate(
                card, split.examples(), answers, resamples=run_context.config.evaluate.resamples
            )
            counts = {
                "n_dropped": split.n_dropped,
                "n_truncated": asker.n_truncated,
                **(asker.shown.told() if shown and asker.shown else {}),
            }
            scored.append({**row.labels, **vars(outcome), "best_step": row.best_step, **counts})
            work[name].add(asker.work)
            labels, back = row.labels, f" ({asker.work.read_back} answers read back)" if asker.work.read_back else ""
            run_context.print_rank0(
                f"{name} {labels['method']} {labels['shots']} seed {labels['seed']}: {card.metric} "
                f"{outcome.scores[card.metric]:.3f}{back}"
            )
        run_context.print_rank0(f"{name}: {work[name].line()}")
    tasks = summarise(
        scored, {n: d.card for n, d in data.items()}, {n: len(d.splits[on]) for n, d in data.items()}, role
    )["tasks"]
    earlier = _earlier(file, found.identity)
    for name, task in tasks.items():
        card = data[name].card
        if name in unfilled:
            task["unfilled"] = unfilled[name]
        task["rules"] = {m: clinical_tasks.rule(card, m) for m in (card.metric, *card.extra_metrics)}
        generated = "generated by a server" if run_context.config.evaluate.server else "generated"
        task["answers"] = (
            f"options by likelihood ({run_context.config.evaluate.likelihood})"
            if card.answer == "likelihood"
            else generated
        )
        # where nothing was asked, what was measured when it was
        task["answering"] = (
            vars(work[name]) if work[name].answers else earlier.get(name, {}).get("answering", vars(work[name]))
        )
    results: dict[str, Any] = {"checkpoint": found.identity, "tasks": earlier | tasks}
    # a mean over some of the targets would not compare with one over all
    results["average"] = average(results["tasks"]) if set(every) <= results["tasks"].keys() else {}
    results["backbone"] = run_context.card.name
    results |= made_with() | {"hashes": identities(found.state["hashes"])}
    overlap = (
        target_overlap_record(run_dir, list(results["tasks"])) if role == "target" else read_overlap_record(run_dir)
    )
    if overlap is not None:
        results["overlap"] = overlap
    if found.state.get("changes"):
        results["changes"] = found.state["changes"]
    results["trainable"] = trainable_counts(
        bank, run_context.config.adapt.train == "all" and role == "target", parameter_count(backbone.model)
    )
    results |= cost_and_tuning(run_dir, found.state["rows"], found.state["progress"])
    if run_context.is_main_process:
        write_atomic(file, json.dumps(results, indent=1))
        if run_context.config.log.tensorboard and not suffix:
            whole = average(results["tasks"], role) if set(every) <= results["tasks"].keys() else {}
            write_hparams(run_dir, run_context.config, whole, results.get("tuning", {}))
        run_context.print_rank0(
            f"results in {file}" + ("" if suffix else f"; next: python train.py report --runs {run_dir}")
        )
    return results


def _said_of_examples(asker: "Predictor", labels: Mapping[str, Any], most: int) -> list[str]:
    """A warning where contexts that should hold solved examples hold none."""
    if not asker.solved or asker.shown is None:
        return []
    row = f"{labels['task']} {labels['method']} {labels['shots']} seed {labels['seed']}"
    fix = f"evaluate.max_context={most} and the backbone's positions bound a context"
    if asker.nothing_fits:
        return [f"WARNING {row}: no solved example fits any context, so there is no score; {fix}"]
    without = asker.shown.used.count(0)
    if without:
        return [f"WARNING {row}: {without} of {len(asker.shown.used)} contexts hold no solved example; {fix}"]
    return []


def _earlier(path: Path, checkpoint: str) -> dict[str, Any]:
    """Tasks evaluated before, of the same checkpoint."""
    try:
        results = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return results["tasks"] if results.get("checkpoint") == checkpoint else {}


class Predictor:
    """Asks one bank's rows, or without a bank a task's written instruction (with solved examples), for answers to a
    task's split.

    Collective: every rank calls alike and gets all answers.

    Args:
        solved: (input text, answer text) that stand in every context of an untrained backbone.
    """

    def __init__(self, run_context: RunContext, bank: JoinedBank | None, solved: Sequence[tuple[str, str]] = ()):
        self.run_context, self.bank, self.backbone, self.solved = run_context, bank, run_context.backbone(), solved
        self._asked: PromptBank = NoPrompts(run_context.model_config.hidden_size) if bank is None else bank
        # of the last call
        self.shown: Shown | None = None
        self.n_truncated = 0  # generated answers that did not end by themselves
        self.nothing_fits = False  # solved examples were given, and no context has room for one: nothing was asked
        self.work = InferenceStats()

    def answers(self, task: TaskData, row: int, kept: PredictionStore | None = None) -> list[str]:
        """One answer text per example, in the split's order; those that ``kept`` has are not asked again, and it takes
        in the others as they come.

        None at all where ``nothing_fits``.
        """
        split = task.splits[self.run_context.config.evaluate.split]
        found = self.ask(task.card, split, row, kept)
        if self.nothing_fits:
            return []
        every = [found.get(i, EMPTY) for i in range(len(split))]
        if kept is not None and self.run_context.is_main_process:
            kept.finish(split, every)
        return [a.text for a in every]

    def ask(
        self, card: TaskCard, split: PredictionInputs, row: int, kept: PredictionStore | None = None
    ) -> dict[int, Prediction]:
        """Answers to all that fits, by number."""
        is_main_process, fresh = self.run_context.is_main_process, self.run_context.config.overwrite
        earlier = kept.read(fresh) if is_main_process and kept is not None else {}
        earlier = gather_objects(earlier)[0]  # what rank 0 found is what all leave out
        earlier = {i: earlier[i] for i in split.kept if i in earlier}
        self._begin(card)
        likelihood = card.answer == "likelihood"
        # examples in a context are counted over all contexts, asked now or not
        contexts = {i: self._context(split, i, likelihood) for i in split.kept if i not in earlier or self.solved}
        contexts = {i: ids for i, ids in contexts.items() if i not in earlier}
        self.nothing_fits = bool(self.solved) and self.shown is not None and not any(self.shown.used)
        if self.nothing_fits:
            self.work = InferenceStats()
            return {}
        begin = time.perf_counter()
        new: dict[int, Prediction] = {}
        if contexts:  # alike on every rank
            with self.backbone.updated(self._asked.updates([row], [0])):  # one stretch: all tokens
                new = self._choose(split, contexts, row, kept) if likelihood else self._generate(contexts, row, kept)
        self.work = InferenceStats(
            time.perf_counter() - begin if new else 0.0, len(new), sum(a.tokens for a in new.values()), len(earlier)
        )
        found = earlier | new
        self.n_truncated = sum(not a.ended for a in found.values())
        return found

    def key(self, card: TaskCard, split: PredictionInputs, row: ScoredRow) -> list[Any]:
        """All that a row's answers to a split depend on."""
        s, layout = self.run_context, self.run_context.layout
        asked = (
            [row.checkpoint, row.number, row.labels]
            if row.bank is not None
            else [card.instruction, layout.instruction_first, self.solved]
        )
        settings: list[Any] = [s.config.evaluate.max_new_tokens, s.config.evaluate.likelihood, s.config.data.max_length]
        if self.solved:
            settings.append(s.config.evaluate.max_context)
        if s.config.evaluate.server and card.answer != "likelihood" and self._asked.updates([row.number], [0]) is None:
            settings.append(f"served as {model_name(s)}")  # its kernels are not ours
        return [1, s.backbone_hash, layout.fingerprint(), asked, card.answer, split.key, settings]

    def _begin(self, card: TaskCard) -> None:
        if self.bank is None:
            positions = getattr(self.run_context.model_config, "max_position_embeddings", None) or math.inf
            limit = min(self.run_context.config.evaluate.max_context, positions)
            self.shown = Shown(self.run_context.layout, card.instruction, self.solved, int(limit))

    def _context(self, split: PredictionInputs, index: int, likelihood: bool) -> list[int]:
        """Token ids between the prompt and the answer; an instruction is among them."""
        if self.shown is None:
            return split.sample(index).context_ids
        example = split.example(index)
        room = (
            max(len(self.run_context.layout.answer_ids(o)) for o in example.options)
            if likelihood
            else self.run_context.config.evaluate.max_new_tokens
        )
        return self.shown.context(example.input_text, room)

    def _before(self, prompt_LD: Tensor, contexts: list[list[int]]) -> tuple[Tensor, list[list[int]]]:
        """Without a bank, what all contexts begin with (the instruction, solved examples) is read once, in a soft
        prompt's place.
        """
        n = common_start(contexts) if self.bank is None and self.run_context.config.batching == "packed" else 0
        if not n:
            return prompt_LD, contexts
        return self.backbone.embed(torch.tensor(contexts[0][:n])).to(self.backbone.device), [
            ids[n:] for ids in contexts
        ]

    def _choose(
        self, split: PredictionInputs, contexts: dict[int, list[int]], row: int, kept: PredictionStore | None
    ) -> dict[int, Prediction]:
        layout, place, config = self.run_context.layout, self.run_context.place, self.run_context.config
        prompt_LD = self._asked.prompts(torch.tensor([row], device=self.backbone.device))[0].detach()
        prompt_LD, cut = self._before(prompt_LD, list(contexts.values()))
        written = {i: split.example(i).options for i in contexts}
        choices = {
            i: Choice(ids, [layout.answer_ids(o) for o in written[i]]) for i, ids in zip(contexts, cut, strict=True)
        }
        best: dict[int, Prediction] = {}
        for chunk in _chunks(choices, CHUNK * world_size() * config.max_tokens_per_micro_batch):
            asked = [choices[i] for i in chunk]
            if config.batching == "packed":
                found = option_likelihoods(
                    self.backbone, prompt_LD, asked, config.max_tokens_per_micro_batch, place.rank, world_size()
                )
            else:
                found = self._plain_likelihoods(asked, row)
            for index, choice, sums in zip(chunk, asked, found, strict=True):
                scores = [
                    s / (len(ids) if config.evaluate.likelihood == "mean" else 1)
                    for s, ids in zip(sums, choice.options, strict=True)
                ]
                scores = [-math.inf if math.isnan(s) else s for s in scores]
                best[index] = Prediction(written[index][scores.index(max(scores))])
                if kept is not None and self.run_context.is_main_process:
                    kept.add(index, best[index])
        if kept is not None:
            kept.close()
        return best

    def _plain_likelihoods(self, choices: list[Choice], row: int) -> list[list[float]]:
        """Every option behind its context and prompt anew."""
        items = [Item(row, Sample(c.context, ids), 0.0) for c in choices for ids in c.options]
        # the weight carries the item's number (from 1) through the cut into micro-batches; fillers have 0
        items = [replace(item, weight=float(n)) for n, item in enumerate(items, 1)]
        logp = torch.zeros(len(items) + 1, dtype=torch.float64)
        forward_backward = self.run_context.forward_backward()
        for group in forward_backward.micro_batches(items, self._asked):
            terms = forward_backward.cross_entropies(group, self._asked)
            logp.index_add_(0, terms.weights_N.long().cpu(), -terms.ce_N.double().cpu())
        sum_over_ranks(logp)
        values = iter(logp[1:].tolist())
        return [[next(values) for _ in c.options] for c in choices]

    def _generate(
        self, contexts: dict[int, list[int]], row: int, kept: PredictionStore | None
    ) -> dict[int, Prediction]:
        config, layout, rank, world = (
            self.run_context.config,
            self.run_context.layout,
            self.run_context.place.rank,
            world_size(),
        )
        prompt_LD = self._asked.prompts(torch.tensor([row], device=self.backbone.device))[0].detach()
        prompt_LD, cut = self._before(prompt_LD, list(contexts.values()))
        contexts = dict(zip(contexts, cut, strict=True))
        order = sorted(contexts, key=lambda i: -len(contexts[i]))
        mine = order[rank::world]  # of every length a share
        evaluate, own_contexts, most = config.evaluate, [contexts[i] for i in mine], -(-len(order) // world)
        answers: Iterable[tuple[int, Prediction]]
        if evaluate.server and self._asked.updates([row], [0]) is None:  # what changes linear layers cannot be sent
            answers = served_answers(
                self.backbone, prompt_LD, own_contexts, most, evaluate, model_name(self.run_context), layout.end_id
            )
        elif config.batching == "packed":
            greedy = Greedy(
                self.backbone,
                prompt_LD,
                evaluate.max_new_tokens,
                layout.end_id,
                evaluate.batch_size,
                config.max_tokens_per_micro_batch,
                world > 1,
            )
            answers = map(self._answered, greedy(own_contexts))
        else:
            answers = map(self._answered, self._plain(own_contexts, prompt_LD, most))
        own: dict[int, Prediction] = {}
        for number, answered in answers:
            own[mine[number]] = answered
            if kept is not None:
                kept.add(mine[number], answered)
        if kept is not None:
            kept.close()
        merged: dict[int, Prediction] = {}
        for part in gather_objects(own):
            merged |= part
        return merged

    def _answered(self, found: tuple[int, list[int]]) -> tuple[int, Prediction]:
        number, ids = found
        end_id = self.run_context.layout.end_id
        ended = end_id in ids
        return number, Prediction(
            self.run_context.layout.answer_text(ids), ended, ids.index(end_id) + 1 if ended else len(ids)
        )

    def _plain(self, contexts: list[list[int]], prompt_LD: Tensor, most: int) -> Iterator[tuple[int, list[int]]]:
        """By transformers' own generation, prompt and context anew for every sample; as many groups on every rank
        as the one with ``most`` has.
        """
        evaluate, end, pad = (
            self.run_context.config.evaluate,
            self.run_context.layout.end_id,
            self.run_context.tokenizer.eos_id,
        )
        size = evaluate.batch_size
        for begin in range(0, most, size):
            group = contexts[begin : begin + size]
            asked = group or [[end]]  # for the other ranks' sake
            ids = self.backbone(
                "generate",
                asked,
                prompt_LD.expand(len(asked), -1, -1),
                evaluate.max_new_tokens,
                end,
                pad,
                world_size() > 1,
            )
            self.backbone.release()
            yield from ((begin + n, answer) for n, answer in enumerate(ids.tolist()[: len(group)]))


def _chunks(choices: dict[int, Choice], tokens: int) -> Iterator[list[int]]:
    """Numbers of the choices, the shortest first, cut where so many tokens are together: how much a kill can cost."""
    chunk: list[int] = []
    size = 0
    for index in sorted(choices, key=lambda i: choices[i].tokens):
        if chunk and size + choices[index].tokens > tokens:
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += choices[index].tokens
    if chunk:
        yield chunk
