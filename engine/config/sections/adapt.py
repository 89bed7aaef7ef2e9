"""Adaptation: targets x methods x shots x seeds in one pass."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from engine.config import keys
from engine.config.methods import METHODS, UNTRAINED, MethodName

key = partial(keys.key, modes=("adapt",))
shots_key = partial(key, distinct=True, pattern="^(full|0|[1-9][0-9]*)$", wrong="must be full or a number")


@dataclass
class AdaptConfig:
    """What is adapted to which targets, from how many examples, and how."""

    source_run: str = key("", "Run directory of the distillation whose metaprompt is adapted.", in_step=False)
    targets: list[str] = key([], "Names of the target tasks, as in their cards.", distinct=True, on_merge="union")
    multitask_run: str = key(
        "",
        "For the method multitask_prompt: run directory of a distillation without teachers (distill.lambda_kl and "
        "distill.lambda_hidden are 0).",
        in_step=False,
    )
    methods: list[MethodName] = key(
        ["metaprompt", "prompt_tuning"],
        "Methods to compare. metaprompt: adapts the distilled prompt. multitask_prompt: adapts one made without "
        "teachers. prompt_tuning: a prompt for each task. lora: low-rank updates. Without training: instruction, "
        "in_context.",
        distinct=True,
        on_merge="union",
    )
    transfer: list[str] = key(
        [],
        "Source tasks for a transfer matrix: the metaprompt is also adapted from the factors of each of them alone, "
        "as method metaprompt@task:NAME.",
        distinct=True,
        on_merge="union",
    )
    shots: list[str] = shots_key(
        ["full"],
        "Training set sizes: full, or a number of examples. 0: zero-shot (prompt_tuning: its initial values). Few-shot "
        "sets are determined by the seed, nested, and stratified by label where answers are labels.",
        on_merge="union",
    )
    seeds: list[int] = key(
        [0], "Seeds; each draws its own few-shot set, data order and initial values.", distinct=True, on_merge="union"
    )
    steps: int = key(
        150, "Training steps of each adapted prompt or LoRA adapter (one per task, method, shots and seed).", above=0
    )
    batch_size: int = key(8, "Examples of each adapted prompt or LoRA adapter in a step.", above=0)
    init: str = key(
        "auto",
        "Initial values of the factors: mean_factors, mean_product, ones, or task:NAME (a source task's). auto: "
        "mean_factors for rank 1, mean_product for higher ranks.",
        pattern="^(auto|mean_factors|mean_product|ones|task:.*)$",
        wrong="must be one of auto, mean_factors, mean_product, ones, task:NAME",
    )
    train: Literal["factors", "all"] = key(
        "factors", "factors: train U and V. all: also train P*, a copy for each adapted prompt."
    )
    relative_lr_shared: float = key(
        0.3,
        "Peak learning rate of P* with train: all, in multiples of the RMS of the backbone's input embeddings.",
        at_least=0,
    )
    lr_task: float = key(0.1, "Peak learning rate of the task factors.", at_least=0)
    relative_lr_prompt: float = key(
        0.3,
        "Peak learning rate of prompt tuning, in multiples of the RMS of the backbone's input embeddings.",
        at_least=0,
    )
    lr_lora: float = key(1e-3, "Peak learning rate of LoRA.", at_least=0)
    lora_rank: int = key(16, "Rank r of LoRA; alpha equals r.", above=0)
    warmup_steps: int = key(10, "Steps of linear warm-up, in the steps of each adapted prompt.", at_least=0)
    schedule: Literal["constant", "linear", "cosine"] = key("linear", "Decay of the learning rate after the warm-up.")
    max_grad_norm: float = key(
        1.0, "Largest gradient norm of an adapted prompt or LoRA adapter; 0: no limit.", at_least=0
    )
    eval_interval: int = key(
        50,
        "Steps between validations of prompts that train on all data; each keeps its best step. 0: no validation, the "
        "last step is kept.",
        at_least=0,
        in_step=False,
    )
    patience: int = key(0, "Stop a prompt after this many validations without an improvement; 0: never.", at_least=0)
    few_shot_validation: bool = key(False, "Also let few-shot prompts choose their best step on the validation split.")

    def problems(self) -> list[str]:
        """What is impossible between the keys of this section."""
        problems = []
        for name in self.methods:
            if METHODS[name].missing:
                problems.append(f"adapt.methods: {name!r} is not here: {METHODS[name].missing}")
        if self.transfer and "metaprompt" not in self.methods:
            problems.append("adapt.transfer: needs the method metaprompt, which adapt.methods does not name")
        if self.methods and set(self.methods) <= set(UNTRAINED):
            problems.append(
                f"adapt.methods: {', '.join(self.methods)}: no method is trained, so there is no run to score; add a "
                "trained method, or score the written instruction with any finished run (python train.py evaluate "
                "--run DIR --evaluate.instruction=true)"
            )
        if "in_context" in self.methods and not set(self.shots) - {"0", "full"}:
            problems.append("adapt.shots: in_context takes its numbers of examples from here; at least one must be > 0")
        return problems
