"""Costs of methods: score against trainable parameters with its Pareto front; time and memory of initialisation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import (
    GREY,
    WIDTH,
    Look,
    finish,
    legend_height,
    log_axis,
    looks,
    number,
    rows_of,
    spans_widely,
    styled,
)
from bench.report.judge.metrics import base_name, scale_of
from bench.report.judge.scores import collect
from bench.report.read.load import Cell
from bench.report.tables.tables import num_head, trainable_parameters
from bench.runs.record import Record

PANELS_ABREAST = 3
MIB = 2**20
MAJORITY = "majority class"


def score_data(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row a dataset's first metric and cell, in the unit of the tables; `on_front` for trained cells only.

    A cell is on the Pareto front if no other with at most as many trainable parameters scores as well or better.
    """
    if not any(run.scores for cell in cells for run in cell.runs):
        return pd.DataFrame()
    scores = collect(list(cells))
    rows = []
    for column in scores.first_metrics:
        factor, sign = column.scale.factor, 1 if column.higher_is_better else -1
        reached = [(cell, found[column]) for cell, found in zip(cells, scores.found, strict=True) if column in found]
        standing = [(trainable_parameters(cell), sign * found.estimate.mean) for cell, found in reached]
        for (cell, found), own in zip(reached, standing, strict=True):
            row: dict[str, Any] = {
                "dataset": column.dataset,
                "metric": column.metric,
                "method": cell.method,
                "cell": cell.title,
            }
            row |= {"trainable_parameters": own[0], "n": found.estimate.n, "on_front": _on_front(own, standing)}
            for name in ("mean", "low", "high"):
                value = getattr(found.estimate, name)
                row[name] = math.nan if value is None else factor * value
            rows.append(row | {"majority": math.nan if found.majority is None else factor * found.majority})
    return pd.DataFrame(rows)


def _on_front(own: tuple[int, float], others: Sequence[tuple[int, float]]) -> bool:
    """Pareto optimality of one (parameters, score); methods that train nothing are on no front."""
    if not own[0] or math.isnan(own[1]):
        return False
    return not any(
        0 < parameters <= own[0] and score >= own[1] and (parameters, score) != own for parameters, score in others
    )


