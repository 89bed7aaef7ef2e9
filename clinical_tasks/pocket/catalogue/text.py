"""The YAML of a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from clinical_tasks.pocket.catalogue.forms import Content
from clinical_tasks.pocket.catalogue.sources import SOURCE_CARDS
from clinical_tasks.pocket.catalogue.targets import TARGET_CARDS

# Splits that the release has no file for: split -> (the split that they are held out of, its share).
_HELD_OUT: dict[str, dict[str, tuple[str, float]]] = {
    "pocket_pubmedqa": {"validation": ("train", 0.09)},
    "pocket_medmcqa": {"validation": ("train", 0.09)},
    "pocket_emrqa": {"validation": ("train", 0.08), "test": ("train", 0.12)},
    "pocket_mimic_cxr_impressions": {"validation": ("train", 0.09)},
    "pocket_meqsum": {"validation": ("train", 0.08), "test": ("train", 0.12)},
    "pocket_medbullets": {"train": ("test", 0.8), "validation": ("test", 0.08)},
    "pocket_radnli": {"validation": ("train", 0.09)},
    "pocket_probsum": {"validation": ("train", 0.09)},
}
# PubMedQA is one file; a list of ids says which of its rows are the test split.
_ID_LISTS = {
    "pocket_pubmedqa": {
        "train": {"ids_not_in": "test_ground_truth.json"},
        "test": {"ids_from": "test_ground_truth.json"},
    },
}
_HEAD = "# Invented notes: python -m clinical_tasks.pocket --output DIR writes them, and this card.\n"


def card_text(name: str, sizes: Mapping[str, int]) -> str:
    """The YAML of a card whose corpus has these many documents in each split."""
    content = SOURCE_CARDS.get(name) or TARGET_CARDS[name]
    role = "source" if name in SOURCE_CARDS else "target"
    whole = {
        "name": name,
        "title": f"Pocket corpus, {role} task, in the manner of {name.removeprefix('pocket_')}",
        "type": content["type"],
        "reader": content["reader"],
        "folder": content.get("folder", name),
    }
    for key, value in content.items():
        if key not in whole and key != "protocol":
            whole[key] = value
    whole["splits"] = _splits(name, content)
    whole |= {
        "protocol": f"{role.capitalize()} task. All notes are invented. {content['protocol']}",
        "published": _published(name, sizes),
        "licence": "that of this repository",
        "access": "public",
        "citation": "none, invented",
    }
    return _HEAD + yaml.dump(whole, Dumper=_CardDumper, sort_keys=False, width=140, default_flow_style=None)


def _splits(name: str, content: Content) -> Content:
    """Where each split comes from: its files, perhaps filtered by id, or a share held out of another split."""
    splits: Content = {}
    for split, spec in content["splits"].items():
        splits[split] = spec | _ID_LISTS.get(name, {}).get(split, {})
    for split, (parent, share) in _HELD_OUT.get(name, {}).items():
        splits[split] = {"hold_out": {"from": parent, "fraction": share}}
    return splits


def _published(name: str, sizes: Mapping[str, int]) -> Content:
    """Documents of each split that has files. What is released of a split includes what others hold out of it."""
    held_out = _HELD_OUT.get(name, {})
    counts: dict[str, int] = {}
    for split in ("train", "validation", "test"):
        parent = held_out[split][0] if split in held_out else split
        counts[parent] = counts.get(parent, 0) + sizes[split]
    return {split: {"documents": count} for split, count in counts.items()}


class _CardDumper(yaml.SafeDumper):
    """Templates as blocks; nothing is an alias, since a card is read by people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_CardDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
