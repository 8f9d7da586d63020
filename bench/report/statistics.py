"""From the scores of a cell's runs to a mean with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from bench.report.metrics import Scale

CONFIDENCE = 0.95
# Means of equal scores differ in the last bit with their number; far below one item of any test set.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: NaN where a metric is not defined, such as the correlation of a constant prediction.
        low, high: None where nothing is known of the spread.
        n: how many runs.
        over: what the interval is over: the seeds (Student's t), or with one run its items (normal).
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    over: Literal["seeds", "items", "nothing"]

    def clear_of(self, value: float, higher_is_better: bool) -> bool:
        """Whether the whole interval is better than a value; False where no interval is known."""
        if self.low is None or self.high is None:
            return False
        return self.low > value + ROUNDING if higher_is_better else self.high < value - ROUNDING


def estimate(values: Sequence[float], stderr: float | None, scale: Scale) -> Estimate:
    """The mean of one metric over the runs of a cell.

    Args:
        values: one score a run.
        stderr: the standard error over items of a single run; used only where there is one run.
        scale: of the metric.
    """
    mean, n = float(np.mean(values)), len(values)
    if not math.isfinite(mean):
        return Estimate(mean, None, None, n, "nothing")
    if n > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
        return Estimate(mean, max(mean - half, scale.low), min(mean + half, scale.high), n, "seeds")
    if stderr is not None:
        half = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * stderr)
        return Estimate(mean, max(mean - half, scale.low), min(mean + half, scale.high), n, "items")
    return Estimate(mean, None, None, n, "nothing")
