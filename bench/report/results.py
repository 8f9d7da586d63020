"""The results of a study in a researcher's hands: data frames, comparisons and figures; `bench.load(STUDY)`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.process.places import located
from bench.report.figures import figures_of
from bench.report.figures.choice import Choice, Place
from bench.report.judge.comparisons import Comparison, Judged, judge
from bench.report.judge.learning import has_learned
from bench.report.judge.metrics import SHARE
from bench.report.papers.answers import stage_cells
from bench.report.papers.score_questions import LOG_LOSS, POINTS
from bench.report.read.frames import Results, alignment, curves, frame, runs
from bench.report.read.load import BASELINE, ReportError, Study, load_study
from bench.report.tables.paired import comparison_numbers
from bench.runs.record import COMPLETED

METHOD, ROW = "method", "row"  # what a line of a figure is


def load(study: str, results_dir: Results | None = None, mix: bool = False) -> StudyResults:
    """Reads the records of a study.

    Args:
        study: its name, such as demo, or its folder, such as runs/demo.
        results_dir: the results folder; None: runs, or results if only that has the study.
        mix: take records of different software, hardware or schema version together.

    Raises:
        ReportError: no such study (the message names those that there are), no completed run, or records that are not
            comparable without `mix`.
    """
    return StudyResults(load_study(*located(study, None if results_dir is None else Path(results_dir)), mix))


@dataclass(frozen=True)
class StudyResults:
    """The results of a study.

    Attributes:
        study: its records, grouped into the rows of its table.
    """

    study: Study

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(cell.label for cell in self.study.cells))
        return f"{self.study.name}: {len(self.study.members)} runs; stage {self.study.stage}: {methods}"

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a run and metric: `bench.report.frame`."""
        return frame(self.study.name, self._results_dir)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a run and step: `bench.report.curves`."""
        return curves(self.study.name, self._results_dir)

    @cached_property
    def alignment(self) -> pd.DataFrame:
        """One row a run, step, layer and measure: `bench.report.alignment`."""
        return alignment(self.study.name, self._results_dir)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, failed ones too: `bench.report.runs`."""
        return runs(self.study.name, self._results_dir)

    @property
    def plot(self) -> Plots:
        """The figures of the report, each as a matplotlib Figure."""
        return Plots(self.study)

    @property
    def _results_dir(self) -> Path:
        return self.study.folder.parents[self.study.name.count("/")]

    def compare(
        self, first: str, second: str = BASELINE, stage: str | None = None, margin: float | None = None
    ) -> pd.DataFrame:
        """Compares two methods by the report's own statistics: the rows of comparisons.csv, first minus second.

        Args:
            first, second: methods as the command line names them, such as lora_ga and hu.
            stage: None for the study's main stage.
            margin: of equivalence, in the unit of `difference`; None for 0.01 of a metric that is a share (1 point),
                and 5 % of the second's mean of any other, such as a loss.

        Returns:
            One row a task, model, metric and pair of rows, such as two ranks. The columns of comparisons.csv, among
            them difference with low and high (95 %), n, p (uncorrected, the larger of p_seeds and p_items), p_holm
            (corrected for the study's table; missing for a pair that is not among its hypotheses) and is_significant;
            and the test of equivalence: low_90 and high_90, margin, and is_equivalent, which is that the 90 % interval
            is inside the margin (two one-sided tests at 5 %; missing with one seed, or where neither is two standard
            errors better than chance: two methods that learned nothing are not as good as each other).

        Raises:
            ReportError: a method, or the stage, has no completed run; or no rows of the two are comparable.
        """
        cells = stage_cells(self.study, stage)
        at = replace(self.study, cells=cells, stage=stage or self.study.stage)
        for method in (first, second):
            self._check(at, method)
        rows = [
            numbers | _equivalence(one, judged, margin)
            for place, part in at.by_task_and_model.items()
            for judged in [_between(judge(part.cells, at.pairing), first, second)]
            for numbers, one in zip(comparison_numbers(judged, at.stage, place), judged.comparisons, strict=True)
        ]
        if not rows:
            found = "; ".join(cell.title for cell in cells if cell.method in (first, second))
            raise ReportError(f"no row of {first} is comparable with one of {second} in {at.name}; rows: {found}")
        return pd.DataFrame(rows)

    def _check(self, at: Study, method: str) -> None:
        """Raises ReportError for a method without a completed run."""
        known = list(dict.fromkeys(cell.method for cell in at.cells))
        if method in known:
            return
        statuses = [record.status for _, record in at.members if record.method == method and record.status != COMPLETED]
        counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        ended = f" ({counts})" if counts else ""
        raise ReportError(
            f"no completed run of method {method!r} in stage {at.stage} of {at.name}{ended}; there are: "
            f"{', '.join(known)}"
        )


