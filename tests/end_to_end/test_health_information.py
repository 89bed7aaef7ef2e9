"""The health-information rules on all 31 pocket tasks: a word that stands in every note comes out nowhere but in
protected places.
"""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from commands_runner import ROOT, run

from clinical_tasks import check_tasks, format_checks, load_card, read_split
from clinical_tasks.pocket import SOURCES, TARGETS, write_pocket_corpus
from clinical_tasks.pocket.lexicon import POOLS
from clinical_tasks.pocket.sentences import KINDS

CANARY = "zyqhobrantine"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pocket data root in every sentence of which the canary stands, a home of its own, and configurations of a
    tiny job on it.
    """
    base = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        for kind, templates in KINDS.items():
            patch.setitem(KINDS, kind, tuple(template.removesuffix(" .") + f" {CANARY} ." for template in templates))
        for pool in ("frequency", "duration"):  # of the texts that are not made of such sentences
            patch.setitem(POOLS, pool, tuple(f"{CANARY} {entry.replace('/', f'/{CANARY} ')}" for entry in POOLS[pool]))
        write_pocket_corpus(base / "data", sizes={"train": 3, "validation": 1, "test": 2})
    (base / "home").mkdir()
    common = {
        "backbone": "configs/tiny/llama.yaml",
        "sharding": "replicated",
        "prompt": {"num_virtual_tokens": 4, "rank": 1},
        "evaluate": {"max_new_tokens": 2, "batch_size": 16, "instruction": True},
        "log": {"interval": 1},
    }
    data = {
        "root": str(base / "data"),
        "cards": [str(base / "data/cards")],
        "cache": str(base / "cache"),
        "max_length": 600,
    }
    distill = {
        "run_dir": str(base / "distill"),
        "data": {**data, "decontaminate_against": list(TARGETS), "drop_contaminated": True},
        "teach": {"steps": 1, "batch_size": 1, "eval_interval": 1},
        "distill": {"sources": list(SOURCES), "steps": 2, "batch_size": 4},
        **common,
    }
    adapt = {
        "run_dir": str(base / "adapt"),
        "data": data,
        **common,
        "adapt": {
            "source_run": str(base / "distill"),
            "targets": list(TARGETS),
            "shots": ["1"],
            "steps": 1,
            "batch_size": 1,
        },
    }
    for name, content in (("distill", distill), ("adapt", adapt)):
        (base / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return base


@pytest.fixture(scope="module")
def outputs(place):
    """What every command printed."""
    home = place / "home"
    out = {name: run(name, f"--config={place / name}.yaml", ranks=1, home=home) for name in ("distill", "adapt")}
    out["evaluate"] = run("evaluate", f"--run={place / 'adapt'}", ranks=1, home=home)
    out["report"] = run("report", f"--runs={place / 'adapt'}", f"--output={place / 'report'}", ranks=1, home=home)
    out["check"] = run(
        "tasks",
        "check",
        f"--data_root={place / 'data'}",
        f"--cards={place / 'data/cards'}",
        "--backbone=configs/tiny/llama.yaml",
        "--max_length=100",
        f"--output={place / 'check.json'}",
        ranks=1,
        home=home,
    )
    return out


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def test_the_canary_stands_in_every_task(place):
    for name in (*SOURCES, *TARGETS):
        card = load_card(place / "data/cards" / f"{name}.yaml")
        assert all(
            CANARY in example.input_text for split in card.splits for example in read_split(card, place / "data", split)
        ), name


def test_it_comes_out_nowhere_but_in_the_token_cache(place, outputs):
    for name, text in outputs.items():
        assert CANARY not in text.lower(), name
    for folder in ("distill", "adapt", "report", "home"):
        for path in files(place / folder):
            assert CANARY not in path.name.lower() and CANARY.encode() not in path.read_bytes().lower(), path
    assert CANARY not in (place / "check.json").read_text()
    cached = [path for path in files(place / "cache") if CANARY.encode() in path.read_bytes()]
    assert cached and all(path.suffix == ".arrow" for path in cached), (
        "the canary is in no token row: this test checks nothing"
    )
    assert not list((place / "home").iterdir()), "something was written into the user's home"


def test_what_holds_text_is_its_owners_alone(place, outputs):
    for folder in ("cache", "distill", "adapt", "report"):
        for path in [place / folder, *(place / folder).rglob("*")]:
            if not path.is_symlink():
                assert stat.S_IMODE(path.stat().st_mode) in ((0o700,) if path.is_dir() else (0o600, 0o400)), path
    assert stat.S_IMODE((place / "check.json").stat().st_mode) == 0o600
    assert len(list((place / "adapt/predictions").iterdir())) == 3 * len(TARGETS)


def test_every_task_is_in_results_with_what_was_compared(place, outputs):
    results = json.loads((place / "adapt/results.json").read_text())
    assert set(results["tasks"]) == set(TARGETS)
    assert results["overlap"]["unchecked"] == [] and results["overlap"]["excluded"]
    record = json.loads((place / "distill/overlap.json").read_text())
    assert record["targets"] == list(TARGETS) and sum(record["dropped"].values()) == sum(
        map(int, _dropped(outputs["distill"]))
    )
    content = json.loads((place / "check.json").read_text())
    checks = {task["name"]: task for task in content["tasks"]}
    assert all(checks[name]["status"] == "ok" and checks[name]["counts"]["test"] == 2 for name in (*SOURCES, *TARGETS))


def _dropped(said):
    (line,) = [line for line in said.splitlines() if line.startswith("data.drop_contaminated: ")]
    return [part.split()[-1] for part in line.rpartition(": ")[2].split(", ") if part != "none"]


def test_broken_files_of_every_format_are_named_and_never_quoted(place, tmp_path):
    cards = [load_card(place / "data/cards" / f"{name}.yaml") for name in (*SOURCES, *TARGETS)]
    rng = random.Random(0)
    refused = set()
    for folder in sorted({card.folder for card in cards}):
        own = [card for card in cards if card.folder == folder]
        for number, path in enumerate(sorted(files(place / "data" / folder))[:12]):
            root = tmp_path / f"{folder}-{number}"
            shutil.copytree(place / "data" / folder, root / folder)
            content = path.read_bytes()
            middle = rng.randrange(len(content) // 4, 3 * len(content) // 4 + 1)
            damaged = (
                content[:middle],
                content[:middle] + b"\xff" + content[middle:],
                content[:middle] + CANARY.encode() + b'\t"\n' + content[middle:],
            )
            for damage in damaged:
                (root / folder / path.relative_to(place / "data" / folder)).write_bytes(damage)
                checks = check_tasks(own, root)
                refused |= {check.name for check in checks if check.problems}
                assert CANARY not in format_checks(checks).lower(), path
    assert len(refused) > 25, refused


def test_offline_and_telemetry_are_set_before_anything_is_imported():
    program = (
        "import builtins, os\n"
        "real, seen = builtins.__import__, []\n"
        "def spy(name, *rest, **more):\n"
        "    if name.split('.')[0] in ('torch', 'transformers', 'datasets', 'deepspeed', 'huggingface_hub'):\n"
        "        seen.append((name, os.environ.get('HF_HUB_OFFLINE'), "
        "os.environ.get('HF_HUB_DISABLE_TELEMETRY'), os.umask(0o077)))\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = spy\n"
        "import sys\n"
        "sys.argv = ['train.py', 'distill', '--config=configs/demo/distill.yaml', '--run_dir=' + sys.argv[1], "
        "'--data.cache=' + sys.argv[1] + '/cache', "
        "'--data.max_length=4']\n"  # no example is so short: found with libraries only
        "import runpy\n"
        "try:\n"
        "    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert seen and all(offline == '1' and quiet == '1' and umask == 0o077 for _, offline, quiet, umask in "
        "seen), seen[:3]\n"
        "print('checked', len(seen))\n"
    )
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("HF_") and k not in ("TRANSFORMERS_OFFLINE", "DO_NOT_TRACK")
    }
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, str(Path(folder) / "run")],
            cwd=ROOT,
            env={**clean, "PYTHONPATH": str(ROOT)},
            text=True,
            capture_output=True,
            timeout=120,
            umask=0o022,
        )
    assert done.returncode == 0 and "checked" in done.stdout, done.stderr[-2000:]
