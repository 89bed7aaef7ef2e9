"""A tiny Llama in fp64, invented token rows and short runs on them: one process, no DeepSpeed, no files but a run's
own.

fp64 makes invariances visible: what two orders of the same sum may differ by is 1e-15, what a wrong one differs by is
not.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones import BackboneCard, load_backbone_card
from engine.config.schema import RunConfig, known_keys
from engine.data.dataset import Sample, Split, TaskData
from engine.distributed.zero3 import ShardedBackbone
from engine.training.backbone_holder import BackboneHolder
from engine.training.run_directory import trainer_config
from engine.training.stage import Adapter, Stage, TrainerConfig
from engine.training.trainer import Trainer
from prompt_modules import SoftPromptBank
from prompt_modules.bank import JoinedBank
from tests.engine import asked_task, cached_teachers, exported_runs, interrupted_runs, merged_runs

ROOT = Path(__file__).parents[2]
LENGTH = 5  # of a prompt
TINY_RMS = 0.03987  # of the input embeddings of the fp64 backbone of these tests
TIMING = ("tokens_per_s", "mem", "mfu", "device_seconds")  # what no two launches share


bank, task = asked_task.bank, asked_task.task  # fixtures of several files
cached = cached_teachers.cached
source, adapted, cards = merged_runs.source, merged_runs.adapted, merged_runs.cards
models = exported_runs.models
build = interrupted_runs.build
nothing_asked_for, ctrl_c_is_not_ignored = interrupted_runs.nothing_asked_for, interrupted_runs.ctrl_c_is_not_ignored


@pytest.fixture(scope="session")
def card() -> BackboneCard:
    return load_backbone_card(ROOT / "configs/tiny/llama.yaml")


@pytest.fixture(scope="session")
def backbone(card: BackboneCard, exact_norms: Callable[..., None]) -> ShardedBackbone:
    """The tiny Llama, fp64, with weights from numpy: the same numbers under every torch and transformers release."""
    out = ShardedBackbone(card, deepspeed_file="", device=torch.device("cpu"), dtype=torch.float64)
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, parameter in sorted(out.model.named_parameters()):
            drawn = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
            # twice the usual spread: the untrained model must be sure enough of something for a prompt to matter
            parameter.copy_(1 + 0.1 * drawn if "norm" in name else 0.04 * drawn)
    exact_norms(out.model)
    return out


def token_rows(n: int, seed: int) -> Split:
    """``n`` invented rows of token ids; the answers, 1-5 of them, come from a vocabulary of four words that goes
    with ``seed % 100``.
    """
    from datasets import Dataset

    rng, words = np.random.default_rng(seed), 20 * (seed % 100) + np.array([5, 6, 7, 8])
    columns: dict[str, list[Any]] = {"context_ids": [], "answer_ids": [], "example": ["{}"] * n, "fits": [True] * n}
    for _ in range(n):
        columns["context_ids"].append(rng.integers(3, 1000, rng.integers(3, 10)).tolist())
        columns["answer_ids"].append(rng.choice(words, rng.integers(1, 6)).tolist())
    return Split(Dataset.from_dict(columns), f"invented-{n}-{seed}")


@pytest.fixture(scope="session")
def tasks() -> dict[str, TaskData]:
    """Three tasks of unequal size, each with a validation split."""
    sizes = {"alpha": 23, "beta": 6, "gamma": 11}
    return {
        n: TaskData(None, {"train": token_rows(s, i), "validation": token_rows(5, 100 + i)})
        for i, (n, s) in enumerate(sizes.items())
    }  # type: ignore[arg-type]


@pytest.fixture
def make_holder(backbone: ShardedBackbone, tmp_path: Path) -> Callable[..., BackboneHolder]:
    """``make_session(**{"distill.steps": 5})``: a session of a short run in a folder of its own, on the fp64
    backbone.
    """

    def make(name: str = "run", **changes: Any) -> BackboneHolder:
        base = {
            "run_dir": str(tmp_path / name),
            "backbone": str(ROOT / "configs/tiny/llama.yaml"),
            "sharding": "replicated",
            "max_tokens_per_micro_batch": 120,
            "prompt.num_virtual_tokens": LENGTH,
            "prompt.rank": 2,
            "teach.steps": 6,
            "teach.batch_size": 2,
            "teach.relative_lr": 0.1 / TINY_RMS,
            "teach.warmup_steps": 2,
            "teach.eval_interval": 0,
            "distill.sources": ["alpha", "beta", "gamma"],
            "distill.steps": 8,
            "distill.batch_size": 6,
            "distill.relative_lr_shared": 0.05 / TINY_RMS,
            "distill.lr_task": 0.05,
            "distill.warmup_steps": 2,
            "adapt.targets": ["alpha", "beta"],
            "adapt.steps": 5,
            "adapt.batch_size": 2,
            "adapt.warmup_steps": 2,
            "adapt.eval_interval": 0,
            "log.tensorboard": False,
            "log.interval": 1,
        }
        config = RunConfig()
        for key, value in {**base, **changes}.items():
            assert key in known_keys(), key
            section, _, leaf = key.rpartition(".")
            setattr(getattr(config, section) if section else config, leaf, value)
        holder = BackboneHolder.of(config)
        holder._backbone = backbone
        return holder

    return make


@pytest.fixture
def make_loop() -> Callable[..., Trainer]:
    """``make_loop(stage, session)``: the loop, with every master value in fp64. ``changes`` are settings."""

    def make(stage: Stage, holder: BackboneHolder, **changes: Any) -> Trainer:
        stage.bank.double()
        for group in stage.optimizer.groups.values():
            group.clear_moments()
        settings = TrainerConfig(**{**trainer_config(holder.context).__dict__, **changes})
        return Trainer(stage, holder.backbone(), settings)

    return make


@pytest.fixture
def teachers(backbone: ShardedBackbone) -> Callable[[int], JoinedBank]:
    """``teachers(3)``: frozen teachers, far enough from any start to have something to teach."""

    def make(n: int) -> JoinedBank:
        drawn = torch.from_numpy(
            np.random.default_rng(5).standard_normal((n, LENGTH, backbone.model.config.hidden_size))
        )
        return JoinedBank({"teacher": SoftPromptBank(0.3 * drawn)}, {"teacher": n}).requires_grad_(False)

    return make


@pytest.fixture
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """The logged lines of a run, without what no two launches share."""

    def read(run_dir: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]

    return read


class Fixed:
    """A sampler that reads its counts from a list: a row's own share of a mixture, steps without it left out."""

    def __init__(self, counts: Sequence[Sequence[int]]):
        self.rows_of_step = counts

    def counts(self, step: int, active: Sequence[bool]) -> list[int]:
        return [c if a else 0 for c, a in zip(self.rows_of_step[step], active, strict=True)]