@styled()
def score_against_parameters(cells: Sequence[Cell], data: pd.DataFrame | None = None) -> Figure | None:
    """Each task's first metric against the trainable parameters, with 95 % intervals; untrained as a line.

    The grey line is the Pareto front of the means, the thin dashed line the majority class.
    """
    data = score_data(cells) if data is None else data
    if data.empty:
        return None
    panels = list(dict.fromkeys(zip(data["dataset"], data["metric"], strict=True)))
    abreast = min(len(panels), PANELS_ABREAST)
    rows = -(-len(panels) // PANELS_ABREAST)
    extra = legend_height([*(cell.title for cell in cells), MAJORITY, "Pareto front"])
    height = 0.4 + (2.8 if abreast < 3 else 2.2) * rows + extra
    figure, axes = plt.subplots(rows, abreast, figsize=(WIDTH, height), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    apart = " without the head" if any(map(num_head, cells)) else ""
    for place, (axis, (dataset, metric)) in enumerate(zip(axes.flat, panels, strict=False)):
        own = data[(data["dataset"] == dataset) & (data["metric"] == metric)]
        _score_panel(axis, own, cells)
        unit = f" ({scale_of(metric).unit})" if scale_of(metric).unit else ""
        axis.set(xscale="log", ylabel=f"{base_name(metric)}{unit}", title=dataset)
        if place >= len(panels) - abreast:
            axis.set_xlabel(f"trainable parameters{apart}")
        _readable_ticks(axis, {count for count in own["trainable_parameters"] if count})
    return finish(figure, cells, "bars: 95 % intervals over seeds and items")


def _score_panel(axis: Axes, rows: pd.DataFrame, cells: Sequence[Cell]) -> None:
    """One task's panel."""
    counts = Counter(rows["trainable_parameters"])
    shared: dict[int, int] = {}
    front: list[tuple[float, float]] = []
    for cell, look in zip(cells, looks(cells), strict=True):
        for _, row in rows_of(rows, cell).iterrows():
            style: dict[str, Any] = {"color": look.color, "label": cell.title}
            parameters = row["trainable_parameters"]
            if not parameters:
                axis.axhline(row["mean"], linestyle=":", **style)
                continue
            error = None
            if not math.isnan(row["low"]):
                error = np.array([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
            # Equal counts stand side by side, not one over the other, however many they are.
            shared[parameters] = shared.get(parameters, -1) + 1
            across = parameters * _aside(parameters, counts) ** shared[parameters]
            bars: dict[str, Any] = {"capsize": 2.5, "elinewidth": 1, "linestyle": "", "color": look.color}
            axis.errorbar(across, row["mean"], yerr=error, **bars)
            axis.plot([across], [row["mean"]], linestyle="", marker=look.marker, **style)
            if row["on_front"]:
                front.append((across, row["mean"]))
    if len(front) > 1:
        xs, ys = zip(*sorted(front), strict=True)
        axis.step(xs, ys, where="post", color=GREY, linewidth=0.9, alpha=0.7, zorder=1, label="Pareto front")
    label = MAJORITY
    for majority in dict.fromkeys(rows["majority"].dropna()):
        axis.axhline(majority, linestyle="--", linewidth=0.7, color="#000000", zorder=1, label=label)
        label = ""


def _aside(parameters: int, counts: Counter[int]) -> float:
    """The factor between cells of equal count along the axis; the last stays below the next larger count."""
    larger = min((count for count in counts if count > parameters), default=math.inf)
    return min(1.12, min(1.6, (larger / parameters) ** 0.8) ** (1 / counts[parameters]))


def _readable_ticks(axis: Axes, counts: set[int]) -> None:
    """Within one power of ten, where matplotlib's labels overlap, the counts themselves are the ticks."""
    if not counts:
        log_axis(axis, "x")
        return
    if (span := 1.6 * max(counts) / min(counts)) >= 10:
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
    rows = []
    for cell in cells:
        if not cell.trained or not any("initialise" in run.phases for run in cell.runs):
            continue
        row: dict[str, Any] = {"method": cell.method, "cell": cell.title, "n": len(cell.runs)}
        both = [run.init_seconds for run in cell.runs]
        factorisation = [run.seconds("initialise") for run in cell.runs]
        row |= {"calibration_seconds": np.mean(both) - np.mean(factorisation)}
        row |= {"factorisation_seconds": np.mean(factorisation)}
        peaks = [init_peak_bytes(run) / MIB for run in cell.runs]
        training = [run.peak_bytes("train") or math.nan for run in cell.runs]
        for name, values in (("seconds", both), ("peak_mib", peaks)):
            row |= {name: np.mean(values), f"{name}_low": np.min(values), f"{name}_high": np.max(values)}
        rows.append(row | {"training_peak_mib": np.mean(training) / MIB})
    return pd.DataFrame(rows)


def init_peak_bytes(run: Record) -> float:
    """The largest peak of calibration, also where this run read it, and factorisation; NaN where none is known."""
    calibration = run.initialization.calibration
    peaks = [run.peak_bytes(name) for name in ("calibrate", "initialise")] + [calibration and calibration.peak_bytes]
    return max((peak for peak in peaks if peak), default=math.nan)


@styled()
def cost(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """Seconds and peak memory of initialisation, a row a cell; bars are the range over seeds."""
    if data.empty:
        return None
    shown = [cell for cell in cells if len(rows_of(data, cell))]
    with_memory = bool(data["peak_mib"].notna().any())
    figure, axes = plt.subplots(
        1, 1 + with_memory, figsize=(WIDTH, 1.2 + 0.19 * max(3, len(shown))), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    for place, (cell, look) in enumerate(zip(shown, looks(shown), strict=True)):
        row = rows_of(data, cell).iloc[0]
        _cost_row(axes[0][0], place, row, "seconds", look)
        axes[0][0].plot([row["factorisation_seconds"]], [place], "|", color="#000000", markersize=6)
        if with_memory:
            _cost_row(axes[0][1], place, row, "peak_mib", look)
            axes[0][1].plot([row["training_peak_mib"]], [place], "|", color="#000000", markersize=6)
    left = axes[0][0]
    left.set(xlabel="seconds, calibration included", ylim=(len(shown) - 0.4, -0.6), title="| factorisation alone")
    left.set_yticks(range(len(shown)), [cell.title for cell in shown])
    _from_zero(left, [*data["seconds_low"], *data["seconds_high"], *data["factorisation_seconds"]])
    if with_memory:
        axes[0][1].set(xlabel="peak memory of initialisation (MiB)", title="| peak of training")
        _from_zero(axes[0][1], [*data["peak_mib_high"], *data["training_peak_mib"].dropna()])
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


def _cost_row(axis: Axes, place: int, row: pd.Series, name: str, look: Look) -> None:
    axis.plot([row[f"{name}_low"], row[f"{name}_high"]], [place, place], "-", color=look.color, linewidth=1)
    axis.plot([row[name]], [place], linestyle="", marker=look.marker, color=look.color, markersize=5)
