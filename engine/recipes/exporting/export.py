"""Prompts of a finished run for other programs: stock PEFT adapters, factored or collapsed, and prompt embeddings for
vLLM.

Only safetensors and JSON are written, with a card that says what the prompts were trained on. A soft prompt can give
away what it was trained on: folders are 0700, files 0600, and paths of this machine are left out.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbones import BackboneError, load_backbone_card
from backbones.loading import backbone_config
from engine.checkpoints import load_bank
from engine.config import resolve
from engine.core import UserError
from engine.recipes.exporting.formats import FORMATS
from engine.recipes.exporting.model_card import model_card
from engine.recipes.merging import METHOD as SUM
from prompt_modules import DecomposedBank, JoinedBank, LoraBank
from strict_yaml import must_be_one_of

CLIENT = Path(__file__).parents[2] / "evaluation" / "vllm" / "client.py"


@dataclass
class Adapter:
    """One folder. ``rows``: its bank rows' labels, for PEFT in the order of ``task_ids``."""

    name: str
    rows: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def export_run(run_dir: Path, fmt: str, output: Path, tasks: Sequence[str] = ()) -> list[Path]:
    """Write the best rows of a run.

    Args:
        fmt: peft (MULTITASK_PROMPT_TUNING with the factors; PROMPT_TUNING or LORA where a row is no product),
            peft_collapsed (a PROMPT_TUNING or LORA adapter a row), vllm (a tensor of prompt embeddings a row, and a
            client). tasks: only these.

    Returns:
        The folders written.

    Raises:
        UserError: the run is not finished, ``output`` is there already, a name is unknown, a prompt is empty or not
            finite.
    """
    _check_arguments(run_dir, fmt, output)
    bank, found = load_bank(run_dir, "run")
    rows = found.state["rows"]
    known = list(dict.fromkeys(row["task"] for row in rows))
    unknown = [t for t in tasks if t not in known]
    if unknown:
        raise UserError([f"--tasks: {t!r} is not in {run_dir}; it has {', '.join(known)}" for t in unknown])
    try:
        card = load_backbone_card(resolve(run_dir / "config.yaml", {"run_dir": str(run_dir)}).backbone)
        model = backbone_config(card)
    except BackboneError as error:
        raise UserError(error.problems) from None
    shape = {
        "base_model_name_or_path": card.name,
        "num_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
    }
    chosen = [k for k, row in enumerate(rows) if not tasks or row["task"] in tasks]
    _check_format(rows, chosen, fmt)
    adapters = _adapters(bank, rows, chosen, fmt)
    _check(adapters)
    layout = {"template": card.template, "separator": card.separator}
    card_text = model_card(run_dir, card, found)
    return _write(output, adapters, fmt=fmt, shape=shape, layout=layout, card=card_text)


