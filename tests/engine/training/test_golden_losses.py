"""The first losses of two fixed runs, as numbers: a change that moves them changes the method, or the start, or the
data order.
"""

import pytest

from engine.training.teach_and_distill import distill_stage, teach_stage

TEACH = [7.0981463616, 6.7452590892, 6.5903529166, 6.5489749992, 6.4409325295]
DISTILL = {
    "ce": [7.1833941164, 6.8466844388, 6.9298853637, 6.9604584761, 6.9716510361],
    "kl": [0.0482620413, 0.0562254417, 0.0706174560, 0.0445945191, 0.0439005610],
    "hidden": [0.9691582785, 1.1148487365, 1.4129763507, 0.8997795204, 0.8679687631],
    "prompt_drift": [0.8944259620, 1.3592020259, 1.6367660115, 1.7885281646, 1.8512311573],
}


def test_teach(make_holder, make_loop, tasks, metrics) -> None:
    holder = make_holder(**{"teach.steps": 5, "teach.warmup_steps": 1})
    trainer = make_loop(teach_stage(holder, tasks), holder)
    trainer.run()
    lines = metrics(trainer.stage.run_dir)
    assert [line["loss"] for line in lines] == pytest.approx(TEACH, rel=0, abs=1e-6)
    assert all(line["loss"] == line["ce"] and not line["kl"] and not line["hidden"] for line in lines)


def test_distill(make_holder, make_loop, teachers, tasks, metrics) -> None:
    holder = make_holder(**{"distill.steps": 5, "distill.warmup_steps": 1, "distill.temperature": 2.0})
    trainer = make_loop(distill_stage(holder, data=tasks, teachers=teachers(3), teachers_hash="hash"), holder)
    trainer.run()
    lines = metrics(trainer.stage.run_dir)
    for name, wanted in DISTILL.items():
        assert [line[name] for line in lines] == pytest.approx(wanted, rel=0, abs=1e-6), name
    for line in lines:
        assert line["loss"] == pytest.approx(line["ce"] + 0.9 * line["kl"] + 0.9 * line["hidden"], rel=1e-12)
