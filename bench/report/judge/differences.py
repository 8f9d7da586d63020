"""The difference of two methods' means, and what makes it uncertain: over seeds, over items, and by chosen rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.report.judge.items import standard_error
from bench.report.judge.metrics import Scale
from bench.report.judge.scores import Sample
from bench.report.judge.significance import items_p, seeds_p
from bench.report.judge.statistics import CONFIDENCE, Array, Estimate, Part, interval, over_seeds
from bench.study.plan_file import SEEDS


@dataclass(frozen=True)
class Difference:
    """The mean of one method minus that of another.

    Attributes:
        seeds, chosen: the parts of its variance over the seeds, and by the chosen learning rates.
        stderr: over the items; None if those of either are not known.
        n: the smaller number of seeds; with one there is no p-value over seeds.
        num_items: that both answered; None where they did not answer the same.
    """

    mean: float
    seeds: tuple[Part, ...]
    chosen: tuple[Part, ...]
    stderr: float | None
    n: int
    num_items: int | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of the variance but that over items."""
        return self.seeds + self.chosen

    @property
    def p_seeds(self) -> float | None:
        """Over seeds; None for one seed."""
        return seeds_p(self.mean, self.parts) if self.n > 1 else None

    @property
    def p_items(self) -> float | None:
        """Over items; None where they are not known."""
        return items_p(self.mean, self.stderr, self.num_items) if self.stderr is not None else None

    @property
    def p(self) -> float | None:
        """The larger of the two, which tests that neither seeds nor items explain the difference (Berger 1982)."""
        return max((p for p in (self.p_seeds, self.p_items) if p is not None), default=None)

    def estimate(self, scale: Scale, confidence: float = CONFIDENCE) -> Estimate:
        """With its interval, within the bounds of a scale."""
        return interval(self.mean, self.parts, self.stderr, scale, self.n, confidence)


def difference(one: Sample, other: Sample, pairing: str) -> Difference | None:
    """One method minus another; None where either is not finite, or where none is under a common seed and seeds pair.

    Args:
        one, other: samples of one metric.
        pairing: "items": runs of the two are independent groups (Welch), and only the items that both answered are
            paired; "seeds": runs under one seed are paired as well, and others left out.
    """
    mine, theirs = list(range(len(one.seeds))), list(range(len(other.seeds)))
    paired = pairing == SEEDS and not one.fixed and not other.fixed
    if paired:
        common = sorted(set(one.seeds) & set(other.seeds))
        mine, theirs = ([sample.seeds.index(seed) for seed in common] for sample in (one, other))
        if not common:
            return None
    first, second = one.values[mine], other.values[theirs]
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    over = over_seeds(first - second) if paired else (*over_seeds(first), *over_seeds(second))
    sizes = [len(values) for values, sample in ((first, one), (second, other)) if not sample.fixed]
    n = min(sizes, default=1)
    chosen = tuple(part for part in (one.chosen, other.chosen) if part)
    num_items = one.num_items if one.items and one.items == other.items else None
    stderr = _stderr(one, other, mine, theirs)
    mean = float(first.mean() - second.mean())
    return Difference(mean, tuple(over) if n > 1 else (), chosen, stderr, n, num_items)


def _stderr(one: Sample, other: Sample, mine: list[int], theirs: list[int]) -> float | None:
    if one.errors is not None and other.errors is not None and one.items == other.items:
        return standard_error(_mean(one.errors, mine) - _mean(other.errors, theirs))
    # Not the same items: independent, which for methods that agree on most items is too wide.
    known = one.stderr is not None and other.stderr is not None
    return math.hypot(one.stderr or 0.0, other.stderr or 0.0) if known else None


def _mean(errors: Array, runs: list[int]) -> Array:
    return errors[:, runs].mean(axis=1)
