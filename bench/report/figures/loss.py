"""Loss curves against steps, tokens and seconds, and the steps and seconds to a target loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import (
    a_row_each,
    band,
    finish,
    legend_height,
    lines,
    log_axis,
    over_seeds,
    panels,
    shade_of,
    spans_widely,
    styled,
)
from bench.report.palette import Look
from bench.report.read.curves import COLUMNS, Curve, Curves, Target, reach, smooth
from bench.report.read.load import Cell

SMOOTHED = 5  # steps over which the training loss is averaged, or a 40th of a longer run
POINTS = 200  # of the training loss, drawn and kept
QUANTITIES = {"step": "step", "tokens": "training tokens", "seconds": "seconds, initialisation included"}


def convergence_data(cells: Sequence[Cell], curves: Curves) -> pd.DataFrame:
    """One row a cell, kind of loss and step: mean and range over seeds; other columns are the seeds' means.

    Of the training loss they are those of a moving average over `window` steps; `unsmoothed` is the mean without it.
    """
    window = max([SMOOTHED, *(math.ceil(len(curve) / 40) for curve in curves.values())])
    parts = [
        part.assign(place=place)
        for place, cell in enumerate(cells)
        for folder in cell.folders
        if folder in curves
        for part in _losses(curves[folder], window)
    ]
    if not parts:
        return pd.DataFrame()
    values = pd.concat(parts).astype({"step": int, "loss": pd.CategoricalDtype(["training", "eval"])})
    return over_seeds(values, cells, ["loss", "step"])


def _losses(curve: Curve, window: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The averaged training loss, at no more than POINTS steps with the last among them, and the eval loss."""
    rows = pd.DataFrame(curve.rows, columns=COLUMNS)
    training = rows.assign(value=smooth(curve["loss"], window), unsmoothed=rows["loss"], window=window, loss="training")
    thinned = training[::-1][:: math.ceil(len(rows) / POINTS)][::-1]
    return thinned, rows.assign(value=rows["eval_loss"], loss="eval").dropna(subset="value")


