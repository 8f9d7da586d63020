"""Comparisons of the rows of one table, over seeds and over items.

A difference is claimed only where both the seeds and the items show it: its p-value is the larger of two, Welch's t
over seeds and a test over the items that both answered (McNemar's exact one for one seed, else the normal one), which
tests the union of their hypotheses (Berger 1982, Technometrics 24). A test over items alone would take the luck of a
seed for the method; one over seeds alone, the luck of the test set. Runs under one seed share the order of the data and
are not alike for it, so that pairing them only loses degrees of freedom; a study that expects otherwise declares
hydra.sweeper.pairing=seeds. The family of hypotheses of a table is each trained method against LoRA and the best
against the runner-up, in every column; Holm's correction is over this family. All other pairs are in comparisons.csv
without a correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

from bench.report.judge.differences import Difference, difference
from bench.report.judge.improvement import probability_of_improvement
from bench.report.judge.metrics import SHARE, Scale
from bench.report.judge.power import detectable_difference
from bench.report.judge.scores import Column, Sample, Scores, average, average_scale, collect, heading, sample_estimate
from bench.report.judge.significance import ALPHA, TOST, dunnett_p, holm, mcnemar_p
from bench.report.judge.statistics import Array, Estimate, Part
from bench.report.read.load import BASELINE, STUDY, Cell
from bench.report.read.outcomes import items_of
from bench.study.plan_file import ITEMS


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
        difference: first minus second.
        num_items: on which they are paired; None where they are not.
        p_seeds, p_items: two-sided, over seeds and over items; None where there is one seed, or no items are known.
        improvement: the probability that a run of the first beats one of the second.
        within: the difference with its 90 % interval: inside a margin where two one-sided tests at 5 % reject.
        in_family: of the hypotheses that Holm corrects.
        p_holm: p corrected; None outside the family.
        p_dunnett: over seeds, of the simultaneous comparison of all trained methods with LoRA; None for other pairs.
    """

    first: int
    second: int
    measured: Measured
    difference: Estimate
    num_items: int | None
    p_seeds: float | None
    p_items: float | None
    improvement: Estimate
    within: Estimate
    in_family: bool = False
    p_holm: float | None = None
    p_dunnett: float | None = None

    @property
    def p(self) -> float | None:
        """The larger of the two over seeds and items; None where neither is known."""
        return max((p for p in (self.p_seeds, self.p_items) if p is not None), default=None)

    @property
    def is_significant(self) -> bool:
        """p_holm < 0.05, and the 95 % interval of the difference excludes 0; never with one seed.

        Items alone say that two runs differ, not that their methods do.
        """
        apart = any(self.difference.is_better_than(0.0, higher) for higher in (True, False))
        return apart and self.p_seeds is not None and self.p_holm is not None and self.p_holm < ALPHA

    @property
    def turned(self) -> Comparison:
        """The second row against the first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=_mirrored(self.difference, 0.0),
            within=_mirrored(self.within, 0.0),
            improvement=_mirrored(self.improvement, 1.0),
        )


def _mirrored(found: Estimate, whole: float) -> Estimate:
    """What the other side has of a whole: 0 for differences, 1 for probabilities."""
    low, high = (None if end is None else whole - end for end in (found.high, found.low))
    return replace(found, mean=whole - found.mean, low=low, high=high)


@dataclass(frozen=True)
class Judged:
    """The rows of one table, their scores and their comparisons.

    Attributes:
        columns: of the scores, those that are shown.
        measured: the same with their samples, and the average.
        pairing: what the study pairs: its items, or also its seeds.
    """

    cells: tuple[Cell, ...]
    scores: Scores
    columns: tuple[Column, ...]
    measured: tuple[Measured, ...]
    comparisons: tuple[Comparison, ...]
    pairing: str = ITEMS

    @property
    def smallest_alpha(self) -> float:
        """What Holm's correction leaves for the smallest p-value of the table."""
        return ALPHA / max(1, sum(one.p_holm is not None for one in self.comparisons))


