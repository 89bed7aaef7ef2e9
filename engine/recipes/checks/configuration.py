"""A configuration against what it names: backbone card, corpora, tasks, folders, launcher. No torch.

What needs torch or transformers is checked afterwards, by ``RunContext``: the backbone's configuration and weights, its
tokenizer, and what depends on them (positions, vocabulary, packed rows of a family, the size of a checkpoint).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbones import BackboneCard, BackboneError, load_backbone_card
from clinical_tasks import TaskCard
from clinical_tasks.corpus import split_files
from engine import distributed
from engine.config import DataConfig, RunConfig, check_hashes, compared, expand_or_tell, value_at
from engine.core import UserError
from engine.data import load_cards, unknown_task
from engine.recipes.checks.run_state import state_of

READ_NOW = 50_000_000  # bytes of weights that are hashed in a fraction of a second
Splits = Mapping[str, Sequence[str]]  # configuration key of a list of tasks -> the splits that are read of each


class Corpora:
    """Task cards and the released files that are missing, each looked for once: a study may have a hundred cells."""

    def __init__(self) -> None:
        self._cards: dict[tuple[str, ...], dict[str, TaskCard]] = {}
        self._missing: dict[tuple[Any, ...], list[str]] = {}

    def cards(self, data: DataConfig) -> dict[str, TaskCard]:
        """As ``load_cards``."""
        folders = tuple(data.cards)
        if folders not in self._cards:
            self._cards[folders] = load_cards(data)
        return self._cards[folders]

    def missing(self, card: TaskCard, root: Path, split: str) -> list[str]:
        """Files that the split names and the data root lacks."""
        key = (str(card.path), card.name, root, split)
        if key not in self._missing:
            self._missing[key] = list(split_files(card, root, split).missing)
        return self._missing[key]


def distillation_problems(config: RunConfig, earlier: Sequence[Path] = (), corpora: Corpora | None = None) -> list[str]:
    """What ``distill`` can be refused with before torch is imported. Nothing is written.

    Args:
        earlier: run directories that the same study makes before this run. corpora: what it has read of them.
    """
    splits = ["train"]
    if config.teach.eval_interval or config.lr_sweep.relative_lr_teach:
        splits.append("validation")
    problems = required_problems(config, "distill.sources")
    problems += backbone_problems(config)
    problems += machine_problems(config)
    changed = run_dir_problems(config, "distill")
    problems += changed
    if not changed and is_complete(config, "distill"):
        return problems  # it reads no corpus and no teacher any more
    problems += task_problems(config, {"distill.sources": splits, "data.decontaminate_against": ["test"]}, corpora)
    if config.teach.run and (config.distill.lambda_kl or config.distill.lambda_hidden):
        folder = expand_or_tell(config.teach.run, "teach.run", problems)
        if folder is not None and folder not in earlier:
            problems += _teacher_problems(config, folder)
    if config.teach.adapters:
        folder = expand_or_tell(config.teach.adapters, "teach.adapters", problems)
        if folder is not None and not folder.is_dir():
            problems.append(f"teach.adapters: {folder} is not a folder; name one that holds PEFT adapters")
    return problems


def is_complete(config: RunConfig, stage: str) -> bool:
    """Whether the run directory holds this run, finished, so that it only says so."""
    if config.overwrite or config.accept_changes or not config.run_dir:
        return False
    folder = expand_or_tell(config.run_dir, "run_dir", [])
    found = None if folder is None else state_of(folder)
    return found is not None and found.completed and found.stage == stage


def benchmark_problems(config: RunConfig, mode: str, invented: bool, corpora: Corpora | None = None) -> list[str]:
    """What ``benchmark`` can be refused with; a stage on invented rows reads no corpus and no card.

    Args:
        mode: teach, distill or adapt. corpora: what was read for other cases.
    """
    problems = backbone_problems(config)
    if invented:
        return problems + machine_problems(config, ())
    key = "adapt.targets" if mode == "adapt" else "distill.sources"
    return problems + task_problems(config, {key: ["train"]}, corpora) + machine_problems(config, ("data.cache",))


def required_problems(config: RunConfig, *keys: str) -> list[str]:
    """Keys that a mode cannot do without and that have no value."""
    return [f"{key}: missing; this mode needs it" for key in keys if not value_at(config, key)]


def backbone_problems(config: RunConfig) -> list[str]:
    """What is wrong with the backbone's card and the files that it names. An absent key is told of elsewhere."""
    if not config.backbone:
        return []
    try:
        card = load_backbone_card(config.backbone)
    except BackboneError as error:
        if not Path(config.backbone).exists():
            return [f"backbone: {config.backbone} does not exist; name a backbone card, a YAML file"]
        return list(error.problems)
    return _position_problems(config, card)


def _position_problems(config: RunConfig, card: BackboneCard) -> list[str]:
    """Samples that are longer than the positions that the card, or the config.json that it names, states.

    Where neither states any, the family's own default decides: ``RunContext`` checks that.
    """
    stated = _stated(card).get("max_position_embeddings")
    length = config.prompt.num_virtual_tokens
    if isinstance(stated, int) and length + config.data.max_length > stated:
        return [
            f"data.max_length: {config.data.max_length} + prompt.num_virtual_tokens {length} is above the backbone's "
            f"{stated} positions"
        ]
    return []


