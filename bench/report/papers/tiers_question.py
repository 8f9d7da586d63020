"""Does one study rank methods as another does, such as that of a small model as that of a large one?

Spearman's rank correlation over the methods of both studies, with the interval of Bonett and Wright (2000,
Psychometrika 65) and a permutation test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from scipy import stats

from bench.report.judge.scores import average, collect
from bench.report.judge.significance import ALPHA
from bench.report.judge.statistics import CONFIDENCE
from bench.report.papers.answers import NO, UNDECIDED, YES, Answer, Group, NotRunError, all_groups
from bench.report.papers.score_questions import log_losses
from bench.report.read.curvature import rates_and_curvatures
from bench.report.read.load import Cell, ReportError, Study
from bench.report.tables.render import p_text

FEWEST = 4  # methods of which a correlation is stated


def ranks_alike(studies: Sequence[Study], quantity: str, only: Group | None = None) -> Answer:
    """Do two studies rank their common methods alike?

    Yes: the rank correlation is positive with p < 0.05. No: it is negative with p < 0.05. Undecided otherwise.

    Args:
        studies: two, with records.
        quantity: `score`, the mean of the first metrics; `loss`, the mean log loss of the answers, each at a method's
            own learning rate; `rate`, that best learning rate; or `curvature`, the largest eigenvalue of the
            preconditioned Hessian at step 0.
        only: overrides, such as a rank, of the groups that stand for their methods where a study has several.

    Raises:
        NotRunError: the studies have fewer than four methods in common.
        ReportError: there are not two studies, or there is no such quantity.
    """
    if len(studies) != 2 or quantity not in QUANTITIES:
        raise ReportError(f"ranks_alike takes two studies and one of {', '.join(QUANTITIES)}")
    one, other = [QUANTITIES[quantity](study, only or {}) for study in studies]
    methods = [method for method in one if method in other]
    if len(methods) < FEWEST:
        names = " and ".join(study.name for study in studies)
        raise NotRunError(
            f"{names} have {len(methods)} methods with a {quantity} in common; a correlation takes {FEWEST}"
        )
    values = [one[method] for method in methods], [other[method] for method in methods]
    rho = float(stats.spearmanr(*values).statistic)
    if math.isnan(rho):
        raise NotRunError(f"all methods have the same {quantity} in one of {studies[0].name} and {studies[1].name}")
    p = _permutation_p(*values)
    text = UNDECIDED if p >= ALPHA else YES if rho > 0 else NO
    orders = "; ".join(
        f"{study.name}: {' < '.join(sorted(methods, key=lambda method: of[method]))}"
        for study, of in zip(studies, (one, other), strict=True)
    )
    shown = p_text(p)
    details = f"{orders}; p {shown if shown.startswith('<') else f'= {shown}'}"
    low, high = interval(rho, len(methods))
    return Answer(text, details, rho, low, high, "in rank correlation", len(methods))


def interval(rho: float, n: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a rank correlation of n pairs; none of the same or the opposite order."""
    if abs(rho) >= 1 or n < FEWEST:
        return None, None
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)


def _permutation_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Exact up to seven methods; of more by 9,999 permutations, always the same."""
    ranks, others = (stats.rankdata(values) - (len(values) + 1) / 2 for values in (one, other))
    found = stats.permutation_test(
        (ranks,), lambda x, axis: (x * others).sum(axis=axis), permutation_type="pairings", vectorized=True, rng=0
    )
    return float(found.pvalue)


def _one_each(study: Study, found: Iterable[tuple[str, str, float | None]]) -> dict[str, float]:
    """The value of each label; of (method, label, value), where the value may be missing.

    Raises:
        ReportError: a label comes twice.
    """
    found = list(found)
    counts = Counter(label for _, label, _ in found)
    if several := dict.fromkeys(method for method, label, _ in found if counts[label] > 1):
        raise ReportError(f"{study.name} has several groups of {', '.join(several)}; name one with `only`")
    return {label: value for _, label, value in found if value is not None}


def _of_cells(value: Callable[[Cell], float | None], study: Study, only: Group) -> dict[str, float]:
    """A value of each method's cell."""
    chosen = [study.cells[index] for index in all_groups([cell.group for cell in study.cells], only)]
    return _one_each(study, ((cell.method, cell.label, value(cell)) for cell in chosen))


def _loss(cell: Cell) -> float | None:
    sample = log_losses(cell) if cell.trained else None
    return None if sample is None else float(sample.values.mean())


def _score(cell: Cell) -> float | None:
    if not cell.trained:
        return None
    collected = collect([cell])
    columns = collected.first_metrics
    sample = average(collected.found[0], columns)
    sign = 1 if columns[0].higher_is_better else -1
    return None if sample is None else sign * float(sample.values.mean())


def _of_search(quantity: str, study: Study, only: Group) -> dict[str, float]:
    """The best rate or the curvature of each method."""
    points = rates_and_curvatures(study, study.selection)
    chosen = [points[index] for index in all_groups([point.selection.group for point in points], only)]
    return _one_each(
        study,
        (
            (point.selection.method, point.selection.label, point.rate if quantity == "rate" else point.preconditioned)
            for point in chosen
        ),
    )


QUANTITIES: dict[str, Callable[[Study, Group], dict[str, float]]] = {
    "score": partial(_of_cells, _score),
    "loss": partial(_of_cells, _loss),
    "rate": partial(_of_search, "rate"),
    "curvature": partial(_of_search, "curvature"),
}
