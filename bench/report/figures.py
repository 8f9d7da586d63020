"""Figures of a study: convergence, gradient alignment, score against trainable parameters; PNG and PDF."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.record import ALIGNMENT, ALL_LAYERS, CURVE, read_rows
from bench.report.load import Cell, Study
from bench.report.metrics import base_name
from bench.report.scores import Column, Found, collect
from bench.report.tables import num_head, trainable_parameters

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), then Tol's muted one (https://sronpersonalpages.nl/~pault),
# distinguishable with any colour vision as far as so many can be; a method keeps its colour in every figure of every
# study.
COLOURS = {
    "none": "#7f7f7f",
    "full_ft": "#000000",
    "hu": "#0072b2",
    "reversed": "#56b4e9",
    "lora_ga": "#d55e00",
    "lora_xs": "#009e73",
    "lora_sb": "#cc79a7",
    "asymmetry_b": "#e69f00",
    "asymmetry_a": "#f0e442",
    "pissa": "#882255",
    "milora": "#aa4499",
    "olora": "#661100",
    "orthogonal": "#999933",
    "mica": "#ddcc77",
    "corda": "#332288",
    "eva": "#117733",
    "lora_ga_peft": "#cc6677",
    "lora_one": "#44aa99",
}
OTHERS = ("#88ccee", "#6699cc", "#004488", "#994455", "#997700", "#ee99aa", "#eecc66", "#666666")
MARKERS = {
    "none": "_",
    "full_ft": "s",
    "hu": "o",
    "reversed": "v",
    "lora_ga": "^",
    "lora_xs": "D",
    "lora_sb": "P",
    "asymmetry_b": "<",
    "asymmetry_a": ">",
    "pissa": "p",
    "milora": "h",
    "olora": "H",
    "orthogonal": "d",
    "mica": "*",
    "corda": "X",
    "eva": "8",
    "lora_ga_peft": (3, 0, 30),
    "lora_one": (4, 1, 0),
}
OTHER_MARKER = (6, 1, 0)
LINES = ("-", "--", "-.", ":")
PANELS_ABREAST = 4
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "lora-init-bench",
    "figure.dpi": 150,
    "savefig.bbox": "tight",
}


def colour(method: str) -> str:
    """The method's colour; one that is not in COLOURS gets a fixed one by its name."""
    return COLOURS.get(method) or OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


