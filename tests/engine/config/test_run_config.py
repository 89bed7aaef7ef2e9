"""The strict resolver: YAML and flags to a RunConfig, or every problem at once."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config.keys import READERS
from engine.config.loader import expand, resolve, to_yaml
from engine.config.schema import (
    FREE_IN_EVALUATION,
    FREE_ON_RESUME,
    JOINED_BY_MERGE,
    NOT_IN_STEP,
    RunConfig,
    known_keys,
    schema_keys,
    value_at,
)
from engine.core.errors import UserError

BASE = {"run_dir": "runs/x", "backbone": "b.yaml"}
BACKBONE_CARDS, TASK_CARDS, MACHINES = (
    "tiny",
    "cards",
    "machines",
)  # folders of configs/ whose files are no run configuration


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write({"teach": {"steps": 3}})`` or ``write("text")``: a configuration file, with what every run needs."""

    def to_file(content: dict[str, Any] | str = "") -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(BASE | content))
        return path

    return to_file


def problems(path: Path, **flags: str) -> list[str]:
    with pytest.raises(UserError) as error:
        resolve(path, {k.replace("__", "."): v for k, v in flags.items()})
    return error.value.problems


def test_a_file_is_read_over_the_defaults_and_flags_over_both(write) -> None:
    path = write({"seed": 4, "teach": {"steps": 3, "relative_lr": 1}, "adapt": {"shots": [0, 16, "full"]}})
    found = resolve(path, {"teach.relative_lr": "0.25", "distill.steps": "9"})
    assert (found.seed, found.teach.steps, found.teach.relative_lr, found.distill.steps, found.teach.batch_size) == (
        4,
        3,
        0.25,
        9,
        8,
    )
    assert found.adapt.shots == ["0", "16", "full"]
    assert resolve(path).teach.relative_lr == 1.0 and isinstance(resolve(path).teach.relative_lr, float)
    assert resolve(write({})) == RunConfig(**BASE)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"teach": {"stpes": 3}}, "unknown key 'teach.stpes'; did you mean 'teach.steps'?"),
        ({"backbon": "x"}, "unknown key 'backbon'; did you mean 'backbone'?"),
        ({"max_length": 7}, "unknown key 'max_length'; did you mean 'data.max_length'?"),
        ({"zzz": 7}, "unknown key 'zzz'; see --help"),
        ({"template": "chat"}, "unknown key 'template'; see --help"),  # not near `evaluate`
        (
            {"adaptations": {}, "distill": "a.yaml"},
            "this is a study file, which only the mode study takes; name its distill: file (a.yaml) or its adapt: file",
        ),
        ({"teach": 3}, "teach: must be a mapping of keys to values"),
        ({"teach": {"steps": "many"}}, "teach.steps: must be a whole number; got 'many'"),
        ({"teach": {"steps": 3.0}}, "teach.steps: must be a whole number; got 3.0"),
        ({"teach": {"steps": True}}, "teach.steps: must be a whole number; got True"),
        ({"teach": {"relative_lr": "fast"}}, "teach.relative_lr: must be a number; got 'fast'"),
        ({"teach": {"relative_lr": True}}, "teach.relative_lr: must be a number; got True"),
        ({"overwrite": "yes please"}, "overwrite: must be true or false; got 'yes please'"),
        ({"overwrite": 1}, "overwrite: must be true or false; got 1"),
        ({"run_dir": 1.5}, "run_dir: must be text; got 1.5"),
        ({"run_dir": ["a"]}, "run_dir: must be text; got a list"),
        ({"seed": None}, "seed: must be a whole number; got nothing"),
        ({"distill": {"sources": "a"}}, "distill.sources: must be a list; got 'a'"),
        ({"adapt": {"seeds": [1, "b"]}}, "adapt.seeds: must be a whole number; got 'b'"),
        (
            {"teach": {"schedule": "lineer"}},
            "teach.schedule: must be one of constant, linear, cosine; got 'lineer'; did you mean 'linear'?",
        ),
        (
            {"adapt": {"methods": ["adalora"]}},
            (
                "adapt.methods: must be one of metaprompt, prompt_tuning, lora, multitask_prompt, instruction, "
                "in_context; got 'adalora'; did you mean 'lora'?"
            ),
        ),
    ],
)
def test_what_a_file_must_not_say(content: dict[str, Any], wanted: str, write) -> None:
    path = write(content)
    (problem,) = problems(path)
    assert problem == f"{path}: {wanted}"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("run_dir", "2024_01", "2024_01"),
        ("run_dir", "1e10", "1e10"),
        ("run_dir", "true", "true"),
        ("run_dir", "[a]", "[a]"),
        ("run_dir", "a: b", "a: b"),
        ("teach.relative_lr", "1e-3", 0.001),
        ("teach.relative_lr", "3", 3.0),
        ("teach.relative_lr", ".5", 0.5),
        ("seed", "-4", -4),
        ("seed", "12", 12),
        ("overwrite", "true", True),
        ("overwrite", "False", False),
        ("activation_checkpointing", "all", "all"),
        ("teach.schedule", "cosine", "cosine"),
        ("adapt.init", "task:my_task", "task:my_task"),
        ("prompt.init_text", "no", "no"),
        ("distill.sources", "a,b", ["a", "b"]),
        ("distill.sources", "a", ["a"]),
        ("distill.sources", "[a, b]", ["a", "b"]),
        ("distill.sources", "a, b,", ["a", "b"]),
        ("distill.sources", "2024_01", ["2024_01"]),
        ("distill.sources", "no,2010-01-01", ["no", "2010-01-01"]),
        ("data.cards", "", []),
        ("adapt.shots", "0,16,full", ["0", "16", "full"]),
        ("adapt.shots", "[0, 16, full]", ["0", "16", "full"]),
        ("adapt.shots", "16", ["16"]),
        ("adapt.seeds", "0,1,2", [0, 1, 2]),
        ("adapt.seeds", "7", [7]),
        ("adapt.seeds", "[7]", [7]),
        ("adapt.methods", "prompt_tuning", ["prompt_tuning"]),
    ],
)
def test_flags_are_coerced_by_the_fields_type(key: str, text: str, value: Any, write) -> None:
    found = value_at(resolve(write({}), {key: text}), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("teach.stpes", "3", "unknown key 'teach.stpes'; did you mean 'teach.steps'?"),
        ("dryrun", "True", "unknown key 'dryrun'; see --help"),
        ("teach", "3", "unknown key 'teach'"),
        ("teach.steps", "abc", "must be a whole number; got 'abc'"),
        ("teach.steps", "1e3", "must be a whole number"),
        ("teach.steps", "3.5", "must be a whole number; got 3.5"),
        ("teach.steps", "", "must be a whole number"),
        ("teach.relative_lr", "fast", "must be a number"),
        ("overwrite", "1", "must be true or false; got 1"),
        ("adapt.seeds", "0,x", "must be a whole number; got 'x'"),
        ("adapt.seeds", "[0", "must be a list"),
        ("teach.schedule", "cosin", "did you mean 'cosine'?"),
    ],
)
def test_what_a_flag_must_not_say(key: str, text: str, wanted: str, write) -> None:
    (problem,) = problems(write({}), **{key.replace(".", "__"): text})
    assert problem.startswith(f"command line: --{key}: ") and wanted in problem


