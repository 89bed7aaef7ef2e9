"""The one training loop. A stage (teach, distill, adapt) says what is trained on what; the loop does the rest.

plan the step's samples and their weights -> micro-batches of this rank -> one root forward and backward each -> sum the
bank's gradient over ranks -> row-wise AdamW -> log, validate, checkpoint
"""

from typing import Any

import torch
from torch import Tensor

from engine import checkpoints, telemetry
from engine.checkpoints import RunLock
from engine.core import Stopped
from engine.data import Sample, Stream
from engine.distributed import (
    PreemptionHandler,
    ShardedBackbone,
    StopRequest,
    gather_objects,
    sum_gradients,
    sum_over_ranks,
)
from engine.telemetry import DATA, REDUCE, STEP, MetricsWriter, phase
from engine.training.best_rows import keep_last, validate_rows
from engine.training.nonfinite_steps import NonfiniteSteps
from engine.training.stage import Adapter, Stage, TrainerConfig
from engine.training.step_metrics import peak_bytes
from engine.training.step_plan import StepPlan, plan_of
from engine.training.trainer_state import TrainerState, checkpoint_of, resume


class Trainer(TrainerState):
    """Runs a stage to its end, or from its latest checkpoint to its end. The outcome is in ``stage.bank`` and ``best``.

    Args:
        preemption: what may ask the loop to save or stop. run_lock: this job's right to write, on rank 0.
    """

    def __init__(
        self,
        stage: Stage,
        backbone: ShardedBackbone,
        settings: TrainerConfig,
        preemption: PreemptionHandler | None = None,
        run_lock: RunLock | None = None,
    ):
        super().__init__(stage, backbone, settings)
        self.preemption, self.run_lock = preemption, run_lock
        self.saver = checkpoints.Saver(stage.run_dir, settings.keep, run_lock)
        self.nonfinite = NonfiniteSteps(stage, settings.max_nonfinite_steps)
        self.streams = [_stream(row) for row in stage.rows]
        self.start_shared = {n: p.detach().clone() for n, p in stage.bank.named_parameters() if "shared" in n}
        self.last_samples: list[Sample] = []
        self._ahead: StepPlan | None = None

    # ---- one global step
    # -------------------------------------------------------------------------------------------------

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Gradient of global step ``step``, summed over ranks, in ``parameter.grad``.

        Returns:
            sums: fp64 (K, 4), per row the sums of ce, kl, hidden and the number of answer tokens. present: bool (K,),
                rows with samples.
            examples: int (K,), samples of each row. real_tokens: int (), tokens of all samples, without prompts and
                padding.
            computed_tokens: int (), of this rank's micro-batches with them.
        """
        stage = self.stage
        with phase(DATA):
            plan = self._planned(step)
            self.cursors, self.last_samples = list(plan.after), plan.samples
            for sample in plan.samples:
                self.row_tokens[sample.row] += len(sample)
        sums = torch.zeros(len(stage.rows), 4, dtype=torch.float64)
        for group in plan.groups:
            # fillers weigh zero; a row's NaN reaches its own gradient and P*'s only
            terms = self.forward_backward.train(
                group, stage.bank, stage.weights, stage.teachers, cached=stage.cached_teachers
            )
            real = terms.weights_N > 0
            row_N = terms.row_N[real].cpu()
            for column, values in enumerate((terms.ce_N, terms.kl_N, terms.hidden_N, torch.ones_like(terms.ce_N))):
                sums[:, column].index_add_(0, row_N, values[real].double().cpu())
        with phase(REDUCE):
            sum_gradients(stage.bank)
            sum_over_ranks(sums)
        picked = torch.tensor([sample.row for sample in plan.samples], dtype=torch.long)
        present = torch.zeros(len(stage.rows), dtype=torch.bool)
        present[picked] = True
        self._average_shared_gradients(present)
        real_tokens = sum(len(sample) for sample in plan.samples)
        computed_tokens = sum(self.forward_backward.tokens(group, stage.bank) for group in plan.groups)
        return {
            "sums": sums,
            "present": present,
            "examples": torch.bincount(picked, minlength=len(stage.rows)),
            "real_tokens": torch.tensor(real_tokens),
            "computed_tokens": torch.tensor(computed_tokens),
        }

    def _average_shared_gradients(self, present: Tensor) -> None:
        """The metaprompt sees the mean of the present tasks' losses, the factors each their own."""
        for name, span in self.stage.groups_of_row.items():
            if span is None:
                for parameter in self.stage.optimizer.groups[name].parameters.values():
                    parameter.grad = parameter.grad / present.sum()  # type: ignore[operator, arg-type]

    def _planned(self, step: int) -> StepPlan:
        """The plan of a step, made while the step before it ran where teachers' states are read ahead.

        Where they are, the next step is planned too, so that its states can be read while this one is computed.
        """
        active, cached = [not stopped for stopped in self.stopped], self.stage.cached_teachers
        plan, self._ahead = self._ahead, None
        if plan is None or not plan.follows(step, active, self.cursors):
            plan = self._plan(step, active, self.cursors)
        if cached is not None:
            expected = list(plan.groups)
            if step + 1 < self.stage.total_steps:
                self._ahead = self._plan(step + 1, active, plan.after)
                expected += self._ahead.groups
            cached.expect(expected)
        return plan

    def _plan(self, step: int, active: list[bool], cursors: list[int]) -> StepPlan:
        return plan_of(self.stage, self.forward_backward, self.streams, step=step, active=active, cursors=cursors)

    def advance(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One global step: gradients, optimizer, and the end of rows that have had all of theirs. -> what
        ``gradients`` and the optimizer say.
        """
        outcome = self.gradients(self.step)
        with phase(STEP):
            reports = self._optimise(outcome["present"])
        self.step += 1
        self._finish_rows(outcome["present"])
        return outcome, reports

    # ---- the loop
    # --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.close()

    def close(self) -> None:
        """End what reads ahead for this loop. Whoever calls ``advance`` or ``gradients`` alone calls this at the
        end.
        """
        self._ahead = None
        if self.stage.cached_teachers is not None:
            self.stage.cached_teachers.close()

    def _run(self) -> None:
        stage, settings = self.stage, self.settings
        telemetry.mark_startup("prompts and teachers")
        self._resume()
        log = MetricsWriter(
            stage.run_dir,
            name=stage.name,
            total_steps=stage.total_steps,
            resume_step=self.step + 1,
            tensorboard=settings.tensorboard,
            active=settings.rank == 0,
            terms=stage.loss_terms,
        )
        # zero-shot rows alone: nothing to train, and still something to evaluate
        if all(self.stopped) and self.step == 0:
            keep_last(self)
            self._save()
        while self.step < stage.total_steps and not all(self.stopped):
            outcome, reports = self.advance()
            self.window.add(outcome, reports)
            if told := telemetry.report_first_step():
                log.print_rank0(told)
            log.tick(self.step)
            last = self.step == stage.total_steps or all(self.stopped)
            if self.step % settings.log_every == 0 or last:
                self._log(log)
            if stage.eval_interval and (self.step % stage.eval_interval == 0 or last):
                validate_rows(self, log, last)
            done = last or all(self.stopped)  # a validation may have stopped the last row
            if done and self.window.steps:
                self._log(log)
            if done:
                keep_last(self)
            saved = done or self.step % settings.checkpoint_every == 0
            if saved:
                self._save()
            self._handle_request(done, saved)
        self._wait_for_checkpoint()
        log.close()

    def _handle_request(self, done: bool, saved: bool) -> None:
        """Save or stop if any rank was asked to; a checkpoint that could not be written ends the run. A collective.

        Raises:
            Stopped: with a checkpoint of this step.
        """
        if self.preemption is None:
            return
        request = self.preemption.agreed(self.saver.failed)
        if request == StopRequest.FAILED:
            self._wait_for_checkpoint()
        if request >= StopRequest.SAVE and not saved:
            self._save()
        if request == StopRequest.STOP and not done:
            self._wait_for_checkpoint()
            self.preemption.leave()
            raise Stopped(self.stage.name, self.step, self.stage.total_steps)

    def _wait_for_checkpoint(self) -> None:
        """Until rank 0's checkpoint is on disk. A collective.

        Raises:
            OSError, RunLockLost: it cannot be written. RuntimeError: rank 0 says so.
        """
        error: Exception | None = None
        try:
            self.saver.wait()
        except Exception as found:
            error = found
        failed = sum_over_ranks(torch.tensor([float(error is not None)]))
        if error is not None:
            raise error
        if failed.item():
            raise RuntimeError("rank 0 could not write its checkpoint")

    def _log(self, log: MetricsWriter) -> None:
        if self.run_lock is not None:
            self.run_lock.check()
        values = self.window.take(self.stage, self.start_shared, self.backbone)
        log.step(self.step, {**values, "mem": max(gather_objects(peak_bytes()))})

    def _optimise(self, present: Tensor) -> dict[str, Any]:
        """A step of every optimizer group; ``present``: bool (K,), rows with samples."""
        by_group = {}
        for name, span in self.stage.groups_of_row.items():
            by_group[name] = present.any()[None] if span is None else present[list(span)]
        reports = self.stage.optimizer.step(by_group)
        for name, report in reports.items():
            self.nonfinite.count(name, report.skipped_K, by_group[name])
            self.nonfinite.check(name, self.step + 1)
        return reports

    def _finish_rows(self, present: Tensor) -> None:
        for k, row in enumerate(self.stage.rows):
            if present[k]:
                self.row_steps[k] += 1
                if row.steps and self.row_steps[k] >= row.steps:
                    self.stop_row(k)

    # ---- checkpoints
    # -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.settings.rank == 0:
            self.saver.start(self.step, checkpoint_of(self))

    def _resume(self) -> None:
        if not self.settings.overwrite:
            resume(self)


def _stream(row: Adapter) -> Stream | None:
    """The order in which a row reads its samples; None for one that is never trained."""
    if not row.train_indices:
        return None
    return Stream(row.train_indices, row.stream_seed)
