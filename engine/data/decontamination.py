"""Unseen tasks kept unseen: the target tasks' test documents against the sources' training documents, before a
distillation.

A distillation does not know its targets, so ``data.decontaminate_against`` names them. What is found is told, kept in
run_dir/overlap.json (counts only) and goes with the metaprompt into the results of its adaptations. Under
``data.drop_contaminated`` the sources' training samples of these documents are left out: never anything of a test
split, or scores of one run could not be compared with another's.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import clinical_tasks
from clinical_tasks import TaskCard
from clinical_tasks.audit import Overlap, find_overlaps
from clinical_tasks.corpus import split_files
from engine.config import DataConfig, expand
from engine.core import UserError, new_partial, publish, remove
from engine.data.cache_keys import examples_key
from engine.data.cards import load_cards, unknown_task
from engine.data.dataset import TaskData
from engine.data.file_digests import FileDigests
from engine.data.token_cache import Keys, build_once, shared_keys

FILE = "overlap.json"
COMPARISON_VERSION = 1  # of what ``find_overlaps`` finds: comparisons are cached under it


def decontaminate(
    data: dict[str, TaskData], config: DataConfig, rank: int = 0, print_rank0=print
) -> tuple[dict[str, TaskData], dict[str, Any] | None]:
    """The sources as they may be trained on, and the record of what was found; None where no target is named.

    Raises:
        UserError: a target is unknown or its test files are not there; a source has nothing left.
    """
    if not config.decontaminate_against:
        return data, None
    cards, root = load_cards(config), expand(config.root)
    problems = []
    for name in config.decontaminate_against:
        if name not in cards:
            problems.append(f"data.decontaminate_against: {unknown_task(name, cards)}")
            continue
        target = cards[name]
        missing = split_files(target, root, "test").missing
        if missing:
            problems.append(
                f"data.decontaminate_against: task {target.name}: not found in {root / target.folder}: "
                f"{', '.join(missing)}"
            )
    if problems:
        raise UserError(problems)
    found = _found(
        [cards[t] for t in config.decontaminate_against], [d.card for d in data.values()], config, rank, print_rank0
    )
    record: dict[str, Any] = {
        "targets": list(config.decontaminate_against),
        "excluded": config.drop_contaminated,
        "pairs": found["pairs"],
        "dropped": {},
    }
    out = dict(data)
    for name, documents in found["sources"].items() if config.drop_contaminated else ():
        train = data[name].splits["train"].without(set(documents))
        out[name] = TaskData(data[name].card, {**data[name].splits, "train": train})
        record["dropped"][name] = train.n_excluded
        if not train.sample_indices:
            problems.append(
                f"task {name}: data.drop_contaminated leaves no training example; remove the task from distill.sources"
            )
    if problems:
        raise UserError(problems)
    if rank == 0:
        for line in overlap_lines(record):
            print_rank0(line)
    return out, record


def overlap_lines(record: dict[str, Any], targets: Sequence[str] | None = None) -> list[str]:
    """A record for people: what overlaps (with ``targets`` only, if given), and what was done about it."""
    pairs = [Overlap(**p) for p in record["pairs"] if targets is None or p["target"] in targets]
    if record["excluded"]:
        dropped = ", ".join(f"{name} {count}" for name, count in record["dropped"].items())
        done = [f"data.drop_contaminated: training samples left out: {dropped or 'none'}"]
        return [f"overlap, left out of distillation: {p.line()}" for p in pairs] + done
    return [f"WARNING overlap, kept in distillation: {p.line()}; data.drop_contaminated leaves it out" for p in pairs]


def write_overlap_record(run_dir: Path, record: dict[str, Any] | None) -> None:
    """Beside the checkpoints of a distillation; of an adaptation, the one of its source."""
    if record is not None:
        (run_dir / FILE).write_text(json.dumps(record, indent=1) + "\n")


def read_overlap_record(run_dir: Path) -> dict[str, Any] | None:
    """What ``write_overlap_record`` wrote, or None.

    Raises:
        UserError: it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((run_dir / FILE).read_text())
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{run_dir / FILE}: cannot be read ({type(error).__name__}); remove it: the targets then count as "
            "not compared"
        ) from None
    return record


def join_overlap_records(records: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """One record of several runs: all their targets and pairs; excluded only where all were. None where none has
    one.
    """
    there = [r for r in records if r is not None]
    if not there:
        return None
    out: dict[str, Any] = {"targets": [], "excluded": all(r["excluded"] for r in there), "pairs": [], "dropped": {}}
    for record in there:
        for key in ("targets", "pairs"):
            out[key] += [entry for entry in record[key] if entry not in out[key]]
        for name, count in record["dropped"].items():
            out["dropped"][name] = max(count, out["dropped"].get(name, 0))
    return out


def target_overlap_record(run_dir: Path, targets: Sequence[str]) -> dict[str, Any]:
    """For results.json of an adaptation: the record of its targets, and which of them were not compared."""
    empty: dict[str, Any] = {"targets": [], "excluded": False, "pairs": [], "dropped": {}}
    record = read_overlap_record(run_dir) or empty
    pairs = [p for p in record["pairs"] if p["target"] in targets]
    return {**record, "pairs": pairs, "unchecked": [t for t in targets if t not in record["targets"]]}


def _found(
    targets: Sequence[TaskCard], sources: Sequence[TaskCard], config: DataConfig, rank: int, print_rank0=print
) -> dict[str, Any]:
    """Pairs, and source -> ids of its overlapping training documents: compared once by rank 0, kept beside the
    token rows.
    """
    root, cache = expand(config.root), expand(config.cache)
    compared = [(card, "test") for card in targets] + [(card, "train") for card in sources]
    asked = json.dumps([COMPARISON_VERSION, *((card.name, split, card.fingerprint()) for card, split in compared)])

    def key() -> Keys:
        digests, digest = FileDigests(cache), hashlib.sha256(asked.encode())
        for card, split in compared:
            digest.update(examples_key(card, split, root, digests))
        if rank == 0:
            digests.save()
        return {"overlap": {"": digest.hexdigest()[:24]}}

    keys = shared_keys(cache, request=f"{root}|overlap|{asked}", rank=rank, find=key)
    final = cache / f"overlap-{keys['overlap']['']}.json"

    def build() -> None:
        try:
            overlaps = find_overlaps(targets, sources, root)
        except clinical_tasks.ReadError as error:
            raise UserError(f"data.decontaminate_against: {error}") from None
        content = {
            "pairs": [asdict(p) for p in overlaps.pairs],
            "sources": {n: sorted(ids) for n, ids in overlaps.sources.items()},
        }
        partial = new_partial(final)
        try:
            partial.write_text(json.dumps({**content, "of": final.name, "sha256": _checksum(content)}))
            publish(partial, final)
        finally:
            remove(partial)

    build_once(final, rank, what="data.decontaminate_against", build=build, damage=_damage, print_rank0=print_rank0)
    found: dict[str, Any] = json.loads(final.read_text())
    return found


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damage(file: Path) -> str:
    """What is wrong with a comparison that was kept, or nothing."""
    try:
        found = json.loads(file.read_text())
        name, checksum = found.pop("of"), found.pop("sha256")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "is damaged or cut"
    if checksum != _checksum(found):
        return "is damaged (its checksum differs)"
    return "" if name == file.name else "holds a different comparison than its name says"
