"""From the scores of a cell's runs to a mean with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# What a metric can be; an interval is not drawn beyond it.
BOUNDS = {"mcc": (-1.0, 1.0)}
UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        low, high: None where nothing is known of the spread.
        n: how many runs.
        over: what the interval is over: the seeds (Student's t), or with one run its items (normal).
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    over: Literal["seeds", "items", "nothing"]


def estimate(values: Sequence[float], stderr: float | None, metric: str) -> Estimate:
    """The mean of one metric over the runs of a cell.

    Args:
        values: one score a run.
        stderr: the standard error over items of a single run; used only where there is one run.
        metric: its name, which may carry a filter after a comma.
    """
    mean, n = float(np.mean(values)), len(values)
    lowest, highest = BOUNDS.get(metric.partition(",")[0], UNIT)
    if n > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
        return Estimate(mean, max(mean - half, lowest), min(mean + half, highest), n, "seeds")
    if stderr is not None:
        half = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * stderr)
        return Estimate(mean, max(mean - half, lowest), min(mean + half, highest), n, "items")
    return Estimate(mean, None, None, n, "nothing")