def test_all_problems_are_told_at_once(write) -> None:
    path = write({"sed": 1, "teach": {"steps": "x", "lrr": 2}, "adapt": {"methods": ["adalora"]}})
    found = problems(path, fres="true", distill__steps="many")
    assert len(found) == 6
    assert [p.startswith("command line: --") for p in found] == [True] * 2 + [False] * 4
    for key in ("fres", "distill.steps", "sed", "teach.steps", "teach.lrr", "adapt.methods"):
        assert sum(key in p for p in found) >= 1, key


def test_a_flag_mends_what_the_file_has_wrong(write) -> None:
    assert resolve(write({"teach": {"steps": "x"}}), {"teach.steps": "3"}).teach.steps == 3


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"run_dir": ""}, "run_dir: missing"),
        ({"backbone": ""}, "backbone: missing"),
        ({"max_tokens_per_micro_batch": 0}, "max_tokens_per_micro_batch: must be > 0; got 0"),
        ({"teach": {"steps": 0}}, "teach.steps: must be > 0; got 0"),
        (
            {"prompt": {"num_virtual_tokens": 4, "rank": 5}},
            "prompt.rank: must be <= prompt.num_virtual_tokens (4); got 5",
        ),
        ({"prompt": {"init": "text"}}, "prompt.init_text: missing"),
        ({"teach": {"relative_lr": -0.1}}, "teach.relative_lr: must be >= 0; got -0.1"),
        ({"teach": {"relative_lr": ".nan"}}, "teach.relative_lr: must be >= 0 and finite; got nan"),
        ({"distill": {"temperature": 0}}, "distill.temperature: must be > 0; got 0.0"),
        ({"distill": {"temperature": ".inf"}}, "distill.temperature: must be > 0 and finite; got inf"),
        ({"distill": {"sources": ["a", "b", "a"]}}, "distill.sources: duplicate a"),
        (
            {"adapt": {"methods": ["instruction", "in_context"], "shots": ["4"]}},
            "adapt.methods: instruction, in_context: no method is trained",
        ),
        (
            {"adapt": {"methods": ["metaprompt", "in_context"], "shots": ["0", "full"]}},
            "adapt.shots: in_context takes its numbers of examples from here",
        ),
        (
            {"evaluate": {"server": "http://node7:8000"}},
            "evaluate.server: node7 may be another machine, and notes would go there",
        ),
        (
            {"evaluate": {"server": "localhost:8000"}},
            "evaluate.server: must be an address such as http://localhost:8000; got 'localhost:8000'",
        ),
        (
            {"evaluate": {"server": "http://127.0.0.1.example.org"}},
            "evaluate.server: 127.0.0.1.example.org may be another machine",
        ),
        ({"adapt": {"seeds": [1, 1]}}, "adapt.seeds: duplicate 1"),
        ({"adapt": {"shots": ["half"]}}, "adapt.shots: must be full or a number; got 'half'"),
        ({"adapt": {"shots": ["-4"]}}, "adapt.shots: must be full or a number; got '-4'"),
        ({"adapt": {"init": "median"}}, "adapt.init: must be one of auto"),
        ({"deepspeed": "ds_configs/none.json"}, "deepspeed: ds_configs/none.json does not exist"),
        ({"checkpoint": {"keep": 0}}, "checkpoint.keep: must be > 0; got 0"),
        ({"deepspeed": "ds_configs/cpu.json", "sharding": "zero3"}, "remove deepspeed or sharding"),
        ({"data": {"max_train": -1}}, "data.max_train: must be >= 0; got -1"),
        ({"evaluate": {"batch_size": 0}}, "evaluate.batch_size: must be > 0; got 0"),
    ],
)
def test_impossible_values(changes: dict[str, Any], wanted: str, write) -> None:
    text = yaml.safe_dump(BASE | changes).replace("'.nan'", ".nan").replace("'.inf'", ".inf")
    (problem,) = problems(write(text))
    assert wanted in problem and str(write(text)) in problem


