"""Whether runs have learned their task: a rate of failure apart from the mean, and a guard for comparisons at chance.

One rule for all methods. A run has collapsed in a column if its score is not two standard errors, over its items,
better than chance, or if its training loss rose. Where some runs of a cell collapse and others train, its scores have
two modes, and no interval of a mean covers as often as it says (tests/test_learning.py simulates it). Chance is the
score of the most frequent class; without classes 1 / number of choices, and 0 where answers are generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.report.judge.metrics import SHARE
from bench.report.judge.scores import Column, Found
from bench.report.judge.statistics import summed, wilson
from bench.report.read.load import Cell

CLEAR = 2.0  # standard errors above chance


@dataclass(frozen=True)
class Failures:
    """The runs of a cell that collapsed in one column, while others trained.

    Attributes:
        low, high: Wilson's 95 % interval of their share.
        mean_of_others: the mean of the runs that trained.
    """

    num_collapsed: int
    n: int
    low: float
    high: float
    mean_of_others: float


def failures_of(cell: Cell, column: Column, found: Found) -> Failures | None:
    """How many runs of a cell collapsed; None unless the cell has both kinds of run."""
    if not cell.trained or len(found.sample.seeds) < 2:
        return None
    values = found.sample.values
    rose = {run.config.seed for run in cell.runs if run.training is not None and run.training.loss_rose is True}
    collapsed = np.array([seed in rose for seed in found.sample.seeds])
    if (chance := chance_of(column, found)) is not None:
        collapsed |= ~(values > chance + CLEAR * _stderrs(found))
    number, n = int(collapsed.sum()), len(values)
    if number in (0, n):
        return None
    low, high = wilson(number, n)
    return Failures(number, n, low, high, float(values[~collapsed].mean()))


def has_learned(column: Column, found: Found) -> bool:
    """Whether the mean of a cell is two standard errors, over seeds and items, better than chance."""
    chance, sample = chance_of(column, found), found.sample
    error = math.hypot(math.sqrt(summed(sample.parts).variance), sample.stderr or 0.0)
    return chance is None or found.estimate.mean > chance + CLEAR * error


def chance_of(column: Column, found: Found) -> float | None:
    """What answering without knowledge scores; None for a metric without such a score, such as a loss."""
    if column.scale.unit != SHARE.unit or not column.higher_is_better:
        return None
    return next((known for known in (found.majority, found.chance) if known is not None), 0.0)


def _stderrs(found: Found) -> np.ndarray:
    """The standard error over items of each run."""
    if found.sample.errors is not None:
        return np.linalg.norm(found.sample.errors, axis=0)
    return np.full(len(found.sample.seeds), found.sample.stderr or 0.0)
