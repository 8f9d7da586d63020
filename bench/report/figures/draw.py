"""Parts of all figures: size and type, a method's look, bands over seeds, legends, readable ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.report.palette import LINES, Look, look
from bench.report.read.load import Cell

WIDTH = 7.2  # inches: the text of a page, so that a type size is the printed one
GREY = "#7f7f7f"
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


def looks(cells: Sequence[Cell]) -> list[Look]:
    """Cells of one method share colour and marker; if any method has several cells, lines tell variants apart."""
    variants = [tuple(cell.axes.items()) for cell in cells]
    return looks_of([cell.method for cell in cells], variants)


def looks_of(methods: Sequence[str], variants: Sequence[Any]) -> list[Look]:
    """Looks of (method, variant) pairs; equal variants have the same line, whichever the method."""
    single = len(set(methods)) == len(methods)
    kinds = list(dict.fromkeys(variants))
    return [
        look(method) if single else look(method)._replace(line=LINES[kinds.index(variant) % len(LINES)])
        for method, variant in zip(methods, variants, strict=True)
    ]


def rows_of(data: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """The rows of one cell in a figure's data."""
    return data[(data["method"] == cell.method) & (data["cell"] == cell.title)]


def over_seeds(values: pd.DataFrame, by: list[str], value: str = "value") -> pd.DataFrame:
    """Mean, low and high (the range) and n over the seeds' rows, infinite values left out."""
    finite = values[values[value].abs() < math.inf]
    grouped = finite.groupby(by, sort=True)
    table = grouped[value].agg(mean="mean", low="min", high="max", n="count")
    others = [name for name in ("tokens", "seconds") if name in values]
    return pd.concat([grouped[others].mean(), table], axis=1).reset_index()


def band(
    axis: Axes, rows: pd.DataFrame, x: str, look: Look, label: str, marked: bool = False, many: bool = False
) -> None:
    """Draws a line of means, shaded from low to high if there are several seeds.

    Args:
        axis: to draw on.
        rows: of one cell, with the columns x, mean, low, high and n.
        x: the column of the horizontal axis.
        look: of the cell.
        label: for the legend.
        marked: whether each point has the method's marker.
        many: whether the shade is fainter because many bands overlap.
    """
    axis.plot(
        rows[x], rows["mean"], linestyle=look.line, color=look.color, marker=look.marker if marked else None,
        markersize=3.2, label=label,
    )  # fmt: skip
    if (rows["n"] > 1).any():
        shade = 0.06 if many else 0.13
        axis.fill_between(rows[x], rows["low"], rows["high"], color=look.color, alpha=shade, linewidth=0)


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
    if not labels:
        return
    entry = 0.55 + 0.062 * max(map(len, labels))  # inches, of 7-point type
    columns = max(1, min(len(labels), int(figure.get_figwidth() / entry)))
    rows = math.ceil(len(labels) / columns)
    figure.legend(handles, labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows))


def legend_height(labels: Iterable[str], width: float = WIDTH) -> float:
    """Height of `bottom_legend` in inches."""
    texts = list(labels)
    if not texts:
        return 0.0
    columns = max(1, int(width / (0.55 + 0.062 * max(map(len, texts)))))
    return 0.16 * math.ceil(len(texts) / columns) + 0.1


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
