"""Soft prompts from stock PEFT adapters, as teachers: DIR/TASK/{adapter_config.json, adapter_model.safetensors}."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engine.config import RunConfig, expand
from engine.core import UserError


def read_adapters(folder: Path, tasks: Sequence[str], length: int, width: int) -> tuple[Tensor, str]:
    """One adapter a task: PROMPT_TUNING, or MULTITASK_PROMPT_TUNING of one task.

    Returns:
        prompts: fp32 (K, L, D) in the order of ``tasks``. fingerprint: SHA-256 of the files.

    Raises:
        UserError: what is missing, of another shape or kind, or not finite, for all tasks at once.
    """
    problems, prompts, digest = [], [], hashlib.sha256()
    for task in tasks:
        try:
            prompts.append(_read(folder / task, length, width))
            digest.update((folder / task / "adapter_model.safetensors").read_bytes())
        except ValueError as error:
            problems.append(f"teach.adapters: {folder / task}: {error}")
    if problems:
        raise UserError(problems)
    return torch.stack(prompts), digest.hexdigest()


def check_adapters(config: RunConfig, width: int) -> None:
    """Before anything starts: those that the configuration names, if it does.

    Args:
        width: the backbone's hidden size.

    Raises:
        UserError: as ``read_adapters``.
    """
    if config.teach.adapters:
        read_adapters(
            expand(config.teach.adapters),
            config.distill.tasks,
            length=config.prompt.num_virtual_tokens,
            width=width,
        )


def _read(folder: Path, length: int, width: int) -> Tensor:
    weights = folder / "adapter_model.safetensors"
    if not folder.is_dir():
        raise ValueError(
            "missing; each source task needs a folder of its name; or leave teach.adapters out to teach all"
        )
    if not weights.is_file():
        why = ""
        if (folder / "adapter_model.bin").exists():
            why = " (adapter_model.bin is not read: unpickling runs code; save it with safe_serialization=True)"
        raise ValueError(f"has no adapter_model.safetensors{why}")
    try:
        config, tensors = json.loads((folder / "adapter_config.json").read_text()), load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING") or "prompt_embeddings" not in tensors:
        raise ValueError(f"is a {kind} adapter; PROMPT_TUNING can be a teacher, or MULTITASK_PROMPT_TUNING of one task")
    prompt_LD = tensors["prompt_embeddings"].float()
    if kind == "MULTITASK_PROMPT_TUNING":
        cols_KLR, rows_KRD = (tensors.get(f"prefix_task_{n}", torch.empty(0)).float() for n in ("cols", "rows"))
        if cols_KLR.shape[:1] != (1,) or rows_KRD.shape[:1] != (1,):
            raise ValueError(f"holds {len(cols_KLR)} tasks; export it with --format peft_collapsed, a folder a task")
        prompt_LD = prompt_LD * (cols_KLR[0] @ rows_KRD[0])
    if prompt_LD.shape != (length, width):
        raise ValueError(
            f"is {list(prompt_LD.shape)}; this run's prompts are [{length}, {width}] (prompt.num_virtual_tokens, the "
            "backbone's hidden size)"
        )
    if not prompt_LD.isfinite().all():
        raise ValueError("holds numbers that are not finite")
    return prompt_LD
