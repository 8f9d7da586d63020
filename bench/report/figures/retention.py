"""Score against forgetting: the loss on text of the pretraining kind, with the Pareto front of the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import AVERAGE, GREY, Line, finish, label_below, lines, pareto_front, styled, task_panels
from bench.report.judge.metrics import Scale
from bench.report.judge.scores import Column, Found, Scores, average, average_scale, collect, sample_estimate
from bench.report.judge.statistics import Estimate
from bench.report.read.load import Cell
from bench.report.tables.tables import forgetting

Measured = tuple[str | None, str, bool, Scale, list[Estimate | None]]  # dataset, metric, direction; an estimate a cell


def retention_data(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a cell that knows what it forgot, and dataset's first metric, or their average where tables have one.

    forgetting is the rise of the loss in nats per token with Student's interval over seeds; the score is in the unit of
    the tables. A cell is on the Pareto front if no other forgets as little or less and scores as well or better.
    """
    known = [(place, found) for place, cell in enumerate(cells) if (found := forgetting(cell)) is not None]
    if not known:
        return pd.DataFrame()
    parts = []
    for dataset, metric, higher, scale, estimates in _measured(collect(cells)):
        rows: list[dict[str, Any]] = [
            {
                "dataset": dataset,
                "metric": metric,
                "method": cells[place].method,
                "cell": cells[place].title,
                "n": score.n,
                "on_front": False,
                "forgetting": forgot.mean,
                "forgetting_low": forgot.low,
                "forgetting_high": forgot.high,
                "mean": score.mean,
                "low": score.low,
                "high": score.high,
            }
            for place, forgot in known
            if (score := estimates[place]) is not None
        ]
        ends = dict.fromkeys(("forgetting_low", "forgetting_high", "low", "high"), float)
        part = pd.DataFrame(rows).astype(ends if rows else {})
        if rows:
            part["on_front"] = pareto_front(part["forgetting"], part["mean"] if higher else -part["mean"])
            part[["mean", "low", "high"]] *= scale.factor
            parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _measured(scores: Scores) -> Iterator[Measured]:
    if averaged := scores.averaged:
        scale = average_scale(averaged)
        samples = [average(found, averaged) for found in scores.found]
        means = [None if sample is None else sample_estimate(sample, scale) for sample in samples]
        yield AVERAGE, AVERAGE, True, scale, means
        return
    for column in scores.first_metrics:
        yield (
            column.dataset,
            column.metric,
            column.higher_is_better,
            column.scale,
            [_estimate(found, column) for found in scores.found],
        )


def _estimate(found: Mapping[Column, Found], column: Column) -> Estimate | None:
    return found[column].estimate if column in found else None


@styled()
def score_against_forgetting(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """A panel a dataset, or their average; the grey line is the Pareto front of the means."""
    if data.empty:
        return None
    figure, shown = task_panels(data, [*(cell.title for cell in cells), "Pareto front"])
    for axis, own in shown:
        _panel(axis, own, lines(own, cells))
    label_below(shown, "forgetting (nats per token)")
    return finish(figure, cells, "bars: 95 % intervals")


def _panel(axis: Axes, rows: pd.DataFrame, shown: Sequence[Line]) -> None:
    for line in shown:
        row, color = line.rows.iloc[0], line.look.color
        across, error = (
            None if math.isnan(row[low]) else [[row[middle] - row[low]], [row[high] - row[middle]]]
            for middle, low, high in (("forgetting", "forgetting_low", "forgetting_high"), ("mean", "low", "high"))
        )
        place = [row["forgetting"]], [row["mean"]]
        axis.errorbar(*place, error, across, capsize=2.5, elinewidth=1, linestyle="", color=color)
        axis.plot(*place, **line.look.point, label=line.title)
    front = rows[rows["on_front"]].sort_values("forgetting")
    if len(front) > 1:
        label = "Pareto front"
        axis.step(
            front["forgetting"],
            front["mean"],
            where="post",
            color=GREY,
            linewidth=0.9,
            alpha=0.7,
            zorder=1,
            label=label,
        )
