"""Parts of all figures: size and type, a method's look, bands over seeds, legends, readable ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Transform, offset_copy

from bench.report.judge.metrics import base_name, scale_of
from bench.report.palette import Look, look
from bench.report.read.load import Cell

WIDTH = 7.2  # inches: the text of a page, so that a type size is the printed one
GREY = "#7f7f7f"
PANELS_ABREAST = 3
AVERAGE = "average"  # of several datasets
MANY = 8  # cells whose bands lie over each other are fainter
WIDE_SPAN = 20  # values that differ by more than this factor stand on a logarithmic axis
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,  # a label with two dollars is no formula
    "legend.handlelength": 2.8,
    "svg.hashsalt": "lora-init-bench",
    "pdf.fonttype": 42,  # some publishers refuse Type 3
    "figure.dpi": 130,
    "savefig.dpi": 130,
}


@contextmanager
def styled() -> Iterator[None]:
    """Context manager and decorator: figures made or saved inside have the common STYLE."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


class Line(NamedTuple):
    """One cell in a figure: its title, its rows of the figure's data, and its look."""

    title: str
    rows: pd.DataFrame
    look: Look

    def of(self, column: str, value: str) -> pd.DataFrame:
        """The rows with this value in a column."""
        return self.rows[self.rows[column] == value]


def lines(data: pd.DataFrame, cells: Sequence[Cell]) -> list[Line]:
    """The cells that have rows in a figure's data, in the cells' order."""
    if data.empty:
        return []
    of_cell = [(cell, data[(data["method"] == cell.method) & (data["cell"] == cell.title)]) for cell in cells]
    shown = [(cell, rows) for cell, rows in of_cell if len(rows)]
    looks = looks_of([cell.method for cell, _ in shown], [tuple(cell.axes.items()) for cell, _ in shown])
    return [Line(cell.title, rows, look) for (cell, rows), look in zip(shown, looks, strict=True)]


def looks_of(methods: Sequence[str], variants: Sequence[Any]) -> list[Look]:
    """Rows of one method share colour and marker; if any has several, lines and fillings tell the variants apart."""
    single = len(set(methods)) == len(methods)
    kinds = list(dict.fromkeys(variants))
    return [
        look(method) if single else look(method).variant(kinds.index(variant))
        for method, variant in zip(methods, variants, strict=True)
    ]


