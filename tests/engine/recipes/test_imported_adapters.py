"""PEFT adapters as teachers: they come back to the bit; and what is wrong with them is said at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoints.bank_io import load_bank
from engine.core.errors import UserError
from engine.training.teachers.peft import read_adapters


def test_exported_prompts_come_back_as_teachers(
    make_holder: Callable[..., Any], make_loop: Callable[..., Any], tasks: Any, tmp_path: Path
) -> None:
    """Collapsed prompts of an earlier run are the new run's teachers, to the bit, and no step is taken."""
    from engine.training.teach_and_distill import teach_stage

    hidden, sources = 64, ("alpha", "beta", "gamma")
    g = torch.Generator().manual_seed(0)
    for task in sources:
        (tmp_path / "adapters" / task).mkdir(parents=True)
        peft_folder(tmp_path / "adapters" / task, torch.randn(5, hidden, generator=g))
    holder = make_holder(**{"teach.adapters": str(tmp_path / "adapters"), "teach.eval_interval": 2})
    assert holder.context.model_config.hidden_size == hidden
    stage = teach_stage(holder, tasks)
    make_loop(stage, holder).run()
    bank, found = load_bank_of(stage.run_dir)
    for k, task in enumerate(sources):
        imported = load_file(tmp_path / "adapters" / task / "adapter_model.safetensors")["prompt_embeddings"]
        assert torch.equal(bank.prompts(torch.tensor([k]))[0].float(), imported)
    assert found.state["step"] == 0 and found.state["hashes"]["adapters"]
    other = make_holder(**{"teach.adapters": str(tmp_path / "adapters"), "teach.eval_interval": 2})
    peft_folder(tmp_path / "adapters/beta", torch.randn(5, hidden, generator=g))
    with pytest.raises(UserError, match="adapters: the checkpoint has"):
        make_loop(teach_stage(other, tasks), other).run()


def load_bank_of(folder: Path) -> Any:
    (folder / "COMPLETED").touch()
    return load_bank(folder, "teachers")


def peft_folder(folder: Path, prompt_LD: Tensor, kind: str = "PROMPT_TUNING", **further: Tensor) -> None:
    from safetensors.torch import save_file

    save_file({"prompt_embeddings": prompt_LD.contiguous(), **further}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))


def test_a_factored_adapter_of_one_task_is_multiplied_out(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    shared, cols, rows = (
        torch.randn(5, 8, generator=g),
        torch.randn(1, 5, 2, generator=g),
        torch.randn(1, 2, 8, generator=g),
    )
    (tmp_path / "a").mkdir()
    peft_folder(tmp_path / "a", shared, "MULTITASK_PROMPT_TUNING", prefix_task_cols=cols, prefix_task_rows=rows)
    prompts, _ = read_adapters(tmp_path, tasks=["a"], length=5, width=8)
    assert torch.equal(prompts[0], shared * (cols[0] @ rows[0]))


def test_all_that_is_wrong_with_adapters_is_said_at_once(tmp_path: Path) -> None:
    for name in ("pickled", "lora", "wide", "nan", "torn", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "pickled/adapter_model.bin").touch()
    peft_folder(tmp_path / "lora", torch.zeros(5, 8), "LORA")
    peft_folder(tmp_path / "wide", torch.zeros(5, 9))
    peft_folder(tmp_path / "nan", torch.full((5, 8), float("nan")))
    peft_folder(
        tmp_path / "two",
        torch.zeros(5, 8),
        "MULTITASK_PROMPT_TUNING",
        prefix_task_cols=torch.zeros(2, 5, 1),
        prefix_task_rows=torch.zeros(2, 1, 8),
    )
    peft_folder(tmp_path / "torn", torch.zeros(5, 8))
    (tmp_path / "torn/adapter_model.safetensors").write_bytes(b"1234")
    with pytest.raises(UserError) as error:
        read_adapters(tmp_path, tasks=["pickled", "lora", "wide", "nan", "torn", "two", "gone"], length=5, width=8)
    wrong = "is [5, 9]; this run's prompts are [5, 8]"
    wanted = [
        "unpickling runs code",
        "is a LORA adapter",
        wrong,
        "not finite",
        "cannot be read",
        "holds 2 tasks",
        "missing",
    ]
    assert len(error.value.problems) == 7 and all(w in p for w, p in zip(wanted, error.value.problems, strict=True))
