"""Loss curves of runs: read once, made smooth, and when a curve reaches a given loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high

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
        """The steps at which the eval loss was measured, finite or not."""
        return Curve(self.rows[~np.isnan(self["eval_loss"])])

    @property
    def final_eval_loss(self) -> float:
        """The last one measured; infinite if none was, or if training diverged."""
        losses = self.evaluated["eval_loss"]
        return float(losses[-1]) if len(losses) and math.isfinite(losses[-1]) else math.inf

    def last(self, quantity: str) -> float:
        """Step, tokens or seconds at which training ended."""
        return float(self[quantity][-1])


@dataclass(frozen=True)
class Reached:
    """Where a curve first comes down to a loss; between two measurements as if it were a straight line."""

    step: float
    tokens: float
    seconds: float


@dataclass(frozen=True)
class Target:
    """An eval loss to reach, and in words whose it is."""

    loss: float
    source: str


Curves = Mapping[Path, Curve]


def read_curve(folder: Path, init_seconds: float = 0.0) -> Curve:
    """The curve of a run's folder; without rows where it has none.

    Args:
        folder: of the run.
        init_seconds: what initialisation took, before the first step.
    """
    known = [[row.get(name) for name in COLUMNS] for row in read_rows(folder / CURVE)]
    rows = np.array(known, dtype=float).reshape(-1, len(COLUMNS))  # None becomes NaN
    rows[:, COLUMNS.index("seconds")] += init_seconds
    return Curve(rows)


def read_curves(cells: Sequence[Cell]) -> dict[Path, Curve]:
    """The curves of all trained runs of some cells by their folders, those without a row left out."""
    found = {
        folder: read_curve(folder, run.init_seconds)
        for cell in cells
        if cell.trained
        for run, folder in zip(cell.runs, cell.folders, strict=True)
    }
    return {folder: curve for folder, curve in found.items() if len(curve)}


def smooth(losses: Array, window: int) -> Array:
    """The mean over a window of steps around each step; at both ends over the steps that there are."""
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
    step, tokens, seconds = (
        float(measured[quantity][before] + share * (measured[quantity][here] - measured[quantity][before]))
        for quantity in ("step", "tokens", "seconds")
    )
    return Reached(step, tokens, seconds)


def target_loss(cells: Sequence[Cell], curves: Curves) -> Target | None:
    """The loss that methods are to reach: the last one of LoRA's median seed, so that half of its seeds or more do.

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
