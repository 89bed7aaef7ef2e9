"""The one training loop. A stage (teach, distill, adapt) says what is trained on what; the loop does the rest.

plan the step's picks -> weigh -> micro-batches of this rank -> one root forward and backward each -> sum the bank's
gradient over ranks -> row-wise AdamW -> log, validate, checkpoint
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine import checkpoints, telemetry
from engine.checkpoints import RunLock
from engine.config import check_hashes
from engine.core import Stopped, UserError
from engine.data import Pick, Stream
from engine.distributed import (
    PreemptionHandler,
    ShardedBackbone,
    StopRequest,
    gather_objects,
    sum_gradients,
    sum_over_ranks,
)
from engine.telemetry import DATA, REDUCE, STEP, MetricsWriter, phase
from engine.training.forward_backward import ForwardBackward
from engine.training.stage import Adapter, Stage, TrainerConfig
from engine.training.step_metrics import MetricsWindow, peak_bytes
from engine.training.step_plan import StepPlan, plan_of
from engine.training.validation_loss import validation_losses


class Trainer:
    """Runs a stage to its end, or from its latest checkpoint to its end. The outcome is in ``stage.bank`` and ``best``.

    Args:
        interruption: what may ask the loop to save or stop. fence: this job's right to write, on rank 0.
    """

    def __init__(
        self,
        stage: Stage,
        backbone: ShardedBackbone,
        settings: TrainerConfig,
        interruption: PreemptionHandler | None = None,
        fence: RunLock | None = None,
    ):
        self.stage, self.backbone, self.settings, self.interruption, self.fence = (
            stage,
            backbone,
            settings,
            interruption,
            fence,
        )
        self.saver = checkpoints.Saver(stage.run_dir, settings.keep, fence)
        self.not_finite: dict[str, Tensor] = {}
        self.streams = [Stream(r.train_indices, r.stream_seed) if r.train_indices else None for r in stage.rows]
        self.cursors = [0] * len(stage.rows)
        self.row_steps = [0] * len(stage.rows)
        self.stopped = [not r.train_indices for r in stage.rows]
        self.best_loss = [math.inf] * len(stage.rows)
        self.best_step = [0] * len(stage.rows)
        self.waited = [0] * len(stage.rows)
        self.row_tokens = [0] * len(stage.rows)  # real ones that each row was trained on
        self.best = {n: p.detach().clone() for n, p in stage.bank.named_parameters()}
        self.any_best = False
        self.changes: list[str] = []
        self.start_shared = {n: p.detach().clone() for n, p in stage.bank.named_parameters() if "shared" in n}
        self.step = 0
        self.last_step_picks: list[Pick] = []
        self._ahead: StepPlan | None = None
        self.window = MetricsWindow()
        self.forward_backward = ForwardBackward(
            backbone, settings.packed, settings.max_tokens_per_micro_batch, settings.rank, settings.world
        )

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
        stage, rows = self.stage, self.stage.rows
        with phase(DATA):
            plan = self._planned(step)
            picks, items, groups = plan.picks, plan.items, plan.groups
            self.cursors, self.last_step_picks = list(plan.after), picks
            for item in items:
                self.row_tokens[item.row] += len(item.sample)
        sums = torch.zeros(len(rows), 4, dtype=torch.float64)
        for group in groups:
            # fillers weigh zero; a row's NaN reaches its own gradient and P*'s only
            terms = self.forward_backward.train(group, stage.bank, stage.weights, stage.teachers, stage.cached_teachers)
            real = terms.weights_N > 0
            row_N = terms.row_N[real].cpu()
            for column, values in enumerate((terms.ce_N, terms.kl_N, terms.hidden_N, torch.ones_like(terms.ce_N))):
                sums[:, column].index_add_(0, row_N, values[real].double().cpu())
        with phase(REDUCE):
            sum_gradients(stage.bank)
            sum_over_ranks(sums)
        present = torch.zeros(len(rows), dtype=torch.bool)
        present[[p.row for p in picks]] = True
        for name, span in stage.groups_of_row.items():
            if span is None:  # the metaprompt sees the mean of the tasks' losses, the factors each their own
                for parameter in stage.optimizer.groups[name].parameters.values():
                    parameter.grad = parameter.grad / present.sum()  # type: ignore[operator, arg-type]
        examples = torch.bincount(torch.tensor([p.row for p in picks], dtype=torch.long), minlength=len(rows))
        tokens = {
            "real_tokens": sum(len(i.sample) for i in items),
            "computed_tokens": sum(self.forward_backward.tokens(g, stage.bank) for g in groups),
        }
        return {
            "sums": sums,
            "present": present,
            "examples": examples,
            **{name: torch.tensor(n) for name, n in tokens.items()},
        }

    def _planned(self, step: int) -> StepPlan:
        """The plan of a step, made while the step before it ran where teachers' states are read ahead.

        Where they are, the next step is planned too, so that its states can be read while this one is computed.
        """
        active, kept = [not s for s in self.stopped], self.stage.cached_teachers
        plan, self._ahead = self._ahead, None
        if plan is None or not plan.follows(step, active, self.cursors):
            plan = self._plan(step, active, self.cursors)
        if kept is not None:
            if step + 1 < self.stage.total_steps:
                self._ahead = self._plan(step + 1, active, plan.after)
            kept.expect([*plan.groups, *(self._ahead.groups if self._ahead else ())])
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
            stage.run_dir, stage.name, stage.total_steps, self.step + 1, settings.tensorboard, settings.rank == 0
        )
        if (
            all(self.stopped) and self.step == 0
        ):  # zero-shot rows alone: nothing to train, and still something to evaluate
            self._keep_last()
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
                self._validate(log, last)
            done = last or all(self.stopped)  # a validation may have stopped the last row
            if done and self.window.steps:
                self._log(log)
            if done:
                self._keep_last()
            saved = done or self.step % settings.checkpoint_every == 0
            if saved:
                self._save()
            self._obey(done, saved)
        self._settle()
        log.close()

    def _obey(self, done: bool, saved: bool) -> None:
        """Save or stop if any rank was asked to; a checkpoint that could not be written ends the run. A collective.

        Raises:
            Stopped: with a checkpoint of this step.
        """
        if self.interruption is None:
            return
        request = self.interruption.agreed(self.saver.failed)
        if request == StopRequest.FAILED:
            self._settle()
        if request >= StopRequest.SAVE and not saved:
            self._save()
        if request == StopRequest.STOP and not done:
            self._settle()
            self.interruption.leave()
            raise Stopped(self.stage.name, self.step, self.stage.total_steps)

    def _settle(self) -> None:
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
        if self.fence is not None:
            self.fence.check()
        values = self.window.take(self.stage, self.start_shared, self.backbone)
        log.step(self.step, {**values, "mem": max(gather_objects(peak_bytes()))})

    def _optimise(self, present: Tensor) -> dict[str, Any]:
        by_group = {
            n: present[list(span)] if span is not None else present.any()[None]
            for n, span in self.stage.groups_of_row.items()
        }
        reports = self.stage.optimizer.step(by_group)
        for name, report in reports.items():
            before = self.not_finite.get(name, torch.zeros_like(report.skipped_K, dtype=torch.int64))
            taking_part = by_group[name].to(before.device)
            self.not_finite[name] = torch.where(taking_part, torch.where(report.skipped_K, before + 1, 0), before)
            self._give_up(name)
        return reports

    def _give_up(self, group: str) -> None:
        limit, span = self.settings.max_nonfinite_steps, self.stage.groups_of_row[group]
        if not limit or int(self.not_finite[group].max()) < limit:
            return
        worst = (self.not_finite[group] >= limit).nonzero()[:, 0].tolist()
        names = [self.stage.rows[span[k]].name for k in worst] if span is not None else ["the metaprompt"]
        raise RuntimeError(
            f"{self.stage.name} {self.step + 1}: in {limit} steps running the gradient of {', '.join(names[:8])} "
            "was not finite; "
            "a lower learning rate, a clip, or the data of these tasks"
        )

    def _finish_rows(self, present: Tensor) -> None:
        for k, row in enumerate(self.stage.rows):
            if present[k]:
                self.row_steps[k] += 1
                if row.steps and self.row_steps[k] >= row.steps:
                    self._stop(k)

    def _stop(self, k: int) -> None:
        self.stopped[k] = True
        for name, span in self.stage.groups_of_row.items():
            if span is not None and k in span:
                self.stage.optimizer.groups[name].active_K[k - span.start] = False

    def validation_losses(self, rows: Sequence[int]) -> dict[int, float]:
        """Mean cross-entropy of an answer token on each row's validation split. A collective."""
        splits = {k: self.stage.rows[k].validation for k in rows}
        assert all(split is not None for split in splits.values())
        return validation_losses(self.forward_backward, self.stage.bank, splits)  # type: ignore[arg-type]

    def _validate(self, log: MetricsWriter, last: bool) -> None:
        due = [
            k
            for k, r in enumerate(self.stage.rows)
            if r.validation is not None and r.train_indices and (self.best_step[k] < self.row_steps[k])
        ]
        due = [k for k in due if not self.stopped[k] or last or self.row_steps[k] == self.stage.rows[k].steps]
        losses = self.validation_losses(due)
        for k, loss in losses.items():
            if loss < self.best_loss[k]:
                self.best_loss[k], self.best_step[k], self.waited[k] = loss, self.row_steps[k], 0
                self._remember(k)
            else:
                self.waited[k] += 1
                if self.stage.patience and self.waited[k] >= self.stage.patience:
                    self._stop(k)
        if losses:
            shown = ", ".join(f"{self.stage.rows[k].name} {v:.3f}" for k, v in list(losses.items())[:6])
            log.print_rank0(
                f"{self.stage.name} {self.step}: validation loss {shown}"
                + (f" and {len(losses) - 6} more" if len(losses) > 6 else "")
            )

    @torch.no_grad()
    def _remember(self, k: int) -> None:
        """Copy row k as its best."""
        self.any_best = True
        for part, span in self.stage.bank.spans().items():
            if k in span:
                for name, parameter in self.stage.bank.parts[part].named_parameters():
                    if len(parameter) == len(span):
                        self.best[f"parts.{part}.{name}"][k - span.start] = parameter[k - span.start]

    @torch.no_grad()
    def _keep_last(self) -> None:
        """Rows without a validation keep their last step; so does the shared metaprompt."""
        for k in range(len(self.stage.rows)):
            if self.best_loss[k] == math.inf:
                self._remember(k)
                self.best_step[k] = self.row_steps[k]
        for part, span in self.stage.bank.spans().items():
            for name, parameter in self.stage.bank.parts[part].named_parameters():
                if len(parameter) != len(span):
                    self.best[f"parts.{part}.{name}"].copy_(parameter)

    # ---- checkpoints
    # -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.settings.rank == 0:
            parameters = dict(self.stage.bank.named_parameters())
            prompts: dict[str, Tensor] = {n: p for n, p in parameters.items() if p.requires_grad}
            best = (
                {f"best.{n}": t for n, t in self.best.items()} if self.any_best else {}
            )  # else it is the start, which no one asks for
            frozen: dict[str, Tensor] = {n: p for n, p in parameters.items() if n not in prompts}
            progress = {n: getattr(self, n) for n in _PROGRESS}
            progress["window"] = self.window.state()
            state = {
                "stage": self.stage.name,
                "rows": [_labels(r) for r in self.stage.rows],
                "progress": progress,
                "hashes": self.stage.hashes,
                "changes": self.changes,
            }
            if self.stage.source_tasks:
                state["source_tasks"] = self.stage.source_tasks
            seldom = {kind: tensors for kind, tensors in (("best", best), ("frozen", frozen)) if tensors}
            self.saver.start(
                self.step, checkpoints.Checkpoint(prompts, self.stage.optimizer.state_dict(), state, seldom)
            )

    @torch.no_grad()
    def _resume(self) -> None:
        found = (
            None
            if self.settings.overwrite
            else checkpoints.load(self.stage.run_dir, print if self.settings.rank == 0 else lambda _: None)
        )
        if found is None:
            return
        accepted = check_hashes(
            found.state["hashes"], self.stage.hashes, self.stage.run_dir, self.settings.accept_changes
        )
        self.changes = [*found.state.get("changes", []), *(f"step {found.state['step']}: {line}" for line in accepted)]
        parameters: dict[str, Tensor] = dict(self.stage.bank.named_parameters())
        self._check_shape(found, parameters)
        for name, tensor in found.prompts.items():
            (self.best[name.removeprefix("best.")] if name.startswith("best.") else parameters[name]).copy_(tensor)
        device = self.backbone.device
        self.stage.optimizer.load_state_dict({n: t.to(device) for n, t in found.optimizer.items()})
        self.any_best = "best" in found.kept
        for name in _PROGRESS:
            setattr(
                self, name, found.state["progress"].get(name, getattr(self, name))
            )  # earlier releases did not count all of them
        self.window = MetricsWindow(found.state["progress"]["window"])
        if self.settings.rank == 0:
            for line in accepted:
                print(f"WARNING {self.stage.run_dir}: goes on although it changed: {line}", flush=True)
            print(f"{self.stage.name}: resumed at step {self.step} of {self.stage.total_steps}", flush=True)

    def _check_shape(self, found: checkpoints.Checkpoint, parameters: dict[str, Tensor]) -> None:
        """Changes that were accepted may be of rates and data, not of what the numbers are."""
        rows, shapes = [_labels(r) for r in self.stage.rows], {n: list(p.shape) for n, p in parameters.items()}
        saved = {n: list(t.shape) for n, t in found.prompts.items() if not n.startswith("best.")}
        problems = (
            [f"its rows are {len(found.state['rows'])}, of this run {len(rows)}, or others"]
            if found.state["rows"] != rows
            else []
        )
        problems += [
            f"{n} is {saved.get(n)} there, {shapes.get(n)} here"
            for n in sorted(saved.keys() | shapes.keys())
            if saved.get(n) != shapes.get(n)
        ]
        if problems:
            raise UserError(
                [
                    f"{self.stage.run_dir}: other tasks or shapes than in the checkpoint: {p}; name another run_dir"
                    for p in problems
                ]
            )


def _labels(row: Adapter) -> dict[str, Any]:
    return {"task": row.task, "method": row.label, "shots": row.shots, "seed": row.seed}


_PROGRESS = ("step", "cursors", "row_steps", "stopped", "best_loss", "best_step", "waited", "row_tokens")
