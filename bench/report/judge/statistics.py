"""Means over seeds and items with their intervals.

Three things make a score uncertain: the seed, the items that happen to be in the test set, and the learning rate, which
was chosen from data. Seeds are too few to be resampled: percentiles over three seeds cover 50 to 70 % where they say 95
(tests/test_statistics.py simulates it). Their part of an interval is Student's t, which is exact for few; that of a
difference of two methods is Welch's (1947, Biometrika 34), whose variances are those of two independent groups of runs,
with Satterthwaite's degrees of freedom. The variance that a chosen learning rate adds is one more term in them.
Items are answered by all seeds alike, so their standard error is a part of its own (bench.report.judge.items). The
squares of the two half-widths add (Howe 1974, J. Am. Stat. Assoc. 69), so the interval is never narrower than either.
With one seed it is over items alone; where no items are known, over seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.report.judge.metrics import SHARE, Scale
from bench.study.selection import ROUNDING

Array = NDArray[np.floating]
CONFIDENCE = 0.95
TRIMMED = 0.25  # of the scores at either end, which an interquartile mean leaves out
TRIMMED_FROM = 5  # runs: its interval covers 89 to 96 % with three, 92 to 96 % with five and with ten
Over = Literal["seeds and items", "seeds", "items", "nothing"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: NaN where a metric is not defined, such as the correlation of a constant prediction.
        low, high: None if neither seeds nor items give a spread.
        n: number of runs.
        over: the sources of variation that the interval covers.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    over: Over

    def is_better_than(self, value: float, higher_is_better: bool) -> bool:
        """Whether the whole interval is better than a value; False without an interval."""
        if self.low is None or self.high is None:
            return False
        return self.low > value + ROUNDING if higher_is_better else self.high < value - ROUNDING


@dataclass(frozen=True)
class Part:
    """A part of the variance of a mean: what was estimated, and with how many degrees of freedom."""

    variance: float
    degrees: float


def over_seeds(values: Array) -> tuple[Part, ...]:
    """The variance of a mean over seeds, (num_seeds,); nothing for one seed or values that are equal."""
    n = len(values)
    return (Part(float(np.var(values, ddof=1)) / n, n - 1),) if n > 1 and np.ptp(values) >= ROUNDING else ()


def summed(parts: Sequence[Part]) -> Part:
    """The sum of independent parts, with Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2)."""
    total = sum(part.variance for part in parts)
    if not total:
        return Part(0.0, math.inf)
    inverse = sum(part.variance**2 / part.degrees for part in parts) / total**2
    return Part(total, 1 / inverse if inverse else math.inf)


def interval(
    center: float,
    parts: Sequence[Part],
    stderr: float | None,
    scale: Scale,
    n: int,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Howe's interval around a mean or a difference.

    Args:
        center: the mean.
        parts: of its variance over seeds and chosen learning rates.
        stderr: its standard error over the items; None if the items are not known.
        scale: whose bounds the interval does not exceed.
        n: number of seeds; with one and without items there is no interval.
    """
    if not math.isfinite(center) or (n < 2 and stderr is None):
        return Estimate(center, None, None, n, "nothing")
    over: Over = "items" if n < 2 else "seeds" if stderr is None else "seeds and items"
    seeds = summed(parts)
    over_items = quantile(math.inf, confidence) * (stderr or 0.0)
    half = math.hypot(quantile(seeds.degrees, confidence) * math.sqrt(seeds.variance), over_items)
    return Estimate(center, max(center - half, scale.low), min(center + half, scale.high), n, over)


def estimate(
    values: Sequence[float],
    stderr: float | None,
    scale: Scale,
    num_items: int | None = None,
    chosen: Part | None = None,
) -> Estimate:
    """The mean of one metric over the runs of a cell with its 95 % interval.

    Args:
        values: (num_seeds,).
        stderr: standard error of their mean over the items, the same in every run; None if the items are not known.
        scale: of the metric, whose bounds the interval does not exceed.
        num_items: number of items; if given, a share of exactly 0 or 1 in every run has Wilson's interval.
        chosen: the variance of the mean that comes from having chosen its learning rate from data.
    """
    n, center = len(values), float(np.mean(values))
    if num_items and scale == SHARE and not stderr and stderr is not None and min(center, 1 - center) < ROUNDING:
        low, high = wilson(round(center * num_items), num_items)
        return Estimate(center, low, high, n, "seeds and items" if n > 1 else "items")
    parts = (*over_seeds(np.asarray(values)), *([chosen] if chosen else [])) if math.isfinite(center) else ()
    return interval(center, parts, stderr, scale, n)


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(count, total, 1 - CONFIDENCE, method="wilson")
    return round(float(low), 12), round(float(high), 12)  # which rounding leaves at 1e-18


@lru_cache(maxsize=4096)
def quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """The upper end of an interval of Student's t; of the normal distribution for infinite degrees of freedom."""
    return float(stats.t.ppf((1 + confidence) / 2, degrees))


def interquartile_estimate(
    tasks: Sequence[Array], errors: Sequence[Array] | None, scale: Scale, chosen: Part | None = None
) -> Estimate:
    """The interquartile mean over tasks and runs (Agarwal et al. 2021, rliable) with Yuen's interval, of Student's t.

    The lowest and the highest quarter of all scores are left out of the mean. Its variance is that of the Winsorised
    scores (Yuen 1974, Biometrika 61), summed over tasks within each run, since the tasks are not a sample and a run's
    scores in them depend on each other. With fewer than TRIMMED_FROM runs it covers too little and is not given; a
    percentile bootstrap covers less still (tests/test_statistics.py simulates both).

    Args:
        tasks: the scores of each task, (num_runs,), the runs in the same order in every task.
        errors: of each task how each unit of items moves the runs' scores (bench.report.judge.items); None if the items
            are not known.
        scale: of the scores, whose bounds the interval does not exceed.
        chosen: the variance that comes from having chosen the learning rate from data.
    """
    scores = np.array(tasks)
    n, size = scores.shape[1], scores.size
    center = float(stats.trim_mean(scores, TRIMMED, axis=None))
    if n < TRIMMED_FROM or not np.isfinite(scores).all():
        return Estimate(center, None, None, n, "nothing")
    cut = int(TRIMMED * size)
    order = np.argsort(scores, axis=None, kind="stable")[cut : size - cut]
    kept = np.zeros(size)
    kept[order] = 1 / len(order)
    weights = kept.reshape(scores.shape)
    low, high = scores.flat[order[0]], scores.flat[order[-1]]
    moved = np.clip(scores, low, high).sum(axis=0) * n / len(order)  # of each run; their mean is the Winsorised one
    stderr = None
    if errors is not None:
        stderr = math.sqrt(sum(float(np.sum((of @ weight) ** 2)) for of, weight in zip(errors, weights, strict=True)))
    parts = (*over_seeds(moved), *([chosen] if chosen else []))
    return interval(center, parts, stderr, scale, n)
