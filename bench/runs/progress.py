"""How far a run has come, and its eval losses on the way: what a search needs that lets the better runs go on only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.runs.checkpoint import FOLDER, newest_sealed
from bench.runs.folder import RunFolder, read_begun
from bench.runs.record import COMPLETED, CURVE, read_rows

STOPPED_AT = "stopped_at_step"  # of an attempt, with eval_loss and num_steps


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: steps done by a completed run, or up to the newest checkpoint of any other; 0 for a run that has none.
        eval_losses: in nats by step, where they were due (train.eval_steps) and where run.stop_at_step stopped the run.
    """

    step: int
    eval_losses: Mapping[int, float]

    @property
    def eval_loss(self) -> float | None:
        """At `step`; None if it was not computed there."""
        return self.eval_losses.get(self.step)


class StoppedRunError(BaseException):
    """A run has come to run.stop_at_step. Not an Exception, so that nothing takes it for an error of the run.

    Args:
        step: number of steps done.
        num_steps: of the whole training.
        eval_loss: at `step`, in nats.
    """

    def __init__(self, step: int, num_steps: int, eval_loss: float) -> None:
        super().__init__(f"stopped at step {step} of {num_steps}, eval loss {eval_loss:.3f}")


def progress(folder: RunFolder) -> Progress:
    """How far a run has come by its record or, without one, by its newest checkpoint; checks no checksum."""
    record = folder.record
    if record is not None and record.status == COMPLETED:
        step, attempts = record.training.num_steps or 0 if record.training else 0, record.attempts
        rows = read_rows(folder.path / CURVE) if record.training else []
    else:
        attempts = read_begun(folder.workspace).get("attempts", [])
        step, journal = newest_sealed(folder.workspace / FOLDER) or (0, {"curve": []})
        rows = journal["curve"]
    losses = {row["step"]: row["eval_loss"] for row in rows if row.get("eval_loss") is not None}
    losses |= {one[STOPPED_AT]: one["eval_loss"] for one in attempts if STOPPED_AT in one}
    return Progress(step, losses)
