"""Loss curves against steps, tokens and seconds, and the steps and seconds to a target loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import (
    MANY,
    WIDTH,
    Look,
    band,
    finish,
    legend_height,
    log_axis,
    looks,
    over_seeds,
    rows_of,
    spans_widely,
    styled,
)
from bench.report.judge.statistics import Array
from bench.report.read.curves import Curve, Curves, Target, reach, read_curves, smooth
from bench.report.read.load import Cell

SMOOTHED = 5  # steps; a 40th of a long run
POINTS = 200  # of the training loss, drawn and kept
QUANTITIES = {"step": "step", "tokens": "training tokens", "seconds": "seconds, initialisation included"}


def window_of(curves: Curves) -> int:
    """Number of steps over which the training loss is averaged."""
    return max([SMOOTHED, *(math.ceil(len(curve) / 40) for curve in curves.values())])


def convergence_data(cells: Sequence[Cell], curves: Curves) -> pd.DataFrame:
    """One row a cell, kind of loss and step: mean and range over seeds; tokens and seconds are the seeds' means."""
    window = window_of(curves)
    kinds = {"training": lambda curve: _training(curve, window), "eval": lambda curve: _rows(curve.evaluated)}
    found: list[Array] = []  # cell, kind, then what _rows gives
    for place, cell in enumerate(cells):
        for kind, rows_of_curve in enumerate(kinds.values()):
            for rows in (rows_of_curve(curves[folder]) for folder in cell.folders if folder in curves):
                found.append(np.column_stack([np.full((len(rows), 2), (place, kind)), rows]))
    if not found:
        return pd.DataFrame()
    values = pd.DataFrame(np.concatenate(found), columns=["place", "kind", "step", "tokens", "seconds", "value"])
    data = over_seeds(values, ["place", "kind", "step"])
    places = data["place"].astype(int)
    data["method"], data["cell"] = places.map(lambda i: cells[i].method), places.map(lambda i: cells[i].title)
    data["loss"] = data["kind"].astype(int).map(dict(enumerate(kinds)))
    columns = "method cell loss step tokens seconds mean low high n".split()
    return data[columns].astype({"step": int}).reset_index(drop=True)


def _rows(curve: Curve, value: str = "eval_loss") -> Array:
    """(num_steps, 4): step, tokens, seconds and a loss."""
    return np.column_stack([curve[name] for name in ("step", "tokens", "seconds", value)])


def _training(curve: Curve, window: int) -> Array:
    """The averaged training loss at no more than POINTS steps, the last step among them."""
    rows = _rows(curve, "loss")
    rows[:, -1] = smooth(rows[:, -1], window)
    return rows[::-1][:: math.ceil(len(rows) / POINTS)][::-1]


@styled()
def convergence(cells: Sequence[Cell], data: pd.DataFrame | None = None) -> Figure | None:
    """Training and eval loss against step, tokens and seconds; a line is the mean over seeds, its band their range.

    Args:
        cells: of one task and model.
        data: of `convergence_data`; read from the cells' curves if it is not given.
    """
    curves = {} if data is not None else read_curves(cells)
    data = convergence_data(cells, curves) if data is None else data
    if data.empty:
        return None
    trained = [cell for cell in cells if len(rows_of(data, cell))]
    across = [quantity for quantity in QUANTITIES if quantity == "step" or data[quantity].notna().any()]
    kinds = [kind for kind in ("training", "eval") if (data["loss"] == kind).any()]
    height = 0.5 + 1.95 * len(kinds) + legend_height(cell.title for cell in trained)
    figure, axes = plt.subplots(
        len(kinds),
        len(across),
        figsize=(WIDTH, height),
        layout="constrained",
        squeeze=False,
        sharey="row",
        sharex="col",
    )
    for cell, look in zip(trained, looks(trained), strict=True):
        own = rows_of(data, cell)
        for kind, row in zip(kinds, axes, strict=True):
            for quantity, axis in zip(across, row, strict=True):
                band(axis, own[own["loss"] == kind], quantity, look, cell.title, kind == "eval", len(trained) > MANY)
    # A classifier's is per example, a regression's is a squared error.
    unit = "" if cells[0].runs[0].model.kind == "encoder" else " (nats per token)"
    for kind, row in zip(kinds, axes, strict=True):
        row[0].set_ylabel(f"{kind.replace('_', '-')} loss{unit}")
        _loss_axis(row, data[data["loss"] == kind])
    for quantity, axis in zip(across, axes[-1], strict=True):
        axis.set_xlabel(QUANTITIES[quantity])
        axis.locator_params(axis="x", nbins=5)
        if quantity == "tokens":
            axis.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    return finish(figure, cells, "bands: range over seeds")


