"""What a study of some size finds: the power of the suite's own test, its minimum detectable effect and seeds to add.

A difference is found where p < alpha over the seeds and over the items, with alpha the smallest level that Holm's
correction leaves, and its 95 % interval excludes 0. All of that holds where the difference found exceeds a threshold
that depends on the variances that were estimated. They are independent of the difference, each chi-squared around its
true value; the power is the mean over them of the normal probability to exceed the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from bench.report.judge.statistics import CONFIDENCE, Array, Part

POWER = 0.8  # of a minimum detectable effect
MOST_SEEDS = 10_000  # of those that an undecided question is said to take
LOG2_NODES = 11  # of the quadrature over variances: power to 0.002
TWO_SIDED = (1 + CONFIDENCE) / 2


def power(difference: float, parts: Sequence[Part], stderr: float, alpha: float) -> float:
    """The probability to find a difference of two methods.

    Args:
        difference: the true one.
        parts: true variances of the difference over seeds and chosen learning rates, and the degrees of freedom with
            which each is estimated.
        stderr: standard error of the difference over the items; 0 where no items are known.
        alpha: the level at which it counts as found, two-sided.
    """
    spread = math.sqrt(sum(part.variance for part in parts) + stderr**2)
    thresholds = _thresholds(tuple(parts), stderr, alpha)
    if not spread:
        return 1.0 if difference > 0 else 0.0
    return float(special.ndtr((difference - thresholds) / spread).mean())


def detectable_difference(parts: Sequence[Part], stderr: float, alpha: float) -> float:
    """The minimum detectable effect: the difference that is found with probability 0.8; arguments as of `power`."""
    high = math.sqrt(sum(part.variance for part in parts) + stderr**2)
    if not high:
        return 0.0
    while power(high, parts, stderr, alpha) < POWER:
        high *= 2
    return float(optimize.brentq(lambda size: power(size, parts, stderr, alpha) - POWER, 0.0, high, rtol=1e-6))


def seeds_needed(
    difference: float, variances: Sequence[float], chosen: Sequence[Part], stderr: float, alpha: float
) -> int | None:
    """The smallest number of seeds that find a difference with a probability of 0.8.

    Args:
        difference: the size of the true one.
        variances: over seeds, of a run of each method.
        chosen: variances of the chosen learning rates, which seeds do not lessen.
        stderr: standard error of the difference over the items, which they do not lessen either.
        alpha: as of `power`.

    Returns:
        None where no number does, or none up to MOST_SEEDS.
    """

    def enough(n: int) -> bool:
        parts = [*(Part(variance / n, n - 1) for variance in variances if variance), *chosen]
        return power(abs(difference), parts, stderr, alpha) >= POWER

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def _thresholds(parts: tuple[Part, ...], stderr: float, alpha: float) -> Array:
    """What a difference must exceed to be found, (num_nodes,), at equally likely estimates of the variances."""
    level = 1 - alpha / 2
    over_items = float(stats.norm.ppf(level)) * stderr
    if not parts:
        return np.array([max(over_items, float(stats.norm.ppf(TWO_SIDED)) * stderr)])
    degrees = np.array([part.degrees for part in parts])
    # Sobol's points with half a step added, so that none is 0, at which a variance would be 0.
    nodes = stats.qmc.Sobol(len(parts), scramble=False).random_base2(LOG2_NODES) + 0.5 / 2**LOG2_NODES
    ratios = np.where(np.isfinite(degrees), stats.chi2.ppf(nodes, np.minimum(degrees, 1e6)) / degrees, 1.0)
    found = ratios * [part.variance for part in parts]
    total = found.sum(axis=1)
    freedom = total**2 / (found**2 / degrees).sum(axis=1)
    spread = np.sqrt(total)
    over_seeds = stats.t.ppf(level, freedom) * spread
    interval = np.hypot(stats.t.ppf(TWO_SIDED, freedom) * spread, float(stats.norm.ppf(TWO_SIDED)) * stderr)
    return np.maximum(np.maximum(over_seeds, over_items), interval)
