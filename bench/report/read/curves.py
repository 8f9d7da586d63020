"""Loss curves of runs: read, smoothed, and the step at which a curve first reaches a given eval loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.report.judge.statistics import Array
from bench.report.read.load import BASELINE, Cell
from bench.runs.record import CURVE, read_rows

COLUMNS = ("step", "loss", "tokens", "seconds", "eval_loss")


@dataclass(frozen=True)
class Curve:
    """One run's losses.

    Attributes:
        rows: (num_steps, 5), a row a step: step, loss, tokens (cumulative), seconds (cumulative, calibration and
            factorisation included), eval_loss (NaN where it was not measured).
    """

    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> Array:
        """One of COLUMNS, (num_steps,)."""
        return self.rows[:, COLUMNS.index(column)]

    @property
    def evaluated(self) -> Curve:
        """The rows with a measured eval loss, finite or not."""
        return Curve(self.rows[~np.isnan(self["eval_loss"])])

    @property
    def final_eval_loss(self) -> float:
        """The last measured eval loss; infinite if none was measured or training diverged."""
        losses = self.evaluated["eval_loss"]
        return float(losses[-1]) if len(losses) and math.isfinite(losses[-1]) else math.inf

    def last(self, quantity: str) -> float:
        """The last value of a column: step, tokens or seconds at the end of training."""
        return float(self[quantity][-1])


class Reached(NamedTuple):
    """Where a curve first reaches a loss, linearly interpolated between two measurements."""

    step: float
    tokens: float
    seconds: float


class Target(NamedTuple):
    """An eval loss to reach, and which run it was taken from."""

    loss: float
    source: str


Curves = Mapping[Path, Curve]


def read_curve(folder: Path, init_seconds: float = 0.0) -> Curve:
    """Reads the curve of a run; a run that was not trained has no rows.

    Args:
        folder: the run's folder.
        init_seconds: duration of initialisation, which is added to the seconds of every step.
    """
    known = [[row.get(name) for name in COLUMNS] for row in read_rows(folder / CURVE)]
    rows = np.array(known, dtype=float).reshape(-1, len(COLUMNS))  # None becomes NaN
    rows[:, COLUMNS.index("seconds")] += init_seconds
    return Curve(rows)


def read_curves(cells: Sequence[Cell]) -> dict[Path, Curve]:
    """The curves of all trained runs of some cells, by folder; runs without a row are left out."""
    found = {
        folder: read_curve(folder, run.init_seconds)
        for cell in cells
        if cell.trained
        for run, folder in zip(cell.runs, cell.folders, strict=True)
    }
    return {folder: curve for folder, curve in found.items() if len(curve)}


def smooth(losses: Array, window: int) -> Array:
    """Centred moving average of (num_steps,) losses; the window is shorter at both ends."""
    return pd.Series(losses).rolling(window, min_periods=1, center=True).mean().to_numpy()


def reach(curve: Curve, target: float) -> Reached | None:
    """Where the eval loss is first at or below a target; None if it never is.

    A curve whose first measurement is below already has reached it there, or earlier: the first is an upper bound.
    """
    measured = curve.evaluated
    losses = measured["eval_loss"]
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return None
    here, before = below[0], max(below[0] - 1, 0)
    share = 1.0
    if here and math.isfinite(losses[before]):
        share = (losses[before] - target) / (losses[before] - losses[here])
    now, then = ([measured[quantity][place] for quantity in Reached._fields] for place in (here, before))
    return Reached(*(float(one + share * (other - one)) for one, other in zip(then, now, strict=True)))


def target_loss(cells: Sequence[Cell], curves: Curves) -> Target | None:
    """The eval loss that methods are to reach: the final one of LoRA's median seed, which half of its seeds reach.

    Of two middle seeds it is the higher loss; of several cells of LoRA the one with the lowest; without LoRA the median
    of all final losses. A seed that diverged counts as the highest. None where no run has an eval loss.
    """
    finals = [
        (cell, median_high(losses))
        for cell in cells
        if (losses := [curves[folder].final_eval_loss for folder in cell.folders if folder in curves])
    ]
    reference = [(loss, cell.label) for cell, loss in finals if cell.method == BASELINE and loss < math.inf]
    if reference:
        loss, label = min(reference)
        return Target(loss, f"final of {label}'s median seed")
    known = sorted(loss for _, loss in finals if loss < math.inf)
    return Target(median_high(known), "median of all methods' finals") if known else None