def write_figures(study: Study, folder: Path) -> list[Path]:
    """Writes every figure that the records have data for; returns the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    drawings: tuple[tuple[str, Callable[[list[Cell]], Figure | None]], ...] = (
        ("convergence", convergence),
        ("alignment", alignment),
        ("score", score_against_parameters),
    )
    parts = study.parts
    for name, draw in drawings:
        for place, part in parts.items():
            with plt.rc_context(STYLE):  # type: ignore[arg-type]
                figure = draw(part.cells)
                if figure is None:
                    continue
                stem = "-".join([name, *place]).replace("/", "-") if len(parts) > 1 else name
                figure.savefig(folder / f"{stem}.png")
                figure.savefig(folder / f"{stem}.pdf", metadata={"CreationDate": None})
                plt.close(figure)
                written.append(folder / f"{stem}.png")
    return written


def convergence(cells: list[Cell]) -> Figure | None:
    """Training and held-out loss against step; a line is the mean over seeds, its band their range."""
    trained = [cell for cell in cells if cell.runs[0].training]
    if not trained:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for cell, line in _lines(trained):
        curves = [pd.DataFrame(read_rows(path / CURVE)).set_index("step") for path in cell.folders]
        smooth = [curve["loss"].rolling(5, min_periods=1, center=True).mean() for curve in curves]
        _band(left, cell, line, smooth)
        _band(right, cell, line, [curve["held_out_loss"].dropna() for curve in curves], marker=True)
    # A classifier's is per example, a regression's is a squared error.
    unit = "" if cells[0].runs[0].model.get("kind") == "encoder" else " (nats per token)"
    left.set(xlabel="step", ylabel=f"training loss{unit}", yscale="log", title="Training, mean of 5 steps")
    right.set(xlabel="step", ylabel=f"held-out loss{unit}", yscale="log", title="Held-out")
    return _finish(figure, cells)


def alignment(cells: list[Cell]) -> Figure | None:
    """Cosine of induced and full gradient, and captured energy, against step; all adapted layers as one vector.

    The dotted line is the noise ceiling: the cosine of two independent estimates of the full gradient.
    """
    measured = [cell for cell in cells if all((path / ALIGNMENT).is_file() for path in cell.folders)]
    if not measured:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    ceilings: list[pd.Series] = []
    for cell, line in _lines(measured):
        tables = []
        for path in cell.folders:
            rows = pd.DataFrame(read_rows(path / ALIGNMENT))
            overall = rows[rows["layer"] == ALL_LAYERS]
            tables.append(overall.pivot(index="step", columns="measure", values="value").astype(float))
        _band(left, cell, line, [table["cosine"] for table in tables], marker=True)
        ceilings += [table["noise_ceiling"] for table in tables if "noise_ceiling" in table]
        _band(right, cell, line, [table["captured_energy"] for table in tables], marker=True)
    if ceilings:
        ceiling = pd.concat(ceilings, axis=1).mean(axis=1)
        left.plot(ceiling.index, ceiling, ":", color="#7f7f7f")
        right.plot([], [], ":", color="#7f7f7f", label="cos(G, G′)")  # for the legend
    left.set(xlabel="step", ylabel="cosine with the full gradient", ylim=(0, 1.05), title="Induced gradient")
    right.set(xlabel="step", ylabel="share of ‖G‖² within reach", ylim=(0, 1.05), title="Captured energy")
    return _finish(figure, cells)


def score_against_parameters(cells: list[Cell]) -> Figure | None:
    """Each task's first metric against the trainable parameters, with 95 % intervals; untrained as a line.

    The thin dashed line is the majority class.
    """
    if not any(run.scores for cell in cells for run in cell.runs):
        return None
    scores = collect(cells)
    columns = scores.first_metrics
    abreast = min(len(columns), PANELS_ABREAST)
    rows = -(-len(columns) // PANELS_ABREAST)
    figure, axes = plt.subplots(
        rows, abreast, figsize=(max(5.2, 3.4 * abreast + 1.2), 3.4 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(columns) :]:
        axis.remove()
    for axis, column in zip(axes.flat, columns, strict=False):
        _score_panel(axis, column, [(c, f[column]) for c, f in zip(cells, scores.found, strict=True) if column in f])
        apart = " without the head" if any(map(num_head, cells)) else ""
        unit = f" ({column.scale.unit})" if column.scale.unit else ""
        axis.set(
            xscale="log",
            xlabel=f"trainable parameters{apart}",
            ylabel=f"{base_name(column.metric)}{unit}",
            title=column.dataset,
        )
        _readable_ticks(axis, {n for n in map(trainable_parameters, cells) if n})
    return _finish(figure, cells)


def _score_panel(axis: Axes, column: Column, reached: list[tuple[Cell, Found]]) -> None:
    """One task's panel."""
    factor = column.scale.factor
    counts = Counter(trainable_parameters(cell) for cell, _ in reached)
    shared: dict[int, int] = {}
    for cell, found in reached:
        estimate, parameters = found.estimate, trainable_parameters(cell)
        style: dict[str, Any] = {"color": colour(cell.method), "label": cell.title}
        if not parameters:
            axis.axhline(factor * estimate.mean, linestyle=":", **style)
            continue
        error = None
        if estimate.low is not None and estimate.high is not None:
            error = factor * np.array([[estimate.mean - estimate.low], [estimate.high - estimate.mean]])
        # Equal counts stand side by side, not one over the other, however many they are.
        shared[parameters] = shared.get(parameters, -1) + 1
        aside = min(1.12, 1.6 ** (1 / counts[parameters])) ** shared[parameters]
        axis.errorbar(
            parameters * aside,
            factor * estimate.mean,
            yerr=error,
            marker=MARKERS.get(cell.method, OTHER_MARKER),
            linestyle="",
            capsize=3,
            **style,
        )
    label = "majority class"
    for majority in dict.fromkeys(found.majority for _, found in reached if found.majority is not None):
        axis.axhline(factor * majority, linestyle="--", linewidth=0.7, color="#000000", zorder=1, label=label)
        label = ""


def _readable_ticks(axis: Axes, counts: set[int]) -> None:
    """Within one power of ten, where matplotlib's own labels overlap, the ticks are the counts themselves."""
    if not counts or (span := 1.6 * max(counts) / min(counts)) >= 10:
        return
    kept: list[int] = []
    for count in sorted(counts):
        if not kept or count > kept[-1] * span**0.25:
            kept.append(count)
    axis.set_xticks(kept, [f"{count:,}" for count in kept])
    axis.minorticks_off()


def _lines(cells: list[Cell]) -> list[tuple[Cell, str]]:
    """Cells of one method share its colour and differ by the kind of line."""
    seen: dict[str, int] = {}
    lines = []
    for cell in cells:
        seen[cell.method] = seen.get(cell.method, -1) + 1
        lines.append((cell, LINES[seen[cell.method] % len(LINES)]))
    return lines


def _band(axis: Axes, cell: Cell, line: str, series: list[pd.Series], marker: bool = False) -> None:
    table = pd.concat(series, axis=1)
    mark = MARKERS.get(cell.method, OTHER_MARKER) if marker else None
    shade = colour(cell.method)
    axis.plot(table.index, table.mean(axis=1), line, color=shade, marker=mark, markersize=3.5, label=cell.title)
    if len(series) > 1:
        axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=shade, alpha=0.15, linewidth=0)


def _finish(figure: Figure, cells: list[Cell]) -> Figure:
    """One legend beside the panels, and what was run above them."""
    named: dict[str, Any] = {}
    for axis in reversed(figure.axes):  # the last panel's lines have the markers
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    figure.legend(list(named.values()), list(named), loc="outside right center")
    (task, model), seeds = cells[0].place, max(len(cell.runs) for cell in cells)
    plural = "seeds" if seeds > 1 else "seed"
    figure.suptitle(f"{task}, {model}, {seeds} {plural}", fontsize=10)
    return figure
