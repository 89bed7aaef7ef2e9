"""The card beside exported prompts: what they are, what they were trained on and under which terms, how well they do, what they are not."""

import json
from pathlib import Path
from typing import Any

from backbones import BackboneCard
from engine.checkpoint import Checkpoint
from engine.data import load_cards
from engine.reporting.report import table
from engine.resolve import resolve


def model_card(run_dir: Path, backbone: BackboneCard, found: Checkpoint) -> str:
    """Markdown with the places ``{title}`` and ``{rows}``. Names, counts, licences, hashes; no path of the machine."""
    config = resolve(run_dir / "config.yaml", {"run_dir": str(run_dir)})
    known = load_cards(config.data)
    names = list(dict.fromkeys(row["task"] for row in found.state["rows"]))
    cards = [known[n] for n in names if n in known]
    terms = table([["corpus", "licence", "access", "cite"], *([c.name, c.licence, c.access, c.citation] for c in cards)])
    agreed = [c.name for c in cards if c.access != "public"]
    derived = f"**Derived from data under agreement** ({', '.join(agreed)}): whoever gets these files needs the same agreements." if agreed else ""
    length = config.prompt.length
    text = f"""---
library_name: peft
base_model: {backbone.name}
tags: [soft-prompt, clinical]
---
TITLE

Soft prompts of {length} virtual tokens for the frozen backbone `{backbone.name}`, in front of everything else, the token that begins a text included.
Template `{backbone.template}`; between input and answer stands {json.dumps(backbone.separator) if backbone.template == "none" else "what the template says"}.

| task id | task | method | training examples | seed |
|---|---|---|---|---|
ROWS

## Trained on

{terms}
{derived}

Backbone's hash `{found.state['hashes']['backbone']}`, layout's `{found.state['hashes']['layout']}`, data's `{found.state['hashes']['data']}`,
prompts' `{found.identity}`.{_changes(found.state)}

## Measured

{_scores(run_dir, found)}

## Limits

A soft prompt can give away parts of what it was trained on: treat it as its corpora. Nothing here de-identifies anything. The scores are of the
corpora named, on the backbone named; other notes, other hospitals and other backbones were not tried. Not for decisions about patients.
"""
    return text.replace("{", "{{").replace("}", "}}").replace("TITLE", "{title}").replace("ROWS", "{rows}")


def _changes(state: dict[str, Any]) -> str:
    return "\nChanged on the way: " + "; ".join(state["changes"]) + "." if state.get("changes") else ""


def _scores(run_dir: Path, found: Checkpoint) -> str:
    try:
        results = json.loads((run_dir / "results.json").read_text())
    except (OSError, ValueError):
        return "Not evaluated."
    if results.get("checkpoint") != found.identity:
        return "Not evaluated since it was last trained."
    rows = [
        [name, method, shots, task["metric"], f"{cell['mean']:.3f}", str(len(cell["seeds"])), str(task["n_test"])]
        for name, task in results["tasks"].items() for method, by in task["methods"].items() for shots, cell in by.items()
    ]  # fmt: skip
    return table([["task", "method", "training examples", "metric", "mean", "seeds", "test examples"], *rows])
