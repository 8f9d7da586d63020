"""The Trainer's callback that writes one row a step, measures alignment, asks for checkpoints and draws the bar."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bench.process import ranks, signals
from bench.runs.attempt import Attempt
from bench.runs.checkpoint import Checkpoint
from bench.runs.record_parts import TrainingFacts
from bench.train.probe import AlignmentProbe
from bench.train.probe import Row as AlignmentRow
from bench.train.settings import Row, Training

FIRST = 5  # steps at most in which training begins; the demo's learning rates rise until the tenth


def ends(losses: Sequence[float]) -> tuple[float, float] | None:
    """Where training began and ended: the mean loss of the first steps, and that of the last tenth of them.

    The first steps are as many as a tenth, and at most FIRST. None for fewer than ten steps, whose batches differ by
    more than they learn.
    """
    tenth = len(losses) // 10
    return (fmean(losses[: min(tenth, FIRST)]), fmean(losses[-tenth:])) if tenth else None


class Journal(TrainerCallback):
    """Follows one training, from its first step or from a checkpoint.

    Attributes:
        curve: the rows so far.
        checkpoints: None if the run cannot be resumed.
        interrupted: whether a signal stopped it before its last step.
        stopped: whether it has come to run.stop_at_step, before its last step.
        eval_loss: that was computed last, also where it is no part of the curve.

    Args:
        tokens_a_step: number of tokens of each step.
        probe: the alignment measures.
        logbook: is given every finished row.
        precision: of training, for the record.
        whole: context manager in which a sharded model has all its weights.
        penalty: what a system has added to the loss of the last step, which a row has beside it; None: nothing.
    """

    def __init__(
        self,
        tokens_a_step: list[int],
        probe: AlignmentProbe,
        logbook: Attempt,
        precision: str = "fp32",
        whole: Callable[[PreTrainedModel], AbstractContextManager[PreTrainedModel]] = nullcontext,
        penalty: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._whole, self._penalty = whole, penalty
        self.precision = "bf16 autocast" if precision == "bf16" else precision
        self.curve: list[Row] = []
        self.interrupted = self.stopped = False
        self.eval_loss: float | None = None
        self._eval_due = True  # where the curve has it; elsewhere only the stop asks for it
        self._tokens = list(itertools.accumulate(tokens_a_step))
        self._probe, self._logbook = probe, logbook
        self.checkpoints = logbook.checkpoints
        self._alignment: list[AlignmentRow] = []
        self._written = 0
        self._carried = 0.0
        total = len(tokens_a_step)
        self._bar = tqdm(total=total, desc="train", unit="step", leave=False, disable=ranks.rank() > 0)
        self._start = self._saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time since the first step began, without alignment measures and steps that were done twice."""
        return time.perf_counter() - self._start - self._probe.seconds

    def begin(self, model: PreTrainedModel, checkpoint: Checkpoint | None) -> None:
        """Measures the model before the first step and starts the clock, or resumes both from a checkpoint."""
        if checkpoint is not None:
            kept = checkpoint.journal
            self.curve = kept["curve"]
            self._written = len(self.curve)
            self._probe.restore(kept["alignment"], kept["probe_seconds"])
            self._carried = kept["seconds"] + kept["probe_seconds"]
            self._start = time.perf_counter() - self._carried
            self._logbook.restart(self.curve, self._probe.rows)
            self._bar.update(checkpoint.step)
        else:
            if self._probe.due(0):
                self._logbook.log({}, self._probe.measure(model, 0))
            self._start = time.perf_counter() - self._probe.seconds
        self._saved = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """The rows and seconds that a checkpoint needs so that a resumed run has the same curve."""
        self._flush()
        rows = [asdict(row) for row in self._probe.rows]
        spent = {"seconds": self.seconds, "probe_seconds": self._probe.seconds}
        return spent | {"curve": self.curve, "alignment": rows}

    def finish(self) -> Training:
        """Logs the last row, closes the bar, and warns of a loss that ended above where it began."""
        last, means = self.curve[-1], ends([row["loss"] for row in self.curve])
        facts = TrainingFacts(
            num_steps=len(self.curve),
            num_tokens=self._tokens[-1],
            seconds=self.seconds,
            loss=last["loss"],
            eval_loss=last["eval_loss"],
            loss_rose=None if means is None else means[1] > means[0],
            precision=self.precision,
        )
        self._flush()
        self.close()
        if facts.loss_rose and means is not None and ranks.rank() == 0:
            warnings.warn(
                f"the training loss ended above where it began, {means[1]:.3f} after {means[0]:.3f} (means of the last "
                "tenth and of the first steps); take a lower train.learning_rate",
                stacklevel=2,
            )
        return Training(self.curve, facts, self._carried)

    def close(self) -> None:
        """Closes the bar, also of a failed run."""
        self._bar.close()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The row of the step before is complete now."""
        self._flush()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After an optimiser step, before its loss is logged: measures alignment and asks for a checkpoint when due."""
        step = state.global_step
        if self._probe.due(step, last=step == state.max_steps):
            with self._whole(kwargs["model"]) as model:
                self._alignment = self._probe.measure(model, step)
        stop, due = self._asked(step, last=step == state.max_steps)
        self.interrupted = stop and step < state.max_steps
        self.stopped = step == self._logbook.stop_at_step and step < state.max_steps
        if self.stopped:  # Trainer has asked before, where the loss is due anyway
            self._eval_due, control.should_evaluate = control.should_evaluate, True
        if stop or self.stopped:
            control.should_training_stop = True
        if stop or due or self.stopped:
            control.should_save = True
            self._saved = time.perf_counter()
        self._logbook.step(step, state.max_steps, self.seconds)

    def _asked(self, step: int, last: bool) -> tuple[bool, bool]:
        """Whether a signal has come, and whether a checkpoint is due, on any rank."""
        if self.checkpoints is None:
            due = False
        else:
            due = self.checkpoints.settings.due(step, last, (time.perf_counter() - self._saved) / 60)
        flags = ranks.all_reduce_sum(torch.tensor([float(signals.requested()), float(due)]))
        return bool(flags[0]), bool(flags[1])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One row when the step's loss is known; the eval loss joins the row of its step."""
        logs = kwargs["logs"]
        if "eval_loss" in logs:
            self.eval_loss = logs["eval_loss"]
            if self._eval_due:
                self.curve[-1]["eval_loss"] = logs["eval_loss"]
        if "loss" not in logs:
            return
        row: Row = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "tokens": self._tokens[state.global_step - 1],
            "seconds": round(self.seconds, 4),
        }
        if (penalty := self._penalty()) is not None:
            row["penalty"] = penalty
        self.curve.append(row)
        self._bar.set_postfix(loss=f"{row['loss']:.3f}", lr=f"{row['learning_rate']:.1e}", refresh=False)
        self._bar.update()

    def _flush(self) -> None:
        if self.curve and (self._alignment or len(self.curve) > self._written):
            self._logbook.log(self.curve[-1], self._alignment)
            self._written, self._alignment = len(self.curve), []
