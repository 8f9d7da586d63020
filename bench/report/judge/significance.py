"""p-values of differences: over seeds, over items, against a common control, and corrected for their number."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from bench.report.judge.statistics import Array, Part, summed
from bench.study.selection import ROUNDING

ALPHA = 0.05
TOST = 0.9  # the confidence of an interval that lies inside the margin where both one-sided tests at 5 % reject


def seeds_p(difference: float, parts: Sequence[Part]) -> float:
    """Two-sided p-value over seeds: Student's t with Satterthwaite's degrees of freedom, of two methods Welch's test.

    Args:
        difference: of two means.
        parts: of its variance over seeds and chosen learning rates, none where all runs of either are equal.
    """
    total = summed(parts)
    if abs(difference) < ROUNDING:
        return 1.0
    return 2 * float(stats.t.sf(abs(difference) / math.sqrt(total.variance), total.degrees)) if total.variance else 0.0


def items_p(difference: float, stderr: float, num_items: int | None) -> float:
    """Two-sided p-value over items: the mean difference against its standard error, normal.

    It is at least 2^(1 - num_items), the smallest p-value of a sign-flip test over as many items.
    """
    if abs(difference) < ROUNDING:
        return 1.0
    found = 2 * float(special.ndtr(-abs(difference) / stderr)) if stderr > 0 else 0.0
    return max(found, 2.0 ** (1 - num_items)) if num_items else found


def mcnemar_p(first: Array, second: Array) -> float:
    """p-value of McNemar's exact test of two runs' right (1) and wrong (0) answers to the same items, (num_items,)."""
    from statsmodels.stats.contingency_tables import mcnemar

    right, other = first > 0.5, second > 0.5
    table = [[int(np.sum(a & b)) for b in (other, ~other)] for a in (right, ~right)]
    return float(mcnemar(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family's p-values, (num_comparisons,)."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def dunnett_p(samples: Sequence[Array], control: Array) -> list[float | None]:
    """p-values of Dunnett's (1955) simultaneous comparison of several methods with a common control over seeds.

    It takes the variance over seeds as equal in all of them and items and learning rates as given.

    Args:
        samples: of each method the scores, (num_seeds,).
        control: of the control.

    Returns:
        Of each method, to four digits, which is how exactly the distribution is integrated; None for all where one has
        a single run or nothing varies.
    """
    everyone = [*samples, control]
    if min(map(len, everyone)) < 2 or all(np.ptp(values) < ROUNDING for values in everyone):
        return [None] * len(samples)
    with warnings.catch_warnings():  # of runs that are equal in one of the methods, which is no loss of precision
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        found = stats.dunnett(*samples, control=control, rng=np.random.default_rng(0)).pvalue
    return [round(float(p), 4) for p in found]
