"""Does one method score higher than another, as high, or higher with fewer parameters?

Two endpoints answer: the task's score, and the loss of the answers (the eval loss in a record that has no other). One
of them is tested, Welch over seeds and paired over items; the other must have the same sign. Their answer is

- yes or no: p < 0.05 after Holm's correction over all such questions, and the 95 % interval excludes the threshold;
- equivalent: two one-sided tests at 5 % within a margin, that is a 90 % interval inside it (Schuirmann 1987);
- not learned: no dataset in which either method is two standard errors better than chance; a dataset in which neither
  is is left out of an average;
- undecided: with the number of seeds that find the difference seen, were it the true one, with probability 0.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from bench.report.judge.differences import difference
from bench.report.judge.learning import has_learned
from bench.report.judge.metrics import LOSS, SHARE
from bench.report.judge.scores import Column, Sample, average, collect
from bench.report.papers.answers import (
    NO,
    NOT_LEARNED,
    UNBOUNDED,
    Answer,
    Group,
    NotRunError,
    cells_of,
    name_of,
    run_ids,
)
from bench.report.papers.compared import Compared, Printed
from bench.report.read.load import Cell, ReportError, Study
from bench.study.plan_file import ITEMS

POINTS, LOG_LOSS = 1.0, math.log(1.05)  # default margins: a point, or 5 % of the loss
SCORE = "score"


def higher_score(
    study: Study,
    a: Group,
    b: Group,
    stage: str | None = None,
    task: str | None = None,
    margin: float | None = None,
    endpoint: str = SCORE,
) -> Answer | Compared:
    """Does a score higher than b?

    Args:
        study: has records of both.
        a, b: overrides that select one cell each.
        stage: None for the study's main stage.
        task: one dataset; None for the mean of the first metrics of all.
        margin: of equivalence, in points, or in per cent of the loss; None for 1 point, or 5 %.
        endpoint: what is tested, "score" or "loss"; the other must have the same sign.

    Raises:
        NotRunError: no completed run of a or b.
        ReportError: an override selects several groups.
    """
    return _compared(study, a, b, stage, task, margin, endpoint, as_high=False)


def as_high_score(
    study: Study,
    a: Group,
    b: Group,
    stage: str | None = None,
    task: str | None = None,
    margin: float | None = None,
    endpoint: str = SCORE,
) -> Answer | Compared:
    """Does a score at most the margin lower than b? Args and Raises are those of `higher_score`."""
    return _compared(study, a, b, stage, task, margin, endpoint, as_high=True)


def fewer_parameters(
    study: Study,
    a: Group,
    b: Group,
    stage: str | None = None,
    task: str | None = None,
    margin: float | None = None,
    endpoint: str = SCORE,
) -> Answer | Compared:
    """Does a score higher than b, although it trains fewer parameters? Args and Raises are those of `higher_score`."""
    cells = cells_of(study, stage, a, b)
    ours, theirs = (round(fmean(run.initialization.num_trainable for run in cell.runs)) for cell in cells)
    if ours >= theirs:
        return Answer(NO, f"{ours:,} against {theirs:,} trainable parameters", runs=run_ids(*cells))
    found = higher_score(study, a, b, stage, task, margin, endpoint)
    times = f"{ours:,} against {theirs:,} trainable parameters, {theirs / ours:.3g} times fewer"
    if isinstance(found, Answer):
        return replace(found, details=f"{found.details}; {times}")
    return replace(found, said=(*found.said, times))


def _compared(
    study: Study,
    a: Group,
    b: Group,
    stage: str | None,
    task: str | None,
    margin: float | None,
    endpoint: str,
    as_high: bool,
) -> Answer | Compared:
    of_a, of_b = cells_of(study, stage, a, b)
    columns, asked = _columns(of_a, of_b, task)
    if not columns:
        names = ", ".join(str(column.dataset) for column in asked)
        return Answer(NOT_LEARNED, f"neither is clear of chance in {names}", runs=run_ids(of_a, of_b))
    factor = 100.0 if all(column.scale.unit == SHARE.unit for column in columns) else 1.0
    sign = 1 if columns[0].higher_is_better else -1
    score_of_a, score_of_b = (_scores(cell, columns) for cell in (of_a, of_b))
    loss_of_a, loss_of_b = (log_losses(cell, columns) for cell in (of_a, of_b))
    score = difference(score_of_a, score_of_b, study.pairing)
    loss = difference(loss_of_b, loss_of_a, study.pairing) if loss_of_a and loss_of_b else None
    if score is None or (endpoint == LOSS and loss is None):
        raise NotRunError(f"{name_of(of_a)} and {name_of(of_b)} have no {endpoint} that can be compared")
    score = replace(score, mean=sign * score.mean)
    tested, other, scale = (
        (loss, score, Printed(LOSS, 1.0)) if endpoint == LOSS else (score, loss, Printed(SCORE, factor))
    )
    assert tested is not None
    margins = POINTS / factor if margin is None else margin / factor, LOG_LOSS
    if endpoint == LOSS:
        margins = LOG_LOSS if margin is None else math.log1p(margin / 100), POINTS / factor
    means = [factor * float(sample.values.mean()) for sample in (score_of_a, score_of_b)]
    said = [f"{name_of(of_a)} {means[0]:.4g}, {name_of(of_b)} {means[1]:.4g}"]
    if len(columns) < len(asked):
        said.append(f"without {', '.join(str(c.dataset) for c in asked if c not in columns)}, which neither learned")
    if loss is None:
        said.append("no loss is known")
    elif endpoint == SCORE and columns[0].dataset is not None:
        ratio, low, high = Printed(LOSS, 1.0).printed(loss.estimate(UNBOUNDED))
        bounds = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
        said.append(f"{name_of(of_a)} has {ratio:.3g}{bounds} times the loss")
    if as_high:
        said.append(f"as high within {scale.margin_text(margins[0])}")
    samples = (loss_of_a, loss_of_b) if endpoint == LOSS else (score_of_a, score_of_b)
    variances = tuple(float(np.var(sample.values, ddof=1)) for sample in samples if sample and tested.n > 1)
    if study.pairing != ITEMS:
        variances = tuple(part.variance * tested.n for part in tested.seeds)
    return Compared(tested, other, scale, *margins, as_high, variances, tuple(said), run_ids(of_a, of_b))


def _columns(of_a: Cell, of_b: Cell, task: str | None) -> tuple[list[Column], list[Column]]:
    """The first metrics of the datasets that either cell has learned, and all that were asked for."""
    found = [collect([cell]) for cell in (of_a, of_b)]
    asked = [[column for column in one.first_metrics if task in (None, column.dataset)] for one in found]
    if not asked[0] or asked[0] != asked[1]:
        of = f" of {task}" if task else ""
        raise NotRunError(f"{name_of(of_a)} and {name_of(of_b)} have no common score{of}")
    if len({column.higher_is_better for column in asked[0]}) > 1:
        raise ReportError(f"{name_of(of_a)}: scores of both directions have no mean; name one task")
    learned = [c for c in asked[0] if any(has_learned(c, one.found[0][c]) for one in found)]
    return learned, asked[0]


def _scores(cell: Cell, columns: Sequence[Column]) -> Sample:
    """The mean over the columns, one value a seed."""
    sample = average(collect([cell]).found[0], columns)
    if sample is None:
        raise NotRunError(f"{name_of(cell)} lacks a score of {', '.join(str(c.dataset) for c in columns)} in a run")
    return sample


def log_losses(cell: Cell, columns: Sequence[Column] | None = None) -> Sample | None:
    """The mean over the datasets of some columns of the logarithm of the loss of their answers, else of the eval loss.

    Args:
        columns: None for the first metrics of all datasets.
    """
    collected = collect([cell])
    found = collected.found[0]
    columns = collected.first_metrics if columns is None else columns
    datasets = {column.dataset for column in columns}
    of_answers = [column for column in found if column.metric == LOSS and column.dataset in datasets]
    if len(of_answers) == len(columns):
        logs = {column: replace(found[column], sample=_log(found[column].sample)) for column in of_answers}
        return average(logs, of_answers)
    losses = [run.eval_loss for run in cell.runs]
    if any(loss is None or not 0 < loss < math.inf for loss in losses):
        return None
    seeds = tuple(run.config.seed for run in cell.runs)
    return Sample(seeds, np.log(np.array(losses, dtype=float)), None, (), None)


def _log(sample: Sample) -> Sample:
    """The logarithms of a sample, with errors to first order."""
    mean = float(sample.values.mean())
    return replace(
        sample,
        values=np.log(sample.values),
        errors=None if sample.errors is None else sample.errors / sample.values,
        stderr=None if sample.stderr is None else sample.stderr / mean,
        choice_variance=sample.choice_variance / mean**2,
    )
