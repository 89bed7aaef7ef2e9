"""Exported prompts in stock PEFT: the same logits and answers as here, every row, both families; and what is
refused.
"""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoints.bank_io import load_bank
from engine.core.errors import UserError
from engine.distributed.zero3 import ShardedBackbone
from engine.recipes.exporting.export import export_run
from tests.engine.exported_runs import LENGTH, RANK, ROOT, write_run

pytestmark = pytest.mark.slow


def ours(
    backbone: ShardedBackbone, contexts: list[list[int]], prompt_LD: Tensor, tokenizer: Any
) -> tuple[Tensor, list[list[int]]]:
    """Logits of the first context, and greedy continuations of all."""
    with torch.no_grad():
        embeds = torch.cat([prompt_LD, backbone.model.get_input_embeddings()(torch.tensor(contexts[0]))])[None]
        logits = backbone.model(inputs_embeds=embeds, use_cache=False).logits[0, len(prompt_LD) :]
    prompts = prompt_LD.expand(len(contexts), -1, -1)
    ids = backbone.generate(
        contexts, prompts_BLD=prompts, max_new_tokens=8, end_id=tokenizer.eos_id, pad_id=tokenizer.eos_id, synced=False
    ).tolist()
    return logits, [cut(row, tokenizer.eos_id) for row in ids]


def cut(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def theirs(
    model: Any, contexts: list[list[int]], tokenizer: Any, length: int = LENGTH, **task: Tensor
) -> tuple[Tensor, list[list[int]]]:
    answers = []
    with torch.no_grad():
        first = torch.tensor([contexts[0]])
        logits = model(input_ids=first, attention_mask=torch.ones_like(first), use_cache=False, **task).logits[
            0, length:
        ]
        for context in contexts:
            ids = torch.tensor([context])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=tokenizer.eos_id,
                pad_token_id=tokenizer.eos_id,
                **task,
            )
            answers.append(cut(out[0, len(context) :].tolist(), tokenizer.eos_id))
    return logits, answers


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@pytest.mark.parametrize(
    ("kind", "fmt"),
    [
        ("distill", "peft"),
        ("adapt", "peft"),
        ("all", "peft"),
        ("adapt", "peft_collapsed"),
        ("lora", "peft"),
        ("lora", "peft_collapsed"),
    ],
)
def test_stock_peft_computes_the_same(
    family: str, kind: str, fmt: str, models: Callable[[str], Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    run = write_run(tmp_path / "run", family, kind)
    folders = export_run(run, fmt, tmp_path / "out")
    bank, found = load_bank(run, "run")
    base, tokenizer, backbone = models(family)
    contexts = [
        [tokenizer.bos_id, *tokenizer.encode(text)]
        for text in ("the patient takes aspirin", "no fever . cough since two days")
    ]
    seen = []
    for folder in folders:
        model = PeftModel.from_pretrained(base, folder).eval()
        kind_of_adapter = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
        for number, row in enumerate(json.loads((folder / "rows.json").read_text())):
            k = found.state["rows"].index(row)
            seen.append(k)
            with torch.no_grad():
                prompt_LD = bank.prompts(torch.tensor([k]))[0]
            task = {"task_ids": torch.tensor([number])} if kind_of_adapter == "MULTITASK_PROMPT_TUNING" else {}
            with backbone.updated(bank.updates([k], [0])):
                wanted = ours(backbone, contexts, prompt_LD, tokenizer)
            found_here = theirs(model, contexts, tokenizer, len(prompt_LD), **task)
            assert (wanted[0] - found_here[0]).abs().max() <= 1e-5
            assert wanted[1] == found_here[1]
        if kind_of_adapter == "LORA":  # it stands in the model's own layers
            model.unload()
    assert sorted(seen) == list(range(len(found.state["rows"])))
    assert len(
        {next(iter(load_file(f / "adapter_model.safetensors").values())).numpy().tobytes() for f in folders}
    ) == len(folders)


def test_lora_is_no_prompt_for_vllm(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--format: demo_qa: LoRA is not a prompt; vLLM serves it as a PEFT adapter \(peft\)"
    ):
        export_run(write_run(tmp_path / "run", "llama", "lora"), "vllm", tmp_path / "out")


def test_what_lies_in_an_exported_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "llama", "adapt")
    export_run(run, fmt="peft", output=tmp_path / "out", tasks=["demo_qa", "demo_entities"])
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    rows = [
        *(f"demo_{task}.prompt_tuning.{shots}.1" for task in ("entities", "qa") for shots in ("16", "full")),
        "metaprompt",
    ]
    assert found == [
        f"{row}/{name}"
        for row in rows
        for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "layout.json", "rows.json")
    ]
    tensors = load_file(tmp_path / "out/metaprompt/adapter_model.safetensors")
    assert {n: list(t.shape[:2]) for n, t in tensors.items()} == {
        "prompt_embeddings": [LENGTH, tensors["prompt_embeddings"].shape[1]],
        "prefix_task_cols": [2, LENGTH],
        "prefix_task_rows": [2, RANK],
    }
    card = (tmp_path / "out/metaprompt/README.md").read_text()
    assert (
        "| 1 | demo_entities | metaprompt | full | 0 |" in card
        and "pocket-llama" in card
        and "Not evaluated." in card
        and "Limits" in card
    )
    everything = "".join((tmp_path / "out" / f).read_text() for f in found if not f.endswith("safetensors"))
    assert str(tmp_path) not in everything and str(ROOT) not in everything  # no path of this machine
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_scores_stand_in_the_card_only_if_they_are_this_checkpoints(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "llama", "distill")
    _, found = load_bank(run, "run")
    cell = {"mean": 0.625, "seeds": [0]}
    results = {
        "checkpoint": found.identity,
        "tasks": {"demo_qa": {"metric": "accuracy", "n_test": 8, "methods": {"metaprompt": {"full": cell}}}},
    }
    for identity, wanted in ((found.identity, "0.625"), ("another", "Not evaluated since it was last trained.")):
        (run / "results.json").write_text(json.dumps({**results, "checkpoint": identity}))
        export_run(run, "peft", tmp_path / identity)
        assert wanted in (tmp_path / identity / "metaprompt/README.md").read_text()


@pytest.mark.parametrize(("spoil", "wanted"), [(float("nan"), "is not finite"), (float("inf"), "is not finite")])
def test_a_prompt_that_is_no_prompt_is_not_written(spoil: float, wanted: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "llama", "distill", spoil)
    with pytest.raises(UserError, match=wanted):
        export_run(run, "peft", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_empty_tensor_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.exporting import export

    run = write_run(tmp_path / "run", "llama", "distill")
    whole = export._factored
    monkeypatch.setattr(
        export,
        "_factored",
        lambda *a: [
            export.Adapter(x.name, x.rows, {n: t[:0] for n, t in x.tensors.items()}, x.config) for x in whole(*a)
        ],
    )
    with pytest.raises(UserError, match=r"prompt_embeddings is empty \[0, \d+\]; nothing is written"):
        export_run(run, "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_command_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UserError) as error:
        export_run(tmp_path / "gone", "onnx", tmp_path / "full")
    assert [p.split(":")[0] for p in error.value.problems] == ["--format", "--output", "--run"]
    run = write_run(tmp_path / "run", "llama", "distill")
    with pytest.raises(UserError, match="'demo_q' is not in"):
        export_run(run, fmt="peft", output=tmp_path / "out", tasks=["demo_q"])


# ---- adapters as teachers
# -----------------------------------------------------------------------------------------------------------
