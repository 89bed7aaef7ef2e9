"""Answers of trained prompts, or of an untrained backbone, to a task's examples.

Choices are scored by the likelihood of each option's tokens, the end token included (``evaluate.likelihood: mean``: per
token). Everything else is generated greedily, with every rank in step.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clinical_tasks import TaskCard
from engine.data import Sample, TaskData
from engine.distributed import gather_objects, sum_over_ranks, world_size
from engine.evaluation.eval_targets import ScoredRow
from engine.evaluation.few_shot_context import Shown, common_start
from engine.evaluation.generation import Greedy
from engine.evaluation.multiple_choice import Choice, option_likelihoods
from engine.evaluation.prediction_store import InferenceStats, Prediction, PredictionInputs, PredictionStore
from engine.evaluation.vllm import model_name, served_answers
from engine.training import BackboneHolder
from prompt_modules import JoinedBank, NoPrompts, PromptBank

EMPTY = Prediction("")  # the answer of an example that could not be asked
CHUNK = 16  # packed rows of a rank whose choices are asked before their answers are written


class Predictor:
    """Asks one bank's rows, or without a bank a task's written instruction (with solved examples), for answers to a
    task's split.

    Collective: every rank calls alike and gets all answers.

    Args:
        solved: (input text, answer text) that stand in every context of an untrained backbone.
    """

    def __init__(self, holder: BackboneHolder, bank: JoinedBank | None, solved: Sequence[tuple[str, str]] = ()):
        self.holder, self.bank, self.backbone, self.solved = holder, bank, holder.backbone(), solved
        self._asked: PromptBank = NoPrompts(holder.context.model_config.hidden_size) if bank is None else bank
        # of the last call
        self.shown: Shown | None = None
        self.n_truncated = 0  # generated answers that did not end by themselves
        self.nothing_fits = False  # solved examples were given, and no context has room for one: nothing was asked
        self.work = InferenceStats()

    def answers(self, task: TaskData, row: int, store: PredictionStore | None = None) -> list[str]:
        """One answer text per example, in the split's order; those that ``store`` has are not asked again, and it takes
        in the others as they come.

        None at all where ``nothing_fits``.
        """
        split = task.splits[self.holder.context.config.evaluate.split]
        found = self.ask(task.card, split, row, store)
        if self.nothing_fits:
            return []
        every = [found.get(i, EMPTY) for i in range(len(split))]
        if store is not None and self.holder.context.is_main_process:
            store.finish(split, every)
        return [a.text for a in every]

    def ask(
        self, card: TaskCard, split: PredictionInputs, row: int, store: PredictionStore | None = None
    ) -> dict[int, Prediction]:
        """Answers to all that fits, by number."""
        earlier = self._earlier(split, store)
        self._begin(card)
        likelihood = card.answer == "likelihood"
        contexts = self._contexts(split, earlier, likelihood)
        self.nothing_fits = bool(self.solved) and self.shown is not None and not any(self.shown.used)
        if self.nothing_fits:
            self.work = InferenceStats()
            return {}
        begin, seconds = time.perf_counter(), 0.0
        new: dict[int, Prediction] = {}
        if contexts:  # alike on every rank
            with self.backbone.updated(self._asked.updates([row], [0])):  # one stretch: all tokens
                new = self._choose(split, contexts, row, store) if likelihood else self._generate(contexts, row, store)
            seconds = time.perf_counter() - begin
        self.work = InferenceStats(seconds, len(new), sum(a.tokens for a in new.values()), len(earlier))
        found = earlier | new
        self.n_truncated = sum(not a.ended for a in found.values())
        return found

    def key(self, card: TaskCard, split: PredictionInputs, row: ScoredRow) -> list[Any]:
        """All that a row's answers to a split depend on."""
        context, layout = self.holder.context, self.holder.context.layout
        config = context.config
        asked: list[Any]
        if row.bank is not None:
            asked = [row.checkpoint, row.number, row.labels]
        else:
            asked = [card.instruction, layout.instruction_first, self.solved]
        settings: list[Any] = [config.evaluate.max_new_tokens, config.evaluate.likelihood, config.data.max_length]
        if self.solved:
            settings.append(config.evaluate.max_context)
        if card.answer != "likelihood" and self._served(row.number):
            settings.append(f"served as {model_name(self.holder)}")  # its kernels are not ours
        return [1, context.backbone_hash, layout.fingerprint(), asked, card.answer, split.key, settings]

    # ---- contexts

    def _earlier(self, split: PredictionInputs, store: PredictionStore | None) -> dict[int, Prediction]:
        """Answers of an earlier command; what rank 0 finds is what all ranks leave out."""
        found: dict[int, Prediction] = {}
        if self.holder.context.is_main_process and store is not None:
            found = store.read(self.holder.context.config.overwrite)
        found = gather_objects(found)[0]
        return {i: found[i] for i in split.sample_indices if i in found}

    def _begin(self, card: TaskCard) -> None:
        if self.bank is None:
            positions = getattr(self.holder.context.model_config, "max_position_embeddings", None) or math.inf
            limit = min(self.holder.context.config.evaluate.max_context, positions)
            self.shown = Shown(self.holder.context.layout, card.instruction, self.solved, int(limit))

    def _contexts(
        self, split: PredictionInputs, earlier: dict[int, Prediction], likelihood: bool
    ) -> dict[int, list[int]]:
        """Token ids of all that is still to be asked, by number."""
        out: dict[int, list[int]] = {}
        for index in split.sample_indices:
            if index not in earlier:
                out[index] = self._context(split, index, likelihood)
            elif self.solved:  # examples in a context are counted over all contexts, asked now or not
                self._context(split, index, likelihood)
        return out

    def _context(self, split: PredictionInputs, index: int, likelihood: bool) -> list[int]:
        """Token ids between the prompt and the answer; an instruction is among them."""
        if self.shown is None:
            return split.sample(index).context_ids
        example = split.example(index)
        room = self.holder.context.config.evaluate.max_new_tokens
        if likelihood:
            room = max(len(self.holder.context.layout.answer_ids(o)) for o in example.options)
        return self.shown.context(example.input_text, room)

    def _begun(self, row: int, contexts: dict[int, list[int]]) -> tuple[Tensor, dict[int, list[int]]]:
        """The soft prompt (L, D) of a row, and what follows it in every context.

        Without a bank, what all contexts begin with (the instruction, solved examples) is read once, in the prompt's
        place.
        """
        prompt_LD = self._asked.prompts(torch.tensor([row], device=self.backbone.device))[0].detach()
        n = 0
        if self.bank is None and self.holder.context.config.batching == "packed":
            n = common_start(list(contexts.values()))
        if not n:
            return prompt_LD, contexts
        start = next(iter(contexts.values()))[:n]
        start_LD = self.backbone.embed(torch.tensor(start)).to(self.backbone.device)
        return start_LD, {index: ids[n:] for index, ids in contexts.items()}

    # ---- choices

    def _choose(
        self, split: PredictionInputs, contexts: dict[int, list[int]], row: int, store: PredictionStore | None
    ) -> dict[int, Prediction]:
        layout, config = self.holder.context.layout, self.holder.context.config
        prompt_LD, contexts = self._begun(row, contexts)
        options, choices = {}, {}
        for index, ids in contexts.items():
            options[index] = split.example(index).options
            choices[index] = Choice(ids, list(map(layout.answer_ids, options[index])))
        best: dict[int, Prediction] = {}
        for chunk in _chunks(choices, CHUNK * world_size() * config.max_tokens_per_micro_batch):
            asked = [choices[index] for index in chunk]
            likelihoods = self._likelihoods(asked, prompt_LD, row)
            for index, choice, sums in zip(chunk, asked, likelihoods, strict=True):
                number = _best_option(choice, sums, config.evaluate.likelihood == "mean")
                best[index] = Prediction(options[index][number])
                if store is not None and self.holder.context.is_main_process:
                    store.add(index, best[index])
        if store is not None:
            store.close()
        return best

    def _likelihoods(self, choices: list[Choice], prompt_LD: Tensor, row: int) -> list[list[float]]:
        """Summed log-probability of every option of every choice."""
        config = self.holder.context.config
        if config.batching != "packed":
            return self._plain_likelihoods(choices, row)
        rank = self.holder.context.env.rank
        return option_likelihoods(
            self.backbone, prompt_LD, choices, config.max_tokens_per_micro_batch, rank, world=world_size()
        )

    def _plain_likelihoods(self, choices: list[Choice], row: int) -> list[list[float]]:
        """Every option behind its context and prompt anew."""
        samples: list[Sample] = []
        for choice in choices:
            for ids in choice.options:
                # the weight carries the sample's number (from 1) through the cut into micro-batches; fillers have 0
                samples.append(Sample(choice.context, ids, row=row, weight=float(len(samples) + 1)))
        logp = torch.zeros(len(samples) + 1, dtype=torch.float64)
        forward_backward = self.holder.forward_backward()
        for group in forward_backward.micro_batches(samples, self._asked):
            terms = forward_backward.cross_entropies(group, self._asked)
            logp.index_add_(0, terms.weights_N.long().cpu(), -terms.ce_N.double().cpu())
        sum_over_ranks(logp)
        n_options = [len(choice.options) for choice in choices]
        return [part.tolist() for part in logp[1:].split(n_options)]

    # ---- generation

    def _generate(
        self, contexts: dict[int, list[int]], row: int, store: PredictionStore | None
    ) -> dict[int, Prediction]:
        rank, world = self.holder.context.env.rank, world_size()
        prompt_LD, contexts = self._begun(row, contexts)
        order = sorted(contexts, key=lambda index: -len(contexts[index]))
        mine = order[rank::world]  # of every length a share
        own_contexts, most = [contexts[index] for index in mine], -(-len(order) // world)
        own: dict[int, Prediction] = {}
        for number, answered in self._generated(own_contexts, prompt_LD, row, most):
            own[mine[number]] = answered
            if store is not None:
                store.add(mine[number], answered)
        if store is not None:
            store.close()
        merged: dict[int, Prediction] = {}
        for part in gather_objects(own):
            merged |= part
        return merged

    def _generated(
        self, contexts: list[list[int]], prompt_LD: Tensor, row: int, most: int
    ) -> Iterator[tuple[int, Prediction]]:
        """Number of this rank's context and its answer, as they come, by a server or the backbone here.

        Args:
            most: contexts of the rank that has the most.
        """
        config, end_id = self.holder.context.config, self.holder.context.layout.end_id
        settings = config.evaluate
        if self._served(row):
            yield from served_answers(
                self.backbone, prompt_LD, contexts, most, e=settings, model=model_name(self.holder), end_id=end_id
            )
            return
        found: Iterable[tuple[int, list[int]]]
        if config.batching == "packed":
            greedy = Greedy(
                self.backbone,
                prompt_LD,
                max_new_tokens=settings.max_new_tokens,
                end_id=end_id,
                width=settings.batch_size,
                max_tokens_per_micro_batch=config.max_tokens_per_micro_batch,
                synced=world_size() > 1,
            )
            found = greedy(contexts)
        else:
            found = self._plain(contexts, prompt_LD, most)
        for number, ids in found:
            yield number, self._answered(ids)

    def _served(self, row: int) -> bool:
        """Whether a server generates a row's answers: what changes linear layers cannot be sent to one."""
        return bool(self.holder.context.config.evaluate.server) and self._asked.updates([row], [0]) is None

    def _answered(self, ids: list[int]) -> Prediction:
        layout = self.holder.context.layout
        text = layout.answer_text(ids)
        if layout.end_id in ids:
            return Prediction(text, ended=True, tokens=ids.index(layout.end_id) + 1)
        return Prediction(text, ended=False, tokens=len(ids))

    def _plain(self, contexts: list[list[int]], prompt_LD: Tensor, most: int) -> Iterator[tuple[int, list[int]]]:
        """By transformers' own generation, prompt and context anew for every sample; as many groups on every rank
        as the one with ``most`` has.
        """
        settings, end, pad = (
            self.holder.context.config.evaluate,
            self.holder.context.layout.end_id,
            self.holder.context.tokenizer.eos_id,
        )
        for begin in range(0, most, settings.batch_size):
            group = contexts[begin : begin + settings.batch_size]
            asked = group or [[end]]  # for the other ranks' sake
            prompts_BLD = prompt_LD.expand(len(asked), -1, -1)
            synced = world_size() > 1
            ids = self.backbone.generate(
                asked, prompts_BLD, settings.max_new_tokens, end_id=end, pad_id=pad, synced=synced
            )
            self.backbone.release()
            yield from enumerate(ids.tolist()[: len(group)], begin)


def _best_option(choice: Choice, likelihoods: Sequence[float], per_token: bool) -> int:
    """Number of the option with the largest log-likelihood. One that is NaN is the least likely."""
    scores = []
    for likelihood, ids in zip(likelihoods, choice.options, strict=True):
        if math.isnan(likelihood):
            likelihood = -math.inf
        scores.append(likelihood / len(ids) if per_token else likelihood)
    return scores.index(max(scores))


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