@pytest.fixture
def fixed() -> type[Fixed]:
    return Fixed


@pytest.fixture
def naive_losses(backbone: ShardedBackbone) -> Callable[..., dict[str, list[Tensor]]]:
    """Per answer token of one sample, without batch, padding or shared code: ce, kl, hidden."""

    def states(sample: Sample, prompt_LD: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.tensor(sample.context_ids + sample.answer_ids)
        embeds = torch.cat([prompt_LD, backbone.model.get_input_embeddings()(ids)])[None]
        out = backbone.model(inputs_embeds=embeds, output_hidden_states=True, use_cache=False)
        first = len(prompt_LD) + len(sample.context_ids) - 1
        return out.hidden_states[-1][0, first:-1], out.logits[0, first:-1]

    def losses(
        sample: Sample, prompt_LD: Tensor, teacher_LD: Tensor | None = None, temperature: float = 1.0
    ) -> dict[str, list[Tensor]]:
        hidden, logits = states(sample, prompt_LD)
        found: dict[str, list[Tensor]] = {"kl": [], "hidden": []}
        found["ce"] = [-row.log_softmax(-1)[label] for row, label in zip(logits, sample.answer_ids, strict=True)]
        if teacher_LD is not None:
            with torch.no_grad():
                hidden_t, logits_t = states(sample, teacher_LD)
            for s, t in zip(logits, logits_t, strict=True):
                p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
                found["kl"].append(temperature**2 * (p * (p.log() - q.log())).sum())
            found["hidden"] = [(s - t).square().sum() / len(s) for s, t in zip(hidden, hidden_t, strict=True)]
        return found

    return losses


@pytest.fixture
def row_of() -> Callable[..., Adapter]:
    """``row_of("alpha", split, steps=3)``: a bank row whose data order is its name's."""
    from engine.data.sampling import seed_of

    def make(task: str, split: Split, steps: int = 0, validation: Split | None = None) -> Adapter:
        return Adapter(
            task, "teacher", "full", 0, split, list(split.sample_indices), seed_of(0, "order", task), validation, steps
        )

    return make


@pytest.fixture
def near() -> Callable[..., None]:
    def check(found: Tensor, wanted: Tensor, tolerance: float) -> None:
        """Equal to ``tolerance``, measured on the size of the tensor."""
        scale = max(wanted.abs().max().item(), 1e-300)
        off = (found - wanted).abs().max().item()
        assert math.isfinite(off) and off <= tolerance * scale, f"off by {off:.3g} of {scale:.3g}"

    return check
