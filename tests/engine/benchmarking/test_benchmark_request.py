"""What ``benchmark`` is asked for: cases of a sweep, and everything that is wrong with its flags."""

from pathlib import Path

import pytest

from engine.benchmarking.cases import request_of
from engine.core.errors import UserError

DEMO = "configs/demo/distill.yaml"


def test_a_sweep_and_placements_make_a_case_each() -> None:
    request = request_of(
        DEMO,
        {
            "steps": "3",
            "sweep": "max_tokens_per_micro_batch=512,1024; prompt.num_virtual_tokens=4,8",
            "shardings": "zero3,replicated",
            "invented": "20,4",
        },
        {},
    )
    assert request.mode == "distill" and request.steps == 3 and request.warmup == 2
    assert [c.label for c in request.cases][:3] == [
        "sharding=zero3 max_tokens_per_micro_batch=512 prompt.num_virtual_tokens=4",
        "sharding=zero3 max_tokens_per_micro_batch=512 prompt.num_virtual_tokens=8",
        "sharding=zero3 max_tokens_per_micro_batch=1024 prompt.num_virtual_tokens=4",
    ]
    assert (
        len(request.cases) == 8
        and request.cases[-1].config.prompt.num_virtual_tokens == 8
        and request.cases[-1].config.sharding == "replicated"
    )
    assert request_of("configs/demo/adapt.yaml", {"steps": "1"}, {}).mode == "adapt"
    assert request_of(DEMO, {"steps": "900"}, {}).cases[0].config.distill.steps >= 900


def test_everything_wrong_with_a_command_is_told_at_once() -> None:
    own = {
        "steps": "0",
        "warmup": "-1",
        "mode": "evaluate",
        "invented": "x",
        "shardings": "cloud",
        "sweep": "max_token_per_micro_batch=1;seed",
        "profile": "yes",
        "compare": "/none.json",
    }
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {})
    text = "\n".join(error.value.problems)
    for wanted in (
        "--steps: must be a whole number >= 1; got '0'",
        "--warmup: must be a whole number >= 0; got '-1'",
        "--mode: must be one of teach, distill, adapt; got 'evaluate'",
        "rows of a task, such as 200,20 or 200,20,5000; got 'x'",
        "--shardings: must be one of ",
        "did you mean 'max_tokens_per_micro_batch'?",
        "--sweep: must be KEY=VALUE,VALUE; got 'seed'",
        "--profile: must be true or false; got 'yes'",
        "/none.json does not exist",
    ):
        assert wanted in text, wanted


def test_flags_that_exclude_one_another_are_told_with_wrong_values() -> None:
    own = {
        "steps": "1",
        "shardings": "zero3,replicated",
        "sweep": "max_tokens_per_micro_batch=abc;sharding=zero3;seed=1;seed=2;deepspeed=a.json",
        "compare_anyway": "true",
        "mode": " ",
    }
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {"sharding": "zero3"})
    told = [problem.removeprefix("command line: ") for problem in error.value.problems]
    wanted = [
        "--mode: is empty; give it a value, or leave it out",
        "--compare_anyway: has no effect without --compare",
        "--shardings: sharding is in --shardings and --sharding; keep one",
        "--sweep: sharding is in --sweep and --shardings; keep one",
        "--sweep: seed is twice in --sweep; keep one",
        "--sweep: deepspeed has no effect beside --shardings; keep one",
        "--max_tokens_per_micro_batch: must be a whole number; got 'abc'",
    ]
    for part in wanted:
        assert any(part in problem for problem in told), (part, told)
    assert request_of(DEMO, {"steps": "1", "shardings": "zero3"}, {"deepspeed": ""}).cases


def test_an_unset_variable_is_told_with_the_rest() -> None:
    own = {"steps": "x", "compare": "$NOT_SET/old.json", "output": "$NOT_SET/out"}
    with pytest.raises(UserError) as error:
        request_of(DEMO, own, {})
    assert [problem.split(": ")[1] for problem in error.value.problems] == ["--steps", "--compare", "--output"]
    with pytest.raises(UserError) as error:
        request_of(DEMO, {"steps": "x"}, {"run_dir": "$NOT_SET/a"})
    assert error.value.problems[1:] == ["run_dir: $NOT_SET/a: an environment variable in it is not set"]


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output: .*file is a file; name a folder"):
        request_of(DEMO, {"steps": "1", "output": str(tmp_path / "file")}, {})


def test_values_of_a_sweep_are_checked_as_flags_are() -> None:
    with pytest.raises(UserError, match="--max_tokens_per_micro_batch: must be a whole number; got 'many'"):
        request_of(DEMO, {"steps": "1", "sweep": "max_tokens_per_micro_batch=512,many"}, {})
    with pytest.raises(UserError, match="seed is in --sweep and --seed; keep one"):
        request_of(DEMO, {"steps": "1", "sweep": "seed=1,2"}, {"seed": "3"})
    with pytest.raises(UserError, match="adapt.targets: missing; --mode=adapt needs at least one task"):
        request_of(DEMO, {"steps": "1", "mode": "adapt"}, {})
