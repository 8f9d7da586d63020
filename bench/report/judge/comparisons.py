"""Paired comparisons of the rows of one table, by seed and by item.

A difference is claimed only where both the seeds and the items show it: its p-value is the larger of two, Student's
paired t over seeds and a test over items (McNemar's exact one for one seed, else a paired bootstrap), which tests the
union of their hypotheses (Berger 1982, Technometrics 24). A test over items alone would take the luck of a seed for the
method; one over seeds alone, the luck of the test set. The family of hypotheses of a table is each trained method
against LoRA and the best against the runner-up, in every column; Holm's correction is over this family. All other
pairs are in comparisons.csv without a correction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

from bench.report.judge.improvement import improvement_estimate, probability_of_improvement
from bench.report.judge.metrics import SHARE, Scale
from bench.report.judge.scores import Column, Sample, Scores, average, average_scale, collect, heading
from bench.report.judge.statistics import (
    Array,
    Estimate,
    detectable_difference,
    estimate,
    holm,
    items_p,
    mcnemar_p,
    seeds_p,
    sign_flip_p,
    spread,
)
from bench.report.read.load import BASELINE, Cell
from bench.report.read.outcomes import items_of

ALPHA = 0.05


@dataclass(frozen=True)
class Measured:
    """A column of scores in which methods are compared.

    Attributes:
        column: None for the average.
        samples: one a row; None where the row lacks the column.
        tasks: of each row the runs' scores in each dataset of the column.
    """

    heading: str
    column: Column | None
    scale: Scale
    higher_is_better: bool
    samples: tuple[Sample | None, ...]
    tasks: tuple[tuple[Array, ...], ...]

    @property
    def of_differences(self) -> Scale:
        """The scale of a difference of two values: twice as wide, printed in the same unit."""
        return replace(self.scale, low=self.scale.low - self.scale.high, high=self.scale.high - self.scale.low)


@dataclass(frozen=True)
class Comparison:
    """One row of a table against another.

    Attributes:
        first, second: places of the rows' cells.
        difference: first minus second, over the seeds that both have.
        num_items: on which they are paired; None where they are not.
        p_seeds, p_permutation, p_items: two-sided, of the t-test over seeds, of flipping signs over seeds, and over
            items; None where there is one seed, or no items are known.
        improvement: the probability that a run of the first beats one of the second.
        in_family: of the hypotheses that Holm corrects.
        p_holm: p corrected; None outside the family.
    """

    first: int
    second: int
    measured: Measured
    difference: Estimate
    num_items: int | None
    p_seeds: float | None
    p_permutation: float | None
    p_items: float | None
    improvement: Estimate
    in_family: bool = False
    p_holm: float | None = None

    @property
    def p(self) -> float | None:
        """The larger of the two over seeds and items; None where neither is known."""
        return max((p for p in (self.p_seeds, self.p_items) if p is not None), default=None)

    @property
    def is_significant(self) -> bool:
        """p_holm < 0.05, and the 95 % interval of the difference excludes 0."""
        apart = any(self.difference.is_better_than(0.0, higher) for higher in (True, False))
        return apart and self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class Judged:
    """The rows of one table, their scores and their comparisons.

    Attributes:
        columns: of the scores, those that are shown.
        measured: the same with their samples, and the average.
    """

    cells: tuple[Cell, ...]
    scores: Scores
    columns: tuple[Column, ...]
    measured: tuple[Measured, ...]
    comparisons: tuple[Comparison, ...]


def judge(cells: Sequence[Cell]) -> Judged:
    """The scores of the rows of one table, and their comparisons."""
    scores = collect(cells)
    columns = measured(scores, scores.shown)
    return Judged(tuple(cells), scores, scores.shown, columns, compare(cells, columns))


def matches(one: Cell, other: Cell) -> bool:
    """Whether two rows are of one method, or equal in every setting that both have."""
    mine, theirs = one.axes, other.axes
    shared = [axis for axis in mine.keys() & theirs.keys() if not axis.startswith("method.")]
    known = [axis for axis in shared if mine[axis] is not None and theirs[axis] is not None]
    return one.method == other.method or all(mine[axis] == theirs[axis] for axis in known)


def measured(scores: Scores, columns: Sequence[Column]) -> tuple[Measured, ...]:
    """The columns of a table, then the average if there are enough datasets."""
    found = []
    for column in columns:
        samples = tuple(reached[column].sample if column in reached else None for reached in scores.found)
        tasks: tuple[tuple[Array, ...], ...] = tuple((sample.values,) if sample else () for sample in samples)
        name = heading(column, scores.columns)
        found.append(Measured(name, column, column.scale, column.higher_is_better, samples, tasks))
    if averaged := scores.averaged:
        samples = tuple(average(reached, averaged) for reached in scores.found)
        tasks = tuple(
            tuple(reached[column].sample.values for column in averaged) if sample else ()
            for reached, sample in zip(scores.found, samples, strict=True)
        )
        scale = average_scale(averaged)
        found.append(Measured(f"average {SHARE.unit}", None, scale, True, samples, tasks))
    return tuple(found)


def compare(cells: Sequence[Cell], columns: Sequence[Measured]) -> tuple[Comparison, ...]:
    """Compares every pair of rows that match, and corrects the p-values of the family."""
    made: list[Comparison] = []
    matched = {pair for pair in combinations(range(len(cells)), 2) if matches(*(cells[index] for index in pair))}
    for column in columns:
        family = _family(cells, column)
        turned = {(min(pair), max(pair)): pair for pair in family}
        pairs = [turned.get(pair, pair) for pair in sorted(matched | set(turned))]
        made += _compared(cells, column, pairs, set(family))
    corrected = [index for index, one in enumerate(made) if one.in_family and one.p is not None]
    for index, p in zip(corrected, holm([made[index].p or 0.0 for index in corrected]), strict=True):
        made[index] = replace(made[index], p_holm=p)
    return tuple(made)


def significant_best(column: Measured, comparisons: Sequence[Comparison]) -> int | None:
    """The row with the best mean, if it differs significantly from the runner-up; None with one seed.

    Items alone say that two runs differ, not that their methods do.
    """
    best = ranked(column)[:2]
    for one in comparisons:
        if one.measured is column and [one.first, one.second] == best:
            better = one.is_significant and one.difference.is_better_than(0.0, column.higher_is_better)
            return best[0] if better and len(column.samples[best[0]].values) > 1 else None  # type: ignore[union-attr]
    return None


def ranked(column: Measured) -> list[int]:
    """Rows by their mean, the best first."""
    sign = -1 if column.higher_is_better else 1
    means = [math.nan if sample is None else float(np.mean(sample.values)) for sample in column.samples]
    return sorted((i for i, mean in enumerate(means) if not math.isnan(mean)), key=lambda i: (sign * means[i], i))


def detectable(cells: Sequence[Cell], column: Measured) -> tuple[float, int] | None:
    """The minimum detectable effect of two trained methods (two-sided 5 %, power 0.8), and its number of seeds.

    The spread over seeds is pooled over the methods. The items' standard error is the median of those of
    the differences from the first of them.
    """
    samples = [sample for cell, sample in zip(cells, column.samples, strict=True) if sample and cell.trained]
    samples = [sample for sample in samples if np.isfinite(sample.values).all()]
    if len(samples) < 2:
        return None
    n = min(len(sample.values) for sample in samples)
    pooled = math.sqrt(np.mean([np.var(s.values, ddof=1) for s in samples])) if n > 1 else 0.0
    pairs = [(samples[0], other) for other in samples[1:]]
    errors = [error for error in (paired(*pair)[1] for pair in pairs) if error is not None]
    items = float(np.median(errors)) if errors else 0.0
    return (detectable_difference(pooled, items, n), n) if pooled or items else None


def _family(cells: Sequence[Cell], column: Measured) -> list[tuple[int, int]]:
    """The best against the runner-up, and every trained method against LoRA, or without LoRA against the best."""
    order = ranked(column)
    trained = [index for index in order if cells[index].trained]
    baselines = [index for index in trained if cells[index].method == BASELINE] or trained[:1]
    pairs = list(pairwise(order[:2]))
    for index in sorted(trained):
        near = [other for other in baselines if matches(cells[index], cells[other])]
        for other in near or (baselines if len(baselines) == 1 else []):  # LoRA at the one rank that it has
            same = index == other or cells[index].method == cells[other].method
            if not same and (other, index) not in pairs:
                pairs.append((index, other))
    return list(dict.fromkeys(pairs))


def _compared(
    cells: Sequence[Cell], column: Measured, pairs: Sequence[tuple[int, int]], family: set[tuple[int, int]]
) -> list[Comparison]:
    made: list[Comparison] = []
    by_n: dict[int, list[tuple[int, Array]]] = defaultdict(list)
    for first, second in pairs:
        one, other = (_extended(cells, column, index, against) for index, against in ((first, second), (second, first)))
        if one is None or other is None:
            continue
        values, stderr = paired(one, other)
        if not len(values) or not np.isfinite(values).all():
            continue
        num_items = one.num_items if one.items and one.items == other.items else None
        difference = estimate(values.tolist(), stderr, column.of_differences)
        single = _mcnemar(cells, column, first, second, one, other) if len(values) == 1 else None
        p_items = items_p(difference.mean, stderr, num_items) if stderr is not None and single is None else single
        in_family = (first, second) in family
        # With its interval within the family only: of all pairs it would take minutes.
        runs = column.tasks[first], column.tasks[second], column.higher_is_better
        chance = improvement_estimate(*runs) if in_family else probability_of_improvement(*runs)
        if len(values) > 1:
            by_n[len(values)].append((len(made), values))
        made.append(Comparison(first, second, column, difference, num_items, None, None, p_items, chance, in_family))
    for found in by_n.values():
        differences = np.stack([values for _, values in found])
        tests = zip(found, seeds_p(differences), sign_flip_p(differences), strict=True)
        for (index, _), over_seeds, flipped in tests:
            made[index] = replace(made[index], p_seeds=float(over_seeds), p_permutation=float(flipped))
    return made


def _extended(cells: Sequence[Cell], column: Measured, index: int, against: int) -> Sample | None:
    """A row's sample; one that is not trained and was run once is the same under every seed of the other."""
    sample, other = column.samples[index], column.samples[against]
    if sample is None or other is None or cells[index].trained or len(sample.seeds) > 1:
        return sample
    n = len(other.seeds)
    draws = None if sample.draws is None else np.repeat(sample.draws, n, axis=1)
    return replace(sample, seeds=other.seeds, values=np.repeat(sample.values, n), draws=draws)


