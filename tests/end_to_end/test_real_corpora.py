"""configs/real on PubMedQA, BC5CDR and MTS-Dialog as released: nothing dropped unsaid, on both families."""

import json

import pytest
from commands_runner import run


@pytest.mark.parametrize("backbone, ranks", [pytest.param("llama", 2, marks=pytest.mark.long), ("gpt_oss", 1)])
def test_real_corpora_go_through(clinical_data_root, tmp_path, backbone, ranks):
    common = [
        f"--data.cache={tmp_path / 'cache'}",
        f"--backbone=configs/tiny/{backbone}.yaml",
        f"--data.root={clinical_data_root}",
        "--data.max_train=40",
        "--data.max_validation=4",
        "--data.max_test=6",
        "--evaluate.max_new_tokens=3",
    ]
    said = run(
        "distill",
        "--config=configs/real/distill.yaml",
        *common,
        f"--run_dir={tmp_path / 'distill'}",
        "--teach.steps=4",
        "--teach.eval_interval=2",
        "--teach.batch_size=2",
        "--distill.steps=4",
        "--distill.batch_size=4",
        ranks=ranks,
    )
    run(
        "adapt",
        "--config=configs/real/adapt.yaml",
        *common,
        f"--adapt.source_run={tmp_path / 'distill'}",
        f"--run_dir={tmp_path / 'adapt'}",
        "--adapt.steps=2",
        "--adapt.shots=0,4",
        "--adapt.seeds=0",
        ranks=ranks,
    )
    for name, tasks in (("distill", {"pubmedqa", "bc5cdr_entities", "mts_dialog"}), ("adapt", {"bc5cdr_cid"})):
        said += run("evaluate", f"--run={tmp_path / name}", ranks=ranks)
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert set(results["tasks"]) == tasks
        for task, entry in results["tasks"].items():
            for by_shots in entry["methods"].values():
                for cell in by_shots.values():
                    assert 0 <= cell["mean"] <= 1
                    assert (
                        cell["n_dropped"] == 0
                        or f"{task}/test: {cell['n_dropped']} of {entry['n_test']} examples" in said
                    )
