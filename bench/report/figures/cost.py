"""Costs of methods: score against trainable parameters with its Pareto front; time and memory of initialisation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.axis import swept_key
from bench.report.figures.draw import (
    GREY,
    Line,
    a_row_each,
    aside,
    finish,
    label_below,
    lines,
    log_axis,
    number,
    panels,
    pareto_front,
    spans_widely,
    styled,
    task_panels,
)
from bench.report.judge.scores import collect
from bench.report.read.load import Cell
from bench.report.tables.tables import num_head, trainable_parameters
from bench.runs.record import Record

MIB = 2**20
MAJORITY = "majority class"


def score_data(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a dataset's first metric and cell, in the unit of the tables; `on_front` for trained cells only.

    A cell is on the Pareto front if no other with at most as many trainable parameters scores as well or better.
    """
    if not any(run.scores for cell in cells for run in cell.runs):
        return pd.DataFrame()
    scores = collect(list(cells))
    rows = [
        {
            "dataset": column.dataset,
            "metric": column.metric,
            "method": cell.method,
            "cell": cell.title,
            "trainable_parameters": trainable_parameters(cell),
            "n": found[column].estimate.n,
            "on_front": False,
            "mean": found[column].estimate.mean,
            "low": found[column].estimate.low,
            "high": found[column].estimate.high,
            "majority": found[column].majority,
        }
        for column in scores.first_metrics
        for cell, found in zip(cells, scores.found, strict=True)
        if column in found
    ]
    data = pd.DataFrame(rows).astype(dict.fromkeys(("low", "high", "majority"), float))
    for column in scores.first_metrics:
        own = (data["dataset"] == column.dataset) & (data["metric"] == column.metric)
        sign = 1 if column.higher_is_better else -1
        trained = data.loc[own, "trainable_parameters"].where(
            data["trainable_parameters"] > 0
        )  # others are on no front
        data.loc[own, "on_front"] = pareto_front(trained, sign * data.loc[own, "mean"])
        data.loc[own, ["mean", "low", "high", "majority"]] *= column.scale.factor
    return data


