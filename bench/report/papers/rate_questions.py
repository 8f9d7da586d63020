"""Is one method's best learning rate larger, and does it fall faster with width?

The best rate is the vertex of the parabola through the best rate of the grid and its two neighbours, in the logarithm
of the rate. Its uncertainty is that of the selection seeds, whose means are drawn anew, each time the best rate is
chosen again and the vertex computed again, and that of the parabola, which misses the vertex of a lopsided curve: a
quarter of the grid's step either way. Without the latter two grids of one method at another phase differ in up to 70 %
of studies, with it in at most 3 % (tests/test_rate_questions.py simulates it). Where the best rate is at an edge of the
grid, a better one may lie anywhere beyond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np

from bench.report.judge.statistics import Array
from bench.report.papers.answers import UNDECIDED, Answer, Group, selection_of, side
from bench.report.read.load import Study
from bench.study.plan_file import SELECT
from bench.study.search import MISSED
from bench.study.selection import Selection, lowered

NUM_DRAWS = 4000  # of the means over selection seeds
ENDS = (0.025, 0.975)


def larger_rate(study: Study, a: Group, b: Group) -> Answer:
    """Is a's best learning rate larger than b's? The answer is the ratio of the two.

    Args:
        study: has a stage in which learning rates are chosen.
        a, b: overrides that select one group each.
    """
    of_a, of_b = selection_of(study, a), selection_of(study, b)
    n = min(_num_seeds(of_a), _num_seeds(of_b))
    ratio = 10 ** (vertex(of_a) - vertex(of_b))
    said = f"best {_said(of_a)} against {_said(of_b)}"
    runs = _runs(study, of_a, of_b)
    if n < 2:
        said += "; one selection seed says nothing of how far another would have moved them"
        return Answer(UNDECIDED, said, ratio, None, None, "times", n, runs=runs)
    low, high = (10**end for end in ends([vertex_draws(of_a), -vertex_draws(of_b)]))
    return Answer(side(low, high, 1.0), said, ratio, low, high, "times", n, runs=runs)


def rate_by_width(study: Study, a: Group, b: Group, widths: Mapping[str, int]) -> Answer:
    """Does b's best learning rate fall faster with width than a's? Slopes of log rate against log width.

    Args:
        study: has a stage in which learning rates are chosen.
        a, b: overrides that select one group of each model.
        widths: of each model, by its name.
    """
    x = np.log10(list(widths.values()))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()  # of the rates in the slope of a regression on the widths
    terms, slopes, shown, every = [], [], [], []
    for sign, group in ((1, a), (-1, b)):
        found = [selection_of(study, {**group, "model": model}) for model in widths]
        every += found
        slopes.append(float(weights @ [vertex(one) for one in found]))
        terms += [sign * weight * vertex_draws(one) for weight, one in zip(weights, found, strict=True)]
        rates = ", ".join(_rate(one) for one in found)
        shown.append(f"{found[0].label} {slopes[-1]:.2f} (best rates {rates})")
    difference, n = slopes[0] - slopes[1], min(map(_num_seeds, every))
    details = f"slope by width {', '.join(map(str, widths.values()))}: {shown[0]}; {shown[1]}"
    runs = _runs(study, *every)
    if n < 2:
        details += "; one selection seed says nothing of how far another would have moved them"
        return Answer(UNDECIDED, details, difference, None, None, "in slope", len(widths), runs=runs)
    low, high = ends(terms)
    return Answer(side(low, high, 0.0), details, difference, low, high, "in slope", len(widths), runs=runs)


def vertex(selection: Selection) -> float:
    """The logarithm to base 10 of the best rate of a grid, between its rates; at an edge the rate there."""
    rates, values = _curve(selection)
    found = _vertices(rates, np.array([[of.mean() for of in values]]))
    return float(np.clip(found, rates[0], rates[-1])[0])


def vertex_draws(selection: Selection) -> Array:
    """Vertices under other selection seeds, (NUM_DRAWS,), minus or plus infinity where the best rate is at an edge.

    A mean has the noise of Student's t: the standard deviation over seeds is estimated, pooled over the best rate and
    its neighbours, because three seeds of one rate are too few to be resampled.
    """
    rates, values = _curve(selection)
    means = np.array([of.mean() for of in values])
    generator = np.random.default_rng(crc32(" ".join(selection.group).encode()))
    best = int(np.argmin(means))
    near = [of for of in values[max(best - 1, 0) : best + 2] if len(of) > 1]
    degrees = sum(len(of) - 1 for of in near)
    if not degrees:
        return np.full(NUM_DRAWS, vertex(selection))
    variance = sum(float(np.var(of, ddof=1)) * (len(of) - 1) for of in near) / degrees
    scale = np.sqrt(variance * degrees / generator.chisquare(degrees, size=(NUM_DRAWS, 1)))
    noise = generator.standard_normal((NUM_DRAWS, len(rates))) / np.sqrt([len(of) for of in values])
    step = float(np.diff(rates)[max(best - 1, 0) : best + 1].max(initial=0.0))
    missed = generator.uniform(-step * MISSED, step * MISSED, size=NUM_DRAWS)
    return _vertices(rates, means + scale * noise) + missed


def ends(terms: Sequence[Array]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of a sum of draws; an undetermined one counts against both."""
    with np.errstate(invalid="ignore"):
        total = np.sum(terms, axis=0)
    low, high = np.where(np.isnan(total), -math.inf, total), np.where(np.isnan(total), math.inf, total)
    return float(np.quantile(low, ENDS[0], method="lower")), float(np.quantile(high, ENDS[1], method="higher"))


def _vertices(rates: Array, means: Array) -> Array:
    """Of curves of losses, (num_curves, num_rates), the place of the minimum of the parabola around the smallest."""
    best = np.argmin(means, axis=1)
    found = np.where(best == 0, -math.inf, math.inf)
    inside = np.flatnonzero((best > 0) & (best < len(rates) - 1))
    at = best[inside]
    left, here, right = (means[inside, at + step] for step in (-1, 0, 1))
    down, up = rates[at] - rates[at - 1], rates[at + 1] - rates[at]
    slopes = (here - left) / down, (right - here) / up
    curvature = slopes[1] - slopes[0]
    middle = (rates[at - 1] + rates[at]) / 2
    flat = curvature <= 0  # three equal values
    step = np.divide(-slopes[0] * (down + up) / 2, curvature, out=np.zeros_like(curvature), where=~flat)
    found[inside] = np.where(flat, rates[at], middle + step)
    return found


def _curve(selection: Selection) -> tuple[Array, list[Array]]:
    """Logarithms of the rates at which no seed failed, and what is minimised there, of each seed."""
    points = [point for point in selection.points if point.mean is not None]
    values = [np.array([lowered(value, selection.higher_is_better) for value in point.values]) for point in points]
    return np.log10([point.learning_rate for point in points]), values


def _num_seeds(selection: Selection) -> int:
    return min(len(point.values) for point in selection.points if point.mean is not None)


def _rate(selection: Selection) -> str:
    edge = f", {selection.at_edge} edge of the grid" if selection.at_edge else ""
    return f"{10 ** vertex(selection):.2g}{edge}"


def _said(selection: Selection) -> str:
    return f"{_rate(selection)} ({selection.label})"


def _runs(study: Study, *selections: Selection) -> frozenset[str]:
    """The ids of the runs by which some rates were chosen."""
    groups = {selection.group for selection in selections}
    assert study.plan is not None, "a selection is of a stage"
    return frozenset(run.run_id for run in study.plan.of(SELECT) if run.group in groups and run.run_id)
