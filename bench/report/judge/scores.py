"""The scores of cells by column: a column is one metric of one scored dataset, or the eval loss without scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np

from bench.report.judge.choice import chosen_by
from bench.report.judge.items import item_errors, standard_error
from bench.report.judge.metrics import SHARE, Scale, base_name, of_items, scale_of
from bench.report.judge.statistics import Array, Estimate, Part, estimate, interquartile_estimate, over_seeds
from bench.report.read.frames import eval_loss_score
from bench.report.read.load import Cell
from bench.report.read.outcomes import items_of
from bench.runs.record import OUTCOMES
from bench.runs.record_parts import Score
from bench.study.selection import first_of_each

AVERAGED_FROM = 3  # datasets of one unit make an average
WIDE = 8  # a table of more metrics shows the first of each task
AGREE = 1e-6  # a metric computed again from its items; lm-eval's differ by rounding only


@dataclass(frozen=True)
class Column:
    """One metric of one dataset; `dataset` is None for the eval loss."""

    dataset: str | None
    metric: str
    higher_is_better: bool

    @property
    def scale(self) -> Scale:
        """Bounds and unit of the metric."""
        return scale_of(self.metric)


@dataclass(frozen=True)
class Sample:
    """One metric, or an average of several, of a cell's runs.

    Attributes:
        seeds, values: (num_seeds,), one a run.
        errors: how each unit of items moves each run's value, (num_units, num_runs); None if the items are not known.
        items: which items, by number and digest of each dataset; methods with the same can be compared item by item.
        stderr: of the mean over the items; where they are not known from the records, as if seeds did not differ in
            their items.
        choice_variance: of the mean, what comes from having chosen its learning rate from data; the unit is that of the
            values, squared.
        choice_degrees: the degrees of freedom with which that is known.
        fixed: of a method that trains nothing and was run once: another seed would not change it.
    """

    seeds: tuple[int, ...]
    values: Array
    errors: Array | None
    items: tuple[tuple[int, int], ...]
    stderr: float | None
    choice_variance: float = 0.0
    choice_degrees: float = math.inf
    fixed: bool = False

    @property
    def chosen(self) -> Part | None:
        """The variance of the mean from the choice of its learning rate; None if there is none."""
        return Part(self.choice_variance, self.choice_degrees) if self.choice_variance else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the variance of the mean over seeds and chosen learning rates."""
        return (*over_seeds(self.values), *([self.chosen] if self.chosen else []))

    @property
    def num_items(self) -> int | None:
        """Number of items of all datasets; None if the items are not known."""
        return sum(number for number, _ in self.items) if self.errors is not None else None


@dataclass(frozen=True)
class Found:
    """The estimate of a cell in one column.

    Attributes:
        majority: the metric of answering every item with the most frequent class; None where that has no meaning.
        num_examples: scored items of one run.
        chance: the accuracy of choosing blindly; None where answers are no choice or the metric is no accuracy.
    """

    estimate: Estimate
    majority: float | None
    above_majority: bool | None
    num_examples: int | None
    sample: Sample
    chance: float | None = None


@dataclass(frozen=True)
class Scores:
    """The columns of a table, and for each cell its estimates by column."""

    columns: tuple[Column, ...]
    found: tuple[dict[Column, Found], ...]

    @property
    def first_metrics(self) -> tuple[Column, ...]:
        """The first metric of each dataset."""
        return tuple(first_of_each(self.columns, lambda column: column.dataset))

    @property
    def shown(self) -> tuple[Column, ...]:
        """All columns, or the first metric of each task if there are more than WIDE."""
        return self.columns if len(self.columns) <= WIDE else self.first_metrics

    @property
    def averaged(self) -> tuple[Column, ...]:
        """The first metrics that an average is made of: shares and correlations, of at least three datasets."""
        same = tuple(c for c in self.first_metrics if c.scale.unit == SHARE.unit and c.higher_is_better)
        return same if len(same) >= AVERAGED_FROM else ()


def collect(cells: Sequence[Cell]) -> Scores:
    """Reads the scores of cells; columns are in the order in which the records name them."""
    scored = any(run.scores for cell in cells for run in cell.runs)
    by_column: dict[Column, dict[int, list[tuple[int, Score]]]] = {}
    for place, cell in enumerate(cells):
        for index, run in enumerate(cell.runs):
            for score in run.scores if scored else eval_loss_score(run):
                column = Column(score.task or None, score.metric, score.higher_is_better)
                by_column.setdefault(column, {}).setdefault(place, []).append((index, score))
    found: tuple[dict[Column, Found], ...] = tuple({} for _ in cells)
    for column, entries in by_column.items():  # a column at a time, whose items are resampled once
        for place, scores in entries.items():
            found[place][column] = _found(cells[place], column, scores)
    return Scores(tuple(by_column), found)


def average(found: Mapping[Column, Found], columns: Sequence[Column]) -> Sample | None:
    """The mean over columns, run by run; None for a cell that lacks one of them in one of its runs."""
    samples = [found[column].sample for column in columns if column in found]
    if len(samples) < len(columns) or len({sample.seeds for sample in samples}) > 1:
        return None
    errors = [sample.errors / len(samples) for sample in samples if sample.errors is not None]
    stderrs = [sample.stderr for sample in samples if sample.stderr is not None]
    whole = np.vstack(errors) if len(errors) == len(samples) else None
    stderr: float | None = None
    if whole is not None:
        stderr = standard_error(whole.mean(axis=1))
    elif len(stderrs) == len(samples):
        stderr = float(np.linalg.norm(stderrs)) / len(samples)
    return replace(
        samples[0],
        values=np.mean([sample.values for sample in samples], axis=0),
        errors=whole,
        items=tuple(item for sample in samples for item in sample.items),
        stderr=stderr,
        # One learning rate was chosen for all of them: its errors may all have one sign.
        choice_variance=mean(math.sqrt(sample.choice_variance) for sample in samples) ** 2,
        choice_degrees=min(sample.choice_degrees for sample in samples),
    )