@styled()
def convergence(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """Training and eval loss against step, tokens and seconds; a line is the mean over seeds, its band their range."""
    if not (shown := lines(data, cells)):
        return None
    across = [quantity for quantity in QUANTITIES if quantity == "step" or data[quantity].notna().any()]
    kinds = [kind for kind in ("training", "eval") if (data["loss"] == kind).any()]
    height = 0.5 + 1.95 * len(kinds) + legend_height(line.title for line in shown)
    figure, axes = panels(len(kinds), len(across), height, sharey="row", sharex="col")
    # A classifier's is per example, a regression's is a squared error.
    unit = "" if cells[0].runs[0].model.is_classifier else " (nats per token)"
    for kind, row in zip(kinds, axes, strict=True):
        for line in shown:
            for quantity, axis in zip(across, row, strict=True):
                band(axis, line.of("loss", kind), quantity, line, shade_of(shown), marked=kind == "eval")
        smoothed = data.loc[data["loss"] == kind, "window"].max()
        averaged = f"\nmoving average of {smoothed:.0f} steps" if smoothed > 1 else ""
        row[0].set_ylabel(f"{kind} loss{unit}{averaged}")
        if (data.loc[data["loss"] == kind, "mean"] > 0).all():
            log_axis(row[0], "y")
    for quantity, axis in zip(across, axes[-1], strict=True):
        axis.set_xlabel(QUANTITIES[quantity])
        axis.locator_params(axis="x", nbins=5)
        if quantity == "tokens":
            axis.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    return finish(figure, cells, "bands: range over seeds")


def _thousands(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def target_data(cells: Sequence[Cell], curves: Curves, aim: Target) -> pd.DataFrame:
    """One row a cell and quantity (step, tokens, seconds): how many seeds reach the target loss, and when.

    `values` are those of the seeds that reach it, low and high their range. The median is over all seeds, one that
    never reaches it counting as later than any; it is missing if it falls on such a seed. `limit` is the end of the
    longest run.

    Args:
        cells: of one task and model.
        curves: by the run's folder.
        aim: the target loss.
    """
    rows = []
    for cell in cells:
        own = [curves[folder] for folder in cell.folders if folder in curves and len(curves[folder].evaluated)]
        found = [reached for curve in own if (reached := reach(curve, aim.loss)) is not None]
        for quantity in QUANTITIES if own else ():
            values = [getattr(reached, quantity) for reached in found]
            middle = median([*values, *[math.inf] * (len(own) - len(found))])
            rows.append(
                {
                    "method": cell.method,
                    "cell": cell.title,
                    "quantity": quantity,
                    "target": aim.loss,
                    "limit": max(curve.last(quantity) for curve in own),
                    "n": len(own),
                    "reached": len(found),
                    "median": middle if middle < math.inf else math.nan,
                    "low": min(values, default=math.nan),
                    "high": max(values, default=math.nan),
                    "values": " ".join(f"{value:.6g}" for value in values),
                }
            )
    data = pd.DataFrame(rows)
    return data if data.empty else data.dropna(subset="limit")


@styled()
def target(cells: Sequence[Cell], data: pd.DataFrame, aim: Target) -> Figure | None:
    """Steps and seconds to an eval loss, a row a cell: the median over seeds, the seeds and their range.

    An arrow at the end of training marks seeds that never reach it; how many do is printed beside each row.
    """
    if not (shown := lines(data, cells)):
        return None
    quantities = [quantity for quantity in ("step", "seconds") if (data["quantity"] == quantity).any()]
    figure, axes = panels(1, len(quantities), 0.9 + 0.2 * max(3, len(shown)), sharey=True)
    for quantity, axis in zip(quantities, axes[0], strict=True):
        rows = data[data["quantity"] == quantity]
        known = [float(value) for text in rows["values"] for value in text.split()]
        axis.set_xlim(0, 1.03 * rows["limit"].max())
        if spans_widely(known):
            axis.set_xlim(0.8 * min(known), 1.15 * rows["limit"].max())
            log_axis(axis, "x")
        for place, line in enumerate(shown):
            for _, row in line.of("quantity", quantity).iterrows():
                _target_row(axis, place, row, line.look)
        axis.set_xlabel(QUANTITIES[quantity])
        a_row_each(axis, [line.title for line in shown])
        axis.grid(axis="y", visible=False)
    beside: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 7}
    axes[0][-1].annotate("reached by", (1.02, -0.9), annotation_clip=False, **beside)
    for place, line in enumerate(shown):
        axes[0][-1].annotate("{reached} of {n}".format(**line.rows.iloc[0]), (1.02, place), **beside)
    return finish(figure, cells, "bars: range over seeds", f"to eval loss {aim.loss:.3g} ({aim.source})", legend=False)


def _target_row(axis: Axes, place: int, row: pd.Series, look: Look) -> None:
    """One cell's seeds, their median and range."""
    values = [float(value) for value in row["values"].split()]
    axis.plot(values, [place] * len(values), "|", color=look.color, markersize=5)
    if row["reached"] < row["n"]:
        axis.plot([row["limit"]], [place], ">", color=look.color, markerfacecolor="none", clip_on=False)
    if values:
        end = row["high"] if row["reached"] == row["n"] else row["limit"]
        axis.plot([row["low"], end], [place, place], "-", color=look.color, linewidth=0.9)
        axis.plot([row["median"]], [place], **look.point, markersize=5)
    else:
        unit = "steps" if row["quantity"] == "step" else "s"
        # On the side of the marker where there is room.
        side = (
            ("right", -6)
            if (axis.transScale + axis.transLimits).transform((row["limit"], place))[0] > 0.5
            else ("left", 6)
        )
        where: Any = {"xytext": (side[1], 0), "textcoords": "offset points", "ha": side[0], "va": "center"}
        text = f"not within {row['limit']:,.3g} {unit}"
        axis.annotate(text, (row["limit"], place), fontsize=7, color="#595959", **where)