def _loss_axis(row: Sequence[Axes], rows: pd.DataFrame) -> None:
    """Logarithmic where losses are positive."""
    if (rows["mean"] > 0).all():
        log_axis(row[0], "y")


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
            if math.isnan(limit := max(curve.last(quantity) for curve in own)):
                continue
            row = {"method": cell.method, "cell": cell.title, "quantity": quantity, "target": aim.loss}
            middle = median([*values, *[math.inf] * (len(own) - len(found))])
            row |= {"limit": limit, "n": len(own), "reached": len(found)}
            row |= {"median": middle if middle < math.inf else math.nan}
            row |= {"low": min(values, default=math.nan), "high": max(values, default=math.nan)}
            rows.append(row | {"values": " ".join(f"{value:.6g}" for value in values)})
    return pd.DataFrame(rows)


@styled()
def target(cells: Sequence[Cell], data: pd.DataFrame, aim: Target) -> Figure | None:
    """Steps and seconds to an eval loss, a row a cell: the median over seeds, the seeds and their range.

    An arrow at the end of training marks seeds that never reach it; how many do is printed beside each row.
    """
    if data.empty:
        return None
    shown = [cell for cell in cells if len(rows_of(data, cell))]
    quantities = [quantity for quantity in ("step", "seconds") if (data["quantity"] == quantity).any()]
    figure, axes = plt.subplots(
        1, len(quantities), figsize=(WIDTH, 0.9 + 0.2 * max(3, len(shown))), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    for quantity, axis in zip(quantities, axes[0], strict=True):
        rows = data[data["quantity"] == quantity]
        for place, (cell, look) in enumerate(zip(shown, looks(shown), strict=True)):
            for _, row in rows_of(rows, cell).iterrows():
                _target_row(axis, place, row, look)
        known = [float(value) for text in rows["values"] for value in text.split()]
        axis.set_xlim(0, 1.03 * rows["limit"].max())
        if spans_widely(known):
            axis.set_xlim(0.8 * min(known), 1.15 * rows["limit"].max())
            log_axis(axis, "x")
        axis.set(xlabel=QUANTITIES[quantity], ylim=(len(shown) - 0.4, -0.6))
        axis.set_yticks(range(len(shown)), [cell.title for cell in shown])
        axis.grid(axis="y", visible=False)
    beside = ("axes fraction", "data")
    axes[0][-1].annotate("reached by", (1.02, -0.9), xycoords=beside, va="center", fontsize=7, annotation_clip=False)
    for place, cell in enumerate(shown):
        row = rows_of(data, cell).iloc[0]
        text = f"{row['reached']} of {row['n']}"
        axes[0][-1].annotate(text, (1.02, place), xycoords=beside, va="center", fontsize=7)
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
        axis.plot([row["median"]], [place], linestyle="", marker=look.marker, color=look.color, markersize=5)
    else:
        unit = "steps" if row["quantity"] == "step" else "s"
        text, aside = f"not within {row['limit']:,.3g} {unit}", (-6, 0)
        where: Any = {"xytext": aside, "textcoords": "offset points", "ha": "right", "va": "center"}
        axis.annotate(text, (row["limit"], place), fontsize=7, color="#595959", **where)
