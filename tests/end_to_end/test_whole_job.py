"""The main job from the command line on two ranks: files written, no note text anywhere, killed and resumed."""

import json
import shutil
import stat

import pytest
from commands_runner import ROOT, run, run_and_kill
from safetensors.torch import load_file

CANARY = "Zyqhobrantine"  # stands in every note; may stand in protected caches and predictions only
SMALL = [
    "--teach.steps=6",
    "--teach.eval_interval=3",
    "--teach.batch_size=2",
    "--distill.steps=12",
    "--distill.batch_size=6",
    "--checkpoint.interval=4",
    "--log.interval=2",
    "--data.max_train=12",
    "--data.max_validation=4",
    "--data.max_test=4",
    "--evaluate.max_new_tokens=4",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data root whose every note holds the canary, and a home of its own."""
    base = tmp_path_factory.mktemp("job")
    shutil.copytree(ROOT / "configs" / "demo" / "data", base / "data")
    for path in (base / "data").rglob("*"):
        if path.suffix == ".txt":  # at the end: offsets stay
            path.write_text(path.read_text() + f"\n{CANARY} was seen.\n")
        elif path.suffix == ".csv":
            text = path.read_bytes().decode()
            path.write_bytes(text.replace("Doctor:", f"Doctor: {CANARY}").encode())
            assert CANARY in path.read_text()
        elif path.name == "questions.json":
            content = json.loads(path.read_text())
            for entry in content.values():
                entry["QUESTION"] = f"{CANARY} {entry['QUESTION']}"
            path.write_text(json.dumps(content))
    (base / "home").mkdir()
    return base


def distill_arguments(place, name):
    where = [f"--data.root={place / 'data'}", f"--data.cache={place / 'cache'}", f"--run_dir={place / name}"]
    return ["distill", "--config=configs/demo/distill.yaml", *where, *SMALL]


@pytest.fixture(scope="module")
def outputs(place):
    """The whole job, once; what each command printed."""
    home = place / "home"
    common = [
        f"--data.root={place / 'data'}",
        f"--data.cache={place / 'cache'}",
        "--data.max_train=12",
        "--data.max_validation=4",
        "--data.max_test=4",
    ]
    out = {"distill": run(*distill_arguments(place, "distill"), home=home)}
    out["adapt"] = run(
        "adapt",
        "--config=configs/demo/adapt.yaml",
        *common,
        f"--adapt.source_run={place / 'distill'}",
        f"--run_dir={place / 'adapt'}",
        "--adapt.steps=4",
        "--adapt.eval_interval=2",
        "--adapt.shots=0,4,full",
        "--adapt.methods=metaprompt,prompt_tuning,in_context",
        "--evaluate.max_new_tokens=4",
        home=home,
    )
    killed = run_and_kill(
        "evaluate", f"--run={place / 'adapt'}", "--evaluate.instruction=true", when="metaprompt full seed 0"
    )
    out["evaluate adapt"] = run("evaluate", f"--run={place / 'adapt'}", "--evaluate.instruction=true", home=home)
    out["evaluate killed"] = killed
    out["evaluate validation"] = run(
        "evaluate", f"--run={place / 'adapt'}", "--evaluate.split=validation", ranks=1, home=home
    )
    out["evaluate distill"] = run("evaluate", f"--run={place / 'distill'}", ranks=1, home=home)
    notes = place / "data" / "demo_notes" / "test"
    out["predict"] = run(
        "predict",
        f"--run={place / 'distill'}",
        "--task=demo_entities",
        f"--input={notes}",
        f"--output={place / 'answered'}/",
        home=home,
    )
    one = sorted(notes.glob("*.txt"))[0]
    mine = [
        f"--run={place / 'distill'}",
        "--task=demo_entities",
        f"--input={one}",
        f"--output={place / 'answered.jsonl'}",
        "--method=teacher",
    ]
    out["predict one"] = run("predict", *mine, ranks=1, home=home)
    out["predict again"] = run("predict", *mine, ranks=1, home=home, expect=2)
    out["report"] = run(
        "report", f"--runs={place / 'distill'},{place / 'adapt'}", f"--output={place / 'report'}", ranks=1, home=home
    )
    return out


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_the_run_directories_hold_what_the_contract_says(place, outputs):
    found = {f for f in files(place / "distill") if "tfevents" not in f and "/reused/" not in f}
    assert len(list((place / "distill/checkpoints/reused").iterdir())) == 2 and len(
        list((place / "distill/teachers/checkpoints/reused").iterdir())
    ) in (2, 4)
    checkpoint = {"optimizer.safetensors", "prompts.safetensors", "state.json"}
    steps = {f"checkpoints/step_{n:08d}/{f}" for n in (8, 12) for f in checkpoint}
    teachers = {f"teachers/checkpoints/step_{n:08d}/{f}" for n in (4, 6) for f in checkpoint}
    teachers |= {"teachers/COMPLETED", "teachers/config.yaml", "teachers/metrics.jsonl"}
    predictions = {
        f"predictions/{t}.{m}.full.0.jsonl"
        for t in ("demo_qa", "demo_entities", "demo_summary")
        for m in ("metaprompt", "teacher")
    }
    teachers |= {"teachers/deepspeed.json", "teachers/owner.json"}
    assert found == steps | teachers | predictions | {
        "COMPLETED",
        "config.yaml",
        "deepspeed.json",
        "metrics.jsonl",
        "owner.json",
        "results.json",
    }
    lines = [json.loads(line) for line in (place / "distill" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {
        "step",
        "loss",
        "ce",
        "kl",
        "hidden",
        "task_ce",
        "task_examples",
        "lr",
        "grad_norm",
        "prompt_norm",
        "prompt_drift",
        "tokens_per_s",
        "real_tokens",
        "mfu",
        "gather_bytes",
        "mem",
    } <= lines[0].keys()
    assert all(sum(line["task_examples"].values()) == 2 * 6 for line in lines)  # two steps of six
    assert all(line["gathers"] > 0 and line["gather_bytes"] > 0 for line in lines)
    assert (
        "backbone unchanged, to the bit" in outputs["distill"] and "backbone unchanged, to the bit" in outputs["adapt"]
    )


def test_the_adaptation_notes_what_it_was_adapted_from(place, outputs):
    noted = json.loads((place / "adapt/latest/state.json").read_text())["source_tasks"]
    assert [entry["task"] for entry in noted["metaprompt"]["tasks"]] == ["demo_qa", "demo_entities", "demo_summary"]
    assert {entry["access"] for entry in noted["metaprompt"]["tasks"]} == {"public"} and noted.keys() == {"metaprompt"}


def test_the_backbone_is_sharded_between_steps(place, outputs):
    for run_dir in ("distill", "adapt"):
        last = json.loads((place / run_dir / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["resident_bytes"] == 410_240  # half of 205,120 fp32 numbers
    assert "resident bytes per rank 410,240, 410,240" in outputs["distill"]


def test_results_cover_every_cell(place, outputs):
    results = json.loads((place / "adapt" / "results.json").read_text())
    methods = results["tasks"]["demo_relations"]["methods"]
    trained = {"metaprompt": {"0", "4", "full"}, "prompt_tuning": {"0", "4", "full"}}
    assert {m: set(s) for m, s in methods.items()} == trained | {"instruction": {"0"}, "in_context": {"4"}}
    assert results["trainable"]["count"] == 16 + 64
    assert results["tasks"]["demo_relations"]["role"] == "target"
    assert set(results["average"]) == {"metaprompt", "prompt_tuning", "instruction", "in_context"}
    task, cell = results["tasks"]["demo_relations"], methods["metaprompt"]["full"]
    assert task["rules"]["relation_f1"].startswith("micro over") and task["answers"] == "generated"
    assert task["resampling"] == {"unit": "document", "n_documents": 4, "resamples": 1000, "seed": 0, "level": 0.95}
    assert (
        cell["intervals"].keys() == {m for m in cell["scores"] if not m.startswith("n_")}
        and cell["scores"]["n_cut"] == 0
    )
    assert sum(row["support"] for row in cell["labels"].values()) == cell["scores"]["n_gold"]
    shown = methods["in_context"]["4"]
    assert (
        shown["n_examples_left_out"] == [4 * 4 - 4 * shown["n_examples_most"][0]]
        or shown["n_examples_fewest"] < shown["n_examples_most"]
    )
    report = (place / "report" / "report.md").read_text()
    assert "| demo_relations" in report and "### demo_relations, by label" in report
    found = task["paired"]["metaprompt-prompt_tuning"]["full"]
    assert f"{found['difference']:+.3f}" in report and (place / "report" / "report.html").stat().st_size > len(report)
    assert results["hashes"].keys() >= {"data", "backbone", "layout"} and list(
        (place / "adapt/tensorboard/hparams").iterdir()
    )


def test_a_validation_split_is_scored_beside_the_results(place, outputs):
    results, validated = (json.loads((place / "adapt" / f"results{s}.json").read_text()) for s in ("", "_validation"))
    assert "next:" not in outputs["evaluate validation"] and validated["checkpoint"] == results["checkpoint"]
    methods = validated["tasks"]["demo_relations"]["methods"]
    assert set(methods) == {"metaprompt", "prompt_tuning", "in_context"}
    asked = {
        folder: {
            json.loads(line)["example_id"]
            for line in (place / "adapt" / folder / "demo_relations.metaprompt.full.0.jsonl").read_text().splitlines()
        }
        for folder in ("predictions", "predictions_validation")
    }
    assert (
        asked["predictions"]
        and asked["predictions_validation"]
        and not asked["predictions"] & asked["predictions_validation"]
    )


def test_a_killed_evaluation_goes_on_and_says_how_fast_it_was(place, outputs):
    assert "metaprompt full seed 0" in outputs["evaluate killed"] and "read back" not in outputs["evaluate killed"]
    first = outputs["evaluate killed"].split("metaprompt 0 seed 0")[0].split()[-1]
    assert (
        f"{first} metaprompt 0 seed 0" in outputs["evaluate adapt"]
        and "answers read back)" in outputs["evaluate adapt"]
    )
    assert "answers in" in outputs["evaluate adapt"] and "generated tokens/s" in outputs["evaluate adapt"]
    tasks = json.loads((place / "adapt" / "results.json").read_text())["tasks"]
    for name, task in tasks.items():
        rows = sum(len(cell["seeds"]) for by in task["methods"].values() for cell in by.values())
        dropped = next(iter(task["methods"]["metaprompt"].values()))["n_dropped"]
        answering = task["answering"]
        assert (
            answering["answers"] + answering["read_back"] == rows * (task["n_test"] - dropped)
            and answering["seconds"] > 0
        ), name
        assert (answering["tokens"] > 0) == (task["answers"] == "generated")
    assert tasks[first]["answering"]["read_back"] >= 3 * (
        tasks[first]["n_test"] - 1
    )  # three rows at least were done before the kill
    assert not [p for p in (place / "adapt" / "predictions").iterdir() if p.suffix != ".jsonl"]


def test_a_users_notes_are_answered_by_two_ranks_or_one(place, outputs):
    notes = sorted((place / "data" / "demo_notes" / "test").glob("*.txt"))
    assert {p.name for p in (place / "answered").iterdir()} == {f"{p.stem}.ann" for p in notes} and len(notes) > 2
    assert f"{len(notes)} notes in" in outputs["predict"] and "by demo_entities.metaprompt.full.0" in outputs["predict"]
    (line,) = (place / "answered.jsonl").read_text().splitlines()
    answer = json.loads(line)
    assert answer["id"] == notes[0].stem and {"answer", "spans", "unaligned"} <= answer.keys()
    for path in ((place / "answered"), (place / "answered.jsonl"), *(place / "answered").iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077
    assert "answered.jsonl already exists" in outputs["predict again"] and not list(place.glob(".answered*"))


def test_no_note_text_leaves_caches_and_predictions(place, outputs):
    for name, text in outputs.items():
        assert CANARY not in text, name
    held = []
    for path in place.rglob("*"):
        assert CANARY not in path.name
        if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes():
            held.append(path)
    assert held, "the canary is nowhere: this test checks nothing"
    allowed = (place / "data", place / "cache", place / "answered")
    for path in held:
        protected = path.name == "answered.jsonl" or path.parent.name in ("predictions", "predictions_validation")
        assert protected or any(path.is_relative_to(a) for a in allowed), path
    for folder in ("cache", "distill", "adapt"):
        for path in (place / folder).rglob("*"):
            if not path.is_symlink():
                assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert not (place / "home" / ".cache").exists(), "something was written under ~/.cache"


def test_a_malformed_note_is_named_and_never_quoted(place, outputs, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    broken = sorted((tmp_path / "data" / "demo_notes" / "train").glob("*.ann"))[0]
    broken.write_text(f"T1\tDrug x 9\t{CANARY}\n" + broken.read_text())
    output = run(
        "distill",
        "--config=configs/demo/distill.yaml",
        f"--data.root={tmp_path / 'data'}",
        f"--data.cache={tmp_path / 'cache'}",
        f"--run_dir={tmp_path / 'run'}",
        ranks=1,
        expect=2,
    )
    assert f"{broken.name}:1" in output or f"{broken.name}, line 1" in output, output
    assert CANARY not in output and not (tmp_path / "run").exists()


def test_completed_runs_stop_at_once_and_other_ones_are_refused(place, outputs):
    assert "already COMPLETED" in run(*distill_arguments(place, "distill"), ranks=1)
    output = run(
        *distill_arguments(place, "distill"), "--prompt.init=text", "--prompt.init_text=fever", ranks=1, expect=2
    )
    assert "config.prompt.init: the checkpoint has 'vocabulary', this run 'text'" in output


def test_a_source_that_does_not_fit_is_refused_with_every_reason(place, outputs):
    adapt = ["adapt", "--config=configs/demo/adapt.yaml", f"--run_dir={place / 'other'}"]
    output = run(
        *adapt,
        f"--adapt.source_run={place / 'distill'}",
        "--backbone=configs/tiny/gpt_oss.yaml",
        "--prompt.rank=2",
        "--adapt.init=task:demo_qu",
        ranks=1,
        expect=2,
    )
    for reason in (
        "fits its own backbone only",
        "prompt.rank: 2, but the metaprompt of",
        "adapt.init: 'demo_qu' is not a source task",
    ):
        assert reason in output
    assert "is not a distillation but a run of adapt" in run(
        *adapt, f"--adapt.source_run={place / 'adapt'}", ranks=1, expect=2
    )
    assert not (place / "other").exists()


def test_evaluation_keeps_to_the_run(place, outputs):
    before = (place / "distill" / "results.json").read_bytes()
    evaluate = ["evaluate", f"--run={place / 'distill'}"]
    assert "is not the one that" in run(*evaluate, "--backbone=configs/tiny/gpt_oss.yaml", ranks=1, expect=2)
    assert "--data.max_length: belongs to the run" in run(*evaluate, "--data.max_length=50", ranks=1, expect=2)
    assert (place / "distill" / "results.json").read_bytes() == before
    run(*evaluate, "--tasks=demo_qa", ranks=1)
    again = json.loads((place / "distill" / "results.json").read_bytes())
    assert (
        set(again["tasks"]) == {"demo_qa", "demo_entities", "demo_summary"}
        and again["tasks"]["demo_qa"] == json.loads(before)["tasks"]["demo_qa"]
    )


def test_a_refused_resumption_touches_nothing(place, outputs):
    shutil.copytree(place / "distill", place / "refused", symlinks=True)
    (place / "refused" / "COMPLETED").unlink()
    before = (place / "refused" / "config.yaml").read_bytes()
    output = run(*distill_arguments(place, "refused"), "--distill.lambda_kl=0.5", ranks=1, expect=2)
    assert "config.distill.lambda_kl: the checkpoint has 0.9, this run 0.5" in output
    assert (place / "refused" / "config.yaml").read_bytes() == before


def test_killed_and_resumed_equals_uninterrupted(place, outputs):
    arguments = distill_arguments(place, "killed")
    run_and_kill(*arguments, when="distill 6/12")
    assert not (place / "killed" / "COMPLETED").exists()
    resumed = run(*arguments)
    assert "distill: resumed at step 4 of 12" in resumed and "teachers: reused" in resumed
    for name in ("prompts.safetensors", "optimizer.safetensors"):
        whole, again = (load_file(place / d / "latest" / name) for d in ("distill", "killed"))
        assert whole.keys() == again.keys()
        for key in whole:
            assert whole[key].equal(again[key]), key
    kept = [json.loads((place / d / "latest/state.json").read_text())["reused"] for d in ("distill", "killed")]
    assert kept[0] == kept[1] and kept[0].keys() == {"best"}
    timeless = [
        [
            {
                k: v
                for k, v in json.loads(line).items()
                if k not in ("tokens_per_s", "device_seconds", "mem", "gathers", "gather_bytes")
            }
            for line in (place / d / "metrics.jsonl").read_text().splitlines()
        ]
        for d in ("distill", "killed")
    ]
    assert timeless[0] == timeless[1]
