"""The stages that a plan counts."""

from dataclasses import replace

from engine.config.schema import RunConfig
from engine.planning.flags import assumed_of
from engine.planning.sample_lengths import data_for
from engine.planning.step_workload import stages_of
from engine.training.context import RunContext


def test_a_sweep_of_teachers_rates_is_a_stage_before_them(run_context: RunContext, llama: RunConfig) -> None:
    rates = replace(llama.lr_sweep, relative_lr_teach=(0.1, 0.2))
    config = replace(llama, lr_sweep=rates)
    data, _ = data_for(run_context, "distill", assumed_of(config))
    sweep, teach, distill = stages_of(config, "distill", data, world=8, decided={})
    assert [stage.name for stage in (sweep, teach, distill)] == ["lr_sweep", "teach", "distill"]
    assert sweep.steps == config.teach.steps and sweep.kind == "train" and not sweep.forward
    assert sweep.examples == 2 * teach.examples  # each task trains at both rates