def _stated(card: BackboneCard) -> dict[str, Any]:
    """A card's transformers configuration as it is written; what is wrong with it is told of later."""
    if card.random:
        return card.random
    try:
        content = json.loads((Path(card.path) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def backbone_differs(config: RunConfig, state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is surely of another backbone. Weights too large to be read here are compared later.

    Args:
        state: the checkpoint's own record.
    """
    from backbones.loading import backbone_fingerprint

    saved = state.get("hashes", {}).get("backbone")
    try:
        card = load_backbone_card(config.backbone)
        if config.dummy_weights and card.path:
            card = replace(card, dummy=True)
        if saved is None or (card.path and not card.dummy and _bytes_in(Path(card.path)) > READ_NOW):
            return False
        return bool(backbone_fingerprint(card) != saved)
    except (BackboneError, OSError):
        return False  # told of elsewhere


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def task_problems(config: RunConfig, splits: Splits, corpora: Corpora | None = None) -> list[str]:
    """Folders of cards, the data root, names of tasks, and released files that are not there.

    Args:
        splits: key of a list of tasks -> splits that are read of each; none: the cards alone.
    """
    problems: list[str] = []
    corpora = corpora or Corpora()
    reads_files, root = any(splits.values()), None
    if reads_files and config.data.root:
        root = expand_or_tell(config.data.root, "data.root", problems)
    if reads_files and not config.data.root:
        problems.append("data.root: missing; name the folder that holds the corpora")
    elif root is not None and not root.is_dir():
        problems.append(f"data.root: {root} is not a folder; name the one that holds the corpora")
        root = None
    try:
        cards = corpora.cards(config.data)
    except UserError as error:
        return problems + error.problems
    for key, wanted in splits.items():
        tasks = config.distill.tasks if key == "distill.sources" else value_at(config, key)
        for task in tasks:
            if task not in cards:
                problems.append(f"{key}: {unknown_task(task, cards)}")
            elif root is not None:
                problems += _file_problems(corpora, cards[task], root=root, splits=wanted)
    return list(dict.fromkeys(problems))


def _file_problems(corpora: Corpora, card: TaskCard, root: Path, splits: Sequence[str]) -> list[str]:
    problems = []
    for split in splits:
        if split not in card.splits:
            problems.append(f"task {card.name}: its card names no split {split!r} ({card.path})")
            continue
        missing = corpora.missing(card, root, split)
        if missing:
            problems.append(
                f"task {card.name}, split {split}: not found in {root / card.folder}: {', '.join(missing)}; put the "
                f"released files there, or correct splits.{split} in {card.path}"
            )
    return problems


def machine_problems(config: RunConfig, writes: distributed.Writes = distributed.TRAINS) -> list[str]:
    """The launcher's variables, a signal, a DeepSpeed file, the releases of libraries, and folders to write to."""
    problems: list[str] = []
    for check in (
        lambda: distributed.check_launcher(os.environ),
        lambda: distributed.signal_number(config.preempt_signal),
        lambda: config.deepspeed and Path(config.deepspeed).is_file() and distributed.read_deepspeed(config.deepspeed),
    ):
        try:
            check()
        except UserError as error:
            problems += error.problems
    untold: list[str] = []
    for key in ("run_dir", *(["data.cache"] if "data.cache" in writes else [])):
        expand_or_tell(value_at(config, key), key, untold)
    problems += untold
    if untold or not config.run_dir:  # a folder that is not named is told of elsewhere
        return problems
    problems += distributed.preflight_problems(config, 0, writes)
    if not distributed.may_have_gpu():  # with one, torch must say which library compiles
        problems += distributed.library_problems(with_gpu=False)
    return problems


def run_dir_problems(config: RunConfig, stage: str) -> list[str]:
    """What a checkpoint in the run directory depends on and this configuration says otherwise."""
    folder = expand_or_tell(config.run_dir, "run_dir", []) if config.run_dir else None
    if folder is None or config.overwrite:
        return []
    found = state_of(folder)
    if found is None or not found.state:
        return []
    if found.stage != stage:
        return [
            f"run_dir: {folder} holds a run of mode {found.stage}; name another folder, or give --overwrite=true to "
            "replace it"
        ]
    saved = found.state.get("hashes", {}).get("config")
    if not isinstance(saved, dict):
        return []
    now = compared(config, [key for key, value in saved.items() if isinstance(value, dict)])
    try:
        check_hashes({"config": saved}, now={"config": now}, run_dir=folder, accept=config.accept_changes)
    except UserError as error:
        return list(error.problems)
    return []


def _teacher_problems(config: RunConfig, folder: Path) -> list[str]:
    """What is wrong with the folder of ``teach.run``; whether its teachers fit is seen once they are read."""
    if not (folder / "teachers/COMPLETED").exists():
        return [f"teach.run: {config.teach.run} holds no finished teachers; run that distillation first"]
    return []
