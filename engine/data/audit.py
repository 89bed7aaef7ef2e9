"""``tasks check``: which corpora are there, whole and as published, how long in tokens, and whether tests are
unseen. One table, one JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clinical_tasks
from clinical_tasks import TaskCard
from clinical_tasks.audit import TokenLimits
from engine.config import DataConfig, EvaluateConfig, expand, expand_or_tell, read_switch, unknown_key
from engine.core import UserError
from engine.data.cards import load_cards

if TYPE_CHECKING:  # documents are compared by numpy, which a wrong flag does without
    from clinical_tasks import TaskCheck
    from clinical_tasks.audit import Overlap


@dataclass(frozen=True)
class TokenQuestion:
    """Flags as typed. No ``backbone``: tokens are not counted."""

    backbone: str = ""
    max_length: str = ""
    max_new_tokens: str = ""


@dataclass(frozen=True)
class OverlapQuestion:
    """Flags as typed. No tasks: all that are there."""

    wanted: str = "true"
    targets: Sequence[str] = field(default_factory=list)
    sources: Sequence[str] = field(default_factory=list)


def check_data(
    data_root: str,
    cards: Sequence[str] = (),
    tasks: Sequence[str] = (),
    output: str = "",
    tokens: TokenQuestion = TokenQuestion(),
    overlap: OverlapQuestion = OverlapQuestion(),  # noqa: B008
) -> None:
    """Print the table, write the JSON.

    Raises:
        UserError: all problems at once, after both.
    """
    problems = check_problems(data_root, cards, tasks=tasks, output=output, tokens=tokens, overlap=overlap)
    limits = None if problems else _limits(tokens, problems)
    if problems:
        raise UserError(problems)
    found, root, compare = (
        load_cards(DataConfig(cards=list(cards))),
        expand(data_root),
        overlap.wanted.lower() == "true",
    )
    chosen = {n: c for n, c in found.items() if not tasks or n in {*tasks, *overlap.targets, *overlap.sources}}
    checks = clinical_tasks.check_tasks(
        chosen, data_root=root, required=[*tasks, *overlap.targets, *overlap.sources], limits=limits
    )
    overlaps = _overlaps(chosen, checks, root, asked=overlap, problems=problems) if compare else None
    print(clinical_tasks.format_checks(checks, overlaps))
    if output:
        _write(expand(output), checks, overlaps, limits)
    problems += [p for c in checks for p in c.problems]
    if problems:
        raise UserError(problems)


def check_problems(
    data_root: str,
    cards: Sequence[str] = (),
    tasks: Sequence[str] = (),
    output: str = "",
    tokens: TokenQuestion = TokenQuestion(),
    overlap: OverlapQuestion = OverlapQuestion(),  # noqa: B008
) -> list[str]:
    """What is wrong with the flags of a check, and with what they name. No torch; corpora are not opened."""
    problems: list[str] = []
    try:
        found = load_cards(DataConfig(cards=list(cards)))
        named = {"tasks": tasks, "targets": overlap.targets, "sources": overlap.sources}
        for flag, names in named.items():
            for task in names:
                if task not in found:
                    problems.append(f"--{flag}: {unknown_key(task, found).replace('key', 'task', 1)}")
    except UserError as error:
        problems += error.problems
    root = expand_or_tell(data_root, "--data_root", problems)
    if root is not None and not root.is_dir():
        problems.append(f"--data_root: {root} is not a folder")
    read_switch(overlap.wanted, "--overlap", problems)
    file = expand_or_tell(output, "--output", problems) if output else None
    if file is not None and file.is_dir():
        problems.append(f"--output: {file} is a folder; name a file")
    _numbers(tokens, problems)
    if tokens.backbone:
        from backbones import BackboneError, load_backbone_card

        try:
            load_backbone_card(tokens.backbone)
        except BackboneError as error:
            problems += error.problems
    return problems


def _numbers(tokens: TokenQuestion, problems: list[str]) -> dict[str, int]:
    """The limits as numbers, where they are."""
    numbers = {"max_length": DataConfig().max_length, "max_new_tokens": EvaluateConfig().max_new_tokens}
    for name in numbers:
        text = getattr(tokens, name)
        if text and not (text.isdecimal() and int(text) > 0):
            problems.append(f"--{name}: must be a whole number > 0; got {text!r}")
        elif text:
            numbers[name] = int(text)
            if not tokens.backbone:
                problems.append(f"--{name}: needs --backbone, whose tokenizer counts")
    return numbers


def _limits(tokens: TokenQuestion, problems: list[str]) -> TokenLimits | None:
    numbers = _numbers(tokens, problems)
    if not tokens.backbone:
        return None
    from backbones import BackboneError, Layout, load_backbone_card, load_tokenizer

    try:
        card = load_backbone_card(tokens.backbone)
        layout = Layout(card, load_tokenizer(card.tokenizer, card.trust_remote_code))
    except BackboneError as error:
        problems += error.problems
        return None
    return TokenLimits(lambda text: len(layout.context_ids(text)), lambda text: len(layout.answer_ids(text)), **numbers)


def _overlaps(
    cards: dict[str, TaskCard], checks: "Sequence[TaskCheck]", root: Path, asked: OverlapQuestion, problems: list[str]
) -> "list[Overlap]":
    """Of the tasks whose splits could be read; a named one that could not has its problem already."""
    from clinical_tasks.audit import find_overlaps

    readable = {check.name: check.counts for check in checks}
    targets, sources = [], []
    for name, counts in readable.items():
        if counts.get("test") and (not asked.targets or name in asked.targets):
            targets.append(cards[name])
        if counts.get("train") and (not asked.sources or name in asked.sources):
            sources.append(cards[name])
    try:
        return find_overlaps(targets, sources, root).pairs
    except clinical_tasks.ReadError as error:
        problems.append(str(error))
        return []


def _write(
    path: Path, checks: "Sequence[TaskCheck]", overlaps: "Sequence[Overlap] | None", limits: TokenLimits | None
) -> None:
    content: dict[str, Any] = {"tasks": [{"status": check.status, **asdict(check)} for check in checks]}
    content["overlaps"] = None if overlaps is None else [asdict(overlap) for overlap in overlaps]
    content["limits"] = limits and {"max_length": limits.max_length, "max_new_tokens": limits.max_new_tokens}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(json.dumps(content, indent=1) + "\n")
