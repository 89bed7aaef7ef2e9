"""The card beside exported prompts: what they are, what they were trained on and under which terms, how well they
do, what they are not.
"""

import json
import re
from pathlib import Path
from typing import Any

from backbones import BackboneCard
from engine.checkpoints import Checkpoint
from engine.config import resolve
from engine.data import load_cards
from engine.recipes.source_terms import TERMS, Record, outside_teachers, sources_of, terms
from engine.reporting import table

_TEXT = """---
library_name: peft
base_model: {backbone}
tags: [soft-prompt, clinical]
---
TITLE

Soft prompts of {length} virtual tokens for the frozen backbone `{backbone}`, in front of everything else, \
the token that begins a text included.
Template `{template}`; between input and answer stands {between}.

| task id | task | method | training examples | seed |
|---|---|---|---|---|
ROWS

## Trained on

{trained_on}
{outside}
{adapted_from}{derived}

Backbone's hash `{hashes[backbone]}`, layout's `{hashes[layout]}`, data's `{hashes[data]}`,
prompts' `{identity}`.{changes}

## Measured

{scores}

## Limits

A soft prompt can give away parts of what it was trained on: treat it as its corpora. Nothing here de-identifies \
anything. The scores are of the
corpora named, on the backbone named; other notes, other hospitals and other backbones were not tried. Not for \
decisions about patients.
"""


def model_card(run_dir: Path, backbone: BackboneCard, found: Checkpoint) -> str:
    """Markdown with the places ``{title}`` and ``{rows}``. Names, counts, licences, hashes; no path of the machine."""
    config = resolve(run_dir / "config.yaml", {"run_dir": str(run_dir)})
    own = terms(list(dict.fromkeys(row["task"] for row in found.state["rows"])), load_cards(config.data))
    sources = sources_of(found.state, config)
    behind = []
    for record in sources.values():
        if record:
            behind += record["tasks"]
    outside = found.state["stage"] == "distill" and outside_teachers(config)
    between = "what the template says"
    if backbone.template == "none":
        between = json.dumps(backbone.separator)
    text = _TEXT.format(
        backbone=backbone.name,
        length=config.prompt.num_virtual_tokens,
        template=backbone.template,
        between=between,
        trained_on=_terms_table(own),
        outside=_outside_note(outside),
        adapted_from=_adapted_from(sources, found.state),
        derived=_derived([*own, *behind], unknown=None in sources.values()),
        hashes=found.state["hashes"],
        identity=found.identity,
        changes=_changes(found.state),
        scores=_scores(run_dir, found),
    )
    text = re.sub(r"\n{3,}", "\n\n", text)  # where a part has nothing to say
    return text.replace("{", "{{").replace("}", "}}").replace("TITLE", "{title}").replace("ROWS", "{rows}")


_OUTSIDE = (
    "Their teachers were adapters from elsewhere, or of a run that is not there any more: what those were trained on "
    "is not known here.\n"
)
_UNKNOWN = "not known here"


def _outside_note(outside: bool) -> str:
    """A sentence on teachers that were trained elsewhere, if any were."""
    if outside:
        return _OUTSIDE
    return ""


def _terms_table(tasks: list[dict[str, str]]) -> str:
    rows = [["corpus", "licence", "access", "cite"]]
    for entry in tasks:
        licence, access = (entry[key] or _UNKNOWN for key in TERMS[:2])
        rows.append([entry["task"], licence, access, entry["citation"]])
    return table(rows)


def _adapted_from(sources: dict[str, Record | None], state: dict[str, Any]) -> str:
    """Of each method whose rows start from a distillation its source tasks, or that they are unknown."""
    text = ""
    for method, record in sources.items():
        identity = state["hashes"].get("sources", {}).get(method)
        which = "a distillation"
        if identity:
            which = f"a distillation (checkpoint `{identity}`)"
        if record is None:
            text += (
                f"**Sources of `{method}` unknown**: its rows start from {which}; the checkpoint does not name its "
                "source tasks, and it is not there as it was.\n\n"
            )
            continue
        text += f"Rows of `{method}`, and sums of them, start from {which} of these source tasks,\n"
        text += "and are derived from them too:\n\n"
        text += f"{_terms_table(record['tasks'])}\n{_outside_note(record['outside_teachers'])}\n"
    return text


def _derived(tasks: list[dict[str, str]], unknown: bool) -> str:
    """What the terms of all these tasks ask for; nothing where all are public."""
    names = list(dict.fromkeys(entry["task"] for entry in tasks if entry["access"] not in ("public", "")))
    unclear = list(dict.fromkeys(entry["task"] for entry in tasks if not entry["access"]))
    if unknown:
        unclear.append("sources unknown")
    told = []
    if names:
        needed = "whoever gets these files needs the same agreements"
        told.append(f"**Derived from data under agreement** ({', '.join(names)}): {needed}.")
    if unclear:
        needed = "treat these files as under agreement"
        told.append(f"**Derived from data of unknown terms** ({', '.join(unclear)}): {needed}.")
    return "\n".join(told)


def _changes(state: dict[str, Any]) -> str:
    if not state.get("changes"):
        return ""
    return "\nChanged on the way: " + "; ".join(state["changes"]) + "."


def _scores(run_dir: Path, found: Checkpoint) -> str:
    try:
        results = json.loads((run_dir / "results.json").read_text())
    except (OSError, ValueError):
        return "Not evaluated."
    if results.get("checkpoint") != found.identity:
        return "Not evaluated since it was last trained."
    rows = [["task", "method", "training examples", "metric", "mean", "seeds", "test examples"]]
    for name, task in results["tasks"].items():
        metric, n_test = task["metric"], str(task["n_test"])
        for method, by_shots in task["methods"].items():
            for shots, cell in by_shots.items():
                rows.append([name, method, shots, metric, f"{cell['mean']:.3f}", str(len(cell["seeds"])), n_test])
    return table(rows)