def _between(judged: Judged, first: str, second: str) -> Judged:
    """Those comparisons that are of the two methods, each first minus second."""

    def turned() -> Iterator[Comparison]:
        for one in judged.comparisons:
            methods = [judged.cells[place].method for place in (one.first, one.second)]
            if methods == [first, second]:
                yield one
            elif methods == [second, first]:
                yield one.turned

    return replace(judged, comparisons=tuple(turned()))


def _equivalence(one: Comparison, judged: Judged, margin: float | None) -> dict[str, float | bool | None]:
    sample = one.measured.samples[one.second]
    assert sample is not None
    share = one.measured.scale.unit == SHARE.unit
    default = POINTS / SHARE.factor if share else math.expm1(LOG_LOSS) * float(np.mean(sample.values))
    inside = default if margin is None else margin
    low, high = one.within.low, one.within.high
    known = one.difference.n > 1 and low is not None and high is not None and _any_learned(one, judged)
    is_equivalent = -inside < low and high < inside if known else None  # type: ignore[operator]
    return {"low_90": low, "high_90": high, "margin": inside, "is_equivalent": is_equivalent}


def _any_learned(one: Comparison, judged: Judged) -> bool:
    """Whether either row is better than chance; of an average, in any of its datasets."""
    columns = judged.scores.averaged if one.measured.column is None else [one.measured.column]
    rows = [judged.scores.found[place] for place in (one.first, one.second)]
    return any(has_learned(column, found[column]) for found in rows for column in columns if column in found)


@dataclass(frozen=True)
class Plots:
    """The figures of the report, of the study's main stage; nothing is written.

    Each takes `by`: "method" draws the best row of each method, "row" every row; and `task` and `model`, which are
    needed where the study has several. Each raises ReportError where the records have no data for it.
    """

    study: Study

    def convergence(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Training and eval loss against step, tokens and seconds; mean over seeds and their range."""
        return self._drawn("convergence", by, task, model)

    def target(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Steps and seconds to LoRA's final eval loss: the seeds, their median and range."""
        return self._drawn("target", by, task, model)

    def alignment(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Cosine of the induced and the full gradient, and captured energy, against step."""
        return self._drawn("alignment", by, task, model)

    def layers(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """The cosine of each layer at each step."""
        return self._drawn("layers", by, task, model)

    def features(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Norms of the features behind A and behind B against step."""
        return self._drawn("features", by, task, model)

    def score(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Score against trainable parameters, with 95 % intervals."""
        return self._drawn("score", by, task, model)

    def axis(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Score against the one numeric key that the study sweeps, a line a method, with 95 % intervals."""
        return self._drawn("axis", by, task, model)

    def retention(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Score against forgetting, with 95 % intervals."""
        return self._drawn("retention", by, task, model)

    def cost(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Seconds and peak memory of initialisation."""
        return self._drawn("cost", by, task, model)

    def rates(self, by: str = METHOD, task: str | None = None, model: str | None = None) -> Figure:
        """Score on the validation split against learning rate."""
        return self._drawn("rates", by, task, model)

    def _drawn(self, kind: str, by: str, task: str | None, model: str | None) -> Figure:
        if by not in (METHOD, ROW):
            raise ReportError(
                f"by={by!r} is no line of a figure; {METHOD} draws each method's best row, {ROW} every row"
            )
        place = self._place(task, model)
        methods = {cell.method for cell in self.study.by_task_and_model[place].cells}
        choice = Choice((kind,), (place,), len(methods) if by == METHOD else None)
        found = [figure for _, figure, _, _ in figures_of(self.study, place, choice) if figure is not None]
        if not found:
            raise ReportError(f"the records of {self.study.name} have nothing to draw {kind} from")
        return found[0]

    def _place(self, task: str | None, model: str | None) -> Place:
        """The one place of a task and model."""
        there_are = list(self.study.by_task_and_model)
        found = [place for place in there_are if task in (None, place[0]) and model in (None, place[1])]
        if len(found) != 1:
            named = "; ".join(f"task={task!r}, model={model!r}" for task, model in there_are)
            raise ReportError(f"a figure is of one task and model, and {self.study.name} has {named}: name one of them")
        return found[0]
