"""Is the best learning rate of a method c / λ, with λ the largest eigenvalue of the preconditioned Hessian at step 0?

Audited once on the task that set c (conf/train/default.yaml); a study of other tasks, models or methods answers out of
sample. arXiv:2602.04998 explains best rates by the eigenvalue without preconditioning, which is asked beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.report.judge.statistics import CONFIDENCE
from bench.report.papers.answers import NO, UNDECIDED, YES, Answer, NotRunError
from bench.report.read.curvature import constant, rates_and_curvatures
from bench.report.read.load import Study

LAW = -1.0  # slope of log rate on log λ
NEAR = 10**0.5  # a step of a 1-3-10 grid
FEWEST = 4  # groups of which an interval of the slope is stated


@dataclass(frozen=True)
class Regression:
    """Of the logarithms of best rates on those of eigenvalues, one pair a group.

    Attributes:
        low, high: the 95 % interval of the slope, by Student's t with n - 2 degrees of freedom.
        left_over: the factor by which a best rate is off the line, exp of the residuals' standard deviation.
    """

    slope: float
    low: float
    high: float
    r: float
    left_over: float

    @classmethod
    def of(cls, eigenvalues: Sequence[float], rates: Sequence[float]) -> Regression:
        """The regression of at least three pairs."""
        x, y = np.log(eigenvalues), np.log(rates)
        found = stats.linregress(x, y)
        degrees = len(x) - 2
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees) * found.stderr)
        residuals = y - found.intercept - found.slope * x
        spread = math.sqrt(float(residuals @ residuals) / degrees)
        return cls(found.slope, found.slope - half, found.slope + half, found.rvalue, math.exp(spread))

    @property
    def predicts(self) -> bool:
        """Whether the interval contains the law's slope and leaves out 0, no relation."""
        return self.low <= LAW <= self.high < 0

    def __str__(self) -> str:
        return (
            f"slope {self.slope:.2f} [{self.low:.2f}, {self.high:.2f}], r {self.r:.2f}, "
            f"a factor of {self.left_over:.2f} left over"
        )


def best_rate_by_curvature(studies: Sequence[Study]) -> Answer:
    """Is the best rate proportional to 1 / λ of the preconditioned Hessian, and not to 1 / λ of the plain one?

    Yes: over the groups of all studies the 95 % interval of the slope of log best rate on log λ contains -1 and not 0,
    and that of the plain eigenvalue does not. No: the former does not contain -1. Undecided otherwise, or of fewer than
    four groups. The details have the error of c / λ with c as it was fixed before: how many groups are within a step of
    a 1-3-10 grid, and the median and the worst factor.

    Raises:
        NotRunError: no study chose learning rates, or their runs recorded no curvature.
    """
    points = [point for study in studies for point in rates_and_curvatures(study, study.selection)]
    if not points:
        names = ", ".join(study.name for study in studies)
        raise NotRunError(f"{names}: no group has a best learning rate inside its grid and a curvature")
    rates, c = [point.rate for point in points], constant()
    errors = [c / point.preconditioned / point.rate for point in points]
    factors = [max(error, 1 / error) for error in errors]
    near = sum(factor <= NEAR * (1 + 1e-9) for factor in factors)
    worst = points[factors.index(max(factors))].selection.label
    error = (
        f"{c:g} / λ is within a step of a 1-3-10 grid of {near} of {len(points)} best rates, off by a factor of "
        f"{float(np.median(factors)):.2f} in the median and of {max(factors):.2f} at worst ({worst}), and too high "
        f"{sum(one > 1 for one in errors)} times"
    )
    if left := sum(len(study.selection) for study in studies) - len(points):
        error += f"; left out, at an edge of their grid or without curvature: {left}"
    if len(points) < FEWEST:
        return Answer(UNDECIDED, error, n=len(points))
    scaled, plain = (
        Regression.of(values, rates)
        for values in ([point.preconditioned for point in points], [point.plain for point in points])
    )
    text = YES if scaled.predicts and not plain.predicts else UNDECIDED
    if not scaled.low <= LAW <= scaled.high:
        text = NO
    details = f"preconditioned: {scaled}; plain: {plain}; {error}"
    return Answer(text, details, scaled.slope, scaled.low, scaled.high, "in slope", len(points))
