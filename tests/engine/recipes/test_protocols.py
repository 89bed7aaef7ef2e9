"""Protocol files: cells, their order and their configurations; every mistake at once, before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.checkpoints import checkpoint, identity_of
from engine.core.errors import UserError
from engine.recipes import study
from engine.recipes.protocols import read_study
from engine.recipes.study import run_study, state_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def write(tmp_path: Path):
    """``write({"adaptations": {…}})``: a protocol file with two base configurations beside it."""

    def put(content: dict[str, Any], **top: Any) -> str:
        base = {"backbone": str(ROOT / "configs/tiny/llama.yaml"), "run_dir": "unused", "data": {"root": "r"}}
        (tmp_path / "distill.yaml").write_text(yaml.safe_dump({**base, "distill": {"sources": ["a", "b", "c"]}}))
        (tmp_path / "adapt.yaml").write_text(yaml.safe_dump({**base, "adapt": {"targets": ["t"]}}))
        whole = {
            "run_dir": str(tmp_path / "runs"),
            "distill": str(tmp_path / "distill.yaml"),
            "adapt": str(tmp_path / "adapt.yaml"),
            **content,
            **top,
        }
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
        return str(tmp_path / "study.yaml")

    return put


FULL = {
    "distillations": {
        "plain": {},
        "rank": {"teachers": "plain", "each": {"prompt.rank": [1, 2], "seed": [0, 1]}},
        "left_out": {"teachers": "plain", "each": {"distill.without": [["a"], ["b"]]}},
    },
    "adaptations": {
        "few": {
            "source": "plain",
            "each": [{"name": "short", "adapt.steps": 5, "adapt.warmup_steps": 1}, {"adapt.steps": 100}],
            "adapt.shots": [4, "full"],
        },
        "rank_too": {"source": "rank", "prompt.rank": "$prompt.rank", "adapt.methods": ["metaprompt"]},
        "unseen": {"source": "left_out", "adapt.targets": "$distill.without"},
    },
}


def test_cells_are_every_combination_and_follow_their_distillation(write, tmp_path: Path) -> None:
    folder, cells = read_study(write(FULL), {"seed": "7", "adapt.lr_task": "0.5"})
    names = [c.name for c in cells]
    ranks = [f"rank=2,seed={s}" if r == 2 else f"rank=1,seed={s}" for r in (1, 2) for s in (0, 1)]
    assert folder == tmp_path / "runs"
    assert names == [
        "plain",
        *(f"rank/{r}" for r in ranks),
        "left_out/without=a",
        "left_out/without=b",
        "few/short",
        "few/steps=100",
        *(f"rank_too/{r}" for r in ranks),
        "unseen/without=a",
        "unseen/without=b",
    ]
    of = {c.name: c.config for c in cells}
    assert (
        of["few/short"].adapt.steps == 5
        and of["few/short"].adapt.warmup_steps == 1
        and of["few/short"].adapt.shots == ["4", "full"]
    )
    assert of["few/short"].adapt.source_run == of["plain"].run_dir == str(tmp_path / "runs/plain")
    assert (
        of["rank_too/rank=2,seed=1"].prompt.rank == 2
        and of["rank_too/rank=2,seed=1"].adapt.source_run == of["rank/rank=2,seed=1"].run_dir
    )
    assert of["unseen/without=b"].adapt.targets == ["b"] and of["left_out/without=b"].distill.tasks == ["a", "c"]
    assert of["left_out/without=b"].teach.run == of["plain"].run_dir
    assert all(c.config.adapt.lr_task == 0.5 for c in cells) and len({c.run_dir for c in cells}) == len(cells)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"adaptation": {}}, "unknown key 'adaptation'; did you mean 'adaptations'?"),
        ({"run_dir": 3}, "run_dir: missing"),
        ({"distill": None}, "distill: missing; name a run configuration"),
        ({"adaptations": ["few"]}, "adaptations: must be names, each with keys and values"),
        ({"distillations": {"x": {}}, "adaptations": {"x": {}}}, "x: cannot be both a distillation and an adaptation"),
        (
            {"adaptations": {"few": {"source": "plan"}}},
            "few: source: must be one of the distillations before it: plain; got 'plan'",
        ),
        ({"adaptations": {"few": {"adapt.stpes": 3}}}, "few: unknown key 'adapt.stpes'; did you mean 'adapt.steps'?"),
        ({"adaptations": {"few": {"adapt.steps": "many"}}}, "few: adapt.steps: must be a whole number; got 'many'"),
        ({"adaptations": {"few": {"each": {"adapt.stpes": [1]}}}}, "few: each: unknown key 'adapt.stpes'"),
        ({"adaptations": {"few": {"each": {"adapt.steps": 1}}}}, "few: each: must be keys with lists of values"),
        ({"adaptations": {"few": {"each": [{"name": "a"}, {"name": "a"}]}}}, "few: two of its cells are the same"),
        (
            {"adaptations": {"few": {"source": "plain", "adapt.targets": "$distill.without"}}},
            "$distill.without: its distillation has no axis distill.without",
        ),
        ({"adaptations": {"a/b": {}}}, "'a/b': must be a folder name of letters"),
        ({"distillations": {"plain": {"distill.without": ["d"]}}}, "distill.without: 'd' is not in distill.sources"),
    ],
)
def test_what_a_protocol_must_not_say(content: dict[str, Any], wanted: str, write) -> None:
    with pytest.raises(UserError) as error:
        read_study(write({"distillations": {"plain": {}}, **content}), {})
    assert any(wanted in p and "study.yaml" in p for p in error.value.problems), error.value.problems


def test_the_protocols_of_this_repository_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = sorted(p.relative_to(ROOT) for p in (ROOT / "configs").rglob("study*.yaml"))
    assert len(files) == 6
    for file in files:
        folder, cells = read_study(str(file), {})
        assert len(cells) >= 3 and f"--config {file}" in file.read_text()
        for cell in cells:
            starts = (
                (cell.config.adapt.source_run, cell.config.adapt.multitask_run)
                if cell.mode == "adapt"
                else (cell.config.teach.run,)
            )
            needed = {
                m for m in ("metaprompt", "multitask_prompt") if m in cell.config.adapt.methods and cell.mode == "adapt"
            }
            own = {c.config.run_dir for c in cells}
            assert all(start in own for start in starts if start.startswith(str(folder)))
            assert "metaprompt" not in needed or cell.config.adapt.source_run in own, cell.name
            assert "multitask_prompt" not in needed or cell.config.adapt.multitask_run in own, cell.name


def _train(run: Path, value: float) -> None:
    checkpoint.save(run, 1, checkpoint.Checkpoint({"p": torch.tensor([value])}, {}, {}), keep=1)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch):
    """What a study asks of the other modes; they leave what they would leave."""
    calls: list[tuple[str, str]] = []

    def finished(config: Any) -> None:
        calls.append(("adapt" if "t" in config.adapt.targets else "distill", config.run_dir))
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        (Path(config.run_dir) / "COMPLETED").touch()
        if not (Path(config.run_dir) / "latest").exists():
            _train(Path(config.run_dir), 0.0)

    def evaluated(run: str) -> None:
        calls.append(("evaluate", run))
        content = {"checkpoint": identity_of(Path(run)), "tasks": {"t": {}}}
        (Path(run) / "results.json").write_text(json.dumps(content))

    def reported(runs: list[str], output: str, distillations: list[str]) -> None:
        calls.append(("report", ",".join(runs)))
        calls.append(("cost", ",".join(distillations)))

    monkeypatch.setattr(study, "distill", finished)
    monkeypatch.setattr(study, "adapt", finished)
    monkeypatch.setattr(study, "evaluate", evaluated)
    monkeypatch.setattr(study, "report", reported)
    return calls


def test_a_study_runs_what_is_needed_in_order_and_passes_over_what_is_done(write, told, tmp_path: Path) -> None:
    content = {**FULL, "adaptations": {k: v for k, v in FULL["adaptations"].items() if k != "unseen"}}
    file, runs = write(content), tmp_path / "runs"
    run_study(file, ["few"], {})
    few = [str(runs / "few" / n) for n in ("short", "steps=100")]
    adapted = [(what, run) for run in few for what in ("adapt", "evaluate")]
    assert told == [
        ("distill", str(runs / "plain")),
        *adapted,
        ("report", ",".join(few)),
        ("cost", str(runs / "plain")),
    ]
    (Path(few[1]) / "results.json").unlink()
    assert [state_of(c) for c in read_study(file, {})[1] if c.protocol in ("plain", "few")] == [
        "done",
        "done",
        "to be evaluated",
    ]
    told.clear()
    run_study(file, ["few"], {})
    assert [c for c in told if c[0] == "evaluate"] == [("evaluate", few[1])]
    _train(Path(few[0]), 1.0)  # went on, under accepted changes: what was scored is another prompt
    (Path(few[1]) / "results.json").write_text("{")
    assert [state_of(c) for c in read_study(file, {})[1] if c.protocol == "few"] == ["to be evaluated"] * 2
    told.clear()
    run_study(file, ["few"], {})
    assert [c for c in told if c[0] == "evaluate"] == [("evaluate", run) for run in few]
    told.clear()
    run_study(file, only=["rank_too"], overrides={}, plan_only=True)
    assert told == []
    with pytest.raises(UserError, match="--only: must be one of plain, rank, left_out, few, rank_too; got 'fwe'"):
        run_study(file, ["fwe"], {})
