"""Scores against the one key whose numbers a study sweeps beside its methods, such as the rank or the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.report.figures.draw import aside, finish, looks_of, number, styled, task_panels
from bench.report.judge.scores import WIDE, collect
from bench.report.read.load import Cell

LOSS = "loss"
FAR_APART = 3  # the largest value over the smallest, above which the axis is logarithmic


def swept_key(cells: Sequence[Cell]) -> str | None:
    """The only setting in which trained cells of a method differ, if its values are numbers; else None."""
    trained = [cell for cell in cells if cell.trained]
    names = dict.fromkeys(name for cell in trained for name in cell.axes)
    values = {name: {cell.axes[name] for cell in trained if cell.axes.get(name) is not None} for name in names}
    differing = [name for name in names if len(values[name]) > 1]
    if len(differing) != 1 or not all(isinstance(value, int | float) for value in values[differing[0]]):
        return None
    return differing[0]


def axis_data(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a dataset's first metric or loss, and trained cell with the swept key, in the unit of the tables.

    Empty where there is no such key.
    """
    key, rows = swept_key(cells), []
    if key is None:
        return pd.DataFrame()
    scores = collect(list(cells))
    columns = [column for column in scores.columns if column in scores.first_metrics or column.metric == LOSS]
    for column in columns if len(columns) <= WIDE else scores.first_metrics:
        for cell, found in zip(cells, scores.found, strict=True):
            if column in found and cell.trained and cell.axes.get(key) is not None:
                estimate, factor = found[column].estimate, column.scale.factor
                ends = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
                rows.append(
                    {
                        "dataset": column.dataset,
                        "metric": column.metric,
                        "method": cell.method,
                        "label": cell.label,
                        "key": key,
                        "value": cell.axes[key],
                        "n": estimate.n,
                    }
                    | {name: math.nan if end is None else factor * end for name, end in ends.items()}
                )
    return pd.DataFrame(rows)


@styled()
def score_against_axis(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """A panel a dataset's metric, a line a method through its cells, with 95 % intervals."""
    if data.empty:
        return None
    methods = list(dict.fromkeys(data["method"]))
    looks = dict(zip(methods, looks_of(methods, methods), strict=True))
    figure, shown = task_panels(data, data["label"].unique())
    for axis, own in shown:
        for place, (method, line) in enumerate(own.sort_values("value").groupby("method", sort=False)):
            look = looks[method]
            where: dict[str, Any] = {"transform": aside(axis, place, len(methods))}
            points = line["value"], line["mean"]
            error = [line["mean"] - line["low"], line["high"] - line["mean"]]
            axis.errorbar(*points, error, capsize=2.5, elinewidth=1, ls="", color=look.color, **where)
            drawn: dict[str, Any] = look.point | {"linestyle": look.line}
            axis.plot(*points, **drawn, label=line["label"].iloc[0], **where)
            for end in ("low", "high"):  # which leaves shifted points out
                axis.update_datalim(list(zip(line["value"], line[end].fillna(line["mean"]), strict=True)))
        axis.margins(x=0.08)
        axis.autoscale_view()
        values = sorted(set(own["value"]))
        if values[-1] > FAR_APART * values[0] > 0:
            axis.set_xscale("log")
        axis.set_xticks(values, [number(value) for value in values])
        axis.minorticks_off()
        axis.set_xlabel(own["key"].iloc[0])
    return finish(figure, cells, "bars: 95 % intervals over seeds and items")