def _check_arguments(run_dir: Path, fmt: str, output: Path) -> None:
    """
    Raises:
        UserError: everything that is wrong with them.
    """
    problems = []
    if fmt not in FORMATS:
        problems.append(f"--format: {must_be_one_of(fmt, FORMATS)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        problems.append(f"--output: {output} already exists; name a new folder")
    if not (run_dir / "config.yaml").is_file():
        problems.append(f"--run: {run_dir} is not a run directory (it has no config.yaml)")
    if problems:
        raise UserError(problems)


def _check_format(rows: list[dict[str, Any]], chosen: list[int], fmt: str) -> None:
    """
    Raises:
        UserError: rows of methods that the format cannot hold.
    """
    problems = []
    for k in chosen:
        if fmt == "peft" and rows[k]["method"] == SUM:
            problems.append(
                f"--format: {_name(rows, k)}: a sum of prompts has no factors; use peft_collapsed or vllm, or leave "
                "its task out of --tasks"
            )
        if fmt == "vllm" and rows[k]["method"] == "lora":
            problems.append(
                f"--format: {_name(rows, k)}: LoRA is not a prompt; vLLM serves it as a PEFT adapter (peft), or leave "
                "its task out of --tasks"
            )
    if problems:
        raise UserError(problems)


def _adapters(bank: JoinedBank, rows: list[dict[str, Any]], chosen: list[int], fmt: str) -> list[Adapter]:
    if fmt == "peft":
        return _factored(bank, rows, chosen)
    return [_alone(bank, rows, k) for k in chosen]


def _factored(bank: JoinedBank, rows: list[dict[str, Any]], chosen: list[int]) -> list[Adapter]:
    """One adapter for all rows that share a metaprompt; rows with one of their own, and ordinary prompts, each
    alone.
    """
    out = []
    for name, span in bank.spans().items():
        own, part = [k for k in chosen if k in span], bank.parts[name]
        if not isinstance(part, DecomposedBank):
            out += [_alone(bank, rows, k) for k in own]
        elif len(part.shared_SLD) > 1 and len(own) > 1:
            for k in own:
                out.append(_with_factors(_name(rows, k), part, rows, group=[k], start=span.start))
        elif own:
            out.append(_with_factors(name, part, rows, group=own, start=span.start))
    return out


def _with_factors(name: str, part: DecomposedBank, rows: list[dict[str, Any]], group: list[int], start: int) -> Adapter:
    """An adapter of bank rows that share a metaprompt.

    Args:
        group: the rows' numbers in the bank. start: number of the part's first row.
    """
    at = torch.tensor([k - start for k in group])
    shared_LD = part.shared_SLD[0]
    if len(part.shared_SLD) > 1:
        shared_LD = part.shared_SLD[int(at[0])]
    tensors = {
        "prompt_embeddings": shared_LD,
        "prefix_task_cols": part.cols_KLR[at],
        "prefix_task_rows": part.rows_KRD[at],
    }
    config = {
        "peft_type": "MULTITASK_PROMPT_TUNING",
        "num_tasks": len(group),
        "num_ranks": part.cols_KLR.shape[2],
    }
    return Adapter(name, [rows[k] for k in group], tensors, config)


@torch.no_grad()
def _alone(bank: JoinedBank, rows: list[dict[str, Any]], k: int) -> Adapter:
    """A row as an adapter of its own: an ordinary prompt, or LoRA."""
    name, span = next((n, s) for n, s in bank.spans().items() if k in s)
    part = bank.parts[name]
    if not isinstance(part, LoraBank):
        prompt_LD = bank.prompts(torch.tensor([k]))[0]
        return Adapter(_name(rows, k), [rows[k]], {"prompt_embeddings": prompt_LD}, {"peft_type": "PROMPT_TUNING"})
    tensors = {}
    for layer, (down, up) in part.layers().items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = down[k - span.start]
        tensors[f"base_model.model.{layer}.lora_B.weight"] = up[k - span.start]
    rank = next(iter(tensors.values())).shape[0]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in part.layers()}),
        "bias": "none",
    }
    return Adapter(_name(rows, k), [rows[k]], tensors, config)


def _name(rows: list[dict[str, Any]], k: int) -> str:
    """The task, and what it takes besides to tell its rows apart."""
    words = [rows[k]["task"]]
    for key in ("method", "shots", "seed"):
        values = {str(row[key]) for row in rows}
        if len(values) > 1:
            words.append(str(rows[k][key]))
    return ".".join(words)


def _check(adapters: list[Adapter]) -> None:
    problems = []
    for adapter in adapters:
        for name, tensor in adapter.tensors.items():
            if not tensor.numel():  # what a partitioned parameter looks like to who does not gather it
                problems.append(f"{adapter.name}: {name} is empty {list(tensor.shape)}; nothing is written")
            elif not tensor.isfinite().all():
                problems.append(f"{adapter.name}: {name} is not finite; nothing is written")
    if problems:
        raise UserError(problems)


def _write(
    output: Path, adapters: list[Adapter], *, fmt: str, shape: dict[str, Any], layout: dict[str, str], card: str
) -> list[Path]:
    output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for adapter in adapters:
            folder = partial / adapter.name
            folder.mkdir(mode=0o700)
            _write_tensors(folder, adapter, fmt, shape)
            (folder / "layout.json").write_text(json.dumps(layout) + "\n")
            (folder / "rows.json").write_text(json.dumps(adapter.rows, indent=1) + "\n")
            (folder / "README.md").write_text(card.format(title=f"# {adapter.name}", rows=_listed(adapter.rows)))
        if fmt == "vllm":
            shutil.copy(CLIENT, partial / "client.py")
        for path in partial.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        if output.exists():
            output.rmdir()  # empty: checked before
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return [output / adapter.name for adapter in adapters]


def _write_tensors(folder: Path, adapter: Adapter, fmt: str, shape: dict[str, Any]) -> None:
    """The adapter's tensors, and for PEFT its configuration."""
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in adapter.tensors.items()}
    if fmt == "vllm":
        save_file({"prompt_embeds": tensors["prompt_embeddings"]}, folder / "prompt.safetensors")
        return
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        **adapter.config,
        "base_model_name_or_path": shape["base_model_name_or_path"],
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    if "prompt_embeddings" in tensors:
        length, width = tensors["prompt_embeddings"].shape
        config |= {
            **shape,
            "num_virtual_tokens": length,
            "token_dim": width,
            "num_transformer_submodules": 1,
            "prompt_tuning_init": "RANDOM",
            "tokenizer_name_or_path": None,
        }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def _listed(rows: list[dict[str, Any]]) -> str:
    return "\n".join(f"| {k} | {r['task']} | {r['method']} | {r['shots']} | {r['seed']} |" for k, r in enumerate(rows))
