"""Means over seeds and items with their intervals, tests of differences, and the minimum detectable effect.

Two things make a score uncertain: the seed, and the items that happen to be in the test set. All seeds answer the same
items, so these are resampled for all seeds at once (a bootstrap stratified by seed), which gives their standard error.
Seeds are too few to be resampled: percentiles over three seeds cover 50 to 70 % where they say 95, and over seeds and
items down to 86 (tests/test_statistics.py simulates both). Their part of the interval is Student's t, which is exact
for few. The squares of the two half-widths add (Howe 1974, J. Am. Stat. Assoc. 69), so the interval is never narrower
than either. With one seed it is over items alone; where no items are known, over seeds alone. Over seeds alone it would
shrink to nothing where seeds happen to agree, on however few items, and covers 80 to 94 % of new items and seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from bench.report.judge.metrics import SHARE, OfItems, Scale
from bench.study.selection import ROUNDING

Array = NDArray[np.floating]
CONFIDENCE = 0.95
NUM_DRAWS = 1000  # of items: a standard error to 2 %
NUM_RESAMPLES = 2000  # of seeds, for percentiles; rliable's default
DIGITS = 1e9  # of a difference, those that count in a permutation
BATCH = 100  # permutations at a time
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


def estimate(values: Sequence[float], stderr: float | None, scale: Scale, num_items: int | None = None) -> Estimate:
    """The mean of one metric over the runs of a cell, or of differences over seeds, with its 95 % interval.

    Args:
        values: (num_seeds,).
        stderr: standard error of their mean over the items, the same in every run; None if the items are not known.
        scale: of the metric, whose bounds the interval does not exceed.
        num_items: number of items; if given, a share of exactly 0 or 1 in every run has Wilson's interval.

    Returns:
        Howe's interval over seeds and items (see above), Student's over seeds, or the normal one over items.
    """
    n, center = len(values), float(np.mean(values))
    if not math.isfinite(center):
        return Estimate(center, None, None, n, "nothing")
    over = _over(n, stderr)
    if over == "nothing":
        return Estimate(center, None, None, n, over)
    if num_items and scale == SHARE and not stderr and min(center, 1 - center) < ROUNDING:
        from statsmodels.stats.proportion import proportion_confint

        found = proportion_confint(round(center * num_items), num_items, 1 - CONFIDENCE, method="wilson")
        low, high = (round(float(end), 12) for end in found)  # which rounding leaves at 1e-18
        return Estimate(center, low, high, n, over)
    seeds = _quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    half = math.hypot(seeds, _quantile(math.inf) * (stderr or 0.0))
    return Estimate(center, max(center - half, scale.low), min(center + half, scale.high), n, over)


def _over(n: int, stderr: float | None) -> Over:
    if n > 1:
        return "seeds" if stderr is None else "seeds and items"
    return "nothing" if stderr is None else "items"


@lru_cache
def _quantile(degrees: float) -> float:
    """The 97.5 % quantile of Student's t; of the normal distribution for infinite degrees of freedom."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


@lru_cache(maxsize=4)
def _item_weights(dataset: str, digest: int, num_items: int) -> NDArray[np.float32]:
    """How often each resample has each item, (NUM_DRAWS, num_items); the same for the same items."""
    generator = np.random.default_rng([crc32(dataset.encode()), digest])
    even = np.full(num_items, 1 / num_items)
    return generator.multinomial(num_items, even, size=NUM_DRAWS).astype(np.float32)


def draw_items(runs: Sequence[OfItems], dataset: str, digest: int) -> Array:
    """The metric of each run on resampled items; a resample has the same items in every run.

    Args:
        runs: one a run, of the same items in the same order, each (num_items, num_sums).
        dataset, digest: name the items: methods that answered the same ones share the resamples.

    Returns:
        (NUM_DRAWS, num_runs).
    """
    weights = _item_weights(dataset, digest, len(runs[0].items))
    summands = np.hstack([run.items for run in runs])
    whole = np.array_equal(summands, np.round(summands)) and np.abs(summands).sum() < 2**24
    # Sums of whole numbers are exact in float32; others are not, and differ from one processor to the next.
    sums = weights @ summands.astype(np.float32) if whole else weights.astype(float) @ summands
    parts = np.split(sums.astype(float), np.cumsum([run.items.shape[1] for run in runs])[:-1], axis=1)
    return np.column_stack([run.value(part) for run, part in zip(runs, parts, strict=True)])


def spread(draws: Array) -> float:
    """The standard error from draws, (NUM_DRAWS,), to the digits that are the same on every processor."""
    return float(f"{np.std(draws, ddof=1):.6g}")