def judge(cells: Sequence[Cell], pairing: str = ITEMS) -> Judged:
    """The scores of the rows of one table, and their comparisons."""
    scores = collect(cells)
    columns = measured(scores, scores.shown)
    return Judged(tuple(cells), scores, scores.shown, columns, compare(cells, columns, pairing), pairing)


def estimates(judged: Judged, column: Measured) -> list[Estimate | None]:
    """Mean and interval of each row in a column, as tables print them; None where the row lacks it."""
    if column.column is None:
        return [None if sample is None else sample_estimate(sample, column.scale) for sample in column.samples]
    found = [reached.get(column.column) for reached in judged.scores.found]
    return [None if one is None else one.estimate for one in found]


def matches(one: Cell, other: Cell) -> bool:
    """Whether two comparable rows are of one method, or equal in every setting that both have."""
    if one.unlike(other):
        return False
    mine, theirs = one.axes, other.axes
    own = ("method.", "system.", STUDY)
    shared = [axis for axis in mine.keys() & theirs.keys() if not axis.startswith(own)]
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


def compare(cells: Sequence[Cell], columns: Sequence[Measured], pairing: str = ITEMS) -> tuple[Comparison, ...]:
    """Compares every pair of rows that match, and corrects the p-values of the family."""
    made: list[Comparison] = []
    matched = {pair for pair in combinations(range(len(cells)), 2) if matches(*(cells[index] for index in pair))}
    for column in columns:
        family = _family(cells, column)
        turned = {(min(pair), max(pair)): pair for pair in family}
        pairs = [turned.get(pair, pair) for pair in sorted(matched | set(turned))]
        made += _with_dunnett(cells, _compared(cells, column, pairs, set(family), pairing))
    corrected = [index for index, one in enumerate(made) if one.in_family and one.p is not None]
    for index, p in zip(corrected, holm([made[index].p or 0.0 for index in corrected]), strict=True):
        made[index] = replace(made[index], p_holm=p)
    return tuple(made)


def significant_best(column: Measured, comparisons: Sequence[Comparison]) -> int | None:
    """The row with the best mean, if it differs significantly from the runner-up."""
    best = ranked(column)[:2]
    for one in comparisons:
        if one.measured is column and [one.first, one.second] == best:
            better = one.is_significant and one.difference.is_better_than(0.0, column.higher_is_better)
            return best[0] if better else None
    return None


def ranked(column: Measured) -> list[int]:
    """Rows by their mean, the best first."""
    sign = -1 if column.higher_is_better else 1
    means = [math.nan if sample is None else float(np.mean(sample.values)) for sample in column.samples]
    return sorted((i for i, mean in enumerate(means) if not math.isnan(mean)), key=lambda i: (sign * means[i], i))


def detectable(judged: Judged, column: Measured) -> tuple[float, int] | None:
    """The minimum detectable effect of two trained methods by the table's own rule, and its number of seeds.

    The variance over seeds, and that by the choice of rates, is pooled over the methods. The items' standard error is
    the median of those of the differences from the first of them.
    """
    samples = [sample for cell, sample in zip(judged.cells, column.samples, strict=True) if sample and cell.trained]
    samples = [sample for sample in samples if np.isfinite(sample.values).all()]
    if len(samples) < 2:
        return None
    n = min(len(sample.values) for sample in samples)
    found = [difference(samples[0], other, judged.pairing) for other in samples[1:]]
    errors = [one.stderr for one in found if one is not None and one.stderr is not None]
    items = float(np.median(errors)) if errors else 0.0
    if judged.pairing == ITEMS:
        pooled = float(np.mean([np.var(s.values, ddof=1) for s in samples])) / n if n > 1 else 0.0
        parts = 2 * [Part(pooled, n - 1)] if pooled else []
    else:
        seeds = [part.variance for one in found if one is not None for part in one.seeds]
        parts = [Part(float(np.mean(seeds)), n - 1)] if seeds else []
    chosen = [sample.chosen for sample in samples if sample.chosen]
    if chosen:
        variance = sum(part.variance for part in chosen) / len(samples)
        parts += 2 * [Part(variance, min(part.degrees for part in chosen))]
    return (detectable_difference(parts, items, judged.smallest_alpha), n) if parts or items else None


