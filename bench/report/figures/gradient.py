"""Gradients and features over training: alignment with the full gradient, by layer, and the features' norms."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.draw import (
    GREY,
    MANY,
    WIDTH,
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
from bench.report.read.load import Cell
from bench.runs.record import ALIGNMENT, ALL_LAYERS, read_rows

COSINE, CAPTURED, CEILING = "cosine", "captured_energy", "noise_ceiling"
A_NORM, B_NORM = "Z_A_norm", "Z_B_norm"
MEASURES = {COSINE, CAPTURED, CEILING, A_NORM, B_NORM}
LABELLED = 30  # layers of a heatmap; of more only the blocks are labelled
ABREAST = 6


def read_measures(cells: Sequence[Cell]) -> pd.DataFrame:
    """Rows of alignment.jsonl that the figures show: per cell, step, layer and measure, mean and range over seeds.

    Of single layers only the cosine is kept.
    """
    columns = "method cell measure layer step mean low high n".split()
    known: dict[str, int] = {}  # measures and layers, for whose names each row has a number
    found: list[Array] = []
    for place, cell in enumerate(cells):
        for folder in cell.folders:
            rows = [
                (place, known.setdefault(row["measure"], len(known)), known.setdefault(row["layer"], len(known)),
                 row["step"], row["value"])
                for row in read_rows(folder / ALIGNMENT)
                if row["measure"] in (MEASURES if row["layer"] == ALL_LAYERS else {COSINE}) and row["value"] is not None
            ]  # fmt: skip
            found.append(np.array(rows, dtype=float).reshape(-1, 5))
    values = pd.DataFrame(np.concatenate(found or [np.empty((0, 5))]), columns=["place", *columns[2:5], "value"])
    if values.empty:
        return pd.DataFrame(columns=columns)
    keys = ["place", *columns[2:5]]
    data = over_seeds(values.astype(dict.fromkeys(keys, int)), keys)
    names = dict(enumerate(known))
    data["measure"], data["layer"] = data["measure"].map(names), data["layer"].map(names)
    data = data.sort_values(keys, kind="stable")
    data["method"] = data["place"].map(lambda place: cells[place].method)
    data["cell"] = data["place"].map(lambda place: cells[place].title)
    return data[columns].reset_index(drop=True)


def alignment_data(measures: pd.DataFrame) -> pd.DataFrame:
    """Cosine, captured energy and noise ceiling of all layers as one vector."""
    wanted = measures["measure"].isin([COSINE, CAPTURED, CEILING])
    return measures[(measures["layer"] == ALL_LAYERS) & wanted].drop(columns="layer").reset_index(drop=True)


@styled()
def alignment(cells: Sequence[Cell], data: pd.DataFrame | None = None) -> Figure | None:
    """Cosine of induced and full gradient, and captured energy, against step; all adapted layers as one vector.

    The dotted line is the noise ceiling: the cosine of two independent estimates of the full gradient.
    """
    data = alignment_data(read_measures(cells)) if data is None else data
    measured = [cell for cell in cells if len(rows_of(data, cell))]
    if not measured:
        return None
    height = 2.7 + legend_height([*(cell.title for cell in measured), "cos(G, G′)"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, height), layout="constrained", sharey=True)
    _panels(data, measured, ((left, COSINE), (right, CAPTURED)))
    ceiling = data[data["measure"] == CEILING].groupby("step")["mean"].mean()
    if len(ceiling):
        left.plot(ceiling.index, ceiling, ":", color=GREY, label="cos(G, G′)")
    low = min(0.0, float(data.loc[data["measure"] == COSINE, "low"].min()))
    left.set(xlabel="step", ylabel="cosine with the full gradient", ylim=(1.05 * low, 1.05))
    right.set(xlabel="step", ylabel="share of ‖G‖² within reach")
    right.tick_params(labelleft=True)
    return finish(figure, cells, "bands: range over seeds")


def layers_data(cells: Sequence[Cell], measures: pd.DataFrame) -> pd.DataFrame:
    """The cosine of each layer, in the network's order; mean over seeds."""
    own = measures[(measures["measure"] == COSINE) & (measures["layer"] != ALL_LAYERS)]
    places = {name: place for place, name in enumerate(_network_order(cells, set(own["layer"])))}
    parts = [rows_of(own, cell) for cell in cells]
    sorted_parts = [part.iloc[part["layer"].map(places).argsort(kind="stable")] for part in parts]
    return pd.concat(sorted_parts)["method cell layer step mean n".split()].reset_index(drop=True)


