"""Where a bank's prompts lie: principal components and cosines of the rows' prompts and, on request, the vocabulary
entries next to them.

A prompt is derived from its corpus: the entries nearest to it can tell something of it. They are looked up only when
asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones import BackboneError, load_backbone_card, load_tokenizer
from backbones.loading import SafetensorsSource
from engine.checkpoints import load_bank
from engine.config import expand
from engine.core import UserError
from engine.reporting.data import shots_value, source_of

TABLES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
NO_PROMPT = "without a prompt (low-rank updates)"
CHUNK = 8192  # vocabulary entries compared at once


@dataclass(frozen=True)
class Geometry:
    """labels: task, method, shots, seed of each prompt (the metaprompt's task is 'P*'). prompts: fp32 (K, L, D).
    left_out: rows not shown, by why.

    places: (K, 2), the first two principal components of the centred, flattened prompts; shares: of the variance.
        cosines: (K, K), flattened.
    """

    labels: list[dict[str, Any]]
    prompts: Tensor
    places: np.ndarray
    shares: list[float]
    cosines: np.ndarray
    left_out: dict[str, int]


def geometry(run_dir: Path, most: int = 32) -> Geometry:
    """Of a finished run: the metaprompt and, of every task and method, the row with the most examples and the first
    seed; ``most`` at most. Rows of the transfer matrix are left out.

    Raises:
        UserError: there is no finished run, or its checkpoint cannot be read.
    """
    bank, found = load_bank(run_dir, "run")
    rows = found.state["rows"]
    chosen = _representatives(rows)
    single = len([row for row in rows if source_of(row["method"])])
    left_out = {
        "of other shots and seeds": len(rows) - len(chosen) - single,
        "of the transfer matrix": single,
        f"beyond {most}": max(len(chosen) - most, 0),
    }
    labels: list[dict[str, Any]] = []
    prompts: list[Tensor] = []
    for name, span in bank.spans().items():
        part: Any = bank.parts[name]
        for k in sorted(set(chosen[:most]) & set(span)):
            with torch.no_grad():
                prompt_LD = part.prompts(torch.tensor([k - span.start]))[0].float()
            if prompt_LD.numel():
                labels.append(rows[k])
                prompts.append(prompt_LD)
            else:
                left_out[NO_PROMPT] = left_out.get(NO_PROMPT, 0) + 1
        shared = getattr(part, "shared_SLD", None)
        if shared is not None and len(shared) == 1:
            labels.insert(0, {"task": "P*", "method": name, "shots": "", "seed": 0})
            prompts.insert(0, shared.detach()[0].float())
    alike = [prompt.shape == prompts[0].shape for prompt in prompts]
    left_out["of another length"] = alike.count(False)
    labels, prompts = list(compress(labels, alike)), list(compress(prompts, alike))
    if len(prompts) < 2:
        raise UserError(f"{run_dir}: has fewer than two prompts; there is nothing to compare")
    stacked_KLD = torch.stack(prompts)
    flat = stacked_KLD.flatten(1).double().numpy()
    places, shares = components(flat)
    left_out = {why: n for why, n in left_out.items() if n}
    return Geometry(labels, stacked_KLD, places, shares, cosines(flat), left_out)


def _representatives(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Of each (task, method) the row trained on the most examples, of its first seed."""
    best: dict[tuple[str, str], tuple[float, int, int]] = {}
    for k, row in enumerate(rows):
        if source_of(row["method"]):
            continue
        size = shots_value(row["shots"])
        cell = (row["task"], row["method"])
        if cell not in best or (size, -row["seed"]) > best[cell][:2]:
            best[cell] = (size, -row["seed"], k)
    return sorted(k for *_, k in best.values())


def components(flat: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(K, n) -> the first two principal components (K, 2), signs fixed (the largest entry is positive), and their
    shares of the variance.
    """
    centred = flat - flat.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)  # K x K: far smaller than n x n
    values, vectors = np.maximum(values[::-1][:2], 0), vectors[:, ::-1][:, :2]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    total = float((centred**2).sum()) or 1.0
    return vectors * np.sqrt(values), (values / total).tolist()


def cosines(flat: np.ndarray) -> np.ndarray:
    """(K, n) -> (K, K); 0 for a prompt of zeros."""
    sizes = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = flat / np.where(sizes > 0, sizes, 1)
    return unit @ unit.T


def nearest_vocabulary(prompts_KLD: Tensor, card_path: str) -> list[list[tuple[str, float]]]:
    """Of each prompt's virtual tokens the vocabulary entry with the largest cosine, and that cosine.

    Raises:
        UserError: the card names no weight files, or these hold no embedding table of this width.
    """
    try:
        card = load_backbone_card(expand(card_path))
        if not card.path:
            raise UserError(
                f"--vocabulary: {card.name} has no weight files (its weights are drawn from a seed), so no "
                "embedding table to compare with"
            )
        source = SafetensorsSource(Path(card.path))
        names = [n for n in source.tensors() if n.endswith(TABLES)]
        if not names:
            raise UserError(
                f"--vocabulary: {card.name}: none of its tensors ends in {', '.join(TABLES)}; its vocabulary "
                "cannot be compared"
            )
        table_VD = source.mapped(names[0])
        tokenizer = load_tokenizer(card.tokenizer or card.path, card.trust_remote_code)
    except BackboneError as error:
        raise UserError([f"--vocabulary: {problem}" for problem in error.problems]) from None
    if table_VD.shape[1] != prompts_KLD.shape[2]:
        raise UserError(
            f"--vocabulary: prompts are {prompts_KLD.shape[2]} wide, {card.name} {table_VD.shape[1]}; the run's "
            "backbone is another one"
        )
    ids, best = nearest(prompts_KLD.flatten(0, 1), table_VD)
    length = prompts_KLD.shape[1]
    words = []
    for number, value in zip(ids, best, strict=True):
        words.append((_readable(tokenizer.decode([number]).strip(), number), value))
    return [words[start : start + length] for start in range(0, len(words), length)]


def _readable(word: str, number: int) -> str:
    """A piece of a character, or none at all, is named by its number."""
    if word and word.isprintable() and "\ufffd" not in word:
        return word
    return f"#{number}"


def nearest(vectors_ND: Tensor, table_VD: Tensor) -> tuple[list[int], list[float]]:
    """Row of the table with the largest cosine to each vector, and it."""
    unit_ND = torch.nn.functional.normalize(vectors_ND.float(), dim=1)
    best_N, ids_N = torch.full((len(unit_ND),), -2.0), torch.zeros(len(unit_ND), dtype=torch.long)
    for start in range(0, len(table_VD), CHUNK):
        part_CD = torch.nn.functional.normalize(table_VD[start : start + CHUNK].float(), dim=1)
        values_N, places_N = (unit_ND @ part_CD.T).max(dim=1)
        better_N = values_N > best_N
        best_N, ids_N = torch.where(better_N, values_N, best_N), torch.where(better_N, places_N + start, ids_N)
    return ids_N.tolist(), best_N.tolist()