def panels(rows: int, columns: int, height: float, **settings: Any) -> tuple[Figure, Any]:
    """A figure of the page's width and `height` inches, and its (rows, columns) panels.

    pyplot does not know the figure: it holds none open, and a notebook's backend stays the reader's own.

    Args:
        settings: of Figure.subplots.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def task_panels(data: pd.DataFrame, labels: Iterable[str]) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each dataset's metric, with its rows of the figure's data; at most three abreast.

    Args:
        data: with the columns dataset and metric.
        labels: of the legend below the panels.
    """
    tasks = list(data.groupby(["dataset", "metric"], sort=False, dropna=False))
    abreast = min(len(tasks), PANELS_ABREAST)
    rows = -(-len(tasks) // PANELS_ABREAST)
    figure, axes = panels(rows, abreast, 0.4 + (2.8 if abreast < 3 else 2.2) * rows + legend_height(labels))
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    shown = [(axis, own) for axis, (_, own) in zip(axes.flat, tasks, strict=False)]
    for axis, own in shown:
        dataset, metric = own.iloc[0][["dataset", "metric"]]
        unit = f" ({scale_of(metric).unit})" if scale_of(metric).unit else ""
        axis.set(ylabel=f"{base_name(metric)}{unit}", title="" if dataset in (AVERAGE, None) else dataset)
    return figure, shown


def label_below(shown: Sequence[tuple[Axes, pd.DataFrame]], text: str) -> None:
    """Names the horizontal axis of the panels that have none below them."""
    for axis, _ in shown[-min(len(shown), PANELS_ABREAST) :]:
        axis.set_xlabel(text)


MEANS = ("tokens", "seconds", "unsmoothed", "window")


def over_seeds(values: pd.DataFrame, cells: Sequence[Cell], by: list[str]) -> pd.DataFrame:
    """Mean, low and high (the range) and n over the seeds' rows, infinite values left out.

    Args:
        values: a row a run, with its cell's index as `place`, the columns `by`, and `value`; of the columns in MEANS
            that it has the means are kept.
        cells: their method and title become the first columns.
        by: sorted by these columns.
    """
    finite = values[values["value"].abs() < math.inf]
    grouped = finite.groupby(["place", *by], observed=True)
    means = grouped[[name for name in MEANS if name in values]].mean()
    table = pd.concat(
        [means, grouped["value"].agg(mean="mean", low="min", high="max", n="count")], axis=1
    ).reset_index()
    places = table.pop("place")
    table.insert(0, "method", [cells[place].method for place in places])
    table.insert(1, "cell", [cells[place].title for place in places])
    return table


def band(axis: Axes, rows: pd.DataFrame, x: str, line: Line, shade: float = 0.13, marked: bool = False) -> None:
    """Draws a line of means, shaded from low to high if there are several seeds.

    Args:
        axis: to draw on.
        rows: of one cell, with the columns x, mean, low, high and n.
        x: the column of the horizontal axis.
        line: the cell, for look and legend.
        shade: opacity of the band.
        marked: whether each point has the method's marker.
    """
    look = line.look
    marker = look.marker if marked else None
    axis.plot(rows[x], rows["mean"], ls=look.line, color=look.color, marker=marker, markersize=3.2, label=line.title)
    if (rows["n"] > 1).any():
        axis.fill_between(rows[x], rows["low"], rows["high"], color=look.color, alpha=shade, linewidth=0)


def aside(axis: Axes, place: int, number: int) -> Transform:
    """The data's own transform, shifted for one of several points at the same place."""
    apart = min(3.0, 12.0 / number)
    return offset_copy(axis.transData, axis.get_figure(root=True), x=apart * (place - (number - 1) / 2), units="points")


def pareto_front(costs: Iterable[float], gains: Iterable[float]) -> list[bool]:
    """Which points no other beats: none has as low a cost and as high a gain, or better. NaN is on no front."""
    points = list(zip(costs, gains, strict=True))
    return [
        own[0] == own[0] and own[1] == own[1]
        and not any(cost <= own[0] and gain >= own[1] and (cost, gain) != own for cost, gain in points)
        for own in points
    ]  # fmt: skip


def shade_of(shown: Sequence[Line]) -> float:
    """The opacity of bands: fainter where many lie over each other."""
    return 0.06 if len(shown) > MANY else 0.13


def a_row_each(axis: Axes, titles: Sequence[str]) -> None:
    """A vertical axis with a row a title, the first on top."""
    axis.set_ylim(len(titles) - 0.4, -0.6)
    axis.set_yticks(range(len(titles)), titles)


def finish(figure: Figure, cells: Sequence[Cell], spread: str, aim: str = "", legend: bool = True) -> Figure:
    """Adds the legend below the panels and the title above them.

    Args:
        figure: with all panels drawn.
        cells: of one task and model, which the title names with the number of seeds.
        spread: what bands or bars show; printed if there are several seeds.
        aim: a further part of the title.
        legend: whether a legend is drawn.

    Returns:
        The figure.
    """
    if legend:
        named: dict[str, Any] = {}
        for axis in reversed(figure.axes):  # the last panels' lines have the markers
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                named.setdefault(label, handle)
        order = {cell.title: place for place, cell in enumerate(cells)}
        labels = sorted(named, key=lambda label: order.get(label, len(order)))
        bottom_legend(figure, [named[label] for label in labels], labels)
    (task, model), seeds = cells[0].task_and_model, max(len(cell.runs) for cell in cells)
    head = f"{task}, {model}, {seeds} seed{'s' * (seeds > 1)}"
    figure.suptitle("; ".join([head, *([aim] if aim else []), *([spread] if seeds > 1 else [])]))
    return figure


def bottom_legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """A legend below the panels with as many columns as fit the width."""
    if labels:
        rows = _legend_rows(labels)
        figure.legend(handles, labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows))


def legend_height(labels: Iterable[str]) -> float:
    """Height of `bottom_legend` in inches."""
    texts = list(labels)
    return 0.16 * _legend_rows(texts) + 0.1 if texts else 0.0


def _legend_rows(labels: Sequence[str]) -> int:
    entry = 0.55 + 0.062 * max(map(len, labels))  # inches, of 7-point type
    return math.ceil(len(labels) / max(1, min(len(labels), int(WIDTH / entry))))


def spans_widely(values: Iterable[float]) -> bool:
    """Whether positive values need a logarithmic axis."""
    known = [value for value in values if 0 < value < math.inf]
    return bool(known) and max(known) > WIDE_SPAN * min(known)


def log_axis(axis: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers: powers of ten, within two decades also 2 and 5 of each."""
    getattr(axis, f"set_{which}scale")("log")
    low, high = getattr(axis, f"get_{which}lim")()
    decades = math.log10(high / low)
    handle = getattr(axis, f"{which}axis")
    near = (1, 1.2, 1.5, *range(2, 10)) if decades < 0.65 else range(1, 10)
    subs = near if decades < 0.8 else (1, 2, 5) if decades < 1.7 else (1, 3) if decades < 2.7 else (1,)
    handle.set_major_locator(LogLocator(subs=subs, numticks=12))
    handle.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    handle.set_minor_formatter(NullFormatter())


def number(value: float) -> str:
    """A tick's text: 0.003, 20, 3,000, 1e-5, 2M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M" if value < 1e9 else f"{value / 1e9:g}B"
    if value >= 1000:
        return f"{value:,.0f}"
    if 0 < value < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"