@styled()
def layers(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """The cosine of each layer at each step, a panel a cell, all on one scale of colour; the mean over seeds."""
    measured = [cell for cell in cells if len(rows_of(data, cell))]
    if not measured:
        return None
    known, steps = list(dict.fromkeys(data["layer"])), sorted(set(data["step"]))
    names = list(short_names(known).values())
    rows = math.ceil(len(measured) / ABREAST)
    abreast = math.ceil(len(measured) / rows)
    labels = names if rows == 1 and len(names) <= LABELLED else _blocks(names)
    panel = max(1.6, 0.115 * len(names)) if labels is names else 1.7
    figure, axes = plt.subplots(
        rows, abreast, figsize=(WIDTH, 0.55 + rows * (panel + 0.3)), layout="constrained", squeeze=False,
        sharex=True, sharey=True,
    )  # fmt: skip
    low = min(0.0, float(data["mean"].min()))
    for axis, cell in zip(axes.flat, measured, strict=False):
        own = rows_of(data, cell).pivot(index="layer", columns="step", values="mean")
        image = axis.pcolormesh(own.reindex(known, columns=steps).to_numpy(), vmin=low, vmax=1.0, cmap="viridis")
        axis.set_title(cell.title.replace(", ", "\n"), fontsize=7)
        axis.grid(visible=False)
    for axis in axes.flat[len(measured) :]:
        axis.remove()
    first = axes[0][0]
    first.set_ylim(len(names), 0)
    first.set_yticks([place + 0.5 for place, label in enumerate(labels) if label], [label for label in labels if label])
    kept = sorted({0, len(steps) - 1} | ({len(steps) // 2} if len(steps) > 4 else set()))
    first.set_xticks([place + 0.5 for place in kept], [f"{steps[place]:,}" for place in kept])
    inside = list(dict.fromkeys(name.rpartition(" ")[2] for name in names))
    order = f" (layers of a block, from above: {', '.join(inside)})" if labels is not names and len(inside) < 9 else ""
    figure.supxlabel(f"step{order}", fontsize=8)
    figure.supylabel("layer" if labels is names else "block", fontsize=8)
    figure.colorbar(image, ax=figure.axes, label="cosine with the full gradient", aspect=40, pad=0.01, fraction=0.03)
    return finish(figure, cells, "mean over seeds", legend=False)


def features_data(measures: pd.DataFrame) -> pd.DataFrame:
    """The norms of the features behind A and behind B, mean over layers."""
    wanted = measures["measure"].isin([A_NORM, B_NORM])
    return measures[(measures["layer"] == ALL_LAYERS) & wanted].drop(columns="layer").reset_index(drop=True)


@styled()
def features(cells: Sequence[Cell], data: pd.DataFrame) -> Figure | None:
    """‖Ax‖ and ‖sBAx‖ against step, means over the probe's tokens and the layers; on a log axis a 0 is not drawn."""
    measured = [cell for cell in cells if len(rows_of(data, cell))]
    if not measured:
        return None
    height = 2.7 + legend_height(cell.title for cell in measured)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, height), layout="constrained")
    _panels(data, measured, ((left, A_NORM), (right, B_NORM)))
    for axis, measure, label in ((left, A_NORM, "‖A x‖"), (right, B_NORM, "‖s B A x‖")):
        axis.set(xlabel="step", ylabel=f"mean {label}")
        if spans_widely(data.loc[data["measure"] == measure, "mean"]):
            log_axis(axis, "y")
        else:
            axis.set_ylim(bottom=0)
    return finish(figure, cells, "bands: range over seeds", "mean over tokens and layers")


def _panels(data: pd.DataFrame, cells: Sequence[Cell], panels: Sequence[tuple[Axes, str]]) -> None:
    for cell, look in zip(cells, looks(cells), strict=True):
        own = rows_of(data, cell)
        for axis, measure in panels:
            rows = own[own["measure"] == measure]
            if len(rows):
                band(axis, rows, "step", look, cell.title, marked=True, many=len(cells) > MANY)


def _network_order(cells: Sequence[Cell], known: set[str]) -> list[str]:
    """Layers in the records' order; those that no record lists by name, numbers as numbers."""
    listed = [layer.name for cell in cells for layer in cell.runs[0].initialization.layers]
    natural = sorted(
        known, key=lambda name: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in name.split(".")]
    )
    return [name for name in dict.fromkeys([*listed, *natural]) if name in known]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """ "3 q_proj" for model.layers.3.self_attn.q_proj: the block, and the end of the name that tells layers apart.

    Where the blocks of several stacks are adapted (encoder and decoder), the stack comes first.
    """
    parts = {name: re.fullmatch(r"(.*?)\.?\b(\d+)\.(.*)", name) for name in names}
    stacks = {match[1] for match in parts.values() if match}
    tails = {match[3] if match else name for name, match in parts.items()}
    short = {tail: _shortest_end(tail, tails) for tail in tails}
    named = {}
    for name, match in parts.items():
        stack = f"{match[1].split('.')[0]} " if match and len(stacks) > 1 else ""
        named[name] = f"{stack}{match[2]} {short[match[3]]}" if match else short[name]
    return named if len(set(named.values())) == len(named) else {name: name for name in names}


def _shortest_end(tail: str, tails: set[str]) -> str:
    words = tail.split(".")
    for length in range(1, len(words)):
        end = words[-length:]
        if sum(other.split(".")[-length:] == end for other in tails) == 1:
            return ".".join(end)
    return tail


def _blocks(names: Sequence[str]) -> list[str]:
    """The block's name at its first layer, at no more than 12 of them; "" elsewhere."""
    heads = [name.rpartition(" ")[0] or name for name in names]
    starts = [place for place, head in enumerate(heads) if place == 0 or head != heads[place - 1]]
    kept = set(starts[:: math.ceil(len(starts) / 12)])
    return [head if place in kept else "" for place, head in enumerate(heads)]
