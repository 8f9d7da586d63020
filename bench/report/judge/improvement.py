"""How often one method beats another: the probability of improvement (Agarwal et al. 2021, rliable)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from bench.report.judge.statistics import Array, Estimate, quantile
from bench.study.selection import ROUNDING


def probability_of_improvement(first: Sequence[Array], second: Sequence[Array], higher_is_better: bool) -> Estimate:
    """How often a run of one method beats a run of another, ties half, mean over tasks (Agarwal et al. 2021, rliable).

    Args:
        first, second: the scores of each task, (num_seeds,) each.
        higher_is_better: whether the higher score wins.

    Returns:
        From 0 to 1; of one task it is Mann and Whitney's U over the number of pairs. Its 95 % interval is Newcombe's;
        of several tasks the limits are averaged, which is exact for tasks that go up and down together, as they may
        since the same runs answer them, and too wide for independent ones. No interval if a method has one run.
    """
    beaten = [_beaten(one, other, higher_is_better).mean() for one, other in zip(first, second, strict=True)]
    n, center = min(map(len, (*first, *second))), float(np.mean(beaten))
    if n < 2:
        return Estimate(center, None, None, n, "nothing")
    sizes = [(len(one), len(other)) for one, other in zip(first, second, strict=True)]
    limits = [newcombe(float(share), *size) for share, size in zip(beaten, sizes, strict=True)]
    low, high = np.mean(limits, axis=0)
    return Estimate(center, float(low), float(high), n, "seeds")


def newcombe(share: float, num_first: int, num_second: int) -> tuple[float, float]:
    """The 95 % interval of the probability that one of two values is larger: Newcombe's method 5.

    R. G. Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
    Statistics in Medicine 25: the values at which the share lies 1.96 standard errors away, each with its own variance
    of Hanley and McNeil, in which both sizes of sample are replaced by their mean.

    Args:
        share: of the pairs in which the first is larger, ties half.
        num_first, num_second: values of each.
    """

    def excess(truth: float) -> float:
        pairs = (num_first + num_second) / 2 - 1
        shared = 1 + pairs * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * shared / (num_first * num_second)
        return (share - truth) ** 2 - quantile(np.inf) ** 2 * variance

    low = 0.0 if share < ROUNDING else float(optimize.brentq(excess, 0.0, share - ROUNDING / 2))
    high = 1.0 if share > 1 - ROUNDING else float(optimize.brentq(excess, share + ROUNDING / 2, 1.0))
    return low, high


def _beaten(one: Array, other: Array, higher_is_better: bool) -> Array:
    """For each pair of runs 1 where the first is better, 0.5 where they are equal."""
    apart = (one[:, None] - other) * (1 if higher_is_better else -1)
    return (apart > ROUNDING) + 0.5 * (np.abs(apart) <= ROUNDING)