def test_impossible_values_are_told_together(write) -> None:
    assert (
        len(problems(write("seed: 1\nsharding: replicated\n"), max_tokens_per_micro_batch="0", teach__relative_lr="-1"))
        == 4
    )  # run_dir and backbone are missing too


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("seed: 1\nteach:\n  steps: 1\n  lr: 1\n  steps: 2\n", "line 5: duplicate key 'steps' (first in line 3)"),
        ("seed: 1\nseed: 1\n", "line 2: duplicate key 'seed'"),
        ("seed: [1\n", "not valid YAML"),
        ("seed: 1\n  teach: 2\n", "line 2: not valid YAML"),
        ("- a\n", "must hold a mapping of keys to values"),
        ("", "must hold a mapping of keys to values"),
        ("run_dir: {{ name }}\n", "line 1: a key must be plain text"),
        ("seed: \x01\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(text: str, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    (problem,) = problems(path)
    assert problem.startswith(str(path)) and wanted in problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x80\x81\xff")
    for path, wanted in (
        (tmp_path / "gone.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "not a text file"),
    ):
        (problem,) = problems(path)
        assert str(path) in problem and wanted in problem


def test_a_resolved_configuration_survives_its_own_yaml(write, tmp_path: Path) -> None:
    flags = {
        "run_dir": "2024_01",
        "adapt.shots": "0,full",
        "adapt.seeds": "3,1",
        "teach.relative_lr": "1e-7",
        "prompt.init": "text",
        "prompt.init_text": "yes: {no} # 'quoted' \"twice\"\n é",
        "data.root": "$HOME/x",
        "distill.sources": "on,1e3",
        "overwrite": "true",
    }
    found = resolve(write({}), flags)
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(found))
    assert resolve(again) == found
    assert set(yaml.safe_load(to_yaml(found))) == {f.name for f in dataclasses.fields(RunConfig)}


def test_every_key_is_explained_and_says_who_reads_it() -> None:
    keys = schema_keys()
    for name, leaf in keys.items():
        assert len(leaf.help) > 15 and leaf.help.endswith(".") and "  " not in leaf.help, name
        assert leaf.metadata["modes"] and set(leaf.metadata["modes"]) <= set(READERS), name
    assert len(keys) == len(known_keys()) > 50


def test_keys_that_are_free_on_resume_exist() -> None:
    known = [*known_keys(), *(f.name for f in dataclasses.fields(RunConfig))]
    assert all(key in known for key in FREE_ON_RESUME)


def run_configs(project: Path) -> list[Path]:
    found = sorted((project / "configs").rglob("*.yaml"))
    return [
        p
        for p in found
        if not {TASK_CARDS, BACKBONE_CARDS, MACHINES} & set(p.parts)
        and p.stem not in ("backbone", "shape")
        and "study" not in p.stem
    ]


def test_every_run_configuration_resolves_and_says_how_to_run_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    paths = [p.relative_to(project) for p in run_configs(project)]
    assert len(paths) >= 2
    for path in paths:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# ") and first.endswith(f"train.py {path.stem} --config {path}"), path
        config = resolve(path)
        assert Path(config.backbone).suffix == ".yaml"
    demo = [p for p in paths if "demo" in p.parts]
    assert len(demo) >= 2 and all(
        Path(resolve(p).backbone).is_file() and Path(resolve(p).data.root).is_dir() for p in demo
    )


def test_every_run_configuration_names_its_json_schema(project: Path) -> None:
    prefix = "# yaml-language-server: $schema="
    for path in run_configs(project):
        (line,) = [line for line in path.read_text().splitlines() if line.startswith(prefix)]
        named = (path.parent / line.removeprefix(prefix)).resolve()
        assert named == project / "configs" / "schemas" / "run.schema.json", path


def test_what_metadata_say_of_keys_is_asked_for_by_name() -> None:
    assert {"evaluate.server", "log.interval", "sharding", "teach.run"} <= set(FREE_ON_RESUME)
    assert not {"seed", "backbone", "teach.steps", "data.max_length"} & set(FREE_ON_RESUME)
    assert {"backbone", "data.root", "sharding"} <= set(FREE_IN_EVALUATION) and "seed" not in FREE_IN_EVALUATION
    assert {"run_dir", "lr_sweep.lora", "evaluate.split"} <= set(NOT_IN_STEP) and "teach.batch_size" not in NOT_IN_STEP
    assert set(JOINED_BY_MERGE) == {
        "data.cards",
        *(f"adapt.{name}" for name in ("targets", "methods", "shots", "seeds", "transfer")),
    }


def test_words_stay_words_in_text_and_switches_read_them(write) -> None:
    text = "run_dir: 2020-01-01\nbackbone: no\noverwrite: yes\ndistill: {sources: [on, off, 1e3], teacher_cache: off}\n"
    found = resolve(write(text))
    assert (found.run_dir, found.backbone, found.overwrite) == ("2020-01-01", "no", True)
    assert (found.distill.sources, found.distill.teacher_cache) == (["on", "off", "1e3"], "off")


def test_a_flag_out_of_bounds_is_told_as_the_flag_s(write) -> None:
    (problem,) = problems(write({}), teach__steps="0")
    assert problem == "command line: --teach.steps: must be > 0; got 0"


def test_paths_are_expanded_and_an_unset_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORPORA", "/data")
    monkeypatch.delenv("GONE", raising=False)
    assert expand("$CORPORA/x") == expand("${CORPORA}/x") == Path("/data/x")
    assert expand("~/x") == Path.home() / "x"
    with pytest.raises(UserError, match=r"\$GONE/x: an environment variable in it is not set"):
        expand("$GONE/x")


def test_unknown_keys_wrong_types_and_impossible_values_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("backbone: 3.5\nprompt: {lenght: 5, rank: 200}\nteach: {relative_lr: -1}\n")
    with pytest.raises(UserError) as caught:
        resolve(path)
    told = "\n".join(caught.value.problems)
    for part in (
        "'prompt.lenght'",
        "backbone: must be text",
        "run_dir: missing",
        "teach.relative_lr: must be >= 0; got -1.0",
        "prompt.rank: must be <= ",
    ):
        assert part in told
    assert told.count("backbone:") == 1