@styled()
def score_against_parameters(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """Each task's first metric against the trainable parameters, with 95 % intervals; untrained as a line.

    The grey line is the Pareto front of the means, the thin dashed line the majority class. None where
    every trained cell has as many parameters and another key is swept, against which they are drawn.
    """
    if data.empty:
        return None
    if swept_key(cells) and len({count for count in data["trainable_parameters"] if count}) == 1:
        return None
    figure, shown = task_panels(data, [*(cell.title for cell in cells), MAJORITY, "Pareto front"])
    for axis, own in shown:
        _score_panel(axis, own, lines(own, cells))
        axis.set(xscale="log")
        _readable_ticks(axis, {count for count in own["trainable_parameters"] if count})
    label_below(shown, f"trainable parameters{' without the head' if any(map(num_head, cells)) else ''}")
    return finish(figure, cells, "bars: 95 % intervals over seeds and items")


def _score_panel(axis: Axes, rows: pd.DataFrame, shown: Sequence[Line]) -> None:
    """One task's panel."""
    counts = Counter(rows["trainable_parameters"])
    shared: Counter[int] = Counter()
    front: list[tuple[float, float]] = []
    for line in shown:
        row, color = line.rows.iloc[0], line.look.color
        parameters = row["trainable_parameters"]
        if not parameters:
            axis.axhline(row["mean"], linestyle=":", color=color, label=line.title)
            continue
        error = None
        if not math.isnan(row["low"]):
            error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        # Equal counts stand a few points apart, all of them within a marker's width of their place.
        where: Any = {"transform": aside(axis, shared[parameters], counts[parameters])}
        shared[parameters] += 1
        axis.errorbar(parameters, row["mean"], error, capsize=2.5, elinewidth=1, linestyle="", color=color, **where)
        axis.plot([parameters], [row["mean"]], **line.look.point, label=line.title, **where)
        ends = row[["low", "mean", "high"]].dropna()
        axis.update_datalim([(parameters, end) for end in ends])  # which leaves shifted points out
        if row["on_front"]:
            front.append((parameters, row["mean"]))
    axis.autoscale_view()
    if len(front) > 1:
        xs, ys = zip(*sorted(front), strict=True)
        axis.step(xs, ys, where="post", color=GREY, linewidth=0.9, alpha=0.7, zorder=1, label="Pareto front")
    for place, majority in enumerate(rows["majority"].dropna().unique()):
        label = "" if place else MAJORITY
        axis.axhline(majority, linestyle="--", linewidth=0.7, color="#000000", zorder=1, label=label)


def _readable_ticks(axis: Axes, counts: set[int]) -> None:
    """Within one power of ten, where matplotlib's labels overlap, the counts themselves are the ticks."""
    span = 1.6 * max(counts) / min(counts) if counts else math.inf
    if span >= 10:
        log_axis(axis, "x")
        return
    kept: list[int] = []
    for count in sorted(counts):
        if not kept or count > kept[-1] * span**0.25:
            kept.append(count)
    axis.set_xticks(kept, [f"{count:,}" for count in kept])
    axis.minorticks_off()


def cost_data(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a trained cell: seconds of calibration, of factorisation and of both, and peak MiB, means over seeds.

    A calibration that was read from the cache counts what computing it took. Peaks are those of the process on a CPU,
    of the device on a GPU. low and high are the range over seeds.
    """
    runs = pd.DataFrame(
        {
            "method": cell.method,
            "cell": cell.title,
            "seconds": run.init_seconds,
            "factorisation": run.seconds("initialise"),
            "peak": init_peak_bytes(run) / MIB,
            "training": (run.peak_bytes("train") or math.nan) / MIB,
        }
        for cell in cells
        if cell.trained and any("initialise" in run.phases for run in cell.runs)
        for run in cell.runs
    )
    if runs.empty:
        return runs
    data = runs.groupby(["method", "cell"], sort=False).agg(
        n=("seconds", "size"),
        calibration_seconds=("seconds", "mean"),
        factorisation_seconds=("factorisation", "mean"),
        seconds=("seconds", "mean"),
        seconds_low=("seconds", "min"),
        seconds_high=("seconds", "max"),
        peak_mib=("peak", "mean"),
        peak_mib_low=("peak", "min"),
        peak_mib_high=("peak", "max"),
        training_peak_mib=("training", "mean"),
    )
    data["calibration_seconds"] -= data["factorisation_seconds"]
    return data.reset_index()


def init_peak_bytes(run: Record) -> float:
    """The largest peak of calibration, also where this run read it, and factorisation; NaN where none is known."""
    calibration = run.initialization.calibration
    peaks = [run.peak_bytes(name) for name in ("calibrate", "initialise")] + [calibration and calibration.peak_bytes]
    return max((peak for peak in peaks if peak), default=math.nan)


@styled()
def cost(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """Seconds and peak memory of initialisation, a row a cell; bars are the range over seeds."""
    if not (shown := lines(data, cells)):
        return None
    with_memory = bool(data["peak_mib"].notna().any())
    figure, ((left, *right),) = panels(1, 1 + with_memory, 1.2 + 0.19 * max(3, len(shown)), sharey=True)
    for axis, name, mark in (
        (left, "seconds", "factorisation_seconds"),
        *((r, "peak_mib", "training_peak_mib") for r in right),
    ):
        for place, (_, rows, look) in enumerate(shown):
            row = rows.iloc[0]
            axis.plot([row[f"{name}_low"], row[f"{name}_high"]], [place, place], "-", color=look.color, linewidth=1)
            axis.plot([row[name]], [place], **look.point, markersize=5)
            axis.plot([row[mark]], [place], "|", color="#000000", markersize=6)
    left.set(xlabel="seconds, calibration included", title="| factorisation alone")
    a_row_each(left, [line.title for line in shown])
    _from_zero(left, [*data["seconds_low"], *data["seconds_high"], *data["factorisation_seconds"]])
    for axis in right:
        axis.set(xlabel="peak memory of initialisation (MiB)", title="| peak of training")
        _from_zero(axis, [*data["peak_mib_high"], *data["training_peak_mib"].dropna()])
    return finish(figure, cells, "bars: range over seeds", legend=False)


def _from_zero(axis: Axes, values: list[float]) -> None:
    """A linear axis from 0, or a logarithmic one where values differ much."""
    if spans_widely(values):
        positive = [value for value in values if value > 0]
        axis.set_xlim(0.6 * min(positive), 1.6 * max(positive))
        log_axis(axis, "x")
    else:
        axis.set_xlim(0, 1.06 * max(values))
        axis.xaxis.set_major_formatter(lambda value, _: number(value))