def paired(one: Sample, other: Sample) -> tuple[Array, float | None]:
    """The differences under the seeds that both have, (num_seeds,), and the standard error of their mean over items."""
    places = [(one.seeds.index(seed), other.seeds.index(seed)) for seed in one.seeds if seed in other.seeds]
    if not places:
        return np.zeros(0), None
    same_items = one.items == other.items
    if one.draws is not None and other.draws is not None and same_items and one.seeds == other.seeds:
        return one.values - other.values, spread(one.mean_draws - other.mean_draws)
    mine, theirs = map(list, zip(*places, strict=True))
    values = one.values[mine] - other.values[theirs]
    if one.draws is not None and other.draws is not None and same_items:
        return values, spread(one.draws[:, mine].mean(axis=1) - other.draws[:, theirs].mean(axis=1))
    # Not the same items: independent, which for methods that agree on most items is too wide.
    known = one.stderr is not None and other.stderr is not None
    return values, math.hypot(one.stderr or 0.0, other.stderr or 0.0) if known else None


def _mcnemar(
    cells: Sequence[Cell], column: Measured, first: int, second: int, one: Sample, other: Sample
) -> float | None:
    """McNemar's p-value for the one seed that both have; None unless both answered the same items right or wrong."""
    if column.column is None or column.column.dataset is None or not one.items or one.items != other.items:
        return None
    seed = next(seed for seed in one.seeds if seed in other.seeds)
    answers = []
    for index in (first, second):
        place = next((i for i, run in enumerate(cells[index].runs) if run.config.seed == seed), 0)
        items = items_of(cells[index].folders[place], column.column.dataset, column.column.metric)
        if items is None or items.values.ndim != 1 or not np.isin(items.values, (0.0, 1.0)).all():
            return None
        answers.append(items.values)
    return mcnemar_p(*answers)