def interquartile_estimate(tasks: Sequence[Array], draws: Sequence[Array] | None, scale: Scale) -> Estimate:
    """Interquartile mean over tasks and runs, with a percentile bootstrap over runs, stratified by task.

    The lowest and the highest quarter of the scores are left out (Agarwal et al. 2021, rliable).

    Args:
        tasks: the scores of each task, (num_runs,).
        draws: of each task the scores on resampled items, (NUM_DRAWS, num_runs): then items are resampled too, and a
            single run has an interval. None if the items are not known.
        scale: of the scores, whose bounds the interval does not exceed.
    """
    n = min(map(len, tasks))
    center = float(stats.trim_mean(np.concatenate(tasks), 0.25))
    if not math.isfinite(center) or (n == 1 and draws is None):
        return Estimate(center, None, None, n, "nothing")
    generator = np.random.default_rng(0)
    drawn = []
    for place, scores in enumerate(tasks):
        runs = generator.integers(len(scores), size=(NUM_RESAMPLES, len(scores)))
        if draws is None:
            drawn.append(scores[runs])
        else:
            drawn.append(draws[place][np.arange(NUM_RESAMPLES)[:, None] % NUM_DRAWS, runs])
    low, high = percentiles(stats.trim_mean(np.hstack(drawn), 0.25, axis=1))
    return Estimate(center, max(low, scale.low), min(high, scale.high), n, _over(n, None if draws is None else 0.0))


def percentiles(values: Array) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of resampled values, (num_resamples,)."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def seeds_p(differences: Array) -> Array:
    """p-values of Student's paired t over seeds, two-sided: it assumes normal differences, for power with three seeds.

    Args:
        differences: (..., num_seeds), at least two seeds.

    Returns:
        (...).
    """
    mean, constant = np.mean(differences, axis=-1), np.ptp(differences, axis=-1) < ROUNDING
    varied = np.where(constant[..., None], np.arange(differences.shape[-1]), differences)
    found = stats.ttest_1samp(varied, 0.0, axis=-1).pvalue
    return np.where(constant, np.where(np.abs(mean) < ROUNDING, 1.0, 0.0), found)


def sign_flip_p(differences: Array) -> Array:
    """p-values of the sign-flip permutation test over seeds, two-sided: at least 2/2^n, so with three seeds 0.25.

    Up to 13 seeds every flip is tried; of more, 9,999 at random (scipy's default).

    Args:
        differences: (..., num_seeds), at least two seeds.

    Returns:
        (...).
    """
    # Whole numbers, whose sums are exact in float64: equal sums are ties, whichever the order of adding.
    whole, rng = np.round(differences * DIGITS), np.random.default_rng(0)
    kind = {"permutation_type": "samples", "vectorized": True, "axis": -1, "batch": BATCH, "rng": rng}
    found = stats.permutation_test((whole,), np.sum, **kind)
    return np.asarray(found.pvalue)


def mcnemar_p(first: Array, second: Array) -> float:
    """p-value of McNemar's exact test of two runs' right (1) and wrong (0) answers to the same items, (num_items,)."""
    from statsmodels.stats.contingency_tables import mcnemar

    right, other = first > 0.5, second > 0.5
    table = [[int(np.sum(a & b)) for b in (other, ~other)] for a in (right, ~right)]
    return float(mcnemar(table, exact=True).pvalue)


def items_p(difference: float, stderr: float, num_items: int | None) -> float:
    """Two-sided p-value over items: the mean difference against its bootstrap standard error, normal.

    It is at least 2^(1 - num_items), the smallest p-value of a sign-flip test over as many items.
    """
    if abs(difference) < ROUNDING:
        return 1.0
    found = 2 * float(special.ndtr(-abs(difference) / stderr)) if stderr > 0 else 0.0
    return max(found, 2.0 ** (1 - num_items)) if num_items else found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family's p-values, (num_comparisons,)."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def detectable_difference(seeds_sd: float, items_stderr: float, n: int, power: float = 0.8) -> float:
    """The minimum detectable effect: the difference of two methods that n seeds find with this power, two-sided at 5 %.

    Args:
        seeds_sd: standard deviation over seeds within a method, in the metric's unit.
        items_stderr: standard error of a difference over the items, in the same unit.
        n: seeds of each method; with one, only the items vary.
        power: the probability of a significant result.
    """
    from statsmodels.stats.power import NormalIndPower, TTestIndPower

    # The variance of the difference is 2 sd^2 / n + stderr^2: as if each run's were sd^2 + n stderr^2 / 2.
    one_run = math.sqrt((seeds_sd**2 if n > 1 else 0.0) + n * items_stderr**2 / 2)
    solver = TTestIndPower() if n > 1 else NormalIndPower()
    return float(solver.solve_power(nobs1=n, alpha=1 - CONFIDENCE, power=power)) * one_run
