"""How often one method beats another: the probability of improvement (Agarwal et al. 2021, rliable)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from bench.report.judge.statistics import NUM_RESAMPLES, Array, Estimate, percentiles
from bench.study.selection import ROUNDING


def probability_of_improvement(first: Sequence[Array], second: Sequence[Array], higher_is_better: bool) -> Estimate:
    """How often a run of one method beats a run of another, ties half, mean over tasks (Agarwal et al. 2021, rliable).

    Args:
        first, second: the scores of each task, (num_seeds,) each.
        higher_is_better: whether the higher score wins.

    Returns:
        From 0 to 1, without an interval; of one task it is Mann and Whitney's U over the number of pairs.
    """
    beaten = [_beaten(one, other, higher_is_better).mean() for one, other in zip(first, second, strict=True)]
    return Estimate(float(np.mean(beaten)), None, None, min(map(len, (*first, *second))), "nothing")


def improvement_estimate(first: Sequence[Array], second: Sequence[Array], higher_is_better: bool) -> Estimate:
    """`probability_of_improvement` with its percentile bootstrap over runs, stratified by task and method.

    Args:
        first, second: the scores of each task, (num_seeds,) each.
        higher_is_better: whether the higher score wins.
    """
    found = probability_of_improvement(first, second, higher_is_better)
    if found.n == 1:
        return found
    total = np.zeros(NUM_RESAMPLES)
    drawn = _times_drawn(tuple((len(one), len(other)) for one, other in zip(first, second, strict=True)))
    for one, other, (ours, theirs) in zip(first, second, drawn, strict=True):
        # A pair of runs counts as often as both are drawn; halves and whole numbers, so the sums are exact.
        won = (ours @ _beaten(one, other, higher_is_better) * theirs).sum(axis=1)
        total += won / (len(one) * len(other))
    low, high = percentiles(total / len(first))
    return replace(found, low=low, high=high, over="seeds")


@lru_cache(maxsize=32)
def _times_drawn(sizes: tuple[tuple[int, int], ...]) -> list[tuple[Array, Array]]:
    """How often each resample has each run, (NUM_RESAMPLES, num_runs), for both methods of each task."""
    generator = np.random.default_rng(0)

    def counts(size: int) -> Array:
        runs = generator.integers(size, size=(NUM_RESAMPLES, size))
        return (runs[:, :, None] == np.arange(size)).sum(axis=1).astype(float)

    return [(counts(one), counts(other)) for one, other in sizes]


def _beaten(one: Array, other: Array, higher_is_better: bool) -> Array:
    """For each pair of runs 1 where the first is better, 0.5 where they are equal."""
    apart = (one[:, None] - other) * (1 if higher_is_better else -1)
    return (apart > ROUNDING) + 0.5 * (np.abs(apart) <= ROUNDING)
