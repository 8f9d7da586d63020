"""Score on the validation split against learning rate: one curve a method, the best rate marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import (
    bottom_legend,
    legend_height,
    log_axis,
    looks_of,
    panels,
    styled,
)
from bench.report.judge.metrics import base_name, scale_of
from bench.report.palette import Look
from bench.study.selection import Selection


def variant_of(selection: Selection, selections: Sequence[Selection]) -> tuple[str, ...]:
    """The overrides of a group that not all groups share, beside its method, such as ("rank r4",)."""
    common = set.intersection(*(set(other.group) for other in selections))
    own = [text for text in selection.group if text not in common and not text.startswith("method=")]
    return tuple(text.lstrip("+").rpartition(".")[2].replace("=", " ", 1) for text in own)


def rates_data(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row a selection, budget and learning rate, in the unit of the tables: mean and range over seeds.

    `mean` is over the seeds that completed, `failed` the number of the others; a rate with a failed seed is not `best`.
    `budget` is the number of steps, 0 for the full one.
    """
    rows = []
    for selection in selections:
        factor = scale_of(selection.metric).factor
        smaller = [(rung.steps, point) for rung in selection.rungs for point in rung.points]
        for budget, point in (*smaller, *((0, point) for point in selection.points)):
            values = [factor * value for value in point.values if math.isfinite(value)]
            rows.append(
                {
                    "method": selection.method,
                    "cell": ", ".join((selection.label, *variant_of(selection, selections))),
                    "metric": selection.metric,
                    "budget": budget,
                    "learning_rate": point.learning_rate,
                    "mean": sum(values) / len(values) if values else math.nan,
                    "low": min(values, default=math.nan),
                    "high": max(values, default=math.nan),
                    "n": len(values),
                    "failed": point.failed + len(point.values) - len(values),
                    "best": point is selection.best,
                    "at_edge": selection.at_edge if point is selection.best else None,
                }
            )
    return pd.DataFrame(rows)


@styled()
def rates(selections: Sequence[Selection], place: tuple[str, str], data: pd.DataFrame) -> Figure | None:
    """Each method's score at each learning rate: the mean over seeds, bars their range.

    The ring is around the best rate; a cross above the axis is a rate at which a seed failed. Pale lines are of smaller
    budgets.

    Args:
        selections: of one task and model.
        place: the names of task and model.
        data: of `rates_data`.
    """
    if data.empty:
        return None
    variants = [variant_of(selection, selections) for selection in selections]
    names = [", ".join((one.label, *variant)) for one, variant in zip(selections, variants, strict=True)]
    edges = [" (best at the edge)" if selection.at_edge else "" for selection in selections]
    labels = [name + edge for name, edge in zip(names, edges, strict=True)]
    figure, ((axis,),) = panels(1, 1, 3.6 + legend_height(labels))
    drawn = looks_of([selection.method for selection in selections], variants)
    crosses = 0.015
    for name, label, selection, look in zip(names, labels, selections, drawn, strict=True):
        own = data[(data["method"] == selection.method) & (data["cell"] == name)]
        for _, smaller in own[own["budget"] > 0].groupby("budget"):
            axis.plot(
                smaller["learning_rate"], smaller["mean"], linestyle=":", marker=".", color=look.color, alpha=0.45
            )
        _curve(axis, own[own["budget"] == 0], look, label)
        failed = own.loc[own["failed"] > 0, "learning_rate"]
        if len(failed):
            axis.plot(failed, [crosses] * len(failed), "x", color=look.color, transform=axis.get_xaxis_transform())
            crosses += 0.03
    _axes(axis, data, selections[0])
    bottom_legend(figure, *axis.get_legend_handles_labels())
    seeds = int((data["n"] + data["failed"]).max())
    notes = [f"{place[0]}, {place[1]}, validation split, {seeds} seed{'s' * (seeds > 1)}", "ring: best rate"]
    notes += ["pale: smaller budgets"] * bool((data["budget"] > 0).any())
    notes += ["bars: range over seeds"] * (seeds > 1) + ["cross: a seed failed"] * bool(data["failed"].any())
    figure.suptitle("; ".join(notes))
    return figure


def _curve(axis: Axes, own: pd.DataFrame, look: Look, label: str) -> None:
    bars = [own["mean"] - own["low"], own["high"] - own["mean"]] if (own["n"] > 1).any() else None
    axis.plot(own["learning_rate"], own["mean"], **look.point | {"linestyle": look.line}, label=label)
    axis.errorbar(
        own["learning_rate"], own["mean"], yerr=bars, linestyle="", color=look.color, elinewidth=0.8, capsize=2
    )
    best = own[own["best"]]
    axis.plot(
        best["learning_rate"], best["mean"], "o", markersize=10, markerfacecolor="none", color=look.color, zorder=4
    )


def _axes(axis: Axes, data: pd.DataFrame, selection: Selection) -> None:
    unit = scale_of(selection.metric).unit
    name = "eval loss" if selection.metric == "eval_loss" else base_name(selection.metric)
    log_axis(axis, "x")
    kept = sorted(set(data["learning_rate"]))
    if len(kept) <= 12:
        axis.set_xticks(kept, [f"{rate:g}" for rate in kept])
        axis.minorticks_off()
    axis.set(xlabel="learning rate", ylabel=f"{name} ({unit})" if unit else name)
    if not selection.higher_is_better and (data["mean"] > 0).all():
        log_axis(axis, "y")