def _family(cells: Sequence[Cell], column: Measured) -> list[tuple[int, int]]:
    """The best against the runner-up, and every trained method against LoRA, or without LoRA against the best."""
    order = ranked(column)
    trained = [index for index in order if cells[index].trained]
    baselines = [index for index in trained if cells[index].method == BASELINE] or trained[:1]
    pairs = [pair for pair in pairwise(order[:2]) if not cells[pair[0]].unlike(cells[pair[1]])]
    for index in sorted(trained):
        comparable = [other for other in baselines if not cells[index].unlike(cells[other])]
        near = [other for other in comparable if matches(cells[index], cells[other])]
        for other in near or (comparable if len(comparable) == 1 else []):  # LoRA at the one rank that it has
            same = index == other or cells[index].method == cells[other].method
            if not same and (other, index) not in pairs:
                pairs.append((index, other))
    return list(dict.fromkeys(pairs))


def _compared(
    cells: Sequence[Cell],
    column: Measured,
    pairs: Sequence[tuple[int, int]],
    family: set[tuple[int, int]],
    pairing: str,
) -> list[Comparison]:
    made: list[Comparison] = []
    for first, second in pairs:
        one, other = column.samples[first], column.samples[second]
        found = difference(one, other, pairing) if one is not None and other is not None else None
        if one is None or other is None or found is None:
            continue
        p_items = _mcnemar(cells, column, first, second, found)
        improvement = probability_of_improvement(column.tasks[first], column.tasks[second], column.higher_is_better)
        made.append(
            Comparison(
                first, second, column, found.estimate(column.of_differences), found.num_items, found.p_seeds,
                found.p_items if p_items is None else p_items, improvement,
                found.estimate(column.of_differences, TOST), (first, second) in family,
            )
        )  # fmt: skip
    return made


def _with_dunnett(cells: Sequence[Cell], made: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one column, those of trained methods with one row of LoRA with Dunnett's p-value."""
    found = list(made)
    baselines = {one.second for one in made if one.in_family and cells[one.second].method == BASELINE}
    for control in sorted(baselines):
        against = [i for i, one in enumerate(made) if one.in_family and one.second == control and _trained(cells, one)]
        samples = [made[i].measured.samples for i in against]
        values = [of[made[i].first].values for i, of in zip(against, samples, strict=True)]  # type: ignore[union-attr]
        if values:
            p_values = dunnett_p(values, samples[0][control].values)  # type: ignore[union-attr]
            for i, p in zip(against, p_values, strict=True):
                found[i] = replace(found[i], p_dunnett=p)
    return found


def _trained(cells: Sequence[Cell], one: Comparison) -> bool:
    return cells[one.first].trained and cells[one.second].trained


def _mcnemar(cells: Sequence[Cell], column: Measured, first: int, second: int, found: Difference) -> float | None:
    """McNemar's p-value of two single runs; None unless both answered the same items, no clusters, right or wrong."""
    if column.column is None or column.column.dataset is None or found.num_items is None:
        return None
    if any(len(cells[index].runs) > 1 for index in (first, second)):
        return None
    answers = []
    for index in (first, second):
        items = items_of(cells[index].folders[0], column.column.dataset, column.column.metric)
        if items is None or items.values.ndim != 1 or items.clusters or not np.isin(items.values, (0.0, 1.0)).all():
            return None
        answers.append(items.values)
    return mcnemar_p(*answers)
