"""Learning rates of prompts in multiples of the embeddings' RMS: every stage, and what replaces an absolute one."""

from pathlib import Path

import pytest
import torch
import yaml

from engine.config.learning_rates import REPLACED, SAMPLED, Rate, rms_of, rms_of_card
from engine.config.loader import resolve
from engine.config.schema import known_keys
from engine.core.errors import UserError
from engine.data.dataset import TaskData
from engine.training.adapt import Source, adapt_stage
from engine.training.teach_and_distill import distill_stage, teach_stage, teach_sweep
from prompt_modules import DecomposedBank


def test_the_rms_is_of_the_tokenizers_entries_and_sampled_evenly_where_there_are_many() -> None:
    table = torch.cat([torch.full((50, 4), 0.25), torch.full((14, 4), 100.0)])  # rows above the vocabulary are nobody's
    assert rms_of(lambda ids: table[ids], 50) == 0.25
    seen: list[torch.Tensor] = []

    def embed(ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids)
        return torch.where(ids % 2 == 0, 1.0, 3.0)[:, None].expand(-1, 3)

    assert rms_of(embed, 10 * SAMPLED) == pytest.approx(5**0.5, rel=0.02)
    assert len(seen[0].unique()) == SAMPLED and seen[0][0] == 0 and seen[0][-1] == 10 * SAMPLED - 1
    for value in (0.0, float("nan")):
        with pytest.raises(ValueError, match="RMS of the input embeddings"):
            rms_of(lambda ids, value=value: torch.full((len(ids), 2), value), 8)  # type: ignore[misc]


def test_every_stage_multiplies_rates_of_whole_prompts_and_no_others(make_holder, tasks: dict[str, TaskData]) -> None:
    changes = {
        "teach.relative_lr": 0.5,
        "distill.relative_lr_shared": 0.25,
        "distill.lr_task": 0.125,
        "adapt.train": "all",
        "adapt.relative_lr_shared": 0.75,
        "adapt.lr_task": 0.5,
        "adapt.relative_lr_prompt": 0.375,
        "adapt.lr_lora": 0.01,
        "adapt.methods": ["metaprompt", "prompt_tuning", "lora"],
        "lr_sweep.relative_lr_teach": [0.1, 0.2],
    }
    holder = make_holder(**changes)
    rms = holder.embedding_rms
    assert rms == rms_of(holder.backbone().embed, holder.context.tokenizer.vocab_size) and 0.03 < rms < 0.05
    part = DecomposedBank(torch.randn(1, 5, 64), torch.ones(3, 5, 2), torch.ones(3, 2, 64))
    groups = {
        **teach_stage(holder, tasks).optimizer.groups,
        **distill_stage(holder, data=tasks, teachers=None, teachers_hash="").optimizer.groups,
        **adapt_stage(holder, tasks, {"metaprompt": Source(part, list(tasks), "hash", 0)}).optimizer.groups,
    }
    found = {name: set(group.lr.tolist()) for name, group in groups.items()}  # type: ignore[union-attr]
    assert found == {
        "teacher": {0.5 * rms},
        "shared": {0.25 * rms},
        "task": {0.125},
        "metaprompt": {0.5},
        "metaprompt.shared": {0.75 * rms},
        "prompt_tuning": {0.375 * rms},
        "lora": {0.01},
    }
    taught = teach_stage(holder, tasks, 0.2).optimizer.groups["teacher"]
    assert set(taught.lr.tolist()) == {0.2 * rms}  # type: ignore[union-attr]
    sweep = teach_sweep(holder, tasks)
    swept = sweep.optimizer.groups["teacher"]
    assert [row.rate.own * rms for row in sweep.rows] == swept.lr.tolist()  # type: ignore[union-attr]
    assert [(row.task, row.label) for row in sweep.rows[:2]] == [
        ("alpha", "teacher@lr=0.1"),
        ("alpha", "teacher@lr=0.2"),
    ]
    starts = sweep.bank.prompts(torch.tensor([0, 1]))
    assert torch.equal(starts[0], starts[1])  # rates are compared from one start


def test_a_backbone_with_larger_embeddings_moves_its_prompts_in_proportion(make_holder, tasks, monkeypatch) -> None:
    rates = []
    for scale in (1.0, 3.0):
        holder = make_holder(**{"teach.relative_lr": 0.3})
        embed = holder.backbone().embed
        with monkeypatch.context() as patch:
            patch.setattr(holder.backbone(), "embed", lambda ids, embed=embed, scale=scale: embed(ids) * scale)
            rates.append(teach_stage(holder, tasks).optimizer.groups["teacher"].lr[0].item())
    assert rates[1] == pytest.approx(3 * rates[0], rel=1e-3)


def test_absolute_rates_are_refused_with_the_value_to_write(project: Path, tmp_path: Path) -> None:
    assert set(REPLACED.values()) <= known_keys().keys() and not set(REPLACED) & known_keys().keys()
    backbone = str(project / "backbones/pocket/llama.yaml")
    rms = rms_of_card(backbone)
    assert rms is not None and 0.4 < rms < 0.5
    old = {
        "run_dir": "r",
        "backbone": backbone,
        "teach": {"lr": 0.1, "steps": 3},
        "distill": {"lr_shared": "5e-2"},
        "adapt": {"lr_prompt": 0.3},
        "tune": {"prompt_tuning": [0.1, 0.3]},
    }
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump(old))
    with pytest.raises(UserError) as refused:
        resolve(file, {"adapt.lr_shared": "0.03", "teach.steps": "0"})
    told = refused.value.problems
    assert len(told) == 6 and any("teach.steps: must be > 0; got 0" in line for line in told)
    unit = f"in multiples of the RMS of the backbone's input embeddings ({rms:g} for {backbone})"
    for line in (
        f"{file}: teach.lr: was renamed to teach.relative_lr, {unit}; write teach.relative_lr: {0.1 / rms:.2g}",
        (
            f"{file}: distill.lr_shared: was renamed to distill.relative_lr_shared, {unit}; write "
            f"distill.relative_lr_shared: {0.05 / rms:.2g}"
        ),
        f"{file}: tune.prompt_tuning: was renamed to lr_sweep.relative_lr_prompt, {unit}; "
        f"write lr_sweep.relative_lr_prompt: [{0.1 / rms:.2g}, {0.3 / rms:.2g}]",
        f"command line: --adapt.lr_shared: was renamed to adapt.relative_lr_shared, {unit}; "
        f"write adapt.relative_lr_shared: {0.03 / rms:.2g}",
    ):
        assert line in told
    # where the weights are not at hand the message says what to do without them
    file.write_text(yaml.safe_dump({**old, "backbone": str(tmp_path / "none.yaml")}))
    with pytest.raises(UserError, match="divide it by that RMS"):
        resolve(file)


def test_rates_come_back_from_json_as_they_were() -> None:
    for rate in (Rate(0.1), Rate(0.1, 0.3)):
        assert Rate.of(rate.plain()) == rate
    assert [str(Rate(0.1)), str(Rate(0.1, 0.3))] == ["0.1", "0.1 and 0.3"]