def average_scale(columns: Sequence[Column]) -> Scale:
    """The scale of a mean over columns, some of which can be below zero."""
    return Scale(low=mean(column.scale.low for column in columns))


def sample_estimate(sample: Sample, scale: Scale) -> Estimate:
    """Mean and interval of a sample."""
    return estimate(sample.values.tolist(), sample.stderr, scale, chosen=sample.chosen)


def interquartile(found: Mapping[Column, Found], columns: Sequence[Column]) -> Estimate | None:
    """The interquartile mean over columns and runs; None for a cell that lacks a column."""
    if any(column not in found for column in columns):
        return None
    samples = [found[column].sample for column in columns]
    errors = [sample.errors for sample in samples if sample.errors is not None]
    whole = average(found, columns)
    return interquartile_estimate(
        [sample.values for sample in samples],
        errors if len(errors) == len(samples) else None,
        average_scale(columns),
        whole.chosen if whole else None,
    )


def heading(column: Column, columns: Sequence[Column]) -> str:
    """Dataset, metric and unit; with lm-eval's filter where the metric comes under several."""
    if column.dataset is None:
        return "eval loss"
    name = base_name(column.metric)
    several = sum(c.dataset == column.dataset and base_name(c.metric) == name for c in columns) > 1
    filtered = column.metric.partition(",")[2]
    parts = (column.dataset, name, f"({filtered})" if several and filtered else "", column.scale.unit)
    return " ".join(part for part in parts if part)


def _found(cell: Cell, column: Column, entries: list[tuple[int, Score]]) -> Found:
    scores = [score for _, score in entries]
    sample = _sample(cell, column, entries)
    num_examples = scores[0].num_examples or None
    estimated = estimate(sample.values.tolist(), sample.stderr, column.scale, num_examples, sample.chosen)
    majorities = [score.majority for score in scores if score.majority is not None]
    majority = mean(majorities) if majorities else None
    above = None
    if majority is not None:  # the mean itself where no interval is known
        known = estimated if estimated.low is not None else replace(estimated, low=estimated.mean, high=estimated.mean)
        above = known.is_better_than(majority, column.higher_is_better)
    return Found(estimated, majority, above, num_examples, sample, _chance(cell, column))


def _chance(cell: Cell, column: Column) -> float | None:
    if column.dataset is None or not base_name(column.metric).startswith("acc") or not cell.folders:
        return None
    items = items_of(cell.folders[0], column.dataset, column.metric)
    return None if items is None else items.chance


def _sample(cell: Cell, column: Column, entries: list[tuple[int, Score]]) -> Sample:
    values = tuple(math.nan if score.value is None else score.value for _, score in entries)
    seeds = tuple(cell.runs[index].config.seed for index, _ in entries)
    folders = tuple(cell.folders[index] for index, _ in entries) if cell.folders else ()
    stamps = tuple(path.stat().st_mtime_ns if (path := folder / OUTCOMES).is_file() else 0 for folder in folders)
    known = _errors(folders, stamps, column, values) if folders and all(stamps) else None
    fixed = not cell.trained and len(entries) == 1
    chosen = chosen_by(cell.tried, column.dataset, column.metric) or Part(0.0, math.inf)
    choice = {"choice_variance": chosen.variance, "choice_degrees": chosen.degrees}
    if known is not None:
        errors, items = known
        over_items = standard_error(errors.mean(axis=1))
        return Sample(seeds, np.array(values), errors, (items,), over_items, **choice, fixed=fixed)
    stderrs = [score.stderr for _, score in entries]
    given = [stderr for stderr in stderrs if stderr is not None and math.isfinite(stderr)]
    stderr = math.sqrt(mean(stderr**2 for stderr in given)) if len(given) == len(stderrs) else None
    return Sample(seeds, np.array(values, dtype=float), None, (), stderr, **choice, fixed=fixed)


@functools.lru_cache(maxsize=4096)
def _errors(
    folders: tuple[Path, ...], _stamps: tuple[int, ...], column: Column, values: tuple[float, ...]
) -> tuple[Array, tuple[int, int]] | None:
    """How each unit of items moves the metric of each run, and number and digest of the items.

    None unless all runs answered the same items and the metric computed from them is the one of the record.
    """
    if column.dataset is None:
        return None
    found = [items_of(folder, column.dataset, column.metric) for folder in folders]
    if any(items is None for items in found) or len({items.digest for items in found if items}) != 1:
        return None
    runs = [of_items(column.metric, items.values) for items in found if items]
    for run, value in zip(runs, values, strict=True):
        if run is None or not math.isclose(run.whole, value, rel_tol=AGREE, abs_tol=AGREE):
            return None
    first = found[0]
    assert first is not None
    errors = item_errors([run for run in runs if run], column.dataset, first.digest, first.clusters)
    return errors, (len(first.values), first.digest)
