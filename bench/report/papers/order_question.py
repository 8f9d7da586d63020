"""Is the order of methods the same at every value of another axis, such as the rank or the number of steps?

The endpoint is the logarithm of the loss of the answers (the eval loss in a record that has no other), of which a
difference is a factor, the same one whether the level is hard or easy.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import pandas as pd

from bench.report.judge.differences import difference
from bench.report.judge.scores import Sample
from bench.report.judge.significance import ALPHA, holm
from bench.report.papers.answers import NO, UNDECIDED, YES, Answer, NotRunError, run_ids, stage_cells
from bench.report.papers.score_questions import log_losses
from bench.report.read.load import Cell, Study
from bench.report.tables.render import p_text

Levels = dict[str, dict[str, Sample]]  # of each value of the axis, the log losses of each method


def same_order(study: Study, axis: str, stage: str | None = None) -> Answer:
    """Is the order of the methods the same at every value of an axis?

    Yes: the means of every two methods lie the same way at every value. No: two methods differ both ways, each with p <
    0.05 over seeds and items after Holm's correction over all pairs and values. Undecided otherwise. The details have
    the order at each value, best first, and the test of the interaction: whether the differences between the methods
    depend on the axis at all, by an F-test with errors that may differ from cell to cell (HC3: MacKinnon and White
    1985).

    Args:
        study: has records of at least two methods at two values of the axis.
        axis: a swept key other than the method, such as rank or train.max_steps.
        stage: None for the study's main stage.

    Raises:
        NotRunError: it has not.
    """
    levels, cells = _levels(stage_cells(study, stage), axis)
    methods = list(next(iter(levels.values()), {}))
    if len(levels) < 2 or len(methods) < 2:
        raise NotRunError(f"{study.name} has no two methods with a loss at the same two values of {axis}")
    pairs = list(combinations(methods, 2))
    known = {
        (value, pair): found
        for value, samples in levels.items()
        for pair in pairs
        if (found := difference(samples[pair[0]], samples[pair[1]], study.pairing)) is not None
    }
    corrected = dict(zip(known, holm([one.p if one.p is not None else 1.0 for one in known.values()]), strict=True))
    ways: dict[tuple[str, str], set[bool]] = {pair: set() for pair in pairs}
    clear: dict[tuple[str, str], set[bool]] = {pair: set() for pair in pairs}
    for place, one in known.items():
        ways[place[1]].add(one.mean > 0)
        if corrected[place] < ALPHA:
            clear[place[1]].add(one.mean > 0)
    both = [" and ".join(pair) for pair, of in clear.items() if len(of) == 2]
    text = NO if both else YES if all(len(of) == 1 for of in ways.values()) else UNDECIDED
    orders = "; ".join(f"{axis} {value}: {_order(samples)}" for value, samples in levels.items())
    details = f"{orders}; {_interaction(levels)}"
    if both:
        details += f"; clearly both ways: {', '.join(both)}"
    n = min(len(sample.values) for samples in levels.values() for sample in samples.values())
    return Answer(text, details, n=n, runs=run_ids(*cells))


def _levels(cells: list[Cell], axis: str) -> tuple[Levels, list[Cell]]:
    """The log losses of the methods that have some at every value of the axis, and the cells that these are of."""
    by_value: dict[str, dict[str, tuple[Cell, Sample]]] = defaultdict(dict)
    for cell in cells:
        values = [text.partition("=")[2] for text in cell.group if text.startswith(f"{axis}=")]
        if values and (losses := log_losses(cell)) is not None:
            others = [text.partition("=")[2] for text in cell.group if not text.startswith((f"{axis}=", "method="))]
            by_value[values[0]][" ".join((cell.label, *others))] = cell, losses
    everywhere = set.intersection(*(set(of) for of in by_value.values())) if by_value else set()
    levels = {
        value: {label: losses for label, (_, losses) in of.items() if label in everywhere}
        for value, of in sorted(by_value.items(), key=lambda one: (len(one[0]), one[0]))  # r4, r32
    }
    used = [cell for of in by_value.values() for label, (cell, _) in of.items() if label in everywhere]
    return levels, used


def _order(samples: dict[str, Sample]) -> str:
    return " < ".join(sorted(samples, key=lambda label: float(samples[label].values.mean())))


def _interaction(levels: Levels) -> str:
    """The F-test of the interaction of method and axis, in a sentence."""
    from statsmodels.formula.api import ols  # seconds to import
    from statsmodels.stats.anova import anova_lm

    rows: list[dict[str, Any]] = [
        {"level": value, "method": label, "loss": loss}
        for value, samples in levels.items()
        for label, sample in samples.items()
        for loss in sample.values
    ]
    frame = pd.DataFrame(rows)
    if frame.groupby(["level", "method"]).size().min() < 2:
        return "one seed tests no interaction"
    row = anova_lm(ols("loss ~ C(method) * C(level)", frame).fit(), typ=2, robust="hc3").loc["C(method):C(level)"]
    degrees = f"F({row['df']:.0f}, {len(frame) - len(levels) * frame['method'].nunique()})"
    p = p_text(float(row["PR(>F)"]))
    return f"differences depend on it: {degrees} = {row['F']:.3g}, p {p if p.startswith('<') else f'= {p}'}"
