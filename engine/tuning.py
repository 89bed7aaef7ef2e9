"""The learning rates of an adaptation, chosen on validation data: every rate of every method is a row of one bank, trained in one pass.

The score of a rate is the mean over the targets of their official metrics, for each method and number of shots. Left in run_dir/tune.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import clinical_tasks
from engine import checkpoint, startup
from engine.adaptation import Rates, Source, adapt_rows, adapt_stage, trained
from engine.banks import load_bank
from engine.data import TaskData
from engine.distributed import gather_objects
from engine.evaluation import Asker
from engine.files import write_whole
from engine.provenance import check_hashes
from engine.run_facts import TUNING
from engine.session import Session


def chosen_rates(session: Session, data: dict[str, TaskData], sources: Mapping[str, Source]) -> Rates:
    """Train and score what is not yet, in run_dir/tune. A collective.

    Raises:
        UserError: the sweep there is of another configuration.
    """
    c, folder = session.config, session.run_dir / "tune"
    if not adapt_rows(c, data, tuning=True):
        return {}
    stage = adapt_stage(session, data, sources, tuning=True)
    done = checkpoint.load(folder) if (folder / "COMPLETED").exists() and not c.fresh else None
    if done is not None:
        for line in check_hashes(done.state["hashes"], stage.hashes, folder, c.accept_changes):
            session.say(f"WARNING {folder}: kept although it changed: {line}")
        session.say(f"learning rates: reused from {folder}")
    else:
        session.train(stage, session.open_run_dir(folder, stage.hashes))
        session.complete(folder)
    with startup.nothing_to_lose():
        scored = _scores(session, folder, data)
    table = summary(scored, len(c.adapt.targets))
    for method, by_shots in table.items():
        for shots, tried in by_shots.items():
            pairs = [f"{rate:g} {score:.3f}" for rate, score in zip(tried["rates"], tried["scores"], strict=True)]
            pairs[tried["best"]] += " *"
            session.say(f"learning rates of {method} at {shots}, mean validation score of the targets: {', '.join(pairs)}")
    if session.leads:
        write_whole(session.run_dir / TUNING, json.dumps(table, indent=1))
    return {(m, shots): _nearest(table[m], shots) for m in trained(c.adapt.methods) if m in table for shots in c.adapt.shots if shots != "0"}


def summary(scored: Sequence[dict[str, Any]], targets: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows (method, shots, rate, score) of every target -> the table of a sweep. The first of equals is the best."""
    cells: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in scored:
        cells.setdefault((row["method"], row["shots"]), {}).setdefault(row["rate"], []).append(row["score"])
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for (method, shots), by_rate in cells.items():
        if any(len(v) != targets for v in by_rate.values()):
            raise AssertionError("a rate was not scored on every target")
        scores = [statistics.fmean(v) for v in by_rate.values()]
        out.setdefault(method, {})[shots] = {"rates": list(by_rate), "scores": scores, "best": scores.index(max(scores))}
    return out


def _nearest(by_shots: Mapping[str, Mapping[str, Any]], shots: str) -> float:
    """The best rate of the number of shots that is nearest by ratio."""
    size = lambda s: math.inf if s == "full" else math.log(int(s))  # noqa: E731
    tried = by_shots.get(shots)
    if tried is None:
        tried = min(by_shots.items(), key=lambda pair: abs(min(size(pair[0]), 1e9) - min(size(shots), 1e9)))[1]
    rate: float = tried["rates"][tried["best"]]
    return rate


def _scores(session: Session, folder: Path, data: dict[str, TaskData]) -> list[dict[str, Any]]:
    """Every row's metric on its task's validation split; those that stand in scores.jsonl are not asked again."""
    bank, found = load_bank(folder, "sweep")
    bank = bank.to(session.backbone().device)
    file, key = folder / "scores.jsonl", found.identity
    known = gather_objects(_read(file, key))[0]  # all ranks do as rank 0 finds
    if session.leads:
        write_whole(file, "".join(json.dumps(line) + "\n" for line in known.values()))
    asker, out = Asker(session.on("validation"), bank), []
    for k, row in enumerate(found.state["rows"]):
        line = known.get(str(k))
        if line is None:
            task = data[row["task"]]
            answers = asker.answers(task, k)
            outcome = clinical_tasks.evaluate(task.card, task.splits["validation"].examples(), answers, resamples=0)
            method, _, rate = row["method"].partition("@lr=")
            line = {"row": k, "of": key, "method": method, "rate": float(rate), "task": row["task"], "shots": row["shots"],
                    "score": outcome.scores[task.card.metric]}  # fmt: skip
            if session.leads:
                with file.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
            if k % 50 == 49:
                session.say(f"learning rates: {k + 1} of {len(found.state['rows'])} rows scored")
        out.append(line)
    return out


def _read(file: Path, key: str) -> dict[str, dict[str, Any]]:
    """Row number -> its whole line, of this checkpoint."""
    out = {}
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
            if line["of"] == key:
                out[str(line["row"])] = line
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill
    return out
