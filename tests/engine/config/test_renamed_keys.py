"""Old names of keys and values are refused with their new ones, in files and on the command line."""

import pytest

from engine.config.loader import resolve
from engine.config.renamed import RENAMED_KEYS, RENAMED_VALUES
from engine.config.schema import known_keys
from engine.core.errors import UserError


def test_every_new_name_is_a_key_and_no_old_one_is() -> None:
    keys = set(known_keys())
    sections = {key.partition(".")[0] for key in keys}
    assert set(RENAMED_KEYS.values()) <= keys | sections
    assert not set(RENAMED_KEYS) & (keys | sections)


@pytest.mark.parametrize(
    ("old", "new"), [*RENAMED_KEYS.items(), ("tune.lora", "lr_sweep.lora"), ("tune.seed", "lr_sweep.seed")]
)
def test_an_old_key_is_refused_with_its_new_name(old: str, new: str, tmp_path) -> None:
    file = tmp_path / "run.yaml"
    section, dot, leaf = old.partition(".")
    content = f"{section}: {{{leaf}: 3}}" if dot else f"{old}: 3"
    file.write_text(f"run_dir: runs/x\nbackbone: b.yaml\n{content}\n")
    with pytest.raises(UserError) as error:
        resolve(file, {})
    told = RENAMED_KEYS.get(old) or RENAMED_KEYS[section]
    assert [p for p in error.value.problems if "unknown key" in p and told in p and p.startswith(f"{file}: ")]
    with pytest.raises(UserError) as error:
        resolve(file, {old: "3"})
    assert f"command line: --{old}: unknown key {old!r}; it was renamed to {new!r}" in error.value.problems


def test_a_key_with_dots_in_a_file_is_told_how_to_nest(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: runs/x\nbackbone: b.yaml\nteach.steps: 5\nadapt.shots: [4]\nteach: {a.b: 3}\n")
    with pytest.raises(UserError) as error:
        resolve(file, {})
    assert f"{file}: unknown key 'teach.steps'; a file nests it: teach: {{steps: …}}" in error.value.problems
    assert f"{file}: unknown key 'adapt.shots'; a file nests it: adapt: {{shots: …}}" in error.value.problems
    assert any("'teach.a.b'" in problem for problem in error.value.problems)


@pytest.mark.parametrize(
    ("key", "old", "new"), [(key, old, new) for key, names in RENAMED_VALUES.items() for old, new in names.items()]
)
def test_an_old_value_is_refused_with_its_new_name(key: str, old: str, new: str, tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"run_dir: runs/x\nbackbone: b.yaml\n{key}: {old}\n")
    with pytest.raises(UserError) as error:
        resolve(file, {})
    assert f"{file}: {key}: {old!r} was renamed to {new!r}" in error.value.problems
